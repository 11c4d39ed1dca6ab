"""How well the long waves of a mosaic are known: overlaps hardly see them, however small their residuals are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from skyloom.ops.normalization import joint
from skyloom.ops.normalization.hold_out import point_positions
from skyloom.ops.normalization.joint import Coarse, System
from skyloom.ops.normalization.legendre import legendre
from skyloom.ops.normalization.observations import Bools, Floats, Ints, Observations
from skyloom.ops.normalization.sweeps import project_rest

MODE_ORDER = 2
MODES = ("constant", "x", "y", "xx", "xy", "yy")
"""Polynomials of the canvas, each orthogonal to those before it."""
_TOLERANCE = 1e-2
"""Of the solves: the coarse space holds these waves, and the error of a variance is of second order."""


@dataclass(frozen=True)
class Modes:
    """Standard errors of the mosaic's long waves."""

    sigma: Floats
    """(MODES,): rms over the mosaic of each wave's error; NaN where it cannot be told."""
    points: int
    """Superpixels of the largest island, which this is about."""


def unknown_modes() -> Modes:
    """Nothing is known."""
    return Modes(np.full(len(MODES), np.nan), 0)


def mosaic_modes(
    system: System,
    placement: Floats | None,
    island: Ints,
    coarse: Coarse | None,
    factor: tuple[Floats, bool] | None,
) -> Modes:
    """Standard errors of constant, planes and quadratics of the sky, over the island with most samples.

    Parameters
    ----------
    system
        The normal equations of the last round.
    placement, island
        Of the frames.
    coarse, factor
        How the system was solved.

    Notes
    -----
    The sky s = mean(y − Φx) has the error −D⁻¹Cᵀδx beside its noise, and δx the covariance A⁻¹. For a wave g (mean
    square 1 over N points) the variance of its coefficient Σ g s / N is hᵀA⁻¹h + Σ g²/D / N², h = C D⁻¹ g / N: one
    solve a wave, no inverse. The prior is in A: the sigma is that of the estimate under the measured spreads of
    the surfaces. The constant is what the convention (mean background 0) leaves open.
    """
    o = system.observations
    if placement is None or not o.points or len(o.u) != len(o.point):
        return unknown_modes()
    here = _largest_island(system, island)
    count = int(np.count_nonzero(here))
    if count <= len(MODES):
        return unknown_modes()
    waves = polynomials(point_positions(o, placement)[here])
    sigma = np.empty(len(MODES))
    nothing, solve = np.zeros(o.points), _solver(system, coarse, factor)
    for k in range(len(MODES)):
        over = np.zeros(o.points)
        over[here] = waves[:, k] / count
        noise = float(np.sum(over**2 * system.inverse_depth))
        value = (over * system.inverse_depth)[o.point]
        h = np.asarray(
            project_rest(o.start, o.point, o.u, o.v, o.order, o.gain, system.weight, nothing, value, o.terms)
        )
        sigma[k] = np.sqrt(max(float(np.sum(h * solve(h))), 0.0) + noise)
    return Modes(sigma, count)


def polynomials(position: Floats) -> Floats:
    """Polynomials of total degree ≤ 2 with mean square 1 over the points, orthogonal, shape (points, MODES)."""
    low, high = position.min(axis=0), position.max(axis=0)
    local = 2.0 * (position - low) / np.maximum(high - low, 1e-9) - 1.0
    q, r = np.linalg.qr(legendre(local[:, 0], local[:, 1], MODE_ORDER))
    return np.asarray(q * np.sign(np.diag(r)) * np.sqrt(len(position)))


def _largest_island(system: System, island: Ints) -> Bools:
    o: Observations = system.observations
    of_point = np.zeros(o.points, dtype=np.int64)
    for f in np.flatnonzero(o.count):
        of_point[o.point[o.start[f] : o.start[f + 1]]] = island[f]
    known = system.inverse_depth > 0
    size = np.bincount(of_point[known])
    return np.asarray(known & (of_point == int(np.argmax(size)))) if len(size) else known


def _solver(system: System, coarse: Coarse | None, factor: tuple[Floats, bool] | None):  # type: ignore[no-untyped-def]
    if factor is not None:
        return lambda h: scipy.linalg.cho_solve(factor, h.ravel(), check_finite=False).reshape(h.shape)
    precondition = system.preconditioner(coarse)
    return lambda h: joint.conjugate_gradients(
        system.apply, h, np.zeros_like(h), precondition, tolerance=_TOLERANCE
    )[0]
