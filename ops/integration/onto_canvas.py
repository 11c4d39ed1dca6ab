"""Where the pixels of a window of a frame lie on the canvas: what `coordinates` does, the other way round.

Positions are exact at nodes every `NODE_STEP` frame pixels, on the corners of pixels, and bilinear in between: no
pixel lies across two cells, and its neighbours share its edges. The nodes are anchored at the frame's corner, so a
pixel's place does not depend on the window it is read in.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.grid import parse_wcs, pixel_to_sky
from skyloom.ops.integration.coordinates import CoordinateGrid, FramePlaces, frame_positions

NODE_STEP = 32
"""Frame pixels between nodes."""


@dataclass(frozen=True)
class FrameNodes:
    """Nodes around a window of a frame."""

    origin: tuple[int, int]
    """Number of the first node along y and x; node n is the corner before pixel n · NODE_STEP."""
    fields: NDArray[np.float64]
    """(5, nodes in y, nodes in x): x, y on the canvas' lattice (pixels), a, b of s = J·a·(d - b), √c."""


def frame_nodes(
    lattice: str,
    wcs: str,
    shape: tuple[int, int],
    window: tuple[slice, slice],
    *,
    shift: tuple[float, float],
    scale: NDArray[np.float64],
    offset: NDArray[np.float64],
    confidence: NDArray[np.float64] | None = None,
) -> FrameNodes:
    """Map the nodes around a window of a frame onto the canvas.

    Parameters
    ----------
    lattice
        `Grid.lattice` of the canvas.
    wcs, shape
        Header text, rows and columns of the frame.
    window
        Rows and columns of the frame.
    shift
        True position less position by the WCS (frame pixels, x first).
    scale, offset, confidence
        Coefficients of a, b and c (`skyloom.ops.surface`); c is 1 when absent.
    """
    first = [s.start // NODE_STEP for s in window]
    last = [(s.stop - 1) // NODE_STEP + 1 for s in window]
    y, x = (np.arange(a, b + 1) * float(NODE_STEP) - 0.5 for a, b in zip(first, last, strict=True))
    xx, yy = (a.ravel() for a in np.meshgrid(x, y))
    ra, dec = pixel_to_sky(parse_wcs(wcs), xx - shift[0], yy - shift[1])
    place = frame_positions(lattice, ra, dec)
    u, v = xx / max(shape[1] - 1, 1), yy / max(shape[0] - 1, 1)
    nodes = (y.size, x.size)
    at = FramePlaces.at(u, v)
    root = np.ones(xx.size) if confidence is None else at.confidence_root(confidence)
    fields = [*place, at.field(scale), at.field(offset), root]
    return FrameNodes(
        (first[0], first[1]), np.ascontiguousarray(np.stack([f.reshape(nodes) for f in fields]))
    )  # fmt: skip


def pixel_extent(grid: CoordinateGrid) -> float:
    """Largest distance along a canvas axis from the centre of a frame's pixel to its corners (canvas pixels)."""
    x, y = grid.fields[0], grid.fields[1]
    step = x[:-1, 1:] - x[:-1, :-1], x[1:, :-1] - x[:-1, :-1], y[:-1, 1:] - y[:-1, :-1], y[1:, :-1] - y[:-1, :-1]
    x_x, x_y, y_x, y_y = step
    height, width = grid.shape
    margin = 2.0 * float(np.nanmax(np.abs(step), initial=1.0))
    # Far outside a frame its distortion means nothing.
    near = (x[:-1, :-1] > -margin) & (x[:-1, :-1] < width + margin)
    near &= (y[:-1, :-1] > -margin) & (y[:-1, :-1] < height + margin)
    with np.errstate(divide="ignore", invalid="ignore"):
        determinant = np.abs(x_x * y_y - x_y * y_x)
        extent = np.maximum(np.abs(y_y) + np.abs(x_y), np.abs(y_x) + np.abs(x_x)) / determinant
    extent = extent[near & np.isfinite(extent)]
    return 0.5 * NODE_STEP * float(extent.max()) if extent.size else 1.0
