"""What one frame says of itself: stars, noise, superpixels. Every frame is read once, whole, uninterpolated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import dask.array as da
import numpy as np
import sep
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.cells import (
    _median_mad,
    _select,
    background_mesh,
    cell_statistics,
    mask_discs,
    pixel_noise,
    refine_mesh,
    significance,
    smoothed_noise,
)
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.stars import BLENDED, NEAR_EDGE, SATURATED, STAR_QUANTITIES

CELL_QUANTITIES = ("mean", "error", "valid")
SUMMARY_QUANTITIES = ("background", "noise", "fwhm", "ellipticity", "stars", "valid", "status")

OK, NO_PIXELS, UNREADABLE, FEW_STARS = 0, 1, 2, 3
"""Values of a frame's status."""
MIN_STARS = 5
"""Fewer clean stars than this and a frame cannot be verified or scaled by stars."""

# sep keeps these in globals that are not thread-safe: once, before any thread runs.
_PIXEL_STACK = 1_000_000
sep.set_extract_pixstack(_PIXEL_STACK)
sep.set_sub_object_limit(4096)

_KERNEL = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / np.float32(16)
# White noise after the kernel, in units of the pixel noise.
_KERNEL_NOISE = float(np.sqrt((_KERNEL**2).sum()))
_PROFILE_BINS = 24
_LARGEST_STAR = 0.2  # FWHM in meshes: a wider "star" is what the mesh left of a nebula
_LEAST_WEIGHT = 0.7  # σ² of the narrowest weight of the adaptive moments (px²)
_PROFILE_REACH = 4.0  # ρ² of the outermost bin
_SIGMA_TO_FWHM = math.sqrt(8 * math.log(2))

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrameMeasurement:
    """What `measure_frame` returns, unpadded."""

    stars: Floats
    """(stars, STAR_QUANTITIES), brightest first."""
    cells: NDArray[np.float32]
    """(cells_y, cells_x, CELL_QUANTITIES)."""
    summary: Floats
    """(SUMMARY_QUANTITIES,)."""


@njit(nogil=True, cache=True, fastmath=False)
def _annulus(
    image: NDArray[np.float32],
    x: float,
    y: float,
    inner: float,
    outer: float,
    stride: int,
    buffer: NDArray[np.float32],
) -> tuple[float, float, int]:
    """Mean of every `stride`-th pixel of a ring within 2.5σ of their median, their rms, their number."""
    height, width = image.shape
    count, seen = 0, 0
    inner2, outer2 = inner * inner, outer * outer
    for row in range(max(math.ceil(y - outer), 0), min(math.floor(y + outer) + 1, height)):
        dy2 = (row - y) ** 2
        for column in range(max(math.ceil(x - outer), 0), min(math.floor(x + outer) + 1, width)):
            r2 = dy2 + (column - x) ** 2
            if inner2 <= r2 <= outer2:
                seen += 1
                if seen % stride:
                    continue
                value = image[row, column]
                if np.isfinite(value) and count < buffer.size // 2:
                    buffer[count] = value
                    count += 1
    if count < 12:
        return np.nan, np.nan, count
    half = buffer.size // 2
    centre, sigma = 0.0, 0.0
    total = count
    for _ in range(2):
        buffer[half : half + count] = buffer[:count]
        centre, sigma = _median_mad(buffer[half:], count)
        kept = 0
        for i in range(count):
            if abs(buffer[i] - centre) <= 2.5 * sigma:
                buffer[kept] = buffer[i]
                kept += 1
        settled = kept > 0.97 * count
        count = kept
        if settled or count < 12:
            break
    sum1, sum2 = 0.0, 0.0
    for i in range(count):
        d = buffer[i] - centre
        sum1 += d
        sum2 += d * d
    if count == 0:
        return centre, sigma, total
    mean = sum1 / count
    return centre + mean, max(sigma, math.sqrt(max(sum2 / count - mean * mean, 0.0))), count


@njit(nogil=True, cache=True, fastmath=False)
def _sharpness(image: NDArray[np.float32], column: int, row: int, level: float) -> tuple[float, float]:
    """Peak above `level` around a pixel, and the median of its eight neighbours in units of it."""
    height, width = image.shape
    peak, px, py = -np.inf, column, row
    for r in range(max(row - 1, 0), min(row + 2, height)):
        for c in range(max(column - 1, 0), min(column + 2, width)):
            if image[r, c] > peak:
                peak, px, py = image[r, c], c, r
    ring = np.empty(8, np.float32)
    count = 0
    for r in range(max(py - 1, 0), min(py + 2, height)):
        for c in range(max(px - 1, 0), min(px + 2, width)):
            if (r != py or c != px) and np.isfinite(image[r, c]):
                ring[count] = image[r, c]
                count += 1
    peak -= level
    if count < 3 or not peak > 0:
        return peak, np.nan
    return peak, (_select(ring, count, count // 2) - level) / peak


@njit(nogil=True, cache=True, fastmath=False)
def _shape_kernel(
    image: NDArray[np.float32], x: Floats, y: Floats, fwhm: float, out: Floats, profile: Floats
) -> None:
    """Adaptive Gaussian moments of every source: the weight is the source's own matched Gaussian.

    out: x, y, σ², ellipticity, theta, peak, sharpness, weighted flux, plateau pixels.
    profile: per source, mean of I / weighted flux in bins of ρ² (Mahalanobis).
    """
    height, width = image.shape
    sigma0 = fwhm / 2.3548200450309493
    buffer = np.empty(2 * (int(12 * fwhm) + 40) ** 2, np.float32)
    counts = np.empty(profile.shape[1])
    inner, outer = max(2.5 * fwhm, 4.0), max(4.0 * fwhm, 9.0)
    # A shape needs the level to a tenth of the noise only.
    stride = max(int(math.pi * (outer * outer - inner * inner)) // 150, 1)
    for i in range(x.size):
        out[i, :] = np.nan
        profile[i, :] = np.nan
        level, _, _ = _annulus(image, x[i], y[i], inner, outer, stride, buffer)
        if not np.isfinite(level):
            continue
        peak, sharp = _sharpness(image, round(x[i]), round(y[i]), level)
        out[i, 5], out[i, 6] = peak, sharp
        cx, cy = x[i], y[i]
        mxx, myy, mxy = sigma0 * sigma0, sigma0 * sigma0, 0.0
        good = False
        flux = 0.0
        for step in range(40):
            # A narrower weight would fall between the pixels: its sums depend on the phase and collapse.
            short = max(_LEAST_WEIGHT - math.sqrt(mxx * myy - mxy * mxy), 0.0)
            wxx, wyy, wxy = mxx + short, myy + short, mxy
            det = wxx * wyy - wxy * wxy
            ixx, iyy, ixy = wyy / det, wxx / det, -wxy / det
            rx, ry = 3.0 * math.sqrt(wxx), 3.0 * math.sqrt(wyy)
            s, sx, sy, sxx, syy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for row in range(max(int(cy - ry), 0), min(int(cy + ry) + 2, height)):
                dy = row - cy
                for column in range(max(int(cx - rx), 0), min(int(cx + rx) + 2, width)):
                    dx = column - cx
                    q = ixx * dx * dx + iyy * dy * dy + 2 * ixy * dx * dy
                    if q < 9.0:
                        value = image[row, column]
                        if np.isfinite(value):
                            w = math.exp(-0.5 * q) * (value - level)
                            s += w
                            sx += w * dx
                            sy += w * dy
                            sxx += w * dx * dx
                            syy += w * dy * dy
                            sxy += w * dx * dy
            if not s > 0:
                break
            gx, gy = sx / s, sy / s
            # Star × weight has the inverse covariance of both added: take the weight's off again. With equal
            # ones it is half their covariance, and half their offset.
            pxx, pyy, pxy = sxx / s - gx * gx, syy / s - gy * gy, sxy / s - gx * gy
            cx += 2 * gx
            cy += 2 * gy
            p = pxx * pyy - pxy * pxy
            if not (pxx > 0.0 and p > 0.0):
                break
            nxx, nyy, nxy = pyy / p - ixx, pxx / p - iyy, -pxy / p - ixy
            p = nxx * nyy - nxy * nxy
            if not (nxx > 0.0 and p > 0.0):
                break
            nxx, nyy, nxy = nyy / p, nxx / p, -nxy / p
            if nxx * nyy - nxy * nxy < 0.01:
                break
            if nxx + nyy > 32 * sigma0 * sigma0 + 8 or abs(cx - x[i]) + abs(cy - y[i]) > 2 * fwhm + 1:
                break
            moved = abs(nxx - mxx) + abs(nyy - myy) + abs(nxy - mxy)
            size = mxx + myy
            mxx, myy, mxy = nxx, nyy, nxy
            flux = s
            if step > 2 and moved < 2e-3 * size and abs(gx) + abs(gy) < 2e-3:
                good = True
                break
        if not good:
            continue
        mean, half = 0.5 * (mxx + myy), 0.5 * math.sqrt((mxx - myy) ** 2 + 4 * mxy * mxy)
        det = mxx * myy - mxy * mxy
        out[i, 0], out[i, 1] = cx, cy
        out[i, 2] = math.sqrt(det)
        out[i, 3] = 1.0 - math.sqrt(max(mean - half, 0.0) / (mean + half))
        out[i, 4] = 0.5 * math.atan2(2 * mxy, mxx - myy)
        out[i, 7] = flux
        ixx, iyy, ixy = myy / det, mxx / det, -mxy / det
        reach = math.sqrt(_PROFILE_REACH)
        rx, ry = reach * math.sqrt(mxx), reach * math.sqrt(myy)
        profile[i, :] = 0.0
        counts[:] = 0.0
        plateau = 0
        bins = profile.shape[1]
        for row in range(max(int(cy - ry), 0), min(int(cy + ry) + 2, height)):
            dy = row - cy
            for column in range(max(int(cx - rx), 0), min(int(cx + rx) + 2, width)):
                dx = column - cx
                q = ixx * dx * dx + iyy * dy * dy + 2 * ixy * dx * dy
                value = image[row, column] - level
                if q < _PROFILE_REACH and np.isfinite(value):
                    k = min(int(q / _PROFILE_REACH * bins), bins - 1)
                    profile[i, k] += value / flux
                    counts[k] += 1
                    if value > 0.98 * peak:
                        plateau += 1
        out[i, 8] = plateau
        for k in range(bins):
            profile[i, k] = profile[i, k] / counts[k] if counts[k] > 0 else np.nan


@njit(nogil=True, cache=True, fastmath=False)
def _aperture_kernel(
    image: NDArray[np.float32], x: Floats, y: Floats, radius: float, inner: float, outer: float, out: Floats
) -> None:
    """Aperture sums. out: flux, area, background rms, background pixels, NaN or outside (0/1), highest pixel."""
    height, width = image.shape
    buffer = np.empty(2 * int(4 * outer * outer + 8 * outer + 16), np.float32)
    for i in range(x.size):
        level, rms, count = _annulus(image, x[i], y[i], inner, outer, 1, buffer)
        total, area, broken, top = 0.0, 0.0, 0.0, -np.inf
        for row in range(math.floor(y[i] - radius), math.ceil(y[i] + radius) + 1):
            for column in range(math.floor(x[i] - radius), math.ceil(x[i] + radius) + 1):
                # A soft edge one pixel wide: exact to 1e-3 of a pixel where the profile has nearly ended.
                share = radius + 0.5 - math.sqrt((row - y[i]) ** 2 + (column - x[i]) ** 2)
                if share <= 0.0:
                    continue
                if row < 0 or column < 0 or row >= height or column >= width:
                    broken = 1.0
                    continue
                value = image[row, column]
                if not np.isfinite(value):
                    broken = 1.0
                    continue
                share = min(share, 1.0)
                total += share * (value - level)
                area += share
                top = max(top, value)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = total, area, rms, count
        out[i, 4], out[i, 5] = broken, top


def _detect(detection: NDArray[np.float32], level: float) -> NDArray[Any]:
    """Sources of a frame in units of its noise; gives up detail, never the frame, where it is too crowded."""
    contrast = 0.005
    for _ in range(12):
        try:
            found = sep.extract(
                detection,
                level,
                minarea=5,
                filter_kernel=_KERNEL,
                deblend_nthresh=16,
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
        return np.asarray(found)
    raise DataError(f"star detection failed: too much of the frame is above {level:.3g} σ")


def _mode(values: Floats) -> float:
    """Half-sample mode: the densest place of a few hundred values, whatever the tails."""
    values = np.sort(values)
    while values.size > 3:
        half = (values.size + 1) // 2
        spans = values[half - 1 :] - values[: values.size - half + 1]
        start = int(np.argmin(spans))
        values = values[start : start + half]
    return float(np.median(values))


def _half_width(profile: Floats) -> float:
    """ρ at which a profile, sampled in bins of ρ², falls to half its central value.

    Adaptive moments equal the covariance of a Gaussian only; a Moffat's come out larger than its core. The frame's
    own bright stars say by how much: log I(ρ²) is a line for a Gaussian, a smooth curve for a Moffat.
    """
    gaussian = math.sqrt(2 * math.log(2))
    bins = (np.arange(_PROFILE_BINS) + 0.5) * _PROFILE_REACH / _PROFILE_BINS
    enough = np.isfinite(profile).sum(axis=0) >= 5
    if enough.sum() < 10:
        return gaussian
    level = np.nanmedian(profile[:, enough], axis=0)
    bins = bins[enough]
    usable = level > 0.02 * level.max()
    if usable.sum() < 8:
        return gaussian
    weight = np.sqrt(np.isfinite(profile).sum(axis=0)[enough][usable] * level[usable])
    curve = np.polynomial.Polynomial.fit(bins[usable], np.log(level[usable]), 3, w=weight)
    grid = np.linspace(0.0, _PROFILE_REACH, 401)
    below = np.nonzero(curve(grid) < curve(0.0) - math.log(2))[0]
    if not below.size:
        return gaussian
    return float(np.clip(math.sqrt(grid[below[0]]), 0.75 * gaussian, 1.1 * gaussian))


def measure_frame(
    image: NDArray[np.float32],
    *,
    cell: int = 16,
    max_stars: int = 1000,
    threshold: float = 5.0,
    mesh: int = 64,
    aperture: float = 2.0,
    gain: float = math.nan,
    saturation: float = math.nan,
) -> FrameMeasurement:
    """Measure stars, noise and superpixels of one frame.

    Parameters
    ----------
    image
        float32, shape (rows, columns), C-contiguous, NaN = no data.
    cell, max_stars, threshold, mesh, aperture
        As in `measure`.
    gain
        e-/DN, NaN = unknown (then the stars' own photon noise is not in `flux_error`).
    saturation
        Level (frame units) from which a pixel is saturated; NaN = unknown (then plateaus tell).

    Returns
    -------
    FrameMeasurement
        Unpadded tables.

    Notes
    -----
    Positions and shapes: adaptive Gaussian moments (Bernstein & Jarvis 2002; Hirata & Seljak 2003), FWHM corrected
    for the frame's own profile. FWHM is that of the profile as the pixels see it.
    """
    location, sigma, noise = background_mesh(image, mesh=mesh)
    valid = float(np.isfinite(image[::3, ::3]).mean())
    if not math.isfinite(noise):
        # Too sparse for a mesh, perhaps not for a number: only a frame without a pixel has nothing to say.
        valid = float(np.isfinite(image).mean())
    masked = np.zeros(image.shape, np.bool_)
    summary = np.full(len(SUMMARY_QUANTITIES), np.nan)
    summary[4], summary[5] = 0, valid
    stars = np.empty((0, len(STAR_QUANTITIES)))
    if valid == 0.0 and not np.isfinite(image).any():
        summary[6] = NO_PIXELS
        return FrameMeasurement(stars, cell_statistics(image, masked, cell=cell), summary)
    summary[0] = float(np.median(location))
    summary[1] = noise
    summary[6] = FEW_STARS
    if noise > 0:
        step = max(mesh // 8, 2)
        location, sigma = (refine_mesh(v, image.shape, mesh=mesh, step=step) for v in (location, sigma))
        # A mesh without data has no σ of its own.
        detection = significance(image, location, np.maximum(sigma, 0.5 * noise), step)
        level = threshold * max(smoothed_noise(detection, _KERNEL), _KERNEL_NOISE)
        found = _detect(detection, level)
        del detection
        stars, fwhm, ellipticity = _stars(
            image,
            found,
            masked,
            noise=noise,
            threshold=level,
            max_stars=max_stars,
            largest=mesh * _LARGEST_STAR,
            aperture=aperture,
            gain=gain,
            saturation=saturation,
        )
        clean = int(np.sum(stars[:, 8] == 0)) if len(stars) else 0
        summary[2], summary[3], summary[4] = fwhm, ellipticity, clean
        summary[1] = noise = _finite(pixel_noise(image, masked), noise)
        if clean >= MIN_STARS:
            summary[6] = OK
    cells = cell_statistics(image, masked, cell=cell, noise=_finite(noise, 0.0))
    return FrameMeasurement(stars, cells, summary)


def _finite(value: float, otherwise: float) -> float:
    return float(value) if math.isfinite(value) else otherwise


def _stars(
    image: NDArray[np.float32],
    found: NDArray[Any],
    masked: NDArray[np.bool_],
    *,
    noise: float,
    threshold: float,
    max_stars: int,
    largest: float,
    aperture: float,
    gain: float,
    saturation: float,
) -> tuple[Floats, float, float]:
    """Star table, frame FWHM, frame ellipticity; draws the star mask into `masked`."""
    nothing = np.empty((0, len(STAR_QUANTITIES)))
    if not found.size:
        return nothing, math.nan, math.nan
    found = found[np.argsort(-found["flux"], kind="stable")]
    x, y = found["x"].astype(np.float64), found["y"].astype(np.float64)
    moment = _SIGMA_TO_FWHM * np.sqrt(np.maximum(found["a"] * found["b"], 0.05)).astype(np.float64)
    guess = float(np.clip(_mode(np.log(moment[:300])), math.log(1.2), math.log(25.0)))
    guess = math.exp(guess)
    take = min(len(found), max_stars + max_stars // 4 + 100)
    shape = np.full((len(found), 9), np.nan)
    profile = np.empty((take, _PROFILE_BINS))
    _shape_kernel(image, x[:take], y[:take], guess, shape[:take], profile)
    spread = np.sqrt(shape[:, 2])
    peak, sharp = shape[:, 5], shape[:, 6]
    pointlike = np.isfinite(spread) & (sharp > 0.08)
    if not pointlike.any():
        return nothing, math.nan, math.nan
    # By peak, not by flux: the brightest in flux are galaxies and knots of nebula.
    order = np.nonzero(pointlike)[0]
    order = order[np.argsort(-peak[order], kind="stable")]
    typical = math.exp(_mode(np.log(spread[order[:300]])))
    if typical * _SIGMA_TO_FWHM > 1.5 * guess:
        # The first guess was led by hot pixels and rings were too small.
        guess = typical * _SIGMA_TO_FWHM
        _shape_kernel(image, x[:take], y[:take], guess, shape[:take], profile)
        spread = np.sqrt(shape[:, 2])
        pointlike = np.isfinite(spread) & (sharp > 0.08)
    plateau = shape[:, 8] >= 4 + 0.13 * spread**2
    if math.isfinite(saturation):
        saturated = pointlike & (plateau & (peak > 50 * noise) | (_tops(image, found) >= 0.98 * saturation))
    else:
        saturated = pointlike & plateau & (peak > 50 * noise)
    ratio = spread / typical
    starlike = pointlike & (ratio > 0.7) & ((ratio < 1.5) | saturated)
    bright = starlike & ~saturated & (peak > 20 * noise)
    if bright.sum() < MIN_STARS:
        bright = starlike & ~saturated
    core = np.nonzero(bright & (ratio < 1.25))[0]
    if not core.size:
        core = np.nonzero(starlike)[0]
    if not core.size:
        return nothing, math.nan, math.nan
    to_fwhm = 2.0 * _half_width(profile[core[np.argsort(-peak[core], kind="stable")][:150]])
    fwhm = to_fwhm * float(np.median(spread[core]))
    if fwhm > largest:
        return nothing, math.nan, math.nan
    ellipticity = float(np.median(shape[core, 3]))
    _mask(image, found, masked, starlike, saturated, pointlike, sharp, fwhm=fwhm, threshold=threshold)

    index = np.nonzero(starlike)[0]
    radius = max(aperture * fwhm, 2.0)
    sums = np.empty((index.size, 6))
    sx, sy = np.ascontiguousarray(shape[index, 0]), np.ascontiguousarray(shape[index, 1])
    inner = radius + max(0.5 * fwhm, 1.0)
    _aperture_kernel(image, sx, sy, radius, inner, inner + max(1.5 * fwhm, 3.0), sums)
    flux, area, rms, count = sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3]
    rms = np.fmax(rms, noise)
    variance = area * rms**2 + (area * rms) ** 2 / np.maximum(count, 1)
    if gain > 0:
        variance += np.maximum(flux, 0.0) / gain
    flag = np.zeros(index.size)
    flag += BLENDED * _blended(x, y, found["flux"].astype(np.float64), index, radius + fwhm)
    flag += NEAR_EDGE * ((sums[:, 4] > 0) | ~np.isfinite(flux))
    flag += SATURATED * saturated[index]
    table = np.stack(
        [
            sx,
            sy,
            flux,
            np.sqrt(variance),
            to_fwhm * spread[index],
            shape[index, 3],
            shape[index, 4],
            peak[index],
            flag,
        ],
        axis=-1,
    )
    table = table[np.isfinite(flux) & (flux > 0)]
    table = table[np.argsort(-table[:, 2], kind="stable")]
    return table[:max_stars], fwhm, ellipticity


def _tops(image: NDArray[np.float32], found: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(image[found["ypeak"], found["xpeak"]])


def _blended(x: Floats, y: Floats, flux: Floats, index: NDArray[np.intp], reach: float) -> NDArray[np.bool_]:
    """Whether another detection with more than 2 % of a star's flux lies within `reach` pixels of it."""
    tree = cKDTree(np.stack([x, y], axis=-1))
    pairs = tree.query_pairs(reach, output_type="ndarray")
    disturbed = np.zeros(x.size, np.bool_)
    for one, other in ((0, 1), (1, 0)):
        heavy = flux[pairs[:, other]] > 0.02 * flux[pairs[:, one]]
        disturbed[pairs[heavy, one]] = True
    return disturbed[index]


def _mask(
    image: NDArray[np.float32],
    found: NDArray[Any],
    masked: NDArray[np.bool_],
    starlike: NDArray[np.bool_],
    saturated: NDArray[np.bool_],
    pointlike: NDArray[np.bool_],
    sharp: Floats,
    *,
    fwhm: float,
    threshold: float,
) -> None:
    """Draw the stars, faint ones included, and nothing that is extended: nebulae must stay in the cells."""
    height = np.maximum(found["cpeak"].astype(np.float64), threshold)
    area = found["npix"].astype(np.float64)
    # Isophotal area of a Moffat (β = 2.5) with the frame's FWHM, twice: anything larger is no star.
    largest = 2 * math.pi * fwhm**2 * ((height / threshold) ** 0.4 - 1) / 1.278 + 12 + 2 * fwhm**2
    size = _SIGMA_TO_FWHM * np.sqrt(np.maximum(found["a"] * found["b"], 0.0)).astype(np.float64)
    measured = np.isfinite(sharp)
    compact = saturated | starlike | ((area < largest) & (size < 2.5 * fwhm) & ~(measured & (sharp <= 0.08)))
    hot = measured & (sharp <= 0.08)
    # Where a Moffat (β = 3) with this peak falls to a fifth of the noise.
    radius = 0.98 * fwhm * np.sqrt(np.maximum((5.0 * height) ** (1 / 3) - 1, 0.5))
    radius = np.where(saturated, np.maximum(radius, 1.3 * np.sqrt(area / math.pi)), radius)
    radius = np.where(hot & ~compact, 2.0, radius)
    draw = compact | hot
    x, y, radius = found["x"][draw], found["y"][draw], radius[draw]
    # In a field full of stars every cell would vanish: accept more of the wings there.
    while np.sum(math.pi * radius**2) > 0.8 * masked.size and radius.max() > fwhm:
        radius = np.maximum(0.8 * radius, np.minimum(radius, 0.75 * fwhm))
        if np.all(radius <= 0.75 * fwhm):
            break
    mask_discs(masked, x.astype(np.float64), y.astype(np.float64), radius.astype(np.float64))


def measure_spec(spec: str, shape: tuple[int, int], **parameters: Any) -> FrameMeasurement:
    """Read one frame and measure it; an unreadable one has status 2, the others go on.

    Parameters
    ----------
    spec
        For `open_source`.
    shape
        Rows, columns the session promised.
    **parameters
        Of `measure_frame`.
    """
    try:
        image = open_source(spec).read(slice(0, shape[0]), slice(0, shape[1]))
        if image.shape != shape:
            raise DataError(f"the frame is {image.shape[0]} × {image.shape[1]}, not {shape[0]} × {shape[1]}")
        return measure_frame(image, **parameters)
    except (DataError, OSError):
        summary = np.full(len(SUMMARY_QUANTITIES), np.nan)
        summary[4:] = 0, 0, UNREADABLE
        cell = parameters["cell"]
        cells = np.full((-(-shape[0] // cell), -(-shape[1] // cell), 3), np.nan, np.float32)
        cells[..., 2] = 0
        return FrameMeasurement(np.empty((0, len(STAR_QUANTITIES))), cells, summary)


def _measure_padded(
    spec: str, shape: tuple[int, int], padded: tuple[int, int], parameters: dict[str, Any]
) -> tuple[Floats, NDArray[np.float32], Floats]:
    """Arrays of one frame with the leading dimension and the padding of the Dataset."""
    result = measure_spec(spec, shape, **parameters)
    stars = np.full((1, parameters["max_stars"], len(STAR_QUANTITIES)), np.nan)
    stars[0, : len(result.stars)] = result.stars
    cells = np.full((1, *padded, len(CELL_QUANTITIES)), np.nan, np.float32)
    cells[..., 2] = 0
    cells[0, : result.cells.shape[0], : result.cells.shape[1]] = result.cells
    return stars, cells, result.summary[None]


def _pick(results: tuple[Any, ...], index: int) -> Any:
    return results[index]


BYTES_PER_PIXEL = 14.0
"""Peak of a frame's task: pixels and detection image (float32), masks, and the reader's own copy."""
_FIXED_BYTES = 40e6


def measure_cost(session: xr.Dataset, **parameters: Any) -> Cost:
    """Cost of `measure`: one unit a frame."""
    pixels = session["height"].values.astype(np.float64) * session["width"].values
    return Cost(work=pixels / 1e6, read=4 * pixels, memory=BYTES_PER_PIXEL * pixels + _FIXED_BYTES, rate=30.0)


@register(version=1, unit=("frame",), cost=measure_cost)
def measure(
    session: xr.Dataset,
    *,
    cell: Annotated[int, Param(unit="px", low=4, high=256)] = 16,
    max_stars: Annotated[int, Param(low=10, high=20000)] = 1000,
    threshold: Annotated[float, Param(unit="sigma", low=1.5, high=1000)] = 5.0,
    background_mesh: Annotated[int, Param(unit="px", low=16, high=1024)] = 64,
    aperture: Annotated[float, Param(unit="FWHM", low=0.5, high=10)] = 2.0,
) -> xr.Dataset:
    """Measure stars, noise and superpixels of every frame.

    Parameters
    ----------
    session
        Table over `frame` from `ingest` (or from `calibrate`).
    cell
        Side of the square cells whose clipped means feed the normalization.
    max_stars
        Stars kept a frame, brightest first.
    threshold
        Detection limit in σ of the smoothed frame.
    background_mesh
        Mesh of the background that is taken off to find stars; larger than the largest star.
    aperture
        Radius of the flux aperture in units of each frame's own FWHM, so that it encloses the same share of a
        star's light in good and bad seeing.

    Returns
    -------
    xarray.Dataset
        Lazy, one task a frame: `stars` (frame, star, star_quantity) float64, NaN-padded; `cells` (frame, cell_y,
        cell_x, cell_quantity) float32; `summary` (frame, summary_quantity) float64. Flags of a star: 1 blended,
        2 near edge or NaN, 4 saturated. Status of a frame: 0 ok, 1 no valid pixels, 2 unreadable, 3 too few stars.

    Raises
    ------
    DataError
        If the session has no frames.

    Notes
    -----
    Reads each frame whole, once, and holds about 14 bytes a pixel of one frame a task. `flux` is the aperture sum
    above a local ring, `peak` the highest pixel above it; x and y count from 0 at pixel centres.
    """
    count = session.sizes["frame"]
    if not count:
        raise DataError("the session has no frames to measure")
    heights, widths = session["height"].values.astype(int), session["width"].values.astype(int)
    padded = (-(-int(heights.max()) // cell), -(-int(widths.max()) // cell))
    specs = [str(s) for s in session["source"].values]
    gains, saturations = session["gain"].values, session["saturation"].values
    common = {
        "cell": cell,
        "max_stars": max_stars,
        "threshold": threshold,
        "mesh": background_mesh,
        "aperture": aperture,
    }
    token = tokenize("measure", specs, heights, widths, gains, saturations, common)
    base = f"measure-{token}"
    tasks: dict[Any, Any] = {
        (base, i): (
            _measure_padded,
            specs[i],
            (int(heights[i]), int(widths[i])),
            padded,
            {**common, "gain": float(gains[i]), "saturation": float(saturations[i])},
        )
        for i in range(count)
    }
    shapes = {
        "stars": ((max_stars, len(STAR_QUANTITIES)), np.float64, ("star", "star_quantity")),
        "cells": ((*padded, len(CELL_QUANTITIES)), np.float32, ("cell_y", "cell_x", "cell_quantity")),
        "summary": ((len(SUMMARY_QUANTITIES),), np.float64, ("summary_quantity",)),
    }
    variables = {}
    for index, (name, (shape, dtype, dims)) in enumerate(shapes.items()):
        key = f"measure-{name}-{token}"
        zeros = (0,) * len(shape)
        picks: dict[Any, Any] = {(key, i, *zeros): (_pick, (base, i), index) for i in range(count)}
        graph = HighLevelGraph({base: tasks, key: picks}, {base: set(), key: {base}})
        array = da.Array(graph, key, ((1,) * count, *((n,) for n in shape)), dtype=dtype)
        variables[name] = (("frame", *dims), array)
    return xr.Dataset(
        variables,
        coords={
            "frame": session["frame"].values,
            "star_quantity": list(STAR_QUANTITIES),
            "cell_quantity": list(CELL_QUANTITIES),
            "summary_quantity": list(SUMMARY_QUANTITIES),
        },
        attrs={"cell": cell, "aperture": aperture},
    )
