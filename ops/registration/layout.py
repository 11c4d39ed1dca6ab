"""Frames on the canvas: outlines, scales, who overlaps whom, connected pieces."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.footprints import EDGE_POINTS, footprint
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Layout:
    """Geometry of the frames on the canvas (canvas pixels); arrays over all frames of the session."""

    polygon: Floats
    """(frame, points, 2); NaN where a frame has no place."""
    centre: Floats
    radius: Floats
    jacobian: Floats
    """(frame, 2, 2) d canvas / d frame at the centre."""
    scale: Floats
    """(frame,) canvas pixels a frame pixel."""

    def overlapping(self, index: int, among: Bools, *, limit: int | None = None) -> list[int]:
        """Frames of `among` whose outline meets that of a frame (not itself), nearest first."""
        distance = np.hypot(*(self.centre - self.centre[index]).T)
        near = among & (distance < self.radius + self.radius[index])
        near[index] = False
        candidates = np.nonzero(near)[0]
        candidates = candidates[np.argsort(distance[candidates], kind="stable")]
        found: list[int] = []
        # In a deep stack thousands overlap and the nearest few are enough.
        step = len(candidates) if limit is None else 4 * limit
        for start in range(0, len(candidates), max(step, 1)):
            some = candidates[start : start + step]
            found.extend(some[_convex_overlap(self.polygon[index], self.polygon[some])].tolist())
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found


def _convex_overlap(one: Floats, many: Floats) -> Bools:
    """Whether convex outlines (n, points, 2) meet outline `one` (separating axes)."""
    if not len(many):
        return np.zeros(0, np.bool_)
    apart = np.zeros(len(many), np.bool_)
    corners_one, corners_many = one[:: EDGE_POINTS - 1], many[:, :: EDGE_POINTS - 1]
    edges = np.roll(corners_one, -1, axis=0) - corners_one
    axes = np.broadcast_to(np.stack([-edges[:, 1], edges[:, 0]], -1), (len(many), *edges.shape))
    edges = np.roll(corners_many, -1, axis=1) - corners_many
    axes = np.concatenate([axes, np.stack([-edges[..., 1], edges[..., 0]], -1)], axis=1)
    a = np.einsum("nkc,pc->nkp", axes, one)
    b = np.einsum("nkc,npc->nkp", axes, many)
    apart = ((a.max(-1) <= b.min(-1)) | (b.max(-1) <= a.min(-1))).any(axis=1)
    return np.asarray(~apart)


def lay_out(session: xr.Dataset, grid: Grid, candidates: Bools) -> Layout:
    """Put the outlines of frames on the canvas.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`, `height`, `width`.
    grid
        The canvas.
    candidates
        (frame,): frames to place (those with a WCS); the others are NaN.
    """
    n = session.sizes["frame"]
    polygon = np.full((n, 4 * (EDGE_POINTS - 1), 2), np.nan)
    jacobian = np.full((n, 2, 2), np.nan)
    heights, widths, headers = (session[k].values for k in ("height", "width", "wcs"))
    for i in np.nonzero(candidates)[0]:
        header, height, width = str(headers[i]), int(heights[i]), int(widths[i])
        polygon[i] = footprint(header, (height, width), grid)
        x = (width - 1) / 2 + np.array([-0.5, 0.5, 0.0, 0.0])
        y = (height - 1) / 2 + np.array([0.0, 0.0, -0.5, 0.5])
        cx, cy = sky_to_pixel(grid.wcs, *pixel_to_sky(parse_wcs(header), x, y))
        jacobian[i] = [[cx[1] - cx[0], cx[3] - cx[2]], [cy[1] - cy[0], cy[3] - cy[2]]]
    centre = polygon.mean(axis=1)
    radius = np.hypot(*np.moveaxis(polygon - centre[:, None], -1, 0)).max(axis=1)
    area = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
    return Layout(polygon, centre, radius, jacobian, np.sqrt(np.abs(area)))


def inside_outline(points: Floats, polygon: Floats) -> Bools:
    """Which of points (n, 2) lie in a convex outline (points, 2)."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    side = edges[:, 0] * (points[:, None, 1] - polygon[:, 1]) - edges[:, 1] * (points[:, None, 0] - polygon[:, 0])
    return np.asarray((side >= 0).all(axis=1) | (side <= 0).all(axis=1))


def islands(layout: Layout, use: Bools) -> NDArray[np.int64]:
    """Connected pieces of overlapping footprints, the one with most frames first; -1 for unused frames."""
    island = np.full(len(use), -1, np.int64)
    left = use & np.isfinite(layout.radius)
    pieces = []
    while left.any():
        start = int(np.argmax(left))
        left[start] = False
        members, queue = [start], deque([start])
        while queue:
            reached = layout.overlapping(queue.popleft(), left)
            left[reached] = False
            members.extend(reached)
            queue.extend(reached)
        pieces.append(members)
    for label, members in enumerate(sorted(pieces, key=lambda m: (-len(m), m[0]))):
        island[members] = label
    return island
