"""Where every frame lies on the canvas: WCS verified against the stars of all overlaps, shifts in one solve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from skyloom.ops.grid import Grid
from skyloom.ops.held import BASIS, NEW, bases, rows_before
from skyloom.ops.registration.align import align
from skyloom.ops.registration.canvas import Canvas, Orientation, Wishes, choose_canvas
from skyloom.ops.registration.given_canvas import AUTO
from skyloom.ops.registration.layout import Layout, islands, lay_out
from skyloom.ops.registration.projecting import Projection
from skyloom.ops.registration.shifts import refine_shifts
from skyloom.ops.registration.stars import place_stars
from skyloom.ops.registry import Cost, Param
from skyloom.ops.registry import register as register_op
from skyloom.ops.solve_graph import Kind, solved_arrays
from skyloom.ops.threads import one_blas_thread

STARS_PER_FRAME = 300
"""Brightest clean stars of a frame that take part."""
WCS_SIGMA = 1.0
"""Error (canvas pixels) the prior grants a header WCS that was not found wrong."""
LOST_SIGMA = 100.0
"""The same of one that was. Were it nothing, a group of which every WCS is wrong could drift anywhere."""
FOUND = ("use", "reason", "shift", "residual", "matches")
"""Variables of a registration that stay as they were for frames which are held."""
HELD_SIGMA = 1e-5
"""The same of a frame whose place is held: nothing moves it."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Earlier:
    """What an earlier registration found of its frames."""

    row: NDArray[np.int64]
    """Row there of each frame of this session; -1: not known."""
    use: Bools
    reason: NDArray[np.str_]
    shift: Floats
    residual: Floats
    matches: NDArray[np.int64]


@dataclass(frozen=True)
class Registration:
    """Result of `solve_registration`; arrays over all frames of the session."""

    use: Bools
    reason: tuple[str, ...]
    shift: Floats
    """(frame, 2) frame pixels: true position = WCS position + shift."""
    residual: Floats
    """rms distance (frame pixels) to the same stars in the other frames; NaN without matches."""
    matches: NDArray[np.int64]
    island: NDArray[np.int64]
    """-1 where not used; 0 is the island with most frames."""


def solve_registration(
    session: xr.Dataset,
    stars: Floats,
    summary: Floats,
    grid: Grid,
    *,
    in_canvas: Bools,
    canvas_reason: tuple[str, ...],
    refine: str,
    search: float,
    tolerance: float,
    max_residual: float,
    min_matches: int,
    earlier: Earlier | None = None,
) -> Registration:
    """Verify and refine the place of every frame; the eager core of `register`.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`, `height`, `width`.
    stars, summary
        Of a measurement.
    grid, in_canvas, canvas_reason
        The canvas and what it left out.
    refine, search, tolerance, max_residual, min_matches
        As in `register`.
    earlier
        Whose frames stay as they were.
    """
    n = session.sizes["frame"]
    reason = list(canvas_reason)
    use = in_canvas.copy()
    status = summary[:, -1]
    held, fixed = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
    shift = np.zeros((n, 2))
    if earlier is not None:
        held = earlier.row >= 0
        use[held] = earlier.use[earlier.row[held]]
        fixed = held & use
        shift[held] = earlier.shift[earlier.row[held]]
        for i in np.nonzero(held)[0].tolist():
            reason[i] = str(earlier.reason[earlier.row[i]])
    for i in np.nonzero(use & ~held)[0].tolist():
        if status[i] == 1:
            reason[i] = "no valid pixels"
        elif status[i] not in (0, 3):
            reason[i] = "cannot be read"
        use[i] = not reason[i]
    residual, count = np.full(n, np.nan), np.zeros(n, np.int64)
    layout = lay_out(session, grid, use)
    settled = fixed & ~_beside(layout, fixed, use & ~fixed)
    everyone, use = use, use & ~settled
    placed = place_stars(session, stars, grid, shift=shift, use=use, limit=STARS_PER_FRAME)
    edges = np.searchsorted(placed.frame, np.arange(n + 1))
    positions = np.stack([placed.x, placed.y], axis=-1)
    points = {int(i): positions[edges[i] : edges[i + 1]] for i in np.nonzero(use)[0]}
    coarse = align(
        layout, points, use, search=search, tolerance=tolerance, min_matches=min_matches, fixed=fixed & use
    )
    for i, (covered, others) in coarse.rival.items():
        use[i] = False
        reason[i] = (
            f"its {covered} stars in the overlap match none of {others} overlapping frame(s) within "
            f"{search:g} px: the WCS in the header is wrong"
        )
    away = np.hypot(*coarse.offset.T) / layout.scale
    displaced = use & (away > tolerance)
    if refine == "none":
        for i in np.nonzero(displaced)[0].tolist():
            use[i] = False
            reason[i] = (
                f"its stars lie {away[i]:.1f} px from those of overlapping frames (limit {tolerance:g} px): "
                "the WCS in the header is off; refine = shift would correct it"
            )
        displaced[:] = False
    translation = np.where(displaced[:, None] & use[:, None], coarse.offset, 0.0)
    prior = 1.0 / np.where(displaced, LOST_SIGMA, np.where(fixed, HELD_SIGMA, WCS_SIGMA)) ** 2
    for attempt in range(4):
        translation, residual, count = refine_shifts(
            stars,
            placed,
            layout,
            use,
            translation,
            prior,
            move=refine == "shift",
            tolerance=tolerance,
            min_matches=min_matches,
        )
        bad = use & ~fixed & (count >= min_matches) & (residual > max_residual)
        if not bad.any() or attempt == 3:
            break
        # The worst first: a bad frame spoils the residuals of its neighbours.
        bad &= residual > 0.5 * residual[bad].max()
        for i in np.nonzero(bad)[0].tolist():
            use[i] = False
            moved = np.hypot(*translation[i]) / layout.scale[i]
            reason[i] = (
                f"stars disagree with overlapping frames by {residual[i]:.2f} px rms over {count[i]} matches "
                f"(limit {max_residual:g} px)" + (f" after a shift of {moved:.1f} px" if refine == "shift" else "")
            )
    for i in np.nonzero(displaced & use & (count < min_matches))[0].tolist():
        use[i] = False
        reason[i] = (
            f"the WCS in the header is off by {away[i]:.1f} px and only {count[i]} stars match after the shift "
            f"(at least {min_matches})"
        )
    if refine == "shift":
        moved = use & ~fixed & np.isfinite(layout.scale)
        shift[moved] = -np.linalg.solve(layout.jacobian[moved], translation[moved][..., None])[..., 0]
    use = use | (everyone & settled)
    shift[~use] = 0.0
    if earlier is not None:
        residual[held], count[held] = earlier.residual[earlier.row[held]], earlier.matches[earlier.row[held]]
    return Registration(use, tuple(r[:200] for r in reason), shift, residual, count, islands(layout, use))


def _beside(layout: Layout, fixed: Bools, new: Bools) -> Bools:
    """Frames whose place is known that overlap some whose place is not."""
    found = np.zeros(len(fixed), np.bool_)
    for i in np.nonzero(new & np.isfinite(layout.radius))[0].tolist():
        found[layout.overlapping(i, fixed & ~found)] = True
    return found


@one_blas_thread
def _task(
    stars: Floats,
    summary: Floats,
    table: dict[str, NDArray[Any]],
    canvas: Canvas,
    options: dict[str, Any],
    before: list[NDArray[Any]],
) -> Any:
    session = xr.Dataset({name: ("frame", values) for name, values in table.items()})
    basis = bases(*(table[k] for k in ("frame", "wcs", "height", "width")), canvas.inside, np.asarray(summary))
    earlier = None
    if before:
        known, *found = (np.asarray(a) for a in before)
        earlier = Earlier(rows_before(basis, known), *found)
    result = solve_registration(
        session,
        np.asarray(stars),
        np.asarray(summary),
        canvas.grid,
        in_canvas=canvas.inside,
        canvas_reason=canvas.reason,
        earlier=earlier,
        **options,
    )
    return {
        BASIS: basis,
        "kept": np.zeros(len(basis), dtype=bool) if earlier is None else earlier.row >= 0,
        "use": result.use,
        "reason": np.array(result.reason, dtype="<U200"),
        "shift": result.shift,
        "residual": result.residual,
        "matches": result.matches,
        "island": result.island,
    }


def register_cost(session: xr.Dataset, measurement: xr.Dataset, **parameters: Any) -> Cost:
    """Cost of `register`: one unit, memory for the star tables and the links."""
    n = session.sizes["frame"]
    table = 8.0 * n * measurement.sizes["star"] * measurement.sizes["star_quantity"]
    return Cost(
        work=np.array(n * 1e-2),
        read=np.array(table),
        memory=np.array(2 * table + n * STARS_PER_FRAME * 400.0 + 50e6),
        rate=2.0,
    )


@register_op(version=1, cost=register_cost)
def register(
    session: xr.Dataset,
    measurement: xr.Dataset,
    earlier: xr.Dataset | None = None,
    *,
    solution: str = NEW,
    canvas: str = AUTO,
    growth: Annotated[int, Param(unit="px", low=0, high=1e6)] = 0,
    target: str | None = None,
    size: str | float | None = None,
    pixel_scale: Annotated[float | None, Param(unit="arcsec", low=1e-4, high=3600)] = None,
    projection: Projection = "auto",
    orientation: Orientation = "north",
    rotation: Annotated[float | None, Param(unit="deg", low=-360, high=360)] = None,
    tile: Annotated[int, Param(unit="px", low=32, high=16384)] = 512,
    max_gap: Annotated[float, Param(unit="fields", low=0, high=1e4)] = 3.0,
    max_canvas: Annotated[float, Param(unit="Mpixel", low=1e-3)] = 20_000.0,
    refine: Literal["none", "shift"] = "shift",
    search: Annotated[float, Param(unit="px", low=1, high=500)] = 30.0,
    tolerance: Annotated[float, Param(unit="px", low=0.1, high=100)] = 3.0,
    max_residual: Annotated[float, Param(unit="px", low=0.01, high=100)] = 1.0,
    min_matches: Annotated[int, Param(low=3, high=1000)] = 5,
) -> xr.Dataset:
    """Choose the canvas and place every frame on it: WCS verified and refined by the stars of all overlaps.

    Parameters
    ----------
    session
        Table over `frame` from `ingest`.
    measurement
        From `measure`, of the same frames.
    earlier
        A registration whose frames stay as they are; `solution` says which.
    solution
        new: every frame is placed anew. keep (or auto): frames of the project's last run stay exactly where they
        were, new ones are placed among them, and the canvas is kept. Else the folder of a project, whose frames
        and canvas are held. Change it to keep to add a night to a mosaic that shall stay as it is.
    canvas
        auto: chosen from the frames. keep: that of the project's last run, which grows by whole tiles where frames
        reach beyond it, so no pixel moves; what else is asked of a canvas counts in the first run only. Else
        given: a FITS or XISF image (a mosaic, a frame), a text file of FITS cards, such cards themselves, or the
        folder of a project; frames outside are left out. Change it to the file of another image to get the same
        pixels, such as for Ha over an RGB of last year.
    growth
        A given canvas may grow by multiples of this; 0: it stays as it is. Change it where new panels shall extend
        a given canvas.
    target
        What lies in the middle: an object of Messier's catalogue ("M 31") or a position ("10.68 +41.27" in
        degrees, "00:42:44 +41:16:09"); without a size the reference point of a canvas around the frames. Change it
        where the canvas shall be centred on an object.
    size
        Width and height ("2 x 1.5 deg", "3000 x 2000 px"); none: tight around the frames. Change it where only a
        part of what the frames cover is wanted.
    pixel_scale
        Side of a canvas pixel; none takes the finest of the bands' usual scales. Change it to less to keep the
        resolution of the best frames, to more for a quick look at a large mosaic.
    projection
        Of the canvas, a FITS code; auto is TAN, beyond a radius of 12 degrees ZEA, for strips longer than 90
        degrees CEA. Change it to what the next program or a survey wants.
    orientation
        north: north up, east left; frames: the rotation of the frames, where they share one within a degree;
        tight: that of the smallest canvas. Change it to frames where nothing shall be turned, to tight to save
        canvas.
    rotation
        Direction that is up, east of north; none: as orientation says. Change it for a picture with another side
        up.
    tile
        Side of the square tiles the canvas is cut into. Change it with integrate.tile.
    max_gap
        Empty sky, in frame diagonals, that still lets separate fields share a canvas; frames further away are
        left out when they are few, and refused when they are many. Change it to more where far fields belong on
        one canvas, to less where stray frames make it large.
    max_canvas
        Largest canvas that is accepted. Change it to more for mosaics beyond 140,000 pixels a side.
    refine
        shift: one global solve of a shift a frame; none: the WCS as it is, verified only. Change it to none where
        the WCS of the headers is better than stars of single frames can tell.
    search
        How far from its WCS position a frame is looked for, a side. Change it to more where headers are off by
        more, and locate is not part of the workflow.
    tolerance
        Distance at which two detections may be one star, and beyond which a WCS counts as wrong. Change it to more
        where the headers' WCS lacks the distortion of a wide field.
    max_residual
        Frames whose stars disagree more than this (rms) with overlapping frames are left out. Change it to more
        for undersampled frames, to less where doubled stars show.
    min_matches
        Fewer matching stars than this prove nothing: such frames stay on their WCS. Change it to less for
        narrowband frames with few stars.

    Returns
    -------
    xarray.Dataset
        Over `frame`: `use`, `reason`, `shift` (frame, axis: x, y; frame pixels), `residual`, `matches`, `island`
        lazy, one task for all, with `kept` (as it was before) and `basis` (what a frame's place rests on);
        `in_canvas`, `canvas_reason` known now. The grid is in the attributes.

    Raises
    ------
    ConfigError
        If canvas, target or size mean nothing, or contradict each other.
    DataError
        If no frame has a WCS or lies on the given canvas, the given canvas cannot be read, or the frames lie in
        far groups of which none is clearly the largest.
    CapacityError
        If the canvas exceeds `max_canvas`.
    """
    wishes = Wishes(
        pixel_scale=pixel_scale,
        projection=projection,
        orientation=orientation,
        rotation=rotation,
        target=target,
        size=size,
        tile=tile,
        max_gap=max_gap,
        max_canvas=max_canvas,
    )
    chosen = choose_canvas(session, wishes, given=canvas, growth=growth)
    options = {
        "refine": refine,
        "search": search,
        "tolerance": tolerance,
        "max_residual": max_residual,
        "min_matches": min_matches,
    }
    table = {name: session[name].values for name in ("frame", "wcs", "height", "width")}
    before = [] if earlier is None else [da.asarray(earlier[n].data) for n in (BASIS, *FOUND)]
    stars, summary = (da.asarray(measurement[name].data) for name in ("stars", "summary"))
    token = tokenize("register", stars, summary, table, chosen.grid, chosen.reason, options, before)
    n = session.sizes["frame"]
    kinds: dict[str, Kind] = {
        "use": (np.bool_, (n,), ("frame",)),
        "reason": ("<U200", (n,), ("frame",)),
        "shift": (np.float64, (n, 2), ("frame", "axis")),
        "residual": (np.float64, (n,), ("frame",)),
        "matches": (np.int64, (n,), ("frame",)),
        "island": (np.int64, (n,), ("frame",)),
        "kept": (np.bool_, (n,), ("frame",)),
        BASIS: ("<U16", (n,), ("frame",)),
    }
    arguments = [stars, summary, table, chosen, options, before]
    variables: dict[str, Any] = dict(solved_arrays("register", token, _task, arguments, kinds))
    variables["in_canvas"] = ("frame", chosen.inside)
    variables["canvas_reason"] = ("frame", np.array(chosen.reason, dtype="<U200"))
    return xr.Dataset(
        variables,
        coords={"frame": session["frame"].values, "axis": ["x", "y"]},
        attrs=chosen.grid.to_attrs(),
    )
