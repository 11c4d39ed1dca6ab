"""Medians, clipped sums and noise inside kernels: the GIL released, the same bits on every machine."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

_LANES = 16


@njit(nogil=True, cache=True, fastmath=False)
def select(values: NDArray[np.float32], count: int, k: int) -> float:
    """Return the k-th smallest of values[:count] (no NaN); reorders them."""
    low, high = 0, count - 1
    while low < high:
        first, middle, last = values[low], values[(low + high) // 2], values[high]
        pivot = max(min(first, middle), min(max(first, middle), last))
        # No branch depends on a value (noise cannot be predicted), and no index can be negative and need a check:
        # a quarter of the time of Hoare's partition.
        place = np.uint64(low)
        for i in range(np.uint64(low), np.uint64(high + 1)):
            value = values[i]
            values[i] = values[place]
            values[place] = value
            place += np.uint64(value < pivot)
        store = int(np.int64(place))
        if k < store:
            high = store - 1
            continue
        low = store
        for i in range(place, np.uint64(high + 1)):
            value = values[i]
            values[i] = values[place]
            values[place] = value
            place += np.uint64(value == pivot)
        store = int(np.int64(place))
        if k < store:
            return float(pivot)
        low = store
    return float(values[k])


@njit(nogil=True, cache=True, fastmath=False)
def median_mad(values: NDArray[np.float32], count: int) -> tuple[float, float]:
    """Median of values[:count] and σ from their median absolute deviation; destroys them."""
    centre = select(values, count, count // 2)
    for i in range(count):
        values[i] = abs(values[i] - centre)
    return centre, 1.4826022 * select(values, count, count // 2)


@njit(nogil=True, cache=True, fastmath=False)
def clipped_sums(values: NDArray[np.float32], count: int, centre: float, reach: float) -> tuple[float, float, int]:
    """Sum and sum of squares of the differences from `centre` of the values within `reach` of it; their number."""
    # Lanes of fixed order run in vector registers of any width, and give the same bits in each.
    sums = np.zeros((3, _LANES))
    first, second, number = sums[0], sums[1], sums[2]
    whole = count - count % _LANES
    for i in range(0, whole, _LANES):
        for k in range(_LANES):
            d = values[i + k] - centre
            inside = abs(d) <= reach
            d = d if inside else 0.0
            first[k] += d
            second[k] += d * d
            number[k] += 1.0 if inside else 0.0
    for i in range(whole, count):
        d = values[i] - centre
        if abs(d) <= reach:
            first[0] += d
            second[0] += d * d
            number[0] += 1.0
    sum1, sum2, used = 0.0, 0.0, 0.0
    for k in range(_LANES):
        sum1 += first[k]
        sum2 += second[k]
        used += number[k]
    return sum1, sum2, int(used)


@njit(nogil=True, cache=True, fastmath=False)
def clipped_rms(values: NDArray[np.float32], count: int) -> float:
    """Rms about 0 of what lies within ±2.5σ, corrected for the cut; reorders nothing.

    The median deviation alone has steps where pixels are quantized; the clipped rms hardly any (a cut at 2σ does).
    """
    copy = np.abs(values[:count])
    sigma = 1.4826022 * select(copy, count, count // 2)
    for _ in range(12):
        _, sum2, used = clipped_sums(values, count, 0.0, 2.5 * sigma)
        if used < 8:
            break
        last = sigma
        sigma = np.sqrt(sum2 / used) / 0.9545975  # rms of a unit Gaussian cut at ±2.5
        if abs(sigma - last) <= 1e-3 * sigma:
            break
    return float(sigma)
