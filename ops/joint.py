"""Many frames over one sky: linear least squares with the sky eliminated.

A sample i of frame f at sky point p is y = Φ_i·x_f + s_p + noise, with K unknowns x_f a frame. The best sky is
the weighted mean of y − Φx over each point; what is left is the normal matrix

    A = ΦᵀWΦ − C D⁻¹ Cᵀ + Λ,   C = ΦᵀWS,   D = SᵀWS   (S: point of each sample)

which is assembled and factored while it is small, and applied sample by sample inside conjugate gradients
when it is not. Photometry (Φ = 1, points are stars) and background (Φ = Legendre) both rest on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy.linalg
import scipy.sparse
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 2**16
"""Samples worked at a time where every one needs a row of its own."""
DENSE_LIMIT = 720
"""Unknowns up to which the normal matrix is factored; beyond, conjugate gradients are faster: with the coarse
space they need ten to twenty steps."""
TOLERANCE = 1e-10
"""Relative residual at which conjugate gradients stop: at 1e-5 seams are gone but long waves are still wrong."""
_CHUNK = 256


@dataclass(frozen=True)
class Observations:
    """Samples sorted by frame; every point is seen by at least two frames."""

    frame: NDArray[np.int32]
    point: NDArray[np.int32]
    """0…points − 1; neighbours on the sky should have near numbers (speed only)."""
    basis: Floats
    """Φ, shape (samples, K)."""
    frames: int
    points: int


def compress(
    frame: NDArray[np.integer], point: NDArray[np.integer], usable: NDArray[np.bool_]
) -> tuple[Ints, NDArray[np.int32], int]:
    """Choose the samples that say something: usable, at points which two or more frames see.

    Parameters
    ----------
    frame, point
        Frame index and point id of each sample, any order; a frame sees a point once.
    usable
        Samples to consider.

    Returns
    -------
    index
        Positions of the chosen samples, sorted by frame (stable).
    point
        Their points, renumbered 0… in the order of the ids.
    points
        How many points there are.
    """
    index = np.flatnonzero(usable)
    _, inverse, count = np.unique(point[index], return_inverse=True, return_counts=True)
    shared = count >= 2
    keep = shared[inverse]
    renumber = np.cumsum(shared) - 1
    index, new = index[keep], renumber[inverse[keep]].astype(np.int32)
    order = np.argsort(frame[index], kind="stable")
    return index[order], new[order], int(shared.sum())


def islands(frame: NDArray[np.integer], point: NDArray[np.integer], frames: int, points: int) -> Ints:
    """Connected component of each frame in the graph frames–points, numbered by first frame."""
    graph = scipy.sparse.coo_array(
        (np.ones(len(frame), dtype=np.int8), (frame, point.astype(np.int64) + frames)),
        shape=(frames + points, frames + points),
    )
    _, label = scipy.sparse.csgraph.connected_components(graph, directed=False)
    _, first, inverse = np.unique(label[:frames], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _sums(label: NDArray[np.integer], value: Floats, labels: int) -> Floats:
    """Sum over each label; `np.bincount` makes integers of no values."""
    return np.bincount(label, weights=value, minlength=labels).astype(np.float64, copy=False)


@njit(nogil=True, cache=True, fastmath=False)
def _apply(frame, point, basis, weight, inverse_depth, x):  # type: ignore[no-untyped-def]
    """Evaluate, coadd, subtract, project back: (ΦᵀWΦ − C D⁻¹ Cᵀ) x."""
    samples, terms = basis.shape
    value = np.empty(samples)
    mean = np.zeros(len(inverse_depth))
    for i in range(samples):
        f = frame[i]
        total = 0.0
        for k in range(terms):
            total += basis[i, k] * x[f, k]
        value[i] = total
        mean[point[i]] += weight[i] * total
    for p in range(len(mean)):
        mean[p] *= inverse_depth[p]
    out = np.zeros_like(x)
    for i in range(samples):
        f = frame[i]
        rest = weight[i] * (value[i] - mean[point[i]])
        for k in range(terms):
            out[f, k] += rest * basis[i, k]
    return out


@njit(nogil=True, cache=True, fastmath=False)
def _blocks(frame, basis, weight, frames):  # type: ignore[no-untyped-def]
    """ΦᵀWΦ of each frame, shape (frames, K, K)."""
    samples, terms = basis.shape
    out = np.zeros((frames, terms, terms))
    for i in range(samples):
        f = frame[i]
        for k in range(terms):
            scaled = weight[i] * basis[i, k]
            for m in range(terms):
                out[f, k, m] += scaled * basis[i, m]
    return out


def normal_matrix(
    group: NDArray[np.integer],
    point: NDArray[np.integer],
    basis: Floats,
    weight: Floats,
    groups: int,
    inverse_depth: Floats,
) -> Floats:
    """ΦᵀWΦ − C D⁻¹ Cᵀ as a dense matrix, shape (groups·K, groups·K).

    A group may see a point several times (panels); C is formed for a block of neighbouring points at a time,
    over the groups which see them, so the products are dense and small.
    """
    terms = basis.shape[1]
    out = np.zeros((groups * terms, groups * terms))
    diagonal = np.arange(groups)
    blocks = out.reshape(groups, terms, groups, terms)
    blocks[diagonal, :, diagonal, :] = _blocks(group, basis, weight, groups)
    order = np.argsort(point, kind="stable")
    edges = np.searchsorted(point[order], np.arange(0, len(inverse_depth) + _CHUNK, _CHUNK))
    for block, (start, stop) in enumerate(pairwise(edges)):
        here = order[start:stop]
        members, local = np.unique(group[here], return_inverse=True)
        column = point[here].astype(np.int64) - block * _CHUNK
        scaled = basis[here] * (weight[here] * np.sqrt(inverse_depth[point[here]]))[:, None]
        size = len(members) * terms * _CHUNK
        c = np.empty((terms, len(members), _CHUNK))
        for k in range(terms):
            flat = np.bincount(local * _CHUNK + column, weights=scaled[:, k], minlength=size // terms)
            c[k] = flat.reshape(len(members), _CHUNK)
        flat_c = c.transpose(1, 0, 2).reshape(len(members) * terms, _CHUNK)
        rows = (members[:, None] * terms + np.arange(terms)).ravel()
        out[np.ix_(rows, rows)] -= flat_c @ flat_c.T
    return out


@dataclass(frozen=True)
class Coarse:
    """A small space that holds the slow modes: one sky-fixed surface a panel."""

    panel: Ints
    """Panel of each frame."""
    transform: Floats
    """(frames, K, M): coefficients in detector coordinates = transform · coefficients on the panel's sky."""

    @property
    def terms(self) -> int:
        """M: terms of a panel's surface, at most those of a frame's."""
        return int(self.transform.shape[2])


class System:
    """The normal equations for given weights and prior."""

    def __init__(self, observations: Observations, weight: Floats, prior: Floats) -> None:
        """Set up.

        Parameters
        ----------
        observations
            The samples.
        weight
            Inverse variance of each sample; 0 leaves it out.
        prior
            Λ: inverse prior variance of each unknown, shape (frames, K), positive.
        """
        self.observations = observations
        self.weight = weight
        self.prior = prior
        depth = _sums(observations.point, weight, observations.points)
        self.inverse_depth = np.divide(1.0, depth, out=np.zeros_like(depth), where=depth > 0)

    def apply(self, x: Floats) -> Floats:
        """Return A x, shapes (frames, K)."""
        o = self.observations
        return np.asarray(_apply(o.frame, o.point, o.basis, self.weight, self.inverse_depth, x)) + self.prior * x

    def project(self, value: Floats) -> Floats:
        """Right-hand side of samples: Φᵀ W (y − mean of y over the point)."""
        o = self.observations
        rest = self.weight * (value - self.sky(value)[o.point])
        out = np.empty((o.frames, o.basis.shape[1]))
        for k in range(out.shape[1]):
            out[:, k] = _sums(o.frame, rest * o.basis[:, k], o.frames)
        return out

    def sky(self, value: Floats) -> Floats:
        """Weighted mean of samples over each point."""
        o = self.observations
        return _sums(o.point, self.weight * value, o.points) * self.inverse_depth

    def surfaces(self, x: Floats) -> Floats:
        """Φ x of each sample."""
        o = self.observations
        out = np.empty(len(o.frame))
        # Block by block: the coefficients of every sample would take as much memory as the basis.
        for start in range(0, len(out), _BLOCK):
            here = slice(start, start + _BLOCK)
            np.einsum("ik,ik->i", o.basis[here], x[o.frame[here]], out=out[here])
        return out

    def residual(self, value: Floats, x: Floats) -> Floats:
        """Rest of each sample, y − Φx − s, with the best s."""
        rest = value - self.surfaces(x)
        return np.asarray(rest - self.sky(rest)[self.observations.point])

    def leverage(self) -> Floats:
        """Share of each sample in its point's sky, 0…1: var(residual) = (1 − share)·var(sample)."""
        return np.asarray(self.weight * self.inverse_depth[self.observations.point])

    def dense(self) -> Floats:
        """Return A, shape (frames·K, frames·K)."""
        o = self.observations
        matrix = normal_matrix(o.frame, o.point, o.basis, self.weight, o.frames, self.inverse_depth)
        matrix[np.diag_indices_from(matrix)] += self.prior.ravel()
        return matrix

    def factor(self) -> tuple[Floats, bool]:
        """Cholesky factor of the dense matrix, as `scipy.linalg.cho_solve` wants it."""
        try:
            factor: tuple[Floats, bool] = scipy.linalg.cho_factor(
                self.dense(), lower=True, overwrite_a=True, check_finite=False
            )
        except np.linalg.LinAlgError as failure:
            raise DataError(
                f"joint solve: the normal matrix of {self.observations.frames} frames is singular"
            ) from failure
        return factor

    def preconditioner(self, coarse: Coarse | None = None) -> Callable[[Floats], Floats]:
        """Block-Jacobi over frames, plus the exact solution in the coarse space."""
        o = self.observations
        terms = o.basis.shape[1]
        own = self.weight * (1.0 - self.leverage())
        blocks = _blocks(o.frame, o.basis, own, o.frames)
        blocks[:, np.arange(terms), np.arange(terms)] += self.prior
        inverse = np.linalg.inv(blocks)
        if coarse is None:
            return lambda r: np.einsum("fkm,fm->fk", inverse, r)
        matrix = self.coarse_matrix(coarse)
        slow_terms = coarse.terms
        panels = len(matrix) // slow_terms
        factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)

        def both(r: Floats) -> Floats:
            rough = np.zeros((panels, slow_terms))
            np.add.at(rough, coarse.panel, np.einsum("fkm,fk->fm", coarse.transform, r))
            slow = scipy.linalg.cho_solve(factor, rough.ravel(), check_finite=False).reshape(panels, slow_terms)
            fast = np.einsum("fkm,fm->fk", inverse, r)
            return np.asarray(fast + np.einsum("fkm,fm->fk", coarse.transform, slow[coarse.panel]))

        return both

    def coarse_matrix(self, coarse: Coarse) -> Floats:
        """ZᵀAZ, shape (panels·M, panels·M), Z = the columns of the coarse space."""
        o = self.observations
        terms = coarse.terms
        panels = int(coarse.panel.max()) + 1
        seen = np.empty((len(o.basis), terms))
        edges = np.searchsorted(o.frame, np.arange(o.frames + 1))
        for transform, start, stop in zip(coarse.transform, edges[:-1], edges[1:], strict=True):
            seen[start:stop] = o.basis[start:stop] @ transform
        matrix = normal_matrix(coarse.panel[o.frame], o.point, seen, self.weight, panels, self.inverse_depth)
        held = np.zeros((panels, terms, terms))
        np.add.at(held, coarse.panel, np.einsum("fkm,fk,fkn->fmn", coarse.transform, self.prior, coarse.transform))
        diagonal = np.arange(panels)
        matrix.reshape(panels, terms, panels, terms)[diagonal, :, diagonal, :] += held
        # A panel without samples has a vanishing block.
        matrix[np.diag_indices_from(matrix)] *= 1 + 1e-12
        return matrix


def conjugate_gradients(
    apply: Callable[[Floats], Floats],
    right: Floats,
    start: Floats,
    precondition: Callable[[Floats], Floats],
    *,
    tolerance: float = TOLERANCE,
    limit: int = 2000,
) -> tuple[Floats, int]:
    """Solve a positive definite system.

    Parameters
    ----------
    apply, precondition
        The matrix and an approximate inverse, both symmetric.
    right, start
        Right-hand side and first guess, of one shape.
    tolerance
        Of the preconditioned residual norm, relative to that of the right-hand side.
    limit
        Iterations at most.

    Returns
    -------
    x
        The solution.
    iterations
        How many it took.

    Raises
    ------
    DataError
        If the limit is reached with the residual above 100 × tolerance.
    """
    x = start.copy()
    r = right - apply(x)
    z = precondition(r)
    rz = float(np.sum(r * z))
    goal = tolerance**2 * float(np.sum(right * precondition(right)))
    p = z
    for iteration in range(limit):
        if rz <= goal:
            return x, iteration
        q = apply(p)
        alpha = rz / float(np.sum(p * q))
        x += alpha * p
        r -= alpha * q
        z = precondition(r)
        rz, old = float(np.sum(r * z)), rz
        p = z + (rz / old) * p
    if rz > 1e4 * goal:
        raise DataError(
            f"joint solve: residual still {np.sqrt(rz / goal) * tolerance:.1e} after {limit} iterations, "
            f"wanted {tolerance:.0e}"
        )
    return x, limit
