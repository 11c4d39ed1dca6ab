"""Which frames a fixed canvas holds, and how it grows by whole tiles for others."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.footprints import footprint, touches
from skyloom.ops.grid import Grid, pixel_to_sky, wcs_header
from skyloom.ops.registration.placing import sky_position
from skyloom.ops.registration.whereabouts import Whereabouts, clusters, sky_vectors

TORN = 4.0
"""An edge of a frame this much longer on the canvas than on the sky crosses the seam of the projection, or lies
where that draws nothing like the sky."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def frames_on(session: xr.Dataset, sky: Whereabouts, grid: Grid, reason: list[str]) -> Bools:
    """Frames that touch a canvas.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`, `height`, `width`, `name`.
    sky
        Where its frames are.
    grid
        The canvas.
    reason
        (frame,); gets the reason of those located frames that do not touch.

    Returns
    -------
    ndarray
        (frame,)

    Raises
    ------
    DataError
        If none does.
    """
    inside = np.zeros(session.sizes["frame"], np.bool_)
    rows, columns = slice(0, grid.shape[0]), slice(0, grid.shape[1])
    middle = _middle(grid)
    away = np.degrees(np.arccos(np.clip(sky.centre @ middle, -1, 1)))
    for k, (polygon, why) in enumerate(_outlines(session, sky, grid)):
        if not why and not touches(polygon, rows, columns, margin=0.0):
            why = f"does not touch the given canvas: {away[k]:.3g}° from its middle"
        inside[sky.index[k]] = not why
        if why:
            reason[sky.index[k]] = why
    if not inside.any():
        nearest = int(np.argmin(away))
        ra, dec = sky_position(middle)
        raise DataError(
            f"none of the {len(away)} frames with a position is on the given canvas ({grid.shape[1]} × "
            f"{grid.shape[0]} px of {grid.pixel_scale:.3g} arcsec, middle at RA {ra:.2f}° Dec {dec:+.2f}°): "
            f"{session['name'].values[sky.index[nearest]]}, the nearest, lies {away[nearest]:.3g}° from it; "
            "give another canvas, or canvas = auto"
        )
    return inside


def grow(session: xr.Dataset, sky: Whereabouts, grid: Grid, *, step: int, max_gap: float) -> Grid:
    """Canvas enlarged at its sides, by multiples of `step` pixels, for the frames that belong to it.

    Parameters
    ----------
    session, sky
        The frames.
    grid
        The canvas so far.
    step
        A multiple of the tiles' side: pixels keep their place in the lattice, tiles get other numbers only.
    max_gap
        Empty sky (in frame diagonals) across which frames still belong to the canvas, or to frames that do.
    """
    height, width = grid.shape
    outlines = _outlines(session, sky, grid)
    labels = clusters(sky, max_gap)
    belongs = np.zeros(labels.max() + 1, np.bool_)
    for k, (polygon, why) in enumerate(outlines):
        if not why:
            gap = np.maximum(0.0, np.maximum(-0.5 - polygon.max(0), polygon.min(0) - (width - 0.5, height - 0.5)))
            reach = 2 * max_gap * math.degrees(sky.radius[k]) * 3600.0 / grid.pixel_scale
            belongs[labels[k]] |= bool(np.hypot(*gap) <= reach)
    held = [p for k, (p, why) in enumerate(outlines) if not why and belongs[labels[k]]]
    if not held:
        return grid
    points = np.concatenate(held)
    # Rounded as for a canvas that is chosen: a hundredth of a pixel is no data.
    first = np.floor(points.min(axis=0) + 0.51).astype(int)
    last = np.ceil(points.max(axis=0) - 0.51).astype(int)
    left, low = (step * max(0, -(int(f) // step)) for f in first)
    columns, rows = (
        size if end < size else step * (int(end) // step + 1)
        for size, end in zip((width, height), last, strict=True)
    )
    if (left, low, columns, rows) == (0, 0, width, height):
        return grid
    wcs = grid.wcs.deepcopy()
    wcs.wcs.crpix = np.add(wcs.wcs.crpix, (left, low))
    if wcs.sip is not None:
        raise DataError("a canvas with distortions (SIP) cannot grow; give it as it is, or canvas = auto")
    return Grid(wcs_header(wcs), (rows + low, columns + left), grid.tile)


def _outlines(session: xr.Dataset, sky: Whereabouts, grid: Grid) -> list[tuple[Floats, str]]:
    """Outline of each located frame on a canvas, and why it has none."""
    headers, heights, widths = (session[k].values for k in ("wcs", "height", "width"))
    code = grid.wcs.wcs.ctype[0][5:8]
    found = []
    for k, i in enumerate(sky.index):
        polygon = footprint(str(headers[i]), (int(heights[i]), int(widths[i])), grid)
        why = ""
        if not np.isfinite(polygon).all():
            why = f"{code}, the projection of the given canvas, does not reach it"
        else:
            places = sky_vectors(sky.corners[k, :, 0], sky.corners[k, :, 1])
            chords = np.linalg.norm(places - np.roll(places, 1, axis=0), axis=1)
            edges = np.hypot(*(polygon - np.roll(polygon, 1, axis=0)).T) * np.radians(grid.pixel_scale / 3600.0)
            if (edges > TORN * chords).any():
                why = f"{code}, the projection of the given canvas, tears it apart"
        found.append((polygon, why))
    return found


def _middle(grid: Grid) -> Floats:
    ra, dec = pixel_to_sky(grid.wcs, np.array([(grid.shape[1] - 1) / 2]), np.array([(grid.shape[0] - 1) / 2]))
    if not np.isfinite(ra).all():
        ra, dec = (np.array([v]) for v in grid.wcs.wcs.crval)
    return np.asarray(sky_vectors(ra, dec)[0])
