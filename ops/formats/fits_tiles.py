"""A window of a tile-compressed FITS image, decoded from the tiles it touches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.formats.fits_codecs import decode_hcompress, inflate, numbers, place
from skyloom.ops.formats.fits_kernels import decode_plio, decode_rice, dequantize
from skyloom.ops.formats.fits_tiling import SCALARS, STREAMS, Read, Tiling

_BATCH = 64
"""HCOMPRESS tiles decoded at a time."""
_GAP = 2**16
"""Streams nearer to each other than this are read in one piece (bytes)."""


class Window:
    """Tiles a window touches, in the order of the table."""

    def __init__(self, plan: Tiling, read: Read, rows: slice, columns: slice) -> None:
        self.plan = plan
        self.read = read
        width, height, depth = plan.axes
        (tile_x, tile_y, tile_z), (count_x, count_y, _) = plan.tile, plan.counts
        layer = plan.plane // tile_z
        x = np.arange(columns.start // tile_x, -(-columns.stop // tile_x))
        y = np.arange(rows.start // tile_y, -(-rows.stop // tile_y))
        self.index = ((layer * count_y + y[:, None]) * count_x + x).reshape(-1)
        """Row of each in the table."""
        self.boxes = np.empty((self.index.size, 5), dtype=np.int64)
        grid_y, grid_x = (g.reshape(-1) for g in np.meshgrid(y, x, indexing="ij"))
        self.boxes[:, 0] = np.minimum(tile_y, height - grid_y * tile_y)
        self.boxes[:, 1] = np.minimum(tile_x, width - grid_x * tile_x)
        self.boxes[:, 2] = (plan.plane - layer * tile_z) * self.boxes[:, 0] * self.boxes[:, 1]
        self.boxes[:, 3] = grid_y * tile_y - rows.start
        self.boxes[:, 4] = grid_x * tile_x - columns.start
        self.pixels = self.boxes[:, 0] * self.boxes[:, 1] * min(tile_z, depth - layer * tile_z)
        """Pixels of each."""
        first = int(self.index[0])
        table = self._bytes(first * plan.row_bytes, (int(self.index[-1]) + 1 - first) * plan.row_bytes)
        self.table = np.frombuffer(table, np.uint8).reshape(-1, plan.row_bytes)[self.index - first]
        self.stream, self.start, self.count, self.data = self._streams()

    def _bytes(self, offset: int, count: int) -> memoryview:
        data = self.read(offset, count)
        if len(data) != count:
            raise ValueError(f"truncated: {len(data)} of {count} bytes")
        return data

    def _scalars(self, name: str, default: float) -> NDArray[Any]:
        column = self.plan.column(name)
        if column is None:
            return np.full(self.index.size, default)
        dtype = np.dtype(SCALARS[column.form])
        cells = self.table[:, column.offset : column.offset + dtype.itemsize]
        return np.ascontiguousarray(cells).view(dtype)[:, 0]

    def _streams(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """Column each tile is in, first byte and bytes of its stream in the array that follows."""
        size = self.index.size
        which, count, start = (np.full(size, fill, np.int64) for fill in (-1, 0, 0))
        for number, name in reversed(list(enumerate(STREAMS))):
            column = self.plan.column(name)
            if column is None:
                continue
            dtype = np.dtype(">i4" if column.form == "P" else ">i8")
            cells = self.table[:, column.offset : column.offset + 2 * dtype.itemsize]
            pairs = np.ascontiguousarray(cells).view(dtype).astype(np.int64)
            here = pairs[:, 0] != 0
            which[here], start[here] = number, pairs[here, 1]
            count[here] = np.clip(pairs[here, 0], -1, 2**48) * column.item
        room = self.plan.stored - self.plan.heap
        wrong = (which < 0) | (count < 0) | (start < 0) | (start > room) | (count > room - start)
        if wrong.any():
            tile = self.index[wrong.argmax()] + 1
            raise ValueError(f"tile {tile} has no stream in the {room} bytes of the heap")
        return which, *self._gather(start, count)

    def _gather(
        self, start: NDArray[np.int64], count: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """Read the streams, neighbours in one piece; their new starts, counts, and the bytes."""
        order = np.argsort(start, kind="stable")
        reach = np.maximum.accumulate((start + count)[order])
        breaks = np.flatnonzero(start[order][1:] > reach[:-1] + _GAP) + 1
        pieces, moved, filled = [], np.empty_like(start), 0
        for part in np.split(order, breaks):
            first = int(start[part[0]])
            piece = self._bytes(self.plan.heap + first, int((start + count)[part].max()) - first)
            moved[part] = start[part] - first + filled
            filled += len(piece)
            pieces.append(np.frombuffer(piece, np.uint8))
        return moved, count, pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    # --- decoding ---

    def decode(self, out: NDArray[Any]) -> NDArray[Any]:
        """Fill the window."""
        plan = self.plan
        if not plan.quantized:
            self._numbers(out)
            for stream in (1, 2):
                self._plain(out, stream)
            return self._without_blanks(out)
        numbers = np.zeros(out.shape, np.int32)
        self._numbers(numbers)
        self._dequantize(numbers, out)
        for stream in (1, 2):
            self._plain(out, stream)
        return out

    def _numbers(self, out: NDArray[Any]) -> None:
        """Decode the tiles that are compressed with the image's own method."""
        plan = self.plan
        tiles = np.flatnonzero(self.stream == 0)
        counts = np.where(self.stream == 0, self.count, 0)
        bad = -1
        if plan.method == "RICE_1":
            bad = decode_rice(self.data, self.start, counts, self.boxes, plan.width, plan.block, out)
        elif plan.method == "PLIO_1":
            bad = decode_plio(self.data, self.start, counts, self.boxes, out)
        elif plan.method == "HCOMPRESS_1":
            self._hcompress(out, tiles)
        else:
            kind = "f" if plan.bitpix < 0 and not plan.quantized else "i"
            for tile in tiles:
                place(self._deflated(int(tile), kind), self.boxes[tile], out)
        if bad >= 0:
            raise ValueError(f"tile {self.index[bad] + 1} is damaged")

    def _deflated(self, tile: int, kind: str) -> NDArray[Any]:
        pixels = int(self.pixels[tile])
        if self.plan.method != "NOCOMPRESS":
            shuffled = self.plan.method == "GZIP_2"
            return inflate(self._of(tile), pixels, shuffled=shuffled, kind=kind)
        return self._uncompressed(tile, kind)

    def _uncompressed(self, tile: int, kind: str) -> NDArray[Any]:
        item = abs(self.plan.bitpix) // 8
        if self.count[tile] != item * self.pixels[tile]:
            raise ValueError(f"{self.count[tile]} bytes for {self.pixels[tile]} pixels")
        return numbers(self._of(tile), item, kind=kind)

    def _plain(self, out: NDArray[Any], stream: int) -> None:
        """Decode the tiles that did not quantize well: stored as they are, gzip-compressed or not."""
        kind = "f" if self.plan.bitpix < 0 else "i"
        for tile in np.flatnonzero(self.stream == stream):
            if stream == 1:
                values = inflate(self._of(int(tile)), int(self.pixels[tile]), kind=kind)
            else:
                values = self._uncompressed(int(tile), kind)
            place(values, self.boxes[tile], out)

    def _hcompress(self, out: NDArray[Any], tiles: NDArray[np.int64]) -> None:
        bits = 32 if self.plan.quantized or self.plan.bitpix == 32 else 16
        shapes = self.boxes[tiles, :2]
        for shape in np.unique(shapes, axis=0):
            alike = tiles[(shapes == shape).all(axis=1)]
            for some in np.split(alike, range(_BATCH, alike.size, _BATCH)):
                images = decode_hcompress(
                    [self._of(int(tile)) for tile in some],
                    (int(shape[0]), int(shape[1])),
                    smooth=self.plan.smooth,
                    bits=bits,
                    trusted=self.plan.checksum is not None,
                )
                for tile, image in zip(some, images, strict=True):
                    place(image.reshape(-1), self.boxes[tile], out)

    def _of(self, tile: int) -> memoryview:
        start = int(self.start[tile])
        return self.data[start : start + int(self.count[tile])].data

    def _dequantize(self, numbers: NDArray[np.int32], out: NDArray[np.float32]) -> None:
        plan = self.plan
        blanks = self._scalars("ZBLANK", plan.blank or 0).astype(np.int64)
        dequantize(
            numbers,
            out,
            np.flatnonzero(self.stream == 0),
            self.boxes,
            self._scalars("ZSCALE", plan.scale).astype(np.float64),
            self._scalars("ZZERO", plan.zero).astype(np.float64),
            blanks,
            self.index + (plan.seed - 1),
            plan.dither,
            plan.blank is not None or plan.column("ZBLANK") is not None,
        )

    def _without_blanks(self, out: NDArray[Any]) -> NDArray[Any]:
        """Integers with a blank value for each tile become floats with NaN."""
        if self.plan.column("ZBLANK") is None or self.plan.bitpix < 0:
            return out
        values = out.astype(np.float64)
        blanks = np.zeros(out.shape, dtype=np.float64)
        for box, pixels, blank in zip(self.boxes, self.pixels, self._scalars("ZBLANK", 0), strict=True):
            place(np.full(int(pixels), float(blank)), box, blanks)
        values[values == blanks] = np.nan
        return values
