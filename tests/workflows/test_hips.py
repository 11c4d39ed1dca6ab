"""A HiPS shows what the canvas has, where it has it, reading windows only."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from PIL import Image

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import RELATIVE, Grid, sky_to_pixel, wcs_header
from skyloom.workflows import hips
from skyloom.workflows.hips import finest_order, write_hips

SHAPE = (220, 300)
SCALE = 20.0


def canvas(ra: float = 84.0, dec: float = 30.0) -> Grid:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [150.5, 110.5]
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    return Grid(wcs_header(wcs), SHAPE, 128)


def smooth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(100 + 0.3 * x - 0.2 * y + 5 * np.sin(x / 40) * np.cos(y / 30))


@pytest.fixture
def mosaic() -> xr.Dataset:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    image = smooth(x, y).astype(np.float32)
    image[:40, :60] = np.nan
    return xr.Dataset(
        {"image": (("band", "y", "x"), image[None])}, {"band": ["L"]}, canvas().to_attrs() | {"units": "adu"}
    ).chunk({"y": 128, "x": 128})


def tiles(folder: Path, order: int, ending: str) -> list[Path]:
    return sorted((folder / f"Norder{order}").rglob(f"*.{ending}"))


def properties(folder: Path) -> dict[str, str]:
    lines = (folder / "properties").read_text().splitlines()
    return {key.strip(): value.strip() for key, value in (line.split("=", 1) for line in lines)}


def test_tiles_have_the_canvas_values(mosaic: xr.Dataset, tmp_path: Path) -> None:
    folder = tmp_path / "sky"
    write_hips(mosaic, folder, band="L")
    told = properties(folder)
    order = int(told["hips_order"])
    assert order == finest_order(SCALE)
    # Pixels of that order are no larger than the canvas', those of the one before are.
    side = np.sqrt(4 * np.pi / 12) * np.degrees(1) * 3600 / 512
    assert side / 2**order <= SCALE < side / 2 ** (order - 1)
    assert told["hips_tile_format"] == "fits"
    low, high = map(float, told["hips_pixel_cut"].split())
    assert np.nanmin(mosaic["image"]) - 1 < low < high < np.nanmax(mosaic["image"]) + 1
    seen = 0
    for path in tiles(folder, order, "fits"):
        with fits.open(path) as file:
            pixels, header = file[0].data, file[0].header
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            wcs = WCS(header)
        rows, columns = np.nonzero(np.isfinite(pixels))
        sky = wcs.wcs_pix2world(np.stack([columns, rows], 1).astype(float), 0)
        x, y = sky_to_pixel(canvas().wcs, sky[:, 0], sky[:, 1])
        assert not ((x < 58) & (y < 38)).any()
        # Bilinear between pixels of a smooth image; on the outer half of its outer pixels there is no between.
        within = (x >= 0) & (x <= SHAPE[1] - 1) & (y >= 0) & (y <= SHAPE[0] - 1)
        np.testing.assert_allclose(pixels[rows, columns][within], smooth(x, y)[within], atol=0.02)
        seen += len(rows)
    covered = np.isfinite(mosaic["image"].values).sum()
    assert seen == pytest.approx(covered * (SCALE * 2**order / side) ** 2, rel=0.02)
    for coarser in range(order):
        assert tiles(folder, coarser, "fits")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sky"]


def test_a_tile_reads_its_window_only(mosaic: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Source:
        def read(self, rows: slice, columns: slice) -> np.ndarray:
            sizes.append((rows.stop - rows.start, columns.stop - columns.start))
            return np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.float32)

    monkeypatch.setattr(hips, "open_source", lambda spec: Source())
    # Small tiles: with pixels of a quarter of the canvas' a tile shows some 128 x 128 of these.
    write_hips(mosaic, tmp_path / "sky", order=finest_order(SCALE) + 2)
    assert len(sizes) > 4
    # A tile stands on its corner: its box has twice its area; margins come on top.
    assert max(a * b for a, b in sizes) < 0.8 * SHAPE[0] * SHAPE[1]


def test_pictures_become_colour_tiles(tmp_path: Path) -> None:
    image = np.zeros((3, *SHAPE), np.float32)
    image[0], image[1], image[2] = 1.0, 0.5, 0.25
    image[:, :, :50] = np.nan
    picture = xr.Dataset(
        {"image": (("channel", "y", "x"), image)},
        {"channel": ["R", "G", "B"]},
        canvas().to_attrs() | {"linear": False},
    ).chunk({"y": 128, "x": 128})
    write_hips(picture, tmp_path / "sky", workers=2)
    told = properties(tmp_path / "sky")
    assert told["hips_tile_format"] == "png"
    assert "hips_pixel_bitpix" not in told
    found = 0
    for path in tiles(tmp_path / "sky", int(told["hips_order"]), "png"):
        pixels = np.asarray(Image.open(path))
        shown = pixels[pixels[..., 3] == 255]
        found += len(shown)
        assert (np.abs(shown.astype(int) - [255, 128, 64, 255]) <= 1).all()
        assert (pixels[pixels[..., 3] == 0] == 0).all()
    assert found > 1000
    with pytest.raises(ConfigError, match="linear colours"):
        write_hips(picture.assign_attrs(linear=True), tmp_path / "linear")


def test_png_tiles_are_the_right_way_up(tmp_path: Path) -> None:
    """A PNG has its top row first, the FITS tile of the same place its bottom row."""
    ramp = np.repeat(np.linspace(0, 1, SHAPE[0], dtype=np.float32)[:, None], SHAPE[1], axis=1)
    attrs = canvas().to_attrs() | {"linear": False}
    picture = xr.Dataset({"image": (("channel", "y", "x"), np.stack([ramp] * 3))}, {"channel": list("RGB")}, attrs)
    plane = xr.Dataset({"image": (("band", "y", "x"), ramp[None])}, {"band": ["L"]}, canvas().to_attrs())
    write_hips(picture, tmp_path / "colour")
    write_hips(plane, tmp_path / "plane")
    order = finest_order(SCALE)
    for png, fit in zip(
        tiles(tmp_path / "colour", order, "png"), tiles(tmp_path / "plane", order, "fits"), strict=True
    ):
        values = fits.getdata(fit)[::-1]
        shown = np.asarray(Image.open(png))[..., 0] / 255.0
        good = np.isfinite(values)
        np.testing.assert_allclose(shown[good], values[good], atol=0.003)


def test_mistakes_are_said(mosaic: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="is there already"):
        write_hips(mosaic, tmp_path)
    with pytest.raises(ConfigError, match="no band 'R'"):
        write_hips(mosaic, tmp_path / "a", band="R")
    relative = mosaic.assign_attrs(canvas().named(RELATIVE).to_attrs())
    with pytest.raises(ConfigError, match=r"no place on the sky.*locate\.solve"):
        write_hips(relative, tmp_path / "b")
    with pytest.raises(ConfigError, match="choose a node with a canvas"):
        write_hips(xr.Dataset(), tmp_path / "c")
    monkeypatch.setitem(sys.modules, "reproject", None)
    with pytest.raises(ConfigError, match=r"pip install 'skyloom\[hips\]'"):
        write_hips(mosaic, tmp_path / "d")
    assert not list(tmp_path.iterdir())
