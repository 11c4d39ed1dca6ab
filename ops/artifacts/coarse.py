"""The coarse canvas: blocks of `STEP` × `STEP` canvas pixels, and how shrunken frames lie on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.footprints import footprint
from skyloom.ops.frames import open_source
from skyloom.ops.grid import Grid, pixel_to_sky
from skyloom.ops.integration.coordinates import (
    NODE_STEP,
    CanvasNodes,
    CoordinateGrid,
    central_jacobian,
    coordinate_grid,
)
from skyloom.ops.integration.kernels import SHRINKS
from skyloom.ops.integration.overlaps import FrameSpec, frame_axes, frame_spec
from skyloom.ops.integration.resample import resample
from skyloom.ops.integration.solution import mean_scale

STEP = 4
"""Pixels a side of a frame's blocks, and of those of the canvas."""
MASK_STEP = 2
"""Canvas pixels a side of a cell of the masks."""

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Placement:
    """What was solved of the frames of a session; arrays over all of them."""

    use: NDArray[np.bool_]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    noise: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        registered: NDArray[np.bool_],
        shift: NDArray[np.float64],
        normalized: NDArray[np.bool_],
        scale: NDArray[np.float64],
        offset: NDArray[np.float64],
        noise: NDArray[np.float64],
    ) -> Placement:
        """From the results of registration and normalization; frames without a number for all of it are out."""
        use = np.asarray(registered, dtype=bool) & np.asarray(normalized, dtype=bool)
        use &= np.isfinite(noise) & (np.asarray(noise) > 0) & np.isfinite(shift).all(axis=1)
        use &= np.isfinite(scale).all(axis=(1, 2)) & np.isfinite(offset).all(axis=(1, 2))
        return cls(use, *(np.asarray(a, dtype=np.float64) for a in (shift, scale, offset, noise)))


@dataclass(frozen=True)
class Shrunken:
    """A frame and the source of its block means."""

    frame: FrameSpec
    source: str


def shape_in(length: tuple[int, int], step: int) -> tuple[int, int]:
    """Blocks in y and x that cover so many pixels."""
    return -(-length[0] // step), -(-length[1] // step)


def reach(frame: FrameSpec, grid: Grid) -> Window | None:
    """Rows and columns of the coarse canvas a frame may reach, from its header; None: it is not on the canvas."""
    polygon = footprint(frame.wcs, frame.shape, grid)
    if not np.isfinite(polygon).all():
        return None
    _, margin = frame_axes(polygon, frame.shape)
    low = np.floor((polygon.min(axis=0) - margin) / STEP).astype(int)
    high = np.ceil((polygon.max(axis=0) + margin) / STEP).astype(int) + 1
    rows, columns = (
        slice(max(int(a), 0), min(int(b), n))
        for a, b, n in zip(low[::-1], high[::-1], shape_in(grid.shape, STEP), strict=True)
    )
    return (rows, columns) if rows.stop > rows.start and columns.stop > columns.start else None


def reaches(session: xr.Dataset, grid: Grid) -> list[Window | None]:
    """`reach` of every frame of a session; frames without a WCS have none."""
    headers = session["wcs"].values
    return [reach(frame_spec(session, i), grid) if headers[i] else None for i in range(session.sizes["frame"])]


def coarse_nodes(grid: Grid, rows: slice, columns: slice) -> CanvasNodes:
    """Nodes of a window of the coarse canvas, `NODE_STEP` blocks apart."""
    first = [s.start // NODE_STEP - 1 for s in (rows, columns)]
    last = [(s.stop - 1) // NODE_STEP + 2 for s in (rows, columns)]
    y, x = ((np.arange(a, b + 1) * float(NODE_STEP) + 0.5) * STEP - 0.5 for a, b in zip(first, last, strict=True))
    xx, yy = np.meshgrid(x, y)
    ra, dec = pixel_to_sky(grid.wcs, xx.ravel(), yy.ravel())
    return CanvasNodes((first[0], first[1]), xx.shape, ra, dec)


def seen_from(frame: FrameSpec, nodes: CanvasNodes, placed: Placement) -> CoordinateGrid:
    """Where the blocks of the coarse canvas lie among those of a frame, and the frame's normalization.

    s = J·a·(d - b) per canvas pixel, as in `integrate`.
    """
    i = frame.index
    whole = coordinate_grid(
        nodes, frame.wcs, frame.shape,
        shift=(float(placed.shift[i, 0]), float(placed.shift[i, 1])),
        scale=placed.scale[i], offset=placed.offset[i],
    )  # fmt: skip
    fields = whole.fields.copy()
    fields[:2] = (fields[:2] + 0.5) / STEP - 0.5
    fields[2] /= STEP * STEP
    return CoordinateGrid(whole.origin, fields, shape_in(frame.shape, STEP))


def on_coarse_canvas(
    shrunken: Shrunken, grid: Grid, window: Window, nodes: CanvasNodes, placed: Placement,
    out: NDArray[np.float32],
) -> bool:  # fmt: skip
    """Write a frame's block means, normalized, onto a window of the coarse canvas; False: it is not there."""
    frame = shrunken.frame
    seen = seen_from(frame, nodes, placed)
    kernel = "area" if central_jacobian(grid.lattice, frame.wcs, frame.shape) > SHRINKS**2 else "bilinear"
    wanted = seen.window(*window, reach=seen.pixel_reach() if kernel == "area" else 1)
    if wanted is None:
        return False
    pixels = open_source(shrunken.source).read(*wanted)
    resample(pixels, wanted, seen, *window, kernel=kernel, out=out)
    return True


def block_noise(frame: FrameSpec, grid: Grid, placed: Placement) -> float:
    """Noise of a block mean of a frame on the coarse canvas (canvas units per canvas pixel)."""
    jacobian = central_jacobian(grid.lattice, frame.wcs, frame.shape)
    size = jacobian**0.5 if jacobian > SHRINKS**2 else jacobian
    scale = float(mean_scale(placed.scale[frame.index]))
    return scale * size * float(placed.noise[frame.index]) / STEP
