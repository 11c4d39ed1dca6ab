"""Raw sessions with known truth for the tests of masters: rendered when they are read, no file behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.calibration.link import link
from skyloom.ops.errors import DataError
from skyloom.ops.frames import FrameSource, open_source, register_source
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.readout import Truth
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel
from skyloom.ops.simulation.sources import session_table

CAMERA = Camera(height=300, width=340, vignetting=0.25, dust=6, response=0.01, hot_fraction=2e-3)
SESSION = SimulatedSession(
    panels=(1, 1),
    frames=1,
    raw=True,
    calibration_frames=10,
    camera=CAMERA,
    sky=SkyModel(extent=0.3, nebula=0.0, star_faint=2000.0),
)


def session_of(**changes: Any) -> SimulatedSession:
    """The usual session with other parameters; `camera` takes what differs from the usual one."""
    camera = changes.pop("camera", {})
    return replace(SESSION, camera=replace(CAMERA, **camera), **changes)


@cache
def _pixels(text: str, index: int) -> NDArray[np.float32]:
    """Frame rendered once: rendering costs more than what is tested."""
    session = SimulatedSession.from_dict(json.loads(text))
    pixels = session.render(index).astype(np.float32)
    pixels.flags.writeable = False
    return pixels


@dataclass(frozen=True)
class Rendered:
    """A frame of a simulated session, with what a test did to it."""

    session: str
    frame: int
    fault: str = ""
    value: float = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        height, width = _pixels(self.session, self.frame).shape
        return (height, width - 2) if self.fault == "size" else (height, width)

    @property
    def windowed(self) -> bool:
        return True

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        READS.append((self.frame, rows))
        if self.fault == "broken" or (self.fault == "torn" and rows.stop > self.value):
            raise DataError(f"frame {self.frame} is torn")
        if self.fault == "disk":
            raise DataError("the disk is gone") from OSError(5, "Input/output error")
        pixels = _pixels(self.session, self.frame)[rows, columns].copy()
        if self.fault == "add":
            pixels += np.float32(self.value)
        if self.fault == "scale":
            pixels = np.rint(500.0 + (pixels - 500.0) * np.float32(self.value)).astype(np.float32)
        if self.fault == "clip":
            pixels[:] = np.minimum(pixels * np.float32(3), np.float32(self.value))
        return pixels


READS: list[tuple[int, slice]] = []
"""Every window read."""


def _open(fields: Mapping[str, Any]) -> FrameSource:
    return Rendered(
        json.dumps(fields["session"], sort_keys=True),
        int(fields["frame"]),
        str(fields.get("fault", "")),
        float(fields.get("value", 0.0)),
    )


@dataclass(frozen=True)
class InMemory:
    """Pixels a test made."""

    pixels: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def windowed(self) -> bool:
        return False

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        return self.pixels[rows, columns].copy()


_kept: dict[str, InMemory] = {}


def in_memory(name: str, pixels: NDArray[np.float32]) -> str:
    """Spec of pixels a test made."""
    _kept[name] = InMemory(pixels)
    return json.dumps({"kind": "in memory", "name": name})


register_source("rendered", _open)
register_source("in memory", lambda fields: _kept[str(fields["name"])])


@dataclass(frozen=True)
class Made:
    """A session with its table and links."""

    session: SimulatedSession
    table: xr.Dataset
    links: xr.Dataset

    def places(self, kind: str) -> list[int]:
        """Frames of a kind."""
        return np.flatnonzero(self.table["kind"].values == kind).tolist()

    def truth(self, kind: str) -> Truth:
        """What is true of the first frame of a kind."""
        return self.session.truth_of(self.places(kind)[0])

    def without(self, *places: int) -> xr.Dataset:
        """Links that leave frames out."""
        use = self.links["use"].values.copy()
        use[list(places)] = False
        return self.links.assign(use=("frame", use))

    def spoilt(self, place: int, fault: str, value: float = 0.0) -> xr.Dataset:
        """Session with something wrong with one frame."""
        source = self.table["source"].values.astype(object)
        source[place] = json.dumps({**json.loads(source[place]), "fault": fault, "value": value})
        return self.table.assign(source=("frame", np.array(source.tolist())))


def made(session: SimulatedSession, **linking: Any) -> Made:
    """Table and links of a session; every group is in use."""
    table = session_table(session)
    source = []
    for text in table["source"].values.tolist():
        fields = json.loads(text)
        source.append(json.dumps({"kind": "rendered", "session": fields["session"], "frame": fields["frame"]}))
    table = table.assign(source=("frame", np.array(source)))
    links = link(table, **{"on_broken": "without", **linking})
    return Made(session, table, links.assign(used=("group", np.ones(links.sizes["group"], bool))))


def of_kind(masters: xr.Dataset, kind: str) -> xr.Dataset:
    """The first master of a kind, without padding."""
    place = masters["kind"].values.tolist().index(kind)
    height, width = int(masters["height"].values[place]), int(masters["width"].values[place])
    return masters.isel(master=place, y=slice(0, height), x=slice(0, width))


def chi2(image: NDArray[Any], truth: NDArray[Any], variance: NDArray[Any]) -> float:
    """Reduced chi² of the pixels that have a value."""
    good = np.isfinite(image)
    return float(np.mean((image[good].astype(float) - truth[good]) ** 2 / variance[good]))


def open_frame(table: xr.Dataset, place: int) -> FrameSource:
    return open_source(str(table["source"].values[place]))
