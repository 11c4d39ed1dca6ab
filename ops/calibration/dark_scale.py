"""Scale of a dark for a light of another exposure or temperature: what takes the hot pixels' contrast away.

Pixels of clear dark current stand out of their neighbours in the dark and, times k, in the light. k is the robust
slope of the one contrast against the other: the closed form of the search for the least noise of
(L − B) − k (D − B) over those pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.calibration.members import (
    OK,
    SCALE_LIMITED,
    SCALE_UNKNOWN,
    Member,
    mask_saturated,
    read_window,
)
from skyloom.ops.calibration.references import Reference
from skyloom.ops.calibration.strips import STRIP

MOST_PIXELS = 200_000
"""Pixels used at most, those of most dark current."""
LEAST_PIXELS = 50
"""Of fewer the scale is not known."""
WORST_ERROR = 0.1
"""Relative error of a scale that counts as known."""

_TUKEY = 4.685
_LEAST_NEIGHBOURS = 4

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class DarkCurrent:
    """What is scaled: dark minus bias."""

    dark: Reference
    bias: Reference
    step: int
    """Pixels to a neighbour: 2 behind a colour filter array, where the light's neighbours are of other colours."""
    threshold: float
    """A pixel of clear dark current is this far above the others (σ)."""


@dataclass(frozen=True)
class Scale:
    """Scale of a dark, and how well it is known."""

    value: float
    error: float
    status: int
    """OK, SCALE_UNKNOWN (then the ratio of the exposures) or SCALE_LIMITED."""


@dataclass(frozen=True)
class _Contrast:
    """Pixels of clear dark current, in the order of rows."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    value: Floats
    """Above the median of their neighbours (DN)."""
    variance: Floats


def dark_scale(
    light: Member, bias: Reference, current: DarkCurrent, *, ratio: float, low: float, high: float
) -> Scale:
    """Scale of a dark for a light.

    Parameters
    ----------
    light
        The frame.
    bias
        What is taken off it.
    current
        Dark and the bias that belongs to it.
    ratio
        Exposure of the light over that of the dark; NaN = unknown, then 1.
    low, high
        Bounds, in units of `ratio`.

    Raises
    ------
    DataError, OSError
        If the light cannot be read.

    Notes
    -----
    Tukey's biweight by iterated reweighting from the weighted median of the ratios; stars and cosmic rays on those
    pixels are outliers. The noise of the masters in the contrast of the dark is taken off the denominator, which
    would make k too small.
    """
    centre = ratio if math.isfinite(ratio) and ratio > 0 else 1.0
    pixels = _clear_pixels(current)
    if pixels.row.size < LEAST_PIXELS:
        return Scale(centre, math.nan, SCALE_UNKNOWN)
    seen = _light_contrast(light, bias, current, pixels)
    good = np.isfinite(seen) & np.isfinite(pixels.value)
    if good.sum() < LEAST_PIXELS:
        return Scale(centre, math.nan, SCALE_UNKNOWN)
    value, error = robust_slope(pixels.value[good], seen[good], pixels.variance[good])
    if not (math.isfinite(value) and error <= WORST_ERROR * centre):
        return Scale(centre, math.nan, SCALE_UNKNOWN)
    bounded = min(max(value, low * centre), high * centre)
    return Scale(bounded, error, OK if bounded == value else SCALE_LIMITED)


def robust_slope(x: Floats, y: Floats, variance: Floats) -> tuple[float, float]:
    """Slope of y = k x and its error; `variance` is that of x."""
    order = np.argsort(y / x)
    weight = np.cumsum(np.abs(x[order]))
    slope = float((y / x)[order[np.searchsorted(weight, 0.5 * weight[-1])]])
    kept = np.ones(x.size)
    for _ in range(50):
        rest = y - slope * x
        width = 1.4826 * float(np.median(np.abs(rest)))
        kept = (1.0 - np.clip(rest / (_TUKEY * max(width, 1e-12)), -1.0, 1.0) ** 2) ** 2
        before = slope
        denominator = float((kept * (x * x - variance)).sum())
        if not denominator > 0:
            return math.nan, math.inf
        slope = float((kept * x * y).sum()) / denominator
        if abs(slope - before) <= 1e-7 * abs(slope):
            break
    # Of an M estimate (Huber 1981, 6.3): the spread of its terms over their mean slope, not over their weight.
    square = np.minimum((rest / (_TUKEY * max(width, 1e-12))) ** 2, 1.0)
    steepness = float(((1.0 - square) * (1.0 - 5.0 * square) * (x * x - variance)).sum())
    if not steepness > 0:
        return slope, math.inf
    return slope, math.sqrt(float((kept**2 * x * x * rest * rest).sum())) / steepness


@lru_cache(maxsize=8)
def _clear_pixels(current: DarkCurrent) -> _Contrast:
    """Pixels of clear dark current; kept in the process, every light asks."""
    dark, bias = current.dark, current.bias
    shape = dark.shape
    sample = dark.sample() - bias.sample()
    known = sample[np.isfinite(sample)]
    if not known.size:
        nowhere = np.empty(0, np.int64)
        return _Contrast(nowhere, nowhere, np.empty(0), np.empty(0))
    level = float(np.median(known))
    width = 1.4826 * float(np.median(np.abs(known - level)))
    limit = level + current.threshold * max(width, 1e-6)
    parts = []
    for first in range(0, shape[0], STRIP):
        rows = slice(first, min(first + STRIP, shape[0]))
        wide = _widened(rows, shape[0], current.step)
        excess = dark.level(wide) - bias.level(wide)
        inner = excess[rows.start - wide.start : rows.stop - wide.start]
        y, x = np.nonzero(inner > limit)
        value = contrast(excess, y + rows.start - wide.start, x, current.step)
        noise = dark.noise(rows)[y, x] + bias.noise(rows)[y, x]
        parts.append(np.stack([y + first, x, value, np.nan_to_num(noise)]))
    table = np.concatenate(parts, axis=1)
    table = table[:, table[2] > 0.5 * (limit - level)]
    if table.shape[1] > MOST_PIXELS:
        table = table[:, np.sort(np.argsort(-table[2], kind="stable")[:MOST_PIXELS])]
    return _Contrast(table[0].astype(np.int64), table[1].astype(np.int64), table[2], table[3])


def _light_contrast(light: Member, bias: Reference, current: DarkCurrent, pixels: _Contrast) -> Floats:
    """Contrast of the same pixels in the light, NaN where it is saturated there."""
    shape = current.dark.shape
    everything = slice(0, shape[1])
    out = np.full(pixels.row.size, np.nan)
    for first in range(0, shape[0], STRIP):
        rows = slice(first, min(first + STRIP, shape[0]))
        begin, end = np.searchsorted(pixels.row, (rows.start, rows.stop))
        if begin == end:
            continue
        wide = _widened(rows, shape[0], current.step)
        image = mask_saturated(light, read_window(light, wide, everything))
        image -= np.float32(light.pedestal)
        image -= bias.level(wide)
        out[begin:end] = contrast(
            image, pixels.row[begin:end] - wide.start, pixels.column[begin:end], current.step
        )
    return out


def _widened(rows: slice, height: int, step: int) -> slice:
    return slice(max(rows.start - step, 0), min(rows.stop + step, height))


@njit(nogil=True, cache=True, fastmath=False)
def contrast(image, row, column, step):  # type: ignore[no-untyped-def]
    """How far pixels are above the median of their eight neighbours at `step`; NaN where too few are known."""
    height, width = image.shape
    out = np.full(row.size, np.nan)
    near = np.empty(8)
    for k in range(row.size):
        y, x = row[k], column[k]
        n = 0
        for dy in range(-step, step + 1, step):
            for dx in range(-step, step + 1, step):
                j, i = y + dy, x + dx
                if (dy != 0 or dx != 0) and 0 <= j < height and 0 <= i < width:
                    v = image[j, i]
                    if v == v:
                        near[n] = v
                        n += 1
        if n >= _LEAST_NEIGHBOURS and image[y, x] == image[y, x]:
            out[k] = float(image[y, x]) - np.median(near[:n])
    return out
