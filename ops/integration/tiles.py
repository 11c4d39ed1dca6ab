"""One tile: what its task must know, and all its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.grid import Grid
from skyloom.ops.integration.combine import Combination, Combined, combine
from skyloom.ops.integration.coordinates import CanvasNodes, CoordinateGrid, central_jacobian, coordinate_grid
from skyloom.ops.integration.kernels import REACH, Resampling, chosen
from skyloom.ops.integration.overlaps import FrameSpec, Piece, strip_rows
from skyloom.ops.integration.rejection import Rejection
from skyloom.ops.integration.resample import resample
from skyloom.ops.integration.single import frame_hits, read_window
from skyloom.ops.integration.solution import Solution
from skyloom.ops.integration.tolerance import HALO
from skyloom.ops.integration.weights import Weighting, needs_noise


@dataclass(frozen=True)
class Options:
    """How tiles are integrated."""

    rejection: Rejection
    task_memory: float
    source_bytes: float
    """Bytes a frame pixel takes while it is read."""
    taper: float = 0.03
    weighting: Weighting = "inverse_variance"
    combination: Combination = "mean"
    resampling: Resampling = "auto"
    clamp: float = 0.02


@dataclass(frozen=True)
class _Seen:
    """A frame as a tile sees it."""

    frame: FrameSpec
    grid: CoordinateGrid
    jacobian: float
    kernel: str
    reach: int


@dataclass(frozen=True)
class TileSpec:
    """The work of one task."""

    grid: Grid
    index: tuple[int, int]
    frames: tuple[FrameSpec, ...]
    options: Options


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
    wide_rows, wide_columns = widen(rows, grid.shape[0]), widen(columns, grid.shape[1])
    nodes = CanvasNodes.around(grid, wide_rows, wide_columns)
    frames: list[_Seen] = []
    for frame in spec.frames:
        if solution.use[frame.index]:
            seen = _see(frame, nodes, grid, solution, options)
            if seen.grid.window(wide_rows, wide_columns, reach=seen.reach) is not None:
                frames.append(seen)
    if not frames:
        return result
    noise = np.array([_canvas_noise(seen, solution) for seen in frames])
    weight = np.array([solution.factor[seen.frame.index] for seen in frames])
    if needs_noise(options.weighting):
        weight *= 1.0 / noise**2
    if options.weighting == "point_source":
        # FWHM² in canvas pixels.
        weight *= np.array([seen.jacobian for seen in frames])

    pieces = [Piece(seen.frame.index, 0.0, _window_pixels(seen, wide_rows, wide_columns)) for seen in frames]
    step, _ = strip_rows(
        grid, spec.index, pieces, options.task_memory, options.source_bytes, options.rejection, options.combination
    )
    buffer_shape = (len(frames), min(step + 2 * HALO, grid.shape[0]), wide_columns.stop - wide_columns.start)
    stack = np.empty(buffer_shape, dtype=np.float32)
    codes = np.empty(buffer_shape, dtype=np.uint8)
    for start in range(rows.start, rows.stop, step):
        strip = slice(start, min(start + step, rows.stop))
        wide = widen(strip, grid.shape[0])
        height = wide.stop - wide.start
        over: list[int] = []
        for k, seen in enumerate(frames):
            window = seen.grid.window(wide, wide_columns, reach=seen.reach)
            if window is None:
                continue
            at = len(over)
            over.append(k)
            _resample(
                read_window(seen.frame, window), window, seen, wide, wide_columns, options,
                stack[at, :height], codes[at, :height],
            )  # fmt: skip
        if not over:
            continue
        inner = (
            slice(strip.start - wide.start, strip.stop - wide.start),
            slice(columns.start - wide_columns.start, columns.stop - wide_columns.start),
        )
        out = result.rows(strip.start - rows.start, strip.stop - rows.start)
        samples = stack[: len(over), :height]
        hits = None
        if options.rejection.method == "auto":
            hits = _reject_single(samples, [frames[k] for k in over], wide, wide_columns, options)
        combine(
            samples, codes[: len(over), :height], noise[over], weight[over],
            rejection=options.rejection, combination=options.combination, inner=inner, out=out,
        )  # fmt: skip
        if hits is not None:
            out.rejected_high[...] += hits[inner]
    return result


def _see(frame: FrameSpec, nodes: CanvasNodes, grid: Grid, solution: Solution, options: Options) -> _Seen:
    i = frame.index
    shift = (float(solution.shift[i, 0]), float(solution.shift[i, 1]))
    seen = coordinate_grid(
        nodes, frame.wcs, frame.shape, shift=shift, scale=solution.scale[i], offset=solution.offset[i]
    )
    jacobian = central_jacobian(grid.lattice, frame.wcs, frame.shape)
    kernel = chosen(options.resampling, jacobian)
    return _Seen(frame, seen, jacobian, kernel, seen.pixel_reach() if kernel == "area" else REACH[kernel])


def _resample(
    pixels: NDArray[np.float32], window: tuple[slice, slice], seen: _Seen, rows: slice, columns: slice,
    options: Options, out: NDArray[np.float32] | None, codes: NDArray[np.uint8] | None,
) -> NDArray[np.float32]:  # fmt: skip
    values, _ = resample(
        pixels, window, seen.grid, rows, columns,
        kernel=seen.kernel, clamp=options.clamp, taper=options.taper * min(seen.frame.shape), out=out, codes=codes,
    )  # fmt: skip
    return values


def _reject_single(
    samples: NDArray[np.float32], frames: list[_Seen], rows: slice, columns: slice, options: Options
) -> NDArray[np.uint16] | None:
    """Take cosmic rays out of the pixels that one frame alone reaches; how many samples went, or None."""
    there = np.zeros(samples.shape[1:], dtype=np.uint16)
    for sample in samples:
        there += np.isfinite(sample)
    single = there == 1
    if not single.any():
        return None
    before = there
    for sample, seen in zip(samples, frames, strict=True):
        alone = single & np.isfinite(sample)
        window = seen.grid.window(rows, columns, reach=seen.reach)
        if window is None or not alone.any():
            continue
        hits = frame_hits(seen.frame, window)
        if not hits.any():
            continue
        pixels = read_window(seen.frame, window).copy()
        pixels[hits] = np.nan
        without = _resample(pixels, window, seen, rows, columns, options, None, None)
        sample[alone] = without[alone]
        before[alone & ~np.isfinite(without)] = 0
    return np.asarray(single & (before == 0), dtype=np.uint16)


def widen(window: slice, length: int) -> slice:
    """Rows or columns that rejection in a window looks at, as far as the canvas reaches."""
    return slice(max(window.start - HALO, 0), min(window.stop + HALO, length))


def _window_pixels(seen: _Seen, rows: slice, columns: slice) -> float:
    window = seen.grid.window(rows, columns, reach=seen.reach)
    return 0.0 if window is None else float(np.prod([s.stop - s.start for s in window]))


def _canvas_noise(seen: _Seen, solution: Solution) -> float:
    """Noise of a frame's pixel in canvas units: one number for all tiles, so that none shows in the result."""
    mean = surface.basis(np.linspace(0.0, 1.0, 33)).mean(axis=0)
    scale = float(mean @ solution.scale[seen.frame.index] @ mean)
    # A mean over J pixels has less noise than one of them.
    size = seen.jacobian**0.5 if seen.kernel == "area" else seen.jacobian
    return abs(scale) * size * float(solution.noise[seen.frame.index])
