"""Adaptive moments against Gaussians, whose moments they are, and the profile's half width against a Moffat's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.measurement.shapes import PROFILE_BINS, half_width, measure_shapes

Floats = NDArray[np.float64]


def measured(image: Floats, x: Floats, y: Floats, fwhm: float) -> tuple[Floats, Floats]:
    out, profile = np.empty((x.size, 9)), np.empty((x.size, PROFILE_BINS))
    measure_shapes(image.astype(np.float32), x, y, fwhm, out, profile)
    return out, profile


def gaussian(x: float, y: float, xx: float, yy: float, xy: float, flux: float = 1e5) -> Floats:
    v, u = np.mgrid[:100, :100].astype(float)
    u, v = u - x, v - y
    det = xx * yy - xy * xy
    q = (yy * u * u + xx * v * v - 2 * xy * u * v) / det
    return np.asarray(flux * np.exp(-q / 2) / (2 * math.pi * math.sqrt(det)))


@pytest.mark.parametrize("covariance", [(2.0, 2.0, 0.0), (4.0, 2.5, 0.0), (3.0, 3.5, 1.0)])
def test_moments_of_a_gaussian(covariance: tuple[float, float, float]) -> None:
    xx, yy, xy = covariance
    image = 300 + gaussian(50.3, 49.6, *covariance)
    out, _ = measured(image, np.array([50.0]), np.array([50.0]), 3.5)
    x, y, size, ellipticity, theta, peak, sharpness, _, _ = out[0]
    assert (x, y) == pytest.approx((50.3, 49.6), abs=0.01)
    assert size == pytest.approx(math.sqrt(xx * yy - xy * xy), rel=0.02)
    values = np.linalg.eigvalsh([[xx, xy], [xy, yy]])
    assert ellipticity == pytest.approx(1 - math.sqrt(values[0] / values[1]), abs=0.02)
    if xy or xx != yy:
        assert theta == pytest.approx(0.5 * math.atan2(2 * xy, xx - yy), abs=0.05)
    assert peak == pytest.approx((image - 300).max(), rel=0.02)
    assert 0.3 < sharpness < 1


def test_a_hot_pixel_is_sharp_and_a_gap_has_no_shape() -> None:
    image = np.random.default_rng(1).normal(100, 1, (100, 100))
    image[50, 50] += 3000
    image[10:40, 10:40] = np.nan
    out, _ = measured(image, np.array([50.0, 25.0]), np.array([50.0, 25.0]), 3.0)
    assert abs(out[0, 6]) < 0.01
    assert np.isnan(out[1, [0, 1, 2, 6]]).all()


def test_a_plateau_is_counted() -> None:
    image = np.minimum(100 + gaussian(50, 50, 3, 3, 0), 2000)
    out, _ = measured(image, np.array([50.0]), np.array([50.0]), 4.0)
    assert out[0, 8] == pytest.approx((image == 2000).sum(), abs=2)


@pytest.mark.parametrize("beta", [None, 2.5, 4.0])
def test_half_width_turns_moments_into_fwhm(beta: float | None) -> None:
    rng = np.random.default_rng(3)
    fwhm, size = 4.0, []
    profiles = []
    v, u = np.mgrid[:100, :100]
    for _ in range(12):
        x, y = rng.uniform(49, 51, 2)
        r2 = (u - x) ** 2 + (v - y) ** 2
        if beta is None:
            image = 1e4 * np.exp(-4 * math.log(2) * r2 / fwhm**2)
        else:
            image = 1e4 * (1 + 4 * r2 * (2 ** (1 / beta) - 1) / fwhm**2) ** -beta
        out, profile = measured(image, np.array([50.0]), np.array([50.0]), fwhm)
        size.append(math.sqrt(out[0, 2]))
        profiles.append(profile[0])
    assert 2 * half_width(np.array(profiles)) * float(np.median(size)) == pytest.approx(fwhm, rel=0.02)


def test_half_width_without_stars_is_a_gaussians() -> None:
    assert half_width(np.full((3, PROFILE_BINS), np.nan)) == math.sqrt(2 * math.log(2))
