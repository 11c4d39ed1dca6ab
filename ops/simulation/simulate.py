"""A session that was never observed: panels, nights, frames and their truth.

`SimulatedSession` is a value: all parameters of sky, camera and observation. Every frame is a pure function of it
and of the frame's number, so frames can be rendered in any order, by window, in any process, or not at all:
`frame_spec` makes one a `FrameSource` with no file behind it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.frames import register_source
from skyloom.ops.simulation.camera import Background, Camera, Exposure, Pointing, expose
from skyloom.ops.simulation.sky import SkyModel, colour, hash_key, random_stream

EPOCH = datetime(2026, 1, 10, 20, 0, 0, tzinfo=UTC)
"""Start of the first night."""
READ_OUT = 8.0
"""Seconds between exposures."""
FLAT_LEVEL = 0.45
"""Level of a flat as a fraction of saturation."""
_FRAME, _NIGHT, _CALIBRATION = 21, 22, 23


@dataclass(frozen=True)
class SimulatedFrame:
    """One frame of a session and everything true of it."""

    index: int
    name: str
    """File name without suffix."""
    kind: str
    """light, bias, dark or flat."""
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
    """The header's WCS; `exposure.pointing` is the true one."""

    @property
    def noise(self) -> float:
        """Rms of a calibrated pixel of empty sky at the frame's centre (DN)."""
        level = float(self.exposure.background.at(np.array(0.5), np.array(0.5)))
        electrons = level * self.camera.gain + self.camera.dark * self.exposure.seconds
        return math.sqrt(electrons + self.camera.read_noise**2) / self.camera.gain


@dataclass(frozen=True)
class SimulatedSession:
    """All parameters of a simulated mosaic."""

    seed: int = 1
    panels: tuple[int, int] = (2, 2)
    """Rows, columns."""
    frames: int = 3
    """Lights per panel and band."""
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
    """True: raw uint16 lights with bias, dark and flat frames; False: calibrated float32 lights."""
    calibration_frames: int = 10
    """Frames of each kind (and, for flats, band and night) of a raw session."""
    camera: Camera = field(default_factory=Camera)
    sky: SkyModel = field(default_factory=SkyModel)

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
        if bool(self.camera.bayer) != (self.bands == ("CFA",)):
            raise ConfigError(
                f"a colour sensor has the one band 'CFA' and only a colour sensor has it: "
                f"bayer={self.camera.bayer!r}, bands={self.bands}"
            )
        for band in self.bands if not self.camera.bayer else ():
            colour(band)

    def __len__(self) -> int:
        return len(self._frames)

    @cached_property
    def lights(self) -> tuple[SimulatedFrame, ...]:
        """The light frames in order of time."""
        order = sorted(
            (night, band, row, column, k)
            for k in range(self.frames)
            for night in [k * self.nights // self.frames]
            for band in range(len(self.bands))
            for row in range(self.panels[0])
            for column in range(self.panels[1])
        )
        started = {
            night: [n for n, entry in enumerate(order) if entry[0] == night] for night in range(self.nights)
        }
        out = []
        for index, (night, band, row, column, k) in enumerate(order):
            mine = started[night]
            place = index - mine[0]
            out.append(self._light(index, night, self.bands[band], (row, column), k, place, len(mine)))
        return tuple(out)

    @cached_property
    def _frames(self) -> tuple[SimulatedFrame, ...]:
        return self.lights + (tuple(self._calibration(len(self.lights))) if self.raw else ())

    def descriptors(self) -> tuple[SimulatedFrame, ...]:
        """Return all frames: lights first, then (raw sessions) bias, dark and flat frames."""
        return self._frames

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

    def _light(
        self, index: int, night: int, band: str, panel: tuple[int, int], k: int, place: int, count: int
    ) -> SimulatedFrame:
        random = random_stream(self.seed, _FRAME, index)
        nightly = random_stream(self.seed, _NIGHT, night)
        camera = replace(self.camera, gain=self._gain(night), seed=self._camera_seed)
        unit = self.camera.gain / camera.gain
        ra, dec, angle = self.panel_centre(*panel)
        angle += random.normal(0.0, 1.0) * self.rotation_jitter
        if self.flip and k >= self.frames - self.frames // 2:
            angle += 180.0
        dx, dy = random.normal(0.0, 1.0, 2) * self.dither
        centre = Pointing(ra, dec, self.pixel_scale, angle, 0.5 * (camera.width - 1), 0.5 * (camera.height - 1))
        true = centre.shifted(float(dx), float(dy))
        shift = random.normal(0.0, 1.0, 2) * self.wcs_error
        transparency = float(random.uniform(*self.transparency))
        progress = place / max(count - 1, 1)
        level = self.sky_level * unit * (1.0 + 0.1 * random.uniform(-1.0, 1.0))
        # On the sky a night's gradient keeps its direction and drifts; the detector sees it turned.
        towards = nightly.uniform(0.0, 360.0) + 40.0 * progress + random.normal(0.0, 25.0)
        slope = self.linear * random.uniform(0.8, 1.0)
        on_detector = math.radians(towards + angle)
        bend = self.quadratic * random.uniform(-1.0, 1.0, 3)
        background = Background(
            level=float(level),
            linear=(slope * math.cos(on_detector), slope * math.sin(on_detector)),
            quadratic=(float(4.0 * bend[0]), float(4.0 * bend[1]), float(4.0 * bend[2])),
            moon=float(self.moonlight * self.sky_level * unit * progress),
            moon_angle=float(nightly.uniform(0.0, 360.0) + 60.0 * progress + angle) % 360.0,
        )
        exposure = Exposure(
            index=index,
            seconds=self.seconds,
            pointing=true,
            band="L" if camera.bayer else band,
            fwhm=float(random.uniform(*self.fwhm)),
            scale=transparency * unit,
            background=background,
            cosmic_rays=self.cosmic_rays,
            trail=self.trail_peak * unit if random.uniform() < self.trails else 0.0,
        )
        date = EPOCH + timedelta(days=night, seconds=place * (self.seconds + READ_OUT))
        name = f"light_r{panel[0]}c{panel[1]}_{band}_n{night}_{k:03d}"
        return SimulatedFrame(
            index=index,
            name=name,
            kind="light",
            band=band,
            panel=panel,
            night=night,
            date=date.strftime("%Y-%m-%dT%H:%M:%S"),
            transparency=transparency,
            shift=(float(shift[0]), float(shift[1])),
            camera=camera,
            exposure=exposure,
            wcs=true.shifted(-float(shift[0]), -float(shift[1])),
        )

    @property
    def _camera_seed(self) -> int:
        return int(hash_key(self.seed, self.camera.seed)) >> 1

    def _gain(self, night: int) -> float:
        return self.gains[night % len(self.gains)] if self.gains else self.camera.gain

    def _calibration(self, index: int) -> Iterator[SimulatedFrame]:
        gains = sorted({self._gain(night) for night in range(self.nights)})
        sets = [("bias", "none", gain, gains.index(gain), 0.0) for gain in gains]
        sets += [("dark", "none", gain, gains.index(gain), self.seconds) for gain in gains]
        sets += [("flat", band, self._gain(n), n, 2.0) for n in range(self.nights) for band in self.bands]
        for kind, band, gain, night, seconds in sets:
            camera = replace(self.camera, gain=gain, seed=self._camera_seed)
            for k in range(self.calibration_frames):
                level = 0.0
                if kind == "flat":
                    drift = random_stream(self.seed, _CALIBRATION, index).normal(0.0, 0.01)
                    level = FLAT_LEVEL * (1.0 + float(drift)) * min(camera.saturation, 65535.0)
                date = EPOCH + timedelta(
                    days=night, hours=10 + {"bias": 0, "dark": 1, "flat": 2}[kind], seconds=index
                )
                yield SimulatedFrame(
                    index=index,
                    name=f"{kind}_{band}_n{night}_{k:03d}" if kind == "flat" else f"{kind}_n{night}_{k:03d}",
                    kind=kind,
                    band=band,
                    panel=(-1, -1),
                    night=night,
                    date=date.strftime("%Y-%m-%dT%H:%M:%S"),
                    transparency=1.0,
                    shift=(0.0, 0.0),
                    camera=camera,
                    exposure=Exposure(index=index, seconds=seconds, flat_level=level),
                    wcs=None,
                )
                index += 1

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
        rows = rows or slice(0, frame.camera.height)
        columns = columns or slice(0, frame.camera.width)
        sky = self.sky if frame.kind == "light" else None
        return expose(frame.camera, frame.exposure, sky, rows, columns, raw=self.raw)

    def header(self, index: int) -> dict[str, str | int | float]:
        """FITS cards of a frame, in order, without those of its array."""
        frame = self._frames[index]
        camera = frame.camera
        cards: dict[str, str | int | float] = {
            "OBJECT": f"Panel {frame.panel[0] + 1}-{frame.panel[1] + 1}" if frame.kind == "light" else "",
            "IMAGETYP": {"light": "LIGHT", "bias": "BIAS", "dark": "DARK", "flat": "FLAT"}[frame.kind],
            "FILTER": frame.band,
            "EXPTIME": frame.exposure.seconds,
            "DATE-OBS": frame.date,
            "MJD-OBS": _mjd(frame.date),
            "INSTRUME": "Skyloom simulator",
            "TELESCOP": "Skyloom",
            "XBINNING": 1,
            "YBINNING": 1,
            "XPIXSZ": 3.76,
            "YPIXSZ": 3.76,
            "FOCALLEN": round(3.76e-3 / math.radians(self.pixel_scale / 3600.0), 3),
            # The camera's own setting, as acquisition programs write it beside the conversion.
            "GAIN": round(1000.0 / camera.gain),
            "EGAIN": camera.gain,
            "OFFSET": round(camera.bias / 10.0),
            "RDNOISE": camera.read_noise,
            "CCD-TEMP": -10.0,
            "SET-TEMP": -10.0,
            "SATURATE": camera.saturation,
            "BUNIT": "adu",
        }
        if frame.band == "none" or camera.bayer:
            del cards["FILTER"]
        if frame.kind != "light":
            del cards["OBJECT"]
        if camera.bayer:
            cards |= {"BAYERPAT": camera.bayer, "XBAYROFF": 0, "YBAYROFF": 0, "ROWORDER": "BOTTOM-UP"}
        if frame.wcs is not None:
            cards |= {"RA": frame.wcs.ra, "DEC": frame.wcs.dec}
            cards |= frame.wcs.cards()
        return cards

    def truth(self) -> dict[str, Any]:
        """Everything that is true of the session, as JSON values.

        `session` rebuilds it (`SimulatedSession.from_dict`); `frames` lists per frame: name, panel, night, band,
        transparency, scale (DN per sky unit), fwhm (px), shift (px), gain (e-/DN), read_noise (e-), noise (DN),
        background (coefficients of `Background`), wcs (true) and header_wcs (FITS header texts).
        """
        return {"session": self.to_dict(), "frames": [_frame_truth(frame) for frame in self.lights]}

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
        for name, value in _known(cls, kept).items():
            kept[name] = tuple(value) if isinstance(value, list) else value
        return cls(**kept)


def _known(kind: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    names = [f.name for f in fields(kind)]
    for name in values:
        if name not in names:
            raise ConfigError(f"{kind.__name__} has no parameter {name!r}; it has {', '.join(names)}")
    return dict(values)


def _mjd(date: str) -> float:
    days = (datetime.fromisoformat(date) - datetime(1858, 11, 17)) / timedelta(days=1)
    return round(days, 6)


def _frame_truth(frame: SimulatedFrame) -> dict[str, Any]:
    assert frame.exposure.pointing is not None
    assert frame.wcs is not None
    return {
        "index": frame.index,
        "name": frame.name,
        "panel": list(frame.panel),
        "night": frame.night,
        "band": frame.band,
        "date": frame.date,
        "transparency": frame.transparency,
        "scale": frame.exposure.scale,
        "fwhm": frame.exposure.fwhm,
        "shift": list(frame.shift),
        "gain": frame.camera.gain,
        "read_noise": frame.camera.read_noise,
        "noise": frame.noise,
        "trail": frame.exposure.trail,
        "background": json.loads(json.dumps(asdict(frame.exposure.background))),
        "wcs": frame.exposure.pointing.header(),
        "header_wcs": frame.wcs.header(),
    }


def acceptance_session(**changes: Any) -> SimulatedSession:
    """Return the session of the acceptance tests: 3 × 3 panels of 4 calibrated 2048² frames, hard foreground.

    Pixel noise is 14 DN on a sky of 1000 DN with 25 % linear and 5 % quadratic gradients; transparency 0.7…1.05.

    Parameters
    ----------
    **changes
        Other values of `SimulatedSession` fields.
    """
    values: dict[str, Any] = {
        "panels": (3, 3),
        "frames": 4,
        "nights": 2,
        "transparency": (0.7, 1.05),
        "linear": 0.25,
        "quadratic": 0.05,
        "moonlight": 0.05,
        "trails": 0.15,
        "sky": SkyModel(seed=1, extent=1.4, nebula=15.0, finest=16.0),
    } | changes
    return SimulatedSession(**values)


def demo_session(**changes: Any) -> SimulatedSession:
    """Return a small raw LRGB mosaic with everything a real one has: flips, two nights, dust, hot pixels.

    Parameters
    ----------
    **changes
        Other values of `SimulatedSession` fields.
    """
    values: dict[str, Any] = {
        "panels": (2, 2),
        "frames": 4,
        "bands": ("L", "R", "G", "B"),
        "nights": 2,
        "pixel_scale": 4.0,
        "overlap": 0.2,
        "flip": True,
        "wcs_error": 0.5,
        "transparency": (0.75, 1.0),
        "linear": 0.2,
        "quadratic": 0.04,
        "moonlight": 0.05,
        "trails": 0.1,
        "raw": True,
        "camera": Camera(
            height=480,
            width=640,
            vignetting=0.25,
            dust=8,
            response=0.01,
            hot_fraction=3e-4,
        ),
        "sky": SkyModel(seed=1, extent=0.6, nebula=15.0, finest=32.0, star_faint=150.0),
    } | changes
    return SimulatedSession(**values)


@dataclass(frozen=True)
class SimulatedSource:
    """A frame of a simulated session as a `FrameSource`."""

    session: str
    """JSON of the parameters."""
    frame: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns (pixels)."""
        camera = _session(self.session).camera
        return camera.height, camera.width

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
    """Return the session as `ingest` would, with sources that render: no file is needed.

    Returns
    -------
    xarray.Dataset
        Table over `frame`, columns as `ingest` makes them.
    """
    frames = session.descriptors()
    text = json.dumps(session.to_dict(), sort_keys=True)
    seed = int(hash_key(*text.encode()))
    columns: dict[str, Any] = {
        "name": [f"{frame.name}.fits" for frame in frames],
        "source": [frame_spec(session, frame.index) for frame in frames],
        "height": np.full(len(frames), session.camera.height, dtype=np.int64),
        "width": np.full(len(frames), session.camera.width, dtype=np.int64),
        "wcs": ["" if frame.wcs is None else frame.wcs.header() for frame in frames],
        "kind": [frame.kind for frame in frames],
        "band": [frame.band for frame in frames],
        "exposure": [frame.exposure.seconds for frame in frames],
        "gain": [frame.camera.gain for frame in frames],
        "saturation": [frame.camera.saturation for frame in frames],
        "units": ["adu"] * len(frames),
        "date": [frame.date for frame in frames],
        "camera": ["Skyloom simulator"] * len(frames),
        "facts": ["{}"] * len(frames),
    }
    identity = [f"{int(hash_key(seed, frame.index)):016x}" for frame in frames]
    return xr.Dataset(
        {name: ("frame", np.asarray(values)) for name, values in columns.items()},
        coords={"frame": np.asarray(identity)},
        attrs={"left_out": "[]"},
    )


register_source("simulated", open_simulated)
