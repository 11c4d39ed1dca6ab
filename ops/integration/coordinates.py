"""Where the pixels of a window of the canvas lie in a frame, and how that frame is normalized there.

Positions are exact at nodes every `NODE_STEP` canvas pixels and bilinear in between. The nodes are anchored
at canvas pixel (0, 0), so what a pixel gets does not depend on the tile or strip it is computed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.grid import WCS_LOCK, Grid, parse_wcs, pixel_to_sky, sky_to_pixel

NODE_STEP = 32
"""Canvas pixels between nodes of the coordinate grid."""

LEAST_CONFIDENCE = 1e-3
"""Of a frame anywhere: weights of 0 would make holes where it is alone."""
_ITERATIONS = 40


@dataclass(frozen=True)
class CanvasNodes:
    """The nodes that surround a window of the canvas, and where on the sky they are."""

    origin: tuple[int, int]
    """Row and column of the first node, in units of NODE_STEP; one node of halo is included."""
    shape: tuple[int, int]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]

    @classmethod
    def around(cls, grid: Grid, rows: slice, columns: slice) -> CanvasNodes:
        """Nodes of all cells a window touches, plus one on each side for the Jacobian's differences."""
        first = [s.start // NODE_STEP - 1 for s in (rows, columns)]
        last = [(s.stop - 1) // NODE_STEP + 2 for s in (rows, columns)]
        y = np.arange(first[0], last[0] + 1) * float(NODE_STEP)
        x = np.arange(first[1], last[1] + 1) * float(NODE_STEP)
        xx, yy = np.meshgrid(x, y)
        ra, dec = pixel_to_sky(grid.wcs, xx.ravel(), yy.ravel())
        return cls((first[0], first[1]), xx.shape, ra, dec)


@dataclass(frozen=True)
class CoordinateGrid:
    """A frame seen from a window of the canvas: where its pixels are and how they are normalized.

    `fields` holds at each node the frame position x, y (pixels), the factor J·a and the offset b of
    s = J·a·(d - b), and the root of the confidence c, which its weight is multiplied with.
    """

    origin: tuple[int, int]
    fields: NDArray[np.float64]
    """Shape (5, nodes in y, nodes in x): x, y, J·a, b, √c."""
    shape: tuple[int, int]
    """Rows, columns of the frame."""

    def window(self, rows: slice, columns: slice, *, reach: int = 3) -> tuple[slice, slice] | None:
        """Window of the frame that a canvas window needs, `reach` pixels around it too; None: they do not meet."""
        height, width = self.shape
        ny0, nx0 = self.origin
        ky = slice(rows.start // NODE_STEP - ny0, (rows.stop - 1) // NODE_STEP + 2 - ny0)
        kx = slice(columns.start // NODE_STEP - nx0, (columns.stop - 1) // NODE_STEP + 2 - nx0)
        x, y = self.fields[0, ky, kx], self.fields[1, ky, kx]
        corners = np.stack([np.stack([p[:-1, :-1], p[:-1, 1:], p[1:, :-1], p[1:, 1:]]) for p in (x, y)])
        low, high = corners.min(axis=1), corners.max(axis=1)
        meets = (high[0] >= -0.5) & (low[0] <= width - 0.5) & (high[1] >= -0.5) & (low[1] <= height - 0.5)
        if not meets.any():
            return None
        x0, y0 = (int(max(np.floor(low[i][meets].min()) - reach, 0)) for i in (0, 1))
        x1 = int(min(np.ceil(high[0][meets].max()) + reach + 1, width))
        y1 = int(min(np.ceil(high[1][meets].max()) + reach + 1, height))
        return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None

    def pixel_reach(self) -> int:
        """Frame pixels around a position that a canvas pixel there may overlap."""
        steps = [np.abs(np.diff(self.fields[:2], axis=axis)) for axis in (1, 2)]
        side = sum(float(np.nanmax(s, initial=0.0)) for s in steps) / NODE_STEP
        return int(np.ceil(0.5 * side)) + 1


def frame_positions(
    wcs: str, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frame pixel positions of sky positions, each independent of the others in the call.

    astropy's inverse of a distortion iterates all points until the worst has converged, so a point's last
    bits depend on its company; here a point stops when it has converged itself (1e-9 px). NaN where it does not.
    """
    frame = parse_wcs(wcs)
    with WCS_LOCK, np.errstate(all="ignore"):
        if not frame.has_distortion:
            return sky_to_pixel(frame, ra, dec)
        target = np.stack(frame.wcs_world2pix(ra, dec, 0))
        position = target.copy()
        moving = np.isfinite(target).all(axis=0)
        position[:, ~moving] = np.nan
        for _ in range(_ITERATIONS):
            if not moving.any():
                break
            step = np.stack(frame.pix2foc(*position[:, moving], 0)) - target[:, moving]
            position[:, moving] -= step
            size = np.abs(step).max(axis=0)
            moving[moving] = ~(size < 1e-9)
            moving &= np.abs(position).max(axis=0) < 1e7
        position[:, moving | ~(np.abs(position).max(axis=0) < 1e7)] = np.nan
    return position[0], position[1]


def _extended_basis(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spline basis that goes on straight (odd reflection) beyond the frame, where nodes of edge cells lie."""
    inside = np.clip(u, 0.0, 1.0)
    return 2.0 * surface.basis(inside) - surface.basis(np.clip(2.0 * inside - u, 0.0, 1.0))


@dataclass(frozen=True)
class FramePlaces:
    """Positions in and somewhat beyond a frame, 0…1 over it, at which several splines are wanted."""

    across: NDArray[np.float64]
    """(position, coefficient) basis along u."""
    along: NDArray[np.float64]
    """The same along v."""

    @classmethod
    def at(cls, u: NDArray[np.float64], v: NDArray[np.float64]) -> FramePlaces:
        """Places at u, v of equal length."""
        return cls(_extended_basis(u), _extended_basis(v))

    def field(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of a spline."""
        return np.asarray(np.sum((self.along @ coefficients) * self.across, axis=-1))

    def confidence_root(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Root of a frame's confidence, at most 1 and never 0."""
        # A spline through steps overshoots them, and beyond the frame it goes on straight.
        return np.asarray(np.sqrt(np.clip(self.field(coefficients), LEAST_CONFIDENCE, 1.0)))


def coordinate_grid(
    nodes: CanvasNodes,
    wcs: str,
    shape: tuple[int, int],
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: NDArray[np.float64] | None = None,
    offset: NDArray[np.float64] | None = None,
    confidence: NDArray[np.float64] | None = None,
) -> CoordinateGrid:
    """Map the nodes of a canvas window into a frame.

    Parameters
    ----------
    nodes
        From `CanvasNodes.around`, shared by all frames of a tile.
    wcs
        Header text of the frame.
    shape
        Rows, columns of the frame.
    shift
        Added to the mapped position (frame pixels, x first).
    scale, offset, confidence
        Coefficients of a, b and c (`skyloom.ops.surface`); 1, 0 and 1 when absent.
    """
    height, width = shape
    x, y = (p.reshape(nodes.shape) for p in frame_positions(wcs, nodes.ra, nodes.dec))
    dx_dy, dx_dx = np.gradient(x, float(NODE_STEP))
    dy_dy, dy_dx = np.gradient(y, float(NODE_STEP))
    jacobian = np.abs(dx_dx * dy_dy - dx_dy * dy_dx)[1:-1, 1:-1]
    x, y = x[1:-1, 1:-1] + shift[0], y[1:-1, 1:-1] + shift[1]
    # A field's value far outside the frame is never used, but must not be NaN.
    u = np.nan_to_num(x / max(width - 1, 1)).ravel()
    v = np.nan_to_num(y / max(height - 1, 1)).ravel()
    places = FramePlaces.at(u, v)
    gain = jacobian if scale is None else jacobian * places.field(scale).reshape(x.shape)
    base = np.zeros_like(x) if offset is None else places.field(offset).reshape(x.shape)
    root = np.ones_like(x) if confidence is None else places.confidence_root(confidence).reshape(x.shape)
    fields = np.ascontiguousarray(np.stack([x, y, gain, base, root]))
    return CoordinateGrid((nodes.origin[0] + 1, nodes.origin[1] + 1), fields, shape)


@lru_cache(maxsize=16384)
def central_jacobian(canvas: str, wcs: str, shape: tuple[int, int]) -> float:
    """Area of a canvas pixel (header text `canvas`) in frame pixels, at the frame's centre."""
    ra, dec = pixel_to_sky(parse_wcs(wcs), np.array([(shape[1] - 1) / 2.0]), np.array([(shape[0] - 1) / 2.0]))
    x, y = sky_to_pixel(parse_wcs(canvas), ra, dec)
    ra, dec = pixel_to_sky(
        parse_wcs(canvas), x + np.array([-8.0, 8.0, 0.0, 0.0]), y + np.array([0.0, 0.0, -8.0, 8.0])
    )
    u, v = frame_positions(wcs, ra, dec)
    return float(abs((u[1] - u[0]) * (v[3] - v[2]) - (u[3] - u[2]) * (v[1] - v[0])) / 256.0)
