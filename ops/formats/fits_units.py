"""Headers and data units of a FITS file in order, from a few short reads."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from skyloom.ops.formats.fits_header import BLOCK, CARD, Header
from skyloom.ops.formats.fits_stream import Stream
from skyloom.ops.formats.frame_file import UnusableFile

MAX_HEADER_BYTES = 4 * 2**20
MAX_UNITS = 200


@dataclass(frozen=True)
class Unit:
    """A header and where its data are."""

    index: int
    header: Header
    header_bytes: bytes
    data: int
    """Offset of the data (bytes, decompressed)."""
    stored: int
    """Bytes of the data."""

    @property
    def end(self) -> int:
        """Offset of what follows."""
        return self.data + -(-self.stored // BLOCK) * BLOCK

    @cached_property
    def name(self) -> str:
        """Name of the extension, upper case; "" for none."""
        return str(self.header.value("EXTNAME", "")).strip().upper()

    @property
    def label(self) -> str:
        """What a reason calls it."""
        return f"extension {self.index} {self.name!r}" if self.index else "primary"

    @property
    def tiled(self) -> bool:
        """True: a table that holds a tile-compressed image."""
        return self.header.value("ZIMAGE") is True and str(self.header.value("XTENSION", "")).strip() == "BINTABLE"

    @property
    def prefix(self) -> str:
        """What the keywords of the image begin with ("Z" in a table that holds it)."""
        return "Z" if self.tiled else ""

    @property
    def is_image(self) -> bool:
        """True: an image with axes."""
        kind = str(self.header.value("XTENSION", "IMAGE")).strip()
        if kind not in ("IMAGE", "IUEIMAGE") and not self.tiled:
            return False
        axes = self.header.value(f"{self.prefix}NAXIS")
        return isinstance(axes, int | float) and axes > 0


def units(path: str, stream: Stream, *, size: int, compressed: bool) -> Iterator[Unit]:
    """Units in order, until the file ends or what follows is no header.

    Raises
    ------
    UnusableFile
        If a header is cut short or does not say how long its data are.
    """
    offset = 0
    for index in range(MAX_UNITS):
        if index and not compressed and offset >= size:
            return
        data = _header_bytes(path, stream, offset, index)
        if not data:
            return
        header = Header(data)
        unit = Unit(index, header, data, offset + len(data), _stored_bytes(path, header))
        yield unit
        offset = unit.end


def check_simple(path: str, head: bytes, size: int) -> None:
    """Refuse what does not begin like FITS."""
    if head.startswith(b"SIMPLE  ="):
        return
    if b"SIMPLE  ="[: len(head)] == head:
        raise UnusableFile(path, f"truncated: only {size} bytes; copy it again")
    what = "text" if head.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1f]", head) else "binary"
    raise UnusableFile(path, f"not a FITS file: it begins with {what} {head[:16]!r}, not with SIMPLE")


def integer(path: str, header: Header, keyword: str, *, low: int = 0, default: int | None = None) -> int:
    """Integer a header must have, not below `low`."""
    value = header.value(keyword, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        found = "is missing" if keyword not in header else f"= {header[keyword].value!r} makes no sense"
        raise UnusableFile(path, f"broken header: {keyword} {found}; write the file again")
    return value


def number(path: str, header: Header, keyword: str, default: float) -> float:
    """Finite number of a header."""
    value = header.value(keyword, default)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if value is None or isinstance(value, bool) or not math.isfinite(value):
        raise UnusableFile(path, f"broken header: {keyword} = {header[keyword].value!r}; write the file again")
    return float(value)


def axes(path: str, header: Header, prefix: str = "") -> list[int]:
    """Lengths of the axes, the fastest first."""
    count = integer(path, header, f"{prefix}NAXIS")
    if count > 999:
        raise UnusableFile(path, f"broken header: {prefix}NAXIS = {count}; write the file again")
    return [integer(path, header, f"{prefix}NAXIS{i + 1}") for i in range(count)]


def bitpix(path: str, header: Header, keyword: str = "BITPIX") -> int:
    """Type of the stored numbers."""
    bits = integer(path, header, keyword, low=-64)
    if bits not in (8, 16, 32, 64, -32, -64):
        raise UnusableFile(path, f"broken header: {keyword} = {bits}; FITS knows 8, 16, 32, 64, -32, -64")
    return bits


def _header_bytes(path: str, stream: Stream, offset: int, index: int) -> bytes:
    """Header blocks at the offset; empty where an extension does not begin there."""
    count = 4 * BLOCK
    while True:
        data = stream.read_at(offset, count)
        if index == 0:
            check_simple(path, data[:64], len(data))
        elif not data.startswith(b"XTENSION"):
            return b""
        for start in range(0, len(data) - CARD + 1, CARD):
            if data[start : start + 8] == b"END     " and not data[start + 8 : start + CARD].strip(b" \0"):
                end = -(-(start + CARD) // BLOCK) * BLOCK
                return data[:end] if len(data) >= end else data.ljust(end, b" ")
        if len(data) < count or count > MAX_HEADER_BYTES:
            where = "header" if index == 0 else f"header of extension {index}"
            raise UnusableFile(
                path, f"truncated {where}: {len(data)} bytes without an END card; copy the file again"
            )
        count *= 4


def _stored_bytes(path: str, header: Header) -> int:
    bits = bitpix(path, header)
    lengths = axes(path, header)
    if not lengths:
        return 0
    if lengths[0] == 0 and header.value("GROUPS") is True:
        lengths = lengths[1:]
    # Outside of random groups and extensions these two have no meaning, and some writers leave nonsense in them.
    pcount, gcount = 0, 1
    if "XTENSION" in header or header.value("GROUPS") is True:
        pcount = integer(path, header, "PCOUNT", default=0)
        gcount = integer(path, header, "GCOUNT", default=1)
    return abs(bits) // 8 * gcount * (pcount + math.prod(lengths))
