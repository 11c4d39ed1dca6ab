"""Many frames over one sky: linear least squares with the sky eliminated.

A sample i of frame f at sky point p is y = Φ_i·x_f + s_p + noise, with K unknowns x_f a frame. The best sky is
the weighted mean of y − Φx over each point; what is left is the normal matrix

    A = ΦᵀWΦ − C D⁻¹ Cᵀ + Λ,   C = ΦᵀWS,   D = SᵀWS   (S: point of each sample)

which is assembled and factored while it is small, and applied sample by sample inside conjugate gradients
when it is not. Photometry (Φ = 1, points are stars) and background (Φ = Legendre) both rest on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.normalization.observations import Floats, Ints, Observations, Singles
from skyloom.ops.normalization.shared import Shared
from skyloom.ops.normalization.sweeps import (
    apply_normal,
    couple_points,
    frame_blocks,
    project_rest,
    scatter_products,
    sky_mean,
    subtract_sky,
    subtract_surfaces,
    sum_weights,
)

DENSE_LIMIT = 720
"""Unknowns up to which the normal matrix is factored; beyond, conjugate gradients are faster: with the coarse
space they need ten to twenty steps."""
TOLERANCE = 1e-10
"""Relative residual at which conjugate gradients stop: at 1e-5 seams are gone but long waves are still wrong."""
DENSE_COARSE = 1536
"""Unknowns of the coarse space up to which its matrix is factored whole."""
_REGULAR = 1e-12
"""Part of its diagonal added to the coarse matrix: a panel without samples has a vanishing block."""
_CHUNK, _GATHERED = 256, 2**19
"""Points whose couplings are worked at a time, and entries of their sums gathered where the matrix is sparse."""


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

    @property
    def panels(self) -> int:
        """Number of panels."""
        return int(self.panel.max()) + 1


class System:
    """The normal equations for given weights and prior."""

    def __init__(
        self, observations: Observations, weight: Singles, prior: Floats, shared: Shared | None = None
    ) -> None:
        """Set up.

        Parameters
        ----------
        observations
            The samples.
        weight
            Inverse variance of each sample; 0 leaves it out.
        prior
            Λ: inverse prior variance of each unknown, shape (frames, K), positive.
        shared
            What is taken from Λ because frames have a part in common.
        """
        self.observations = observations
        self.weight = weight
        self.prior = prior
        self.shared = shared
        depth = sum_weights(observations.point, weight, observations.points)
        self.inverse_depth = np.divide(1.0, depth, out=np.zeros_like(depth), where=depth > 0)

    def apply(self, x: Floats) -> Floats:
        """Return A x, shapes (frames, K)."""
        o = self.observations
        seen = apply_normal(o.start, o.point, o.u, o.v, o.order, o.gain, self.weight, self.inverse_depth, x)
        if self.shared is not None:
            seen -= self.shared.times(x)
        return np.asarray(seen + self.prior * x)

    def project(self, value: Floats) -> Floats:
        """Right-hand side of samples: Φᵀ W (y − mean of y over the point)."""
        o = self.observations
        mean = self.sky(value)
        return np.asarray(
            project_rest(o.start, o.point, o.u, o.v, o.order, o.gain, self.weight, mean, value, o.terms)
        )

    def sky(self, value: Floats) -> Floats:
        """Weighted mean of samples over each point."""
        return np.asarray(sky_mean(self.observations.point, self.weight, self.inverse_depth, value))

    def residual(self, value: Floats, x: Floats) -> Floats:
        """Rest of each sample, y − Φx − s, with the best s."""
        o = self.observations
        rest = np.empty(len(o.point))
        subtract_surfaces(o.start, o.u, o.v, o.order, o.gain, value, x, rest)
        subtract_sky(o.point, self.sky(rest), rest)
        return rest

    def leverage(self) -> Floats:
        """Share of each sample in its point's sky, 0…1: var(residual) = (1 − share)·var(sample)."""
        return np.asarray(self.weight * self.inverse_depth[self.observations.point])

    def dense(self) -> Floats:
        """Return A, shape (frames·K, frames·K)."""
        frames, terms = self.observations.frames, self.observations.terms
        own = np.broadcast_to(np.eye(terms), (frames, terms, terms))
        blocks, _ = self._blocks()
        matrix = self._projected(np.arange(frames), own, blocks)
        matrix[np.diag_indices_from(matrix)] += self.prior.ravel()
        if self.shared is not None:
            self.shared.subtract_from(matrix)
        return matrix

    def factor(self) -> tuple[Floats, bool]:
        """Cholesky factor of the dense matrix, as `scipy.linalg.cho_solve` wants it."""
        try:
            return _factor(self.dense())
        except np.linalg.LinAlgError as failure:
            raise DataError(
                f"joint solve: the normal matrix of {self.observations.frames} frames is singular"
            ) from failure

    def preconditioner(self, coarse: Coarse | None = None) -> Callable[[Floats], Floats]:
        """Block-Jacobi over frames, plus the exact solution in the coarse space; what frames share left out."""
        terms = self.observations.terms
        whole, alone = self._blocks()
        alone[:, np.arange(terms), np.arange(terms)] += self.prior
        inverse = np.linalg.inv(alone)
        if coarse is None:
            return lambda r: np.einsum("fkm,fm->fk", inverse, r)
        solve = self._coarse_solver(coarse, whole)

        def both(r: Floats) -> Floats:
            rough = np.zeros((coarse.panels, coarse.terms))
            np.add.at(rough, coarse.panel, np.einsum("fkm,fk->fm", coarse.transform, r))
            slow = solve(rough.ravel()).reshape(rough.shape)
            fast = np.einsum("fkm,fm->fk", inverse, r)
            return np.asarray(fast + np.einsum("fkm,fm->fk", coarse.transform, slow[coarse.panel]))

        return both

    def coarse_matrix(self, coarse: Coarse) -> Floats:
        """ZᵀAZ, shape (panels·M, panels·M), Z = the columns of the coarse space."""
        matrix = self._projected(coarse.panel, coarse.transform, self._coarse_blocks(coarse, self._blocks()[0]))
        matrix[np.diag_indices_from(matrix)] *= 1 + _REGULAR
        return matrix

    def _coarse_blocks(self, coarse: Coarse, whole: Floats) -> Floats:
        """Zᵀ (ΦᵀWΦ + Λ) Z, which couples no panels, from ΦᵀWΦ of each frame; shape (panels, M, M)."""
        z = coarse.transform
        own = np.matmul(z.transpose(0, 2, 1), np.matmul(whole, z))
        own += np.matmul(z.transpose(0, 2, 1), self.prior[:, :, None] * z)
        out = np.zeros((coarse.panels, coarse.terms, coarse.terms))
        np.add.at(out, coarse.panel, own)
        # What a panel cannot do must not make the matrix singular.
        panel, term = np.nonzero(np.diagonal(out, axis1=1, axis2=2) == 0)
        out[panel, term, term] = 1.0
        return out

    def _coarse_solver(self, coarse: Coarse, whole: Floats) -> Callable[[Floats], Floats]:
        """Solve with ZᵀAZ: factored whole while it is small, as the sparse matrix it is (neighbours) beyond."""
        size = coarse.panels * coarse.terms
        if size <= DENSE_COARSE:
            factor = _factor(self.coarse_matrix(coarse))
            return lambda right: np.asarray(scipy.linalg.cho_solve(factor, right, check_finite=False))
        diagonal = np.arange(coarse.panels + 1)
        blocks = self._coarse_blocks(coarse, whole)
        matrix = scipy.sparse.bsr_array((blocks, diagonal[:-1], diagonal), shape=(size, size)).tocsc()
        taken: list[tuple[NDArray[np.int32], Floats]] = []
        entries = 0
        for members, product in self._couplings(coarse.panel, coarse.panels, coarse.transform):
            rows = (members[:, None] * coarse.terms + np.arange(coarse.terms)).ravel().astype(np.int32)
            taken.append((rows, product))
            entries += product.size
            if entries > _GATHERED:
                matrix -= _sum_products(taken, size)
                taken.clear()
                entries = 0
        matrix -= _sum_products(taken, size)
        matrix += scipy.sparse.diags_array(_REGULAR * matrix.diagonal())
        # The matrix is positive definite: no pivots are needed, and few entries fill in.
        factor = scipy.sparse.linalg.splu(
            matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        return lambda right: np.asarray(factor.solve(right))

    def alone(self) -> Floats:
        """ΦᵀWΦ of each frame with every sample weighed less its share in its own sky, shape (frames, K, K)."""
        return self._blocks()[1]

    def _blocks(self) -> tuple[Floats, Floats]:
        o = self.observations
        whole, alone = frame_blocks(
            o.start, o.point, o.u, o.v, o.order, o.gain, self.weight, self.inverse_depth, o.terms
        )
        return whole, alone

    def _projected(self, group: Ints, transform: Floats, blocks: Floats) -> Floats:
        """Blocks on the diagonal less what the sky takes: Zᵀ (ΦᵀWΦ − C D⁻¹ Cᵀ) Z, dense."""
        groups, columns = blocks.shape[:2]
        out = np.zeros((groups * columns, groups * columns))
        diagonal = np.arange(groups)
        out.reshape(groups, columns, groups, columns)[diagonal, :, diagonal, :] = blocks
        for members, product in self._couplings(group, groups, transform):
            scatter_products(out, product, members, columns)
        return out

    def _couplings(self, group: Ints, groups: int, transform: Floats) -> Iterator[tuple[Ints, Floats]]:
        """What the sky takes, ZᵀC D⁻¹ CᵀZ, as sums over some neighbouring points at a time.

        A group may see a point several times (panels). Only the groups which see the points appear, so the
        products are dense and small.
        """
        o, columns = self.observations, transform.shape[2]
        transform = np.ascontiguousarray(transform)
        cursor, slot = o.start[:-1].copy(), np.full(groups, -1, dtype=np.int64)
        members, c = np.empty(groups, dtype=np.int64), np.empty((_CHUNK, groups * columns))
        for low in range(0, o.points, _CHUNK):
            found = couple_points(
                o.start, o.point, o.u, o.v, o.order, o.gain, self.weight, self.inverse_depth, group,
                transform, cursor, low, low + _CHUNK, slot, members, c,
            )  # fmt: skip
            rows = c[: min(_CHUNK, o.points - low), : found * columns]
            yield members[:found].copy(), rows.T @ rows


def _sum_products(products: Sequence[tuple[NDArray[np.int32], Floats]], size: int) -> Any:
    """Sparse sum of dense blocks on the given rows and columns."""
    empty = np.empty(0, dtype=np.int32)
    row = np.concatenate([empty, *(np.repeat(rows, len(rows)) for rows, _ in products)])
    column = np.concatenate([empty, *(np.tile(rows, len(rows)) for rows, _ in products)])
    value = np.concatenate([np.empty(0), *(product.ravel() for _, product in products)])
    return scipy.sparse.coo_array((value, (row, column)), shape=(size, size)).tocsc()


def _factor(matrix: Floats) -> tuple[Floats, bool]:
    """Cholesky factor in place: of the transpose, which LAPACK takes without a copy."""
    factor: tuple[Floats, bool] = scipy.linalg.cho_factor(
        matrix.T, lower=True, overwrite_a=True, check_finite=False
    )
    return factor


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
