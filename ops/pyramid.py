"""Smaller views of large images."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


def block_mean(pixels: NDArray[np.floating], factor: int) -> NDArray[np.float32]:
    """Mean over factor × factor blocks of the valid pixels; NaN where a block has none.

    Parameters
    ----------
    pixels
        Two-dimensional; a rest at the far edges forms smaller blocks.
    factor
        Pixels a side of a block (at least 1).

    Returns
    -------
    ndarray
        float32, shape ceil(shape / factor).
    """
    if factor == 1:
        return np.asarray(pixels, dtype=np.float32)
    height, width = pixels.shape
    padded = np.full((-(-height // factor) * factor, -(-width // factor) * factor), np.nan, dtype=np.float32)
    padded[:height, :width] = pixels
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    there = ~np.isnan(blocks)
    count = there.sum(axis=(1, 3))
    total = np.where(there, blocks, np.float32(0)).sum(axis=(1, 3), dtype=np.float64)
    mean = np.full(count.shape, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.astype(np.float32)


def quick_block_mean(pixels: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """`block_mean` of large windows: compiled, and without copies of the pixels.

    Parameters
    ----------
    pixels
        Two-dimensional, float32.
    factor
        Pixels a side of a block (at least 1).

    Returns
    -------
    ndarray
        float32, shape ceil(shape / factor). Sums are float64, but in another order than those of `block_mean`.
    """
    if factor == 1:
        return pixels
    height, width = (-(-n // factor) for n in pixels.shape)
    out = np.empty((height, width), np.float32)
    _block_means(np.ascontiguousarray(pixels), factor, out)
    return out


@njit(nogil=True, cache=True)
def _block_means(pixels, factor, out):  # type: ignore[no-untyped-def]
    height, width = pixels.shape
    total = np.empty(width, np.float64)
    count = np.empty(width, np.int64)
    for j in range(out.shape[0]):
        total[:] = 0.0
        count[:] = 0
        # Columns first: many at a time, as the pixels lie in memory.
        for y in range(j * factor, min((j + 1) * factor, height)):
            for x in range(width):
                value = pixels[y, x]
                good = not np.isnan(value)
                total[x] += np.float64(value) if good else 0.0
                count[x] += 1 if good else 0
        for i in range(out.shape[1]):
            block = 0.0
            valid = 0
            for x in range(i * factor, min((i + 1) * factor, width)):
                block += total[x]
                valid += count[x]
            out[j, i] = block / valid if valid > 0 else np.nan
