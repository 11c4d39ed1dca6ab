"""The lights of a simulated session: which panel, when, through which air."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from skyloom.ops.simulation import bad_frames
from skyloom.ops.simulation.camera import Background, Exposure
from skyloom.ops.simulation.faults import shortened
from skyloom.ops.simulation.frame import EPOCH, READ_OUT, SimulatedFrame
from skyloom.ops.simulation.hashing import random_stream
from skyloom.ops.simulation.projection import Pointing

if TYPE_CHECKING:
    from skyloom.ops.simulation.session import SimulatedSession

_FRAME, _NIGHT = 21, 22


def lights(session: SimulatedSession) -> tuple[SimulatedFrame, ...]:
    """Light frames: of each rig, in order of time."""
    order = sorted(
        (night, band, row, column, k)
        for k in range(session.frames)
        for night in [k * session.nights // session.frames]
        for band in range(len(session.bands))
        for row in range(session.panels[0])
        for column in range(session.panels[1])
    )
    out: list[SimulatedFrame] = []
    rigs = len(session.every_rig)
    for rig in range(rigs):
        begin, clock, last, first = 0, 0.0, -1, len(out)
        mine = [entry for entry in order if not session.turns or entry[-1] % rigs == rig]
        for index, (night, band, row, column, k) in enumerate(mine):
            if night != last:
                begin, clock, last = index, 0.0, night
            count = sum(entry[0] == night for entry in mine)
            place = (first + index, index - begin, count)
            out.append(light(session, rig, night, session.bands[band], (row, column), k, place, clock))
            clock += session.exposure_of(session.bands[band]) + READ_OUT
    out += bad_frames.frames(session, start=len(out))
    return tuple(shortened(session, out))


def light(
    session: SimulatedSession,
    rig: int,
    night: int,
    band: str,
    panel: tuple[int, int],
    k: int,
    place: tuple[int, int, int],
    clock: float,
) -> SimulatedFrame:
    """Frame `k` of a panel; `place` = number of the frame, its place in the night and how many there are."""
    index, nth, count = place
    random = random_stream(session.seed, _FRAME, index)
    nightly = random_stream(session.seed, _NIGHT, night)
    camera = session.night_camera(night, rig)
    seconds = session.exposure_of(band)
    unit = session.camera.gain / camera.gain * (seconds / session.seconds)
    ra, dec, angle = session.panel_centre(*panel)
    angle += random.normal(0.0, 1.0) * session.rotation_jitter
    if session.flip and k >= session.frames - session.frames // 2:
        angle += 180.0
    dx, dy = random.normal(0.0, 1.0, 2) * session.dither
    scale = session.every_rig[rig].pixel_scale
    centre = Pointing(ra, dec, scale, angle, 0.5 * (camera.width - 1), 0.5 * (camera.height - 1))
    true = centre.shifted(float(dx), float(dy))
    if session.barrel:
        # The lens bends about its axis, which looks at the middle of the sensor.
        half = 0.5 * math.hypot(camera.height, camera.width)
        true = replace(true.recentred(centre.x, centre.y), barrel=session.barrel, half=half)
    shift = random.normal(0.0, 1.0, 2) * session.wcs_error
    transparency = float(random.uniform(*session.transparency))
    progress = nth / max(count - 1, 1)
    level = session.sky_level * unit * (1.0 + 0.1 * random.uniform(-1.0, 1.0))
    # On the sky a night's gradient keeps its direction and drifts; the detector sees it turned.
    towards = nightly.uniform(0.0, 360.0) + 40.0 * progress + random.normal(0.0, 25.0)
    slope = session.linear * random.uniform(0.8, 1.0)
    on_detector = math.radians(towards + angle)
    bend = session.quadratic * random.uniform(-1.0, 1.0, 3)
    background = Background(
        level=float(level),
        linear=(slope * math.cos(on_detector), slope * math.sin(on_detector)),
        quadratic=(float(4.0 * bend[0]), float(4.0 * bend[1]), float(4.0 * bend[2])),
        moon=float(session.moonlight * session.sky_level * unit * progress),
        moon_angle=float(nightly.uniform(0.0, 360.0) + 60.0 * progress + angle) % 360.0,
    )
    exposure = Exposure(
        index=index,
        seconds=seconds,
        pointing=true,
        band="L" if camera.bayer else band,
        fwhm=float(random.uniform(*session.fwhm)),
        scale=transparency * unit,
        background=background,
        cosmic_rays=session.cosmic_rays,
        trail=session.trail_peak * unit if random.uniform() < session.trails else 0.0,
        pedestal=session.pedestal,
        optics=(session.bands.index(band), night) if session.raw else None,
    )
    date = EPOCH + timedelta(days=night, seconds=clock)
    prefix = f"rig{rig}_" if rig else ""
    return SimulatedFrame(
        index=index,
        name=f"{prefix}light_r{panel[0]}c{panel[1]}_{band}_n{night}_{k:03d}",
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
        rig=rig,
    )
