"""The global solve against dense least squares, and against planted shifts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.registration.shifts import scatter, solve_shifts
from skyloom.ops.registration.stars import Detections, Matches, link_stars

Floats = NDArray[np.float64]


def sightings(shift: Floats, *, stars: int = 40, share: float = 0.6, noise: float = 0.0, seed: int = 1) -> Matches:
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 900, (stars, 2))
    seen = rng.random((len(shift), stars)) < share
    frame, star = np.nonzero(seen)
    row = np.cumsum(seen, axis=1)[frame, star] - 1
    at = places[star] - shift[frame] + rng.normal(0, noise, (frame.size, 2))
    return link_stars(Detections(frame, row, at[:, 0].copy(), at[:, 1].copy()), tolerance=4.0)


def dense(matches: Matches, weight: Floats, held: Floats, prior: Floats, frames: int) -> Floats:
    """Unknowns: a translation a frame and a position an object, with a row a sighting and a row a frame."""
    n = matches.frame.size
    rows = np.zeros((n + frames, frames + matches.objects))
    rows[np.arange(n), matches.frame] = 1
    rows[np.arange(n), frames + matches.object] = -1
    rows[n + np.arange(frames), np.arange(frames)] = 1
    root = np.sqrt(np.concatenate([weight, prior]))[:, None]
    right = np.concatenate([-np.stack([matches.x, matches.y], -1), held])
    return np.asarray(np.linalg.lstsq(root * rows, root * right, rcond=None)[0][:frames])


def test_solution_is_that_of_dense_least_squares() -> None:
    rng = np.random.default_rng(2)
    matches = sightings(rng.normal(0, 0.4, (7, 2)), noise=0.1)
    weight = rng.uniform(1, 100, matches.frame.size)
    held, prior = rng.normal(0, 0.5, (7, 2)), rng.uniform(0.1, 2, 7)
    prior[3] = 0
    found = solve_shifts(matches, weight, held, prior, 7)
    np.testing.assert_allclose(found, dense(matches, weight, held, prior, 7), atol=1e-7)


def test_planted_shifts_come_back() -> None:
    shift = np.random.default_rng(3).normal(0, 0.5, (30, 2))
    shift -= shift.mean(axis=0)
    matches = sightings(shift, stars=200)
    found = solve_shifts(matches, np.full(matches.frame.size, 400.0), np.zeros((30, 2)), np.full(30, 1e-6), 30)
    # All frames together are held by next to nothing.
    np.testing.assert_allclose(found - found.mean(axis=0), shift, atol=1e-4)
    assert np.nanmax(np.abs(scatter(matches, np.ones(matches.frame.size), shift))) < 1e-9


def test_a_frame_without_matches_stays_where_its_prior_holds_it() -> None:
    matches = sightings(np.zeros((3, 2)))
    held = np.zeros((5, 2))
    held[3] = 2.0, -1.0
    found = solve_shifts(matches, np.ones(matches.frame.size), held, np.array([1.0, 1, 1, 1, 0]), 5)
    np.testing.assert_allclose(found, held, atol=1e-9)


def test_scatter_compares_with_the_others_only() -> None:
    matches = Matches(
        frame=np.array([0, 1, 2, 0, 1]),
        row=np.zeros(5, np.intp),
        object=np.array([0, 0, 0, 1, 1]),
        start=np.array([0, 3, 5]),
        x=np.array([0.0, 1.0, 2.0, 10.0, 14.0]),
        y=np.zeros(5),
    )
    each = scatter(matches, np.array([1.0, 1.0, 2.0, 1.0, 0.0]), np.zeros((3, 2)))
    np.testing.assert_allclose(each[:3, 0], [0 - 5 / 3, 1 - 4 / 3, 2 - 0.5])
    assert each[4, 0] == pytest.approx(4)
    assert np.isnan(each[3]).all()  # the only other sighting has no weight
    assert (each[[0, 1, 2, 4], 1] == 0).all()
