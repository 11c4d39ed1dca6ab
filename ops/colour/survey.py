"""What must be known of a whole mosaic before it is coloured or stretched, from one pass over its pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, register
from skyloom.ops.robust import median_mad
from skyloom.ops.tiles import Output, Planes, by_tiles, grid_of

CELL = 16
"""Side of a cell (pixels) of canvases up to `LARGE` pixels a side."""
LARGE_CELL = 32
LARGE = 8192
SAMPLES = 2**21
"""Pixels kept of each band at most."""
RATE = 80.0
"""Mpixel a second."""


def cell_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Side of a cell and distance of the pixels kept of it (pixels, powers of two), from the canvas alone."""
    cell = CELL if max(shape) <= LARGE else LARGE_CELL
    step = 1
    while step < cell and math.prod(-(-n // step) for n in shape) > SAMPLES:
        step *= 2
    return cell, step


@njit(nogil=True, cache=True, fastmath=False)
def survey_cells(
    image: NDArray[np.float32],
    cell: int,
    step: int,
    median: NDArray[np.float32],
    noise: NDArray[np.float32],
    valid: NDArray[np.float32],
    sample: NDArray[np.float32],
) -> None:
    """Robust location and scatter of the pixels of each cell, and some of the pixels.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    cell, step
        Side of a cell; distance of the pixels kept (pixels).
    median, noise, valid
        Shape (cells_y, cells_x), written: median, σ from the median absolute deviation, fraction with data.
    sample
        Shape (cells_y, cells_x, (cell / step)²), written.
    """
    height, width = image.shape
    buffer = np.empty(cell * cell, np.float32)
    for cy in range(median.shape[0]):
        for cx in range(median.shape[1]):
            count, kept = 0, 0
            for dy in range(cell):
                y = cy * cell + dy
                for dx in range(cell):
                    x = cx * cell + dx
                    value = image[y, x] if y < height and x < width else np.float32(np.nan)
                    if dy % step == 0 and dx % step == 0:
                        sample[cy, cx, kept] = value
                        kept += 1
                    if np.isfinite(value):
                        buffer[count] = value
                        count += 1
            valid[cy, cx] = count / (cell * cell)
            if count > 0:
                centre, sigma = median_mad(buffer, count)
                median[cy, cx] = centre
                noise[cy, cx] = sigma
            else:
                median[cy, cx] = np.nan
                noise[cy, cx] = np.nan


@dataclass(frozen=True)
class _Survey:
    """Task of a tile."""

    planes: Planes
    cell: int
    step: int

    def __call__(self, tile: tuple[slice, slice]) -> dict[str, NDArray[Any]]:
        rows, columns = tile
        shape = tuple(-(-(s.stop - s.start) // self.cell) for s in tile)
        bands = len(self.planes.specs)
        median, noise, valid = np.empty((3, bands, *shape), np.float32)
        sample = np.empty((bands, *shape, (self.cell // self.step) ** 2), np.float32)
        for band, spec in enumerate(self.planes.specs):
            image = Planes((spec,), self.planes.shape).read(rows, columns)[0]
            survey_cells(image, self.cell, self.step, median[band], noise[band], valid[band], sample[band])
        return {"median": median, "noise": noise, "valid": valid, "sample": sample}


def lead_of(image: xr.Dataset, variable: str = "image") -> str:
    """Name of the dimension of bands or channels of a canvas.

    Raises
    ------
    DataError
        If the Dataset has no such image.
    """
    dims = tuple(str(d) for d in image[variable].dims) if variable in image else ()
    if len(dims) != 3 or dims[1:] != ("y", "x"):
        raise DataError(f"there is no {variable!r} over (band, y, x) here; choose a node with a mosaic")
    return dims[0]


def _cost(image: xr.Dataset) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    lead = image.sizes[lead_of(image)]
    rows, columns = (np.asarray(c, dtype=np.float64) for c in grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    memory = pixels * 4 * (2 + lead * (1.0 if cell_of(grid.shape)[1] == 1 else 0.3))
    return Cost(work=lead * pixels / 1e6, read=4.0 * lead * pixels, memory=memory, rate=RATE)


@register(version=1, unit=("y", "x"), cost=_cost)
def survey(image: xr.Dataset) -> xr.Dataset:
    """Survey a mosaic cell by cell: level and scatter of each cell, and a regular sample of the pixels.

    Parameters
    ----------
    image
        A mosaic over (band, y, x) or a picture over (channel, y, x).

    Returns
    -------
    xarray.Dataset
        Over (band or channel, y, x), y and x counting cells of 16 (canvases beyond 8192 pixels: 32) pixels, lazy,
        a block a tile: `median`, `noise` (σ from the median absolute deviation), `valid` (fraction with data), and
        `sample` (…, sample), every n-th pixel of every n-th row. Cells and sample depend on the canvas, not on its
        tiles. Attributes: those of the image, `cell` (pixels).
    """
    lead = lead_of(image)
    grid = grid_of(image, multiple=LARGE_CELL)
    cell, step = cell_of(grid.shape)
    bands = {lead: image.sizes[lead]}
    arrays = by_tiles(
        "survey",
        grid,
        _Survey(Planes.of(image, "image"), cell, step),
        {
            "median": Output(np.float32, bands, {}, cell),
            "noise": Output(np.float32, bands, {}, cell),
            "valid": Output(np.float32, bands, {}, cell),
            "sample": Output(np.float32, bands, {"sample": (cell // step) ** 2}, cell),
        },
    )
    kept = {k: v for k, v in image.attrs.items() if k != "provenance"}
    return xr.Dataset(arrays, coords={lead: image[lead].values}, attrs={**kept, "cell": cell})
