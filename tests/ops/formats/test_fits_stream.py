"""Files that are compressed as a whole: gzip, bzip2 and `compress`, whatever their names."""

from __future__ import annotations

import bz2
import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.formats.fits import BLOCK, examine
from skyloom.ops.formats.fits_stream import Stream, codec_of
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile

Write = Callable[..., Path]
Stored = Callable[..., NDArray[Any]]
Whole = Callable[[FrameFile], NDArray[np.float32]]


def compress(data: bytes, width: int = 16) -> bytes:
    """LZW as `compress` writes it, the naive way: groups of eight codes, the table cleared when it is full."""
    out, bits, count = bytearray([0x1F, 0x9D, 0x80 | width]), 0, 0
    table = {bytes([i]): i for i in range(256)}
    size, group, prefix, following = 9, 0, b"", 257

    def put(code: int) -> None:
        nonlocal bits, count, group
        bits |= code << count
        count += size
        group += 1
        while count >= 8:
            out.append(bits & 255)
            bits, count = bits >> 8, count - 8

    def align() -> None:
        nonlocal bits, count, group
        while group % 8:
            put(0)
        group = 0

    for value in data:
        byte = bytes([value])
        if prefix + byte in table:
            prefix += byte
            continue
        put(table[prefix])
        if following < 1 << width:
            table[prefix + byte] = following
            following += 1
            if following > 1 << size and size < width:
                align()
                size += 1
        else:
            put(256)
            align()
            table = {bytes([i]): i for i in range(256)}
            size, following = 9, 257
        prefix = byte
    put(table[prefix])
    if count:
        out.append(bits & 255)
    return bytes(out)


PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "bzip2": bz2.compress, "compress": compress}


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.FIT"])
@pytest.mark.parametrize("codec", PACK)
def test_compression_goes_by_content_not_by_name(
    tmp_path: Path, plain_file: Write, stored: Stored, whole: Whole, name: str, codec: str
) -> None:
    data = stored(">i2", (61, 90))
    plain = plain_file(tmp_path / "plain", data).read_bytes()
    (tmp_path / name).write_bytes(PACK[codec](plain))
    (file,) = examine(tmp_path / name)
    assert file.codec == codec
    assert not file.source.windowed
    np.testing.assert_array_equal(whole(file), data)


@pytest.mark.parametrize("width", [12, 16])
def test_compress_with_a_table_that_overflows(tmp_path: Path, width: int) -> None:
    data = np.random.default_rng(2).integers(0, 40, 200000, dtype=np.uint8).tobytes()
    (tmp_path / "a.Z").write_bytes(compress(data, width))
    with Stream(str(tmp_path / "a.Z"), "compress") as stream:
        assert stream.read_at(0, 300000) == data


def test_compress_without_its_package_says_what_to_do(
    tmp_path: Path, plain_file: Write, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plain_file(tmp_path / "plain", stored(">i2")).read_bytes()
    (tmp_path / "a.Z").write_bytes(compress(plain))
    monkeypatch.setitem(sys.modules, "uncompresspy", None)
    with pytest.raises(UnusableFile, match=r"install the package uncompresspy, or run `gunzip`"):
        examine(tmp_path / "a.Z")


@pytest.mark.parametrize("head", [b"\x1f\x9d", b"\x1f\x9d\x90", b"\x1f\x9d\x9f....", b"\x1f\x9d\xf0...."])
def test_heads_of_compress_that_make_no_sense(tmp_path: Path, head: bytes) -> None:
    (tmp_path / "a.Z").write_bytes(head)
    with pytest.raises(UnusableFile):
        examine(tmp_path / "a.Z")


def test_several_gzip_members_and_padding(tmp_path: Path, plain_file: Write, stored: Stored, whole: Whole) -> None:
    data = stored(">i2", (200, 300))
    plain = plain_file(tmp_path / "plain", data).read_bytes()
    parts = [plain[:5000], plain[5000:70000], plain[70000:]]
    (tmp_path / "a.gz").write_bytes(b"".join(gzip.compress(p) for p in parts) + b"\0" * 700)
    np.testing.assert_array_equal(whole(examine(tmp_path / "a.gz")[0]), data)


@pytest.mark.parametrize("cut", range(3))
def test_a_member_that_begins_across_two_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    first, second = gzip.compress(b"x" * 999), gzip.compress(b"y" * 999)
    (tmp_path / "a.gz").write_bytes(first + second)
    monkeypatch.setattr("skyloom.ops.formats.fits_stream.CHUNK", len(first) + cut)
    with Stream(str(tmp_path / "a.gz"), "gzip") as stream:
        assert stream.read_at(0, 3000) == b"x" * 999 + b"y" * 999


def test_reads_go_forward_and_end(tmp_path: Path) -> None:
    data = bytes(range(256)) * 500
    for codec, pack in PACK.items():
        (tmp_path / codec).write_bytes(pack(data))
        with Stream(str(tmp_path / codec), codec) as stream:
            assert stream.read_at(10, 5) == data[10:15]
            assert stream.read_at(12, 70000) == data[12:70012]
            with pytest.raises(ValueError, match="read forward"):
                stream.read_at(3, 1)
            assert stream.read_at(100000, 10**9) == data[100000:]
            assert stream.length() == len(data)
            assert stream.read_at(10**6, 4) == b""


def test_a_bomb_is_decompressed_piece_by_piece(tmp_path: Path) -> None:
    (tmp_path / "a.bz2").write_bytes(bz2.compress(bytes(40 * 2**20)))
    with Stream(str(tmp_path / "a.bz2"), "bzip2") as stream:
        assert max(len(c) for c in stream._inflate()) <= 2**22


@pytest.mark.parametrize("codec", ["gzip", "bzip2"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.98])
def test_truncated_streams_are_refused(
    tmp_path: Path, plain_file: Write, stored: Stored, codec: str, keep: float
) -> None:
    packed = PACK[codec](plain_file(tmp_path / "plain", stored(">i2", (200, 300))).read_bytes())
    (tmp_path / "a.fits").write_bytes(packed[: int(keep * len(packed))])
    with pytest.raises(UnusableFile, match=f"truncated {codec} stream"):
        examine(tmp_path / "a.fits")


def test_a_truncated_compress_stream_is_refused(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    packed = compress(plain_file(tmp_path / "plain", stored(">i2", (60, 80))).read_bytes())
    (tmp_path / "a.Z").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UnusableFile, match=r"truncated: 80 x 60 pixels \(BITPIX 16\) end at byte 12480"):
        examine(tmp_path / "a.Z")


def test_a_corrupt_stream_is_refused(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    packed = bytearray(gzip.compress(plain_file(tmp_path / "plain", stored(">i2", (200, 300))).read_bytes()))
    packed[50:60] = b"\xff" * 10
    (tmp_path / "a.fits").write_bytes(packed)
    with pytest.raises(UnusableFile, match="corrupt gzip stream"):
        examine(tmp_path / "a.fits")


def test_a_stream_that_ends_well_but_early_is_refused(tmp_path: Path, plain_file: Write, stored: Stored) -> None:
    plain = plain_file(tmp_path / "plain", stored(">i2", (200, 300))).read_bytes()
    (tmp_path / "a.fits").write_bytes(gzip.compress(plain[:-BLOCK]))
    with pytest.raises(UnusableFile, match=r"truncated: 300 x 200 pixels \(BITPIX 16\)"):
        examine(tmp_path / "a.fits")


def test_a_trailer_that_promises_too_much(tmp_path: Path, header_block: Callable[..., bytes]) -> None:
    cards = ["SIMPLE  =                    T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 32768", "NAXIS2  = 32767"]
    packed = bytearray(gzip.compress(header_block(*cards)))
    packed[-4:] = (BLOCK * 800000).to_bytes(4, "little")
    (tmp_path / "a.fits").write_bytes(packed)
    with pytest.raises(UnusableFile, match=r"corrupt gzip stream|truncated"):
        examine(tmp_path / "a.fits")


def test_codecs_by_their_first_bytes() -> None:
    assert [codec_of(h) for h in (b"\x1f\x8b\x08", b"BZh9", b"BZip", b"\x1f\x9d\x90", b"SIMPLE", b"")] == [
        *("gzip", "bzip2", "", "compress", "", "")
    ]
