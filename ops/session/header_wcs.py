"""The celestial WCS of a frame's header, or the reason why there is none to trust."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable

import numpy as np
from astropy import units
from astropy.coordinates import FK4, FK5, ICRS, Galactic, SkyCoord
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.formats.cards import value_text
from skyloom.ops.formats.fits_header import Card, Header
from skyloom.ops.formats.fits_lookup import refers_to_tables
from skyloom.ops.grid import WCS_LOCK, bare_wcs, parse_wcs, wcs_header
from skyloom.ops.session.lookup_wcs import without_tables

SCALE_ARCSEC = (0.01, 600.0)
"""Pixel scales a telescope can have (arcsec)."""
MAX_AWAY_DEG = 45.0
"""Frames of zenithal projections lie nearer to the reference point than this (degrees)."""
ROUND_TRIP_PX = 1e-3
"""The stored text must give the positions of the header to this (pixels)."""
FOLLOWED_PX = 0.05
"""What a polynomial leaves of lookup distortions is told where it is more than this (pixels)."""

_KEYWORD = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]$|(PC|CD)[12]_[12]$|PC00[12]00[12]$|PV[12]_\d{1,2}$"
    r"|(A|B|AP|BP)_(ORDER|\d_\d)$|(LONPOLE|LATPOLE|EQUINOX|EPOCH|RADESYS|RADECSYS)$"
)
_POLYNOMIAL = re.compile(r"(A|B|AP|BP)_|PV")
_ZENITHAL = ("TAN", "SIN", "ARC", "STG", "ZEA", "TPV", "ZPN")


def celestial_wcs(
    header: Header, shape: tuple[int, int], tables: Callable[[], WCS] | None = None
) -> tuple[str, list[str]]:
    """Text of the header's WCS and what is odd about it.

    Parameters
    ----------
    header
        Header of the image.
    shape
        Rows, columns.
    tables
        Opens the tables of the header's lookup distortions, which become terms of SIP; none = there are none.

    Returns
    -------
    text : str
        As `skyloom.ops.grid.parse_wcs` reads it: right ascension (x) and declination (y), ICRS or what equals it
        to some 0.02 arcsec; "" where the header has no WCS or none that can be trusted.
    notes : list of str
        Why there is none, or what was ignored or converted; empty for a header without a trace of one.
    """
    if "CTYPE1" not in header or "CTYPE2" not in header:
        return "", []
    kinds = [str(header.value(f"CTYPE{i}", "")).strip().upper() for i in (1, 2)]
    if not any(k[:4] in ("RA--", "DEC-", "GLON", "GLAT", "ELON", "ELAT") for k in kinds):
        return "", []
    notes: list[str] = []
    try:
        with WCS_LOCK, warnings.catch_warnings():
            # Reports of repaired dates, units and old keywords; what is left is checked below.
            warnings.simplefilter("ignore")
            wcs, notes = _build(header, kinds)
            if refers_to_tables(header):
                wcs = _follow(wcs, tables, shape, notes)
            wcs = _to_standard(wcs, notes)
            text = _check(wcs, shape)
    except _NotUsableError as reason:
        return "", [*notes, f"WCS not used: {reason}"]
    # wcslib reports a contradictory header in a dozen classes and texts of several lines.
    except Exception as failure:
        lines = str(failure).strip().splitlines() or [type(failure).__name__]
        return "", [*notes, f"WCS not used: {lines[-1].strip()}"]
    return text, notes


class _NotUsableError(Exception):
    """The reason, in words for the user."""


def _build(header: Header, kinds: list[str]) -> tuple[WCS, list[str]]:
    notes = []
    found = {k: v for k in header if _KEYWORD.match(k) and (v := _plain(header[k])) is not None}
    if all(k[5:8].strip("-") == "TAN" and len(k) == 8 for k in kinds) and not any(map(_POLYNOMIAL.match, found)):
        wcs = bare_wcs([f"{keyword:<8}= {value_text(value)}".ljust(80) for keyword, value in found.items()])
        if wcs is not None and wcs.wcs.lng >= 0 and wcs.wcs.lat >= 0:
            return wcs, []
    cards = fits.Header()
    for keyword, value in found.items():
        cards[keyword] = value
    projections = [k[5:8].strip("-") for k in kinds]
    sip = "A_ORDER" in cards or "B_ORDER" in cards
    if sip:
        # Next to SIP, polynomials in PV are SCAMP's, of the same distortion a second time.
        for keyword in [k for k in cards if k.startswith("PV")]:
            del cards[keyword]
        for axis in (1, 2):
            if not kinds[axis - 1].endswith("-SIP"):
                cards[f"CTYPE{axis}"] = f"{kinds[axis - 1][:8]}-SIP"
    elif projections == ["TAN", "TAN"] and any(cards.get(f"PV2_{m}") for m in range(40)):
        # TAN has no parameters on latitude: these are SCAMP's polynomials from before TPV had a name.
        for axis in (1, 2):
            cards[f"CTYPE{axis}"] = kinds[axis - 1][:5] + "TPV"
        notes.append("WCS written as TAN with PV polynomials: read as TPV")
    wcs = WCS(cards, relax=True, naxis=2, fix=True)
    if wcs.wcs.lng < 0 or wcs.wcs.lat < 0:
        raise _NotUsableError(f"its axes are {' and '.join(kinds)}, no pair of sky coordinates")
    return wcs, notes


def _follow(wcs: WCS, tables: Callable[[], WCS] | None, shape: tuple[int, int], notes: list[str]) -> WCS:
    """Return the WCS with its lookup distortions as a polynomial; as it is where they cannot be had."""
    try:
        if tables is None:
            raise ValueError("there is no file to take them from")
        followed = without_tables(wcs, tables(), shape)
    # A table that is missing, cut off or described wrongly fails in the classes of astropy, numpy and the system.
    except Exception as failure:
        lines = str(failure.args[0] if failure.args else "").strip().splitlines() or [type(failure).__name__]
        reason = lines[0].strip(" .")
        notes.append(f"the WCS has lookup distortions: ignored ({reason}); positions may be off by a pixel or so")
        return wcs
    if followed.error > FOLLOWED_PX:
        notes.append(f"lookup distortion followed to {followed.error:.2g} px")
    return followed.wcs


def _to_standard(wcs: WCS, notes: list[str]) -> WCS:
    """Return the WCS with right ascension first, in ICRS."""
    if wcs.wcs.lng == 1:
        wcs = _swapped(wcs)
        notes.append("the WCS has declination on its first axis: axes exchanged")
    return _to_icrs(wcs, notes)


def _plain(card: Card) -> float | int | str | None:
    """Value as a standard header may hold it."""
    value = card.value
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        return text if text.isascii() and text.isprintable() and len(text) < 60 else None
    return value


def _swapped(wcs: WCS) -> WCS:
    """Return the WCS with right ascension first; the pixel axes stay."""
    if wcs.has_distortion or len(wcs.wcs.get_pv()):
        raise _NotUsableError("declination on the first axis together with distortion terms")
    old, new = wcs.wcs, WCS(naxis=2)
    new.wcs.ctype = list(old.ctype)[::-1]
    new.wcs.crval = list(old.crval)[::-1]
    new.wcs.cunit = list(old.cunit)[::-1]
    new.wcs.crpix = old.crpix
    new.wcs.cd = wcs.pixel_scale_matrix[::-1]
    new.wcs.lonpole, new.wcs.radesys, new.wcs.equinox = old.lonpole, old.radesys, old.equinox
    new.wcs.set()
    return new


def _to_icrs(wcs: WCS, notes: list[str]) -> WCS:
    """Return the WCS in equatorial coordinates of J2000; conversions are noted.

    Of a zenithal projection the reference point moves and the plate turns by the angle between the norths: exact
    but for the aberration terms of FK4 (0.3 arcsec at most, nearly all of it common to the plate).
    """
    frame = _frame(wcs)
    if frame is None:
        return wcs
    projection = str(wcs.wcs.ctype[0])[5:8]
    if projection not in _ZENITHAL or abs(wcs.wcs.lonpole - 180.0) > 1e-9 or wcs.wcs.theta0 != 90.0:
        raise _NotUsableError(f"{projection} projection in {_frame_text(frame)}; solve the frame again (ICRS)")
    origin = SkyCoord(*wcs.wcs.crval, unit=units.deg, frame=frame)
    north = origin.directional_offset_by(0 * units.deg, 0.05 * units.deg).transform_to(ICRS())
    origin = origin.transform_to(ICRS())
    turn = origin.position_angle(north).rad
    # Old axes on the new ones: (east, north) → the old north points `turn` east of the new north.
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    matrix = rotation @ wcs.pixel_scale_matrix
    new = wcs.deepcopy()
    suffix = "-SIP" if wcs.sip is not None else ""
    if wcs.wcs.has_cd():
        new.wcs.cd = matrix
    else:
        if wcs.wcs.has_crota():
            new.wcs.crota = [0.0, 0.0]
        new.wcs.pc = matrix / np.asarray(wcs.wcs.cdelt)[:, None]
    new.wcs.ctype = [f"RA---{projection}{suffix}", f"DEC--{projection}{suffix}"]
    new.wcs.crval = [origin.ra.deg, origin.dec.deg]
    new.wcs.radesys, new.wcs.equinox = "ICRS", np.nan
    new.wcs.set()
    notes.append(f"WCS in {_frame_text(frame)}: converted to ICRS")
    return new


def _frame_text(frame: object) -> str:
    equinox = getattr(frame, "equinox", None)
    name = type(frame).__name__
    return name if equinox is None else f"{name}, equinox {equinox.value}"


def _frame(wcs: WCS) -> FK4 | FK5 | Galactic | None:
    """Coordinates of the WCS; None where they are J2000 or as good."""
    kind = str(wcs.wcs.ctype[0])[:4]
    if kind == "GLON":
        return Galactic()
    if kind != "RA--":
        raise _NotUsableError(f"coordinates {kind.strip('-')} are not taken; solve the frame again (ICRS)")
    system, equinox = str(wcs.wcs.radesys).strip().upper(), float(wcs.wcs.equinox)
    if np.isfinite(equinox) and not 1850.0 < equinox < 2150.0:
        raise _NotUsableError(f"EQUINOX = {equinox:g} makes no sense")
    if system.startswith("FK4") or (not system and np.isfinite(equinox) and equinox < 1984.0):
        return FK4(equinox=Time(equinox if np.isfinite(equinox) else 1950.0, format="byear"))
    if system in ("", "FK5") and np.isfinite(equinox) and abs(equinox - 2000.0) > 0.01:
        return FK5(equinox=Time(equinox, format="jyear"))
    return None


def _check(wcs: WCS, shape: tuple[int, int]) -> str:
    """Text of a WCS that passes."""
    matrix = np.asarray(wcs.pixel_scale_matrix, dtype=np.float64)
    crval = np.asarray(wcs.wcs.crval, dtype=np.float64)
    if not (np.isfinite(matrix).all() and np.isfinite(crval).all() and np.isfinite(wcs.wcs.crpix).all()):
        raise _NotUsableError("it has numbers that are not finite")
    if abs(crval[1]) > 90.0 or abs(crval[0]) > 720.0:
        raise _NotUsableError(f"CRVAL = {crval[0]:g}, {crval[1]:g} is no position on the sky")
    singular = np.linalg.svd(matrix, compute_uv=False) * 3600.0
    low, high = SCALE_ARCSEC
    if singular[1] <= 1e-3 * singular[0]:
        raise _NotUsableError("its CD matrix cannot be inverted")
    if not (low <= singular[1] and singular[0] <= high):
        raise _NotUsableError(
            f"pixels of {singular[0]:.3g} by {singular[1]:.3g} arcsec; {low:g} to {high:g} is possible"
        )
    text = wcs_header(wcs)
    rows, columns = shape
    x = np.array([(columns - 1) / 2, 0.0, columns - 1.0, 0.0, columns - 1.0])
    y = np.array([(rows - 1) / 2, 0.0, 0.0, rows - 1.0, rows - 1.0])
    first, second = (_unit_vectors(w, x, y) for w in (wcs, parse_wcs(text)))
    if not np.isfinite(first[:, 0]).all():
        raise _NotUsableError("the middle of the frame is outside of its projection")
    if wcs.wcs.theta0 == 90.0:
        lon, lat = np.radians(crval)
        pole = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
        away = math.degrees(math.acos(min(1.0, max(-1.0, float(pole @ first[:, 0])))))
        if away > MAX_AWAY_DEG:
            raise _NotUsableError(f"the frame is {away:.0f} degrees from its reference point (CRPIX)")
    error = np.degrees(np.abs(first - second).max(where=np.isfinite(first), initial=0.0)) * 3600.0 / singular[1]
    if not error <= ROUND_TRIP_PX:
        raise _NotUsableError(f"its distortion cannot be kept ({error:.2g} px off); solve the frame again")
    return text


def _unit_vectors(wcs: WCS, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, n) unit vectors: free of the seam of right ascension."""
    lon, lat = (np.radians(c) for c in wcs.all_pix2world(x, y, 0))
    return np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
