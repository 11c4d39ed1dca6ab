"""Outlines on the canvas: who overlaps whom, and what hangs together."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS

from skyloom.ops.grid import Grid, wcs_header
from skyloom.ops.registration.layout import Layout, inside_outline, islands, lay_out

SHAPE = (100, 120)


def header(x: float, y: float, turn: float = 0.0, scale: float = 2.0) -> str:
    """A frame whose centre is x, y canvas pixels (of 2 arcsec) from the canvas' reference point."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [40.0 - x * 2 / 3600, y * 2 / 3600]
    wcs.wcs.crpix = [(SHAPE[1] + 1) / 2, (SHAPE[0] + 1) / 2]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    wcs.wcs.set()
    return wcs_header(wcs)


def layout(*headers: str) -> Layout:
    n = len(headers)
    session = xr.Dataset(
        {
            "wcs": ("frame", list(headers)),
            "height": ("frame", np.full(n, SHAPE[0])),
            "width": ("frame", np.full(n, SHAPE[1])),
        }
    )
    grid = Grid(header(0, 0), SHAPE, 64)
    return lay_out(session, grid, np.array([h != "" for h in headers]))


def test_scale_and_direction_of_frames() -> None:
    placed = layout(header(0, 0), header(30, -20, turn=90, scale=4.0), "")
    np.testing.assert_allclose(placed.centre[:2], [[59.5, 49.5], [89.5, 29.5]], atol=0.01)
    np.testing.assert_allclose(placed.scale[:2], [1, 2], rtol=1e-5)
    np.testing.assert_allclose(placed.jacobian[0], np.eye(2), atol=1e-5)
    assert abs(placed.jacobian[1, 0, 0]) < 1e-4
    assert abs(placed.jacobian[1, 0, 1]) == pytest.approx(2, rel=1e-5)
    assert np.isnan(placed.centre[2]).all()


def test_overlaps_come_nearest_first() -> None:
    placed = layout(header(0, 0), header(90, 0), header(40, 0), header(0, 101), header(0, 98), "")
    everyone = np.isfinite(placed.radius)
    assert placed.overlapping(0, everyone) == [2, 1, 4]
    assert placed.overlapping(0, everyone, limit=1) == [2]
    assert placed.overlapping(3, everyone) == [4]
    assert placed.overlapping(0, everyone & (np.arange(6) != 2)) == [1, 4]


def test_near_corners_do_not_overlap() -> None:
    # The circles around them meet, and so do the boxes; the outline of the turned one stays away.
    placed = layout(header(0, 0), header(115, 95, turn=45))
    assert np.hypot(*(placed.centre[1] - placed.centre[0])) < placed.radius.sum()
    assert placed.overlapping(0, np.ones(2, np.bool_)) == []


def test_inside_an_outline() -> None:
    outline = np.array([[0.0, 0], [10, 2], [9, 8], [1, 9]])
    points = np.array([[5.0, 5], [0.5, 4], [0.2, 8], [9.9, 2], [5, 0.5], [5, 1.5]])
    expected = [True, True, False, True, False, True]
    assert inside_outline(points, outline).tolist() == expected
    assert inside_outline(points, outline[::-1]).tolist() == expected


def test_islands_hang_together_over_others() -> None:
    placed = layout(header(1000, 0), header(0, 0), header(100, 0), header(200, 0), header(1050, 0))
    use = np.ones(5, np.bool_)
    assert islands(placed, use).tolist() == [1, 0, 0, 0, 1]
    use[2] = False
    assert islands(placed, use).tolist() == [0, 1, -1, 2, 0]
