"""One solution for all frames: every star seen twice says where two frames lie against each other.

Pixel p of frame f, camera c, with q = (p − middle) / half:

    u = p + D_c·(terms of degree 2 and 3 of q) + X_f·(1, q_x, q_y),   sky = place_f(u)

The positions of the stars are eliminated (the weighted mean of their sightings), so the unknowns are the six
numbers of X_f and the fourteen of D_c. Frames of a camera share its scale but for a prior: through narrow overlaps
alone a mosaic would bend. Gauss–Newton with Huber weights; the normal equations are factored while they are small,
and solved by conjugate gradients when they are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skyloom.ops.registration.bundle_step import DEGREES, Prior, gauss_newton, jacobian
from skyloom.ops.registration.pairs import Edge
from skyloom.ops.registration.placing import Place, directions, tangent_basis

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

LEAST_SIGHTINGS = 300
"""Sightings of a camera from which on its distortion is solved for."""
_ROUNDS = 6
_FAR = 3.0
_SETTLED = 2e-3  # px


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
    frame = np.searchsorted(frames, sightings.frame[keep])
    first = np.cumsum([0, *(len(stars[f]) for f in frames)])
    at = first[frame] + sightings.row[keep]
    pixels = np.concatenate([np.empty((0, 2)), *(stars[f] for f in frames)])[at]
    error = np.concatenate([np.empty(0), *(sigma[f] for f in frames)])[at]
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
    which = np.full(len(labels), -1, np.intp)
    which[bends] = np.arange(len(bends))
    # One frame stays where it is: the sky as a whole can be turned without any star noticing.
    held = int(np.argmax(np.bincount(frame, minlength=len(frames)))) if len(frame) else 0
    prior = Prior(mine, len(bends), held)
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
        slopes = jacobian(slope, linear_terms, bend_terms, frame, which[mine[frame]], prior)
        x = np.concatenate([state.linear.reshape(-1), state.bend[bends].reshape(-1)])
        step = gauss_newton(slopes, y, objects, count, weight, prior, x)
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
