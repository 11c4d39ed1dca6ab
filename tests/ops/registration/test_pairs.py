"""Pairs of frames, star by star."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skyloom.ops.registration.pairs import LEAST_MATCHES, _robust_fit, mutual_nearest, verify
from skyloom.ops.registration.quads import Meeting, find_meetings, make_patterns


def test_matches_are_the_right_stars_also_where_the_lens_bends(panels: Callable[..., Any]) -> None:
    sky = panels(bend=(6.0,), density=100.0)
    found = find_meetings(make_patterns({f: s[:120] for f, s in sky.stars.items()}))
    edges = [e for m in found if (e := verify(m, sky.stars[m.a], sky.stars[m.b]))]
    total = right = 0
    for e in edges:
        same = sky.identity[e.a][e.row_a] == sky.identity[e.b][e.row_b]
        total, right = total + len(same), right + int(same.sum())
        assert not e.mirrored
    assert total > 1000
    assert right > 0.999 * total
    true = sum(
        len(np.intersect1d(sky.identity[a], sky.identity[b])) >= 30 for a in sky.stars for b in sky.stars if a < b
    )
    assert len(edges) >= true


def test_chance_is_no_match() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.uniform(0, 1000, (400, 2)), rng.uniform(0, 1000, (400, 2))
    meeting = Meeting(0, 1, 3, np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    assert verify(meeting, a, b) is None  # 400 stars a Mpixel: many fall within 3 px of another by chance
    np.testing.assert_array_equal(verify(meeting, a, a).row_b, np.arange(400))  # type: ignore[union-attr]


@pytest.mark.parametrize(("common", "found"), [(LEAST_MATCHES + 4, True), (LEAST_MATCHES - 2, False)])
def test_a_few_stars_are_enough_and_fewer_are_not(common: int, found: bool) -> None:
    rng = np.random.default_rng(9)
    a = rng.uniform(0, 3000, (40, 2))
    b = rng.uniform(0, 3000, (40, 2))
    b[:common] = a[:common] + rng.normal(0, 0.1, (common, 2)) + (30.0, -12.0)
    meeting = Meeting(3, 7, 4, np.array([[1.0, 0.0, 31.0], [0.0, 1.0, -11.0]]))
    edge = verify(meeting, a, b)
    assert (edge is not None) == found
    if edge is not None:
        good = edge.row_a < common
        np.testing.assert_array_equal(edge.row_a[good], edge.row_b[good])
        assert good.sum() == common
        assert edge.rms < 0.4


def test_fields_without_a_star_in_common_are_not_paired() -> None:
    rng = np.random.default_rng(1)
    stars = {f: rng.uniform(0, 1000, (140, 2)) for f in range(30)}
    met = find_meetings(make_patterns({f: s[:120] for f, s in stars.items()}))
    assert len(met) >= 5
    # Eight or nine stars of two such fields come within 3 px under the affine map that suits them best.
    assert [m for m in met if verify(m, stars[m.a], stars[m.b])] == []


def field(count: int, seed: int, side: float = 1000.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, side, (count, 2))


def test_frames_see_the_same_stars_where_they_overlap() -> None:
    common, a, b = field(12, 1), field(120, 2), field(120, 3)
    meeting = Meeting(0, 1, 3, np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    narrow = common * (0.1, 1.0)
    moved = np.array([900.0, 0.0])
    shifted = Meeting(0, 1, 3, np.array([[1.0, 0.0, -900.0], [0.0, 1.0, 0.0]]))
    assert verify(meeting, np.concatenate([common, a]), np.concatenate([common, b])) is None  # 12 of 132
    edge = verify(
        shifted,
        np.concatenate([narrow + moved, a * (0.9, 1.0)]),
        np.concatenate([narrow, b * (0.9, 1.0) + (100.0, 0.0)]),
    )
    assert edge is not None  # 12 of 12 in the overlap
    assert len(edge) == 12


@pytest.mark.parametrize(
    ("stretch", "same", "found"),
    [((1.03, 1.03), True, True), ((1.1, 1.1), True, False), ((1.1, 1.1), False, True), ((1.2, 1.0), False, False)],
)
def test_no_two_frames_are_so_different(stretch: tuple[float, float], same: bool, found: bool) -> None:
    a = field(60, 4)
    b = a * stretch
    meeting = Meeting(0, 1, 3, np.column_stack([np.diag(stretch), [0.0, 0.0]]))
    assert (verify(meeting, a, b, same_scale=same) is not None) == found


@pytest.mark.parametrize("radius", [3.0, 12.0, 400.0])
def test_mutual_nearest_against_all_distances(radius: float) -> None:
    rng = np.random.default_rng(11)
    a, b = rng.uniform(0, 200, (150, 2)), rng.uniform(0, 200, (170, 2))
    b = b[np.argsort(b[:, 1])]
    distance = np.hypot(*(a[:, None] - b[None]).transpose(2, 0, 1))
    near = distance.argmin(axis=1)
    within = distance[np.arange(150), near] < radius
    expected = np.full(150, -1)
    for i in np.flatnonzero(within):
        # Of those of `a` that chose this one, the nearest keeps it.
        rivals = np.flatnonzero(within & (near == near[i]))
        if rivals[distance[rivals, near[i]].argmin()] == i:
            expected[i] = near[i]
    np.testing.assert_array_equal(mutual_nearest(a, b, radius), expected)
    assert 5 < (expected >= 0).sum() < 150


def test_robust_fit_against_reweighted_lstsq() -> None:
    rng = np.random.default_rng(12)
    x, y = rng.uniform(-1, 1, (2, 60))
    terms = np.stack([np.ones(60), x, y, x * x, x * y, y * y], axis=-1)
    values = terms @ rng.normal(0, 500, (6, 2)) + rng.normal(0, 0.1, (60, 2))
    values[:5] += 40.0
    weight = np.ones(60)
    for _ in range(4):
        root = np.sqrt(weight)[:, None]
        expected = np.linalg.lstsq(terms * root, values * root, rcond=None)[0]
        distance = np.hypot(*(terms @ expected - values).T)
        limit = 2.5 * max(float(np.median(distance)), 0.02)
        weight = np.minimum(1.0, limit / np.maximum(distance, 1e-12))
    solution, rms = _robust_fit(terms, values)
    np.testing.assert_allclose(solution, expected, atol=1e-5)
    assert rms == pytest.approx(np.sqrt(np.mean(distance[distance < 2 * limit] ** 2)), rel=1e-6)
