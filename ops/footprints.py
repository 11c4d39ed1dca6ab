"""Which frames touch which part of the canvas, from their WCS alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel

EDGE_POINTS = 9
"""Points an edge of a frame's outline: enough to follow distortion and projection to well under a pixel."""


def outline(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixel positions (x, y) around the outer edge of a frame, counter-clockwise from the origin."""
    t = np.linspace(0.0, 1.0, EDGE_POINTS)[:-1]
    left, right, bottom, top = -0.5, width - 0.5, -0.5, height - 0.5
    x = np.concatenate([left + t * width, np.full_like(t, right), right - t * width, np.full_like(t, left)])
    y = np.concatenate([np.full_like(t, bottom), bottom + t * height, np.full_like(t, top), top - t * height])
    return x, y


def footprint(wcs: str, shape: tuple[int, int], grid: Grid) -> NDArray[np.float64]:
    """Outline of a frame on the canvas.

    Returns
    -------
    ndarray
        Shape (points, 2): canvas x, y; NaN rows where the frame has no place on the canvas.
    """
    x, y = outline(*shape)
    ra, dec = pixel_to_sky(parse_wcs(wcs), x, y)
    return np.stack(sky_to_pixel(grid.wcs, ra, dec), axis=-1)


def touches(polygon: NDArray[np.float64], rows: slice, columns: slice, *, margin: float = 1.0) -> bool:
    """Whether a convex outline meets a window of the canvas (separating-axis test).

    Parameters
    ----------
    polygon
        Shape (points, 2), from `footprint`.
    margin
        Extra pixels around the window: an outline is a chord of a slightly curved edge.
    """
    if not np.isfinite(polygon).all():
        return False
    left, right = columns.start - 0.5 - margin, columns.stop - 0.5 + margin
    low, high = rows.start - 0.5 - margin, rows.stop - 0.5 + margin
    return bool(_meets(polygon, left, right, low, high))


@njit(nogil=True, cache=True)
def _meets(polygon, left, right, low, high):  # type: ignore[no-untyped-def]
    """Separating-axis test of a convex outline and a rectangle."""
    x, y = polygon[:, 0], polygon[:, 1]
    if x.max() < left or x.min() > right or y.max() < low or y.min() > high:
        return False
    # One orientation or the other: a mirrored frame runs clockwise.
    twice = 0.0
    for i in range(len(x)):
        j = (i + 1) % len(x)
        twice += x[i] * y[j] - x[j] * y[i]
    sign = 1.0 if twice >= 0.0 else -1.0
    for i in range(len(x)):
        j = (i + 1) % len(x)
        nx, ny = sign * (y[j] - y[i]), -sign * (x[j] - x[i])
        # The corner furthest inwards of this edge.
        near = nx * (left if nx > 0 else right) + ny * (low if ny > 0 else high)
        if near > nx * x[i] + ny * y[i] + 1e-9:
            return False
    return True


def placement(polygon: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear map (2, 3) to the canvas of a frame's (u, v, 1), 0…1 along its sides, from its outline."""
    side = EDGE_POINTS - 1
    origin = polygon[0]
    return np.stack([polygon[side] - origin, polygon[3 * side] - origin, origin], axis=1)


@njit(nogil=True, cache=True)
def clip(polygon, left, right, low, high):  # type: ignore[no-untyped-def]
    """Part of a polygon inside a rectangle (Sutherland & Hodgman 1974).

    Parameters
    ----------
    polygon
        Shape (points, 2), x and y.
    left, right, low, high
        Sides of the rectangle.

    Returns
    -------
    ndarray
        Shape (points, 2), empty where they do not meet.
    """
    points = polygon.copy()
    for side in range(4):
        axis = side // 2
        bound = (left, right, low, high)[side]
        sign = 1.0 - 2.0 * (side % 2)
        kept = np.empty((2 * len(points) + 1, 2))
        count = 0
        for i in range(len(points)):
            a, b = points[i - 1], points[i]
            inside_a, inside_b = sign * (a[axis] - bound) >= 0, sign * (b[axis] - bound) >= 0
            if inside_a != inside_b:
                kept[count] = a + (b - a) * ((bound - a[axis]) / (b[axis] - a[axis]))
                count += 1
            if inside_b:
                kept[count] = b
                count += 1
        points = kept[:count]
    return points


def tiles_touched(
    polygon: NDArray[np.float64], grid: Grid, *, margin: float = 1.0
) -> Iterator[tuple[tuple[int, int], tuple[slice, slice]]]:
    """Tiles an outline meets: ((ty, tx), (rows, columns)); none where it has no place on the canvas."""
    if not np.isfinite(polygon).all():
        return
    low = np.floor((polygon.min(axis=0) - margin) / grid.tile).astype(int)
    high = np.floor((polygon.max(axis=0) + margin) / grid.tile).astype(int)
    for ty in range(max(low[1], 0), min(high[1], grid.tiles[0] - 1) + 1):
        for tx in range(max(low[0], 0), min(high[0], grid.tiles[1] - 1) + 1):
            window = grid.window(ty, tx)
            if touches(polygon, *window, margin=margin):
                yield (ty, tx), window


@dataclass(frozen=True)
class Overlap:
    """The frames over each tile of a canvas."""

    grid: Grid
    frames: dict[tuple[int, int], NDArray[np.intp]]
    """Tile (ty, tx) → indices of frames, ascending; tiles without frames are absent."""

    def depth(self) -> NDArray[np.int64]:
        """Frames over each tile, shape `grid.tiles`."""
        out = np.zeros(self.grid.tiles, dtype=np.int64)
        for index, frames in self.frames.items():
            out[index] = len(frames)
        return out


def overlap(session: xr.Dataset, grid: Grid, *, use: NDArray[np.bool_] | None = None) -> Overlap:
    """Index the tiles each frame of a session touches.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`, `height`, `width`.
    grid
        The canvas.
    use
        Frames to take (all).
    """
    found: dict[tuple[int, int], list[int]] = {}
    heights, widths, headers = session["height"].values, session["width"].values, session["wcs"].values
    for index in range(session.sizes["frame"]):
        if (use is not None and not use[index]) or not headers[index]:
            continue
        polygon = footprint(str(headers[index]), (int(heights[index]), int(widths[index])), grid)
        for tile, _ in tiles_touched(polygon, grid):
            found.setdefault(tile, []).append(index)
    return Overlap(grid, {key: np.asarray(v, dtype=np.intp) for key, v in sorted(found.items())})
