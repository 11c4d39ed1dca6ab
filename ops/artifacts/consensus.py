"""What the frames over each place agree on: the middle of their block means, and its neighbours by rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.arrays import array_spec
from skyloom.ops.artifacts.coarse import (
    STEP,
    Placement,
    Shrunken,
    Window,
    coarse_nodes,
    on_coarse_canvas,
    shape_in,
)
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid
from skyloom.ops.integration.coordinates import NODE_STEP
from skyloom.ops.integration.overlaps import frame_spec, index_frames
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.tiles import Dependencies
from skyloom.ops.unit_keys import digest, known

QUARTILES = 6
"""From this number of samples on the quartiles say how much the frames scatter."""
NORMAL_QUARTILES = 1.349
"""Distance of the quartiles of a normal distribution (σ)."""
RATE = 40.0
"""Mpixel·frames a second, counted in frame pixels."""
_PLANES = ("low", "middle", "high", "spread", "count")


@njit(nogil=True, cache=True)
def middle_ranks(stack: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Fill (low, middle, high, spread, count) of each place of a stack (frame, row, column), NaN = no data.

    Of an odd number of samples low and high are the neighbours of the median by rank, of an even number they are
    the two in the middle: enough for the median without any one of the samples.
    """
    frames, rows, columns = stack.shape
    values = np.empty(frames, dtype=np.float32)
    for y in range(rows):
        for x in range(columns):
            n = 0
            for i in range(frames):
                value = stack[i, y, x]
                if np.isfinite(value):
                    values[n] = value
                    n += 1
            out[4, y, x] = n
            if n < 2:
                for k in range(4):
                    out[k, y, x] = np.nan
                continue
            part = values[:n]
            part.sort()
            half = n // 2
            if n % 2:
                out[0, y, x], out[1, y, x], out[2, y, x] = part[half - 1], part[half], part[half + 1]
            else:
                out[0, y, x], out[2, y, x] = part[half - 1], part[half]
                out[1, y, x] = np.float32(0.5) * (part[half - 1] + part[half])
            out[3, y, x] = np.nan
            if n >= QUARTILES:
                q = n // 4
                out[3, y, x] = (part[n - 1 - q] - part[q]) / np.float32(NORMAL_QUARTILES)


@dataclass(frozen=True)
class _Tile:
    grid: Grid
    window: Window
    frames: tuple[Shrunken, ...]


def _consensus_tile(tile: _Tile, *solved: NDArray[Any]) -> NDArray[np.float32]:
    placed = Placement.of(*solved)
    rows, columns = tile.window
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    stack = np.empty((len(tile.frames), *shape), dtype=np.float32)
    nodes = coarse_nodes(tile.grid, rows, columns)
    used = 0
    for shrunken in tile.frames:
        if placed.use[shrunken.frame.index]:
            used += on_coarse_canvas(shrunken, tile.grid, tile.window, nodes, placed, stack[used])
    out = np.empty((len(_PLANES), *shape), dtype=np.float32)
    middle_ranks(stack[:used], out)
    return out


def _plane(planes: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    return np.asarray(planes[k][None])


def _nothing(rows: int, columns: int, k: int) -> NDArray[np.float32]:
    return np.full((1, rows, columns), 0.0 if _PLANES[k] == "count" else np.nan, dtype=np.float32)


def coarse_canvas(registration: xr.Dataset, tile: int) -> Grid:
    """Canvas cut into tiles that hold whole blocks."""
    if tile % NODE_STEP:
        raise ConfigError(f"tile = {tile} should be a multiple of {NODE_STEP}")
    return Grid.from_attrs(registration.attrs).retile(tile)


def check_same_frames(session: xr.Dataset, node: str, **others: xr.Dataset) -> None:
    """Refuse results of other frames.

    Raises
    ------
    DataError
        If they are.
    """
    for name, other in others.items():
        if not np.array_equal(other["frame"].values, session["frame"].values):
            raise DataError(
                f"{node}: the {name} is not of the session's {session.sizes['frame']} frames; make both from the "
                "same session"
            )


def _cost(
    session: xr.Dataset, shrunken: xr.Dataset, registration: xr.Dataset, normalization: xr.Dataset, *, tile: int
) -> Cost:
    grid = coarse_canvas(registration, tile)
    bands, pieces = index_frames(session, registration, grid, "auto")
    work, read, memory = np.zeros((3, len(bands), *grid.tiles))
    for key, found in pieces.items():
        shape = shape_in(tuple(s.stop - s.start for s in grid.window(*key[1:])), STEP)
        work[key] = sum(p.area for p in found) / 1e6 + 1e-3 * len(found)
        read[key] = 4.0 * sum(p.window for p in found) / STEP**2
        windows = 8.0 * max(p.window for p in found) / STEP**2
        memory[key] = 4.0 * shape[0] * shape[1] * (len(found) + 2 * len(_PLANES)) + windows + 1e6
    return Cost(work=work, read=read, memory=memory, rate=RATE)


def _keys(
    session: xr.Dataset, shrunken: xr.Dataset, registration: xr.Dataset, normalization: xr.Dataset, *, tile: int
) -> NDArray[np.str_]:
    use, shift = known(registration, "use", "shift")
    normalized, *solved = known(normalization, "use", "scale", "offset", "noise")
    placed = Placement.of(use, shift, normalized, *solved)
    grid = coarse_canvas(registration, tile)
    bands, pieces = index_frames(session, registration, grid, "auto")
    columns = [session[v].values.tolist() for v in ("frame", "wcs", "height", "width")]
    frames = [
        digest(*row, *(a[i] for a in (shift, *solved))) if placed.use[i] else ""
        for i, row in enumerate(zip(*columns, strict=True))
    ]
    keys = np.full((len(bands), *grid.tiles), "", dtype="<U16")
    for (band, ty, tx), found in pieces.items():
        over = [frames[p.frame] for p in found if frames[p.frame]]
        keys[band, ty, tx] = digest(grid.lattice, grid.place(*grid.window(ty, tx)), over)
    return keys


def solved_arguments(
    registration: xr.Dataset, normalization: xr.Dataset, dependencies: Dependencies
) -> Sequence[Any]:
    """What `Placement.of` takes, for a task."""
    return [
        *(dependencies.argument(registration[v]) for v in ("use", "shift")),
        *(dependencies.argument(normalization[v]) for v in ("use", "scale", "offset", "noise")),
    ]


@register(version=1, unit=("band", "y", "x"), cost=_cost, keys=_keys)
def consensus(
    session: xr.Dataset,
    shrunken: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    *,
    tile: Annotated[int, Param(unit="px", low=32, high=16384)] = 1024,
) -> xr.Dataset:
    """Find what the frames over each place agree on, in blocks of 4 × 4 canvas pixels.

    Parameters
    ----------
    session
        Frames (`ingest`).
    shrunken
        Their block means (`shrink`).
    registration
        Canvas and corrections of position (`register`).
    normalization
        Scale, offset and noise of each frame (`normalize`).
    tile
        Side of a tile of the canvas, a multiple of 32; the result does not depend on it. Change it to less where
        the plan says that a task does not fit the memory.

    Returns
    -------
    xarray.Dataset
        Over (band, y, x), y and x counting blocks, lazy, float32, a block a tile: `middle`, the median over
        frames; `low` and `high`, of an odd number of frames the median's neighbours by rank, else the two in the
        middle; `spread`, robust scatter of the frames (from six frames on); all in canvas units; `count`, frames.
        NaN where fewer than two are. Attribute `step`: canvas pixels a block.

    Raises
    ------
    ConfigError
        If `tile` is no multiple of 32.
    DataError
        If the tables are not of the same frames.

    Notes
    -----
    Holds all frames over a tile at a sixteenth of its pixels.
    """
    check_same_frames(session, "consensus", shrunken=shrunken, registration=registration)
    grid = coarse_canvas(registration, tile)
    bands, pieces = index_frames(session, registration, grid, "auto")
    dependencies = Dependencies()
    solved = solved_arguments(registration, normalization, dependencies)
    sources = [array_spec(shrunken, "mean", frame=i) for i in range(session.sizes["frame"])]
    specs = [Shrunken(frame_spec(session, i), s) for i, s in enumerate(sources)]
    token = tokenize(
        "consensus", [repr(s) for s in specs], grid, sorted(pieces), [a.name for a in dependencies.arrays],
        [repr(a) for a in solved],
    )  # fmt: skip
    base = f"consensus-tile-{token}"
    tasks: dict[Any, Any] = {}
    for (band, ty, tx), found in pieces.items():
        rows, columns = (slice(s.start // STEP, -(-s.stop // STEP)) for s in grid.window(ty, tx))
        work = _Tile(grid, (rows, columns), tuple(specs[p.frame] for p in found))
        tasks[base, band, ty, tx] = (_consensus_tile, work, *solved)
    shared = HighLevelGraph.from_collections(base, tasks, dependencies=dependencies.arrays)
    sizes = tuple(tuple(-(-n // STEP) for n in axis) for axis in grid.chunks)
    variables = {}
    for k, name in enumerate(_PLANES):
        key = f"consensus-{name}-{token}"
        layer: dict[Any, Any] = {
            (key, band, ty, tx): (_plane, (base, band, ty, tx), k)
            if (band, ty, tx) in pieces
            else (_nothing, rows, columns, k)
            for band in range(len(bands))
            for ty, rows in enumerate(sizes[0])
            for tx, columns in enumerate(sizes[1])
        }
        graph = HighLevelGraph({**shared.layers, key: layer}, {**shared.dependencies, key: {base}})
        array = da.Array(graph, key, chunks=((1,) * len(bands), *sizes), dtype=np.float32)
        variables[name] = (("band", "y", "x"), array)
    return xr.Dataset(variables, coords={"band": np.asarray(bands, dtype=str)}, attrs={"step": STEP})
