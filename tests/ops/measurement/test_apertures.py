"""Rings and apertures: against injected truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.measurement.apertures import aperture_sums, ring

Floats = NDArray[np.float64]
SHAPE = (80, 90)
SIGMA = 1.4


def star(x: float, y: float, flux: float = 1e4) -> Floats:
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    profile = np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    return np.asarray(flux * profile)


def sums(image: Floats, x: float, y: float, radius: float = 7.0) -> Floats:
    out = np.empty((1, 6))
    aperture_sums(image.astype(np.float32), np.array([x]), np.array([y]), radius, 9.0, 14.0, out)
    return np.asarray(out[0])


@pytest.mark.parametrize("phase", [(0.0, 0.0), (0.5, 0.5), (0.31, 0.77)])
def test_flux_above_the_ring(phase: tuple[float, float]) -> None:
    x, y = 44 + phase[0], 40 + phase[1]
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = 100 + 0.3 * (xx - x) - 0.2 * (yy - y) + star(x, y)
    flux, area, _, count, broken, top = sums(image, x, y)
    assert flux == pytest.approx(1e4, rel=1e-3)
    assert area == pytest.approx(np.pi * 7**2, rel=0.01)
    r2 = (xx - x) ** 2 + (yy - y) ** 2
    assert count == pytest.approx(((r2 >= 81) & (r2 <= 196)).sum(), rel=0.03)
    assert broken == 0
    assert top == pytest.approx(image.max(), rel=1e-6)


def test_a_neighbour_in_the_ring_and_hot_pixels_do_not_count() -> None:
    rng = np.random.default_rng(1)
    image = 100 + rng.normal(0, 2, SHAPE) + star(44, 40) + star(55, 40, 5e4)
    image[30, 38:42] += 900
    flux, area, rms, count, _, _ = sums(image, 44, 40)
    assert abs(flux - 1e4) < 5 * 2 * np.sqrt(area)
    assert 1.8 < rms < 3
    assert count > 250


def test_gaps_and_edges_are_told() -> None:
    image = 100 + star(44, 40)
    image[44, 46] = np.nan
    assert sums(image, 44, 40)[4] == 1
    assert sums(image, 20, 40)[4] == 0
    assert sums(image, 3, 40)[4] == 1


def test_a_ring_without_pixels_has_no_level() -> None:
    image = np.full(SHAPE, np.nan, np.float32)
    image[40, 44] = 5
    level, rms, count = ring(image, 44.0, 40.0, 9.0, 14.0, 1, np.empty(4000, np.float32))
    assert np.isnan(level)
    assert np.isnan(rms)
    assert count == 0


def test_a_sparse_ring_has_the_same_level() -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(50, 3, SHAPE).astype(np.float32)
    buffer = np.empty(4000, np.float32)
    whole, third = (ring(image, 44.0, 40.0, 9.0, 14.0, stride, buffer) for stride in (1, 3))
    assert whole[0] == pytest.approx(50, abs=4 * 3 / np.sqrt(whole[2]))
    assert third[0] == pytest.approx(50, abs=4 * 3 / np.sqrt(third[2]))
    assert third[2] == pytest.approx(whole[2] / 3, rel=0.1)
