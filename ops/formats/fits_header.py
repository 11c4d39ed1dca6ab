"""FITS headers by a tolerant parser: what violates the standard is skipped or guessed, nothing raises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

BLOCK = 2880
"""Bytes headers and data are padded to."""
CARD = 80
"""Bytes of a header card."""

Scalar = str | float | int | bool | None


class Card(NamedTuple):
    """Value and comment of a header card."""

    value: Scalar
    comment: str


_STRING = re.compile(r"\s*'((?:[^']|'')*)'\s*(?:/(.*))?$", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d+$")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?$")


def _parse_value(text: str) -> Card:
    """Card of what follows "= ": a number, a logical, text, or None where there is nothing.

    Text without quotes (a violation some capture programs commit) is taken as text.
    """
    quoted = _STRING.match(text)
    if quoted is not None:
        return Card(quoted.group(1).replace("''", "'").rstrip(), (quoted.group(2) or "").strip())
    value, _, comment = text.partition("/")
    value, comment = value.strip(), comment.strip()
    if not value:
        return Card(None, comment)
    if value in ("T", "F"):
        return Card(value == "T", comment)
    if _INTEGER.match(value):
        # int() of a longer text is refused by Python itself.
        return Card(int(value) if len(value) < 40 else float(value), comment)
    if _FLOAT.match(value):
        return Card(float(value.upper().replace("D", "E")), comment)
    # An opening quote that never closes: what is there is better than nothing. A slash may belong to the value.
    return Card(text.strip().lstrip("'").rstrip() if text.lstrip().startswith("'") else value, comment)


class Header(Mapping[str, Card]):
    """Cards of one header by keyword (the first of a keyword counts); parsed when asked for.

    Parameters
    ----------
    data
        Header bytes, any number of 80-character cards, up to END or the end.
    """

    def __init__(self, data: bytes) -> None:
        text = data.decode("latin-1")
        raw: dict[str, str] = {}
        self.odd = 0
        """Cards that violate the standard (no keyword, control characters, broken text)."""
        last = ""
        for start in range(0, len(text), CARD):
            card = text[start : start + CARD]
            keyword = card[:8].rstrip()
            if keyword == "END" and not card[8:].strip():
                break
            if keyword == "HIERARCH" and "=" in card:
                keyword, _, value = card[9:].partition("=")
                keyword = keyword.strip()
            elif keyword == "CONTINUE":
                if last:
                    raw[last] = _join_text(raw[last], card[8:])
                continue
            elif keyword in ("COMMENT", "HISTORY", ""):
                last = ""
                continue
            elif card[8:9] == "=":
                value = card[9:]
            else:
                self.odd += not card.isprintable() or "=" in card[:30]
                last = ""
                continue
            self.odd += not card.isprintable()
            keyword = keyword.upper()
            last = keyword if keyword not in raw else ""
            raw.setdefault(keyword, value)
        self._raw = raw
        self._cards: dict[str, Card] = {}

    def __getitem__(self, keyword: str) -> Card:
        card = self._cards.get(keyword)
        if card is None:
            card = self._cards[keyword] = _parse_value(self._raw[keyword])
        return card

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._raw

    def value(self, keyword: str, default: Scalar = None) -> Scalar:
        """Value of a keyword; the default where it is absent or empty."""
        if keyword not in self._raw:
            return default
        value = self[keyword].value
        return default if value is None else value

    def below(self, other: Header) -> Header:
        """Return this header with the cards of `other` where it has none (an extension inherits so)."""
        merged = Header(b"")
        merged._raw = {**other._raw, **self._raw}
        merged._cards = {**{k: c for k, c in other._cards.items() if k not in self._raw}, **self._cards}
        merged.odd = self.odd + other.odd
        return merged

    def changed(self, cards: Mapping[str, Card], *, without: Iterable[str] = ()) -> Header:
        """Return this header with some cards replaced or added, and some left out."""
        drop = {*without, *cards}
        header = Header(b"")
        header._raw = {k: v for k, v in self._raw.items() if k not in drop}
        header._cards = {k: v for k, v in self._cards.items() if k not in drop}
        for keyword, card in cards.items():
            header._raw[keyword], header._cards[keyword] = "", card
        header.odd = self.odd
        return header


def _join_text(first: str, more: str) -> str:
    """Long text continued on a CONTINUE card; a card that continues nothing changes nothing."""
    head, tail = _STRING.match(first), _STRING.match(more)
    if head is None or tail is None or not head.group(1).rstrip().endswith("&"):
        return first
    return f"'{head.group(1).rstrip()[:-1]}{tail.group(1)}' /{tail.group(2) or head.group(2) or ''}"
