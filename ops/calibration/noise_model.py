"""Fits the noise of calibration frames to the frames themselves, from the same few rows of each.

The rows do not depend on how the work is cut, so every strip of a master uses the same model.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import fdtri, gammaincinv

from skyloom.ops.calibration.stacking import NoiseModel
from skyloom.ops.robust import select

MANY = 1e4
"""Degrees of freedom of a prior that stands for "all pixels alike"."""
MODEL_FRAMES = 32
"""Frames a model is fitted to at most; more tell nothing new of 100 000 pixels."""

_HOT = 20.0  # above the level, in sigma: there the noise is the charge's
_LEAST_HOT = 30
_LEVELS = 16  # of a flat, at which the noise is measured
_FLAT_LEAST = 0.02

Samples = NDArray[np.float32]


def fit_dark_noise(sample: Samples, *, gain: float = math.nan) -> NoiseModel:
    """Noise of bias and dark frames: that of an ordinary pixel, and its growth with the charge of hot pixels.

    Parameters
    ----------
    sample
        float32 (frame, row, column): the same rows of each frame, in adjacent pairs; NaN = no data. Is changed:
        spread over the steps of its values (variances of few integers have steps, too).
    gain
        e-/DN, where too few hot pixels tell; NaN = unknown, then 1.

    Returns
    -------
    NoiseModel
        `variance` from the median of the pixels' sample variances; of a single frame from differences of
        neighbours in a column, which columns of different bias do not widen (pixels of different dark current do).
    """
    if sample.shape[0] < 2:
        pairs = sample[0, : sample.shape[1] // 2 * 2]
        level, variance = _single(sample[0], pairs[1::2] - pairs[::2])
        return NoiseModel(level, variance, 1.0 / gain if gain > 0 else 1.0, quiet=_HOT * math.sqrt(variance))
    step = _dither(sample)
    level, own, count = pixel_scatter(sample.reshape(sample.shape[0], -1), np.ones(sample.shape[0]))
    freedom = _freedom(count)
    good = count == freedom + 1
    level, own = level[good], own[good]
    if not level.size:
        return NoiseModel(math.nan, 0.0)
    base, width = _centre(level)
    ordinary = np.abs(level - base) <= 3.0 * width + 1e-6 * abs(base)
    variance = _typical(own[ordinary], freedom)
    if not variance > 0:
        return NoiseModel(base, 0.0)
    excess = level - base
    hot = excess > _HOT * math.sqrt(variance) + 3.0 * width
    slope = 1.0 / gain if gain > 0 else 1.0
    if hot.sum() >= _LEAST_HOT:
        share = (own[hot] - variance * _median_ratio(freedom)) / excess[hot]
        measured = max(float(np.median(share)) / _median_ratio(freedom), 0.0)
        # A gain that does not disagree is known better than a hundred hot pixels tell it.
        if not (gain > 0 and abs(measured * gain - 1.0) < 7.5 / math.sqrt(float(hot.sum()) * freedom)):
            slope = measured
    model = _with_prior(NoiseModel(base, variance, slope, quiet=3.0 * width), level, own, freedom)
    # What the dither added. Rounding leaves that much at least: neighbouring integers are no outliers.
    return replace(model, variance=max(model.variance - step**2 / 12.0, step**2 / 12.0))


def fit_flat_noise(
    sample: Samples, factor: NDArray[np.float64], *, gain: float = math.nan, light: float = math.nan
) -> NoiseModel:
    """Noise of flats divided by their level: photons make it a straight line over the response.

    Parameters
    ----------
    sample
        float32 (frame, row, column), of one phase of the colour filter array; ≈ 1, NaN = no data.
    factor
        (frame,) variance relative to the model (see `stack_mean`).
    gain
        e-/DN, NaN = unknown. A single frame's noise is that of its photons where it is known, else it is taken
        from differences of neighbours, pixels' different response included.
    light
        Level of the frames that `factor` is 1 for (DN).

    Returns
    -------
    NoiseModel
        In units of the level squared.
    """
    if sample.shape[0] < 2:
        level, variance = _single(sample[0], np.diff(sample[0], axis=1))
        if gain > 0 and light > 0:
            variance = level / (gain * light)
        return NoiseModel(level, variance, variance / level if level > 0 else 0.0, _FLAT_LEAST)
    level, own, count = pixel_scatter(sample.reshape(sample.shape[0], -1), factor)
    freedom = _freedom(count)
    good = count == freedom + 1
    level, own = level[good], own[good]
    if not level.size:
        return NoiseModel(math.nan, 0.0)
    base = float(np.median(level))
    variance, slope = _line(level, own, freedom, base)
    return _with_prior(NoiseModel(base, variance, slope, _FLAT_LEAST), level, own, freedom)


def _dither(sample: Samples) -> float:
    """Spread samples over the step of their values, in place; return the step."""
    known = sample[0].ravel()[:65536]
    different = np.unique(known[np.isfinite(known)])
    if different.size < 2:
        return 0.0
    step = float(np.diff(different).min())
    random = np.random.default_rng(1)
    for frame in sample:
        frame += np.float32(step) * (random.random(frame.shape, dtype=np.float32) - np.float32(0.5))
    return step


def _line(level: NDArray[np.float64], own: NDArray[np.float64], freedom: int, base: float) -> tuple[float, float]:
    """Variance at the middle level, and its growth."""
    edges = np.quantile(level, np.linspace(0.01, 0.99, _LEVELS + 1))
    place = np.searchsorted(edges, level)
    parts = [place == k for k in range(1, _LEVELS + 1)]
    points = [(float(np.median(level[p])), _typical(own[p], freedom)) for p in parts if p.sum() >= _LEAST_HOT]
    if not points:
        variance = _typical(own, freedom)
        return variance, max(variance / base, 0.0) if base > 0 else 0.0
    x, y = np.array(points).T
    middle = float(np.median(y))
    photons = middle / base if base > 0 else 0.0
    if np.ptp(x) < 0.02 * abs(base):
        return middle, photons
    growth = float(np.clip(np.polyfit(x - base, y, 1)[0], 0.0, photons)) / middle if middle > 0 else 0.0
    shape = np.maximum(1.0 + growth * (level - base), _FLAT_LEAST)
    variance = _typical(own / shape, freedom)
    return variance, growth * variance


def _with_prior(
    model: NoiseModel, level: NDArray[np.float64], own: NDArray[np.float64], freedom: int
) -> NoiseModel:
    """The model with its prior; its variance then is that of the prior's scale (Smyth 2004), not the median."""
    if not model.variance > 0:
        return model
    above = level - model.level
    above[(above > 0) & (above < model.quiet)] = 0.0
    expected = np.maximum(model.variance + model.slope * above, model.least * model.variance)
    low, high = np.quantile(own / expected, (0.25, 0.75))
    if not low > 0:
        return model
    prior = _prior(float(high / low), freedom)
    scale = _median_ratio(freedom) / float(fdtri(freedom, prior, 0.5))
    return replace(model, variance=model.variance * scale, slope=model.slope * scale, prior=prior)


def _prior(spread: float, freedom: int) -> float:
    """Degrees of freedom of a prior under which sample variances have this ratio of quartiles."""

    def ratio(prior: float) -> float:
        low, high = fdtri(freedom, prior, (0.25, 0.75))
        return float(high / low)

    low, high = math.log(4.0), math.log(MANY)
    if spread <= ratio(MANY):
        return MANY
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if ratio(math.exp(middle)) > spread else (low, middle)
    return math.exp(low)


def _median_ratio(freedom: int) -> float:
    """Median of sample over true variance."""
    return 2.0 * float(gammaincinv(0.5 * freedom, 0.5)) / freedom


def _typical(own: NDArray[np.float64], freedom: int) -> float:
    """True variance of ordinary pixels from their sample variances."""
    return float(np.median(own)) / _median_ratio(freedom) if own.size else 0.0


def _freedom(count: NDArray[np.int64]) -> int:
    """Degrees of freedom of most pixels (at least 1)."""
    return max(int(np.bincount(np.maximum(count, 0)).argmax()) - 1, 1)


def _centre(values: NDArray[np.float64]) -> tuple[float, float]:
    centre = float(np.median(values))
    return centre, 1.4826 * float(np.median(np.abs(values - centre)))


def _single(image: Samples, differences: Samples) -> tuple[float, float]:
    """Level of a frame, and the variance of a pixel from differences of two."""
    level = float(np.nanmedian(image)) if np.isfinite(image).any() else math.nan
    known = differences[np.isfinite(differences)].astype(np.float64)
    if not known.size:
        return level, 0.0
    centre, width = _centre(known)
    # Integers of little noise may have a width of 0.
    inside = known[np.abs(known - centre) <= 4.0 * width] if width > 0 else known
    return level, 0.5 * float(np.var(inside))


@njit(nogil=True, cache=True, fastmath=False)
def pixel_scatter(sample, factor):  # type: ignore[no-untyped-def]
    """Median, sample variance and number of samples of each pixel of (frame, pixel), NaN = no data."""
    frames, pixels = sample.shape
    level = np.full(pixels, np.nan)
    own = np.full(pixels, np.nan)
    count = np.zeros(pixels, np.int64)
    values = np.empty(frames, np.float32)
    for p in range(pixels):
        n = 0
        weights = mean = 0.0
        for i in range(frames):
            v = sample[i, p]
            if v == v:
                values[n] = v
                n += 1
                weights += 1.0 / factor[i]
                mean += float(v) / factor[i]
        count[p] = n
        if n == 0:
            continue
        mean /= weights
        square = 0.0
        for i in range(frames):
            v = sample[i, p]
            if v == v:
                d = float(v) - mean
                square += d * d / factor[i]
        own[p] = square / (n - 1) if n > 1 else np.nan
        upper = select(values, n, n // 2)
        if n % 2 == 0:
            lower = values[0]
            for i in range(n // 2):
                lower = max(lower, values[i])
            upper = 0.5 * (upper + lower)
        level[p] = upper
    return level, own, count
