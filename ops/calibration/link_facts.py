"""The facts links depend on, in columns: of frames, or of groups of frames."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.calibration.words import ordinal
from skyloom.ops.errors import DataError

Texts = NDArray[np.str_]
Numbers = NDArray[np.float64]

TEXTS = ("camera", "telescope", "binning", "bayer", "filter", "plane")
"""Facts compared as texts; "" = not known."""
FULL_TURN = 360.0


@dataclass(frozen=True)
class Facts:
    """Columns of n rows; "" and NaN = not known."""

    kind: Texts
    content: Texts
    """Content id of a frame, key of a group."""
    name: Texts
    camera: Texts
    """As written; compared by `same_camera`."""
    telescope: Texts
    binning: Texts
    bayer: Texts
    filter: Texts
    """Filter of lights and flats."""
    band: Texts
    """As the session has it."""
    plane: Texts
    """Colour of a plane of a colour image, "" for others."""
    calibrated: Texts
    """What was taken off already ("bias, dark, flat")."""
    height: NDArray[np.int64]
    width: NDArray[np.int64]
    exposure: Numbers
    """Seconds."""
    temperature: Numbers
    """°C."""
    gain: Numbers
    """Setting of the camera."""
    offset: Numbers
    rotation: Numbers
    """Degrees."""
    turn: Numbers
    """Degrees after which a rotation is the same to the camera: 360 for a rotator's, 180 for a position angle on
    the sky, which the meridian flip turns by 180 while camera and telescope stay as they are to each other."""
    focal_length: Numbers
    """Millimetres."""
    night: Numbers
    """Ordinal day of the (first) night."""
    last_night: Numbers
    master: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.kind.size)

    def take(self, rows: NDArray[np.int64] | Sequence[int] | slice) -> Facts:
        """Return these rows."""
        index = rows if isinstance(rows, slice) else np.asarray(rows, dtype=np.int64)
        return Facts(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def text(self, name: str) -> Texts:
        """Return a column of texts in the form it is compared in."""
        column: Texts = getattr(self, name)
        if name in ("camera", "telescope"):
            return _mapped(column, plain_name)
        return _mapped(column, str.casefold) if name in ("binning", "filter") else column


_VENDOR = re.compile(r"\b(zwo|ccd|camera|cmos|ascom)\b")


@lru_cache(maxsize=1024)
def plain_name(text: str) -> str:
    """Name of a device without what drivers add to it: "ZWO CCD ASI2600MM Pro" is "ZWO ASI2600MM Pro"."""
    lower = text.casefold()
    words = re.sub(r"[^0-9a-zα-ω]+", "", _VENDOR.sub(" ", lower))
    return words or lower.strip()


def _mapped(column: Texts, change: Callable[[str], str]) -> Texts:
    if column.size < 64:
        return np.array([change(t) for t in column.tolist()], dtype=np.str_)
    # Thousands of rows hold a handful of texts.
    distinct, inverse = np.unique(column, return_inverse=True)
    return np.array([change(t) for t in distinct.tolist()], dtype=np.str_)[inverse]


def read_facts(session: xr.Dataset) -> Facts:
    """Facts of the frames of a session.

    Parameters
    ----------
    session
        As `ingest` returns it; columns it has not are taken as not known.

    Raises
    ------
    DataError
        If it is no session: it has no frames, or they have no size.
    """
    for column in ("name", "kind", "height", "width"):
        if column not in session:
            raise DataError(f"the session has no column {column!r}; links are made from what `ingest` returns")
    count = session.sizes["frame"]

    def texts(column: str) -> Texts:
        if column not in session:
            return np.full(count, "", dtype=np.str_)
        # Not `astype`: texts from a store may be Python objects.
        return np.array([str(v).strip() for v in session[column].values.tolist()], dtype=np.str_)

    def numbers(column: str) -> Numbers:
        if column not in session:
            return np.full(count, np.nan)
        values = np.asarray(session[column].values, dtype=np.float64)
        return np.where(np.isfinite(values), values, np.nan)

    kind = texts("kind")
    extra = [_extra(t) for t in texts("facts")]
    bands = texts("band")
    band = np.where(bands == "none", "", bands)
    plane = np.array([e.plane for e in extra], dtype=np.str_)
    lens = np.array([e.filter for e in extra], dtype=np.str_)
    nights = np.array([ordinal(t) for t in texts("night").tolist()], dtype=np.float64)
    return Facts(
        kind=np.where(np.isin(kind, ("dark", "flat", "flatdark", "bias")), kind, "light"),
        content=texts("frame"),
        name=texts("name"),
        camera=texts("camera"),
        telescope=texts("telescope"),
        binning=texts("binning"),
        bayer=texts("bayer"),
        # The band of a colour sensor is CFA behind every filter.
        filter=np.where((lens != "") & (plane == ""), lens, np.where(plane == "", band, "")),
        band=np.where(bands == "", "none", bands),
        plane=plane,
        calibrated=np.array([e.calibrated for e in extra], dtype=np.str_),
        height=np.asarray(session["height"].values, dtype=np.int64),
        width=np.asarray(session["width"].values, dtype=np.int64),
        exposure=numbers("exposure"),
        temperature=numbers("temperature"),
        gain=numbers("gain_setting"),
        offset=numbers("offset_setting"),
        rotation=numbers("rotation"),
        turn=np.array([e.turn for e in extra], dtype=np.float64),
        focal_length=numbers("focal_length"),
        night=nights,
        last_night=nights.copy(),
        master=_flags(session, "master", count),
    )


def _flags(session: xr.Dataset, column: str, count: int) -> NDArray[np.bool_]:
    if column not in session:
        return np.zeros(count, dtype=np.bool_)
    return np.asarray(session[column].values, dtype=np.bool_)


@dataclass(frozen=True)
class _Extra:
    """What only the record of facts and their origins knows."""

    plane: str = ""
    filter: str = ""
    calibrated: str = ""
    turn: float = FULL_TURN


def _extra(text: str) -> _Extra:
    try:
        facts = json.loads(text) if text else {}
    except ValueError:
        facts = {}
    if not isinstance(facts, dict):
        return _Extra()

    def fact(name: str) -> tuple[str, str]:
        pair = facts.get(name)
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str | int | float):
            return str(pair[0]), str(pair[1])
        return "", ""

    band, origin = fact("band")
    # Rotators write ROTATANG, ROTATOR, ROTANGLE; position angles come as OBJCTROT, POSANGLE, CROTA2, PA.
    header, _, keyword = fact("rotation")[1].partition(" ")
    on_sky = header == "header" and not keyword.startswith(("ROTAT", "ROTAN"))
    return _Extra(
        plane=band if origin == "colour plane" else "",
        filter=fact("filter")[0],
        calibrated=fact("calibrated")[0],
        turn=FULL_TURN / 2 if on_sky else FULL_TURN,
    )
