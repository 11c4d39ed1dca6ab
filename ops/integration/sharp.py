"""What is too sharp for a kernel that rings: hot pixels, cosmic rays, stars narrower than 1.7 pixels.

Their light is taken apart: what is too sharp goes to the canvas by bilinear interpolation, which has no rings, the
rest by the kernel. Both keep the sum of the light wherever it falls between canvas pixels; cutting the rings off
instead would keep the light they take away from the peak.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

SURROUNDINGS = 4
"""Pixels around a pixel that say how much of its light is too sharp."""
STANDS_OUT = 4.0
"""Height over the surroundings, in units of their range, from which on a peak is looked at; all of it counts from
twice that on. Peaks of noise are lower."""
NARROW, WIDE = 0.25, 0.58
"""Variance along an axis (px²) up to which all of a peak is too sharp, and from which on nothing is: stars of 0.95
and 1.65 px FWHM. A single pixel has 0, two have 0.25, a star has 0.083 more than its Gaussian."""
BYTES = 4 + 1
"""Working bytes a pixel."""

_1, _2, _3 = (np.uint64(i) for i in range(1, 4))
_NOTHING = (np.empty((0, 0), dtype=np.float32), np.empty((0, 0), dtype=np.uint8))


@njit(nogil=True, cache=True)
def _peaks(flat, at, along, count, marks):  # type: ignore[no-untyped-def]
    """Mark pixels of a row that are peaks along an axis and stand out; say whether there are any."""
    found = 0
    limit = np.float32(STANDS_OUT - 1.0)
    for n in range(count):
        i = at + np.uint64(n)
        c = flat[i]
        p, q = flat[i - _2 * along], flat[i + _2 * along]
        r, s = flat[i - _3 * along], flat[i + _3 * along]
        high, high_far = p if p > q else q, r if r > s else s
        low, low_far = p if p < q else q, r if r < s else s
        high, low = high if high > high_far else high_far, low if low < low_far else low_far
        mark = (c >= flat[i - along]) & (c > flat[i + along]) & (c - high > limit * (high - low))
        marks[n] = mark
        found |= mark
    return found


@njit(nogil=True, cache=True)
def _too_sharp(flat, at, along, across, around):  # type: ignore[no-untyped-def]
    """Part of a peak that is too sharp along an axis, and the level it stands on; 0 where pixels are missing."""
    n = 0
    for j in range(5):
        for side in range(2):
            i = at + np.uint64(j) * across - _2 * across
            i = i - _2 * along if side == 0 else i + _2 * along
            value = flat[i]
            if not np.isfinite(value):
                return 0.0, 0.0
            k = n
            while k > 0 and around[k - 1] > value:
                around[k] = around[k - 1]
                k -= 1
            around[k] = value
            n += 1
    level = float(around[4])
    before, after = float(flat[at - _3 * along]), float(flat[at + _3 * along])
    if not (np.isfinite(before) and np.isfinite(after)):
        return 0.0, 0.0
    spread = max(float(around[9]), before, after) - min(float(around[0]), before, after)
    height = float(flat[at]) - level
    if not height > STANDS_OUT * spread:
        return 0.0, 0.0
    part = 1.0 if height >= 2.0 * STANDS_OUT * spread else height / (STANDS_OUT * spread) - 1.0
    total = first = second = 0.0
    for d in range(5):
        light = max(float(flat[at + np.uint64(d) * along - _2 * along]) - level, 0.0)
        total += light
        first += light * (d - 2)
        second += light * (d - 2) ** 2
    variance = second / total - (first / total) ** 2
    return part * min(max((WIDE - variance) / (WIDE - NARROW), 0.0), 1.0), level


@njit(nogil=True, cache=True)
def find_sharp(image, part, taps, excess, near):  # type: ignore[no-untyped-def]
    """Fill `excess` with the light that is too sharp, times `part`; say of how many peaks.

    `near` is set where a kernel of `taps` × `taps` that begins there meets any of it. Both are zero before.
    """
    rows, columns = image.shape
    flat, light = image.reshape(-1), excess.reshape(-1)
    marks, around = np.empty(columns, dtype=np.uint8), np.empty(10, dtype=np.float32)
    found = 0
    for axis in range(2):
        along, across = (_1, np.uint64(columns)) if axis == 0 else (np.uint64(columns), _1)
        top, left = (2, 3) if axis == 0 else (3, 2)
        count = columns - 2 * left
        if count < 1:
            continue
        for y in range(top, rows - top):
            start = np.uint64(y * columns + left)
            if not _peaks(flat, start, along, count, marks):
                continue
            for n in range(count):
                if not marks[n]:
                    continue
                at = start + np.uint64(n)
                share, level = _too_sharp(flat, at, along, across, around)
                if not share > 0.0:
                    continue
                found += 1
                for d in range(-1, 2):
                    i = at + along if d == 1 else (at if d == 0 else at - along)
                    value = np.float32(part * share * max(float(flat[i]) - level, 0.0))
                    # NaN beside a peak is no light, and a star is sharp along both axes.
                    if not value > light[i]:
                        continue
                    light[i] = value
                    row, column = (y, left + n + d) if axis == 0 else (y + d, left + n)
                    near[max(row - taps + 1, 0) : row + 1, max(column - taps + 1, 0) : column + 1] = 1
    return found


def sharp_light(
    image: NDArray[np.float32], taps: int, *, part: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Light of pixels that is too sharp for a kernel that rings.

    Parameters
    ----------
    image
        Pixels of a window of a frame (float32, C order, NaN = no data). What is said of a pixel depends on those
        within `SURROUNDINGS`.
    taps
        Width of the kernel (pixels).
    part
        Part of that light that is told, 0 … 1.

    Returns
    -------
    excess : ndarray
        float32, shape of the image: light, at least 0, in the image's unit.
    near : ndarray
        uint8: 1 where a kernel whose first pixel is there meets any. Both are empty where there is none.

    Notes
    -----
    A peak is looked at along x and y, with the pixels two and three away as its surroundings: above their lower
    median it has a variance, which does not depend on where between pixels the peak is. From `NARROW` to `WIDE`
    less and less of the peak and its two neighbours is too sharp. Of both axes the larger amount counts.
    """
    if not part > 0.0:
        return _NOTHING
    excess, near = np.zeros(image.shape, dtype=np.float32), np.zeros(image.shape, dtype=np.uint8)
    return (excess, near) if find_sharp(image, part, taps, excess, near) else _NOTHING
