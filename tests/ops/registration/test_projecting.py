"""Projections against the sphere: what is up is up, areas are equal, the tightest turn is found."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.grid import parse_wcs, pixel_to_sky, wcs_header
from skyloom.ops.registration.placing import tangent_basis, unit_vector
from skyloom.ops.registration.projecting import (
    extents,
    fitting_projection,
    long_axis_turn,
    projected_wcs,
    tightest_turn,
)
from skyloom.ops.registration.whereabouts import sky_vectors


@pytest.mark.parametrize("turn", [0.0, 30.0, 90.0, -63.0, 145.0])
@pytest.mark.parametrize("reference", [(0.0, 0.0), (83.0, 20.0), (270.0, -66.0), (10.0, 88.0)])
@pytest.mark.parametrize("code", ["TAN", "ZEA", "ARC", "STG", "CEA", "CAR"])
def test_pixels_look_where_the_formulas_say(code: str, reference: tuple[float, float], turn: float) -> None:
    wcs = parse_wcs(wcs_header(projected_wcs(code, reference, pixel_scale=60.0, turn=turn)))
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-1500, 1400, 7), np.linspace(-900, 1000, 6)))
    sky = sky_vectors(*pixel_to_sky(wcs, x, y))
    east, north, centre = tangent_basis(unit_vector(*wcs.wcs.crval))
    t = np.radians(turn)
    up, left = np.cos(t) * north + np.sin(t) * east, np.cos(t) * east - np.sin(t) * north
    a, b = -np.radians(x / 60), np.radians(y / 60)
    if code in ("CEA", "CAR"):
        latitude = np.arcsin(b) if code == "CEA" else b
        across = np.cos(a)[:, None] * centre + np.sin(a)[:, None] * left
        truth = np.cos(latitude)[:, None] * across + np.sin(latitude)[:, None] * up
        assert abs(wcs.wcs.crval[1] - reference[1]) <= (1.0 if turn else 0.0)
    else:
        r = np.hypot(a, b)
        angle = {"TAN": np.arctan(r), "ZEA": 2 * np.arcsin(r / 2), "ARC": r, "STG": 2 * np.arctan(r / 2)}[code]
        side = (a[:, None] * left + b[:, None] * up) / r[:, None]
        truth = np.cos(angle)[:, None] * centre + np.sin(angle)[:, None] * side
    # A tenth of a milliarcsecond in rad is 5e-10; the axis of a cylinder is rounded in the header.
    np.testing.assert_allclose(sky, truth, atol=2e-8)


@pytest.mark.parametrize("code", ["ZEA", "CEA"])
def test_equal_areas(code: str) -> None:
    wcs = projected_wcs(code, (83.0, 20.0), pixel_scale=60.0, turn=30.0)
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-2500, 2400, 7), np.linspace(-2900, 2000, 6)))
    look = [
        sky_vectors(*pixel_to_sky(wcs, x + dx, y + dy)) for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))
    ]
    area = np.linalg.norm(np.cross(look[0] - look[1], look[2] - look[3]), axis=1)
    np.testing.assert_allclose(area, np.radians(1 / 60) ** 2, rtol=1e-5)


def test_the_projection_that_distorts_least() -> None:
    assert fitting_projection(11.9, 11.9, 2.0, 40.0) == "TAN"
    assert fitting_projection(12.1, 12.0, 2.0, 40.0) == "ZEA"
    assert fitting_projection(60.0, 60.0, 10.0, 40.0) == "CEA"
    assert fitting_projection(60.0, 50.0, 35.0, 40.0) == "ZEA"
    assert fitting_projection(170.0, 170.0, 10.0, 0.0) == "ZEA"
    assert fitting_projection(60.0, 60.0, 10.0, 89.9) == "ZEA"


def test_a_strip_along_a_great_circle() -> None:
    reference, turn = (266.4, -28.9), 31.4
    east, north, centre = tangent_basis(unit_vector(*reference))
    t = np.radians(turn)
    up, left = np.cos(t) * north + np.sin(t) * east, np.cos(t) * east - np.sin(t) * north
    along, across = (np.radians(a).ravel() for a in np.meshgrid(np.linspace(-70, 70, 29), np.linspace(-6, 6, 5)))
    places = (np.cos(across) * np.cos(along))[:, None] * centre + (np.cos(across) * np.sin(along))[:, None] * left
    places = places + np.sin(across)[:, None] * up
    assert long_axis_turn(places, reference) == pytest.approx(turn, abs=0.01)
    assert extents(places, reference, turn)[1:] == pytest.approx((70.0, 6.0), abs=0.01)
    assert extents(places, reference, 0.0)[2] > 25


@pytest.mark.parametrize("turn", [0.0, 20.0, -44.0, 70.0])
def test_tightest_turn(turn: float) -> None:
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(-300, 300, 9), np.linspace(-100, 100, 5)))
    t = np.radians(turn)
    # Up of the rectangle points `turn` to the east.
    points = np.stack([x * np.cos(t) + y * np.sin(t), -x * np.sin(t) + y * np.cos(t)], axis=-1)
    assert tightest_turn(points) == pytest.approx((turn + 45) % 90 - 45, abs=0.01)
    assert tightest_turn(points[:2]) == 0.0
