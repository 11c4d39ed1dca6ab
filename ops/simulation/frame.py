"""A frame of a simulated session and everything true of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from skyloom.ops.simulation.camera import Camera, Exposure
from skyloom.ops.simulation.projection import Pointing

EPOCH = datetime(2026, 1, 10, 20, 0, 0, tzinfo=UTC)
"""Start of the first night."""
READ_OUT = 8.0
"""Seconds between exposures."""


@dataclass(frozen=True)
class Rig:
    """A camera on a telescope."""

    camera: Camera
    pixel_scale: float
    """Arcseconds per pixel."""
    telescope: str = "Skyloom"
    dialect: str = ""
    """Keywords of its capture program; "" = the session's."""

    @property
    def focal_length(self) -> float:
        """Millimetres."""
        return round(1e-3 * self.camera.pixel_size / math.radians(self.pixel_scale / 3600.0), 3)


@dataclass(frozen=True)
class SimulatedFrame:
    """One frame of a session and everything true of it."""

    index: int
    name: str
    """What it is, in words; the file name (without suffix) where names are plain."""
    kind: str
    """light, bias, dark, flat or flatdark."""
    band: str
    panel: tuple[int, int]
    """Row, column; (-1, -1) for calibration frames."""
    night: int
    date: str
    """ISO, UTC, start of the exposure."""
    transparency: float
    shift: tuple[float, float]
    """True position minus position by the header's WCS (px)."""
    camera: Camera
    exposure: Exposure
    wcs: Pointing | None
    """The header's WCS; `exposure.pointing` is the true one. Both count pixels that see light."""
    rig: int = 0
    bad: str = ""
    """What is wrong with the exposure, one of `bad_frames.KINDS`; "" = nothing."""
    set: str = ""
    """Set of calibration frames it is one of; "" for lights."""

    @property
    def noise(self) -> float:
        """Rms of a calibrated pixel of empty sky at the frame's centre (DN)."""
        level = float(self.exposure.background.at(np.array(0.5), np.array(0.5)))
        electrons = level * self.camera.gain + self.camera.dark * self.camera.warmth * self.exposure.seconds
        return math.sqrt(electrons + self.camera.read_noise**2) / self.camera.gain


@dataclass(frozen=True)
class CalibrationSet:
    """Calibration frames taken one after the other, all alike."""

    key: str
    kind: str
    """bias, dark, flat or flatdark."""
    rig: int
    night: int
    """First night it was taken for."""
    band: str
    camera: Camera
    seconds: float
    bias: str = ""
    """Set that calibrates it: of flats and darks."""
    dark: str = ""
    """… of flats: the flat-darks."""
