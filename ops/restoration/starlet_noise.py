"""What becomes of the noise of pixels in their starlets, for pixels whose noise resampling has correlated."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.integration.kernels import PHASES, REACH, taps
from skyloom.ops.restoration.starlet import B3

Floats = NDArray[np.float64]
LAGS = 8
"""Lags of a correlation: all that the widest kernel has."""


@lru_cache(maxsize=1)
def _kernels() -> tuple[Floats, Floats]:
    """Correlations of noise along an axis after each kernel, by their value at lag 0; white noise last."""
    phases = np.arange(PHASES) / PHASES
    found = []
    for kernel in REACH:
        weights = taps(kernel, phases)
        count = weights.shape[1]
        lags = [np.mean(np.sum(weights[:, : count - k] * weights[:, k:], axis=1)) for k in range(count)]
        found.append(np.array(lags + [0.0] * (LAGS - count)))
    table = np.array(sorted(found, key=lambda lags: lags[0]))
    # Means of neighbours keep the level: the correlation sums to 1.
    table /= table[:, :1] + 2.0 * table[:, 1:].sum(axis=1, keepdims=True)
    return table[:, 0], table


def correlation(noise_factor: float) -> Floats:
    """Correlation of noise along an axis at lags 0 … 7, of resampled pixels.

    Parameters
    ----------
    noise_factor
        Variance of a pixel over that carried (`kernel_noise_factor`), 0…1.

    Returns
    -------
    ndarray
        Its value at lag 0 is sqrt(noise_factor), and the sum over all lags 1: a mixture of those of the kernels
        with the next smaller and larger factor; below that of bilinear interpolation a triangle.
    """
    first = float(np.sqrt(min(max(noise_factor, 1.0 / (LAGS - 1) ** 2), 1.0)))
    heads, table = _kernels()
    if first >= heads[0]:
        return np.array([np.interp(first, heads, table[:, k]) for k in range(LAGS)])
    # Sums to 1 like the others if as wide as this.
    whole = int(1.0 / first)
    width = whole * (whole + 1) / (1.0 + 2.0 * whole - 1.0 / first)
    return first * np.maximum(1.0 - np.arange(LAGS) / width, 0.0)


@lru_cache(maxsize=64)
def starlet_covariance(scales: int, noise_factor: float) -> Floats:
    """Covariance of the starlets at one place, and of the smooth rest, for pixels of variance 1.

    Parameters
    ----------
    scales
        Number of scales.
    noise_factor
        As for `correlation`.

    Returns
    -------
    ndarray
        Shape (scales + 1, scales + 1), read-only; the sum of all is `noise_factor`.

    Notes
    -----
    Starlet j is φ(j - 1) - φ(j), φ(j) the cascade of B-splines, a product of one function of x and one of y. So
    the covariance of φ(p) and φ(q) under a noise correlation A(x) A(y) is the square of a sum along one axis.
    """
    lags = correlation(noise_factor)
    noise = np.concatenate([lags[:0:-1], lags])
    spline = np.concatenate([B3[:0:-1], B3])
    cascade = [np.ones(1)]
    for scale in range(scales):
        taps_apart = np.zeros(4 * 2**scale + 1)
        taps_apart[:: 2**scale] = spline
        cascade.append(np.convolve(cascade[-1], taps_apart))
    length = len(cascade[-1]) + 2 * (len(noise) // 2)
    smooth = np.empty((scales + 1, scales + 1))
    for p, first in enumerate(cascade):
        spread = _centred(np.convolve(first, noise), length)
        for q, second in enumerate(cascade):
            smooth[p, q] = float(spread @ _centred(second, length)) ** 2
    # Rows: φ(0) - φ(1), φ(1) - φ(2), …, φ(scales).
    parts = np.eye(scales + 1) - np.eye(scales + 1, k=1)
    covariance = np.asarray(parts @ smooth @ parts.T)
    covariance.flags.writeable = False
    return covariance


def _centred(values: Floats, length: int) -> Floats:
    out = np.zeros(length)
    start = (length - len(values)) // 2
    out[start : start + len(values)] = values
    return out
