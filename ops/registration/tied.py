"""How well the frames of a mosaic are tied to each other: its long waves, and what its loops leave open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from skyloom.ops.registration.bundle_problem import Curvature, Problem, State, distortion_terms
from skyloom.ops.registration.placing import Place, directions, rescale, tangent_basis

Floats = NDArray[np.float64]

DRAWS = 16
"""Solutions drawn: their scatter is known to 1/√(2 · draws · long waves), some eight parts in a hundred."""
LEAST_SHARED = 8
"""Stars two frames share to close a loop."""
_POINTS, _SHARES = np.polynomial.legendre.leggauss(3)
"""Points along a side of a frame, −1 to 1, and their weights: exact for the mean square of a quadratic."""
_COUNTED = 1e-3  # of its weight a sighting must have kept
_PAIRS = 1e8  # pairs of sightings of one star that are looked at


@dataclass(frozen=True)
class Tie:
    """What is known of the errors of a solution."""

    sigma: dict[int, float]
    """Frame → error (px, rms over its area) of its place in the mosaic; empty where it was not looked for."""
    scale: float
    """Relative error of the scale of the whole, 0 where it was given; NaN where not looked for."""
    loops: int
    """Independent closed ways over pairs of frames with `LEAST_SHARED` stars in common."""
    closure: float
    """rms (px) of what the solution leaves between the two frames of such a pair; NaN without loops."""


def tie_of(problem: Problem, places: Mapping[int, Place], state: State, weight: Floats, spread: float) -> Tie:
    """Errors of a solution.

    Parameters
    ----------
    problem, places, state, weight
        Of the solution; (sightings,) weights are inverse variances as the residuals say.
    spread
        Of the square of the scale before a star is seen; 0 = it is given.

    Notes
    -----
    Solutions are drawn from the normal equations at the end, with priors (J. K. Salmon's "perturb and solve"): a
    right hand side with the covariance of the matrix has a solution with that of the errors. One factor serves all
    draws, where the inverse would need the memory of all pairs of unknowns. Moving, turning and scaling the whole
    is no error. Where conjugate gradients have no factor to go by (deep stacks) nothing is drawn.
    """
    y, slope = problem.offsets(places, state, weight)
    loops, closure = close_loops(problem, y, weight)
    normal = problem.equations(slope, weight)
    if not normal.knows_waves:
        return Tie({}, np.nan, loops, closure)
    curve = Curvature(normal, problem.by_square(places, state, weight, y), spread) if spread > 0 else None
    rng = np.random.default_rng(0)
    zero = _positions(problem, places, state)
    total = np.zeros(len(problem.frames))
    for _ in range(DRAWS):
        noise = rng.standard_normal(y.shape) / np.sqrt(weight)[:, None]
        step = normal.solve(problem.prior.draw(rng) - normal.against(noise.ravel()), tolerance=1e-4)
        square = state.square
        if curve is not None:
            more = curve.step(noise, step, 0.0, float(rng.standard_normal()))
            step = step - curve.along * more
            square = max(square + more, 0.05 * square)
        drawn = _positions(problem, places, problem.moved(state, step, square))
        total += (np.abs(_similar(drawn, zero) - zero) ** 2) @ np.outer(_SHARES, _SHARES).ravel() / 4.0
    sigma = np.sqrt(total / DRAWS)
    return Tie(
        dict(zip(problem.frames, sigma.tolist(), strict=True)),
        0.5 * curve.sigma / state.square if curve is not None else 0.0,
        loops,
        closure,
    )


def close_loops(problem: Problem, y: Floats, weight: Floats) -> tuple[int, float]:
    """Independent loops, and the rms (px) of the mean difference of the stars two frames share."""
    good = weight > _COUNTED * np.median(weight)
    objects, frame = problem.objects[good], problem.frame[good]
    if (np.bincount(objects, minlength=1).astype(np.float64) ** 2).sum() > _PAIRS:
        return 0, np.nan
    shape = (len(problem.frames), problem.count)

    def table(values: Floats) -> csr_array:
        return csr_array(coo_array((values, (frame, objects)), shape=shape))

    seen = table(np.ones(len(frame)))
    shared = coo_array(seen @ seen.T)
    upper = (shared.row < shared.col) & (shared.data >= LEAST_SHARED)
    a, b, stars = shared.row[upper], shared.col[upper], shared.data[upper]
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(shape[0], shape[0]))
    islands, _ = connected_components(graph, directed=False)
    loops = len(a) - shape[0] + int(islands)
    if loops <= 0:
        return 0, np.nan
    away = np.zeros(len(a))
    for k in range(2):
        sums = csr_array(table(y[good, k]) @ seen.T)
        away += (np.asarray(sums[a, b] - sums[b, a]).ravel() / stars) ** 2
    return loops, float(np.sqrt(away.mean()))


def _positions(problem: Problem, places: Mapping[int, Place], state: State) -> NDArray[np.complex128]:
    """(frame, points) positions (px) on Lambert's plane about the middle of the mosaic."""
    at = rescale(places, float(np.sqrt(state.square)))
    every = [at[f] for f in problem.frames]
    centre = np.mean([p.centre for p in every], axis=0)
    basis = tangent_basis(centre / np.linalg.norm(centre))
    scale = float(np.median([p.scale for p in every]))
    grid = np.stack(np.meshgrid(_POINTS, _POINTS), axis=-1).reshape(-1, 2)
    out = np.empty((len(every), len(grid)), np.complex128)
    for i, place in enumerate(every):
        pixels = grid * place.middle
        q = pixels / max(float(np.hypot(*place.middle)), 1.0)
        moved = pixels + np.concatenate([np.ones((len(q), 1)), q], axis=1) @ state.linear[i].T
        moved += distortion_terms(q) @ state.bend[problem.camera[i]].T
        x, y, z = basis @ directions(moved @ place.linear.T, place.basis).T
        out[i] = (x + 1j * y) * np.sqrt(2.0 / np.maximum(1.0 + z, 1e-9)) / scale
    return out


def _similar(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """`a` moved, turned and scaled onto `b`."""
    left, right = a - a.mean(), b - b.mean()
    return np.asarray(left * (np.vdot(left, right) / np.vdot(left, left)) + b.mean())
