"""HTML and SVG elements. Text is escaped unless it is markup already: names of files can hold anything."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

VOID = {"br", "hr", "img", "input", "meta"}
"""Elements that are never closed."""
# Control characters are no text in HTML; lone surrogates stand for bytes of a file name that are no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> str:
    """Value as HTML text: escaped unless it is `Markup`."""
    return value if isinstance(value, Markup) else escape(_UNPRINTABLE.sub("\ufffd", str(value)))


def el(tag: str, *children: object, **attributes: object) -> Markup:
    """Return an element.

    Parameters
    ----------
    tag
        Its name.
    *children
        What is in it; iterables are taken apart, None is left out.
    **attributes
        `class_`, `for_`, `data_x`, `stroke_width` become class, for, data-x, stroke-width; None is left out, True
        has no value.
    """
    parts = [f"<{tag}"]
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        key = name.rstrip("_").replace("_", "-")
        parts.append(f" {key}" if value is True else f' {key}="{escape(_UNPRINTABLE.sub("", str(value)))}"')
    parts.append(">")
    if tag in VOID:
        return Markup("".join(parts))
    parts += [text(child) for child in _flat(children)]
    parts.append(f"</{tag}>")
    return Markup("".join(parts))


def join(parts: Iterable[object]) -> Markup:
    """Pieces one after the other."""
    return Markup("".join(text(p) for p in parts if p is not None))


def _flat(children: Iterable[object]) -> Iterable[object]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, str) or not isinstance(child, Iterable):
            yield child
        else:
            yield from _flat(child)


def table(head: Iterable[object], rows: Iterable[Iterable[object]], *, numbers: Iterable[int] = ()) -> Markup:
    """Table that scrolls sideways where it is too wide.

    Parameters
    ----------
    head
        Names of the columns.
    rows
        Cells.
    numbers
        Columns that are right-aligned.
    """
    right = set(numbers)

    def cells(tag: str, row: Iterable[object]) -> Markup:
        return el("tr", [el(tag, cell, class_="n" if i in right else None) for i, cell in enumerate(row)])

    body = el("tbody", [cells("td", row) for row in rows])
    return el("div", el("table", el("thead", cells("th", head)), body), class_="wide")


def number(value: float, digits: int = 4) -> str:
    """Number as people read it; "–" for NaN."""
    if value != value:
        return "–"
    shown = f"{value:.{digits}g}"
    # 1.235e+04 is 12350 to a person.
    return f"{value:.0f}" if "e+" in shown and abs(value) < 1e9 else shown
