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
