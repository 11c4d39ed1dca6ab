"""Which images of a file are frames: planes as bands, chips and exposures each, companions never."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.formats.fits import examine
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile

Write = Callable[..., Path]
Stored = Callable[..., NDArray[Any]]
Whole = Callable[[FrameFile], NDArray[np.float32]]

CHIP = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 5.0, "CRPIX2": 5.0}


def image(data: NDArray[Any], name: str = "", **cards: Any) -> fits.ImageHDU:
    return fits.ImageHDU(data, fits.Header(cards), name=name or None)


def write(path: Path, *units: Any, primary: fits.PrimaryHDU | None = None) -> Path:
    fits.HDUList([primary or fits.PrimaryHDU(), *units]).writeto(path, overwrite=True)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UnusableFile) as caught:
        examine(path)
    return caught.value.reason


# --- planes ---


@pytest.mark.parametrize("codec", ["plain", "gzip", "tiles"])
def test_three_planes_are_three_bands(
    tmp_path: Path, plain_file: Write, stored: Stored, whole: Whole, codec: str
) -> None:
    data = stored(">i2", (3, 23, 37))
    path = plain_file(tmp_path / "a.fits", data, "FILTER  = 'L-eXtreme'", "BAYERPAT= 'RGGB'", "XBAYROFF= 1")
    if codec == "tiles":
        cards = fits.Header({"FILTER": "L-eXtreme", "BAYERPAT": "RGGB", "XBAYROFF": 1})
        fits.CompImageHDU(data.astype("i2"), cards, compression_type="RICE_1").writeto(path, overwrite=True)
    elif codec == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    files = examine(path)
    assert [(f.band, f.part) for f in files] == [("R", "R"), ("G", "G"), ("B", "B")]
    for k, (file, plane) in enumerate(zip(files, data, strict=True)):
        assert file.source.shape == (23, 37)
        np.testing.assert_array_equal(whole(file), plane)
        assert file.notes == (f"plane {k + 1} of 3 of a colour image, taken as {'RGB'[k]}",)
        assert file.header["COLORPLN"] == ("RGB"[k], f"skyloom: plane {k + 1} of 3")
        assert file.header.value("FILTER") == "L-eXtreme"
        # Of a mosaic that is no more.
        assert not {"BAYERPAT", "XBAYROFF"} & set(file.header)
    assert len({f.content for f in files}) == 3
    assert len({f.header_digest for f in files}) == 3


def test_planes_of_equal_pixels_differ_in_content(tmp_path: Path, plain_file: Write) -> None:
    files = examine(plain_file(tmp_path / "a.fits", np.ones((3, 20, 20), ">f4")))
    assert len({f.content for f in files}) == 3
    (single,) = examine(plain_file(tmp_path / "b.fits", np.ones((20, 20), ">f4")))
    assert single.band == single.part == ""


def test_a_compressed_copy_has_the_same_planes(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    path = plain_file(tmp_path / "a.fits", stored(">f4", (3, 150, 200)))
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(path.read_bytes()))
    plain, packed = examine(path), examine(tmp_path / "a.fits.gz")
    assert [f.header_digest for f in plain] == [f.header_digest for f in packed]
    assert [f.plain_content() for f in plain] == [f.plain_content() for f in packed]
    assert len({f.plain_content() for f in plain}) == 3
    assert not {f.content for f in plain} & {f.content for f in packed}


@pytest.mark.parametrize("shape", [(1, 4, 5), (1, 1, 4, 5)])
def test_axes_of_length_one_are_dropped(
    tmp_path: Path, plain_file: Write, stored: Stored, whole: Whole, shape: tuple[int, ...]
) -> None:
    data = stored(">f4", shape)
    (file,) = examine(plain_file(tmp_path / "a.fits", data))
    assert (file.band, file.part, file.notes) == ("", "", ())
    np.testing.assert_array_equal(whole(file), data.reshape(4, 5))


@pytest.mark.parametrize(
    ("shape", "cards", "reason"),
    [
        (
            (2, 4, 5),
            (),
            "2 planes of 5 x 4 pixels: a colour image has 3; if each plane is an exposure, save each in",
        ),
        ((4, 4, 5), (), "a colour image has 3; if the fourth is an alpha channel, save it without; if each"),
        ((120, 4, 5), (), "120 planes of 5 x 4 pixels: a colour image has 3; if each plane is an exposure"),
        ((3, 2, 4, 5), (), "6 planes of 5 x 4 pixels"),
        ((3, 4, 5), ("CTYPE3  = 'FREQ'",), "3 planes of 5 x 4 pixels along FREQ, no colours"),
        ((40, 50, 3), (), "3 x 50 x 40 pixels: colours interleaved pixel by pixel"),
        ((7,), (), "a row of 7 values"),
    ],
)
def test_cubes_are_refused_with_what_to_do(
    tmp_path: Path, plain_file: Write, stored: Stored, shape: tuple[int, ...], cards: tuple[str, ...], reason: str
) -> None:
    assert reason in refused(plain_file(tmp_path / "a.fits", stored(">i2", shape), *cards))


def test_a_cube_in_an_extension_is_named(tmp_path: Path, stored: Stored) -> None:
    path = write(tmp_path / "a.fits", image(stored("int16", (7, 4, 5)), "CUBE"))
    assert "7 planes of 5 x 4 pixels in extension 1 'CUBE'" in refused(path)


# --- several images ---


def test_the_primary_image_is_the_frame_and_the_rest_is_noted(
    tmp_path: Path, stored: Stored, whole: Whole
) -> None:
    data = stored("int16")
    extensions = (image(data, "SCI"), image(data, "MASK"), image(data, "CCD2"))
    path = write(tmp_path / "a.fits", *extensions, primary=fits.PrimaryHDU(data[::-1]))
    (file,) = examine(path)
    np.testing.assert_array_equal(whole(file), data[::-1])
    assert file.notes == ("3 images in the file: only primary is used",)


def test_companions_are_no_frames(tmp_path: Path, stored: Stored, whole: Whole) -> None:
    data = stored("int16")
    path = write(
        tmp_path / "a.fits",
        fits.BinTableHDU.from_columns([fits.Column("A", "E", array=np.ones(3))]),
        image(np.ones((4, 4), "f4"), "D2IMARR"),
        image(data, "SCI", FILTER="R"),
        *(image(data[::-1], name) for name in ("ERR", "DQ", "CCD1.MASK", "WEIGHT_2", "VAR_POISSON")),
    )
    (file,) = examine(path)
    np.testing.assert_array_equal(whole(file), data)
    assert file.header.value("FILTER") == "R"
    assert (file.part, file.notes) == ("", ())


@pytest.mark.parametrize(
    ("first", "second", "parts"),
    [
        (("SCI", {"EXTVER": 1}), ("SCI", {"EXTVER": 2}), ["SCI1", "SCI2"]),
        (("SCI", {}), ("SCI2", {}), ["SCI", "SCI2"]),
        (("IM1", {}), ("IM2", {}), ["IM1", "IM2"]),
        (("N1", {"CCDNUM": 32}), ("S4", {"CCDNUM": 28}), ["N1", "S4"]),
        (("A", CHIP), ("B", CHIP | {"CRPIX1": 900.0}), ["A", "B"]),
        (("", CHIP), ("", CHIP | {"CRVAL2": 21.0}), ["EXT1", "EXT2"]),
        (("chip", {}), ("chip", {}), ["CHIP1", "CHIP2"]),
    ],
)
def test_chips_and_exposures_are_frames_each(
    tmp_path: Path,
    stored: Stored,
    whole: Whole,
    first: tuple[str, dict[str, Any]],
    second: tuple[str, dict[str, Any]],
    parts: list[str],
) -> None:
    one, two = stored("int16"), stored("int16", seed=2)
    path = write(tmp_path / "a.fits", image(one, first[0], **first[1]), image(two, second[0], **second[1]))
    files = examine(path)
    assert [f.part for f in files] == parts
    np.testing.assert_array_equal(whole(files[0]), one)
    np.testing.assert_array_equal(whole(files[1]), two)
    assert files[0].content != files[1].content
    assert {f.notes for f in files} == {()}


@pytest.mark.parametrize(
    ("name", "kind", "shape", "cards"),
    [
        ("SIGMAMAP", "int16", (23, 37), CHIP),  # the same WCS: of the same picture
        ("OTHER", "int16", (23, 37), {}),
        ("SCI2", "float32", (23, 37), {}),
        ("SCI2", "int16", (10, 37), {}),
        ("FS1", "int16", (11, 18), {"CCDNUM": 63}),
    ],
)
def test_what_does_not_look_like_the_frame_is_noted(
    tmp_path: Path, stored: Stored, name: str, kind: str, shape: tuple[int, int], cards: dict[str, Any]
) -> None:
    path = write(
        tmp_path / "a.fits",
        image(stored("int16"), "SCI", **(CHIP | {"CCDNUM": 1})),
        image(stored(kind, shape), name, **cards),
    )
    (file,) = examine(path)
    assert file.source.shape == (23, 37)
    assert file.notes == ("2 images in the file: only extension 1 'SCI' is used",)


def test_the_many_chips_win_over_a_guide_chip_that_comes_first(tmp_path: Path, stored: Stored) -> None:
    chips = [image(stored("int16", seed=k), f"CCD{k}", CCDNUM=k) for k in range(1, 4)]
    path = write(tmp_path / "a.fits", image(stored("int16", (8, 9)), "GUIDE", CCDNUM=90), *chips)
    files = examine(path)
    assert [f.part for f in files] == ["CCD1", "CCD2", "CCD3"]
    assert files[0].notes == ("4 images in the file: only 3, extension 2 'CCD1' and its like, is used",)


def test_tile_compressed_chips_as_fpack_leaves_them(tmp_path: Path, stored: Stored, whole: Whole) -> None:
    data = [stored("int16", seed=k) for k in range(3)]
    chips = [
        fits.CompImageHDU(d, fits.Header({"CCDNUM": k}), name=f"S{k}", compression_type="RICE_1")
        for k, d in enumerate(data)
    ]
    files = examine(write(tmp_path / "a.fits.fz", *chips))
    assert [f.part for f in files] == ["S0", "S1", "S2"]
    for file, pixels in zip(files, data, strict=True):
        np.testing.assert_array_equal(whole(file), pixels)


def test_chips_of_a_compressed_file(tmp_path: Path, stored: Stored, whole: Whole) -> None:
    data = [stored("int16", (100, 120), seed=k) for k in range(3)]
    path = write(tmp_path / "a.fits", *(image(d, f"CCD{k}") for k, d in enumerate(data)))
    plain = examine(path)
    path.write_bytes(gzip.compress(path.read_bytes()))
    files = examine(path)
    assert [f.part for f in files] == ["CCD0", "CCD1", "CCD2"]
    for file, twin, pixels in zip(files, plain, data, strict=True):
        np.testing.assert_array_equal(whole(file), pixels)
        assert file.header_digest == twin.header_digest


def test_a_chip_that_is_cut_off_is_left_out(tmp_path: Path, stored: Stored) -> None:
    path = write(tmp_path / "a.fits", *(image(stored("int16"), f"CCD{k}") for k in range(3)))
    path.write_bytes(path.read_bytes()[:-2880])
    files = examine(path)
    assert [f.part for f in files] == ["CCD0", "CCD1"]
    assert files[0].notes[0].startswith("extension 3 'CCD2' is left out: truncated: 37 x 23 pixels")
    packed = gzip.compress(path.read_bytes())
    path.write_bytes(packed)
    assert [f.part for f in examine(path)] == ["CCD0", "CCD1"]


def test_a_broken_header_behind_the_chips_is_no_matter(tmp_path: Path, stored: Stored) -> None:
    path = write(tmp_path / "a.fits", *(image(stored("int16"), f"CCD{k}") for k in range(2)))
    with path.open("ab") as file:
        file.write(b"XTENSION= 'IMAGE   '".ljust(1000))
    assert [f.part for f in examine(path)] == ["CCD0", "CCD1"]


def test_an_image_without_pixels_gives_way_to_one_that_has_some(tmp_path: Path, stored: Stored) -> None:
    path = write(tmp_path / "a.fits", image(np.zeros((0, 5), "i2"), "A"), image(stored("int16"), "B"))
    (file,) = examine(path)
    assert file.source.shape == (23, 37)
    assert "an image without pixels in extension 1 'A'" in refused(write(path, image(np.zeros((0, 5), "i2"), "A")))


def test_an_extension_inherits_what_it_lacks(tmp_path: Path, stored: Stored) -> None:
    primary = fits.PrimaryHDU(header=fits.Header({"FILTER": "R", "EXPTIME": 5.0, "CTYPE1": "RA---TAN"}))
    (file,) = examine(write(tmp_path / "a.fits", image(stored("int16"), EXPTIME=7.0), primary=primary))
    assert file.header.value("FILTER") == "R"
    assert file.header.value("EXPTIME") == 7.0
    assert file.wcs_header.value("CTYPE1") == "RA---TAN"
    (file,) = examine(write(tmp_path / "a.fits", image(stored("int16"), CTYPE1="DEC--TAN"), primary=primary))
    # Never half of one WCS and half of another.
    assert "FILTER" not in file.wcs_header
