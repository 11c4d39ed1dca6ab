"""A session for people: what each frame is, and what is odd about it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import xarray as xr

from skyloom.ops.grid import parse_wcs, pixel_to_sky
from skyloom.ops.session.oddities import oddities

_NUMBERS = (
    *("exposure", "temperature", "gain", "gain_setting", "offset_setting", "rotation", "ra", "dec"),
    *("pixel_size", "focal_length"),
)
_TEXTS = ("kind", "band", "filter", "camera", "binning", "bayer", "night", "date")
_ORDER = (
    *("name", "kind", "master", "band", "filter", "camera", "exposure", "temperature", "gain", "gain_setting"),
    *("offset_setting", "binning", "bayer", "rotation", "night", "date", "size", "scale", "ra", "dec"),
    *("pixel_size", "focal_length", "oddities", "facts"),
)


def describe(session: xr.Dataset) -> list[dict[str, Any]]:
    """Rows for people.

    Parameters
    ----------
    session
        As `ingest` returns it; columns it does not have are unknown.

    Returns
    -------
    list of dict
        A frame each: name, kind, master (bool), band, filter, camera, exposure (s), temperature (°C), gain
        (e-/DN), gain_setting, offset_setting, binning, bayer, rotation (deg), night, date, size ("width x
        height"), scale (arcsec/px), ra, dec (degrees; of the frame's centre where it has a WCS, else where the
        telescope pointed), pixel_size (µm), focal_length (mm), oddities (list of str), facts ({fact: [value,
        origin]}). None = unknown.
    """
    count = session.sizes["frame"]
    columns: dict[str, list[Any]] = {str(name): session[name].values.tolist() for name in session.data_vars}
    facts = [json.loads(text) for text in columns.get("facts", ["{}"] * count)]
    odd = oddities(columns, facts)
    rows = []
    for i in range(count):
        width, height = columns["width"][i], columns["height"][i]
        row: dict[str, Any] = {"name": columns["name"][i], "size": f"{width} x {height}", "scale": None}
        row["master"] = bool(columns["master"][i]) if "master" in columns else False
        row |= {key: (columns[key][i] or None) if key in columns else None for key in _TEXTS}
        row |= {key: _number(columns[key][i]) if key in columns else None for key in _NUMBERS}
        if columns["wcs"][i]:
            row |= _centre(columns["wcs"][i], width, height)
        row["oddities"] = odd[i]
        row["facts"] = {key: value for key, value in facts[i].items() if key != "notes"}
        rows.append({key: row[key] for key in _ORDER})
    return rows


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _centre(text: str, width: int, height: int) -> dict[str, float]:
    wcs = parse_wcs(text)
    scale = math.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600.0
    centre = pixel_to_sky(wcs, np.array([(width - 1) / 2]), np.array([(height - 1) / 2]))
    ra, dec = (round(float(c[0]), 5) for c in centre)
    return {"scale": round(scale, 5), "ra": ra, "dec": dec}
