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

from skyloom.ops.registration.bundle_problem import Curvature, Problem, State, distortion_terms, from_others
from skyloom.ops.registration.bundle_step import DEGREES, Prior
from skyloom.ops.registration.pairs import Edge
from skyloom.ops.registration.placing import Place, directions, rescale, tangent_basis
from skyloom.ops.registration.tied import Tie, tie_of

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

LEAST_SIGHTINGS = 300
"""Sightings of a camera from which on its distortion is solved for."""
LEAST_LEVER = 2e-3
"""How far a star has to move over the sensor (rms, of the half diagonal) for its distortion to be solved for.

Centroids are off by thousandths of a pixel for reasons that do not average out; over a shorter way those become
tens of pixels.
"""
KNOWN = 0.15
"""Relative error below which the scale that the stars suggest is taken."""
_ROUNDS = 6
_LEAP = 16.0  # of the square of the scale, a round
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
    tie: Tie | None = None
    """How well the frames are tied to each other, where that was asked for."""


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


@dataclass(frozen=True)
class Scale:
    """What is known of the scale of a mosaic before its stars are compared."""

    expected: float
    """Radians a pixel, of the median frame."""
    spread: float
    """Relative standard deviation; 0 = it is right."""


def solve_bundle(
    places: Mapping[int, Place],
    camera: Mapping[int, int],
    half: Mapping[int, float],
    stars: Mapping[int, Floats],
    sigma: Mapping[int, Floats],
    sightings: Sightings,
    *,
    distortion: bool = True,
    scale: Scale | None = None,
    tie: bool = False,
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
        Solve for the distortion of cameras with `LEAST_SIGHTINGS` sightings whose stars move by `LEAST_LEVER`.
    scale
        What is known of the scale of the whole; None = that of the places is right.
    tie
        Find out how well the frames are tied to each other, too.

    Notes
    -----
    On a sphere panels fit together at one scale only: laid out at half the true one, the corners of a mosaic nine
    degrees wide lie 10 px off, and no residual shows it. Where stars cannot tell either (the sky is all but flat
    over a degree or two) and `scale` is no help, the places keep theirs.
    """
    frames = sorted(places)
    problem = _problem(frames, places, camera, half, stars, sigma, sightings, distortion)
    state = State(np.zeros((len(frames), 2, 3)), np.zeros((len({camera[f] for f in frames}), 2, len(DEGREES))))
    weight, residual = problem.base.copy(), np.full((len(problem.base), 2), np.nan)
    expected, spread = 1.0, 0.0
    if scale is not None and scale.spread > 0:
        expected = (scale.expected / float(np.median([p.scale for p in places.values()]))) ** 2
        spread = 2.0 * scale.spread * expected
    for round_ in range(_ROUNDS if problem.count else 0):
        y, slope = problem.offsets(places, state, weight)
        residual = from_others(y, problem.objects, problem.count, problem.base)
        distance = np.hypot(*residual.T)
        limit = 2.5 * max(float(np.nanmedian(distance)), 0.02)
        with np.errstate(invalid="ignore"):
            # Huber: beyond the limit a star pulls with constant force; in the end what is far off is no star.
            factor = np.where(distance > limit, limit / np.maximum(distance, 1e-12), 1.0)
            if round_ >= _ROUNDS // 2:
                factor = np.where(distance > _FAR * limit, 1e-9, factor)
        # Against the priors stars count by the errors they have, not by those they were thought to have.
        excess = problem.excess(residual) if round_ else 1.0
        weight = problem.base / excess * np.where(np.isfinite(factor), factor, 1.0)
        normal = problem.equations(slope, weight)
        step = normal.solve(-normal.against(y.ravel()) - problem.prior.apply(problem.vector(state)))
        square = state.square
        if spread > 0:
            curve = Curvature(normal, problem.by_square(places, state, weight, y), spread)
            found = square + curve.step(y, step, square - expected)
            found = float(np.clip(found, square / _LEAP, square * _LEAP))
            if curve.sigma < 2.0 * KNOWN * found:
                step = step - curve.along * (found - square)
                square = found
        state = problem.moved(state, step, square)
        if round_ > _ROUNDS // 2 and np.abs(step).max() < _SETTLED:
            break
    now = rescale(places, float(np.sqrt(state.square))) if state.square != 1.0 else places
    every = np.full((len(sightings.frame), 2), np.nan)
    every[np.isin(sightings.frame, frames)] = residual
    return Bundle(
        {f: _fold(now[f], state.linear[i], half[f]) for i, f in enumerate(frames)},
        {label: state.bend[i] for i, label in enumerate(sorted({camera[f] for f in frames}))},
        every,
        tie_of(problem, places, state, weight, spread) if tie and problem.count else None,
    )


def _problem(
    frames: list[int],
    places: Mapping[int, Place],
    camera: Mapping[int, int],
    half: Mapping[int, float],
    stars: Mapping[int, Floats],
    sigma: Mapping[int, Floats],
    sightings: Sightings,
    distortion: bool,
) -> Problem:
    """Sightings in arrays; arguments as of `solve_bundle`."""
    keep = np.isin(sightings.frame, frames)
    _, objects = np.unique(sightings.object[keep], return_inverse=True)
    frame = np.searchsorted(frames, sightings.frame[keep])
    first = np.cumsum([0, *(len(stars[f]) for f in frames)])
    at = first[frame] + sightings.row[keep]
    pixels = np.concatenate([np.empty((0, 2)), *(stars[f] for f in frames)])[at]
    pixels = pixels - np.array([places[f].middle for f in frames])[frame]
    error = np.concatenate([np.empty(0), *(sigma[f] for f in frames)])[at]
    labels = sorted({camera[f] for f in frames})
    mine = np.array([labels.index(camera[f]) for f in frames], dtype=np.intp)
    seen = np.bincount(mine[frame], minlength=len(labels))
    q = pixels / np.array([half[f] for f in frames])[frame, None]
    known = (seen >= LEAST_SIGHTINGS) & (_levers(q, objects, mine[frame], len(labels)) >= LEAST_LEVER)
    bends = np.flatnonzero(known) if distortion else np.empty(0, np.intp)
    # One frame stays where it is: the sky as a whole can be turned without any star noticing.
    held = int(np.argmax(np.bincount(frame, minlength=len(frames)))) if len(frame) else 0
    return Problem(
        frames=frames,
        frame=frame,
        objects=objects,
        count=int(objects.max(initial=-1)) + 1,
        pixels=pixels,
        base=1.0 / np.maximum(error, 1e-3) ** 2,
        linear_terms=np.concatenate([np.ones((len(q), 1)), q], axis=1),
        bend_terms=distortion_terms(q),
        camera=mine,
        bends=bends,
        prior=Prior(mine, len(bends), held),
    )


def _levers(q: Floats, objects: Indices, camera: Indices, cameras: int) -> Floats:
    """(cameras,) how far the stars of a camera's frames lie from their mean places on its sensor, rms."""
    if len(q) == 0:
        return np.zeros(cameras)
    _, star = np.unique(objects * cameras + camera, return_inverse=True)
    seen = np.bincount(star)
    mean = np.stack([np.bincount(star, q[:, k]) / seen for k in (0, 1)], axis=1)
    square = ((q - mean[star]) ** 2).sum(axis=1)
    # Who is seen once by a camera says nothing of its distortion.
    counts = seen[star] > 1
    shares = np.bincount(camera[counts], minlength=cameras)
    return np.asarray(np.sqrt(np.bincount(camera[counts], square[counts], cameras) / np.maximum(shares, 1)))


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
