"""Where along the rows of a stack a frame has samples at all: in a tile of a mosaic many frames end."""

from __future__ import annotations

import numpy as np
from numba import njit

BLOCK = 64
"""Pixels looked at together."""


@njit(nogil=True, cache=True)
def _empty(codes):  # type: ignore[no-untyped-def]
    """Whether the frame reaches none of some pixels."""
    found = np.uint8(0)
    for x in range(codes.size):
        found |= codes[x]
    return found == 0


@njit(nogil=True, cache=True)
def find_extents(codes, extents):  # type: ignore[no-untyped-def]
    """Fill first and last + 1 column that a frame reaches, to whole blocks, in each row; 0, 0 where it is none.

    Parameters
    ----------
    codes
        (frame, row, column), taper codes: 0 where the frame does not reach. Of one byte, where samples have four.
    extents
        (frame, row, 2), integers, written.
    """
    frames, rows, columns = codes.shape
    for i in range(frames):
        for y in range(rows):
            first = 0
            while first < columns and _empty(codes[i, y, first : first + BLOCK]):
                first += BLOCK
            last = columns
            while last > first and _empty(codes[i, y, max(last - BLOCK, first) : last]):
                last = max(last - BLOCK, first)
            extents[i, y, 0], extents[i, y, 1] = (first, last) if first < last else (0, 0)
