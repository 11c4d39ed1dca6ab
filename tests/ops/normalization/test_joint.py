"""The linear algebra of the joint solve against naive twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.normalization import joint
from skyloom.ops.normalization.joint import Coarse, System
from skyloom.ops.normalization.observations import Observations, select
from skyloom.ops.normalization.panels import coarse_space

Floats = NDArray[np.float64]


def random_system(order: int) -> tuple[System, Floats]:
    """Unequal weights, some of them 0, points seen several times by a frame, and the values of the samples."""
    rng = np.random.default_rng(3)
    frame = np.repeat(np.arange(5), 30)
    point = np.concatenate([rng.permutation(600)[:30] for _ in range(5)]) % 60
    index, start, renumbered, points = select(frame, point, np.ones(150, dtype=bool), frames=5)
    n = len(index)
    u, v = rng.uniform(size=(2, n if order else 0)).astype(np.float32)
    seen = Observations(start, renumbered, u, v, order, points)
    weight = rng.uniform(0.2, 3, n) * (rng.uniform(size=n) > 0.1)
    return System(seen, weight.astype(np.float32), rng.uniform(0.1, 1, (5, seen.terms))), rng.normal(size=n)


def naive(system: System, value: Floats) -> Floats:
    """Every sky point an unknown, the prior as rows, one dense least squares."""
    o = system.observations
    basis, weight = o.basis(), system.weight.astype(np.float64)
    unknowns = o.frames * o.terms
    design = np.zeros((len(value) + unknowns, unknowns + o.points))
    for i in range(len(value)):
        root = np.sqrt(weight[i])
        design[i, o.frame[i] * o.terms : (o.frame[i] + 1) * o.terms] = root * basis[i]
        design[i, unknowns + o.point[i]] = root
    design[len(value) :, :unknowns] = np.diag(np.sqrt(system.prior.ravel()))
    right = np.concatenate([np.sqrt(weight) * value, np.zeros(unknowns)])
    return np.asarray(np.linalg.lstsq(design, right, rcond=None)[0][:unknowns].reshape(o.frames, o.terms))


@pytest.mark.parametrize("order", range(5))
def test_dense_and_operator_and_naive_agree(order: int) -> None:
    system, value = random_system(order)
    truth = naive(system, value)
    right = system.project(value)
    dense = np.linalg.solve(system.dense(), right.ravel()).reshape(truth.shape)
    assert np.allclose(dense, truth, rtol=1e-8, atol=1e-11)
    assert np.allclose(system.apply(truth), right, rtol=1e-8, atol=1e-11)
    iterated, count = joint.conjugate_gradients(
        system.apply, right, np.zeros_like(truth), system.preconditioner(), tolerance=1e-13
    )
    assert np.allclose(iterated, truth, rtol=1e-8, atol=1e-11)
    assert count <= 5 * truth.shape[1] + 5


def test_residuals_and_sky_are_those_of_numpy() -> None:
    system, value = random_system(2)
    o = system.observations
    x = np.random.default_rng(0).normal(size=(o.frames, o.terms))
    rest = value - np.einsum("ik,ik->i", o.basis(), x[o.frame])
    depth = np.bincount(o.point, weights=system.weight, minlength=o.points)
    with np.errstate(invalid="ignore"):
        sky = np.nan_to_num(np.bincount(o.point, weights=system.weight * rest, minlength=o.points) / depth)
    assert np.allclose(system.sky(rest), sky)
    assert np.allclose(system.residual(value, x), rest - sky[o.point])
    share = system.weight / np.where(depth > 0, depth, 1.0)[o.point]
    assert np.allclose(system.leverage(), share)
    own = (system.weight * (1 - share))[:, None, None] * o.basis()[:, :, None] * o.basis()[:, None, :]
    expected = np.stack([own[o.start[f] : o.start[f + 1]].sum(axis=0) for f in range(o.frames)])
    assert np.allclose(system.alone(), expected)


def test_coarse_matrix_is_the_projected_one() -> None:
    """Panels that see a point several times: ZᵀAZ."""
    system, _ = random_system(2)
    label = np.array([0, 1, 0, 1, 1])
    transform = np.random.default_rng(1).normal(size=(5, 6, 3))
    z = np.zeros((5 * 6, 2 * 3))
    for f in range(5):
        z[f * 6 : (f + 1) * 6, label[f] * 3 : (label[f] + 1) * 3] = transform[f]
    assert np.allclose(system.coarse_matrix(Coarse(label, transform)), z.T @ system.dense() @ z, atol=1e-9)


def test_couplings_of_many_points_go_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    system, _ = random_system(1)
    whole = system.dense()
    monkeypatch.setattr(joint, "_CHUNK", 7)
    assert np.allclose(system.dense(), whole, atol=1e-12)


def test_sparse_coarse_space_is_the_dense_one(draw: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = draw(3, 2, 2)
    seen, value, precision = drawn.join()
    system = System(seen, precision, np.full((12, 6), 1e-4))
    right, coarse = system.project(value), coarse_space(drawn.placement, 2, most=100)
    expected = system.preconditioner(coarse)(right)
    scale = np.abs(expected).max()
    monkeypatch.setattr(joint, "DENSE_COARSE", 0)
    monkeypatch.setattr(joint, "_GATHERED", 500)
    found = system.preconditioner(coarse)(right)
    assert np.allclose(found, expected, rtol=0, atol=1e-7 * scale)


def test_conjugate_gradients_say_when_they_fail() -> None:
    matrix = np.diag(np.geomspace(1, 1e8, 60))
    with pytest.raises(DataError, match="after 5 iterations"):
        joint.conjugate_gradients(
            lambda x: matrix @ x, np.ones(60), np.zeros(60), lambda r: r, tolerance=1e-12, limit=5
        )


def test_iterated_equals_factored(draw: Callable[..., Any]) -> None:
    drawn = draw(3, 2, 4)
    seen, value, precision = drawn.join()
    prior = np.tile(np.array([80, 80, 80, 25, 25, 25]) ** -2.0, (24, 1))
    system = System(seen, precision, prior)
    right = system.project(value)
    dense = np.linalg.solve(system.dense(), right.ravel()).reshape(24, 6)
    coarse = coarse_space(drawn.placement, 2, most=100)
    both, few = joint.conjugate_gradients(system.apply, right, 0 * right, system.preconditioner(coarse))
    alone, many = joint.conjugate_gradients(system.apply, right, 0 * right, system.preconditioner())
    assert np.allclose(both, dense, atol=1e-5)
    # Even at 1e-10 long waves lag behind without the coarse space.
    assert np.allclose(alone, dense, atol=0.5)
    assert few < 30 < many
