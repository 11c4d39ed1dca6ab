"""Tiles of compressed FITS images that libraries decode: gzip by zlib, HCOMPRESS by astropy."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.formats.fits_header import BLOCK, CARD


def place(values: NDArray[Any], box: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Put the part of a tile that lies in the window into it (its box: see `fits_kernels`)."""
    height, width, skip, top, left = (int(n) for n in box)
    plane = values[skip : skip + height * width].reshape(height, width)
    rows = slice(max(0, -top), min(height, out.shape[0] - top))
    columns = slice(max(0, -left), min(width, out.shape[1] - left))
    out[rows.start + top : rows.stop + top, columns.start + left : columns.stop + left] = plane[rows, columns]


def inflate(stream: memoryview, pixels: int, *, shuffled: bool = False, kind: str = "i") -> NDArray[Any]:
    """Decompress the gzip (or zlib) stream of a tile.

    Parameters
    ----------
    pixels
        Numbers it must hold.
    shuffled
        True: the first bytes of all numbers, then the second ones … (GZIP_2).
    kind
        "i" or "f", of the numbers.

    Returns
    -------
    numpy.ndarray
        Big-endian, or uint8.

    Raises
    ------
    ValueError
        If it holds something else.
    """
    decoder = zlib.decompressobj(47)
    data = decoder.decompress(stream, 8 * pixels + 1)
    item = len(data) // pixels
    if len(data) != item * pixels or item not in (1, 2, 4, 8) or not decoder.eof:
        raise ValueError(f"{len(data)} bytes for {pixels} pixels")
    return numbers(data, item, kind=kind, shuffled=shuffled)


def numbers(data: bytes | memoryview, item: int, *, kind: str, shuffled: bool = False) -> NDArray[Any]:
    """Big-endian numbers of `item` bytes each; single bytes have no sign."""
    dtype = np.dtype("u1") if item == 1 else np.dtype(f">{kind}{item}")
    raw = np.frombuffer(data, dtype=np.uint8)
    if shuffled and item > 1:
        raw = np.ascontiguousarray(raw.reshape(item, -1).T).reshape(-1)
    return raw.view(dtype)


def decode_hcompress(
    streams: Sequence[memoryview], shape: tuple[int, int], *, smooth: bool, bits: int, trusted: bool
) -> NDArray[np.int32]:
    """Decode HCOMPRESS tiles of one shape with astropy: int32 (tiles, rows, columns).

    Parameters
    ----------
    smooth
        Whether the decoder is to smooth (the file says so).
    bits
        16 or 32, of the numbers.
    trusted
        True: the streams are known to be undamaged.

    Raises
    ------
    ValueError
        If a stream is not of a tile of this shape.
    """
    from astropy.io import fits

    height, width = shape
    padded = [bytes(stream) if trusted else _padded(stream, shape) for stream in streams]
    starts = np.cumsum([0, *(len(p) for p in padded)])
    table = np.array([[len(p), s] for p, s in zip(padded, starts, strict=False)], dtype=">i4")
    cards = {
        **{"XTENSION": "'BINTABLE'", "BITPIX": 8, "NAXIS": 2, "NAXIS1": 8, "NAXIS2": len(padded)},
        **{"PCOUNT": int(starts[-1]), "GCOUNT": 1, "TFIELDS": 1, "TTYPE1": "'COMPRESSED_DATA'"},
        **{"TFORM1": "'1PB'", "ZIMAGE": "T", "ZTENSION": "'IMAGE'", "ZBITPIX": bits, "ZNAXIS": 3},
        **{"ZNAXIS1": width, "ZNAXIS2": height, "ZNAXIS3": len(padded), "ZTILE1": width, "ZTILE2": height},
        **{"ZTILE3": 1, "ZPCOUNT": 0, "ZGCOUNT": 1, "ZCMPTYPE": "'HCOMPRESS_1'", "ZNAME1": "'SCALE'"},
        **{"ZVAL1": 0, "ZNAME2": "'SMOOTH'", "ZVAL2": int(smooth)},
    }
    primary = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 0, "EXTEND": "T"}
    parts = [_block(_cards(primary), b" "), _block(_cards(cards), b" ")]
    parts.append(_block(b"".join([table.tobytes(), *padded]), b"\0"))
    with fits.open(io.BytesIO(b"".join(parts)), memmap=False, do_not_scale_image_data=True) as units:
        return np.asarray(units[1].data, dtype=np.int32)


def _padded(stream: memoryview, shape: tuple[int, int]) -> bytes:
    """Stream with as many zeros behind it as its decoder may read: astropy's does not look where it ends.

    Zeros are read as bit planes that are not compressed, a bit a pixel, and a sign; the plane that is cut off may
    take two bits a pixel of its quadrant.
    """
    head = bytes(stream[:25])
    height, width = int.from_bytes(head[2:6], "big"), int.from_bytes(head[6:10], "big")
    if len(head) < 25 or head[:2] != b"\xdd\x99" or (height, width) != shape:
        raise ValueError(f"no stream of {shape[1]} x {shape[0]} pixels")
    planes = max(head[22:25])
    if planes > 64:
        raise ValueError(f"{planes} bit planes")
    return bytes(stream) + bytes((planes + 4) * (height + 1) * (width + 1) // 8 + 1024)


def _cards(cards: dict[str, object]) -> bytes:
    return b"".join(f"{k:8}= {v!s:>20}".ljust(CARD).encode("ascii") for k, v in cards.items()) + b"END".ljust(CARD)


def _block(data: bytes, fill: bytes) -> bytes:
    return data.ljust(-(-len(data) // BLOCK) * BLOCK, fill)
