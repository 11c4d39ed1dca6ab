"""Luminance over colour: brightness is the luminance's, colour the bands', noise as carried."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from skyloom.ops.colour.chroma import Chroma, recolour
from skyloom.ops.colour.gaussian import smooth, smooth_both

Floats = NDArray[np.float64]


def less_green(rgb: Floats, how: str, amount: float) -> Floats:
    """Green held down to what red and blue allow (PixInsight's SCNR)."""
    red, green, blue = rgb
    limit = {"none": green, "average": 0.5 * (red + blue), "maximum": np.maximum(red, blue)}[how]
    return np.stack([red, green - amount * np.maximum(green - limit, 0.0), blue])


@pytest.mark.parametrize("how", ["average", "maximum"])
@pytest.mark.parametrize("amount", [1.0, 0.5, 0.0])
def test_green_is_held_down_and_brightness_stays(how: Any, amount: float) -> None:
    rgb = np.random.default_rng(1).uniform(0.1, 1, (3, 50, 40))
    light = rgb.mean(axis=0)
    out, _ = recolour(rgb, None, light, None, Chroma(0.0, 0.0, how, amount))
    held = less_green(rgb, how, amount)
    np.testing.assert_allclose(out, held * light / held.mean(axis=0), rtol=1e-12)
    assert (held[1] < rgb[1]).any() == (amount > 0)


def test_smoothing_is_a_weighted_mean_of_what_there_is() -> None:
    rng = np.random.default_rng(2)
    plane = rng.normal(5, 1, (21, 23))
    plane[4:7, 8:12] = np.nan
    found = smooth(plane[None], 1.3)[0]
    rows, columns = np.mgrid[:21, :23]
    for y, x in ((10, 11), (3, 9), (0, 0), (20, 22)):
        reach = np.maximum(abs(rows - y), abs(columns - x)) <= 6
        weight = np.exp(-0.5 * ((rows - y) ** 2 + (columns - x) ** 2) / 1.3**2) * reach * np.isfinite(plane)
        assert found[y, x] == pytest.approx(np.nansum(weight * np.nan_to_num(plane)) / weight.sum(), rel=1e-9)
        _, variance = smooth_both(plane[None], np.full((1, 21, 23), 4.0), np.isfinite(plane), 1.3)
        assert variance is not None
        assert variance[0, y, x] == pytest.approx(4.0 * (weight**2).sum() / weight.sum() ** 2, rel=1e-9)
    assert np.isnan(found[5, 9])


def gaussian(planes: Floats, sigma: float, power: int = 1) -> Floats:
    """Gaussian mean of what there is, or the variance of that, by scipy."""
    kernel = np.exp(-0.5 * (np.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    there = np.isfinite(planes[0])
    total, share = np.where(there, planes, 0.0), there.astype(float)
    for axis in (-2, -1):
        total = correlate1d(total, kernel**power, axis=axis, mode="constant")
        share = correlate1d(share, kernel, axis=axis, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(there, total / share**power, np.nan)


def by_numpy(
    rgb: Floats, variance: Floats | None, light: Floats, light_variance: Floats | None, chroma: Chroma
) -> tuple[Floats, Floats | None]:
    """`recolour`, its formulas over whole arrays."""
    there = np.isfinite(rgb).all(axis=0) & np.isfinite(light)
    colours = np.where(there, rgb, np.nan)
    spread = None if variance is None else np.where(there, variance, np.nan)
    sigma = chroma.smoothing
    fine = gaussian(colours, sigma) if sigma else colours
    fine_variance = gaussian(spread, sigma, 2) if sigma and spread is not None else spread
    bright, noise = fine.mean(axis=0), np.zeros(light.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        if fine_variance is not None:
            noise = np.sqrt(fine_variance.sum(axis=0)) / 3.0
        if sigma and spread is not None and fine_variance is not None:
            step = np.clip((bright / noise - 2.0) / 6.0, 0.0, 1.0)
            step = step**2 * (3.0 - 2.0 * step)
            coarse, wide = gaussian(colours, 4.0 * sigma), gaussian(spread, 4.0 * sigma, 2)
            lift = chroma.knee * np.sqrt(wide.sum(axis=0)) / 3.0 + 2.0 * np.maximum(-coarse.min(axis=0), 0.0)
            scale = (bright + lift) / np.maximum(coarse.mean(axis=0) + lift, 1e-30)
            expected = scale * (coarse + lift) - lift
            change = ((fine - expected) ** 2).sum(axis=0) / (6.0 * noise**2)
            detail = np.clip((change - 3.0) / 6.0, 0.0, 1.0)
            worth = np.maximum(1.0 - scale**2 * wide.sum(axis=0) / fine_variance.sum(axis=0), 0.0)
            plain = (1.0 - detail**2 * (3.0 - 2.0 * detail)) * worth
            fine = step * ((1.0 - plain) * fine + plain * expected) + (1.0 - step) * coarse
            other = (step * plain * scale + 1.0 - step) ** 2
            fine_variance = (step * (1.0 - plain)) ** 2 * fine_variance + other * wide
            bright = fine.mean(axis=0)
        grey = np.zeros(light.shape) if fine_variance is None else fine_variance.sum(axis=0) / 9.0
        if chroma.significance and fine_variance is not None:
            expected = (fine_variance / 3.0 + grey).sum(axis=0)
            left = 1.0 - chroma.significance**2 * expected / ((fine - bright) ** 2).sum(axis=0)
            fine = bright + (fine - bright) * np.maximum(left, 0.0)
        pedestal = chroma.knee * noise + 2.0 * np.maximum(-fine.min(axis=0), 0.0)
        below = np.maximum(bright + pedestal, 1e-30)
        ratio = less_green(np.maximum((fine + pedestal) / below, 0.0), chroma.green, chroma.amount)
        mean = ratio.mean(axis=0)
        ratio = np.where(mean > 0, ratio / mean, 1.0)
    gain = np.maximum(light + pedestal, 0.0)
    out = np.where(there, light + gain * (ratio - 1.0), np.nan)
    if fine_variance is None or light_variance is None:
        return out, None
    noisy = fine_variance * (1.0 - 2.0 * ratio / 3.0) + ratio**2 * grey
    return out, np.where(there, ratio**2 * light_variance + (gain / below) ** 2 * noisy, np.nan)


@pytest.mark.parametrize("green", ["none", "average", "maximum"])
@pytest.mark.parametrize(("smoothing", "significance"), [(0.0, 0.0), (0.0, 1.0), (1.5, 0.0), (1.1, 1.2)])
@pytest.mark.parametrize("gaps", [False, True])
def test_equals_plain_numpy(green: Any, smoothing: float, significance: float, gaps: bool) -> None:
    rng = np.random.default_rng(6)
    rgb, light = field(5.0)
    variance, light_variance = rng.uniform(16, 36, rgb.shape), rng.uniform(1, 3, light.shape)
    if gaps:
        rgb[:, 20:30, 5:9] = np.nan
        rgb[1, 50, 40], light[12, 40] = np.nan, np.nan
    chroma = Chroma(smoothing, 3.0, green, 0.8, significance)
    # Whether noise is known decides what is done, not only what is returned.
    for noise in ((variance, light_variance), (None, None)):
        found, expected = (
            recolour(rgb, noise[0], light, noise[1], chroma),
            by_numpy(rgb, noise[0], light, noise[1], chroma),
        )
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-11, atol=1e-11)
        inner = recolour(rgb, noise[0], light, noise[1], chroma, margin=7)
        np.testing.assert_array_equal(inner[0], found[0][:, 7:-7, 7:-7])
        if noise[0] is None:
            assert found[1] is None
            continue
        assert found[1] is not None
        assert expected[1] is not None
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-11)


def field(noise: float, seed: int = 3, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A reddish disc on a grey sky."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    disc = 200.0 * np.exp(-0.5 * ((rows - size / 2) ** 2 + (columns - size / 2) ** 2) / 10.0**2)
    rgb = np.stack([1.6 * disc, 0.8 * disc, 0.6 * disc])
    return rgb + rng.normal(0, noise, rgb.shape), disc + rng.normal(0, 0.3 * noise, disc.shape)


def test_brightness_is_the_luminance() -> None:
    rgb, light = field(5.0)
    chroma = Chroma(1.5, 3.0, "average", 1.0, 1.2)
    out, _ = recolour(rgb, np.full(rgb.shape, 25.0), light, np.full(light.shape, 2.25), chroma)
    np.testing.assert_allclose(out.mean(axis=0), light, rtol=1e-9, atol=1e-9)


def test_colour_is_that_of_the_bands() -> None:
    rgb, light = field(2.0)
    out, _ = recolour(rgb, np.full(rgb.shape, 4.0), light, np.full(light.shape, 0.36), Chroma(1.5, 3.0))
    middle = (slice(None), slice(27, 38), slice(27, 38))
    share = out[middle].mean(axis=(1, 2)) / out[middle].mean()
    np.testing.assert_allclose(share, [1.6, 0.8, 0.6], rtol=0.03)


def test_colour_of_an_even_nebula_is_quiet_and_stars_keep_theirs() -> None:
    rng = np.random.default_rng(8)
    rows, columns = np.mgrid[:160, :160]
    star = 400.0 * np.exp(-0.5 * ((rows - 80.0) ** 2 + (columns - 80.0) ** 2) / 1.2**2)
    clean = 60.0 * np.array([0.6, 0.9, 1.5])[:, None, None] + np.array([1.5, 1.0, 0.5])[:, None, None] * star
    rgb = clean + rng.normal(0, 12, clean.shape)
    light = rgb.mean(axis=0)
    out, _ = recolour(rgb, np.full(rgb.shape, 144.0), light, np.full(light.shape, 48.0), Chroma(1.5, 3.0))
    away = np.hypot(rows - 80, columns - 80) > 30
    colour = (out / out.mean(axis=0))[:, away]
    np.testing.assert_allclose(np.median(colour, axis=1), [0.6, 0.9, 1.5], rtol=0.03)
    # The fine scale alone: 12 / 60 of noise a band, over (sqrt(4 π) · 1.5) pixels.
    assert colour.std(axis=1).max() < 0.4 * 12 / 60 / (np.sqrt(4 * np.pi) * 1.5)
    core = (slice(None), slice(79, 82), slice(79, 82))
    # As the fine scale has it without noise: there is nebula under the star.
    fine, _ = recolour(clean, None, clean.mean(axis=0), None, Chroma(1.5, 3.0))
    found, true = (v[core].sum(axis=(1, 2)) for v in (out, fine))
    np.testing.assert_allclose(found / found.sum(), true / true.sum(), rtol=0.05)
    assert true[0] > 1.3 * true[2]


def test_sky_is_grey_and_quiet() -> None:
    rng = np.random.default_rng(4)
    rgb, light = rng.normal(0, 5, (3, 128, 128)), rng.normal(0, 2, (128, 128))
    chroma = Chroma(1.5, 3.0, "average", 1.0, 1.2)
    out, _ = recolour(rgb, np.full(rgb.shape, 25.0), light, np.full(light.shape, 4.0), chroma)
    assert np.abs(np.median(out.reshape(3, -1), axis=1) - np.median(light)).max() < 0.05
    colour = out - out.mean(axis=0)
    # Without all that the differences from grey have σ 4.
    assert colour.std() < 0.25


def test_the_variance_is_what_many_skies_scatter_by() -> None:
    chroma, stack, said = Chroma(1.0, 3.0), [], None
    for seed in range(300):
        rgb, light = field(4.0, seed, size=32)
        out, said = recolour(rgb, np.full(rgb.shape, 16.0), light, np.full(light.shape, 1.44), chroma)
        stack.append(out[:, 12:20, 12:20])
    assert said is not None
    measured = np.var(np.array(stack), axis=0, ddof=1).mean(axis=(1, 2))
    np.testing.assert_allclose(said[:, 12:20, 12:20].mean(axis=(1, 2)), measured, rtol=0.15)


def test_without_smoothing_and_variance_the_ratios_are_exact() -> None:
    rng = np.random.default_rng(5)
    rgb = rng.uniform(10, 100, (3, 20, 20))
    light = rng.uniform(10, 100, (20, 20))
    out, variance = recolour(rgb, None, light, None, Chroma(0.0, 3.0))
    np.testing.assert_allclose(out, rgb * light / rgb.mean(axis=0), rtol=1e-12)
    assert variance is None


def test_dead_pixels_are_grey_and_gaps_stay() -> None:
    rgb, light = field(3.0)
    light[10, 10] = -5000.0
    rgb[1, 20, 20] = np.nan
    out, variance = recolour(rgb, np.full(rgb.shape, 9.0), light, np.full(light.shape, 1.0), Chroma(1.5, 3.0))
    np.testing.assert_allclose(out[:, 10, 10], -5000.0)
    assert np.isnan(out[:, 20, 20]).all()
    assert variance is not None
    assert np.isnan(variance[:, 20, 20]).all()
    assert np.isfinite(out).sum() == out.size - 3
