"""Small holes in a picture, the burnt-out cores of stars above all: filled from around them, for the eye only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_erosion, correlate1d

Floats = NDArray[np.float64]


def gap_halo(radius: int) -> int:
    """Pixels needed around a tile."""
    return 2 * radius + math.ceil(2.0 * radius) + 1 if radius else 0


def fill_gaps(planes: Floats, radius: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Fill holes that a square of side 2·radius + 1 does not fit into.

    Parameters
    ----------
    planes
        Shape (channels, rows, columns), NaN = no data (in all channels).
    radius
        Pixels; 0 fills nothing.

    Returns
    -------
    planes
        Holes filled with the mean of what is around them, weighted by a Gaussian of σ = radius / 2.
    filled
        Shape (rows, columns).
    """
    there = np.isfinite(planes).all(axis=0)
    filled = np.zeros(there.shape, dtype=bool)
    if radius == 0 or there.all() or not there.any():
        return planes, filled
    square = np.ones((2 * radius + 1, 2 * radius + 1), dtype=bool)
    filled = binary_erosion(binary_dilation(there, square), square) & ~there
    if not filled.any():
        return planes, filled
    reach = 2 * radius
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (0.5 * radius)) ** 2)
    weight, total = np.asarray(there, dtype=np.float64), np.asarray(np.where(there, planes, 0.0))
    for axis in (-2, -1):
        weight = correlate1d(weight, kernel, axis=axis, mode="constant")
        total = correlate1d(total, kernel, axis=axis, mode="constant")
    out = planes.copy()
    out[:, filled] = total[:, filled] / weight[filled]
    return out, filled
