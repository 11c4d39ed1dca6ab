"""Each frame against a reference, as PixInsight's LocalNormalization does it: v' = s·v + (R_B − s·T_B).

s is one photometric number a frame; the zero offset varies: the difference of the backgrounds of reference and
frame, over the superpixels both see, smoothed. (PCL: LocalNormalizationInstance.cpp, PSFScaleEstimator.)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.normalization.background import Surfaces, solve_surfaces
from skyloom.ops.normalization.bands import BandSamples, BandScales, BandSolution, record
from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.legendre import HIGHEST_ORDER
from skyloom.ops.normalization.modes import unknown_modes
from skyloom.ops.normalization.observations import Bools, Floats, Ints, Observations, islands
from skyloom.ops.normalization.reference import best_frames
from skyloom.ops.normalization.reweighting import Reweighting, rms_by_frame

LEAST_SHARED = 20
"""Superpixels a frame must share with its reference."""
CLIP = 4.0
"""Robust σ beyond which a superpixel does not count (Tukey)."""
_ROUNDS = 6
_BEND = 0.02
"""Weight of the spline's second differences, in samples a coefficient: fills holes, hardly smooths data."""


def solve_local(
    scales: BandScales, samples: BandSamples, *, local: bool, whole: bool, best: int, clip: float
) -> BandSolution:
    """Backgrounds of a band's frames, each from its reference alone.

    Parameters
    ----------
    scales, samples
        Of the band; the scales are those of `reference_scales`. An anchor, if there is one, is the reference.
    local
        True: an offset that varies over the frame; False: one number.
    whole
        True: one reference over the whole canvas; False: one for each panel.
    best
        Frames of each panel the reference is made of.
    clip
        As in `normalize`; of the levels that tie panels.
    """
    seen, y = samples.observations, samples.value
    label, chosen = best_frames(scales, samples, best=best)
    frames = seen.frames
    own = ~scales.anchor
    background = np.zeros((frames, len(surface.sample_positions()), len(surface.sample_positions())))
    # What a reference does not reach is not corrected at all.
    error = np.full_like(background, np.inf)
    taken = np.zeros(len(y))
    sky = np.full(seen.points, np.nan)
    if scales.anchor.any():
        of_image = _of_frames(seen, scales.anchor)
        sky[seen.point[of_image]] = y[of_image]
    elif whole:
        sky = _tied_reference(samples, chosen, clip)
    for panel in np.unique(label[own]):
        members = np.flatnonzero(own & (label == panel))
        reference = sky
        if not whole and not scales.anchor.any():
            reference = _mean_sky(samples, chosen & (label == panel))
        for f in members:
            here = slice(seen.start[f], seen.start[f + 1])
            difference = y[here] - reference[seen.point[here]]
            good = np.isfinite(difference)
            if np.count_nonzero(good) < LEAST_SHARED:
                continue
            u, v = seen.u[here].astype(np.float64), seen.v[here].astype(np.float64)
            if local:
                spline, error[f] = fit_offset(u[good], v[good], difference[good])
                taken[here] = surface.evaluate(spline, u, v)
                at = surface.sample_positions()
                gv, gu = np.meshgrid(at, at, indexing="ij")
                background[f] = surface.evaluate(spline, gu, gv)
            else:
                background[f] = taken[here] = robust_mean(difference[good])
                error[f] = 0.0
    return record(scales, samples, _known(samples, taken, clip), background, y - taken, error.__getitem__)


def robust_mean(value: Floats) -> float:
    """Mean of what lies within `CLIP` robust σ of the median (Tukey weights)."""
    weight = np.ones(len(value))
    centre = float(np.median(value))
    for _ in range(_ROUNDS):
        weight = _tukey(value - centre)
        centre = float(np.sum(weight * value) / np.sum(weight))
    return centre


def fit_offset(u: Floats, v: Floats, value: Floats) -> tuple[Floats, Floats]:
    """Smooth surface through scattered values, outliers rejected, holes filled.

    Parameters
    ----------
    u, v
        Detector coordinates, 0…1.
    value
        One a position.

    Returns
    -------
    coefficients
        Of the B-spline, as `surface.fit` gives them.
    error
        (v, u) standard error of the surface at `surface.sample_positions`: that of the data where there are some,
        and beyond them what a surface may do that bends there as much as it does elsewhere.
    """
    across, up = surface.basis(u), surface.basis(v)
    nodes = across.shape[1]
    design = (up[:, :, None] * across[:, None, :]).reshape(len(value), -1)
    second = np.diff(np.eye(nodes), 2, axis=0)
    bend = np.kron(second.T @ second, np.eye(nodes)) + np.kron(np.eye(nodes), second.T @ second)
    smoothing = _BEND * max(len(value) / nodes**2, 1.0)
    # A plane bends nothing: where all data lie on a line it must still not run away.
    stiff = 1e-6 * np.eye(nodes**2)
    centre = float(np.median(value))
    rest, solution = value - centre, np.zeros(nodes**2)
    weight = np.ones(len(value))
    for _ in range(_ROUNDS):
        held = design * weight[:, None]
        solution = np.linalg.solve(design.T @ held + smoothing * bend + stiff, held.T @ rest)
        weight = _tukey(rest - design @ solution)
    left, bent = rest - design @ solution, solution.reshape(nodes, nodes)
    noise = float(np.sum(weight * left**2) / np.sum(weight)) + 1e-30
    # Holes were filled without bends.
    near = (design.T @ weight).reshape(nodes, nodes) > 0.25 * np.sum(weight) / nodes**2
    turns = [np.mean((second @ b)[n[1:-1]] ** 2) for b, n in ((bent, near), (bent.T, near.T)) if n[1:-1].any()]
    usual = float(np.mean(turns or [0.0])) + 1e-30
    covariance = np.linalg.inv((design.T @ (design * weight[:, None]) + stiff) / noise + bend / usual)
    return np.asarray(centre + bent), _error(np.asarray(covariance, dtype=np.float64))


def _error(covariance: Floats) -> Floats:
    across = surface.basis(surface.sample_positions())
    terms = np.kron(across, across)
    side = len(across)
    variance = np.sum((terms @ covariance) * terms, axis=-1)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)).reshape(side, side))


def _tukey(rest: Floats) -> Floats:
    spread = 1.4826 * float(np.median(np.abs(rest)))
    return np.asarray(np.maximum(1.0 - (rest / (CLIP * spread + 1e-12)) ** 2, 0.0) ** 2 + 1e-9)


def _of_frames(seen: Observations, chosen: Bools) -> Ints:
    """Samples of some frames."""
    return np.concatenate(
        [np.empty(0, np.int64), *(np.arange(seen.start[f], seen.start[f + 1]) for f in np.flatnonzero(chosen))]
    )


def _mean_sky(samples: BandSamples, chosen: Bools, level: Floats | None = None) -> Floats:
    """Weighted mean over each point of some frames; NaN where they see nothing."""
    seen = samples.observations
    here = _of_frames(seen, chosen)
    value = samples.value[here] if level is None else samples.value[here] - level[seen.frame[here]]
    weight = np.bincount(seen.point[here], weights=samples.precision[here], minlength=seen.points)
    total = np.bincount(seen.point[here], weights=samples.precision[here] * value, minlength=seen.points)
    return np.asarray(np.divide(total, weight, out=np.full(seen.points, np.nan), where=weight > 0))


def _tied_reference(samples: BandSamples, chosen: Bools, clip: float) -> Floats:
    """Mean of the chosen frames of all panels, whose levels are solved together."""
    seen = samples.observations
    index, few = seen.restrict(chosen)
    level = np.zeros(seen.frames)
    if few.points:
        tied = solve_surfaces(
            replace(few, order=0), samples.value[index], samples.precision[index],
            placement=samples.placement[chosen], clip=clip,
        )  # fmt: skip
        level[chosen] = tied.coefficients[:, 0]
    return _mean_sky(samples, chosen, level)


def _known(samples: BandSamples, taken: Floats, clip: float) -> Surfaces:
    """What there is to say of how frames agree."""
    seen = replace(samples.observations, order=0)
    left = samples.value - taken
    nothing = np.zeros((seen.frames, 1))
    reweighting = Reweighting(seen, samples.precision, clip)
    system = System(seen, samples.precision, nothing)
    weight: NDArray[np.float32] = samples.precision
    for turn in range(4):
        weight = reweighting.next(system, left, nothing, turn)
        system = System(seen, weight, nothing)
    return Surfaces(
        coefficients=nothing,
        island=islands(seen),
        samples=seen.count,
        residual_before=rms_by_frame(system, samples.value, nothing),
        residual_after=rms_by_frame(system, left, nothing),
        rejected=reweighting.rejected(weight),
        inflation=reweighting.inflation,
        prior_sigma=np.full(1, np.nan),
        shared_sigma=np.zeros(1),
        noise_scale=reweighting.scale,
        iterations=0,
        residual_held=np.full(seen.frames, np.nan),
        trials=np.full(HIGHEST_ORDER + 1, np.nan),
        modes=unknown_modes(),
        kept=reweighting.kept(weight),
        covariance=np.zeros((seen.frames, 1, 1)),
    )
