"""Which detections of a frame are stars: their table, and the mask that keeps them out of the superpixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.measurement.apertures import aperture_sums
from skyloom.ops.measurement.cells import mask_discs
from skyloom.ops.measurement.shapes import PROFILE_BINS, SIGMA_TO_FWHM, half_width, measure_shapes
from skyloom.ops.registration.stars import BLENDED, NEAR_EDGE, SATURATED, STAR_QUANTITIES

MIN_STARS = 5
"""Fewer clean stars than this and a frame cannot be verified or scaled by stars."""

Floats = NDArray[np.float64]


def tabulate_stars(
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
    """Star table, frame FWHM (pixels), frame ellipticity; draws the star mask into `masked`.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    found
        From `detect`.
    masked
        Shape of the image, written: True where stars and hot pixels are.
    noise
        Pixel rms (frame units).
    threshold
        Level of the detection (σ).
    max_stars, aperture, gain, saturation
        As in `measure_frame`.
    largest
        FWHM (pixels) from which what was found is no stars.

    Returns
    -------
    table, fwhm, ellipticity
        (stars, STAR_QUANTITIES), brightest first; NaN without stars.
    """
    nothing = np.empty((0, len(STAR_QUANTITIES)))
    if not found.size:
        return nothing, math.nan, math.nan
    found = found[np.argsort(-found["flux"], kind="stable")]
    x, y = found["x"].astype(np.float64), found["y"].astype(np.float64)
    moment = SIGMA_TO_FWHM * np.sqrt(np.maximum(found["a"] * found["b"], 0.05)).astype(np.float64)
    guess = float(np.clip(densest(np.log(moment[:300])), math.log(1.2), math.log(25.0)))
    guess = math.exp(guess)
    take = min(len(found), max_stars + max_stars // 4 + 100)
    shape = np.full((len(found), 9), np.nan)
    profile = np.empty((take, PROFILE_BINS))
    measure_shapes(image, x[:take], y[:take], guess, shape[:take], profile)
    spread = np.sqrt(shape[:, 2])
    peak, sharp = shape[:, 5], shape[:, 6]
    pointlike = np.isfinite(spread) & (sharp > 0.08)
    if not pointlike.any():
        return nothing, math.nan, math.nan
    # By peak, not by flux: the brightest in flux are galaxies and knots of nebula.
    order = np.nonzero(pointlike)[0]
    order = order[np.argsort(-peak[order], kind="stable")]
    typical = math.exp(densest(np.log(spread[order[:300]])))
    if typical * SIGMA_TO_FWHM > 1.5 * guess:
        # The first guess was led by hot pixels and rings were too small.
        guess = typical * SIGMA_TO_FWHM
        measure_shapes(image, x[:take], y[:take], guess, shape[:take], profile)
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
    to_fwhm = 2.0 * half_width(profile[core[np.argsort(-peak[core], kind="stable")][:150]])
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
    aperture_sums(image, sx, sy, radius, inner, inner + max(1.5 * fwhm, 3.0), sums)
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
    size = SIGMA_TO_FWHM * np.sqrt(np.maximum(found["a"] * found["b"], 0.0)).astype(np.float64)
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


def densest(values: Floats) -> float:
    """Half-sample mode: the densest place of a few hundred values, whatever the tails."""
    values = np.sort(values)
    while values.size > 3:
        half = (values.size + 1) // 2
        spans = values[half - 1 :] - values[: values.size - half + 1]
        start = int(np.argmin(spans))
        values = values[start : start + half]
    return float(np.median(values))
