"""Noise of starlets against noise that is resampled and taken apart."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.integration.kernels import kernel_noise_factor, taps
from skyloom.ops.restoration.starlet_noise import correlation, starlet_covariance

Floats = NDArray[np.float64]
SPLINE = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0


def around(values: Floats, taps_of_axis: Floats, step: int) -> Floats:
    """Weighted sum along both axes of an image that goes on on its other side."""
    middle = len(taps_of_axis) // 2
    for axis in (0, 1):
        values = np.asarray(
            sum(t * np.roll(values, (middle - k) * step, axis) for k, t in enumerate(taps_of_axis))
        )
    return values


def starlets(values: Floats, scales: int) -> list[Floats]:
    parts = []
    for scale in range(scales):
        smooth = around(values, SPLINE, 2**scale)
        parts.append(values - smooth)
        values = smooth
    return [*parts, values]


def test_white_noise_has_the_covariance_of_the_unit_impulse() -> None:
    impulse = np.zeros((256, 256))
    impulse[128, 128] = 1.0
    parts = starlets(impulse, 4)
    expected = [[(a * b).sum() for b in parts] for a in parts]
    np.testing.assert_allclose(starlet_covariance(4, 1.0), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kernel", ["lanczos3", "bicubic", "bilinear"])
def test_resampled_noise(kernel: str) -> None:
    rng = np.random.default_rng(4)
    image = np.zeros((512, 512))
    for _ in range(16):
        frame = rng.normal(size=image.shape)
        for axis in (0, 1):
            weights = taps(kernel, np.array(rng.random()))
            frame = np.asarray(sum(t * np.roll(frame, k, axis) for k, t in enumerate(weights)))
        image += frame / 4.0
    factor = kernel_noise_factor(kernel)
    expected = np.sqrt(np.diag(starlet_covariance(5, factor)))
    found = [part.std() for part in starlets(image, 5)]
    # A part of 32 pixels has some 500 independent values in the image.
    np.testing.assert_allclose(found[:4], expected[:4], rtol=0.04)
    np.testing.assert_allclose(found[4:], expected[4:], rtol=0.15)


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.4444, 0.6, 0.79, 0.9, 1.0])
def test_correlation_keeps_the_noise_of_areas(factor: float) -> None:
    lags = correlation(factor)
    assert lags[0] + 2 * lags[1:].sum() == pytest.approx(1.0, abs=1e-9)
    if factor >= 0.4444:
        assert lags[0] ** 2 == pytest.approx(factor, rel=1e-3)
    assert starlet_covariance(3, factor).sum() == pytest.approx(lags[0] ** 2, rel=1e-9)
    assert np.linalg.eigvalsh(starlet_covariance(5, factor)).min() > 0
