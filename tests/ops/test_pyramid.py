"""Block means."""

from __future__ import annotations

import numpy as np

from skyloom.ops.pyramid import block_mean


def test_block_mean_ignores_what_is_not_there() -> None:
    pixels = np.arange(35, dtype=np.float32).reshape(5, 7)
    pixels[0, 0] = np.nan
    pixels[4, 6] = np.nan
    out = block_mean(pixels, 3)
    assert out.shape == (2, 3)
    assert out[0, 0] == np.nanmean(pixels[:3, :3])
    assert out[1, 1] == pixels[3:, 3:6].mean()
    assert out[1, 2] == pixels[3, 6]
    assert np.isnan(block_mean(np.full((2, 2), np.nan), 2)).all()
    np.testing.assert_array_equal(block_mean(pixels, 1), pixels)


def test_block_mean_is_the_plain_mean() -> None:
    rng = np.random.default_rng(1)
    pixels = rng.normal(1e4, 10, (40, 60)).astype(np.float32)
    pixels[rng.random(pixels.shape) < 0.3] = np.nan
    expected = np.nanmean(pixels.reshape(10, 4, 15, 4), axis=(1, 3), dtype=np.float64)
    np.testing.assert_array_equal(block_mean(pixels, 4), expected.astype(np.float32))
