"""The largest upright rectangle that is covered well enough."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FINEST = 512
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
    so that no side ends in an empty rim though the whole would bear it. Canvases of more than 512 cells a side
    are searched in blocks of cells: rows above rows, the best run of columns for each pair of rows (Kadane), at
    most 7·10⁷ steps.
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


def finer_sides(covered: Floats, box: Box, wanted: float) -> tuple[float, float, float, float]:
    """A rectangle moved outwards to where its sides are covered, within cells.

    The covered part of a cell beside the rectangle is taken to lie towards it.

    Parameters
    ----------
    covered
        Shape (cells_y, cells_x): fraction of each cell that is covered.
    box
        In cells.
    wanted
        Fraction of each new strip that must be covered.

    Returns
    -------
    tuple
        As `box`, in fractions of cells.
    """
    y0, x0, y1, x1 = box
    rows, columns = covered.shape
    lowest = 1.0 - min(wanted, 1.0)

    def beside(strip: Floats) -> float:
        return float(np.quantile(strip, lowest, method="lower"))

    while y0 > 0 and beside(covered[y0 - 1, x0:x1]) >= wanted:
        y0 -= 1
    while y1 < rows and beside(covered[y1, x0:x1]) >= wanted:
        y1 += 1
    while x0 > 0 and beside(covered[y0:y1, x0 - 1]) >= wanted:
        x0 -= 1
    while x1 < columns and beside(covered[y0:y1, x1]) >= wanted:
        x1 += 1
    return (
        y0 - (beside(covered[y0 - 1, x0:x1]) if y0 > 0 else 0.0),
        x0 - (beside(covered[y0:y1, x0 - 1]) if x0 > 0 else 0.0),
        y1 + (beside(covered[y1, x0:x1]) if y1 < rows else 0.0),
        x1 + (beside(covered[y0:y1, x1]) if x1 < columns else 0.0),
    )


def _blocks(values: Floats, size: int) -> Floats:
    """Sums over blocks of cells."""
    if size == 1:
        return np.ascontiguousarray(values)
    rows, columns = (-(-n // size) * size for n in values.shape)
    padded = np.zeros((rows, columns))
    padded[: values.shape[0], : values.shape[1]] = values
    return np.asarray(padded.reshape(rows // size, size, columns // size, size).sum(axis=(1, 3)))
