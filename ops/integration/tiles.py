"""One tile: what its task must know, and all its pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.grid import Grid
from skyloom.ops.integration.average import HIGH
from skyloom.ops.integration.combine import Combination, Combined, combine
from skyloom.ops.integration.coordinates import CanvasNodes, CoordinateGrid, central_jacobian, coordinate_grid
from skyloom.ops.integration.kernels import Resampling, chosen, window_reach
from skyloom.ops.integration.masked import drop_artifacts
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
    clamp: float = 0.0


Reader = Callable[[FrameSpec, tuple[slice, slice]], NDArray[np.float32]]


@dataclass(frozen=True)
class Seen:
    """A frame as a window of the canvas sees it."""

    frame: FrameSpec
    grid: CoordinateGrid
    jacobian: float
    kernel: str
    reach: int


@dataclass(frozen=True)
class View:
    """The frames over a window of the canvas."""

    frames: list[Seen]
    noise: NDArray[np.float64]
    """Noise of a pixel of each frame, canvas units."""
    weight: NDArray[np.float64]


@dataclass(frozen=True)
class Strip:
    """What a strip of the canvas was made from; arrays over the frames that reach it."""

    over: list[int]
    """Their places in the view."""
    samples: NDArray[np.float32]
    """(frame, row, column), normalized; a view of the buffer."""
    codes: NDArray[np.uint8]
    """Their taper codes."""
    fates: NDArray[np.uint8] | None
    """What became of the samples (`skyloom.ops.integration.average`), where asked for."""


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
    view = see_frames(spec.frames, grid, wide_rows, wide_columns, solution, options)
    if not view.frames:
        return result
    pieces = [Piece(s.frame.index, 0.0, window_pixels(s, wide_rows, wide_columns)) for s in view.frames]
    step, _ = strip_rows(
        grid, spec.index, pieces, options.task_memory, options.source_bytes, options.rejection,
        options.combination, any(f.mask is not None for f in spec.frames),
    )  # fmt: skip
    buffers = make_buffers(len(view.frames), min(step + 2 * HALO, grid.shape[0]), wide_columns)
    for start in range(rows.start, rows.stop, step):
        strip = slice(start, min(start + step, rows.stop))
        out = result.rows(strip.start - rows.start, strip.stop - rows.start)
        integrate_strip(view, grid.shape, strip, columns, options, buffers, out)
    return result


def make_buffers(depth: int, rows: int, columns: slice) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Room for the samples and taper codes of a strip."""
    shape = (depth, rows, columns.stop - columns.start)
    return np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.uint8)


def see_frames(
    specs: Sequence[FrameSpec], grid: Grid, rows: slice, columns: slice, solution: Solution, options: Options
) -> View:
    """Those of some frames that are in use and reach a window of the canvas, its halo included."""
    nodes = CanvasNodes.around(grid, rows, columns)
    frames: list[Seen] = []
    for frame in specs:
        if solution.use[frame.index]:
            seen = _see(frame, nodes, grid, solution, options)
            if seen.grid.window(rows, columns, reach=seen.reach) is not None:
                frames.append(seen)
    noise = np.array([canvas_noise(seen, solution) for seen in frames])
    weight = np.array([solution.factor[seen.frame.index] for seen in frames])
    if needs_noise(options.weighting):
        weight *= 1.0 / noise**2
    if options.weighting == "point_source":
        # FWHM² in canvas pixels.
        weight *= np.array([seen.jacobian for seen in frames])
    return View(frames, noise, weight)


def integrate_strip(
    view: View, shape: tuple[int, int], strip: slice, columns: slice, options: Options,
    buffers: tuple[NDArray[np.float32], NDArray[np.uint8]], out: Combined,
    *, read: Reader = read_window, fates: bool = False,
) -> Strip:  # fmt: skip
    """Fill `out` with a window of the canvas.

    Parameters
    ----------
    view
        Frames over the window and its halo.
    shape
        Rows, columns of the canvas.
    strip, columns
        The window.
    options
        How.
    buffers
        From `make_buffers`, of the window with its halo or larger in rows.
    out
        Where to write.
    read
        Reads a window of a frame.
    fates
        Keep what becomes of each sample.
    """
    wide, wide_columns = widen(strip, shape[0]), widen(columns, shape[1])
    height = wide.stop - wide.start
    stack, codes = buffers
    over: list[int] = []
    for k, seen in enumerate(view.frames):
        window = seen.grid.window(wide, wide_columns, reach=seen.reach)
        if window is None:
            continue
        at = len(over)
        over.append(k)
        _resample(
            read(seen.frame, window), window, seen, wide, wide_columns, options,
            stack[at, :height], codes[at, :height],
        )  # fmt: skip
    inner = (
        slice(strip.start - wide.start, strip.stop - wide.start),
        slice(columns.start - wide_columns.start, columns.stop - wide_columns.start),
    )
    samples = stack[: len(over), :height]
    kept = np.zeros((len(over), *out.image.shape), dtype=np.uint8) if fates else None
    made = Strip(over, samples[:, *inner], codes[: len(over), :height][:, *inner], kept)
    if not over:
        return made
    masks = [view.frames[k].frame.mask for k in over]
    masked = dropped = None
    if any(m is not None for m in masks):
        masked = np.isfinite(samples[:, *inner]) if fates else None
        dropped = drop_artifacts(samples, masks, wide, wide_columns)
        if masked is not None:
            masked &= ~np.isfinite(samples[:, *inner])
    hits, lost = None, np.zeros(samples.shape, dtype=np.uint8) if fates and _alone(options) else None
    if _alone(options):
        hits = _reject_single(samples, [view.frames[k] for k in over], wide, wide_columns, options, lost)
    combine(
        samples, codes[: len(over), :height], view.noise[over], view.weight[over],
        rejection=options.rejection, combination=options.combination, inner=inner, out=out, fates=kept,
    )  # fmt: skip
    if hits is not None:
        out.rejected_high[...] += hits[inner]
    if dropped is not None:
        out.rejected_high[...] += dropped[inner]
    if kept is not None and masked is not None:
        kept[masked] = HIGH
    if kept is not None and lost is not None:
        kept[...] = np.maximum(kept, lost[:, *inner])
    return made


def _alone(options: Options) -> bool:
    return options.rejection.method == "auto"


def _see(frame: FrameSpec, nodes: CanvasNodes, grid: Grid, solution: Solution, options: Options) -> Seen:
    i = frame.index
    shift = (float(solution.shift[i, 0]), float(solution.shift[i, 1]))
    seen = coordinate_grid(
        nodes, frame.wcs, frame.shape,
        shift=shift, scale=solution.scale[i], offset=solution.offset[i], confidence=solution.confidence[i],
    )  # fmt: skip
    jacobian = central_jacobian(grid.lattice, frame.wcs, frame.shape)
    kernel = chosen(options.resampling, jacobian)
    return Seen(frame, seen, jacobian, kernel, seen.pixel_reach() if kernel == "area" else window_reach(kernel))


def _resample(
    pixels: NDArray[np.float32], window: tuple[slice, slice], seen: Seen, rows: slice, columns: slice,
    options: Options, out: NDArray[np.float32] | None, codes: NDArray[np.uint8] | None,
) -> NDArray[np.float32]:  # fmt: skip
    values, _ = resample(
        pixels, window, seen.grid, rows, columns,
        kernel=seen.kernel, clamp=options.clamp, taper=options.taper * min(seen.frame.shape), out=out, codes=codes,
    )  # fmt: skip
    return values


def _reject_single(
    samples: NDArray[np.float32], frames: list[Seen], rows: slice, columns: slice, options: Options,
    lost: NDArray[np.uint8] | None,
) -> NDArray[np.uint16] | None:  # fmt: skip
    """Take cosmic rays out of the pixels that one frame alone reaches; how many samples went, or None.

    Where given, `lost` is HIGH for those samples.
    """
    there = np.zeros(samples.shape[1:], dtype=np.uint16)
    for sample in samples:
        there += np.isfinite(sample)
    single = there == 1
    if not single.any():
        return None
    before = there
    for k, (sample, seen) in enumerate(zip(samples, frames, strict=True)):
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
        gone = alone & ~np.isfinite(without)
        before[gone] = 0
        if lost is not None:
            lost[k][gone] = HIGH
    return np.asarray(single & (before == 0), dtype=np.uint16)


def widen(window: slice, length: int) -> slice:
    """Rows or columns that rejection in a window looks at, as far as the canvas reaches."""
    return slice(max(window.start - HALO, 0), min(window.stop + HALO, length))


def window_pixels(seen: Seen, rows: slice, columns: slice) -> float:
    """Pixels of the window of a frame that a window of the canvas needs."""
    window = seen.grid.window(rows, columns, reach=seen.reach)
    return 0.0 if window is None else float(np.prod([s.stop - s.start for s in window]))


def canvas_noise(seen: Seen, solution: Solution) -> float:
    """Noise of a frame's pixel in canvas units: one number for all tiles, so that none shows in the result."""
    mean = surface.basis(np.linspace(0.0, 1.0, 33)).mean(axis=0)
    scale = float(mean @ solution.scale[seen.frame.index] @ mean)
    # A mean over J pixels has less noise than one of them.
    size = seen.jacobian**0.5 if seen.kernel == "area" else seen.jacobian
    return abs(scale) * size * float(solution.noise[seen.frame.index])
