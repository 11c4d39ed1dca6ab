"""Linking detections of many frames, against injected truth."""

from __future__ import annotations

import time

import numpy as np
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.grid import Grid, wcs_header
from skyloom.ops.registration.stars import Detections, Matches, link_stars, match_stars, place_stars


def observe(
    frames: int, stars: NDArray[np.float64], *, scatter: float, seed: int, share: float = 1.0
) -> tuple[Detections, NDArray[np.intp]]:
    """Detections of some stars in each frame, shuffled, and the star each of them is of."""
    rng = np.random.default_rng(seed)
    frame, row, place, truth = [], [], [], []
    for i in range(frames):
        seen = rng.permutation(np.nonzero(rng.random(len(stars)) < share)[0])
        frame.append(np.full(seen.size, i))
        row.append(np.arange(seen.size))
        place.append(stars[seen] + rng.normal(0, scatter, (seen.size, 2)))
        truth.append(seen)
    xy = np.concatenate(place)
    return (
        Detections(np.concatenate(frame), np.concatenate(row), xy[:, 0].copy(), xy[:, 1].copy()),
        np.concatenate(truth),
    )


def truth_of(matches: Matches, detections: Detections, truth: NDArray[np.intp]) -> NDArray[np.intp]:
    lookup = {(f, r): t for f, r, t in zip(detections.frame, detections.row, truth, strict=True)}
    return np.array([lookup[key] for key in zip(matches.frame, matches.row, strict=True)])


def check_invariants(matches: Matches) -> None:
    assert matches.start[0] == 0
    assert matches.start[-1] == matches.frame.size
    for k in range(matches.objects):
        rows = slice(matches.start[k], matches.start[k + 1])
        assert (matches.object[rows] == k).all()
        assert (np.diff(matches.frame[rows]) > 0).all()  # at least once a frame, ascending
        assert matches.start[k + 1] - matches.start[k] >= 2


def test_separated_stars_are_all_linked() -> None:
    rng = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(12)), -1).reshape(-1, 2) * 25.0
    stars = grid + rng.uniform(-5, 5, grid.shape) - 100
    detections, truth = observe(7, stars, scatter=0.2, seed=2, share=0.8)
    matches = link_stars(detections, tolerance=2.0)
    check_invariants(matches)
    of = truth_of(matches, detections, truth)
    for k in range(matches.objects):
        assert np.unique(of[matches.object == k]).size == 1
    seen = np.bincount(truth, minlength=len(stars))
    assert matches.frame.size == seen[seen >= 2].sum()


def test_ambiguous_pairs_are_dropped() -> None:
    stars = np.array([[50.0, 50], [51.2, 50], [100, 100], [150, 50]])
    detections, truth = observe(5, stars, scatter=0.05, seed=3)
    matches = link_stars(detections, tolerance=2.0)
    check_invariants(matches)
    np.testing.assert_array_equal(np.unique(truth_of(matches, detections, truth)), [2, 3])


def test_a_lone_false_detection_harms_nobody() -> None:
    detections, _ = observe(9, np.array([[50.0, 50], [90, 90]]), scatter=0.05, seed=4)
    order = np.argsort(np.append(detections.frame, 8), kind="stable")
    spoiled = Detections(
        np.append(detections.frame, 8)[order],
        np.append(detections.row, 2)[order],
        np.append(detections.x, 51.5)[order],
        np.append(detections.y, 50.0)[order],
    )
    assert link_stars(spoiled, tolerance=2.0).objects == 2


def test_first_frame_does_not_decide() -> None:
    """A first detection at the rim of the tolerance must not split the star."""
    frame = np.arange(12)
    x = np.where(frame == 0, 1.6, 0.0) + 0.01 * frame
    matches = link_stars(Detections(frame, np.zeros(12, np.intp), x, np.zeros(12)), tolerance=2.0)
    assert matches.objects == 1
    assert matches.frame.size == 12


def test_crowded_field_has_almost_no_wrong_links() -> None:
    rng = np.random.default_rng(5)
    stars = rng.uniform(0, 500, (1500, 2))
    detections, truth = observe(12, stars, scatter=0.1, seed=6, share=0.8)
    matches = link_stars(detections, tolerance=1.5)
    check_invariants(matches)
    of = truth_of(matches, detections, truth)
    wrong = sum(np.unique(of[matches.start[k] : matches.start[k + 1]]).size > 1 for k in range(matches.objects))
    assert matches.objects > 1000
    assert wrong < 0.005 * matches.objects


def test_nothing_to_link() -> None:
    none = np.empty(0, np.intp)
    matches = link_stars(Detections(none, none, np.empty(0), np.empty(0)), tolerance=2.0)
    assert matches.objects == 0
    assert matches.start.tolist() == [0]


def test_a_million_detections_take_seconds() -> None:
    stars = np.random.default_rng(7).uniform(0, 2000, (300, 2))
    detections, _ = observe(3000, stars, scatter=0.1, seed=8)
    link_stars(detections.take(np.arange(1000)), tolerance=2.0)
    start = time.process_time()
    matches = link_stars(detections, tolerance=2.0)
    assert time.process_time() - start < 5
    assert matches.frame.size > 0.98 * len(detections)


def tangent(ra: float, dec: float, turn: float = 0.0, flip: bool = False) -> str:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [50.5, 50.5]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = np.array([[-c if not flip else c, s], [s if not flip else -s, c]]) * 2 / 3600
    wcs.wcs.set()
    return wcs_header(wcs)


def test_placing_honours_flags_limit_and_shift() -> None:
    header = tangent(10, 20)
    session = xr.Dataset({"wcs": ("frame", [header, "", header])})
    stars = np.full((3, 5, 9), np.nan)
    stars[:, :4, 0] = [10, 20, 30, 40]
    stars[:, :4, 1] = 60
    stars[:, :4, 8] = [0, 1, 4, 0]
    grid = Grid(header, (100, 100), 64)
    clean = place_stars(session, stars, grid)
    assert clean.frame.tolist() == [0, 0, 2, 2]
    assert clean.row.tolist() == [0, 3, 0, 3]
    np.testing.assert_allclose(clean.x, [10, 40, 10, 40], atol=1e-6)
    assert place_stars(session, stars, grid, flags=1).row.tolist() == [0, 1, 3, 0, 1, 3]
    assert place_stars(session, stars, grid, flags=5, limit=3).row.tolist() == [0, 1, 2, 0, 1, 2]
    assert place_stars(session, stars, grid, use=np.array([False, True, True])).frame.tolist() == [2, 2]
    moved = place_stars(session, stars, grid, shift=np.array([[3.0, -2.0], [0, 0], [0, 0]]))
    np.testing.assert_allclose(moved.x[:2], [7, 37], atol=1e-6)
    np.testing.assert_allclose(moved.y[:2], 62, atol=1e-6)


def test_rotated_and_mirrored_frames_meet_on_the_canvas() -> None:
    rng = np.random.default_rng(9)
    headers = [tangent(10, 20), tangent(10.005, 20.003, turn=100), tangent(9.995, 20, flip=True)]
    grid = Grid(headers[0], (100, 100), 64)
    canvas = rng.uniform(30, 70, (12, 2))
    stars = np.full((3, 12, 9), np.nan)
    for i, header in enumerate(headers):
        ra, dec = WCS(grid.wcs.to_header()).all_pix2world(canvas[:, 0], canvas[:, 1], 0)
        frame = Grid(header, (100, 100), 64).wcs
        stars[i, :, 0], stars[i, :, 1] = frame.all_world2pix(ra, dec, 0)
        stars[i, :, 8] = 0
    matches = match_stars(xr.Dataset({"wcs": ("frame", headers)}), stars, grid, tolerance=0.5)
    assert matches.objects == 12
    assert matches.frame.size == 36
