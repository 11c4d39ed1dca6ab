"""Colour pictures other programs open: the right colours, the right way up, with profile and gaps."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image, ImageCms

from skyloom.ops.errors import ConfigError
from skyloom.ops.formats.examine import examine
from skyloom.ops.grid import Grid, wcs_header
from skyloom.workflows.export import export, export_file

SHAPE = (530, 300)


def picture(*, linear: bool, channels: str = "RGB") -> xr.Dataset:
    rng = np.random.default_rng(3)
    image = rng.uniform(0, 1, (len(channels), *SHAPE)).astype(np.float32)
    image[:, 0, 0], image[:, -1, 0] = 1.0, 0.0
    image[0, 100:120, 50:90] = np.nan
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [83.6, -5.4]
    wcs.wcs.cd = np.diag([-1.5, 1.5]) / 3600
    wcs.wcs.set()
    grid = Grid(wcs_header(wcs), SHAPE, 256)
    dataset = xr.Dataset(
        {"image": (("channel", "y", "x"), image)},
        {"channel": list(channels)},
        {**grid.to_attrs(), "linear": linear, "palette": "red = R, green = G, blue = B"},
    )
    if linear:
        dataset["variance"] = dataset["image"] ** 2
    else:
        flags = np.zeros(SHAPE, np.uint8)
        flags[:53] = 2
        dataset["clipped"] = (("y", "x"), flags)
    return dataset.chunk({"channel": len(channels), "y": 256, "x": 256})


@pytest.fixture
def shown() -> xr.Dataset:
    return picture(linear=False)


def expected(dataset: xr.Dataset, depth: int) -> np.ndarray:
    image = np.moveaxis(dataset["image"].values[:, ::-1], 0, -1).astype(float)
    missing = np.isnan(image).any(axis=-1)
    values = np.rint(1 + image * (2**depth - 2))
    values[missing] = 0
    return np.asarray(values)


def test_png(shown: xr.Dataset, tmp_path: Path) -> None:
    made = export(shown, tmp_path, formats=["png"])
    assert made == [tmp_path / "picture.png"]
    with Image.open(made[0]) as image:
        np.testing.assert_array_equal(np.asarray(image), expected(shown, 8))
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileName(profile)
        # 53 of 530 rows are flagged, gaps do not count.
        assert "9.9" in image.text["Comment"] or "10.0" in image.text["Comment"]  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == made


def test_png_of_16_bits(shown: xr.Dataset, tmp_path: Path) -> None:
    """Decoded by imagecodecs: Pillow would give 8 bits."""
    import imagecodecs

    export(shown, tmp_path, formats=["png"], depth=16)
    data = imagecodecs.png_decode((tmp_path / "picture.png").read_bytes())
    assert data.dtype == np.uint16
    np.testing.assert_array_equal(data, expected(shown, 16))


def test_large_png_is_shrunk(shown: xr.Dataset, tmp_path: Path) -> None:
    export(shown, tmp_path, formats=["png"], max_side=180)
    with Image.open(tmp_path / "picture.png") as image:
        found = np.asarray(image)
    assert found.shape == (177, 100, 3)
    block = shown["image"].values[:, 3:6, 6:9].mean(axis=(1, 2))
    np.testing.assert_allclose(found[177 - 2, 2], 1 + block * 254, atol=1)
    last = shown["image"].values[:, 528:530, 0:3].mean(axis=(1, 2))
    np.testing.assert_allclose(found[0, 0], 1 + last * 254, atol=1)


def test_tiff(shown: xr.Dataset, tmp_path: Path) -> None:
    export(shown, tmp_path, formats=["tiff"])
    with tifffile.TiffFile(tmp_path / "picture.tif") as tiff:
        page = tiff.pages[0]
        np.testing.assert_array_equal(tiff.asarray(), expected(shown, 16))
        assert page.photometric.name == "RGB"  # type: ignore[union-attr]
        assert b"sRGB" in (page.iccprofile or b"").replace(b"\0", b"")  # type: ignore[union-attr]
    linear = picture(linear=True)
    export(linear, tmp_path, formats=["tiff"])
    found = tifffile.imread(tmp_path / "linear.tif")
    np.testing.assert_array_equal(found, np.moveaxis(linear["image"].values[:, ::-1], 0, -1))


def test_fits_of_the_linear_picture(tmp_path: Path) -> None:
    linear = picture(linear=True)
    export(linear, tmp_path, formats=["fits"])
    with fits.open(tmp_path / "linear.fits") as hdus:
        hdus.verify("exception")
        assert [h.name for h in hdus] == ["IMAGE", "VARIANCE"]
        np.testing.assert_array_equal(hdus[0].data, linear["image"].values)
        np.testing.assert_array_equal(hdus[1].data, linear["variance"].values)
        header = hdus[0].header
        assert header["COLORS"] == "R, G, B"
        sky = WCS(header, naxis=2).all_pix2world(10, 20, 0)
        np.testing.assert_allclose(sky, Grid.from_attrs(linear.attrs).wcs.all_pix2world(10, 20, 0), atol=1e-9)
        assert "red = R" in str(header["HISTORY"])


def test_xisf(tmp_path: Path) -> None:
    linear = picture(linear=True)
    export(linear, tmp_path, formats=["xisf"])
    frames = examine(tmp_path / "linear.xisf")
    assert [f.band for f in frames] == ["R", "G", "B"]
    pixels = frames[1].source.read(slice(0, SHAPE[0]), slice(0, SHAPE[1]))
    np.testing.assert_array_equal(pixels[::-1], linear["image"].values[1])


def test_xisf_of_a_picture_has_a_profile(shown: xr.Dataset, tmp_path: Path) -> None:
    export(shown, tmp_path, formats=["xisf"])
    text = (tmp_path / "picture.xisf").read_bytes()[:8192].decode("utf-8", "ignore")
    assert "DisplayFunction" not in text
    assert 'bounds="0:1"' in text
    encoded = text.split('<ICCProfile location="inline:base64">')[1].split("</ICCProfile>")[0]
    profile = ImageCms.ImageCmsProfile(io.BytesIO(base64.b64decode(encoded)))
    assert "sRGB" in ImageCms.getProfileName(profile)


def test_jpeg(shown: xr.Dataset, tmp_path: Path) -> None:
    smooth = shown.copy()
    ramp = np.linspace(0, 1, SHAPE[1], dtype=np.float32)
    image = np.stack([np.broadcast_to(r, SHAPE) for r in (ramp, ramp[::-1], 0.5 * ramp)])
    smooth["image"] = (("channel", "y", "x"), image)
    made = export(smooth, tmp_path, formats=["jpeg"])
    assert [p.name for p in made] == ["picture.jpg"]
    with Image.open(made[0]) as picture_file:
        found = np.asarray(picture_file).astype(float)
        assert b"red = R" in picture_file.info["comment"]
        assert "icc_profile" in picture_file.info
    np.testing.assert_allclose(found, expected(smooth, 8), atol=4)


def test_one_file_of_a_picture(shown: xr.Dataset, tmp_path: Path) -> None:
    export_file(shown, tmp_path / "a.png")
    export_file(shown, tmp_path / "a.tif", depth=32)
    export_file(shown, tmp_path / "a.fits")
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected(shown, 8))
    floats = np.moveaxis(shown["image"].values[:, ::-1], 0, -1)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), floats)
    np.testing.assert_array_equal(fits.getdata(tmp_path / "a.fits"), shown["image"].values)
    with pytest.raises(ConfigError, match="a linear picture has no black and white"):
        export_file(picture(linear=True), tmp_path / "b.jpg")


def test_one_channel(tmp_path: Path) -> None:
    grey = picture(linear=False, channels="L")
    export(grey, tmp_path, formats=["png", "tiff"])
    with Image.open(tmp_path / "picture.png") as image:
        np.testing.assert_array_equal(np.asarray(image), expected(grey, 8)[..., 0])
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert profile.profile.xcolor_space.strip() == "GRAY"
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "picture.tif"), expected(grey, 16)[..., 0])


def test_mistakes(shown: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a linear picture has no black and white"):
        export(picture(linear=True), tmp_path, formats=["png"])
    with pytest.raises(ConfigError, match="make channels of it first"):
        export(shown.rename(channel="band"), tmp_path, formats=["png"])
