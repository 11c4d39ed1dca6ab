"""A HiPS shows what the canvas has, where it has it, reading windows only."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy import units
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from PIL import Image

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import RELATIVE, Grid, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.workflows import hips
from skyloom.workflows.hips import finest_order, write_hips
from skyloom.workflows.hips_coverage import write_moc

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


@pytest.mark.parametrize("ending", ["fits", "png"])
def test_positions_of_the_sky_are_found_by_healpix_alone(tmp_path: Path, ending: str) -> None:
    """As a client finds them: which tile and where in it by HEALPix, by no header of the tiles."""
    healpix = pytest.importorskip("astropy_healpix")
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    image = (0.002 * smooth(x, y)).astype(np.float32)
    plane = xr.Dataset({"image": (("band", "y", "x"), image[None])}, {"band": ["L"]}, canvas().to_attrs())
    picture = xr.Dataset(
        {"image": (("channel", "y", "x"), np.stack([image] * 3))},
        {"channel": list("RGB")},
        canvas().to_attrs() | {"linear": False},
    )
    write_hips(plane if ending == "fits" else picture, tmp_path / "sky")
    rng = np.random.default_rng(6)
    x, y = rng.uniform(2, SHAPE[1] - 3, 500), rng.uniform(2, SHAPE[0] - 3, 500)
    ra, dec = pixel_to_sky(canvas().wcs, x, y)
    # Means of four children each, coarser by one.
    for order, atol in ((finest_order(SCALE), 0.004), (finest_order(SCALE) - 1, 0.008)):
        cells, u, v = healpix.lonlat_to_healpix(
            ra * units.deg, dec * units.deg, 2**order, order="nested", return_offsets=True
        )
        found = np.empty(500)
        for n in range(500):
            path = (
                tmp_path
                / "sky"
                / f"Norder{order}"
                / f"Dir{cells[n] // 10000 * 10000}"
                / f"Npix{cells[n]}.{ending}"
            )
            # A FITS tile: its columns run along the cell's second axis, its rows against the first.
            row, column = int((1.0 - u[n]) * 512), int(v[n] * 512)
            if ending == "fits":
                found[n] = fits.getdata(path)[row, column]
            else:
                found[n] = np.asarray(Image.open(path))[511 - row, column, 0] / 255.0
        np.testing.assert_allclose(found, 0.002 * smooth(x, y), atol=atol)


@pytest.mark.parametrize("ending", ["fits", "png"])
def test_what_the_standard_asks_for(mosaic: xr.Dataset, tmp_path: Path, ending: str) -> None:
    """IVOA HiPS 1.0: what must be there, and in which words."""
    if ending == "png":
        image = np.broadcast_to(np.clip(mosaic["image"].values, 0, 1), (3, *SHAPE))
        attrs = canvas().to_attrs() | {"linear": False}
        mosaic = xr.Dataset({"image": (("channel", "y", "x"), image)}, {"channel": list("RGB")}, attrs)
    write_hips(mosaic, tmp_path / "sky")
    told = properties(tmp_path / "sky")
    lines = (tmp_path / "sky" / "properties").read_text().splitlines()
    assert len(lines) == len(told)
    forms = {
        "creator_did": r"ivo://\S+/\S+",
        "obs_title": r"sky \(.+\)",
        "dataproduct_type": "image",
        "hips_version": r"1\.4",
        "hips_release_date": r"\d{4}-\d\d-\d\dT\d\d:\d\dZ",
        "hips_creation_date": r"\d{4}-\d\d-\d\dT\d\d:\d\dZ",
        "hips_status": "private master unclonable",
        "hips_tile_format": ending,
        "hips_tile_width": "512",
        "hips_order": r"\d+",
        "hips_order_min": "0",
        "hips_frame": "equatorial",
        "hips_estsize": r"\d+",
    }
    for key, form in forms.items():
        assert re.fullmatch(form, told[key]), f"{key} = {told[key]}"
    order = int(told["hips_order"])
    assert float(told["hips_pixel_scale"]) == pytest.approx(
        np.degrees(np.sqrt(4 * np.pi / 12)) / 2**order / 512, 1e-5
    )
    assert float(told["s_pixel_scale"]) == pytest.approx(SCALE / 3600, 1e-5)
    size = sum(p.stat().st_size for p in (tmp_path / "sky").rglob("*") if p.is_file()) / 1000
    assert int(told["hips_estsize"]) == pytest.approx(size, rel=0.02)
    # Each tile has its parent.
    for finer in range(1, order + 1):
        for path in tiles(tmp_path / "sky", finer, ending):
            number = int(path.stem[4:])
            assert path.parent.name == f"Dir{number // 10000 * 10000}"
            parent = number // 4
            folder = tmp_path / "sky" / f"Norder{finer - 1}" / f"Dir{parent // 10000 * 10000}"
            assert (folder / f"Npix{parent}.{ending}").is_file()


def test_the_map_of_coverage_is_that_of_the_tiles(mosaic: xr.Dataset, tmp_path: Path) -> None:
    write_hips(mosaic, tmp_path / "sky", order=8)
    told = properties(tmp_path / "sky")
    with fits.open(tmp_path / "sky" / "Moc.fits") as file:
        header, numbers = file[1].header, file[1].data["UNIQ"].astype(int)
    assert (header["ORDERING"], header["PIXTYPE"], header["COORDSYS"]) == ("NUNIQ", "HEALPIX", "C")
    assert header["MOCORDER"] == header["MOCORD_S"] == int(told["moc_order"]) == 8
    covered: list[int] = []
    for number in numbers.tolist():
        order = (number.bit_length() - 1) // 2 - 1
        cell, times = number - 4 ** (order + 1), 4 ** (8 - order)
        covered += range(cell * times, (cell + 1) * times)
    assert sorted(covered) == sorted(int(p.stem[4:]) for p in tiles(tmp_path / "sky", 8, "fits"))
    assert float(told["moc_sky_fraction"]) == pytest.approx(len(covered) / (12 * 4**8), rel=1e-5)


def test_cells_are_merged_as_far_as_they_go(tmp_path: Path) -> None:
    # All of base cell 3 at order 3, one cell of base cell 5, two siblings of base cell 6.
    cells = np.array([*range(3 * 64, 4 * 64), 5 * 64 + 7, 6 * 64, 6 * 64 + 1])
    write_moc(cells, 3, tmp_path / "m.fits")
    found = fits.getdata(tmp_path / "m.fits")["UNIQ"].tolist()
    assert found == [4 + 3, *(4**4 + c for c in (5 * 64 + 7, 6 * 64, 6 * 64 + 1))]
    every = np.arange(12 * 4**2)
    write_moc(every, 2, tmp_path / "all.fits")
    assert fits.getdata(tmp_path / "all.fits")["UNIQ"].tolist() == [4 + n for n in range(12)]


def test_coarse_canvases_have_the_tiles_that_clients_begin_with() -> None:
    assert finest_order(400.0) == 3
    assert finest_order(1.0) == 9


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
