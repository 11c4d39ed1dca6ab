"""Luminance over colour: brightness is the luminance's, colour the bands', noise as carried."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.colour.chroma import Chroma, less_green, recolour, smooth, smoothed_variance


def test_scnr_formulas() -> None:
    rgb = np.random.default_rng(1).uniform(0, 1, (3, 50, 40))
    red, green, blue = rgb
    np.testing.assert_allclose(less_green(rgb, "average", 1.0)[1], np.minimum(green, 0.5 * (red + blue)))
    np.testing.assert_allclose(less_green(rgb, "maximum", 1.0)[1], np.minimum(green, np.maximum(red, blue)))
    half = less_green(rgb, "average", 0.5)[1]
    np.testing.assert_allclose(half, 0.5 * (green + np.minimum(green, 0.5 * (red + blue))))
    assert less_green(rgb, "none", 1.0) is rgb
    np.testing.assert_array_equal(less_green(rgb, "average", 1.0)[[0, 2]], rgb[[0, 2]])


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
        variance = smoothed_variance(np.where(np.isfinite(plane), 4.0, np.nan)[None], 1.3)[0]
        assert variance[y, x] == pytest.approx(4.0 * (weight**2).sum() / weight.sum() ** 2, rel=1e-9)
    assert np.isnan(found[5, 9])


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
