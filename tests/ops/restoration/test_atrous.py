"""Layers against convolutions written out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from skyloom.ops.restoration.atrous import kept, layer_noise, measured_noise, misfit, smooth, support_of

Pixels = NDArray[np.float32]


def plain_layers(image: NDArray[np.float64], count: int) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    layers = []
    for layer in range(count):
        taps = np.zeros(4 * 2**layer + 1)
        taps[:: 2**layer] = np.array([1, 4, 6, 4, 1]) / 16
        coarse = ndimage.convolve1d(ndimage.convolve1d(image, taps, axis=0, mode="mirror"), taps, 1, mode="mirror")
        layers.append(image - coarse)
        image = coarse
    return layers, image


@pytest.mark.parametrize("shape", [(40, 57), (9, 70), (33, 5)])
@pytest.mark.parametrize("step", [1, 2, 8])
def test_spline_equals_plain_convolution(shape: tuple[int, int], step: int) -> None:
    image = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    out, work = np.empty_like(image), np.empty_like(image)
    smooth(image, step, work, out)
    taps = np.zeros(4 * step + 1)
    taps[::step] = np.array([1, 4, 6, 4, 1]) / 16
    wanted = ndimage.convolve1d(image.astype(float), taps, axis=0, mode="mirror")
    wanted = ndimage.convolve1d(wanted, taps, axis=1, mode="mirror")
    np.testing.assert_allclose(out, wanted, atol=1e-6)
    smooth(image, step, work, image)
    np.testing.assert_array_equal(image, out)


def test_layers_with_full_support_are_the_image_and_with_none_its_smooth_part() -> None:
    image = np.random.default_rng(2).normal(0, 3, (64, 80)).astype(np.float32)
    layers, coarse = plain_layers(image.astype(float), 3)
    np.testing.assert_allclose(kept(image, np.ones((3, 64, 80), np.float32)), image, atol=2e-6)
    np.testing.assert_allclose(kept(image, np.zeros((3, 64, 80), np.float32)), coarse, atol=2e-6)
    some = np.zeros((3, 64, 80), np.float32)
    some[1] = 0.5
    np.testing.assert_allclose(kept(image, some), coarse + 0.5 * layers[1], atol=2e-6)


def test_noise_of_layers() -> None:
    np.testing.assert_allclose(layer_noise(5), [0.8908, 0.2007, 0.0856, 0.0413, 0.0205], atol=2e-4)
    rng = np.random.default_rng(3)
    sigma = np.full((512, 512), 2.0, np.float32)
    known = np.ones(sigma.shape, bool)
    white = rng.normal(0, 2, sigma.shape).astype(np.float32)
    found = measured_noise(white, sigma, known, layers=3, cell=64)
    np.testing.assert_allclose(found, layer_noise(3), rtol=0.08)
    smoothed = ndimage.gaussian_filter(white, 1.0)
    ratio = measured_noise(smoothed, sigma, known, layers=3, cell=64) / np.array(layer_noise(3))
    layers, _ = plain_layers(smoothed.astype(float), 3)
    np.testing.assert_allclose(
        ratio, [v.std() / 2 / n for v, n in zip(layers, layer_noise(3), strict=True)], rtol=0.1
    )
    assert np.isnan(measured_noise(white, sigma, np.zeros_like(known), layers=3, cell=64)).all()


def test_support_is_where_a_star_is_and_hardly_anywhere_else() -> None:
    rng = np.random.default_rng(4)
    image = rng.normal(0, 1, (200, 200)).astype(np.float32)
    y, x = np.mgrid[:200, :200]
    image += (40 * np.exp(-0.5 * ((x - 60) ** 2 + (y - 90) ** 2) / 2.0**2)).astype(np.float32)
    sigma = np.ones_like(image)
    support = support_of(image, sigma, noise=layer_noise(3), limits=[4.0] * 3)
    assert (support[:, 88:93, 58:63] > 0.8).all()
    assert (support[:, :, 120:] > 0.05).mean() < 0.04
    assert (misfit(image, sigma, noise=layer_noise(4), limit=3.0)[88:93, 58:63] > 0.95).all()
    assert (misfit(image, sigma, noise=layer_noise(4), limit=3.0)[:, 120:] > 0.05).mean() < 0.01
