"""One tile of a blended mosaic: fine detail is that of the mean, slow differences of panels are spread widely."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from skyloom.ops.errors import CapacityError
from skyloom.ops.grid import Grid
from skyloom.ops.integration.average import USED
from skyloom.ops.integration.combine import Combined, working_bytes
from skyloom.ops.integration.overlaps import MIN_STRIP, RESULT_BYTES, SAMPLE_BYTES, WINDOW_BYTES, FrameSpec
from skyloom.ops.integration.solution import Solution
from skyloom.ops.integration.taper import TAPER_CODES
from skyloom.ops.integration.tiles import Options, integrate_strip, make_buffers, see_frames, widen, window_pixels
from skyloom.ops.integration.tolerance import HALO

Singles = NDArray[np.float32]

TRUNCATE = 3.0
"""Gaussians end after so many sigmas."""
FINE_LEVELS = 3
"""Bands finer than 2 ** this pixels are shared as the mean does, at its noise: no seam is that narrow."""
BLOCK_SIGMA = 4.0
"""Gaussians are made of blocks of which this many are one sigma."""
PANEL_BYTES = 4 + 4
"""Bytes of a pixel of a panel: its weighted sum and its weight."""
BLEND_BYTES = (5 * 4 + 1, 15 * 4)
"""Working bytes of a pixel while panels are blended: of each panel, and besides."""


@dataclass(frozen=True)
class BlendSpec:
    """The work of one task."""

    grid: Grid
    index: tuple[int, int]
    frames: tuple[FrameSpec, ...]
    panels: tuple[int, ...]
    """Panel of each frame."""
    options: Options
    levels: int


def blend_halo(levels: int) -> int:
    """Pixels around a tile that its blending looks at."""
    # A Gaussian of where a panel has most, which a Gaussian tells, and blocks at the ends of each.
    return int(np.ceil(2 * (TRUNCATE + 2.0 / BLOCK_SIGMA) * 2**levels)) + 1


def blend_windows(grid: Grid, index: tuple[int, ...], levels: int) -> tuple[slice, slice]:
    """Rows, columns that the blending of a tile looks at."""
    halo = blend_halo(levels)
    rows, columns = (
        slice(max(s.start - halo, 0), min(s.stop + halo, n))
        for s, n in zip(grid.window(index[0], index[1]), grid.shape, strict=True)
    )
    return rows, columns


def blend_rows(
    grid: Grid, index: tuple[int, ...], depth: int, panels: int, window: float, options: Options, levels: int,
    *, masked: bool,
) -> tuple[int, float]:  # fmt: skip
    """Rows to integrate at a time, and the task's peak of memory (bytes).

    `depth` frames of `panels` panels; the largest window of one has `window` pixels.

    Raises
    ------
    CapacityError
        If not even `MIN_STRIP` rows fit.
    """
    rows, columns = (s.stop - s.start for s in blend_windows(grid, index, levels))
    wide = columns + 2 * HALO
    fixed = float((RESULT_BYTES + PANEL_BYTES * panels) * rows * columns)
    blending = (BLEND_BYTES[0] * panels + BLEND_BYTES[1]) * rows * columns if panels > 1 else 0
    source = max(options.source_bytes, WINDOW_BYTES) * window
    for strips in range(1, -(-rows // MIN_STRIP) + 1):
        height = -(-rows // strips) + 2 * HALO
        strip = (
            source * min(1.0, (height + MIN_STRIP) / rows)
            + height * wide * (depth * (SAMPLE_BYTES + 1) + (8 + depth if masked else 0))
            + working_bytes(depth, (height, wide), rejection=options.rejection, combination=options.combination)
        )
        peak = fixed + max(strip, blending)
        if peak <= options.task_memory:
            return -(-rows // strips), float(peak)
    raise CapacityError(
        f"tile {index[0]}, {index[1]} has {depth} frames of {panels} panels and needs {peak / 2**20:.0f} MiB to "
        f"be blended, a task may take {options.task_memory / 2**20:.0f} MiB; raise the memory limit (--memory) or "
        f"make tile = {grid.tile} smaller"
    )


def blend_tile(spec: BlendSpec, solution: Solution) -> Combined:
    """All pixels of one tile of one band: as `integrate` has them but for the image.

    Raises
    ------
    DataError
        If a frame cannot be read; the message names it.
    """
    grid, options = spec.grid, spec.options
    rows, columns = blend_windows(grid, spec.index, spec.levels)
    tile = grid.window(*spec.index)
    result = Combined.empty((rows.stop - rows.start, columns.stop - columns.start))
    panel_of = {f.index: p for f, p in zip(spec.frames, spec.panels, strict=True)}
    wide_rows, wide_columns = widen(rows, grid.shape[0]), widen(columns, grid.shape[1])
    view = see_frames(spec.frames, grid, wide_rows, wide_columns, solution, options)
    names = sorted({panel_of[s.frame.index] for s in view.frames})
    total, weight = np.zeros((2, len(names), *result.image.shape), dtype=np.float32)
    if view.frames:
        window = max(window_pixels(s, wide_rows, wide_columns) for s in view.frames)
        masked = any(f.mask is not None for f in spec.frames)
        step, _ = blend_rows(
            grid, spec.index, len(view.frames), len(names), window, options, spec.levels, masked=masked
        )
        buffers = make_buffers(len(view.frames), min(step + 2 * HALO, grid.shape[0]), wide_columns)
        group = np.array([names.index(panel_of[s.frame.index]) for s in view.frames])
        for start in range(rows.start, rows.stop, step):
            strip = slice(start, min(start + step, rows.stop))
            here = slice(strip.start - rows.start, strip.stop - rows.start)
            out = result.rows(here.start, here.stop)
            made = integrate_strip(view, grid.shape, strip, columns, options, buffers, out, fates=True)
            if made.over and made.fates is not None:
                add_to_panels(
                    made.samples, made.codes, made.fates, view.weight[made.over], group[made.over],
                    total[:, here], weight[:, here],
                )  # fmt: skip
        # It shows a part of the buffers.
        del buffers, made
    inner = tuple(slice(t.start - w.start, t.stop - w.start) for t, w in zip(tile, (rows, columns), strict=True))
    reaching = [p for p in range(len(names)) if (weight[p] > 0).any()]
    if len(reaching) > 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            np.divide(total, weight, out=total)
        if len(reaching) < len(names):
            total, weight = total[reaching], weight[reaching]
        origin = (rows.start, columns.start)
        result.image[...] = blend(result.image, total, weight, levels=spec.levels, origin=origin)
    return Combined(*(np.ascontiguousarray(a[inner]) for a in vars(result).values()))


@njit(nogil=True, cache=True)
def add_to_panels(  # type: ignore[no-untyped-def]
    samples, codes, fates, weight, group, total, total_weight
):
    """Add the samples that were used to the weighted sum and the weight of their frames' panels."""
    frames, rows, columns = samples.shape
    unit = 1.0 / (TAPER_CODES * TAPER_CODES)
    for i in range(frames):
        p = group[i]
        for y in range(rows):
            for x in range(columns):
                if fates[i, y, x] == USED:
                    code = float(codes[i, y, x])
                    w = weight[i] * unit * code * code
                    total[p, y, x] += np.float32(w * samples[i, y, x])
                    total_weight[p, y, x] += np.float32(w)


def blend(
    mean: Singles, panels: Singles, weight: Singles, *, levels: int, origin: tuple[int, int] = (0, 0)
) -> Singles:
    """Spread the slow differences of panels over their overlaps.

    Parameters
    ----------
    mean
        (row, column) mean of all frames, NaN = no data.
    panels
        (panel, row, column) means of the frames of each, NaN = no data.
    weight
        Their weights, of the same shape; 0 where there is no data.
    levels
        The slowest band is a Gaussian of 2 ** levels pixels.
    origin
        Row and column of the canvas where the window begins: wide Gaussians are of blocks of the canvas.

    Returns
    -------
    ndarray
        (row, column), the mean where one panel is alone or panels agree.

    Notes
    -----
    Burt & Adelson (1983) with Gaussians in place of a pyramid: mean + Σ over bands and panels of m · band, band
    that of panel - mean. Up to 2 ** `FINE_LEVELS` pixels m is a panel's share of the weight, beyond that share
    times a Gaussian of the band's width over where the panel has most weight (smoothed by the widest), all m
    adding up to 1.
    """
    there = weight > 0
    data = there.any(axis=0)
    share = weight
    with np.errstate(divide="ignore", invalid="ignore"):
        share = weight / weight.sum(axis=0)
    share[~there] = 0.0
    wide = Blur(mean.shape, 2.0**levels, origin)
    # Smoothed, weights that are the same all over the overlap part in its middle.
    most = np.argmax(np.stack([wide(w) for w in weight]), axis=0)
    out = np.where(data, mean, np.float32(0.0))
    smooth = np.where(there, panels - out, np.float32(0.0))
    first = smooth.copy()
    for level in range(1, levels + 2):
        blur = Blur(mean.shape, 2.0 ** min(level, levels), origin)
        slow = level > FINE_LEVELS
        feather = share
        if slow:
            feather = np.stack([blur((most == p).astype(np.float32)) * s for p, s in enumerate(share)])
            total = feather.sum(axis=0)
            # Where no panel has most nearby the share stands.
            np.divide(feather, total, out=feather, where=total > 0)
            np.copyto(feather, share, where=total <= 0)
        for p, here in enumerate(there):
            band = smooth[p]
            if level <= levels:
                coarse = np.where(here, blur.within(first[p], here), np.float32(0.0))
                band, smooth[p] = band - coarse, coarse
            out += feather[p] * band
    return np.where(data & (there.sum(axis=0) > 1), out, mean)


class Blur:
    """Gaussian of a window of the canvas; wide ones of blocks, interpolated between their centres."""

    def __init__(self, shape: tuple[int, int], sigma: float, origin: tuple[int, int]) -> None:
        self.step = int(max(sigma / BLOCK_SIGMA, 1))
        self.sigma = sigma / self.step
        self.starts = [np.arange(-(o % self.step), n, self.step) for o, n in zip(origin, shape, strict=True)]
        self.shape = shape

    def __call__(self, values: Singles) -> Singles:
        """Of all pixels."""
        size = self._blocks(np.ones(self.shape, dtype=np.float32))
        return self._spread(self._gauss(self._blocks(values) / size))

    def within(self, values: Singles, there: NDArray[np.bool_]) -> Singles:
        """Mean over what is there; `values` are 0 elsewhere."""
        total = self._gauss(self._blocks(values))
        number = self._gauss(self._blocks(there.astype(np.float32)))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(number > 0, total / number, np.float32(0.0))
        return self._spread(mean)

    def _gauss(self, values: Singles) -> Singles:
        return np.asarray(gaussian_filter(values, self.sigma, truncate=TRUNCATE, mode="nearest"))

    def _blocks(self, values: Singles) -> Singles:
        if self.step == 1:
            return values
        for axis, starts in enumerate(self.starts):
            values = np.add.reduceat(values, starts.clip(0), axis=axis)
        return values

    def _spread(self, blocks: Singles) -> Singles:
        """Linear interpolation between the blocks' centres."""
        if self.step == 1:
            return blocks
        for axis, (starts, n) in enumerate(zip(self.starts, self.shape, strict=True)):
            at = (np.arange(n) - (starts[0] + 0.5 * (self.step - 1))) / self.step
            at = at.clip(0, len(starts) - 1)
            low = np.minimum(at.astype(np.intp), max(len(starts) - 2, 0))
            high = np.minimum(low + 1, len(starts) - 1)
            part = np.expand_dims((at - low).astype(np.float32), 1 - axis)
            blocks = np.take(blocks, low, axis) * (1 - part) + np.take(blocks, high, axis) * part
        return blocks
