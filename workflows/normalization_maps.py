"""What there is to see of a normalization: maps of residuals and corrections, scales in the course of time."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.errors import SkyloomError
from skyloom.ops.formats.examine import examine
from skyloom.ops.integration.weights import file_of

Floats = NDArray[np.float64]
MOST_HEADERS = 2000
"""Frames whose headers are read for their airmass; of more an even choice."""
_ALTITUDES = ("OBJCTALT", "CENTALT", "ALTITUDE", "ALT-OBJ", "TELALT")
_LATITUDES = ("SITELAT", "LAT-OBS", "OBSGEO-B", "LATITUDE", "OBS-LAT")
_LONGITUDES = ("SITELONG", "LONG-OBS", "OBSGEO-L", "LONGITUD", "OBS-LONG")


@dataclass(frozen=True)
class FrameMaps:
    """The corrections of one frame, (y, x), rows from the bottom."""

    name: str
    band: str
    why: str
    """What is odd about it."""
    scale: Floats
    offset: Floats
    """Frame units."""
    confidence: Floats


@dataclass(frozen=True)
class Course:
    """Scales of the frames in use, in the course of time."""

    band: NDArray[np.str_]
    scale: Floats
    """Mean a of each frame."""
    spread: Floats
    """Rms of ln a over it."""
    hours: Floats
    """Since the first frame of the first night, days without frames left out; NaN: no date."""
    night: NDArray[np.str_]
    airmass: Floats
    """NaN: not known."""


def residual_maps(normalization: xr.Dataset) -> dict[str, Floats]:
    """Band → (stage, y, x) residuals of overlaps on the canvas, bands without any left out.

    Holes as wide as the stars that samples avoid are filled from around.
    """
    if "sky_residual" not in normalization:
        return {}
    maps = {
        str(b): np.asarray(normalization["sky_residual"].sel(band=b).values, dtype=np.float64)
        for b in normalization["band"].values
    }
    return {band: np.stack([_filled(m) for m in both]) for band, both in maps.items() if np.isfinite(both).any()}


def _filled(values: Floats) -> Floats:
    for _ in range(2):
        padded = np.pad(values, 1, constant_values=np.nan)
        rows, columns = values.shape
        around = np.stack([padded[j : j + rows, i : i + columns] for j in range(3) for i in range(3)])
        count = np.isfinite(around).sum(axis=0)
        mean = np.nansum(around, axis=0) / np.maximum(count, 1)
        # Half of the neighbours: the outline stays where it is.
        values = np.where(np.isfinite(values) | (count < 4), values, mean)
    return values


def worst_frames(normalization: xr.Dataset, bands: NDArray[np.str_], *, count: int = 6) -> list[int]:
    """Rows of the frames in use that agree least with the others, worst first.

    Parameters
    ----------
    normalization
        From `normalize`.
    bands
        (frame,).
    count
        How many at most.

    Notes
    -----
    By the residual after correction, in units of the band's median; beside it by how little of it is trusted and
    how far its scale is from the mean, so that without overlaps there is an order too.
    """
    use = normalization["use"].values.astype(bool)
    score = np.full(len(use), -np.inf)
    for band in np.unique(bands[use]):
        here = np.flatnonzero(use & (bands == band))
        after = normalization["residual_after"].values[here]
        usual = np.nanmedian(after) if np.isfinite(after).any() else np.nan
        relative = after / usual if usual > 0 else np.ones(len(here))
        away = np.abs(np.log(normalization["mean_scale"].values[here]))
        trusted = np.array([_mean(normalization["confidence"].values[i]) for i in here])
        score[here] = (
            np.nan_to_num(relative, nan=1.0) + 0.5 * (1.0 - trusted) + 0.5 * np.abs(away - np.median(away))
        )
    order = np.argsort(-score, kind="stable")
    return [int(i) for i in order[: min(count, int(use.sum()))]]


def frame_maps(session: xr.Dataset, normalization: xr.Dataset, row: int, *, side: int = 48) -> FrameMaps:
    """Scale, offset and confidence over one frame, `side` places along its longer side."""
    height, width = (int(session[n].values[row]) for n in ("height", "width"))
    longer = max(height, width)
    rows, columns = (max(round(side * n / longer), 2) for n in (height, width))
    v, u = (surface.basis(np.linspace(0.0, 1.0, n)) for n in (rows, columns))
    scale, offset, confidence = (v @ normalization[n].values[row] @ u.T for n in ("scale", "offset", "confidence"))
    residual = float(normalization["residual_after"].values[row])
    why = str(normalization["note"].values[row])
    if not why and math.isfinite(residual):
        why = f"{residual:.3g} from the others"
    return FrameMaps(
        str(session["name"].values[row]), str(session["band"].values[row]), why, scale, offset,
        np.clip(confidence, 0.0, 1.0),
    )  # fmt: skip


def course(session: xr.Dataset, normalization: xr.Dataset) -> Course:
    """Scales against time and airmass; airmasses are read from the frames' headers."""
    rows = np.flatnonzero(normalization["use"].values)
    dates = [str(d) for d in session["date"].values[rows]] if "date" in session else [""] * len(rows)
    night = session["night"].values[rows].astype(str) if "night" in session else np.full(len(rows), "")
    return Course(
        session["band"].values[rows].astype(str),
        normalization["mean_scale"].values[rows].astype(np.float64),
        normalization["scale_spread"].values[rows].astype(np.float64),
        _hours(dates, night),
        night,
        _airmasses(session, rows),
    )


def _mean(record: Floats) -> float:
    mean = surface.basis(np.linspace(0.0, 1.0, 17)).mean(axis=0)
    return float(mean @ record @ mean)


def _hours(dates: list[str], night: NDArray[np.str_]) -> Floats:
    """Hours of each date, the nights one after the other with an hour between."""
    out = np.full(len(dates), np.nan)
    for k, text in enumerate(dates):
        try:
            out[k] = (
                float(np.datetime64(text).astype("datetime64[ms]").astype(np.int64)) / 3.6e6 if text else np.nan
            )
        except ValueError:
            continue
    begin = 0.0
    for label in np.unique(night):
        here = np.flatnonzero((night == label) & np.isfinite(out))
        if len(here):
            first, last = float(out[here].min()), float(out[here].max())
            out[here] += begin - first
            begin += last - first + 1.0
    return out


def _airmasses(session: xr.Dataset, rows: NDArray[np.intp]) -> Floats:
    out = np.full(len(rows), np.nan)
    if not len(rows):
        return out
    for k in np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_HEADERS)).astype(int)).tolist():
        i = int(rows[k])
        try:
            leaf = file_of(json.loads(str(session["source"].values[i])))
            header = examine(leaf["path"])[0].header if leaf is not None else {}
        except (OSError, SkyloomError, ValueError, KeyError, IndexError):
            continue
        ra, dec = (float(session[n].values[i]) if n in session else math.nan for n in ("ra", "dec"))
        out[k] = airmass(header, ra, dec, str(session["date"].values[i]) if "date" in session else "")
    return out


def airmass(header: Mapping[str, Any], ra: float, dec: float, date: str) -> float:
    """Airmass as a header says it, else from the altitude, else from place and time; NaN where it cannot be told.

    Parameters
    ----------
    header
        Cards by keyword.
    ra, dec
        Of the frame (degrees).
    date
        Of the frame (UTC, ISO).
    """
    stated = _number(header, ("AIRMASS", "SECZ"))
    if 1.0 <= stated < 40.0:
        return stated
    altitude = _number(header, _ALTITUDES)
    if not math.isfinite(altitude):
        altitude = _altitude(_number(header, _LATITUDES), _number(header, _LONGITUDES), ra, dec, date)
    if not 2.0 < altitude <= 90.0:
        return math.nan
    # Pickering 2002.
    return 1.0 / math.sin(math.radians(altitude + 244.0 / (165.0 + 47.0 * altitude**1.1)))


def _altitude(latitude: float, longitude: float, ra: float, dec: float, date: str) -> float:
    if not (all(math.isfinite(a) for a in (latitude, longitude, ra, dec)) and "T" in date):
        return math.nan
    try:
        days = float(np.datetime64(date).astype("datetime64[ms]").astype(np.int64)) / 86.4e6 - 10957.5
    except ValueError:
        return math.nan
    # Greenwich mean sidereal time, to seconds; longitudes count to the east.
    hour = math.radians(280.46062 + 360.98564737 * days + longitude - ra)
    p, d = math.radians(latitude), math.radians(dec)
    return math.degrees(math.asin(math.sin(p) * math.sin(d) + math.cos(p) * math.cos(d) * math.cos(hour)))


def _number(header: Mapping[str, Any], names: tuple[str, ...]) -> float:
    """First of some cards that is a number, or an angle such as 41 23 10."""
    for name in names:
        card = header.get(name)
        value = getattr(card, "value", card)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        parts = re.split(r"[\s:°'\"dms]+", str(value).strip()) if value is not None else []
        try:
            numbers = [float(p) for p in parts if p][:3]
        except ValueError:
            continue
        if numbers:
            size = float(sum(abs(n) / 60.0**k for k, n in enumerate(numbers)))
            return -size if str(value).strip().startswith("-") else size
    return math.nan
