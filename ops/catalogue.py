"""Every module of skyloom that registers an op; loaded through the entry point a user's ops use too."""

from skyloom.ops.artifacts import artifacts, consensus, shrink
from skyloom.ops.background import coverage, edges, gradient, gradient_model
from skyloom.ops.calibration import calibrate, debayer, defects, flats, levels, link, masters
from skyloom.ops.colour import (
    adjustment,
    channels,
    linear_fit,
    merge,
    neutralize,
    star_catalogue,
    star_colours,
    survey,
    white_balance,
)
from skyloom.ops.display import lightness, stretch, tones
from skyloom.ops.integration import blend, drizzle, integrate
from skyloom.ops.measurement import approve, measure
from skyloom.ops.normalization import normalize
from skyloom.ops.registration import locate, register
from skyloom.ops.restoration import deconvolve, denoise, noise_levels, psf, psf_stars
from skyloom.ops.session import ingest

__all__ = [
    "adjustment",
    "approve",
    "artifacts",
    "blend",
    "calibrate",
    "channels",
    "consensus",
    "coverage",
    "debayer",
    "deconvolve",
    "defects",
    "denoise",
    "drizzle",
    "edges",
    "flats",
    "gradient",
    "gradient_model",
    "ingest",
    "integrate",
    "levels",
    "lightness",
    "linear_fit",
    "link",
    "locate",
    "masters",
    "measure",
    "merge",
    "neutralize",
    "noise_levels",
    "normalize",
    "psf",
    "psf_stars",
    "register",
    "shrink",
    "star_catalogue",
    "star_colours",
    "stretch",
    "survey",
    "tones",
    "white_balance",
]
