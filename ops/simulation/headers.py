"""FITS headers in the dialects of capture programs.

Every program has names of its own for the same things and leaves some out; what `session` readers must understand
is exactly this. Lights carry a WCS whatever the dialect, as if a solver had written it; of a session that is not
`solved` they have none, and no place either.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation.frame import Rig, SimulatedFrame

if TYPE_CHECKING:
    from skyloom.ops.simulation.session import SimulatedSession

Cards = dict[str, str | int | float]

_LATITUDE, _LONGITUDE = 49.3, 8.65
_TYPE_KEYWORDS = ("IMAGETYP", "FRAME")
_LONG_NAMES = {"L": "Luminance", "R": "Red", "G": "Green", "B": "Blue", "Ha": "H-alpha"}


def check(dialect: str) -> None:
    """Raise ConfigError for a dialect nobody writes."""
    if dialect not in DIALECTS:
        raise ConfigError(f"no dialect {dialect!r} of headers; there is: {', '.join(DIALECTS)}")


def cards(frame: SimulatedFrame, rig: Rig, *, dialect: str, session: SimulatedSession) -> Cards:
    """Cards of a frame, in order, without those of its array."""
    out = DIALECTS[dialect](frame, rig, session.bands[0])
    if session.raw and frame.camera.overscan:
        out |= _sections(frame)
    if frame.exposure.pedestal:
        # SBIG and MaxIm DL write what has to be added to reach zero, the others what has been added.
        out["PEDESTAL"] = -frame.exposure.pedestal if dialect == "maxim" else frame.exposure.pedestal
    if frame.wcs is not None and session.solved:
        overscan = frame.camera.overscan if session.raw else 0
        out |= {"RA": frame.wcs.ra, "DEC": frame.wcs.dec}
        out |= frame.wcs.shifted(overscan, 0).cards()
    return out


def blank_type(cards: Cards, index: int) -> None:
    """Take what says the kind out of a header: every other frame keeps an empty card."""
    for keyword in _TYPE_KEYWORDS:
        if keyword in cards:
            cards[keyword] = ""
            if index % 2:
                del cards[keyword]


def _sections(frame: SimulatedFrame) -> Cards:
    camera = frame.camera
    first, last = camera.overscan + 1, camera.overscan + camera.width
    return {
        "BIASSEC": f"[1:{camera.overscan},1:{camera.height}]",
        "TRIMSEC": f"[{first}:{last},1:{camera.height}]",
    }


def _setting(frame: SimulatedFrame) -> int:
    """The camera's own gain setting, as capture programs write it beside or instead of the conversion."""
    return round(1000.0 / frame.camera.gain)


def _offset(rig: Rig) -> int:
    return round(rig.camera.bias / 10.0)


def _mjd(date: str) -> float:
    days = (datetime.fromisoformat(date) - datetime(1858, 11, 17)) / timedelta(days=1)
    return round(days, 6)


def _julian(date: str) -> float:
    return round(_mjd(date) + 2400000.5, 6)


def _panel(frame: SimulatedFrame) -> str:
    return f"Panel {frame.panel[0] + 1}-{frame.panel[1] + 1}"


def _sexagesimal(value: float, *, signed: bool) -> str:
    total = round(abs(value) * 3600.0)
    text = f"{total // 3600:02d} {total // 60 % 60:02d} {total % 60:02d}"
    return ("-" if value < 0 else "+") + text if signed else text


def _nominal(frame: SimulatedFrame) -> Cards:
    """Place of the object as text."""
    if frame.wcs is None:
        return {}
    return {
        "OBJCTRA": _sexagesimal(frame.wcs.ra / 15.0, signed=False),
        "OBJCTDEC": _sexagesimal(frame.wcs.dec, signed=True),
    }


def _temperature(frame: SimulatedFrame) -> float:
    """What the sensor reads: within a tenth of the set point."""
    return round(frame.camera.temperature + 0.1 * (frame.index % 3 - 1), 1)


def _skyloom(frame: SimulatedFrame, rig: Rig, first_band: str) -> Cards:
    camera = frame.camera
    out: Cards = {
        "OBJECT": _panel(frame) if frame.kind == "light" else "",
        "IMAGETYP": frame.kind.upper(),
        "FILTER": frame.band,
        "EXPTIME": frame.exposure.seconds,
        "DATE-OBS": frame.date,
        "MJD-OBS": _mjd(frame.date),
        "INSTRUME": camera.name,
        "TELESCOP": rig.telescope,
        "XBINNING": 1,
        "YBINNING": 1,
        "XPIXSZ": camera.pixel_size,
        "YPIXSZ": camera.pixel_size,
        "FOCALLEN": rig.focal_length,
        "GAIN": _setting(frame),
        "EGAIN": camera.gain,
        "OFFSET": _offset(rig),
        "RDNOISE": camera.read_noise,
        "CCD-TEMP": camera.temperature,
        "SET-TEMP": camera.temperature,
        "SATURATE": camera.saturation,
        "BUNIT": "adu",
    }
    if frame.band == "none" or camera.bayer:
        del out["FILTER"]
    if frame.kind != "light":
        del out["OBJECT"]
    if camera.bayer:
        out |= {"BAYERPAT": camera.bayer, "XBAYROFF": 0, "YBAYROFF": 0, "ROWORDER": "TOP-DOWN"}
    return out


def _nina(frame: SimulatedFrame, rig: Rig, first_band: str) -> Cards:
    camera = frame.camera
    local = datetime.fromisoformat(frame.date) + timedelta(hours=1)
    out: Cards = {
        "IMAGETYP": {"flatdark": "DARKFLAT"}.get(frame.kind, frame.kind.upper()),
        "EXPOSURE": frame.exposure.seconds,
        "EXPTIME": frame.exposure.seconds,
        "DATE-LOC": f"{local:%Y-%m-%dT%H:%M:%S}.123",
        "DATE-OBS": f"{frame.date}.123",
        "XBINNING": 1,
        "YBINNING": 1,
        "GAIN": _setting(frame),
        "OFFSET": _offset(rig),
        "EGAIN": camera.gain,
        "XPIXSZ": camera.pixel_size,
        "YPIXSZ": camera.pixel_size,
        "INSTRUME": camera.name,
        "SET-TEMP": camera.temperature,
        "CCD-TEMP": _temperature(frame),
    }
    if camera.bayer:
        out |= {"BAYERPAT": camera.bayer, "XBAYROFF": 0, "YBAYROFF": 0}
    out |= {
        "TELESCOP": rig.telescope,
        "FOCALLEN": rig.focal_length,
        "SITELAT": _LATITUDE,
        "SITELONG": _LONGITUDE,
        "FWHEEL": "Skyloom wheel",
        # Darks get the name of whatever filter stands before the sensor.
        "FILTER": first_band if frame.band == "none" else frame.band,
    }
    if camera.bayer:
        del out["FWHEEL"], out["FILTER"]
    if frame.kind == "light":
        out |= {"OBJECT": _panel(frame)}
    out |= _nominal(frame)
    return out | {"ROWORDER": "TOP-DOWN", "EQUINOX": 2000.0, "SWCREATE": "N.I.N.A. 3.1.2.9001 (x64)"}


def _asiair(frame: SimulatedFrame, rig: Rig, first_band: str) -> Cards:
    camera = frame.camera
    # No e-/DN and no telescope for frames without stars.
    out: Cards = {
        "CREATOR": "ZWO ASIAIR Plus",
        "XORGSUBF": 0,
        "YORGSUBF": 0,
        "FOCALLEN": round(rig.focal_length),
        "XBINNING": 1,
        "YBINNING": 1,
        "CCDXBIN": 1,
        "CCDYBIN": 1,
        "XPIXSZ": camera.pixel_size,
        "YPIXSZ": camera.pixel_size,
        "IMAGETYP": {"flatdark": "Dark"}.get(frame.kind, frame.kind.capitalize()),
        "EXPOSURE": frame.exposure.seconds,
        "EXPTIME": frame.exposure.seconds,
        "CCD-TEMP": _temperature(frame),
        "DATE-OBS": f"{frame.date}.123456",
        "INSTRUME": camera.name,
        "GAIN": _setting(frame),
        "OFFSET": _offset(rig),
    }
    if frame.kind == "light":
        out |= {"OBJECT": _panel(frame), "TELESCOP": rig.telescope}
    if camera.bayer:
        out["BAYERPAT"] = camera.bayer
    elif frame.band != "none":
        out["FILTER"] = frame.band
    return out


def _sgp(frame: SimulatedFrame, rig: Rig, first_band: str) -> Cards:
    camera = frame.camera
    local = datetime.fromisoformat(frame.date) + timedelta(hours=1)
    out: Cards = {
        "OBJECT": _panel(frame) if frame.kind == "light" else "",
        "DATE-LOC": f"{local:%Y-%m-%dT%H:%M:%S}.1234567",
        "DATE-OBS": f"{frame.date}.1234567",
        "IMAGETYP": {"flatdark": "DARK"}.get(frame.kind, frame.kind.upper()),
        "CREATOR": "Sequence Generator Pro v4.2.0.1024",
        "INSTRUME": camera.name,
        "SITELAT": "49 18 0.000",
        "SITELONG": "8 39 0.000",
        "FILTER": _LONG_NAMES.get(frame.band, frame.band),
        # The only exposure there is.
        "EXPOSURE": frame.exposure.seconds,
        "CCD-TEMP": _temperature(frame),
        "SET-TEMP": camera.temperature,
        "XBINNING": 1,
        "CCDXBIN": 1,
        "YBINNING": 1,
        "CCDYBIN": 1,
        "TELESCOP": rig.telescope,
        "FOCALLEN": rig.focal_length,
        "XPIXSZ": camera.pixel_size,
        "YPIXSZ": camera.pixel_size,
        "GAIN": _setting(frame),
        "OFFSET": _offset(rig),
        "EGAIN": camera.gain,
    }
    if frame.band == "none" or camera.bayer:
        del out["FILTER"]
    if camera.bayer:
        out["BAYERPAT"] = camera.bayer
    return out | _nominal(frame)


def _maxim(frame: SimulatedFrame, rig: Rig, first_band: str) -> Cards:
    camera = frame.camera
    kinds = {"light": "Light Frame", "bias": "Bias Frame", "flat": "Flat Field"}
    # Neither the camera's gain setting nor its offset.
    out: Cards = {
        "DATE-OBS": frame.date,
        "EXPTIME": frame.exposure.seconds,
        "EXPOSURE": frame.exposure.seconds,
        "SET-TEMP": camera.temperature,
        "CCD-TEMP": _temperature(frame),
        "XPIXSZ": camera.pixel_size,
        "YPIXSZ": camera.pixel_size,
        "XBINNING": 1,
        "YBINNING": 1,
        "XORGSUBF": 0,
        "YORGSUBF": 0,
        "READOUTM": "Normal",
        "FILTER": _LONG_NAMES.get(frame.band, frame.band),
        "IMAGETYP": kinds.get(frame.kind, "Dark Frame"),
        "FOCALLEN": rig.focal_length,
        "EGAIN": camera.gain,
        "INSTRUME": camera.name,
        "TELESCOP": rig.telescope,
        "SBSTDVER": "SBFITSEXT Version 1.0",
        "SWCREATE": "MaxIm DL Version 6.20",
        "JD": _julian(frame.date),
        "OBJECT": _panel(frame) if frame.kind == "light" else "",
    }
    if frame.band == "none" or camera.bayer:
        del out["FILTER"]
    if camera.bayer:
        # A read-out that begins one column later: the pattern is the sensor's, the offset leads into it.
        out |= {"BAYERPAT": "".join(camera.bayer[k] for k in (1, 0, 3, 2)), "XBAYROFF": 1, "YBAYROFF": 0}
    return out | _nominal(frame)


def _ekos(frame: SimulatedFrame, rig: Rig, first_band: str) -> Cards:
    camera = frame.camera
    band = first_band if frame.band == "none" else frame.band
    out: Cards = {
        "ROWORDER": "TOP-DOWN",
        "INSTRUME": camera.name,
        "TELESCOP": rig.telescope,
        "OBSERVER": "Unknown",
        "OBJECT": _panel(frame) if frame.kind == "light" else "",
        "EXPTIME": frame.exposure.seconds,
        "CCD-TEMP": _temperature(frame),
        "PIXSIZE1": camera.pixel_size,
        "PIXSIZE2": camera.pixel_size,
        "XBINNING": 1,
        "YBINNING": 1,
        "XPIXSZ": camera.pixel_size,
        "YPIXSZ": camera.pixel_size,
        "FRAME": {"flatdark": "Dark"}.get(frame.kind, frame.kind.capitalize()),
        "IMAGETYP": f"{'Dark' if frame.kind == 'flatdark' else frame.kind.capitalize()} Frame",
        "FILTER": _LONG_NAMES.get(band, band),
        "FOCALLEN": rig.focal_length,
        "SITELAT": _LATITUDE,
        "SITELONG": _LONGITUDE,
        "DATE-OBS": f"{frame.date}.123",
        "GAIN": float(_setting(frame)),
        "OFFSET": float(_offset(rig)),
        "EGAIN": camera.gain,
    }
    if camera.bayer:
        del out["FILTER"]
        out |= {"XBAYROFF": 0, "YBAYROFF": 0, "BAYERPAT": camera.bayer}
    return out | _nominal(frame)


DIALECTS: dict[str, Callable[[SimulatedFrame, Rig, str], Cards]] = {
    "skyloom": _skyloom,
    "nina": _nina,
    "asiair": _asiair,
    "sgp": _sgp,
    "maxim": _maxim,
    "ekos": _ekos,
}
"""Writers of headers by the name of the dialect."""
