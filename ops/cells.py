"""Statistics of a frame in cells: background mesh, pixel noise, superpixel means.

All kernels read a float32 frame with NaN = no data once, release the GIL, and copy a cell at a time only.
"""

from __future__ import annotations

import warnings

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import CubicSpline

CLIP = 4.0
"""Pixels of a cell further than this from its centre (in its own robust σ) do not enter the mean."""


@njit(nogil=True, cache=True, fastmath=False)
def _select(values: NDArray[np.float32], count: int, k: int) -> float:
    """Return the k-th smallest of values[:count]; reorders them (Hoare)."""
    low, high = 0, count - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return float(values[k])


@njit(nogil=True, cache=True, fastmath=False)
def _median_mad(values: NDArray[np.float32], count: int) -> tuple[float, float]:
    """Median of values[:count] and σ from their median absolute deviation; destroys them."""
    centre = _select(values, count, count // 2)
    for i in range(count):
        values[i] = abs(values[i] - centre)
    return centre, 1.4826022 * _select(values, count, count // 2)


@njit(nogil=True, cache=True, fastmath=False)
def _clipped_rms(values: NDArray[np.float32], count: int) -> float:
    """Rms about 0 of what lies within ±2.5σ, corrected for the cut; reorders nothing.

    The median deviation alone has steps where pixels are quantized; the clipped rms hardly any (a cut at 2σ does).
    """
    copy = np.abs(values[:count])
    sigma = 1.4826022 * _select(copy, count, count // 2)
    for _ in range(12):
        sum2, used = 0.0, 0
        for i in range(count):
            if abs(values[i]) <= 2.5 * sigma:
                sum2 += values[i] * values[i]
                used += 1
        if used < 8:
            break
        last = sigma
        sigma = np.sqrt(sum2 / used) / 0.9545975  # rms of a unit Gaussian cut at ±2.5
        if abs(sigma - last) <= 1e-3 * sigma:
            break
    return float(sigma)


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
    noise: float = _clipped_rms(values, count) / np.sqrt(1.5)
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
            total = 0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    value = image[y, x]
                    if not masked[y, x] and np.isfinite(value):
                        buffer[total] = value
                        total += 1
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
            centre, sigma = _median_mad(sample, count)
            sigma = max(sigma, noise)
            mean, rms, used = centre, sigma, total
            for _ in range(2):
                reach = clip * sigma
                sum1, sum2, used = 0.0, 0.0, 0
                for i in range(total):
                    d = buffer[i] - centre
                    if abs(d) <= reach:
                        sum1 += d
                        sum2 += d * d
                        used += 1
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
def _mesh_kernel(image: NDArray[np.float32], mesh: int, out: NDArray[np.float64]) -> int:
    """Per mesh: clipped median, σ about it, σ from second differences, share of valid pixels."""
    height, width = image.shape
    values = np.empty(mesh * mesh, np.float32)
    copy = np.empty(mesh * mesh, np.float32)
    differences = np.empty(mesh * mesh, np.float32)
    valid = 0
    for my in range(out.shape[0]):
        for mx in range(out.shape[1]):
            y0, x0 = my * mesh, mx * mesh
            y1, x1 = min(y0 + mesh, height), min(x0 + mesh, width)
            count, pairs, looked = 0, 0, 0
            for y in range(y0, y1):
                # One pixel in eight, in an order that visits all four colours of a Bayer mosaic alike.
                start = (0, 5, 2, 7, 1, 4, 3, 6)[y % 8]
                for x in range(x0 + start, x1, 8):
                    looked += 1
                    value = image[y, x]
                    if not np.isfinite(value):
                        continue
                    values[count] = value
                    count += 1
                    if (x // 8) % 2 == 0:
                        if 2 <= x < width - 2:
                            d = value - np.float32(0.5) * (image[y, x - 2] + image[y, x + 2])
                            if np.isfinite(d):
                                differences[pairs] = d
                                pairs += 1
                    elif 2 <= y < height - 2:
                        d = value - np.float32(0.5) * (image[y - 2, x] + image[y + 2, x])
                        if np.isfinite(d):
                            differences[pairs] = d
                            pairs += 1
            valid += count
            out[my, mx, :3] = np.nan
            out[my, mx, 3] = count / max(looked, 1)
            if count >= 16:
                copy[:count] = values[:count]
                centre, sigma = _median_mad(copy, count)
                for _ in range(4):
                    kept = 0
                    for i in range(count):
                        if abs(values[i] - centre) <= 3.0 * sigma:
                            values[kept] = values[i]
                            kept += 1
                    settled = kept > 0.98 * count  # a Gaussian loses 0.3 %
                    count = kept
                    if settled:
                        break
                    copy[:count] = values[:count]
                    centre, sigma = _median_mad(copy, count)
                out[my, mx, 0] = centre
                out[my, mx, 1] = sigma
            if pairs >= 16:
                sigma = _clipped_rms(differences, pairs)
                # Variance of v - (l + r)/2 is 1.5 σ².
                out[my, mx, 2] = sigma / np.sqrt(1.5)
    return valid


def background_mesh(
    image: NDArray[np.float32], *, mesh: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Smooth background for detection, its σ, and the pixel noise of the frame.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    mesh
        Side of a mesh (pixels). Structure larger than this is taken for background, which is right for
        finding stars and wrong for measuring nebulae: use it for detection only.

    Returns
    -------
    location, sigma
        Shape (meshes_y, meshes_x): clipped median and σ of the pixels, gaps filled from the nearest
        mesh. σ is the geometric mean of the pixels' rms and their noise from differences: nebulae
        make stars harder to see, but not by all of their structure.
    noise
        Pixel rms (frame units) by second differences, median over the meshes; somewhat high where stars are
        dense (`pixel_noise` with a star mask is not). NaN if there are too few pixels.
    """
    rows, columns = -(-image.shape[0] // mesh), -(-image.shape[1] // mesh)
    out = np.empty((rows, columns, 4))
    _mesh_kernel(image, mesh, out)
    location, noise = out[..., 0], out[..., 2]
    sigma = np.sqrt(out[..., 1] * np.where(np.isfinite(noise), noise, out[..., 1]))
    whole = out[..., 3] > 0.5
    trusted = noise[whole & np.isfinite(noise)]
    if not trusted.size:
        trusted = noise[np.isfinite(noise)]
    level = float(np.median(trusted)) if trusted.size else float("nan")
    # A mesh at the ragged edge of the data holds too few pixels for a location.
    location = np.where(out[..., 3] > 0.1, location, np.nan) if whole.any() else location
    return _fill(location), _fill(_median3(np.where(np.isfinite(location), sigma, np.nan))), level


def _median3(values: NDArray[np.float64]) -> NDArray[np.float64]:
    padded = np.pad(values, 1, constant_values=np.nan)
    rows, columns = values.shape
    stack = np.stack([padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN neighbourhoods are filled later
        return np.asarray(np.nanmedian(stack, axis=0), dtype=np.float64)


def _fill(values: NDArray[np.float64]) -> NDArray[np.float64]:
    gaps = ~np.isfinite(values)
    if gaps.all():
        return np.zeros_like(values)
    if gaps.any():
        nearest = ndimage.distance_transform_edt(gaps, return_distances=False, return_indices=True)
        return np.asarray(values[tuple(nearest)])
    return values


def refine_mesh(
    values: NDArray[np.float64], shape: tuple[int, int], *, mesh: int, step: int
) -> NDArray[np.float64]:
    """Interpolate a mesh to a finer one by natural cubic splines, straight on beyond the outer centres.

    Parameters
    ----------
    values
        Shape (meshes_y, meshes_x), at the centres of meshes of `mesh` pixels.
    shape
        Of the frame (pixels).
    mesh, step
        Old and new side of a mesh (pixels).
    """
    for axis in (0, 1):
        count = values.shape[axis]
        if count > 1:
            where = (np.arange(-(-shape[axis] // step)) + 0.5) * step / mesh - 0.5
            spline = CubicSpline(np.arange(count), values, axis=axis, bc_type="natural")
            inside = np.clip(where, 0, count - 1)
            out = spline(inside)
            beyond = np.expand_dims(where - inside, 1 - axis)
            values = out + beyond * spline(inside, 1)
        else:
            values = np.repeat(values, -(-shape[axis] // step), axis=axis)
    return np.ascontiguousarray(values)


@njit(nogil=True, cache=True, fastmath=False)
def significance(
    image: NDArray[np.float32],
    location: NDArray[np.float64],
    sigma: NDArray[np.float64],
    mesh: int,
) -> NDArray[np.float32]:
    """Return (image - background) / σ, both interpolated bilinearly between mesh centres; 0 where NaN.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    location, sigma
        From `background_mesh` or, smoother, `refine_mesh`.
    mesh
        Their mesh (pixels).

    Returns
    -------
    ndarray
        Shape (rows, columns), float32.
    """
    height, width = image.shape
    rows, columns = location.shape
    out = np.empty((height, width), np.float32)
    across_level = np.empty(columns, np.float32)
    across_scale = np.empty(columns, np.float32)
    for y in range(height):
        v = min(max((y + 0.5) / mesh - 0.5, 0.0), rows - 1.0)
        j = min(int(v), max(rows - 2, 0))
        t = v - j
        below = min(j + 1, rows - 1)
        for c in range(columns):
            across_level[c] = (1 - t) * location[j, c] + t * location[below, c]
            across_scale[c] = 1.0 / max((1 - t) * sigma[j, c] + t * sigma[below, c], 1e-30)
        # Between two mesh centres both fields are straight lines: no division in the inner loop.
        half = mesh // 2
        for segment in range(columns + 1):
            start = 0 if segment == 0 else (segment - 1) * mesh + half
            stop = width if segment == columns else min(segment * mesh + half, width)
            left, right = max(segment - 1, 0), min(segment, columns - 1)
            level, scale = across_level[left], across_scale[left]
            level_step = (across_level[right] - level) / mesh
            scale_step = (across_scale[right] - scale) / mesh
            for x in range(start, stop):
                value = image[y, x]
                k = np.float32(x - start)
                s = (value - (level + k * level_step)) * (scale + k * scale_step)
                out[y, x] = s if np.isfinite(s) else np.float32(0.0)
    return out


@njit(nogil=True, cache=True, fastmath=False)
def smoothed_noise(image: NDArray[np.float32], kernel: NDArray[np.float32]) -> float:
    """Robust σ of a frame filtered with a 3 × 3 kernel of sum 1, from some 20,000 of its pixels.

    Parameters
    ----------
    image
        Shape (rows, columns), background near 0, exact 0 = no data (from `significance`).
    kernel
        Shape (3, 3).

    Returns
    -------
    float
        0 if there are too few pixels. Correlated noise (resampled frames) comes out larger than white noise would.
    """
    height, width = image.shape
    step = max(int(np.sqrt(height * width / 20000.0)), 1)
    values = np.empty((height // step + 1) * (width // step + 1), np.float32)
    count = 0
    for y in range(1, height - 1, step):
        for x in range(1 + (y // step) % step, width - 1, step):
            total, gap = np.float32(0.0), False
            for j in range(3):
                for i in range(3):
                    value = image[y + j - 1, x + i - 1]
                    gap |= value == 0.0
                    total += kernel[j, i] * value
            if not gap:
                values[count] = total
                count += 1
    if count < 100:
        return 0.0
    for _ in range(3):
        copy = values[:count].copy()
        centre, sigma = _median_mad(copy, count)
        kept = 0
        for i in range(count):
            if abs(values[i] - centre) <= 3.0 * sigma:
                values[kept] = values[i]
                kept += 1
        count = kept
    return float(sigma)


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
