"""FITS frames: headers read by our own tolerant parser, pixels by plan (offset, type, scaling).

astropy is asked for one thing only, to decode tile-compressed images, and sees a header reduced to what that
needs: so cards that violate the standard cannot stop a frame, and no window read scales a whole frame.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.frames import decoded, register_source

BLOCK = 2880
CARD = 80
MAX_HEADER_BYTES = 4 * 2**20
MAX_HDUS = 200
SAMPLES = 16
SAMPLE_BYTES = 16 * 1024

Scalar = str | float | int | bool | None


class FitsError(DataError):
    """A FITS file that cannot be used; `reason` is the message without the file."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[FitsError], tuple[str, str]]:
        # The default would call __init__ with the one joined message; workers send errors pickled.
        return (FitsError, (self.path, self.reason))


class Card(NamedTuple):
    """Value and comment of a header card."""

    value: Scalar
    comment: str


_STRING = re.compile(r"\s*'((?:[^']|'')*)'\s*(?:/(.*))?$", re.DOTALL)
_INTEGER = re.compile(r"[+-]?\d+$")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?$")


def _parse_value(text: str) -> Card:
    """Card of what follows "= ": a number, a logical, text, or None where there is nothing.

    Text without quotes (a violation some capture programs commit) is taken as text.
    """
    quoted = _STRING.match(text)
    if quoted is not None:
        return Card(quoted.group(1).replace("''", "'").rstrip(), (quoted.group(2) or "").strip())
    value, _, comment = text.partition("/")
    value, comment = value.strip(), comment.strip()
    if not value:
        return Card(None, comment)
    if value in ("T", "F"):
        return Card(value == "T", comment)
    if _INTEGER.match(value):
        # int() of a longer text is refused by Python itself.
        return Card(int(value) if len(value) < 40 else float(value), comment)
    if _FLOAT.match(value):
        return Card(float(value.upper().replace("D", "E")), comment)
    # An opening quote that never closes: what is there is better than nothing. A slash may belong to the value.
    return Card(text.strip().lstrip("'").rstrip() if text.lstrip().startswith("'") else value, comment)


class Header(Mapping[str, Card]):
    """Cards of one header by keyword (the first of a keyword counts); parsed when asked for.

    Parameters
    ----------
    data
        Header bytes, any number of 80-character cards, up to END or the end.
    """

    def __init__(self, data: bytes) -> None:
        text = data.decode("latin-1")
        raw: dict[str, str] = {}
        self.odd = 0
        """Cards that violate the standard (no keyword, control characters, broken text)."""
        last = ""
        for start in range(0, len(text), CARD):
            card = text[start : start + CARD]
            keyword = card[:8].rstrip()
            if keyword == "END" and not card[8:].strip():
                break
            if keyword == "HIERARCH" and "=" in card:
                keyword, _, value = card[9:].partition("=")
                keyword = keyword.strip()
            elif keyword == "CONTINUE":
                if last:
                    raw[last] = _join_text(raw[last], card[8:])
                continue
            elif keyword in ("COMMENT", "HISTORY", ""):
                last = ""
                continue
            elif card[8:9] == "=":
                value = card[9:]
            else:
                self.odd += not card.isprintable() or "=" in card[:30]
                last = ""
                continue
            self.odd += not card.isprintable()
            last = keyword if keyword not in raw else ""
            raw.setdefault(keyword.upper(), value)
        self._raw = raw
        self._cards: dict[str, Card] = {}

    def __getitem__(self, keyword: str) -> Card:
        card = self._cards.get(keyword)
        if card is None:
            card = self._cards[keyword] = _parse_value(self._raw[keyword])
        return card

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def __contains__(self, keyword: object) -> bool:
        return keyword in self._raw

    def value(self, keyword: str, default: Scalar = None) -> Scalar:
        """Value of a keyword; the default where it is absent or empty."""
        if keyword not in self._raw:
            return default
        value = self[keyword].value
        return default if value is None else value

    def below(self, other: Header) -> Header:
        """Return this header with the cards of `other` where it has none (an extension inherits so)."""
        merged = Header(b"")
        merged._raw = {**other._raw, **self._raw}
        merged.odd = self.odd + other.odd
        return merged


def _join_text(first: str, more: str) -> str:
    """Long text continued on a CONTINUE card; a card that continues nothing changes nothing."""
    head, tail = _STRING.match(first), _STRING.match(more)
    if head is None or tail is None or not head.group(1).rstrip().endswith("&"):
        return first
    return f"'{head.group(1).rstrip()[:-1]}{tail.group(1)}' /{tail.group(2) or head.group(2) or ''}"


@dataclass(frozen=True)
class FitsSource:
    """Plan of one image in a FITS file: all that reading a window needs."""

    path: str
    size: int
    """Bytes of the file when it was ingested."""
    mtime_ns: int
    shape: tuple[int, int]
    bitpix: int
    offset: int
    """First byte of the data, in the decompressed stream when `codec` is set."""
    bzero: float = 0.0
    bscale: float = 1.0
    blank: int | None = None
    codec: str = ""
    """How the whole file is compressed: "", "gzip" or "bzip2"."""
    tiled: int = 0
    """Bytes of header in front of the data when the image is tile-compressed; 0: plain."""
    stored: int = 0
    """Bytes of the stored data when the image is tile-compressed."""

    @property
    def windowed(self) -> bool:
        """True: a window is read without decoding the whole frame."""
        return not self.codec and not self.tiled

    def spec(self) -> str:
        """Text `open_source` makes this source from."""
        return json.dumps({"kind": "fits", **asdict(self)}, separators=(",", ":"))

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window in physical units (see `FrameSource.read`)."""
        self._check_unchanged()
        try:
            if self.windowed:
                raw = np.memmap(self.path, self._dtype, "r", self.offset, self.shape)[rows, columns]
            else:
                raw = decoded((self.path, self.size, self.mtime_ns, self.offset), self._decode)[rows, columns]
            return physical(raw, bzero=self.bzero, bscale=self.bscale, blank=self.blank)
        except DataError:
            raise
        except (OSError, ValueError) as failure:
            raise FitsError(self.path, f"cannot be read: {failure}") from failure

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype({8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[self.bitpix])

    def _check_unchanged(self) -> None:
        try:
            now = Path(self.path).stat()
        except OSError as failure:
            raise FitsError(self.path, f"cannot be read: {failure.strerror or failure}") from failure
        if now.st_size != self.size:
            raise FitsError(
                self.path,
                f"changed since it was ingested ({self.size} bytes then, {now.st_size} now); run again",
            )
        if now.st_mtime_ns != self.mtime_ns:
            raise FitsError(self.path, "changed since it was ingested (it was written again); run again")

    def _decode(self) -> NDArray[Any]:
        """Whole frame as stored numbers."""
        count = self.stored if self.tiled else self._dtype.itemsize * self.shape[0] * self.shape[1]
        with _Stream(self.path, self.codec) as stream:
            header = stream.read_at(self.offset - self.tiled, self.tiled) if self.tiled else b""
            data = stream.read_at(self.offset, count)
        if len(data) < count:
            raise FitsError(self.path, f"truncated: {len(data)} of {count} bytes of data")
        if self.tiled:
            _check_sum(self.path, header, data)
            return self._decode_tiles(header, data)
        return np.frombuffer(data, self._dtype).reshape(self.shape)

    def _decode_tiles(self, header: bytes, data: bytes) -> NDArray[Any]:
        from astropy.io import fits

        cards = [header[i : i + CARD] for i in range(0, len(header), CARD)]
        needed = b"".join(c for c in cards if _TILE_CARDS.match(c)) + b"END".ljust(CARD)
        primary = b"".join(
            c.ljust(CARD)
            for c in (
                b"SIMPLE  =                    T",
                b"BITPIX  =                    8",
                b"NAXIS   =                    0",
                b"EXTEND  =                    T",
                b"END",
            )
        )
        file = b"".join(part.ljust(-(-len(part) // BLOCK) * BLOCK, b" ") for part in (primary, needed))
        file += data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")
        try:
            with fits.open(io.BytesIO(file), memmap=False, do_not_scale_image_data=True) as hdus:
                pixels = np.asarray(hdus[1].data)
        # Corrupt streams end in whatever the decoder trips over (zlib.error, struct.error, IndexError, …).
        except Exception as failure:
            raise FitsError(self.path, f"corrupt tile-compressed data: {failure}") from failure
        if pixels.size != self.shape[0] * self.shape[1]:
            raise FitsError(self.path, f"corrupt tile-compressed data: {pixels.shape} pixels, not {self.shape}")
        return pixels.reshape(self.shape)


def _check_sum(path: str, header: bytes, data: bytes) -> None:
    """Compare data with the DATASUM card, when there is one (ones' complement sum of 32-bit words).

    A damaged Rice stream decodes to other pixels without a sign, a damaged HCOMPRESS stream can end the process.
    """
    card = Header(header).value("DATASUM")
    try:
        expected = int(str(card))
    except ValueError:
        return
    words = np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), ">u4")
    total = int(words.sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    if total != expected:
        raise FitsError(path, f"corrupt data: sum {total}, DATASUM says {expected}; copy it again")


_TILE_CARDS = re.compile(
    rb"(XTENSION|BITPIX|NAXIS[12]?|PCOUNT|GCOUNT|TFIELDS|(TTYPE|TFORM|TSCAL|TZERO|TNULL|TDIM)\d+|THEAP|BLANK"
    rb"|ZIMAGE|ZBITPIX|ZNAXIS\d*|ZTILE\d+|ZCMPTYPE|ZNAME\d+|ZVAL\d+|ZMASKCMP|ZQUANTIZ|ZDITHER0|ZBLANK|ZSCALE|ZZERO"
    rb") *="
)


def physical(
    raw: NDArray[Any], *, bzero: float = 0.0, bscale: float = 1.0, blank: int | None = None
) -> NDArray[np.float32]:
    """Turn stored numbers into float32 pixels: bzero + bscale × stored, NaN where blank or not finite.

    Parameters
    ----------
    raw
        Stored numbers, any byte order; not changed.
    blank
        Stored integer that means "no data".

    Notes
    -----
    FITS standard 4.0, 4.4.2.5. Where float32 is not exact on the way (32-bit integers, a scale), float64 is
    used and rounded once.
    """
    integers = raw.dtype.kind in "iu"
    exact = bscale == 1.0 and bzero == math.floor(bzero) and abs(bzero) < 2**23
    with np.errstate(over="ignore", invalid="ignore"):
        if (integers and raw.dtype.itemsize <= 2 and exact) or (bscale == 1.0 and bzero == 0.0):
            pixels = raw.astype(np.float32, order="C")
            if bzero:
                pixels += np.float32(bzero)
        else:
            scaled = raw.astype(np.float64, order="C")
            if bscale != 1.0:
                scaled *= bscale
            if bzero:
                scaled += bzero
            pixels = scaled.astype(np.float32)
    if integers:
        if blank is not None:
            pixels[raw == blank] = np.nan
        finite = exact
    else:
        finite = False
    if not finite:
        np.copyto(pixels, np.float32(np.nan), where=np.isinf(pixels))
    return pixels


class _Stream:
    """Reads forward in a file, decompressing where it must."""

    def __init__(self, path: str, codec: str) -> None:
        self._path = path
        self._codec = codec
        self._file = Path(path).open("rb")  # noqa: SIM115  (closed by __exit__)
        self._chunks = self._inflate() if codec else iter(())
        self._buffer = bytearray()
        self._start = 0

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; fewer at the end. Compressed: offsets must not fall."""
        if not self._codec:
            return os.pread(self._file.fileno(), count, offset)
        drop = offset - self._start
        if drop < 0:
            raise ValueError("a compressed stream is read forward")
        while drop > len(self._buffer):
            drop -= len(self._buffer)
            self._start += len(self._buffer)
            self._buffer.clear()
            more = next(self._chunks, b"")
            if not more:
                return b""
            self._buffer += more
        del self._buffer[:drop]
        self._start = offset
        while len(self._buffer) < count:
            more = next(self._chunks, b"")
            if not more:
                break
            self._buffer += more
        return bytes(self._buffer[:count])

    def length(self) -> int:
        """Bytes from here to the end, all decompressed."""
        return self._start + len(self._buffer) + sum(len(c) for c in self._chunks)

    def _inflate(self) -> Iterator[bytes]:
        new = (lambda: zlib.decompressobj(31)) if self._codec == "gzip" else bz2.BZ2Decompressor
        member: Any = new()
        rest, members = b"", 0
        try:
            while data := rest or self._file.read(2**16):
                rest = b""
                chunk = member.decompress(data)
                if chunk:
                    yield chunk
                if member.eof:
                    # Further members follow at once; zeros or other padding after the last one are no data.
                    rest, member, members = member.unused_data, new(), members + 1
                    if not rest.startswith((b"\x1f\x8b", b"BZh")):
                        rest = b""
                        follow = self._file.read(2**16)
                        if follow.startswith((b"\x1f\x8b", b"BZh")):
                            rest = follow
                        else:
                            return
        except (zlib.error, OSError, EOFError, ValueError) as failure:
            raise FitsError(self._path, f"corrupt {self._codec} stream: {failure}; copy it again") from failure
        raise FitsError(self._path, f"truncated {self._codec} stream (it ends before its end mark); copy it again")


@dataclass(frozen=True)
class FitsFile:
    """What the headers of a FITS file say of the frame in it."""

    source: FitsSource
    header: Header
    """Header of the image; keywords it lacks come from the primary header."""
    wcs_header: Header
    """Header the WCS is to be taken from."""
    content: str
    """Content id, 16 hex digits: of size, headers and samples of the data."""
    header_digest: str
    """Digest of the headers alone."""
    notes: tuple[str, ...]
    """Oddities worth telling."""


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


def examine(path: str | Path) -> FitsFile:
    """Plan, headers and content id of the frame in a FITS file, from a few short reads.

    The frame is the primary image, or else the first image extension with data that is not a companion (errors,
    data quality, distortion tables); two-dimensional, or with further axes of length 1.

    Raises
    ------
    FitsError
        If there is no such image, or the file is not what its headers promise; the reason has numbers and remedy.
    """
    name = os.fspath(path)
    try:
        with Path(name).open("rb") as file:
            facts = os.fstat(file.fileno())
            head = file.read(64)
    except OSError as failure:
        raise FitsError(name, f"cannot be read: {failure.strerror or failure}") from failure
    codec = _check_signature(name, head, facts.st_size)
    try:
        with _Stream(name, codec) as stream:
            return _examine(name, stream, codec, facts.st_size, facts.st_mtime_ns)
    except OSError as failure:
        raise FitsError(name, f"cannot be read: {failure.strerror or failure}") from failure


def _check_signature(name: str, head: bytes, size: int) -> str:
    """Codec of the whole file."""
    if size == 0:
        raise FitsError(name, "empty file (0 bytes); copy it again")
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"BZh"):
        return "bzip2"
    for signature, reason in _SIGNATURES:
        if head.startswith(signature):
            raise FitsError(name, reason)
    _check_simple(name, head, size)
    return ""


def _check_simple(name: str, head: bytes, size: int) -> None:
    if head.startswith(b"SIMPLE  ="):
        return
    if b"SIMPLE  ="[: len(head)] == head:
        raise FitsError(name, f"truncated: only {size} bytes; copy it again")
    what = "text" if head.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1f]", head) else "binary"
    raise FitsError(name, f"not a FITS file: it begins with {what} {head[:16]!r}, not with SIMPLE")


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


def _units(name: str, stream: _Stream, size: int, compressed: bool) -> Iterator[_Unit]:
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


def _header_bytes(name: str, stream: _Stream, offset: int, index: int) -> bytes:
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
            raise FitsError(name, f"truncated {where}: {len(data)} bytes without an END card; copy the file again")
        count *= 4


def _integer(name: str, header: Header, keyword: str, low: int = 0, default: int | None = None) -> int:
    value = header.value(keyword, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        found = "is missing" if keyword not in header else f"= {header[keyword].value!r} makes no sense"
        raise FitsError(name, f"broken header: {keyword} {found}; write the file again")
    return value


def _axes(name: str, header: Header, prefix: str = "") -> list[int]:
    count = _integer(name, header, f"{prefix}NAXIS")
    if count > 999:
        raise FitsError(name, f"broken header: {prefix}NAXIS = {count}; write the file again")
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
        raise FitsError(name, f"broken header: {keyword} = {bits}; FITS knows 8, 16, 32, 64, -32, -64")
    return bits


def _examine(name: str, stream: _Stream, codec: str, size: int, mtime_ns: int) -> FitsFile:
    primary: Header | None = None
    chosen: _Unit | None = None
    source: FitsSource | None = None
    refused: FitsError | None = None
    headers: list[bytes] = []
    extensions, others = 0, 0
    units = _units(name, stream, size, bool(codec))
    while True:
        try:
            unit = next(units, None)
        except FitsError:
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
        except FitsError as failure:
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
        raise FitsError(name, f"no image in this FITS file ({held}); nothing to integrate")
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
    return FitsFile(source, header, wcs, content, digest, tuple(notes))


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
        raise FitsError(name, "SIMPLE is not T: the file itself says it is no standard FITS; write it again")
    if unit.index == 0 and header.value("GROUPS") is True:
        raise FitsError(name, "random groups (interferometry), no image; nothing to integrate")
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
        raise FitsError(name, f"an image without pixels{where} ({' x '.join(map(str, axes))})")
    while len(axes) > 2 and axes[-1] == 1:
        axes.pop()
    if len(axes) > 2:
        raise FitsError(
            name,
            f"{math.prod(axes[2:])} planes of {axes[0]} x {axes[1]} pixels{where}: colour planes and cubes are "
            "not taken yet; split it into planes",
        )
    if len(axes) < 2:
        raise FitsError(name, f"a row of {math.prod(axes)} values{where}, no image")
    bits = _bitpix(name, header, f"{prefix}BITPIX")
    bscale, bzero = _number(name, header, "BSCALE", 1.0), _number(name, header, "BZERO", 0.0)
    if bscale == 0.0:
        raise FitsError(name, "broken header: BSCALE = 0 makes all pixels equal; write the file again")
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
        raise FitsError(name, f"broken header: {keyword} = {header[keyword].value!r}; write the file again")
    return float(value)


def _check_complete(name: str, stream: _Stream, source: FitsSource, unit: _Unit, codec: str, size: int) -> None:
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
        raise FitsError(
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


def plain_content(file: FitsFile) -> str:
    """Digest of headers and data as they are when decompressed: equal for a file and its compressed copy.

    Raises
    ------
    DataError
        If the file cannot be read.
    """
    source = file.source
    count = source.stored or abs(source.bitpix) // 8 * source.shape[0] * source.shape[1]
    digest = hashlib.blake2b(file.header_digest.encode(), digest_size=8)
    try:
        with _Stream(source.path, source.codec) as stream:
            for start in sample_offsets(count):
                digest.update(stream.read_at(source.offset + start, min(SAMPLE_BYTES, count - start)))
    except OSError as failure:
        raise FitsError(source.path, f"cannot be read: {failure.strerror or failure}") from failure
    return digest.hexdigest()


def sample_offsets(count: int) -> list[int]:
    """Offsets of up to 16 evenly spread blocks of 16 KiB in `count` bytes."""
    if count <= SAMPLES * SAMPLE_BYTES:
        return list(range(0, count, SAMPLE_BYTES))
    return [i * (count - SAMPLE_BYTES) // (SAMPLES - 1) for i in range(SAMPLES)]


def _from_fields(fields: dict[str, Any]) -> FitsSource:
    values = {k: v for k, v in fields.items() if k != "kind"}
    try:
        source = FitsSource(**values)
        return replace(source, shape=(int(values["shape"][0]), int(values["shape"][1])))
    except (TypeError, KeyError, ValueError, IndexError) as wrong:
        raise DataError(f"not the source of a FITS frame ({wrong}); make it with `ingest`") from wrong


register_source("fits", _from_fields)
