"""The largest upright rectangle that is covered well enough."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FINEST = 384
"""Blocks a side among which the rectangle is looked for."""

Floats = NDArray[np.float64]
Box = tuple[int, int, int, int]
"""First row, first column, row and column beyond the last."""


@njit(nogil=True, cache=True, fastmath=False)
def _best_box(gain: Floats) -> tuple[float, int, int, int, int]:
    rows, columns = gain.shape
    best, y0, x0, y1, x1 = 0.0, 0, 0, 0, 0
    sums = np.empty(columns)
    for top in range(rows):
        sums[:] = 0.0
        for bottom in range(top, rows):
            running, begin = 0.0, 0
            for x in range(columns):
                sums[x] += gain[bottom, x]
                if running <= 0.0:
                    running, begin = 0.0, x
                running += sums[x]
                if running > best:
                    best, y0, x0, y1, x1 = running, top, begin, bottom + 1, x + 1
    return best, y0, x0, y1, x1


def largest_rectangle(covered: Floats, area: Floats, wanted: float) -> Box | None:
    """Largest rectangle of which a fraction has data, and along no side of which a strip has less.

    Parameters
    ----------
    covered
        Shape (cells_y, cells_x): fraction of each cell that is covered, 0…1.
    area
        Of the same shape: pixels of each cell on the canvas.
    wanted
        Fraction of the rectangle that must be covered, 0…1.

    Returns
    -------
    tuple or None
        In cells; None where nothing is covered so well.

    Notes
    -----
    It maximises the sum of (covered - wanted): a strip along a side adds to that only if enough of it is covered,
    so that no side ends in an empty rim though the whole would bear it. Canvases of more than 384 cells a side
    are searched in blocks of cells: rows above rows, the best run of columns for each pair of rows (Kadane), at
    most 3·10⁷ steps.
    """
    size = -(-max(covered.shape) // FINEST)
    # At 1 nothing could be gained: a covered cell must count for something.
    gain = area * (np.clip(covered, 0.0, 1.0) - min(wanted, 1.0 - 1e-9))
    blocks = _blocks(gain, size)
    best, *box = _best_box(blocks)
    if best <= 0.0:
        return None
    y0, x0, y1, x1 = (i * size for i in box)
    return y0, x0, min(y1, covered.shape[0]), min(x1, covered.shape[1])


def _blocks(values: Floats, size: int) -> Floats:
    """Sums over blocks of cells."""
    if size == 1:
        return np.ascontiguousarray(values)
    rows, columns = (-(-n // size) * size for n in values.shape)
    padded = np.zeros((rows, columns))
    padded[: values.shape[0], : values.shape[1]] = values
    return np.asarray(padded.reshape(rows // size, size, columns // size, size).sum(axis=(1, 3)))
