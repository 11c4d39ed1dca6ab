"""A part that the frames of a night have in common: the same solution as with unknowns of its own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.normalization import joint
from skyloom.ops.normalization.background import Problem
from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.legendre import ORDERS, evaluate, legendre
from skyloom.ops.normalization.observations import Observations
from skyloom.ops.normalization.shared import shared_prior

_path = Path(__file__).with_name("scenes.py")
_spec = importlib.util.spec_from_file_location("shared_scenes", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["shared_scenes"] = _module
_spec.loader.exec_module(_module)

Floats = NDArray[np.float64]
Draw = Callable[..., Any]


def test_the_prior_is_that_of_unknowns_of_its_own() -> None:
    rng = np.random.default_rng(0)
    frames, points, each = 5, 30, 18
    chosen = [np.sort(rng.choice(points, each, replace=False)) for _ in range(frames)]
    point = np.concatenate(chosen).astype(np.int32)
    u, v = rng.uniform(0, 1, (2, frames * each)).astype(np.float32)
    seen = Observations(np.arange(frames + 1) * each, point, u, v, 1, points)
    weight = rng.uniform(0.5, 2.0, frames * each).astype(np.float32)
    y = rng.normal(0, 10, frames * each)
    group = np.array([0, 1, 0, -1, 0])
    own, common = np.array([4.0, 2.0])[ORDERS[1]], np.array([1.5, 6.0])[ORDERS[1]]
    system = System(seen, weight, np.tile(own**-2.0, (frames, 1)), shared_prior(group, own, common))
    right = system.project(y)
    dense = np.linalg.solve(system.dense(), right.ravel()).reshape(right.shape)
    steps, _ = joint.conjugate_gradients(system.apply, right, np.zeros_like(right), system.preconditioner())
    np.testing.assert_allclose(steps, dense, atol=1e-6)
    # Unknowns: own parts, common parts of two groups, the sky.
    size = 3 * frames + 6 + points
    normal = np.diag(np.concatenate([np.tile(own**-2.0, frames), np.tile(common**-2.0, 2), np.zeros(points)]))
    target = np.zeros(size)
    terms = legendre(2 * u.astype(np.float64) - 1, 2 * v.astype(np.float64) - 1, 1)
    for i in range(frames * each):
        f, row = i // each, np.zeros(size)
        row[3 * f : 3 * f + 3] = terms[i]
        if group[f] >= 0:
            first = 3 * frames + 3 * group[f]
            row[first : first + 3] = terms[i]
        row[3 * frames + 6 + point[i]] = 1.0
        normal += weight[i] * np.outer(row, row)
        target += weight[i] * row * y[i]
    normal += 1e-12 * np.eye(size)
    whole = np.linalg.solve(normal, target)
    wanted = whole[: 3 * frames].reshape(frames, 3)
    shared = whole[3 * frames : 3 * frames + 6].reshape(2, 3)
    wanted = wanted + np.where(group[:, None] >= 0, shared[group], 0.0)
    np.testing.assert_allclose(dense, wanted, atol=1e-5)


def drawn_nights(draw: Draw, own: float, common: float) -> tuple[Any, NDArray[np.int64]]:
    """Frames of two nights, whose slopes are mostly those of their night."""
    drawn = draw(4, 2, 4, turn=False)
    rng = np.random.default_rng(5)
    night = np.arange(len(drawn.truth)) // 2 % 2
    both = rng.normal(0, common, (2, 6)) * np.array([0, 1, 1, 0.1, 0.1, 0.1])
    for f in range(len(drawn.truth)):
        wanted = both[night[f]] + rng.normal(0, own, 6) * np.array([5, 1, 1, 0.3, 0.3, 0.3])
        mine = drawn.frame == f
        drawn.value[mine] += evaluate(wanted - drawn.truth[f], drawn.u[mine], drawn.v[mine])
        drawn.truth[f] = wanted
    return drawn, night


def test_what_nights_share_is_told_from_what_frames_have(draw: Draw) -> None:
    drawn, night = drawn_nights(draw, 6.0, 100.0)
    alone, together = drawn.solve(), drawn.solve(group=night)
    assert np.all(alone.shared_sigma == 0)
    assert 30 < together.shared_sigma[1] < 300
    assert together.prior_sigma[1] < 15 < alone.prior_sigma[1]
    before, after = (drawn.errors(s, 2)[1] for s in (alone, together))
    # Planes of the mosaic are what a common slope was taken for.
    assert after[0] < 0.6 * before[0]
    assert drawn.errors(together, 2)[0] < 0.2
    # By conjugate gradients, whose coarse space knows nothing of nights.
    none = np.zeros(len(night), dtype=bool)
    seen, value, stated = drawn.join(2)
    problem = Problem(seen, value, stated, drawn.placement, 5.0, 0, none, group=night)
    spreads = (together.prior_sigma, together.shared_sigma)
    steps, direct = problem.solve_only(spreads), replace(problem, dense_limit=10**6).solve_only(spreads)
    assert 0 < steps.iterations < 1000
    # Rounds before the last are loose, which their weights remember.
    np.testing.assert_allclose(steps.x, direct.x, atol=0.02)


def test_where_nothing_is_shared_nothing_changes_much(draw: Draw) -> None:
    drawn = draw(3, 2, 4)
    night = np.arange(len(drawn.truth)) % 2
    alone, together = drawn.solve(), drawn.solve(group=night)
    before, after = (drawn.errors(s, 2)[1] for s in (alone, together))
    assert after[2] < 1.3 * before[2]
    assert together.shared_sigma[1] < 0.7 * together.prior_sigma[1]


def test_nights_come_from_the_session() -> None:
    scene = _module.draw_scene(panels=(2, 1), visits=2, size=768, stars=1500)
    scene.session["night"] = ("frame", np.array(["2025-01-01", "2025-01-01", "2025-01-02", "2025-01-02"]))
    scene.session["camera"] = ("frame", np.array(["A"] * 4))
    plain, shared = _module.run(scene), _module.run(scene, shared="night")
    assert np.nanmax(plain["shared_sigma"].values) == 0
    assert np.nanmax(shared["shared_sigma"].values) > 0
    assert not np.array_equal(plain["offset"].values, shared["offset"].values)
    with pytest.raises(ConfigError, match="shared = night means nothing with mode linear"):
        _module.run(scene, shared="night", mode="linear")
