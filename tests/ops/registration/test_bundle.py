"""One solution for all frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from skyloom.ops.registration import bundle as module_bundle
from skyloom.ops.registration import bundle_step as module
from skyloom.ops.registration.bundle import Bundle, Scale, Sightings, join_edges, solve_bundle
from skyloom.ops.registration.pairs import Edge
from skyloom.ops.registration.placing import Place, directions, rescale
from skyloom.ops.registration.relink import relink, undistorted


def shaken(sky: Any, *, pixels: float = 3.0, seed: int = 4) -> dict[int, Place]:
    """True places with errors of some pixels and milliradians."""
    rng = np.random.default_rng(seed)
    out = {}
    for f, place in sky.truth.items():
        centre = directions(rng.normal(0, pixels * place.scale, (1, 2)), place.basis)[0]
        turn = rng.normal(0, 1e-3)
        out[f] = Place(centre, place.linear @ np.array([[1, -turn], [turn, 1]]), place.middle)
    return out


def truly_same(sky: Any) -> Sightings:
    frame = np.concatenate([np.full(len(s), f) for f, s in sky.stars.items()])
    row = np.concatenate([np.arange(len(s)) for s in sky.stars.values()])
    star = np.concatenate(list(sky.identity.values()))
    _, star, count = np.unique(star, return_inverse=True, return_counts=True)
    keep = count[star] >= 2
    return Sightings(frame[keep], row[keep], np.unique(star[keep], return_inverse=True)[1])


def solve(sky: Any, sightings: Sightings, places: dict[int, Place], **options: Any) -> Bundle:
    return solve_bundle(
        places,
        sky.camera,
        dict.fromkeys(places, sky.half),
        sky.stars,
        {f: np.full(len(s), 0.08) for f, s in sky.stars.items()},
        sightings,
        **options,
    )


def error(sky: Any, found: Bundle) -> np.ndarray:
    return np.asarray(
        sky.error(
            lambda f, p: found.places[f].look(
                undistorted(p, found.places[f], sky.half, found.distortion[sky.camera[f]])
            )
        )
    )


def test_places_scales_and_distortion_are_found(panels: Callable[..., Any]) -> None:
    sky = panels(rows=3, columns=3, depth=2, scales=(1.0, 1.02), bend=(6.0, -3.0), density=120.0)
    found = solve(sky, truly_same(sky), shaken(sky))
    away = error(sky, found)
    assert np.sqrt((away**2).mean()) < 0.1
    assert away.max() < 0.3
    for camera, bend in sky.bend.items():
        x, y = found.distortion[camera]
        np.testing.assert_allclose([x[3], x[5], y[4], y[6]], bend, atol=0.15)
        np.testing.assert_allclose([*x[:3], x[4], x[6], *y[:4], y[5]], 0, atol=0.25)
    # 0.08 px a coordinate, against the mean of the others.
    assert np.nanstd(found.residual) == pytest.approx(0.08 * 1.3, rel=0.2)


def test_conjugate_gradients_and_the_factored_matrix_agree(
    panels: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sky = panels(rows=2, columns=2, bend=(4.0,), density=80.0)
    same, places = truly_same(sky), shaken(sky)
    dense = solve(sky, same, places)
    monkeypatch.setattr(module, "DENSE_LIMIT", 0)
    iterated = solve(sky, same, places)
    for f in places:
        away = (dense.places[f].look(sky.stars[f]) - iterated.places[f].look(sky.stars[f])) / sky.truth[f].scale
        assert np.abs(away).max() < 0.02


def test_wrong_matches_do_no_harm(panels: Callable[..., Any]) -> None:
    sky = panels(density=80.0)
    same = truly_same(sky)
    wrong = same.object.copy()
    rng = np.random.default_rng(8)
    swap = rng.choice(len(wrong), len(wrong) // 30, replace=False)
    near = {
        f: np.argsort(np.hypot(*(s[:, None] - s[None]).transpose(2, 0, 1)), axis=1)[:, 1]
        for f, s in sky.stars.items()
    }
    row = same.row.copy()
    row[swap] = [near[f][r] for f, r in zip(same.frame[swap], same.row[swap], strict=True)]
    found = solve(sky, Sightings(same.frame, row, wrong), shaken(sky))
    assert np.sqrt((error(sky, found) ** 2).mean()) < 0.15


def test_few_sightings_solve_for_no_distortion(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=1, depth=3, limit=40)
    found = solve(sky, truly_same(sky), shaken(sky))
    assert not found.distortion[0].any()
    assert error(sky, found).max() < 0.3
    assert not solve(panels(), truly_same(panels()), panels().truth, distortion=False).distortion[0].any()


def same_pointing(sky: Any, *, dither: float, wrong: float) -> Any:
    """Frames of a panel laid on each other but for a dither, each with centroids that err together (pixels)."""
    rng = np.random.default_rng(6)
    first = min(sky.stars)
    stars, truth = {}, {}
    for f, place in sky.truth.items():
        shift = rng.normal(0, dither, 2)
        q = (sky.stars[first] - place.middle) / sky.half
        smooth = np.stack([(q**2) @ rng.normal(0, 1, 2), q.prod(axis=1) * rng.normal()], axis=1)
        stars[f] = sky.stars[first] + shift + wrong * smooth + rng.normal(0, 0.03, q.shape)
        base = sky.truth[first]
        centre = directions((-base.linear @ shift)[None], base.basis)[0]
        truth[f] = replace(base, centre=centre)
    identity = dict.fromkeys(stars, sky.identity[first])
    return SimpleNamespace(
        stars=stars, identity=identity, truth=truth, half=sky.half, camera=dict.fromkeys(stars, 0)
    )


def test_frames_that_lie_on_each_other_tell_no_distortion(panels: Callable[..., Any]) -> None:
    """Hundredths of a pixel that centroids err together would be hundreds of pixels of distortion."""
    sky = panels(rows=1, columns=1, depth=4, density=120.0)
    assert len(sky.stars[min(sky.stars)]) * 4 > module_bundle.LEAST_SIGHTINGS
    still = same_pointing(sky, dither=0.02, wrong=0.02)
    assert not solve(still, truly_same(still), still.truth).distortion[0].any()
    # Dithered they do: what is found is small, for there is none.
    moved = same_pointing(sky, dither=6.0, wrong=0.0)
    found = solve(moved, truly_same(moved), moved.truth)
    assert found.distortion[0].any()
    assert np.abs(found.distortion[0]).max() < 2.0


def test_nothing_to_solve() -> None:
    none = np.empty(0, np.intp)
    place = Place(np.array([1.0, 0, 0]), 1e-5 * np.eye(2), np.zeros(2))
    stars = {0: np.zeros((0, 2))}
    found = solve_bundle({0: place}, {0: 0}, {0: 100.0}, stars, {0: np.zeros(0)}, Sightings(none, none, none))
    np.testing.assert_allclose(found.places[0].centre, place.centre)


def test_matches_join_to_stars_and_contradictions_are_dropped() -> None:
    def edge(a: int, b: int, rows: list[tuple[int, int]]) -> Edge:
        ra, rb = np.array(rows).T
        return Edge(a, b, ra, rb, 0.1, False)

    joined = join_edges(
        [edge(0, 1, [(0, 0), (1, 1)]), edge(1, 2, [(0, 3), (1, 4)]), edge(0, 2, [(2, 4)])], {0: 3, 1: 2, 2: 5}
    )
    # Star 0: 0/0, 1/0, 2/3. The other chain meets frame 0 twice (rows 1 and 2).
    assert list(zip(joined.frame.tolist(), joined.row.tolist(), strict=True)) == [(0, 0), (1, 0), (2, 3)]
    assert joined.objects == 1


def test_relinking_finds_all_stars(panels: Callable[..., Any]) -> None:
    sky = panels(bend=(5.0,), density=60.0)
    bend = np.zeros((2, 7))
    bend[0, [3, 5]] = bend[1, [4, 6]] = 5.0
    half = dict.fromkeys(sky.truth, sky.half)
    found = relink(sky.truth, sky.camera, half, sky.stars, {0: bend}, tolerance=2.0)
    star = np.array([sky.identity[f][r] for f, r in zip(found.frame, found.row, strict=True)])
    for k in np.unique(found.object):
        assert len(set(star[found.object == k])) == 1
    assert len(found.frame) > 0.97 * len(truly_same(sky).frame)


def scale_of(places: Mapping[int, Place]) -> float:
    return float(np.median([p.scale for p in places.values()]))


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_the_scale_of_a_wide_mosaic_is_told_by_the_curvature_of_the_sky(
    panels: Callable[..., Any], factor: float
) -> None:
    sky = panels(rows=6, columns=5, depth=2, overlap=0.12, bend=(6.0,), shape=(1800, 2400))
    same, places = truly_same(sky), rescale(shaken(sky), factor)
    given = solve(sky, same, places)
    found = solve(sky, same, places, scale=Scale(scale_of(places), 10.0), tie=True)
    assert error(sky, given).max() > 2.0
    assert error(sky, found).max() < 0.6
    assert found.tie is not None
    off = scale_of(found.places) / scale_of(sky.truth) - 1.0
    assert abs(off) < 3.0 * found.tie.scale < 0.2
    # What a header says of it counts as it should: half a percent is more than these stars know.
    told = solve(sky, same, shaken(sky), scale=Scale(scale_of(sky.truth), 0.005), tie=True)
    assert told.tie is not None
    assert told.tie.scale < 0.005
    assert abs(scale_of(told.places) / scale_of(sky.truth) - 1.0) < 3 * told.tie.scale


def test_a_scale_that_stars_cannot_tell_stays_as_it_was(panels: Callable[..., Any]) -> None:
    sky = panels(rows=2, columns=2)
    places = rescale(shaken(sky), 0.5)
    found = solve(sky, truly_same(sky), places, scale=Scale(scale_of(places), 10.0), tie=True)
    assert scale_of(found.places) == pytest.approx(scale_of(places), rel=1e-4)
    assert found.tie is not None
    assert found.tie.scale > 0.3
