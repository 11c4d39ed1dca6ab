"""Windows of a stored array, chunk by chunk as they lie in the files.

zarr takes a millisecond or two a chunk whatever its size; a picture of a large canvas is made of thousands of
them. What is not laid out the way `skyloom.workflows.store` does it is read by zarr.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import IO, Any

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.workflows.places import Place
from skyloom.workflows.shards import read_window
from skyloom.workflows.stored import stored_array
from skyloom.workflows.viewer.kept import Kept

try:
    from google_crc32c import value as checksum
except ImportError:  # zarr may take it from elsewhere one day
    checksum = None

Pixels = NDArray[Any]
DECODED_BYTES = 24 * 2**20
_ABSENT = 2**64 - 1
_decoded: Kept[Pixels] = Kept(DECODED_BYTES, lambda a: a.nbytes)


@dataclass(frozen=True)
class Layout:
    """How an array lies in its files."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    file: tuple[int, ...]
    """Shape of what a file holds."""
    chunk: tuple[int, ...]
    """Shape of a chunk: the file's, or one of many in it (a shard)."""
    fill: float
    plain: bool
    """Whether it is read here, and not by zarr."""
    compressed: bool = True
    checked: bool = True

    @property
    def sharded(self) -> bool:
        """Whether a file holds many chunks."""
        return self.file != self.chunk


class StoredPixels:
    """An array of a store, to be read by window.

    Parameters
    ----------
    folder
        Of the array.

    Raises
    ------
    DataError
        If there is no array.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = folder
        self.layout = read_layout(folder)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self.layout.shape

    def read(self, lead: tuple[int, ...], rows: slice, columns: slice) -> Pixels:
        """Pixels of a window in the array's own type; what was never written is the fill value.

        Parameters
        ----------
        lead
            Place along the dimensions before the last two.
        rows, columns
            Within bounds, step 1.

        Raises
        ------
        DataError
            If a chunk is damaged.
        """
        if not self.layout.plain:
            try:
                array = stored_array(str(self.folder.parent), self.folder.name)
                return read_window(array, (*lead, rows, columns))
            except (OSError, KeyError, ValueError, RuntimeError) as failure:
                raise DataError(f"{self.folder} cannot be read ({failure})") from failure
        shape = rows.stop - rows.start, columns.stop - columns.start
        out = np.full(shape, self.layout.fill, dtype=self.layout.dtype)
        height, width = self.layout.file[-2:]
        first = tuple(i // n for i, n in zip(lead, self.layout.file, strict=False))
        for fy, fx in product(_over(rows, height), _over(columns, width)):
            self._file(first, lead, (fy, fx), (rows, columns), out)
        return out

    def files(self, lead: tuple[int, ...], rows: slice, columns: slice) -> list[Place]:
        """Files a window is read from, whether they are there or not."""
        height, width = self.layout.file[-2:]
        first = [i // n for i, n in zip(lead, self.layout.file, strict=False)]
        return [self._path((*first, fy, fx)) for fy, fx in product(_over(rows, height), _over(columns, width))]

    def _path(self, index: tuple[int, ...]) -> Place:
        return self.folder.joinpath("c", *map(str, index))

    def _file(
        self, first: tuple[int, ...], lead: tuple[int, ...], place: tuple[int, int],
        window: tuple[slice, slice], out: Pixels,
    ) -> None:  # fmt: skip
        """Lay what a file has of a window into it."""
        path = self._path((*first, *place))
        assert isinstance(path, Path)
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            return
        with file:
            state = os.fstat(file.fileno())
            stamp = (str(path), state.st_mtime_ns, state.st_size)
            layout = self.layout
            within = tuple(i % n for i, n in zip(lead, layout.file, strict=False))
            inner = tuple(i // n for i, n in zip(within, layout.chunk, strict=False))
            rest: tuple[Any, ...] = tuple(i % n for i, n in zip(within, layout.chunk, strict=False))
            top, left = place[0] * layout.file[-2], place[1] * layout.file[-1]
            y0, x0 = max(window[0].start - top, 0), max(window[1].start - left, 0)
            y1 = min(window[0].stop - top, layout.file[-2])
            x1 = min(window[1].stop - left, layout.file[-1])
            height, width = layout.chunk[-2:]
            table = None
            for cy, cx in product(_over(slice(y0, y1), height), _over(slice(x0, x1), width)):
                index = (*inner, cy, cx)
                if layout.sharded and table is None:
                    table = self._table(file, state.st_size)
                chunk = _decoded.get((*stamp, index), lambda i=index, t=table: self._chunk(file, i, t))  # type: ignore[misc]
                if chunk.size == 0:
                    continue
                a, b = max(y0, cy * height), min(y1, (cy + 1) * height)
                c, d = max(x0, cx * width), min(x1, (cx + 1) * width)
                out[
                    top + a - window[0].start : top + b - window[0].start,
                    left + c - window[1].start : left + d - window[1].start,
                ] = chunk[(*rest, slice(a - cy * height, b - cy * height), slice(c - cx * width, d - cx * width))]

    def _table(self, file: IO[bytes], size: int) -> NDArray[np.uint64]:
        """Offset and length of each chunk of a shard; the table is at its end, before its checksum."""
        counts = [f // c for f, c in zip(self.layout.file, self.layout.chunk, strict=True)]
        length = 16 * math.prod(counts)
        data = os.pread(file.fileno(), length + 4, size - length - 4)
        return np.frombuffer(self._verified(data), dtype="<u8").reshape(*counts, 2)

    def _chunk(self, file: IO[bytes], index: tuple[int, ...], table: NDArray[np.uint64] | None) -> Pixels:
        """Chunk of a file, empty where there is none."""
        if table is None:
            data = file.read()
        else:
            offset, length = (int(v) for v in table[index])
            if offset == _ABSENT:
                return np.empty(0, self.layout.dtype)
            data = os.pread(file.fileno(), length, offset)
        try:
            data = self._verified(data) if self.layout.checked else data
            raw = blosc.decompress(data) if self.layout.compressed else data
            return np.frombuffer(raw, dtype=self.layout.dtype).reshape(self.layout.chunk)
        except (ValueError, RuntimeError) as failure:
            raise DataError(f"{file.name} is damaged ({failure}); run the workflow again") from failure

    def _verified(self, data: bytes) -> bytes:
        body = data[:-4]
        if checksum(body) != int.from_bytes(data[-4:], "little"):
            raise DataError(f"a chunk of {self.folder} is damaged (checksum); run the workflow again")
        return body


def _over(window: slice, side: int) -> range:
    return range(window.start // side, (window.stop - 1) // side + 1)


def read_layout(folder: Place) -> Layout:
    """Layout of an array, by its metadata.

    Raises
    ------
    DataError
        If there is none.
    """
    try:
        state = (folder / "zarr.json").stat()
        return _layout(folder, (state.st_mtime_ns, state.st_size))
    except (OSError, KeyError, ValueError, TypeError) as failure:
        raise DataError(f"{folder} is no array of a store ({failure})") from failure


@lru_cache(maxsize=1024)
def _layout(folder: Place, state: tuple[int, int]) -> Layout:
    about = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
    shape = tuple(int(n) for n in about["shape"])
    file = tuple(int(n) for n in about["chunk_grid"]["configuration"]["chunk_shape"])
    if about["data_type"] == "string":
        return Layout(shape, np.dtype(object), file, file, 0.0, plain=False)
    dtype = np.dtype(about["data_type"]).newbyteorder("<")
    codecs, chunk, plain = about["codecs"], file, checksum is not None and isinstance(folder, Path)
    if codecs[0]["name"] == "sharding_indexed":
        inside = codecs[0]["configuration"]
        chunk = tuple(int(n) for n in inside["chunk_shape"])
        plain &= len(codecs) == 1 and inside.get("index_location", "end") == "end"
        plain &= [c["name"] for c in inside["index_codecs"]] == ["bytes", "crc32c"]
        codecs = inside["codecs"]
    names = [c["name"] for c in codecs]
    plain &= names in (["bytes"], ["bytes", "blosc"], ["bytes", "crc32c"], ["bytes", "blosc", "crc32c"])
    plain &= codecs[0].get("configuration", {}).get("endian", "little") == "little"
    plain &= about["chunk_key_encoding"]["name"] == "default"
    plain &= about["chunk_key_encoding"].get("configuration", {}).get("separator", "/") == "/"
    return Layout(
        shape, dtype, file, chunk, float(about["fill_value"]), plain, "blosc" in names, "crc32c" in names
    )
