"""The sightings of a mosaic laid out in arrays, and the equations they give at a state of the unknowns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.registration.bundle_step import DEGREES, NormalEquations, Prior, jacobian
from skyloom.ops.registration.placing import Place, rescale

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_NUDGE = 1e-3  # of the scale's square, for slopes by it
_LEAST_EXCESS = 0.25  # frames with few stars give way to their noise
_MEDIAN = 1.386  # of chi² with two degrees of freedom


@dataclass(frozen=True)
class State:
    """Values of the unknowns."""

    linear: Floats
    """(frame, 2, 3) X."""
    bend: Floats
    """(camera, 2, 7) D."""
    square: float = 1.0
    """Square of the scale over that of the places at the start: the sky's curvature is linear in it."""


@dataclass(frozen=True)
class Problem:
    """Sightings and frames by number."""

    frames: list[int]
    """Their labels; `places` of methods have these keys."""
    frame: Indices
    """(sightings,) number of the frame."""
    objects: Indices
    """(sightings,) star."""
    count: int
    """Stars."""
    pixels: Floats
    """(sightings, 2) from the frame's middle."""
    base: Floats
    """(sightings,) inverse variances."""
    linear_terms: Floats
    bend_terms: Floats
    """(sightings, 3) and (sightings, 7)."""
    camera: Indices
    """(frame,) number of the camera."""
    bends: Indices
    """Cameras with a distortion."""
    prior: Prior

    def offsets(self, places: Mapping[int, Place], state: State, weight: Floats) -> tuple[Floats, Floats]:
        """Positions (px) about each star's mean, (sightings, 2), and their slopes by pixels, (sightings, 2, 2)."""
        at = places if state.square == 1.0 else rescale(places, float(np.sqrt(state.square)))
        basis = np.array([at[f].basis for f in self.frames])
        linear = np.array([at[f].linear for f in self.frames])
        size = float(np.median([at[f].scale for f in self.frames]))
        moved = self.pixels + np.einsum("sij,sj->si", state.linear[self.frame], self.linear_terms)
        moved += np.einsum("sij,sj->si", state.bend[self.camera[self.frame]], self.bend_terms)
        plane = np.einsum("sij,sj->si", linear[self.frame], moved)
        vectors = basis[self.frame, 2] + np.einsum("sk,skv->sv", plane, basis[self.frame, :2])
        y, slope = star_offsets(vectors, basis[self.frame], linear[self.frame], self.objects, self.count, weight)
        return y / size, slope / size

    def by_square(self, places: Mapping[int, Place], state: State, weight: Floats, y: Floats) -> Floats:
        """Slopes (sightings, 2) of the positions by the square of the scale."""
        nudged = State(state.linear, state.bend, state.square * (1.0 + _NUDGE))
        return (self.offsets(places, nudged, weight)[0] - y) / (_NUDGE * state.square)

    def equations(self, slope: Floats, weight: Floats) -> NormalEquations:
        """Of all unknowns but the scale."""
        which = np.full(int(self.camera.max(initial=-1)) + 1, -1, np.intp)
        which[self.bends] = np.arange(len(self.bends))
        slopes = jacobian(
            slope, self.linear_terms, self.bend_terms, self.frame, which[self.camera[self.frame]], self.prior
        )
        return NormalEquations(slopes, self.objects, self.count, weight, self.prior)

    def vector(self, state: State) -> Floats:
        """Unknowns as one vector."""
        return np.concatenate([state.linear.reshape(-1), state.bend[self.bends].reshape(-1)])

    def moved(self, state: State, step: Floats, square: float) -> State:
        """State after a step of the vector, at another square of the scale."""
        x = self.vector(state) + step
        split = 6 * len(self.frames)
        bend = state.bend.copy()
        bend[self.bends] = x[split:].reshape(-1, 2, len(DEGREES))
        return State(x[:split].reshape(-1, 2, 3), bend, square)

    def excess(self, residual: Floats) -> float:
        """Variance of the positions over what their errors say, by the median of all sightings."""
        total = np.bincount(self.objects, self.base, self.count)
        others = np.maximum(total[self.objects] - self.base, 1e-300)
        ratio = (residual**2).sum(axis=1) / (1.0 / self.base + 1.0 / others)
        return max(float(np.nanmedian(ratio)) / _MEDIAN, _LEAST_EXCESS)


def distortion_terms(q: Floats) -> Floats:
    """(n, 7) terms of degree 2 and 3."""
    x, y = q.T
    return np.stack([x**i * y**j for i, j in DEGREES], axis=-1)


class Curvature:
    """The one unknown all frames share: the square of the scale, the others eliminated.

    Parameters
    ----------
    normal
        Equations of the others.
    slope
        (sightings, 2) of the positions by it.
    spread
        Its standard deviation before a star is seen.
    """

    def __init__(self, normal: NormalEquations, slope: Floats, spread: float) -> None:
        self._slope, self._normal, self._spread = slope.ravel(), normal, spread
        centred = normal.centred(self._slope)
        self._coupling = normal.against(self._slope)
        self.along = normal.solve(self._coupling)
        """What the other unknowns give way by."""
        own = float(self._slope @ centred - self._coupling @ self.along)
        self._information = max(own, 0.0) + spread**-2
        self.sigma = self._information**-0.5
        """Standard deviation, with the stars."""

    def step(self, y: Floats, others: Floats, offset: float, draw: float = 0.0) -> float:
        """Change of the square; `others` is the step at a fixed one, `offset` how far it is from the expected."""
        right = -float(self._slope @ self._normal.centred(y.ravel())) - offset / self._spread**2
        return (right + draw / self._spread - float(self._coupling @ others)) / self._information


def star_offsets(
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


def from_others(y: Floats, objects: Indices, count: int, weight: Floats) -> Floats:
    """Distance of each sighting from the mean of the others of its star."""
    total = np.bincount(objects, weight, count)
    rest = total[objects] - weight
    out = np.empty_like(y)
    for k in range(2):
        sums = np.bincount(objects, weight * y[:, k], count)
        out[:, k] = y[:, k] - (sums[objects] - weight * y[:, k]) / np.maximum(rest, 1e-300)
    return np.where((rest > 1e-9 * weight)[:, None], out, np.nan)
