"""One tile of a drizzled canvas: outliers found on the coarse canvas, pixels of frames dropped on the fine one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.window_wcs import window_wcs
from skyloom.ops.errors import CapacityError
from skyloom.ops.grid import Grid
from skyloom.ops.integration import sharp
from skyloom.ops.integration.average import USED
from skyloom.ops.integration.combine import Combined, working_bytes
from skyloom.ops.integration.coordinates import NODE_STEP
from skyloom.ops.integration.drop import ALONE, GOT, KERNELS, WENT_HIGH, WENT_LOW, Kernel, drop
from skyloom.ops.integration.onto_canvas import frame_nodes, pixel_extent
from skyloom.ops.integration.overlaps import (
    MASK_BYTES,
    MIN_STRIP,
    RESULT_BYTES,
    SAMPLE_BYTES,
    SINGLE_BYTES,
    FrameSpec,
    Piece,
)
from skyloom.ops.integration.sensor_pixels import Drops, Windows, read_drops
from skyloom.ops.integration.single import frame_hits
from skyloom.ops.integration.solution import Solution, mean_scale
from skyloom.ops.integration.tiles import Options, Seen, View, integrate_strip, make_buffers, see_frames, widen
from skyloom.ops.integration.tolerance import HALO
from skyloom.ops.integration.weights import needs_noise

SUM_BYTES = 3 * 8 + 1
"""Of a fine pixel while drops are added up."""
WAITING_BYTES = 4
"""Of a pixel of a frame that waits to be dropped."""


@dataclass(frozen=True)
class Drizzling:
    """How drops fall."""

    kernel: Kernel = "square"
    pixfrac: float = 0.9
    """Side of a drop, of the sensor's pixel."""
    scale: int = 2
    """Pixels of the fine canvas along one of the coarse."""
    mosaic: bool = True
    """Of colour sensors the sensor's own pixels are dropped, and not superpixels."""
    waiting_bytes: float = WAITING_BYTES
    """Of a frame's pixel that waits to be dropped: two pixels of the sensor make a green one."""
    masked: bool = False
    """Masks of artifacts are laid on the samples."""


@dataclass(frozen=True)
class DrizzleSpec:
    """The work of one task; `grid` is the coarse canvas, cut into tiles as the fine one is."""

    grid: Grid
    index: tuple[int, int]
    frames: tuple[FrameSpec, ...]
    options: Options
    drizzling: Drizzling


def finer(grid: Grid, scale: int) -> Grid:
    """Return the canvas with each pixel cut into scale × scale, and tiles of as many more pixels.

    The outlines of pixels and tiles stay where they are.
    """
    first = 0.5 / scale - 0.5
    header = window_wcs(grid.header, row=first, column=first, step=1.0 / scale)
    return Grid(header, (grid.shape[0] * scale, grid.shape[1] * scale), grid.tile * scale)


def drizzle_tile(spec: DrizzleSpec, solution: Solution) -> Combined:
    """All pixels of one tile of one band; what `Combined` says, counts of frames.

    Raises
    ------
    DataError
        If a frame cannot be read; the message names it.
    """
    grid, scale = spec.grid, spec.drizzling.scale
    rows, columns = grid.window(*spec.index)
    result = Combined.empty(((rows.stop - rows.start) * scale, (columns.stop - columns.start) * scale))
    work = Work.of(spec, solution, rows, columns)
    if not work.view.frames:
        return result
    step, _ = drizzle_rows(grid, spec.index, work.pieces(rows, columns), spec.options, spec.drizzling)
    for start in range(rows.start, rows.stop, step):
        strip = slice(start, min(start + step, rows.stop))
        out = result.rows((strip.start - rows.start) * scale, (strip.stop - rows.start) * scale)
        work.strip(strip, columns, out)
    return result


@dataclass(frozen=True)
class Work:
    """The frames over a window of the canvas, and how they are dropped."""

    spec: DrizzleSpec
    solution: Solution
    fine: Grid
    view: View
    margin: int
    """Coarse pixels around a window that its drops may lie in."""

    @classmethod
    def of(cls, spec: DrizzleSpec, solution: Solution, rows: slice, columns: slice) -> Work:
        """Look for the frames over a window of the coarse canvas."""
        grid = spec.grid
        margin = 2
        while True:
            wide = [widen(_around(s, margin, n), n) for s, n in zip((rows, columns), grid.shape, strict=True)]
            view = see_frames(spec.frames, grid, wide[0], wide[1], solution, spec.options)
            needed = max((reach(s) for s in view.frames), default=0)
            if needed <= margin:
                return cls(spec, solution, finer(grid, spec.drizzling.scale), view, margin)
            margin = needed

    def pieces(self, rows: slice, columns: slice) -> list[Piece]:
        """Return the frames' windows, as a plan counts them."""
        core = self._core(rows, columns)
        found = []
        for seen in self.view.frames:
            wide = [widen(s, n) for s, n in zip(core, self.spec.grid.shape, strict=True)]
            window = seen.grid.window(wide[0], wide[1], reach=seen.reach)
            size = 0.0 if window is None else float(np.prod([s.stop - s.start for s in window]))
            found.append(Piece(seen.frame.index, 0.0, size, seen.jacobian))
        return found

    def strip(self, rows: slice, columns: slice, out: Combined) -> None:
        """Fill `out`, the fine pixels of a window of the coarse canvas."""
        shape = out.image.shape
        sums: NDArray[np.float64] | None = None
        for k, windows, drops, fates in self._frames(rows, columns):
            # Not before the stack of samples has gone.
            sums = np.zeros((*shape, 3)) if sums is None else sums
            marks = np.zeros(shape, dtype=np.uint8)
            self._drop(k, windows, drops, fates, (rows, columns), sums, marks)
            for count, bit in ((out.count, GOT), (out.rejected_low, WENT_LOW), (out.rejected_high, WENT_HIGH)):
                count += (marks & bit) != 0
        if sums is not None:
            finish(sums, out)

    def frames(self, rows: slice, columns: slice) -> Iterator[tuple[Seen, NDArray[np.float64], NDArray[np.uint8]]]:
        """What each frame over a window of the coarse canvas adds to its fine pixels: sums and marks of `drop`."""
        scale = self.spec.drizzling.scale
        shape = ((rows.stop - rows.start) * scale, (columns.stop - columns.start) * scale)
        for k, windows, drops, fates in self._frames(rows, columns):
            sums, marks = np.zeros((*shape, 3)), np.zeros(shape, dtype=np.uint8)
            self._drop(k, windows, drops, fates, (rows, columns), sums, marks)
            yield self.view.frames[k], sums, marks

    def _core(self, rows: slice, columns: slice) -> Windows:
        """Window of the coarse canvas whose rejection a window's drops go by."""
        height, width = self.spec.grid.shape
        return _around(rows, self.margin, height), _around(columns, self.margin, width)

    def _frames(
        self, rows: slice, columns: slice
    ) -> Iterator[tuple[int, Windows, list[Drops], NDArray[np.uint8]]]:
        """Frames over a window one after another: place, window, drops, fates on the coarse canvas."""
        options, mosaic = self.spec.options, self.spec.drizzling.mosaic
        core = self._core(rows, columns)
        none = np.empty((0, 0), dtype=np.uint8)
        if options.rejection.method == "none":
            for k, seen in enumerate(self.view.frames):
                window = seen.grid.window(*core, reach=seen.reach)
                if window is not None:
                    yield k, window, read_drops(seen.frame, window, mosaic)[1], none
            return
        held: list[tuple[Windows, list[Drops]]] = []

        def read(frame: FrameSpec, window: Windows) -> NDArray[np.float32]:
            pixels, drops = read_drops(frame, window, mosaic)
            held.append((window, drops))
            return pixels

        shape = (core[0].stop - core[0].start, core[1].stop - core[1].start)
        height, width = self.spec.grid.shape
        wide = widen(core[0], height)
        buffers = make_buffers(len(self.view.frames), wide.stop - wide.start, widen(core[1], width))
        made = integrate_strip(
            self.view, (height, width), *core, options, buffers, Combined.empty(shape), read=read, fates=True
        )
        del buffers
        assert made.fates is not None
        fates, over = made.fates, made.over
        del made
        if options.rejection.method == "auto":
            fates[(np.count_nonzero(fates, axis=0) == 1) & (fates == USED)] = ALONE
        for at, k in enumerate(over):
            window, drops = held[at]
            held[at] = (window, [])
            yield k, window, drops, fates[at]

    def _drop(
        self, k: int, window: Windows, drops: list[Drops], fates: NDArray[np.uint8], canvas: Windows,
        sums: NDArray[np.float64], marks: NDArray[np.uint8],
    ) -> None:  # fmt: skip
        """Add what falls on a window of the coarse canvas."""
        drizzling, options, solution, seen = (
            self.spec.drizzling,
            self.spec.options,
            self.solution,
            self.view.frames[k],
        )
        frame, scale, core = seen.frame, drizzling.scale, self._core(*canvas)
        i = frame.index
        weight, noise = self.weight(seen)
        nodes = frame_nodes(
            self.fine.lattice, frame.wcs, frame.shape, window,
            shift=(float(solution.shift[i, 0]), float(solution.shift[i, 1])),
            scale=solution.scale[i], offset=solution.offset[i], confidence=solution.confidence[i],
        )  # fmt: skip
        hits = np.empty((0, 0), dtype=np.bool_)
        if (fates == ALONE).any():
            hits = frame_hits(frame, window)
        crpix_x, crpix_y = (float(v) for v in self.fine.wcs.wcs.crpix)
        taper = max(options.taper * min(frame.shape), 1e-3)
        top, left = canvas[0].start * scale, canvas[1].start * scale
        for one in drops:
            drop(
                one.pixels, window[0].start, window[1].start, frame.shape[0], frame.shape[1],
                nodes.fields, nodes.origin[0], nodes.origin[1], one.offset[0], one.offset[1],
                one.size * drizzling.pixfrac, one.share, KERNELS[drizzling.kernel],
                top, left, crpix_y, crpix_x, fates, core[0].start, core[1].start, scale, hits,
                taper, weight, noise / one.share**0.5, sums, marks,
            )  # fmt: skip

    def weight(self, seen: Seen) -> tuple[float, float]:
        """Weight of a frame's drops, and the noise of its pixels (its own units)."""
        solution, weighting, i = self.solution, self.spec.options.weighting, seen.frame.index
        noise, jacobian = float(solution.noise[i]), seen.jacobian / self.spec.drizzling.scale**2
        weight = float(solution.factor[i])
        if needs_noise(weighting):
            # Of a sum over many canvas pixels: of frames with smaller pixels more of them fall on one.
            weight /= float(mean_scale(solution.scale[i])) ** 2 * noise**2 * jacobian
        if weighting == "point_source":
            weight *= jacobian
        return weight, noise


def _around(window: slice, margin: int, length: int) -> slice:
    return slice(max(window.start - margin, 0), min(window.stop + margin, length))


def reach(seen: Seen) -> int:
    """Coarse pixels around a window in which the centres of the drops lie that touch it."""
    return math.ceil(pixel_extent(seen.grid)) + 1


def finish(sums: NDArray[np.float64], out: Combined) -> None:
    """Fill image, weight and variance from the sums over the drops."""
    for row, image, variance, weight in zip(sums, out.image, out.variance, out.weight, strict=True):
        total = np.where(row[:, 0] > 0, row[:, 0], np.nan)
        image[:] = row[:, 1] / total
        variance[:] = row[:, 2] / total**2
        weight[:] = total


def drizzle_rows(
    grid: Grid, index: tuple[int, ...], pieces: Sequence[Piece], options: Options, drizzling: Drizzling
) -> tuple[int, float]:
    """Rows of the coarse canvas to compute at a time, and the task's peak of memory (bytes).

    Raises
    ------
    CapacityError
        If not even `MIN_STRIP` rows fit.
    """
    rows, columns = (s.stop - s.start for s in grid.window(index[0], index[1]))
    depth, scale = len(pieces), drizzling.scale
    largest = max(p.window for p in pieces)
    result = RESULT_BYTES * rows * columns * scale**2
    rejecting = options.rejection.method != "none"
    margin = 2 * (max(math.ceil(0.75 * p.jacobian**-0.5) for p in pieces) + 1)
    single = SINGLE_BYTES if options.rejection.method == "auto" else 0.0
    for strips in range(1, -(-rows // MIN_STRIP) + 1):
        height = -(-rows // strips)
        core, wide = (height + margin, columns + margin), (height + margin + 2 * HALO, columns + margin + 2 * HALO)
        part = min(1.0, (height + margin + 2 * HALO + NODE_STEP) / rows)
        peak = result + SUM_BYTES * height * columns * scale**2
        reading = max(options.source_bytes - WAITING_BYTES, sharp.BYTES) * largest * part
        if rejecting:
            waiting = drizzling.waiting_bytes * sum(p.window for p in pieces) * part
            fates = float(core[0] * core[1] * depth)
            stack = float(wide[0] * wide[1] * depth * SAMPLE_BYTES + core[0] * core[1] * RESULT_BYTES)
            # With fates, what was there before the masks is kept, a byte a sample.
            stack += float(wide[0] * wide[1] * (MASK_BYTES + depth)) if drizzling.masked else 0.0
            combining = working_bytes(depth, wide, rejection=options.rejection, combination=options.combination)
            peak = max(peak, result + stack + max(reading, combining) + single) + waiting + fates
        else:
            peak += reading + drizzling.waiting_bytes * largest * part
        if peak <= options.task_memory:
            return height, peak
    raise CapacityError(
        f"tile {index[0]}, {index[1]} has {depth} frames and needs {peak / 2**20:.0f} MiB even in strips of "
        f"{height} rows, a task may take {options.task_memory / 2**20:.0f} MiB; raise the memory limit (--memory) "
        f"or make tile = {grid.tile} smaller"
    )
