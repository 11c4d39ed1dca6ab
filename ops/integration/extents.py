"""Where along the rows of a stack a frame has samples at all: in a tile of a mosaic most have only some."""

from __future__ import annotations

from numba import njit

BLOCK = 64
"""Samples looked at together."""


@njit(nogil=True, cache=True)
def _empty(values):  # type: ignore[no-untyped-def]
    """Whether no sample has data."""
    found = 0
    for x in range(values.size):
        found |= values[x] == values[x]
    return found == 0


@njit(nogil=True, cache=True)
def find_extents(stack, extents):  # type: ignore[no-untyped-def]
    """Fill first and last + 1 column with data, to whole blocks, of each frame and row; 0, 0 where there is none.

    Parameters
    ----------
    stack
        (frame, row, column), float32, NaN = no data.
    extents
        (frame, row, 2), integers, written.
    """
    frames, rows, columns = stack.shape
    for i in range(frames):
        for y in range(rows):
            first = 0
            while first < columns and _empty(stack[i, y, first : first + BLOCK]):
                first += BLOCK
            last = columns
            while last > first and _empty(stack[i, y, max(last - BLOCK, first) : last]):
                last = max(last - BLOCK, first)
            extents[i, y, 0], extents[i, y, 1] = (first, last) if first < last else (0, 0)
