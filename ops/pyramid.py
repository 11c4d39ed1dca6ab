"""Smaller views of large images."""

from __future__ import annotations

import numpy as np
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
