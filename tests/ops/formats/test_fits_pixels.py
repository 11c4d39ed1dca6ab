"""Pixels of FITS frames: every type, scale and window as plain arithmetic and astropy say."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats import fits_pixels
from skyloom.ops.formats.fits import FitsSource, examine, physical
from skyloom.ops.formats.frame_file import FrameFile

SHAPE = (23, 37)
Write = Callable[..., Path]
Stored = Callable[..., NDArray[Any]]
Whole = Callable[[FrameFile], NDArray[np.float32]]


def only(path: Path) -> FrameFile:
    (file,) = examine(path)
    return file


def source_of(path: Path) -> FitsSource:
    source = only(path).source
    assert isinstance(source, FitsSource)
    return source


@pytest.mark.parametrize(
    ("kind", "bzero"),
    [
        ("u1", 0),
        ("u1", -128),
        (">i2", 0),
        (">i2", 32768),
        (">i4", 0),
        (">i4", 2**31),
        (">i8", 0),
        (">i8", 2**63),
        (">f4", 0),
        (">f8", 0),
    ],
)
def test_every_type_is_read_as_plain_arithmetic_says(
    tmp_path: Path, kind: str, bzero: int, plain_file: Write, stored: Stored, whole: Whole
) -> None:
    data = stored(kind)
    file = only(plain_file(tmp_path / "a.fits", data, f"BZERO   = {bzero:20d}", "BSCALE  = 1"))
    if np.dtype(kind).kind == "f":
        expected = data.astype(np.float32)
    else:
        expected = np.array([float(int(v) + bzero) for v in data.ravel()]).astype(np.float32).reshape(SHAPE)
    pixels = whole(file)
    assert pixels.dtype == np.dtype("=f4")
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_astropy_reads_the_same(tmp_path: Path, kind: str, stored: Stored, whole: Whole) -> None:
    data = stored(kind)
    fits.writeto(tmp_path / "a.fits", data)
    np.testing.assert_array_equal(whole(only(tmp_path / "a.fits")), data.astype(np.float32))


def test_scale_zero_point_and_blank(tmp_path: Path, plain_file: Write, stored: Stored, whole: Whole) -> None:
    data = stored(">i2")
    data[3, 4] = data[0, 0] = -999
    path = plain_file(
        tmp_path / "a.fits", data, "BSCALE  = 0.045777764213996", "BZERO   = 1500.", "BLANK   = -999"
    )
    expected = (data.astype(np.float64) * 0.045777764213996 + 1500.0).astype(np.float32)
    expected[data == -999] = np.nan
    np.testing.assert_array_equal(whole(only(path)), expected)


def test_blank_counts_in_stored_numbers(tmp_path: Path, plain_file: Write, whole: Whole) -> None:
    data = np.array([[-32768, -32767], [0, 1]], dtype=">i2")
    path = plain_file(tmp_path / "a.fits", data, "BZERO   = 32768", "BLANK   = -32768")
    np.testing.assert_array_equal(whole(only(path)), [[np.nan, 1.0], [32768.0, 32769.0]])


def test_blank_means_nothing_for_floats(tmp_path: Path, plain_file: Write, whole: Whole) -> None:
    data = np.array([[-1.0, 2.0]], dtype=">f4")
    np.testing.assert_array_equal(whole(only(plain_file(tmp_path / "a.fits", data, "BLANK   = -1"))), data)


def test_infinite_is_no_data(tmp_path: Path, plain_file: Write, whole: Whole) -> None:
    data = np.array([[np.inf, -np.inf, np.nan, 1e300, 5.0]], dtype=">f8")
    pixels = whole(only(plain_file(tmp_path / "a.fits", data)))
    np.testing.assert_array_equal(pixels, [[np.nan] * 4 + [5.0]])


def test_the_stored_numbers_are_not_touched() -> None:
    raw = np.arange(6, dtype="f4").reshape(2, 3)
    pixels = physical(raw)
    pixels[:] = -1
    assert raw.tolist() == [[0, 1, 2], [3, 4, 5]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), codec=st.sampled_from(["plain", "gzip", "tiles"]))
def test_any_window_is_cut_from_the_whole(
    tmp_path: Path, data: st.DataObject, codec: str, stored: Stored, whole: Whole
) -> None:
    path = tmp_path / f"{codec}.fits"
    pixels = stored("uint16")
    if not path.exists():
        hdu = fits.CompImageHDU(pixels, compression_type="RICE_1") if codec == "tiles" else fits.PrimaryHDU(pixels)
        hdu.writeto(path)
        if codec == "gzip":
            path.write_bytes(gzip.compress(path.read_bytes()))
    y = sorted(data.draw(st.tuples(*[st.integers(0, SHAPE[0])] * 2)))
    x = sorted(data.draw(st.tuples(*[st.integers(0, SHAPE[1])] * 2)))
    source = source_of(path)
    window = source.read(slice(*y), slice(*x))
    np.testing.assert_array_equal(source.read(slice(y[0], None), slice(None, x[1])), pixels[y[0] :, : x[1]])
    np.testing.assert_array_equal(window, pixels[slice(*y), slice(*x)].astype(np.float32))
    assert window.flags.c_contiguous
    window[:] = -1
    assert whole(only(path)).min() >= 0


def test_axes_of_length_one_are_dropped(tmp_path: Path, plain_file: Write, stored: Stored, whole: Whole) -> None:
    data = stored(">f4")
    file = only(plain_file(tmp_path / "a.fits", data[None, None]))
    np.testing.assert_array_equal(whole(file), data)


def test_missing_padding_is_no_matter(tmp_path: Path, plain_file: Write, stored: Stored, whole: Whole) -> None:
    data = stored(">i2")
    np.testing.assert_array_equal(whole(only(plain_file(tmp_path / "a.fits", data, pad=False))), data)


# --- files that change ---


def test_a_changed_file_is_not_read(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    path = plain_file(tmp_path / "a.fits", stored(">i2"))
    source = source_of(path)
    window = (slice(0, 2), slice(0, 2))
    source.read(*window)
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    with pytest.raises(DataError, match=r"a\.fits: changed since it was ingested \(it was written again\)"):
        source.read(*window)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=rf"changed since it was ingested \({facts.st_size} bytes then"):
        source.read(*window)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.fits: cannot be read: No such file"):
        source.read(*window)


def test_an_error_of_the_disk_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_file: Write, stored: Stored
) -> None:
    source = source_of(plain_file(tmp_path / "a.fits", stored(">i2")))

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DataError, match=r"a\.fits: cannot be read: .*Input/output error"):
        source.read(slice(0, 1), slice(0, 1))


def test_reads_that_come_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_file: Write, stored: Stored
) -> None:
    data = stored(">i2")
    source = source_of(plain_file(tmp_path / "a.fits", data))
    preadv = os.preadv

    def partly(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(descriptor, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", partly)
    np.testing.assert_array_equal(source.read(slice(2, 9), slice(3, 30)), data[2:9, 3:30])


def test_a_file_cut_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_file: Write, stored: Stored
) -> None:
    path = plain_file(tmp_path / "a.fits", stored(">i2"))
    source = source_of(path)
    monkeypatch.setattr(fits_pixels, "check_unchanged", lambda *state: os.truncate(path, source.offset + 100))
    with pytest.raises(DataError, match=rf"truncated while it was read \(at byte {source.offset + 100}\)"):
        source.read(slice(0, 9), slice(0, SHAPE[1]))


def test_windows_of_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_file: Write, stored: Stored
) -> None:
    data = stored(">i2", (2000, 9))
    source = source_of(plain_file(tmp_path / "a.fits", data))
    for span in (2**26, 100):
        monkeypatch.setattr("skyloom.ops.formats.plain_pixels.IO_BYTES", span)
        np.testing.assert_array_equal(source.read(slice(1, 1999), slice(2, 7)), data[1:1999, 2:7])
        np.testing.assert_array_equal(source.read(slice(0, 2000), slice(0, 9)), data)


def test_no_file_stays_open(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    source = source_of(plain_file(tmp_path / "a.fits", stored(">i2")))
    kept = [source.read(slice(0, 2), slice(0, 2)) for _ in range(20)]
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("no list of open files on this system")
    assert "a.fits" not in {n.readlink().name for n in folder.iterdir() if n.is_symlink()}
    assert len(kept) == 20
