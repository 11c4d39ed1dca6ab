"""Order statistics against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.robust import clipped_rms, clipped_sums, median_mad, select

RNG = np.random.default_rng(1)
SAMPLES = {
    "noise": RNG.normal(5, 3, 501),
    "integers": np.round(RNG.normal(5, 3, 400)),
    "equal": np.full(77, 2.5),
    "rising": np.arange(64.0),
    "falling": -np.arange(65.0),
    "two values": np.repeat([1.0, 9.0], [30, 31]),
    "one": np.array([4.0]),
}


@pytest.fixture(params=SAMPLES)
def values(request: pytest.FixtureRequest) -> NDArray[np.float32]:
    return SAMPLES[request.param].astype(np.float32)


def test_select_is_the_sorted_value(values: NDArray[np.float32]) -> None:
    ranked = np.sort(values)
    for k in {0, values.size // 3, values.size // 2, values.size - 1}:
        work = np.append(values, np.float32(-1e9))  # beyond count: neither seen nor moved
        assert select(work, values.size, k) == ranked[k]
        np.testing.assert_array_equal(np.sort(work[:-1]), ranked)
        assert work[-1] == -1e9


def test_median_and_deviation(values: NDArray[np.float32]) -> None:
    ranked = np.sort(values)
    median = ranked[values.size // 2]
    deviation = np.sort(np.abs(values - median))[values.size // 2]
    centre, sigma = median_mad(values.copy(), values.size)
    assert centre == median
    assert sigma == pytest.approx(1.4826022 * deviation, rel=1e-6)


def test_clipped_sums_are_plain_sums(values: NDArray[np.float32]) -> None:
    count = max(values.size - 3, 1)
    inside = values[:count][np.abs(values[:count].astype(float) - 4) <= 2.25].astype(float) - 4
    sum1, sum2, used = clipped_sums(values, count, 4.0, 2.25)
    assert used == inside.size
    assert sum1 == pytest.approx(inside.sum(), abs=1e-9)
    assert sum2 == pytest.approx((inside**2).sum(), abs=1e-9)


def test_clipped_sums_pass_over_nan() -> None:
    values = np.array([1, np.nan, 3, np.inf, -np.inf, 5, np.nan, 2], np.float32)
    assert clipped_sums(values, 8, 0.0, 10.0) == (11.0, 39.0, 4)


@pytest.mark.parametrize("step", [0.0, 1.0, 3.0])
def test_clipped_rms_forgets_outliers_and_quantization(step: float) -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(0, 3, 20000)
    values[:400] += 500
    if step:
        values = np.round(values / step) * step
    # Rounding adds the variance of a step.
    assert clipped_rms(values.astype(np.float32), values.size) == pytest.approx(
        np.hypot(3, step / np.sqrt(12)), rel=0.03
    )
