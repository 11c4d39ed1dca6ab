"""Simulated sessions with a purpose: acceptance tests, raw sessions, the demo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.frame import Rig
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel


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


def raw_conditions(session: SimulatedSession) -> SimulatedSession:
    """Return a session as raw frames with all that calibration has to undo.

    Vignetting, dust, uneven response and dark current, hot and cold pixels; nights differ in gain, bias level and
    temperature; the last of several bands is exposed half as long again.
    """
    last = 1.5 * session.seconds
    several = len(session.bands) > 1
    return replace(
        session,
        raw=True,
        gains=(5.2, 2.6),
        biases=(500.0, 640.0),
        temperatures=(-10.0, -4.0),
        exposures=(session.seconds,) * (len(session.bands) - 1) + (last,) if several else (),
        flip=True,
        camera=raw_camera(session.camera),
    )


def raw_camera(camera: Camera) -> Camera:
    """Return a camera with every flaw a detector has."""
    return replace(
        camera,
        vignetting=0.25,
        dust=9,
        response=0.01,
        dark=0.15,
        dark_pattern=0.3,
        hot_fraction=3e-4,
        cold_fraction=5e-5,
    )


def second_rig(session: SimulatedSession) -> Rig:
    """Return a smaller camera on a shorter telescope, to go beside the session's own."""
    camera = session.camera
    other = replace(
        camera,
        height=camera.height * 3 // 8 * 2,
        width=camera.width * 7 // 16 * 2,
        gain=0.8 * camera.gain,
        read_noise=7.0,
        bias=camera.bias + 80.0,
        seed=camera.seed + 1,
        name=f"{camera.name} B",
        pixel_size=2.9,
    )
    return Rig(other, 1.2 * session.pixel_scale, telescope="Skyloom B")


def like_rig(session: SimulatedSession, scale: float) -> Rig:
    """Return a camera of the same size on a telescope with another pixel scale (times the session's)."""
    camera = replace(session.camera, seed=session.camera.seed + 1, name=f"{session.camera.name} B")
    return Rig(camera, scale * session.pixel_scale, telescope="Skyloom B")


def demo_session(*, seed: int = 1, **changes: Any) -> SimulatedSession:
    """Return a small raw LRGB mosaic with everything a real one has: flips, two nights, dust, hot pixels.

    Parameters
    ----------
    seed
        Which sky and which noise.
    **changes
        Other values of `SimulatedSession` fields.
    """
    values: dict[str, Any] = {
        "seed": seed,
        "panels": (2, 2),
        "frames": 3,
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
        "gains": (5.2, 2.6),
        "biases": (500.0, 640.0),
        "temperatures": (-10.0, -4.0),
        "calibration_frames": 8,
        "camera": raw_camera(Camera(height=512, width=512)),
        # The first sky to be seen is a fine one.
        "sky": SkyModel(seed=seed + 5, extent=0.5, coarsest=0.5, nebula=20.0, finest=32.0, star_faint=150.0),
    } | changes
    return SimulatedSession(**values)
