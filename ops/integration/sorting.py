"""Sorting across the frames of a stack, many pixels side by side."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

LANES = 64
"""Pixels sorted side by side."""


@lru_cache(maxsize=16)
def networks(frames: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Batcher's odd-even merge sorts for 1, 2, 4 … items up to `frames`: pairs (i, j), i < j; first pair of each.

    Numbers in between are sorted by the next larger network without the pairs beyond them (held by infinity).
    """
    pairs: list[tuple[int, int]] = []
    starts = [0]
    for level in range(max(frames - 1, 0).bit_length() + 1):
        size, p = 2**level, 1
        while p < size:
            k = p
            while k >= 1:
                for j in range(k % p, size - k, 2 * k):
                    for i in range(j, j + min(k, size - j - k)):
                        if i // (2 * p) == (i + k) // (2 * p):
                            pairs.append((i, i + k))
                k //= 2
            p *= 2
        starts.append(len(pairs))
    return np.asarray(pairs, dtype=np.int32).reshape(-1, 2), np.asarray(starts, dtype=np.int32)


@njit(nogil=True, cache=True)
def sort_lanes(values, used, lanes, pairs, starts):  # type: ignore[no-untyped-def]
    """Sort the first `used` rows of (frame, lane) values down each lane."""
    level = 0
    while (1 << level) < used:
        level += 1
    for at in range(starts[level], starts[level + 1]):
        if pairs[at, 1] >= used:
            continue
        first, second = values[pairs[at, 0]], values[pairs[at, 1]]
        for p in range(lanes):
            a, b = first[p], second[p]
            first[p] = a if a < b else b
            second[p] = b if a < b else a
