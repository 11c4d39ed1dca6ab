"""Rings and apertures around stars."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.robust import median_mad

Floats = NDArray[np.float64]


@njit(nogil=True, cache=True, fastmath=False)
def ring(
    image: NDArray[np.float32],
    x: float,
    y: float,
    inner: float,
    outer: float,
    stride: int,
    buffer: NDArray[np.float32],
) -> tuple[float, float, int]:
    """Mean of every `stride`-th pixel of a ring within 2.5σ of their median, their rms, their number.

    `buffer` holds twice as many pixels as the ring may have. NaN with fewer than 12.
    """
    height, width = image.shape
    count, seen = 0, 0
    inner2, outer2 = inner * inner, outer * outer
    for row in range(max(math.ceil(y - outer), 0), min(math.floor(y + outer) + 1, height)):
        dy2 = (row - y) ** 2
        for column in range(max(math.ceil(x - outer), 0), min(math.floor(x + outer) + 1, width)):
            r2 = dy2 + (column - x) ** 2
            if inner2 <= r2 <= outer2:
                seen += 1
                if seen % stride:
                    continue
                value = image[row, column]
                if np.isfinite(value) and count < buffer.size // 2:
                    buffer[count] = value
                    count += 1
    if count < 12:
        return np.nan, np.nan, count
    half = buffer.size // 2
    centre, sigma = 0.0, 0.0
    total = count
    for _ in range(2):
        buffer[half : half + count] = buffer[:count]
        centre, sigma = median_mad(buffer[half:], count)
        kept = 0
        for i in range(count):
            if abs(buffer[i] - centre) <= 2.5 * sigma:
                buffer[kept] = buffer[i]
                kept += 1
        settled = kept > 0.97 * count
        count = kept
        if settled or count < 12:
            break
    sum1, sum2 = 0.0, 0.0
    for i in range(count):
        d = buffer[i] - centre
        sum1 += d
        sum2 += d * d
    if count == 0:
        return centre, sigma, total
    mean = sum1 / count
    return centre + mean, max(sigma, math.sqrt(max(sum2 / count - mean * mean, 0.0))), count


@njit(nogil=True, cache=True, fastmath=False)
def aperture_sums(
    image: NDArray[np.float32], x: Floats, y: Floats, radius: float, inner: float, outer: float, out: Floats
) -> None:
    """Sum the pixels of a circle around each position, above the level of a ring.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    x, y
        Positions (pixels).
    radius, inner, outer
        Of the aperture and of the ring (pixels).
    out
        Shape (positions, 6), written: flux, area, background rms, background pixels, whether NaN or outside (0/1),
        highest pixel.
    """
    height, width = image.shape
    buffer = np.empty(2 * int(4 * outer * outer + 8 * outer + 16), np.float32)
    for i in range(x.size):
        level, rms, count = ring(image, x[i], y[i], inner, outer, 1, buffer)
        total, area, broken, top = 0.0, 0.0, 0.0, -np.inf
        for row in range(math.floor(y[i] - radius), math.ceil(y[i] + radius) + 1):
            for column in range(math.floor(x[i] - radius), math.ceil(x[i] + radius) + 1):
                # A soft edge one pixel wide: exact to 1e-3 of a pixel where the profile has nearly ended.
                share = radius + 0.5 - math.sqrt((row - y[i]) ** 2 + (column - x[i]) ** 2)
                if share <= 0.0:
                    continue
                if row < 0 or column < 0 or row >= height or column >= width:
                    broken = 1.0
                    continue
                value = image[row, column]
                if not np.isfinite(value):
                    broken = 1.0
                    continue
                share = min(share, 1.0)
                total += share * (value - level)
                area += share
                top = max(top, value)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = total, area, rms, count
        out[i, 4], out[i, 5] = broken, top
