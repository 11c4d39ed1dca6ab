"""The PSF of one region: a Moffat profile fitted to all of its stars, and the mean of what it leaves of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skyloom.ops.restoration.moffat import Cutouts, Moffat, centred, fit_moffat, levels, reweighted

Floats = NDArray[np.float64]

FITTED = 60
"""Stars the profile is fitted to at most, the brightest."""
FWHM_RANGE = 0.2
"""A star's FWHM may differ so much (relative) from the usual one."""


@dataclass(frozen=True)
class Psf:
    """A PSF, and the stars it rests on."""

    stamp: Floats
    """Shape (side, side), sum 1, centred on the middle pixel, 0 beyond the circle."""
    model: Moffat
    stars: int


def cut_out(
    image: NDArray[np.float32], x: Floats, y: Floats, noise: float, *, radius: int, mask: float
) -> Cutouts:
    """Windows around the stars, other stars masked.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    x, y
        Of all stars (pixels), those wanted first or last: one cutout each.
    noise
        Pixel rms.
    radius
        Of a window, whose side is 2·radius + 1 (pixels).
    mask
        Radius around other stars that is not used (pixels).
    """
    side = 2 * radius + 1
    data, weight = np.zeros((2, x.size, side, side))
    middle_x, middle_y = np.rint(x).astype(int), np.rint(y).astype(int)
    axis = np.arange(-radius, radius + 1)
    circle = axis[:, None] ** 2 + axis[None, :] ** 2 <= (radius + 0.5) ** 2
    for i, (cx, cy) in enumerate(zip(middle_x, middle_y, strict=True)):
        rows, columns = cy + axis, cx + axis
        window = np.full((side, side), np.nan)
        inside_y, inside_x = (rows >= 0) & (rows < image.shape[0]), (columns >= 0) & (columns < image.shape[1])
        window[np.ix_(inside_y, inside_x)] = image[np.ix_(rows[inside_y], columns[inside_x])]
        good = np.isfinite(window) & circle
        near = (np.abs(x - x[i]) < radius + mask + 1) & (np.abs(y - y[i]) < radius + mask + 1)
        near[i] = False
        for k in np.flatnonzero(near):
            good &= (columns[None, :] - x[k]) ** 2 + (rows[:, None] - y[k]) ** 2 > mask**2
        data[i] = np.where(good, window, 0.0)
        weight[i] = good / noise**2
    return Cutouts(data, weight, x - middle_x, y - middle_y)


def region_psf(
    image: NDArray[np.float32],
    stars: Floats,
    chosen: NDArray[np.bool_],
    noise: float,
    *,
    radius: int,
    least: int,
) -> Psf | None:
    """PSF of the stars of a region, None where they are too few.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    stars
        Shape (stars, STAR_QUANTITIES), brightest first.
    chosen
        Shape (stars,): those to use; the others are kept out of the windows.
    noise
        Pixel rms.
    radius
        Of the stamp (pixels).
    least
        Fewest stars.

    Notes
    -----
    Model plus table of residuals as in DAOPHOT (Stetson 1987): only the residuals, which are small, are
    interpolated, so the stamp is not blurred. They count by their significance: e³ / (e² + error²).
    """
    if chosen.sum() < least:
        return None
    usual = float(np.median(stars[chosen, 4]))
    # Nearest first would do for the stars themselves; what is masked around them is decided by all stars found.
    every = cut_out(image, stars[:, 0], stars[:, 1], noise, radius=radius, mask=2.0 * usual)
    cutouts = every.take(chosen)
    half = radius // 2
    core = cutouts.weight[:, half : radius + half + 1, half : radius + half + 1] > 0
    open_core = core.mean(axis=(1, 2)) > 0.7
    cutouts = cutouts.take(open_core)
    if len(cutouts.data) < least:
        return None
    start = Moffat(usual, (0.0, 0.0), 3.0)
    model = fit_moffat(reweighted(cutouts.take(_first(cutouts, FITTED)), start), start)
    cutouts = centred(reweighted(cutouts, model), model)
    alike = _alike(cutouts, model)
    if alike.sum() >= least:
        cutouts = cutouts.take(alike)
    model = fit_moffat(cutouts.take(_first(cutouts, FITTED)), model)
    cutouts = centred(cutouts, model)
    axis = np.arange(-radius, radius + 1.0)
    stamp = model(axis[None, :], axis[:, None])
    stamp = stamp + _residual(cutouts, model, noise)
    r = np.hypot(axis[None, :], axis[:, None])
    stamp = np.maximum(stamp, 0.0) * _taper(r, radius)
    return Psf(stamp / stamp.sum(), model, len(cutouts.data))


def _first(cutouts: Cutouts, count: int) -> NDArray[np.bool_]:
    return np.arange(len(cutouts.data)) < count


def _taper(r: Floats, radius: int) -> Floats:
    """1, falling to 0 over the outer fifth of the radius."""
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip((r / (radius + 0.5) - 0.8) / 0.2, 0.0, 1.0)))


def _alike(cutouts: Cutouts, model: Moffat) -> NDArray[np.bool_]:
    """Stars whose profile the model fits as well as it does most of them."""
    values = model(*cutouts.offsets())
    height, level = levels(cutouts, values)
    left = cutouts.data - height[:, None, None] * values - level[:, None, None]
    near = (cutouts.weight > 0) & (values > 0.02)
    count = np.maximum(near.sum(axis=(1, 2)), 1)
    rms = np.sqrt((cutouts.weight * left**2 * near).sum(axis=(1, 2)) / count)
    middle = np.median(rms)
    spread = 1.4826 * np.median(np.abs(rms - middle))
    return np.asarray((height > 0) & (rms <= middle + 4.0 * spread + 0.3))


def _residual(cutouts: Cutouts, model: Moffat, noise: float) -> Floats:
    """Clipped mean of what is left of the stars, at their centres, in units of the peak."""
    values = model(*cutouts.offsets())
    height, level = levels(cutouts, values)
    left = (cutouts.data - level[:, None, None]) / height[:, None, None] - values
    used = cutouts.weight > 0
    moved, weight = np.zeros_like(left), np.zeros_like(left)
    for i in range(len(left)):
        shift = (-cutouts.dy[i], -cutouts.dx[i])
        moved[i] = ndimage.shift(np.where(used[i], left[i], 0.0), shift, order=3, mode="nearest")
        # Beside a masked pixel the spline is not to be trusted.
        weight[i] = ndimage.shift(used[i].astype(np.float64), shift, order=1, mode="constant") > 0.999
    # A few stars far brighter than the rest would be the PSF alone, with whatever is wrong with them.
    capped = np.minimum(height, 4.0 * np.median(height))
    weight *= (capped[:, None, None] / noise) ** 2
    mean = np.zeros(left.shape[1:])
    error = np.full(left.shape[1:], np.inf)
    for _ in range(3):
        total = np.maximum(weight.sum(axis=0), 1e-300)
        mean = (weight * moved).sum(axis=0) / total
        around = (moved - mean) ** 2
        scatter = (weight * around).sum(axis=0) / total
        effective = total**2 / np.maximum((weight**2).sum(axis=0), 1e-300)
        error = np.sqrt(scatter / np.maximum(effective - 1.0, 0.5))
        limit = np.maximum(9.0 * scatter, 9.0 * (noise / capped[:, None, None]) ** 2)
        weight = np.where(around > limit, 0.0, weight)
    mean = np.where(weight.sum(axis=0) > 0, mean, 0.0)
    significant = mean**2 / np.maximum(mean**2 + error**2, 1e-300)
    return np.asarray(mean * significant)


def reach(flux: float, noise: float, fwhm: float, beta: float) -> float:
    """Where the Moffat profile of a star of this flux falls to 3 σ (pixels)."""
    alpha = fwhm / (2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0))
    peak = flux * (beta - 1.0) / (math.pi * alpha**2)
    return alpha * math.sqrt(max((peak / (3.0 * noise)) ** (1.0 / beta) - 1.0, 0.0))
