"""Files other programs read: the numbers, the WCS and the gaps arrive."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image, ImageCms

from skyloom.ops.errors import CapacityError, ConfigError
from skyloom.ops.formats.examine import examine
from skyloom.ops.grid import Grid, parse_wcs, wcs_header
from skyloom.ops.session.header_wcs import celestial_wcs
from skyloom.ops.stretch import Stretch
from skyloom.workflows import export as export_module
from skyloom.workflows.export import export, export_file

SHAPE = (700, 400)


@pytest.fixture
def grid() -> Grid:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [83.6, -5.4]
    wcs.wcs.crpix = [200, 350]
    wcs.wcs.cd = np.array([[-1.5, 0.2], [0.2, 1.5]]) / 3600
    wcs.wcs.set()
    return Grid(wcs_header(wcs), SHAPE, 256)


@pytest.fixture
def mosaic(grid: Grid) -> xr.Dataset:
    rng = np.random.default_rng(3)
    image = rng.normal(100, 5, (2, *SHAPE)).astype(np.float32)
    image[0, 600, 30] = 5000
    image[:, :50, :60] = np.nan
    count = np.where(np.isfinite(image), 3, 0).astype(np.uint16)
    provenance = [{"node": "integrate", "op": "integrate", "version": 1, "key": "abc", "parameters": {"low": 4.0}}]
    return xr.Dataset(
        {
            "image": (("band", "y", "x"), image, {"units": "adu"}),
            "variance": (("band", "y", "x"), np.abs(image) / 7),
            "count": (("band", "y", "x"), count),
        },
        {"band": ["L", "Ha"]},
        {**grid.to_attrs(), "units": "adu", "provenance": json.dumps(provenance)},
    ).chunk({"band": 1, "y": 256, "x": 256})


def test_fits_has_pixels_wcs_units_and_history(mosaic: xr.Dataset, grid: Grid, tmp_path: Path) -> None:
    path = tmp_path / "m.fits"
    export_file(mosaic, path, band="L")
    with fits.open(path) as hdus:
        hdus.verify("exception")
        data, header = hdus[0].data, hdus[0].header
        np.testing.assert_array_equal(data, mosaic["image"].values[0])
        x, y = np.array([0, 200, 399.0]), np.array([0, 350, 699.0])
        np.testing.assert_allclose(WCS(header).all_pix2world(x, y, 0), grid.wcs.all_pix2world(x, y, 0), atol=1e-10)
        assert header["BUNIT"] == "adu"
        assert header["FILTER"] == "L"
        assert "low = 4.0" in str(header["HISTORY"])
    assert path.stat().st_size % 2880 == 0
    assert list(tmp_path.iterdir()) == [path], "no half file is left"


def test_counts_are_integers(mosaic: xr.Dataset, tmp_path: Path) -> None:
    export_file(mosaic, tmp_path / "c.fits", band="L", variable="count")
    with fits.open(tmp_path / "c.fits") as hdus:
        assert hdus[0].header["BITPIX"] == 32
        assert "BUNIT" not in hdus[0].header
        np.testing.assert_array_equal(hdus[0].data, mosaic["count"].values[0])


def test_xisf_holds_the_pixels_and_colour_where_there_is_some(
    mosaic: xr.Dataset, grid: Grid, tmp_path: Path
) -> None:
    export_file(mosaic, tmp_path / "m.xisf", band="Ha")
    (frame,) = examine(tmp_path / "m.xisf")
    height, width = frame.source.shape
    pixels = frame.source.read(slice(0, height), slice(0, width))
    expected = mosaic["image"].values[1]
    np.testing.assert_array_equal(pixels[::-1], expected)  # XISF begins at the top
    assert frame.header.value("FILTER") == "Ha"
    wcs = parse_wcs(celestial_wcs(frame.wcs_header, frame.source.shape)[0])
    for y, x in ((0.0, 0.0), (699.0, 399.0)):
        np.testing.assert_allclose(wcs.wcs_pix2world(x, 699 - y, 0), grid.wcs.wcs_pix2world(x, y, 0), atol=1e-9)

    three = xr.concat([mosaic.isel(band=[0])] * 3, dim="band").assign_coords(band=["R", "G", "B"])
    export_file(three, tmp_path / "c.xisf")
    assert [f.band for f in examine(tmp_path / "c.xisf")] == ["R", "G", "B"]


def test_tiff_is_linear_unclipped_and_the_right_way_up(mosaic: xr.Dataset, tmp_path: Path) -> None:
    export_file(mosaic, tmp_path / "m.tif", band="L")
    with tifffile.TiffFile(tmp_path / "m.tif") as tiff:
        pixels = tiff.asarray()
        text = tiff.pages[0].description  # type: ignore[union-attr]
    image = mosaic["image"].values[0][::-1]
    assert pixels.shape == SHAPE
    assert ((pixels == 0) == np.isnan(image)).all()
    low, step = (float(text.split("value = ")[1].split(" + ")[i].split(" *")[0]) for i in (0, 1))
    good = pixels > 0
    np.testing.assert_allclose(low + step * (pixels[good] - 1.0), image[good], atol=0.51 * step + 1e-3)
    assert pixels.max() == 65535


def test_tiff_of_floats_and_history(mosaic: xr.Dataset, tmp_path: Path) -> None:
    made = export(mosaic, tmp_path, formats=["tiff"], depth=32)
    with tifffile.TiffFile(made[0]) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), mosaic["image"].values[0][::-1])
        assert tiff.pages[0].description.startswith("skyloom; linear, NaN = no data\n")  # type: ignore[union-attr]
        assert "\n  low = 4.0" in tiff.pages[0].description  # type: ignore[union-attr]


def test_jpeg_is_what_the_png_is(mosaic: xr.Dataset, tmp_path: Path) -> None:
    made = export(mosaic.isel(band=[0]), tmp_path, formats=["png", "jpeg"], max_side=350)
    assert [p.name for p in made] == ["mosaic_L.png", "mosaic_L.jpg"]
    png, jpeg = (Image.open(p) for p in made)
    difference = np.asarray(jpeg).astype(float) - np.asarray(png)
    # A mosaic of noise is the worst for JPEG.
    assert abs(difference.mean()) < 0.5
    assert difference.std() < 8
    assert "low = 4.0" in jpeg.info["comment"].decode()
    assert "low = 4.0" in png.text["Comment"]  # type: ignore[attr-defined]
    for image in (png, jpeg):
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        to_screen = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "L", "RGB")
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        shown = np.asarray(ImageCms.applyTransform(ramp, to_screen))
        np.testing.assert_array_equal(shown[0], np.arange(256)[:, None].repeat(3, axis=1))


def test_xisf_is_shown_stretched(mosaic: xr.Dataset, tmp_path: Path) -> None:
    export_file(mosaic, tmp_path / "m.xisf", band="L")
    text = (tmp_path / "m.xisf").read_bytes()[:4096].decode("utf-8", "ignore")
    found = re.search(r'<DisplayFunction m="([^"]*)" s="([^"]*)" h="([^"]*)" l="0:0:0:0" r="1:1:1:1"', text)
    bounds = re.search(r'bounds="([^":]*):([^":]*)"', text)
    assert found
    assert bounds
    m, s, h = (float(found[i].split(":")[0]) for i in (1, 2, 3))
    low, high = (float(bounds[i]) for i in (1, 2))
    shown = Stretch(s, h, m).apply((mosaic["image"].values[0] - low) / (high - low))
    assert np.nanmedian(shown) == pytest.approx(0.25, abs=0.01)
    assert [v.split(":")[1:] for v in (found[1], found[2], found[3])] == [["0.5"] * 3, ["0"] * 3, ["1"] * 3]


def test_png_is_stretched_shrunk_and_upright(mosaic: xr.Dataset, tmp_path: Path) -> None:
    export_file(mosaic, tmp_path / "m.png", band="L", max_side=350)
    pixels = np.asarray(Image.open(tmp_path / "m.png"))
    assert pixels.shape == (350, 200)
    assert (pixels[-20:, :25] == 0).all(), "no data, bottom left as on the canvas"
    assert pixels[(699 - 600) // 2, 15] == pixels.max()
    assert abs(float(np.median(pixels[pixels > 0])) - 64) < 4


def test_bands_r_g_b_make_a_colour_picture(mosaic: xr.Dataset, tmp_path: Path) -> None:
    colour = xr.concat([mosaic.isel(band=0)] * 3, "band").assign_coords(band=["R", "G", "B"])
    image = colour["image"].values
    image[1, 100:200, 100:200] = np.nan
    colour["image"] = (("band", "y", "x"), image)
    colour = colour.chunk({"band": 1})
    made = export(colour, tmp_path, formats=["png"], max_side=100)
    assert sorted(p.name for p in made) == ["mosaic.png", "mosaic_B.png", "mosaic_G.png", "mosaic_R.png"]
    pixels = np.asarray(Image.open(tmp_path / "mosaic.png"))
    assert pixels.shape == (100, 58, 3)
    none = (pixels == 0).any(axis=-1)
    assert (pixels[none] == 0).all(), "no colour where a band is missing"
    assert none[-25:-18, 18:25].any()


def test_export_node_writes_all_bands_with_extensions(mosaic: xr.Dataset, tmp_path: Path) -> None:
    made = export(mosaic, tmp_path, formats=["fits", "tiff"], max_side=100)
    assert [p.name for p in made] == ["mosaic_L.fits", "mosaic_L.tif", "mosaic_Ha.fits", "mosaic_Ha.tif"]
    with fits.open(tmp_path / "mosaic_Ha.fits") as hdus:
        hdus.verify("exception")
        assert [h.name for h in hdus] == ["IMAGE", "VARIANCE", "COUNT"]
        np.testing.assert_array_equal(hdus["VARIANCE"].data, mosaic["variance"].values[1])
        np.testing.assert_array_equal(hdus["COUNT"].data, mosaic["count"].values[1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"path": "m.jpeg2"}, "unknown ending '.jpeg2'; use one of .fits"),
        ({"band": "OIII"}, "no band 'OIII'; there is: Ha, L"),
        ({"band": None}, r"there are 2 bands \(L, Ha\); choose one with --band"),
        ({"variable": "imag"}, "no variable 'imag' to export; did you mean 'image'"),
        ({"path": "gone/m.fits"}, "the folder .*gone does not exist"),
    ],
)
def test_mistakes(mosaic: xr.Dataset, tmp_path: Path, options: dict[str, str], says: str) -> None:
    options = {"path": "m.fits", "band": "L", **options}
    path = tmp_path / options.pop("path")
    with pytest.raises(ConfigError, match=says):
        export_file(mosaic, path, **options)  # type: ignore[arg-type]


def test_full_disk_leaves_no_half_file(
    mosaic: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        (tmp_path / ".m.fits.partial").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, "write_fits", full)
    with pytest.raises(CapacityError, match="the disk is full"):
        export_file(mosaic, tmp_path / "m.fits", band="L")
    assert list(tmp_path.iterdir()) == []
