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
from skyloom.ops.normalization.confidence import surface_covariances
from skyloom.ops.normalization.gains import PART_ORDER, below_clouds, follow_gains, part_below
from skyloom.ops.normalization.hold_out import HELD, HoldOut, hold_out
from skyloom.ops.normalization.joint import Coarse, System
from skyloom.ops.normalization.legendre import HIGHEST_ORDER, ORDERS
from skyloom.ops.normalization.modes import Modes, mosaic_modes, unknown_modes
from skyloom.ops.normalization.observations import Bools, Floats, Ints, Observations, Singles, islands
from skyloom.ops.normalization.panels import MOST_PANELS, coarse_space, representatives
from skyloom.ops.normalization.reweighting import (
    ROUNDS,
    SHUT,
    TUKEY_LIMIT,
    Reweighting,
    rms_by_frame,
    standardized,
)
from skyloom.ops.normalization.shared import ALONE, Shared, measured_spreads, next_spread, shared_prior

PRIOR_UNKNOWNS = 720
"""Coefficients from which their spread is measured; it is a property of the population of frames."""
SURE_DEGREE = 1
"""Degree of the surfaces where too little is held out to choose it."""
LEAST_HELD, LEAST_BLOCKS = 60, 8
"""Samples and patches of sky that must be held out for a choice."""
LEAST_GAIN = 0.003
"""Part of the held-out residual by which a higher degree must lower it, beside its standard error."""
_TESTED = 4000
"""Samples on which the degree is tested, if there are as many: small mosaics are held out part after part."""
_STIFF, _FREE = 1e-3, 1e4
"""Spread of what is held at 0 (typical errors of a sample) and of what is left free (that of the frames)."""
_HONEST = 5.0
"""Residuals beyond this many times their stated errors: the surfaces are not of the right kind."""
_LIMIT = 6.0
"""Held-out residuals beyond this many times their median count as this: outliers must not choose the degree."""


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
    """Measured spread of the coefficients of each order (order + 1): of the frames' own part."""
    shared_sigma: Floats
    """The same of what groups of frames have in common; 0 where nothing is shared."""
    noise_scale: float
    """Robust rms of the residuals in units of the stated errors; 1 when these are right."""
    iterations: int
    """Of conjugate gradients, over all rounds; 0 when the matrix was factored."""
    residual_held: Floats
    """As `residual_after`, at points held out of the solve that gave the surfaces; NaN without any."""
    trials: Floats
    """Held-out residual (stated errors) of surfaces of degree 0…; NaN where it was not tried."""
    modes: Modes
    """How well the long waves of the mosaic are known."""
    kept: Singles
    """Robust weight of each sample, 0…1."""
    covariance: Floats
    """(frames, K, K) of the coefficients of each frame, the others taken as right."""
    below: float = 0.0
    """Part of the glow that clouds do not dim; 0 where all frames are evenly transparent, or nothing tells."""

    @property
    def order(self) -> int:
        """Degree of the surfaces."""
        return len(self.prior_sigma) - 1


def solve_surfaces(
    observations: Observations,
    value: Floats,
    precision: Singles,
    *,
    placement: Floats | None = None,
    clip: float = TUKEY_LIMIT,
    dense_limit: int = joint.DENSE_LIMIT,
    flat: Bools | None = None,
    choose: bool = False,
    group: Ints | None = None,
    fixed: Bools | None = None,
    spreads: tuple[Floats, Floats] | None = None,
    level: float = 0.0,
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
    flat
        (frames,) True: the frame has no gradient, only a level of its own (anchors). Levels are relative to the
        mean of the other frames.
    choose
        The order is chosen: the lowest of 0…4 above which residuals at points held out do not fall any more.
    group
        (frames,) frames whose surfaces have a part in common, numbered from 0; -1: none.
    fixed
        (frames,) frames that have no background at all: what is known already.
    spreads
        (order + 1,) of the coefficients, and of what groups have in common, where they are known.
    level
        Of the glow in common units; matters where the samples have gains.

    Returns
    -------
    Surfaces
        Coefficients with mean constant 0 over each island without fixed frames; where there is glow `below`, as
        they are (`gains`).

    Raises
    ------
    DataError
        If the solve does not converge.

    Notes
    -----
    Memory: 16 bytes a sample beside the 24 of the samples, and 16 bytes × unknowns² when dense.
    """
    flat = np.zeros(observations.frames, dtype=bool) if flat is None else flat
    flat = flat if fixed is None else flat | fixed
    if group is not None:
        group = np.where(flat | (observations.count == 0), ALONE, group)
    problem = Problem(observations, value, precision, placement, clip, dense_limit, flat, group=group, fixed=fixed)
    if len(observations.gain):
        problem = problem.units_of_frames(level)
    trials = np.full(HIGHEST_ORDER + 1, np.nan)
    if choose:
        order, trials = choose_degree(problem)
        problem = replace(problem, seen=replace(problem.seen, order=order))
    if spreads is not None:
        return problem.solve(spreads, trials=trials)
    few = problem.sample_of_frames()
    if few is None:
        return problem.solve(None, trials=trials)
    like = few.solve_only(None)
    return problem.solve((like.prior, like.common), trials=trials)


def choose_degree(problem: Problem) -> tuple[int, Floats]:
    """Degree of the surfaces, and the held-out residual of each (in stated errors).

    Notes
    -----
    Some frames stand for all (`representatives`). The highest degree is tried first: it says how noisy frames are.
    Differences are judged by their scatter over patches of sky, since samples of a patch err together.
    """
    whole = replace(problem, seen=replace(problem.seen, order=HIGHEST_ORDER))
    few = whole.sample_of_frames() or whole
    trials = np.full(HIGHEST_ORDER + 1, np.nan)
    folds = min(max(-(-_TESTED * HELD // max(len(few.y), 1)), 1), HELD)
    parts = [_foretell(few, hold_out(few.seen, few.placement, fold=fold)) for fold in range(folds)]
    loss = np.concatenate([p[0] for p in parts], axis=1)
    count = sum(p[1] for p in parts)
    if count < LEAST_HELD or loss.shape[1] < LEAST_BLOCKS:
        return SURE_DEGREE, trials
    trials = loss.sum(axis=1) / count
    for order in range(HIGHEST_ORDER):
        gain = loss[order] - loss[order + 1 :]
        error = np.sqrt(loss.shape[1] * np.var(gain, axis=1)) / count
        if not np.any(gain.sum(axis=1) / count > np.maximum(error, LEAST_GAIN * trials[order])):
            return order, trials
    return HIGHEST_ORDER, trials


def _foretell(few: Problem, held: HoldOut) -> tuple[Floats, int]:
    """Sum over each patch held out of the residuals of surfaces of each degree, (degree, patch); their number."""
    test = held.samples(few.seen)
    patch, block = np.unique(held.block[few.seen.point[test]], return_inverse=True)
    loss = np.empty((HIGHEST_ORDER + 1, len(patch)))
    if not len(patch):
        return loss, 0
    index, kept = few.seen.without(held.point)
    inflation, limit = np.ones(few.seen.frames), 0.0
    for order in range(HIGHEST_ORDER, -1, -1):
        seen = replace(kept, order=order)
        trial = replace(few, seen=seen, y=few.y[index], stated=few.stated[index]).solve_only(None)
        if order == HIGHEST_ORDER:
            inflation = trial.reweighting.inflation
        own = (few.stated / inflation[few.seen.frame]).astype(np.float32)
        full = System(replace(few.seen, order=order), own, np.zeros_like(trial.x))
        size = standardized(full, few.y, trial.x, own)[test]
        if order == HIGHEST_ORDER:
            limit = _LIMIT * float(np.median(size))
        loss[order] = np.bincount(block, weights=np.minimum(size, limit), minlength=len(patch))
    return loss, len(block)


@dataclass(frozen=True)
class Solved:
    """Surfaces, and the state of the reweighting that gave them."""

    system: System
    x: Floats
    prior: Floats
    """Spread of each order."""
    common: Floats
    """That of what groups have in common."""
    reweighting: Reweighting
    iterations: int
    coarse: Coarse | None
    factor: tuple[Floats, bool] | None


@dataclass(frozen=True)
class Problem:
    """Samples, stated weights and how to solve; the loop of reweighting."""

    seen: Observations
    y: Floats
    stated: Singles
    """Inverse variance as the measurement states it."""
    placement: Floats | None
    clip: float
    dense_limit: int
    flat: Bools
    least: float = 1e-6
    """Of the residuals' robust rms in stated errors: where frames share pixels their median says nothing."""
    group: Ints | None = None
    """(frames,) groups whose surfaces have a part in common."""
    below: float = 0.0
    """Part of the glow from below the clouds."""
    sparse: float = 0.0
    """Above 0: most frames' surfaces are flat but for this spread at least, and some are not."""
    fixed: Bools | None = None
    """(frames,) frames of which nothing is unknown; they are flat too."""

    def restrict(self, chosen: NDArray[np.bool_]) -> Problem:
        """Only the samples of some frames (which keep their numbers' order)."""
        index, seen = self.seen.restrict(chosen)
        placement = None if self.placement is None else self.placement[chosen]
        return replace(
            self,
            seen=seen,
            y=self.y[index],
            stated=self.stated[index],
            placement=placement,
            flat=self.flat[chosen],
            group=None if self.group is None else self.group[chosen],
            fixed=None if self.fixed is None else self.fixed[chosen],
        )

    def sample_of_frames(self) -> Problem | None:
        """Frames that stand for all; None where these are not too many to measure their prior."""
        present = np.where(self.flat, 0, self.seen.count)
        most = PRIOR_UNKNOWNS // self.seen.terms
        if np.count_nonzero(present) <= most:
            return None
        return self.restrict(representatives(present, self.placement, most=most) | self.flat)

    def units_of_frames(self, level: float) -> Problem:
        """Surfaces of what the samples show the glow to be: dimmed by clouds as stars are, or not."""
        part, seen = 0.0, replace(self.seen, order=PART_ORDER)
        if self.seen.order and len(self.y):
            whole = replace(self, seen=seen)
            few = whole.sample_of_frames() or whole
            part = part_below(
                few.seen, few.y, few.stated, float(few._first_guess()[0]), level=level, clip=self.clip
            )
        own, y = below_clouds(self.seen, self.y, part=part, level=level)
        return replace(self, seen=own, y=y, below=part)

    def solve(self, sigma: tuple[Floats, Floats] | None, *, trials: Floats) -> Surfaces:
        """Solve, and say how well."""
        return self._report(self.solve_only(sigma), trials)

    def solve_only(self, spreads: tuple[Floats, Floats] | None) -> Solved:
        """Reweight until the last round; with `spreads` None the prior is measured on the way (dense only)."""
        seen, terms = self.seen, ORDERS[self.seen.order]
        measure = spreads is None
        # Block-Jacobi alone takes hundreds of steps for the long waves.
        limit = self.dense_limit * (4 if self.placement is None else 1)
        dense = measure or seen.frames * len(terms) <= limit
        present = seen.count
        sigma, common = spreads or (self._first_guess(), self._first_guess())
        coarse, factor = None, None
        if not dense and self.placement is not None:
            coarse = coarse_space(self.placement, seen.order, most=MOST_PANELS, flat=self.flat)
            coarse = follow_gains(coarse, seen)
        x = np.zeros((seen.frames, len(terms)))
        reweighting = Reweighting(seen, self.stated, self.clip, least=self.least, trusted=self.flat)
        weight, total, loose = self.stated, 0, np.ones_like(x)
        for turn in range(ROUNDS):
            last = turn == ROUNDS - 1
            prior = self._prior(sigma, terms) * loose
            system = System(seen, weight, prior, self._shared(sigma, common, terms))
            right = system.project(self.y)
            if dense:
                factor = system.factor()
                x = scipy.linalg.cho_solve(factor, right.ravel(), check_finite=False).reshape(x.shape)
                if measure and not last:
                    calm = (present > 0) & (reweighting.inflation < 4.0) & ~self.flat
                    if self.group is None:
                        sigma = _spread(x, _variances(factor).reshape(x.shape), sigma, terms, calm)
                    else:
                        sigma, common = measured_spreads(
                            x, _inverse(factor), self.group, sigma, common, terms=terms, calm=calm
                        )
            else:
                # Early rounds only find the outliers; long waves wait for the last.
                tolerance = joint.TOLERANCE if last else 1e-5
                x, count = joint.conjugate_gradients(
                    system.apply, right, x, system.preconditioner(coarse), tolerance=tolerance
                )
                total += count
            if not last:
                weight = reweighting.next(system, self.y, x, turn)
                if self.sparse:
                    sigma, loose = uneven(x, sigma, terms, (present > 0) & ~self.flat, least=self.sparse)
        self._lay(system, x, np.flatnonzero(reweighting.shut & (present > 0)))
        return Solved(system, x, sigma, common, reweighting, total, coarse, factor)

    def _lay(self, system: System, x: Floats, frames: Ints) -> None:
        """Fit surfaces of frames that had no say to the sky of the others, in place."""
        if not len(frames):
            return
        seen, o = self.seen, system.observations
        rest = system.residual(self.y, x)
        shares = system.weight * system.inverse_depth[o.point]
        for f in frames.tolist():
            here = slice(seen.start[f], seen.start[f + 1])
            # Where nobody else sees the sky it is this frame's own.
            good = shares[here] < 0.5
            basis = legendre_terms(seen, here)[good]
            weight = system.weight[here][good].astype(np.float64) * SHUT
            held = basis * weight[:, None]
            x[f] += np.linalg.solve(
                basis.T @ held + np.diag(system.prior[f]), held.T @ rest[here][good] - system.prior[f] * x[f]
            )

    def _prior(self, sigma: Floats, terms: Ints) -> Floats:
        out = np.tile(sigma[terms] ** -2.0, (self.seen.frames, 1))
        out[self.flat] = (_STIFF * 100.0 * self._floor()) ** -2.0
        out[self.flat, 0] = (_FREE * max(float(sigma[0]), 100.0 * self._floor())) ** -2.0
        if self.fixed is not None:
            out[self.fixed] = (_STIFF * self._floor()) ** -2.0
        return out

    def _shared(self, sigma: Floats, common: Floats, terms: Ints) -> Shared | None:
        return None if self.group is None else shared_prior(self.group, sigma[terms], common[terms])

    def _first_guess(self) -> Floats:
        """Spread of raw disagreements: an upper bound which the first rounds bring down."""
        nothing = np.zeros((self.seen.frames, self.seen.terms))
        raw = System(self.seen, self.stated, nothing).residual(self.y, nothing)
        spread = max(float(np.std(raw)), self._floor()) if len(raw) else 1.0
        return np.full(self.seen.order + 1, spread)

    def _floor(self) -> float:
        """Smallest spread worth telling from 0: a hundredth of a sample's error."""
        return 0.01 / float(np.sqrt(np.median(self.stated))) if len(self.stated) else 1.0

    def _report(self, solved: Solved, trials: Floats) -> Surfaces:
        seen, system = self.seen, solved.system
        label = islands(seen)
        groups = int(label.max()) + 1 if len(label) else 0
        present = seen.count
        tied = present > 0
        own = tied & ~self.flat
        count = np.bincount(label[own], minlength=groups)
        mean = np.bincount(label[own], weights=solved.x[own, 0], minlength=groups) / np.maximum(count, 1)
        x = np.where(tied[:, None], solved.x, 0.0)
        if self.fixed is not None:
            mean[label[tied & self.fixed]] = 0.0
            x[self.fixed] = 0.0
        if not len(seen.gain):
            x[tied, 0] -= mean[label[tied]]
        before = rms_by_frame(system, self.y, np.zeros_like(x))
        after = rms_by_frame(system, self.y, x)
        held = hold_out(seen, self.placement)
        modes = unknown_modes()
        # Errors of surfaces that cannot follow the frames are not those of noise.
        if solved.reweighting.scale < _HONEST:
            even, coarse, factor = self._ungained(solved)
            modes = mosaic_modes(even, self.placement, label, coarse, factor)
        return Surfaces(
            coefficients=x,
            island=label,
            samples=present,
            residual_before=before,
            residual_after=after,
            rejected=solved.reweighting.rejected(system.weight),
            inflation=solved.reweighting.inflation,
            prior_sigma=solved.prior,
            shared_sigma=solved.common if self.group is not None else np.zeros_like(solved.prior),
            noise_scale=solved.reweighting.scale,
            iterations=solved.iterations,
            residual_held=self._foretold(solved, held),
            trials=trials,
            modes=modes,
            kept=solved.reweighting.kept(system.weight),
            covariance=surface_covariances(system),
            below=self.below,
        )

    def _ungained(self, solved: Solved) -> tuple[System, Coarse | None, tuple[Floats, bool] | None]:
        """The last round's equations as if all frames were evenly transparent.

        Gains tell of long waves as far as scales are right, whose errors the equations do not know.
        """
        system = solved.system
        if not len(self.seen.gain):
            return system, solved.coarse, solved.factor
        plain = replace(system.observations, gain=self.seen.gain[:0])
        system = System(plain, system.weight, system.prior, system.shared)
        coarse = None
        if self.placement is not None and solved.coarse is not None:
            coarse = coarse_space(self.placement, plain.order, most=MOST_PANELS, flat=self.flat)
        return system, coarse, None if solved.factor is None else system.factor()

    def _foretold(self, solved: Solved, held: HoldOut) -> Floats:
        """Robust rms by frame at the points held out of a solve that begins anew without them."""
        test, weight = held.samples(self.seen), solved.system.weight
        if not test.any():
            return np.full(self.seen.frames, np.nan)
        without = np.where(test, np.float32(0), weight)
        system = System(self.seen, without, solved.system.prior, solved.system.shared)
        right = system.project(self.y)
        if solved.factor is not None:
            x = scipy.linalg.cho_solve(system.factor(), right.ravel(), check_finite=False).reshape(right.shape)
        else:
            # Begun at the solution, loose steps would keep what it knows of these points.
            x, _ = joint.conjugate_gradients(
                system.apply, right, np.zeros_like(right), system.preconditioner(solved.coarse), tolerance=1e-5
            )
        return rms_by_frame(solved.system, self.y, x, only=test)


def uneven(x: Floats, sigma: Floats, terms: Ints, there: Bools, *, least: float) -> tuple[Floats, Floats]:
    """Tell surfaces that are flat, as most are, from those that are not.

    Parameters
    ----------
    x
        Coefficients (frames, K).
    sigma, terms
        Spread of each order so far, and the orders of the terms.
    there
        (frames,) frames to look at.
    least
        Spread at least.

    Returns
    -------
    sigma
        Spread of most frames; that of the constant as it was.
    loose
        (frames, K) factor on the prior precision.

    Notes
    -----
    Student's t with one degree of freedom by reweighting: precision · (1 + K) / (1 + Σ (x / σ)²) a frame and
    order, over its K terms. Of two solutions which overlaps cannot tell apart, a tilt of every frame or of a few,
    that of few is the likely one; a Gaussian prior would tilt them all.
    """
    out, loose = sigma.copy(), np.ones_like(x)
    for order in range(1, len(sigma)):
        mine = terms == order
        size = x[np.ix_(there, mine)] ** 2
        if size.size:
            out[order] = np.clip(np.sqrt(np.median(size) / 0.455), least, sigma[order])
        square = np.sum((x[:, mine] / out[order]) ** 2, axis=1)
        loose[:, mine] = ((1.0 + np.count_nonzero(mine)) / (1.0 + square))[:, None]
    return out, loose


def legendre_terms(seen: Observations, here: slice) -> Floats:
    """Terms of the surfaces at some samples."""
    u, v, gain = (c[here] if len(c) else c for c in (seen.u, seen.v, seen.gain))
    start = np.array([0, here.stop - here.start])
    return Observations(start, seen.point[here], u, v, seen.order, seen.points, gain).basis()


def _variances(factor: tuple[Floats, bool]) -> Floats:
    """Diagonal of the inverse: posterior variances of the unknowns."""
    inverse, failed = scipy.linalg.lapack.dpotri(factor[0], lower=1)
    return np.asarray(np.diag(inverse).copy()) if failed == 0 else np.full(len(factor[0]), np.nan)


def _inverse(factor: tuple[Floats, bool]) -> Floats:
    inverse, failed = scipy.linalg.lapack.dpotri(factor[0], lower=1)
    if failed:
        return np.full_like(factor[0], np.nan)
    return np.asarray(np.tril(inverse) + np.tril(inverse, -1).T)


def _spread(x: Floats, variance: Floats, sigma: Floats, terms: Ints, calm: NDArray[np.bool_]) -> Floats:
    """Next estimate of the coefficients' spread per order."""
    out = sigma.copy()
    for order in range(len(sigma)):
        here = np.ix_(calm, terms == order)
        out[order] = next_spread(x[here] ** 2, variance[here], float(sigma[order]))
    return np.maximum(out, 1e-3 * float(out.max()))
