"""Where every frame lies on the canvas: WCS verified against the stars of all overlaps, shifts in one solve."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.delayed import delayed
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, cg

from skyloom.ops.canvas import Canvas, Orientation, Projection, automatic_canvas
from skyloom.ops.footprints import EDGE_POINTS, footprint
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.registry import Cost, Param
from skyloom.ops.registry import register as register_op
from skyloom.ops.stars import Detections, Matches, link_stars, place_stars

STARS_PER_FRAME = 300
"""Brightest clean stars of a frame that take part."""
WCS_SIGMA = 1.0
"""Error (canvas pixels) the prior grants a header WCS that was not found wrong."""

_NEIGHBOURS = 6
_TRIES = 3
_POSITION_FLOOR = 0.05  # px: undersampling and distortion keep bright stars from better

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


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


@dataclass(frozen=True)
class _Layout:
    """Geometry of the frames on the canvas (canvas pixels)."""

    polygon: Floats
    """(frame, points, 2); NaN where a frame has no place."""
    centre: Floats
    radius: Floats
    jacobian: Floats
    """(frame, 2, 2) d canvas / d frame at the centre."""
    scale: Floats
    """(frame,) canvas pixels a frame pixel."""

    def overlapping(self, index: int, among: Bools, *, limit: int | None = None) -> list[int]:
        """Frames of `among` whose outline meets that of a frame (not itself), nearest first."""
        distance = np.hypot(*(self.centre - self.centre[index]).T)
        near = among & (distance < self.radius + self.radius[index])
        near[index] = False
        candidates = np.nonzero(near)[0]
        candidates = candidates[np.argsort(distance[candidates], kind="stable")]
        found: list[int] = []
        # In a deep stack thousands overlap and the nearest few are enough.
        step = len(candidates) if limit is None else 4 * limit
        for start in range(0, len(candidates), max(step, 1)):
            some = candidates[start : start + step]
            found.extend(some[_convex_overlap(self.polygon[index], self.polygon[some])].tolist())
            if limit is not None and len(found) >= limit:
                return found[:limit]
        return found


def _convex_overlap(one: Floats, many: Floats) -> Bools:
    """Whether convex outlines (n, points, 2) meet outline `one` (separating axes)."""
    if not len(many):
        return np.zeros(0, np.bool_)
    apart = np.zeros(len(many), np.bool_)
    corners_one, corners_many = one[:: EDGE_POINTS - 1], many[:, :: EDGE_POINTS - 1]
    edges = np.roll(corners_one, -1, axis=0) - corners_one
    axes = np.broadcast_to(np.stack([-edges[:, 1], edges[:, 0]], -1), (len(many), *edges.shape))
    edges = np.roll(corners_many, -1, axis=1) - corners_many
    axes = np.concatenate([axes, np.stack([-edges[..., 1], edges[..., 0]], -1)], axis=1)
    a = np.einsum("nkc,pc->nkp", axes, one)
    b = np.einsum("nkc,npc->nkp", axes, many)
    apart = ((a.max(-1) <= b.min(-1)) | (b.max(-1) <= a.min(-1))).any(axis=1)
    return np.asarray(~apart)


def _lay_out(session: xr.Dataset, grid: Grid, candidates: Bools) -> _Layout:
    n = session.sizes["frame"]
    polygon = np.full((n, 4 * (EDGE_POINTS - 1), 2), np.nan)
    jacobian = np.full((n, 2, 2), np.nan)
    heights, widths, headers = (session[k].values for k in ("height", "width", "wcs"))
    for i in np.nonzero(candidates)[0]:
        header, height, width = str(headers[i]), int(heights[i]), int(widths[i])
        polygon[i] = footprint(header, (height, width), grid)
        x = (width - 1) / 2 + np.array([-0.5, 0.5, 0.0, 0.0])
        y = (height - 1) / 2 + np.array([0.0, 0.0, -0.5, 0.5])
        cx, cy = sky_to_pixel(grid.wcs, *pixel_to_sky(parse_wcs(header), x, y))
        jacobian[i] = [[cx[1] - cx[0], cx[3] - cx[2]], [cy[1] - cy[0], cy[3] - cy[2]]]
    centre = polygon.mean(axis=1)
    radius = np.hypot(*np.moveaxis(polygon - centre[:, None], -1, 0)).max(axis=1)
    area = jacobian[:, 0, 0] * jacobian[:, 1, 1] - jacobian[:, 0, 1] * jacobian[:, 1, 0]
    return _Layout(polygon, centre, radius, jacobian, np.sqrt(np.abs(area)))


@njit(nogil=True, cache=True, fastmath=False)
def _vote_kernel(a: Floats, b: Floats, reach: int, votes: NDArray[np.int64]) -> None:
    """Histogram of b - a in bins of one pixel, both ways up to `reach`; b ascends in its first column."""
    for i in range(len(a)):
        for j in range(np.searchsorted(b[:, 0], a[i, 0] - reach - 0.5), len(b)):
            dx, dy = b[j, 0] - a[i, 0] + reach + 0.5, b[j, 1] - a[i, 1] + reach + 0.5
            if dx >= votes.shape[1]:
                break
            if dx >= 0 and 0 <= dy < votes.shape[0]:
                votes[int(dy), int(dx)] += 1


@njit(nogil=True, cache=True, fastmath=False)
def _fits_kernel(a: Floats, b: Floats, dx: float, dy: float, radius: float, out: Floats) -> int:
    """Number of `a` that have a `b` within `radius` once moved by (dx, dy); nearest differences in `out`."""
    count = 0
    for i in range(len(a)):
        best = radius * radius
        hit = False
        for j in range(np.searchsorted(b[:, 0], a[i, 0] + dx - radius), len(b)):
            ex, ey = b[j, 0] - a[i, 0] - dx, b[j, 1] - a[i, 1] - dy
            if ex > radius:
                break
            d2 = ex * ex + ey * ey
            if d2 < best:
                best = d2
                hit = True
                out[count, 0], out[count, 1] = b[j, 0] - a[i, 0], b[j, 1] - a[i, 1]
        if hit:
            count += 1
    return count


def find_offset(
    a: Floats, b: Floats, *, search: float, tolerance: float, min_matches: int
) -> tuple[Floats, int] | None:
    """Translation that takes point set `a` onto `b`, or None.

    Parameters
    ----------
    a, b
        (n, 2) positions.
    search
        Largest offset an axis.
    tolerance
        Distance within which two points are one.
    min_matches
        Least points of `a` that must find a partner, beyond what chance gives.

    Returns
    -------
    offset, matches
        b - a, and how many points agree.

    Notes
    -----
    Votes of all pairs in a histogram; the winner must beat the same count at eight displaced places by
    four standard deviations, so that a crowded field does not match itself anywhere.
    """
    if len(a) < min_matches or len(b) < min_matches:
        return None
    b = np.ascontiguousarray(b[np.argsort(b[:, 0], kind="stable")])
    reach = max(int(np.ceil(search)), 1)
    votes = np.zeros((2 * reach + 1, 2 * reach + 1), np.int64)
    _vote_kernel(a, b, reach, votes)
    padded = np.pad(votes, 1)
    smooth = sum(padded[i : i + votes.shape[0], j : j + votes.shape[1]] for i in range(3) for j in range(3))
    out = np.empty((len(a), 2))
    row, column = np.unravel_index(int(np.argmax(smooth)), votes.shape)
    guess = np.array([column - reach, row - reach], dtype=np.float64)
    for radius in (tolerance, tolerance, 0.5 * tolerance):
        count = _fits_kernel(a, b, guess[0], guess[1], radius, out)
        if count < min(min_matches, 3):
            return None
        guess = np.median(out[:count], axis=0)
    count = _fits_kernel(a, b, guess[0], guess[1], tolerance, out)
    angles = np.arange(8) * np.pi / 4
    chance = np.mean(
        [
            _fits_kernel(a, b, guess[0] + 4 * tolerance * c, guess[1] + 4 * tolerance * s, tolerance, out)
            for c, s in zip(np.cos(angles), np.sin(angles), strict=True)
        ]
    )
    if count < min_matches or count < chance + 4 * np.sqrt(chance + 1):
        return None
    return guess, int(count)


def _inside(points: Floats, polygon: Floats) -> Bools:
    """Which points lie in a convex outline."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    side = edges[:, 0] * (points[:, None, 1] - polygon[:, 1]) - edges[:, 1] * (points[:, None, 0] - polygon[:, 0])
    return np.asarray((side >= 0).all(axis=1) | (side <= 0).all(axis=1))


@dataclass
class _Coarse:
    """Outcome of the coarse alignment (canvas pixels)."""

    offset: Floats
    """(frame, 2) translation to the frame's group."""
    group: NDArray[np.int64]
    """-1: no stars to compare."""
    rival: dict[int, tuple[int, int]]
    """Frame → (stars in the overlap, overlapping frames) that contradict it."""


def _align(
    layout: _Layout,
    points: dict[int, Floats],
    usable: Bools,
    *,
    search: float,
    tolerance: float,
    min_matches: int,
) -> _Coarse:
    """Grow groups of frames whose stars agree up to a translation, each frame compared with its neighbours.

    A frame that contradicts its neighbours starts a group of its own, so a wrong first frame harms nobody.
    """
    n = len(layout.radius)
    offset, group = np.zeros((n, 2)), np.full(n, -1, np.int64)
    with_stars = np.zeros(n, np.bool_)
    with_stars[[i for i, p in points.items() if len(p) >= min_matches]] = True
    with_stars &= usable
    seeds = sorted(np.nonzero(with_stars)[0].tolist(), key=lambda i: (-len(points[i]), i))
    label = 0
    for seed in seeds:
        if group[seed] >= 0:
            continue
        group[seed] = label
        tries = np.zeros(n, np.int64)
        frontier = deque(layout.overlapping(seed, with_stars & (group < 0)))
        pending = np.zeros(n, np.bool_)
        pending[list(frontier)] = True
        while frontier:
            frame = frontier.popleft()
            pending[frame] = False
            tries[frame] += 1
            members = layout.overlapping(frame, group == label, limit=_NEIGHBOURS)
            target = np.concatenate([points[m] + offset[m] for m in members])
            scale = layout.scale[frame]
            found = find_offset(
                points[frame],
                target,
                search=search * scale,
                tolerance=tolerance * scale,
                min_matches=min_matches,
            )
            if found is None and _agrees(points[frame], target, tolerance * scale):
                found = np.zeros(2), 3
            if found is None:
                continue
            offset[frame], group[frame] = found[0], label
            more = layout.overlapping(frame, with_stars & (group < 0) & (tries < _TRIES) & ~pending)
            pending[more] = True
            frontier.extend(more)
        label += 1
    _centre_groups(offset, group)
    return _Coarse(offset, group, _contradictions(layout, points, group, min_matches))


def _agrees(a: Floats, b: Floats, tolerance: float) -> bool:
    """Whether a narrow overlap confirms the WCS: no offset to search for, so three stars can be enough."""
    b = np.ascontiguousarray(b[np.argsort(b[:, 0], kind="stable")])
    out = np.empty((len(a), 2))
    count = _fits_kernel(a, b, 0.0, 0.0, tolerance, out)
    step = 4 * tolerance
    chance = np.mean(
        [_fits_kernel(a, b, dx, dy, tolerance, out) for dx, dy in ((step, 0), (-step, 0), (0, step), (0, -step))]
    )
    return bool(count >= 3 and count > chance + 3 * np.sqrt(chance) + 1)


def _centre_groups(offset: Floats, group: NDArray[np.int64]) -> None:
    """Let most frames of each group stay where their WCS puts them."""
    for label in range(int(group.max(initial=-1)) + 1):
        members = group == label
        offset[members] -= np.median(offset[members], axis=0)


def _contradictions(
    layout: _Layout, points: dict[int, Floats], group: NDArray[np.int64], min_matches: int
) -> dict[int, tuple[int, int]]:
    """Frames that overlap a larger group by enough stars to have been found in it, and were not."""
    sizes = np.bincount(group[group >= 0]) if (group >= 0).any() else np.zeros(0, np.intp)
    rival: dict[int, tuple[int, int]] = {}
    bad: set[int] = set()
    for label in np.argsort(-sizes, kind="stable").tolist():
        members = np.nonzero(group == label)[0].tolist()
        against: dict[int, tuple[int, int]] = {}
        for frame in members:
            among = _larger(group, sizes, label) & ~np.isin(group, list(bad))
            others = layout.overlapping(frame, among)
            if not others:
                continue
            covered, common = np.zeros(len(points[frame]), np.bool_), 0
            for other in others[:_NEIGHBOURS]:
                mine = _inside(points[frame], layout.polygon[other])
                covered |= mine
                # The shallower of the two says how many stars both can have.
                common += min(int(mine.sum()), int(_inside(points[other], layout.polygon[frame]).sum()))
            expected = min(int(covered.sum()), common)
            if expected >= 3 * min_matches:
                against[frame] = (expected, len(others))
        if against:
            # One group is one rigid piece: when a member contradicts the rest, all of it does.
            bad.add(label)
            worst = max(against.values())
            rival.update({f: against.get(f, worst) for f in members})
    return rival


def _larger(group: NDArray[np.int64], sizes: NDArray[np.intp], label: int) -> Bools:
    rank = np.empty(sizes.size, np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(sizes.size)
    out = np.zeros(group.size, np.bool_)
    placed = group >= 0
    out[placed] = rank[group[placed]] < rank[label]
    return out


def solve_shifts(matches: Matches, weight: Floats, held: Floats, prior: Floats, frames: int) -> Floats:
    """Translations of all frames that bring the sightings of every object together, least squares.

    Parameters
    ----------
    matches
        Linked sightings (canvas pixels).
    weight
        (sightings,) inverse variances (1/px²).
    held
        (frame, 2) translation the prior pulls to.
    prior
        (frame,) inverse variance of the prior (1/px²); 0 leaves a frame free.
    frames
        Number of frames.

    Returns
    -------
    ndarray
        (frame, 2) to add to positions.

    Notes
    -----
    Minimises Σ w |p + t_f - X_o|² + Σ λ_f |t_f - h_f|² with the object positions X_o eliminated: a sparse
    operator "translate, average per object, subtract", conjugate gradients, no list of pairs.
    """
    objects = matches.objects
    incidence = csr_matrix((weight, (matches.frame, matches.object)), shape=(frames, objects))
    per_object = np.maximum(np.asarray(incidence.sum(axis=0)).ravel(), 1e-300)
    per_frame = np.asarray(incidence.sum(axis=1)).ravel()
    transposed = incidence.T.tocsr()
    # A frame with neither data nor prior stays: any diagonal will do.
    diagonal = per_frame + np.where((per_frame == 0) & (prior == 0), 1.0, prior)

    def normal(t: Floats) -> Floats:
        return np.asarray(diagonal * t - incidence @ ((transposed @ t) / per_object))

    own = np.asarray((incidence.multiply(incidence) / per_object).sum(axis=1)).ravel()
    precondition = 1.0 / np.maximum(diagonal - own, 1e-6 * diagonal)
    shape = (frames, frames)
    position = np.stack([matches.x, matches.y], axis=-1)
    translation = np.zeros((frames, 2))
    for axis in range(2):
        p = position[:, axis]
        mean = np.bincount(matches.object, weight * p, objects) / per_object
        right = np.bincount(matches.frame, weight * (mean[matches.object] - p), frames) + prior * held[:, axis]
        if not right.any():
            continue
        translation[:, axis], _ = cg(
            LinearOperator(shape, matvec=normal, dtype=np.float64),
            right,
            rtol=1e-10,
            atol=0.0,
            maxiter=5000,
            M=LinearOperator(shape, matvec=lambda t: precondition * t, dtype=np.float64),
        )
    return translation


def scatter(matches: Matches, weight: Floats, translation: Floats) -> Floats:
    """Distance of every sighting to the mean of the same star in the other frames.

    Parameters
    ----------
    matches, weight
        As in `solve_shifts`.
    translation
        (frame, 2) added to the positions first (pixels).

    Returns
    -------
    ndarray
        (sightings, 2); NaN where no other frame counts.
    """
    moved = np.stack([matches.x, matches.y], axis=-1) + translation[matches.frame]
    weights = np.bincount(matches.object, weight, matches.objects)
    total = np.stack(
        [np.bincount(matches.object, weight * moved[:, k], matches.objects) for k in range(2)], axis=-1
    )
    rest = weights[matches.object] - weight
    others = (total[matches.object] - weight[:, None] * moved) / np.maximum(rest, 1e-300)[:, None]
    return np.where((rest > 1e-9 * weight)[:, None], moved - others, np.nan)


def _per_frame(matches: Matches, residual: Floats, scale: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Robust rms residual (frame pixels) and number of matches of every frame."""
    n = len(scale)
    rms, count = np.full(n, np.nan), np.zeros(n, np.int64)
    distance = np.hypot(residual[:, 0], residual[:, 1])
    known = np.isfinite(distance)
    frame, distance = matches.frame[known], distance[known]
    order = np.argsort(frame, kind="stable")
    frame, distance = frame[order], distance[order]
    edges = np.searchsorted(frame, np.arange(n + 1))
    for i in range(n):
        values = distance[edges[i] : edges[i + 1]]
        if values.size:
            good = values[values <= 4 * np.median(values) + 1e-9]
            count[i] = good.size
            rms[i] = float(np.sqrt(np.mean(good**2))) / scale[i]
    return rms, count


def _weights(stars: Floats, placed: Matches, scale: Floats) -> Floats:
    """Inverse variance of each sighting's position (canvas pixels)."""
    table = stars[placed.frame, placed.row]
    snr = table[:, 2] / np.maximum(table[:, 3], 1e-30)
    sigma = np.hypot(_POSITION_FLOOR, table[:, 4] / 2.355 / np.maximum(snr, 1.0)) * scale[placed.frame]
    return np.asarray(1.0 / sigma**2)


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
    """
    n = session.sizes["frame"]
    reason = list(canvas_reason)
    use = in_canvas.copy()
    status = summary[:, -1]
    for i in np.nonzero(use)[0].tolist():
        if status[i] == 1:
            reason[i] = "no valid pixels"
        elif status[i] not in (0, 3):
            reason[i] = "cannot be read"
        use[i] = not reason[i]
    shift = np.zeros((n, 2))
    residual, count = np.full(n, np.nan), np.zeros(n, np.int64)
    layout = _lay_out(session, grid, use)
    placed = place_stars(session, stars, grid, use=use, limit=STARS_PER_FRAME)
    edges = np.searchsorted(placed.frame, np.arange(n + 1))
    positions = np.stack([placed.x, placed.y], axis=-1)
    points = {int(i): positions[edges[i] : edges[i + 1]] for i in np.nonzero(use)[0]}
    coarse = _align(layout, points, use, search=search, tolerance=tolerance, min_matches=min_matches)
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
    prior = np.where(displaced, 0.0, 1.0 / WCS_SIGMA**2)
    for attempt in range(4):
        translation, residual, count = _refine(
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
        bad = use & (count >= min_matches) & (residual > max_residual)
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
        moved = use & np.isfinite(layout.scale)
        shift[moved] = -np.linalg.solve(layout.jacobian[moved], translation[moved][..., None])[..., 0]
    shift[~use] = 0.0
    return Registration(use, tuple(r[:200] for r in reason), shift, residual, count, _islands(layout, use))


def _refine(
    stars: Floats,
    placed: Detections,
    layout: _Layout,
    use: Bools,
    translation: Floats,
    prior: Floats,
    *,
    move: bool,
    tolerance: float,
    min_matches: int,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Link and solve until the links are stable: total translations, residuals, matches."""
    n = len(use)
    mine = placed.take(use[placed.frame])
    typical = float(np.median(layout.scale[use])) if use.any() else 1.0
    residual, count = np.full(n, np.nan), np.zeros(n, np.int64)
    for radius in (tolerance, max(0.5 * tolerance, 1.0)) if move else (tolerance,):
        at = Detections(
            mine.frame, mine.row, mine.x + translation[mine.frame, 0], mine.y + translation[mine.frame, 1]
        )
        matches = link_stars(at, tolerance=radius * typical)
        if not matches.objects:
            return translation, residual, count
        base = _weights(stars, matches, layout.scale)
        # A frame known by a handful of chance hits must not be moved by them.
        seen = np.bincount(matches.frame, minlength=n)
        base = np.where(seen[matches.frame] >= min_matches, base, 1e-12)
        weight = base.copy()
        step = np.zeros((n, 2))
        each = scatter(matches, weight, step)
        for _ in range(4 if move else 0):
            step = solve_shifts(matches, weight, -translation, prior, n)
            each = scatter(matches, base, step)
            distance = np.hypot(each[:, 0], each[:, 1])
            limit = 2.5 * max(float(np.nanmedian(distance)), 0.02)
            # Huber: beyond the limit a star pulls with constant force.
            factor = np.where(distance > limit, limit / np.maximum(distance, 1e-12), 1.0)
            weight = base * np.where(np.isfinite(factor), factor, 1.0)
        translation = translation + step
        residual, count = _per_frame(matches, each, layout.scale)
    return translation, residual, count


def _islands(layout: _Layout, use: Bools) -> NDArray[np.int64]:
    """Connected pieces of overlapping footprints, the one with most frames first; -1 for unused frames."""
    island = np.full(len(use), -1, np.int64)
    left = use & np.isfinite(layout.radius)
    pieces = []
    while left.any():
        start = int(np.argmax(left))
        left[start] = False
        members, queue = [start], deque([start])
        while queue:
            reached = layout.overlapping(queue.popleft(), left)
            left[reached] = False
            members.extend(reached)
            queue.extend(reached)
        pieces.append(members)
    for label, members in enumerate(sorted(pieces, key=lambda m: (-len(m), m[0]))):
        island[members] = label
    return island


def _task(
    stars: Floats, summary: Floats, table: dict[str, NDArray[Any]], canvas: Canvas, options: dict[str, Any]
) -> Any:
    session = xr.Dataset({name: ("frame", values) for name, values in table.items()})
    result = solve_registration(
        session,
        np.asarray(stars),
        np.asarray(summary),
        canvas.grid,
        in_canvas=canvas.inside,
        canvas_reason=canvas.reason,
        **options,
    )
    return {
        "use": result.use,
        "reason": np.array(result.reason, dtype="<U200"),
        "shift": result.shift,
        "residual": result.residual,
        "matches": result.matches,
        "island": result.island,
    }


def _pick(result: dict[str, Any], name: str) -> Any:
    return result[name]


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
    *,
    pixel_scale: Annotated[float | None, Param(unit="arcsec", low=1e-4, high=3600)] = None,
    projection: Projection = "auto",
    orientation: Orientation = "north",
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
    pixel_scale
        Side of a canvas pixel; none takes that of the frames.
    projection
        Of the canvas, a FITS code; auto is TAN, or ZEA for fields wider than 24 degrees.
    orientation
        north: north up, east left; frames: the rotation of the frames, where they share one within a degree.
    tile
        Side of the square tiles the canvas is cut into.
    max_gap
        Empty sky, in frame diagonals, that still lets separate fields share a canvas; frames further away are
        left out when they are few, and refused when they are many.
    max_canvas
        Largest canvas that is accepted.
    refine
        shift: one global solve of a shift a frame; none: the WCS as it is, verified only.
    search
        How far from its WCS position a frame is looked for, a side.
    tolerance
        Distance at which two detections may be one star, and beyond which a WCS counts as wrong.
    max_residual
        Frames whose stars disagree more than this (rms) with overlapping frames are left out.
    min_matches
        Fewer matching stars than this prove nothing: such frames stay on their WCS.

    Returns
    -------
    xarray.Dataset
        Over `frame`: `use`, `reason`, `shift` (frame, axis: x, y; frame pixels), `residual`, `matches`, `island`
        lazy, one task for all; `in_canvas`, `canvas_reason` known now. The grid is in the attributes.

    Raises
    ------
    DataError
        If no frame has a WCS, or the frames lie in far groups of which none is clearly the largest.
    CapacityError
        If the canvas exceeds `max_canvas`.
    """
    canvas = automatic_canvas(
        session,
        pixel_scale=pixel_scale,
        projection=projection,
        orientation=orientation,
        tile=tile,
        max_gap=max_gap,
        max_canvas=max_canvas,
    )
    options = {
        "refine": refine,
        "search": search,
        "tolerance": tolerance,
        "max_residual": max_residual,
        "min_matches": min_matches,
    }
    table = {name: session[name].values for name in ("wcs", "height", "width")}
    stars, summary = (da.asarray(measurement[name].data) for name in ("stars", "summary"))
    token = tokenize("register", stars, summary, table, canvas.grid, canvas.reason, options)
    solved = delayed(_task, pure=True)(stars, summary, table, canvas, options, dask_key_name=f"register-{token}")
    n = session.sizes["frame"]
    kinds: dict[str, tuple[Any, tuple[int, ...], tuple[str, ...]]] = {
        "use": (np.bool_, (n,), ("frame",)),
        "reason": ("<U200", (n,), ("frame",)),
        "shift": (np.float64, (n, 2), ("frame", "axis")),
        "residual": (np.float64, (n,), ("frame",)),
        "matches": (np.int64, (n,), ("frame",)),
        "island": (np.int64, (n,), ("frame",)),
    }
    variables: dict[str, Any] = {}
    for name, (dtype, shape, dims) in kinds.items():
        part = delayed(_pick, pure=True)(solved, name, dask_key_name=f"register-pick-{name}-{token}")
        variables[name] = (dims, da.from_delayed(part, shape, dtype=dtype, name=f"register-{name}-{token}"))
    variables["in_canvas"] = ("frame", canvas.inside)
    variables["canvas_reason"] = ("frame", np.array(canvas.reason, dtype="<U200"))
    return xr.Dataset(
        variables,
        coords={"frame": session["frame"].values, "axis": ["x", "y"]},
        attrs=canvas.grid.to_attrs(),
    )
