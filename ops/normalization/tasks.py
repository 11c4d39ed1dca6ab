"""The graph of `normalize`: two tasks a frame, three a band, and what they hand on.

    stars, shift → place ─┬─► sky ─┐
                          └────────┴─► sample ─► scales ─► samples of a band ─► solve ─► result
    cells ──────────────────────────┘

With an earlier solution one task a band takes the place of three (`solve_kept`).

Images (references, anchors) are read, measured and placed in a task each, and sampled as frames are; they and the
user's places of background are the last members of every band.

What a step has used up is let go before the next: the stars of frames before the samples are joined, the samples
of frames before the solve. By hand, since dask's `delayed` would give each frame's task a copy of the whole graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
from dask._task_spec import GraphNode
from dask.core import get_dependencies
from numpy.typing import NDArray

from skyloom.ops.grid import Grid
from skyloom.ops.held import BASIS, bases, rows_before
from skyloom.ops.normalization.bands import (
    BandSamples,
    BandScales,
    BandSolution,
    band_samples,
    band_scales,
    solve_band,
    with_regions,
)
from skyloom.ops.normalization.images import Image, PlacedImage, place_image, sample_image
from skyloom.ops.normalization.kept import BAND, FRAME, Kept
from skyloom.ops.normalization.kept_band import KeptBand, overlay, solve_kept
from skyloom.ops.normalization.local import solve_local
from skyloom.ops.normalization.reference import reference_scales
from skyloom.ops.normalization.regions import Region, sample_regions
from skyloom.ops.normalization.result import Limits, Result, fill_in, left_alone, reasons
from skyloom.ops.normalization.sightings import Sightings
from skyloom.ops.normalization.sky import Placed, Sampled, Sky, place_frame, plan_sky, sample
from skyloom.ops.threads import one_blas_thread

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Texts = NDArray[np.str_]

STATUS = 6
"""Place of the status among a measurement's summary quantities; noise and FWHM are 1 and 2."""


@dataclass(frozen=True)
class Options:
    """What the tasks must know beside the data."""

    grid: Grid
    cell: int
    mode: str
    degree: int | None
    superpixel: float | None
    clip: float
    whole: bool = False
    """References are of the whole canvas, not of a panel."""
    best: int = 5
    images: tuple[Image, ...] = ()
    """The reference, or anchors."""
    regions: tuple[Region, ...] = ()
    limits: Limits = field(default_factory=Limits)
    earlier: tuple[str, ...] | None = None
    """Bands of the solution that is kept; None: all is solved."""
    tolerance: float = np.inf
    """Pixel noises that new frames may differ from the sky kept; beyond, all is solved anew."""

    @property
    def alone(self) -> bool:
        """Every frame is solved against a reference, not all together."""
        return self.mode in ("reference", "linear")

    @property
    def anchors(self) -> tuple[str, ...]:
        """Names of what is not a frame."""
        return (*(i.name for i in self.images), *(("background",) if self.regions else ()))


@dataclass(frozen=True)
class Table:
    """Columns of the session the tasks need; in a class of its own, which dask does not search for keys."""

    columns: dict[str, NDArray[Any]]
    in_canvas: Bools
    bands: tuple[str, ...]
    flat: Bools | None = None
    """(frame,) frames whose background is held to have no gradient."""
    group: NDArray[np.int64] | None = None
    """(frame,) night and camera, numbered; None: frames share nothing."""

    def members(self, band: str) -> NDArray[np.int64]:
        """Rows of a band's frames."""
        return np.flatnonzero(self.in_canvas & (self.columns["band"] == band))


def solve_tasks(
    table: Table, lazy: dict[str, da.Array], options: Options, solved: str
) -> tuple[list[Any], dict[Any, Any]]:
    """Arrays needed, and the tasks that end in key `solved`, a `Result`.

    Parameters
    ----------
    table, options
        The frames and how they are solved.
    lazy
        `stars, cells, summary` of a measurement, `use, shift, reason` of a registration; `earlier` in front of the
        names of an earlier solution.
    solved
        Key of the result.
    """
    whole = {name: lazy[name].rechunk(-1, method="tasks") for name in ("summary", "use", "shift", "reason")}
    cells, stars = (
        lazy["cells"].rechunk((1, -1, -1, -1), method="tasks"),
        lazy["stars"].rechunk((1, -1, -1), method="tasks"),
    )
    key = {name: (array.name, *(0 for _ in array.shape)) for name, array in whole.items()}
    told = (key["summary"], key["use"], key["shift"], key["reason"])
    if options.mode == "none":
        return list(whole.values()), {solved: (_result, table, options, *told, [], None)}
    tasks: dict[Any, Any] = {}
    known = None
    if options.earlier is not None:
        before = {name: lazy[f"earlier {name}"].rechunk(-1, method="tasks") for name in (BASIS, *FRAME, *BAND)}
        known = f"{solved}-known"
        found = [(array.name, *(0 for _ in array.shape)) for array in before.values()]
        tasks[known] = (_known, table, options, *told[:3], found)
        whole |= {f"earlier {name}": array for name, array in before.items()}
    placed, sampled = {}, {}
    lists, maps = (dict(array.__dask_graph__()) for array in (stars, cells))
    planned = f"{solved}-sky"
    for i in np.flatnonzero(table.in_canvas).tolist():
        placed[i], sampled[i] = (f"{solved}-place", i), (f"{solved}-sample", i)
        own = _read(lists, (stars.name, i, 0, 0))
        tasks[placed[i]] = (_place, table, options, i, own, key["summary"], key["use"], key["shift"])
        tasks[sampled[i]] = (_sample, options, _read(maps, (cells.name, i, 0, 0, 0)), placed[i], planned)
    images = [(f"{solved}-image", k) for k in range(len(options.images))]
    beside: list[Any] = [(f"{solved}-beside", k) for k in range(len(options.anchors))]
    for k, image in enumerate(images):
        tasks[image] = (_place_image, options, k)
        tasks[beside[k]] = (_sample_image, image, planned)
    if options.regions:
        tasks[beside[-1]] = (_sample_regions, options, planned)
    tasks[planned] = (_plan, table, options, list(placed.values()), images)
    solutions = []
    for number, band in enumerate(table.bands):
        scales, joined, solution = ((f"{solved}-{step}", number) for step in ("scales", "joined", "solution"))
        members = [*(sampled[i] for i in table.members(band).tolist()), *beside]
        solutions.append(solution)
        if known is not None:
            tasks[solution] = (_solve_kept, table, options, number, planned, members, known)
            continue
        tasks[scales] = (_scales, table, options, number, planned, members)
        tasks[joined] = (_join, table, options, number, scales, members)
        tasks[solution] = (_solve, table, options, scales, joined)
    tasks[solved] = (_result, table, options, *told, solutions, known)
    return [*whole.values(), cells, stars], tasks


def _read(graph: dict[Any, Any], key: tuple[Any, ...]) -> Any:
    """The task itself if it only reads, else its key.

    dask keeps for every task the set of reads it rests on, and shares sets that are equal. Samples rest on the
    stars of all frames: with the reads of their own cells beside, that would be frames² entries.
    """
    needed = get_dependencies(graph, key)
    reads = all(not get_dependencies(graph, k) for k in needed)
    return graph[key] if reads and isinstance(graph[key], GraphNode) else key


def pick(result: Result, name: str) -> NDArray[Any]:
    """One variable of a result."""
    return result[name]


def _usable(summary: Floats, use: Bools) -> Bools:
    """Frames that registration and measurement let pass."""
    return np.asarray(np.asarray(use, dtype=bool) & np.isin(np.asarray(summary)[:, STATUS], (0.0, 3.0)))


@one_blas_thread
def _place(
    table: Table, options: Options, index: int, stars: Floats, summary: Floats, use: Bools, shift: Floats
) -> Placed | None:
    summary = np.asarray(summary, dtype=np.float64)
    if not _usable(summary, use)[index]:
        return None
    header, height, width = (table.columns[k][index] for k in ("wcs", "height", "width"))
    noise, fwhm = summary[index, 1:3].tolist()
    return place_frame(
        str(header), (int(height), int(width)), np.asarray(stars)[0], noise, fwhm, np.asarray(shift)[index],
        options.grid,
    )  # fmt: skip


@one_blas_thread
def _plan(
    table: Table, options: Options, placed: list[Placed | None], images: list[PlacedImage]
) -> tuple[Sky, Sightings]:
    rows = np.flatnonzero(table.in_canvas)
    return plan_sky(
        placed, rows, options.grid, cell=options.cell, superpixel=options.superpixel,
        images=[i.placed for i in images], first_image=len(table.in_canvas),
    )  # fmt: skip


@one_blas_thread
def _place_image(options: Options, number: int) -> PlacedImage:
    return place_image(options.images[number], options.grid, cell=options.cell)


@one_blas_thread
def _sample_image(image: PlacedImage, planned: tuple[Sky, Sightings]) -> Sampled | None:
    return sample_image(image, planned[0])


def _sample_regions(options: Options, planned: tuple[Sky, Sightings]) -> Sampled | None:
    return sample_regions(options.regions, planned[0].lattice, options.grid)


@one_blas_thread
def _sample(
    options: Options, cells: NDArray[np.float32], placed: Placed | None, planned: tuple[Sky, Sightings]
) -> Sampled | None:
    return sample(np.asarray(cells)[0], placed, planned[0], options.cell)


@one_blas_thread
def _scales(
    table: Table, options: Options, band: int, planned: tuple[Sky, Sightings], sampled: list[Sampled | None]
) -> BandScales:
    members, images = _members(table, options, band), len(options.images)
    own = len(members) - len(options.anchors)
    exposure = np.append(table.columns["exposure"][members[:own]].astype(np.float64), np.full(images, np.nan))
    units = np.append(table.columns["units"][members[:own]].astype(str), np.full(images, ""))
    stars = own + images
    scales = band_scales(
        planned[1], members[:stars], sampled[:stars], exposure, units, anchors=images, even=options.alone
    )
    if options.alone:
        joined = band_samples(scales, members, sampled)
        return reference_scales(scales, joined, planned[1], whole=options.whole, best=options.best)
    if options.regions and sampled[-1] is not None:
        return with_regions(scales, int(members[-1]))
    return scales


def _members(table: Table, options: Options, band: int) -> NDArray[np.int64]:
    """Rows of a band's frames and of all that is not a frame."""
    beside = len(table.in_canvas) + np.arange(len(options.anchors))
    return np.concatenate([table.members(table.bands[band]), beside])


def _join(
    table: Table, options: Options, band: int, scales: BandScales, sampled: list[Sampled | None]
) -> BandSamples:
    return band_samples(scales, _members(table, options, band), sampled, canvas=options.grid.shape)


@one_blas_thread
def _solve(table: Table, options: Options, scales: BandScales, samples: BandSamples) -> BandSolution:
    if options.alone:
        return solve_local(
            scales, samples, local=options.mode == "reference", whole=options.whole, best=options.best,
            clip=options.clip,
        )  # fmt: skip
    flat = None
    if table.flat is not None:
        flat = np.append(table.flat, np.zeros(len(options.anchors), dtype=bool))[scales.frame]
    group = None
    if table.group is not None:
        group = np.append(table.group, np.full(len(options.anchors), -1))[scales.frame]
    degree = 0 if options.mode == "constants" else options.degree
    return solve_band(scales, samples, clip=options.clip, degree=degree, flat=flat, group=group)


def _basis(table: Table, summary: Floats, use: Bools, shift: Floats) -> Texts:
    names = ("frame", "wcs", "height", "width", "band", "exposure", "units")
    return bases(*(table.columns[k] for k in names), np.asarray(summary), np.asarray(use), np.asarray(shift))


def _known(
    table: Table, options: Options, summary: Floats, use: Bools, shift: Floats, before: list[NDArray[Any]]
) -> Kept:
    """The solution that is kept, and which frames it knows."""
    basis, *values = (np.asarray(array) for array in before)
    found = dict(zip((*FRAME, *BAND), values, strict=True))
    assert options.earlier is not None
    return Kept(
        rows_before(_basis(table, summary, use, shift), basis), {n: found[n] for n in FRAME}, options.earlier,
        {n: found[n] for n in BAND},
    )  # fmt: skip


@one_blas_thread
def _solve_kept(
    table: Table, options: Options, band: int, planned: tuple[Sky, Sightings], sampled: list[Sampled | None],
    kept: Kept,
) -> KeptBand:  # fmt: skip
    def anew() -> BandSolution:
        scales = _scales(table, options, band, planned, sampled)
        return _solve(table, options, scales, _join(table, options, band, scales, sampled))

    more = len(options.anchors) + 1
    return solve_kept(
        table.bands[band], _members(table, options, band), sampled, kept, planned[1],
        exposure=table.columns["exposure"], units=table.columns["units"], images=len(options.images),
        anchors=len(options.anchors), frames=len(table.in_canvas), canvas=options.grid.shape, clip=options.clip,
        degree=0 if options.mode == "constants" else options.degree,
        flat=None if table.flat is None else np.append(table.flat, np.zeros(more, dtype=bool)),
        group=None if table.group is None else np.append(table.group, np.full(more, -1)),
        tolerance=options.tolerance, anew=anew,
    )  # fmt: skip


def _result(
    table: Table,
    options: Options,
    summary: Floats,
    use: Bools,
    shift: Floats,
    registered: Texts,
    solutions: list[Any],
    kept: Kept | None,
) -> Result:
    summary = np.asarray(summary, dtype=np.float64)
    used = _usable(summary, use)
    reason = reasons(registered, summary[:, STATUS], used)
    out = left_alone(
        len(used),
        len(table.bands),
        len(options.anchors),
        canvas=options.grid.shape,
        noise=summary[:, 1],
        use=used,
        reason=reason,
    )
    out[BASIS] = _basis(table, summary, use, shift)
    out = fill_in(out, [s.solution if isinstance(s, KeptBand) else s for s in solutions], options.limits)
    if kept is not None:
        overlay(out, kept, solutions, table.bands, table.columns["band"])
    return out
