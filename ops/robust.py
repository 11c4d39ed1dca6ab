"""Order statistics inside kernels: in place, without allocating, the GIL released."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(nogil=True, cache=True, fastmath=False)
def select(values: NDArray[np.float32], count: int, k: int) -> float:
    """Return the k-th smallest of values[:count]; reorders them (Hoare)."""
    low, high = 0, count - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return float(values[k])


@njit(nogil=True, cache=True, fastmath=False)
def median_mad(values: NDArray[np.float32], count: int) -> tuple[float, float]:
    """Median of values[:count] and σ from their median absolute deviation; destroys them."""
    centre = select(values, count, count // 2)
    for i in range(count):
        values[i] = abs(values[i] - centre)
    return centre, 1.4826022 * select(values, count, count // 2)


@njit(nogil=True, cache=True, fastmath=False)
def clipped_rms(values: NDArray[np.float32], count: int) -> float:
    """Rms about 0 of what lies within ±2.5σ, corrected for the cut; reorders nothing.

    The median deviation alone has steps where pixels are quantized; the clipped rms hardly any (a cut at 2σ does).
    """
    copy = np.abs(values[:count])
    sigma = 1.4826022 * select(copy, count, count // 2)
    for _ in range(12):
        sum2, used = 0.0, 0
        for i in range(count):
            if abs(values[i]) <= 2.5 * sigma:
                sum2 += values[i] * values[i]
                used += 1
        if used < 8:
            break
        last = sigma
        sigma = np.sqrt(sum2 / used) / 0.9545975  # rms of a unit Gaussian cut at ±2.5
        if abs(sigma - last) <= 1e-3 * sigma:
            break
    return float(sigma)
