"""Backgrounds of all frames at once, as smooth surfaces in detector coordinates.

Minimises Σ w ρ(y_fp − B_f(u, v) − s_p)² + Σ xᵀΛx over the surfaces B_f = Φ·x_f (Legendre) and the sky s_p, which
is eliminated (`joint`). Overlaps see differences only. Whatever all frames share, and any sky that is a polynomial
of the surfaces' order over the whole mosaic, moves between B and s at next to no cost: those long waves are left
to Λ, which is therefore the measured spread of the coefficients per order (empirical Bayes), not a small number
to keep the matrix regular. With the true spread it picks the flattest set of surfaces that explains the overlaps;
with next to none, joint surfaces are worse than constants on long waves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from skyloom.ops.normalization import joint
from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.legendre import ORDERS
from skyloom.ops.normalization.observations import Floats, Ints, Observations, Singles, islands
from skyloom.ops.normalization.panels import MOST_PANELS, coarse_space, representatives
from skyloom.ops.normalization.reweighting import ROUNDS, TUKEY_LIMIT, Reweighting, rms_by_frame

PRIOR_UNKNOWNS = 720
"""Coefficients from which their spread is measured; it is a property of the population of frames."""


@dataclass(frozen=True)
class Surfaces:
    """The solution, one entry a frame."""

    coefficients: Floats
    """Legendre coefficients (frames, K), units of the samples; 0 where a frame has no overlap."""
    island: Ints
    """Connected component of the overlap graph, numbered by first frame."""
    samples: Ints
    """Samples at points which other frames see too."""
    residual_before: Floats
    """Robust rms of y − mean of the other frames, before any surface; NaN without overlap."""
    residual_after: Floats
    """The same with the surfaces taken off."""
    rejected: Floats
    """Part of the samples that robust weighting has put below a tenth of their weight."""
    inflation: Floats
    """Factor on the variances of the frame's samples: ≫ 1 for clouds, reflections, another field."""
    prior_sigma: Floats
    """Measured spread of the coefficients of each order (order + 1)."""
    noise_scale: float
    """Robust rms of the residuals in units of the stated errors; 1 when these are right."""
    iterations: int
    """Of conjugate gradients, over all rounds; 0 when the matrix was factored."""


def solve_surfaces(
    observations: Observations,
    value: Floats,
    precision: Singles,
    *,
    placement: Floats | None = None,
    clip: float = TUKEY_LIMIT,
    dense_limit: int = joint.DENSE_LIMIT,
) -> Surfaces:
    """Solve the background surfaces of all frames together.

    Parameters
    ----------
    observations, value, precision
        Samples of all frames in common units, as `join_samples` makes them; their order is that of the surfaces.
    placement
        (frames, 2, 3): canvas x, y of a frame's (u, v, 1); any one unit of length. Speeds up large solves.
    clip
        Limit of Tukey's biweight (robust standard deviations): samples beyond do not count.
    dense_limit
        Unknowns up to which the normal matrix is factored (without `placement`: four times as many).

    Returns
    -------
    Surfaces
        Coefficients with mean constant 0 over each island.

    Raises
    ------
    DataError
        If the solve does not converge.

    Notes
    -----
    Memory: 16 bytes a sample beside the 24 of the samples, and 16 bytes × unknowns² when dense.
    """
    problem = _Problem(observations, value, precision, placement, clip, dense_limit)
    present = observations.count
    most = PRIOR_UNKNOWNS // observations.terms
    if np.count_nonzero(present) > most:
        chosen = representatives(present, placement, most=most)
        sigma = problem.restrict(chosen).solve(None).prior_sigma
        return problem.solve(sigma)
    return problem.solve(None)


@dataclass(frozen=True)
class _Problem:
    """Samples, stated weights and how to solve; the loop of reweighting."""

    seen: Observations
    y: Floats
    stated: Singles
    """Inverse variance as the measurement states it."""
    placement: Floats | None
    clip: float
    dense_limit: int

    def restrict(self, chosen: NDArray[np.bool_]) -> _Problem:
        """Only the samples of some frames (which keep their numbers' order)."""
        index, seen = self.seen.restrict(chosen)
        placement = None if self.placement is None else self.placement[chosen]
        return replace(self, seen=seen, y=self.y[index], stated=self.stated[index], placement=placement)

    def solve(self, sigma: Floats | None) -> Surfaces:
        """Reweight until the last round; with `sigma` None the prior is measured on the way (dense only)."""
        seen, terms = self.seen, ORDERS[self.seen.order]
        measure = sigma is None
        # Block-Jacobi alone takes hundreds of steps for the long waves.
        limit = self.dense_limit * (4 if self.placement is None else 1)
        dense = measure or seen.frames * len(terms) <= limit
        present = seen.count
        if sigma is None:
            sigma = self._first_guess()
        coarse = None
        if not dense and self.placement is not None:
            coarse = coarse_space(self.placement, seen.order, most=MOST_PANELS)
        x = np.zeros((seen.frames, len(terms)))
        reweighting = Reweighting(seen, self.stated, self.clip)
        weight, total = self.stated, 0
        for turn in range(ROUNDS):
            last = turn == ROUNDS - 1
            system = System(seen, weight, np.tile(sigma[terms] ** -2.0, (seen.frames, 1)))
            right = system.project(self.y)
            if dense:
                factor = system.factor()
                x = scipy.linalg.cho_solve(factor, right.ravel(), check_finite=False).reshape(x.shape)
                if measure and not last:
                    calm = (present > 0) & (reweighting.inflation < 4.0)
                    sigma = _spread(x, _variances(factor).reshape(x.shape), sigma, terms, calm)
            else:
                # Early rounds only find the outliers; long waves wait for the last.
                tolerance = joint.TOLERANCE if last else 1e-5
                x, count = joint.conjugate_gradients(
                    system.apply, right, x, system.preconditioner(coarse), tolerance=tolerance
                )
                total += count
            if not last:
                weight = reweighting.next(system, self.y, x, turn)
        return self._report(system, x, sigma, reweighting, total)

    def _first_guess(self) -> Floats:
        """Spread of raw disagreements: an upper bound which the first rounds bring down."""
        nothing = np.zeros((self.seen.frames, self.seen.terms))
        raw = System(self.seen, self.stated, nothing).residual(self.y, nothing)
        spread = max(float(np.std(raw)), self._floor()) if len(raw) else 1.0
        return np.full(self.seen.order + 1, spread)

    def _floor(self) -> float:
        """Smallest spread worth telling from 0: a hundredth of a sample's error."""
        return 0.01 / float(np.sqrt(np.median(self.stated))) if len(self.stated) else 1.0

    def _report(
        self, system: System, x: Floats, sigma: Floats, reweighting: Reweighting, iterations: int
    ) -> Surfaces:
        seen = self.seen
        label = islands(seen)
        groups = int(label.max()) + 1 if len(label) else 0
        present = seen.count
        solved = present > 0
        count = np.bincount(label[solved], minlength=groups)
        mean = np.bincount(label[solved], weights=x[solved, 0], minlength=groups) / np.maximum(count, 1)
        x = np.where(solved[:, None], x, 0.0)
        x[solved, 0] -= mean[label[solved]]
        return Surfaces(
            coefficients=x,
            island=label,
            samples=present,
            residual_before=rms_by_frame(system, self.y, np.zeros_like(x)),
            residual_after=rms_by_frame(system, self.y, x),
            rejected=reweighting.rejected(system.weight),
            inflation=reweighting.inflation,
            prior_sigma=sigma,
            noise_scale=reweighting.scale,
            iterations=iterations,
        )


def _variances(factor: tuple[Floats, bool]) -> Floats:
    """Diagonal of the inverse: posterior variances of the unknowns."""
    inverse, failed = scipy.linalg.lapack.dpotri(factor[0], lower=1)
    return np.asarray(np.diag(inverse).copy()) if failed == 0 else np.full(len(factor[0]), np.nan)


def _spread(x: Floats, variance: Floats, sigma: Floats, terms: Ints, calm: NDArray[np.bool_]) -> Floats:
    """Next estimate of the coefficients' spread per order (MacKay's fixed point of the evidence).

    σ² = Σx² / γ with γ = Σ(1 − var/σ²), the number of coefficients which the data determine; where that is small
    one plain EM step, σ² = mean(x² + var).
    """
    out = sigma.copy()
    for order in range(len(sigma)):
        here = np.ix_(calm, terms == order)
        square, posterior = x[here] ** 2, variance[here]
        if square.size == 0 or not np.isfinite(posterior).all():
            continue
        determined = float(np.sum(1.0 - posterior / sigma[order] ** 2))
        if determined > 0.1 * square.size:
            estimate = float(np.sum(square)) / determined
        else:
            estimate = float(np.mean(square + posterior))
        out[order] = np.sqrt(max(estimate, 0.0))
    return np.maximum(out, 1e-3 * float(out.max()))
