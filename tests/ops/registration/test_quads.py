"""Patterns of stars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ops.registration.quads import (
    BORDER_STARS,
    BORDERS,
    NEIGHBOURS,
    Patterns,
    border_groups,
    find_meetings,
    make_patterns,
    make_quads,
)


def sorted_codes(patterns: Patterns) -> np.ndarray:
    return patterns.code[np.lexsort(patterns.code.T)]


@given(
    angle=st.floats(0, 360),
    scale=st.floats(0.2, 5),
    x=st.floats(-1e4, 1e4),
    y=st.floats(-1e4, 1e4),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_codes_do_not_change_when_a_picture_is_moved_turned_or_scaled(
    angle: float, scale: float, x: float, y: float, seed: int
) -> None:
    points = np.random.default_rng(seed).uniform(0, 2000, (12, 2)) + np.arange(12)[:, None] * 200
    c, s = scale * np.cos(np.radians(angle)), scale * np.sin(np.radians(angle))
    moved = points @ np.array([[c, s], [-s, c]]) + (x, y)
    a, b = make_patterns({0: points}), make_patterns({0: moved})
    np.testing.assert_allclose(sorted_codes(a), sorted_codes(b), atol=1e-6)
    mirror = make_patterns({0: moved * (-1, 1)}, mirrored=True)
    np.testing.assert_allclose(sorted_codes(a), sorted_codes(mirror), atol=1e-6)


def naive_code(quad: np.ndarray) -> np.ndarray:
    z = quad[:, 0] + 1j * quad[:, 1]
    i, j = max(((i, j) for i in range(4) for j in range(i)), key=lambda p: abs(z[p[0]] - z[p[1]]))
    c, d = ((z[k] - z[i]) / (z[j] - z[i]) for k in range(4) if k not in (i, j))
    if (c + d).real > 1:
        c, d = 1 - c, 1 - d
    if c.real > d.real:
        c, d = d, c
    return np.array([c.real, c.imag, d.real, d.imag])


def test_codes_equal_the_naive_ones() -> None:
    points = np.random.default_rng(3).uniform(0, 1000, (15, 2))
    quads = make_quads(points)
    expected = np.array([naive_code(points[q]) for q in quads])
    # The kernel keeps the order of the quads; all are wide enough here to be kept.
    np.testing.assert_allclose(make_patterns({0: points}).code, expected, atol=1e-9)


def test_every_set_of_stars_makes_one_pattern_with_its_neighbours() -> None:
    points = np.random.default_rng(3).uniform(0, 1000, (40, 2))
    quads = make_quads(points)
    assert len(np.unique(quads, axis=0)) == len(quads)
    assert (np.diff(quads, axis=1) > 0).all()
    assert len(quads) > 40 * NEIGHBOURS
    assert len(make_quads(points[:3])) == 0
    assert len(make_quads(points[:4])) == 1


def test_frames_that_overlap_meet_and_others_do_not(panels: Callable[..., Any]) -> None:
    sky = panels(bend=(5.0,), density=80.0)
    found = find_meetings(make_patterns({f: s[:120] for f, s in sky.stars.items()}))
    true = {
        (a, b)
        for a in sky.stars
        for b in sky.stars
        if a < b and len(np.intersect1d(sky.identity[a], sky.identity[b])) > 20
    }
    met = {(m.a, m.b): m for m in found}
    assert len(met) == len(found)
    assert set(met) >= true
    for pair in true:
        a, b = pair
        common = np.intersect1d(sky.identity[a], sky.identity[b])
        pa = np.array([sky.stars[a][sky.identity[a] == i][0] for i in common])
        pb = np.array([sky.stars[b][sky.identity[b] == i][0] for i in common])
        away = np.hypot(*(pa @ met[pair].matrix[:, :2].T + met[pair].matrix[:, 2] - pb).T)
        assert np.median(away) < 8
    apart = [m for m in found if len(np.intersect1d(sky.identity[m.a], sky.identity[m.b])) < 4]
    assert all(m.votes <= 4 for m in apart)


def test_mirror_images_meet_only_in_the_mirror(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=1, depth=2, flip=False)
    stars = {0: sky.stars[0], 1: sky.stars[1] * (-1, 1) + (2000, 0)}
    plain, mirrored = make_patterns(stars), make_patterns(stars, mirrored=True)
    assert find_meetings(plain) == [] or find_meetings(plain)[0].votes < 10
    best = find_meetings(plain, mirrored)[0]
    assert (best.a, best.b) == (0, 1)
    assert np.linalg.det(best.matrix[:, :2]) < 0
    common = np.intersect1d(sky.identity[0], sky.identity[1])
    pa = np.array([stars[0][sky.identity[0] == i][0] for i in common])
    pb = np.array([stars[1][sky.identity[1] == i][0] for i in common])
    assert np.median(np.hypot(*(pa @ best.matrix[:, :2].T + best.matrix[:, 2] - pb).T)) < 2


@pytest.mark.parametrize("stars", [{}, {0: np.zeros((0, 2))}, {0: np.zeros((3, 2)), 1: np.zeros((9, 2))}])
def test_too_few_stars_make_no_pattern(stars: dict[int, Any]) -> None:
    assert find_meetings(make_patterns(stars)) == []


def test_stars_along_the_sides_make_patterns_among_themselves() -> None:
    points = np.random.default_rng(3).uniform(0, (900, 600), (300, 2))
    groups = border_groups(points, (600, 900))
    assert len(groups) == 4 * len(BORDERS)
    assert max(len(rows) for rows in groups) == BORDER_STARS
    left = groups[0]
    np.testing.assert_array_equal(left, np.flatnonzero(points[:, 0] < BORDERS[0] * 900)[:BORDER_STARS])
    made = make_patterns({4: points}, groups={4: [left]})
    np.testing.assert_allclose(sorted_codes(made), sorted_codes(make_patterns({4: points[left]})))
    assert len(made.frame) > 0
    assert set(made.frame.tolist()) == {4}
    assert len(make_patterns({4: points}, groups={4: [left[:3]]}).frame) == 0


def test_frames_without_a_move_are_met_a_second_time(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=1, depth=2, flip=False)
    hot = np.random.default_rng(2).uniform(0, (2000, 1400), (60, 2))
    stars = {f: np.concatenate([hot, s[:50]]) for f, s in sky.stars.items()}
    still, moved = find_meetings(make_patterns(stars))[:2]
    assert (still.a, still.b, moved.a, moved.b) == (0, 1, 0, 1)
    np.testing.assert_allclose(still.matrix, [[1, 0, 0], [0, 1, 0]], atol=0.01)
    common = np.intersect1d(sky.identity[0][:50], sky.identity[1][:50])
    pa, pb = (np.array([sky.stars[f][sky.identity[f] == i][0] for i in common]) for f in (0, 1))
    assert np.median(np.hypot(*(pa @ moved.matrix[:, :2].T + moved.matrix[:, 2] - pb).T)) < 2
