"""One photometric system and one background for all frames: scale and offset of each, solved together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from skyloom.ops import background, surface
from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.photometry import LEAST_STARS, solve_scales
from skyloom.ops.registration.stars import match_stars
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.superpixels import (
    SIDES,
    FrameMap,
    Lattice,
    Samples,
    drop_stars,
    frame_map,
    make_lattice,
    no_samples,
    sample_frame,
    star_extents,
)
from skyloom.ops.threads import one_blas_thread

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEAST_SNR = 10.0
"""Stars fainter than this are seen only where noise lifts them: their fluxes are biased."""
SCALE_RANGE = 5.0
"""A scale further than this factor from the expected one is not transparency: the frame is left out."""
MATCH_TOLERANCE = 2.0
"""Distance (canvas pixels) at which two detections are one star."""
NO_ISLAND = -1
SAMPLE_BYTES, TERM_BYTES = 100.0, 16.0
"""Peak of the solve for a sample: table and working copies, and the basis for each term of the surfaces."""


@dataclass(frozen=True)
class Sky:
    """What every frame's samples need to know of the others."""

    grid: Grid
    use: Bools
    shift: Floats
    lattice: Lattice
    dropped: Bools


@dataclass(frozen=True)
class Sampled:
    """One frame on the lattice."""

    samples: Samples
    mapping: FrameMap | None


@dataclass(frozen=True)
class _Table:
    """Columns of the session the tasks need; in a class of its own, which dask does not search for keys."""

    columns: dict[str, NDArray[Any]]

    def dataset(self) -> xr.Dataset:
        return xr.Dataset({name: ("frame", values) for name, values in self.columns.items()})


def plan_sky(
    session: xr.Dataset,
    stars: Floats,
    summary: Floats,
    grid: Grid,
    *,
    use: Bools,
    shift: Floats,
    cell: int,
    superpixel: float | None,
) -> Sky:
    """Lattice of the canvas and the points near stars.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`, `height`, `width`.
    stars, summary
        Of a measurement.
    grid
        The canvas.
    use, shift
        Of a registration.
    cell, superpixel
        Side of a cell and of a superpixel (frame pixels); None for about 32 superpixels a side.
    """
    headers, heights, widths = (session[k].values for k in ("wcs", "height", "width"))
    used = np.flatnonzero(use)
    areas = [_central_area(str(headers[i]), int(heights[i]), int(widths[i]), grid) for i in used]
    area = float(np.nanmedian(areas)) if len(used) and np.isfinite(areas).any() else 1.0
    if superpixel is None:
        side = float(np.median(np.minimum(heights[used], widths[used]))) if len(used) else cell * SIDES
        superpixel = side / SIDES
    lattice = make_lattice(grid, cell=cell, area=area, superpixel=superpixel)
    x, y, radius = star_extents(
        session, stars, summary[:, 1], summary[:, 2], grid, shift=shift, use=use, area=area
    )
    return Sky(grid, use, shift, lattice, drop_stars(lattice, x, y, radius))


def _central_area(header: str, height: int, width: int, grid: Grid) -> float:
    """J at the centre: frame pixels a canvas pixel."""
    x, y = (
        0.5 * (width - 1) + np.array([-0.5, 0.5, 0.0, 0.0]),
        0.5 * (height - 1) + np.array([0.0, 0.0, -0.5, 0.5]),
    )
    cx, cy = sky_to_pixel(grid.wcs, *pixel_to_sky(parse_wcs(header), x, y))
    canvas = abs((cx[1] - cx[0]) * (cy[3] - cy[2]) - (cx[3] - cx[2]) * (cy[1] - cy[0]))
    return float(1.0 / canvas) if canvas > 0 else float("nan")


@one_blas_thread
def sample(
    cells: NDArray[np.float32], sky: Sky, index: int, header: str, shape: tuple[int, int], cell: int
) -> Sampled:
    """Superpixels of frame `index`; nothing where it is not used or not on the canvas."""
    if not sky.use[index] or not header:
        return Sampled(no_samples(), None)
    mapping = frame_map(header, shape, sky.shift[index], sky.grid)
    if mapping is None:
        return Sampled(no_samples(), None)
    return Sampled(sample_frame(np.asarray(cells)[0], shape, cell, mapping, sky.lattice, sky.dropped), mapping)


def _expected(session: xr.Dataset, frames: Ints) -> Floats:
    """Expect ln a of frames that differ in exposure only, up to a constant; 0 where that cannot be said."""
    exposure = session["exposure"].values[frames].astype(np.float64)
    units = session["units"].values[frames]
    counts = np.array(["/s" not in str(u).replace(" ", "").lower() for u in units], dtype=bool)
    known = np.isfinite(exposure) & (exposure > 0) & counts
    return -np.log(exposure) if known.all() and len(frames) else np.zeros(len(frames))


def solve(
    session: xr.Dataset,
    stars: Floats,
    summary: Floats,
    sky: Sky,
    sampled: list[Sampled],
    bands: tuple[str, ...],
    *,
    reason: NDArray[np.str_],
    order: int,
    clip: float,
) -> dict[str, NDArray[Any]]:
    """Scales, then backgrounds, band by band; the eager core of `normalize`.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`, `height`, `width`, `band`, `exposure`, `units`, `name`.
    stars, summary
        Of a measurement.
    sky
        Frames to use, where they lie.
    sampled
        Of every frame.
    bands
        To solve, each on its own.
    reason
        (frame,) why a frame was left out before.
    order, clip
        As in `normalize`.

    Returns
    -------
    dict
        Variables of the result of `normalize`.
    """
    out = _nothing(session.sizes["frame"], len(bands), order, noise=summary[:, 1], use=sky.use, reason=reason)
    matches = match_stars(session, stars, sky.grid, shift=sky.shift, use=sky.use, tolerance=MATCH_TOLERANCE)
    flux, error = (stars[matches.frame, matches.row, k] for k in (2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_flux, log_error = np.log(flux), error / flux
    bright = np.isfinite(log_flux) & (log_error < 1.0 / LEAST_SNR)
    band_of = session["band"].values
    placed = np.array([s.mapping is not None for s in sampled], dtype=bool)
    islands = 0
    for number, band in enumerate(bands):
        members = np.flatnonzero(sky.use & placed & (band_of == band))
        local = np.full(session.sizes["frame"], -1, dtype=np.int64)
        local[members] = np.arange(len(members))
        seen = bright & (local[matches.frame] >= 0)
        expected = _expected(session, members)
        scales = solve_scales(
            local[matches.frame[seen]],
            matches.object[seen],
            log_flux[seen],
            log_error[seen],
            frames=len(members),
            expected=expected,
            placement=_placement([sampled[i] for i in members]),
        )
        # Only departures from what exposures explain are suspicious.
        away = np.log(scales.scale) - (expected - expected.mean() if len(members) else expected)
        absurd = ~np.isfinite(away) | (np.abs(away) > np.log(SCALE_RANGE))
        for i in np.flatnonzero(absurd).tolist():
            out["use"][members[i]] = False
            out["reason"][members[i]] = (
                f"scale {np.exp(away[i]):.3g} from {scales.stars[i]} stars is outside "
                f"{1 / SCALE_RANGE:g}-{SCALE_RANGE:g} of the expected one"
            )
        good = ~absurd
        members = members[good]
        log_scale = np.log(scales.scale[good])
        group = scales.group[good]
        if absurd.any() and len(members):
            # The convention (mean of the group) was set with the frames that are gone.
            mean = np.bincount(group, weights=away[good]) / np.maximum(np.bincount(group), 1)
            log_scale = log_scale - mean[group]
        scale = np.exp(log_scale)
        out["mean_scale"][members] = scale
        out["scale_error"][members] = scale * scales.error[good]
        out["stars"][members] = scales.stars[good]
        solved = _surfaces([sampled[i] for i in members], scale, order=order, clip=clip)
        label = _by_size(solved.island)
        out["island"][members] = label + islands
        islands += int(label.max(initial=-1)) + 1
        out["residual_before"][members] = solved.residual_before
        out["residual_after"][members] = solved.residual_after
        out["rejected"][members] = solved.rejected
        out["inflation"][members] = solved.inflation
        out["prior_sigma"][number] = solved.prior_sigma
        out["noise_scale"][number] = solved.noise_scale
        at = surface.sample_positions()
        v, u = np.meshgrid(at, at, indexing="ij")
        for i, frame in enumerate(members.tolist()):
            mapping = sampled[frame].mapping
            if mapping is None:
                continue
            values = background.evaluate(solved.coefficients[i], u, v) / (mapping.area * scale[i])
            if not np.isfinite(values).all():
                out["use"][frame] = False
                out["reason"][frame] = "its background came out undefined: its WCS does not reach all of the frame"
                continue
            out["scale"][frame] = scale[i]
            out["offset"][frame] = surface.fit(values)
    return out


def _surfaces(sampled: list[Sampled], scale: Floats, *, order: int, clip: float) -> background.Surfaces:
    """Join the samples of a band's frames and solve."""
    counts = [len(s.samples) for s in sampled]
    frame = np.repeat(np.arange(len(sampled)), counts)

    def column(name: str, kind: Any) -> NDArray[Any]:
        return np.concatenate([np.empty(0, kind), *(getattr(s.samples, name) for s in sampled)])

    return background.solve_surfaces(
        frame,
        column("point", np.int64),
        column("value", np.float64) * scale[frame],
        column("variance", np.float64) * scale[frame] ** 2,
        column("u", np.float32),
        column("v", np.float32),
        frames=len(sampled),
        order=order,
        placement=_placement(sampled),
        clip=clip,
    )


def _placement(sampled: list[Sampled]) -> Floats:
    return np.array([s.mapping.placement for s in sampled if s.mapping is not None]).reshape(-1, 2, 3)


def _by_size(label: Ints) -> Ints:
    """Renumber islands, the one with most frames first."""
    sizes = np.bincount(label) if len(label) else np.zeros(0, np.int64)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[label]


def _nothing(
    frames: int, bands: int, order: int, *, noise: Floats, use: Bools, reason: NDArray[np.str_]
) -> dict[str, NDArray[Any]]:
    """Return scale 1 and offset 0 everywhere, nothing known."""
    nodes = surface.NODES + 2
    out: dict[str, NDArray[Any]] = {
        "scale": np.ones((frames, nodes, nodes)),
        "offset": np.zeros((frames, nodes, nodes)),
        "noise": np.asarray(noise, dtype=np.float64).copy(),
        "use": use.copy(),
        "reason": np.asarray(reason, dtype="<U200").copy(),
        "island": np.full(frames, NO_ISLAND, dtype=np.int64),
        "mean_scale": np.ones(frames),
        "scale_error": np.full(frames, np.nan),
        "stars": np.zeros(frames, dtype=np.int64),
        "residual_before": np.full(frames, np.nan),
        "residual_after": np.full(frames, np.nan),
        "rejected": np.zeros(frames),
        "inflation": np.ones(frames),
        "prior_sigma": np.full((bands, order + 1), np.nan),
        "noise_scale": np.full(bands, np.nan),
    }
    return out


_DIMENSIONS: dict[str, tuple[str, ...]] = {
    "scale": ("frame", "node_y", "node_x"),
    "offset": ("frame", "node_y", "node_x"),
    "prior_sigma": ("band", "term_order"),
    "noise_scale": ("band",),
}


@one_blas_thread
def _plan_task(
    table: _Table,
    stars: Floats,
    summary: Floats,
    use: Bools,
    shift: Floats,
    grid: Grid,
    cell: int,
    superpixel: float | None,
) -> Sky:
    stars, summary = np.asarray(stars), np.asarray(summary, dtype=np.float64)
    use = np.asarray(use, dtype=bool) & np.isin(summary[:, 6], (0.0, 3.0))
    return plan_sky(
        table.dataset(), stars, summary, grid, use=use, shift=np.asarray(shift), cell=cell, superpixel=superpixel
    )


@one_blas_thread
def _solve_task(
    table: _Table,
    stars: Floats,
    summary: Floats,
    sky: Sky,
    sampled: list[Sampled],
    registered: NDArray[np.str_],
    bands: list[str],
    order: int,
    clip: float,
) -> dict[str, NDArray[Any]]:
    summary = np.asarray(summary, dtype=np.float64)
    return solve(
        table.dataset(), np.asarray(stars), summary, sky, sampled, tuple(bands),
        reason=_reasons(registered, summary, sky.use), order=order, clip=clip,
    )  # fmt: skip


def _plain_task(
    summary: Floats, use: Bools, registered: NDArray[np.str_], bands: int, order: int
) -> dict[str, NDArray[Any]]:
    summary = np.asarray(summary, dtype=np.float64)
    use = np.asarray(use, dtype=bool) & np.isin(summary[:, 6], (0.0, 3.0))
    reason = _reasons(registered, summary, use)
    return _nothing(len(use), bands, order, noise=summary[:, 1], use=use, reason=reason)


def _reasons(registered: NDArray[np.str_], summary: Floats, use: Bools) -> NDArray[np.str_]:
    """Why frames are not used: as registration says, else as measurement says."""
    texts = []
    for given, status, used in zip(np.asarray(registered).astype(str), summary[:, 6], use, strict=True):
        known = {1: "no valid pixels", 2: "cannot be read"}.get(int(status) if np.isfinite(status) else -1, "")
        texts.append("" if used else given or known or "left out by the registration")
    return np.array(texts, dtype="<U200")


def _pick(result: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    return result[name]


def normalize_cost(
    session: xr.Dataset,
    measurement: xr.Dataset,
    registration: xr.Dataset,
    *,
    superpixel: float | None = None,
    order: int = 4,
    mode: str = "joint",
    **_: Any,
) -> Cost:
    """Cost of `normalize`: one unit; memory is samples, stars and the normal matrix."""
    n = session.sizes["frame"]
    if mode == "none":
        return Cost(work=np.array(n * 1e-3), read=np.array(0.0), memory=np.array(50e6), rate=1.0)
    heights, widths = (session[k].values.astype(np.float64) for k in ("height", "width"))
    cell = float(measurement.attrs.get("cell", 16))
    side = np.maximum(superpixel if superpixel is not None else np.minimum(heights, widths) / SIDES, cell)
    samples = float(np.sum(np.maximum(heights * widths / side**2, 1.0)))
    terms = len(background.ORDERS[order])
    largest = int(np.max(np.unique(session["band"].values, return_counts=True)[1], initial=0))
    unknowns = min(largest * terms, background.PRIOR_UNKNOWNS)
    stars = 8.0 * n * measurement.sizes["star"] * measurement.sizes["star_quantity"]
    cells = 4.0 * float(np.prod([measurement.sizes[d] for d in ("cell_y", "cell_x", "cell_quantity")]))
    grid = Grid.from_attrs(registration.attrs)
    lattice = grid.shape[0] * grid.shape[1] / cell**2
    memory = (SAMPLE_BYTES + TERM_BYTES * terms) * samples + 16.0 * unknowns**2 + 3 * stars
    return Cost(
        work=np.array(n * 1e-2),
        read=np.array(n * cells + stars),
        memory=np.array(memory + 6 * cells + 6.0 * lattice + 100e6),
        rate=0.5,
    )


@register(version=1, unit=(), cost=normalize_cost)
def normalize(
    session: xr.Dataset,
    measurement: xr.Dataset,
    registration: xr.Dataset,
    *,
    mode: Literal["joint", "none"] = "joint",
    order: Annotated[int, Param(low=0, high=background.HIGHEST_ORDER)] = 4,
    superpixel: Annotated[float | None, Param(unit="px", low=4, high=4096)] = None,
    clip: Annotated[float, Param(unit="σ", low=2, high=100)] = background.TUKEY_LIMIT,
) -> xr.Dataset:
    """Scale and background of every frame, all overlaps at once: s = J·a·(d − b).

    Parameters
    ----------
    session
        Table over `frame` from `ingest`.
    measurement
        From `measure`, of the same frames.
    registration
        From `register`, of the same frames.
    mode
        joint: scales from all matched stars, backgrounds from all overlaps, one solve each a band;
        none: frames as they are.
    order
        Degree of the background surfaces in detector coordinates: 0 constants, 1 planes, 2 quadratics, up to 4.
        How large each degree is, is measured: one that is not there stays small.
    superpixel
        Side of the sky samples in frame pixels (a multiple of the measurement's cell); none takes a 32nd of a
        frame's shorter side.
    clip
        Samples that disagree with the other frames by more than this (robust σ) do not count.

    Returns
    -------
    xarray.Dataset
        Lazy, one task for the solve and one a frame for its samples. (frame, node_y, node_x): `scale` a,
        `offset` b (frame units) as coefficients of `surface`; (frame): `noise`, `use`, `reason`, `island`
        (-1: not used), `mean_scale`, `scale_error`, `stars`, `residual_before`, `residual_after` (robust rms
        distance of superpixels to the mean of the other frames, canvas units), `rejected` (part of the samples),
        `inflation` (≫ 1: the frame disagrees with all others: clouds, reflections); (band, term_order):
        `prior_sigma`, measured spread of the surfaces' coefficients (canvas units); (band): `noise_scale`.

    Raises
    ------
    DataError
        If the tables are not of the same frames.

    Notes
    -----
    Conventions: the mean of ln a (beyond exposure time) is 0 over frames connected by stars; the mean constant of
    the backgrounds is 0 over each island, so the mosaic keeps the mean sky.
    """
    for name, other in (("measurement", measurement), ("registration", registration)):
        if other.sizes["frame"] != session.sizes["frame"] or not np.array_equal(
            other["frame"].values, session["frame"].values
        ):
            raise DataError(
                f"normalize: the {name} is not of the session's {session.sizes['frame']} frames; run it again"
            )
    grid = Grid.from_attrs(registration.attrs)
    n = session.sizes["frame"]
    in_canvas = registration["in_canvas"].values.astype(bool)
    bands = tuple(np.unique(session["band"].values[in_canvas]).astype(str).tolist())
    columns = ("wcs", "height", "width", "band", "exposure", "units", "name")
    table = _Table({name: session[name].values for name in columns})
    lazy = {
        name: da.asarray(source[name].data)
        for source, names in (
            (measurement, ("stars", "cells", "summary")),
            (registration, ("use", "shift", "reason")),
        )
        for name in names
    }
    cell = int(measurement.attrs["cell"])
    token = tokenize("normalize", table.columns, lazy, grid, cell, mode, order, superpixel, clip)
    solved = f"normalize-{token}"
    tasks: dict[Any, Any]
    dependencies, tasks = _tasks(
        table, lazy, grid, bands, cell, solved, mode=mode, order=order, superpixel=superpixel, clip=clip
    )
    base = HighLevelGraph.from_collections(solved, tasks, dependencies=dependencies)
    empty = np.zeros(0)
    shapes = _nothing(0, len(bands), order, noise=empty, use=empty.astype(bool), reason=empty.astype(str))
    variables: dict[str, Any] = {}
    for name, example in shapes.items():
        dims = _DIMENSIONS.get(name, ("frame",))
        shape = (n, *example.shape[1:]) if dims[0] == "frame" else example.shape
        layer = f"normalize-{name}-{token}"
        picked: dict[Any, Any] = {(layer, *(0 for _ in shape)): (_pick, solved, name)}
        graph = HighLevelGraph({**base.layers, layer: picked}, {**base.dependencies, layer: {solved}})
        array = da.Array(graph, layer, chunks=tuple((length,) for length in shape), dtype=example.dtype)
        variables[name] = (dims, array)
    return xr.Dataset(
        variables,
        coords={"frame": session["frame"].values, "band": np.array(bands, dtype=str)},
        attrs={"mode": mode, "order": order, "least_stars": LEAST_STARS},
    )


def _tasks(
    table: _Table,
    lazy: dict[str, da.Array],
    grid: Grid,
    bands: tuple[str, ...],
    cell: int,
    solved: str,
    *,
    mode: str,
    order: int,
    superpixel: float | None,
    clip: float,
) -> tuple[list[Any], dict[Any, Any]]:
    """Arrays needed, and the tasks: stars of all → one a frame with its cells only → one solve (key `solved`).

    By hand, since dask's `delayed` would give each frame's task a copy of the whole graph.
    """
    whole = {name: lazy[name].rechunk(-1) for name in ("summary", "use", "shift", "reason")}
    cells, stars = lazy["cells"].rechunk((1, -1, -1, -1)), lazy["stars"].rechunk((1, -1, -1))

    def key(name: str) -> tuple[Any, ...]:
        return (whole[name].name, *(0 for _ in whole[name].shape))

    if mode == "none":
        plain = (_plain_task, key("summary"), key("use"), key("reason"), len(bands), order)
        return [whole[n] for n in ("summary", "use", "reason")], {solved: plain}
    sky = f"{solved}-sky"
    lists = [(f"{solved}-stars", i) for i in range(stars.shape[0])]
    tasks: dict[Any, Any] = {name: (_without_padding, (stars.name, name[1], 0, 0)) for name in lists}
    joined = f"{solved}-all-stars"
    tasks[joined] = (_join_stars, lists)
    tasks[sky] = (
        _plan_task, table, joined, key("summary"), key("use"), key("shift"), grid, cell, superpixel,
    )  # fmt: skip
    sampled: list[tuple[str, int]] = []
    heights, widths, headers = (table.columns[k] for k in ("height", "width", "wcs"))
    for i in range(len(headers)):
        sampled.append((f"{solved}-sample", i))
        shape = (int(heights[i]), int(widths[i]))
        tasks[sampled[-1]] = (sample, (cells.name, i, 0, 0, 0), sky, i, str(headers[i]), shape, cell)
    tasks[solved] = (
        _solve_task, table, joined, key("summary"), sky, sampled, key("reason"), list(bands), order, clip,
    )  # fmt: skip
    return [*whole.values(), cells, stars], tasks


def _without_padding(stars: Floats) -> Floats:
    """The stars of one frame; most frames have far fewer than there is room for."""
    return np.array(stars[0, : np.count_nonzero(np.isfinite(stars[0, :, 0]))])


def _join_stars(lists: list[Floats]) -> Floats:
    """One table (frame, star, quantity), no longer than the longest list needs."""
    out = np.full((len(lists), max((len(s) for s in lists), default=0), lists[0].shape[-1]), np.nan)
    for table, stars in zip(out, lists, strict=True):
        table[: len(stars)] = stars
    return out


def describe_islands(session: xr.Dataset, normalization: xr.Dataset) -> list[dict[str, Any]]:
    """Groups of frames that overlaps connect, largest first within a band.

    Parameters
    ----------
    session
        Table over `frame` with `name` and `band`.
    normalization
        From `normalize` (its `island` is computed).

    Returns
    -------
    list of dict
        `island`, `band`, `count`, `frames` (names).
    """
    label = np.asarray(normalization["island"].values)
    out = []
    for island in np.unique(label[label >= 0]):
        here = np.flatnonzero(label == island)
        names = [str(session["name"].values[i]) for i in here]
        out.append(
            {
                "island": int(island),
                "band": str(session["band"].values[here[0]]),
                "count": len(names),
                "frames": names,
            }
        )
    return out
