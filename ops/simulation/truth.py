"""The truth of a simulated session as JSON values.

`session` rebuilds it (`SimulatedSession.from_dict`). `frames` lists the lights: index, name, panel, night, band,
rig, transparency, scale (DN per sky unit), fwhm (px), bad (what is wrong with the exposure; "" = nothing),
shift (px), gain (e-/DN), read_noise (e-), noise (DN), background (coefficients of `Background`), wcs (true, with
the lens's distortion as SIP) and header_wcs (FITS header texts).

A raw session's truth has besides: `files`, for every file what it is, its settings, the set it is one of and, for
lights, the sets that calibrate it (`bias`, `dark`, `flat`; "" = none is right); `sets`, the files of each set, its
settings and the sets that calibrate it; `faults`, by name what is wrong, with the files that suffer. True pixels
are functions: `SimulatedSession.truth_pixels` and `truth_of`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from skyloom.ops.simulation.faults import TWIN, belonging, planted
from skyloom.ops.simulation.frame import SimulatedFrame

if TYPE_CHECKING:
    from skyloom.ops.simulation.session import SimulatedSession


def truth(session: SimulatedSession) -> dict[str, Any]:
    """Everything that is true of a session, as JSON values."""
    out: dict[str, Any] = {
        "session": session.to_dict(),
        "frames": [_light(frame) for frame in session.lights],
    }
    if session.raw:
        out["files"] = [_file(session, frame) for frame in session.descriptors()]
        out["sets"] = _sets(session)
        out["faults"] = _faults(session)
    return out


def twin_path(session: SimulatedSession) -> str:
    """File of the copy of the first light."""
    return str(PurePosixPath(session.paths[0]).with_name(f"{TWIN}.fits"))


def _light(frame: SimulatedFrame) -> dict[str, Any]:
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
        "rig": frame.rig,
        "bad": frame.bad,
        "shift": list(frame.shift),
        "gain": frame.camera.gain,
        "read_noise": frame.camera.read_noise,
        "noise": frame.noise,
        "trail": frame.exposure.trail,
        "background": json.loads(json.dumps(asdict(frame.exposure.background))),
        "wcs": frame.exposure.pointing.header(),
        "header_wcs": frame.wcs.header(),
    }


def _file(session: SimulatedSession, frame: SimulatedFrame) -> dict[str, Any]:
    out = {
        "path": session.paths[frame.index],
        "index": frame.index,
        "name": frame.name,
        "kind": frame.kind,
        "rig": frame.rig,
        "night": frame.night,
        "band": frame.band,
        "exposure": frame.exposure.seconds,
        "gain": frame.camera.gain,
        "temperature": frame.camera.temperature,
        "shape": list(session.shape(frame.index)),
        "set": frame.set,
    }
    return out | belonging(session, frame) if frame.kind == "light" else out


def _sets(session: SimulatedSession) -> dict[str, Any]:
    files: dict[str, list[str]] = {}
    for frame in session.descriptors()[len(session.lights) :]:
        files.setdefault(frame.set, []).append(session.paths[frame.index])
    return {
        one.key: {
            "kind": one.kind,
            "rig": one.rig,
            "night": one.night,
            "band": one.band,
            "exposure": one.seconds,
            "gain": one.camera.gain,
            "temperature": one.camera.temperature,
            "bias": one.bias,
            "dark": one.dark,
            "files": files[one.key],
        }
        for one in session.sets
    }


def _faults(session: SimulatedSession) -> list[dict[str, Any]]:
    out = []
    for fault in planted(session):
        lights = [session.paths[n] for n in fault.lights]
        files = [twin_path(session)] if fault.name == "twin" else []
        out.append(
            {"name": fault.name, "what": fault.what, "lights": lights, "files": files, "sets": list(fault.sets)}
        )
    return out
