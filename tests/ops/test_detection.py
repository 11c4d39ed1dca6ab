"""Background meshes, significance and detection, against injected truth."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.detection import background_mesh, significance, smoothed_noise


@pytest.mark.parametrize("quantized", [False, True])
def test_noise_of_a_mesh(quantized: bool) -> None:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:512, :512]
    sky = 1000 + 0.5 * x + 80 * np.sin(x / 20) * np.cos(y / 25)
    image = (sky + rng.normal(0, 4, sky.shape)).astype(np.float32)
    image[rng.random(image.shape) < 0.01] += 500
    image[:40] = np.nan
    if quantized:
        image = np.round(image)
    _, _, noise = background_mesh(image, mesh=64)
    assert noise == pytest.approx(4, rel=0.03)


def test_significance_is_flat_and_scaled() -> None:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:300, :260]
    image = (500 + 0.15 * x - 0.05 * y + rng.normal(0, 3, x.shape)).astype(np.float32)
    image[100:110, 50:60] = np.nan
    location, sigma, noise = background_mesh(image, mesh=64)
    result = significance(image, location, sigma, 64)
    assert noise == pytest.approx(3, rel=0.03)
    assert (result[100:110, 50:60] == 0).all()
    assert result[64:230, 64:190].std() == pytest.approx(1, rel=0.2)
    assert abs(result[64:230, 64:190].mean()) < 0.1


def test_smoothed_noise_sees_correlation() -> None:
    rng = np.random.default_rng(6)
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / np.float32(16)
    white = rng.normal(0, 1, (400, 400)).astype(np.float32)
    assert smoothed_noise(white, kernel) == pytest.approx(0.375, rel=0.03)
    blurred = (white + np.roll(white, 1, 0) + np.roll(white, 1, 1) + np.roll(white, (1, 1), (0, 1))) / 2
    assert smoothed_noise(blurred.astype(np.float32), kernel) > 0.55


def test_frame_without_pixels_has_no_noise() -> None:
    location, sigma, noise = background_mesh(np.full((50, 50), np.nan, np.float32), mesh=16)
    assert np.isnan(noise)
    assert np.isfinite(location).all()
    assert np.isfinite(sigma).all()
