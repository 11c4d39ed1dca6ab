"""TIFF frames load bit by bit what was stored, or are refused with a reason."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.formats.tiff import SUFFIXES, examine, matches
from skyloom.ops.frames import forget_decoded, open_source

KINDS = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "f2", "f4", "f8")


def full(file: FrameFile) -> NDArray[np.float32]:
    """All pixels, opened the way other modules do."""
    source = open_source(file.source.spec())
    return source.read(slice(0, source.shape[0]), slice(0, source.shape[1]))


def pixels(shape: tuple[int, ...], kind: str, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    if kind[-2] == "f":
        return np.round(rng.normal(100.0, 300.0, shape), 1).astype(kind)
    bounds = np.iinfo(kind)
    return rng.integers(bounds.min, bounds.max, shape, kind, endpoint=True)


def write(path: Path, array: NDArray[Any], **options: Any) -> Path:
    """(Channel, row, column) array as TIFF."""
    channels = array.shape[0]
    planar = options.pop("planarconfig", "contig")
    data = array[0] if channels == 1 else array if planar == "separate" else array.transpose(1, 2, 0)
    colour = "rgb" if channels >= 3 else "minisblack"
    given: dict[str, Any] = {
        "photometric": colour,
        "metadata": None,
        "planarconfig": planar if channels > 1 else None,
    }
    tifffile.imwrite(path, data, **(given | options))
    return path


# --- pixels ---


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_storage_gives_the_same_pixels(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    channels = data.draw(st.sampled_from([1, 2, 3, 4]))
    height, width = data.draw(st.integers(2, 50)), data.draw(st.integers(2, 50))
    codec = data.draw(st.sampled_from([None, "zlib", "lzma"]))
    options: dict[str, Any] = {
        "byteorder": data.draw(st.sampled_from("<>")),
        "planarconfig": data.draw(st.sampled_from(["contig", "separate"])),
        "compression": codec,
        "bigtiff": data.draw(st.booleans()),
    }
    tiled = data.draw(st.booleans())
    options |= {"tile": (16, 32)} if tiled else {"rowsperstrip": data.draw(st.sampled_from([1, 7, 100]))}
    if codec and kind[0] in "ui" and kind[1] != "8" and data.draw(st.booleans()):
        options["predictor"] = True
    if channels == 2:
        options["extrasamples"] = ["unspecified"]
    array = pixels((channels, height, width), kind)
    path = write(tmp_path / "x.tif", array, **options)
    forget_decoded()
    files = examine(path)
    assert [f.band for f in files] == (["R", "G", "B"] if channels >= 3 else [""])
    assert any("further channel" in n for n in files[0].notes) == (channels in (2, 4))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top, height)), data.draw(st.integers(left, width))
    for file, plane in zip(files, array, strict=False):
        truth = plane.astype(np.float32)
        assert file.source.windowed == (codec is None and not tiled)
        assert np.array_equal(full(file), truth)
        window = open_source(file.source.spec()).read(slice(top, bottom), slice(left, right))
        assert window.dtype == np.float32
        assert window.flags.c_contiguous
        assert window.flags.writeable
        assert np.array_equal(window, truth[top:bottom, left:right])


def test_codecs_of_imagecodecs(tmp_path: Path) -> None:
    pytest.importorskip("imagecodecs")
    array = pixels((3, 40, 30), "<u2")
    for codec in ("lzw", "zstd"):
        for predictor in (False, True):
            path = write(tmp_path / f"{codec}{predictor}.tif", array, compression=codec, predictor=predictor)
            assert all(np.array_equal(full(f), p) for f, p in zip(examine(path), array, strict=True))


def test_a_codec_that_is_missing_is_named(tmp_path: Path) -> None:
    # A file whose only flaw is the number of its codec, and a process without imagecodecs.
    path = write(tmp_path / "x.tif", pixels((1, 8, 8), "<u2"), compression="zlib")
    data = bytearray(path.read_bytes())
    at = data.find(struct.pack("<HHIH", 259, 3, 1, 8))
    data[at + 8 : at + 10] = struct.pack("<H", 5)
    path.write_bytes(data)
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from skyloom.ops.formats.tiff import examine\n"
        "from skyloom.ops.errors import DataError\n"
        "try: examine(sys.argv[1])\n"
        "except DataError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert "compressed with LZW, which is not read here: `pip install imagecodecs`" in done.stdout, done.stderr


def test_strips_in_any_order(tmp_path: Path) -> None:
    array = pixels((1, 12, 5), "<u2")
    path = write(tmp_path / "x.tif", array, rowsperstrip=3, byteorder="<")
    (file,) = examine(path)
    assert file.source.windowed
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags[273]
        a, b, c, d = tag.value
        data[tag.valueoffset : tag.valueoffset + 16] = struct.pack("<IIII", a, c, b, d)
    path.write_bytes(data)
    (file,) = examine(path)
    assert not file.source.windowed
    assert np.array_equal(full(file), np.concatenate([array[0, i : i + 3] for i in (0, 6, 3, 9)]))


def test_planes_of_a_colour_image_have_their_own_ids(tmp_path: Path) -> None:
    files = examine(write(tmp_path / "x.tif", pixels((3, 5, 6), "<u2")))
    assert len({f.content for f in files}) == 3
    assert len({f.header_digest for f in files}) == 3
    assert [f.part for f in files] == ["R", "G", "B"]
    again = examine(write(tmp_path / "y.tif", pixels((3, 5, 6), "<u2")))
    assert [f.content for f in again] == [f.content for f in files]
    other = examine(write(tmp_path / "z.tif", pixels((3, 5, 6), "<u2", seed=1)))
    assert not {f.content for f in other} & {f.content for f in files}


def test_a_spec_opens_in_a_process_that_knows_nothing_yet(tmp_path: Path) -> None:
    (file,) = examine(write(tmp_path / "x.tif", pixels((1, 5, 6), "<u2"), compression="zlib"))
    code = (
        "import sys; from skyloom.ops.frames import open_source; s = open_source(sys.argv[1]);"
        "print(float(s.read(slice(0, 5), slice(0, 6)).sum()))"
    )
    command = [sys.executable, "-c", code, file.source.spec()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert float(done.stdout) == float(full(file).sum()), done.stderr


def test_importing_the_format_imports_no_tifffile() -> None:
    code = "import sys, skyloom.ops.formats.tiff; print({'tifffile', 'imagecodecs'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr


def test_a_changed_file_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", pixels((1, 5, 6), "<u2"))
    (file,) = examine(path)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="changed since it was ingested"):
        full(file)


def test_matches_leaves_camera_raws_alone() -> None:
    for head in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        assert matches(head, ".tif")
        assert matches(head, ".TIFF")
        assert not matches(head, ".nef")
    assert not matches(b"SIMPLE", ".tif")
    assert SUFFIXES == (".tif", ".tiff")


# --- tags ---


def test_tags_become_cards(tmp_path: Path) -> None:
    tags = [(271, "s", 0, "Nikon", True), (272, "s", 0, "NIKON D750", True), (33434, "2I", 1, (30, 2), True)]
    path = write(
        tmp_path / "x.tif",
        pixels((1, 5, 6), "<u2"),
        extratags=tags,
        software="Some Program 1.0",
        datetime="2024:03:05 22:11:09",
        description="just words",
    )
    (file,) = examine(path)
    assert file.header.value("INSTRUME") == "NIKON D750"
    assert file.header.value("EXPTIME") == 15.0
    assert file.header.value("SWCREATE") == "Some Program 1.0"
    assert file.header.value("DATE") == "2024-03-05T22:11:09.000"
    assert "DATE-OBS" not in file.header
    assert (file.bitpix, file.bzero) == (16, 32768.0)


def astro_tiff(path: Path, array: NDArray[Any], cards: str, **options: Any) -> FrameFile:
    text = f"SIMPLE  =                    T / file\r\n{cards}\r\nEND"
    (file,) = examine(write(path, array, description=text, **options))
    return file


def test_astro_tiff_has_a_fits_header(tmp_path: Path) -> None:
    cards = "\r\n".join(
        (
            "BITPIX  =                   16",
            "BZERO   =                32768",
            "EXPTIME =                300.0 / seconds",
            "FILTER  = 'Ha'",
            "COMMENT some words",
            "ROWORDER= 'BOTTOM-UP'",
            "BAYERPAT= 'RGGB'",
        )
    )
    file = astro_tiff(tmp_path / "x.tif", pixels((1, 5, 6), "<u2"), cards)
    assert file.header.value("EXPTIME") == 300.0
    assert file.header.value("FILTER") == "Ha"
    assert file.header.value("BAYERPAT") == "RGGB"
    # The first row here is the last of the FITS image.
    assert file.header.value("ROWORDER") == "TOP-DOWN"
    assert "BZERO" not in file.header
    assert any("Astro-TIFF" in n for n in file.notes)
    bottom_first = [(274, "H", 1, 4, True)]
    file = astro_tiff(tmp_path / "y.tif", pixels((1, 5, 6), "<u2"), cards, extratags=bottom_first)
    assert file.header.value("ROWORDER") == "BOTTOM-UP"
    assert any("Orientation" in n for n in file.notes)


def test_the_wcs_of_astro_tiff_is_that_of_the_fits_image(tmp_path: Path) -> None:
    array = pixels((1, 30, 40), "<u2")
    wcs = fits.Header()
    for axis, (kind, pixel, value) in enumerate((("RA", 12.0, 83.0), ("DEC", 7.5, -5.0)), 1):
        wcs[f"CTYPE{axis}"], wcs[f"CRPIX{axis}"], wcs[f"CRVAL{axis}"] = f"{kind:-<4}-TAN", pixel, value
    wcs["CD1_1"], wcs["CD1_2"], wcs["CD2_1"], wcs["CD2_2"] = -2e-3, 3e-4, 4e-4, 1.9e-3
    file = astro_tiff(tmp_path / "x.tif", array, "\n".join(str(c) for c in wcs.cards))
    found = WCS(fits.Header({k: c.value for k, c in file.wcs_header.items()}))
    x, y = np.meshgrid(np.arange(40.0), np.arange(30.0))
    expected = WCS(wcs).all_pix2world(x.ravel(), 29.0 - y.ravel(), 0)
    np.testing.assert_allclose(found.all_pix2world(x.ravel(), y.ravel(), 0), expected, rtol=0, atol=1e-10)


def test_a_mosaic_says_its_pattern(tmp_path: Path) -> None:
    tags = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, bytes((1, 0, 2, 1)), True)]
    (file,) = examine(write(tmp_path / "x.tif", pixels((1, 6, 6), "<u2"), photometric="cfa", extratags=tags))
    assert file.header.value("BAYERPAT") == "GRBG"


def test_the_first_of_several_images(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    array = pixels((2, 5, 6), "<u2")
    with tifffile.TiffWriter(path) as tiff:
        for plane in array:
            tiff.write(plane, photometric="minisblack", metadata=None)
    (file,) = examine(path)
    assert np.array_equal(full(file), array[0])
    assert any("several images" in n for n in file.notes)


# --- refused ---


def test_what_is_no_frame_is_refused(tmp_path: Path) -> None:
    array = pixels((1, 16, 16), "<u2")
    cases: list[tuple[NDArray[Any], dict[str, Any], str]] = [
        (array, {"photometric": "miniswhite"}, "a negative"),
        (
            pixels((1, 16, 16), "u1"),
            {"photometric": "palette", "colormap": np.zeros((3, 256), "u2")},
            "a picture with a palette",
        ),
        (pixels((4, 16, 16), "u1"), {"photometric": "separated"}, "CMYK"),
        (pixels((3, 16, 16), "u1"), {"photometric": "cielab"}, "CIELab"),
        (array > 30000, {}, "pixels of 1 bits"),
        (array.astype("c8"), {}, "pixels of 64 bits"),
        (array, {"extratags": [(50706, "B", 4, bytes((1, 4, 0, 0)), True)]}, "rename it to .dng"),
    ]
    for number, (data, options, reason) in enumerate(cases):
        with pytest.raises(UnusableFile, match=reason):
            examine(write(tmp_path / f"{number}.tif", data, **options))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"SIMPLE  =", "not a TIFF file"),
        (b"II*\0", "broken TIFF"),
        (b"II*\0\x08\0\0\0", "broken TIFF"),
        (b"MM\0*" + bytes(60), "broken TIFF|no image"),
    ],
)
def test_what_is_no_tiff_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(content)
    with pytest.raises(UnusableFile, match=reason):
        examine(path)


@pytest.mark.parametrize("codec", [None, "zlib"])
def test_a_cut_file_says_how_much_is_missing(tmp_path: Path, codec: str | None) -> None:
    path = write(tmp_path / "x.tif", pixels((1, 50, 50), "<u2"), compression=codec)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UnusableFile, match=f"truncated: 50 x 50 x 1 pixels end at byte {size}, the file has"):
        examine(path)


@pytest.mark.parametrize("codec", [None, "zlib"])
def test_a_huge_promise_allocates_nothing(tmp_path: Path, codec: str | None) -> None:
    path = write(tmp_path / "x.tif", pixels((1, 50, 50), "<u2"), compression=codec, byteorder="<")
    data = bytearray(path.read_bytes())
    for tag in (256, 257, 278):
        at = data.find(struct.pack("<H", tag))
        data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 200_000)
    path.write_bytes(data)
    with pytest.raises(UnusableFile, match=r"bytes of data .* for 80000000000"):
        examine(path)


def test_corrupt_strips_are_an_error_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tif", pixels((1, 50, 50), "<u2"), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset + 2 : offset + 40] = bytes(38)
    path.write_bytes(data)
    (file,) = examine(path)
    with pytest.raises(UnusableFile, match="corrupt data \\(ADOBE_DEFLATE\\)"):
        full(file)


# --- noise ---


@pytest.mark.parametrize("seed", range(6))
def test_flipped_bits_and_cut_files_raise_only_data_errors(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    seeds = []
    variants: tuple[dict[str, Any], ...] = (
        {},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16), "byteorder": ">"},
        {"compression": "zlib", "tile": (16, 16), "bigtiff": True, "planarconfig": "separate"},
        {"description": "SIMPLE  = T\nGAIN    = 7\nEND", "rowsperstrip": 2},
    )
    for number, options in enumerate(variants):
        array = pixels((3 if number % 2 else 1, 20, 18), "<u2")
        seeds.append(write(tmp_path / f"{number}.tif", array, **options).read_bytes())
    read, refused, named = 0, 0, 0
    for number in range(150):
        data = bytearray(rng.choice(seeds))
        zone = rng.choice([20, 300, len(data)])
        for _ in range(rng.choice([1, 2, 5])):
            data[rng.randrange(zone)] = rng.choice([0, 1, 2, 255, rng.randrange(256)])
        if rng.random() < 0.2:
            del data[rng.randrange(len(data)) :]
        path = tmp_path / f"f{number}.tif"
        path.write_bytes(data)
        try:
            for file in examine(path):
                assert full(file).shape == file.source.shape
                read += 1
        except DataError as failure:
            named += str(failure).startswith(str(path))
            refused += 1
        path.unlink()
    assert refused == named
    assert read > 10  # else the noise hides the decoders


# --- real files ---


def test_a_real_frame_as_tiff(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    truth = fits.getdata(shared_data("made_xisf_rgb") / "m8_rgb_3plane_u16.fits").astype(np.uint16)
    for codec in (None, "zlib"):
        files = examine(write(tmp_path / f"{codec}.tif", truth, compression=codec))
        assert all(np.array_equal(full(f), p) for f, p in zip(files, truth, strict=True))
