"""Tile-compressed FITS images: where each tile lies in the table, and windows from the tiles they touch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.fits_header import Header
from skyloom.ops.formats.fits_units import Unit, axes, bitpix, integer, number
from skyloom.ops.formats.frame_file import UnusableFile

Read = Callable[[int, int], memoryview]
"""Bytes (offset in the data, count) of the table; fewer where they end."""

_PIXELS_A_BYTE = {
    "RICE_1": 256 * 8 / 3,
    "GZIP_1": 1100.0,
    "GZIP_2": 1100.0,
    "PLIO_1": 2048.0,
    "HCOMPRESS_1": 16384.0,
    "NOCOMPRESS": 1.0,
}
"""Most pixels a byte of each compression can stand for."""
_ALIASES = {"RICE_ONE": "RICE_1"}
_DITHERS = {"NONE": 0, "NO_DITHER": 0, "SUBTRACTIVE_DITHER_1": 1, "SUBTRACTIVE_DITHER_2": 2}
_ITEM_BYTES = {"L": 1, "B": 1, "A": 1, "I": 2, "J": 4, "E": 4, "K": 8, "D": 8, "C": 8, "P": 8, "M": 16, "Q": 16}
SCALARS = {"B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4", "D": ">f8"}
"""Columns with a number for each tile, by the letter of their type."""
STREAMS = ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA", "UNCOMPRESSED_DATA")
"""Columns a tile may be in."""


class Column(NamedTuple):
    """Column of the table."""

    name: str
    offset: int
    """First byte in a row."""
    form: str
    """Letter of its type; "P" and "Q" are descriptors: count and place of a stream in the heap."""
    item: int
    """Bytes of a number of the stream."""


@dataclass(frozen=True)
class Tiling:
    """Plan of a tile-compressed image: all that decoding a window of it needs."""

    method: str
    """Compression, by its FITS name."""
    bitpix: int
    """Type of the image's numbers."""
    axes: tuple[int, int, int]
    """Columns, rows, planes."""
    tile: tuple[int, int, int]
    plane: int
    row_bytes: int
    """Bytes of a row of the table: a tile."""
    heap: int
    """First byte of the streams, from the first of the table."""
    stored: int
    """Bytes of table and streams."""
    columns: tuple[Column, ...]
    """Those that are needed."""
    width: int = 4
    """Bytes of a number in a Rice stream."""
    block: int = 32
    """Numbers of a Rice block."""
    smooth: bool = False
    quantized: bool = False
    scale: float = 1.0
    zero: float = 0.0
    """Scale and zero point of quantized numbers where the table has no column of them."""
    blank: int | None = None
    """Quantized number without data, where the table has no column of it."""
    dither: int = 0
    seed: int = 1
    checksum: int | None = None
    """What the 32-bit words of table and streams add up to (DATASUM), if the file says."""

    @property
    def windowed(self) -> bool:
        """True: tiles are so small that a window costs much less than the frame."""
        return math.prod(self.tile) <= max(2**18, self.axes[0] * self.axes[1] // 16)

    def column(self, name: str) -> Column | None:
        """Column of a name."""
        return next((c for c in self.columns if c.name == name), None)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Tiles along each axis."""
        x, y, z = (-(-n // t) for n, t in zip(self.axes, self.tile, strict=True))
        return x, y, z

    def read(self, path: str, read: Read, rows: slice, columns: slice) -> NDArray[Any]:
        """Stored numbers of a window: integers, or floats with NaN for no data, of any byte order.

        Decodes the tiles the window touches. Peak memory: their streams and what they decode to.

        Parameters
        ----------
        path
            For the reason of an error.
        rows, columns
            Within bounds.

        Raises
        ------
        UnusableFile
            If a stream lies outside of the table, or is damaged.
        """
        from skyloom.ops.formats.fits_tiles import Window

        out = np.empty((max(rows.stop - rows.start, 0), max(columns.stop - columns.start, 0)), self._dtype)
        if not out.size:
            return out
        try:
            return Window(self, read, rows, columns).decode(out)
        except DataError:
            raise
        # What zlib and astropy trip over in damaged streams (struct.error, IndexError, …) is the file's fault.
        except Exception as failure:
            what = str(failure) or type(failure).__name__
            raise UnusableFile(path, f"corrupt tile-compressed data: {what}") from failure

    @property
    def _dtype(self) -> np.dtype[Any]:
        if self.quantized:
            return np.dtype(np.float32)
        return np.dtype({8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}[self.bitpix])


def tiling(path: str, unit: Unit, plane: int = 0) -> Tiling:
    """Plan of the tile-compressed image of a unit.

    Raises
    ------
    UnusableFile
        If the header contradicts itself, asks for what is not known, or promises more than its bytes can hold.
    """
    header = unit.header
    lengths = axes(path, header, "Z")
    sizes = [
        integer(path, header, f"ZTILE{i + 1}", low=1, default=lengths[i] if i == 0 else 1)
        for i in range(len(lengths))
    ]
    method = str(header.value("ZCMPTYPE", "")).strip().upper()
    method = _ALIASES.get(method, method)
    where = f" in {unit.label}"
    if method not in _PIXELS_A_BYTE:
        raise UnusableFile(path, f"tile compression {method!r}{where} is not known; run `funpack` on it first")
    if "ZMASKCMP" in header:
        raise UnusableFile(path, f"a compressed mask (ZMASKCMP){where} is not read; run `funpack` on it first")
    if any(n != 1 for n in lengths[3:]):
        raise UnusableFile(path, f"an image of {len(lengths)} axes{where}, no frame")
    shape = (*lengths[:3], *(1,) * (3 - len(lengths)))
    tile = (*(min(t, n) for t, n in zip(sizes[:3], lengths[:3], strict=True)), *(1,) * (3 - len(lengths)))
    row_bytes, table_rows = integer(path, header, "NAXIS1"), integer(path, header, "NAXIS2")
    columns, used = _columns(path, header)
    if used > row_bytes:
        raise UnusableFile(path, f"broken header{where}: columns of {used} bytes in rows of {row_bytes}")
    bits = bitpix(path, header, "ZBITPIX")
    named = _named(header)
    heap = integer(path, header, "THEAP", default=row_bytes * table_rows)
    quantize = str(header.value("ZQUANTIZ", "NO_DITHER")).strip().upper()
    if quantize not in _DITHERS:
        raise UnusableFile(path, f"quantization {quantize!r}{where} is not known; run `funpack` on it first")
    width, block = (int(number(path, named, k, d)) for k, d in (("BYTEPIX", 4.0), ("BLOCKSIZE", 32.0)))
    if method == "RICE_1" and (width not in (1, 2, 4) or not 1 <= block <= 256):
        raise UnusableFile(path, f"Rice streams{where} of {width}-byte numbers in blocks of {block} are not read")
    blank = header.value("ZBLANK")
    quantized = bits < 0 and ("ZSCALE" in columns or "ZSCALE" in header)
    if bits < 0 and not quantized and method in ("RICE_1", "PLIO_1", "HCOMPRESS_1"):
        # Every tile is in one of the other columns then.
        method = "NOCOMPRESS"
        columns.pop("COMPRESSED_DATA", None)
    if not any(name in columns for name in STREAMS):
        raise UnusableFile(path, f"no compressed data{where}: the table has no column for them")
    plan = Tiling(
        method=method,
        bitpix=bits,
        axes=(shape[0], shape[1], shape[2]),
        tile=(tile[0], tile[1], tile[2]),
        plane=plane,
        row_bytes=row_bytes,
        heap=heap,
        stored=unit.stored,
        columns=tuple(columns.values()),
        width=width,
        block=block,
        smooth=named.value("SMOOTH", 0) not in (0, False),
        quantized=quantized,
        scale=number(path, header, "ZSCALE", 1.0),
        zero=number(path, header, "ZZERO", 0.0),
        blank=int(blank) if isinstance(blank, int | float) and math.isfinite(blank) else None,
        dither=_DITHERS[quantize],
        seed=integer(path, header, "ZDITHER0", default=1),
        checksum=_checksum(header),
    )
    _check(path, plan, table_rows, where)
    return plan


def _check(path: str, plan: Tiling, table_rows: int, where: str) -> None:
    wanted = math.prod(plan.counts)
    if wanted != table_rows or plan.heap < plan.row_bytes * table_rows or plan.heap > plan.stored:
        raise UnusableFile(
            path,
            f"broken header{where}: {wanted} tiles in {table_rows} rows of {plan.row_bytes} bytes, streams from "
            f"byte {plan.heap} of {plan.stored}; write the file again",
        )
    pixels = math.prod(plan.axes)
    room = plan.stored * max(_PIXELS_A_BYTE[plan.method], 1100.0 if plan.column("GZIP_COMPRESSED_DATA") else 0.0)
    if pixels > room:
        raise UnusableFile(
            path, f"broken header{where}: {pixels} pixels do not come out of {plan.stored} compressed bytes"
        )
    if plan.method == "HCOMPRESS_1" and plan.tile[2] > 1:
        raise UnusableFile(
            path, f"HCOMPRESS tiles of several planes{where} are not read; run `funpack` on it first"
        )


def _columns(path: str, header: Header) -> tuple[dict[str, Column], int]:
    """Columns that are needed, and the bytes of all."""
    columns: dict[str, Column] = {}
    offset = 0
    for i in range(1, min(integer(path, header, "TFIELDS"), 999) + 1):
        form = str(header.value(f"TFORM{i}", "")).strip().upper()
        found = re.match(r"(\d{0,9})([LXBIJKAEDCMPQ])([A-Z]?)", form)
        if found is None:
            raise UnusableFile(path, f"broken header: TFORM{i} = {form!r}; write the file again")
        repeat, letter, item = int(found[1] or 1), found[2], found[3]
        name = str(header.value(f"TTYPE{i}", "")).strip().upper()
        size = -(-repeat // 8) if letter == "X" else repeat * _ITEM_BYTES[letter]
        if name in STREAMS and letter in "PQ" and repeat == 1 and item in _ITEM_BYTES:
            columns[name] = Column(name, offset, letter, _ITEM_BYTES[item])
        elif name in ("ZSCALE", "ZZERO", "ZBLANK") and letter in SCALARS and repeat == 1:
            columns[name] = Column(name, offset, letter, 0)
        offset += size
    return columns, offset


def _named(header: Header) -> Header:
    """Parameters of the compression (ZNAMEn, ZVALn) by their names."""
    cards = {}
    for i in range(1, 20):
        name = str(header.value(f"ZNAME{i}", "")).strip().upper()
        if name and f"ZVAL{i}" in header:
            cards[name] = header[f"ZVAL{i}"]
    return Header(b"").changed(cards)


def _checksum(header: Header) -> int | None:
    try:
        return int(str(header.value("DATASUM")))
    except ValueError:
        return None
