"""One solution for all frames: every star seen twice says where two frames lie against each other.

Pixel p of frame f, camera c, with q = (p − middle) / half:

    u = p + D_c·(terms of degree 2 and 3 of q) + X_f·(1, q_x, q_y),   sky = place_f(u)

The positions of the stars are eliminated (the weighted mean of their sightings), so the unknowns are the six
numbers of X_f and the fourteen of D_c. Frames of a camera share its scale but for a prior: through narrow overlaps
alone a mosaic would bend. Gauss–Newton with Huber weights; the normal equations are factored while they are small,
and solved by conjugate gradients when they are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from skyloom.ops.normalization.joint import conjugate_gradients
from skyloom.ops.registration.pairs import Edge
from skyloom.ops.registration.placing import Place, directions, tangent_basis

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

DEGREES = ((2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3))
"""Powers of x and y in the distortion of a camera."""
LEAST_SIGHTINGS = 300
"""Sightings of a camera from which on its distortion is solved for."""
PRIOR_SCALE, PRIOR_SHEAR, PRIOR_FREE = 0.2, 0.3, 1e3
"""What a frame may differ from its camera's mean in scale, be sheared, and be moved or turned (px at the edge).

Focus and temperature change a focal length by 1e-5 to 1e-4, refraction stretches a frame by some 1e-4.
"""
PRIOR_WHOLE = 1e-3
"""What the mean scale of all frames may change (px at the edge)."""
_SCALE = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 1.0]) / np.sqrt(2.0)
PRIOR_RADIAL, PRIOR_TILT, PRIOR_ODD = 30.0, 10.0, 0.1
"""Distortion (px at the edge) that is radial; of a tilted or decentred lens; and of any other form.

Overlaps do not see all of it: a stretch of every frame along y moves the panels apart and nothing else.
"""
_ROUNDS = 6
_FAR = 3.0
_SETTLED = 2e-3  # px
_FULL = 2e7
DENSE_LIMIT = 3000
"""Unknowns up to which the normal matrix is factored."""


@dataclass(frozen=True)
class Sightings:
    """Stars seen by two frames or more."""

    frame: Indices
    """(sightings,)"""
    row: Indices
    """Row of the frame's star list."""
    object: Indices
    """0 … objects − 1."""

    @property
    def objects(self) -> int:
        """Number of stars."""
        return int(self.object.max(initial=-1)) + 1


@dataclass(frozen=True)
class Bundle:
    """The solution."""

    places: dict[int, Place]
    distortion: dict[int, Floats]
    """Camera → (2, 7) pixels, coefficients of `DEGREES` in q; zeros where the data do not support one."""
    residual: Floats
    """(sightings, 2) pixels from the mean of the same star in the other frames; NaN where none counts."""


def join_edges(edges: Sequence[Edge], counts: Mapping[int, int]) -> Sightings:
    """Stars from the matches of all pairs.

    Parameters
    ----------
    edges
        Verified pairs.
    counts
        Frame → stars in its list.

    Notes
    -----
    A chain of matches that comes back to the same frame at another star is two stars in one: it is dropped.
    """
    frames = sorted(counts)
    offset = dict(
        zip(frames, np.concatenate([[0], np.cumsum([counts[f] for f in frames])]).tolist(), strict=False)
    )
    total = sum(counts.values())
    a = np.concatenate([np.empty(0, np.intp), *(e.row_a + offset[e.a] for e in edges)]).astype(np.intp)
    b = np.concatenate([np.empty(0, np.intp), *(e.row_b + offset[e.b] for e in edges)]).astype(np.intp)
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(total, total))
    _, label = connected_components(graph, directed=False)
    frame = np.repeat(np.array(frames, np.intp), [counts[f] for f in frames])
    row = np.concatenate([np.empty(0, np.intp), *(np.arange(counts[f]) for f in frames)])
    size = np.bincount(label)
    twice = np.zeros(len(size), np.bool_)
    order = np.lexsort((frame, label))
    same = (label[order][1:] == label[order][:-1]) & (frame[order][1:] == frame[order][:-1])
    twice[label[order][1:][same]] = True
    keep = np.flatnonzero((size[label] >= 2) & ~twice[label])
    _, objects = np.unique(label[keep], return_inverse=True)
    return Sightings(frame[keep], row[keep].astype(np.intp), objects.astype(np.intp))


def distortion_terms(q: Floats) -> Floats:
    """(n, 7) terms of degree 2 and 3."""
    x, y = q.T
    return np.stack([x**i * y**j for i, j in DEGREES], axis=-1)


def solve_bundle(
    places: Mapping[int, Place],
    camera: Mapping[int, int],
    half: Mapping[int, float],
    stars: Mapping[int, Floats],
    sigma: Mapping[int, Floats],
    sightings: Sightings,
    *,
    distortion: bool = True,
) -> Bundle:
    """Solve for all frames at once.

    Parameters
    ----------
    places
        Frame → where it looks, roughly.
    camera
        Frame → label of its camera (and session): frames of one share a distortion.
    half
        Frame → half its diagonal (px).
    stars, sigma
        Frame → (stars, 2) positions and (stars,) their errors (px).
    sightings
        Which stars are the same.
    distortion
        Solve for the distortion of cameras with `LEAST_SIGHTINGS` sightings.
    """
    frames = sorted(places)
    number = {f: i for i, f in enumerate(frames)}
    keep = np.isin(sightings.frame, frames)
    _, objects = np.unique(sightings.object[keep], return_inverse=True)
    frame = np.array([number[f] for f in sightings.frame[keep].tolist()], dtype=np.intp)
    row = sightings.row[keep]
    pixels = np.array([stars[frames[f]][r] for f, r in zip(frame.tolist(), row.tolist(), strict=True)]).reshape(
        -1, 2
    )
    error = np.array([sigma[frames[f]][r] for f, r in zip(frame.tolist(), row.tolist(), strict=True)])
    middle = np.array([places[f].middle for f in frames])
    halves = np.array([half[f] for f in frames])
    labels = sorted({camera[f] for f in frames})
    mine = np.array([labels.index(camera[f]) for f in frames], dtype=np.intp)
    seen = np.bincount(mine[frame], minlength=len(labels))
    bends = np.flatnonzero(seen >= LEAST_SIGHTINGS) if distortion else np.empty(0, np.intp)
    q = (pixels - middle[frame]) / halves[frame, None]
    linear_terms = np.concatenate([np.ones((len(q), 1)), q], axis=1)
    bend_terms = distortion_terms(q)
    count = int(objects.max(initial=-1)) + 1
    state = _State(np.zeros((len(frames), 2, 3)), np.zeros((len(labels), 2, len(DEGREES))))
    basis = np.array([places[f].basis for f in frames])
    linear = np.array([places[f].linear for f in frames])
    scale = float(np.median([places[f].scale for f in frames])) if frames else 1.0
    base = 1.0 / np.maximum(error, 1e-3) ** 2
    weight = base.copy()
    columns = _columns(frame, mine[frame], bends, len(frames))
    # One frame stays where it is: the sky as a whole can be turned without any star noticing.
    held = int(np.argmax(np.bincount(frame, minlength=len(frames)))) if len(frame) else 0
    prior = _Prior(mine, len(bends), held)
    residual = np.full((len(q), 2), np.nan)
    for round_ in range(_ROUNDS if count else 0):
        moved = pixels - middle[frame]
        moved += np.einsum("sij,sj->si", state.linear[frame], linear_terms)
        moved += np.einsum("sij,sj->si", state.bend[mine[frame]], bend_terms)
        plane = np.einsum("sij,sj->si", linear[frame], moved)
        vectors = basis[frame, 2] + np.einsum("sk,skv->sv", plane, basis[frame, :2])
        y, slope = _offsets(vectors, basis[frame], linear[frame], objects, count, weight)
        y, slope = y / scale, slope / scale
        residual = _others(y, objects, count, base)
        distance = np.hypot(*residual.T)
        limit = 2.5 * max(float(np.nanmedian(distance)), 0.02)
        with np.errstate(invalid="ignore"):
            # Huber: beyond the limit a star pulls with constant force; in the end what is far off is no star.
            factor = np.where(distance > limit, limit / np.maximum(distance, 1e-12), 1.0)
            if round_ >= _ROUNDS // 2:
                factor = np.where(distance > _FAR * limit, 1e-9, factor)
        weight = base * np.where(np.isfinite(factor), factor, 1.0)
        jacobian = _jacobian(slope, linear_terms, bend_terms, columns, bends, mine[frame], len(frames))
        x = np.concatenate([state.linear.reshape(-1), state.bend[bends].reshape(-1)])
        step = _step(jacobian, y, objects, count, weight, prior, x, len(frames))
        x = x + step
        split = 6 * len(frames)
        bend = state.bend.copy()
        bend[bends] = x[split:].reshape(-1, 2, len(DEGREES))
        state = _State(x[:split].reshape(-1, 2, 3), bend)
        if round_ > _ROUNDS // 2 and np.abs(step).max() < _SETTLED:
            break
    solved = {f: _fold(places[f], state.linear[i], halves[i]) for f, i in number.items()}
    every = np.full((len(sightings.frame), 2), np.nan)
    every[keep] = residual
    return Bundle(solved, {label: state.bend[i] for i, label in enumerate(labels)}, every)


@dataclass(frozen=True)
class _State:
    linear: Floats
    """(frame, 2, 3) X."""
    bend: Floats
    """(camera, 2, 7) D."""


def _offsets(
    vectors: Floats, basis: Floats, linear: Floats, objects: Indices, count: int, weight: Floats
) -> tuple[Floats, Floats]:
    """Positions (radians) in the tangent plane at each star's mean, and their slopes by pixels, (n, 2, 2)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = np.stack([np.bincount(objects, weight * unit[:, k], count) for k in range(3)], axis=-1)
    mean = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    pole = np.array([0.0, 0.0, 1.0])
    east = np.cross(pole, mean)
    short = np.linalg.norm(east, axis=1) < 1e-12
    east[short] = (0.0, 1.0, 0.0)
    east = east / np.linalg.norm(east, axis=1, keepdims=True)
    north = np.cross(mean, east)
    plane_basis = np.stack([east, north], axis=1)[objects]
    depth = np.einsum("sv,sv->s", mean[objects], vectors)
    y = np.einsum("skv,sv->sk", plane_basis, vectors) / depth[:, None]
    along = np.einsum("skv,sjv->skj", plane_basis, basis[:, :2])
    toward = np.einsum("sv,sjv->sj", mean[objects], basis[:, :2])
    slope = (along - y[:, :, None] * toward[:, None, :]) / depth[:, None, None]
    return y, slope @ linear


def _columns(frame: Indices, camera: Indices, bends: Indices, frames: int) -> tuple[Indices, Indices]:
    """First unknown of each sighting's frame and, −1 for none, of its camera."""
    where = np.full(int(camera.max(initial=-1)) + 1, -1, np.intp)
    where[bends[bends < len(where)]] = 6 * frames + 2 * len(DEGREES) * np.arange(len(bends[bends < len(where)]))
    return frame * 6, where[camera] if len(camera) else np.empty(0, np.intp)


def _jacobian(
    slope: Floats,
    linear_terms: Floats,
    bend_terms: Floats,
    columns: tuple[Indices, Indices],
    bends: Indices,
    camera: Indices,
    frames: int,
) -> csr_array:
    """(2 sightings, unknowns): row 2 s + k is component k of sighting s."""
    samples = len(slope)
    own, shared = columns
    parts = []
    rows = np.arange(2 * samples).reshape(samples, 2)
    for start, terms, here in (
        (own, linear_terms, np.arange(samples)),
        (shared, bend_terms, np.flatnonzero(shared >= 0)),
    ):
        degree = terms.shape[1]
        values = slope[here][:, :, :, None] * terms[here][:, None, None, :]
        column = start[here][:, None, None] + np.arange(2 * degree).reshape(2, degree)[None]
        shape = values.shape
        parts.append(
            (
                values.ravel(),
                np.broadcast_to(rows[here][:, :, None, None], shape).ravel(),
                np.broadcast_to(column[:, None], shape).ravel(),
            )
        )
    data, row, col = (np.concatenate(p) for p in zip(*parts, strict=True))
    size = 6 * frames + 2 * len(DEGREES) * len(bends)
    return csr_array(coo_array((data, (row, col)), shape=(2 * samples, size)))


class _Prior:
    """Inverse variances of the unknowns."""

    def __init__(self, camera: Indices, bends: int, held: int) -> None:
        # Order of the six: x: 1, q_x, q_y; y: 1, q_x, q_y.
        directions_of = {
            "x": ((1, 0, 0, 0, 0, 0), PRIOR_FREE),
            "y": ((0, 0, 0, 1, 0, 0), PRIOR_FREE),
            "turn": ((0, 0, -1, 0, 1, 0), PRIOR_FREE),
            "scale": ((0, 1, 0, 0, 0, 1), PRIOR_FREE),
            "stretch": ((0, 1, 0, 0, 0, -1), PRIOR_SHEAR),
            "shear": ((0, 0, 1, 0, 1, 0), PRIOR_SHEAR),
        }
        own = np.zeros((6, 6))
        for direction, spread in directions_of.values():
            unit = np.array(direction, dtype=np.float64)
            unit /= np.linalg.norm(unit)
            own += np.outer(unit, unit) / spread**2
        self.own = np.repeat(own[None], len(camera), axis=0)
        if len(camera):
            self.own[held] += np.diag([1.0, 0.0, 0.5, 1.0, 0.5, 0.0]) / PRIOR_WHOLE**2
            self.own[held, 2, 4] -= 0.5 / PRIOR_WHOLE**2
            self.own[held, 4, 2] -= 0.5 / PRIOR_WHOLE**2
        self.camera = camera
        self.size = np.bincount(camera).astype(np.float64)
        self.bend = _bend_precision()
        self.cameras = bends

    @property
    def block(self) -> Floats:
        """(frame, 6, 6) part of each frame."""
        return self.own + np.outer(_SCALE, _SCALE) / PRIOR_SCALE**2

    def apply(self, v: Floats) -> Floats:
        """Λ v; v is (unknowns,) or (unknowns, columns)."""
        split = 6 * len(self.camera)
        frames = v[:split].reshape(len(self.camera), 6, -1)
        out = self.own @ frames
        scale = np.einsum("j,fjc->fc", _SCALE, frames)
        mean = np.zeros((len(self.size), scale.shape[1]))
        np.add.at(mean, self.camera, scale)
        mean /= np.maximum(self.size, 1.0)[:, None]
        held = (scale - mean[self.camera]) / PRIOR_SCALE**2
        # Without a fixed scale of the whole the best agreement is that of frames shrunk to nothing.
        held += scale.sum(axis=0) / len(scale) / PRIOR_WHOLE**2
        out += _SCALE[None, :, None] * held[:, None, :]
        rest = np.einsum(
            "ij,kjc->kic", self.bend, v[split:].reshape(self.cameras, len(self.bend), frames.shape[2])
        )
        return np.concatenate([out.reshape(v[:split].shape), rest.reshape(v[split:].shape)])


def _bend_precision() -> Floats:
    """(14, 14) inverse variances of a camera's distortion: x then y coefficients of `DEGREES`."""
    at = {degree: i for i, degree in enumerate(DEGREES)}
    y = len(DEGREES)
    likely = [
        ((at[3, 0], at[1, 2], y + at[2, 1], y + at[0, 3]), PRIOR_RADIAL),
        ((at[2, 0], y + at[1, 1]), PRIOR_TILT),
        ((at[1, 1], y + at[0, 2]), PRIOR_TILT),
        ((at[2, 0], at[0, 2]), PRIOR_TILT),
        ((y + at[2, 0], y + at[0, 2]), PRIOR_TILT),
    ]
    variance = np.eye(2 * y) * PRIOR_ODD**2
    for entries, spread in likely:
        unit = np.zeros(2 * y)
        unit[list(entries)] = 1.0 / np.sqrt(len(entries))
        variance += np.outer(unit, unit) * spread**2
    return np.asarray(np.linalg.inv(variance))


def _step(
    jacobian: csr_array,
    y: Floats,
    objects: Indices,
    count: int,
    weight: Floats,
    prior: _Prior,
    x: Floats,
    frames: int,
) -> Floats:
    """Gauss–Newton step with the stars' positions eliminated."""
    total = np.maximum(np.bincount(objects, weight, count), 1e-300)
    transposed = csr_array(jacobian.T)

    def centred(values: Floats) -> Floats:
        """W (values − mean over the star)."""
        v = values.reshape(-1, 2)
        mean = np.stack([np.bincount(objects, weight * v[:, k], count) / total for k in range(2)], axis=-1)
        return np.asarray((weight[:, None] * (v - mean[objects])).ravel())

    def apply(v: Floats) -> Floats:
        return np.asarray(transposed @ centred(jacobian @ v)) + prior.apply(v)

    right = -np.asarray(transposed @ centred(y.ravel())) - prior.apply(x)
    if len(x) <= DENSE_LIMIT:
        matrix = _dense(jacobian, objects, count, weight, total)
        matrix += prior.apply(np.eye(len(x)))
        factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        return np.asarray(scipy.linalg.cho_solve(factor, right, check_finite=False))
    precondition = _preconditioner(jacobian, objects, weight, total, prior, frames)
    step, _ = conjugate_gradients(apply, right, np.zeros_like(right), precondition, tolerance=1e-8, limit=4000)
    return step


def _dense(jacobian: csr_array, objects: Indices, count: int, weight: Floats, total: Floats) -> Floats:
    """JᵀWJ − JᵀWS (SᵀWS)⁻¹ SᵀWJ, S the star of each sighting."""
    root = np.repeat(np.sqrt(weight), 2)
    scaled = csr_array(jacobian.multiply(root[:, None]))
    column = (2 * objects[:, None] + np.arange(2)).ravel()
    share = np.sqrt(np.repeat(weight / total[objects], 2))
    stars = csr_array(coo_array((share, (np.arange(len(column)), column)), shape=(len(column), 2 * count)))
    seen = csr_array(stars.T @ scaled)
    own = (scaled.T @ scaled).toarray()
    if seen.shape[0] * seen.shape[1] <= _FULL:
        # Deep stacks: most frames see most stars, and the sparse product would be full anyway.
        whole = seen.toarray()
        return np.asarray(own - whole.T @ whole)
    return np.asarray(own - (seen.T @ seen).toarray())


def _preconditioner(
    jacobian: csr_array,
    objects: Indices,
    weight: Floats,
    total: Floats,
    prior: _Prior,
    frames: int,
) -> Callable[[Floats], Floats]:
    """Inverse of each frame's own block, and of the cameras' block."""
    split = 6 * frames
    own = np.repeat(weight * (1.0 - weight / total[objects]), 2)
    scaled = csr_array(jacobian.multiply(np.sqrt(own)[:, None]))
    samples = scaled[:, :split].tocoo()
    # Every row has the six entries of its frame, side by side.
    order = np.lexsort((samples.col, samples.row))
    values = samples.data[order].reshape(-1, 6)
    frame = samples.col[order].reshape(-1, 6)[:, 0] // 6
    blocks = np.zeros((frames, 6, 6))
    np.add.at(blocks, frame, values[:, :, None] * values[:, None, :])
    inverse = np.linalg.inv(blocks + prior.block)
    rest = scaled[:, split:]
    shared = np.zeros((0, 0))
    if prior.cameras:
        shared = np.linalg.inv((rest.T @ rest).toarray() + np.kron(np.eye(prior.cameras), prior.bend))

    def solve(r: Floats) -> Floats:
        first = np.einsum("fij,fj->fi", inverse, r[:split].reshape(-1, 6)).ravel()
        return np.concatenate([first, shared @ r[split:]])

    return solve


def _others(y: Floats, objects: Indices, count: int, weight: Floats) -> Floats:
    """Distance of each sighting from the mean of the others of its star."""
    total = np.bincount(objects, weight, count)
    rest = total[objects] - weight
    out = np.empty_like(y)
    for k in range(2):
        sums = np.bincount(objects, weight * y[:, k], count)
        out[:, k] = y[:, k] - (sums[objects] - weight * y[:, k]) / np.maximum(rest, 1e-300)
    return np.where((rest > 1e-9 * weight)[:, None], out, np.nan)


def _fold(place: Place, change: Floats, half: float) -> Place:
    """Place with the correction X taken into its tangent point and its linear part."""
    linear = place.linear @ (np.eye(2) + change[:, 1:] / half)
    origin = place.linear @ change[:, 0]
    old = place.basis
    centre = directions(origin[None], old)[0]
    new = tangent_basis(centre)
    # Slope of the new plane's coordinates by the old ones', at the new tangent point.
    vector = old[2] + origin @ old[:2]
    slope = new[:2] @ old[:2].T / float(new[2] @ vector)
    return replace(place, centre=centre, linear=slope @ linear)
