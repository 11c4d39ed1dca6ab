"""Overlaps held out of the solve: which, and that the solve does not know them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skyloom.ops.normalization.background import SURE_DEGREE, Problem, choose_degree, solve_surfaces
from skyloom.ops.normalization.hold_out import hold_out, point_positions
from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.legendre import evaluate
from skyloom.ops.normalization.reweighting import TUKEY_LIMIT, rms_by_frame

Draw = Callable[..., Any]


def problem(drawn: Any, order: int) -> Problem:
    seen, value, precision = drawn.join(order)
    nowhere = np.zeros(len(drawn.truth), dtype=bool)
    return Problem(seen, value, precision, drawn.placement, TUKEY_LIMIT, 10_000, nowhere)


def test_whole_patches_of_sky_are_held_out_whatever_the_frames(draw: Draw) -> None:
    drawn = draw(3, 3, 4)
    seen, *_ = drawn.join()
    held = hold_out(seen, drawn.placement)
    assert 0.06 < held.point.mean() < 0.2
    for block in np.unique(held.block):
        assert len(set(held.point[held.block == block])) == 1
    position = point_positions(seen, drawn.placement)
    fewer = drawn.samples()[:-4]
    other = draw(3, 3, 4)
    other.truth = other.truth[:-4]
    keep = other.frame < len(fewer)
    for name in ("frame", "point", "value", "u", "v"):
        setattr(other, name, getattr(other, name)[keep])
    again, *_ = other.join()
    twice = hold_out(again, drawn.placement[:-4])
    first = {_key(place): h for place, h in zip(position, held.point.tolist(), strict=True)}
    second = point_positions(again, drawn.placement[:-4])
    same = [first.get(_key(place)) == h for place, h in zip(second, twice.point.tolist(), strict=True)]
    assert np.mean(same) > 0.95


def _key(place: Any) -> tuple[int, int]:
    return round(place[0]), round(place[1])


def test_held_out_overlaps_weigh_nothing(draw: Draw) -> None:
    drawn = draw(2, 2, 3)
    whole = problem(drawn, 2)
    held = hold_out(whole.seen, drawn.placement)
    index, kept = whole.seen.without(held.point)
    assert not held.point[whole.seen.point[index]].any()
    assert kept.points == np.count_nonzero(~held.point)
    assert np.array_equal(kept.count, np.bincount(whole.seen.frame[index], minlength=12))
    solved = replace(whole, seen=kept, y=whole.y[index], stated=whole.stated[index]).solve_only(None)
    test = held.samples(whole.seen)
    rest = whole.y - np.array(
        [
            evaluate(solved.x[f], np.array([u], np.float64), np.array([v], np.float64))[0]
            for f, u, v in zip(whole.seen.frame, whole.seen.u, whole.seen.v, strict=True)
        ]
    )
    # Distance of each to the plain mean of the others: what `residual_held` is, if all count the same.
    count = np.bincount(whole.seen.point)
    total = np.bincount(whole.seen.point, weights=rest)
    other = (total[whole.seen.point] - rest) / (count[whole.seen.point] - 1)
    naive = [
        1.4826 * np.median(np.abs(rest - other)[test & (whole.seen.frame == f)]) for f in range(whole.seen.frames)
    ]
    reported = solve_surfaces(whole.seen, whole.y, whole.stated, placement=drawn.placement)
    assert np.allclose(reported.residual_held, naive, rtol=0.2)
    # What lies only in held-out places is seen by these residuals, but not by the surfaces they come from.
    bent = whole.y + np.where(test & (whole.seen.frame == 5), 40.0, 0.0)
    odd = replace(whole, seen=kept, y=bent[index], stated=whole.stated[index]).solve_only(None)
    assert np.array_equal(odd.x, solved.x)
    seen = solve_surfaces(whole.seen, bent, whole.stated, placement=drawn.placement)
    assert seen.residual_held[5] > 30
    assert np.median(seen.residual_held) < 1.0


def test_the_residual_held_out_is_of_a_solve_without_these_samples(draw: Draw) -> None:
    drawn = draw(2, 1, 2)
    whole = problem(drawn, 2)
    report = solve_surfaces(whole.seen, whole.y, whole.stated, placement=drawn.placement)
    solved = whole.solve_only(None)
    held = hold_out(whole.seen, drawn.placement)
    index, kept = whole.seen.without(held.point)
    less = System(kept, solved.system.weight[index], solved.system.prior)
    x = np.linalg.solve(less.dense(), less.project(whole.y[index]).ravel()).reshape(-1, 6)
    expected = rms_by_frame(solved.system, whole.y, np.asarray(x, dtype=np.float64), only=held.samples(whole.seen))
    assert np.allclose(report.residual_held, expected, rtol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_degree_rises_only_as_far_as_the_frames_need(draw: Draw, degree: int) -> None:
    drawn = draw(2, 2, 2, seed=degree)
    terms = {0: 1, 1: 3, 2: 6}[degree]
    for f in range(len(drawn.truth)):
        mine = drawn.frame == f
        unwanted = drawn.truth[f].copy()
        unwanted[:terms] = 0.0
        drawn.value[mine] -= evaluate(unwanted, drawn.u[mine], drawn.v[mine])
    chosen, trials = choose_degree(problem(drawn, 4))
    assert chosen == degree
    assert np.isfinite(trials).all()
    # Below, overlaps disagree; above, nothing is gained.
    assert np.all(trials[:degree] > 2 * trials[degree])
    assert np.all(np.abs(trials[degree:] / trials[degree] - 1) < 0.05)
    solved = drawn.solve(order=4, choose=True)
    assert solved.order == degree
    assert solved.coefficients.shape[1] == terms
    assert np.array_equal(solved.trials, trials)


def test_a_cubic_background_raises_the_degree(draw: Draw) -> None:
    drawn = draw(2, 2, 2)
    rng = np.random.default_rng(3)
    for f in range(len(drawn.truth)):
        mine = drawn.frame == f
        drawn.value[mine] += rng.normal(0, 20) * (2 * drawn.u[mine] - 1) ** 3
    assert choose_degree(problem(drawn, 4))[0] == 3


def test_little_overlap_gets_planes(draw: Draw) -> None:
    drawn = draw(2, 1, 1, turn=False)
    keep = np.isin(drawn.point, np.flatnonzero(np.bincount(drawn.point) == 2)[:20])
    for name in ("frame", "point", "value", "u", "v"):
        setattr(drawn, name, getattr(drawn, name)[keep])
    degree, trials = choose_degree(problem(drawn, 4))
    assert degree == SURE_DEGREE
    assert np.isnan(trials).all()
