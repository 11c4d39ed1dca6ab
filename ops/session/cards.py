"""Values of header cards as capture programs write them: numbers in text, texts that mean nothing, angles."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.fact import Fact

EMPTY = re.compile(r"(none|n/?a|null|unknown|undefined|unspecified|not set|-+|\?+|)$", re.IGNORECASE)
"""Texts that stand for nothing."""
MAX_TEXT = 64
"""Characters of a text that are kept."""


def number(header: Header, keyword: str) -> float | None:
    """Finite number of a card, also where it was written as text; None where there is none."""
    value = header.value(keyword)
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def first_number(header: Header, keywords: Iterable[str], low: float, high: float) -> Fact | None:
    """First number of the keywords within low…high: what lies outside is a placeholder."""
    for keyword in keywords:
        found = number(header, keyword)
        if found is not None and low <= found <= high:
            return Fact(found, f"header {keyword}")
    return None


def printable(value: object) -> str:
    """Text without control characters and blanks around it."""
    return "".join(c for c in str(value) if c.isprintable()).strip()[:MAX_TEXT]


def first_text(header: Header, keywords: Iterable[str]) -> Fact | None:
    """First text of the keywords that says something."""
    for keyword in keywords:
        value = header.value(keyword)
        if value is None or isinstance(value, bool):
            continue
        text = printable(value)
        if not EMPTY.match(text):
            return Fact(text, f"header {keyword}")
    return None


def comment(header: Header, keyword: str) -> str:
    """Comment of a card; "" where there is none."""
    return header[keyword].comment if keyword in header else ""


_SEXAGESIMAL = re.compile(
    r"\s*([-+−]?)\s*(\d{1,3})\s*[hd°:\s]\s*(\d{1,2})(?:\s*[m'′:\s]\s*(\d{1,2}(?:\.\d*)?))?\s*(?:[s\"″]|:\d+)?\s*([NSEW]?)\s*$",
    re.IGNORECASE,
)


def sexagesimal(text: str) -> float | None:
    """Number of "hh mm ss.s", "±dd:mm:ss", "05h35m17.3s", "3 43 0.0 W"; None for anything else.

    In the unit of the first part: hours or degrees. South and west are negative.
    """
    match = _SEXAGESIMAL.match(text)
    if match is None:
        return None
    sign, whole, minutes, seconds, side = match.groups()
    if float(minutes) >= 60.0 or float(seconds or 0.0) >= 60.0:
        return None
    value = int(whole) + int(minutes) / 60.0 + float(seconds or 0.0) / 3600.0
    return -value if (sign in ("-", "−")) != (side.upper() in ("S", "W") and side != "") else value
