"""Stars: which there are in a part of the sky, and their images in a frame."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.simulation.hashing import mix, poisson, uniform

MOFFAT_BETA = 3.5
"""Wing exponent of the point spread function: between a turbulent atmosphere's 4.8 and optics' 2.5."""
STAR_FLOOR = 0.01
"""A star's stamp ends where its profile falls below this (sky units per pixel)."""
STAR_REACH = 6.0
"""Least radius of a stamp (FWHM); 1.7e-4 of a Moffat's flux lies beyond."""


@njit(nogil=True, cache=True, fastmath=False)
def cell_stars(
    key: np.uint64,
    i0: int,
    i1: int,
    j0: int,
    j1: int,
    cell: float,
    mean: float,
    faint: float,
    bright: float,
    slope: float,
) -> NDArray[np.float64]:
    """Stars of cells i0 ≤ i < i1, j0 ≤ j < j1: rows of x, y (degrees), flux, colour (−1…1)."""
    count = 0
    for j in range(j0, j1):
        for i in range(i0, i1):
            row = mix(key, np.uint64(np.int64(j) + 1048576))
            count += poisson(mean, uniform(mix(row, np.uint64(np.int64(i) + 1048576))))
    out = np.empty((count, 4))
    n = 0
    span = 1.0 - (bright / faint) ** (-slope)
    for j in range(j0, j1):
        for i in range(i0, i1):
            row = mix(key, np.uint64(np.int64(j) + 1048576))
            bits = mix(row, np.uint64(np.int64(i) + 1048576))
            for k in range(poisson(mean, uniform(bits))):
                star = mix(bits, np.uint64(k))
                out[n, 0] = (i + uniform(mix(star, np.uint64(0)))) * cell
                out[n, 1] = (j + uniform(mix(star, np.uint64(1)))) * cell
                out[n, 2] = faint * (1.0 - span * uniform(mix(star, np.uint64(2)))) ** (-1.0 / slope)
                out[n, 3] = 2.0 * uniform(mix(star, np.uint64(3))) - 1.0
                n += 1
    return out


@njit(nogil=True, cache=True, inline="always")
def _moffat(r2: float) -> float:
    t = 1.0 + r2
    return 1.0 / (t * t * t * math.sqrt(t))


@njit(nogil=True, cache=True, fastmath=False)
def add_stars(
    image: NDArray[np.floating[Any]],
    row: int,
    column: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    fwhm: float,
    floor: float,
) -> None:
    """Add pixel-integrated Moffat stars to a window of an image, in place.

    Parameters
    ----------
    image
        The window, shape (rows, columns).
    row, column
        Place of its first pixel in the image.
    x, y
        Zero-based positions in the image (px).
    flux
        Total fluxes (image units).
    fwhm
        Full width at half maximum of the unpixelated profile (px).
    floor
        The stamp ends where the profile falls below this, but not within `STAR_REACH` FWHM.

    Notes
    -----
    Each pixel is a 3 × 3 Gauss-Legendre quadrature of I(r) = F (β−1)/(π α²) (1 + r²/α²)^−β (Moffat 1969)
    out to three FWHM, the value at its centre beyond.
    """
    alpha = 0.5 * fwhm / math.sqrt(2.0 ** (1.0 / 3.5) - 1.0)
    inverse = 1.0 / (alpha * alpha)
    node = 0.3872983346207417
    rows, columns = image.shape
    for n in range(x.size):
        peak = flux[n] * 2.5 / math.pi * inverse
        reach = max(6.0 * fwhm, alpha * (abs(peak) / floor) ** (1.0 / 7.0))
        cx, cy = x[n] - column, y[n] - row
        r0, r1 = max(math.ceil(cy - reach), 0), min(math.floor(cy + reach), rows - 1)
        c0, c1 = max(math.ceil(cx - reach), 0), min(math.floor(cx + reach), columns - 1)
        near, far = 9.0 * fwhm * fwhm, reach * reach
        for r in range(r0, r1 + 1):
            dy = (y[n] - row) - r
            for c in range(c0, c1 + 1):
                dx = (x[n] - column) - c
                r2 = dx * dx + dy * dy
                if r2 > far:
                    continue
                if r2 > near:
                    image[r, c] += peak * _moffat(r2 * inverse)
                    continue
                total = 0.0
                for b in range(-1, 2):
                    ey = dy + b * node
                    wy = 8.0 if b == 0 else 5.0
                    for a in range(-1, 2):
                        ex = dx + a * node
                        wx = 8.0 if a == 0 else 5.0
                        total += wx * wy * _moffat((ex * ex + ey * ey) * inverse)
                image[r, c] += peak * total / 324.0


def moffat_enclosed(radius: NDArray[np.float64] | float, fwhm: float) -> NDArray[np.float64]:
    """Fraction of a Moffat's flux within a radius (same unit as `fwhm`): 1 − (1 + r²/α²)^(1−β)."""
    alpha = 0.5 * fwhm / math.sqrt(2.0 ** (1.0 / MOFFAT_BETA) - 1.0)
    return np.asarray(1.0 - (1.0 + (np.asarray(radius) / alpha) ** 2) ** (1.0 - MOFFAT_BETA))


def star_reach(fwhm: float, flux: float) -> float:
    """Largest radius of a star's stamp (px) for `add_stars` with `STAR_FLOOR`."""
    alpha = 0.5 * fwhm / math.sqrt(2.0 ** (1.0 / MOFFAT_BETA) - 1.0)
    peak = flux * (MOFFAT_BETA - 1.0) / (math.pi * alpha * alpha)
    return max(STAR_REACH * fwhm, float(alpha * (peak / STAR_FLOOR) ** (0.5 / MOFFAT_BETA))) + 1.0
