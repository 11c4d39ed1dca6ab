"""Stars of all frames on one canvas: what they hide from the background, and which ones frames have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.grid import Grid
from skyloom.ops.registration.stars import Detections, link_stars, place_stars

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

LEAST_SNR = 10.0
"""Stars fainter than this are seen only where noise lifts them: their fluxes are biased."""
MATCH_TOLERANCE = 2.0
"""Distance (canvas pixels) at which two detections are one star."""
IMAGE_APERTURE, LEAST_SHARE, IMAGE_ERROR = 2.0, 0.6, 0.02
"""Of stars in images: radius within which neighbours add to the flux (FWHM), part of that light the star must have
itself, and error no such star is believed to beat."""
_ANY_FLAG = 7


@dataclass(frozen=True)
class FrameStars:
    """Stars of one frame on the canvas, whatever their flags; 41 bytes each."""

    x: Floats
    y: Floats
    log_flux: Floats
    log_error: Singles
    peak: Singles
    """Above the background, in units of the pixel noise."""
    clean: NDArray[np.bool_]
    u: Singles
    """Detector coordinates, 0…1."""
    v: Singles
    fwhm: float = 3.0
    """Pixels of the frame."""
    pixel: float = 1.0
    """Side of a pixel of the frame (canvas pixels)."""

    def __len__(self) -> int:
        return int(self.x.size)


def no_stars() -> FrameStars:
    """Return what a frame has that nobody uses."""
    none, single = np.empty(0), np.empty(0, np.float32)
    return FrameStars(none, none, none, single, single, np.empty(0, np.bool_), single, single)


def frame_stars(
    header: str, table: Floats, noise: float, shift: Floats, grid: Grid, *, shape: tuple[int, int]
) -> FrameStars:
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
    shape
        Rows, columns of the frame.
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
            (rows[:, 0] / max(shape[1] - 1, 1)).astype(np.float32),
            (rows[:, 1] / max(shape[0] - 1, 1)).astype(np.float32),
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
    u: Singles
    """Detector coordinates, 0…1."""
    v: Singles


def match_sightings(stars: Sequence[FrameStars], images: Sequence[FrameStars] = ()) -> Sightings:
    """Link the clean stars of all frames, and keep the bright ones.

    Parameters
    ----------
    stars
        Of each frame.
    images
        Of images of any resolution; they follow on the frames in the numbers of the result.
    """
    count = np.array([np.count_nonzero(s.clean) for s in stars], dtype=np.intp)

    def clean(name: str) -> Floats:
        return np.concatenate([np.empty(0), *(getattr(s, name)[s.clean] for s in stars)])

    frame = np.repeat(np.arange(len(stars), dtype=np.intp), count)
    total = np.arange(len(frame), dtype=np.intp)
    x, y = clean("x"), clean("y")
    matches = link_stars(Detections(frame, total, x, y), tolerance=MATCH_TOLERANCE)
    star = np.full(len(frame), -1, dtype=np.int64)
    star[matches.row] = matches.object
    log_flux, log_error = clean("log_flux"), clean("log_error")
    added = []
    for k, image in enumerate(images):
        added.append(_match_image(image, len(stars) + k, x, y, log_flux, star))
    row = np.concatenate([matches.row, np.flatnonzero(star > matches.object.max(initial=-1))]).astype(np.intp)
    row = row[np.lexsort((frame[row], star[row]))]
    row = row[np.isfinite(log_flux[row]) & (log_error[row] < 1.0 / LEAST_SNR)]
    found = Sightings(
        frame[row].astype(np.int32),
        star[row].astype(np.int32),
        log_flux[row],
        log_error[row].astype(np.float32),
        clean("u")[row].astype(np.float32),
        clean("v")[row].astype(np.float32),
    )
    return _join([found, *added])


def _join(parts: Sequence[Sightings]) -> Sightings:
    if len(parts) == 1:
        return parts[0]
    names = ("frame", "star", "log_flux", "log_error", "u", "v")
    every = {n: np.concatenate([getattr(p, n) for p in parts]) for n in names}
    order = np.lexsort((every["frame"], every["star"]))
    return Sightings(*(every[n][order] for n in names))


def _match_image(
    image: FrameStars, number: int, x: Floats, y: Floats, log_flux: Floats, star: NDArray[np.int64]
) -> Sightings:
    """Sightings of an image's stars; frames' detections that are stars of nobody else get a number in `star`.

    In an image of low resolution a star holds its neighbours: what they add is taken off, and stars which are not
    most of what is there do not count.
    """
    own = np.flatnonzero(image.clean & np.isfinite(image.log_flux) & (image.log_error < 1.0 / LEAST_SNR))
    none = np.empty(0, np.float32)
    nothing = Sightings(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0), none, none, none)
    usable = np.flatnonzero(np.isfinite(log_flux))
    if not len(own) or not len(usable):
        return nothing
    tree = cKDTree(np.stack([x[usable], y[usable]], axis=-1))
    here = np.stack([image.x[own], image.y[own]], axis=-1)
    tolerance = max(MATCH_TOLERANCE, 0.5 * image.pixel)
    reach = max(IMAGE_APERTURE * image.fwhm * image.pixel, tolerance)
    following = int(star.max(initial=-1)) + 1
    kept: list[tuple[int, int, float]] = []
    for k, close in enumerate(tree.query_ball_point(here, reach)):
        rows = usable[np.asarray(close, dtype=np.intp)]
        if not len(rows):
            continue
        # Detections that nobody has linked are one star where they lie together.
        place = np.round(np.stack([x[rows], y[rows]], axis=-1) / (2.0 * MATCH_TOLERANCE))
        alone = -1 - np.unique(place, axis=0, return_inverse=True)[1].reshape(-1)
        label = np.where(star[rows] >= 0, star[rows], alone)
        members, inverse = np.unique(label, return_inverse=True)
        size = np.bincount(inverse)
        flux = np.exp(np.bincount(inverse, weights=log_flux[rows]) / size)
        main = int(np.argmax(flux))
        rows = rows[inverse == main]
        away = np.hypot(x[rows] - here[k, 0], y[rows] - here[k, 1])
        if flux[main] < LEAST_SHARE * flux.sum() or np.median(away) > tolerance:
            continue
        number_of_star = int(members[main])
        if number_of_star < 0:
            number_of_star, following = following, following + 1
            star[rows] = number_of_star
        kept.append((number_of_star, int(own[k]), float(np.log(flux.sum() / flux[main]))))
    seen = Counter(entry[0] for entry in kept)
    kept = [entry for entry in kept if seen[entry[0]] == 1]
    if not kept:
        return nothing
    star_of, row, more = (np.array(c) for c in zip(*kept, strict=True))
    return Sightings(
        np.full(len(row), number, np.int32),
        star_of.astype(np.int32),
        image.log_flux[row] - more,
        np.maximum(image.log_error[row], IMAGE_ERROR).astype(np.float32),
        image.u[row],
        image.v[row],
    )
