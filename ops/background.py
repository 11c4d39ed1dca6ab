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
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops import joint
from skyloom.ops.joint import Coarse, Floats, Ints, Observations, System

HIGHEST_ORDER = 4
ORDERS = {n: np.repeat(np.arange(n + 1), np.arange(1, n + 2)) for n in range(HIGHEST_ORDER + 1)}
"""Order of each Legendre term of a surface of total degree 0, 1, …"""
PRIOR_UNKNOWNS = 720
"""Coefficients from which their spread is measured; it is a property of the population of frames."""
LEAST_SQUARES, HUBER, TUKEY = 1, 4, 9
"""Rounds of reweighting: plain until the first, Huber until the second, Tukey's biweight to the end."""
HUBER_LIMIT, TUKEY_LIMIT = 1.5, 5.0
"""In robust standard deviations of the residuals."""
PANEL_RADIUS = 0.35
"""Frames whose centres lie closer than this part of a frame's side make one panel of the coarse space."""


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


def legendre(s: Floats, t: Floats, order: int) -> Floats:
    """Legendre products of total degree ≤ order.

    Parameters
    ----------
    s, t
        Positions, −1…1, of one shape.
    order
        Total degree, 0…`HIGHEST_ORDER`.

    Returns
    -------
    ndarray
        Shape `s.shape + (K,)`, K = 1, 3, 6, …: 1, s, t, P₂(s), s·t, P₂(t), P₃(s), P₂(s)·t, …
    """
    along_s, along_t = legvander(s, order), legvander(t, order)
    out = np.empty((*np.shape(s), len(ORDERS[order])))
    degrees = [(n, k) for n in range(order + 1) for k in range(n + 1)]
    for term, (n, k) in enumerate(degrees):
        np.multiply(along_s[..., n - k], along_t[..., k], out=out[..., term])
    return out


def evaluate(coefficients: Floats, u: Floats, v: Floats) -> Floats:
    """Surface of one frame at normalized detector coordinates (0…1)."""
    order = next(n for n, terms in ORDERS.items() if len(terms) == coefficients.shape[-1])
    return np.asarray(legendre(2.0 * u - 1.0, 2.0 * v - 1.0, order) @ coefficients)


def panels(placement: Floats, *, most: int) -> Ints:
    """Group frames that look at nearly the same sky.

    Parameters
    ----------
    placement
        (frames, 2, 3): canvas x, y of a frame's (u, v, 1).
    most
        Groups at most; the radius grows until it holds.

    Returns
    -------
    ndarray
        Group of each frame, 0….
    """
    centre = placement @ np.array([0.5, 0.5, 1.0])
    side = np.sqrt(np.abs(np.linalg.det(placement[:, :, :2])))
    tree = cKDTree(centre)
    radius = PANEL_RADIUS * float(np.median(side))
    while True:
        label = np.full(len(centre), -1, dtype=np.int64)
        count = 0
        for index in range(len(centre)):
            if label[index] >= 0:
                continue
            near = np.asarray(tree.query_ball_point(centre[index], radius))
            label[near[label[near] < 0]] = count
            count += 1
        if count <= most:
            return label
        radius *= 1.5


COARSE_ORDER, COARSE_UNKNOWNS = 2, 1536
"""Degree of the panels' surfaces in the coarse space (what is slow is smooth), and its size at most."""


def coarse_space(placement: Floats, order: int, *, most: int) -> Coarse:
    """Sky-fixed surfaces of low degree over each panel, in every frame's own coordinates (of degree ≤ order).

    Total degree survives rotation and shift, so these are exactly the surfaces which frames of a panel can share
    without disagreeing: the slow modes. (Surfaces fixed to the detector are not: dithers and flips tell them
    apart.)
    """
    label = panels(placement, most=most)
    groups = int(label.max()) + 1
    members = np.bincount(label, minlength=groups)
    centre = placement @ np.array([0.5, 0.5, 1.0])
    total = [np.bincount(label, weights=centre[:, k], minlength=groups) for k in (0, 1)]
    middle = np.stack(total, axis=-1) / members[:, None]
    half = 0.5 * float(np.median(np.sqrt(np.abs(np.linalg.det(placement[:, :, :2])))))
    nodes = np.linspace(0.0, 1.0, HIGHEST_ORDER + 2)
    u, v = (g.ravel() for g in np.meshgrid(nodes, nodes))
    own = np.linalg.pinv(legendre(2.0 * u - 1.0, 2.0 * v - 1.0, order))
    sky = placement @ np.stack([u, v, np.ones_like(u)])
    local = (sky - middle[label][:, :, None]) / half
    smooth = legendre(local[:, 0], local[:, 1], min(order, COARSE_ORDER))
    return Coarse(label, np.einsum("kn,fnm->fkm", own, smooth))


def solve_surfaces(
    frame: NDArray[np.integer],
    point: NDArray[np.integer],
    value: Floats,
    variance: Floats,
    u: Floats,
    v: Floats,
    *,
    frames: int,
    order: int = 2,
    placement: Floats | None = None,
    clip: float = TUKEY_LIMIT,
    dense_limit: int = joint.DENSE_LIMIT,
) -> Surfaces:
    """Solve the background surfaces of all frames together.

    Parameters
    ----------
    frame, point
        Frame index and sky point id of each sample (a frame sees a point once); any order.
    value, variance
        Sample and its variance, in common units (scales applied).
    u, v
        Detector coordinates of the sample, 0…1.
    frames
        How many frames there are.
    order
        Total degree of the surfaces: 0, 1, 2.
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
    Memory: about 150 bytes a sample, and 16 bytes × unknowns² when dense.
    """
    usable = np.isfinite(value) & np.isfinite(variance) & (variance > 0) & np.isfinite(u) & np.isfinite(v)
    index, point, points = joint.compress(frame, point, usable)
    basis = legendre(2.0 * u[index].astype(np.float64) - 1.0, 2.0 * v[index].astype(np.float64) - 1.0, order)
    seen = Observations(frame[index].astype(np.int32), point, basis, frames, points)
    y = value[index].astype(np.float64)
    if len(y):
        y -= np.median(y)
    problem = _Problem(seen, y, 1.0 / variance[index].astype(np.float64), order, placement, clip, dense_limit)
    present = np.bincount(seen.frame, minlength=frames)
    most = PRIOR_UNKNOWNS // basis.shape[1]
    if np.count_nonzero(present) > most:
        chosen = _representatives(present, placement, most=most)
        sigma = problem.restrict(chosen).solve(None).prior_sigma
        return problem.solve(sigma)
    return problem.solve(None)


def _representatives(present: Ints, placement: Floats | None, *, most: int) -> NDArray[np.bool_]:
    """Choose frames for measuring the prior: some of each panel, neighbouring panels first."""
    generator = np.random.default_rng(0)
    shuffled = generator.permutation(np.flatnonzero(present))
    chosen = np.zeros(len(present), dtype=bool)
    if placement is None:
        chosen[shuffled[:most]] = True
        return chosen
    label = panels(placement, most=len(placement))[shuffled]
    each = max(4, most // len(np.unique(label)))
    by_panel = np.argsort(label, kind="stable")
    start = np.searchsorted(label[by_panel], label)
    rank = np.empty(len(label), dtype=np.int64)
    rank[by_panel] = np.arange(len(label))
    candidates = shuffled[rank - start < each]
    centre = placement[candidates] @ np.array([0.5, 0.5, 1.0])
    distance = np.hypot(*(centre - np.median(centre, axis=0)).T)
    chosen[candidates[np.argsort(distance)][:most]] = True
    return chosen


@dataclass(frozen=True)
class _Problem:
    """Samples, stated weights and how to solve; the loop of reweighting."""

    seen: Observations
    y: Floats
    stated: Floats
    """Inverse variance as the measurement states it."""
    order: int
    placement: Floats | None
    clip: float
    dense_limit: int

    def restrict(self, chosen: NDArray[np.bool_]) -> _Problem:
        """Only the samples of some frames (which keep their numbers' order)."""
        index, point, points = joint.compress(self.seen.frame, self.seen.point, chosen[self.seen.frame])
        renumber = np.cumsum(chosen) - 1
        frame = renumber[self.seen.frame[index]].astype(np.int32)
        seen = Observations(frame, point, self.seen.basis[index], int(chosen.sum()), points)
        placement = None if self.placement is None else self.placement[chosen]
        return replace(self, seen=seen, y=self.y[index], stated=self.stated[index], placement=placement)

    def solve(self, sigma: Floats | None) -> Surfaces:
        """Reweight until the last round; with `sigma` None the prior is measured on the way (dense only)."""
        seen, terms = self.seen, ORDERS[self.order]
        measure = sigma is None
        # Block-Jacobi alone takes hundreds of steps for the long waves.
        limit = self.dense_limit * (4 if self.placement is None else 1)
        dense = measure or seen.frames * len(terms) <= limit
        present = np.bincount(seen.frame, minlength=seen.frames)
        if sigma is None:
            sigma = self._first_guess()
        coarse = None
        if not dense and self.placement is not None:
            most = COARSE_UNKNOWNS // len(ORDERS[min(self.order, COARSE_ORDER)])
            coarse = coarse_space(self.placement, self.order, most=most)
        x = np.zeros((seen.frames, len(terms)))
        reweighting = _Reweighting(seen, self.stated, self.clip)
        weight, total = self.stated, 0
        for turn in range(TUKEY):
            last = turn == TUKEY - 1
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
        return self._report(system, x, sigma, reweighting, present, total)

    def _first_guess(self) -> Floats:
        """Spread of raw disagreements: an upper bound which the first rounds bring down."""
        system = System(self.seen, self.stated, np.ones((self.seen.frames, 1)))
        raw = system.residual(self.y, np.zeros((self.seen.frames, self.seen.basis.shape[1])))
        spread = max(float(np.std(raw)), self._floor()) if len(raw) else 1.0
        return np.full(self.order + 1, spread)

    def _floor(self) -> float:
        """Smallest spread worth telling from 0: a hundredth of a sample's error."""
        return 0.01 / float(np.sqrt(np.median(self.stated))) if len(self.stated) else 1.0

    def _report(
        self, system: System, x: Floats, sigma: Floats, reweighting: _Reweighting, present: Ints, iterations: int
    ) -> Surfaces:
        seen = self.seen
        label = joint.islands(seen.frame, seen.point, seen.frames, seen.points)
        groups = int(label.max()) + 1 if len(label) else 0
        solved = present > 0
        count = np.bincount(label[solved], minlength=groups)
        mean = np.bincount(label[solved], weights=x[solved, 0], minlength=groups) / np.maximum(count, 1)
        x = np.where(solved[:, None], x, 0.0)
        x[solved, 0] -= mean[label[solved]]
        alone = np.maximum(1.0 - system.leverage(), 1e-6)
        before = system.residual(self.y, np.zeros_like(x)) / alone
        after = system.residual(self.y, x) / alone
        low = system.weight * reweighting.variance_factor() < 0.1 * self.stated
        rejected = np.bincount(seen.frame, weights=low, minlength=seen.frames) / np.maximum(present, 1)
        return Surfaces(
            coefficients=x,
            island=label,
            samples=present,
            residual_before=_rms_by_frame(before, seen),
            residual_after=_rms_by_frame(after, seen),
            rejected=rejected,
            inflation=reweighting.inflation,
            prior_sigma=sigma,
            noise_scale=reweighting.scale,
            iterations=iterations,
        )


class _Reweighting:
    """Robust weights: of samples by their residual, of frames by the spread of theirs."""

    def __init__(self, seen: Observations, stated: Floats, clip: float) -> None:
        self.seen, self.stated, self.clip = seen, stated, clip
        self.scale = 1.0
        self.inflation = np.ones(seen.frames)

    def variance_factor(self) -> Floats:
        """Of each sample: how many times its stated variance is believed."""
        return np.asarray(self.scale**2 * self.inflation[self.seen.frame])

    def next(self, system: System, y: Floats, x: Floats, turn: int) -> Floats:
        """Weights for the round after `turn`."""
        if len(y) == 0:
            return self.stated
        alone = np.maximum(1.0 - system.leverage(), 1e-3)
        z = np.abs(system.residual(y, x)) * np.sqrt(self.stated / alone)
        spread = _median_by_frame(z, self.seen) * 1.4826
        # Most frames decide what the noise is; a frame that is noisier than they are counts for less as a whole.
        self.scale = max(float(np.nanmedian(spread)), 1e-6)
        relative = np.nan_to_num(spread / self.scale, nan=1.0)
        self.inflation = np.where(relative > 1.25, relative**2, 1.0)
        z /= np.sqrt(self.variance_factor())
        if turn + 1 < LEAST_SQUARES:
            robust = np.ones_like(z)
        elif turn + 1 < HUBER:
            robust = HUBER_LIMIT / np.maximum(z, HUBER_LIMIT)
        else:
            robust = np.maximum(1.0 - (z / self.clip) ** 2, 0.0) ** 2
        return np.asarray(self.stated / self.variance_factor() * robust)


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


def _median_by_frame(value: Floats, seen: Observations) -> Floats:
    """Median of the samples of each frame; NaN where there are none."""
    edges = np.searchsorted(seen.frame, np.arange(seen.frames + 1))
    out = np.full(seen.frames, np.nan)
    for f in range(seen.frames):
        if edges[f + 1] > edges[f]:
            out[f] = np.median(value[edges[f] : edges[f + 1]])
    return out


def _rms_by_frame(value: Floats, seen: Observations) -> Floats:
    """Robust rms about 0 of the samples of each frame; NaN where there are none."""
    return 1.4826 * _median_by_frame(np.abs(value), seen)
