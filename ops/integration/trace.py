"""What went into a pixel: the tile's work done again for that pixel alone, every frame's part kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid
from skyloom.ops.integration.average import HIGH, LOW, NO_DATA, USED
from skyloom.ops.integration.combine import Combined
from skyloom.ops.integration.coordinates import NODE_STEP
from skyloom.ops.integration.drizzle import drizzle_options
from skyloom.ops.integration.drizzle_tiles import DrizzleSpec, Work
from skyloom.ops.integration.drop import GOT, WENT_HIGH, WENT_LOW
from skyloom.ops.integration.integrate import canvas_of, options_of, reaching, solution_task
from skyloom.ops.integration.masked import frame_masks
from skyloom.ops.integration.overlaps import FrameSpec, frame_specs, index_frames
from skyloom.ops.integration.solution import Solution
from skyloom.ops.integration.taper import taper_weight
from skyloom.ops.integration.tiles import Options, Seen, integrate_strip, make_buffers, see_frames, widen
from skyloom.ops.integration.weights import keyword_values, measures_needed, measures_of

TRACED = ("integrate", "drizzle")
"""Ops whose pixels can be traced."""
FATES: Mapping[int, str] = {USED: "used", LOW: "rejected low", HIGH: "rejected high", NO_DATA: "no data"}


@dataclass(frozen=True)
class Part:
    """What a frame had for a pixel."""

    frame: str
    """Content id."""
    name: str
    x: float
    """Where the pixel's centre lies in the frame (its pixels, from 0)."""
    y: float
    value: float
    """Normalized: factor · (pixel - offset). Of a drizzled pixel the mean of its drops."""
    weight: float
    fraction: float
    """Of the pixel's weight; a median is of all alike."""
    factor: float
    """J·a: what the frame's pixels are multiplied with."""
    offset: float
    fate: str
    """used, rejected low, rejected high, no data; of drops several may hold."""


@dataclass(frozen=True)
class Trace:
    """A pixel of a canvas and what it was made from."""

    band: str
    x: int
    y: int
    result: Mapping[str, float]
    """Value of each variable, exactly as a tile's task makes it."""
    parts: tuple[Part, ...]


def trace_pixel(
    op: str, session: xr.Dataset, registration: xr.Dataset, normalization: xr.Dataset,
    approval: xr.Dataset | None = None, artifacts: xr.Dataset | None = None,
    *, band: str, y: int, x: int, **parameters: Any,
) -> Trace:  # fmt: skip
    """Compute a pixel of `integrate` or `drizzle` again and keep what every frame had for it.

    Parameters
    ----------
    op
        integrate or drizzle.
    session, registration, normalization, approval, artifacts
        As the op takes them.
    band
        One of the result's.
    y, x
        Row and column of the result, from 0.
    **parameters
        All of the op's.

    Returns
    -------
    Trace
        Frames over the pixel in the order in which they count. What is not used has weight and fraction 0.

    Raises
    ------
    ConfigError
        If there is no such op, band or pixel.
    DataError
        If a frame cannot be read any more; the message names it.

    Notes
    -----
    Rejection looks at the surroundings of a pixel: those are read too, a window of some 20 pixels a frame.
    """
    if op not in TRACED:
        raise ConfigError(f"op {op!r} makes no pixels of frames; {' and '.join(TRACED)} do")
    grid = canvas_of(registration, parameters["tile"])
    scale = int(parameters["scale"]) if op == "drizzle" else 1
    height, width = (n * scale for n in grid.shape)
    if not (0 <= y < height and 0 <= x < width):
        raise ConfigError(f"pixel x = {x}, y = {y} is not on the canvas of {width} × {height} pixels")
    resampling = parameters.get("resampling", "auto")
    bands, pieces = index_frames(session, registration, grid, resampling)
    if band not in bands:
        raise ConfigError(f"there is no band {band!r}; there is: {', '.join(bands)}")
    weighting, rule = parameters["weighting"], parameters["weight_rule"]
    measures: dict[str, Any] = {
        n: v.compute() for n, v in measures_of(session, approval, measures_needed(weighting, rule)).items()
    }
    if weighting == "keyword":
        measures["keyword"] = keyword_values(session, reaching(pieces), rule)
    options = options_of(session, **parameters)
    registration = registration[["use", "shift"]].compute()
    fields = [n for n in ("use", "scale", "offset", "confidence", "noise") if n in normalization]
    normalization = normalization[fields].compute()
    _, (gather, *arguments) = solution_task(session, registration, normalization, options, rule, measures)
    solution: Solution = gather(*arguments)
    place = (y // scale, x // scale)
    tile = (place[0] // grid.tile, place[1] // grid.tile)
    over = [p.frame for p in pieces.get((bands.index(band), *tile), ())]
    frames = frame_specs(session, over, frame_masks(session, grid, artifacts))
    window = (slice(place[0], place[0] + 1), slice(place[1], place[1] + 1))
    out, found = Combined.empty((1, 1)), list[_Found]()
    if frames and op == "drizzle":
        _, drizzling = drizzle_options(session, masked=artifacts is not None, **parameters)
        spec = DrizzleSpec(grid, tile, frames, options, drizzling)
        out, found = _drizzled(Work.of(spec, solution, *window), window, (y % scale, x % scale))
    elif frames:
        out, found = _integrated(frames, grid, window, solution, options)
    total = sum(f.weight for f in found)
    centre = ((y + 0.5) / scale - 0.5, (x + 0.5) / scale - 0.5)
    parts = []
    for f in found:
        at_x, at_y, factor, offset = _fields(f.seen, *centre)
        share = f.weight / total if total > 0 else 0.0
        frame, name = str(session["frame"].values[f.seen.frame.index]), f.seen.frame.name
        parts.append(Part(frame, name, at_x, at_y, f.value, f.weight, share, factor / scale**2, offset, f.fate))
    return Trace(band, x, y, {name: v[0, 0].item() for name, v in vars(out).items()}, tuple(parts))


@dataclass(frozen=True)
class _Found:
    seen: Seen
    value: float
    weight: float
    fate: str


def _integrated(
    frames: tuple[FrameSpec, ...], grid: Grid, window: tuple[slice, slice], solution: Solution, options: Options
) -> tuple[Combined, list[_Found]]:
    rows, columns = window
    out = Combined.empty((1, 1))
    wide = [widen(s, n) for s, n in zip(window, grid.shape, strict=True)]
    view = see_frames(frames, grid, wide[0], wide[1], solution, options)
    buffers = make_buffers(len(view.frames), wide[0].stop - wide[0].start, wide[1])
    strip = integrate_strip(view, grid.shape, rows, columns, options, buffers, out, fates=True)
    assert strip.fates is not None
    found = []
    for at, k in enumerate(strip.over):
        code, fate = strip.codes[at, 0, 0], int(strip.fates[at, 0, 0])
        if code > 0:
            weight = float(view.weight[k] * taper_weight(code)) if fate == USED else 0.0
            found.append(_Found(view.frames[k], float(strip.samples[at, 0, 0]), weight, FATES[fate]))
    return out, found


def _drizzled(
    work: Work, window: tuple[slice, slice], at: tuple[int, int]
) -> tuple[Combined, list[_Found]]:  # fmt: skip
    scale = work.spec.drizzling.scale
    out = Combined.empty((scale, scale))
    work.strip(*window, out)
    found = []
    for seen, sums, marks in work.frames(*window):
        weight, values, _ = (float(v) for v in sums[at])
        bits = int(marks[at])
        fates = [FATES[f] for f, bit in ((USED, GOT), (LOW, WENT_LOW), (HIGH, WENT_HIGH)) if bits & bit]
        if fates:
            found.append(_Found(seen, values / weight if weight > 0 else math.nan, weight, ", ".join(fates)))
    y, x = (slice(i, i + 1) for i in at)
    return Combined(*(v[y, x] for v in vars(out).values())), found


def _fields(seen: Seen, y: float, x: float) -> tuple[float, float, float, float]:
    """Position x, y in the frame, factor and offset at a position of the canvas."""
    ky, kx = math.floor(y / NODE_STEP), math.floor(x / NODE_STEP)
    t, s = y / NODE_STEP - ky, x / NODE_STEP - kx
    ky, kx = max(ky - seen.grid.origin[0], 0), max(kx - seen.grid.origin[1], 0)
    f = seen.grid.fields[:, ky : ky + 2, kx : kx + 2]
    at = (1 - t) * ((1 - s) * f[:, 0, 0] + s * f[:, 0, 1]) + t * ((1 - s) * f[:, 1, 0] + s * f[:, 1, 1])
    return float(at[0]), float(at[1]), float(at[2]), float(at[3])
