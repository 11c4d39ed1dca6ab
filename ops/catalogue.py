"""Every module of skyloom that registers an op; loaded through the entry point a user's ops use too."""

from skyloom.ops import normalize
from skyloom.ops.calibration import calibrate, debayer, defects, flats, levels, link, masters
from skyloom.ops.integration import integrate
from skyloom.ops.measurement import approve, measure
from skyloom.ops.registration import locate, register
from skyloom.ops.session import ingest

__all__ = [
    "approve",
    "calibrate",
    "debayer",
    "defects",
    "flats",
    "ingest",
    "integrate",
    "levels",
    "link",
    "locate",
    "masters",
    "measure",
    "normalize",
    "register",
]
