"""Projections: pixel areas, and headers that say where frames look."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky
from skyloom.ops.simulation.projection import Pointing, pixel_area


def test_pixel_area_of_a_tangent_plane() -> None:
    grid = Grid(Pointing(84.0, 30.0, 30.0, 0.0, 0.0, 0.0).header(), (400, 600), 128)
    area = pixel_area(grid, (slice(100, 400), slice(200, 600)))
    y, x = np.mgrid[100:400, 200:600]
    radius = np.radians(np.hypot(x, y) * 30.0 / 3600.0)
    np.testing.assert_allclose(area, 900.0 * np.cos(np.arctan(radius)) ** 3, rtol=1e-4)


def test_angle_and_shift_are_those_of_the_header() -> None:
    pointing = Pointing(10.1, -40.05, 3.0, 33.0, 99.5, 79.5)
    # +y points 33° from north through east.
    ra, dec = pixel_to_sky(parse_wcs(pointing.header()), np.array([99.5, 99.5]), np.array([79.5, 89.5]))
    east, north = (ra[1] - ra[0]) * np.cos(np.radians(dec[0])), dec[1] - dec[0]
    assert np.degrees(np.arctan2(east, north)) == pytest.approx(33.0, abs=0.05)
    assert east > 0
    moved = pixel_to_sky(parse_wcs(pointing.shifted(3.0, -2.0).header()), np.array([102.5]), np.array([77.5]))
    assert (moved[0][0], moved[1][0]) == pytest.approx((10.1, -40.05), abs=1e-9)


@pytest.mark.parametrize("barrel", [6.0, -4.0])
def test_a_lens_is_that_of_its_header_and_can_be_undone(barrel: float) -> None:
    half = float(np.hypot(100, 80))
    pointing = Pointing(10.1, -40.05, 30.0, 33.0, 99.5, 79.5, barrel, half)
    x, y = (a.ravel().astype(float) for a in np.meshgrid(np.arange(0, 200, 33), np.arange(0, 160, 31)))
    u, v = pointing.undistorted(x, y)
    np.testing.assert_allclose(np.stack(pointing.distorted(u, v)), np.stack([x, y]), atol=1e-9)
    corner = np.array([99.5 + 100.0]), np.array([79.5 + 80.0])
    away = np.hypot(*(np.stack(pointing.undistorted(*corner)) - np.stack(corner)))
    assert away[0] == pytest.approx(abs(barrel))
    ra, dec = np.radians(pixel_to_sky(parse_wcs(pointing.header()), x, y))
    expected = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    np.testing.assert_allclose(pointing.look(x, y), expected, atol=1e-12)


def test_another_tangent_point_keeps_place_and_angle() -> None:
    pointing = Pointing(10.1, -40.05, 3.0, 33.0, 99.5, 79.5)
    moved = pointing.recentred(700.0, -300.0)
    x, y = np.array([700.0, 700.0, 710.0]), np.array([-300.0, -290.0, -300.0])
    # Two planes a third of a degree apart: their scales differ by 1e-5.
    np.testing.assert_allclose(moved.look(x, y), pointing.look(x, y), atol=1e-8)
