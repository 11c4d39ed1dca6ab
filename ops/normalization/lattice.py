"""Regular points on the canvas at which all frames are compared, less those near stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.grid import Grid

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOST_DROPPED = 0.6
"""Part of a block of points that stars may take; beyond, only the brightest stars count there."""
_BLOCK = 16


@dataclass(frozen=True)
class Lattice:
    """Regular points on the canvas, `group` × `group` of them to a superpixel."""

    step: float
    """Distance of points (canvas pixels), a frame's cell on average."""
    group: int
    shape: tuple[int, int]
    """Superpixels in y and x."""

    @property
    def points(self) -> tuple[int, int]:
        """Points in y and x."""
        return self.shape[0] * self.group, self.shape[1] * self.group

    def positions(self, first: int, stop: int) -> Floats:
        """Canvas coordinate of points along an axis."""
        return np.asarray((np.arange(first, stop) + 0.5) * self.step - 0.5, dtype=np.float64)

    def ids(self, sy: NDArray[np.int64], sx: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of superpixels, block by block: neighbours on the sky have near numbers."""
        across = -(-self.shape[1] // _BLOCK)
        block = (sy // _BLOCK) * across + sx // _BLOCK
        return np.asarray(block * _BLOCK**2 + (sy % _BLOCK) * _BLOCK + sx % _BLOCK)


def make_lattice(grid: Grid, *, cell: int, area: float, superpixel: float) -> Lattice:
    """Lattice for a canvas.

    Parameters
    ----------
    grid
        The canvas.
    cell
        Side of the frames' cells (frame pixels).
    area
        J: frame pixels a canvas pixel, typical of the frames.
    superpixel
        Side of a superpixel (frame pixels); taken to the nearest multiple of the cell.
    """
    step = cell / float(np.sqrt(area))
    group = max(1, round(superpixel / cell))
    rows, columns = (int(np.ceil(n / (step * group))) for n in grid.shape)
    return Lattice(step, group, (rows, columns))


@njit(nogil=True, cache=True, fastmath=False)
def _paint(x, y, reach, step, brightest):  # type: ignore[no-untyped-def]
    """Largest reach of the stars whose disc holds a point."""
    rows, columns = brightest.shape
    for k in range(len(x)):
        r = reach[k]
        low = max(int(np.ceil((y[k] - r + 0.5) / step - 0.5)), 0)
        high = min(int(np.floor((y[k] + r + 0.5) / step - 0.5)), rows - 1)
        left = max(int(np.ceil((x[k] - r + 0.5) / step - 0.5)), 0)
        right = min(int(np.floor((x[k] + r + 0.5) / step - 0.5)), columns - 1)
        for j in range(low, high + 1):
            dy = (j + 0.5) * step - 0.5 - y[k]
            for i in range(left, right + 1):
                dx = (i + 0.5) * step - 0.5 - x[k]
                if dx * dx + dy * dy <= r * r and r > brightest[j, i]:
                    brightest[j, i] = r


def drop_stars(lattice: Lattice, x: Floats, y: Floats, radius: Floats) -> Bools:
    """Points that no frame may use.

    Parameters
    ----------
    lattice
        The points.
    x, y, radius
        Canvas position and extent of every star of every frame (canvas pixels).

    Returns
    -------
    ndarray
        Shape `lattice.points`. A point is dropped within radius + half a step of a star; in blocks of 16 × 16
        where that would take more than `MOST_DROPPED`, small stars are let through until it does not.
    """
    brightest = np.zeros(lattice.points, dtype=np.float32)
    _paint(x, y, (radius + 0.5 * lattice.step).astype(np.float32), lattice.step, brightest)
    rows, columns = brightest.shape
    dropped = brightest > 0
    keep = 1.0 - MOST_DROPPED
    for top in range(0, rows, _BLOCK):
        strip = brightest[top : top + _BLOCK]
        padded = np.pad(strip, ((0, 0), (0, -columns % _BLOCK)), constant_values=np.inf)
        blocks = padded.reshape(len(strip), -1, _BLOCK).transpose(1, 0, 2).reshape(-1, len(strip) * _BLOCK)
        real = np.full(len(blocks), blocks.shape[1])
        real[-1] -= (-columns % _BLOCK) * len(strip)
        ordered = np.sort(blocks, axis=1)
        index = np.maximum(np.ceil(keep * real).astype(np.int64) - 1, 0)
        limit = np.repeat(ordered[np.arange(len(blocks)), index], _BLOCK)[:columns]
        dropped[top : top + _BLOCK] &= strip > limit
    return dropped
