"""Debayer: frames of colour sensors as three frames, a colour each, made while they are read."""

from __future__ import annotations

import json
import math
from hashlib import blake2b
from typing import Any

import numpy as np
import xarray as xr

from skyloom.ops.calibration.cfa import BANDS, PATTERNS, CfaSource, Method, places
from skyloom.ops.calibration.window_wcs import window_wcs
from skyloom.ops.errors import DataError
from skyloom.ops.registry import register

LEAST_SIDE = 4
"""Pixels a frame must have each way."""
_WHOLE = 8.0
_WORKING = 12.0
"""Bytes of a pixel while it is interpolated: its window, that with its halo, the plane."""


@register(version=1, unit=(), table=True)
def debayer(session: xr.Dataset, *, method: Method = "superpixel") -> xr.Dataset:
    """Take frames of colour sensors apart into red, green and blue frames.

    No pixel moves here: the result is a table whose sources make a colour's window from the frame's. Frames of
    monochrome sensors, and calibration frames, stay as they are.

    Parameters
    ----------
    session
        Frames (`calibrate`); `bayer` says the colours of their first 2 × 2 pixels.
    method
        superpixel = one pixel for every 2 × 2 of the sensor: nothing is invented, the noise stays white, a quarter
        of the pixels; interpolate = full size, gradient-corrected linear, for stars sampled by less than some 2.5
        pixels FWHM or where the size is wanted: its noise is correlated between neighbours. Change it to
        interpolate where stars are narrow or the full size is wanted; where frames are dithered and many, drizzle
        is the better way to it.

    Returns
    -------
    xarray.Dataset
        The session with three frames for one. Changed columns: `frame`, `name` ("x.fits [R]"), `source` (of kind
        "cfa"), `band`, `bayer` (""), `height`, `width`, `pixel_size`, `wcs`, `gain`, `read_noise`, `facts`.
        Attributes: `left_out`, with frames whose filter array is not a Bayer array; `source_bytes`.

    Raises
    ------
    DataError
        If no frame is left.

    Notes
    -----
    Each plane has a WCS of its own: of superpixels red and blue lie half a pixel of the sensor to either side of
    green's middle, and so do the stars in them. Gain and read noise are such that sums over areas have the right
    photon statistics: the mean of two greens has twice the electrons a DN; an interpolated plane counts every red
    or blue pixel four times (a quarter), every green one twice (half).
    """
    left_out = [tuple(item) for item in json.loads(session.attrs.get("left_out", "[]"))]
    rows: list[int] = []
    changed: list[dict[str, Any]] = []
    inner = float(session.attrs.get("source_bytes", _WHOLE))
    source_bytes = 0.0
    for index in range(session.sizes["frame"]):
        frame = {str(name): session[name].values[index] for name in ("frame", *session.data_vars)}
        bayer = str(frame.get("bayer", ""))
        shape = (int(frame["height"]), int(frame["width"]))
        if not bayer or str(frame["kind"]) not in ("light", "unknown"):
            rows.append(index)
            changed.append(frame)
            source_bytes = max(source_bytes, inner)
        elif bayer not in PATTERNS or min(shape) < LEAST_SIDE:
            left_out.append((str(frame["name"]), _reason(bayer, shape)))
        else:
            rows += [index] * len(BANDS)
            changed += [_plane(frame, shape, bayer, band, method) for band in BANDS]
            own = 4 * inner if method == "superpixel" else max(inner, _WORKING)
            source_bytes = max(source_bytes, own)
    if not rows:
        raise DataError(f"no frame to debayer; {len(left_out)} left out, the first: {left_out[:1]}")
    table = session.isel(frame=rows)
    columns = {name: np.array([row[name] for row in changed]) for name in changed[0] if name != "frame"}
    return (
        table.assign({name: ("frame", values) for name, values in columns.items()})
        .assign_coords(frame=np.array([str(row["frame"]) for row in changed]))
        .assign_attrs(left_out=json.dumps(sorted(left_out)), source_bytes=source_bytes)
    )


def _reason(bayer: str, shape: tuple[int, int]) -> str:
    if bayer not in PATTERNS:
        return f"its colour filter array {bayer!r} is none of {', '.join(PATTERNS)}: it cannot be taken apart"
    return f"only {shape[1]} × {shape[0]} pixels: too few for colours"


def _plane(frame: dict[str, Any], shape: tuple[int, int], bayer: str, band: str, method: Method) -> dict[str, Any]:
    """Row of one colour."""
    where = np.mean(places(bayer, band), axis=0)
    size = (shape[0] // 2, shape[1] // 2) if method == "superpixel" else shape
    wcs = str(frame["wcs"])
    if method == "superpixel":
        wcs = window_wcs(wcs, row=float(where[0]), column=float(where[1]), step=2)
        electrons = float(len(places(bayer, band)))
    else:
        electrons = len(places(bayer, band)) / 4.0
    facts = json.loads(str(frame.get("facts", "{}")))
    facts["band"] = [band, "debayer"]
    facts["debayered"] = [f"{method} of {bayer}", "debayer"]
    identity = blake2b(f"{frame['frame']} {bayer} {band} {method}".encode(), digest_size=8).hexdigest()
    row = {
        **frame,
        "frame": identity,
        "name": f"{frame['name']} [{band}]",
        "source": CfaSource(str(frame["source"]), bayer, band, method, size).spec(),
        "height": size[0],
        "width": size[1],
        "band": band,
        "bayer": "",
        "wcs": wcs,
        "facts": json.dumps(facts, ensure_ascii=True),
        # Of a sum over n pixels the read noise is that of the electrons counted: see `gain`.
        "gain": float(frame["gain"]) * electrons,
    }
    if "read_noise" in frame:
        row["read_noise"] = float(frame["read_noise"]) * math.sqrt(electrons)
    if "pixel_size" in frame and method == "superpixel":
        row["pixel_size"] = 2.0 * float(frame["pixel_size"])
    return row
