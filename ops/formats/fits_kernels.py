"""Kernels that decode the tiles of compressed FITS images: Rice, PLIO, and what undoes quantization.

Written from the FITS standard 4.0, section 10. They run without the interpreter lock, stop at the last pixel that
is wanted, and cannot run past the end of a damaged stream.

A tile's place is told by five numbers, its box: rows, columns, pixels before the wanted plane, and row and column
of its corner in the window (below 0 where it begins before the window).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]
Numbers = NDArray[np.int32]

ZERO = -2147483646
"""Quantized number that means exactly 0 with SUBTRACTIVE_DITHER_2."""
RANDOM_COUNT = 10000
PLIO_PIXELS = 2048
"""Most pixels a byte of a PLIO stream can stand for."""
_U = np.uint64
_LEADING = np.array([8 - i.bit_length() for i in range(256)], dtype=np.uint8)
"""Zeros a byte begins with."""


def _random_numbers() -> NDArray[np.float32]:
    """Table of numbers dithering uses (FITS standard 4.0, appendix I)."""
    numbers = np.empty(RANDOM_COUNT, dtype=np.float32)
    seed = 1.0
    for i in range(RANDOM_COUNT):
        seed = (16807.0 * seed) % 2147483647.0
        numbers[i] = seed / 2147483647.0
    return numbers


RANDOM = _random_numbers()


@njit(nogil=True, cache=True, fastmath=False)
def decode_rice(
    data: Bytes, starts: Indices, counts: Indices, boxes: Indices, width: int, block: int, out: NDArray[Any]
) -> int:
    """Decode Rice tiles into a window.

    Parameters
    ----------
    data : (bytes)
        Where the streams are: `starts` and `counts` (tiles); a count of 0 for a tile that is stored otherwise.
    boxes : (tiles, 5)
        Their places.
    width
        Bytes of a number: 1, 2 or 4.
    block
        Numbers of a block.
    out : (rows, columns)
        The window; integers, changed.

    Returns
    -------
    int
        The first tile whose stream is damaged; −1 = none.
    """
    select = 5 if width == 4 else (4 if width == 2 else 3)
    for tile in range(starts.size):
        if counts[tile] == 0:
            continue
        pixels = _wanted(boxes[tile], out.shape[0], out.shape[1])
        # What a stream of this length can hold at most: no memory is asked for on the word of a header.
        if pixels > (8 * counts[tile] // select + 1) * block:
            return tile
        values, whole = _rice(data, starts[tile], starts[tile] + counts[tile], width, block, pixels)
        if not whole:
            return tile
        _place(values, boxes[tile], out)
    return -1


@njit(nogil=True, cache=True, fastmath=False)
def decode_plio(data: Bytes, starts: Indices, counts: Indices, boxes: Indices, out: NDArray[Any]) -> int:
    """Decode PLIO tiles into a window (see `decode_rice`)."""
    for tile in range(starts.size):
        if counts[tile] == 0:
            continue
        pixels = _wanted(boxes[tile], out.shape[0], out.shape[1])
        if pixels > PLIO_PIXELS * counts[tile]:
            return tile
        values, whole = _plio(data, starts[tile], starts[tile] + counts[tile], pixels)
        if not whole:
            return tile
        _place(values, boxes[tile], out)
    return -1


@njit(nogil=True, cache=True, fastmath=False)
def dequantize(
    numbers: Numbers,
    out: NDArray[np.float32],
    tiles: Indices,
    boxes: Indices,
    scales: NDArray[np.float64],
    zeros: NDArray[np.float64],
    blanks: Indices,
    seeds: Indices,
    dither: int,
    has_blank: bool,
) -> None:
    """Turn the quantized numbers of some tiles of a window into floats.

    Parameters
    ----------
    numbers : (rows, columns)
        Quantized numbers of the window.
    out : (rows, columns)
        Changed where the tiles are.
    tiles
        Which rows of `boxes`, `scales`, `zeros`, `blanks` and `seeds`.
    seeds
        Number of each tile's first place in the table of random numbers.
    dither
        0 none, 1 or 2: SUBTRACTIVE_DITHER_1 or _2.

    Notes
    -----
    FITS standard 4.0, 10.2: value = (number − random + 0.5) × scale + zero, with the next random number a pixel.
    """
    for tile in tiles:
        height, width, skip, top, left = boxes[tile]
        scale, zero, blank = scales[tile], zeros[tile], blanks[tile]
        seed = seeds[tile] % RANDOM_COUNT
        place = np.int64(np.float64(RANDOM[seed]) * 500.0)
        y, x = top, left
        for i in range(-skip, min(height, out.shape[0] - top) * width):
            if i >= 0:
                if y >= 0 and x >= 0 and x < out.shape[1]:
                    number = numbers[y, x]
                    if has_blank and number == blank:
                        out[y, x] = np.nan
                    elif dither == 2 and number == ZERO:
                        out[y, x] = 0.0
                    elif dither:
                        out[y, x] = (np.float64(number) - np.float64(RANDOM[place]) + 0.5) * scale + zero
                    else:
                        out[y, x] = np.float64(number) * scale + zero
                x += 1
                if x == left + width:
                    y, x = y + 1, left
            place += 1
            if place == RANDOM_COUNT:
                seed = (seed + 1) % RANDOM_COUNT
                place = np.int64(np.float64(RANDOM[seed]) * 500.0)


@njit(nogil=True, cache=True, fastmath=False)
def _wanted(box: Indices, rows: int, columns: int) -> int:
    """Pixels of a tile up to the last one in the window."""
    height, width, skip, top, left = box
    pixels: int = skip + (min(height, rows - top) - 1) * width + min(width, columns - left)
    return pixels


@njit(nogil=True, cache=True, fastmath=False)
def _place(values: Numbers, box: Indices, out: NDArray[Any]) -> None:
    """Put the part of a tile that lies in the window into it."""
    height, width, skip, top, left = box
    for y in range(max(0, -top), min(height, out.shape[0] - top)):
        for x in range(max(0, -left), min(width, out.shape[1] - left)):
            out[top + y, left + x] = values[skip + y * width + x]


@njit(nogil=True, cache=True, fastmath=False, inline="always")
def _fill(data: Bytes, stop: int, position: int, window: np.uint64, have: int) -> tuple[int, np.uint64, int]:
    """Bits of the next bytes behind those in the window, the first of them highest; past the end come zeros."""
    while have <= 56:
        if position < stop:
            window |= _U(data[position]) << _U(56 - have)
        position += 1
        have += 8
    return position, window, have


@njit(nogil=True, cache=True, fastmath=False)
def _rice(data: Bytes, start: int, stop: int, width: int, block: int, pixels: int) -> tuple[Numbers, bool]:
    """First `pixels` numbers of a Rice stream in data[start:stop], and whether it holds that many."""
    out = np.empty(pixels, dtype=np.int32)
    bits = 8 * width
    # Bits of the code of a block, and the code that says its differences are not compressed.
    select, plain = (5, 25) if width == 4 else ((4, 14) if width == 2 else (3, 6))
    mask = _U((1 << bits) - 1)
    sign = _U(1 << (bits - 1)) if width > 1 else _U(0)
    one = _U(1)
    position = start + width
    if position > stop:
        return out, False
    last = _U(0)
    for k in range(start, position):
        last = (last << _U(8)) | _U(data[k])
    window, have = _U(0), 0
    i = 0
    while i < pixels:
        position, window, have = _fill(data, stop, position, window, have)
        code = int(window >> _U(64 - select)) - 1
        window <<= _U(select)
        have -= select
        end = min(i + block, pixels)
        if code > plain:
            return out, False
        if code < 0:
            out[i:end] = np.int64(last ^ sign) - np.int64(sign)
            i = end
        elif code == plain:
            while i < end:
                position, window, have = _fill(data, stop, position, window, have)
                step = window >> _U(64 - bits)
                window <<= _U(bits)
                have -= bits
                last = (last + ((step >> one) ^ (_U(0) - (step & one)))) & mask
                out[i] = np.int64(last ^ sign) - np.int64(sign)
                i += 1
        else:
            low = _U(code)
            while i < end:
                if have <= 32:
                    position, window, have = _fill(data, stop, position, window, have)
                zeros = 0
                while window >> _U(56) == _U(0):
                    zeros += 8
                    window <<= _U(8)
                    have -= 8
                    position, window, have = _fill(data, stop, position, window, have)
                    if position > stop + 16:
                        return out, False
                rest = int(_LEADING[window >> _U(56)])
                zeros += rest
                window <<= _U(rest + 1)
                have -= rest + 1
                if have <= 32:
                    position, window, have = _fill(data, stop, position, window, have)
                step = (_U(zeros) << low) | ((window >> one) >> _U(63 - code))
                window <<= low
                have -= code
                last = (last + ((step >> one) ^ (_U(0) - (step & one)))) & mask
                out[i] = np.int64(last ^ sign) - np.int64(sign)
                i += 1
        if position - have // 8 > stop:
            return out, False
    return out, True


@njit(nogil=True, cache=True, fastmath=False)
def _word(data: Bytes, start: int, index: int) -> int:
    """Word of 16 bits."""
    return (np.int64(data[start + 2 * index]) << 8) | np.int64(data[start + 2 * index + 1])  # type: ignore[return-value]


@njit(nogil=True, cache=True, fastmath=False)
def _plio(data: Bytes, start: int, stop: int, pixels: int) -> tuple[Numbers, bool]:
    """First `pixels` numbers of a PLIO line list in data[start:stop], and whether it is one."""
    out = np.zeros(pixels, dtype=np.int32)
    words = (stop - start) // 2
    if words < 5:
        return out, False
    # The header: an old form has the length of the list in its third word, the other in the fourth and fifth.
    length, at = _word(data, start, 2), 3
    if length == 0 or length >= 0x8000:
        length, at = (_word(data, start, 4) << 15) + _word(data, start, 3), _word(data, start, 1)
    if length > words:
        return out, False
    x, value = 0, 1
    while at < length and x < pixels:
        word = _word(data, start, at)
        code, number = word >> 12, word & 0xFFF
        at += 1
        if code == 1:
            if at >= length:
                return out, False
            value = (_word(data, start, at) << 12) + number
            at += 1
        elif code == 2:
            value += number
        elif code == 3:
            value -= number
        elif code == 6 or code == 7:
            value += number if code == 6 else -number
            out[x] = value
            x += 1
        elif code == 0 or code == 4 or code == 5:
            if code == 4:
                out[x : min(x + number, pixels)] = value
            x += number
            if code == 5 and 0 < x <= pixels:
                out[x - 1] = value
        else:
            return out, False
    return out, True
