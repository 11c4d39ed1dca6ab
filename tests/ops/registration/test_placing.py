"""Frames laid on the sphere, one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skyloom.ops.registration.pairs import verify
from skyloom.ops.registration.placing import (
    Place,
    common_scale,
    directions,
    place_frame,
    place_island,
    plane_of,
    similarity,
    sky_position,
    tangent_basis,
    unit_vector,
)
from skyloom.ops.registration.quads import find_meetings, make_patterns


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (359.9, -89.99), (123.4, 90.0), (200.0, 45.0)])
def test_tangent_planes(ra: float, dec: float) -> None:
    basis = tangent_basis(unit_vector(ra, dec))
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(basis) == pytest.approx(1.0)
    plane = np.random.default_rng(1).uniform(-0.2, 0.2, (20, 2))
    np.testing.assert_allclose(plane_of(directions(plane, basis), basis), plane, atol=1e-12)
    assert np.isnan(plane_of(-basis[2:], basis)).all()
    if abs(dec) < 90:
        assert sky_position(basis[2]) == pytest.approx((ra, dec))
        north = sky_position(directions(np.array([[0.0, 1e-4]]), basis)[0])
        assert north[1] > dec


@pytest.mark.parametrize("mirrored", [False, True])
def test_similarity_does_not_mind_outliers(mirrored: bool) -> None:
    rng = np.random.default_rng(2)
    pixels = rng.uniform(-1000, 1000, (60, 2))
    linear = 3e-6 * np.array([[0.8, -0.6], [0.6, 0.8]]) @ np.diag([1.0, -1.0 if mirrored else 1.0])
    plane = pixels @ linear.T + (1e-3, -2e-3) + rng.normal(0, 3e-8, (60, 2))
    plane[:9] += rng.normal(0, 1e-3, (9, 2))
    found, origin = similarity(pixels, plane, mirrored=mirrored)
    np.testing.assert_allclose(found, linear, atol=3e-10)
    np.testing.assert_allclose(origin, (1e-3, -2e-3), atol=1e-7)


def test_a_frame_is_laid_on_its_stars() -> None:
    truth = Place(unit_vector(83, 70), 1e-5 * np.array([[-0.8, 0.6], [0.6, 0.8]]), np.array([999.5, 699.5]))
    pixels = np.random.default_rng(0).uniform(0, 300, (12, 2))  # all in one corner
    place = place_frame(pixels, truth.look(pixels), truth.middle, mirrored=True)
    np.testing.assert_allclose(place.centre, truth.centre, atol=1e-9)
    np.testing.assert_allclose(place.linear, truth.linear, rtol=1e-6)


def test_an_island_is_laid_out_over_the_pole(panels: Callable[..., Any]) -> None:
    sky = panels(rows=2, columns=3, dec=89.0, density=100.0, scales=(1.0, 1.03), bend=(0.0, 0.0))
    found = find_meetings(make_patterns(sky.stars))
    edges = [e for m in found if (e := verify(m, sky.stars[m.a], sky.stars[m.b]))]
    middles = dict.fromkeys(sky.stars, sky.middle)
    places = place_island(0, sky.truth[0], edges, sky.stars, middles)
    assert set(places) == set(sky.stars)
    places = common_scale(places, sky.camera)
    assert sky.error(lambda f, p: places[f].look(p)).max() < 3.0
    scales = {round(p.scale / places[0].scale, 4) for p in places.values()}
    assert len(scales) == 2
    assert max(scales) / min(scales) == pytest.approx(1.03, abs=2e-3)


def test_frames_that_nothing_connects_are_not_placed(panels: Callable[..., Any]) -> None:
    sky = panels(rows=1, columns=2, overlap=-0.5, density=100.0)
    found = find_meetings(make_patterns(sky.stars))
    edges = [e for m in found if (e := verify(m, sky.stars[m.a], sky.stars[m.b]))]
    assert set(place_island(0, sky.truth[0], edges, sky.stars, dict.fromkeys(sky.stars, sky.middle))) == {0, 1}
