"""Colour pictures as files: PNG and TIFF with a colour profile, FITS of the linear channels; strip by strip."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.io import fits
from numpy.typing import NDArray

from skyloom.ops.arrays import array_spec
from skyloom.ops.errors import ConfigError
from skyloom.ops.frames import open_source
from skyloom.ops.pyramid import block_mean
from skyloom.workflows.ahead import ahead
from skyloom.workflows.icc import profile_of

STRIP = 256
"""Rows read at a time: the inner chunk of the store."""
_PIECE = 32
"""Rows turned into numbers of a picture at a time."""
Depth = Literal[8, 16, 32]
_FITS_BLOCK = 2880


@dataclass(frozen=True)
class Picture:
    """A picture over (channel, y, x), read by rows."""

    image: xr.DataArray
    linear: bool
    sources: tuple[str, ...]
    """Of each channel (`skyloom.ops.arrays`)."""

    @classmethod
    def of(cls, dataset: xr.Dataset, variable: str = "image") -> Picture:
        """Picture of a node's result."""
        image = dataset[variable].transpose("channel", "y", "x")
        sources = tuple(array_spec(dataset, variable, channel=i) for i in range(image.sizes["channel"]))
        return cls(image, bool(dataset.attrs.get("linear", True)), sources)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns."""
        channels, height, width = self.image.shape
        return channels, height, width

    def strips(self, *, top_first: bool = False, rows: int = STRIP) -> Iterator[NDArray[Any]]:
        """Pixels of strips of full width, shape (channels, rows, columns)."""
        starts = range(0, self.shape[1], rows)
        opened = [open_source(s) for s in self.sources]

        def read(start: int) -> NDArray[Any]:
            window = slice(start, min(start + rows, self.shape[1])), slice(0, self.shape[2])
            pixels = np.stack([source.read(*window) for source in opened])
            return pixels[:, ::-1] if top_first else pixels

        yield from ahead(read, reversed(starts) if top_first else starts)

    def shown(self, depth: Depth, *, factor: int = 1) -> Iterator[NDArray[Any]]:
        """Rows of integers from the top, shape (rows, columns, channels): 1 … 2^depth - 1, 0 = no data."""
        highest = float(2**depth - 1)
        dtype = np.uint8 if depth == 8 else np.uint16
        rows = max(factor, STRIP // factor * factor)
        for pixels in self._from_top(rows, factor):
            out = np.empty((*pixels.shape[1:], len(pixels)), dtype)
            for start in range(0, len(out), _PIECE):
                # In pieces: the strip of a wide canvas is large as float64.
                piece = pixels[:, start : start + _PIECE].astype(np.float64)
                piece *= highest - 1.0
                piece += 1.0
                np.rint(piece, out=piece)
                piece[:, ~np.isfinite(piece).all(axis=0)] = 0.0
                out[start : start + _PIECE] = np.moveaxis(piece, 0, -1)
            yield out

    def views(self, side: int) -> list[NDArray[np.float32]]:
        """Smaller views of the channels, not longer than `side` pixels."""
        factor = max(1, -(-max(self.shape[1:]) // side))
        rows = max(factor, STRIP // factor * factor)
        parts = [[block_mean(p, factor) for p in pixels] for pixels in self.strips(rows=rows)]
        return [np.concatenate(planes) for planes in zip(*parts, strict=True)]

    def _from_top(self, rows: int, factor: int) -> Iterator[NDArray[Any]]:
        for pixels in self.strips(top_first=True, rows=rows):
            if factor == 1:
                yield pixels
            else:
                # Blocks count from the bottom, where the canvas begins.
                yield np.stack([block_mean(p[::-1], factor)[::-1] for p in pixels])


def write_colour_png(
    picture: Picture, path: Path, *, depth: Literal[8, 16], max_side: int, texts: dict[str, str]
) -> None:
    """Write a stretched picture as PNG, 8 or 16 bit, with its colour profile; shrunk to `max_side` where larger.

    Notes
    -----
    Written here, not by Pillow: it has no 16-bit colour and wants the picture whole.
    """
    channels, height, width = picture.shape
    factor = max(1, -(-max(height, width) // max_side))
    size = -(-width // factor), -(-height // factor)
    colour_type = 2 if channels == 3 else 0
    compressor = zlib.compressobj(3)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0))
        name = b"sRGB" if channels == 3 else b"grey"
        _chunk(file, b"iCCP", name + b"\0\0" + zlib.compress(profile_of(channels)))
        for keyword, text in texts.items():
            _chunk(file, b"tEXt", keyword.encode("latin-1") + b"\0" + text.encode("latin-1", "replace"))
        for rows in picture.shown(depth, factor=factor):
            lines = rows.astype(rows.dtype.newbyteorder(">")).reshape(len(rows), -1).view(np.uint8)
            lines = lines.reshape(len(rows), -1)
            # Filter 1: each byte less that of the pixel to its left.
            step = channels * depth // 8
            filtered = lines.copy()
            filtered[:, step:] -= lines[:, :-step]
            raw = np.concatenate([np.ones((len(rows), 1), np.uint8), filtered], axis=1)
            data = compressor.compress(raw.tobytes())
            if data:
                _chunk(file, b"IDAT", data)
        _chunk(file, b"IDAT", compressor.flush())
        _chunk(file, b"IEND", b"")


def _chunk(file: Any, kind: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def write_colour_tiff(picture: Picture, path: Path, *, depth: Depth, description: str) -> None:
    """Write a TIFF: 16-bit integers of a stretched picture, 32-bit floats (NaN = no data) of a linear one."""
    import tifffile

    channels, height, width = picture.shape
    floats = picture.linear or depth == 32
    dtype: Any = np.float32 if floats else (np.uint8 if depth == 8 else np.uint16)

    def rows() -> Iterator[NDArray[Any]]:
        if not floats:
            yield from picture.shown(depth)
            return
        for pixels in picture.strips(top_first=True):
            yield np.ascontiguousarray(np.moveaxis(pixels, 0, -1), dtype=np.float32)

    def strips() -> Iterator[NDArray[Any]]:
        carry = np.empty((0, width, channels), dtype=dtype)
        for block in rows():
            carry = np.concatenate([carry, block])
            while len(carry) >= STRIP:
                yield carry[:STRIP]
                carry = carry[STRIP:]
        if len(carry):
            yield carry

    big = channels * height * width * np.dtype(dtype).itemsize > 2**31
    with tifffile.TiffWriter(path, bigtiff=big) as tiff:
        tiff.write(
            (s if channels == 3 else s[..., 0] for s in strips()),
            shape=(height, width, channels) if channels == 3 else (height, width),
            dtype=dtype,
            photometric="rgb" if channels == 3 else "minisblack",
            planarconfig="contig" if channels == 3 else None,
            rowsperstrip=STRIP,
            description=description,
            metadata=None,
            software=f"skyloom {version('skyloom')}",
            iccprofile=None if picture.linear else profile_of(channels),
        )


def write_colour_fits(dataset: xr.Dataset, path: Path, header: fits.Header, *, variables: list[str]) -> None:
    """Write a picture as a FITS cube, the channel as its third axis: image, then variance as an extension."""
    with path.open("wb") as file:
        for number, variable in enumerate(variables):
            picture = Picture.of(dataset, variable)
            channels, height, width = picture.shape
            cards = fits.Header()
            if number == 0:
                cards["SIMPLE"] = True
            else:
                cards["XTENSION"] = "IMAGE"
            cards["BITPIX"] = -32
            cards["NAXIS"] = 3
            cards["NAXIS1"], cards["NAXIS2"], cards["NAXIS3"] = width, height, channels
            if number == 0:
                cards["EXTEND"] = len(variables) > 1
            else:
                cards["PCOUNT"], cards["GCOUNT"] = 0, 1
            cards["EXTNAME"] = variable.upper()
            names = ", ".join(str(c) for c in dataset["channel"].values)
            cards["COLORS"] = (names, "planes of the third axis")
            own = header.copy()
            # A header of two axes does not say what the third is.
            own.remove("WCSAXES", ignore_missing=True)
            if variable != "image":
                own.remove("BUNIT", ignore_missing=True)
            cards.extend(own, update=True)
            file.write(cards.tostring().encode("ascii", "replace"))
            size = 0
            for channel in range(channels):
                part = slice(channel, channel + 1)
                plane = Picture(picture.image[part], picture.linear, picture.sources[part])
                for pixels in plane.strips():
                    size += file.write(np.ascontiguousarray(pixels[0], dtype=">f4").view(np.uint8).data)
            file.write(b"\0" * (-size % _FITS_BLOCK))


def clipped_share(dataset: xr.Dataset) -> tuple[float, float]:
    """Fractions of the pixels with data that were clipped below black and above white; NaN where not recorded."""
    if "clipped" not in dataset:
        return float("nan"), float("nan")
    below = above = total = 0
    picture = Picture.of(dataset)
    for start, pixels in zip(range(0, picture.shape[1], STRIP), picture.strips(), strict=True):
        flags = np.asarray(dataset["clipped"][start : start + STRIP].values)
        there = np.isfinite(pixels).all(axis=0)
        below += int((there & (flags & 1 > 0)).sum())
        above += int((there & (flags & 2 > 0)).sum())
        total += int(there.sum())
    return (below / total, above / total) if total else (float("nan"), float("nan"))


def check_formats(linear: bool, formats: list[str]) -> None:
    """Refuse a PNG or JPEG of linear data.

    Raises
    ------
    ConfigError
        Linear pixels have no black and white yet.
    """
    if linear and {"png", "jpeg"} & set(formats):
        raise ConfigError(
            "a linear picture has no black and white: export it as fits, xisf or tiff, or stretch it"
        )
