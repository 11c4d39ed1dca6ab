"""Cells: the kernel against a plain loop, and against injected truth."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.measurement.cells import cell_statistics, mask_discs, pixel_noise

Image = NDArray[np.float32]


def twin(image: Image, masked: NDArray[np.bool_], cell: int, clip: float = 4.0) -> NDArray[np.float64]:
    """Exact median and deviation in place of the kernel's subsample: same pixels survive away from the limit."""
    rows, columns = -(-image.shape[0] // cell), -(-image.shape[1] // cell)
    out = np.full((rows, columns, 3), np.nan)
    for j in range(rows):
        for i in range(columns):
            window = np.s_[j * cell : (j + 1) * cell, i * cell : (i + 1) * cell]
            values = image[window][~masked[window] & np.isfinite(image[window])].astype(float)
            out[j, i, 2] = 0
            if not values.size:
                continue
            centre = np.median(values)
            reach = clip * 1.4826 * np.median(np.abs(values - centre))
            used = values[np.abs(values - centre) <= reach]
            out[j, i] = used.mean(), used.std() / np.sqrt(used.size), used.size / cell**2
    return out


def test_kernel_equals_plain_loop() -> None:
    rng = np.random.default_rng(1)
    # Uniform noise has nothing near the clip, so kernel and twin must agree to rounding.
    image = rng.uniform(90, 110, (70, 83)).astype(np.float32)
    image[rng.random(image.shape) < 0.05] = np.nan
    image[20:40, 40:64] = np.nan
    image[5, 5], image[50, 70] = 4000, -4000
    masked = np.zeros(image.shape, np.bool_)
    mask_discs(masked, np.array([30.2]), np.array([50.7]), np.array([6.0]))
    expected = twin(image, masked, 16)
    result = cell_statistics(image, masked, cell=16)
    assert result.shape == (5, 6, 3)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=2e-6)


def test_ragged_cells_and_empty_cells() -> None:
    image = np.full((20, 20), 7.0, np.float32)
    image[:16, :16] = np.nan
    result = cell_statistics(image, np.zeros(image.shape, np.bool_), cell=16)
    assert np.isnan(result[0, 0, :2]).all()
    assert result[0, 0, 2] == 0
    assert result[1, 1, 0] == 7.0
    assert result[1, 1, 2] == pytest.approx(16 / 256)


def test_mean_of_noise_is_unbiased_and_error_is_honest() -> None:
    rng = np.random.default_rng(2)
    image = rng.normal(1000, 5, (512, 512)).astype(np.float32)
    result = cell_statistics(image, np.zeros(image.shape, np.bool_), cell=16, noise=5.0)
    deviation = (result[..., 0] - 1000) / result[..., 1]
    assert abs(result[..., 0].mean() - image.mean(dtype=np.float64)) < 0.005
    assert 0.95 < deviation.std() < 1.05
    assert result[..., 1].mean() == pytest.approx(5 / 16, rel=0.02)


def test_cosmic_rays_and_dead_pixels_do_not_pull() -> None:
    rng = np.random.default_rng(3)
    clean = rng.normal(1000, 5, (256, 256)).astype(np.float32)
    dirty = clean.copy()
    dirty[rng.random(dirty.shape) < 0.01] += 3000
    dirty[rng.random(dirty.shape) < 0.003] = 0
    none = np.zeros(clean.shape, np.bool_)
    change = cell_statistics(dirty, none, cell=16)[..., 0] - cell_statistics(clean, none, cell=16)[..., 0]
    assert np.abs(change).max() < 0.1 * 5
    assert abs(change.mean()) < 0.01 * 5


def test_mean_is_linear_through_a_steep_gradient() -> None:
    y, x = np.mgrid[:128, :128].astype(np.float32)
    image = np.asarray(5 * x + 2 * y, dtype=np.float32)
    result = cell_statistics(image, np.zeros(image.shape, np.bool_), cell=16, noise=1.0)
    centre = np.arange(8) * 16 + 7.5
    np.testing.assert_allclose(result[..., 0], 5 * centre[None] + 2 * centre[:, None], rtol=1e-5)
    assert (result[..., 2] == 1).all()


@pytest.mark.parametrize("quantized", [False, True])
def test_noise_of_a_frame(quantized: bool) -> None:
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:512, :512]
    sky = 1000 + 0.5 * x + 80 * np.sin(x / 20) * np.cos(y / 25)
    image = (sky + rng.normal(0, 4, sky.shape)).astype(np.float32)
    image[rng.random(image.shape) < 0.01] += 500
    image[:40] = np.nan
    if quantized:
        image = np.round(image)
    masked = np.zeros(image.shape, np.bool_)
    assert pixel_noise(image, masked) == pytest.approx(4, rel=0.01)
    image[:, ::2] += 300
    image[::2, :] += 100
    assert pixel_noise(image, masked) == pytest.approx(4, rel=0.01)
    image[100:400] += 1e4 * rng.random((300, 512)).astype(np.float32)
    masked[100:400] = True
    assert pixel_noise(image, masked) == pytest.approx(4, rel=0.01)
