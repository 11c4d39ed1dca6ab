"""Layers of an image by scale: the starlet transform, an à trous wavelet of B3 splines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.float32]
Floats = NDArray[np.float64]

LAYERS = 4
"""Scales that count: 1 to 8 pixels."""


@njit(nogil=True, cache=True, fastmath=False)
def _mirror(i: int, n: int) -> int:
    while i < 0 or i >= n:
        i = -i if i < 0 else 2 * (n - 1) - i
    return i


@njit(nogil=True, cache=True, fastmath=False)
def smooth(image: Pixels, step: int, work: Pixels, out: Pixels) -> None:
    """Convolve with the B3 spline (1, 4, 6, 4, 1)/16 in both directions, taps `step` pixels apart, edges mirrored.

    Parameters
    ----------
    image
        Shape (rows, columns), more than one pixel each, finite.
    step
        Distance of the taps (pixels).
    work, out
        Of the same shape, written; `out` may be `image`.
    """
    height, width = image.shape
    a, b, c = np.float32(1 / 16), np.float32(4 / 16), np.float32(6 / 16)
    # A row with its mirror images around it: parts of it have indices without a sign to check.
    pad = 2 * step
    line = np.empty(width + 2 * pad, np.float32)
    left2, left = line[:width], line[step : step + width]
    middle, right = line[pad : pad + width], line[pad + step : pad + step + width]
    right2 = line[2 * pad :]
    for y in range(height):
        row, target = image[y], work[y]
        middle[:] = row
        for k in range(1, pad + 1):
            line[pad - k] = row[_mirror(-k, width)]
            line[pad + width - 1 + k] = row[_mirror(width - 1 + k, width)]
        for x in range(width):
            target[x] = a * (left2[x] + right2[x]) + b * (left[x] + right[x]) + c * middle[x]
    for y in range(height):
        above2, above = work[_mirror(y - 2 * step, height)], work[_mirror(y - step, height)]
        below2, below = work[_mirror(y + 2 * step, height)], work[_mirror(y + step, height)]
        here, target = work[y], out[y]
        for x in range(width):
            target[x] = a * (above2[x] + below2[x]) + b * (above[x] + below[x]) + c * here[x]


@lru_cache(maxsize=8)
def layer_noise(count: int) -> tuple[float, ...]:
    """σ of each of `count` layers of white noise of σ 1 (Starck & Murtagh 1994 have 0.89, 0.20, 0.086, …)."""
    reach = 2 * (2**count - 1)
    size = 2 * reach + 3
    image = np.zeros((size, size), np.float32)
    image[size // 2, size // 2] = 1.0
    out, work, smoother = [], np.empty_like(image), np.empty_like(image)
    for layer in range(count):
        smooth(image, 2**layer, work, smoother)
        out.append(float(np.sqrt(((image - smoother).astype(np.float64) ** 2).sum())))
        image, smoother = smoother, image
    return tuple(out)


@njit(nogil=True, cache=True, fastmath=False)
def _keep(fine: Pixels, coarse: Pixels, share: Pixels, out: Pixels) -> None:
    """Add a share of the layer fine - coarse to `out`."""
    height, width = fine.shape
    for y in range(height):
        for x in range(width):
            out[y, x] += (fine[y, x] - coarse[y, x]) * share[y, x]


@njit(nogil=True, cache=True, fastmath=False, error_model="numpy")
def _raise(values: Pixels, sigma: Pixels, scale: float, out: Pixels) -> None:
    """Raise `out` to |values| / (scale·σ) where that is more."""
    height, width = values.shape
    factor = np.float32(1.0 / scale)
    for y in range(height):
        for x in range(width):
            out[y, x] = max(out[y, x], abs(values[y, x]) * factor / sigma[y, x])


def misfit(residual: Pixels, sigma: Pixels, *, noise: Sequence[float], limit: float) -> Pixels:
    """Where residuals of some extent are more than noise.

    Parameters
    ----------
    residual
        Shape (rows, columns).
    sigma
        Noise of a pixel, same shape, > 0.
    noise
        σ of the layers where a pixel has σ 1.
    limit
        Mean residual over some 4 or some 16 pixels a side (σ of it): nothing below, all from one more on.

    Returns
    -------
    ndarray
        Same shape, 0 … 1.
    """
    out = np.zeros_like(residual)
    smoothed, work = residual.copy(), np.empty_like(residual)
    white = layer_noise(len(noise))
    for layer, (rest, have, ideal) in enumerate(zip(smoothed_noise(len(noise)), noise, white, strict=True)):
        smooth(smoothed, 2**layer, work, smoothed)
        if layer % 2:
            _raise(smoothed, sigma, rest * max(have / ideal, 1.0), out)
    np.clip(out - np.float32(limit), 0.0, 1.0, out=out)
    smooth(out, 1, work, out)
    return out


@lru_cache(maxsize=8)
def smoothed_noise(count: int) -> tuple[float, ...]:
    """σ of white noise of σ 1 after smoothing by splines of 1, 2, … pixels, one after another."""
    reach = 2 * (2**count - 1)
    size = 2 * reach + 3
    image = np.zeros((size, size), np.float32)
    image[size // 2, size // 2] = 1.0
    out, work = [], np.empty_like(image)
    for layer in range(count):
        smooth(image, 2**layer, work, image)
        out.append(float(np.sqrt((image.astype(np.float64) ** 2).sum())))
    return tuple(out)


def kept(image: Pixels, support: Pixels) -> Pixels:
    """Layers of an image where there is support for them, and all that is smoother.

    Parameters
    ----------
    image
        Shape (rows, columns), finite.
    support
        Shape (layers, rows, columns), 0 … 1: how much of each layer is kept.
    """
    out = np.zeros_like(image)
    fine, coarse, work = image.copy(), np.empty_like(image), np.empty_like(image)
    for layer, share in enumerate(support):
        smooth(fine, 2**layer, work, coarse)
        _keep(fine, coarse, share, out)
        fine, coarse = coarse, fine
    out += fine
    return out


def support_of(image: Pixels, sigma: Pixels, *, noise: Sequence[float], limits: Sequence[float]) -> Pixels:
    """Where each layer of an image holds more than noise: its multiresolution support.

    Parameters
    ----------
    image
        Shape (rows, columns), finite.
    sigma
        Its noise a pixel, same shape, > 0.
    noise
        σ of each layer where a pixel has σ 1 (`layer_noise` for white noise); layers are 1, 2, 4, … pixels wide.
    limits
        In σ of each layer: nothing below, all from one more on.

    Returns
    -------
    ndarray
        Shape (layers, rows, columns), 0 … 1. Spread by the width of the layer's wavelet, whose rings must be kept
        or left with its middle: a part of them would be structure that is not there.
    """
    out = np.empty((len(noise), *image.shape), np.float32)
    fine, coarse, work = image.copy(), np.empty_like(image), np.empty_like(image)
    for layer, (spread, limit) in enumerate(zip(noise, limits, strict=True)):
        smooth(fine, 2**layer, work, coarse)
        strength = np.abs(fine - coarse) / (np.float32(spread) * sigma)
        strength = ndimage.maximum_filter(strength, 4 * 2**layer + 1)
        np.clip(strength - np.float32(limit), 0.0, 1.0, out=out[layer])
        smooth(out[layer], 2**layer, work, out[layer])
        fine, coarse = coarse, fine
    return out


def significance(image: Pixels, sigma: Pixels, *, noise: Sequence[float], first: int = 0) -> Pixels:
    """Highest |layer| / σ of that layer at every pixel, from layer `first` on; parameters as for `support_of`."""
    out = np.zeros_like(image)
    fine, coarse, work = image.copy(), np.empty_like(image), np.empty_like(image)
    for layer, spread in enumerate(noise):
        smooth(fine, 2**layer, work, coarse)
        if layer >= first:
            _raise(fine - coarse, sigma, spread, out)
        fine, coarse = coarse, fine
    return out


def measured_noise(image: Pixels, sigma: Pixels, known: NDArray[np.bool_], *, layers: int, cell: int) -> Floats:
    """σ of the layers of an image where a pixel has σ 1, as its emptier cells have it.

    Neighbours of a resampled image have noise in common: less in its first layer than white noise, more in others.

    Parameters
    ----------
    image
        Shape (rows, columns), finite.
    sigma
        Noise a pixel is said to have.
    known
        Where there are data.
    layers
        How many.
    cell
        Side of a cell (pixels): a quarter of the cells have less than what is returned.

    Returns
    -------
    ndarray
        Shape (layers,), NaN without a whole cell.
    """
    rows, columns = (n // cell for n in image.shape)
    inner = (slice(0, rows * cell), slice(0, columns * cell))

    def cells(values: NDArray[Any]) -> NDArray[Any]:
        parts = values[inner].reshape(rows, cell, columns, cell).transpose(0, 2, 1, 3)
        return parts.reshape(rows * columns, cell * cell)

    out = np.full(layers, np.nan)
    whole = cells(known).all(axis=1)
    if not whole.any():
        return out
    fine, coarse, work = image.copy(), np.empty_like(image), np.empty_like(image)
    for layer in range(layers):
        smooth(fine, 2**layer, work, coarse)
        spread = np.median(np.abs(cells((fine - coarse) / sigma)[whole]), axis=1)
        out[layer] = 1.4826022 * float(np.percentile(spread, 25.0))
        fine, coarse = coarse, fine
    return out
