"""Backgrounds below clouds: what is smooth on the detector is b, not a·b."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.normalization.background import solve_surfaces
from skyloom.ops.normalization.gains import below_clouds, centre, follow_gains, gain_maps, part_below, sample_gains
from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.legendre import legendre
from skyloom.ops.normalization.observations import Observations
from skyloom.ops.normalization.panels import coarse_space

Floats = NDArray[np.float64]
LEVEL = 1500.0
FRAMES = 24


def clouds() -> Floats:
    """Clouds across every third frame: ln a."""
    rng = np.random.default_rng(5)
    field = np.zeros((FRAMES, 6))
    field[::3, 1:] = rng.normal(0, 1, (8, 5)) * np.array([0.06, 0.06, 0.03, 0.03, 0.03])
    return field


@pytest.fixture(scope="module", name="glowing")
def fixture_glowing(draw: Callable[..., Any]) -> Callable[[float], tuple[Any, Observations, Floats, Any]]:
    """Samples of which a part of the glow lies below the clouds, less their level."""
    drawn = draw(3, 2, 4)

    def of(part: float) -> tuple[Any, Observations, Floats, Any]:
        seen, value, precision = drawn.join()
        field = clouds()
        u, v = seen.u.astype(np.float64), seen.v.astype(np.float64)
        terms = legendre(2 * u - 1, 2 * v - 1, 2)
        background = np.einsum("ik,ik->i", terms, drawn.truth[seen.frame])
        g = np.exp(np.einsum("ik,ik->i", terms, field[seen.frame]))
        value = value + part * (g - 1.0) * (LEVEL + background)
        return drawn, replace(seen, gain=sample_gains(seen, field)), value, precision

    return of


def test_normal_equations_with_gains_are_those_of_numpy() -> None:
    rng = np.random.default_rng(1)
    points, frames, order = 30, 4, 2
    start = np.arange(frames + 1) * points
    point = np.tile(np.arange(points, dtype=np.int32), frames)
    u, v, gain = rng.uniform(0.2, 1, (3, len(point))).astype(np.float32)
    seen = Observations(start, point, u, v, order, points, gain)
    weight = rng.uniform(0.2, 2, len(point)).astype(np.float32)
    system = System(seen, weight, np.full((frames, seen.terms), 0.1))
    value, x = rng.normal(size=len(point)), rng.normal(size=(frames, seen.terms))
    terms = legendre(2.0 * u.astype(np.float64) - 1, 2.0 * v.astype(np.float64) - 1, order) * gain[:, None]
    wide = np.zeros((len(point), frames * seen.terms))
    for i, f in enumerate(seen.frame):
        wide[i, f * seen.terms : (f + 1) * seen.terms] = terms[i]
    sky = np.zeros((len(point), points))
    sky[np.arange(len(point)), point] = 1.0
    root = np.sqrt(weight.astype(np.float64))[:, None]
    free = root * sky
    left = np.eye(len(point)) - free @ np.linalg.pinv(free)
    normal = (root * wide).T @ left @ (root * wide) + 0.1 * np.eye(frames * seen.terms)
    assert np.allclose(system.dense(), normal)
    assert np.allclose(system.apply(x).ravel(), normal @ x.ravel())
    assert np.allclose(system.project(value).ravel(), (root * wide).T @ left @ (root[:, 0] * value))
    rest = value - wide @ x.ravel()
    assert np.allclose(root[:, 0] * system.residual(value, x), left @ (root[:, 0] * rest))
    share = weight / np.bincount(point, weights=weight)[point]
    own = [(terms[s].T * (weight * (1 - share))[s]) @ terms[s] for s in map(slice, start[:-1], start[1:])]
    assert np.allclose(system.alone(), own)
    index, fewer = seen.restrict(np.array([True, False, True, False]))
    assert np.array_equal(fewer.gain, gain[index])
    index, fewer = seen.without(np.arange(points) % 3 == 0)
    assert np.array_equal(fewer.gain, gain[index])


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_overlaps_tell_where_the_glow_lies(glowing: Any, part: float) -> None:
    _, seen, value, precision = glowing(part)
    found = part_below(seen, value, precision, 200.0, level=LEVEL, clip=5.0)
    assert found == pytest.approx(part, abs=0.03)


@pytest.mark.parametrize("dense_limit", [0, 10_000])
def test_quadratics_are_enough_below_clouds(glowing: Any, dense_limit: int) -> None:
    drawn, seen, value, precision = glowing(1.0)
    options = {"placement": drawn.placement, "dense_limit": dense_limit}
    solved = solve_surfaces(seen, value, precision, level=LEVEL, **options)
    assert solved.below == pytest.approx(1.0, abs=0.03)
    assert np.nanmedian(solved.residual_after) < 0.3
    blind = solve_surfaces(replace(seen, gain=seen.gain[:0]), value, precision, **options)
    assert blind.below == 0.0
    uneven = np.arange(FRAMES) % 3 == 0
    assert np.median(blind.residual_after[uneven]) > 3 * np.median(solved.residual_after[uneven])
    # What the mosaic keeps of the backgrounds after a quadratic: samples less surfaces against the sky itself.
    wrong = drawn.truth - solved.coefficients
    assert np.std(wrong[:, 1:3]) < 3.0


def test_glow_above_clouds_changes_nothing(glowing: Any) -> None:
    drawn, seen, value, precision = glowing(0.0)
    with_them = solve_surfaces(seen, value, precision, placement=drawn.placement, level=LEVEL)
    plain = replace(seen, gain=seen.gain[:0])
    without = solve_surfaces(plain, value, precision, placement=drawn.placement)
    assert with_them.below == 0.0
    assert np.array_equal(with_them.coefficients, without.coefficients)


def test_levels_go_with_the_gains() -> None:
    gain = np.array([1.0, 1.2], dtype=np.float32)
    none = np.zeros(2, dtype=np.float32)
    seen = Observations(np.array([0, 1, 2]), np.zeros(2, np.int32), none, none, 2, 1, gain)
    own, y = below_clouds(seen, np.array([3.0, 3.0]), part=0.5, level=100.0)
    assert own.gain == pytest.approx([1.0, 1.1])
    assert y == pytest.approx([3.0, -7.0], abs=1e-5)
    assert len(below_clouds(seen, y, part=0.0, level=100.0)[0].gain) == 0
    field = np.array([[0.3, 0, 0, 0, 0, 0], [0.1, 0.1, 0, 0, 0, 0]])
    maps = gain_maps(field, 1.0)
    assert np.all(maps[0] == 1.0)
    assert maps[1][:, -1] == pytest.approx(np.exp(0.1))
    assert len(sample_gains(seen, field[:1])) == 0
    both = centre(maps, np.array([0, 0]), np.array([True, True]))
    assert both.mean() == pytest.approx(0.0, abs=1e-12)
    assert both[1] - both[0] == pytest.approx(maps[1] - maps[0])


def test_coarse_space_follows_the_gains(glowing: Any) -> None:
    drawn, seen, _, _ = glowing(1.0)
    coarse = coarse_space(drawn.placement, 2, most=100)
    bent = follow_gains(coarse, seen)
    basis, even = seen.basis(), replace(seen, gain=seen.gain[:0]).basis()
    wanted = np.einsum("ik,ikm->im", even, coarse.transform[seen.frame])
    before = np.einsum("ik,ikm->im", basis, coarse.transform[seen.frame]) - wanted
    after = np.einsum("ik,ikm->im", basis, bent.transform[seen.frame]) - wanted
    assert np.std(after) < 0.5 * np.std(before)
