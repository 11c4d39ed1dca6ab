"""Maps of the mosaic: how many frames, what was rejected, what it weighs; the sky with its contrast raised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import SkyloomError
from skyloom.ops.footprints import footprint
from skyloom.ops.grid import Grid
from skyloom.workflows.report.canvas import shown_plane
from skyloom.workflows.report.facts import Project
from skyloom.workflows.report.frames import band_rank
from skyloom.workflows.report.markup import Markup, el, number, table
from skyloom.workflows.report.normalization_section import STAGES
from skyloom.workflows.report.pictures import BUDGET, Small, colour_map, small_plane

SIDE = 480
"""Longest side of a map (pixels)."""
BANDS = 6
"""Bands shown."""
_OUTLINES = 300
"""Frames whose outlines are worked out."""
_ALIKE = 0.02
"""Outlines nearer to each other than this part of the canvas are one."""


def maps_section(project: Project) -> Markup | None:
    """Count, rejected share and weight of each band."""
    node = project.node_of("integrate", "drizzle", "blend")
    if node is None:
        return None
    result = project.results[node]
    if "band" not in result.dims:
        return None
    bands = result["band"].values.astype(str).tolist()[:BANDS]
    budget = BUDGET / (4 * len(bands))
    over = outlines(project, result, node)
    figures: list[Markup] = []
    rows = []
    for band, i in _ordered(bands):
        count, rejected, weight = _planes(project, node, i, budget)
        if count is None:
            continue
        row = [colour_map(count, f"{band}: frames", low=0.0, over=over)]
        rows.append([band, number(_mean(count.pixels)), number(float(np.nanmax(count.pixels, initial=0.0)))])
        if rejected is not None:
            row.append(colour_map(rejected, f"{band}: rejected", unit="%", low=0.0, over=over))
            rows[-1].append(number(_mean(rejected.pixels), 3))
        else:
            rows[-1].append("–")
        if weight is not None:
            row.append(colour_map(weight, f"{band}: weight", over=over))
        figures.append(el("div", row, class_="grid maps"))
    if not figures:
        return None
    return el(
        "div",
        table(("band", "frames a pixel, mean", "at most", "rejected (%)"), rows, numbers=(1, 2, 3)),
        _switch("maps"),
        figures,
        class_="outlined",
    )


def _planes(
    project: Project, node: str, band: int, budget: float
) -> tuple[Small | None, Small | None, Small | None]:
    """Count, rejected samples in percent and weight of a band, shrunk; NaN where there is no data."""
    result = project.results[node]

    def shown(variable: str) -> Small | None:
        if variable not in result:
            return None
        return shown_plane(project, node, variable, index=band, side=SIDE, budget=budget)

    def small(variable: str) -> Small:
        return small_plane(result, variable, side=SIDE, budget=budget, band=band)

    count, weight, rejected = shown("count"), shown("weight"), None
    if count is None:
        return None, None, None
    if "rejected_low" in result and "rejected_high" in result:
        low = small("rejected_low")
        out = low.pixels + small("rejected_high").pixels
        kept = (count if count.pixels.shape == out.shape else small("count")).pixels
        share = np.divide(
            100.0 * out, out + kept, out=np.full(out.shape, np.nan, np.float32), where=out + kept > 0
        )
        rejected = replace(low, pixels=share)
    if weight is not None:
        weight = replace(weight, pixels=_positive(weight.pixels))
    return replace(count, pixels=_positive(count.pixels)), rejected, weight


def _positive(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(values > 0, values, np.float32(np.nan))


def _ordered(bands: list[str]) -> list[tuple[str, int]]:
    """Bands with their numbers, in the field's order."""
    return sorted(((b, i) for i, b in enumerate(bands)), key=lambda pair: band_rank(pair[0]))


def _mean(values: NDArray[np.float32]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def seams_section(project: Project) -> Markup | None:
    """The sky of each band with its contrast raised until steps would show, and what overlaps disagree by."""
    node = project.node_of("gradient", "edges", "integrate", "drizzle", "blend")
    if node is None or "band" not in project.results[node].dims:
        return None
    result = project.results[node]
    bands = result["band"].values.astype(str).tolist()[:BANDS]
    over = outlines(project, result, project.node_of("integrate", "drizzle", "blend"))
    units = str(result.attrs.get("units", ""))
    figures = []
    for band, i in _ordered(bands):
        small = shown_plane(project, node, "image", index=i, side=SIDE, budget=BUDGET / len(bands))
        good = small.pixels[np.isfinite(small.pixels)]
        if not good.size:
            continue
        low, middle = (float(np.quantile(good, q)) for q in (0.005, 0.5))
        noise = 1.4826 * float(np.median(np.abs(good - middle)))
        high = min(middle + 3.0 * noise, float(np.quantile(good, 0.98)))
        figures.append(colour_map(small, f"{band}: {node}", unit=units, low=low, high=high, over=over))
    if not figures:
        return None
    return el("div", _steps(project), _switch("seams"), el("div", figures, class_="grid maps"), class_="outlined")


def _steps(project: Project) -> Markup | None:
    """Median disagreement of overlapping frames of each band, from `normalize`."""
    result, frames = project.result("normalize"), project.frames
    if result is None:
        return None
    bands, rows = frames.texts("band"), []
    used = frames.of(result, "use") == 1
    for band in frames.bands:
        values = [frames.of(result, v)[used & (bands == band)] for _, v, _ in STAGES]
        if any(np.isfinite(v).any() for v in values):
            rows.append([band, *(number(float(np.nanmedian(v))) if np.isfinite(v).any() else "–" for v in values)])
    head = ("steps between frames, median", *(name for name, _, _ in STAGES))
    return table(head, rows, numbers=(1, 2, 3)) if rows else None


def outlines(project: Project, canvas: xr.Dataset, node: str | None) -> Markup | None:
    """Outlines of frames on a canvas, those that are nearly alike drawn once.

    Parameters
    ----------
    project
        Whose frames.
    canvas
        With the attributes of a grid.
    node
        The node whose session's frames are drawn.
    """
    session = project.session_of(node)
    if session is None or "wcs" not in session or "grid_wcs" not in canvas.attrs:
        return None
    grid = Grid.from_attrs(canvas.attrs)
    height, width = grid.shape
    step = _ALIKE * max(grid.shape)
    found: list[Markup] = []
    drawn: list[NDArray[np.float64]] = []
    columns = [session[n].values.tolist() for n in ("name", "wcs", "height", "width")]
    rows = list(zip(*columns, strict=True))
    for name, wcs, tall, wide in rows[:: max(1, -(-len(rows) // _OUTLINES))]:
        if not wcs:
            continue
        try:
            points = footprint(str(wcs), (int(tall), int(wide)), grid)
        except (SkyloomError, ValueError):
            continue
        if not np.isfinite(points).all():
            continue
        if any(np.abs(points - other).max() < step for other in drawn):
            continue
        drawn.append(points)
        # From the top of the canvas, its pixels' centres at half numbers.
        shown = " ".join(f"{x + 0.5:.1f},{height - 0.5 - y:.1f}" for x, y in points.tolist())
        found.append(el("polygon", points=shown, data_t=f"outline of {name}"))
    if not found:
        return None
    return el(
        "svg",
        found,
        viewBox=f"0 0 {width} {height}",
        preserveAspectRatio="none",
        class_="outlines",
        xmlns="http://www.w3.org/2000/svg",
    )


def _switch(name: str) -> Markup:
    """Box that shows and hides the outlines of frames; works without a script."""
    box = el("input", type="checkbox", class_="show", id=f"outlines-{name}")
    return el("label", box, " outlines of frames", for_=f"outlines-{name}")
