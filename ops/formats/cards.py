"""FITS cards made of what files of other formats say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from skyloom.ops.formats.fits_header import CARD, Card, Header, Scalar

STRUCTURAL = re.compile(
    r"(SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|BSCALE|BZERO|BLANK|DATAMIN|DATAMAX|DATASUM"
    r"|CHECKSUM|ZDATASUM|ZHECKSUM|END)$"
)
"""Keywords of how a FITS file stores its numbers: without meaning where they are stored otherwise."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?$")


def read_value(text: str) -> Scalar:
    """Value of a text in FITS syntax (a number, T or F, quoted text); text without quotes is taken as text."""
    text = text.strip()
    if not text:
        return None
    if text[0] == "'":
        end = -1 if len(text) > 1 and text[-1] == "'" else None
        return text[1:end].replace("''", "'").rstrip()
    if text in ("T", "F"):
        return text == "T"
    if _NUMBER.match(text):
        if text.lstrip("+-").isdigit() and len(text) < 40:
            return int(text)
        return float(text.upper().replace("D", "E"))
    return text


def value_text(value: Scalar) -> str:
    """Value in FITS syntax, on one line whatever its length."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        # FITS has no infinities and no NaN: an empty value says "not known".
        return repr(value).upper() if math.isfinite(value) else ""
    return "'" + _printable(value).replace("'", "''") + "'"


def header_of(cards: Mapping[str, Card]) -> Header:
    """Header of the cards, in their order; characters FITS does not know become question marks."""
    return Header("".join(_encode(k, c) for k, c in cards.items()).encode("latin-1", "replace"))


def _encode(keyword: str, card: Card) -> str:
    keyword = _printable(keyword).strip().upper()
    if not keyword or "=" in keyword or len(keyword) > 40 or keyword in ("COMMENT", "HISTORY", "CONTINUE", "END"):
        return ""
    name = f"{keyword:<8}= " if len(keyword) <= 8 and " " not in keyword else f"HIERARCH {keyword} = "
    comment = _printable(card.comment)
    if not isinstance(card.value, str):
        return f"{name}{value_text(card.value)} / {comment}"[:CARD].ljust(CARD)
    lines = []
    parts = _parts(_printable(card.value), CARD - max(len(name), 10) - len("'&'"))
    for i, part in enumerate(parts):
        start, end = name if i == 0 else "CONTINUE  ", "&'" if i < len(parts) - 1 else f"' / {comment}"
        lines.append(f"{start}'{part}{end}"[:CARD].ljust(CARD))
    return "".join(lines)


def _parts(text: str, room: int) -> list[str]:
    """Text with its quotes doubled, in parts of at most so many characters; no doubled quote is cut in two."""
    parts = [""]
    for character in text.replace("'", "\0"):
        written = "''" if character == "\0" else character
        if len(parts[-1]) + len(written) > room:
            parts.append("")
        parts[-1] += written
    return parts


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


_SECOND_COLUMN = re.compile(r"(CD|PC)[12]_2$")
_POLYNOMIAL = re.compile(r"(A|B|AP|BP)_(\d)_(\d)$")


def with_rows_reversed(cards: Mapping[str, Card], height: int) -> dict[str, Card]:
    """Cards whose WCS counts rows from the other edge of an image of this height; other cards as they are.

    Notes
    -----
    With y' = height + 1 − y: CRPIX2 moves, the second column of CD (or PC, or CDELT2) changes its sign, and of
    the SIP polynomials A and AP the terms odd in v, B and BP those even in v. The TPV and other PV terms of axis 2
    apply after the matrix and stay.
    """
    result = dict(cards)

    def change(keyword: str, value: float) -> None:
        result[keyword] = Card(value, result[keyword].comment)

    def number(keyword: str) -> float | None:
        value = result[keyword].value if keyword in result else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    matrix = [k for k in result if _SECOND_COLUMN.match(k)]
    for keyword in list(result):
        value = number(keyword)
        if value is None:
            continue
        polynomial = _POLYNOMIAL.match(keyword)
        odd = polynomial is not None and (int(polynomial[3]) % 2 == 1) != (polynomial[1] in ("B", "BP"))
        if keyword == "CRPIX2":
            change(keyword, height + 1.0 - value)
        elif keyword in matrix or odd:
            change(keyword, -value)
    if not any(k.startswith("CD") for k in matrix):
        scale = number("CDELT2")
        if any(k.startswith("PC") for k in matrix):
            # Of PC2_2 the default is 1, and it is not in the list when it is absent.
            if "PC2_2" not in result:
                result["PC2_2"] = Card(-1.0, "rows counted from the other edge")
        elif scale is not None:
            change("CDELT2", -scale)
            # CDELT and CROTA2: CD1_2 = −CDELT2 sin, CD2_2 = CDELT2 cos, so the sign of CDELT2 alone does it.
    return result
