"""Frames of a simulated session as sources and as a table: no file is needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.frames import register_source
from skyloom.ops.simulation import headers
from skyloom.ops.simulation.frame import EPOCH, SimulatedFrame
from skyloom.ops.simulation.hashing import hash_key
from skyloom.ops.simulation.session import SimulatedSession


@dataclass(frozen=True)
class SimulatedSource:
    """A frame of a simulated session as a `FrameSource`."""

    session: str
    """JSON of the parameters."""
    frame: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns (pixels)."""
        return _session(self.session).shape(self.frame)

    @property
    def windowed(self) -> bool:
        """Always: only the window is rendered."""
        return True

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window, float32."""
        pixels = _session(self.session).render(self.frame, rows=rows, columns=columns)
        return np.ascontiguousarray(pixels, dtype=np.float32)


@lru_cache(maxsize=16)
def _session(text: str) -> SimulatedSession:
    return SimulatedSession.from_dict(json.loads(text))


def frame_spec(session: SimulatedSession, index: int) -> str:
    """Spec that `skyloom.ops.frames.open_source` opens in any process."""
    return json.dumps(
        {"kind": "simulated", "module": __name__, "session": session.to_dict(), "frame": index}, sort_keys=True
    )


def open_simulated(spec: Mapping[str, Any]) -> SimulatedSource:
    """Make the source of a parsed spec; the factory of kind "simulated"."""
    return SimulatedSource(json.dumps(spec["session"], sort_keys=True), int(spec["frame"]))


def session_table(session: SimulatedSession) -> xr.Dataset:
    """Return the session as `ingest` would, with sources that render.

    Returns
    -------
    xarray.Dataset
        Table over `frame`, columns as `ingest` makes them from headers of dialect "skyloom".
    """
    frames = session.descriptors()
    text = json.dumps(session.to_dict(), sort_keys=True)
    seed = int(hash_key(*text.encode()))
    rows = [_row(session, frame) for frame in frames]
    columns = {name: np.asarray([row[name] for row in rows]) for name in rows[0]}
    identity = [f"{int(hash_key(seed, frame.index)):016x}" for frame in frames]
    return xr.Dataset(
        {name: ("frame", values) for name, values in columns.items()},
        coords={"frame": np.asarray(identity)},
        attrs={"left_out": "[]"},
    )


def _row(session: SimulatedSession, frame: SimulatedFrame) -> dict[str, Any]:
    rig, camera = session.every_rig[frame.rig], frame.camera
    cards = headers.cards(frame, rig, dialect="skyloom", session=session)
    height, width = session.shape(frame.index)
    overscan = width - camera.width
    return {
        "name": session.paths[frame.index].rpartition("/")[2],
        "source": frame_spec(session, frame.index),
        "height": height,
        "width": width,
        "wcs": "" if frame.wcs is None else frame.wcs.shifted(overscan, 0).header(),
        "kind": frame.kind,
        "band": frame.band,
        "exposure": frame.exposure.seconds,
        "gain": camera.gain,
        "saturation": camera.saturation,
        "units": "adu",
        "date": frame.date,
        "camera": camera.name,
        "facts": "{}",
        "master": False,
        "temperature": camera.temperature,
        "gain_setting": float(cards["GAIN"]),
        "offset_setting": float(cards["OFFSET"]),
        "binning": "1x1",
        "bayer": camera.bayer,
        "rotation": np.nan,
        # A night begins at noon, and calibration frames follow its lights in the morning.
        "night": (EPOCH + timedelta(days=frame.night)).date().isoformat(),
        "ra": np.nan if frame.wcs is None else frame.wcs.ra,
        "dec": np.nan if frame.wcs is None else frame.wcs.dec,
        "pedestal": frame.exposure.pedestal,
        "read_noise": camera.read_noise,
        "trim": str(cards.get("TRIMSEC", "")),
        "overscan": str(cards.get("BIASSEC", "")),
        "telescope": rig.telescope,
        "pixel_size": camera.pixel_size,
        "focal_length": rig.focal_length,
    }


register_source("simulated", open_simulated)
"""Frames with known truth."""
