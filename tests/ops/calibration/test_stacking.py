"""The mean of a stack without outliers: against plain numpy, and against what is true."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyloom.ops.calibration.stacking import (
    FEW,
    FEW_SIGMA,
    Clipping,
    NoiseModel,
    Stacked,
    critical_ratios,
    stack_mean,
    truncation,
    widened,
)

PLAIN = NoiseModel(500.0, 16.0, slope=0.5, quiet=10.0)


def twin(
    stack: NDArray[np.float32],
    models: tuple[NoiseModel, ...],
    factor: NDArray[np.float64],
    clipping: Clipping,
    first_row: int = 0,
) -> Stacked:
    """Plain loops, written from the docstrings."""
    out = Stacked.empty(stack.shape[1:])
    for y in range(stack.shape[1]):
        for x in range(stack.shape[2]):
            model = models[0] if len(models) == 1 else models[2 * ((first_row + y) % 2) + x % 2]
            good = np.isfinite(stack[:, y, x])
            values, share = stack[good, y, x].astype(float), factor[good]
            if not values.size:
                continue
            kept = kept_samples(values, share, model, clipping)
            weights = 1.0 / share[kept]
            mean = float(np.sum(weights * values[kept]) / weights.sum())
            n = int(kept.sum())
            variance = model_variance(model, mean)
            if n > 1:
                own = float(np.sum(weights * (values[kept] - mean) ** 2)) / (n - 1)
                own /= left_over(values.size, model, clipping)
                if own > critical_ratios(len(stack), model.prior)[n - 1] * variance:
                    variance = own
                else:
                    variance = (model.prior * variance + (n - 1) * own) / max(model.prior + n - 3.0, 1.0)
            out.image[y, x], out.variance[y, x] = mean, variance / weights.sum()
            out.count[y, x], out.rejected[y, x] = n, values.size - n
    return out


def left_over(count: int, model: NoiseModel, clipping: Clipping) -> float:
    if clipping.method == "none":
        return 1.0
    limits = (clipping.low, clipping.high)
    if count < {"noise": 10**9, "sigma": FEW_SIGMA}.get(clipping.method, FEW):
        limits = (widened(limits[0], model.prior), widened(limits[1], model.prior))
    return truncation(*limits)


def model_variance(model: NoiseModel, level: float) -> float:
    above = level - model.level
    above = 0.0 if 0 < above < model.quiet else above
    return max(model.variance + model.slope * above, model.least * model.variance)


def kept_samples(
    values: NDArray[np.float64], factor: NDArray[np.float64], model: NoiseModel, clipping: Clipping
) -> NDArray[np.bool_]:
    kept = np.ones(values.size, bool)
    if clipping.method == "none" or values.size < 2:
        return kept
    few = {"noise": 10**9, "sigma": FEW_SIGMA}.get(clipping.method, FEW)

    def limits(n: int) -> tuple[float, float]:
        low, high = clipping.low, clipping.high
        return (low, high) if n >= few else (widened(low, model.prior), widened(high, model.prior))

    weights = 1.0 / factor
    mean = np.sum(weights * values) / weights.sum()
    reach = math.sqrt(model_variance(model, mean)) * (1.0 - 1.0 / (factor.min() * weights.sum()))
    low, high = limits(values.size)
    z = (values - mean) / np.sqrt(factor)
    if z.max() <= high * reach and z.min() >= -low * reach:
        return kept
    while kept.sum() > 1:
        index = np.flatnonzero(kept)
        index = index[np.argsort(values[index], kind="stable")]
        n = index.size
        low, high = limits(n)
        if n == 2:
            limit = high * math.sqrt(model_variance(model, values[index[0]]) * factor[index].sum())
            if values[index[1]] - values[index[0]] > limit:
                kept[index[1]] = False
            return kept
        below = np.cumsum(1.0 / factor[index])
        lower = int(np.argmax(below >= 0.5 * below[-1] * (1 - 1e-9)))
        upper = lower + 1 if below[lower] <= 0.5 * below[-1] * (1 + 1e-9) else lower
        centre = 0.5 * float(values[index[lower]] + values[index[upper]])
        scale = math.sqrt(model_variance(model, centre))
        z = (values[index] - centre) / np.sqrt(factor[index])
        if n >= few:
            sigma = float(z.std(ddof=1))
            if clipping.method != "sigma":
                for _ in range(100):
                    new = 1.134 * float(np.clip(z, -1.5 * sigma, 1.5 * sigma).std(ddof=1))
                    done = abs(new - sigma) <= 5e-4 * sigma
                    sigma = new
                    if done:
                        break
            scale = max(scale, sigma * (1 + 2 / n))
        inside = (z >= -low * scale) & (z <= high * scale)
        if inside.all():
            return kept
        if not inside.any():
            z = (values[index] - values[index[lower]]) / np.sqrt(factor[index])
            inside = (z >= -low * scale) & (z <= high * scale)
        kept[index[~inside]] = False
    return kept


def noisy(
    random: np.random.Generator, frames: int, shape: tuple[int, int] = (7, 10), *, hits: float = 0.05
) -> NDArray[np.float32]:
    level = 500.0 + np.where(random.random(shape) < 0.1, random.exponential(300.0, shape), 0.0)
    stack = level + random.normal(0.0, np.sqrt(16.0 + 0.5 * (level - 500.0)), (frames, *shape))
    stack += np.where(random.random(stack.shape) < hits, random.exponential(200.0, stack.shape), 0.0)
    stack[random.random(stack.shape) < 0.03] = np.nan
    return stack.astype(np.float32)


def agree(a: Stacked, b: Stacked) -> None:
    np.testing.assert_array_equal(a.count, b.count)
    np.testing.assert_array_equal(a.rejected, b.rejected)
    np.testing.assert_allclose(a.image, b.image, rtol=1e-6)
    np.testing.assert_allclose(a.variance, b.variance, rtol=2e-5)


# --- the kernel does what it says ---


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 8, 12, 19, 40])
@pytest.mark.parametrize("method", ["auto", "none", "noise", "sigma", "winsorized"])
def test_kernel_equals_its_twin(frames: int, method: Any) -> None:
    random = np.random.default_rng(frames)
    stack = noisy(random, frames)
    clipping = Clipping(method, 3.0, 2.5)
    factor = np.ones(frames)
    agree(stack_mean(stack, (PLAIN,), clipping=clipping), twin(stack, (PLAIN,), factor, clipping))


@given(
    frames=st.integers(1, 24),
    seed=st.integers(0, 10**6),
    low=st.floats(1.5, 6.0),
    high=st.floats(1.5, 6.0),
    method=st.sampled_from(["auto", "noise", "sigma"]),
    first_row=st.integers(0, 3),
    prior=st.sampled_from([4.0, 30.0, 1e4]),
)
@settings(max_examples=40, deadline=None)
def test_kernel_equals_its_twin_for_phases_and_weights(
    frames: int, seed: int, low: float, high: float, method: Any, first_row: int, prior: float
) -> None:
    random = np.random.default_rng(seed)
    stack = noisy(random, frames, (5, 6))
    factor = random.uniform(0.3, 3.0, frames)
    models = tuple(NoiseModel(500.0, 4.0 * (k + 1), 0.3 * k, 0.5, 5.0, prior) for k in range(4))
    clipping = Clipping(method, low, high)
    made = stack_mean(stack, models, factor=factor, clipping=clipping, first_row=first_row)
    agree(made, twin(stack, models, factor, clipping, first_row))


@given(frames=st.integers(1, 30), seed=st.integers(0, 10**6), method=st.sampled_from(["auto", "noise", "sigma"]))
@settings(max_examples=40, deadline=None)
def test_what_holds_for_every_stack(frames: int, seed: int, method: Any) -> None:
    random = np.random.default_rng(seed)
    stack = noisy(random, frames, (6, 7), hits=0.3)
    made = stack_mean(stack, (PLAIN,), clipping=Clipping(method))
    valid = np.isfinite(stack).sum(axis=0)
    np.testing.assert_array_equal(made.count + made.rejected, valid)
    # A sample is always kept, and the mean lies among the samples.
    assert (made.count[valid > 0] >= 1).all()
    assert np.isnan(made.image[valid == 0]).all()
    inside = valid > 0
    lowest, highest = np.fmin.reduce(stack)[inside], np.fmax.reduce(stack)[inside]
    assert (made.image[inside] >= lowest - 1e-3).all()
    assert (made.image[inside] <= highest + 1e-3).all()
    assert (made.variance[inside] > 0).all()
    # The order of the frames does not matter.
    turned = stack_mean(np.ascontiguousarray(stack[::-1]), (PLAIN,), clipping=Clipping(method))
    np.testing.assert_array_equal(made.count, turned.count)
    np.testing.assert_allclose(made.image, turned.image, rtol=1e-6)
    # Nor does what stands beside a pixel.
    part = stack_mean(np.ascontiguousarray(stack[:, 2:5, 1:4]), (PLAIN,), clipping=Clipping(method))
    np.testing.assert_array_equal(part.image, made.image[2:5, 1:4])
    np.testing.assert_array_equal(part.variance, made.variance[2:5, 1:4])


def test_writes_where_it_is_told() -> None:
    stack = noisy(np.random.default_rng(1), 9)
    out = Stacked.empty((20, 20))
    stack_mean(stack, (PLAIN,), out=out.window(slice(3, 10), slice(2, 12)))
    np.testing.assert_array_equal(out.image[3:10, 2:12], stack_mean(stack, (PLAIN,)).image)
    assert np.isnan(out.image[:3]).all()


# --- and what it says is right ---


@pytest.mark.parametrize("frames", [2, 3, 5, 8, 10, 20])
def test_variance_is_that_of_the_mean_and_clipping_shifts_nothing(frames: int) -> None:
    random = np.random.default_rng(frames)
    stack = random.normal(500.0, 4.0, (frames, 256, 512)).astype(np.float32)
    made = stack_mean(stack, (PLAIN,))
    off = made.image.astype(float) - 500.0
    assert np.mean(off**2 / made.variance) == pytest.approx(1.0, abs=0.015)
    # Less than 1 % of the noise of a frame; 131072 pixels tell it to 0.3 % / sqrt(frames).
    assert abs(off.mean()) < 0.01 * 4.0
    assert made.rejected.sum() < 2e-3 * stack.size


@pytest.mark.parametrize("high", [2.5, 3.0])
def test_variance_of_a_clipped_mean(high: float) -> None:
    """The scatter of what clipping left is less than it was; the variance makes up for it."""
    stack = np.random.default_rng(1).normal(500.0, 4.0, (30, 128, 256)).astype(np.float32)
    made = stack_mean(stack, (NoiseModel(500.0, 16.0, prior=4.0),), clipping=Clipping("sigma", high, high))
    off = (made.image - 500.0) ** 2
    # A prior of 4 expects the mean of the variances above its scale: (4 + 29) / (4 + 29 - 2).
    assert np.mean(off) / np.mean(made.variance) == pytest.approx(31 / 33, abs=0.03)


@pytest.mark.parametrize(("frames", "hits"), [(2, 1), (3, 1), (5, 1), (8, 1), (12, 2), (20, 4)])
@pytest.mark.parametrize("size", [60.0, 5000.0])
def test_cosmic_rays_go(frames: int, hits: int, size: float) -> None:
    random = np.random.default_rng(frames)
    clean = random.normal(500.0, 4.0, (frames, 40, 50)).astype(np.float32)
    stack = clean.copy()
    places = random.random((40, 50)) < 0.2
    for k in range(hits):
        stack[k][places] += np.float32(size * (1 + 0.3 * k))
    made = stack_mean(stack, (PLAIN,))
    assert (made.rejected[places] >= hits).mean() > 0.99
    np.testing.assert_allclose(made.image[places].mean(), 500.0, atol=4.0 / math.sqrt(frames))
    assert (made.rejected[~places] == 0).mean() > 0.99


@pytest.mark.parametrize("frames", [3, 5, 10, 20])
def test_hot_pixels_stay(frames: int) -> None:
    """A hot pixel is noisy in all frames: none of its samples is an outlier."""
    random = np.random.default_rng(frames)
    level = np.full((64, 64), 20_000.0)
    stack = random.normal(level, np.sqrt(16.0 + 0.5 * (level - 500.0)), (frames, 64, 64)).astype(np.float32)
    made = stack_mean(stack, (PLAIN,))
    assert made.rejected.mean() < 0.01
    assert made.image.mean() == pytest.approx(20_000.0, abs=5.0)
    chi2 = np.mean((made.image - level) ** 2 / made.variance)
    assert chi2 == pytest.approx(1.0, abs=0.1)


def test_a_noisy_pixel_is_believed() -> None:
    """Random telegraph noise the model knows nothing of: samples stay, and the variance is the pixel's own."""
    random = np.random.default_rng(1)
    stack = random.normal(500.0, 4.0, (20, 64, 64))
    stack[:, 10:20] += random.normal(0.0, 60.0, (20, 10, 64))
    made = stack_mean(stack.astype(np.float32), (PLAIN,))
    assert made.rejected[10:20].mean() < 0.5
    assert np.median(made.variance[10:20]) == pytest.approx((3600 + 16) / 20, rel=0.15)
    assert np.median(made.variance[30:]) == pytest.approx(16 / 20, rel=0.02)


def test_shrinking_makes_the_variance_better() -> None:
    """Ten samples' own variance is uncertain by half: as a weight it is wrong by a third on the average."""
    random = np.random.default_rng(1)
    stack = random.normal(500.0, 4.0, (10, 256, 256)).astype(np.float32)
    made = stack_mean(stack, (PLAIN,))
    own = stack.var(axis=0, ddof=1) / 10
    off = (made.image - 500.0) ** 2
    assert np.mean(off / own) > 1.2
    assert np.mean(off / made.variance) == pytest.approx(1.0, abs=0.02)
    assert np.std(made.variance) < 0.1 * np.std(own)


def test_two_camps_keep_the_lower() -> None:
    stack = np.array([100, 100.5, 900, 901], np.float32).reshape(4, 1, 1)
    made = stack_mean(stack, (NoiseModel(100.0, 1.0),), clipping=Clipping("noise"))
    assert made.image[0, 0] == pytest.approx(100.25)
    assert made.rejected[0, 0] == 2


def test_limits_widen_where_noise_is_not_alike() -> None:
    assert widened(4.0, 1e4) == pytest.approx(4.0, abs=0.01)
    assert widened(4.0, 9.0) > 6.0
    assert widened(20.0, 4.0) == 20.0


def test_truncation() -> None:
    values = np.random.default_rng(1).normal(size=10**6)
    for low, high in ((2.0, 3.0), (4.0, 1.5)):
        cut = values[(values >= -low) & (values <= high)]
        assert truncation(low, high) == pytest.approx(cut.var(), abs=5e-3)
    assert truncation(1000.0, 1000.0) == 1.0
