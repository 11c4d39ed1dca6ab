"""Which frames touch which tile: never one too few, hardly one too many."""

from __future__ import annotations

import numpy as np
import xarray as xr
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ops.footprints import footprint, overlap, touches
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel, wcs_header


def wcs(ra: float, dec: float, angle: float, shape: tuple[int, int], *, flip: bool = False) -> str:
    out = WCS(naxis=2)
    out.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    out.wcs.crval = [ra, dec]
    out.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    out.wcs.cd = np.array([[-c, s], [s, c]]) @ np.diag([-1 if flip else 1, 1]) / 3600
    out.wcs.set()
    return wcs_header(out)


def session(headers: list[str], shape: tuple[int, int]) -> xr.Dataset:
    n = len(headers)
    return xr.Dataset(
        {
            "wcs": ("frame", np.array(headers)),
            "height": ("frame", np.full(n, shape[0])),
            "width": ("frame", np.full(n, shape[1])),
        }
    )


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(-180, 180),
    east=st.floats(-0.3, 0.3),
    north=st.floats(-0.3, 0.3),
    flip=st.booleans(),
)
def test_index_holds_exactly_the_tiles_with_pixels(angle: float, east: float, north: float, flip: bool) -> None:
    shape = (300, 500)
    grid = Grid(wcs(150.0, 60.0, 0.0, (1500, 1500)), (1500, 1500), 128)
    header = wcs(150.0 + east / np.cos(np.radians(60)), 60.0 + north, angle, shape, flip=flip)
    found = set(overlap(session([header], shape), grid).frames)
    # Naively: map every canvas pixel (of every fourth row and column) into the frame.
    y, x = np.mgrid[0:1500:4, 0:1500:4].astype(float)
    fx, fy = sky_to_pixel(parse(header), *pixel_to_sky(grid.wcs, x, y))
    inside = (fx > -0.5) & (fx < shape[1] - 0.5) & (fy > -0.5) & (fy < shape[0] - 0.5)
    needed = {(int(ty), int(tx)) for ty, tx in zip(y[inside] // 128, x[inside] // 128, strict=True)}
    assert needed <= found
    polygon = footprint(header, shape, grid)
    generous = {t for t, (rows, columns) in grid.windows() if touches(polygon, rows, columns, margin=6.0)}
    assert found <= generous
    assert len(found - needed) <= 12


def parse(header: str) -> WCS:
    from skyloom.ops.grid import parse_wcs

    return parse_wcs(header)


def test_depth_counts_frames_and_skips_the_unused() -> None:
    shape = (200, 200)
    grid = Grid(wcs(150.0, 0.0, 0.0, (400, 400)), (400, 400), 100)
    table = session([wcs(150.0, 0.0, a, shape) for a in (0, 180, 0)] + [""], shape)
    depth = overlap(table, grid).depth()
    assert depth[1, 1] == 3
    assert depth[0, 0] in (0, 3)
    assert overlap(table, grid, use=np.array([True, False, False, True])).depth().max() == 1


def test_frame_on_the_other_side_of_the_sky_has_no_place() -> None:
    grid = Grid(wcs(150.0, 0.0, 0.0, (400, 400)), (400, 400), 100)
    table = session([wcs(330.0, 0.0, 0.0, (200, 200))], (200, 200))
    assert overlap(table, grid).frames == {}


def test_touching_from_outside_is_not_overlap() -> None:
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], dtype=float)
    assert touches(square, slice(0, 5), slice(0, 5))
    assert not touches(square, slice(14, 20), slice(0, 5))
    assert not touches(np.full((4, 2), np.nan), slice(0, 5), slice(0, 5))
    diamond = np.array([[50, 0], [100, 50], [50, 100], [0, 50]], dtype=float)
    assert not touches(diamond, slice(0, 10), slice(0, 10)), "the corner of its box is empty"
    assert touches(diamond[::-1], slice(40, 60), slice(40, 60))
    assert touches(diamond, slice(0, 100), slice(0, 100))
