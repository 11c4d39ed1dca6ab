"""How well frames are tied to each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from skyloom.ops.registration import bundle_step as steps
from skyloom.ops.registration.bundle import Bundle, Scale, Sightings, solve_bundle
from skyloom.ops.registration.bundle_step import PRIOR_SCALE, PRIOR_SHEAR
from skyloom.ops.registration.placing import Place
from skyloom.ops.registration.relink import undistorted
from skyloom.ops.registration.tied import LEAST_SHARED


def truly_same(sky: Any) -> Sightings:
    frame = np.concatenate([np.full(len(s), f) for f, s in sky.stars.items()])
    row = np.concatenate([np.arange(len(s)) for s in sky.stars.values()])
    star = np.concatenate(list(sky.identity.values()))
    _, star, count = np.unique(star, return_inverse=True, return_counts=True)
    keep = count[star] >= 2
    return Sightings(frame[keep], row[keep], np.unique(star[keep], return_inverse=True)[1])


def solve(sky: Any, places: dict[int, Place], *, thought: float = 0.08, scale: Scale | None = None) -> Bundle:
    return solve_bundle(
        places,
        sky.camera,
        dict.fromkeys(places, sky.half),
        sky.stars,
        {f: np.full(len(s), thought) for f, s in sky.stars.items()},
        truly_same(sky),
        scale=scale,
        tie=True,
    )


def stretched(sky: Any, seed: int) -> Any:
    """Frames that differ in scale, stretch and shear as the priors have it: as through refraction and focus."""
    rng = np.random.default_rng(seed)
    truth = {}
    for f, place in sky.truth.items():
        s, a, b = rng.normal(0, [PRIOR_SCALE, PRIOR_SHEAR, PRIOR_SHEAR]) / np.sqrt(2.0) / sky.half
        change = np.eye(2) + np.array([[s + a, b], [b, s - a]])
        sky.stars[f] = (sky.stars[f] - place.middle) @ np.linalg.inv(change).T + place.middle
        truth[f] = replace(place, linear=place.linear @ change)
    return replace(sky, truth=truth)


def error(sky: Any, found: Bundle) -> np.ndarray:
    return np.asarray(
        sky.error(
            lambda f, p: found.places[f].look(
                undistorted(p, found.places[f], sky.half, found.distortion[sky.camera[f]])
            )
        )
    )


def mean_square(found: Bundle) -> float:
    assert found.tie is not None
    return float(np.mean(np.array(list(found.tie.sigma.values())) ** 2))


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (1, 7)])
def test_stated_errors_are_those_against_the_truth(panels: Callable[..., Any], rows: int, columns: int) -> None:
    true, stated = [], []
    for seed in range(6):
        sky = panels(rows=rows, columns=columns, overlap=0.12, bend=(6.0,), seed=seed)
        straight = dict(sky.truth)
        sky = stretched(sky, seed)
        # The errors of the stars are thought to be half of what they are.
        found = solve(sky, straight, thought=0.04)
        true.append(float((error(sky, found) ** 2).mean()))
        stated.append(mean_square(found))
    assert 1 / 1.5 < np.sqrt(np.mean(true) / np.mean(stated)) < 1.5


def test_errors_grow_along_a_strip_and_fall_with_overlap(panels: Callable[..., Any]) -> None:
    short, long, wide = (
        solve(sky, sky.truth)
        for sky in (
            panels(rows=1, columns=3, overlap=0.12),
            panels(rows=1, columns=8, overlap=0.12),
            panels(rows=1, columns=8, overlap=0.4),
        )
    )
    assert mean_square(long) > 2 * mean_square(short)
    assert mean_square(long) > 2 * mean_square(wide)


def test_the_sparse_factor_draws_the_same_errors(
    panels: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sky = panels(rows=2, columns=3, bend=(4.0,))
    scale = Scale(float(np.median([p.scale for p in sky.truth.values()])), 0.1)
    dense = solve(sky, sky.truth, scale=scale)
    monkeypatch.setattr(steps, "DENSE_LIMIT", 0)
    sparse = solve(sky, sky.truth, scale=scale)
    assert dense.tie is not None
    assert sparse.tie is not None
    assert sparse.tie.scale == pytest.approx(dense.tie.scale, rel=1e-3)
    for f in sky.truth:
        assert sparse.tie.sigma[f] == pytest.approx(dense.tie.sigma[f], rel=0.02)
    monkeypatch.setattr(steps, "SPARSE_LIMIT", 0)
    unknown = solve(sky, sky.truth).tie
    assert unknown is not None
    assert unknown.sigma == {}
    assert unknown.loops == dense.tie.loops


def _shared(sky: Any, a: int, b: int) -> int:
    return len(np.intersect1d(sky.identity[a], sky.identity[b]))


def test_a_pair_that_does_not_fit_its_loop_shows(panels: Callable[..., Any]) -> None:
    def closed(push: float) -> float:
        sky = panels(rows=2, columns=2, depth=1, overlap=0.15, density=200.0, limit=400)
        # Stars that frames 0 and 1 share are off in frame 0 alone: no place of its four corners heals that.
        common = np.isin(sky.identity[0], sky.identity[1])
        sky.stars[0][common, 1] += push
        found = solve(sky, sky.truth)
        assert found.tie is not None
        pairs = [(a, b) for a in range(4) for b in range(a) if _shared(sky, a, b) >= LEAST_SHARED]
        assert found.tie.loops == len(pairs) - 3 >= 1
        return found.tie.closure

    close = closed(0.0)
    assert close < 0.05
    assert closed(1.0) > 2 * close


def test_one_strip_has_no_loop(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=3, depth=1, density=120.0)
    tie = solve(sky, sky.truth).tie
    assert tie is not None
    assert tie.loops == 0
    assert np.isnan(tie.closure)


def test_errors_that_were_thought_too_small_do_not_weaken_the_priors(panels: Callable[..., Any]) -> None:
    sky = panels(rows=2, columns=3, bend=(6.0,))
    right, small = solve(sky, sky.truth), solve(sky, sky.truth, thought=0.02)
    for f, place in right.places.items():
        away = place.look(sky.stars[f]) - small.places[f].look(sky.stars[f])
        assert np.abs(away).max() / place.scale < 0.01
    assert mean_square(small) == pytest.approx(mean_square(right), rel=0.02)
