"""Convolution of a plane with a symmetric kernel, its taps some pixels apart, along both axes."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@njit(nogil=True, cache=True, fastmath=False)
def _pair(line: Floats, low: Floats, high: Floats, tap: float) -> None:
    """Add tap · (low + high) to a line."""
    for x in range(line.size):
        line[x] += tap * (low[x] + high[x])


@njit(nogil=True, cache=True, fastmath=False)
def _two_pairs(
    line: Floats, low: Floats, high: Floats, tap: float, low2: Floats, high2: Floats, tap2: float
) -> None:
    """Do as `_pair` for two of them: half the loads and stores of the line."""
    for x in range(line.size):
        line[x] += tap * (low[x] + high[x]) + tap2 * (low2[x] + high2[x])


@njit(nogil=True, cache=True, fastmath=False)
def convolve(plane: Floats, half: Floats, step: int, margin: int, out: Floats) -> None:
    """Convolve with a symmetric kernel along both axes; beyond the array is nothing.

    Parameters
    ----------
    plane
        Shape (rows, columns), finite.
    half
        Middle tap of the kernel and those of one of its sides.
    step
        Distance of the taps (pixels).
    margin
        Rows and columns on each side of the plane that are not wanted.
    out
        The plane less its margin, written.
    """
    height, width = plane.shape
    rows, columns = out.shape
    reach = (half.size - 1) * step
    # Sums along y of one row, with nothing around, then along x.
    line, nothing = np.zeros(width + 2 * reach), np.zeros(width)
    inner = line[reach : reach + width]
    first = reach + margin
    for y in range(margin, margin + rows):
        middle = plane[y]
        for x in range(width):
            inner[x] = half[0] * middle[x]
        k = 1
        while k < half.size:
            d = k * step
            low = plane[y - d] if y >= d else nothing
            high = plane[y + d] if y + d < height else nothing
            if k + 1 < half.size:
                d += step
                low2 = plane[y - d] if y >= d else nothing
                high2 = plane[y + d] if y + d < height else nothing
                _two_pairs(inner, low, high, half[k], low2, high2, half[k + 1])
            else:
                _pair(inner, low, high, half[k])
            k += 2
        target, middle = out[y - margin], line[first : first + columns]
        for x in range(columns):
            target[x] = half[0] * middle[x]
        k = 1
        while k < half.size:
            d = k * step
            low, high = line[first - d : first - d + columns], line[first + d : first + d + columns]
            if k + 1 < half.size:
                d += step
                low2, high2 = line[first - d : first - d + columns], line[first + d : first + d + columns]
                _two_pairs(target, low, high, half[k], low2, high2, half[k + 1])
            else:
                _pair(target, low, high, half[k])
            k += 2
