"""From a solution that knows only itself to the sky: what headers say of scale, place and rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray

from skyloom.ops.grid import parse_wcs, pixel_to_sky, wcs_header
from skyloom.ops.registration.bundle_step import DEGREES
from skyloom.ops.registration.placing import Place, rescale, sky_position, tangent_basis, unit_vector
from skyloom.ops.registration.relink import undistorted

Floats = NDArray[np.float64]

DEFAULT_SCALE = 1.0
"""Arcseconds a pixel where no header says."""
_POINTS = 5  # a side, on which a header's WCS is compared


@dataclass(frozen=True)
class Hint:
    """What a header says of a frame before its stars are looked at."""

    wcs: str
    ra: float
    dec: float
    """Degrees; NaN = unknown."""
    scale: float
    """Arcseconds a pixel; NaN = unknown."""
    rotation: float
    """Position angle of the +y axis (degrees); NaN = unknown."""


def hints_of(session: xr.Dataset) -> list[Hint]:
    """Hints of all frames; a session without the columns gives none."""
    count = session.sizes["frame"]

    def column(name: str) -> Floats:
        return session[name].values.astype(np.float64) if name in session else np.full(count, np.nan)

    ra, dec, rotation = column("ra"), column("dec"), column("rotation")
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.degrees(column("pixel_size") * 1e-3 / column("focal_length")) * 3600.0
    scale[~(np.isfinite(scale) & (scale > 0))] = np.nan
    texts = session["wcs"].values
    return [
        Hint(str(texts[i]), float(ra[i]), float(dec[i]), float(scale[i]), float(rotation[i])) for i in range(count)
    ]


def first_place(hint: Hint, middle: Floats) -> Place:
    """Where the first frame of an island is laid: where its header says, as far as it says."""
    if hint.wcs:
        wcs = parse_wcs(hint.wcs)
        x = middle[0] + np.array([0.0, 0.5, -0.5, 0.0, 0.0])
        y = middle[1] + np.array([0.0, 0.0, 0.0, 0.5, -0.5])
        vectors = np.array([unit_vector(a, d) for a, d in zip(*pixel_to_sky(wcs, x, y), strict=True)])
        basis = tangent_basis(vectors[0])
        plane = vectors @ basis[:2].T
        linear = np.column_stack([plane[1] - plane[2], plane[3] - plane[4]])
        if abs(np.linalg.det(linear)) > 0:
            return Place(vectors[0], linear, middle)
    known = np.isfinite(hint.ra) and np.isfinite(hint.dec)
    centre = unit_vector(hint.ra, hint.dec) if known else unit_vector(0.0, 0.0)
    scale = np.radians((hint.scale if np.isfinite(hint.scale) else DEFAULT_SCALE) / 3600.0)
    angle = np.radians(hint.rotation if np.isfinite(hint.rotation) else 0.0)
    c, s = np.cos(angle), np.sin(angle)
    # East is to the left when north is up, as FITS has it and telescopes with an even number of mirrors.
    return Place(centre, scale * np.array([[-c, s], [s, c]]), middle)


def anchor(
    places: Mapping[int, Place],
    hints: Mapping[int, Hint],
    half: Mapping[int, float],
    *,
    field: float = 0.5,
) -> tuple[dict[int, Place], int]:
    """Turn and scale an island onto what the headers of its frames say.

    Parameters
    ----------
    places
        Of the island.
    hints
        Of its frames.
    half
        Frame → half its diagonal (px).
    field
        A header further from the rest than this part of a frame's half diagonal has no say.

    Returns
    -------
    places
        On the sky.
    agreeing
        Headers with a WCS that agree; 0: none has one, and the island keeps the place of its first frame.

    Notes
    -----
    Middles of frames, and a point above each, are brought onto those of the headers by the rotation of the sphere
    with the least median distance (Kabsch on the inliers); the scale is the median of the headers'.
    """
    known = [f for f in sorted(places) if hints[f].wcs]
    if not known:
        return dict(places), 0
    ratios = []
    mine, theirs = [], []
    for f in known:
        place, middle = places[f], places[f].middle
        reach = 0.5 * half[f]
        points = middle + reach * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        ra, dec = pixel_to_sky(parse_wcs(hints[f].wcs), points[:, 0], points[:, 1])
        theirs.append(np.array([unit_vector(a, d) for a, d in zip(ra, dec, strict=True)]))
        mine.append(place.look(points))
        side = [np.linalg.norm(v[-1][1] - v[-1][2]) for v in (theirs, mine)]
        ratios.append(side[0] / side[1])
    a, b = np.array(mine), np.array(theirs)
    good = np.isfinite(b).all(axis=(1, 2))
    if not good.any():
        return dict(places), 0
    limit = field * float(np.median([half[f] * places[f].scale for f in known]))
    turn = np.eye(3)
    inside = good
    for _ in range(5):
        turn = _rotation(a[inside].reshape(-1, 3), b[inside].reshape(-1, 3))
        away = np.linalg.norm(np.where(good[:, None, None], a @ turn.T - b, np.inf), axis=-1).max(axis=1)
        kept = away <= max(2.5 * float(np.median(away[good])), 1e-9)
        kept &= good
        if (kept == inside).all():
            break
        inside = kept
    agree = int((away <= limit).sum())
    factor = float(np.median(np.array(ratios)[inside]))
    out = {}
    for f, place in places.items():
        centre = turn @ place.centre
        old, new = place.basis @ turn.T, tangent_basis(centre)
        out[f] = replace(place, centre=centre, linear=(new[:2] @ old[:2].T) @ place.linear)
    if abs(factor - 1.0) > 1e-6:
        # The island grew about its own middle: where that lies has to be found again.
        return anchor(rescale(out, factor), hints, half, field=field)
    return out, agree


def _rotation(a: Floats, b: Floats) -> Floats:
    """Rotation that brings directions a onto b, least squares (Kabsch 1976)."""
    u, _, vt = np.linalg.svd(b.T @ a)
    return np.asarray(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt)


def place_wcs(place: Place, half: float, bend: Floats) -> str:
    """WCS text of a place: TAN, with the camera's distortion as SIP where it has one."""
    wcs = WCS(naxis=2)
    wcs.wcs.crval = sky_position(place.centre)
    wcs.wcs.crpix = place.middle + 1.0
    wcs.wcs.cd = np.degrees(place.linear)
    wcs.wcs.radesys = "ICRS"
    if np.any(bend):
        wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        for k, (i, j) in enumerate(DEGREES):
            a[i, j], b[i, j] = bend[:, k] / half ** (i + j)
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    else:
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.set()
    return wcs_header(wcs)


def named(text: str, name: str) -> str:
    """Text of a WCS that carries a name (WCSNAME); "" = none."""
    if not name:
        return text
    wcs = parse_wcs(text).deepcopy()
    wcs.wcs.name = name
    return wcs_header(wcs)


def header_error(hint: Hint, place: Place, half: float, bend: Floats, shape: tuple[int, int]) -> float:
    """Largest distance (px) between what a header's WCS and a solution say of points all over a frame."""
    if not hint.wcs:
        return float("inf")
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, _POINTS), np.linspace(0, shape[0] - 1, _POINTS))
    pixels = np.stack([x.ravel(), y.ravel()], axis=-1)
    ra, dec = np.radians(pixel_to_sky(parse_wcs(hint.wcs), pixels[:, 0], pixels[:, 1]))
    theirs = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
    mine = place.look(undistorted(pixels, place, half, bend))
    away = float(np.linalg.norm(theirs - mine, axis=1).max()) / place.scale
    return away if np.isfinite(away) else float("inf")
