"""Where every frame looks, by the stars: patterns, pairs, one solution; headers are hypotheses to be checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from skyloom.ops.arrays import LOCATION
from skyloom.ops.errors import NotYetKnown
from skyloom.ops.grid import POINTED, RELATIVE, parse_wcs
from skyloom.ops.held import BASIS, NEW, bases, rows_before
from skyloom.ops.registration.anchor import Hint, anchor, first_place, header_error, hints_of, named, place_wcs
from skyloom.ops.registration.bundle import KNOWN, Bundle, Scale, Sightings, join_edges, solve_bundle
from skyloom.ops.registration.bundle_step import DEGREES
from skyloom.ops.registration.overlapping import PATTERN_STARS, islands, moving_edges, second_look, straightened
from skyloom.ops.registration.pairs import LEAST_MATCHES, Edge
from skyloom.ops.registration.placing import Place, common_scale, place_island
from skyloom.ops.registration.quads import MOST_QUERIES
from skyloom.ops.registration.relink import relink
from skyloom.ops.registration.sky.anchoring import Solver, anchor_island, sky_memory, year_of
from skyloom.ops.registration.sky.search import forget_sky
from skyloom.ops.registration.stars import BLENDED, NEAR_EDGE
from skyloom.ops.registration.tied import Tie
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.solve_graph import Kind, solved_arrays
from skyloom.ops.threads import one_blas_thread

SOLVE_STARS = 400
"""Brightest stars a frame that take part in the solution."""
_PATTERNS = 26.0 * PATTERN_STARS
POSITION_FLOOR = 0.05
"""Error (px) of the position of the brightest star."""
_LOOKS = 3  # at what islands there are; each makes the lenses better known
_DARKER, _BRIGHTER = 0.7, 1.5  # noise and sky of a frame without stars, beside those of others
NOMINAL, UNKNOWN = 0.02, 10.0
"""Relative error of a scale from the focal length that a header says, and of one that nobody says."""
RELINK = 3.0
"""Distance (px) at which stars are the same once the frames are placed."""

Floats = NDArray[np.float64]
Trust = Literal["verified", "never"]


@dataclass(frozen=True)
class Location:
    """Result of `solve_locations`; arrays over all frames of the session."""

    wcs: list[str]
    reason: list[str]
    """Why a frame has no place; "" where it has one."""
    origin: list[str]
    """Where the WCS is from: "header", "stars" (header off or absent), "" for none."""
    residual: Floats
    """rms distance (px) to the same stars in the other frames; NaN where none was seen."""
    matches: NDArray[np.int64]
    island: NDArray[np.int64]
    """−1 where stars connect a frame with no other; 0 = most frames."""
    off: Floats
    """Largest distance (px) of the header's WCS from the solution; inf where it has none."""
    tie: Floats
    """Error (px) of the place in the mosaic of a frame that stars place there; NaN for others."""
    loops: int = 0
    """Closed ways over overlaps, of the largest island."""
    closure: float = float("nan")
    """rms (px) of what its overlaps leave open."""
    notes: list[str] = field(default_factory=list)
    """What a person should know."""


def solve_locations(
    session: xr.Dataset,
    stars: Floats,
    status: Floats,
    *,
    light: Floats | None = None,
    trust: Trust = "verified",
    tolerance: float = 3.0,
    min_matches: int = LEAST_MATCHES,
    distortion: bool = True,
    solve: Solver = "auto",
    held: Mapping[int, str] = MappingProxyType({}),
) -> Location:
    """Find out where every frame looks; the eager core of `locate`.

    Parameters
    ----------
    session
        Table over `frame` with `wcs`, `height`, `width`, `name`.
    stars
        (frame, star, quantity) of a measurement.
    status
        (frame,) of a measurement.
    light
        (frame, 2) background and noise of a measurement, for the reasons of frames without stars.
    trust, tolerance, min_matches, distortion, solve
        As in `locate`.
    held
        Frame → WCS of frames that stay where they are: islands are brought onto them.
    """
    count = session.sizes["frame"]
    names = [str(n) for n in session["name"].values]
    shapes = [(int(h), int(w)) for h, w in zip(session["height"].values, session["width"].values, strict=True)]
    hints = [replace(h, wcs=held[f]) if f in held else h for f, h in enumerate(hints_of(session))]
    lists, sigma = _star_lists(stars, status)
    camera = _cameras(session)
    edges, lists, sigma = moving_edges(lists, sigma, camera, min_matches)
    island = islands(edges, count)
    half = {f: 0.5 * float(np.hypot(*shapes[f])) for f in range(count)}
    middles = {f: np.array([0.5 * (shapes[f][1] - 1), 0.5 * (shapes[f][0] - 1)]) for f in range(count)}
    out = Location(
        wcs=[""] * count,
        reason=[""] * count,
        origin=[""] * count,
        residual=np.full(count, np.nan),
        matches=np.zeros(count, np.int64),
        island=island,
        off=np.full(count, np.inf),
        tie=np.full(count, np.nan),
    )
    solved: list[int] = []
    ties: list[Tie | None] = []

    def lay(frames: list[int], at: list[Hint]) -> tuple[dict[int, Place], Bundle, Sightings]:
        mine = [e for e in edges if island[e.a] == island[frames[0]]] if len(frames) > 1 else []
        return _solve_island(frames, mine, lists, sigma, at, half, middles, camera, distortion)

    first = lay(np.flatnonzero(island == 0).tolist(), hints) if island.max(initial=-1) >= 0 else None
    for _ in range(_LOOKS):
        if first is None or all(island[f] == 0 for f in lists):
            break
        straight = straightened(lists, camera, half, middles, first[1])
        more = second_look(straight, shapes, camera, island, min_matches)
        if not more:
            break
        edges += more
        island[:] = islands(edges, count)
        first = lay(np.flatnonzero(island == 0).tolist(), hints)
    groups = [np.flatnonzero(island == label).tolist() for label in range(int(island.max(initial=-1)) + 1)]
    # A frame by itself has no other to be wrong with: it is looked up on the sky, or left out below.
    groups += [[f] for f in sorted(lists) if island[f] < 0 and not hints[f].wcs and len(lists[f]) >= min_matches]
    dates = [str(t) for t in session["date"].values] if "date" in session else [""] * count
    for number, frames in enumerate(groups):

        def again(
            known: Mapping[int, Hint], frames: list[int] = frames
        ) -> tuple[dict[int, Place], Bundle, Sightings]:
            return lay(frames, [known.get(f, hint) for f, hint in enumerate(hints)])

        own = {f: hints[f] for f in frames}
        there = [f for f in frames if f in held]
        if there:
            own = {f: hints[f] if f in held else replace(hints[f], wcs="") for f in frames}
        places, bundle, sightings = first if number == 0 and first is not None else lay(frames, hints)
        places, agree = anchor(places, own, half)
        found, why = None, ""
        if not there and (agree == 0 or trust == "never" or solve not in ("auto", "never")):
            year = year_of([dates[f] for f in frames])
            found, why = anchor_island(
                (places, bundle, sightings), again, own, lists, camera, half, dict(enumerate(shapes)), year, solve
            )
        if found is not None:
            places, bundle, sightings = found.laid
            out.notes.append(f"{_those(frames, names)}: on the sky by its stars: {found.solution.say()}")
        pointed = all(np.isfinite([hints[f].ra, hints[f].dec]).all() for f in frames)
        anchored = found is not None or agree > 0 or (pointed and len(frames) > 1)
        if not anchored and (len(frames) == 1 or number > 0):
            if len(frames) > 1:
                for f in frames:
                    out.reason[f] = (
                        f"one of {len(frames)} frames that share no stars with the {int((island == 0).sum())} "
                        f"of the largest group ({names[solved[0]]}, …), and no header says where they look"
                    )
            continue
        solved += frames
        ties.append(bundle.tie)
        _say_residuals(out, frames, bundle, sightings)
        name = str(parse_wcs(held[there[0]]).wcs.name) if there else ""
        if not there and agree == 0 and found is None:
            name = POINTED if anchored else RELATIVE
            nominal = any(np.isfinite(hints[f].scale) for f in frames)
            out.notes.append(
                f"{_those(frames, names)}: no header has a WCS; its place on the sky is "
                + ("that of the mount's pointing" if anchored else "unknown, the result's WCS is a relative one")
                + f" (not solved: {why}){_say_scale(places, bundle.tie, nominal)}"
            )
        for f in frames:
            bend = bundle.distortion.get(camera[f], np.zeros((2, len(DEGREES))))
            out.off[f] = header_error(hints[f], places[f], half[f], bend, shapes[f])
            keep = trust == "verified" and out.off[f] <= tolerance
            out.wcs[f] = hints[f].wcs if keep else named(place_wcs(places[f], half[f], bend), name)
            out.origin[f] = "header" if keep else "stars"
            if bundle.tie is not None and not keep:
                out.tie[f] = bundle.tie.sigma.get(f, np.nan)
        if number > 0 and found is None:
            out.notes.append(
                f"{len(frames)} frames ({names[frames[0]]}, …) share no stars with the largest group: they lie "
                "where their headers say"
            )
    for f, text in held.items():
        out.wcs[f], out.reason[f] = text, ""
    _without_stars(out, hints, lists, status, light, trust, min_matches)
    if ties and ties[0] is not None:
        out = replace(out, loops=ties[0].loops, closure=ties[0].closure)
    return out


def _say_scale(places: Mapping[int, Place], tie: Tie | None, nominal: bool) -> str:
    """Where the scale of an island is from that no star catalogue gave."""
    if tie is None or len(places) < 2 or not tie.scale > 0:
        return ""
    scale = 3600.0 * float(np.degrees(np.median([p.scale for p in places.values()])))
    if tie.scale < KNOWN:
        source = "the focal length and " if nominal else ""
        return (
            f"; its scale by {source}how panels fit on a sphere: {scale:.4g} arcsec/px ± {100 * tie.scale:.2g} %"
        )
    return f"; its scale is not known either, taken as {scale:.4g} arcsec/px"


def _those(frames: list[int], names: list[str]) -> str:
    """Name a group of frames."""
    return names[frames[0]] if len(frames) == 1 else f"{len(frames)} frames ({names[frames[0]]}, …)"


def _star_lists(stars: Floats, status: Floats) -> tuple[dict[int, Floats], dict[int, Floats]]:
    """Positions and their errors, brightest first, of the stars fit for it."""
    lists, sigma = {}, {}
    for f in range(len(stars)):
        table = stars[f]
        flag = np.nan_to_num(table[:, 8], nan=-1).astype(np.int64)
        # Saturated stars are the brightest of all and well enough placed for a pattern.
        good = np.isfinite(table[:, 0]) & (flag >= 0) & ((flag & (BLENDED | NEAR_EDGE)) == 0)
        rows = np.flatnonzero(good)[:SOLVE_STARS]
        if len(rows) < 4 or status[f] not in (0, 3):
            continue
        snr = table[rows, 2] / np.maximum(table[rows, 3], 1e-30)
        lists[f] = np.ascontiguousarray(table[rows, :2])
        width = np.where(np.isfinite(table[rows, 4]), table[rows, 4], 4.0)
        sigma[f] = np.hypot(POSITION_FLOOR, width / 2.355 / np.maximum(snr, 1.0))
        sigma[f] = np.where((flag[rows] & 4) > 0, np.hypot(sigma[f], 0.5), sigma[f])
    return lists, sigma


def _cameras(session: xr.Dataset) -> dict[int, int]:
    """Label of the optics of each frame: frames of one share a scale and a distortion."""
    names = [n for n in ("camera", "telescope", "binning", "height", "width", "focal_length") if n in session]
    keys = [tuple(str(session[n].values[f]) for n in names) for f in range(session.sizes["frame"])]
    known = {key: i for i, key in enumerate(sorted(set(keys)))}
    return {f: known[key] for f, key in enumerate(keys)}


def _solve_island(
    frames: list[int],
    edges: list[Edge],
    lists: Mapping[int, Floats],
    sigma: Mapping[int, Floats],
    hints: list[Hint],
    half: Mapping[int, float],
    middles: Mapping[int, Floats],
    camera: Mapping[int, int],
    distortion: bool,
) -> tuple[dict[int, Place], Bundle, Sightings]:
    """Lay the frames one by one, then solve for all; twice, the second time with all stars."""
    degree = dict.fromkeys(frames, 0)
    for edge in edges:
        degree[edge.a] += len(edge)
        degree[edge.b] += len(edge)
    root = max(frames, key=lambda f: (bool(hints[f].wcs), np.isfinite(hints[f].scale), degree[f], -f))
    places = place_island(root, first_place(hints[root], middles[root]), edges, lists, middles)
    places = common_scale(places, camera)
    counts = {f: len(lists[f]) for f in frames}
    nominal = NOMINAL if np.isfinite(hints[root].scale) else UNKNOWN
    scale = Scale(places[root].scale, 0.0 if hints[root].wcs else nominal)
    same = join_edges(edges, counts)
    bundle = solve_bundle(places, camera, half, lists, sigma, same, distortion=distortion, scale=scale)
    again = relink(bundle.places, camera, half, lists, bundle.distortion, tolerance=RELINK)
    bundle = solve_bundle(
        bundle.places, camera, half, lists, sigma, again, distortion=distortion, scale=scale, tie=True
    )
    return bundle.places, bundle, again


def _say_residuals(out: Location, frames: list[int], bundle: Bundle, sightings: Sightings) -> None:
    """Fill in the robust rms distance to the other frames, and the number of stars it is from."""
    distance = np.hypot(*bundle.residual.T)
    for f in frames:
        values = distance[(sightings.frame == f) & np.isfinite(distance)]
        if len(values):
            good = values[values <= 4.0 * np.median(values) + 1e-9]
            out.matches[f] = len(good)
            out.residual[f] = float(np.sqrt(np.mean(good**2)))


def _without_stars(
    out: Location,
    hints: list[Hint],
    lists: Mapping[int, Floats],
    status: Floats,
    light: Floats | None,
    trust: Trust,
    least: int,
) -> None:
    """Frames that stars connect with no other: on their header's WCS, or left out."""
    placed = [f for f, text in enumerate(out.wcs) if text]
    usual = np.nanmedian(light[placed], axis=0) if light is not None and placed else None
    for f, hint in enumerate(hints):
        if out.wcs[f] or out.reason[f]:
            continue
        if status[f] == 1:
            out.reason[f] = "no valid pixels"
        elif status[f] not in (0, 3):
            out.reason[f] = "cannot be read"
        elif hint.wcs and trust == "verified":
            out.wcs[f], out.origin[f] = hint.wcs, "header"
        else:
            seen = len(lists.get(f, ()))
            if seen >= least:
                why = f"its {seen} stars match no other frame"
            else:
                why = (f"only {seen} stars" if seen else "no stars") + _perhaps(f, light, usual)
            out.reason[f] = f"{why}, and no header says where it looks"


def _perhaps(frame: int, light: Floats | None, usual: Floats | None) -> str:
    """What may be wrong with a frame without stars, by its background and noise beside those of the others."""
    if light is None or usual is None or not np.isfinite([*light[frame], *usual]).all():
        return ""
    background, noise = light[frame]
    if noise < _DARKER * usual[1]:
        return f" (noise {noise:.3g} where others have {usual[1]:.3g}: did any light come in?)"
    if background > _BRIGHTER * usual[0] > 0:
        return f" (sky {background:.4g} where others have {usual[0]:.4g}: clouds?)"
    return " (clouded, trailed or out of focus?)"


@one_blas_thread
def _task(
    stars: Floats,
    summary: Floats,
    table: dict[str, NDArray[Any]],
    options: dict[str, Any],
    before: list[NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    session = xr.Dataset({name: ("frame", values) for name, values in table.items()})
    numbers = np.asarray(summary)
    basis = bases(*(table[k] for k in ("frame", "wcs", "height", "width")), numbers)
    kept, rows = np.zeros(len(basis), dtype=bool), np.full(len(basis), -1, dtype=np.int64)
    held: dict[int, str] = {}
    if before:
        rows = rows_before(basis, before[0])
        texts = np.asarray(before[1]).astype(str)
        held = {f: str(texts[r]) for f, r in enumerate(rows.tolist()) if r >= 0 and texts[r]}
        kept[list(held)] = True
    try:
        found = solve_locations(
            session, np.asarray(stars), numbers[:, -1], light=numbers[:, :2], held=held, **options
        )
    finally:
        forget_sky()
    if before:
        for name, values in zip(FOUND, before[2:], strict=True):
            mine: Any = getattr(found, name)
            for f in held:
                mine[f] = np.asarray(values)[rows[f]].item()
    return {
        "wcs": np.array(found.wcs, dtype=f"<U{WCS_WIDTH}"),
        "reason": np.array([r[:200] for r in found.reason], dtype="<U200"),
        "origin": np.array(found.origin, dtype="<U8"),
        "off": found.off,
        "island": found.island,
        "residual": found.residual,
        "matches": found.matches,
        "tie": found.tie,
        "kept": kept,
        BASIS: basis,
        "loops": np.array(found.loops, np.int64),
        "closure": np.array(found.closure),
        "notes": np.array("; ".join(found.notes)[:1000], dtype="<U1000"),
    }


FOUND = ("origin", "off", "residual", "matches", "tie")
"""What else stays as it was for frames that are held."""
WCS_WIDTH = 6000
"""Longest text of a WCS."""


def locate_cost(session: xr.Dataset, measurement: xr.Dataset, **parameters: Any) -> Cost:
    """Cost of `locate`: one unit; memory for star tables, patterns and the sightings."""
    n = session.sizes["frame"]
    table = 8.0 * n * measurement.sizes["star"] * measurement.sizes["star_quantity"]
    pairs = 12.0 * min(n * _PATTERNS, MOST_QUERIES)
    return Cost(
        work=np.array(n * 3e-2),
        read=np.array(table),
        memory=np.array(2 * table + n * (SOLVE_STARS * 1400.0 + _PATTERNS * 320.0) + pairs * 90.0 + 60e6)
        + sky_memory(str(parameters.get("solve", "auto"))),
        rate=1.0,
    )


@register(version=4, cost=locate_cost)
def locate(
    session: xr.Dataset,
    measurement: xr.Dataset,
    earlier: xr.Dataset | None = None,
    *,
    solution: str = NEW,
    trust: Trust = "verified",
    tolerance: Annotated[float, Param(unit="px", low=0.1, high=100)] = 3.0,
    min_matches: Annotated[int, Param(low=4, high=1000)] = LEAST_MATCHES,
    distortion: bool = True,
    solve: Solver = "auto",
) -> xr.Dataset:
    """Find out where every frame looks, by the stars it shares with the others; headers are checked, not believed.

    Parameters
    ----------
    session
        Table over `frame` from `ingest`, `calibrate` or `debayer`.
    measurement
        From `measure`, of the same frames.
    earlier
        A location whose frames stay where they are; `solution` says which.
    solution
        new: all frames are placed together. keep (or auto): frames that the project's last run placed stay exactly
        there, and the others are brought onto them. Else the folder of a project whose frames are held. Change it
        to keep to add a night to a mosaic that shall stay as it is.
    trust
        verified: a header's WCS is kept where it agrees with the stars; never: all are solved for. Change it to
        never where headers are wrong in a way that stars of neighbours cannot show.
    tolerance
        Disagreement from which on a header's WCS is replaced. Change it to more where frames are kept out by a
        distortion that headers do not describe.
    min_matches
        Stars two frames must have in common to be connected. Change it to less for narrowband frames with few
        stars, at the risk of a false match.
    distortion
        Solve for the distortion each camera has (degrees 2 and 3) where the frames overlap enough. Change it to
        false with very few stars, where the solution of the distortion is not known well.
    solve
        Look frames that no header places up on the sky. auto: near the mount's pointing, at the scale by focal
        length and pixel size, in the star catalogue (pip install 'skyloom[solve]') and with solve-field, whichever
        is installed; catalogue: in the star catalogue, at last over the whole sky and at any scale (a minute), and
        where headers have a WCS too; solve-field: with that program, likewise; never: relative places only. Change
        it to catalogue where no header says where frames look, to never where the place on the sky does not
        matter.

    Returns
    -------
    xarray.Dataset
        Over `frame`, lazy, one task for all: `wcs`, `reason`, `origin` (header or stars), `off` (px, of the
        header), `island`, `residual` (px), `matches`, `tie` (px, error of a place in the mosaic that is
        from stars), `kept` (as it was before), `basis` (what a frame's place rests on); `loops`, `closure` (px,
        rms of what overlaps leave open), `notes` ().
    """
    names = ("wcs", "height", "width", "name", "camera", "telescope", "binning", "focal_length", "pixel_size")
    table = {n: session[n].values for n in ("frame", *names, "ra", "dec", "rotation", "date") if n in session}
    options: dict[str, Any] = {
        "trust": trust,
        "tolerance": tolerance,
        "min_matches": min_matches,
        "distortion": distortion,
    }
    options["solve"] = solve
    stars, summary = (da.asarray(measurement[name].data) for name in ("stars", "summary"))
    before = [] if earlier is None else [da.asarray(earlier[n].data) for n in (BASIS, "wcs", *FOUND)]
    token = tokenize("locate", stars, summary, table, options, before)
    n = session.sizes["frame"]
    kinds: dict[str, Kind] = {
        "wcs": (f"<U{WCS_WIDTH}", (n,), ("frame",)),
        "reason": ("<U200", (n,), ("frame",)),
        "origin": ("<U8", (n,), ("frame",)),
        "off": (np.float64, (n,), ("frame",)),
        "island": (np.int64, (n,), ("frame",)),
        "residual": (np.float64, (n,), ("frame",)),
        "matches": (np.int64, (n,), ("frame",)),
        "tie": (np.float64, (n,), ("frame",)),
        "kept": (np.bool_, (n,), ("frame",)),
        BASIS: ("<U16", (n,), ("frame",)),
        "loops": (np.int64, (), ()),
        "closure": (np.float64, (), ()),
        "notes": ("<U1000", (), ()),
    }
    variables = solved_arrays("locate", token, _task, [stars, summary, table, options, before], kinds)
    return xr.Dataset(variables, coords={"frame": session["frame"].values})


@register(version=1, table=True)
def place(session: xr.Dataset, location: xr.Dataset, approval: xr.Dataset | None = None) -> xr.Dataset:
    """Give every frame the WCS that was found for it.

    Parameters
    ----------
    session
        Table over `frame`.
    location
        From `locate`, of the same frames.
    approval
        From `approve`; frames it leaves out get no place.

    Returns
    -------
    xarray.Dataset
        The session with `wcs` as found ("" for frames without a place).

    Raises
    ------
    NotYetKnown
        If `locate` has not run: where frames look is known from their stars only.
    """
    for found in (location, approval):
        if (
            found is not None
            and LOCATION not in found.encoding
            and any(v.chunks for v in found.data_vars.values())
        ):
            raise NotYetKnown("where the frames look is known when their stars have been compared")
    use = approval["use"].values if approval is not None else np.ones(session.sizes["frame"], np.bool_)
    texts = np.array([str(t) if ok else "" for t, ok in zip(location["wcs"].values, use, strict=True)])
    return session.assign(wcs=("frame", texts))
