"""A session that was never observed: panels, nights, frames and their truth.

`SimulatedSession` is a value: all parameters of sky, cameras and observation. Every frame is a pure function of it
and of the frame's number, so frames can be rendered in any order, by window, in any process, or not at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation import calibration_frames, faults, headers, lights, naming, readout, truth
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.frame import CalibrationSet, Rig, SimulatedFrame
from skyloom.ops.simulation.hashing import hash_key
from skyloom.ops.simulation.projection import Pointing
from skyloom.ops.simulation.sky import SkyModel, colour


@dataclass(frozen=True)
class SimulatedSession:
    """All parameters of a simulated mosaic."""

    seed: int = 1
    panels: tuple[int, int] = (2, 2)
    """Rows, columns."""
    frames: int = 3
    """Lights per panel, band and rig."""
    bands: tuple[str, ...] = ("L",)
    """Filters; ("CFA",) for a colour sensor."""
    nights: int = 1
    """Each panel's frames are spread over them; a night has its own gradients and gain."""
    pixel_scale: float = 2.0
    """Arcseconds per pixel."""
    overlap: float = 0.15
    """Of neighbouring panels, fraction of a frame's side."""
    dither: float = 10.0
    """Rms of the pointing about the panel's centre (px, each axis)."""
    rotation: float = 0.0
    """Position angle of the frames' +y axis (degrees)."""
    rotation_jitter: float = 0.2
    """Rms from frame to frame (degrees)."""
    flip: bool = False
    """Turn the camera by 180° in the second half of each panel's frames (meridian flip)."""
    wcs_error: float = 0.0
    """Rms error of the WCS in the header (px, each axis)."""
    fwhm: tuple[float, float] = (2.6, 3.6)
    """Range of the seeing (px)."""
    transparency: tuple[float, float] = (0.85, 1.0)
    """Range."""
    sky_level: float = 1000.0
    """Foreground at the frame's centre (DN at the camera's gain, varies by 10 % between frames)."""
    linear: float = 0.1
    """Linear gradient across a frame, edge to edge (fraction of the sky level)."""
    quadratic: float = 0.02
    """Curvature: brightening from the centre to the edges (fraction of the sky level)."""
    moonlight: float = 0.0
    """Moonlight at the end of a night (fraction of the sky level); it grows and turns through the night."""
    seconds: float = 120.0
    """Exposure."""
    gains: tuple[float, ...] = ()
    """Electrons per DN of each night, used in turn; empty = the camera's."""
    cosmic_rays: float = 20.0
    """Hits per megapixel and frame."""
    trails: float = 0.1
    """Fraction of frames a satellite crosses."""
    trail_peak: float = 300.0
    """Brightness of a trail's spine (DN)."""
    raw: bool = False
    """True: raw uint16 lights with calibration frames; False: calibrated float32 lights."""
    calibration_frames: int = 10
    """Frames of each set of a raw session."""
    camera: Camera = field(default_factory=Camera)
    sky: SkyModel = field(default_factory=SkyModel)
    temperatures: tuple[float, ...] = ()
    """Of the sensor each night (°C), used in turn; empty = the camera's."""
    biases: tuple[float, ...] = ()
    """Bias level of each night (DN), used in turn; empty = the camera's. A gain has its own."""
    exposures: tuple[float, ...] = ()
    """Exposure of each band (s); empty = `seconds`, for which sky level and scale are stated."""
    flat_darks: bool = False
    """Darks of the flats' exposures beside them."""
    pedestal: float = 0.0
    """Added to the lights by the capture program, which says so (DN)."""
    dialect: str = "skyloom"
    """Keywords of the headers, one of `headers.DIALECTS`."""
    layout: str = "plain"
    """Names and folders of the files, one of `naming.LAYOUTS`."""
    faults: tuple[str, ...] = ()
    """What is wrong with a raw session, of `faults.FAULTS`."""
    rigs: tuple[Rig, ...] = ()
    """More cameras and telescopes, which see the same panels at the same time."""
    turns: bool = False
    """The rigs take turns: each takes its part of a panel's frames instead of all of them."""
    barrel: float = 0.0
    """Distortion: how much nearer to the middle the corner appears (px)."""
    solved: bool = True
    """Headers hold a WCS and the place of the object."""
    bad: int = 0
    """Lights more that are of no use, of each of `bad_frames.KINDS` in turn."""

    def __post_init__(self) -> None:
        if min(self.panels) < 1 or self.frames < 1 or self.nights < 1 or not self.bands:
            raise ConfigError(
                f"a session needs at least one panel, frame, night and band: panels={self.panels}, "
                f"frames={self.frames}, nights={self.nights}, bands={self.bands}"
            )
        if not 0 <= self.overlap < 1 or self.pixel_scale <= 0:
            raise ConfigError(
                f"overlap is 0…1 and the pixel scale positive: overlap={self.overlap:g}, "
                f'pixel_scale={self.pixel_scale:g}"'
            )
        for rig in self.every_rig:
            if bool(rig.camera.bayer) != (self.bands == ("CFA",)):
                raise ConfigError(
                    f"a colour sensor has the one band 'CFA' and only a colour sensor has it: "
                    f"bayer={rig.camera.bayer!r}, bands={self.bands}"
                )
            headers.check(rig.dialect or self.dialect)
        for band in self.bands if not self.camera.bayer else ():
            colour(band)
        if self.exposures and (len(self.exposures) != len(self.bands) or min(self.exposures) <= 0):
            raise ConfigError(f"one exposure a band, all positive: {self.exposures} s for {self.bands}")
        naming.check(self.layout)
        faults.check(self)

    def __len__(self) -> int:
        return len(self._frames)

    @cached_property
    def every_rig(self) -> tuple[Rig, ...]:
        """The session's camera and those of `rigs`."""
        return (Rig(self.camera, self.pixel_scale), *self.rigs)

    def night_camera(self, night: int, rig: int = 0) -> Camera:
        """Camera of a rig as it is set on a night."""
        camera = self.every_rig[rig].camera
        gain, bias, temperature = camera.gain, camera.bias, camera.temperature
        if self.gains:
            # A second camera changes its gain as the first one does.
            wanted = self.gains[night % len(self.gains)]
            gain = wanted if rig == 0 else gain * wanted / self.camera.gain
        if self.biases:
            bias += self.biases[night % len(self.biases)] - self.camera.bias
        if self.temperatures:
            temperature = self.temperatures[night % len(self.temperatures)]
        parts = (self.seed, camera.seed, rig) if rig else (self.seed, camera.seed)
        seed = int(hash_key(*parts)) >> 1
        return replace(camera, gain=gain, bias=bias, temperature=temperature, seed=seed)

    def exposure_of(self, band: str) -> float:
        """Exposure of a band's lights (s)."""
        return self.exposures[self.bands.index(band)] if self.exposures else self.seconds

    @cached_property
    def lights(self) -> tuple[SimulatedFrame, ...]:
        """The light frames: of each rig, in order of time."""
        return lights.lights(self)

    @cached_property
    def sets(self) -> tuple[CalibrationSet, ...]:
        """Sets of calibration frames of a raw session."""
        return calibration_frames.sets(self) if self.raw else ()

    @cached_property
    def _frames(self) -> tuple[SimulatedFrame, ...]:
        return self.lights + calibration_frames.frames(self, self.sets, start=len(self.lights))

    def descriptors(self) -> tuple[SimulatedFrame, ...]:
        """Return all frames: lights first, then (raw sessions) the calibration frames."""
        return self._frames

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """File of each frame, relative to the session's folder."""
        return naming.paths(self.layout, self.seed, self._frames)

    def panel_centre(self, row: int, column: int) -> tuple[float, float, float]:
        """RA, Dec of a panel's centre and the position angle of the mosaic's +y axis there (degrees)."""
        height, width = self.camera.height, self.camera.width
        whole = Pointing(self.sky.ra, self.sky.dec, self.pixel_scale, self.rotation, 0.0, 0.0)
        x = (column - 0.5 * (self.panels[1] - 1)) * width * (1.0 - self.overlap)
        y = (row - 0.5 * (self.panels[0] - 1)) * height * (1.0 - self.overlap)
        vectors = whole.matrix(np.eye(3)) @ np.array([[x, x], [y, y + 1.0], [1.0, 1.0]])
        a, b, c = vectors / np.linalg.norm(vectors, axis=0)
        ra, dec = np.arctan2(b, a), np.arcsin(c)
        step = math.atan2(
            math.sin(ra[1] - ra[0]) * math.cos(dec[1]),
            math.cos(dec[0]) * math.sin(dec[1]) - math.sin(dec[0]) * math.cos(dec[1]) * math.cos(ra[1] - ra[0]),
        )
        return math.degrees(ra[0]) % 360.0, math.degrees(dec[0]), math.degrees(step)

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns of a frame's file."""
        camera = self._frames[index].camera
        return camera.height, camera.width + (camera.overscan if self.raw else 0)

    def render(
        self, index: int, *, rows: slice | None = None, columns: slice | None = None
    ) -> NDArray[np.float32] | NDArray[np.uint16]:
        """Pixels of a frame (DN).

        Parameters
        ----------
        index
            Number of the frame.
        rows, columns
            Window with explicit bounds (the whole frame). A window holds the same pixels, bit for bit, as the
            whole, and costs its own pixels.

        Returns
        -------
        ndarray
            float32 (calibrated) or uint16 (raw), in FITS order: row 0 first.
        """
        frame = self._frames[index]
        height, width = self.shape(index)
        sky = self.sky if frame.kind == "light" else None
        return readout.expose(
            frame.camera,
            frame.exposure,
            sky,
            rows or slice(0, height),
            columns or slice(0, width),
            raw=self.raw,
        )

    def truth_of(self, index: int, *, rows: slice | None = None, columns: slice | None = None) -> readout.Truth:
        """What is true of the pixels of a raw frame, window by window.

        Parameters
        ----------
        index
            Number of the frame.
        rows, columns
            Window with explicit bounds (the whole frame) of the pixels that see light: no overscan.
        """
        frame = self._frames[index]
        sky = self.sky if frame.kind == "light" else None
        return readout.truth(
            frame.camera,
            frame.exposure,
            sky,
            rows or slice(0, frame.camera.height),
            columns or slice(0, frame.camera.width),
        )

    def truth_pixels(
        self, index: int, rows: slice | None = None, columns: slice | None = None
    ) -> NDArray[np.float64]:
        """What a perfect calibration of a raw frame gives, without noise (DN).

        ((counts − bias − dark) / flat) with the flat's mean 1 over each phase of the colour filter array; without
        cosmic rays, with satellite trails; NaN where the count saturates or nearly does. Windows as `truth_of`.
        """
        return self.truth_of(index, rows=rows, columns=columns).image

    def header(self, index: int) -> dict[str, str | int | float]:
        """FITS cards of a frame, in order, without those of its array."""
        frame = self._frames[index]
        rig = self.every_rig[frame.rig]
        cards = headers.cards(frame, rig, dialect=rig.dialect or self.dialect, session=self)
        if self.layout == "typed":
            headers.blank_type(cards, index)
        return cards

    def truth(self) -> dict[str, Any]:
        """Everything that is true of the session, as JSON values (see `skyloom.ops.simulation.truth`)."""
        return truth.truth(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON values."""
        out: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return out

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SimulatedSession:
        """Rebuild a session from (some of) its parameters.

        Raises
        ------
        ConfigError
            For a parameter that does not exist.
        """
        kept: dict[str, Any] = dict(values)
        for name, kind in (("camera", Camera), ("sky", SkyModel)):
            if isinstance(kept.get(name), Mapping):
                kept[name] = kind(**_known(kind, kept[name]))
        kept["rigs"] = [_rig(rig) if isinstance(rig, Mapping) else rig for rig in kept.get("rigs", ())]
        for name, value in _known(cls, kept).items():
            kept[name] = tuple(value) if isinstance(value, list) else value
        return cls(**kept)


def _rig(values: Mapping[str, Any]) -> Rig:
    kept = _known(Rig, values)
    return Rig(**(kept | {"camera": Camera(**_known(Camera, kept["camera"]))}))


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = [f.name for f in fields(kind)]
    for name in values:
        if name not in names:
            raise ConfigError(f"{kind.__name__} has no parameter {name!r}; it has {', '.join(names)}")
    return dict(values)
