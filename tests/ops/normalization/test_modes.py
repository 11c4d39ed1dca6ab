"""Standard errors of the mosaic's long waves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skyloom.ops.normalization import background
from skyloom.ops.normalization.hold_out import point_positions
from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.legendre import evaluate
from skyloom.ops.normalization.modes import MODES, mosaic_modes, polynomials
from skyloom.ops.normalization.panels import coarse_space

Draw = Callable[..., Any]


def test_polynomials_are_orthogonal_with_mean_square_one() -> None:
    position = np.random.default_rng(0).uniform(-500, 4000, (300, 2))
    waves = polynomials(position)
    assert np.allclose(waves.T @ waves / 300, np.eye(len(MODES)), atol=1e-12)
    assert np.allclose(waves[:, 0], 1.0)
    assert np.corrcoef(waves[:, 1], position[:, 0])[0, 1] == pytest.approx(1.0, abs=1e-9)


def test_sigma_is_that_of_the_explicit_covariance(draw: Draw) -> None:
    drawn = draw(2, 2, 2)
    seen, _, precision = drawn.join(2)
    system = System(seen, precision, np.full((seen.frames, 6), 50.0**-2))
    basis, k = seen.basis(), seen.terms
    design = np.zeros((len(basis), seen.frames * k))
    for i, f in enumerate(seen.frame):
        design[i, f * k : (f + 1) * k] = basis[i]
    weight = precision.astype(np.float64)
    depth = np.bincount(seen.point, weights=weight)
    sky = np.zeros((seen.points, len(basis)))
    sky[seen.point, np.arange(len(basis))] = weight / depth[seen.point]
    normal = (
        design.T @ (weight[:, None] * (design - (sky @ design)[seen.point])) + np.eye(design.shape[1]) / 50.0**2
    )
    waves = polynomials(point_positions(seen, drawn.placement)) / seen.points
    # s = mean(y − Φx): its error has that of x and the noise of y.
    toward = waves.T @ sky @ design
    expected = np.sqrt(np.diag(toward @ np.linalg.inv(normal) @ toward.T) + np.sum(waves.T**2 / depth, axis=1))
    island = np.zeros(seen.frames, np.int64)
    for coarse, factor in ((None, system.factor()), (coarse_space(drawn.placement, 2, most=99), None)):
        found = mosaic_modes(system, drawn.placement, island, coarse, factor)
        assert found.points == seen.points
        assert np.allclose(found.sigma, expected, rtol=0.02)


def test_errors_of_mosaics_are_as_large_as_stated(draw: Draw) -> None:
    stated, real = [], []
    for seed in range(8):
        drawn = draw(2, 2, 3, seed=seed)
        solved = drawn.solve(order=2)
        real.append(drawn.errors(solved, 2)[1] ** 2)
        sigma = solved.modes.sigma**2
        stated.append([sigma[1:].sum(), sigma[3:].sum()])
    ratio = np.sqrt(np.mean(real, axis=0)[:2] / np.mean(stated, axis=0))
    assert np.all((ratio > 0.6) & (ratio < 1.6)), ratio


def test_nothing_is_said_where_residuals_are_no_noise(draw: Draw) -> None:
    drawn = draw(2, 2, 3)
    assert np.isnan(drawn.solve(order=0).modes.sigma).all()
    assert np.isfinite(drawn.solve(order=2).modes.sigma).all()


def test_a_flat_frame_over_all_makes_the_long_waves_known(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """An anchor: the frame with no gradient that sees everything."""
    drawn = draw(3, 2, 3)
    alone = drawn.solve(order=2)
    before = drawn.errors(alone, 2)[1]
    point, first = np.unique(drawn.point, return_index=True)
    rng = np.random.default_rng(9)
    frames = len(drawn.truth)
    surface = np.array([drawn.value[i] - _background(drawn, int(i)) for i in first])
    y, x = np.divmod(point, drawn.columns)
    drawn.frame = np.concatenate([drawn.frame, np.full(len(point), frames)])
    drawn.point = np.concatenate([drawn.point, point])
    drawn.value = np.concatenate([drawn.value, surface + 3000.0 + rng.normal(0, 1.0, len(point))])
    drawn.u = np.concatenate([drawn.u, (x + 0.5) / drawn.columns])
    drawn.v = np.concatenate([drawn.v, (y + 0.5) / drawn.columns])
    side = drawn.columns * 64.0
    drawn.placement = np.concatenate([drawn.placement, [[[side, 0, 0], [0, side, 0]]]])
    drawn.truth = np.concatenate([drawn.truth, np.zeros((1, 6))])
    flat = np.arange(frames + 1) == frames
    solved = drawn.solve(order=2, flat=flat)
    assert np.abs(solved.coefficients[frames, 1:]).max() < 0.01
    assert np.mean(solved.coefficients[:frames, 0]) == pytest.approx(0.0, abs=1e-9)
    _, after = drawn.errors(solved, 2, ignore=(frames,))
    assert after[0] < before[0] / 20
    assert after[0] < 0.3
    assert np.all(solved.modes.sigma[1:] < alone.modes.sigma[1:] / 20)
    monkeypatch.setattr(background, "PRIOR_UNKNOWNS", 72)
    iterated = drawn.solve(order=2, flat=flat, dense_limit=20)
    assert iterated.iterations > 0
    assert drawn.errors(iterated, 2, ignore=(frames,))[1][0] < 0.3


def _background(drawn: Any, i: int) -> float:
    return float(evaluate(drawn.truth[drawn.frame[i]], drawn.u[i : i + 1], drawn.v[i : i + 1])[0])
