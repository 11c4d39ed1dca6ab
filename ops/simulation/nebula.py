"""Surface brightness of gas and dust from hashed lattices: structure on every scale, at any place."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.simulation.hashing import mix, uniform


@njit(nogil=True, cache=True, fastmath=False)
def add_octave(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    spacing: float,
    key: np.uint64,
    amplitude: float,
    out: NDArray[np.float64],
) -> None:
    """Add a cubic B-spline over a lattice of hashed values in −1…1 at the points x, y."""
    values = np.empty((4, 4))
    last_i, last_j = np.int64(1 << 40), np.int64(1 << 40)
    for n in range(x.size):
        px, py = x[n] / spacing, y[n] / spacing
        i, j = np.int64(math.floor(px)), np.int64(math.floor(py))
        if i != last_i or j != last_j:
            for b in range(4):
                row = mix(key, np.uint64(j + b + 1048576))
                for a in range(4):
                    values[b, a] = 2.0 * uniform(mix(row, np.uint64(i + a + 1048576))) - 1.0
            last_i, last_j = i, j
        t = px - i
        s = 1.0 - t
        w0, w3 = s * s * s, t * t * t
        w1, w2 = 3.0 * w3 - 6.0 * t * t + 4.0, 3.0 * w0 - 6.0 * s * s + 4.0
        t = py - j
        s = 1.0 - t
        v0, v3 = s * s * s, t * t * t
        v1, v2 = 3.0 * v3 - 6.0 * t * t + 4.0, 3.0 * v0 - 6.0 * s * s + 4.0
        total = v0 * (w0 * values[0, 0] + w1 * values[0, 1] + w2 * values[0, 2] + w3 * values[0, 3])
        total += v1 * (w0 * values[1, 0] + w1 * values[1, 1] + w2 * values[1, 2] + w3 * values[1, 3])
        total += v2 * (w0 * values[2, 0] + w1 * values[2, 1] + w2 * values[2, 2] + w3 * values[2, 3])
        total += v3 * (w0 * values[3, 0] + w1 * values[3, 1] + w2 * values[3, 2] + w3 * values[3, 3])
        out[n] += amplitude * total / 36.0


@njit(nogil=True, cache=True, inline="always")
def _ramp(value: float) -> float:
    """C2 stand-in of max(value, 0)."""
    return 0.5 * (value + math.sqrt(value * value + 0.04))


@njit(nogil=True, cache=True, fastmath=False)
def add_nebula(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    key: np.uint64,
    spacings: NDArray[np.float64],
    lobes: NDArray[np.float64],
    shares: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Surface brightness of each band (axis 0 of `out`) at plane positions x, y (degrees)."""
    rows, columns = x.shape
    octaves = spacings.size
    gas, veil, mood = np.empty(columns), np.empty(columns), np.empty(columns)
    for r in range(rows):
        gas[:] = 0.0
        veil[:] = 0.0
        mood[:] = 0.0
        xr, yr = x[r], y[r]
        for o in range(octaves):
            # 3.6 makes an octave's rms 1; amplitude ~ spacing^0.6 is close to the spectrum of cirrus.
            amplitude = 3.6 * (spacings[o] / spacings[0]) ** 0.6
            add_octave(xr, yr, spacings[o], mix(key, np.uint64(o)), amplitude, gas)
            if o < octaves - 2:
                add_octave(yr, xr, 0.7 * spacings[o], mix(key, np.uint64(o + 64)), amplitude, veil)
            if o < 2:
                add_octave(xr, yr, 1.1 * spacings[o], mix(key, np.uint64(o + 128)), amplitude, mood)
        for c in range(columns):
            core = 0.0
            for k in range(lobes.shape[0]):
                dx, dy = xr[c] - lobes[k, 0], yr[c] - lobes[k, 1]
                core += lobes[k, 3] * math.exp(-(dx * dx + dy * dy) * lobes[k, 2])
            body = _ramp(0.5 + 0.45 * gas[c] + core)
            ridge = math.exp(-((veil[c] * 1.6) ** 2))
            dust = math.exp(-1.2 * _ramp(0.8 * veil[c] - 0.9))
            light = body * body * (0.35 + 0.65 * ridge) * dust
            tone = 1.0 / (1.0 + math.exp(-2.0 * mood[c]))
            hydrogen = light * (0.35 + 0.65 * tone)
            oxygen = light * body * (1.0 - tone) * 0.6
            reflection = 0.25 * body * (1.2 - dust)
            for b in range(shares.shape[0]):
                out[b, r, c] = shares[b, 0] * hydrogen + shares[b, 1] * oxygen + shares[b, 2] * reflection
