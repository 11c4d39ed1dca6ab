"""What may be wrong with a raw session, on purpose: every fault has a name and says what it touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation.frame import CalibrationSet, SimulatedFrame

if TYPE_CHECKING:
    from skyloom.ops.simulation.session import SimulatedSession

FAULTS = {
    "missing-flat": "the first night has no flats of the last band",
    "wrong-dark": "the last night's darks of the longest exposure were taken with another one",
    "odd-size": "the second light has half the rows",
    "broken-file": "the third light's file ends too early",
    "twin": "a copy of the first light has another name",
}
"""What is wrong by the fault's name."""
ODD, BROKEN = 1, 2
"""Numbers of the lights with `odd-size` and `broken-file`."""
TWIN = "zztwin"
"""Name of the copy's file: last of all, so that the first light is the one that is taken."""


def check(session: SimulatedSession) -> None:
    """Raise ConfigError for faults that do not exist or find no place in the session."""
    for name in session.faults:
        if name not in FAULTS:
            raise ConfigError(f"no fault {name!r} to plant; there is: {', '.join(FAULTS)}")
    if session.faults and not session.raw:
        raise ConfigError("faults are planted in raw sessions only; ask for raw frames")
    if {"odd-size", "broken-file"} & set(session.faults):
        number = session.panels[0] * session.panels[1] * len(session.bands) * session.frames
        if number <= BROKEN:
            raise ConfigError(f"{number} lights are too few to spoil some; use {BROKEN + 1} or more")


def spoilt(session: SimulatedSession, sets: Sequence[CalibrationSet]) -> tuple[CalibrationSet, ...]:
    """Sets of calibration frames as they were taken, given those that should have been."""
    lost, wrong = _lost_flat(session), _wrong_dark(session)
    out = []
    for one in sets:
        if (one.kind, one.rig, one.night, one.band) == lost:
            continue
        if wrong is not None and one.kind == "dark" and one.rig == 0 and (one.camera, one.seconds) == wrong:
            seconds = 0.5 * one.seconds
            while any(s.kind == "dark" and s.seconds == seconds for s in sets):
                seconds = round(0.9 * seconds, 3)
            one = replace(one, key=f"dark_{seconds:g}s_n{one.night}", seconds=seconds)
        out.append(one)
    return tuple(out)


def _lost_flat(session: SimulatedSession) -> tuple[str, int, int, str] | None:
    if "missing-flat" not in session.faults:
        return None
    return "flat", 0, session.lights[0].night, session.bands[-1]


def _wrong_dark(session: SimulatedSession) -> tuple[Any, float] | None:
    """Camera and exposure whose darks went wrong."""
    if "wrong-dark" not in session.faults:
        return None
    mine = [f for f in session.lights if f.rig == 0]
    last = [f for f in mine if f.night == mine[-1].night]
    return session.night_camera(mine[-1].night), max(f.exposure.seconds for f in last)


def shortened(session: SimulatedSession, lights: Sequence[SimulatedFrame]) -> list[SimulatedFrame]:
    """Lights as they were taken: one may have half the rows."""
    out = list(lights)
    if "odd-size" in session.faults:
        camera = out[ODD].camera
        out[ODD] = replace(out[ODD], camera=replace(camera, height=max(camera.height // 4 * 2, 1)))
    return out


@dataclass(frozen=True)
class PlantedFault:
    """A fault and what it touches."""

    name: str
    what: str
    lights: tuple[int, ...]
    """Numbers of the lights that suffer."""
    sets: tuple[str, ...] = ()
    """Sets that are not what they should be."""


def planted(session: SimulatedSession) -> tuple[PlantedFault, ...]:
    """Faults of a session. A light with a fault of its own is not among those of a missing or wrong set."""
    own = {"odd-size": ODD, "broken-file": BROKEN, "twin": 0}
    alone = {number for name, number in own.items() if name in session.faults and name != "twin"}
    out = []
    for name in session.faults:
        what = FAULTS[name]
        if name in own:
            out.append(PlantedFault(name, what, (own[name],)))
            continue
        lost, wrong = _lost_flat(session), _wrong_dark(session)
        if name == "missing-flat" and lost is not None:
            hit = [f for f in session.lights if (f.rig, f.night, f.band) == lost[1:]]
            touched: tuple[str, ...] = ()
        else:
            assert wrong is not None
            hit = [f for f in session.lights if f.rig == 0 and _settings(session, f) == wrong]
            touched = tuple(s.key for s in session.sets if s.kind == "dark" and not _used(session, s))
        out.append(PlantedFault(name, what, tuple(f.index for f in hit if f.index not in alone), touched))
    return tuple(out)


def _settings(session: SimulatedSession, frame: SimulatedFrame) -> tuple[Any, float]:
    return session.night_camera(frame.night, frame.rig), frame.exposure.seconds


def _used(session: SimulatedSession, dark: CalibrationSet) -> bool:
    return any(_settings(session, f) == (dark.camera, dark.seconds) for f in session.lights)


def belonging(session: SimulatedSession, frame: SimulatedFrame) -> dict[str, str]:
    """Keys of the sets that are right for a light, by kind; "" where there is none."""
    out = {"bias": "", "dark": "", "flat": ""}
    if frame.camera != session.night_camera(frame.night, frame.rig):
        return out
    for one in session.sets:
        if one.rig != frame.rig or one.kind not in out:
            continue
        alike = one.camera == frame.camera
        if one.kind == "bias":
            alike = replace(one.camera, temperature=frame.camera.temperature) == frame.camera
        if one.kind == "dark":
            alike = alike and one.seconds == frame.exposure.seconds
        if one.kind == "flat":
            alike = (one.night, one.band) == (frame.night, frame.band)
        if alike:
            out[one.kind] = one.key
    return out
