"""Statistics of a frame's pixels: its noise, superpixel means, masks.

All kernels read a float32 frame with NaN = no data once, release the GIL, and copy a cell at a time only.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.robust import clipped_rms, clipped_sums, median_mad

CLIP = 4.0
"""Pixels of a cell further than this from its centre (in its own robust σ) do not enter the mean."""


@njit(nogil=True, cache=True, fastmath=False)
def pixel_noise(image: NDArray[np.float32], masked: NDArray[np.bool_]) -> float:
    """Pixel rms of a frame from second differences of some 200,000 of its pixels.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    masked
        Same shape; True leaves a pixel out (stars).

    Returns
    -------
    float
        σ (frame units); NaN if fewer than 50 pixels qualify. v - (l + r)/2 with neighbours two pixels away, along
        rows and columns in turn: blind to gradients, colour mosaics and (mostly) interpolation.
    """
    height, width = image.shape
    stride = max(height * width // 200000, 1)
    values = np.empty(height * width // stride + 1, np.float32)
    count = 0
    for k in range(0, height * width, stride):
        # A stride that divides the width would walk down one column.
        y = k // width
        x = (k + y) % width
        dy, dx = (0, 2) if (k // stride) % 2 else (2, 0)
        if y < dy or x < dx or y >= height - dy or x >= width - dx:
            continue
        if masked[y, x] or masked[y - dy, x - dx] or masked[y + dy, x + dx]:
            continue
        d = image[y, x] - np.float32(0.5) * (image[y - dy, x - dx] + image[y + dy, x + dx])
        if np.isfinite(d):
            values[count] = d
            count += 1
    if count < 50:
        return np.nan
    # Variance of v - (l + r)/2 is 1.5 σ².
    noise: float = clipped_rms(values, count) / np.sqrt(1.5)
    return noise


@njit(nogil=True, cache=True, fastmath=False)
def _cell_kernel(
    image: NDArray[np.float32],
    masked: NDArray[np.bool_],
    cell: int,
    noise: float,
    clip: float,
    out: NDArray[np.float32],
) -> None:
    height, width = image.shape
    buffer = np.empty(cell * cell, np.float32)
    sample = np.empty(cell * cell, np.float32)
    for cy in range(out.shape[0]):
        for cx in range(out.shape[1]):
            y0, x0 = cy * cell, cx * cell
            y1, x1 = min(y0 + cell, height), min(x0 + cell, width)
            filled = np.uint64(0)  # unsigned: no check for negative indices
            for y in range(y0, y1):
                for x in range(x0, x1):
                    value = image[y, x]
                    buffer[filled] = value
                    filled += np.uint64(np.isfinite(value) & (not masked[y, x]))
            total = int(np.int64(filled))
            if total == 0:
                out[cy, cx, 0] = np.nan
                out[cy, cx, 1] = np.nan
                out[cy, cx, 2] = 0.0
                continue
            # The clip only needs a rough centre. A fifth of the pixels gives it at a fifth of the time;
            # 5 shares no factor with even cells, so every colour of a Bayer mosaic is sampled.
            step = 5 if total >= 160 else 1
            count = 0
            for i in range(0, total, step):
                sample[count] = buffer[i]
                count += 1
            centre, sigma = median_mad(sample, count)
            sigma = max(sigma, noise)
            mean, rms, used = centre, sigma, total
            for _ in range(2):
                sum1, sum2, used = clipped_sums(buffer, total, centre, clip * sigma)
                if used == 0:
                    break
                mean = centre + sum1 / used
                rms = np.sqrt(max(sum2 / used - (sum1 / used) ** 2, 0.0))
                if used == total:
                    break
                centre = mean
            if used == 0:
                out[cy, cx, 0] = np.nan
                out[cy, cx, 1] = np.nan
                out[cy, cx, 2] = 0.0
                continue
            # Two or three pixels say little of their own scatter.
            if used < 8:
                rms = max(rms, noise)
            out[cy, cx, 0] = mean
            out[cy, cx, 1] = rms / np.sqrt(used)
            out[cy, cx, 2] = used / (cell * cell)


def cell_statistics(
    image: NDArray[np.float32],
    masked: NDArray[np.bool_],
    *,
    cell: int,
    noise: float = 0.0,
    clip: float = CLIP,
) -> NDArray[np.float32]:
    """Clipped mean of every `cell` × `cell` block of a frame.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    masked
        Same shape; True leaves a pixel out (stars).
    cell
        Side of a cell (pixels); the last row and column may be partly filled.
    noise
        Smallest σ the clip believes (frame units): of use where pixels are quantized.
    clip
        Half-width of the symmetric clip in the cell's own σ (median absolute deviation, so a gradient
        through the cell widens it).

    Returns
    -------
    ndarray
        Shape (cells_y, cells_x, 3), float32: mean, standard error of the mean, fraction of the cell's
        pixels that were used. NaN mean and error where none was.
    """
    rows, columns = -(-image.shape[0] // cell), -(-image.shape[1] // cell)
    out = np.empty((rows, columns, 3), np.float32)
    _cell_kernel(image, masked, cell, noise, clip, out)
    return out


@njit(nogil=True, cache=True, fastmath=False)
def mask_discs(
    masked: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radius: NDArray[np.float64],
) -> None:
    """Set `masked` True within `radius` (pixels) of each position, in place."""
    height, width = masked.shape
    for i in range(x.size):
        r = radius[i]
        for row in range(max(int(np.ceil(y[i] - r)), 0), min(int(np.floor(y[i] + r)) + 1, height)):
            half = np.sqrt(max(r * r - (row - y[i]) ** 2, 0.0))
            for column in range(max(int(np.ceil(x[i] - half)), 0), min(int(np.floor(x[i] + half)) + 1, width)):
                masked[row, column] = True
