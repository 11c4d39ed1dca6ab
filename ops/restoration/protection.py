"""What deconvolution may touch, and how deep it may go: no rings, no structure made of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skyloom.ops.restoration.atrous import significance, smooth

Pixels = NDArray[np.float32]
Floats = NDArray[np.float64]

DEEP = 20.0
"""σ by which dark structure without anything bright beside it may be deepened more than a ring."""
SAMPLED = 2.5
"""FWHM (pixels) from which the first layer holds little of a star."""
THINNED = 4
"""The level around is looked at on every so many pixels."""
_COARSE_NOISE = 0.3
"""σ of an image smoothed twice, of neighbours correlated as after resampling, in units of the pixels'."""


def softened(image: Pixels, steps: int) -> Pixels:
    """Smooth by B3 splines of 1, 2, 4, … pixels, `steps` of them."""
    out, work = np.array(image, np.float32, order="C"), np.empty(image.shape, np.float32)
    for k in range(steps):
        smooth(out, 2**k, work, out)
    return out


def floor_under(
    image: Pixels, sigma: Pixels, *, corner: tuple[int, int], fwhm: float, radius: int, depth: float
) -> Pixels:
    """What the light of an image stands on: the level around, and some σ less.

    Light is nowhere negative, so no ring around a star goes deeper than this.

    Parameters
    ----------
    image
        Shape (rows, columns), finite.
    sigma
        Noise of a pixel, same shape.
    corner
        Row and column of the first pixel on the canvas: the same pixels give the same level in any window.
    fwhm, radius
        Of the PSF (pixels).
    depth
        How far below the level around (σ) beside bright things; `DEEP` more where there are none.

    Notes
    -----
    The level around is the lower quartile over a square of the PSF's radius: the wings of a star are above it, and
    what lies in a nebula is measured by the nebula. It is nowhere above the image.
    """
    coarse = softened(image, 2)
    start = [-c % THINNED for c in corner]
    thin = softened(coarse, 1)[start[0] :: THINNED, start[1] :: THINNED]
    level = ndimage.percentile_filter(thin, 25.0, size=2 * math.ceil(radius / THINNED) + 1)
    level = softened(level, 1)
    places = [
        np.clip((np.arange(n) - s) / THINNED, 0.0, m - 1.0)
        for n, s, m in zip(image.shape, start, level.shape, strict=True)
    ]
    around = np.minimum(_bilinear(level, places[0], places[1]), coarse)
    bright = np.clip((coarse - around) / (3.0 * _COARSE_NOISE * sigma) - 1.0, 0.0, 1.0)
    beside = softened(ndimage.maximum_filter(bright, 2 * math.ceil(2.0 * fwhm) + 1), 2)
    return np.asarray(around - sigma * (depth + DEEP * (1.0 - beside)), dtype=np.float32)


def _bilinear(values: Pixels, y: Floats, x: Floats) -> Pixels:
    """Interpolate a lattice at all pairs of y and x (in its steps)."""
    for places in (y, x):
        low = np.minimum(places.astype(int), max(values.shape[0] - 2, 0))
        high = np.minimum(low + 1, values.shape[0] - 1)
        share = (places - low).astype(np.float32)[:, None]
        values = ((1.0 - share) * values[low] + share * values[high]).T
    return np.ascontiguousarray(values)


def structure(image: Pixels, sigma: Pixels, *, noise: Sequence[float], fwhm: float, threshold: float) -> Pixels:
    """Where there is more than noise: 0 … 1, spread by one and a half FWHM so that a star keeps all of its light.

    Parameters
    ----------
    image, sigma, fwhm
        As for `floor_under`.
    noise
        σ of each layer where a pixel has σ 1.
    threshold
        Significance of a layer (σ) from which there is structure; from twice that on it counts fully. 0: 1
        everywhere.
    """
    if threshold <= 0:
        return np.ones(image.shape, np.float32)
    # Where a star is wider than a pixel, what is not is noise.
    first = 0 if fwhm < SAMPLED else 1
    found = np.clip(significance(image, sigma, noise=noise, first=first) / threshold - 1.0, 0.0, 1.0)
    return softened(ndimage.maximum_filter(found, 2 * math.ceil(1.5 * fwhm) + 1), 2)


def spared(shape: tuple[int, int], stars: Floats, *, fwhm: float, largest: float) -> Pixels:
    """Discs over saturated stars: 1 inside, falling to 0 over one FWHM around them.

    Parameters
    ----------
    shape
        Rows, columns.
    stars
        Shape (stars, 3): x, y (pixels from the corner), reach (pixels).
    fwhm
        Of the PSF (pixels).
    largest
        Largest radius (pixels).
    """
    out = np.zeros(shape, np.float32)
    for x, y, reach in stars:
        radius = min(max(reach, 2.0 * fwhm), largest)
        outer = radius + fwhm
        rows = slice(max(math.floor(y - outer), 0), max(math.ceil(y + outer) + 1, 0))
        columns = slice(max(math.floor(x - outer), 0), max(math.ceil(x + outer) + 1, 0))
        part = out[rows, columns]
        if part.size:
            dy = rows.start + np.arange(part.shape[0])[:, None] - y
            dx = columns.start + np.arange(part.shape[1])[None, :] - x
            np.maximum(part, np.clip((outer - np.hypot(dy, dx)) / fwhm, 0.0, 1.0), out=part)
    return out
