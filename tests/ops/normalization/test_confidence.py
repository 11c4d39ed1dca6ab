"""Confidence: errors of surfaces as they are, and weights that fall where nothing holds a frame."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.normalization.confidence import (
    VISIBLE,
    confidence,
    support,
    surface_covariances,
    surface_error,
)
from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.legendre import legendre
from skyloom.ops.normalization.local import fit_offset
from skyloom.ops.normalization.observations import Observations

_path = Path(__file__).with_name("scenes.py")
_spec = importlib.util.spec_from_file_location("confidence_scenes", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["confidence_scenes"] = _module
_spec.loader.exec_module(_module)
draw_scene: Callable[..., Any] = _module.draw_scene
run: Callable[..., Any] = _module.run

Floats = NDArray[np.float64]
AT = surface.sample_positions()


def test_covariance_is_that_of_one_frame_against_fixed_others() -> None:
    rng = np.random.default_rng(0)
    frames, points, order = 3, 40, 1
    chosen = [np.sort(rng.choice(points, 25, replace=False)) for _ in range(frames)]
    point = np.concatenate(chosen).astype(np.int32)
    u, v = rng.uniform(0, 1, (2, 75)).astype(np.float32)
    seen = Observations(np.arange(4) * 25, point, u, v, order, points)
    weight = rng.uniform(0.5, 2.0, 75).astype(np.float32)
    prior = rng.uniform(0.1, 0.3, (frames, 3))
    design = legendre(2 * u.astype(np.float64) - 1, 2 * v.astype(np.float64) - 1, order)
    found = surface_covariances(System(seen, weight, prior))
    for f in range(frames):
        mine = np.arange(25 * f, 25 * f + 25)
        # The sky is free at every point: least squares for surface and sky, the other frames' surfaces known.
        normal = np.zeros((3 + points, 3 + points))
        normal[:3, :3] = np.diag(prior[f])
        for i in range(75):
            row = np.zeros(3 + points)
            row[3 + point[i]] = 1.0
            if i in mine:
                row[:3] = design[i]
            normal += weight[i] * np.outer(row, row)
        normal[np.diag_indices(3 + points)] += np.where(np.arange(3 + points) < 3, 0.0, 1e-9)
        np.testing.assert_allclose(found[f], np.linalg.inv(normal)[:3, :3], rtol=1e-5)
    # In the middle of a frame, where the planes are 0, the level alone errs.
    assert surface_error(found[0])[13, 13] == pytest.approx(np.sqrt(found[0][0, 0]))
    corner = np.array([1.0, -1.0, 1.0])
    assert surface_error(found[0])[-1, 0] == pytest.approx(np.sqrt(corner @ found[0] @ corner))


def test_a_smooth_offset_knows_where_it_has_no_data() -> None:
    ratio: dict[str, list[float]] = {"held": [], "beyond": []}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        u, v = rng.uniform(0, 1, (2, 900))
        u, v = u[u < 0.6], v[u < 0.6]
        a, b, c = rng.normal(0, 60, 3)

        def truth(s: Floats, t: Floats, a: float = a, b: float = b, c: float = c) -> Floats:
            return np.asarray(500 + a * s + b * t + c * s * t + 20 * np.sin(4 * s + 3 * t), dtype=np.float64)

        spline, error = fit_offset(u, v, truth(u, v) + rng.normal(0, 1.0, len(u)))
        gv, gu = np.meshgrid(AT, AT, indexing="ij")
        wrong = np.abs(surface.evaluate(spline, gu, gv) - truth(gu, gv))
        for name, here in (("held", gu < 0.55), ("beyond", gu > 0.75)):
            ratio[name].append(float(np.sqrt(np.mean(wrong[here] ** 2) / np.mean(error[here] ** 2))))
        assert error[gu > 0.95].min() > 10 * np.median(error[gu < 0.5])
    assert 0.7 < np.median(ratio["held"]) < 1.4
    # A smooth surface goes on bending the same way; the estimate takes every bend for one of its own.
    assert 0.5 < np.median(ratio["beyond"]) < 5.0


def test_rejected_samples_take_support_away_near_by_and_nowhere_else() -> None:
    v, u = (g.ravel().astype(np.float32) for g in np.meshgrid(np.linspace(0, 1, 32), np.linspace(0, 1, 32)))
    count = len(u)
    seen = Observations(np.array([0, count]), np.arange(count, dtype=np.int32), u, v, 2, count)
    kept = np.ones(count, dtype=np.float32)
    assert np.all(support(seen, 0, kept) == 1.0)
    kept[np.hypot(u - 0.7, v - 0.3) < 0.15] = 0.0
    found = support(seen, 0, kept)
    gv, gu = np.meshgrid(AT, AT, indexing="ij")
    away = np.hypot(gu - 0.7, gv - 0.3)
    assert found[away < 0.05].max() < 0.15
    assert found[away > 0.25].min() > 0.99
    # A trail takes a row of samples: the rest beside it is sound.
    kept[:] = 1.0
    kept[np.abs(v - 0.5) < 0.02] = 0.0
    assert np.count_nonzero(kept == 0) == 32 * 2
    assert support(seen, 0, kept).min() > 0.99
    empty = Observations(np.array([0, 0]), np.empty(0, np.int32), u[:0], v[:0], 2, 0)
    assert np.all(support(empty, 0, kept[:0]) == 1.0)


def test_confidence_is_a_half_where_an_error_shows() -> None:
    one = np.ones((2, 2))
    assert confidence(VISIBLE * 14.0 * one, one, 14.0) == pytest.approx(0.5 * one)
    assert confidence(0.0 * one, one, 14.0) == pytest.approx(one)
    assert confidence(np.inf * one, one, 14.0) == pytest.approx(0.0 * one)
    # Noise that nobody knows makes nothing doubtful.
    assert confidence(3.0 * one, one, np.nan) == pytest.approx(one)
    assert confidence(3.0 * one, 0.5 * one, 0.0) == pytest.approx(0.5 * one)


def _at_nodes(record: Floats) -> Floats:
    gv, gu = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9), indexing="ij")
    return surface.evaluate(record, gu, gv)


def test_frames_are_trusted_where_overlaps_hold_them() -> None:
    # Two panels side by side, seen once: what lies far from the overlap is extrapolated.
    scene = draw_scene(panels=(2, 1), visits=1, size=768, stars=1500, overlap=0.2)
    solved = run(scene, degree=2)
    for record in solved["confidence"].values:
        found = np.sort(_at_nodes(record).mean(axis=0))
        assert found[-1] > 0.6
        assert found[0] < 0.05
    # What one has on its left the other has on its right.
    first, second = (_at_nodes(c).mean(axis=0) for c in solved["confidence"].values)
    assert (first[0] - first[-1]) * (second[0] - second[-1]) < -0.2
    # Panels with many visits know themselves everywhere.
    deep = run(draw_scene(panels=(1, 1), visits=6, size=768, stars=1500))
    assert min(_at_nodes(c)[1:-1, 1:-1].min() for c in deep["confidence"].values) > 0.8
    assert np.all(run(scene, mode="none")["confidence"].values == 1.0)


def test_a_frame_that_disagrees_with_all_others_is_not_trusted() -> None:
    scene = draw_scene(panels=(1, 1), visits=6, size=768, stars=1500, cloudy=(2,))
    solved = run(scene)
    level = np.array([_at_nodes(c).mean() for c in solved["confidence"].values])
    assert level[2] < 0.05
    assert np.delete(level, 2).min() > 0.8


def test_an_overlap_of_none_says_nothing_against_a_frame() -> None:
    scene = draw_scene(panels=(2, 1), visits=1, size=512, stars=1500, overlap=-0.5)
    solved = run(scene)
    assert np.all(solved["island"].values == [0, 1])
    np.testing.assert_allclose(solved["confidence"].values, 1.0)
