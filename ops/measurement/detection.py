"""Sources of a frame above a smooth background, in units of the local noise."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import sep
from numba import njit
from numpy.typing import NDArray
from scipy import linalg, ndimage

from skyloom.ops.errors import DataError
from skyloom.ops.measurement.islands import cut_islands
from skyloom.ops.robust import clipped_rms, median_mad

# sep keeps its limits in globals, which are not thread-safe. The stack takes 36 bytes a pixel of objects not yet
# complete, all of it written at every call: pages that the system has to give take longer than the search.
_SEP = threading.Lock()
_PIXEL_STACK = 400_000
sep.set_sub_object_limit(4096)

KERNEL = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / np.float32(16)
# White noise after the kernel, in units of the pixel noise.
_KERNEL_NOISE = float(np.sqrt((KERNEL**2).sum()))
_SMALLEST = 5  # pixels a source has at least


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
                centre, sigma = median_mad(copy, count)
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
                    centre, sigma = median_mad(copy, count)
                out[my, mx, 0] = centre
                out[my, mx, 1] = sigma
            if pairs >= 16:
                sigma = clipped_rms(differences, pairs)
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
    sigma = _fill(np.where(np.isfinite(location), sigma, np.nan))
    return _fill(location), ndimage.median_filter(sigma, size=3, mode="nearest"), level


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
            values = np.moveaxis(_spline(np.moveaxis(values, axis, 0), where), 0, axis)
        else:
            values = np.repeat(values, -(-shape[axis] // step), axis=axis)
    return np.ascontiguousarray(values)


def _spline(values: NDArray[np.float64], where: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural cubic spline through `values` at 0, 1, … of the first axis, straight on beyond the ends.

    scipy's own costs a tenth of a second to import.
    """
    count = len(values)
    bend = np.zeros_like(values)  # second derivatives, 0 at the ends
    if count > 2:
        bands = np.ones((3, count - 2))
        bands[1] = 4.0
        bend[1:-1] = linalg.solve_banded((1, 1), bands, 6.0 * (values[2:] - 2.0 * values[1:-1] + values[:-2]))
    inside = np.clip(where, 0.0, count - 1.0)
    left = np.minimum(inside.astype(np.intp), count - 2)
    right = left + 1
    t = (inside - left)[:, None]
    s = 1.0 - t
    out = s * values[left] + t * values[right] + ((s**3 - s) * bend[left] + (t**3 - t) * bend[right]) / 6.0
    slope = values[right] - values[left] - ((3 * s * s - 1) * bend[left] - (3 * t * t - 1) * bend[right]) / 6.0
    return np.asarray(out + (where - inside)[:, None] * slope)


@njit(nogil=True, cache=True, fastmath=False)
def significance(
    image: NDArray[np.float32],
    location: NDArray[np.float64],
    sigma: NDArray[np.float64],
    mesh: int,
    out: NDArray[np.float32],
) -> None:
    """Work out (image - background) / σ, both interpolated bilinearly between mesh centres; 0 where NaN.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    location, sigma
        From `background_mesh` or, smoother, `refine_mesh`.
    mesh
        Their mesh (pixels).
    out
        Shape (rows, columns), set. What numpy has allocated lies in large pages.
    """
    height, width = image.shape
    rows = location.shape[0]
    level, scale, level_step, scale_step = np.empty((4, width), np.float32)
    last = -1
    for y in range(height):
        v = min(max((y + 0.5) / mesh - 0.5, 0.0), rows - 1.0)
        j = min(int(v), max(rows - 2, 0))
        if j != last:
            # Between two rows of centres all columns are straight lines: no interpolation in the inner loop.
            below = min(j + 1, rows - 1)
            for x in range(width):
                u = min(max((x + 0.5) / mesh - 0.5, 0.0), location.shape[1] - 1.0)
                left = int(u)
                right = min(left + 1, location.shape[1] - 1)
                u -= left
                level[x] = (1 - u) * location[j, left] + u * location[j, right]
                level_step[x] = (1 - u) * location[below, left] + u * location[below, right] - level[x]
                scale[x] = 1.0 / max((1 - u) * sigma[j, left] + u * sigma[j, right], 1e-30)
                scale_step[x] = 1.0 / max((1 - u) * sigma[below, left] + u * sigma[below, right], 1e-30) - scale[x]
            last = j
        t = np.float32(v - j)
        for x in range(width):
            s = (image[y, x] - (level[x] + t * level_step[x])) * (scale[x] + t * scale_step[x])
            out[y, x] = s if np.isfinite(s) else np.float32(0.0)


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
        centre, sigma = median_mad(copy, count)
        kept = 0
        for i in range(count):
            if abs(values[i] - centre) <= 3.0 * sigma:
                values[kept] = values[i]
                kept += 1
        count = kept
    return float(sigma)


def _extract(detection: NDArray[np.float32], level: float) -> tuple[NDArray[Any], float]:
    """Sources above a level, and the level; gives up detail, never the frame, where it is too crowded."""
    contrast = 0.005
    for _ in range(12):
        # sep holds the interpreter, and most of a frame is sky: it gets to see what is bright.
        islands = cut_islands(detection, level=level, smallest=_SMALLEST)
        picture = detection if islands is None else islands.picture
        try:
            with _SEP:
                sep.set_extract_pixstack(min(picture.size, _PIXEL_STACK))
                found = sep.extract(
                    picture,
                    level,
                    minarea=_SMALLEST,
                    filter_kernel=KERNEL,
                    deblend_nthresh=16,  # 8 are a quarter faster and lose a bright star now and then
                    deblend_cont=contrast,
                    clean=False,
                )
        except Exception as full:
            if "buffer full" in str(full):
                level *= 2.0
            elif contrast < 1.0:
                contrast = 1.0
            else:
                raise DataError(f"star detection failed: {full}") from full
            continue
        found = np.asarray(found)
        if islands is not None:
            by = islands.shift(found["xpeak"], found["ypeak"])
            for axis, shift in zip("xy", by, strict=True):
                for column in (axis, f"{axis}min", f"{axis}max", f"{axis}peak", f"{axis}cpeak"):
                    found[column] += shift
        return found, level
    raise DataError(f"star detection failed: too much of the frame is above {level:.3g} σ")


def detect(
    image: NDArray[np.float32],
    location: NDArray[np.float64],
    sigma: NDArray[np.float64],
    noise: float,
    *,
    mesh: int,
    threshold: float,
) -> tuple[NDArray[Any], float]:
    """Find what stands out of the background.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    location, sigma, noise
        From `background_mesh` with the same `mesh`.
    mesh
        Side of a mesh (pixels).
    threshold
        Limit in σ of the frame smoothed with `KERNEL`.

    Returns
    -------
    found
        Structured, one row a source: the columns of `sep.extract`, `flag` without what it says of edges.
    level
        The limit in σ of a pixel; higher than asked for where too much of the frame is bright.

    Raises
    ------
    DataError
        If even far above the threshold too much of the frame is bright.
    """
    step = max(mesh // 8, 2)
    location, sigma = (
        refine_mesh(v, (image.shape[0], image.shape[1]), mesh=mesh, step=step) for v in (location, sigma)
    )
    # A mesh without data has no σ of its own.
    detection = np.empty(image.shape, np.float32)
    significance(image, location, np.maximum(sigma, 0.5 * noise), step, detection)
    level = threshold * max(smoothed_noise(detection, KERNEL), _KERNEL_NOISE)
    return _extract(detection, level)
