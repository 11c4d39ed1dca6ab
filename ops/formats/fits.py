"""What is in a FITS file: the image that is the frame, its plan, its content id; or why there is none."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from skyloom.ops.formats.fits_header import BLOCK, CARD, Card, Header
from skyloom.ops.formats.fits_pixels import FitsSource, Stream, physical
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile

__all__ = [
    "BLOCK",
    "Card",
    "FitsSource",
    "FrameFile",
    "Header",
    "UnusableFile",
    "examine",
    "physical",
    "plain_content",
    "sample_offsets",
]

SUFFIXES = (".fit", ".fits", ".fts", ".fz", ".gz", ".bz2", ".z")
MAX_HEADER_BYTES = 4 * 2**20
MAX_HDUS = 200
SAMPLES = 16
SAMPLE_BYTES = 16 * 1024


_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"\x1f\x9d", "compressed with `compress` (.Z), which is not read: run `gunzip` on it first"),
    (b"\xfd7zXZ", "compressed with xz, which is not read: run `unxz` on it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd, which is not read: run `unzstd` on it first"),
    (b"version https://git-lfs", "a git-LFS pointer, not the file itself: run `git lfs pull`"),
    (b"XISF0100", "an XISF file: not read in this version, save it as FITS"),
    (b"II*\x00", "a TIFF (or camera raw) file: not read in this version, save it as FITS"),
    (b"MM\x00*", "a TIFF (or camera raw) file: not read in this version, save it as FITS"),
    (b"\x89PNG", "a PNG picture, no FITS"),
    (b"\xff\xd8\xff", "a JPEG picture, no FITS"),
    (b"\x89HDF", "an HDF5 file, no FITS"),
)
_AUXILIARY = re.compile(
    r"(D2IMARR|WCSDVARR|WCSCORR|ERR|ERROR|DQ|WHT|SAMP|TIME|CTX|MASK|BPM|DQMASK|VAR|VARIANCE|UNCERT\w*|IVAR|HDRLET)$"
)


def examine(path: str | Path) -> FrameFile:
    """Plan, headers and content id of the frame in a FITS file, from a few short reads.

    The frame is the primary image, or else the first image extension with data that is not a companion (errors,
    data quality, distortion tables); two-dimensional, or with further axes of length 1.

    Raises
    ------
    UnusableFile
        If there is no such image, or the file is not what its headers promise; the reason has numbers and remedy.
    """
    name = os.fspath(path)
    try:
        with Path(name).open("rb") as file:
            facts = os.fstat(file.fileno())
            head = file.read(64)
    except OSError as failure:
        raise UnusableFile(name, f"cannot be read: {failure.strerror or failure}") from failure
    codec = _check_signature(name, head, facts.st_size)
    try:
        with Stream(name, codec) as stream:
            return _examine(name, stream, codec, facts.st_size, facts.st_mtime_ns)
    except OSError as failure:
        raise UnusableFile(name, f"cannot be read: {failure.strerror or failure}") from failure


def _check_signature(name: str, head: bytes, size: int) -> str:
    """Codec of the whole file."""
    if size == 0:
        raise UnusableFile(name, "empty file (0 bytes); copy it again")
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh"):
        return "bzip2"
    for signature, reason in _SIGNATURES:
        if head.startswith(signature):
            raise UnusableFile(name, reason)
    _check_simple(name, head, size)
    return ""


def _check_simple(name: str, head: bytes, size: int) -> None:
    if head.startswith(b"SIMPLE  ="):
        return
    if b"SIMPLE  ="[: len(head)] == head:
        raise UnusableFile(name, f"truncated: only {size} bytes; copy it again")
    what = "text" if head.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1f]", head) else "binary"
    raise UnusableFile(name, f"not a FITS file: it begins with {what} {head[:16]!r}, not with SIMPLE")


@dataclass(frozen=True)
class _Unit:
    """A header and where its data are."""

    index: int
    header: Header
    header_bytes: bytes
    data: int
    """Offset of the data."""
    stored: int
    """Bytes of the data."""

    @property
    def end(self) -> int:
        return self.data + -(-self.stored // BLOCK) * BLOCK

    @cached_property
    def label(self) -> str:
        name = str(self.header.value("EXTNAME", "")).strip().upper()
        return f"extension {self.index} {name!r}" if self.index else "primary"


def _units(name: str, stream: Stream, size: int, compressed: bool) -> Iterator[_Unit]:
    """HDUs in order, until the file ends or what follows is no header."""
    offset = 0
    for index in range(MAX_HDUS):
        if index and not compressed and offset >= size:
            return
        data = _header_bytes(name, stream, offset, index)
        if not data:
            return
        header = Header(data)
        unit = _Unit(index, header, data, offset + len(data), _stored_bytes(name, header))
        yield unit
        offset = unit.end


def _header_bytes(name: str, stream: Stream, offset: int, index: int) -> bytes:
    """Header blocks at the offset; empty where an extension does not begin there."""
    count = 4 * BLOCK
    while True:
        data = stream.read_at(offset, count)
        if index == 0:
            _check_simple(name, data[:64], len(data))
        elif not data.startswith(b"XTENSION"):
            return b""
        for start in range(0, len(data) - CARD + 1, CARD):
            if data[start : start + 8] == b"END     " and not data[start + 8 : start + CARD].strip(b" \0"):
                end = -(-(start + CARD) // BLOCK) * BLOCK
                return data[:end] if len(data) >= end else data.ljust(end, b" ")
        if len(data) < count or count > MAX_HEADER_BYTES:
            where = "header" if index == 0 else f"header of extension {index}"
            raise UnusableFile(
                name, f"truncated {where}: {len(data)} bytes without an END card; copy the file again"
            )
        count *= 4


def _integer(name: str, header: Header, keyword: str, low: int = 0, default: int | None = None) -> int:
    value = header.value(keyword, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        found = "is missing" if keyword not in header else f"= {header[keyword].value!r} makes no sense"
        raise UnusableFile(name, f"broken header: {keyword} {found}; write the file again")
    return value


def _axes(name: str, header: Header, prefix: str = "") -> list[int]:
    count = _integer(name, header, f"{prefix}NAXIS")
    if count > 999:
        raise UnusableFile(name, f"broken header: {prefix}NAXIS = {count}; write the file again")
    return [_integer(name, header, f"{prefix}NAXIS{i + 1}") for i in range(count)]


def _stored_bytes(name: str, header: Header) -> int:
    bits = _bitpix(name, header)
    axes = _axes(name, header)
    if not axes:
        return 0
    if axes[0] == 0 and header.value("GROUPS") is True:
        axes = axes[1:]
    pcount = _integer(name, header, "PCOUNT", default=0)
    gcount = _integer(name, header, "GCOUNT", default=1)
    if "XTENSION" not in header and header.value("GROUPS") is not True:
        # Outside of random groups and extensions the two have no meaning, and some writers leave nonsense in them.
        pcount, gcount = 0, 1
    return abs(bits) // 8 * gcount * (pcount + math.prod(axes))


def _bitpix(name: str, header: Header, keyword: str = "BITPIX") -> int:
    bits = _integer(name, header, keyword, low=-64)
    if bits not in (8, 16, 32, 64, -32, -64):
        raise UnusableFile(name, f"broken header: {keyword} = {bits}; FITS knows 8, 16, 32, 64, -32, -64")
    return bits


def _examine(name: str, stream: Stream, codec: str, size: int, mtime_ns: int) -> FrameFile:
    primary: Header | None = None
    chosen: _Unit | None = None
    source: FitsSource | None = None
    refused: UnusableFile | None = None
    headers: list[bytes] = []
    extensions, others = 0, 0
    units = _units(name, stream, size, bool(codec))
    while True:
        try:
            unit = next(units, None)
        except UnusableFile:
            if source is None:
                raise
            break  # what follows the frame may be broken: the frame is not
        if unit is None:
            break
        primary = primary or unit.header
        if source is not None:
            others += _has_image(unit.header)
            continue
        headers.append(unit.header_bytes)
        extensions += unit.index > 0
        try:
            plan = _plan(name, unit, codec, size, mtime_ns)
        except UnusableFile as failure:
            if unit.index == 0:
                raise
            refused = refused or failure
            continue
        if plan is not None:
            chosen, source = unit, plan
            if codec:
                break  # to see what follows, all of it would have to be decompressed
    if source is None or chosen is None or primary is None:
        if refused is not None:
            raise refused
        held = f"extensions: {extensions}, none of them a frame" if extensions else "only a header"
        raise UnusableFile(name, f"no image in this FITS file ({held}); nothing to integrate")
    _check_complete(name, stream, source, chosen, codec, size)
    notes = []
    if others:
        notes.append(f"{others + 1} images in the file: only {chosen.label} is used")
    header = chosen.header.below(primary) if chosen.index else chosen.header
    # Never half of one WCS and half of another.
    wcs = chosen.header if "CTYPE1" in chosen.header else header
    if header.odd:
        notes.append(f"{header.odd} header card(s) violate the FITS standard and were skipped or guessed")
    digest = hashlib.blake2b(b"".join(headers), digest_size=8).hexdigest()
    content = _content(name, headers, source, chosen, size)
    return FrameFile(
        source=source,
        header=header,
        wcs_header=wcs,
        content=content,
        header_digest=digest,
        bitpix=source.bitpix,
        bzero=source.bzero,
        codec=source.codec,
        notes=tuple(notes),
    )


def _is_tiled(header: Header) -> bool:
    """Say whether a unit is a table that holds a tile-compressed image."""
    return header.value("ZIMAGE") is True and str(header.value("XTENSION", "")).strip() == "BINTABLE"


def _has_image(header: Header) -> bool:
    """Say whether a unit is an image with data and no companion of another."""
    kind = str(header.value("XTENSION", "IMAGE")).strip()
    tiled = _is_tiled(header)
    if kind not in ("IMAGE", "IUEIMAGE") and not tiled:
        return False
    if _AUXILIARY.match(str(header.value("EXTNAME", "")).strip().upper()):
        return False
    axes = header.value("ZNAXIS" if tiled else "NAXIS")
    return isinstance(axes, int | float) and axes > 0


def _plan(name: str, unit: _Unit, codec: str, size: int, mtime_ns: int) -> FitsSource | None:
    """Plan of the image of a unit; None where it holds none."""
    header = unit.header
    if unit.index == 0 and header.value("SIMPLE") is not True:
        raise UnusableFile(name, "SIMPLE is not T: the file itself says it is no standard FITS; write it again")
    if unit.index == 0 and header.value("GROUPS") is True:
        raise UnusableFile(name, "random groups (interferometry), no image; nothing to integrate")
    if not _has_image(header):
        return None
    tiled = _is_tiled(header)
    prefix = "Z" if tiled else ""
    axes = _axes(name, header, prefix)
    where = "" if unit.index == 0 else f" in {unit.label}"
    if math.prod(axes) == 0:
        if unit.index == 0:
            # An empty primary before the real image is what many programs write.
            return None
        raise UnusableFile(name, f"an image without pixels{where} ({' x '.join(map(str, axes))})")
    while len(axes) > 2 and axes[-1] == 1:
        axes.pop()
    if len(axes) > 2:
        raise UnusableFile(
            name,
            f"{math.prod(axes[2:])} planes of {axes[0]} x {axes[1]} pixels{where}: colour planes and cubes are "
            "not taken yet; split it into planes",
        )
    if len(axes) < 2:
        raise UnusableFile(name, f"a row of {math.prod(axes)} values{where}, no image")
    bits = _bitpix(name, header, f"{prefix}BITPIX")
    bscale, bzero = _number(name, header, "BSCALE", 1.0), _number(name, header, "BZERO", 0.0)
    if bscale == 0.0:
        raise UnusableFile(name, "broken header: BSCALE = 0 makes all pixels equal; write the file again")
    blank = None
    if bits > 0:
        found = header.value("BLANK")
        if found is None and tiled:
            found = header.value("ZBLANK")
        if isinstance(found, int | float) and not isinstance(found, bool) and float(found).is_integer():
            blank = int(found)
    return FitsSource(
        path=str(Path(name).absolute()),
        size=size,
        mtime_ns=mtime_ns,
        shape=(axes[1], axes[0]),
        bitpix=bits,
        offset=unit.data,
        bzero=bzero,
        bscale=bscale,
        blank=blank,
        codec=codec,
        tiled=len(unit.header_bytes) if tiled else 0,
        stored=unit.stored if tiled else 0,
    )


def _number(name: str, header: Header, keyword: str, default: float) -> float:
    value = header.value(keyword, default)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if value is None or isinstance(value, bool) or not math.isfinite(value):
        raise UnusableFile(name, f"broken header: {keyword} = {header[keyword].value!r}; write the file again")
    return float(value)


def _check_complete(name: str, stream: Stream, source: FitsSource, unit: _Unit, codec: str, size: int) -> None:
    """Refuse data that end too early."""
    end = unit.data + unit.stored
    found = size
    if codec == "gzip":
        with Path(name).open("rb") as file:
            file.seek(max(size - 4, 0))
            found = int.from_bytes(file.read(4), "little")
        # The trailer has the length modulo 2^32 of the last member. When it does not look like a FITS file of
        # at least this length, decompressing tells.
        if not (found % BLOCK == 0 and found >= end):
            found = stream.length()
    elif codec:
        found = stream.length()
    if found < end:
        raise UnusableFile(
            name,
            f"truncated: {source.shape[1]} x {source.shape[0]} pixels (BITPIX {source.bitpix}) end at byte {end}, "
            f"the file has {found}; copy it again",
        )


def _content(name: str, headers: list[bytes], source: FitsSource, unit: _Unit, size: int) -> str:
    """Content id; of a compressed file the samples are of the compressed bytes."""
    first, count = (0, size) if source.codec else (unit.data, unit.stored)
    digest = hashlib.blake2b(f"{size}:".encode(), digest_size=8)
    for header in headers:
        digest.update(header)
    with Path(name).open("rb") as file:
        descriptor = file.fileno()
        for start in sample_offsets(count):
            digest.update(os.pread(descriptor, min(SAMPLE_BYTES, count - start), first + start))
    return digest.hexdigest()


def plain_content(file: FrameFile) -> str:
    """Digest of headers and data as they are when decompressed: equal for a file and its compressed copy.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    source = file.source
    assert isinstance(source, FitsSource)
    count = source.stored or abs(source.bitpix) // 8 * source.shape[0] * source.shape[1]
    digest = hashlib.blake2b(file.header_digest.encode(), digest_size=8)
    try:
        with Stream(source.path, source.codec) as stream:
            for start in sample_offsets(count):
                digest.update(stream.read_at(source.offset + start, min(SAMPLE_BYTES, count - start)))
    except OSError as failure:
        raise UnusableFile(source.path, f"cannot be read: {failure.strerror or failure}") from failure
    return digest.hexdigest()


def sample_offsets(count: int) -> list[int]:
    """Offsets of up to 16 evenly spread blocks of 16 KiB in `count` bytes."""
    if count <= SAMPLES * SAMPLE_BYTES:
        return list(range(0, count, SAMPLE_BYTES))
    return [i * (count - SAMPLE_BYTES) // (SAMPLES - 1) for i in range(SAMPLES)]
