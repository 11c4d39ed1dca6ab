"""Colour apart from brightness, on linear data: a luminance for the colours, smooth colour, no green cast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

Floats = NDArray[np.float64]
Green = Literal["none", "average", "maximum"]

TRUNCATE = 4.0
"""Reach of the Gaussian (σ)."""
COARSE = 4.0
"""Scale of the colour of faint places, in units of that of bright ones."""
BRIGHT = (2.0, 8.0)
"""Signal to noise of the smoothed brightness between which the coarse colour gives way to the fine one."""


@dataclass(frozen=True)
class Chroma:
    """How colour is kept apart from brightness."""

    smoothing: float
    """σ of the Gaussian that smooths colour where there is signal (pixels); 0 = none."""
    knee: float
    """Pedestal under the ratios, in σ of the smoothed brightness: colour fades into grey below it."""
    green: Green = "none"
    amount: float = 1.0
    """Of the green cast that is taken away, 0…1."""
    significance: float = 0.0
    """Differences from grey below so many σ of theirs fade away."""

    @property
    def halo(self) -> int:
        """Pixels needed around a tile."""
        return 2 if self.smoothing == 0 else math.ceil(TRUNCATE * COARSE * self.smoothing) + 2


def smooth(planes: Floats, sigma: float) -> Floats:
    """Gaussian mean of what there is; NaN where a pixel itself has no data.

    Parameters
    ----------
    planes
        Shape (planes, rows, columns), NaN = no data, in all planes of a pixel or in none.
    sigma
        Pixels.
    """
    kernel = _kernel(sigma)
    there = np.isfinite(planes[0])
    return _of_share(_convolve(np.where(there, planes, 0.0), kernel), _share(there, kernel), there)


def smoothed_variance(variance: Floats, sigma: float) -> Floats:
    """Variance of `smooth` of pixels of that variance, taken as independent."""
    kernel = _kernel(sigma)
    there = np.isfinite(variance[0])
    total = _convolve(np.where(there, variance, 0.0), kernel**2)
    return _of_share(total, _share(there, kernel) ** 2, there)


def _share(there: NDArray[np.bool_], kernel: Floats) -> Floats:
    """Weight of the pixels with data around each."""
    return _convolve(there.astype(np.float64), kernel)


def _of_share(total: Floats, share: Floats, there: NDArray[np.bool_]) -> Floats:
    out = np.full(total.shape, np.nan)
    np.divide(total, share, out=out, where=np.broadcast_to(there, total.shape))
    return out


def _kernel(sigma: float) -> Floats:
    reach = math.ceil(TRUNCATE * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(kernel / kernel.sum())


def _convolve(planes: Floats, kernel: Floats) -> Floats:
    for axis in (-2, -1):
        planes = correlate1d(planes, kernel, axis=axis, mode="constant")
    return planes


def less_green(rgb: Floats, how: Green, amount: float) -> Floats:
    """Green held down to what red and blue allow (SCNR).

    Parameters
    ----------
    rgb
        Shape (3, …).
    how
        average: G' = min(G, (R + B)/2); maximum: G' = min(G, max(R, B)).
    amount
        Of the difference that is taken away, 0…1.

    Notes
    -----
    PixInsight's SCNR, average neutral and maximum neutral protection.
    """
    if how == "none" or amount == 0.0:
        return rgb
    red, green, blue = rgb
    limit = 0.5 * (red + blue) if how == "average" else np.maximum(red, blue)
    return np.stack([red, green - amount * np.maximum(green - limit, 0.0), blue])


def recolour(
    rgb: Floats, variance: Floats | None, light: Floats, light_variance: Floats | None, chroma: Chroma
) -> tuple[Floats, Floats | None]:
    """Put the colour of `rgb` on the brightness `light`, linearly.

    Parameters
    ----------
    rgb, variance
        Shape (3, rows, columns), background at 0, NaN = no data; variance None = not known.
    light, light_variance
        Shape (rows, columns): luminance on the scale of the mean of the three, or that mean itself.
    chroma
        How.

    Returns
    -------
    pixels, variance
        Shape (3, rows, columns). The mean of the three is `light`, whatever the smoothing; valid `chroma.halo`
        pixels inside the window.

    Notes
    -----
    c' = (L + k) (c_s + k) / (Y_s + k) - k with the smoothed colours c_s, their mean Y_s and k = knee · σ(Y_s): the
    ratio of colours where there is signal, the difference from grey where there is none, so that noise about zero
    is never divided by. Where Y_s is below 2…8 σ the colours come from a scale four times coarser. Where a
    smoothed colour lies below the background, k is larger by twice that depth. Differences of the smoothed colours
    from grey that noise alone explains are shrunk away: no blotches on the sky.
    """
    there = np.isfinite(rgb).all(axis=0) & np.isfinite(light)
    colours = np.where(there, rgb, np.nan)
    spread = None if variance is None else np.where(there, variance, np.nan)
    fine, fine_variance = _at_scale(colours, spread, chroma.smoothing)
    bright = fine.mean(axis=0)
    noise = np.sqrt(_mean_variance(fine_variance)) if fine_variance is not None else np.zeros(bright.shape)
    if chroma.smoothing > 0 and fine_variance is not None:
        coarse, coarse_variance = _at_scale(colours, spread, COARSE * chroma.smoothing)
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.clip((bright / noise - BRIGHT[0]) / (BRIGHT[1] - BRIGHT[0]), 0.0, 1.0)
        step = step * step * (3.0 - 2.0 * step)
        fine = step * fine + (1.0 - step) * coarse
        assert coarse_variance is not None
        fine_variance = step**2 * fine_variance + (1.0 - step) ** 2 * coarse_variance
        bright = fine.mean(axis=0)
    if chroma.significance > 0 and fine_variance is not None:
        fine = bright + _significant(fine - bright, fine_variance, chroma.significance)
    # A colour below the background lifts the pedestal, so that no ratio is negative or divided by nothing.
    pedestal = chroma.knee * noise + 2.0 * np.maximum(-fine.min(axis=0), 0.0)
    below = np.maximum(bright + pedestal, 1e-30)
    ratio = less_green(np.maximum((fine + pedestal) / below, 0.0), chroma.green, chroma.amount)
    mean = ratio.mean(axis=0)
    ratio = np.where(mean > 0, ratio / np.where(mean > 0, mean, 1.0), 1.0)
    # A dead pixel far below the background is grey.
    gain = np.maximum(light + pedestal, 0.0)
    out = np.where(there, light + gain * (ratio - 1.0), np.nan)
    if variance is None or light_variance is None or fine_variance is None:
        return out, None
    # First order: r dL + (L + k)/(Y + k) (dc - r dY), the luminance independent of the smoothed colours.
    colour_noise = fine_variance * (1.0 - 2.0 * ratio / 3.0) + ratio**2 * _mean_variance(fine_variance)
    carried = ratio**2 * light_variance + (gain / below) ** 2 * colour_noise
    return out, np.where(there, carried, np.nan)


def _significant(difference: Floats, variance: Floats, limit: float) -> Floats:
    """Differences from grey, shrunk towards none by what noise alone would make of them (James and Stein 1961)."""
    size = (difference**2).sum(axis=0)
    expected = (variance / 3.0 + _mean_variance(variance)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(size > 0, 1.0 - limit**2 * expected / size, 0.0)
    return np.asarray(difference * np.maximum(share, 0.0))


def _at_scale(colours: Floats, variance: Floats | None, sigma: float) -> tuple[Floats, Floats | None]:
    if sigma == 0:
        return colours, variance
    return smooth(colours, sigma), None if variance is None else smoothed_variance(variance, sigma)


def _mean_variance(variance: Floats) -> Floats:
    return np.asarray(variance.sum(axis=0) / 9.0)
