"""Which samples say something, and in which order they lie."""

from __future__ import annotations

import numpy as np

from skyloom.ops.normalization.observations import Samples, islands, join_samples, no_samples, select


def samples(points: list[int], value: float = 1.0) -> Samples:
    n = len(points)
    u, v = np.linspace(0, 1, n, dtype=np.float32), np.linspace(1, 0, n, dtype=np.float32)
    return Samples(np.array(points, np.int32), np.arange(value, value + n), np.full(n, 4.0, np.float32), u, v)


def test_select_keeps_shared_points_only() -> None:
    frame = np.array([1, 0, 2, 1, 0])
    point = np.array([7, 7, 9, 3, 3])
    usable = np.array([True, True, True, True, False])
    index, start, renumbered, points = select(frame, point, usable, frames=3)
    assert index.tolist() == [1, 0]
    assert start.tolist() == [0, 1, 2, 2]
    assert renumbered.tolist() == [0, 0]
    assert points == 1


def test_select_sorts_by_frame_then_point() -> None:
    frame, point = np.array([1, 0, 1, 0, 0, 1]), np.array([5, 9, 2, 5, 2, 9])
    index, start, renumbered, points = select(frame, point, np.ones(6, dtype=bool), frames=2)
    assert index.tolist() == [4, 3, 1, 2, 0, 5]
    assert start.tolist() == [0, 3, 6]
    assert renumbered.tolist() == [0, 1, 2, 0, 1, 2]
    assert points == 3


def test_joined_samples_are_in_common_units_and_shared() -> None:
    one, two = samples([2, 5, 8]), samples([0, 2, 8], value=11.0)
    seen, value, precision = join_samples([one, no_samples(), two], np.array([2.0, 1.0, 4.0]), order=1)
    assert seen.start.tolist() == [0, 2, 2, 4]
    assert seen.point.tolist() == [0, 1, 0, 1]
    assert seen.points == 2
    assert seen.frame.tolist() == [0, 0, 2, 2]
    assert seen.u.tolist() == [0.0, 1.0, 0.5, 1.0]
    assert np.allclose(np.diff(value), np.diff([2.0, 6.0, 48.0, 52.0]))
    assert np.allclose(precision, [1 / 16, 1 / 16, 1 / 64, 1 / 64])


def test_what_is_not_a_number_does_not_count() -> None:
    one, two = samples([1, 2, 3, 4]), samples([1, 2, 3, 4])
    one.value[0], one.variance[1], two.u[2] = np.nan, 0.0, np.inf
    seen, value, _ = join_samples([one, two], np.ones(2), order=2)
    assert seen.points == 1
    assert seen.count.tolist() == [1, 1]
    assert np.isfinite(value).all()
    empty, _, _ = join_samples([no_samples()], np.ones(1), order=2)
    assert empty.points == 0
    assert join_samples([], np.ones(0), order=2)[0].frames == 0


def test_restricted_observations_are_those_of_the_chosen_frames_alone() -> None:
    rng = np.random.default_rng(1)
    each = [samples(np.sort(rng.permutation(40)[:15]).tolist(), value=rng.normal()) for _ in range(6)]
    chosen = np.array([True, False, True, True, False, False])
    seen, value, _ = join_samples(each, np.ones(6), order=2)
    index, some = seen.restrict(chosen)
    alone, expected, _ = join_samples([s for s, c in zip(each, chosen, strict=True) if c], np.ones(3), order=2)
    assert np.array_equal(some.start, alone.start)
    assert np.array_equal(some.point, alone.point)
    assert np.array_equal(some.u, alone.u)
    assert some.points == alone.points
    assert np.ptp(value[index] - expected) < 1e-12


def test_islands_are_numbered_by_first_frame() -> None:
    each = [
        samples([1, 2]),
        samples([10, 11]),
        samples([2, 3]),
        samples([11, 12]),
        samples([3, 12]),
        samples([99]),
    ]
    assert islands(join_samples(each[:4], np.ones(4), order=0)[0]).tolist() == [0, 1, 0, 1]
    assert islands(join_samples(each, np.ones(6), order=0)[0]).tolist() == [0, 0, 0, 0, 0, 1]
    assert islands(join_samples([], np.ones(0), order=0)[0]).tolist() == []
