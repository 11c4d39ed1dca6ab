"""Lines over a canvas: right ascension and declination, outlines of panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from skyloom.ops.footprints import placement
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel
from skyloom.ops.normalization.panels import MOST_PANELS, panels

Floats = NDArray[np.float64]
LEAST = 4
"""Lines of each kind over a view, at least."""
_SAMPLES = 33
_POINTS = 97
_SEXAGESIMAL = (30, 20, 10, 5, 2, 1)
_DECIMAL = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_DEC_STEPS = (
    *(30.0, 15.0, 10.0, 5.0, 2.0, 1.0),
    *(n / 60.0 for n in _SEXAGESIMAL),
    *(n / 3600.0 for n in (*_SEXAGESIMAL, *_DECIMAL)),
)
"""Degrees."""
_RA_STEPS = (
    *(45.0, 30.0, 15.0),
    *(n / 4.0 for n in _SEXAGESIMAL),
    *(n / 240.0 for n in (*_SEXAGESIMAL, *_DECIMAL)),
)
"""Degrees: round numbers of hours, minutes and seconds."""


def sky_lines(grid: Grid, *, left: float, right: float, bottom: float, top: float) -> list[dict[str, Any]]:
    """Lines of equal right ascension and declination across a window of a canvas.

    Parameters
    ----------
    grid
        The canvas.
    left, right, bottom, top
        Edges of the window (pixels; it may reach beyond the canvas).

    Returns
    -------
    list of dict
        `kind` (ra or dec), `label`, and `parts`: polylines of canvas positions [x, y]. Empty where the canvas
        has no place on the sky.
    """
    if not grid.on_sky or not (right > left and top > bottom):
        return []
    x, y = np.meshgrid(np.linspace(left, right, _SAMPLES), np.linspace(bottom, top, _SAMPLES))
    ra, dec = pixel_to_sky(grid.wcs, x.ravel(), y.ravel())
    good = np.isfinite(ra) & np.isfinite(dec)
    if not good.any():
        return []
    middle = _middle(ra[good])
    around = _beside(ra[good], middle)
    low, high = float(dec[good].min()), float(dec[good].max())
    west, east = float(around.min()), float(around.max())
    window = (left, right, bottom, top)
    for pole in (-90.0, 90.0):
        if _inside(grid, pole, window):
            west, east = -180.0, 180.0
            low, high = min(low, pole), max(high, pole)
    lines = []
    ra_step, dec_step = _step(east - west, _RA_STEPS), _step(high - low, _DEC_STEPS)
    # A little beyond the window: its edges are curved on the sky.
    reach = 0.05 * (high - low)
    along_dec = np.linspace(max(low - reach, -90.0), min(high + reach, 90.0), _POINTS)
    wide = 0.05 * (east - west)
    along_ra = middle + np.linspace(max(west - wide, -180.0), min(east + wide, 180.0), 2 * _POINTS - 1)
    for value in _round(middle + west, middle + east, ra_step)[: 360 if east - west < 360 else None]:
        parts = _parts(grid, np.full(_POINTS, value % 360.0), along_dec, window)
        if parts:
            lines.append({"kind": "ra", "label": ra_text(value % 360.0, ra_step), "parts": parts})
    for value in _round(low, high, dec_step):
        parts = _parts(grid, along_ra % 360.0, np.full(len(along_ra), value), window)
        if parts:
            lines.append({"kind": "dec", "label": dec_text(value, dec_step), "parts": parts})
    return lines


def panel_outlines(frames: Sequence[Floats]) -> list[dict[str, Any]]:
    """Outlines of the panels of a mosaic: frames whose centres lie within a third of a side make one.

    Parameters
    ----------
    frames
        Their outlines on the canvas (`skyloom.ops.footprints.footprint`), without NaN.

    Returns
    -------
    list of dict
        `points`, the corners [x, y] of the hull of its frames, and how many `frames` there are.
    """
    if not frames:
        return []
    label = panels(np.array([placement(f) for f in frames]), most=MOST_PANELS)
    found = []
    for panel in range(int(label.max()) + 1):
        points = np.concatenate([f for f, p in zip(frames, label, strict=True) if p == panel])
        hull = points[ConvexHull(points).vertices]
        found.append({"points": hull.round(2).tolist(), "frames": int((label == panel).sum())})
    return found


def _middle(ra: Floats) -> float:
    angle = np.deg2rad(ra)
    return float(np.rad2deg(math.atan2(np.sin(angle).sum(), np.cos(angle).sum())))


def _beside(ra: Floats, middle: float) -> Floats:
    """Right ascension from a middle, -180…180."""
    return np.asarray((ra - middle + 180.0) % 360.0 - 180.0)


def _inside(grid: Grid, pole: float, window: Sequence[float]) -> bool:
    x, y = sky_to_pixel(grid.wcs, np.array([0.0]), np.array([pole]))
    left, right, bottom, top = window
    if not (left <= x[0] <= right and bottom <= y[0] <= top):
        return False
    # Some projections give the far side of the sky a place as well.
    _, dec = pixel_to_sky(grid.wcs, x, y)
    return bool(abs(dec[0] - pole) < 1e-3)


def _step(span: float, steps: Sequence[float]) -> float:
    return next((s for s in steps if span / s >= LEAST), steps[-1])


def _round(low: float, high: float, step: float) -> list[float]:
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _parts(grid: Grid, ra: Floats, dec: Floats, window: Sequence[float]) -> list[list[list[float]]]:
    """Polyline of sky positions on the canvas, cut where it leaves the window."""
    x, y = sky_to_pixel(grid.wcs, ra, dec)
    left, right, bottom, top = window
    dx, dy = 0.05 * (right - left), 0.05 * (top - bottom)
    with np.errstate(invalid="ignore"):
        inside = (x >= left - dx) & (x <= right + dx) & (y >= bottom - dy) & (y <= top + dy)
    # A point on each side more, so that lines reach the edges.
    wide = inside.copy()
    wide[1:] |= inside[:-1]
    wide[:-1] |= inside[1:]
    wide &= np.isfinite(x) & np.isfinite(y)
    parts: list[list[list[float]]] = []
    open_part = False
    for k in range(len(x)):
        jump = (
            k > 0 and open_part and math.hypot(x[k] - x[k - 1], y[k] - y[k - 1]) > (right - left) + (top - bottom)
        )
        if not wide[k] or jump:
            open_part = False
            if not wide[k]:
                continue
        if not open_part:
            parts.append([])
            open_part = True
        parts[-1].append([round(float(x[k]), 3), round(float(y[k]), 3)])
    return [p for p in parts if len(p) > 1]


def ra_text(ra: float, step: float) -> str:
    """Right ascension in hours, as finely as a step (degrees) needs."""
    seconds = step / 15.0 * 3600.0
    places = max(0, math.ceil(-math.log10(seconds) - 1e-9)) if seconds < 1 else 0
    total = round(ra / 15.0 * 3600.0, places) % 86400.0
    hours, rest = divmod(total, 3600.0)
    minutes, left = divmod(rest, 60.0)
    text = f"{int(hours):02d}h"
    if seconds < 3599.0:
        text += f"{int(minutes):02d}m"
    if seconds < 59.0:
        text += f"{left:0{2 + (places + 1 if places else 0)}.{places}f}s"
    return text


def dec_text(dec: float, step: float) -> str:
    """Declination in degrees, as finely as a step (degrees) needs."""
    seconds = step * 3600.0
    places = max(0, math.ceil(-math.log10(seconds) - 1e-9)) if seconds < 1 else 0
    total = round(abs(dec) * 3600.0, places)
    degrees, rest = divmod(total, 3600.0)
    minutes, left = divmod(rest, 60.0)
    text = f"{'-' if dec < 0 and total > 0 else '+'}{int(degrees):02d}°"
    if seconds < 3599.0:
        text += f"{int(minutes):02d}′"
    if seconds < 59.0:
        text += f"{left:0{2 + (places + 1 if places else 0)}.{places}f}″"
    return text
