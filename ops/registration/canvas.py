"""The canvas that holds a session's frames, from their headers alone, and the guard against an absurd one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from skyloom.ops.errors import CapacityError, DataError
from skyloom.ops.footprints import outline
from skyloom.ops.grid import POINTED, RELATIVE, Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header

Projection = Literal["auto", "TAN", "SIN", "STG", "ZEA", "ARC"]
Orientation = Literal["north", "frames"]

WIDE = 12.0
"""Radius of the field (degrees) from which `auto` leaves TAN (area off by 7 % at the edge) for ZEA (by none)."""
MAJORITY = 2.0
"""How many times the next cluster's frames the largest must have to be believed."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Canvas:
    """A grid and the frames it was made for."""

    grid: Grid
    inside: Bools
    """(frame,): frames the canvas holds."""
    reason: tuple[str, ...]
    """Why a frame is not in the canvas; "" for those that are."""


@dataclass(frozen=True)
class _Sky:
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


def _vectors(ra: Floats, dec: Floats) -> Floats:
    ra, dec = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)


def _angles(vector: Floats) -> tuple[float, float]:
    x, y, z = vector / np.linalg.norm(vector)
    return math.degrees(math.atan2(y, x)) % 360.0, math.degrees(math.asin(np.clip(z, -1, 1)))


def _locate(session: xr.Dataset, reason: list[str]) -> _Sky:
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
        places = _vectors(ra, dec)
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
    return _Sky(columns[0].astype(np.intp), *columns[1:])


def _clusters(sky: _Sky, max_gap: float) -> NDArray[np.int64]:
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


def _build(
    sky: _Sky, members: Bools, *, pixel_scale: float, projection: Projection, orientation: Orientation, tile: int
) -> Grid:
    """Tight grid over the outlines of some frames."""
    centres, corners = sky.centre[members], sky.corners[members]
    # Every pointing counts once: a deep stack must not pull the reference point to its corner.
    step = max(0.25 * float(sky.radius[members].min()), 1e-9)
    cells, inverse, sizes = np.unique(np.round(centres / step), axis=0, return_inverse=True, return_counts=True)
    middle = np.zeros(3)
    for axis in range(3):
        middle[axis] = float((np.bincount(inverse.ravel(), centres[:, axis], len(cells)) / sizes).sum())
    if np.linalg.norm(middle) < 1e-6:
        middle = centres[0]
    ra, dec = _angles(middle)
    places = _vectors(corners[..., 0].ravel(), corners[..., 1].ravel())
    radius = math.degrees(float(np.arccos(np.clip(places @ _vectors(np.array(ra), np.array(dec)), -1, 1)).max()))
    code = ("TAN" if radius <= WIDE else "ZEA") if projection == "auto" else projection
    if code in ("TAN", "SIN") and radius >= 85.0:
        raise DataError(f"the field reaches {radius:.0f}° from its centre: {code} ends at 90°; choose ZEA")
    # A round reference point is the same when a frame more moves the middle a little.
    digits = max(0, math.ceil(-math.log10(max(radius, 1e-6) / 10)))
    ra, dec = round(ra, digits) % 360.0, float(np.clip(round(dec, digits), -90, 90))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{code}", f"DEC--{code}"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.cdelt = [-pixel_scale / 3600.0, pixel_scale / 3600.0]
    turn = _common_angle(sky.angle[members]) if orientation == "frames" else 0.0
    if turn:
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        wcs.wcs.pc = [[c, -s], [s, c]]
    wcs.wcs.set()
    x, y = sky_to_pixel(wcs, corners[..., 0].ravel(), corners[..., 1].ravel())
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError(f"part of the field cannot be projected with {code}; choose ZEA")
    # Rounding must not cost a row: a hundredth of a pixel is no data.
    left, low = math.floor(x.min() + 0.51), math.floor(y.min() + 0.51)
    right, high = math.ceil(x.max() - 0.51), math.ceil(y.max() - 0.51)
    wcs.wcs.crpix = [1.0 - left, 1.0 - low]
    return Grid(wcs_header(wcs), (high - low + 1, right - left + 1), tile)


def _common_angle(angles: Floats) -> float:
    """Rotation all frames share within a degree (half turns do not count: the mount flips); else 0."""
    doubled = np.exp(2j * np.radians(angles))
    mean = doubled.mean()
    spread = np.degrees(np.abs(np.angle(doubled / mean))) / 2
    return float(np.degrees(np.angle(mean)) / 2) if spread.max() <= 1.0 else 0.0


def _megapixels(grid: Grid) -> float:
    return grid.shape[0] * grid.shape[1] / 1e6


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def automatic_canvas(
    session: xr.Dataset,
    *,
    pixel_scale: float | None = None,
    projection: Projection = "auto",
    orientation: Orientation = "north",
    tile: int = 512,
    max_gap: float = 3.0,
    max_canvas: float = 20_000.0,
) -> Canvas:
    """Choose the canvas for a session from its headers; leave out the frames that cannot be meant.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`, `height`, `width`, `kind`, `name`.
    pixel_scale
        Side of a canvas pixel (arcsec); None takes the scale a quarter of the frames reach or beat.
    projection
        FITS code; auto is TAN up to `WIDE`, ZEA beyond.
    orientation
        north: north up, east left; frames: the frames' own rotation where all share it within 1°.
    tile
        Side of the grid's tiles (pixels).
    max_gap
        Empty sky (in frame diagonals) that still lets separate fields belong together.
    max_canvas
        Largest canvas (Mpixel).

    Returns
    -------
    Canvas
        Grid, and per frame whether and why not.

    Raises
    ------
    DataError
        If no frame has a position, or far groups of frames are so alike in number that none can be chosen.
    CapacityError
        If the canvas exceeds `max_canvas`.
    """
    total = session.sizes["frame"]
    reason = [""] * total
    sky = _locate(session, reason)
    names = [str(session["name"].values[i]) for i in sky.index]
    labels = _clusters(sky, max_gap)
    sizes = np.bincount(labels)
    order = np.argsort(-sizes, kind="stable")
    main = labels == order[0]

    def build(members: Bools) -> Grid:
        scale = pixel_scale or float(np.percentile(sky.scale[members], 25, method="lower"))
        # Headers differ in the seventh digit; the canvas need not.
        return _build(
            sky,
            members,
            pixel_scale=float(f"{scale:.6g}"),
            projection=projection,
            orientation=orientation,
            tile=tile,
        )

    if len(order) > 1 and sizes[order[0]] < MAJORITY * sizes[order[1]]:
        raise DataError(_undecided(sky, names, labels, order[:4], sizes, max_gap))
    grid = build(main)
    inside = np.zeros(total, np.bool_)
    inside[sky.index[main]] = True
    middle = sky.centre[main].mean(axis=0)
    middle /= np.linalg.norm(middle)
    for label in order[1:]:
        members = labels == label
        try:
            grown = f"{_number(_megapixels(build(main | members)))} Mpixel"
        except DataError:
            grown = "more than the projection holds"
        for i in np.nonzero(members)[0]:
            away = math.degrees(math.acos(np.clip(float(sky.centre[i] @ middle), -1, 1)))
            reason[sky.index[i]] = (
                f"{away:.1f}° from the other {main.sum()} frames; canvas would grow from "
                f"{_number(_megapixels(grid))} to {grown}"
            )
    if _megapixels(grid) > max_canvas:
        raise CapacityError(
            f"the canvas would be {grid.shape[1]} × {grid.shape[0]} px = {_number(_megapixels(grid))} Mpixel at "
            f"{grid.pixel_scale:.3g} arcsec a pixel, more than max_canvas = {_number(max_canvas)} Mpixel; "
            "give a coarser pixel_scale or a larger max_canvas"
        )
    # What its frames do not know of the sky the canvas does not know.
    known = {parse_wcs(str(session["wcs"].values[i])).wcs.name for i in np.flatnonzero(inside)}
    for name in (RELATIVE, POINTED):
        if name in known:
            grid = grid.named(name)
            break
    return Canvas(grid, inside, tuple(r[:200] for r in reason))


def _undecided(
    sky: _Sky,
    names: list[str],
    labels: NDArray[np.int64],
    order: NDArray[np.intp],
    sizes: NDArray[np.intp],
    max_gap: float,
) -> str:
    parts = []
    centres = []
    for label in order:
        members = np.nonzero(labels == label)[0]
        centre = sky.centre[members].mean(axis=0)
        centres.append(centre / np.linalg.norm(centre))
        ra, dec = _angles(centre)
        parts.append(f"{sizes[label]} frame(s) at RA {ra:.2f}° Dec {dec:+.2f}° (first: {names[members[0]]})")
    away = math.degrees(math.acos(np.clip(float(centres[0] @ centres[1]), -1, 1)))
    field = math.degrees(2 * float(np.median(sky.radius)))
    enough = math.ceil(away / field)
    return (
        f"the frames lie in {len(sizes)} groups too far apart for one canvas, and none is clearly the largest: "
        f"{'; '.join(parts)}; {away:.1f}° apart, fields of {field:.2g}°. Give the frames of one group, or "
        f"max_gap = {enough} (now {max_gap:g}) to span them all, with max_canvas (Mpixel) large enough for it"
    )
