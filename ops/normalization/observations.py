"""What all frames see of one sky: samples by frame, at points which two or more frames share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.normalization.legendre import ORDERS, legendre

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class Samples:
    """Superpixels of one frame; 24 bytes each."""

    point: NDArray[np.int32]
    """Sky point (`Lattice.ids`), ascending, each once."""
    value: Floats
    """J·d: frame units a canvas pixel."""
    variance: Singles
    u: Singles
    """Detector coordinates, 0…1."""
    v: Singles

    def __len__(self) -> int:
        return int(self.point.size)

    def take(self, chosen: Bools) -> Samples:
        """Some of them."""
        return Samples(
            self.point[chosen], self.value[chosen], self.variance[chosen], self.u[chosen], self.v[chosen]
        )


def no_samples() -> Samples:
    """Return what a frame without usable cells has."""
    none = np.empty(0, np.float32)
    return Samples(np.empty(0, np.int32), np.empty(0), none, none, none)


@dataclass(frozen=True)
class Observations:
    """Where every sample lies, frame after frame.

    The terms of the surfaces are not kept: 15 numbers a sample would be most of the memory of a solve.
    """

    start: Ints
    """(frames + 1,): samples of frame f are start[f] : start[f + 1], their points ascending."""
    point: NDArray[np.int32]
    """0…points − 1; neighbours on the sky should have near numbers (speed only)."""
    u: Singles
    """Detector coordinates, 0…1; may be empty for order 0."""
    v: Singles
    order: int
    """Total degree of the surfaces."""
    points: int
    gain: Singles = field(default_factory=lambda: np.empty(0, np.float32))
    """Factor on the surface at each sample (`gains`); empty: 1 everywhere."""

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.start) - 1

    @property
    def terms(self) -> int:
        """K: unknowns a frame."""
        return len(ORDERS[self.order])

    @property
    def count(self) -> Ints:
        """Samples of each frame."""
        return np.diff(self.start)

    @property
    def frame(self) -> NDArray[np.int32]:
        """Frame of each sample (not kept)."""
        return np.repeat(np.arange(self.frames, dtype=np.int32), self.count)

    def basis(self) -> Floats:
        """Φ, shape (samples, K), for small problems."""
        if self.order == 0:
            terms = np.ones((len(self.point), 1))
        else:
            s, t = (2.0 * c.astype(np.float64) - 1.0 for c in (self.u, self.v))
            terms = legendre(s, t, self.order)
        return terms * self.gain[:, None] if len(self.gain) else terms

    def restrict(self, chosen: Bools) -> tuple[Ints, Observations]:
        """Samples of some frames (in their order) at points which two of them see, and their positions here."""
        ranges = [np.arange(self.start[f], self.start[f + 1]) for f in np.flatnonzero(chosen)]
        index = np.concatenate([np.empty(0, np.int64), *ranges])
        shared = np.bincount(self.point[index], minlength=self.points) >= 2
        keep = shared[self.point[index]]
        frame = np.repeat(np.arange(len(ranges)), [len(r) for r in ranges])[keep]
        index = index[keep]
        renumber = np.cumsum(shared, dtype=np.int32) - np.int32(1)
        u, v = (self.u[index], self.v[index]) if len(self.u) else (self.u, self.v)
        start = _starts(frame, len(ranges))
        gain = self.gain[index] if len(self.gain) else self.gain
        return index, Observations(start, renumber[self.point[index]], u, v, self.order, int(shared.sum()), gain)

    def without(self, left: Bools) -> tuple[Ints, Observations]:
        """Samples of all frames at points other than some, and their positions here.

        Parameters
        ----------
        left
            (points,): True leaves a point out.
        """
        keep = ~left[self.point]
        index = np.flatnonzero(keep)
        total = np.concatenate([[0], np.cumsum(keep)])
        renumber = np.cumsum(~left, dtype=np.int32) - np.int32(1)
        u, v = (self.u[index], self.v[index]) if len(self.u) else (self.u, self.v)
        gain = self.gain[index] if len(self.gain) else self.gain
        start, point, points = total[self.start], renumber[self.point[index]], int(np.count_nonzero(~left))
        return index, Observations(start, point, u, v, self.order, points, gain)


def select(
    frame: NDArray[np.integer], point: NDArray[np.integer], usable: Bools, *, frames: int
) -> tuple[Ints, Ints, NDArray[np.int32], int]:
    """Choose the samples that say something: usable, at points which two or more frames see.

    Parameters
    ----------
    frame, point
        Frame index and point id (not negative; memory goes with the largest) of each sample, any order; a frame
        sees a point once.
    usable
        Samples to consider.
    frames
        How many frames there are.

    Returns
    -------
    index
        Positions of the chosen samples, sorted by frame, then point.
    start
        (frames + 1,) where each frame begins in `index`.
    point
        Their points, renumbered 0… in the order of the ids.
    points
        How many points there are.
    """
    index = np.flatnonzero(usable)
    shared = np.bincount(point[index]) >= 2
    index = index[shared[point[index]]]
    renumber = np.cumsum(shared, dtype=np.int32) - np.int32(1)
    new = renumber[point[index]]
    order = np.lexsort((new, frame[index]))
    return index[order], _starts(frame[index], frames), new[order], int(shared.sum())


def _starts(frame: NDArray[np.integer], frames: int) -> Ints:
    start = np.zeros(frames + 1, dtype=np.int64)
    np.cumsum(np.bincount(frame, minlength=frames), out=start[1:])
    return start


def join_samples(
    samples: Sequence[Samples], scale: Sequence[float | Floats] | Floats, *, order: int
) -> tuple[Observations, Floats, Singles]:
    """Observations of many frames in common units.

    Parameters
    ----------
    samples
        Of each frame; what is not finite or has no positive variance does not count.
    scale
        Factor on each frame's values, or on each of them.
    order
        Total degree of the surfaces.

    Returns
    -------
    observations
        Of the samples at points which two or more frames see.
    value
        Theirs, less a number common to all.
    precision
        Inverse variance.

    Notes
    -----
    Two passes, so that nothing but the result is ever as long as all samples.
    """
    highest = max((int(s.point.max()) for s in samples if len(s)), default=-1)
    seen = np.zeros(highest + 1, dtype=np.int32)
    for s in samples:
        seen[s.point[_usable(s)]] += 1
    shared = seen >= 2
    number = np.cumsum(shared, dtype=np.int32) - np.int32(1)
    points = int(shared.sum())
    del seen
    start = np.zeros(len(samples) + 1, dtype=np.int64)
    for f, s in enumerate(samples):
        start[f + 1] = start[f] + np.count_nonzero(_usable(s) & shared[s.point])
    size = int(start[-1])
    point, value, precision = np.empty(size, np.int32), np.empty(size), np.empty(size, np.float32)
    u, v = np.empty(size, np.float32), np.empty(size, np.float32)
    for f, s in enumerate(samples):
        here, keep = slice(start[f], start[f + 1]), _usable(s) & shared[s.point]
        factor = np.broadcast_to(np.asarray(scale[f], dtype=np.float64), len(s))[keep]
        point[here] = number[s.point[keep]]
        value[here] = s.value[keep] * factor
        precision[here] = 1.0 / (s.variance[keep].astype(np.float64) * factor**2)
        u[here], v[here] = s.u[keep], s.v[keep]
    filled = np.flatnonzero(np.diff(start))
    if len(filled):
        value -= np.median([np.median(value[start[f] : start[f + 1]]) for f in filled])
    return Observations(start, point, u, v, order, points), value, precision


def _usable(samples: Samples) -> Bools:
    finite = np.isfinite(samples.value) & np.isfinite(samples.u) & np.isfinite(samples.v)
    return np.asarray(finite & np.isfinite(samples.variance) & (samples.variance > 0))


@njit(nogil=True, cache=True, fastmath=False)
def _root(parent, node):  # type: ignore[no-untyped-def]
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(nogil=True, cache=True, fastmath=False)
def _unite(start, point, points):  # type: ignore[no-untyped-def]
    """Component of each frame: the first frame of it."""
    frames = len(start) - 1
    parent = np.arange(frames)
    first = np.full(points, -1, np.int64)
    for f in range(frames):
        for i in range(start[f], start[f + 1]):
            p = point[i]
            if first[p] < 0:
                first[p] = f
            else:
                a, b = _root(parent, f), _root(parent, first[p])
                parent[max(a, b)] = min(a, b)
    for f in range(frames):
        parent[f] = _root(parent, f)
    return parent


def islands(observations: Observations) -> Ints:
    """Frames which points connect, numbered by first frame."""
    first = _unite(observations.start, observations.point, observations.points)
    return np.asarray(np.unique(first, return_inverse=True)[1].reshape(-1), dtype=np.int64)
