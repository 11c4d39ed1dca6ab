"""How far one frame is from what the other frames agree on, in units of what chance and the sky explain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.integration.combine import median_loss
from skyloom.ops.integration.tolerance import CENTRE_RANGE
from skyloom.ops.robust import median_mad

Plane = NDArray[np.float32]

CELL = 24
"""Blocks a side of the cells that tell the local level and scatter of a difference."""
TOLERANCE = 0.5
"""Standard error of a difference in units of the range of the sky over 3 × 3 blocks: stars in changing seeing."""
UNRULY = 2.0
"""Where the frames scatter more than this many times their noise, all of it counts as noise."""
LEAST_CELL = 60
"""Blocks a cell needs to say something."""


@dataclass(frozen=True)
class Difference:
    """One frame against the others, on its window of the coarse canvas; NaN = nothing to compare."""

    value: Plane
    """Frame less the median of the others (canvas units), its own median taken off."""
    error: Plane
    """Standard error of `value`: noise of frame and median, differing seeing, scatter of the frames."""
    local: Plane
    """Median of `value` over some hundred pixels around."""


@njit(nogil=True, cache=True)
def _median_of_others(value, low, middle, high, count):  # type: ignore[no-untyped-def]
    """Median of the samples of a place without one of them."""
    half = np.float32(0.5)
    if count % 2 == 0:
        return high if value <= low else low
    if value < middle:
        return half * (middle + high)
    if value > middle:
        return half * (low + middle)
    return half * (low + high)


@njit(nogil=True, cache=True)
def subtract(frame, low, middle, high, spread, count, noise, loss, tolerance, value, error):  # type: ignore[no-untyped-def]
    """Fill `value` and `error`; `loss[m]` is the variance of the median of m samples over that of their mean."""
    rows, columns = frame.shape
    nan = np.float32(np.nan)
    for y in range(rows):
        for x in range(columns):
            n = int(count[y, x])
            value[y, x] = error[y, x] = nan
            if n < 2 or not np.isfinite(frame[y, x]):
                continue
            value[y, x] = frame[y, x] - _median_of_others(frame[y, x], low[y, x], middle[y, x], high[y, x], n)
            variance = noise * noise * (1.0 + loss[n - 1] / (n - 1))
            # Of two samples the lower: the mean has half of what is to be found in it.
            lowest = np.inf
            highest = -np.inf
            for j in range(max(y - 1, 0), min(y + 2, rows)):
                for i in range(max(x - 1, 0), min(x + 2, columns)):
                    sky = low[j, i] if count[j, i] == 2 else middle[j, i]
                    if np.isfinite(sky):
                        lowest = min(lowest, sky)
                        highest = max(highest, sky)
            chance = CENTRE_RANGE * noise * np.sqrt(loss[n] / n)
            if highest - lowest > chance:
                variance += tolerance * tolerance * ((highest - lowest) ** 2 - chance * chance)
            if spread[y, x] > UNRULY * noise:
                variance += spread[y, x] * spread[y, x]
            error[y, x] = np.sqrt(variance)


@njit(nogil=True, cache=True)
def _cells(value, error, bound, cell, level, scatter):  # type: ignore[no-untyped-def]
    """Median of `value` and robust scatter of value / error of each cell, over what errs by less than `bound`."""
    rows, columns = value.shape
    buffer = np.empty(cell * cell, dtype=np.float32)
    for cy in range(level.shape[0]):
        for cx in range(level.shape[1]):
            n = 0
            for y in range(cy * cell, min((cy + 1) * cell, rows)):
                for x in range(cx * cell, min((cx + 1) * cell, columns)):
                    if error[y, x] < bound:
                        buffer[n] = value[y, x]
                        n += 1
            level[cy, cx] = scatter[cy, cx] = np.nan
            if n >= LEAST_CELL:
                centre, sigma = median_mad(buffer, n)
                level[cy, cx] = centre
                scatter[cy, cx] = sigma


@njit(nogil=True, cache=True)
def _spread_out(cells, cell, out):  # type: ignore[no-untyped-def]
    """Bilinear interpolation of cells without gaps."""
    rows, columns = out.shape
    for y in range(rows):
        v = min(max((y + 0.5) / cell - 0.5, 0.0), cells.shape[0] - 1.0)
        j = min(int(v), max(cells.shape[0] - 2, 0))
        k = min(j + 1, cells.shape[0] - 1)
        for x in range(columns):
            u = min(max((x + 0.5) / cell - 0.5, 0.0), cells.shape[1] - 1.0)
            i = min(int(u), max(cells.shape[1] - 2, 0))
            r = min(i + 1, cells.shape[1] - 1)
            top = cells[j, i] + (u - i) * (cells[j, r] - cells[j, i])
            bottom = cells[k, i] + (u - i) * (cells[k, r] - cells[k, i])
            out[y, x] = top + (v - j) * (bottom - top)


def _filled(cells: Plane, otherwise: float) -> Plane:
    """Median over 3 × 3 cells, so that nothing of one cell alone counts; where none says anything, one number."""
    padded = np.pad(cells, 1, constant_values=np.nan)
    views = np.stack([padded[j : j + cells.shape[0], i : i + cells.shape[1]] for j in range(3) for i in range(3)])
    known = np.isfinite(views).any(axis=0)
    out = np.full(cells.shape, otherwise, dtype=np.float32)
    out[known] = np.nanmedian(views[:, known], axis=0)
    return out


def compare(
    frame: Plane, low: Plane, middle: Plane, high: Plane, spread: Plane, count: Plane, *, noise: float
) -> Difference | None:
    """Compare a frame with the others; None where nothing can be said of it.

    Parameters
    ----------
    frame
        Block means on a window of the coarse canvas, normalized (canvas units).
    low, middle, high, spread, count
        The same window of `consensus`, in which the frame itself counts.
    noise
        Of a block mean, by the frame's own noise (canvas units).
    """
    value, error = np.empty_like(frame), np.empty_like(frame)
    loss = np.maximum(median_loss(int(np.nanmax(count, initial=2.0)) + 1), 1.0)
    subtract(frame, low, middle, high, spread, count, noise, loss, TOLERANCE, value, error)
    bound = 2.0 * noise * np.sqrt(2.0)
    plain = np.isfinite(value) & (error < bound)
    if plain.sum() < LEAST_CELL:
        return None
    value -= np.float32(np.median(value[plain]))
    shape = tuple(-(-n // CELL) for n in frame.shape)
    level, scatter = np.empty((2, *shape), dtype=np.float32)
    _cells(value, error, bound, CELL, level, scatter)
    local, noisy = np.empty_like(frame), np.empty_like(frame)
    _spread_out(_filled(level, 0.0), CELL, local)
    known = scatter[np.isfinite(scatter)]
    _spread_out(_filled(scatter, float(np.median(known)) if known.size else noise), CELL, noisy)
    # Noise of blocks that interpolation has smoothed is less than stated, that of bright nebulae is more: what is
    # seen counts. The rest of the error comes on top.
    expected = noise * np.sqrt(1.0 + loss[np.maximum(count - 1, 1).astype(np.int64)] / np.maximum(count - 1, 1))
    error = np.sqrt(np.maximum(error**2 - expected**2, 0.0) + noisy**2).astype(np.float32)
    return Difference(value, error, local)
