"""Stars of all frames on one canvas: what they hide from the background, and which ones frames have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.grid import Grid
from skyloom.ops.registration.stars import Detections, link_stars, place_stars

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

LEAST_SNR = 10.0
"""Stars fainter than this are seen only where noise lifts them: their fluxes are biased."""
MATCH_TOLERANCE = 2.0
"""Distance (canvas pixels) at which two detections are one star."""
_ANY_FLAG = 7


@dataclass(frozen=True)
class FrameStars:
    """Stars of one frame on the canvas, whatever their flags; 33 bytes each."""

    x: Floats
    y: Floats
    log_flux: Floats
    log_error: Singles
    peak: Singles
    """Above the background, in units of the pixel noise."""
    clean: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.x.size)


def no_stars() -> FrameStars:
    """Return what a frame has that nobody uses."""
    none, single = np.empty(0), np.empty(0, np.float32)
    return FrameStars(none, none, none, single, single, np.empty(0, np.bool_))


def frame_stars(header: str, table: Floats, noise: float, shift: Floats, grid: Grid) -> FrameStars:
    """Stars of one frame on the canvas.

    Parameters
    ----------
    header
        Its WCS.
    table
        (star, quantity) of a measurement, NaN-padded.
    noise
        Of its pixels (frame units).
    shift
        (dx, dy) of the registration.
    grid
        The canvas.
    """
    alone = xr.Dataset({"wcs": ("frame", np.array([header]))})
    found = place_stars(alone, table[None], grid, shift=shift[None], flags=_ANY_FLAG)
    rows = table[found.row]
    flux, error = rows[:, 2], rows[:, 3]
    with np.errstate(divide="ignore", invalid="ignore"):
        return FrameStars(
            found.x,
            found.y,
            np.log(flux),
            (error / flux).astype(np.float32),
            (rows[:, 7] / (noise if noise > 0 else np.nan)).astype(np.float32),
            rows[:, -1] == 0,
        )


def star_extents(stars: Sequence[FrameStars], fwhm: Floats, *, area: float) -> tuple[Floats, Floats, Floats]:
    """Canvas positions and radii of all stars of all frames.

    Parameters
    ----------
    stars
        Of each frame.
    fwhm
        (frame,) frame pixels; the median where not known.
    area
        J: frame pixels a canvas pixel.

    Returns
    -------
    x, y, radius
        Canvas pixels. The radius is where a Moffat profile (β = 3) falls to a fifth of the pixel noise.
    """
    typical = float(np.nanmedian(fwhm)) if np.isfinite(fwhm).any() else 3.0
    none = np.empty(0)
    radii = []
    for s, width in zip(stars, fwhm, strict=True):
        peak = np.maximum(s.peak.astype(np.float64), 0.0)
        wide = np.sqrt(np.maximum(np.cbrt(5.0 * peak) - 1.0, 0.5)) / np.sqrt(area)
        radii.append(np.nan_to_num(0.98 * (width if np.isfinite(width) else typical) * wide, nan=0.0))
    x, y = (np.concatenate([none, *(getattr(s, name) for s in stars)]) for name in ("x", "y"))
    return x, y, np.concatenate([none, *radii])


@dataclass(frozen=True)
class Sightings:
    """Stars that two frames or more have in common, where they are bright; sorted by star, then frame."""

    frame: NDArray[np.int32]
    star: NDArray[np.int32]
    log_flux: Floats
    log_error: Singles


def match_sightings(stars: Sequence[FrameStars]) -> Sightings:
    """Link the clean stars of all frames, and keep the bright ones."""
    count = np.array([np.count_nonzero(s.clean) for s in stars], dtype=np.intp)

    def clean(name: str) -> Floats:
        return np.concatenate([np.empty(0), *(getattr(s, name)[s.clean] for s in stars)])

    frame = np.repeat(np.arange(len(stars), dtype=np.intp), count)
    total = np.arange(len(frame), dtype=np.intp)
    matches = link_stars(Detections(frame, total, clean("x"), clean("y")), tolerance=MATCH_TOLERANCE)
    log_flux, log_error = clean("log_flux")[matches.row], clean("log_error")[matches.row]
    bright = np.isfinite(log_flux) & (log_error < 1.0 / LEAST_SNR)
    return Sightings(
        matches.frame[bright].astype(np.int32),
        matches.object[bright].astype(np.int32),
        log_flux[bright],
        log_error[bright].astype(np.float32),
    )
