"""The canvas as a value."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid, bare_wcs, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header


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


@pytest.mark.parametrize("projection", ["TAN", "ZEA", "STG", "SIN"])
@pytest.mark.parametrize("system", [{}, {"RADESYS": "FK5", "EQUINOX": 2000.0}, {"LONPOLE": 150.0}])
def test_a_wcs_without_distortion_is_read_as_astropy_reads_it(projection: str, system: dict[str, object]) -> None:
    cards = fits.Header(
        {
            "CTYPE1": f"RA---{projection}", "CTYPE2": f"DEC--{projection}", "CRVAL1": 83.6, "CRVAL2": 22.0,
            "CRPIX1": 512.25, "CRPIX2": 300.0, "CD1_1": -3e-4, "CD1_2": 1e-5, "CD2_1": 1.1e-5, "CD2_2": 3.1e-4,
            **system,
        }
    )  # fmt: skip
    text = cards.tostring(sep="\n", endcard=False, padding=False)
    bare, whole = bare_wcs(text.split("\n")), WCS(cards, relax=True, naxis=2)
    assert bare is not None
    assert wcs_header(bare) == wcs_header(whole) == wcs_header(parse_wcs(text))
    x, y = np.meshgrid(np.linspace(0, 1000, 11), np.linspace(0, 800, 9))
    assert np.array_equal(bare.all_pix2world(x, y, 0), whole.all_pix2world(x, y, 0))


def test_what_wcslib_does_not_read_is_left_to_astropy() -> None:
    assert bare_wcs(["CTYPE1  = 'RA---TAN'"]) is None, "no card of 80 characters"
    lone = ["CTYPE1  = 'RA---TAN'".ljust(80), "CTYPE2  = 'RA---TAN'".ljust(80)]
    assert bare_wcs(lone) is None, "two right ascensions"
    three = [f"CTYPE{i}  = '{name}'".ljust(80) for i, name in ((1, "RA---TAN"), (2, "DEC--TAN"), (3, "FREQ"))]
    assert bare_wcs(three) is None, "a cube"
    assert parse_wcs(wcs_header(tan(sip=True))).sip is not None


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
