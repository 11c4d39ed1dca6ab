"""From frames to the canvas: resample, normalize, reject and average, a tile at a time, in one task each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.errors import CapacityError, ConfigError, DataError
from skyloom.ops.footprints import EDGE_POINTS, footprint, tiles_touched
from skyloom.ops.frames import open_source
from skyloom.ops.grid import Grid
from skyloom.ops.integration.reject import HALO, PIXEL_BYTES, Combined, Method, Rejection, combine
from skyloom.ops.integration.resample import (
    NODE_STEP,
    REACH,
    CanvasNodes,
    CoordinateGrid,
    central_jacobian,
    coordinate_grid,
    kernel_noise_factor,
    resample,
)
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.unit_keys import digest, known

Weighting = Literal["inverse_variance", "none"]

SHIFT_MARGIN = 64.0
"""Frame pixels a registration may move a frame: tiles list the frames that could reach them."""
MIN_STRIP = 32
"""Least rows of a tile computed at a time; less would mostly compute halo."""
SAMPLE_BYTES = 4 + 1
"""Bytes of a sample of the stack: its value and its taper code."""
RESULT_BYTES = 3 * 4 + 3 * 2
"""Bytes of a finished pixel."""
SOURCE_BYTES = 4 + 4
"""Bytes of a frame pixel while it is read: float32 and what it was decoded from. Calibrated frames take more."""
RATE = 9.0
"""Mpixel·frames a second of each of two tasks at a time: resampling 30, rejection and mean 50, writing 60."""

_DTYPES: Mapping[str, Any] = {
    "image": np.float32,
    "weight": np.float32,
    "variance": np.float32,
    "count": np.uint16,
    "rejected_low": np.uint16,
    "rejected_high": np.uint16,
}
_CALIBRATION_KINDS = ("dark", "flat", "flatdark", "bias")


@dataclass(frozen=True)
class FrameSpec:
    """What a tile's task must know of a frame."""

    index: int
    name: str
    source: str
    wcs: str
    shape: tuple[int, int]


@dataclass(frozen=True)
class Options:
    """How tiles are integrated."""

    rejection: Rejection
    taper: float
    weighting: Weighting
    task_memory: float
    source_bytes: float
    """Bytes a frame pixel takes while it is read."""


@dataclass(frozen=True)
class TileSpec:
    """The work of one task."""

    grid: Grid
    index: tuple[int, int]
    frames: tuple[FrameSpec, ...]
    options: Options


@dataclass(frozen=True)
class Solution:
    """Per-frame results of registration and normalization, arrays over all frames of the session."""

    use: NDArray[np.bool_]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    noise: NDArray[np.float64]


@dataclass(frozen=True)
class _Piece:
    """A frame over a tile, as far as the headers tell."""

    frame: int
    area: float
    """Overlap (canvas pixels)."""
    window: float
    """Pixels of the frame's window that holds the overlap."""


def _canvas(registration: xr.Dataset, tile: int) -> Grid:
    if tile % NODE_STEP:
        raise ConfigError(f"tile = {tile} should be a multiple of {NODE_STEP}")
    return Grid.from_attrs(registration.attrs).retile(tile)


def _frame_spec(session: xr.Dataset, index: int) -> FrameSpec:
    return FrameSpec(
        index,
        str(session["name"].values[index]),
        str(session["source"].values[index]),
        str(session["wcs"].values[index]),
        (int(session["height"].values[index]), int(session["width"].values[index])),
    )


def _index(
    session: xr.Dataset, registration: xr.Dataset, grid: Grid
) -> tuple[list[str], dict[tuple[int, int, int], list[_Piece]]]:
    """Bands, and the frames that may reach each (band, ty, tx), from headers alone."""
    kinds = session["kind"].values
    wanted = registration["in_canvas"].values.astype(bool) & ~np.isin(kinds, _CALIBRATION_KINDS)
    wanted &= session["wcs"].values != ""
    names = session["band"].values
    bands = sorted({str(b) for b in names[wanted]})
    found: dict[tuple[int, int, int], list[_Piece]] = {}
    for index in np.flatnonzero(wanted):
        spec = _frame_spec(session, int(index))
        polygon = footprint(spec.wcs, spec.shape, grid)
        if not np.isfinite(polygon).all():
            continue
        to_canvas, margin = _frame_axes(polygon, spec.shape)
        for (ty, tx), (rows, columns) in tiles_touched(polygon, grid, margin=margin):
            key = (bands.index(str(names[index])), ty, tx)
            piece = _piece(int(index), polygon, to_canvas, spec.shape, rows, columns)
            found.setdefault(key, []).append(piece)
    return bands, dict(sorted(found.items()))


def _frame_axes(polygon: NDArray[np.float64], shape: tuple[int, int]) -> tuple[NDArray[np.float64], float]:
    """Mean linear map from frame to canvas pixels (2, 2), and the margin in canvas pixels that shifts need."""
    side = EDGE_POINTS - 1
    along_x = (polygon[side] - polygon[0]) / shape[1]
    along_y = (polygon[3 * side] - polygon[0]) / shape[0]
    matrix = np.stack([along_x, along_y], axis=1)
    return matrix, 1.0 + SHIFT_MARGIN * float(np.linalg.norm(matrix, 2))


def _piece(
    index: int, polygon: NDArray[np.float64], to_canvas: NDArray[np.float64], shape: tuple[int, int],
    rows: slice, columns: slice,
) -> _Piece:  # fmt: skip
    clipped = _clip(polygon, rows, columns)
    if len(clipped) < 3:
        return _Piece(index, 0.0, 0.0)
    x, y = clipped.T
    area = 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
    # The window holds whole cells of the coordinate grid and the kernel's reach.
    in_frame = clipped @ np.linalg.inv(to_canvas).T
    extent = np.ptp(in_frame, axis=0) + NODE_STEP * np.abs(np.linalg.inv(to_canvas)).sum(axis=1) + 2 * REACH
    return _Piece(index, area, float(np.prod(np.minimum(extent, shape[::-1]))))


def _clip(polygon: NDArray[np.float64], rows: slice, columns: slice) -> NDArray[np.float64]:
    """Part of a polygon inside a window (Sutherland-Hodgman)."""
    sides = (
        (0, columns.start - 0.5, 1),
        (0, columns.stop - 0.5, -1),
        (1, rows.start - 0.5, 1),
        (1, rows.stop - 0.5, -1),
    )
    points = polygon
    for axis, bound, sign in sides:
        kept = []
        for a, b in zip(np.roll(points, 1, axis=0), points, strict=True):
            inside_a, inside_b = sign * (a[axis] - bound) >= 0, sign * (b[axis] - bound) >= 0
            if inside_a != inside_b:
                kept.append(a + (b - a) * ((bound - a[axis]) / (b[axis] - a[axis])))
            if inside_b:
                kept.append(b)
        if not kept:
            return np.empty((0, 2))
        points = np.asarray(kept)
    return points


def _strip_bytes(depth: int, rows: int, columns: int) -> float:
    pixels = (rows + 2 * HALO) * (columns + 2 * HALO)
    return float(pixels * (depth * SAMPLE_BYTES + PIXEL_BYTES))


def _strip_rows(
    grid: Grid, index: tuple[int, ...], pieces: list[_Piece], task_memory: float, source_bytes: float
) -> tuple[int, float]:
    """Rows to compute at a time, and the task's peak of memory (bytes).

    Raises
    ------
    CapacityError
        If not even `MIN_STRIP` rows fit.
    """
    window = grid.window(index[0], index[1])
    rows, columns = (s.stop - s.start for s in window)
    depth = len(pieces)
    source = source_bytes * max(p.window for p in pieces)
    result = RESULT_BYTES * rows * columns
    for strips in range(1, -(-rows // MIN_STRIP) + 1):
        height = -(-rows // strips)
        peak = (
            result
            + source * min(1.0, (height + 2 * HALO + NODE_STEP) / rows)
            + _strip_bytes(depth, height, columns)
        )
        if peak <= task_memory:
            return height, peak
    raise CapacityError(
        f"tile {index[0]}, {index[1]} has {depth} frames and needs {peak / 2**20:.0f} MiB even in strips of "
        f"{height} rows, a task may take {task_memory / 2**20:.0f} MiB; raise the memory limit (--memory) or make "
        f"tile = {grid.tile} smaller"
    )


def _source_bytes(session: xr.Dataset) -> float:
    return float(session.attrs.get("source_bytes", SOURCE_BYTES))


def _cost(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    *,
    tile: int = 1024,
    task_memory: float = 2.0**30,
    **parameters: Any,
) -> Cost:
    """Cost of each tile of each band, from headers alone; `read` counts pixels as float32."""
    grid = _canvas(registration, tile)
    bands, pieces = _index(session, registration, grid)
    work, read, memory = np.zeros((3, len(bands), *grid.tiles))
    for key, found in pieces.items():
        # A frame within the margin only still costs its look-up.
        work[key] = sum(p.area for p in found) / 1e6 + 1e-3 * len(found)
        read[key] = 4.0 * sum(p.window for p in found)
        memory[key] = _strip_rows(grid, key[1:], found, task_memory, _source_bytes(session))[1]
    return Cost(work=work, read=read, memory=memory, rate=RATE)


def _keys(
    session: xr.Dataset, registration: xr.Dataset, normalization: xr.Dataset, *, tile: int, **parameters: Any
) -> NDArray[np.str_]:
    """What each tile depends on: its place on the sky, and the frames over it with all that was solved of them."""
    use, shift = known(registration, "use", "shift")
    normalized, *solved = known(normalization, "use", "scale", "offset", "noise")
    grid = _canvas(registration, tile)
    bands, pieces = _index(session, registration, grid)
    columns = [session[v].values.tolist() for v in ("frame", "wcs", "height", "width")]
    frames = [
        digest(*row, *(a[i] for a in (shift, *solved))) if use[i] and normalized[i] else ""
        for i, row in enumerate(zip(*columns, strict=True))
    ]
    keys = np.full((len(bands), *grid.tiles), "", dtype="<U16")
    for (band, ty, tx), found in pieces.items():
        rows, columns_ = grid.window(ty, tx)
        # At the edges of the canvas rejection does not see beyond.
        wide = grid.place(_widen(rows, grid.shape[0]), _widen(columns_, grid.shape[1]))
        over = [frames[p.frame] for p in found if frames[p.frame]]
        keys[band, ty, tx] = digest(grid.lattice, grid.place(rows, columns_), wide, over)
    return keys


@register(version=1, unit=("band", "y", "x"), cost=_cost, keys=_keys)
def integrate(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    *,
    rejection: Method = "winsorized",
    low: Annotated[float, Param(unit="sigma", low=0.5, high=1000)] = 4.0,
    high: Annotated[float, Param(unit="sigma", low=0.5, high=1000)] = 3.0,
    grow: bool = True,
    taper: Annotated[float, Param(low=0.0, high=0.5)] = 0.03,
    weighting: Weighting = "inverse_variance",
    tile: Annotated[int, Param(unit="px", low=32, high=16384)] = 1024,
    task_memory: Annotated[float, Param(unit="byte", low=1e6, execution=True)] = 2.0**30,
) -> xr.Dataset:
    """Resample, normalize, reject outliers and average all frames onto the canvas.

    Parameters
    ----------
    session
        Frames (`ingest`).
    registration
        Canvas and corrections of position (`register`).
    normalization
        Scale, offset and noise of each frame (`normalize`).
    rejection
        How outliers are found where 8 frames or more overlap: none, sigma (kappa-sigma about the median) or
        winsorized (PixInsight's winsorized sigma). With fewer frames both compare with the frames' noise.
    low
        Limit below the centre; samples beyond it are rejected.
    high
        Limit above the centre.
    grow
        Reject the neighbours of strong outliers from 2 sigma on: the wings of trails, ringing around cosmic rays.
    taper
        Width of the band along a frame's edges in which its weight falls to nothing, as a fraction of the
        shorter side.
    weighting
        inverse_variance: frames weigh 1 / noise² in canvas units; none: all the same.
    tile
        Side of a tile of the canvas, a multiple of 32.
    task_memory
        Memory one tile may take; tiles with many frames are computed in strips to stay below it.

    Returns
    -------
    xarray.Dataset
        `image, weight, variance` (float32, NaN = no data) and `count, rejected_low, rejected_high` (uint16)
        over (band, y, x), lazy, one block a tile. Attributes: the grid, `units`, `kernel_noise_factor`.

    Raises
    ------
    ConfigError
        If `tile` is no multiple of 32.
    CapacityError
        If `task_memory` cannot hold a strip of 32 rows of the deepest tile.
    DataError
        While computing: a frame that cannot be read, has no noise estimate, or is shifted by more than 64 pixels.

    Notes
    -----
    s = J·a·(d - b), J = area of a canvas pixel in frame pixels: the sum of a star over the canvas is a times its
    sum over the frame. Noise is carried as if pixels were independent: Lanczos-3 makes the pixel rms smaller by
    sqrt(`kernel_noise_factor`) and neighbours correlated, so that sums over areas have the noise `variance` says.
    """
    options = Options(
        Rejection(rejection, low=low, high=high, grow=2.0 if grow else None),
        taper,
        weighting,
        float(task_memory),
        _source_bytes(session),
    )
    grid = _canvas(registration, tile)
    bands, pieces = _index(session, registration, grid)
    for key, found in pieces.items():
        _strip_rows(grid, key[1:], found, options.task_memory, options.source_bytes)
    dependencies, solution_task = _solution_task(session, registration, normalization, options)
    token = tokenize(
        [session[v].values.tolist() for v in ("frame", "name", "source", "wcs", "height", "width", "band")],
        grid, sorted(pieces), repr(options), [a.name for a in dependencies], repr(solution_task[1:]),
    )  # fmt: skip
    solution_key = f"integrate-solution-{token}"
    tiles_name = f"integrate-tile-{token}"
    tiles: dict[Any, Any] = {solution_key: solution_task}
    specs = [_frame_spec(session, i) for i in range(session.sizes["frame"])]
    for (band, ty, tx), found in pieces.items():
        spec = TileSpec(grid, (ty, tx), tuple(specs[p.frame] for p in found), options)
        tiles[tiles_name, band, ty, tx] = (integrate_tile, spec, solution_key)
    base = HighLevelGraph.from_collections(tiles_name, tiles, dependencies=dependencies)
    chunks = ((1,) * len(bands), *grid.chunks)
    variables = {}
    for name, dtype in _DTYPES.items():
        layer_name = f"integrate-{name}-{token}"
        layer: dict[Any, Any] = {}
        for band in range(len(bands)):
            for ty, rows in enumerate(chunks[1]):
                for tx, columns in enumerate(chunks[2]):
                    if (band, ty, tx) in pieces:
                        layer[layer_name, band, ty, tx] = (_pick, (tiles_name, band, ty, tx), name)
                    else:
                        layer[layer_name, band, ty, tx] = (_fill, rows, columns, name)
        graph = HighLevelGraph({**base.layers, layer_name: layer}, {**base.dependencies, layer_name: {tiles_name}})
        array = da.Array(graph, layer_name, chunks=chunks, dtype=dtype)
        variables[name] = (("band", "y", "x"), array)
    units = {str(u) for u in session["units"].values} - {""}
    attrs = {
        **grid.to_attrs(),
        "units": units.pop() if len(units) == 1 else "adu",
        "kernel_noise_factor": round(kernel_noise_factor(), 4),
    }
    return xr.Dataset(variables, coords={"band": np.asarray(bands, dtype=str)}, attrs=attrs)


def _solution_task(
    session: xr.Dataset, registration: xr.Dataset, normalization: xr.Dataset, options: Options
) -> tuple[list[Any], tuple[Any, ...]]:
    """Dask arrays needed, and the task that gathers the per-frame solution from them."""
    dependencies: list[Any] = []

    def argument(variable: xr.DataArray) -> Any:
        data = variable.data
        if not isinstance(data, da.Array):
            return np.asarray(data)
        whole = data.rechunk(-1)
        dependencies.append(whole)
        return (whole.name, *(0 for _ in whole.shape))

    arguments = [
        argument(registration["use"]), argument(registration["shift"]), argument(normalization["use"]),
        argument(normalization["scale"]), argument(normalization["offset"]), argument(normalization["noise"]),
    ]  # fmt: skip
    needs_noise = options.weighting == "inverse_variance" or options.rejection.method != "none"
    names = _Names(tuple(str(n) for n in session["name"].values))
    return dependencies, (_solution, names, needs_noise, *arguments)


@dataclass(frozen=True)
class _Names:
    """Names of frames; in a class of its own, which dask does not search for keys."""

    names: tuple[str, ...]


def _solution(
    names: _Names,
    needs_noise: bool,
    registered: NDArray[np.bool_],
    shift: NDArray[np.float64],
    normalized: NDArray[np.bool_],
    scale: NDArray[np.float64],
    offset: NDArray[np.float64],
    noise: NDArray[np.float64],
) -> Solution:
    use = np.asarray(registered, dtype=bool) & np.asarray(normalized, dtype=bool)
    for index in np.flatnonzero(use):
        name = names.names[index]
        distance = float(np.hypot(*shift[index]))
        if not distance <= SHIFT_MARGIN:
            raise DataError(
                f"integrate: {name} is shifted by {distance:.1f} px, more than the {SHIFT_MARGIN:.0f} px allowed: "
                "correct its WCS or leave the frame out"
            )
        if needs_noise and not (np.isfinite(noise[index]) and noise[index] > 0):
            raise DataError(
                f"integrate: {name} has no noise estimate ({noise[index]}): leave the frame out, or use "
                "weighting none and rejection none"
            )
        if not (np.isfinite(scale[index]).all() and np.isfinite(offset[index]).all()):
            raise DataError(f"integrate: the normalization of {name} is not finite: leave the frame out")
    return Solution(use, np.asarray(shift), np.asarray(scale), np.asarray(offset), np.asarray(noise))


def integrate_tile(spec: TileSpec, solution: Solution) -> Combined:
    """All pixels of one tile of one band.

    Raises
    ------
    DataError
        If a frame cannot be read; the message names it.
    """
    grid, options = spec.grid, spec.options
    rows, columns = grid.window(*spec.index)
    result = Combined.empty((rows.stop - rows.start, columns.stop - columns.start))
    wide_rows, wide_columns = _widen(rows, grid.shape[0]), _widen(columns, grid.shape[1])
    nodes = CanvasNodes.around(grid, wide_rows, wide_columns)
    frames: list[tuple[FrameSpec, CoordinateGrid]] = []
    for frame in spec.frames:
        i = frame.index
        if not solution.use[i]:
            continue
        shift = (float(solution.shift[i, 0]), float(solution.shift[i, 1]))
        seen = coordinate_grid(
            nodes, frame.wcs, frame.shape, shift=shift, scale=solution.scale[i], offset=solution.offset[i]
        )
        if seen.window(wide_rows, wide_columns) is not None:
            frames.append((frame, seen))
    if not frames:
        return result
    noise = np.array([_canvas_noise(grid, frame, solution) for frame, _ in frames])
    weight = 1.0 / noise**2 if options.weighting == "inverse_variance" else np.ones(len(frames))

    pieces = [_Piece(frame.index, 0.0, _window_pixels(seen, wide_rows, wide_columns)) for frame, seen in frames]
    step, _ = _strip_rows(grid, spec.index, pieces, options.task_memory, options.source_bytes)
    buffer_shape = (len(frames), min(step + 2 * HALO, grid.shape[0]), wide_columns.stop - wide_columns.start)
    stack = np.empty(buffer_shape, dtype=np.float32)
    codes = np.empty(buffer_shape, dtype=np.uint8)
    for start in range(rows.start, rows.stop, step):
        strip = slice(start, min(start + step, rows.stop))
        wide = _widen(strip, grid.shape[0])
        height = wide.stop - wide.start
        over: list[int] = []
        for k, (frame, seen) in enumerate(frames):
            window = seen.window(wide, wide_columns)
            if window is None:
                continue
            at = len(over)
            over.append(k)
            resample(
                _read(frame, window), window, seen, wide, wide_columns,
                taper=options.taper * min(frame.shape), out=stack[at, :height], codes=codes[at, :height],
            )  # fmt: skip
        if not over:
            continue
        combine(
            stack[: len(over), :height],
            codes[: len(over), :height],
            noise[over],
            weight[over],
            rejection=options.rejection,
            inner=(
                slice(strip.start - wide.start, strip.stop - wide.start),
                slice(columns.start - wide_columns.start, columns.stop - wide_columns.start),
            ),
            out=result.rows(strip.start - rows.start, strip.stop - rows.start),
        )
    return result


def _widen(window: slice, length: int) -> slice:
    return slice(max(window.start - HALO, 0), min(window.stop + HALO, length))


def _window_pixels(seen: CoordinateGrid, rows: slice, columns: slice) -> float:
    window = seen.window(rows, columns)
    return 0.0 if window is None else float(np.prod([s.stop - s.start for s in window]))


def _canvas_noise(grid: Grid, frame: FrameSpec, solution: Solution) -> float:
    """Noise of a frame's pixel in canvas units: one number for all tiles, so that none shows in the result."""
    mean = surface.basis(np.linspace(0.0, 1.0, 33)).mean(axis=0)
    scale = float(mean @ solution.scale[frame.index] @ mean)
    return abs(scale) * central_jacobian(grid.lattice, frame.wcs, frame.shape) * float(solution.noise[frame.index])


def _read(frame: FrameSpec, window: tuple[slice, slice]) -> NDArray[np.float32]:
    try:
        source = open_source(frame.source)
        shape = source.shape
        if shape == frame.shape:
            return source.read(*window)
    except Exception as failure:
        raise DataError(f"integrate: {frame.name} cannot be read: {failure}") from failure
    raise DataError(
        f"integrate: {frame.name} has {shape[0]} × {shape[1]} pixels, the session says {frame.shape[0]} × "
        f"{frame.shape[1]}: it changed, ingest it again"
    )


def _pick(result: Combined, name: str) -> NDArray[Any]:
    return np.asarray(getattr(result, name))[np.newaxis]


def _fill(rows: int, columns: int, name: str) -> NDArray[Any]:
    dtype = np.dtype(_DTYPES[name])
    return np.full((1, rows, columns), np.nan if dtype.kind == "f" else 0, dtype=dtype)
