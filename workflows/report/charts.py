"""Charts as small SVG pictures; points tell what they are under the pointer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.workflows.report.markup import Markup, el, number

Floats = NDArray[np.float64]
WIDTH, HEIGHT = 460, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 10, 18, 34
SINGLE = 1500
"""Points drawn one by one, with what they are; more are one path without."""
_BANDS = {
    "L": 0, "R": 1, "G": 2, "B": 3, "Ha": 4, "H": 4, "OIII": 5, "O": 5, "SII": 6, "S": 6, "CFA": 7,
}  # fmt: skip
COLOURS = 9


@dataclass(frozen=True)
class Series:
    """Points of one kind."""

    label: str
    colour: int
    """Class of colour, see `band_colour`."""
    x: Floats
    y: Floats
    titles: Sequence[str]
    """What each point is."""
    frames: NDArray[np.int64]
    """Row of each point's frame: the same frame lights up in all charts."""
    left_out: NDArray[np.bool_] | None = None
    """Points drawn as crosses."""


def band_colour(band: str, order: Sequence[str]) -> int:
    """Colour of a band: the one people expect, else by its place among the bands."""
    return _BANDS.get(band, 7 + order.index(band) % 2 if band in order else 8)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two."""
    if not high > low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(f for f in (1, 2, 5, 10, 20) if (high - low) / (step * f) <= most)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _span(values: Floats, *, pad: float = 0.05) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = pad * (high - low) or max(abs(low) * 0.05, 1e-6)
    return low - room, high + room


def scatter(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str,
    unit: str = "",
    log: bool = False,
    zero: bool = False,
    breaks: Sequence[tuple[float, str]] = (),
    square: bool = False,
) -> Markup | None:
    """Chart of points; None where there is nothing to draw.

    Parameters
    ----------
    title, unit
        Of the vertical axis.
    series
        Points; NaN are left out.
    x_label
        Of the horizontal axis.
    log
        Whether the vertical axis is logarithmic (values of 0 and less are left out).
    zero
        Whether it begins at 0.
    breaks
        Where a night begins, with its name.
    square
        Whether a unit is as long on both axes.
    """
    shown = [(s, np.isfinite(s.x) & np.isfinite(s.y) & ((s.y > 0) if log else True)) for s in series]
    shown = [(s, good) for s, good in shown if good.any()]
    if not shown:
        return None
    xs = _span(np.concatenate([s.x[good] for s, good in shown]))
    every = np.concatenate([s.y[good] for s, good in shown])
    ys = _span(np.log10(every) if log else every)
    ys = (0.0, ys[1]) if zero and ys[1] > 0 else ys
    width, height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    if square:
        per = max((xs[1] - xs[0]) / width, (ys[1] - ys[0]) / height)
        xs, ys = (_about(*xs, per * width), _about(*ys, per * height))

    def px(value: float) -> float:
        return round(_LEFT + (value - xs[0]) / (xs[1] - xs[0]) * width, 1)

    def py(value: float) -> float:
        return round(_TOP + height - (value - ys[0]) / (ys[1] - ys[0]) * height, 1)

    parts: list[Markup] = []
    for tick in _log_ticks(*ys) if log else ticks(*ys):
        y = py(tick)
        parts.append(el("path", d=f"M{_LEFT} {y}h{width}", class_="grid"))
        parts.append(el("text", number(10.0**tick if log else tick), x=_LEFT - 6, y=y + 4, class_="end"))
    for place, name in breaks:
        if xs[0] <= place <= xs[1]:
            parts.append(el("path", d=f"M{px(place)} {_TOP}v{height}", class_="night"))
            late = px(place) > WIDTH - _RIGHT - 64
            at, side = (px(place) - 3, "end soft") if late else (px(place) + 3, "soft")
            parts.append(el("text", name, x=at, y=_TOP - 6, class_=side))
    for tick in ticks(*xs):
        parts.append(el("text", number(tick), x=px(tick), y=HEIGHT - 18, class_="mid"))
    parts.append(el("path", d=f"M{_LEFT} {_TOP}v{height}h{width}", class_="axis"))
    parts.append(el("text", x_label, x=_LEFT + width / 2, y=HEIGHT - 4, class_="mid soft"))
    many = sum(int(good.sum()) for _, good in shown) > SINGLE
    for s, good in shown:
        rows = np.flatnonzero(good).tolist()
        places = [(px(float(s.x[i])), py(math.log10(s.y[i]) if log else float(s.y[i]))) for i in rows]
        if many:
            path = "".join(f"M{x} {y}h0" for x, y in places)
            parts.append(el("path", d=path, class_=f"many s{s.colour}"))
            continue
        for i, (x, y) in zip(rows, places, strict=True):
            out = s.left_out is not None and bool(s.left_out[i])
            shape = (
                {"d": f"M{x - 3.5} {y - 3.5}l7 7m0-7l-7 7", "class_": f"out s{s.colour}"}
                if out
                else {"d": f"M{x} {y}h0", "class_": f"dot s{s.colour}"}
            )
            parts.append(el("path", data_f=int(s.frames[i]), data_t=s.titles[i], **shape))
    head = el("figcaption", el("b", title), f" ({unit})" if unit else None)
    box = el(
        "svg", parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title,
        xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip
    return el("figure", head, box, class_="chart")


def _about(low: float, high: float, length: float) -> tuple[float, float]:
    middle = 0.5 * (low + high)
    return middle - 0.5 * length, middle + 0.5 * length


def _log_ticks(low: float, high: float) -> list[float]:
    """Places (decimal logarithms) of 1, 2, 5 · 10ⁿ, or of whole powers where those would be many."""
    factors = (1, 2, 5) if high - low < 3 else (1,)
    found = [
        n + math.log10(f)
        for n in range(math.floor(low), math.ceil(high) + 1)
        for f in factors
        if low <= n + math.log10(f) <= high
    ]
    return found if len(found) > 1 else ticks(low, high, 4)


def legend(series: Sequence[tuple[str, int]], *, left_out: bool = False) -> Markup:
    """What the colours are."""
    items = [el("span", el("i", class_=f"b{colour}"), label) for label, colour in series]
    if left_out:
        items.append(el("span", "✕ left out"))
    return el("p", items, class_="legend")
