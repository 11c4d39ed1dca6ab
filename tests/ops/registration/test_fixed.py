"""Hot pixels pass for stars, and stars that stay for hot pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.grid import parse_wcs, pixel_to_sky
from skyloom.ops.measurement.measure import measure_frame
from skyloom.ops.registration.fixed import at_places, fixed_places, same_sky, suspects
from skyloom.ops.registration.locate import Location, solve_locations
from skyloom.ops.registration.pairs import Edge
from skyloom.ops.registration.placing import unit_vector
from skyloom.ops.registration.stars import STAR_QUANTITIES
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel


def with_hot(sky: Any, count: int, *, seen: float = 0.9, seed: int = 3, only: tuple[int, ...] = ()) -> Any:
    """The same frames with hot pixels at the same places, as bright as the stars; `only` these in some."""
    rng = np.random.default_rng(seed)
    height, width = sky.shape
    places = rng.uniform(5, (width - 6, height - 6), (count, 2))
    stars = {}
    for f, points in sky.stars.items():
        points = points[:0] if f in only else points
        mine = places[rng.uniform(size=count) < seen]
        both = np.concatenate([points, mine + rng.normal(0, 0.05, mine.shape)])
        rank = np.concatenate([np.linspace(0, 1, len(points)), rng.uniform(size=len(mine))])
        stars[f] = both[np.argsort(rank)][:400]
    return replace(sky, stars=stars)


def tracked(sky: Any, depth: int, *, seed: int = 8) -> Any:
    """The same panels with all frames of one at one place: the mount followed perfectly."""
    rng = np.random.default_rng(seed)
    stars, truth = {}, {}
    for f in sky.stars:
        first = f // depth * depth
        points = sky.stars[first]
        kept = rng.uniform(size=len(points)) > 0.1
        stars[f], truth[f] = (points + rng.normal(0, 0.08, points.shape))[kept], sky.truth[first]
    return replace(sky, stars=stars, truth=truth)


def solved(lists: dict[int, np.ndarray], shape: tuple[int, int]) -> Location:
    """Places of frames without WCS, of one camera."""
    table = np.full((len(lists), 400, len(STAR_QUANTITIES)), np.nan)
    for f, points in lists.items():
        flux = np.linspace(5000, 300, len(points))
        table[f, : len(points)] = 0.0
        table[f, : len(points), :2] = points
        table[f, : len(points), 2:5] = np.stack([flux, flux / 100, np.full(len(points), 3.0)], axis=-1)
    columns: dict[str, Any] = {
        "name": [f"f{f}.fits" for f in lists],
        "wcs": [""] * len(lists),
        "height": [shape[0]] * len(lists),
        "width": [shape[1]] * len(lists),
    }
    session = xr.Dataset({k: ("frame", np.array(v)) for k, v in columns.items()})
    return solve_locations(session, table, np.zeros(len(lists)), distortion=False)


def directions(text: str, pixels: np.ndarray) -> np.ndarray:
    return np.array([unit_vector(a, d) for a, d in zip(*pixel_to_sky(parse_wcs(text), *pixels.T), strict=True)])


def worst(sky: Any) -> float:
    """Largest error (px); infinite where a frame has no place."""
    found = solved(sky.stars, sky.shape)
    return float(sky.error(lambda f, p: directions(found.wcs[f], p)).max()) if all(found.wcs) else np.inf


@pytest.mark.parametrize("flip", [False, True])
def test_stars_win_against_hot_pixels_that_are_more(panels: Callable[..., Any], flip: bool) -> None:
    sky = panels(rows=1, columns=2, depth=3, shape=(900, 1000), overlap=0.2, density=120.0, flip=flip)
    assert worst(sky) < 0.5
    assert worst(with_hot(sky, 200)) < 0.5
    assert worst(with_hot(sky, 200, seen=0.35)) < 0.6  # too seldom seen at one place to be suspected


def test_two_frames_are_enough_to_tell(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=1, depth=2, shape=(900, 1000), flip=False)
    assert worst(with_hot(sky, 200)) < 0.5


def test_stars_that_stay_are_stars(panels: Callable[..., Any]) -> None:
    still = tracked(panels(rows=1, columns=1, depth=4, shape=(900, 1000)), 4)
    assert worst(still) < 0.2
    assert worst(with_hot(still, 60)) < 0.2
    both = tracked(panels(rows=1, columns=2, depth=3, shape=(900, 1000), overlap=0.3, density=120.0), 3)
    assert worst(both) < 0.5
    assert worst(with_hot(both, 60)) < 0.5


def test_a_frame_with_nothing_but_hot_pixels_is_left_out(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=1, depth=5, shape=(900, 1000), flip=False)
    found = solved(with_hot(sky, 100, only=(2,)).stars, sky.shape)
    assert [bool(w) for w in found.wcs] == [True, True, False, True, True]


def test_fields_apart_are_not_joined_by_hot_pixels(panels: Callable[..., Any]) -> None:
    sky = with_hot(panels(rows=1, columns=2, depth=3, shape=(900, 1000), overlap=-1.0), 100)
    assert solved(sky.stars, sky.shape).island.tolist() == [0] * 3 + [1] * 3


def test_places_are_those_most_frames_see() -> None:
    rng = np.random.default_rng(1)
    places = np.array([[10.0, 20.0], [300.0, 40.0], [90.0, 77.0]])
    lists = {f: np.concatenate([places[: 3 - f % 2 * 2], rng.uniform(0, 1000, (30, 2))]) for f in range(200)}
    found = np.unique(fixed_places(lists, list(lists)), axis=0)
    np.testing.assert_array_equal(found, np.unique(places, axis=0))
    assert at_places(np.array([[10.3, 20.2], [10.6, 20.0]]), found).tolist() == [True, False]
    assert len(fixed_places(lists, [0])) == 0
    masks = suspects(lists, dict.fromkeys(lists, 0))
    assert [int(masks[f].sum()) for f in (0, 1)] == [3, 1]
    assert suspects({0: lists[0], 1: lists[1][3:]}, {0: 0, 1: 1}) == {}


def test_one_sky_is_seen_whole() -> None:
    points = np.zeros((40, 2))
    every = np.arange(0, 40)
    assert same_sky(Edge(0, 1, every[:38], every[:38], 0.1, False), points, points)
    half = every[::2]
    assert not same_sky(Edge(0, 1, half, half, 0.1, False), points, points)
    # Of a hazy frame's 20 stars all are found in the clear one.
    assert same_sky(Edge(0, 1, half, np.arange(20), 0.1, False), points, points[:20])


@pytest.mark.parametrize("dither", [4.0, 0.0])
def test_pixels_of_a_colour_sensor_without_darks(dither: float) -> None:
    size, frames = 320, 3
    session = SimulatedSession(
        seed=4,
        panels=(1, 1),
        frames=frames,
        dither=dither,
        rotation_jitter=0.0,
        cosmic_rays=0.0,
        trails=0.0,
        fwhm=(1.9, 2.2),
        camera=Camera(height=size, width=size),
        sky=SkyModel(seed=4, nebula=0.0, star_density=20000.0, star_faint=400.0),
    )
    rng = np.random.default_rng(2)
    hot = np.zeros((size, size))
    # Interpolating the colours spreads a hot pixel over its neighbours: as wide as a star.
    for y, x, level in zip(*rng.integers(8, size - 8, (2, 150)), rng.uniform(300, 3000, 150), strict=True):
        hot[y - 1 : y + 2, x - 1 : x + 2] += level * np.outer([0.5, 1, 0.5], [0.5, 1, 0.5])
    lists = {}
    for f in range(frames):
        image = np.ascontiguousarray(session.render(f) + hot, dtype=np.float32)
        lists[f] = measure_frame(image, threshold=8.0).stars[:400, :2]
    passed = [int(at_places(lists[f], np.argwhere(hot > 250)[:, ::-1].astype(float)).sum()) for f in lists]
    assert min(passed) > 60  # most of them pass for stars
    found = solved(lists, (size, size))
    assert all(found.wcs)
    pixels = np.array([[20.0, 20.0], [300.0, 20.0], [20.0, 300.0], [300.0, 300.0], [160.0, 160.0]])
    mine = [directions(found.wcs[f], pixels) for f in lists]
    true = [f.exposure.pointing.look(*pixels.T) for f in session.lights if f.exposure.pointing]
    for f in (1, 2):
        # What lies between two frames (px), by the found places and by the truth.
        away = np.linalg.norm(mine[f] - mine[0], axis=1) / np.linalg.norm(mine[0][1] - mine[0][0]) * 280.0
        expected = np.linalg.norm(true[f] - true[0], axis=1) / np.linalg.norm(true[0][1] - true[0][0]) * 280.0
        np.testing.assert_allclose(away, expected, atol=0.25)
        assert (np.median(expected) > 1.0) == bool(dither)
