"""Background meshes, significance and detection, against injected truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from skyloom.ops.measurement.detection import background_mesh, detect, refine_mesh, significance, smoothed_noise


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
    result = np.empty(image.shape, np.float32)
    significance(image, location, sigma, 64, result)
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


def test_significance_equals_a_plain_interpolation() -> None:
    rng = np.random.default_rng(7)
    image = rng.normal(50, 5, (61, 75)).astype(np.float32)
    image[3, 4], image[60, 74] = np.nan, np.inf
    location, sigma = rng.normal(50, 3, (8, 10)), rng.uniform(2, 4, (8, 10))

    def interpolated(nodes: NDArray[np.float64]) -> NDArray[np.float64]:
        places = [
            np.clip((np.arange(n) + 0.5) / 8 - 0.5, 0, m - 1) for n, m in zip((61, 75), (8, 10), strict=True)
        ]
        across = np.stack([np.interp(places[1], np.arange(10), row) for row in nodes])
        return np.stack([np.interp(places[0], np.arange(8), column) for column in across.T], axis=1)

    result = np.empty(image.shape, np.float32)
    significance(image, location, sigma, 8, result)
    assert result[3, 4] == result[60, 74] == 0
    finite = np.isfinite(image)
    expected = (image - interpolated(location)) / interpolated(sigma)
    # Its inverse is interpolated down the columns: equal at the nodes, 6 % off half way between 2 and 4.
    np.testing.assert_allclose(result[finite], expected[finite], rtol=0.13, atol=1e-4)
    flat = np.empty(image.shape, np.float32)
    significance(image, location, np.full((8, 10), 2.0), 8, flat)
    np.testing.assert_allclose(flat[finite], (image - interpolated(location))[finite] / 2, atol=1e-4)


def test_a_refined_mesh_goes_through_its_nodes_and_straight_on() -> None:
    y, x = np.mgrid[:5, :6]
    plane = 3.0 + 2.0 * x - 1.5 * y
    fine = refine_mesh(plane, (5 * 64, 6 * 64), mesh=64, step=8)
    v, u = np.mgrid[:40, :48]
    np.testing.assert_allclose(fine, 3.0 + 2.0 * ((u + 0.5) / 8 - 0.5) - 1.5 * ((v + 0.5) / 8 - 0.5), atol=1e-9)
    single = refine_mesh(np.array([[7.0]]), (50, 40), mesh=64, step=8)
    assert single.shape == (7, 5)
    assert (single == 7).all()


def test_detection_finds_what_is_above_the_threshold() -> None:
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:400, :420]
    places = np.array([[60.0, 50], [200, 300], [350, 120], [120, 350]])
    image = 500 + 0.2 * x + rng.normal(0, 4, x.shape)
    for px, py in places:
        image += 60 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 1.5**2))
    pixels = image.astype(np.float32)
    found, level = detect(pixels, *background_mesh(pixels, mesh=64), mesh=64, threshold=5.0)
    assert level == pytest.approx(5 * 0.375, rel=0.06)
    assert len(found) == len(places)
    for px, py in places:
        assert np.hypot(found["x"] - px, found["y"] - py).min() < 0.3
    none, _ = detect(pixels, *background_mesh(pixels, mesh=64), mesh=64, threshold=60.0)
    assert not len(none)


def test_a_frame_too_bright_to_detect_in_loses_detail_only() -> None:
    rng = np.random.default_rng(9)
    image = rng.normal(0, 1, (760, 760)).astype(np.float32)
    flat, unit = np.zeros((12, 12)), np.ones((12, 12))
    image[80:740, 20:740] += 40  # more pixels than sep's stack holds, in one piece
    image[40, 500] += 1e5
    image[39:42, 499:502] += 1e4
    found, level = detect(image, flat, unit, 1.0, mesh=64, threshold=5.0)
    assert level > 10
    assert np.hypot(found["x"] - 500, found["y"] - 40).min() < 1


@pytest.mark.parametrize("rows", [2, 3, 9])
def test_a_refined_mesh_is_the_natural_spline_of_scipy(rows: int) -> None:
    values = np.random.default_rng(4).normal(100, 5, (rows, 6))
    expected = values
    for axis, pixels in enumerate((64 * rows - 10, 64 * 6)):
        count = values.shape[axis]
        where = (np.arange(-(-pixels // 8)) + 0.5) * 8 / 64 - 0.5
        spline = CubicSpline(np.arange(count), expected, axis=axis, bc_type="natural")
        inside = np.clip(where, 0, count - 1)
        expected = spline(inside) + np.expand_dims(where - inside, 1 - axis) * spline(inside, 1)
    np.testing.assert_allclose(
        refine_mesh(values, (64 * rows - 10, 64 * 6), mesh=64, step=8), expected, rtol=1e-12
    )
