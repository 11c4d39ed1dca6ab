"""Eight bits a pixel: the pixel values at which a curve takes its steps, and pixels looked up among them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

STEPS = 255
_INFINITE = 0x7F800000
"""Bits of float32 infinity."""


def curve_steps(
    show: Callable[[NDArray[np.float64]], NDArray[np.float64]], planes: int, *, shades: int = STEPS + 1
) -> NDArray[np.float32]:
    """Least pixel value at which each plane is shown by shade 1, 2, … of 0 to `shades` - 1.

    Found by bisection among all numbers that float32 has, so that looking up is rounding what `show` gives, bit by
    bit.

    Parameters
    ----------
    show
        Shown values 0…1 of pixels, both of shape (planes, n): each plane for itself, and rising.
    planes
        How many.
    shades
        2 to 256.

    Returns
    -------
    ndarray
        float32, shape (planes, 255), rising; NaN where the curve never comes so far, and for shades there are not.
    """
    wanted = np.broadcast_to(np.arange(1, STEPS + 1), (planes, STEPS))
    low = np.full((planes, STEPS), -_INFINITE - 1, np.int64)
    high = np.full((planes, STEPS), _INFINITE + 1, np.int64)
    while (high - low > 1).any():
        middle = (low + high) // 2
        reached = np.rint((shades - 1) * show(_numbers(middle).astype(np.float64))) >= wanted
        low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return np.where(
        (high > _INFINITE) | (wanted >= shades), np.float32(np.nan), _numbers(np.minimum(high, _INFINITE))
    )


def _numbers(ranks: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 by rank, from -∞ to ∞; 0 is 0."""
    bits = np.where(ranks < 0, 0x80000000 - ranks, ranks)
    return bits.astype(np.uint32).view(np.float32)


def stepped(pixels: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Shown value of each pixel.

    Parameters
    ----------
    pixels
        Shape (planes, rows, columns), NaN = no data.
    steps
        From `curve_steps`.

    Returns
    -------
    ndarray
        Shape (rows, columns, planes + 1): the shade of each plane, then 255 where all have data; 0 where not.
    """
    out = np.empty((*pixels.shape[1:], len(pixels) + 1), np.uint8)
    _look_up(np.ascontiguousarray(pixels, np.float32), steps, out)
    return out


@njit(nogil=True, cache=True)
def _look_up(pixels, steps, out):  # type: ignore[no-untyped-def]
    planes, height, width = pixels.shape
    for y in range(height):
        for x in range(width):
            there = True
            for p in range(planes):
                there = there and not np.isnan(pixels[p, y, x])
            out[y, x, planes] = 255 if there else 0
        for p in range(planes):
            row = steps[p]
            for x in range(width):
                value = pixels[p, y, x]
                # Without branches: noise would mislead each of them.
                k = 128 * (value >= row[127])
                k += 64 * (value >= row[k + 63])
                k += 32 * (value >= row[k + 31])
                k += 16 * (value >= row[k + 15])
                k += 8 * (value >= row[k + 7])
                k += 4 * (value >= row[k + 3])
                k += 2 * (value >= row[k + 1])
                k += value >= row[k]
                out[y, x, p] = k if out[y, x, planes] else 0
