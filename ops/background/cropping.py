"""The canvas of a mosaic cut to what is covered."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from skyloom.ops.arrays import LOCATION
from skyloom.ops.background.rectangle import finer_sides, largest_rectangle
from skyloom.ops.errors import NotYetKnown
from skyloom.ops.grid import Grid, wcs_header

FULL = 0.98
"""Fraction of a cell from which on no edge runs through it."""

Floats = NDArray[np.float64]
Depth = Literal["weight", "count"]
Typical = Literal["median", "maximum"]


@dataclass(frozen=True)
class Depths:
    """What depth is, and how much of the typical depth an edge needs."""

    by: Depth
    of: Typical
    least: float


@dataclass(frozen=True)
class Cut:
    """A canvas that is left, and how it came about."""

    grid: Grid
    rows: slice
    columns: slice
    """On the canvas before."""
    kept: float = 1.0
    """Fraction of what is covered that lies on it."""
    told: str = ""
    """Why nothing was cut though it was wished."""

    @property
    def attrs(self) -> dict[str, Any]:
        """What a result says of it."""
        window = [self.columns.start, self.rows.start, self.columns.stop, self.rows.stop]
        return {**self.grid.to_attrs(), "crop": window, "kept": self.kept, "told": self.told}


def typical_depth(depth: NDArray[Any], valid: NDArray[Any], of: Typical) -> Floats:
    """Median or maximum of the depth of the cells that are at least half full, shape (bands,)."""
    out = np.zeros(len(depth))
    for band, (values, share) in enumerate(zip(depth, valid, strict=True)):
        full = values[share >= 0.5] if (share >= 0.5).any() else values[share > 0]
        if full.size:
            out[band] = np.median(full) if of == "median" else full.max()
    return out


def is_known(coverage: xr.Dataset) -> bool:
    """Whether a coverage is in memory or in the store."""
    return LOCATION in coverage.encoding or not any(
        isinstance(v.data, da.Array) for v in coverage.data_vars.values()
    )


def crop_grid(grid: Grid, rows: slice, columns: slice) -> Grid:
    """A window of a canvas as a canvas: the same pixels, counted from another corner."""
    wcs = grid.wcs.slice((slice(rows.start, rows.stop), slice(columns.start, columns.stop)))
    return Grid(wcs_header(wcs), (rows.stop - rows.start, columns.stop - columns.start), grid.tile)


def cut_canvas(
    grid: Grid, coverage: xr.Dataset, depths: Depths, *, wanted: float, keeps: float, erode: int
) -> Cut:
    """Cut a canvas to the largest rectangle that is covered.

    Parameters
    ----------
    grid
        The canvas.
    coverage
        Its `coverage`.
    depths
        What counts as covered.
    wanted
        Fraction of the rectangle that must be covered in all bands; 0: nothing is cut.
    keeps
        Fraction of what is covered that the rectangle must hold, else nothing is cut.
    erode
        Pixels that the edges lose.

    Raises
    ------
    NotYetKnown
        If the coverage has not been computed.
    """
    whole = Cut(grid, slice(0, grid.shape[0]), slice(0, grid.shape[1]))
    if wanted == 0:
        return whole
    if not is_known(coverage):
        raise NotYetKnown("where the canvas is cut is known when its coverage has been measured")
    cell = int(coverage.attrs["cell"])
    covered = _covered(coverage, depths, cell, erode)
    height, width = (np.minimum(cell, n - cell * np.arange(-(-n // cell))) for n in grid.shape)
    area = (height[:, None] * width[None, :]).astype(np.float64)
    box = largest_rectangle(covered, area, wanted)
    if box is None:
        return Cut(grid, whole.rows, whole.columns, told="no rectangle is covered so well in all bands")
    y0, x0, y1, x1 = box
    kept = float(np.sum((covered * area)[y0:y1, x0:x1]) / np.sum(covered * area))
    if kept < keeps:
        told = f"the largest rectangle holds {100 * kept:.0f} % of what is covered"
        return Cut(grid, whole.rows, whole.columns, told=told)
    top, left, bottom, right = finer_sides(covered, box, wanted)
    rows = _side(top * cell, bottom * cell, cell, grid.shape[0])
    columns = _side(left * cell, right * cell, cell, grid.shape[1])
    return Cut(crop_grid(grid, rows, columns), rows, columns, kept=kept)


def _side(first: float, last: float, cell: int, whole: int) -> slice:
    """Pixels between two sides; a quarter of a cell less, for what the median depth of a cell does not show."""
    begin = math.ceil(first + cell / 4) if first > 0 else 0
    end = math.floor(last - cell / 4) if last < whole else whole
    return slice(begin, max(end, begin + 1))


def _covered(coverage: xr.Dataset, depths: Depths, cell: int, erode: int) -> Floats:
    """Fraction of each cell that is covered in all bands once the edges are eroded."""
    shares = []
    for band in range(coverage.sizes["band"]):
        depth, valid = (coverage[n].isel(band=band).values.astype(np.float64) for n in (depths.by, "valid"))
        limit = depths.least * typical_depth(depth[None], valid[None], depths.of)[0]
        shares.append(np.where((depth >= limit) & (depth > 0), valid, 0.0))
    covered = np.asarray(np.min(shares, axis=0))
    return _eroded(covered, erode / cell) if erode > 0 else covered


def _eroded(covered: Floats, depth: float) -> Floats:
    """Fractions of cells once edges are eroded by so many cells; holes within the mosaic are no edges."""
    empty = np.pad(covered < 0.5, 1, constant_values=True)
    beside = ndimage.binary_dilation(empty, structure=np.ones((3, 3)))[1:-1, 1:-1]
    edge = (covered < FULL) & beside
    if not edge.any():
        return covered
    away, (row, column) = ndimage.distance_transform_edt(~edge, return_indices=True)
    return np.asarray(np.minimum(covered, np.clip(away + covered[row, column] - depth, 0.0, 1.0)))
