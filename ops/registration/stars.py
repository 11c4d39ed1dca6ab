"""One list of the session's stars: detections of all frames put on the canvas and linked."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel

STAR_QUANTITIES = ("x", "y", "flux", "flux_error", "fwhm", "ellipticity", "theta", "peak", "flag")
"""Columns of a star table."""
BLENDED, NEAR_EDGE, SATURATED = 1, 2, 4
"""Bits of a star's flag."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Detections:
    """Stars of many frames on one canvas; all arrays have shape (detections,), frames ascending."""

    frame: Indices
    """Row of the session."""
    row: Indices
    """Row of the frame's star table."""
    x: Floats
    """Canvas position (pixels)."""
    y: Floats

    def __len__(self) -> int:
        return int(self.frame.size)

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Detections:
        """Some of them."""
        return Detections(self.frame[index], self.row[index], self.x[index], self.y[index])


@dataclass(frozen=True)
class Matches:
    """Detections linked to objects, each seen in two frames at least and at most once a frame.

    Sorted by object, then frame: `start[k] : start[k + 1]` are the sightings of object k.
    """

    frame: Indices
    """(sightings,) row of the session."""
    row: Indices
    """(sightings,) row of the frame's star table."""
    object: Indices
    """(sightings,) 0 … objects - 1."""
    start: Indices
    """(objects + 1,)."""
    x: Floats
    """(sightings,) canvas position (pixels)."""
    y: Floats

    @property
    def objects(self) -> int:
        """Number of objects."""
        return int(self.start.size - 1)


def place_stars(
    session: xr.Dataset,
    stars: Floats,
    grid: Grid,
    *,
    shift: Floats | None = None,
    use: NDArray[np.bool_] | None = None,
    flags: int = 0,
    limit: int | None = None,
) -> Detections:
    """Put the stars of all frames on the canvas through their WCS.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`.
    stars
        (frame, star, quantity) of a measurement: x, y first, flag last, brightest first, NaN-padded.
    grid
        The canvas.
    shift
        (frame, 2) corrections of a registration (frame pixels): the WCS holds at position - shift.
    use
        (frame,) frames to take (those with a WCS).
    flags
        Bits a star may have and still be taken; 0 takes clean stars only.
    limit
        Brightest stars a frame (all).
    """
    frames, rows, xs, ys = [], [], [], []
    headers = session["wcs"].values
    for i in range(len(stars)):
        if not headers[i] or (use is not None and not use[i]):
            continue
        table = stars[i]
        flag = np.nan_to_num(table[:, -1], nan=-1).astype(np.int64)
        row = np.nonzero(np.isfinite(table[:, 0]) & (flag >= 0) & ((flag & ~flags) == 0))[0][:limit]
        if not row.size:
            continue
        x, y = table[row, 0], table[row, 1]
        if shift is not None:
            x, y = x - shift[i, 0], y - shift[i, 1]
        cx, cy = sky_to_pixel(grid.wcs, *pixel_to_sky(parse_wcs(str(headers[i])), x, y))
        good = np.isfinite(cx) & np.isfinite(cy)
        frames.append(np.full(int(good.sum()), i, dtype=np.intp))
        rows.append(row[good].astype(np.intp))
        xs.append(cx[good])
        ys.append(cy[good])
    if not frames:
        none = np.empty(0, np.intp)
        return Detections(none, none, np.empty(0), np.empty(0))
    return Detections(np.concatenate(frames), np.concatenate(rows), np.concatenate(xs), np.concatenate(ys))


@njit(nogil=True, cache=True, fastmath=False)
def _bucket(x: float, y: float, size: float, mask: int) -> int:
    cell_x, cell_y = math.floor(x / size), math.floor(y / size)
    bucket: int = ((cell_x * 73856093) ^ (cell_y * 19349663)) & mask
    return bucket


@njit(nogil=True, cache=True, fastmath=False)
def _nearest(
    x: float,
    y: float,
    size: float,
    mask: int,
    head: NDArray[np.int64],
    link: NDArray[np.int64],
    ox: Floats,
    oy: Floats,
    skip: int,
) -> tuple[int, float]:
    """Nearest object within `size`, not `skip`, and its squared distance."""
    best, best2 = -1, size * size
    for j in range(-1, 2):
        for i in range(-1, 2):
            k = head[_bucket(x + i * size, y + j * size, size, mask)]
            while k >= 0:
                if k != skip:
                    d2 = (ox[k] - x) ** 2 + (oy[k] - y) ** 2
                    if d2 < best2:
                        best, best2 = k, d2
                k = link[k]
    return best, best2


@njit(nogil=True, cache=True, fastmath=False)
def _fill(x: Floats, y: Floats, count: int, size: float, mask: int, head: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hash table of points: first of each bucket in `head`, the next ones in the returned links."""
    head[:] = -1
    link = np.empty(max(count, 1), np.int64)
    for k in range(count):
        b = _bucket(x[k], y[k], size, mask)
        link[k] = head[b]
        head[b] = k
    return link


@njit(nogil=True, cache=True, fastmath=False)
def _link_kernel(frame: Indices, x: Floats, y: Floats, tolerance: float, mask: int) -> tuple[Indices, Indices]:
    """Object of every detection, -1 where ambiguous; per object the number of detections.

    Detections found objects greedily, objects move to the mean of theirs and merge with those they meet, then all
    detections are assigned again to the settled objects: what the first frame saw does not matter.
    """
    n = x.size
    head = np.empty(mask + 1, np.int64)
    head[:] = -1
    link = np.empty(n, np.int64)
    ox, oy = np.empty(n), np.empty(n)
    weight = np.zeros(n)
    objects = 0
    found = np.empty(n, np.int64)
    for i in range(n):
        k, _ = _nearest(x[i], y[i], tolerance, mask, head, link, ox, oy, -1)
        if k < 0:
            k = objects
            ox[k], oy[k] = x[i], y[i]
            b = _bucket(x[i], y[i], tolerance, mask)
            link[k] = head[b]
            head[b] = k
            objects += 1
        found[i] = k
        weight[k] += 1
    for _ in range(2):
        # Means of the present members, then merge: the heavier of two closer than half the tolerance wins.
        sx, sy = np.zeros(objects), np.zeros(objects)
        weight[:objects] = 0
        for i in range(n):
            k = found[i]
            if k >= 0:
                sx[k] += x[i]
                sy[k] += y[i]
                weight[k] += 1
        for k in range(objects):
            if weight[k] > 0:
                ox[k], oy[k] = sx[k] / weight[k], sy[k] / weight[k]
            else:
                ox[k], oy[k] = np.inf, np.inf
        kept = 0
        for k in range(objects):
            if np.isfinite(ox[k]):
                ox[kept], oy[kept], weight[kept] = ox[k], oy[k], weight[k]
                kept += 1
        objects = kept
        link = _fill(ox, oy, objects, tolerance, mask, head)
        for k in range(objects):
            other, d2 = _nearest(ox[k], oy[k], tolerance, mask, head, link, ox, oy, k)
            lighter = weight[k] < weight[other] or (weight[k] == weight[other] and k > other)
            if other >= 0 and d2 < 0.25 * tolerance * tolerance and lighter:
                ox[k] = np.inf  # _nearest never picks it again: its distance is infinite
        for i in range(n):
            found[i], _ = _nearest(x[i], y[i], tolerance, mask, head, link, ox, oy, -1)
    count = np.zeros(objects, np.intp)
    crowded = np.zeros(objects, np.bool_)
    for k in range(objects):
        if np.isfinite(ox[k]):
            other, _ = _nearest(ox[k], oy[k], tolerance, mask, head, link, ox, oy, k)
            # A lone false detection beside a star seen by many disturbs nobody.
            if other >= 0 and weight[other] > 0.2 * weight[k]:
                crowded[k] = True
    # Twice in one frame: neither can be told from the other. Frames ascend, so the last seen is enough.
    last = np.full(objects, -1, np.intp)
    twice = np.zeros(objects, np.intp)
    out = np.full(n, -1, np.intp)
    for i in range(n):
        k = found[i]
        if k < 0 or crowded[k]:
            continue
        if last[k] >= 0 and frame[last[k]] == frame[i]:
            if out[last[k]] >= 0:
                count[k] -= 1
                out[last[k]] = -1
                twice[k] += 1
            continue
        last[k] = i
        out[i] = k
        count[k] += 1
    # Seen twice by many frames it is two stars, and those that saw one saw either.
    for i in range(n):
        k = out[i]
        if k >= 0 and twice[k] > 0.2 * (twice[k] + count[k]):
            out[i] = -1
    return out, count


def link_stars(detections: Detections, *, tolerance: float) -> Matches:
    """Link the detections of one star in many frames.

    Parameters
    ----------
    detections
        Of all frames, on one canvas, frames ascending.
    tolerance
        Largest distance of a detection from its object (canvas pixels). Objects closer to each other than
        this are ambiguous and dropped, as are two detections of one frame at one object.

    Returns
    -------
    Matches
        Objects seen by two frames at least.

    Notes
    -----
    Linear in the number of detections (hash grid, no pair list): a deep stack has as many pairs a star as frames
    squared. "Friends of friends" would chain neighbours in crowded fields; objects here have a centre.
    """
    n = len(detections)
    mask = (1 << max(int(n).bit_length(), 8)) - 1
    found, count = _link_kernel(detections.frame, detections.x, detections.y, float(tolerance), mask)
    keep = np.nonzero((found >= 0) & (np.take(count, found, mode="clip") >= 2 if count.size else False))[0]
    order = keep[np.argsort(found[keep], kind="stable")]
    labels, inverse, sizes = np.unique(found[order], return_inverse=True, return_counts=True)
    start = np.zeros(labels.size + 1, np.intp)
    np.cumsum(sizes, out=start[1:])
    return Matches(
        detections.frame[order],
        detections.row[order],
        inverse.astype(np.intp).ravel(),
        start,
        detections.x[order],
        detections.y[order],
    )


def match_stars(
    session: xr.Dataset,
    stars: Floats,
    grid: Grid,
    *,
    shift: Floats | None = None,
    use: NDArray[np.bool_] | None = None,
    tolerance: float = 2.0,
    flags: int = 0,
    limit: int | None = None,
) -> Matches:
    """Link the stars of all frames of a session over the canvas.

    Parameters
    ----------
    session, stars, grid, shift, use, flags, limit
        As in `place_stars`.
    tolerance
        Largest distance of a detection from its star (canvas pixels).

    Returns
    -------
    Matches
        `stars[m.frame, m.row]` are the sightings, `m.object` says of which star.
    """
    placed = place_stars(session, stars, grid, shift=shift, use=use, flags=flags, limit=limit)
    return link_stars(placed, tolerance=tolerance)
