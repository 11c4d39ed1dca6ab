"""What became of each sample agrees with the counts and the mean."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.integration.average import HIGH, LOW, NO_DATA, USED
from skyloom.ops.integration.combine import combine
from skyloom.ops.integration.rejection import Method, Rejection
from skyloom.ops.integration.taper import taper_weight


@pytest.mark.parametrize("method", ["none", "winsorized", "noise", "minmax", "esd"])
@pytest.mark.parametrize("frames", [1, 2, 3, 9, 20])
def test_fates_make_counts_and_mean(method: Method, frames: int) -> None:
    rng = np.random.default_rng(frames)
    stack = rng.normal(100, 5, (frames, 24, 31)).astype(np.float32)
    stack[rng.random(stack.shape) < 0.1] += 200
    stack[rng.random(stack.shape) < 0.05] -= 200
    stack[rng.random(stack.shape) < 0.1] = np.nan
    codes = rng.integers(1, 256, stack.shape).astype(np.uint8)
    weight = rng.uniform(0.5, 2.0, frames)
    inner = (slice(3, 21), slice(2, 30))
    fates = np.full((frames, 18, 28), 99, dtype=np.uint8)
    rejection = Rejection(method)
    result = combine(stack, codes, np.full(frames, 5.0), weight, rejection=rejection, inner=inner, fates=fates)
    for code, count in ((USED, result.count), (LOW, result.rejected_low), (HIGH, result.rejected_high)):
        np.testing.assert_array_equal((fates == code).sum(axis=0), count)
    samples = stack[:, *inner].astype(float)
    np.testing.assert_array_equal(fates == NO_DATA, np.isnan(samples))
    w = np.where(fates == USED, weight[:, None, None] * taper_weight(codes[:, *inner]), 0.0)
    with np.errstate(invalid="ignore"):
        mean = np.sum(w * np.nan_to_num(samples), axis=0) / w.sum(axis=0)
    np.testing.assert_allclose(result.image, mean, rtol=1e-6)
    plain = combine(stack, codes, np.full(frames, 5.0), weight, rejection=rejection, inner=inner)
    for name, values in vars(plain).items():
        np.testing.assert_array_equal(values, getattr(result, name), err_msg=name)


def test_of_samples_that_all_go_the_nearest_is_used() -> None:
    # Halves far apart where all around is quiet: the median lies between them, beyond the limits of all.
    rng = np.random.default_rng(1)
    stack = rng.normal(50, 1, (6, 25, 25)).astype(np.float32)
    stack[:, 12, 12] = (0, 1, 2, 100, 100, 101)
    fates = np.zeros(stack.shape, dtype=np.uint8)
    rejection = Rejection("noise", tolerance=0.0, grow=None)
    codes = np.full(stack.shape, 255, np.uint8)
    result = combine(stack, codes, np.full(6, 1.0), np.ones(6), rejection=rejection, fates=fates)
    assert fates[:, 12, 12].tolist() == [LOW, LOW, USED, HIGH, HIGH, HIGH]
    assert (result.count[12, 12], result.image[12, 12]) == (1, 2.0)
