"""Pixels of FITS frames by plan (offset, type, scaling): no window read decodes or scales a whole frame.

astropy only decodes tile-compressed images, and sees a header cut down to what that takes.
"""

from __future__ import annotations

import bz2
import io
import json
import math
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.fits_header import BLOCK, CARD, Header
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.frames import decoded, register_source

IO_BUFFERS = 1024
"""Buffers one vectored read may fill (IOV_MAX of Linux and macOS)."""
IO_BYTES = 2**26
"""Bytes one vectored read may span."""


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
                raw = self._read_window(rows, columns)
            else:
                raw = decoded((self.path, self.size, self.mtime_ns, self.offset), self._decode)[rows, columns]
            return physical(raw, bzero=self.bzero, bscale=self.bscale, blank=self.blank)
        except DataError:
            raise
        except (OSError, ValueError) as failure:
            raise UnusableFile(self.path, f"cannot be read: {failure}") from failure

    def _read_window(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Stored numbers of a window.

        Vectored reads, not a memory map: a map of a file that shrinks, or of a disk that fails, ends the process
        with a bus error, and costs as much (1024 x 1024 pixels: 3.0 ms mapped, 3.6 ms so).
        """
        item, width = self._dtype.itemsize, self.shape[1]
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(width)
        raw = np.empty((max(bottom - top, 0), max(right - left, 0)), self._dtype)
        count, row = raw.shape[0], raw.shape[1] * item
        if not raw.size:
            return raw
        # One call reads a stretch of the file: the window's part of each row goes to its place, what lies between
        # into a buffer that nobody looks at (it stays in the processor's cache).
        places, between = raw.reshape(-1).view(np.uint8).data, memoryview(bytearray(width * item - row))
        first = self.offset + (top * width + left) * item
        step = max(1, min(IO_BUFFERS // 2, IO_BYTES // (width * item)))
        with Path(self.path).open("rb", buffering=0) as file:
            for y in range(0, count, step):
                end = min(y + step, count)
                buffers = [part for k in range(y, end) for part in (places[k * row : (k + 1) * row], between)]
                expected = (end - y) * width * item - len(between)
                if os.preadv(file.fileno(), buffers[:-1], first + y * width * item) != expected:
                    # The end of the file, or a network file system that answers in parts.
                    for k in range(y, end):
                        self._read_all(file.fileno(), places[k * row : (k + 1) * row], first + k * width * item)
        return raw

    def _read_all(self, descriptor: int, place: memoryview, offset: int) -> None:
        done = 0
        while done < len(place):
            part = os.preadv(descriptor, [place[done:]], offset + done)
            if part == 0:
                raise UnusableFile(self.path, f"truncated while it was read (at byte {offset + done}); run again")
            done += part

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype({8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[self.bitpix])

    def _check_unchanged(self) -> None:
        try:
            now = Path(self.path).stat()
        except OSError as failure:
            raise UnusableFile(self.path, f"cannot be read: {failure.strerror or failure}") from failure
        if now.st_size != self.size:
            raise UnusableFile(
                self.path,
                f"changed since it was ingested ({self.size} bytes then, {now.st_size} now); run again",
            )
        if now.st_mtime_ns != self.mtime_ns:
            raise UnusableFile(self.path, "changed since it was ingested (it was written again); run again")

    def _decode(self) -> NDArray[Any]:
        """Whole frame as stored numbers."""
        count = self.stored if self.tiled else self._dtype.itemsize * self.shape[0] * self.shape[1]
        with Stream(self.path, self.codec) as stream:
            header = stream.read_at(self.offset - self.tiled, self.tiled) if self.tiled else b""
            data = stream.read_at(self.offset, count)
        if len(data) < count:
            raise UnusableFile(self.path, f"truncated: {len(data)} of {count} bytes of data")
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
            raise UnusableFile(self.path, f"corrupt tile-compressed data: {failure}") from failure
        if pixels.size != self.shape[0] * self.shape[1]:
            raise UnusableFile(self.path, f"corrupt tile-compressed data: {pixels.shape} pixels, not {self.shape}")
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
        raise UnusableFile(path, f"corrupt data: sum {total}, DATASUM says {expected}; copy it again")


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


class Stream:
    """Reads forward in a file, decompressing where it must."""

    def __init__(self, path: str, codec: str) -> None:
        self._path = path
        self._codec = codec
        self._file = Path(path).open("rb")  # noqa: SIM115  (closed by __exit__)
        self._chunks = self._inflate() if codec else iter(())
        self._buffer = bytearray()
        self._start = 0

    def __enter__(self) -> Stream:
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
            raise UnusableFile(self._path, f"corrupt {self._codec} stream: {failure}; copy it again") from failure
        raise UnusableFile(self._path, f"truncated {self._codec} stream (no end mark); copy it again")


def _from_fields(fields: dict[str, Any]) -> FitsSource:
    values = {k: v for k, v in fields.items() if k != "kind"}
    try:
        source = FitsSource(**values)
        return replace(source, shape=(int(values["shape"][0]), int(values["shape"][1])))
    except (TypeError, KeyError, ValueError, IndexError) as wrong:
        raise DataError(f"not the source of a FITS frame ({wrong}); make it with `ingest`") from wrong


register_source("fits", _from_fields)
