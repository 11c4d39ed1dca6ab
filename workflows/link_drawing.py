"""The links as a picture, SVG or Mermaid: lights on the left, what they are calibrated with on the right."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import xarray as xr

from skyloom.workflows.link_report import edges, group_codes, light_groups
from skyloom.workflows.machine import count

_MARGIN, _TOP, _GAP = 20, 92, 12
_LIGHT, _GROUP = 430, 360
"""Widths of the boxes of lights and of calibration groups."""
_LANE, _SIDE = 210, 150
"""Room for the lines between them."""
_LINE, _PAD = 16, 10
_CHARACTER = 6.9
"""Width of a character of the text (px), rather more than less: fonts differ."""
_COLOURS = {"flat": "#b06f00", "dark": "#2f5f9e", "bias": "#77489c", "flatdark": "#23806f"}
_BROKEN, _IDLE, _TEXT, _SOFT, _CAUTION = "#c62828", "#9aa4b1", "#222", "#5a6675", "#9a5b00"


@dataclass(frozen=True)
class _Line:
    """A line of text in a box, and the edge that begins beside it."""

    text: str
    colour: str = _SOFT
    bold: bool = False
    edge: dict[str, Any] | None = None


@dataclass
class _Box:
    """A group in the picture."""

    key: str
    title: str
    lines: list[_Line]
    colour: str
    width: int
    code: str = ""
    idle: bool = False
    broken: bool = False
    x: int = 0
    y: int = 0
    wanted: list[float] = field(default_factory=list)
    """Heights it is linked from."""

    @property
    def height(self) -> int:
        return 2 * _PAD + _LINE * (1 + len(self.lines)) - 2

    @property
    def middle(self) -> int:
        return self.y + self.height // 2

    def port(self, number: int) -> int:
        """Height of a line of text."""
        return self.y + _PAD + 10 + _LINE * (1 + number) - 4


def link_svg(links: xr.Dataset, session: xr.Dataset) -> str:
    """Links as an SVG picture, self-contained.

    Parameters
    ----------
    links
        As `link` returns them.
    session
        The session they were made from.

    Returns
    -------
    str
        SVG. Solid lines are choices, dashed ones near misses; red ones with a cross go to what comes nearest where
        nothing fits. Every line begins beside the reason for it.
    """
    found, codes = edges(links), group_codes(links)
    labels = links["label"].values.tolist()
    code = dict(zip(labels, codes, strict=True))
    lights = [_light_box(group, found, code) for group in light_groups(links)]
    groups = {label: _group_box(links, i, found, code) for i, label in enumerate(labels)}
    bottom = _place_lights(lights)
    served = {e["to"] for e in found for box in lights if e["from"] == box.key and e["verdict"] == "chosen"}
    used = [g for g in groups.values() if not g.idle]
    own = [g for g in used if g.key not in served and not _is_flat(g)]
    middle = [g for g in used if g not in own]
    _want(lights, groups)
    bottom = max(bottom, _place(middle, _MARGIN + _LIGHT + _LANE, _TOP, bottom))
    _want(middle, groups)
    right = _MARGIN + _LIGHT + _LANE + _GROUP + _SIDE
    bottom = max(bottom, _place(own, right, _TOP, bottom))
    idle = [g for g in groups.values() if g.idle]
    under = max([b.y + b.height for b in middle], default=_TOP - 40) + 56
    bottom = max(bottom, _stack(idle, _MARGIN + _LIGHT + _LANE, under))
    boxes = [*lights, *middle, *own, *idle]
    width = max((b.x + b.width for b in boxes), default=_MARGIN + _LIGHT) + _MARGIN + 60
    parts = [*_head(links, session, width, bottom + _MARGIN), *_headings(middle, own, idle, under)]
    places = {b.key: b for b in boxes}
    parts += [part for number, box in enumerate(boxes) for part in _lines_of(box, places, number)]
    parts += [part for box in boxes for part in _drawn(box)]
    parts += [part for box in boxes for part in _crosses(box)]
    return "\n".join([*parts, "</svg>"]) + "\n"


# --- what boxes say ---


def _light_box(group: dict[str, Any], found: Iterable[dict[str, Any]], code: dict[str, str]) -> _Box:
    head, _, rest = group["label"].partition(", ")
    lines = [_Line(text, _TEXT) for text in _wrapped(rest, _LIGHT)]
    for edge in found:
        if edge["from"] != group["label"]:
            continue
        to = code.get(edge["to"], "")
        texts = {
            "chosen": f"{edge['role']} {to}: {edge['reason']}",
            "near": f"near miss {to}: {edge['reason']}",
            "broken": f"✕ no {edge['role']}: nearest {to}: {edge['reason']}",
        }
        colour = {"broken": _BROKEN, "near": _SOFT, "missing": _CAUTION}.get(edge["verdict"], _TEXT)
        colour = _CAUTION if edge["caution"] else colour
        first, *more = _wrapped(texts.get(edge["verdict"], edge["reason"]), _LIGHT)
        lines += [_Line(first, colour, edge=edge), *(_Line(text, colour) for text in more)]
    lines += [
        _Line(text, _BROKEN)
        for problem in group["problems"]
        if not problem.startswith("no ")
        for text in _wrapped(f"✕ {problem}", _LIGHT)
    ]
    if not group["use"]:
        lines.append(_Line("left out", _BROKEN, bold=True))
    return _Box(group["label"], head, lines, "#56657a", _LIGHT, broken=bool(group["problems"]))


def _group_box(links: xr.Dataset, index: int, found: Iterable[dict[str, Any]], code: dict[str, str]) -> _Box:
    label, kind = str(links["label"].values[index]), str(links["kind"].values[index])
    idle = not bool(links["used"].values[index])
    head, _, rest = label.partition(", ")
    lines = [_Line(text, _TEXT) for text in _wrapped(rest, _GROUP)]
    if idle:
        lines += [_Line(text, _SOFT) for text in _wrapped(str(links["group_note"].values[index]), _GROUP)]
    for edge in [] if idle else found:
        if edge["from"] != label:
            continue
        to = code.get(edge["to"], "")
        text = {
            "chosen": f"made with {to}" + (f": {edge['reason']}" if edge["caution"] else ""),
            "broken": f"✕ made with none: nearest {to}: {edge['reason']}",
        }.get(edge["verdict"], edge["reason"])
        colour = _BROKEN if edge["verdict"] == "broken" else (_CAUTION if edge["caution"] else _SOFT)
        first, *more = _wrapped(text, _GROUP)
        lines += [_Line(first, colour, edge=edge), *(_Line(t, colour) for t in more)]
    return _Box(label, head, lines, _COLOURS[kind], _GROUP, code[label], idle=idle)


def _is_flat(box: _Box) -> bool:
    return box.colour == _COLOURS["flat"]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, int((width - 2 * _PAD - 8) / _CHARACTER), break_long_words=True)


# --- where boxes are ---


def _place_lights(lights: Sequence[_Box]) -> int:
    return _stack(lights, _MARGIN, _TOP)


def _stack(boxes: Iterable[_Box], x: int, y: int) -> int:
    """Boxes one below the other; the height after the last."""
    for box in boxes:
        box.x, box.y = x, y
        y += box.height + _GAP
    return y


def _want(origins: Iterable[_Box], groups: dict[str, _Box]) -> None:
    """Tell groups from what heights they are linked to."""
    for box in origins:
        for number, line in enumerate(box.lines):
            if line.edge is not None and line.edge["verdict"] == "chosen":
                groups[line.edge["to"]].wanted.append(box.port(number))


def _place(boxes: list[_Box], x: int, top: int, bottom: int) -> int:
    """Boxes as near as they come to the heights they are linked from, in that order: few lines cross."""
    boxes.sort(key=lambda b: (sum(b.wanted) / len(b.wanted) if b.wanted else bottom, b.key))
    y = top
    for box in boxes:
        aim = sum(box.wanted) / len(box.wanted) if box.wanted else y
        box.x, box.y = x, max(y, int(aim) - box.height // 2)
        y = box.y + box.height + _GAP
    room = max(bottom, top + sum(b.height + _GAP for b in boxes))
    for box in reversed(boxes):
        box.y = min(box.y, room - _GAP - box.height)
        room = box.y
    return max((b.y + b.height + _GAP for b in boxes), default=top)


# --- drawing ---


def _head(links: xr.Dataset, session: xr.Dataset, width: int, height: int) -> list[str]:
    groups = light_groups(links)
    frames = sum(g["count"] for g in groups)
    broken = sum(g["count"] for g in groups if g["problems"])
    title = f"{count(frames, 'light')} of {count(session.sizes['frame'], 'frame')}, rules {links.attrs['rules']}"
    title += f": {count(broken, 'light')} with broken links" if broken else ": no broken links"
    legend = [
        f'<path d="M{_MARGIN} 44h34" stroke="{_TEXT}" stroke-width="1.6" fill="none" {_tipped(_TEXT)}/>',
        _text(_MARGIN + 42, 48, "chosen", _SOFT),
        f'<path d="M{_MARGIN + 110} 44h34" stroke="{_IDLE}" stroke-width="1.6" fill="none" '
        f'stroke-dasharray="2 4" {_tipped(_IDLE)}/>',
        _text(_MARGIN + 152, 48, "near miss", _SOFT),
        f'<path d="M{_MARGIN + 240} 44h34" stroke="{_BROKEN}" stroke-width="1.6" fill="none" '
        f'stroke-dasharray="7 4" {_tipped(_BROKEN)}/>',
        _cross(_MARGIN + 255, 44),
        _text(_MARGIN + 282, 48, "broken: nothing fits, the nearest", _SOFT),
    ]
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" font-size="12">',
        f"<defs>{''.join(_tip(colour) for colour in (*_COLOURS.values(), _BROKEN, _IDLE, _TEXT))}</defs>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        _text(_MARGIN, 24, title, _BROKEN if broken else _TEXT, size=15, bold=True),
        *legend,
    ]


def _headings(middle: Sequence[_Box], own: Sequence[_Box], idle: Sequence[_Box], under: int) -> list[str]:
    x = _MARGIN + _LIGHT + _LANE
    parts = [_text(_MARGIN, _TOP - 8, "lights", _SOFT, bold=True)]
    if middle:
        parts.append(_text(x, _TOP - 8, "calibrated with", _SOFT, bold=True))
    if own:
        parts.append(_text(x + _GROUP + _SIDE, _TOP - 8, "these are made with", _SOFT, bold=True))
    if idle:
        parts.append(_text(x, under - 8, "not used", _SOFT, bold=True))
    return parts


def _lines_of(box: _Box, places: dict[str, _Box], number: int) -> list[str]:
    parts = []
    for row, line in enumerate(box.lines):
        edge = line.edge
        if edge is None or edge["to"] not in places:
            continue
        to, verdict = places[edge["to"]], edge["verdict"]
        colour, dash, width = {
            "near": (_IDLE, ' stroke-dasharray="2 4"', 1.3),
            "broken": (_BROKEN, ' stroke-dasharray="7 4"', 1.6),
        }.get(verdict, (to.colour, "", 1.6))
        start, y0 = box.x + box.width, box.port(row)
        if to.x > box.x:
            bend = (to.x - start) // 2
            path = f"M{start} {y0}C{start + bend} {y0} {to.x - bend} {to.middle} {to.x} {to.middle}"
        else:
            # A group of the same column: round its right side, each in a lane of its own.
            out = max(start, to.x + to.width) + 26 + 9 * (number % 7)
            path = f"M{start} {y0}C{out} {y0} {out} {to.middle} {to.x + to.width} {to.middle}"
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash} {_tipped(colour)}/>'
        )
    return parts


def _drawn(box: _Box) -> list[str]:
    colour = _BROKEN if box.broken else (_IDLE if box.idle else box.colour)
    fill = "#fdf1f1" if box.broken else ("#f5f6f8" if box.idle else "#fbfcfe")
    dash = ' stroke-dasharray="4 3"' if box.idle else ""
    parts = [
        f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}" rx="7" fill="{fill}" '
        f'stroke="{colour}"{dash}/>'
    ]
    x, y = box.x + _PAD, box.y + _PAD + 10
    if box.code:
        wide = 12 + 8 * len(box.code)
        parts.append(
            f'<rect x="{x - 3}" y="{y - 12}" width="{wide}" height="16" rx="4" fill="{colour}"/>'
            + _text(x + wide // 2 - 3, y, box.code, "#fff", bold=True, anchor="middle")
        )
        x += wide + 4
    parts.append(_text(x, y, box.title, _TEXT, size=13, bold=True))
    for row, line in enumerate(box.lines):
        parts.append(_text(box.x + _PAD, y + _LINE * (row + 1), line.text, line.colour, bold=line.bold))
    return parts


def _crosses(box: _Box) -> list[str]:
    return [
        _cross(box.x + box.width + 16, box.port(row))
        for row, line in enumerate(box.lines)
        if line.edge is not None and line.edge["verdict"] == "broken"
    ]


def _tip(colour: str) -> str:
    """Head of an arrow. One a colour: not every program knows `context-stroke`."""
    return (
        f'<marker id="tip{colour[1:]}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        f'orient="auto" markerUnits="userSpaceOnUse"><path d="M0 0L8 4L0 8z" fill="{colour}"/></marker>'
    )


def _tipped(colour: str) -> str:
    return f'marker-end="url(#tip{colour[1:]})"'


def _cross(x: int, y: int) -> str:
    return (
        f'<circle cx="{x}" cy="{y}" r="7" fill="#fff" stroke="{_BROKEN}"/>'
        f'<path d="M{x - 3} {y - 3}l6 6M{x + 3} {y - 3}l-6 6" stroke="{_BROKEN}" stroke-width="2.2"/>'
    )


def _text(
    x: int, y: int, text: str, colour: str, *, size: int = 12, bold: bool = False, anchor: str = "start"
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{weight}{place}>{escape(text)}</text>'


# --- Mermaid ---


def link_mermaid(links: xr.Dataset, session: xr.Dataset) -> str:
    """Links as Mermaid text (renders in GitHub, GitLab, VS Code).

    Parameters
    ----------
    links
        As `link` returns them.
    session
        The session they were made from.
    """
    codes, labels = group_codes(links), links["label"].values.tolist()
    code = dict(zip(labels, codes, strict=True))
    groups = light_groups(links)
    lines = ["flowchart LR", f"  %% {count(session.sizes['frame'], 'frame')}, rules {links.attrs['rules']}"]
    styles: list[str] = []
    for i, group in enumerate(groups, start=1):
        code[group["label"]] = f"L{i}"
        lines.append(f'  L{i}["{_quoted(group["label"])}"]' + (":::broken" if group["problems"] else ""))
    for i, label in enumerate(labels):
        idle = "" if bool(links["used"].values[i]) else ":::idle"
        lines.append(f'  {codes[i]}["<b>{codes[i]}</b> {_quoted(label)}"]{idle}')
    number = 0
    for edge in edges(links):
        if not edge["to"]:
            continue
        arrow = {"chosen": "-->", "near": "-.->", "broken": "--x"}[edge["verdict"]]
        words = {"near": "near miss: ", "broken": f"no {edge['role']}: "}.get(edge["verdict"], f"{edge['role']}: ")
        lines.append(f'  {code[edge["from"]]} {arrow}|"{_quoted(words + edge["reason"])}"| {code[edge["to"]]}')
        if edge["verdict"] == "broken":
            styles.append(f"  linkStyle {number} stroke:{_BROKEN},color:{_BROKEN}")
        number += 1
    classes = [
        f"  classDef broken stroke:{_BROKEN},fill:#fdf1f1",
        f"  classDef idle stroke:{_IDLE},stroke-dasharray:4 3",
    ]
    return "\n".join([*lines, *styles, *classes]) + "\n"


def _quoted(text: str) -> str:
    """Text inside the quotes of Mermaid, which knows entities but no escapes."""
    return escape(text, quote=False).replace('"', "#quot;")
