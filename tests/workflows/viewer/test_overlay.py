"""Lines of right ascension and declination, against astropy; outlines of frames."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import Angle
from astropy.wcs import WCS

from skyloom.ops.footprints import EDGE_POINTS
from skyloom.ops.grid import Grid, pixel_to_sky, wcs_header
from skyloom.workflows.viewer.overlay import dec_text, panel_outlines, ra_text, sky_lines
from skyloom.workflows.viewer.tiles import Tiles

from .conftest import canvas


def grid_at(ra: float, dec: float, *, scale: float = 5.0, size: int = 2000, turn: float = 0.0) -> Grid:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [size / 2, size / 2]
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    return Grid(wcs_header(wcs), (size, size), 512)


@pytest.mark.parametrize(
    ("ra", "dec", "scale", "turn"),
    [
        (84, 30, 5, 0),
        (0.001, -5, 5, 33),
        (359.9, 70, 20, 120),
        (200, 89.6, 10, 0),
        (10, -89.9, 5, 10),
        (84, 0, 0.01, 0),
    ],
)
def test_lines_are_where_their_labels_say(ra: float, dec: float, scale: float, turn: float) -> None:
    grid = grid_at(ra, dec, scale=scale, turn=turn)
    lines = sky_lines(grid, left=-0.5, right=1999.5, bottom=-0.5, top=1999.5)
    for kind in ("ra", "dec"):
        of_kind = [line for line in lines if line["kind"] == kind]
        assert 3 <= len(of_kind) <= 60
        assert len({line["label"] for line in of_kind}) == len(of_kind)
        for line in of_kind:
            value = Angle(line["label"].replace("°", "d").replace("′", "m").replace("″", "s"))
            points = np.concatenate([np.array(p) for p in line["parts"]])
            sky = pixel_to_sky(grid.wcs, points[:, 0], points[:, 1])
            error = sky[0 if kind == "ra" else 1] - value.to_value(u.deg)
            if kind == "ra":
                error = (error + 180) % 360 - 180
                # On the sky, not on the axis: near the pole all are close together.
                error = error * np.cos(np.deg2rad(sky[1]))
            # Positions are told to a thousandth of a pixel.
            assert np.abs(error).max() * 3600 < 0.01 * scale


def test_lines_follow_the_window() -> None:
    grid = grid_at(84, 30)
    wide = sky_lines(grid, left=0, right=2000, bottom=0, top=2000)
    close = sky_lines(grid, left=1000, right=1020, bottom=1000, top=1020)
    assert wide[0]["label"] != close[0]["label"]
    for line in close:
        for part in line["parts"]:
            inside = [(995 < x < 1025) and (995 < y < 1025) for x, y in part]
            assert sum(inside) >= len(part) - 2


def test_no_place_no_lines() -> None:
    grid = canvas().named("RELATIVE")
    assert sky_lines(grid, left=0, right=100, bottom=0, top=100) == []
    assert sky_lines(canvas(), left=100, right=0, bottom=0, top=100) == []


@pytest.mark.parametrize(
    ("degrees", "step", "ra", "dec"),
    [
        (15.0, 15.0, "01h", "+15°"),
        (14.99999999, 1 / 240, "01h00m00s", "+15°00′00″"),
        (84.0625, 1 / 240, "05h36m15s", "+84°03′45″"),
        (84.0625, 1 / 24, "05h36m15s", "+84°03′"),
        (359.9999999, 1 / 2400, "00h00m00.0s", ""),
        (0.5, 0.25, "00h02m", "+00°30′"),
    ],
)
def test_labels_round_without_sixties(degrees: float, step: float, ra: str, dec: str) -> None:
    assert ra_text(degrees, step) == ra
    if dec:
        assert dec_text(degrees, step) == dec
        if degrees > 0:
            assert dec_text(-degrees, step) == dec.replace("+", "-")


def test_panels_are_the_hulls_of_frames_that_look_at_one_place() -> None:
    side = EDGE_POINTS - 1
    square = np.concatenate([
        np.stack([np.linspace(0, 100, side, endpoint=False), np.zeros(side)], axis=1),
        np.stack([np.full(side, 100.0), np.linspace(0, 100, side, endpoint=False)], axis=1),
        np.stack([np.linspace(100, 0, side, endpoint=False), np.full(side, 100.0)], axis=1),
        np.stack([np.zeros(side), np.linspace(100, 0, side, endpoint=False)], axis=1),
    ])  # fmt: skip
    shifts = np.array([(0, 0), (5, 3), (80, 0), (82, -4), (-1, -2)])
    found = panel_outlines([square + shift for shift in shifts])
    assert [p["frames"] for p in found] == [3, 2]
    first = np.array(found[0]["points"])
    np.testing.assert_allclose([first.min(axis=0), first.max(axis=0)], [[-1, -2], [105, 103]])
    assert panel_outlines([]) == []


def test_outlines_are_those_of_the_frames(tiles: Tiles) -> None:
    table = tiles.frames
    assert len(table.frames) == 8
    assert table.grid is not None
    for frame in table.frames.values():
        points = frame.outline(table.grid)
        # A frame of 160 × 160 pixels, and a canvas at about its scale.
        x, y = points.T
        area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
        assert area == pytest.approx(160 * 160, rel=0.05)
