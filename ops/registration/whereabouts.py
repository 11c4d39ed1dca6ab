"""Where frames lie on the sky by their headers, and which of them hang together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from skyloom.ops.errors import DataError
from skyloom.ops.footprints import outline
from skyloom.ops.grid import parse_wcs, pixel_to_sky

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Whereabouts:
    """Where frames lie: arrays over the frames that have a place at all."""

    index: NDArray[np.intp]
    centre: Floats
    """(n, 3) unit vectors."""
    corners: Floats
    """(n, points, 2) ra, dec (degrees) of the outlines."""
    radius: Floats
    """(n,) half diagonal (radians)."""
    scale: Floats
    """(n,) pixel scale (arcsec)."""
    angle: Floats
    """(n,) position angle of the rows' upward direction, east of north (degrees)."""


def sky_vectors(ra: Floats, dec: Floats) -> Floats:
    """(…, 3) unit vectors of positions (degrees)."""
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def locate_frames(session: xr.Dataset, reason: list[str]) -> Whereabouts:
    """Place the frames on the sky; writes the reason for those that have no place."""
    headers, kinds = session["wcs"].values, session["kind"].values
    heights, widths = session["height"].values, session["width"].values
    rows = []
    for i in range(session.sizes["frame"]):
        if kinds[i] not in ("light", "unknown"):
            reason[i] = f"a {kinds[i]} frame, not a light"
            continue
        if not headers[i]:
            reason[i] = "no usable WCS in the header"
            continue
        height, width = int(heights[i]), int(widths[i])
        x, y = outline(height, width)
        cx, cy = (width - 1) / 2, (height - 1) / 2
        try:
            wcs = parse_wcs(str(headers[i]))
            ra, dec = pixel_to_sky(
                wcs, np.concatenate([x, [cx, cx + 1, cx]]), np.concatenate([y, [cy, cy, cy + 1]])
            )
        except Exception as failure:  # astropy raises many kinds for a WCS that means nothing
            reason[i] = f"unusable WCS in the header: {str(failure).splitlines()[0]}"[:200]
            continue
        if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
            reason[i] = "the WCS in the header does not reach the frame's edges"
            continue
        places = sky_vectors(ra, dec)
        centre, right, up = places[-3:]
        radius = float(np.arccos(np.clip(places[:-3] @ centre, -1, 1)).max())
        area = float(np.linalg.norm(np.cross(right - centre, up - centre)))
        north = np.array([0.0, 0.0, 1.0]) - centre[2] * centre
        east = np.cross([0.0, 0.0, 1.0], centre)
        angle = math.degrees(math.atan2(float((up - centre) @ east), float((up - centre) @ north)))
        if not area > 0:
            reason[i] = "unusable WCS in the header: its pixels have no area"
            continue
        rows.append((i, centre, np.stack([ra[:-3], dec[:-3]], -1), radius, math.sqrt(area), angle))
    if not rows:
        raise DataError(
            f"none of the {session.sizes['frame']} frames has a usable WCS: a canvas needs positions "
            f"(first: {session['name'].values[0]}: {reason[0]}); solve the frames (ASTAP, astrometry.net) first"
            if session.sizes["frame"]
            else "the session has no frames"
        )
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    columns[4] = np.degrees(columns[4]) * 3600.0
    return Whereabouts(columns[0].astype(np.intp), *columns[1:])


def clusters(sky: Whereabouts, max_gap: float) -> NDArray[np.int64]:
    """Label frames that hang together: gaps up to `max_gap` times the field (diagonal) are bridged."""
    # Frames of one pointing are one node: a deep stack has millions of pairs that all say the same.
    step = max(0.1 * float(sky.radius.min()), 1e-9)
    cells, inverse = np.unique(np.round(sky.centre / step).astype(np.int64), axis=0, return_inverse=True)
    inverse = inverse.ravel()
    reach = np.zeros(len(cells))
    np.maximum.at(reach, inverse, sky.radius)
    places = cells * step
    widest = float(reach.max())
    chord = 2 * math.sin(min(widest * (1 + max_gap), math.pi / 2))
    pairs = cKDTree(places).query_pairs(chord, output_type="ndarray")
    chords = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=-1)
    apart = 2 * np.arcsin(np.clip(chords / 2, 0, 1)) - step
    ends = reach[pairs]
    linked = pairs[apart <= ends.sum(axis=1) + 2 * max_gap * ends.max(axis=1)]
    graph = coo_matrix((np.ones(len(linked)), (linked[:, 0], linked[:, 1])), shape=(len(cells),) * 2)
    labels = connected_components(graph, directed=False)[1]
    return np.asarray(labels[inverse], dtype=np.int64)
