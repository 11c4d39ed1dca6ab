"""The canvas that holds a session's frames, from their headers alone, and the guard against an absurd one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import CapacityError, ConfigError, DataError
from skyloom.ops.grid import POINTED, RELATIVE, Grid, parse_wcs, sky_to_pixel, wcs_header
from skyloom.ops.registration.given_canvas import AUTO, KEEP, read_canvas
from skyloom.ops.registration.on_canvas import frames_on, grow
from skyloom.ops.registration.placing import sky_position, unit_vector
from skyloom.ops.registration.projecting import (
    CYLINDRICAL,
    HALF_SPHERE,
    SEAM,
    Projection,
    extents,
    fitting_projection,
    long_axis_turn,
    projected_wcs,
    tightest_turn,
)
from skyloom.ops.registration.target import parse_size, parse_target
from skyloom.ops.registration.whereabouts import Whereabouts, clusters, locate_frames, sky_vectors

Orientation = Literal["north", "frames", "tight"]

MAJORITY = 2.0
"""How many times the next cluster's frames the largest must have to be believed."""
FEW_FRAMES = 3
"""Frames a band needs for its scale to count (where any band has as many) …"""
SMALL_SHARE = 0.1
"""… and the part of the frames of the band with most of them."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Canvas:
    """A grid and the frames it was made for."""

    grid: Grid
    inside: Bools
    """(frame,): frames the canvas holds."""
    reason: tuple[str, ...]
    """Why a frame is not in the canvas; "" for those that are."""


@dataclass(frozen=True)
class Wishes:
    """What is asked of a canvas; all that is left open follows from the frames."""

    pixel_scale: float | None = None
    """arcsec."""
    projection: Projection = "auto"
    orientation: Orientation = "north"
    rotation: float | None = None
    """Position angle of up (degrees, east of north); None: what `orientation` says."""
    target: str | None = None
    """Reference point, and middle where there is a size."""
    size: str | float | None = None
    tile: int = 512
    max_gap: float = 3.0
    max_canvas: float = 20_000.0

    shaping: ClassVar[tuple[str, ...]] = (
        "pixel_scale",
        "projection",
        "orientation",
        "rotation",
        "target",
        "size",
    )
    """Names of what a given canvas has settled."""

    def conflicts(self) -> list[str]:
        """Names of what is asked for though a given canvas has settled it."""
        plain = Wishes()
        return [name for name in self.shaping if getattr(self, name) != getattr(plain, name)]


def choose_canvas(session: xr.Dataset, wishes: Wishes, *, given: str = AUTO, growth: int = 0) -> Canvas:
    """Return the canvas somebody gives, or the one that fits the frames.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`, `height`, `width`, `kind`, `name` and, where there are bands, `band`.
    wishes
        What is asked of a canvas that is not given.
    given
        `auto` or `keep` (nothing is given), or what `read_canvas` takes.
    growth
        Pixels by multiples of which a given canvas may grow; 0: not at all.

    Raises
    ------
    ConfigError
        If both a canvas and parts of one are given, or something cannot be understood.
    DataError
        If no frame has a position or none is on the canvas, or far groups of frames are so alike in number that
        none can be chosen.
    CapacityError
        If the canvas exceeds `max_canvas`.
    """
    if given in (AUTO, KEEP):
        if growth:
            raise ConfigError(f"growth = {growth} is of a canvas that is given; canvas = {given}")
        if wishes.size is not None:
            return _sized_canvas(session, wishes)
        return _fitting_canvas(session, wishes)
    conflicts = wishes.conflicts()
    if conflicts:
        raise ConfigError(
            f"canvas and {', '.join(conflicts)} cannot both be given: the canvas has settled that; leave out one"
        )
    if growth % wishes.tile:
        raise ConfigError(f"growth = {growth} should be a multiple of tile = {wishes.tile}")
    grid = read_canvas(given, tile=wishes.tile)
    reason = [""] * session.sizes["frame"]
    sky = locate_frames(session, reason)
    if growth:
        grid = grow(session, sky, grid, step=growth, max_gap=wishes.max_gap)
    return _checked(session, grid, frames_on(session, sky, grid, reason), reason, wishes)


def automatic_canvas(
    session: xr.Dataset,
    *,
    pixel_scale: float | None = None,
    projection: Projection = "auto",
    orientation: Orientation = "north",
    tile: int = 512,
    max_gap: float = 3.0,
    max_canvas: float = 20_000.0,
) -> Canvas:
    """Choose the canvas for a session from its headers; leave out the frames that cannot be meant.

    Parameters
    ----------
    session
        As in `choose_canvas`.
    pixel_scale
        Side of a canvas pixel (arcsec); None takes that of `finest_scale`.
    projection
        FITS code; auto takes that of `fitting_projection`.
    orientation
        north: north up, east left; frames: the frames' own rotation where all share it within 1°; tight: the one
        of the smallest canvas.
    tile
        Side of the grid's tiles (pixels).
    max_gap
        Empty sky (in frame diagonals) that still lets separate fields belong together.
    max_canvas
        Largest canvas (Mpixel).
    """
    wishes = Wishes(
        pixel_scale=pixel_scale,
        projection=projection,
        orientation=orientation,
        tile=tile,
        max_gap=max_gap,
        max_canvas=max_canvas,
    )
    return choose_canvas(session, wishes)


def finest_scale(scale: Floats, band: NDArray[np.str_]) -> float:
    """Pixel scale that loses nothing of the band that resolves most.

    Parameters
    ----------
    scale
        (n,) of the frames (arcsec).
    band
        (n,) their bands.

    Notes
    -----
    Of each band the scale a quarter of its frames reach or beat: one odd frame does not decide, nor does a band of
    one or two frames beside bands of many.
    """
    names, inverse, counts = np.unique(band, return_inverse=True, return_counts=True)
    enough = max(min(FEW_FRAMES, int(counts.max())), SMALL_SHARE * counts.max())
    quartiles = [
        float(np.percentile(scale[inverse.ravel() == k], 25, method="lower"))
        for k in range(len(names))
        if counts[k] >= enough
    ]
    # Headers differ in the seventh digit; the canvas need not.
    return float(f"{min(quartiles):.6g}")


def _bands(session: xr.Dataset, sky: Whereabouts) -> NDArray[np.str_]:
    if "band" not in session:
        return np.full(len(sky.index), "")
    return np.asarray(session["band"].values[sky.index], dtype=str)


def _middle(sky: Whereabouts, members: Bools) -> Floats:
    """Unit vector amid the frames. Every pointing counts once: a deep stack must not pull it to its corner."""
    centres = sky.centre[members]
    step = max(0.25 * float(sky.radius[members].min()), 1e-9)
    cells, inverse, sizes = np.unique(np.round(centres / step), axis=0, return_inverse=True, return_counts=True)
    middle = np.zeros(3)
    for axis in range(3):
        middle[axis] = float((np.bincount(inverse.ravel(), centres[:, axis], len(cells)) / sizes).sum())
    length = float(np.linalg.norm(middle))
    return np.asarray(centres[0] if length < 1e-6 else middle / length)


@dataclass(frozen=True)
class _Frame:
    """What fixes the pixels of a canvas but for its bounds."""

    code: str
    reference: tuple[float, float]
    turn: float


def _lay(sky: Whereabouts, members: Bools, wishes: Wishes, *, scale: float) -> _Frame:
    """Choose reference point, projection and turn."""
    corners = sky.corners[members]
    places = sky_vectors(corners[..., 0].ravel(), corners[..., 1].ravel())
    size = None if wishes.size is None else parse_size(wishes.size)
    if wishes.target is not None:
        reference = parse_target(wishes.target)
        reach = size.radius(scale) if size else extents(places, reference, 0.0)[0]
    else:
        ra, dec = sky_position(_middle(sky, members))
        reach = extents(places, (ra, dec), 0.0)[0]
        # A round reference point is the same when a frame more moves the middle a little.
        digits = max(0, math.ceil(-math.log10(max(reach, 1e-6) / 10)))
        reference = round(ra, digits) % 360.0, float(np.clip(round(dec, digits), -90, 90))
        reach = size.radius(scale) if size else reach
    tight = wishes.rotation is None and wishes.orientation == "tight"
    if wishes.rotation is not None:
        turn = wishes.rotation
    elif wishes.orientation == "frames":
        turn = _common_angle(sky.angle[members])
    else:
        turn = long_axis_turn(places, reference) if tight else 0.0
    code = str(wishes.projection)
    if size:
        rows, columns = size.shape(scale)
        along, across = (0.5 * n * scale / 3600.0 for n in (columns, rows))
    else:
        _, along, across = extents(places, reference, turn)
    if code == "auto":
        code = fitting_projection(reach, along, across, reference[1])
    if code in ("TAN", "SIN") and reach >= HALF_SPHERE:
        raise DataError(f"the field reaches {reach:.0f}° from its centre: {code} ends at 90°; choose ZEA")
    if code in CYLINDRICAL and along > 180.0 - (180.0 - SEAM) / 2:
        raise DataError(f"the field reaches {along:.0f}° along the cylinder of {code}, past its seam; choose ZEA")
    if tight and code not in CYLINDRICAL:
        wcs = projected_wcs(code, reference, pixel_scale=3600.0, turn=0.0)
        x, y = sky_to_pixel(wcs, corners[..., 0].ravel(), corners[..., 1].ravel())
        points = np.stack([-x, y], axis=-1)
        turn = tightest_turn(points[np.isfinite(points).all(axis=1)])
    return _Frame(code, reference, turn)


def _build(sky: Whereabouts, members: Bools, wishes: Wishes, bands: NDArray[np.str_]) -> Grid:
    """Tight grid over the outlines of some frames."""
    scale = wishes.pixel_scale or finest_scale(sky.scale[members], bands[members])
    scale = float(f"{scale:.6g}")
    plan = _lay(sky, members, wishes, scale=scale)
    corners = sky.corners[members]
    wcs = projected_wcs(plan.code, plan.reference, pixel_scale=scale, turn=plan.turn)
    x, y = sky_to_pixel(wcs, corners[..., 0].ravel(), corners[..., 1].ravel())
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError(f"part of the field cannot be projected with {plan.code}; choose ZEA")
    # Rounding must not cost a row: a hundredth of a pixel is no data.
    left, low = math.floor(x.min() + 0.51), math.floor(y.min() + 0.51)
    right, high = math.ceil(x.max() - 0.51), math.ceil(y.max() - 0.51)
    wcs.wcs.crpix = [1.0 - left, 1.0 - low]
    return Grid(wcs_header(wcs), (high - low + 1, right - left + 1), wishes.tile)


def _common_angle(angles: Floats) -> float:
    """Rotation all frames share within a degree (half turns do not count: the mount flips); else 0."""
    doubled = np.exp(2j * np.radians(angles))
    mean = doubled.mean()
    spread = np.degrees(np.abs(np.angle(doubled / mean))) / 2
    return float(np.degrees(np.angle(mean)) / 2) if spread.max() <= 1.0 else 0.0


def _megapixels(grid: Grid) -> float:
    return grid.shape[0] * grid.shape[1] / 1e6


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _main_cluster(session: xr.Dataset, sky: Whereabouts, wishes: Wishes) -> tuple[Bools, NDArray[np.int64]]:
    """Frames that hang together and are most, and the labels of all groups."""
    labels = clusters(sky, wishes.max_gap)
    sizes = np.bincount(labels)
    order = np.argsort(-sizes, kind="stable")
    if len(order) > 1 and sizes[order[0]] < MAJORITY * sizes[order[1]]:
        names = [str(session["name"].values[i]) for i in sky.index]
        raise DataError(_undecided(sky, names, labels, order[:4], sizes, wishes.max_gap))
    return np.asarray(labels == order[0]), labels


def _fitting_canvas(session: xr.Dataset, wishes: Wishes) -> Canvas:
    """Tight around the frames that hang together."""
    reason = [""] * session.sizes["frame"]
    sky = locate_frames(session, reason)
    bands = _bands(session, sky)
    main, labels = _main_cluster(session, sky, wishes)
    middle = sky.centre[main].mean(axis=0)
    middle /= np.linalg.norm(middle)
    if wishes.target is not None:
        _check_near(wishes.target, sky, main, middle)
    grid = _build(sky, main, wishes, bands)
    inside = np.zeros(len(reason), np.bool_)
    inside[sky.index[main]] = True
    for label in np.unique(labels[~main]):
        members = labels == label
        try:
            grown = f"{_number(_megapixels(_build(sky, main | members, wishes, bands)))} Mpixel"
        except DataError:
            grown = "more than the projection holds"
        for i in np.nonzero(members)[0]:
            away = math.degrees(math.acos(np.clip(float(sky.centre[i] @ middle), -1, 1)))
            reason[sky.index[i]] = (
                f"{away:.1f}° from the other {main.sum()} frames; canvas would grow from "
                f"{_number(_megapixels(grid))} to {grown}"
            )
    return _checked(session, grid, inside, reason, wishes)


def _check_near(target: str, sky: Whereabouts, members: Bools, middle: Floats) -> None:
    """A canvas around frames that has its reference point elsewhere is a slip, or needs a size."""
    apart = np.arccos(np.clip(sky.centre[members] @ unit_vector(*parse_target(target)), -1, 1))
    reach = float(np.arccos(np.clip(sky.centre[members] @ middle, -1, 1)).max() + sky.radius[members].max())
    if float(apart.min()) > 2 * reach:
        ra, dec = sky_position(middle)
        raise DataError(
            f"target = {target!r} is {math.degrees(float(apart.min())):.1f}° from the nearest frame (around "
            f"RA {ra:.2f}° Dec {dec:+.2f}°): give another target, or none"
        )


def _sized_canvas(session: xr.Dataset, wishes: Wishes) -> Canvas:
    """Of a given size, around the target or amid the frames."""
    assert wishes.size is not None
    reason = [""] * session.sizes["frame"]
    sky = locate_frames(session, reason)
    members = np.ones(len(sky.index), np.bool_)
    if wishes.target is None:
        members = _main_cluster(session, sky, wishes)[0]
    else:
        # Scale and rotation are those of the frames around the target, where there are any.
        radius = parse_size(wishes.size).radius(wishes.pixel_scale or float(np.median(sky.scale)))
        near = sky.centre @ unit_vector(*parse_target(wishes.target)) > math.cos(math.radians(min(90.0, radius)))
        members = near if near.any() else members
    scale = wishes.pixel_scale or finest_scale(sky.scale[members], _bands(session, sky)[members])
    scale = float(f"{scale:.6g}")
    rows, columns = parse_size(wishes.size).shape(scale)
    plan = _lay(sky, members, wishes, scale=scale)
    wcs = projected_wcs(plan.code, plan.reference, pixel_scale=scale, turn=plan.turn)
    # Not where the reference point is: that of a turned cylinder may lie beside the middle.
    x, y = sky_to_pixel(wcs, np.array([plan.reference[0]]), np.array([plan.reference[1]]))
    wcs.wcs.crpix = [1.0 + (columns - 1) / 2 - round(float(x[0])), 1.0 + (rows - 1) / 2 - round(float(y[0]))]
    grid = Grid(wcs_header(wcs), (rows, columns), wishes.tile)
    return _checked(session, grid, frames_on(session, sky, grid, reason), reason, wishes)


def _checked(session: xr.Dataset, grid: Grid, inside: Bools, reason: list[str], wishes: Wishes) -> Canvas:
    if _megapixels(grid) > wishes.max_canvas:
        raise CapacityError(
            f"the canvas would be {grid.shape[1]} × {grid.shape[0]} px = {_number(_megapixels(grid))} Mpixel at "
            f"{grid.pixel_scale:.3g} arcsec a pixel, more than max_canvas = {_number(wishes.max_canvas)} Mpixel; "
            "give a coarser pixel_scale or a larger max_canvas"
        )
    # What its frames do not know of the sky the canvas does not know.
    known = {parse_wcs(str(session["wcs"].values[i])).wcs.name for i in np.flatnonzero(inside)}
    for name in (RELATIVE, POINTED):
        if name in known:
            grid = grid.named(name)
            break
    return Canvas(grid, inside, tuple(r[:200] for r in reason))


def _undecided(
    sky: Whereabouts,
    names: list[str],
    labels: NDArray[np.int64],
    order: NDArray[np.intp],
    sizes: NDArray[np.intp],
    max_gap: float,
) -> str:
    parts = []
    centres = []
    for label in order:
        members = np.nonzero(labels == label)[0]
        centre = sky.centre[members].mean(axis=0)
        centres.append(centre / np.linalg.norm(centre))
        ra, dec = sky_position(centre)
        parts.append(f"{sizes[label]} frame(s) at RA {ra:.2f}° Dec {dec:+.2f}° (first: {names[members[0]]})")
    away = math.degrees(math.acos(np.clip(float(centres[0] @ centres[1]), -1, 1)))
    field = math.degrees(2 * float(np.median(sky.radius)))
    enough = math.ceil(away / field)
    return (
        f"the frames lie in {len(sizes)} groups too far apart for one canvas, and none is clearly the largest: "
        f"{'; '.join(parts)}; {away:.1f}° apart, fields of {field:.2g}°. Give the frames of one group, or "
        f"max_gap = {enough} (now {max_gap:g}) to span them all, with max_canvas (Mpixel) large enough for it"
    )
