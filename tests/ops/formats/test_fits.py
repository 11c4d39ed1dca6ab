"""FITS frames load bit by bit what astropy or plain arithmetic says, or are refused with a reason."""

from __future__ import annotations

import bz2
import gzip
import os
import pickle
import warnings
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
from skyloom.ops.formats.fits import (
    BLOCK,
    FrameFile,
    Header,
    UnusableFile,
    examine,
    physical,
    plain_content,
    sample_offsets,
)
from skyloom.ops.frames import forget_decoded, open_source

SHAPE = (23, 37)


def full(file: FrameFile) -> NDArray[np.float32]:
    """All pixels, opened the way other modules do."""
    source = open_source(file.source.spec())
    return source.read(slice(0, source.shape[0]), slice(0, source.shape[1]))


def card(text: str) -> bytes:
    return text.ljust(80).encode("latin-1")


def header_block(*cards: str) -> bytes:
    data = b"".join(card(c) for c in (*cards, "END"))
    return data.ljust(-(-len(data) // BLOCK) * BLOCK)


def plain_file(
    path: Path, data: NDArray[Any], *extra: str, simple: str = "T", pad: bool = True, bitpix: int | None = None
) -> Path:
    """A primary image written without any library."""
    kinds = {"u1": 8, ">i2": 16, ">i4": 32, ">i8": 64, ">f4": -32, ">f8": -64}
    bits = bitpix or kinds[data.dtype.str.lstrip("|")]
    cards = [f"SIMPLE  = {simple:>20}", f"BITPIX  = {bits:20d}", f"NAXIS   = {data.ndim:20d}"]
    cards += [f"NAXIS{i + 1}  = {n:20d}" for i, n in enumerate(reversed(data.shape))]
    raw = data.tobytes()
    path.write_bytes(
        header_block(*cards, *extra) + (raw.ljust(-(-len(raw) // BLOCK) * BLOCK, b"\0") if pad else raw)
    )
    return path


def stored(kind: str, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> NDArray[Any]:
    dtype = np.dtype(kind)
    random = np.random.default_rng(seed)
    if dtype.kind == "f":
        return random.normal(1000.0, 300.0, shape).astype(dtype)
    info = np.iinfo(dtype)
    values: NDArray[Any] = random.integers(info.min, info.max, shape, dtype=dtype.newbyteorder("="), endpoint=True)
    values.flat[:2] = info.min, info.max
    return values.astype(dtype)


# --- pixels ---


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
def test_every_type_is_read_as_plain_arithmetic_says(tmp_path: Path, kind: str, bzero: int) -> None:
    data = stored(kind)
    file = examine(plain_file(tmp_path / "a.fits", data, f"BZERO   = {bzero:20d}", "BSCALE  = 1"))
    if np.dtype(kind).kind == "f":
        expected = data.astype(np.float32)
    else:
        expected = np.array([float(int(v) + bzero) for v in data.ravel()]).astype(np.float32).reshape(SHAPE)
    pixels = full(file)
    assert pixels.dtype == np.dtype("=f4")
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_astropy_reads_the_same(tmp_path: Path, kind: str) -> None:
    data = stored(kind)
    fits.writeto(tmp_path / "a.fits", data)
    np.testing.assert_array_equal(full(examine(tmp_path / "a.fits")), data.astype(np.float32))


def test_scale_zero_point_and_blank(tmp_path: Path) -> None:
    data = stored(">i2")
    data[3, 4] = data[0, 0] = -999
    path = plain_file(
        tmp_path / "a.fits", data, "BSCALE  = 0.045777764213996", "BZERO   = 1500.", "BLANK   = -999"
    )
    expected = (data.astype(np.float64) * 0.045777764213996 + 1500.0).astype(np.float32)
    expected[data == -999] = np.nan
    np.testing.assert_array_equal(full(examine(path)), expected)


def test_blank_counts_in_stored_numbers(tmp_path: Path) -> None:
    data = np.array([[-32768, -32767], [0, 1]], dtype=">i2")
    path = plain_file(tmp_path / "a.fits", data, "BZERO   = 32768", "BLANK   = -32768")
    np.testing.assert_array_equal(full(examine(path)), [[np.nan, 1.0], [32768.0, 32769.0]])


def test_blank_means_nothing_for_floats(tmp_path: Path) -> None:
    data = np.array([[-1.0, 2.0]], dtype=">f4")
    np.testing.assert_array_equal(full(examine(plain_file(tmp_path / "a.fits", data, "BLANK   = -1"))), data)


def test_infinite_is_no_data(tmp_path: Path) -> None:
    data = np.array([[np.inf, -np.inf, np.nan, 1e300, 5.0]], dtype=">f8")
    pixels = full(examine(plain_file(tmp_path / "a.fits", data)))
    np.testing.assert_array_equal(pixels, [[np.nan] * 4 + [5.0]])


def test_the_stored_numbers_are_not_touched() -> None:
    raw = np.arange(6, dtype="f4").reshape(2, 3)
    pixels = physical(raw)
    pixels[:] = -1
    assert raw.tolist() == [[0, 1, 2], [3, 4, 5]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), codec=st.sampled_from(["plain", "gzip", "tiles"]))
def test_any_window_is_cut_from_the_whole(tmp_path: Path, data: st.DataObject, codec: str) -> None:
    path = tmp_path / f"{codec}.fits"
    pixels = stored("uint16")
    if not path.exists():
        hdu = fits.CompImageHDU(pixels, compression_type="RICE_1") if codec == "tiles" else fits.PrimaryHDU(pixels)
        hdu.writeto(path)
        if codec == "gzip":
            path.write_bytes(gzip.compress(path.read_bytes()))
    y = sorted(data.draw(st.tuples(*[st.integers(0, SHAPE[0])] * 2)))
    x = sorted(data.draw(st.tuples(*[st.integers(0, SHAPE[1])] * 2)))
    source = examine(path).source
    window = source.read(slice(*y), slice(*x))
    np.testing.assert_array_equal(source.read(slice(y[0], None), slice(None, x[1])), pixels[y[0] :, : x[1]])
    np.testing.assert_array_equal(window, pixels[slice(*y), slice(*x)].astype(np.float32))
    assert window.flags.c_contiguous
    window[:] = -1
    assert full(examine(path)).min() >= 0


def test_axes_of_length_one_are_dropped(tmp_path: Path) -> None:
    data = stored(">f4")
    file = examine(plain_file(tmp_path / "a.fits", data[None, None]))
    np.testing.assert_array_equal(full(file), data)


def test_missing_padding_is_no_matter(tmp_path: Path) -> None:
    data = stored(">i2")
    np.testing.assert_array_equal(full(examine(plain_file(tmp_path / "a.fits", data, pad=False))), data)


def test_the_first_real_image_extension_is_taken(tmp_path: Path) -> None:
    data = stored("int16")
    fits.HDUList(
        [
            fits.PrimaryHDU(),
            fits.BinTableHDU.from_columns([fits.Column("A", "E", array=np.ones(3))]),
            fits.ImageHDU(np.ones((4, 4), "f4"), name="D2IMARR"),
            fits.ImageHDU(data, fits.Header({"FILTER": "R"}), name="SCI"),
            fits.ImageHDU(data, name="ERR"),
            fits.ImageHDU(data[::-1], name="SCI2"),
        ]
    ).writeto(tmp_path / "a.fits")
    file = examine(tmp_path / "a.fits")
    np.testing.assert_array_equal(full(file), data)
    assert file.header.value("FILTER") == "R"
    assert file.notes == ("2 images in the file: only extension 3 'SCI' is used",)


def test_an_extension_inherits_what_it_lacks(tmp_path: Path) -> None:
    primary = fits.Header({"FILTER": "R", "EXPTIME": 5.0, "CTYPE1": "RA---TAN"})
    fits.HDUList(
        [fits.PrimaryHDU(header=primary), fits.ImageHDU(stored("int16"), fits.Header({"EXPTIME": 7.0}))]
    ).writeto(tmp_path / "a.fits")
    file = examine(tmp_path / "a.fits")
    assert file.header.value("FILTER") == "R"
    assert file.header.value("EXPTIME") == 7.0
    assert file.wcs_header.value("CTYPE1") == "RA---TAN"


def test_what_follows_the_frame_may_be_broken(tmp_path: Path) -> None:
    path = plain_file(tmp_path / "a.fits", stored(">i2"))
    with path.open("ab") as file:
        file.write(b"XTENSION= 'IMAGE   '".ljust(1000))
    np.testing.assert_array_equal(full(examine(path)), stored(">i2"))


# --- compressed files ---


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.FIT"])
def test_gzip_goes_by_content_not_by_name(tmp_path: Path, name: str) -> None:
    data = stored(">i2")
    plain = plain_file(tmp_path / "plain", data).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(plain))
    file = examine(tmp_path / name)
    assert not file.source.windowed
    np.testing.assert_array_equal(full(file), data)


def test_several_gzip_members_and_padding(tmp_path: Path) -> None:
    data = stored(">i2", (200, 300))
    plain = plain_file(tmp_path / "plain", data).read_bytes()
    parts = [plain[:5000], plain[5000:70000], plain[70000:]]
    (tmp_path / "a.gz").write_bytes(b"".join(gzip.compress(p) for p in parts) + b"\0" * 700)
    np.testing.assert_array_equal(full(examine(tmp_path / "a.gz")), data)


def test_bzip2(tmp_path: Path) -> None:
    data = stored(">f4")
    (tmp_path / "a.fits").write_bytes(bz2.compress(plain_file(tmp_path / "plain", data).read_bytes()))
    np.testing.assert_array_equal(full(examine(tmp_path / "a.fits")), data)


@pytest.mark.parametrize("codec", ["gzip", "bzip2"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.98])
def test_truncated_streams_are_refused(tmp_path: Path, codec: str, keep: float) -> None:
    plain = plain_file(tmp_path / "plain", stored(">i2", (200, 300))).read_bytes()
    packed = gzip.compress(plain) if codec == "gzip" else bz2.compress(plain)
    (tmp_path / "a.fits").write_bytes(packed[: int(keep * len(packed))])
    with pytest.raises(UnusableFile, match=f"truncated {codec} stream"):
        examine(tmp_path / "a.fits")


def test_a_corrupt_stream_is_refused(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(plain_file(tmp_path / "plain", stored(">i2", (200, 300))).read_bytes()))
    packed[50:60] = b"\xff" * 10
    (tmp_path / "a.fits").write_bytes(packed)
    with pytest.raises(UnusableFile, match="corrupt gzip stream"):
        examine(tmp_path / "a.fits")


def test_a_stream_that_ends_well_but_early_is_refused(tmp_path: Path) -> None:
    plain = plain_file(tmp_path / "plain", stored(">i2", (200, 300))).read_bytes()
    (tmp_path / "a.fits").write_bytes(gzip.compress(plain[:-BLOCK]))
    with pytest.raises(UnusableFile, match=r"truncated: 300 x 200 pixels \(BITPIX 16\)"):
        examine(tmp_path / "a.fits")


@pytest.mark.parametrize("method", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1", "NOCOMPRESS"])
@pytest.mark.parametrize("packed", [False, True])
def test_tile_compressed_integers(tmp_path: Path, method: str, packed: bool) -> None:
    kind = "int16" if method == "PLIO_1" else "uint16"
    # Like a sky, not white noise: astropy 8.0's HCOMPRESS encoder overruns its buffer on that and aborts.
    data = np.random.default_rng(3).normal(1000.0, 9.0, SHAPE).astype(kind)
    fits.CompImageHDU(data, compression_type=method).writeto(tmp_path / "a.fits")
    if packed:
        (tmp_path / "a.fits").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    np.testing.assert_array_equal(full(examine(tmp_path / "a.fits")), data.astype(np.float32))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_tile_compressed_floats_as_astropy_dequantizes_them(tmp_path: Path, kind: str) -> None:
    data = stored(kind)
    data[5, 5:9] = np.nan
    fits.CompImageHDU(data, compression_type="RICE_1", quantize_level=16, dither_seed=7).writeto(
        tmp_path / "a.fits"
    )
    expected = fits.getdata(tmp_path / "a.fits").astype(np.float32)
    pixels = full(examine(tmp_path / "a.fits"))
    np.testing.assert_array_equal(pixels, expected)
    assert np.isnan(pixels[5, 5:9]).all()


def test_odd_cards_do_not_reach_the_tile_decoder(tmp_path: Path) -> None:
    data = stored("int16")
    fits.CompImageHDU(data, fits.Header({"OBJECT": "M 8"}), compression_type="RICE_1").writeto(tmp_path / "a.fits")
    raw = (tmp_path / "a.fits").read_bytes()
    at = raw.index(b"OBJECT  = ")
    (tmp_path / "a.fits").write_bytes(raw[:at] + b"OBJ\x01CT = 2017-11-15T20:08:13".ljust(80) + raw[at + 80 :])
    file = examine(tmp_path / "a.fits")
    np.testing.assert_array_equal(full(file), data)
    assert file.notes == ("1 header card(s) violate the FITS standard and were skipped or guessed",)


def test_corrupt_tiles_are_an_error_of_the_file(tmp_path: Path) -> None:
    fits.CompImageHDU(stored("int16"), compression_type="GZIP_1").writeto(tmp_path / "a.fits")
    raw = bytearray((tmp_path / "a.fits").read_bytes())
    file = examine(tmp_path / "a.fits")
    start = file.source.offset + 8 * SHAPE[0]
    raw[start : start + 300] = b"\xa5" * 300
    (tmp_path / "a.fits").write_bytes(raw)
    with pytest.raises(UnusableFile, match=r"a\.fits: corrupt tile-compressed data"):
        full(examine(tmp_path / "a.fits"))


def test_a_wrong_data_sum_of_tiles_is_noticed(tmp_path: Path) -> None:
    data = stored("int16")
    fits.CompImageHDU(data, compression_type="RICE_1").writeto(tmp_path / "a.fits", checksum=True)
    file = examine(tmp_path / "a.fits")
    np.testing.assert_array_equal(full(file), data)
    raw = bytearray((tmp_path / "a.fits").read_bytes())
    raw[file.source.offset + file.source.stored - 40] ^= 1
    (tmp_path / "a.fits").write_bytes(raw)
    with pytest.raises(UnusableFile, match=r"corrupt data: sum \d+, DATASUM says \d+"):
        full(examine(tmp_path / "a.fits"))


# --- refusals ---


def refused(path: Path) -> str:
    with pytest.raises(UnusableFile) as caught:
        examine(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"# comment\nx y\n", "begins with text"),
        (b"\x00\x01\x02\x03", "begins with binary"),
        (b"SIMP", "truncated: only 4 bytes"),
        (b"PK\x03\x04....", "zip archive"),
        (b"\x1f\x9d\x90", "gunzip"),
        (b"XISF0100....", "XISF"),
        (b"II*\x00....", "TIFF"),
        (gzip.compress(b"hello, no FITS"), "begins with text"),
        (card("SIMPLE  =                    T") * 25, "2000 bytes without an END"),
        (card("SIMPLE  =                    T") * 72, "without an END"),
        (header_block("SIMPLE  =                    T", "NAXIS   = 0"), "BITPIX is missing"),
        (header_block("SIMPLE  =                    T", "BITPIX  = 17", "NAXIS   = 0"), "BITPIX = 17"),
        (header_block("SIMPLE  =                    T", "BITPIX  = 16", "NAXIS   = 'two'"), "NAXIS = 'two'"),
        (header_block("SIMPLE  =                    T", "BITPIX  = 16", "NAXIS   = 2000000"), "NAXIS = 2000000"),
        (header_block("SIMPLE  =                    T", "BITPIX  = 16", "NAXIS   = 2"), "NAXIS1 is missing"),
        (
            header_block("SIMPLE  =                    T", "BITPIX  = 16", "NAXIS   = 1", "NAXIS1  = -5"),
            "NAXIS1 = -5",
        ),
        (header_block("SIMPLE  =                    T", "BITPIX  = 16", "NAXIS   = 0"), "only a header"),
    ],
)
def test_what_is_no_frame_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.fits").write_bytes(content)
    assert reason in refused(tmp_path / "a.fits")


def test_shapes_that_are_no_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    assert "3 planes of 5 x 4 pixels" in refused(plain_file(path, stored(">i2", (3, 4, 5))))
    assert "split it into planes" in refused(plain_file(path, stored(">i2", (3, 4, 5))))
    assert "a row of 7 values" in refused(plain_file(path, stored(">i2", (7,))))
    assert "no image" in refused(plain_file(path, np.zeros((0, 5), ">i2")))
    assert "not T" in refused(plain_file(path, stored(">i2"), simple="F"))
    assert "BSCALE = 0" in refused(plain_file(path, stored(">i2"), "BSCALE  = 0.0"))
    assert "BZERO = 'abc'" in refused(plain_file(path, stored(">i2"), "BZERO   = 'abc'"))


def test_random_groups_and_tables(tmp_path: Path) -> None:
    groups = fits.GroupData(
        np.arange(100.0).reshape(10, 1, 1, 2, 5), bitpix=-32, parnames=["A"], pardata=[np.ones(10)]
    )
    fits.GroupsHDU(groups).writeto(tmp_path / "g.fits")
    assert "random groups" in refused(tmp_path / "g.fits")
    fits.BinTableHDU.from_columns([fits.Column("A", "E", array=np.ones(3))]).writeto(tmp_path / "t.fits")
    assert "extensions: 1, none of them a frame" in refused(tmp_path / "t.fits")


def test_truncated_data_says_how_much(tmp_path: Path) -> None:
    path = plain_file(tmp_path / "a.fits", stored(">i2"))
    os.truncate(path, 3000)
    assert f"end at byte {BLOCK + 2 * SHAPE[0] * SHAPE[1]}, the file has 3000" in refused(path)


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path)
    assert "cannot be read" in refused(tmp_path / "none.fits")


def test_errors_travel_between_processes(tmp_path: Path) -> None:
    error = UnusableFile("/x/a.fits", "broken")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.path, again.reason) == ("/x/a.fits: broken", "/x/a.fits", "broken")


# --- files that change ---


def test_a_changed_file_is_not_read(tmp_path: Path) -> None:
    path = plain_file(tmp_path / "a.fits", stored(">i2"))
    source = examine(path).source
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


def test_an_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = examine(plain_file(tmp_path / "a.fits", stored(">i2"))).source

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DataError, match=r"a\.fits: cannot be read: .*Input/output error"):
        source.read(slice(0, 1), slice(0, 1))


def test_reads_that_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(">i2")
    source = examine(plain_file(tmp_path / "a.fits", data)).source
    whole = os.preadv

    def partly(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", partly)
    np.testing.assert_array_equal(source.read(slice(2, 9), slice(3, 30)), data[2:9, 3:30])


def test_a_file_cut_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plain_file(tmp_path / "a.fits", stored(">i2"))
    source = examine(path).source
    monkeypatch.setattr(type(source), "_check_unchanged", lambda self: os.truncate(path, source.offset + 100))
    with pytest.raises(DataError, match=rf"truncated while it was read \(at byte {source.offset + 100}\)"):
        source.read(slice(0, 9), slice(0, SHAPE[1]))


def test_windows_of_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = stored(">i2", (2000, 9))
    source = examine(plain_file(tmp_path / "a.fits", data)).source
    for span in (2**26, 100):
        monkeypatch.setattr("skyloom.ops.formats.fits_pixels.IO_BYTES", span)
        np.testing.assert_array_equal(source.read(slice(1, 1999), slice(2, 7)), data[1:1999, 2:7])
        np.testing.assert_array_equal(source.read(slice(0, 2000), slice(0, 9)), data)


def test_no_file_stays_open(tmp_path: Path) -> None:
    source = examine(plain_file(tmp_path / "a.fits", stored(">i2"))).source
    kept = [source.read(slice(0, 2), slice(0, 2)) for _ in range(20)]
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("no list of open files on this system")
    assert "a.fits" not in {n.readlink().name for n in folder.iterdir() if n.is_symlink()}
    assert len(kept) == 20


# --- content ---


def test_content_goes_by_bytes_not_by_name(tmp_path: Path) -> None:
    data = stored(">f4", (300, 400))
    first = examine(plain_file(tmp_path / "a.fits", data))
    second = examine(plain_file(tmp_path / "b.fit", data))
    assert first.content == second.content
    assert len(first.content) == 16
    changed = data.copy()
    changed[0, 0] += 1
    assert examine(plain_file(tmp_path / "c.fits", changed)).content != first.content
    assert examine(plain_file(tmp_path / "d.fits", data, "OBJECT  = 'M 8'")).content != first.content


def test_a_compressed_copy_has_the_same_plain_content(tmp_path: Path) -> None:
    data = stored(">f4", (300, 400))
    plain = plain_file(tmp_path / "a.fits", data)
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress(plain.read_bytes()))
    first, second = examine(plain), examine(tmp_path / "a.fits.gz")
    assert first.content != second.content
    assert first.header_digest == second.header_digest
    assert plain_content(first) == plain_content(second)
    other = plain_file(tmp_path / "b.fits", stored(">f4", (300, 400), seed=2))
    assert plain_content(examine(other)) != plain_content(first)


@given(st.integers(0, 2**40))
def test_samples_lie_within_the_data(count: int) -> None:
    starts = sample_offsets(count)
    assert len(starts) <= 16
    assert starts == sorted(set(starts))
    assert all(0 <= s < count for s in starts)
    if count > 16 * 16384:
        assert starts[-1] + 16384 == count


# --- headers ---


def test_cards_as_astropy_reads_them() -> None:
    cards = fits.Header()
    values: dict[str, Any] = {
        "A": 1,
        "B": -2.5e-7,
        "C": "it's / odd",
        "D": True,
        "E": False,
        "F": "",
        "G": 12345678901234567890,
        "H": "trailing   ",
        "LONG": "x" * 200,
    }
    for key, value in values.items():
        cards[key] = (value, f"comment of {key}"[:40])
    cards["HIERARCH ESO DET ID"] = 7
    cards.add_comment("A = 5")
    header = Header(cards.tostring().encode("ascii"))
    for key, value in values.items():
        expected = value.rstrip() if isinstance(value, str) else value
        assert header.value(key, "") == expected, key
        assert header[key].comment == (f"comment of {key}")
    assert header.value("ESO DET ID") == 7
    assert header.odd == 0
    assert set(header) == {*values, "ESO DET ID"}


@pytest.mark.parametrize(
    ("text", "value", "comment"),
    [
        ("A       = 1.5D3 / double", 1500.0, "double"),
        ("A       =T/tight", True, "tight"),
        ("A       ='abc'", "abc", ""),
        ("A       = 2017-11-15T20:08:13", "2017-11-15T20:08:13", ""),
        ("A       = 'never closed", "never closed", ""),
        ("A       = / nothing", None, "nothing"),
        ("A       =", None, ""),
        ("A       = .5", 0.5, ""),
        ("A       = +7", 7, ""),
        ("A       = 1e999", np.inf, ""),
        ("A       = NaN", "NaN", ""),
        ("A       = 12:34:56", "12:34:56", ""),
    ],
)
def test_lenient_values(text: str, value: object, comment: str) -> None:
    header = Header(card(text) + card("END"))
    assert header["A"].value == value
    assert header["A"].comment == comment


def test_the_first_of_a_keyword_counts() -> None:
    header = Header(
        card("A       = 1") + card("A       = 2") + card("CONTINUE  'x'") + card("END") + card("B       = 3")
    )
    assert header.value("A") == 1
    assert "B" not in header


def test_a_lower_case_keyword_can_be_continued() -> None:
    header = Header(card("HIERARCH some key = 'abc&'") + card("CONTINUE  'def' / more"))
    assert header["SOME KEY"] == ("abcdef", "more")


def test_a_primary_header_that_calls_itself_compressed_is_taken_as_it_is(tmp_path: Path) -> None:
    data = stored(">i2")
    file = examine(plain_file(tmp_path / "a.fits", data, "ZIMAGE  = T", "ZNAXIS  = 0"))
    np.testing.assert_array_equal(full(file), data)


# --- hostile input ---


def _try(path: Path) -> None:
    """Whatever the bytes, the only error is a DataError."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            file = examine(path)
            if file.source.shape[0] * file.source.shape[1] < 10**6:
                full(file)
        except DataError:
            pass


def _seeds() -> list[bytes]:
    import io

    def written(hdu: Any) -> bytes:
        buffer = io.BytesIO()
        hdu.writeto(buffer)
        return buffer.getvalue()

    header = fits.Header({"FILTER": "R", "CTYPE1": "RA---TAN", "BLANK": -1})
    data = stored("int16", (9, 11))
    plain = written(fits.PrimaryHDU(data, header))
    extension = written(fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data), fits.ImageHDU(data)]))
    tiles = written(fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, compression_type="GZIP_2")]))
    rice = written(fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data, compression_type="RICE_1")]))
    return [plain, extension, tiles, rice]


SEEDS = _seeds()
PLACES = [[i for i, b in enumerate(seed) if b not in b" \0"] for seed in SEEDS]
"""Headers are mostly blank: aim where there is something."""


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, len(SEEDS) - 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), max_size=6),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
    codec=st.sampled_from(["", "gzip", "bzip2"]),
)
def test_flipped_bits_and_cut_files_raise_only_data_errors(
    tmp_path: Path, seed: int, flips: list[tuple[float, int]], keep: float, codec: str
) -> None:
    broken, places = bytearray(SEEDS[seed]), PLACES[seed]
    for place, bit in flips:
        broken[places[int(place * len(places))]] ^= 1 << bit
    data = bytes(broken[: int(keep * len(broken))])
    if codec:
        data = gzip.compress(data, 1) if codec == "gzip" else bz2.compress(data)
    forget_decoded()
    path = tmp_path / "fuzz.fits"
    path.write_bytes(data)
    _try(path)


KEYWORDS = [
    "BITPIX",
    "NAXIS",
    "NAXIS1",
    "NAXIS2",
    "PCOUNT",
    "GCOUNT",
    "BZERO",
    "BSCALE",
    "BLANK",
    "SIMPLE",
    "GROUPS",
]
VALUES = [
    "0",
    "1",
    "-1",
    "2",
    "99999999999999999999",
    "1e400",
    "-32",
    "'16'",
    "T",
    "",
    "2.0",
    "2.5",
    "1E3",
    "NaN",
    "'",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, len(SEEDS) - 1),
    changes=st.dictionaries(st.sampled_from([*KEYWORDS, *(f"Z{k}" for k in KEYWORDS)]), st.sampled_from(VALUES)),
)
def test_absurd_values_raise_only_data_errors(tmp_path: Path, seed: int, changes: dict[str, str]) -> None:
    data = SEEDS[seed]
    for keyword, value in changes.items():
        mark = f"{keyword:8}=".encode()
        at = data.rfind(mark)
        if at >= 0 and at % 80 == 0:
            data = data[:at] + card(f"{keyword:8}= {value}") + data[at + 80 :]
    forget_decoded()
    path = tmp_path / "fuzz.fits"
    path.write_bytes(data)
    _try(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=400), start=st.sampled_from([b"", b"SIMPLE  =                    T".ljust(80)]))
def test_noise_raises_only_data_errors(tmp_path: Path, data: bytes, start: bytes) -> None:
    path = tmp_path / "fuzz.fits"
    path.write_bytes(start + data)
    _try(path)


# --- real files ---

REFUSED = {
    "planes": {"io_fits__arange", "HST_WFPC_II"},
    "a row of": {"io_fits__compressed_float_bzero"},
    "random groups": {
        "io_fits__group",
        "io_fits__invalid_group_invalid",
        "io_fits__random_groups",
        "Random_Groups",
    },
    "not a FITS file": {"modeling__idcompspec"},
    "not T": {"wcs__header_with_time", "wcs__header_with_time_wcslib71"},
    "gunzip": {"io_fits__lzw", "rp600245n00_im1", "test.fits.Z"},
    "empty file": {"empty"},
    "git lfs pull": {"git_lfs_pointer"},
    "truncated gzip": {"truncated.fits.gz"},
    "the file has 1200000": {"truncated_data"},
    "without an END": {"truncated_header"},
    "no image in this FITS file": set(),
}


def test_every_odd_file_loads_bit_exactly_or_is_refused_for_the_right_reason(
    shared_data: Callable[[str], Path],
) -> None:
    loaded, tables = 0, 0
    for path in sorted(p for p in shared_data("odd_fits").rglob("*") if p.is_file()):
        outcome = _outcome(path)
        if isinstance(outcome, str):
            key = next(k for k in REFUSED if k in outcome)
            if key == "no image in this FITS file":
                tables += 1
                assert not _images(path), path
            else:
                assert {path.name.partition(".")[0], path.name} & REFUSED[key], (path, outcome)
            continue
        file, loaded = outcome, loaded + 1
        np.testing.assert_array_equal(full(file), _independent(path), err_msg=str(path))
    assert (loaded, tables) == (57, 34)


def _images(path: Path) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with fits.open(path, do_not_scale_image_data=True, ignore_blank=True) as hdus:
            kinds = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)
            return [
                (hdu.header.copy(), np.array(hdu.data))
                for hdu in hdus
                if isinstance(hdu, kinds) and hdu.data is not None and hdu.data.size and hdu.name != "D2IMARR"
            ]


def _outcome(path: Path) -> FrameFile | str:
    try:
        return examine(path)
    except UnusableFile as failure:
        return failure.reason


def _independent(path: Path) -> NDArray[np.float32]:
    """Pixels by astropy's stored numbers and plain float64 arithmetic."""
    header, raw = _images(path)[0]
    with np.errstate(over="ignore"):
        values = raw.astype(np.float64) * float(header.get("BSCALE", 1)) + float(header.get("BZERO", 0))
        pixels: NDArray[np.float32] = values.reshape(values.shape[-2:]).astype(np.float32)
    if header["BITPIX"] > 0 and "BLANK" in header:
        pixels[raw.reshape(pixels.shape) == int(header["BLANK"])] = np.nan
    pixels[np.isinf(pixels)] = np.nan
    return pixels


@pytest.mark.parametrize(
    "name",
    ["2mass_m101_J", "2mass_m42_J_core", "jocular_arp145_L", "jocular_m8_LRGB", "seestar_m94_s1", "als_samples"],
)
def test_real_frames_load_bit_exactly(shared_data: Callable[[str], Path], name: str) -> None:
    for path in sorted(shared_data(name).iterdir())[:4]:
        np.testing.assert_array_equal(full(examine(path)), _independent(path), err_msg=str(path))
