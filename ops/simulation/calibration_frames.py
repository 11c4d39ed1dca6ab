"""Calibration frames of a simulated session: which sets were taken, and of what each consists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from skyloom.ops.simulation import faults
from skyloom.ops.simulation.camera import Camera, Exposure
from skyloom.ops.simulation.frame import EPOCH, CalibrationSet, SimulatedFrame
from skyloom.ops.simulation.hashing import random_stream

if TYPE_CHECKING:
    from skyloom.ops.simulation.session import SimulatedSession

FLAT_LEVEL = 0.45
"""Level of a flat as a fraction of saturation."""
_CALIBRATION = 23
_HOURS = {"bias": 10, "dark": 11, "flat": 12, "flatdark": 13}
"""After a night's first light: the night goes on until the next noon."""


def sets(session: SimulatedSession) -> tuple[CalibrationSet, ...]:
    """Sets a raw session needs, less what `faults` take away.

    A bias for each rig, gain and bias level; a dark for each of these, temperature and exposure; a flat for each
    rig, night and band; where the session has them a flat-dark for each flat's settings and exposure.
    """
    found: dict[str, CalibrationSet] = {}
    for rig in range(len(session.every_rig)):
        prefix = f"rig{rig}_" if rig else ""
        # In the order they were first needed.
        for night, band in dict.fromkeys((f.night, f.band) for f in session.lights if f.rig == rig):
            camera = session.night_camera(night, rig)
            bias = _same(found, "bias", rig, camera, 0.0) or CalibrationSet(
                f"{prefix}bias_n{night}", "bias", rig, night, "none", camera, 0.0
            )
            found.setdefault(bias.key, bias)
            seconds = session.exposure_of(band)
            dark = _same(found, "dark", rig, camera, seconds) or CalibrationSet(
                f"{prefix}dark_{seconds:g}s_n{night}", "dark", rig, night, "none", camera, seconds, bias.key
            )
            found.setdefault(dark.key, dark)
            seconds = flat_seconds(session, band)
            flat_dark = ""
            if session.flat_darks:
                of_flat = _same(found, "flatdark", rig, camera, seconds) or CalibrationSet(
                    f"{prefix}flatdark_{seconds:g}s_n{night}",
                    "flatdark",
                    rig,
                    night,
                    "none",
                    camera,
                    seconds,
                    bias.key,
                )
                found.setdefault(of_flat.key, of_flat)
                flat_dark = of_flat.key
            key = f"{prefix}flat_{band}_n{night}"
            found[key] = CalibrationSet(key, "flat", rig, night, band, camera, seconds, bias.key, flat_dark)
    order = list(_HOURS)
    return faults.spoilt(session, sorted(found.values(), key=lambda s: (s.rig, order.index(s.kind))))


def flat_seconds(session: SimulatedSession, band: str) -> float:
    """Exposure of a band's flats (s): filters let different amounts of light through."""
    return 2.0 + 0.5 * session.bands.index(band)


def _same(
    found: dict[str, CalibrationSet], kind: str, rig: int, camera: Camera, seconds: float
) -> CalibrationSet | None:
    """Set of an earlier night that was taken with the same settings."""
    for one in found.values():
        alike = one.camera if kind != "bias" else replace(one.camera, temperature=camera.temperature)
        if one.kind == kind and one.rig == rig and alike == camera and one.seconds == seconds:
            return one
    return None


def frames(
    session: SimulatedSession, taken: Sequence[CalibrationSet], *, start: int
) -> tuple[SimulatedFrame, ...]:
    """Frames of the sets, numbered from `start`."""
    out: list[SimulatedFrame] = []
    for one in taken:
        for k in range(session.calibration_frames):
            out.append(_frame(session, one, k, start + len(out)))
    return tuple(out)


def _frame(session: SimulatedSession, one: CalibrationSet, k: int, index: int) -> SimulatedFrame:
    level, optics = 0.0, None
    if one.kind == "flat":
        drift = random_stream(session.seed, _CALIBRATION, index).normal(0.0, 0.01)
        level = FLAT_LEVEL * (1.0 + float(drift)) * one.camera.ceiling
        optics = (session.bands.index(one.band), one.night)
    date = EPOCH + timedelta(days=one.night, hours=_HOURS[one.kind], seconds=index)
    return SimulatedFrame(
        index=index,
        name=f"{one.key}_{k:03d}",
        kind=one.kind,
        band=one.band,
        panel=(-1, -1),
        night=one.night,
        date=date.strftime("%Y-%m-%dT%H:%M:%S"),
        transparency=1.0,
        shift=(0.0, 0.0),
        camera=one.camera,
        exposure=Exposure(
            index=index,
            seconds=one.seconds,
            flat_level=level,
            # Particles come through the closed shutter, too.
            cosmic_rays=session.cosmic_rays if one.kind == "dark" else 0.0,
            optics=optics,
        ),
        wcs=None,
        rig=one.rig,
        set=one.key,
    )
