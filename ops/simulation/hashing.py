"""Random numbers as hashes of what they are for: any part of a frame or a sky is the same as of the whole."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@njit(nogil=True, cache=True, inline="always")
def mix(key: np.uint64, counter: np.uint64) -> np.uint64:
    """Hash a counter under a key (the finalizer of SplitMix64, Steele et al. 2014)."""
    z = key + (counter + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True, inline="always")
def uniform(bits: np.uint64) -> float:
    """Turn 64 random bits into a number inside (0, 1), ends excluded."""
    return (float(bits >> np.uint64(12)) + 0.5) * (1.0 / 4503599627370496.0)


@njit(nogil=True, cache=True, inline="always")
def normal(bits: np.uint64) -> float:
    """Turn 64 random bits into a standard normal number (Box and Muller 1958)."""
    u1 = (float(bits >> np.uint64(32)) + 0.5) * (1.0 / 4294967296.0)
    u2 = float(bits & np.uint64(0xFFFFFFFF)) * (1.0 / 4294967296.0)
    return math.sqrt(-2.0 * math.log(u1)) * math.cos(2.0 * math.pi * u2)


@njit(nogil=True, cache=True)
def poisson(mean: float, u: float) -> int:
    """Poisson quantile of `u`; for small means."""
    term = math.exp(-mean)
    total = term
    k = 0
    while u > total and k < 1000:
        k += 1
        term *= mean / k
        total += term
    return k


def hash_key(*parts: int) -> np.uint64:
    """Key of a random stream from integers (seed, frame, purpose, …)."""
    mask = (1 << 64) - 1
    state = 0x51A7
    for part in parts:
        state = (state + (int(part) & mask) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return np.uint64(state)


def random_stream(*parts: int) -> np.random.Generator:
    """Sequential generator for a handful of numbers, keyed as `hash_key`."""
    return np.random.Generator(np.random.Philox(int(hash_key(*parts))))
