"""Gaussian means of planes with gaps, and what they make of the variance of independent pixels."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.symmetric import convolve

Floats = NDArray[np.float64]

TRUNCATE = 4.0
"""Reach of the Gaussian (σ)."""


def taps(sigma: float) -> Floats:
    """Weights of a Gaussian from its middle outwards, those of both sides summing to 1."""
    half = np.exp(-0.5 * (np.arange(math.ceil(TRUNCATE * sigma) + 1) / sigma) ** 2)
    return np.asarray(half / (half[0] + 2.0 * half[1:].sum()))


@njit(nogil=True, cache=True, fastmath=False, error_model="numpy")
def means(
    planes: Floats, there: NDArray[np.bool_], half: Floats, variance: bool, margin: int, share: Floats, out: Floats
) -> None:
    """Write Σ weight · plane / Σ weight of what is there, or Σ weight² · plane / (Σ weight)²; NaN elsewhere.

    Parameters
    ----------
    planes
        Shape (planes, rows, columns), finite where `there`.
    there
        Shape (rows, columns).
    half
        As `taps` has them.
    variance
        Whether planes are variances, and those of their means are wanted.
    margin
        Rows and columns on each side that are not wanted.
    share
        1 / Σ weight of what is there, without the margin.
    out
        The planes less their margin, written.
    """
    count, height, width = planes.shape
    weights = half**2 if variance else half
    whole = there.all()
    plane = np.empty((0, 0) if whole else (height, width))
    for i in range(count):
        if whole:
            convolve(planes[i], weights, 1, margin, out[i])
        else:
            for y in range(height):
                for x in range(width):
                    plane[y, x] = planes[i, y, x] if there[y, x] else 0.0
            convolve(plane, weights, 1, margin, out[i])
        for y in range(out.shape[1]):
            target, factor = out[i, y], share[y]
            for x in range(target.size):
                target[x] *= factor[x]
            if variance:
                for x in range(target.size):
                    target[x] *= factor[x]
            if not whole:
                for x in range(target.size):
                    if not there[y + margin, x + margin]:
                        target[x] = np.nan


def smooth(planes: Floats, sigma: float) -> Floats:
    """Gaussian mean of what there is; NaN where a pixel itself has no data.

    Parameters
    ----------
    planes
        Shape (planes, rows, columns), NaN = no data, in all planes of a pixel or in none.
    sigma
        Pixels.
    """
    planes = np.ascontiguousarray(planes, dtype=np.float64)
    return smooth_both(planes, None, np.isfinite(planes[0]), sigma)[0]


def smooth_both(
    planes: Floats, variance: Floats | None, there: NDArray[np.bool_], sigma: float, *, margin: int = 0
) -> tuple[Floats, Floats | None]:
    """Gaussian means of what there is, and their variance for pixels taken as independent.

    Parameters
    ----------
    planes, variance
        Shape (planes, rows, columns), finite where `there`.
    there
        Shape (rows, columns); elsewhere the means are NaN.
    sigma
        Pixels.
    margin
        Rows and columns on each side that are not wanted.

    Returns
    -------
    ndarray, ndarray
        As `planes` and `variance`, less the margin.
    """
    half = taps(sigma)
    rows, columns = (n - 2 * margin for n in there.shape)
    if there.all():
        kernel = np.concatenate([half[:0:-1], half])
        along = [np.convolve(np.ones(n), kernel)[half.size - 1 :][margin : n - margin] for n in there.shape]
        share = np.outer(1.0 / along[0], 1.0 / along[1])
    else:
        share = np.empty((rows, columns))
        convolve(there.astype(np.float64), half, 1, margin, share)
        with np.errstate(divide="ignore"):
            np.divide(1.0, share, out=share)
    mean = np.empty((len(planes), rows, columns))
    means(planes, there, half, False, margin, share, mean)
    if variance is None:
        return mean, None
    spread = np.empty((len(variance), rows, columns))
    means(variance, there, half, True, margin, share, spread)
    return mean, spread
