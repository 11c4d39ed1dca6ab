"""Joint surfaces against drawn truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.normalization import background
from skyloom.ops.normalization.background import Surfaces, solve_surfaces
from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.observations import Samples, join_samples

Floats = NDArray[np.float64]
Draw = Callable[..., Any]


@pytest.fixture(scope="module")
def mosaic(draw: Draw) -> Any:
    return draw()


def test_joint_surfaces_beat_constants_on_long_waves(mosaic: Any) -> None:
    constants = mosaic.errors(mosaic.solve(order=0), 0)
    solved = mosaic.solve(order=2)
    seam, error = mosaic.errors(solved, 2)
    assert seam < 0.3 * mosaic.noise
    assert error[2] < constants[1][2] / 10
    assert np.all(error <= constants[1])
    assert np.nanmedian(solved.residual_after) < 1.5 * mosaic.noise
    assert np.nanmedian(solved.residual_before) > 50
    assert abs(solved.noise_scale - 1) < 0.15


def test_the_spread_of_each_order_is_measured(mosaic: Any) -> None:
    solved = mosaic.solve(order=2)
    truth = mosaic.truth
    expected = [np.std(truth[:, 0]), np.sqrt(np.mean(truth[:, 1:3] ** 2)), np.sqrt(np.mean(truth[:, 3:] ** 2))]
    assert np.allclose(solved.prior_sigma, expected, rtol=0.25)


def test_a_prior_of_next_to_nothing_would_be_worse(mosaic: Any) -> None:
    """The lesson of the prototype, so that nobody 'simplifies' the measured prior away."""
    seen, value, _ = mosaic.join()
    weight = np.full(len(value), mosaic.noise**-2, dtype=np.float32)
    system = System(seen, weight, np.full((seen.frames, 6), 1e-10))
    right = system.project(value).ravel()
    x = np.asarray(np.linalg.solve(system.dense(), right).reshape(-1, 6), dtype=np.float64)
    solved = mosaic.solve(order=2)
    weak = Surfaces(x, *(getattr(solved, n) for n in list(Surfaces.__dataclass_fields__)[1:]))
    assert mosaic.errors(weak, 2)[1][0] > 1.5 * mosaic.errors(solved, 2)[1][0]


def test_large_mosaics_are_iterated(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both measure their prior on the same 120 of the 128 frames.
    monkeypatch.setattr(background, "PRIOR_UNKNOWNS", 360)
    drawn = draw(4, 2, 16)
    dense = drawn.solve(order=1, dense_limit=10_000)
    sparse = drawn.solve(order=1, dense_limit=60)
    assert dense.iterations == 0
    assert 0 < sparse.iterations < 60
    # Rounds that only look for outliers are solved loosely: weights differ in the fourth digit.
    assert np.allclose(sparse.coefficients, dense.coefficients, atol=0.1)


def test_outliers_and_a_cloudy_frame_do_no_harm(draw: Draw) -> None:
    clean = draw(seed=2)
    reference = clean.errors(clean.solve(), 2, ignore=(13,))
    rng = np.random.default_rng(5)
    wrong = rng.uniform(size=len(clean.value)) < 0.02
    clean.value[wrong] += rng.normal(0, 500, wrong.sum())
    cloud = clean.frame == 13
    clean.value[cloud] += 80 * np.sin(9 * clean.u[cloud]) * np.cos(12 * clean.v[cloud])
    solved = clean.solve()
    seam, error = clean.errors(solved, 2, ignore=(13,))
    assert error[2] < 1.5 * reference[1][2] + 0.5
    assert seam < 0.5
    assert np.argmax(solved.inflation) == 13
    assert solved.inflation[13] > 100
    assert np.median(np.delete(solved.inflation, 13)) < 2
    assert solved.residual_after[13] > 10 * np.nanmedian(solved.residual_after)
    assert 0.005 < np.median(solved.rejected) < 0.1


def test_islands_have_their_own_mean(draw: Draw) -> None:
    drawn = draw(3, 2, 3, gap=2500)
    solved = drawn.solve()
    right = np.array([i // 3 % 3 == 2 for i in range(18)])
    assert np.all(solved.island[~right] == 0)
    assert np.all(solved.island[right] == 1)
    for island in (0, 1):
        assert np.mean(solved.coefficients[solved.island == island, 0]) == pytest.approx(0.0, abs=1e-9)


def test_a_frame_without_overlap_stays_as_it_is(draw: Draw) -> None:
    drawn = draw(2, 1, 2)
    drawn.frame = np.concatenate([drawn.frame, np.full(50, 4)])
    drawn.point = np.concatenate([drawn.point, 10**6 + np.arange(50)])
    drawn.value = np.concatenate([drawn.value, np.full(50, 4000.0)])
    drawn.u = np.concatenate([drawn.u, np.linspace(0, 1, 50)])
    drawn.v = np.concatenate([drawn.v, np.linspace(0, 1, 50)])
    drawn.placement = np.concatenate([drawn.placement, drawn.placement[:1] + 1e5])
    drawn.truth = np.concatenate([drawn.truth, np.zeros((1, 6))])
    solved = drawn.solve()
    assert np.all(solved.coefficients[4] == 0)
    assert solved.samples[4] == 0
    assert np.isnan(solved.residual_after[4])
    assert solved.island.tolist() == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("frames", [0, 1, 3])
def test_nothing_in_common(frames: int) -> None:
    one, none = np.ones(1, np.float32), np.zeros(1, np.float32)
    samples = [Samples(np.array([f], np.int32), np.full(1, 5.0), one, none, none) for f in range(frames)]
    solved = solve_surfaces(*join_samples(samples, np.ones(frames), order=2))
    assert solved.coefficients.shape == (frames, 6)
    assert np.all(solved.coefficients == 0)
    assert solved.island.tolist() == list(range(frames))


def test_two_equal_frames_are_left_alone(draw: Draw) -> None:
    one = draw(1, 1, 1, turn=False).samples()
    solved = solve_surfaces(*join_samples(one * 2, np.ones(2), order=2))
    assert np.allclose(solved.coefficients, 0, atol=1e-9)
    assert np.all(np.isfinite(solved.coefficients))
