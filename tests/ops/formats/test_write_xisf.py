"""Written XISF files are read bit by bit by the independent decoder and by skyloom."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.fits_header import Scalar
from skyloom.ops.formats.frame_file import FrameFile
from skyloom.ops.formats.write_xisf import write_xisf
from skyloom.ops.formats.xisf import examine
from skyloom.ops.frames import open_source

SHAPES = [(17, 23), (3, 17, 23)]


def full(file: FrameFile) -> NDArray[np.float32]:
    source = open_source(file.source.spec())
    return source.read(slice(0, source.shape[0]), slice(0, source.shape[1]))


def picture(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 65536, shape, np.uint16) if dtype == "uint16" else rng.normal(0, 9, shape).astype("f4")


def strips(image: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    for y in range(0, image.shape[-2], rows):
        yield image[..., y : y + rows, :]


@pytest.mark.parametrize("rows", [1, 5, 17, 40])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
@pytest.mark.parametrize("row_zero", ["bottom", "top"])
def test_pixels_come_back(tmp_path: Path, rows: int, shape: tuple[int, ...], dtype: str, row_zero: Any) -> None:
    image = picture(shape, dtype)
    path = write_xisf(tmp_path / "x.xisf", strips(image, rows), shape=shape, dtype=dtype, row_zero=row_zero)
    assert [p.name for p in tmp_path.iterdir()] == ["x.xisf"]
    truth = (image[None] if image.ndim == 2 else image)[:, :: -1 if row_zero == "bottom" else 1]
    files = examine(path)
    assert [f.band for f in files] == (["R", "G", "B"] if len(shape) == 3 else [""])
    assert all(f.source.windowed for f in files)
    assert all(np.array_equal(full(f), p.astype(np.float32)) for f, p in zip(files, truth, strict=True))
    xisf = pytest.importorskip("xisf")
    found = xisf.XISF(str(path)).read_image(0, "channels_first")
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, truth)


def test_a_whole_image_is_one_strip(tmp_path: Path) -> None:
    image = picture((17, 23), "float32")
    (file,) = examine(write_xisf(tmp_path / "x.xisf", image, shape=image.shape, row_zero="top"))
    assert np.array_equal(full(file), image)


def test_cards_come_back(tmp_path: Path) -> None:
    cards: dict[str, Scalar | tuple[Scalar, str]] = {
        "OBJECT": ('M 8 <O\'Neill> & "co"', "what"),
        "EXPTIME": (1.5e-7, "s"),
        "NUMBER": 12345678901,
        "COOLED": True,
        "UNKNOWN": float("nan"),
        "BITPIX": -64,
        "FILTER": "Hα\x01",
        "CREATOR": "skyloom 1.2",
    }
    image = picture((17, 23), "float32")
    path = write_xisf(tmp_path / "x.xisf", image, shape=image.shape, cards=cards, history=["first & last"])
    (file,) = examine(path)
    header = file.header
    assert header.value("OBJECT") == 'M 8 <O\'Neill> & "co"'
    assert header["OBJECT"].comment == "what"
    assert header.value("EXPTIME") == 1.5e-7
    assert header.value("NUMBER") == 12345678901
    assert header.value("COOLED") is True
    assert header.value("UNKNOWN", "empty") == "empty"
    assert "BITPIX" not in header
    assert header.value("CREATOR") == "skyloom 1.2"
    xisf = pytest.importorskip("xisf")
    meta = xisf.XISF(str(path)).get_images_metadata()[0]
    assert meta["FITSKeywords"]["HISTORY"] == [{"value": "", "comment": "first & last"}]
    assert meta["FITSKeywords"]["FILTER"][0]["value"] == "Hα"


@pytest.mark.parametrize(
    ("low", "high", "bounds"),
    [(0.1, 0.9, (0, 1)), (-5.0, 9.0, (-5, 9)), (100.0, 100.0, (100, 101)), (0.0, 3.5, (0, 3.5))],
)
def test_bounds_are_those_of_the_pixels(
    tmp_path: Path, low: float, high: float, bounds: tuple[float, float]
) -> None:
    image = np.array([[low, high, np.nan, np.inf]], "f4").astype("f4")
    path = write_xisf(tmp_path / "x.xisf", image, shape=(1, 4))
    text = path.read_bytes()[:4096].split(b'bounds="')[1].split(b'"')[0].decode()
    assert [float(b) for b in text.split(":")] == pytest.approx(list(bounds))
    path = write_xisf(tmp_path / "y.xisf", image, shape=(1, 4), bounds=(0.0, 2.0))
    assert b'bounds="0:2"' in path.read_bytes()[:4096]


def test_no_data(tmp_path: Path) -> None:
    image = np.array([[1.0, np.nan, 70000.0, -3.0, 2.6]], "f4")
    (file,) = examine(write_xisf(tmp_path / "x.xisf", image, shape=(1, 5), no_data=-1.0))
    assert np.array_equal(full(file), np.array([[1.0, -1.0, 70000.0, -3.0, 2.6]], "f4"))
    (file,) = examine(write_xisf(tmp_path / "y.xisf", image, shape=(1, 5)))
    assert np.isnan(full(file)[0, 1])
    (file,) = examine(write_xisf(tmp_path / "z.xisf", image, shape=(1, 5), dtype="uint16"))
    assert np.array_equal(full(file), [[1, 0, 65535, 0, 3]])


@pytest.mark.parametrize("row_zero", ["bottom", "top"])
def test_the_wcs_stays_with_the_pixels(tmp_path: Path, row_zero: Any) -> None:
    image = picture((30, 40), "float32")
    wcs = fits.Header()
    for axis, (kind, pixel, value) in enumerate((("RA", 12.0, 83.0), ("DEC", 7.5, -5.0)), 1):
        wcs[f"CTYPE{axis}"], wcs[f"CRPIX{axis}"], wcs[f"CRVAL{axis}"] = f"{kind:-<4}-TAN", pixel, value
    wcs["CDELT1"], wcs["CDELT2"], wcs["PC1_2"], wcs["PC2_1"] = -2e-3, 1.5e-3, 0.1, -0.2
    path = write_xisf(tmp_path / "x.xisf", image, shape=image.shape, cards=dict(wcs), row_zero=row_zero)
    (file,) = examine(path)
    found = WCS(fits.Header({k: c.value for k, c in file.wcs_header.items()}))
    pixels = full(file)
    for y, x in ((0, 0), (3, 30), (29, 7)):
        sky = WCS(wcs).all_pix2world([[x, y]], 0)
        ((x_here, y_here),) = np.rint(found.all_world2pix(sky, 0)).astype(int)
        assert pixels[y_here, x_here] == image[y, x]
    # What PixInsight takes the keywords for: rows counted from the bottom, whatever is stored first.
    xisf = pytest.importorskip("xisf")
    kept = xisf.XISF(str(path)).get_images_metadata()[0]["FITSKeywords"]
    # PixInsight knows no PC matrix.
    assert not [k for k in kept if k.startswith("PC")]
    stored = WCS(fits.Header({k: _number(v[0]["value"]) for k, v in kept.items() if k[:2] in ("CT", "CR", "CD")}))
    sky = WCS(wcs).all_pix2world([[30, 3]], 0)
    row = np.rint(stored.all_world2pix(sky, 0))[0, 1]
    assert xisf.XISF(str(path)).read_image(0, "channels_first")[0, 29 - int(row), 30] == image[3, 30]


def _number(text: str) -> Any:
    return text if "-TAN" in text else float(text)


def test_wrong_strips_leave_no_file(tmp_path: Path) -> None:
    image = picture((17, 23), "float32")
    old = write_xisf(tmp_path / "x.xisf", image, shape=image.shape).read_bytes()
    for wrong, reason in (
        (image[:16], "16 rows came for an image of 17"),
        (np.vstack([image, image]), "does not fit"),
        (image[:, :20], "does not fit"),
        (np.stack([image] * 3), "does not fit"),
    ):
        with pytest.raises(DataError, match=reason):
            write_xisf(tmp_path / "x.xisf", wrong, shape=image.shape)
    for shape, dtype in (((17,), "float32"), ((2, 17, 23), "float32"), ((17, 23), "int32"), ((0, 23), "uint16")):
        with pytest.raises(DataError, match=r"XISF is written as|without pixels"):
            write_xisf(tmp_path / "x.xisf", image, shape=shape, dtype=dtype)
    assert [p.name for p in tmp_path.iterdir()] == ["x.xisf"]
    assert (tmp_path / "x.xisf").read_bytes() == old


def test_a_large_image_is_never_whole_in_memory(tmp_path: Path) -> None:
    def rows() -> Iterator[NDArray[Any]]:
        for y in range(0, 4000, 50):
            yield np.full((3, 50, 5000), y / 4000, "f4")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = write_xisf(tmp_path / "x.xisf", rows(), shape=(3, 4000, 5000))
    assert path.stat().st_size > 240_000_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 60
    files = examine(path)
    source = open_source(files[2].source.spec())
    assert np.all(source.read(slice(100, 150), slice(0, 10)) == np.float32(3850 / 4000))
    path.unlink()


def test_a_real_colour_image(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    truth = fits.getdata(shared_data("made_xisf_rgb") / "m8_rgb_3plane_f32.fits").astype("f4")
    files = examine(write_xisf(tmp_path / "x.xisf", strips(truth, 64), shape=truth.shape, row_zero="top"))
    assert all(np.array_equal(full(f), p) for f, p in zip(files, truth, strict=True))
