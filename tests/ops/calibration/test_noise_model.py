"""The noise of calibration frames, from the frames themselves; its use makes variances right."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.calibration.noise_model import fit_dark_noise, fit_flat_noise, pixel_scatter
from skyloom.ops.calibration.stacking import stack_mean

SHAPE = (64, 1024)


def darks(
    frames: int, *, sigma: NDArray[np.float64] | float = 4.0, seed: int = 1, pattern: float = 2.0
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    random = np.random.default_rng(seed)
    level = 500.0 + pattern * random.normal(size=SHAPE[1]) + np.zeros(SHAPE)
    stack = level + sigma * random.normal(size=(frames, *SHAPE))
    return np.rint(stack).astype(np.float32), level


@pytest.mark.parametrize("frames", [2, 3, 5, 10, 30])
def test_noise_of_darks(frames: int) -> None:
    stack, _ = darks(frames)
    model = fit_dark_noise(stack.copy())
    assert model.variance == pytest.approx(16 + 1 / 12, rel=0.03)
    assert model.level == pytest.approx(500, abs=0.5)
    # Two samples a pixel hardly tell how alike pixels are.
    assert model.prior > (20 if frames == 2 else 100)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.6])
def test_integers_of_little_noise(sigma: float) -> None:
    """Rounding leaves few values; a variance of nothing would reject every sample that differs."""
    stack, level = darks(6, sigma=sigma)
    model = fit_dark_noise(stack.copy())
    assert 1 / 12 <= model.variance < sigma**2 + 0.2
    made = stack_mean(stack, (model,))
    assert made.rejected.mean() / 6 < 1e-3
    assert np.abs(made.image - level).mean() < 0.35


def test_one_frame_tells_its_noise_by_neighbours() -> None:
    """Along columns: their different bias is no noise."""
    stack, _ = darks(1, pattern=20.0)
    assert fit_dark_noise(stack.copy()).variance == pytest.approx(16 + 1 / 12, rel=0.03)
    model = fit_dark_noise(stack.copy(), gain=5.0)
    assert model.slope == 0.2
    light = np.random.default_rng(1).normal(1.0, 0.004, (1, *SHAPE)).astype(np.float32)
    assert fit_flat_noise(light, np.ones(1)).variance == pytest.approx(0.004**2, rel=0.03)
    assert fit_flat_noise(light, np.ones(1), gain=2.0, light=20_000.0).variance == pytest.approx(
        1 / 40_000, rel=0.01
    )


@pytest.mark.parametrize("gain", [0.3, 5.0])
@pytest.mark.parametrize("told", [True, False])
def test_noise_grows_with_the_charge_of_hot_pixels(gain: float, told: bool) -> None:
    random = np.random.default_rng(1)
    excess = np.where(random.random(SHAPE) < 0.02, random.exponential(2000.0, SHAPE), 0.0)
    stack = 500.0 + excess + np.sqrt(16.0 + excess / gain) * random.normal(size=(10, *SHAPE))
    model = fit_dark_noise(stack.astype(np.float32), gain=gain if told else np.nan)
    assert model.slope == pytest.approx(1 / gain, rel=0.1)
    # A header that is wrong by far is not believed.
    model = fit_dark_noise(stack.astype(np.float32), gain=3.0 * gain)
    assert model.slope == pytest.approx(1 / gain, rel=0.1)


def test_cosmic_rays_and_missing_pixels_do_not_matter() -> None:
    stack, _ = darks(8)
    random = np.random.default_rng(2)
    stack[random.random(stack.shape) < 2e-3] += 3000.0
    stack[:, random.random(SHAPE) < 0.1] = np.nan
    model = fit_dark_noise(stack)
    assert model.variance == pytest.approx(16 + 1 / 12, rel=0.04)
    assert fit_dark_noise(np.full((3, 8, 16), np.nan, np.float32)).variance == 0.0


def test_frames_without_noise() -> None:
    stack = np.full((4, 8, 64), 100.0, np.float32)
    model = fit_dark_noise(stack)
    assert model.variance == 0.0
    stack[1, 3, 5] = 900.0
    made = stack_mean(stack, (model,))
    assert (made.image == 100.0).all()
    assert made.rejected.sum() == 1


@pytest.mark.parametrize("frames", [2, 5, 20])
@pytest.mark.parametrize("fall", [0.0, 0.4])
def test_noise_of_flats_is_that_of_their_photons(frames: int, fall: float) -> None:
    """Vignetting: pixels of less light have less noise."""
    random = np.random.default_rng(frames)
    response = (1.0 - fall * np.linspace(0, 1, SHAPE[1])) * (1 + 0.01 * random.normal(size=SHAPE))
    electrons = 80_000.0
    factor = random.uniform(0.5, 2.0, frames)
    noise = np.sqrt(response / electrons * factor[:, None, None])
    stack = response + noise * random.normal(size=(frames, *SHAPE))
    model = fit_flat_noise(stack.astype(np.float32), factor)
    for x in np.quantile(response, (0.05, 0.5, 0.95)):
        stated = model.variance + model.slope * (x - model.level)
        assert stated == pytest.approx(x / electrons, rel=0.05)


@pytest.mark.parametrize("frames", [3, 5, 10, 20, 50])
@pytest.mark.parametrize("kind", ["alike", "of all kinds", "two amplifiers"])
def test_variances_are_right_whatever_the_pixels_are_like(frames: int, kind: str) -> None:
    """What makes the shrinking sound: its strength is measured. Pixels of CMOS sensors scatter by a quarter."""
    random = np.random.default_rng(7)
    sigma = np.full(SHAPE, 4.0)
    if kind == "of all kinds":
        sigma *= np.exp(0.25 * random.normal(size=SHAPE))
    if kind == "two amplifiers":
        sigma[:, SHAPE[1] // 2 :] *= 1.5
    stack, level = darks(frames, sigma=sigma)
    made = stack_mean(stack, (fit_dark_noise(stack.copy()),))
    chi2 = float(np.mean((made.image - level) ** 2 / made.variance))
    assert chi2 == pytest.approx(1.0, abs=0.035)
    assert made.rejected.mean() / frames < 1e-3
    if frames == 10:
        own = stack.var(axis=0, ddof=1) / frames + 1e-6
        assert np.mean((made.image - level) ** 2 / own) > 1.2


def test_scatter_equals_plain_numpy() -> None:
    random = np.random.default_rng(1)
    for frames in (1, 2, 3, 6, 9):
        sample = random.normal(100.0, 5.0, (frames, 40)).astype(np.float32)
        sample[random.random(sample.shape) < 0.1] = np.nan
        factor = random.uniform(0.5, 2.0, frames)
        level, own, count = pixel_scatter(sample, factor)
        for p in range(40):
            good = np.isfinite(sample[:, p])
            values, weight = sample[good, p].astype(float), 1 / factor[good]
            assert count[p] == good.sum()
            if not good.any():
                assert np.isnan(level[p])
                continue
            assert level[p] == pytest.approx(np.median(values), rel=1e-6)
            if good.sum() > 1:
                mean = np.average(values, weights=weight)
                assert own[p] == pytest.approx(np.sum(weight * (values - mean) ** 2) / (good.sum() - 1), rel=1e-6)
