"""The automatic canvas: tight, north up, and no further than the frames that belong together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS

from skyloom.ops.errors import CapacityError, DataError
from skyloom.ops.footprints import footprint
from skyloom.ops.grid import pixel_to_sky, wcs_header
from skyloom.ops.registration.canvas import automatic_canvas


def header(
    ra: float, dec: float, *, turn: float = 0.0, scale: float = 2.0, shape: tuple[int, int] = (400, 600)
) -> str:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    wcs.wcs.set()
    return wcs_header(wcs)


def session(headers: list[str], shape: tuple[int, int] = (400, 600), **columns: Any) -> xr.Dataset:
    n = len(headers)
    table: dict[str, Any] = {
        "name": [f"light_{i}.fits" for i in range(n)],
        "wcs": headers,
        "height": np.full(n, shape[0]),
        "width": np.full(n, shape[1]),
        "kind": ["light"] * n,
    } | columns
    return xr.Dataset({k: ("frame", np.array(v)) for k, v in table.items()})


def test_tight_and_complete() -> None:
    s = session([header(50, 30), header(50.2, 30.1, turn=20)])
    canvas = automatic_canvas(s)
    grid = canvas.grid
    outlines = np.concatenate([footprint(str(h), (400, 600), grid) for h in s["wcs"].values])
    assert (outlines >= -0.5 - 1e-6).all()
    assert (outlines <= np.array(grid.shape[::-1]) - 0.5 + 1e-6).all()
    assert (outlines.min(axis=0) < 0.5).all()
    assert (outlines.max(axis=0) > np.array(grid.shape[::-1]) - 1.5).all()
    assert canvas.inside.all()
    assert canvas.reason == ("", "")
    assert grid.pixel_scale == pytest.approx(2.0, rel=1e-6)


def test_north_is_up_and_east_left() -> None:
    grid = automatic_canvas(session([header(50, 30, turn=140)])).grid
    ra, dec = pixel_to_sky(grid.wcs, np.array([300.0, 310, 300]), np.array([300.0, 300, 310]))
    assert ra[1] < ra[0]
    assert dec[2] > dec[0]
    assert abs(ra[2] - ra[0]) < 1e-4


def test_rotation_of_the_frames_on_request() -> None:
    s = session([header(50, 30, turn=30), header(50.01, 30, turn=30.4), header(50, 30.01, turn=210.2)])
    turned = automatic_canvas(s, orientation="frames").grid
    straight = automatic_canvas(s).grid
    assert turned.shape[0] * turned.shape[1] < 0.7 * straight.shape[0] * straight.shape[1]
    assert min(turned.shape) < 480
    mixed = session([header(50, 30, turn=30), header(50.1, 30, turn=50)])
    assert automatic_canvas(mixed, orientation="frames").grid == automatic_canvas(mixed).grid


def test_scale() -> None:
    s = session([header(50, 30, scale=k) for k in (1.0, 2.0, 2.0, 2.0, 4.0)])
    assert automatic_canvas(s).grid.pixel_scale == pytest.approx(2.0, rel=1e-5)
    assert automatic_canvas(s, pixel_scale=1.5).grid.pixel_scale == pytest.approx(1.5, rel=1e-9)


def test_deep_panel_does_not_move_the_canvas() -> None:
    few = automatic_canvas(session([header(50, 30), header(50.5, 30)])).grid
    many = automatic_canvas(session([header(50, 30)] * 40 + [header(50.5, 30)])).grid
    assert few == many


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 10.0), (359.99, -5.0), (120.0, 89.95), (10.0, -90.0)])
def test_across_the_seam_and_the_poles(ra: float, dec: float) -> None:
    near = header((ra + 0.05) % 360, np.clip(dec - 0.03, -90, 90).item())
    canvas = automatic_canvas(session([header(ra, dec), near, header((ra - 0.05) % 360, dec)]))
    assert canvas.inside.all()
    assert max(canvas.grid.shape) < 1300


def test_wide_fields_leave_the_tangent_plane() -> None:
    wide = session([header(ra, 0, scale=60, shape=(400, 600)) for ra in np.arange(0, 60, 8.0).tolist()])
    assert "RA---ZEA" in automatic_canvas(wide).grid.header
    assert "RA---TAN" in automatic_canvas(session([header(50, 30)])).grid.header
    assert "RA---STG" in automatic_canvas(wide, projection="STG").grid.header


def test_frame_far_from_the_rest_is_named_with_numbers() -> None:
    frames = [header(50 + 0.1 * i, 30) for i in range(9)]
    far = header(50.4, 60.2)
    canvas = automatic_canvas(session([*frames[:4], far, *frames[4:]]))
    assert canvas.inside.tolist() == [True] * 4 + [False] + [True] * 5
    assert canvas.reason[4].startswith("30.2° from the other 9 frames; canvas would grow from ")
    assert canvas.reason[4].endswith("Mpixel")
    assert "".join(canvas.reason[:4]) == ""
    assert canvas.grid == automatic_canvas(session(frames)).grid


def test_near_islands_share_a_canvas() -> None:
    canvas = automatic_canvas(session([header(50, 0), header(51, 0)]))
    assert canvas.inside.all()
    assert canvas.grid.shape[1] > 2300


def test_two_far_groups_of_like_size_are_refused() -> None:
    s = session([header(50, 0), header(50.1, 0), header(90, 10), header(90.1, 10)])
    with pytest.raises(DataError, match="none is clearly the largest") as caught:
        automatic_canvas(s)
    message = str(caught.value)
    assert "light_0.fits" in message
    assert "light_2.fits" in message
    assert "2 frame(s) at RA 50.05°" in message
    gap = float(message.split("max_gap = ")[1].split()[0])
    both = automatic_canvas(s, max_gap=gap, max_canvas=1e5)
    assert both.inside.all()


def test_canvas_limit() -> None:
    with pytest.raises(CapacityError, match=r"max_canvas = 0\.1 Mpixel"):
        automatic_canvas(session([header(50, 0)]), max_canvas=0.1)


def test_frames_without_position_or_purpose() -> None:
    s = session([header(50, 0), "", header(50, 0), header(50, 0)], kind=["light", "light", "dark", "unknown"])
    canvas = automatic_canvas(s)
    assert canvas.inside.tolist() == [True, False, False, True]
    assert canvas.reason == ("", "no usable WCS in the header", "a dark frame, not a light", "")
    with pytest.raises(DataError, match=r"none of the 2 frames has a usable WCS.*light_0"):
        automatic_canvas(session(["", ""]))


def test_thousands_of_frames_of_one_field() -> None:
    canvas = automatic_canvas(session([header(50, 0)] * 3000))
    assert canvas.inside.all()
    # The reference point is the centre of a pixel; that of the frame is a corner.
    assert canvas.grid.shape == (401, 601)
