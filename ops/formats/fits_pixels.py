"""Pixels of FITS frames by plan (offset, type, scaling): no window read decodes or scales a whole frame.

Only where the whole file is compressed (gzip, bzip2, `compress`) the frame is decoded whole, and kept for a while.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.fits_stream import Stream
from skyloom.ops.formats.fits_tiling import Column, Tiling
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.formats.plain_pixels import check_unchanged, read_into, read_window
from skyloom.ops.frames import decoded, register_source

SUM_BYTES = 2**22
"""Bytes added up at a time."""

_summed: set[tuple[str, int, int, int]] = set()
_summed_lock = threading.Lock()


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
    """How the whole file is compressed: "", "gzip", "bzip2" or "compress"."""
    tiling: Tiling | None = None
    """Where the tiles are, when the image is tile-compressed."""

    @property
    def windowed(self) -> bool:
        """True: a window is read without decoding the whole frame."""
        return not self.codec and (self.tiling is None or self.tiling.windowed)

    @property
    def stored(self) -> int:
        """Bytes of the stored data."""
        if self.tiling is not None:
            return self.tiling.stored
        return self._dtype.itemsize * self.shape[0] * self.shape[1]

    def spec(self) -> str:
        """Text `open_source` makes this source from."""
        return json.dumps({"kind": "fits", **asdict(self)}, separators=(",", ":"))

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window in physical units (see `FrameSource.read`).

        Notes
        -----
        The data of a tile-compressed image are compared with their sum (DATASUM) when the process reads the first
        window of the file: a damaged Rice stream decodes to other pixels without a sign.
        """
        check_unchanged(self.path, self.size, self.mtime_ns)
        owned = True
        try:
            if not self.windowed:
                plane = 0 if self.tiling is None else self.tiling.plane
                key = (self.path, self.size, self.mtime_ns, self.offset, plane)
                raw, owned = decoded(key, self._decode)[rows, columns], False
            else:
                (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
                if self.tiling is not None:
                    raw = self._read_tiles(slice(top, bottom), slice(left, right))
                else:
                    raw = read_window(
                        self.path,
                        self._dtype,
                        offset=self.offset,
                        pitch=self.shape[1],
                        rows=(top, bottom),
                        columns=(left, right),
                    )
            return physical(raw, bzero=self.bzero, bscale=self.bscale, blank=self.blank, owned=owned)
        except DataError:
            raise
        except (OSError, ValueError) as failure:
            raise UnusableFile(self.path, f"cannot be read: {failure}") from failure

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype({8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}[self.bitpix])

    def _read_tiles(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Stored numbers of a window of a tile-compressed image."""
        assert self.tiling is not None
        with Path(self.path).open("rb", buffering=0) as file:
            descriptor = file.fileno()

            def read(offset: int, count: int) -> memoryview:
                place = memoryview(bytearray(count))
                read_into(self.path, descriptor, place, self.offset + offset)
                return place

            key = (self.path, self.size, self.mtime_ns, self.offset)
            if self.tiling.checksum is not None and key not in _summed:
                _check_sum(self.path, partial(os.pread, descriptor), self.offset, self.tiling)
                with _summed_lock:
                    _summed.add(key)
            return self.tiling.read(self.path, read, rows, columns)

    def _decode(self) -> NDArray[Any]:
        """Whole frame as stored numbers."""
        if self.tiling is not None and not self.codec:
            return self._read_tiles(*(slice(0, n) for n in self.shape))
        with Stream(self.path, self.codec) as stream:
            data = stream.read_at(self.offset, self.stored)
        if len(data) < self.stored:
            raise UnusableFile(self.path, f"truncated: {len(data)} of {self.stored} bytes of data")
        if self.tiling is None:
            return np.frombuffer(data, self._dtype).reshape(self.shape)
        whole = memoryview(data)
        if self.tiling.checksum is not None:
            _check_sum(self.path, lambda count, offset: data[offset : offset + count], 0, self.tiling)
        rows, columns = (slice(0, n) for n in self.shape)
        return self.tiling.read(self.path, lambda offset, count: whole[offset : offset + count], rows, columns)


def _check_sum(path: str, read: Callable[[int, int], bytes], offset: int, plan: Tiling) -> None:
    """Compare data with the DATASUM card (ones' complement sum of 32-bit words).

    Parameters
    ----------
    read
        Bytes (count, offset).
    """
    total = 0
    for start in range(0, plan.stored, SUM_BYTES):
        data = read(min(SUM_BYTES, plan.stored - start), offset + start)
        words = np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), ">u4")
        total += int(words.sum(dtype=np.uint64))
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    if total != plan.checksum:
        raise UnusableFile(path, f"corrupt data: sum {total}, DATASUM says {plan.checksum}; copy it again")


def physical(
    raw: NDArray[Any],
    *,
    bzero: float = 0.0,
    bscale: float = 1.0,
    blank: int | None = None,
    owned: bool = False,
) -> NDArray[np.float32]:
    """Turn stored numbers into float32 pixels: bzero + bscale × stored, NaN where blank or not finite.

    Parameters
    ----------
    raw
        Stored numbers, any byte order; not changed unless `owned`.
    blank
        Stored integer that means "no data".
    owned
        True: the result may take the memory of `raw` (C-contiguous, writable). Where memory is given back to the
        system and asked for anew by each read, that costs more than the reading.

    Notes
    -----
    FITS standard 4.0, 4.4.2.5. Where float32 is not exact on the way (32-bit integers, a scale), float64 is
    used and rounded once.
    """
    integers = raw.dtype.kind in "iu"
    exact = bscale == 1.0 and bzero == math.floor(bzero) and abs(bzero) < 2**23
    with np.errstate(over="ignore", invalid="ignore"):
        if owned and raw.dtype.kind == "f" and raw.dtype.itemsize == 4 and bscale == 1.0 and bzero == 0.0:
            pixels = raw if raw.dtype.isnative else raw.byteswap(inplace=True).view(np.float32)
        elif (integers and raw.dtype.itemsize <= 2 and exact) or (bscale == 1.0 and bzero == 0.0):
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


def _from_fields(fields: dict[str, Any]) -> FitsSource:
    values = {k: v for k, v in fields.items() if k != "kind"}
    try:
        source = FitsSource(**values)
        source = replace(source, shape=(int(values["shape"][0]), int(values["shape"][1])))
        if source.tiling is None:
            return source
        tiling = dict(values["tiling"])
        for name in ("axes", "tile"):
            tiling[name] = tuple(int(n) for n in tiling[name])
        tiling["columns"] = tuple(Column(*column) for column in tiling["columns"])
        return replace(source, tiling=Tiling(**tiling))
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as wrong:
        raise DataError(f"not the source of a FITS frame ({wrong}); make it with `ingest`") from wrong


register_source("fits", _from_fields)
