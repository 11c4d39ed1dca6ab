"""Which projection a field of sky is drawn in, how it is turned, and the WCS of it."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.registration.placing import tangent_basis, unit_vector

Projection = Literal["auto", "TAN", "SIN", "STG", "ZEA", "ARC", "CEA", "CAR"]

CYLINDRICAL = ("CEA", "CAR")
WIDE = 12.0
"""Radius of the field (degrees) up to which `auto` takes TAN, which everything reads: at its edge a pixel holds
7 % less sky than in the middle (cos³) and is 2 % longer than wide. Beyond, all pixels hold the same."""
LONG = 45.0
"""Radius (degrees) up to which ZEA does for strips too: at its rim a pixel is up to 17 % longer than wide."""
HALF_SPHERE = 85.0
"""Radius (degrees) at which TAN and SIN, which end at 90, are refused."""
SEAM = 150.0
"""Degrees along a cylinder to either side, short of its seam at 180."""
POLE = 89.0
"""Declination beyond which the axis of a cylinder through the reference point is not well defined."""
TILT = 1.0
"""Least declination, to either side, of the middle of a turned cylinder: nearer to the equator FITS headers, which
give the axis by the native longitude of the celestial pole alone, do not hold its direction."""
WORTH = 0.99
"""A turned canvas must be smaller than this part of one with north up."""

Floats = NDArray[np.float64]


def extents(places: Floats, reference: tuple[float, float], turn: float) -> tuple[float, float, float]:
    """How far a field reaches from its reference point.

    Parameters
    ----------
    places
        (n, 3) unit vectors of its outlines.
    reference
        Right ascension, declination (degrees).
    turn
        Position angle of the direction that is up on the canvas (degrees, east of north).

    Returns
    -------
    radius, along, across
        Degrees: from the point; along the great circle through it that becomes its row; away from that circle.
    """
    pole, centre = _axis(reference, turn), unit_vector(*reference)
    radius = np.arccos(np.clip(places @ centre, -1, 1)).max()
    along = np.abs(np.arctan2(places @ np.cross(pole, centre), places @ centre)).max()
    across = np.abs(np.arcsin(np.clip(places @ pole, -1, 1))).max()
    return float(np.degrees(radius)), float(np.degrees(along)), float(np.degrees(across))


def fitting_projection(radius: float, along: float, across: float, dec: float) -> str:
    """FITS code of the projection that distorts a field least.

    Parameters
    ----------
    radius, along, across
        From `extents` (degrees).
    dec
        Declination of the reference point (degrees).

    Notes
    -----
    TAN up to `WIDE`. Beyond, one of the two that give every pixel the same area of sky, so that a surface
    brightness is a count a pixel everywhere: ZEA stretches shapes by 1 / cos²(radius / 2) at its rim, CEA by
    1 / cos²(across) at its upper and lower edge. So fields beyond `LONG` that are less than half as wide as long
    get CEA, laid along the strip. (Calabretta & Greisen 2002, A&A 395, 1077, sections 5.1.7 and 5.2.2.)
    """
    if radius <= WIDE:
        return "TAN"
    return "CEA" if radius > LONG and across < radius / 2 and along <= SEAM and abs(dec) <= POLE else "ZEA"


def long_axis_turn(places: Floats, reference: tuple[float, float]) -> float:
    """Turn (−90…90 degrees) that lays the longest great circle through the reference point along the rows."""
    east, north, _ = tangent_basis(unit_vector(*reference))
    pair = np.stack([places @ north, places @ east])
    # The axis away from which the field reaches least.
    values, vectors = np.linalg.eigh(pair @ pair.T)
    up = vectors[:, 0]
    if values[1] - values[0] < 1e-9 * values[1]:
        return 0.0
    turn = math.degrees(math.atan2(up[1], up[0]))
    return round((turn + 90.0) % 180.0 - 90.0, 2)


def tightest_turn(points: Floats) -> float:
    """Turn of the smallest rectangle around points, −45…45 degrees; 0 where that gains next to nothing.

    Parameters
    ----------
    points
        (n, 2) to the east and to the north on the plane of a projection.

    Notes
    -----
    The smallest rectangle has a side along the convex hull, so only the hull's edges are tried (Freeman and
    Shapira 1975).
    """
    from scipy.spatial import ConvexHull, QhullError

    try:
        hull = points[ConvexHull(points).vertices]
    except QhullError:
        return 0.0
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.degrees(np.arctan2(edges[:, 1], edges[:, 0]))
    # An edge that runs to the east at angle −t lies along a row when up is turned east by t.
    turns = np.unique(np.round((-angles + 45.0) % 90.0 - 45.0, 2))
    turns = np.concatenate([[0.0], turns])
    c, s = np.cos(np.radians(turns)), np.sin(np.radians(turns))
    across = np.outer(c, hull[:, 0]) - np.outer(s, hull[:, 1])
    upward = np.outer(s, hull[:, 0]) + np.outer(c, hull[:, 1])
    area = np.ptp(across, axis=1) * np.ptp(upward, axis=1)
    if area.min() > WORTH * area[0]:
        return 0.0
    # Of rectangles as small as each other the one nearest to north up.
    near = np.nonzero(area <= 1.001 * area.min())[0]
    return float(turns[near[np.argmin(np.abs(turns[near]))]])


def projected_wcs(code: str, reference: tuple[float, float], *, pixel_scale: float, turn: float) -> WCS:
    """WCS with its reference point at pixel (0, 0), counted from 0; east is left where north is up.

    The reference point of a turned cylinder is moved to `TILT` degrees from the equator where it is nearer.

    Parameters
    ----------
    code
        FITS code of the projection.
    reference
        Right ascension, declination (degrees).
    pixel_scale
        arcsec.
    turn
        Position angle of up at the reference point (degrees, east of north).

    Raises
    ------
    DataError
        If a cylinder is to touch the sphere at a pole.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{code}", f"DEC--{code}"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = list(reference)
    wcs.wcs.crpix = [1.0, 1.0]
    wcs.wcs.cdelt = [-pixel_scale / 3600.0, pixel_scale / 3600.0]
    if code in CYLINDRICAL:
        if abs(reference[1]) > POLE:
            raise DataError(f"{code} cannot have its middle at declination {reference[1]:+.2f}°; choose ZEA")
        if turn and abs(reference[1]) < TILT:
            reference = (reference[0], math.copysign(TILT, reference[1]))
            wcs.wcs.crval = list(reference)
        # The cylinder itself is laid along the rows: turning its plane would leave the strip in stretched parts.
        axis, centre = _axis(reference, turn), unit_vector(*reference)
        longitude = math.degrees(math.atan2(float(np.cross(axis, centre)[2]), float(centre[2])))
        wcs.wcs.lonpole = longitude
        wcs.wcs.latpole = math.degrees(math.asin(float(np.clip(axis[2], -1, 1))))
    elif turn:
        c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        wcs.wcs.pc = [[c, -s], [s, c]]
    wcs.wcs.set()
    return wcs


def _axis(reference: tuple[float, float], turn: float) -> Floats:
    """Unit vector 90° from the reference point in the direction that is up."""
    east, north, _ = tangent_basis(unit_vector(*reference))
    return np.asarray(math.cos(math.radians(turn)) * north + math.sin(math.radians(turn)) * east)
