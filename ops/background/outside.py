"""Which pixels lie outside of a mosaic, and how far the others are from them."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage

Mask = NDArray[np.bool_]


def outside_of(bad: Mask, *, hole: int, at_edge: tuple[bool, bool, bool, bool]) -> Mask:
    """What of the bad pixels is the outside, and no hole within the mosaic.

    A connected piece is outside if it touches the edge of the canvas, or is wider or taller than `hole`.

    Parameters
    ----------
    bad
        Shape (rows, columns): pixels without (enough) data of a window. For pixels farther than `hole` from the
        window's border the answer does not depend on the window.
    hole
        Largest side of a hole (pixels).
    at_edge
        Whether the window's first row, last row, first column, last column are the canvas's own.

    Returns
    -------
    ndarray
        Of the same shape.
    """
    if not bad.any():
        return bad
    labels, number = ndimage.label(bad, structure=np.ones((3, 3)))
    large = np.zeros(number + 1, dtype=bool)
    for label, found in enumerate(ndimage.find_objects(labels), start=1):
        large[label] = max(s.stop - s.start for s in found) > hole
    for touches, line in zip(at_edge, (labels[0], labels[-1], labels[:, 0], labels[:, -1]), strict=True):
        if touches:
            large[line] = True
    large[0] = False
    return np.asarray(large[labels])


@njit(nogil=True, cache=True, fastmath=False)
def distance_to(outside: Mask, reach: int) -> NDArray[np.float32]:
    """Distance of each pixel to the nearest pixel outside (pixels), exact up to `reach` and reach + 1 beyond.

    Parameters
    ----------
    outside
        Shape (rows, columns).
    reach
        How far distances matter (pixels).
    """
    height, width = outside.shape
    far = reach + 1
    along = np.empty((height, width), np.float32)
    near = np.zeros(height, np.bool_)
    for y in range(height):
        away = far
        for x in range(width):
            away = 0 if outside[y, x] else min(away + 1, far)
            along[y, x] = away
        away = far
        for x in range(width - 1, -1, -1):
            away = 0 if outside[y, x] else min(away + 1, far)
            along[y, x] = min(along[y, x], np.float32(away))
            near[y] |= along[y, x] < far
    squares = np.empty((height, width), np.float32)
    for y in range(height):
        best = squares[y]
        best[:] = np.float32(far * far)
        for other in range(max(y - reach, 0), min(y + reach, height - 1) + 1):
            if near[other]:
                step = np.float32((other - y) * (other - y))
                for x in range(width):
                    best[x] = min(best[x], along[other, x] * along[other, x] + step)
    return np.sqrt(squares)
