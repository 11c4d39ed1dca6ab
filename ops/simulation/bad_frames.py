"""Lights that are of no use: clouds, a mount that drifted, a cap left on, another object."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from skyloom.ops.simulation.camera import Background
from skyloom.ops.simulation.frame import SimulatedFrame
from skyloom.ops.simulation.hashing import random_stream

if TYPE_CHECKING:
    from skyloom.ops.simulation.session import SimulatedSession

KINDS = {
    "clouded": "clouds let through no or hardly any star, and shine themselves",
    "trailed": "the mount drifted by tens of pixels",
    "capped": "no light came in",
    "elsewhere": "another part of the sky; two frames of each such place",
}
"""What is wrong by its name."""
_BAD = 24
_APART = 7.0  # degrees between the places of "elsewhere"


def frames(session: SimulatedSession, *, start: int) -> list[SimulatedFrame]:
    """Bad lights of a session, numbered from `start`; they go over the panels in turn."""
    return [_frame(session, n, start + n) for n in range(session.bad)]


def _frame(session: SimulatedSession, n: int, index: int) -> SimulatedFrame:
    # Lights make bad lights, too: a module that knows the other.
    from skyloom.ops.simulation.lights import light

    random = random_stream(session.seed, _BAD, n)
    kind, of_kind = list(KINDS)[n % len(KINDS)], n // len(KINDS)
    rows, columns = session.panels
    # A step that is prime to most numbers of panels reaches all of them.
    panel = divmod(7 * n % (rows * columns), columns)
    k = session.frames + n // (rows * columns)
    rig = n % len(session.every_rig) if session.turns else 0
    frame = light(session, rig, 0, session.bands[0], panel, k, (index, 0, 1), 36000.0 + 200.0 * n)
    exposure = frame.exposure
    if kind == "clouded":
        scale = exposure.scale * (0.01 if of_kind % 2 else 0.0)
        cloud = replace(exposure.background, level=3.0 * exposure.background.level)
        exposure = replace(exposure, scale=scale, background=cloud, trail=0.0)
    elif kind == "trailed":
        length, angle = random.uniform(15.0, 60.0), random.uniform(0.0, 2.0 * math.pi)
        exposure = replace(exposure, smear=(float(length * math.cos(angle)), float(length * math.sin(angle))))
    elif kind == "capped":
        exposure = replace(exposure, scale=0.0, background=Background(0.0), trail=0.0)
    else:
        # Not the antipode: the sky's plane ends there.
        dec = (_APART * (of_kind // 2) - session.sky.dec + 80.0) % 160.0 - 80.0
        ra = (session.sky.ra + 120.0) % 360.0
        assert exposure.pointing is not None
        assert frame.wcs is not None
        exposure = replace(exposure, pointing=replace(exposure.pointing, ra=ra, dec=dec))
        frame = replace(frame, wcs=replace(frame.wcs, ra=ra, dec=dec))
    return replace(frame, exposure=exposure, bad=kind)
