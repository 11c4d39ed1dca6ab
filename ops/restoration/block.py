"""Deconvolution of one block of the canvas: what lies around it is read, and only the block is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from skyloom.ops.restoration.atrous import support_of
from skyloom.ops.restoration.blur import Blur
from skyloom.ops.restoration.protection import floor_under, spared, structure
from skyloom.ops.restoration.richardson_lucy import Regularisation, richardson_lucy

Pixels = NDArray[np.float32]
Floats = NDArray[np.float64]

FINEST = 2.0
"""Of the finest layer so much more counts as noise: peaks of it would become stars."""
FAINTEST = 0.1
"""Least light above the floor to begin with (σ)."""
LARGEST = 4.0
"""Largest disc over a saturated star in radii of the PSF."""


@dataclass(frozen=True)
class Settings:
    """How to deconvolve."""

    iterations: int
    regularisation: float
    background: float
    deringing: float
    star_protection: float


@dataclass(frozen=True)
class Nodes:
    """PSFs at the centres of regions, and how they blend in between: bilinear, the outermost on to the edge."""

    stamps: Floats
    """Shape (rows, columns, side, side), sums 1: of the regions around a block."""
    rows: Floats
    """Canvas row of each row of them."""
    columns: Floats

    def weights(self, top: int, left: int, shape: tuple[int, int]) -> list[Floats]:
        """Weight of each stamp (in the order of `stamps`) at the pixels of a window; they add up to 1."""
        along = [
            _hats(nodes, start + np.arange(n))
            for nodes, start, n in zip((self.rows, self.columns), (top, left), shape, strict=True)
        ]
        return [np.outer(wy, wx) for wy in along[0] for wx in along[1]]


def _hats(nodes: Floats, places: NDArray[np.int64]) -> Floats:
    """Share of each node at places by linear interpolation, shape (nodes, places)."""
    return np.stack([np.interp(places, nodes, row) for row in np.eye(len(nodes))])


def deconvolve_block(
    image: Pixels,
    variance: Pixels,
    nodes: Nodes,
    saturated: Floats,
    *,
    corner: tuple[int, int],
    fwhm: float,
    noise: Sequence[float],
    settings: Settings,
) -> Pixels:
    """Deconvolve a window of the canvas.

    Parameters
    ----------
    image
        Shape (rows, columns), linear, any sky level, NaN = no data.
    variance
        Of a pixel; NaN where it is not known.
    nodes
        Kernels (`narrower`) of the regions around.
    saturated
        Shape (stars, 3): x, y (pixels from the window's corner), reach.
    corner
        Row and column of the window on the canvas.
    fwhm
        Of the PSF (pixels).
    noise
        σ of the layers of the image where a pixel has σ 1 (`measured_noise`).
    settings
        How.

    Returns
    -------
    ndarray
        Same shape; the outer pixels suffer from what the window does not see.
    """
    hole = ~np.isfinite(image)
    if hole.all():
        return image
    radius = nodes.stamps.shape[2] // 2
    shape = tuple(int(fft.next_fast_len(n + 2 * radius, real=True)) for n in image.shape)
    rows, columns = shape
    pad = [(radius, n - radius - m) for n, m in zip(shape, image.shape, strict=True)]
    filled = _filled(image, hole)
    spread = np.sqrt(np.maximum(variance, 0.0))
    spread[~(spread > 0) | hole] = np.nan
    usual = float(np.nanmedian(spread)) if np.isfinite(spread).any() else 0.0
    if not usual > 0:
        return image
    sigma = np.pad(np.where(np.isfinite(spread), spread, np.float32(usual)), pad, mode="edge").astype(np.float32)
    data = np.ascontiguousarray(np.pad(filled, pad, mode="symmetric"))
    touched = structure(data, sigma, noise=noise, fwhm=fwhm, threshold=settings.background)
    inner = (slice(radius, radius + image.shape[0]), slice(radius, radius + image.shape[1]))
    weight = touched[inner]
    if len(saturated):
        weight = weight * (
            1.0 - settings.star_protection * spared(image.shape, saturated, fwhm=fwhm, largest=LARGEST * radius)
        )
    if not weight.any():
        return image
    known = np.zeros((rows, columns), np.float32)
    known[inner] = ~hole
    first = corner[0] - radius, corner[1] - radius
    base = floor_under(data, sigma, corner=first, fwhm=fwhm, radius=radius, depth=settings.deringing)
    # Noise that is below the floor stays there: lifted to it, it would be taken from the stars around.
    np.minimum(base, data - np.float32(FAINTEST) * sigma, out=base)
    start = data - base
    maps = nodes.weights(*first, (rows, columns))
    side = nodes.stamps.shape[2]
    blur = Blur.of(nodes.stamps.reshape(-1, side, side), maps, (rows, columns))
    regularisation = None
    if settings.regularisation > 0:
        limits = [settings.regularisation * (FINEST if layer == 0 else 1.0) for layer in range(len(noise))]
        support = support_of(data, sigma, noise=noise, limits=limits)
        regularisation = Regularisation(support, sigma, noise)
    light = richardson_lucy(
        data,
        known,
        blur,
        start,
        iterations=settings.iterations,
        floor=base,
        pedestal=sigma,
        regularisation=regularisation,
    )
    # The change is what is added, so where there is none the pixels are the old ones, noise and all.
    light -= start
    return np.asarray(image + weight * light[inner], dtype=np.float32)


def _filled(image: Pixels, hole: NDArray[np.bool_]) -> Pixels:
    """Image with its holes filled by the nearest pixel: a place to begin, no more."""
    if not hole.any():
        return image
    nearest = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    return np.asarray(image[tuple(nearest)])
