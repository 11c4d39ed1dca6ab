"""Mean of the frames of a stack, pixel by pixel, without outliers, and the variance of that mean.

Calibration frames differ from each other by noise alone, so a model of that noise, fitted to the frames themselves
(`skyloom.ops.calibration.noise_model`), tells outliers where few frames cannot, and steadies the variance: that of
ten samples alone is uncertain by half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import fdtri, ndtr, stdtrit

Method = Literal["auto", "none", "noise", "sigma", "winsorized"]

FEW = 8
"""From this many samples on their own scatter counts in winsorized rejection."""
FEW_SIGMA = 18
"""… in kappa-sigma: of fewer, none can be beyond 4 of their own standard deviations."""
FALSE_ALARM = 1e-4
"""Share of ordinary pixels whose own variance is believed against the model."""

_NONE, _NOISE, _SIGMA, _WINSORIZED = range(4)
_METHODS = {"none": _NONE, "noise": _NOISE, "sigma": _SIGMA, "winsorized": _WINSORIZED, "auto": _WINSORIZED}
_WINSOR_LIMIT, _WINSOR_FACTOR, _WINSOR_TOLERANCE = 1.5, 1.134, 5e-4


@dataclass(frozen=True)
class NoiseModel:
    """Variance of one sample of a pixel of mean level m: max(variance + slope · (m − level), least · variance)."""

    level: float
    """Level of an ordinary pixel (units of the stack)."""
    variance: float
    """Of a sample there (units²)."""
    slope: float = 0.0
    """Growth of the variance with the level: photons, 1 / gain."""
    least: float = 1.0
    """Share of `variance` that no pixel is below."""
    quiet: float = 0.0
    """Up to this far above the level the difference is pattern and chance, and says nothing of the noise."""
    prior: float = 1e4
    """How alike pixels of one level are: their variances scatter as 1 / χ² of this many degrees of freedom."""


@dataclass(frozen=True)
class Clipping:
    """How outliers are told from the rest.

    noise: by the noise model. sigma, winsorized (auto): by the model or by the scatter of the pixel's own samples,
    whichever is larger; with less than 18 or 8 samples by the model alone. A pixel noisier than others keeps its
    samples; an outlier of three samples is still found.
    """

    method: Method = "auto"
    low: float = 4.0
    """Limit below the centre, in standard deviations of a sample."""
    high: float = 4.0
    """Limit above the centre."""


def truncation(low: float, high: float) -> float:
    """Variance of a normal law of variance 1 cut at -low and high: what clipping leaves of the scatter."""
    if min(low, high) > 8.0:
        return 1.0
    a, b = -low, high
    at_a, at_b = (math.exp(-0.5 * t * t) / math.sqrt(2.0 * math.pi) for t in (a, b))
    inside = 0.5 * (math.erf(b / math.sqrt(2.0)) - math.erf(a / math.sqrt(2.0)))
    return 1.0 + (a * at_a - b * at_b) / inside - ((at_a - at_b) / inside) ** 2


@dataclass(frozen=True)
class Stacked:
    """Result of `stack_mean`, all of one shape."""

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    """Of the mean."""
    count: NDArray[np.uint16]
    """Samples in the mean."""
    rejected: NDArray[np.uint16]

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Stacked:
        """Return arrays of no data."""
        image, variance = (np.full(shape, np.nan, np.float32) for _ in range(2))
        count, rejected = (np.zeros(shape, np.uint16) for _ in range(2))
        return cls(image, variance, count, rejected)

    def window(self, rows: slice, columns: slice) -> Stacked:
        """Views of a window."""
        return Stacked(*(a[rows, columns] for a in vars(self).values()))


@lru_cache(maxsize=64)
def critical_ratios(count: int, prior: float) -> NDArray[np.float64]:
    """Ratios of sample to model variance, by degrees of freedom, that ordinary pixels do not reach."""
    out = np.full(max(count, 2), np.inf)
    out[1:] = fdtri(np.arange(1, out.size), prior, 1.0 - FALSE_ALARM)
    out.flags.writeable = False
    return out


@lru_cache(maxsize=256)
def widened(limit: float, prior: float) -> float:
    """Limit passed as rarely as a normal law passes this one, where variances are known only to a prior."""
    if limit > 8.0:
        return limit  # beyond what tails are known of
    return max(-float(stdtrit(prior, ndtr(-limit))), limit)


def stack_mean(
    stack: NDArray[np.float32],
    models: tuple[NoiseModel, ...],
    *,
    factor: NDArray[np.float64] | None = None,
    clipping: Clipping = Clipping(),
    first_row: int = 0,
    out: Stacked | None = None,
) -> Stacked:
    """Reject outliers and average.

    Parameters
    ----------
    stack
        float32 (frame, row, column), NaN = no data.
    models
        Noise of a sample: one for all pixels, or one for each phase (row, column modulo 2) of a colour filter
        array, the column counting faster.
    factor
        (frame,) variance of a frame's samples relative to the model; their weights are 1 / factor. Default 1.
    clipping
        The rules.
    first_row
        Row of the frame that row 0 of the stack is (phases).
    out
        Where to write; made when absent.

    Returns
    -------
    Stacked
        At least one sample of a pixel is always kept. Variance of the mean: σ² / Σ weights, σ² the posterior mean
        (ν₀ v + ν s²) / (ν₀ + ν − 2) of model v and sample variance s² (of ν + 1 samples, corrected for the
        clipping) after Smyth (2004); where s² exceeds v beyond chance it is σ² itself.

    Notes
    -----
    Pixels whose extremes lie within the limits of the mean of the others are not looked at twice. The others are
    clipped about their weighted median until nothing changes; of two samples the higher is dropped if they differ
    by more than the limit (cosmic rays add). Winsorized σ is PixInsight's: values are drawn in to 1.5 σ, σ is
    1.134 times the deviation of the result, until it changes by less than 5e-4; it is widened by 1 + 2/n.
    """
    frames, rows, columns = stack.shape
    out = Stacked.empty((rows, columns)) if out is None else out
    factor = np.ones(frames) if factor is None else np.asarray(factor, np.float64)
    four = models * 4 if len(models) == 1 else models
    table = np.array([[m.level, m.variance, m.slope, m.least * m.variance, m.quiet, m.prior] for m in four])
    critical = np.stack([critical_ratios(frames, m.prior) for m in four])
    limits = np.array([_limits(clipping, m) for m in four])
    _stack_mean(
        stack, factor, table, critical, limits, _METHODS[clipping.method], first_row,
        out.image, out.variance, out.count, out.rejected,
    )  # fmt: skip
    return out


def _limits(clipping: Clipping, model: NoiseModel) -> tuple[float, ...]:
    """Limits and what they leave of the variance: by own scatter, and by the model."""
    low, high = clipping.low, clipping.high
    wide = (widened(low, model.prior), widened(high, model.prior))
    if clipping.method == "none":
        return (low, high, 1.0, *wide, 1.0)
    return (low, high, truncation(low, high), *wide, truncation(*wide))


@njit(nogil=True, cache=True, fastmath=False)
def _model_variance(model, level):  # type: ignore[no-untyped-def]
    above = level - model[0]
    return max(model[1] + model[2] * (0.0 if 0.0 < above < model[4] else above), model[3])


@njit(nogil=True, cache=True, fastmath=False)
def _stack_mean(  # type: ignore[no-untyped-def]
    stack, factor, models, critical, limits, method, first_row, image, variance, count, rejected
):  # fmt: skip
    frames, rows, columns = stack.shape
    weight = 1.0 / factor
    root = np.sqrt(factor)
    few = FEW if method == _WINSORIZED else FEW_SIGMA if method == _SIGMA else 2**30
    heaviest = weight.max() if frames else 1.0
    total, mean, square, top, bottom = np.empty((5, columns))
    samples = np.empty(columns, dtype=np.int32)
    values = np.empty(frames, dtype=np.float64)
    spread = np.empty(frames, dtype=np.float64)
    scratch = np.empty(frames, dtype=np.float64)
    for y in range(rows):
        total[:] = 0
        mean[:] = 0
        square[:] = 0
        top[:] = 0
        bottom[:] = 0
        samples[:] = 0
        for i in range(frames):
            w = weight[i]
            line = stack[i, y]
            for x in range(columns):
                v = line[x]
                good = v == v
                total[x] += w if good else 0.0
                mean[x] += w * float(v) if good else 0.0
                samples[x] += 1 if good else 0
        for x in range(columns):
            mean[x] = mean[x] / total[x] if samples[x] > 0 else 0.0
        for i in range(frames):
            w = weight[i]
            line = stack[i, y]
            scale = 1.0 / root[i]
            for x in range(columns):
                v = line[x]
                d = float(v) - mean[x] if v == v else 0.0
                square[x] += w * d * d
                z = d * scale
                top[x] = max(top[x], z)
                bottom[x] = min(bottom[x], z)
        for x in range(columns):
            m = samples[x]
            if m == 0:
                image[y, x] = variance[y, x] = np.nan
                count[y, x] = rejected[y, x] = 0
                continue
            phase = 2 * ((first_row + y) % 2) + x % 2
            model = models[phase]
            kept, centre, weights, squares = m, mean[x], total[x], square[x]
            if method != _NONE and m > 1:
                # From the mean of the others a sample is W / (W - w) times as far as from the mean of all.
                reach = np.sqrt(_model_variance(model, centre)) * (1.0 - heaviest / total[x])
                at = 0 if m >= few else 3
                if top[x] > limits[phase, at + 1] * reach or bottom[x] < -limits[phase, at] * reach:
                    k = 0
                    for i in range(frames):
                        v = stack[i, y, x]
                        if v == v:
                            values[k] = v
                            spread[k] = root[i]
                            k += 1
                    kept = _clip(values, spread, scratch, m, model, method, few, limits[phase])
                    if kept < m:
                        weights = centre = squares = 0.0
                        for k in range(kept):
                            w = 1.0 / (spread[k] * spread[k])
                            weights += w
                            centre += w * values[k]
                        centre /= weights
                        for k in range(kept):
                            d = (values[k] - centre) / spread[k]
                            squares += d * d
            expected = _model_variance(model, centre)
            freedom = kept - 1
            if freedom > 0:
                own = squares / (freedom * (limits[phase, 2] if m >= few else limits[phase, 5]))
                if own > critical[phase, freedom] * expected:
                    expected = own
                else:
                    prior = model[5]
                    expected = (prior * expected + freedom * own) / max(prior + freedom - 2.0, 1.0)
            image[y, x] = centre
            variance[y, x] = expected / weights
            count[y, x] = kept
            rejected[y, x] = m - kept


@njit(nogil=True, cache=True, fastmath=False)
def _clip(values, spread, scratch, m, model, method, few, limits):  # type: ignore[no-untyped-def]
    """Move the samples that are no outliers to the front of values[:m]; return their number."""
    for i in range(1, m):
        v, s = values[i], spread[i]
        j = i - 1
        while j >= 0 and values[j] > v:
            values[j + 1] = values[j]
            spread[j + 1] = spread[j]
            j -= 1
        values[j + 1] = v
        spread[j + 1] = s
    n = m
    while n > 1:
        low, high = (limits[0], limits[1]) if n >= few else (limits[3], limits[4])
        if n == 2:
            limit = high * np.sqrt(_model_variance(model, values[0]) * (spread[0] ** 2 + spread[1] ** 2))
            return 1 if values[1] - values[0] > limit else 2
        lower, upper = _middle(spread, n)
        centre = 0.5 * (values[lower] + values[upper])
        scale = np.sqrt(_model_variance(model, centre))
        if n >= few:
            scale = max(scale, _own_scatter(values, spread, scratch, n, centre, method))
        start, stop = 0, n
        inside = 0
        for k in range(n):
            z = (values[k] - centre) / spread[k]
            inside += 1 if -low * scale <= z <= high * scale else 0
        if inside == n:
            return n
        if inside == 0:
            # Two equal camps: the lower one, as of two samples.
            centre = values[lower]
        kept = 0
        for k in range(start, stop):
            z = (values[k] - centre) / spread[k]
            if -low * scale <= z <= high * scale:
                values[kept] = values[k]
                spread[kept] = spread[k]
                kept += 1
        n = kept
    return n


@njit(nogil=True, cache=True, fastmath=False)
def _middle(spread, n):  # type: ignore[no-untyped-def]
    """Places of the two samples (or the one) between which half of the weight lies; samples are sorted."""
    half = 0.0
    for k in range(n):
        half += 0.5 / (spread[k] * spread[k])
    below = 0.0
    for k in range(n):
        below += 1.0 / (spread[k] * spread[k])
        if below >= half * (1.0 - 1e-9):
            return k, k + 1 if below <= half * (1.0 + 1e-9) else k
    return n - 1, n - 1


@njit(nogil=True, cache=True, fastmath=False)
def _own_scatter(values, spread, scratch, n, centre, method):  # type: ignore[no-untyped-def]
    total = square = 0.0
    for k in range(n):
        z = (values[k] - centre) / spread[k]
        scratch[k] = z
        total += z
        square += z * z
    sigma = np.sqrt(max(square - total * total / n, 0.0) / (n - 1))
    if method == _WINSORIZED:
        for _ in range(100):
            limit = _WINSOR_LIMIT * sigma
            total = square = 0.0
            for k in range(n):
                z = min(max(scratch[k], -limit), limit)
                total += z
                square += z * z
            new = _WINSOR_FACTOR * np.sqrt(max(square - total * total / n, 0.0) / (n - 1))
            done = abs(new - sigma) <= _WINSOR_TOLERANCE * sigma
            sigma = new
            if done:
                break
    return sigma * (1.0 + 2.0 / n)
