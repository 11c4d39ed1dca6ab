"""Richardson-Lucy iterations that follow the residuals where the image holds more than noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from skyloom.ops.restoration.atrous import kept, misfit
from skyloom.ops.restoration.blur import Blur

Pixels = NDArray[np.float32]
Floats = NDArray[np.float64]

LEAST_KNOWN = 0.1
"""Least part of a pixel's light that must be known for its correction to be taken at its size."""
AT_REST = 1.0
"""Misfit (σ) over a few pixels up to which the light is left as it is: what follows is noise."""


@dataclass(frozen=True)
class Regularisation:
    """What of the residuals is followed."""

    support: Pixels
    """Shape (layers, rows, columns), 0 … 1: how much of each layer (`support_of`)."""
    sigma: Pixels
    """Noise of a pixel, shape (rows, columns)."""
    noise: Sequence[float]
    """σ of the layers where a pixel has σ 1."""


def richardson_lucy(
    data: Pixels,
    known: Pixels | None,
    blur: Blur,
    start: Pixels,
    *,
    iterations: int,
    floor: Pixels,
    pedestal: Pixels,
    regularisation: Regularisation | None = None,
) -> Pixels:
    """Light above a floor which, blurred, gives the data.

    Parameters
    ----------
    data
        Shape (rows, columns), on any level.
    known
        1 where there are data, 0 where not; None: everywhere. Where there are none the light follows from around.
    blur
        The PSF.
    start
        Light above the floor to begin with, > 0.
    iterations
        How many.
    floor
        What the light is nowhere less than.
    pedestal
        Added to the blurred light above the floor, > 0: the size of light that is nothing but noise.
    regularisation
        Which residuals are followed; None: all of them.

    Returns
    -------
    ndarray
        float32, the light above the floor.

    Notes
    -----
    h ← h · (1 + Pᵀ(R / (P h + c))) with R = data - P (h + floor): Richardson (1972), Lucy (1974) where R is all of
    the residual, regularised by the multiresolution support of the image as Starck & Murtagh (1994). Residuals
    that are noise over a few pixels are left out whole (`misfit`), so iterations come to rest before noise is
    fitted. Missing pixels are left out of all sums: the correction is over the Pᵀ of what is known.
    """
    light = start.astype(np.float32)
    below = blur.forward(floor)
    gain = None
    if known is not None:
        gain = np.float32(1.0) / np.maximum(blur.adjoint(known), np.float32(LEAST_KNOWN))
    for _ in range(iterations):
        model = blur.forward(light)
        # The transform of a light ≥ 0 has rounding errors below 0.
        np.maximum(model, 0.0, out=model)
        residual = data - below
        residual -= model
        if known is not None:
            residual *= known
        if regularisation is not None:
            sigma, noise = regularisation.sigma, regularisation.noise
            followed = misfit(residual, sigma, noise=noise, limit=AT_REST)
            residual = kept(residual, regularisation.support)
            residual *= followed
            if known is not None:
                residual *= known
        model += pedestal
        residual /= model
        correction = blur.adjoint(residual)
        if gain is not None:
            correction *= gain
        correction += np.float32(1.0)
        np.maximum(correction, 0.0, out=correction)
        light *= correction
    return light


_STEPS = 80


def narrower(stamp: Floats, fwhm: float) -> Floats:
    """Kernel that makes a PSF from a round Gaussian.

    What is deconvolved with it becomes an image with the Gaussian for a PSF: wide enough for its pixels, so that
    stars ring no more than the pixels can show (Magain, Courbin & Sohy 1998).

    Parameters
    ----------
    stamp
        The PSF, shape (side, side), side odd, sum 1.
    fwhm
        Of the Gaussian (pixels).

    Returns
    -------
    ndarray
        Same shape, ≥ 0, sum 1; by Richardson-Lucy, so a PSF that is narrower than the Gaussian becomes a point.
    """
    side = stamp.shape[0]
    size = fft.next_fast_len(2 * side, real=True)
    shape = (size, size)
    sigma = fwhm / 2.3548200450309493
    axis = np.minimum(np.arange(size), size - np.arange(size))
    gauss = np.exp(-0.5 * (axis[:, None] ** 2 + axis[None, :] ** 2) / sigma**2)
    transfer = fft.rfft2(gauss / gauss.sum(), workers=1)
    data, inside = np.zeros((2, *shape))
    data[:side, :side], inside[:side, :side] = stamp, 1.0
    kernel = np.maximum(data, 1e-9 * stamp.max()) * inside
    for _ in range(_STEPS):
        model = np.maximum(fft.irfft2(fft.rfft2(kernel) * transfer, s=shape), 1e-12)
        # The Gaussian is its own mirror image.
        kernel *= fft.irfft2(fft.rfft2(data / model) * transfer, s=shape) * inside
        np.maximum(kernel, 0.0, out=kernel)
    out = kernel[:side, :side]
    return np.asarray(out / out.sum())
