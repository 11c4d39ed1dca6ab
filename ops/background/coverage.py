"""How deeply each part of a mosaic is covered, from one pass over its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.colour.survey import LARGE, LARGE_CELL
from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, register
from skyloom.ops.robust import select
from skyloom.ops.tiles import Output, Planes, by_tiles, grid_of

RATE = 60.0
"""Mpixel a second."""
STORED = 0.6
"""Bytes on the disk over bytes of the arrays, at most."""
CELL = 8
"""Side of a cell (pixels) of canvases up to 8192 pixels a side."""
NEEDED = ("image", "weight", "count")


@njit(nogil=True, cache=True, fastmath=False)
def cover_cells(
    image: NDArray[np.float32],
    weight: NDArray[np.float32],
    count: NDArray[np.float32],
    cell: int,
    valid: NDArray[np.float32],
    weights: NDArray[np.float32],
    counts: NDArray[np.float32],
) -> None:
    """Fraction with data of each cell, and the median weight and number of frames of what has data.

    Parameters
    ----------
    image, weight, count
        Shape (rows, columns); NaN in `image` = no data.
    cell
        Side of a cell (pixels).
    valid, weights, counts
        Shape (cells_y, cells_x), written; the fraction is of the cell's pixels on the canvas.
    """
    height, width = image.shape
    first = np.empty(cell * cell, np.float32)
    second = np.empty(cell * cell, np.float32)
    for cy in range(valid.shape[0]):
        for cx in range(valid.shape[1]):
            found, inside = 0, 0
            for y in range(cy * cell, min((cy + 1) * cell, height)):
                for x in range(cx * cell, min((cx + 1) * cell, width)):
                    inside += 1
                    if np.isfinite(image[y, x]) and weight[y, x] > 0:
                        first[found] = weight[y, x]
                        second[found] = count[y, x]
                        found += 1
            valid[cy, cx] = found / inside
            weights[cy, cx] = select(first, found, found // 2) if found > 0 else 0.0
            counts[cy, cx] = select(second, found, found // 2) if found > 0 else 0.0


@dataclass(frozen=True)
class _Cover:
    """Task of a tile."""

    planes: tuple[Planes, ...]
    """Of `NEEDED`."""
    cell: int

    def __call__(self, tile: tuple[slice, slice]) -> dict[str, NDArray[Any]]:
        shape = tuple(-(-(s.stop - s.start) // self.cell) for s in tile)
        bands = len(self.planes[0].specs)
        valid, weights, counts = np.empty((3, bands, *shape), np.float32)
        for band in range(bands):
            image, weight, count = (Planes((p.specs[band],), p.shape).read(*tile)[0] for p in self.planes)
            cover_cells(image, weight, count, self.cell, valid[band], weights[band], counts[band])
        return {"valid": valid, "weight": weights, "count": counts}


def _cost(image: xr.Dataset) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    bands = image.sizes["band"]
    rows, columns = (np.asarray(c, dtype=np.float64) for c in grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    read = 10.0 * bands * pixels
    return Cost(work=bands * pixels / 1e6, read=read, memory=32.0 * pixels, rate=RATE, stored=STORED)


def require_depth(image: xr.Dataset, what: str) -> None:
    """Refuse an image that does not say how deep it is.

    Raises
    ------
    DataError
        If weight or number of frames is missing.
    """
    missing = [n for n in NEEDED if n not in image]
    if missing:
        raise DataError(f"{what} needs {', '.join(missing)} of the mosaic; take the result of integrate")


@register(version=1, unit=("y", "x"), cost=_cost)
def coverage(image: xr.Dataset) -> xr.Dataset:
    """Find how deep a mosaic is, cell by cell: what `edges` compares its pixels with.

    Parameters
    ----------
    image
        A mosaic with its weights and counts (`integrate`).

    Returns
    -------
    xarray.Dataset
        Over (band, y, x), y and x counting cells of 8 (canvases beyond 8192 pixels: 32) pixels, lazy, a block a
        tile: `valid` (fraction with data), `weight` and `count` (medians of what has data, 0 = none). Attributes:
        those of the image, `cell` (pixels).

    Raises
    ------
    DataError
        If the mosaic has no weights.
    """
    require_depth(image, "coverage")
    grid = grid_of(image, multiple=LARGE_CELL)
    cell = CELL if max(grid.shape) <= LARGE else LARGE_CELL
    bands = {"band": image.sizes["band"]}
    arrays = by_tiles(
        "coverage",
        grid,
        _Cover(tuple(Planes.of(image, n) for n in NEEDED), cell),
        {n: Output(np.float32, bands, {}, cell) for n in ("valid", "weight", "count")},
    )
    kept = {k: v for k, v in image.attrs.items() if k != "provenance"}
    return xr.Dataset(arrays, coords={"band": image["band"].values}, attrs={**kept, "cell": cell})
