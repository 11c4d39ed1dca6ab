"""The canvas as a value."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from astropy.wcs import WCS

from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header


def tan(scale: float = 1.0, *, sip: bool = False) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if sip else ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [210.1234567890123, 54.3]
    wcs.wcs.crpix = [500.5, 400.5]
    wcs.wcs.cd = np.array([[-scale, 0.01], [0.01, scale]]) / 3600
    if sip:
        from astropy.wcs import Sip

        a = np.zeros((4, 4))
        a[2, 0], a[1, 2] = 3e-6, 1e-9
        b = np.zeros((4, 4))
        b[0, 2] = -2e-6
        wcs.sip = Sip(a, b, None, None, [500.5, 400.5])
    wcs.wcs.set()
    return wcs


@pytest.mark.parametrize("sip", [False, True])
def test_header_text_keeps_every_digit_and_the_distortion(sip: bool) -> None:
    wcs = tan(sip=sip)
    x, y = np.meshgrid(np.linspace(0, 1000, 11), np.linspace(0, 800, 9))
    again = parse_wcs(wcs_header(wcs))
    np.testing.assert_allclose(again.all_pix2world(x, y, 0), wcs.all_pix2world(x, y, 0), rtol=0, atol=1e-11)
    assert wcs_header(again) == wcs_header(wcs)
    back = sky_to_pixel(again, *pixel_to_sky(again, x, y))
    np.testing.assert_allclose(back, [x, y], atol=1e-5)


def test_tiles_cover_every_pixel_once() -> None:
    grid = Grid(wcs_header(tan()), (1000, 1300), 512)
    seen = np.zeros(grid.shape, dtype=int)
    for _, (rows, columns) in grid.windows():
        seen[rows, columns] += 1
    assert (seen == 1).all()
    assert grid.tiles == (2, 3)
    assert [sum(c) for c in grid.chunks] == [1000, 1300]
    assert grid.retile(256).tiles == (4, 6)
    assert grid.pixel_scale == pytest.approx(1.0, rel=1e-3)


def test_grid_survives_attributes_and_pickling() -> None:
    grid = Grid(wcs_header(tan()), (10, 20), 512)
    assert Grid.from_attrs(grid.to_attrs()) == grid
    assert pickle.loads(pickle.dumps(grid)) == grid
    with pytest.raises(DataError, match="no canvas"):
        Grid.from_attrs({})
