"""A given canvas comes out as it went in, holds the frames that touch it, and grows by whole tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from skyloom.ops.errors import CapacityError, ConfigError, DataError
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.registration.canvas import Wishes, automatic_canvas, choose_canvas, finest_scale
from skyloom.ops.registration.given_canvas import canvas_text, read_canvas
from skyloom.ops.registration.placing import unit_vector
from skyloom.ops.registration.projecting import projected_wcs
from skyloom.ops.registration.whereabouts import sky_vectors

WIDTH, HEIGHT = 900, 700
FRAME = (400, 600)
"""Rows, columns."""


def header(ra: float, dec: float, *, turn: float = 0.0, scale: float = 2.0) -> str:
    """WCS of a frame that looks at a place."""
    wcs = projected_wcs("TAN", (ra, dec), pixel_scale=scale, turn=turn)
    wcs.wcs.crpix = [(FRAME[1] + 1) / 2, (FRAME[0] + 1) / 2]
    return wcs_header(wcs)


def session(headers: list[str]) -> xr.Dataset:
    """Table of frames."""
    n = len(headers)
    table: dict[str, Any] = {
        "name": [f"light_{i}.fits" for i in range(n)],
        "wcs": headers,
        "height": np.full(n, FRAME[0]),
        "width": np.full(n, FRAME[1]),
        "kind": ["light"] * n,
    }
    return xr.Dataset({k: ("frame", np.array(v)) for k, v in table.items()})


def cards(code: str = "ZEA", turn: float = 25.0) -> fits.Header:
    wcs = projected_wcs(code, (50.0, 30.0), pixel_scale=2.5, turn=turn)
    wcs.wcs.crpix = [451.25, 347.5]
    return wcs.to_header()


def same_sky(grid: Grid, truth: WCS) -> None:
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, WIDTH - 1, 5), np.linspace(0, HEIGHT - 1, 5)))
    np.testing.assert_allclose(
        sky_vectors(*pixel_to_sky(grid.wcs, x, y)), sky_vectors(*truth.all_pix2world(x, y, 0)), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize("form", ["image", "text", "bare", "inline", "astrometry.net"])
@pytest.mark.parametrize("code", ["TAN", "CEA"])
def test_in_is_out(tmp_path: Path, form: str, code: str) -> None:
    head = cards(code)
    path = tmp_path / "canvas.fits"
    given = str(path)
    if form == "image":
        fits.PrimaryHDU(np.zeros((HEIGHT, WIDTH), np.float32), head).writeto(path)
    elif form == "astrometry.net":
        head["IMAGEW"], head["IMAGEH"] = WIDTH, HEIGHT
        fits.PrimaryHDU(None, head).writeto(path)
    else:
        head["NAXIS1"], head["NAXIS2"] = WIDTH, HEIGHT
        lines = [f"{c.keyword} = {c.value!r}" if form == "bare" else str(c).rstrip() for c in head.cards]
        given = "\n".join(lines) if form == "inline" else given
        path.write_text("\n".join(lines) + "\n")
    grid = read_canvas(given, tile=256)
    assert (grid.shape, grid.tile) == ((HEIGHT, WIDTH), 256)
    same_sky(grid, WCS(head))
    assert read_canvas(canvas_text(grid), tile=256) == grid


def test_what_is_no_canvas(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_canvas(str(tmp_path / "none.fits"), tile=512)
    with pytest.raises(DataError, match="a folder"):
        read_canvas(str(tmp_path), tile=512)
    path = tmp_path / "plain.fits"
    fits.PrimaryHDU(np.zeros((20, 20), np.float32)).writeto(path)
    with pytest.raises(DataError, match=r"plain\.fits: the image has no WCS"):
        read_canvas(str(path), tile=512)
    with pytest.raises(ConfigError, match="has no size"):
        read_canvas(cards().tostring(sep="\n"), tile=512)
    with pytest.raises(ConfigError, match="has no WCS"):
        read_canvas("NAXIS1 = 10\nNAXIS2 = 10\n", tile=512)


def given(code: str = "TAN") -> str:
    head = cards(code, 0.0)
    head["NAXIS1"], head["NAXIS2"] = WIDTH, HEIGHT
    return "\n".join(str(c) for c in head.cards)


def test_frames_outside_are_named() -> None:
    frames = session([header(50, 30), header(50.3, 30.2), header(51.5, 30), header(230, -30)])
    canvas = choose_canvas(frames, Wishes(), given=given())
    assert canvas.inside.tolist() == [True, True, False, False]
    assert canvas.reason[2] == "does not touch the given canvas: 1.3° from its middle"
    assert canvas.reason[3] == "TAN, the projection of the given canvas, does not reach it"
    same_sky(canvas.grid, WCS(cards("TAN", 0.0)))
    with pytest.raises(DataError, match=r"none of the 2 frames .*middle at RA 50\.00.*light_0.*give another"):
        choose_canvas(session([header(51.5, 30), header(53, 30)]), Wishes(), given=given())
    with pytest.raises(ConfigError, match="canvas and pixel_scale, size cannot both be given"):
        choose_canvas(frames, Wishes(pixel_scale=2.0, size="1 deg"), given=given())
    with pytest.raises(CapacityError, match="max_canvas"):
        choose_canvas(frames, Wishes(max_canvas=0.5), given=given())


def test_frames_across_the_seam_of_a_cylinder_are_left_out() -> None:
    head = projected_wcs("CAR", (180.0, 0.0), pixel_scale=540.0, turn=0.0).to_header()
    head["CRPIX1"], head["CRPIX2"], head["NAXIS1"], head["NAXIS2"] = 1200.5, 600.5, 2400, 1200
    text = "\n".join(str(c) for c in head.cards)
    frames = session([header(359.95, 5, scale=20), header(90, 40, scale=20), header(10, 88, scale=20)])
    canvas = choose_canvas(frames, Wishes(), given=text)
    assert canvas.inside.tolist() == [False, True, False]
    assert canvas.reason[0] == "CAR, the projection of the given canvas, tears it apart"


@pytest.mark.parametrize("side", [(0.6, 0.0), (-0.6, 0.0), (0.0, 0.5), (0.0, -0.5), (-0.7, -0.5)])
def test_a_canvas_grows_by_whole_tiles(side: tuple[float, float]) -> None:
    first = automatic_canvas(session([header(50, 30), header(50.1, 30.05)]), tile=128)
    more = session([header(50, 30), header(50 + side[0], 30 + side[1]), header(80, 30)])
    grown = choose_canvas(more, Wishes(tile=128), given=canvas_text(first.grid), growth=256)
    assert grown.inside.tolist() == [True, True, False]
    x, y = np.array([0.0, 300, 611]), np.array([0.0, 411, 200])
    moved = np.array(sky_to_pixel(grown.grid.wcs, *pixel_to_sky(first.grid.wcs, x, y))) - (x, y)
    steps = np.rint(moved[:, :1])
    np.testing.assert_allclose(moved, np.broadcast_to(steps, moved.shape), atol=1e-6)
    assert not (steps % 256).any()
    assert (steps >= 0).all()
    assert steps.any() == (side[0] > 0 or side[1] < 0)
    # All of the new frame is on it, and growth stops there.
    alone = choose_canvas(
        session([header(50 + side[0], 30 + side[1])]), Wishes(tile=128), given=canvas_text(grown.grid)
    )
    again = choose_canvas(more, Wishes(tile=128), given=canvas_text(grown.grid), growth=256)
    assert alone.inside.all()
    assert again.grid == grown.grid
    fixed = choose_canvas(session([header(50, 30)]), Wishes(tile=128), given=canvas_text(first.grid), growth=256)
    assert fixed.grid == first.grid


def test_target_and_size() -> None:
    wishes = Wishes(target="03:20:00 +30:00:00", size="0.5 x 0.25 deg", pixel_scale=1.8, rotation=30.0)
    canvas = choose_canvas(session([header(50, 30), header(50.2, 30), header(52, 30)]), wishes)
    assert canvas.grid.shape == (500, 1000)
    assert canvas.inside.tolist() == [True, True, False]
    ra, dec = pixel_to_sky(canvas.grid.wcs, np.array([499.5, 499.5]), np.array([249.5, 250.5]))
    np.testing.assert_allclose((ra[0], dec[0]), (50, 30), atol=1e-9)
    turn = np.degrees(np.arctan2((ra[1] - ra[0]) * np.cos(np.radians(30)), dec[1] - dec[0]))
    assert turn == pytest.approx(30.0, abs=1e-3)


def test_target_without_size_is_the_reference_point() -> None:
    frames = session([header(50, 30), header(50.2, 30)])
    grid = choose_canvas(frames, Wishes(target="50.123 30.045")).grid
    x, y = sky_to_pixel(grid.wcs, np.array([50.123]), np.array([30.045]))
    np.testing.assert_allclose([x, y], np.round([x, y]), atol=1e-6)
    with pytest.raises(DataError, match=r"target = 'M 31' is .*° from the nearest frame"):
        choose_canvas(frames, Wishes(target="M 31"))


def test_scale_is_that_of_the_finest_band_with_enough_frames() -> None:
    def scale(**bands: list[float]) -> float:
        names = np.array([b for b, s in bands.items() for _ in s])
        return finest_scale(np.concatenate([np.array(s) for s in bands.values()]), names)

    assert scale(L=[1.0] * 20, R=[2.0] * 100) == 1.0
    assert scale(L=[1.0] * 4, R=[2.0] * 100) == 2.0
    assert scale(L=[1.0], R=[2.0] * 8) == 2.0
    assert scale(L=[1.0], R=[2.0]) == 1.0
    assert scale(L=[0.2, *[1.0] * 8]) == 1.0


def test_tightest_canvas() -> None:
    at = [header(50 + 0.25 * k * np.cos(0.5), 30 + 0.2 * k * np.sin(0.5), turn=-25) for k in range(6)]
    plain, tight = (automatic_canvas(session(at), orientation=o).grid for o in ("north", "tight"))
    assert np.prod(tight.shape) < 0.6 * np.prod(plain.shape)
    assert automatic_canvas(session(at), orientation="tight").inside.all()


def test_a_long_strip_is_laid_along_a_cylinder() -> None:
    strip = [header(ra, 0.2 * ra, scale=60) for ra in np.arange(0, 120, 6.0).tolist()]
    canvas = automatic_canvas(session(strip), orientation="tight")
    assert "RA---CEA" in canvas.grid.header
    assert canvas.inside.all()
    assert canvas.grid.shape[0] < 1200
    middle = unit_vector(*canvas.grid.wcs.wcs.crval)
    assert np.degrees(np.arccos(middle @ unit_vector(60.0, 12.0))) < 5
