"""Pairs of frames, star by star."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skyloom.ops.registration.pairs import LEAST_MATCHES, verify
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
