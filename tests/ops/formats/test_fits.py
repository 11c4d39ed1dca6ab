"""FITS files that hold no frame are refused with a reason; frames have a content id that follows their bytes."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyloom.ops.formats.fits import BLOCK, examine, matches
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.formats.plain_pixels import sample_offsets

Write = Callable[..., Path]
Stored = Callable[..., NDArray[Any]]
Whole = Callable[[FrameFile], NDArray[np.float32]]
SIMPLE = "SIMPLE  =                    T"


def only(path: Path) -> FrameFile:
    (file,) = examine(path)
    return file


def refused(path: Path) -> str:
    with pytest.raises(UnusableFile) as caught:
        examine(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


# --- refusals ---


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"# comment\nx y\n", "begins with text"),
        (b"\x00\x01\x02\x03", "begins with binary"),
        (b"SIMP", "truncated: only 4 bytes"),
        (gzip.compress(b"hello, no FITS", mtime=0), "begins with text"),
        (SIMPLE.ljust(80).encode() * 25, "2000 bytes without an END"),
        (SIMPLE.ljust(80).encode() * 72, "without an END"),
    ],
)
def test_what_is_no_fits_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.fits").write_bytes(content)
    assert reason in refused(tmp_path / "a.fits")


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        (["NAXIS   = 0"], "BITPIX is missing"),
        (["BITPIX  = 17", "NAXIS   = 0"], "BITPIX = 17"),
        (["BITPIX  = 16", "NAXIS   = 'two'"], "NAXIS = 'two'"),
        (["BITPIX  = 16", "NAXIS   = 2000000"], "NAXIS = 2000000"),
        (["BITPIX  = 16", "NAXIS   = 2"], "NAXIS1 is missing"),
        (["BITPIX  = 16", "NAXIS   = 1", "NAXIS1  = -5"], "NAXIS1 = -5"),
        (["BITPIX  = 16", "NAXIS   = 0"], "only a header"),
        (["BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 1000000000", "NAXIS2  = 1000000000"], "the file has 2880"),
    ],
)
def test_headers_that_make_no_sense_are_refused(
    tmp_path: Path, header_block: Callable[..., bytes], cards: list[str], reason: str
) -> None:
    (tmp_path / "a.fits").write_bytes(header_block(SIMPLE, *cards))
    assert reason in refused(tmp_path / "a.fits")


def test_values_that_make_no_image(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    path = tmp_path / "a.fits"
    assert "no image" in refused(plain_file(path, np.zeros((0, 5), ">i2")))
    assert "not T" in refused(plain_file(path, stored(">i2"), simple="F"))
    assert "BSCALE = 0" in refused(plain_file(path, stored(">i2"), "BSCALE  = 0.0"))
    assert "BZERO = 'abc'" in refused(plain_file(path, stored(">i2"), "BZERO   = 'abc'"))


def test_nonsense_in_cards_without_a_meaning_here_is_no_matter(
    tmp_path: Path, plain_file: Write, stored: Stored, whole: Whole
) -> None:
    data = stored(">i2")
    path = plain_file(tmp_path / "a.fits", data, "PCOUNT  = -7", "GCOUNT  = 'x'", "ZIMAGE  = T", "ZNAXIS  = 0")
    np.testing.assert_array_equal(whole(only(path)), data)


def test_random_groups_and_tables(tmp_path: Path) -> None:
    groups = fits.GroupData(
        np.arange(100.0).reshape(10, 1, 1, 2, 5), bitpix=-32, parnames=["A"], pardata=[np.ones(10)]
    )
    fits.GroupsHDU(groups).writeto(tmp_path / "g.fits")
    assert "random groups" in refused(tmp_path / "g.fits")
    fits.BinTableHDU.from_columns([fits.Column("A", "E", array=np.ones(3))]).writeto(tmp_path / "t.fits")
    assert "extensions: 1, none of them a frame" in refused(tmp_path / "t.fits")


def test_truncated_data_says_how_much(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    path = plain_file(tmp_path / "a.fits", stored(">i2"))
    os.truncate(path, 3000)
    assert f"end at byte {BLOCK + 2 * 23 * 37}, the file has 3000" in refused(path)


def test_what_follows_the_frame_may_be_broken(
    tmp_path: Path, plain_file: Write, stored: Stored, whole: Whole
) -> None:
    path = plain_file(tmp_path / "a.fits", stored(">i2"))
    with path.open("ab") as file:
        file.write(b"XTENSION= 'IMAGE   '".ljust(1000))
    np.testing.assert_array_equal(whole(only(path)), stored(">i2"))


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path)
    assert "cannot be read" in refused(tmp_path / "none.fits")


def test_errors_travel_between_processes() -> None:
    error = UnusableFile("/x/a.fits", "broken")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.reason) == ("/x/a.fits: broken", "/x/a.fits", "broken")


def test_first_bytes() -> None:
    assert matches(SIMPLE.encode())
    assert matches(gzip.compress(b""))
    assert not matches(b"XISF0100")


# --- content ---


def test_content_goes_by_bytes_not_by_name(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    data = stored(">f4", (300, 400))
    first = only(plain_file(tmp_path / "a.fits", data))
    second = only(plain_file(tmp_path / "b.fit", data))
    assert first.content == second.content
    assert len(first.content) == 16
    changed = data.copy()
    changed[0, 0] += 1
    assert only(plain_file(tmp_path / "c.fits", changed)).content != first.content
    assert only(plain_file(tmp_path / "d.fits", data, "OBJECT  = 'M 8'")).content != first.content


def test_a_compressed_copy_has_the_same_plain_content(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    data = stored(">f4", (300, 400))
    plain = plain_file(tmp_path / "a.fits", data)
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    first, second = only(plain), only(tmp_path / "a.fits.gz")
    assert first.content != second.content
    assert first.header_digest == second.header_digest
    assert first.plain_content() == second.plain_content()
    other = only(plain_file(tmp_path / "b.fits", stored(">f4", (300, 400), seed=2)))
    assert other.plain_content() != first.plain_content()
    assert pickle.loads(pickle.dumps(second)).plain_content() == second.plain_content()
    (tmp_path / "a.fits.gz").unlink()
    with pytest.raises(UnusableFile, match=r"a\.fits\.gz: cannot be read"):
        second.plain_content()


def test_a_format_without_a_plain_content_has_its_content(
    tmp_path: Path, plain_file: Write, stored: Stored
) -> None:
    file = only(plain_file(tmp_path / "a.fits", stored(">f4")))
    other = FrameFile(file.source, file.header, file.header, "0123456789abcdef", "x", 16)
    assert other.plain_content() == "0123456789abcdef"


@given(st.integers(0, 2**40))
def test_samples_lie_within_the_data(count: int) -> None:
    starts = sample_offsets(count)
    assert len(starts) <= 16
    assert starts == sorted(set(starts))
    assert all(0 <= s < count for s in starts)
    if count > 16 * 16384:
        assert starts[-1] + 16384 == count
