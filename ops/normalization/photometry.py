"""Relative transparency of all frames at once from the fluxes of their common stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from skyloom.ops.normalization import joint
from skyloom.ops.normalization.joint import Coarse, System
from skyloom.ops.normalization.observations import Floats, Ints, Observations, Singles, islands, select
from skyloom.ops.normalization.panels import coarse_space

LEAST_STARS = 3
"""Matched stars below which a frame's scale is not taken from them."""
FIRST_SPREAD, LEAST_SPREAD = 1.0, 0.001
"""Of ln a around its expectation: before it is measured, and at least."""
HELD_SPREAD = 1e-7
"""Of ln a of what is known."""
DENSE_LIMIT = 600
"""Frames up to which the matrix is factored and errors are exact."""
LEAST_SQUARES, HUBER, TUKEY = 1, 4, 8
HUBER_LIMIT, TUKEY_LIMIT = 1.5, 4.5


@dataclass(frozen=True)
class Scales:
    """The solution, one entry a frame."""

    scale: Floats
    """a: common units = a × frame units."""
    error: Floats
    """Standard error of ln a within its group; NaN without stars."""
    stars: Ints
    """Stars the scale rests on; 0 where it is the expected one."""
    group: Ints
    """Frames connected by stars, numbered by first frame."""
    scatter: float
    """Robust rms of the residuals in units of their errors; 1 when these are right."""
    spread: float
    """Measured rms of ln a around its expectation: the prior that weakly connected frames fall back on."""


def solve_scales(
    frame: NDArray[np.integer],
    star: NDArray[np.integer],
    log_flux: Floats,
    log_error: Floats,
    *,
    frames: int,
    expected: Floats | None = None,
    floor: float = 0.01,
    placement: Floats | None = None,
    fixed: NDArray[np.bool_] | None = None,
) -> Scales:
    """Solve the scales of all frames of a band.

    Parameters
    ----------
    frame, star
        Frame index and star id of each sighting (a frame sees a star once); any order.
    log_flux, log_error
        ln of the flux (frame units) and its standard error; others than finite are ignored.
    frames
        How many frames there are.
    expected
        (frames,) what ln a would be without clouds, up to a constant, e.g. −ln(exposure); 0 by default.
    floor
        Error no star is believed to beat (flat field, aperture, variability), added in quadrature.
    placement
        (frames, 2, 3): canvas x, y of a frame's (u, v, 1), as for `solve_surfaces`: where many frames
        share panels it speeds up large solves and makes their errors better.
    fixed
        (frames,) frames whose ln a is what is expected: what is known already.

    Returns
    -------
    Scales
        Mean of ln a − expected = 0 over each group of frames, and mean of expected = 0 over all: with equal
        exposures the mean of ln a over a group is 0. Fixed frames take the place of these conventions.

    Notes
    -----
    m_fs = M_s − ln a_f with the stars' M_s eliminated (ubercal: Padmanabhan et al. 2008, ApJ 674, 1217), robust by
    reweighting. The prior on ln a − expected is its own measured spread (empirical Bayes): nothing to frames with
    many stars under a changing sky, and it keeps the noise of a handful of stars out of a steady night.
    Frames with fewer than `LEAST_STARS` common stars get the expected scale.
    """
    if expected is None:
        expected = np.zeros(frames)
    if frames and fixed is None:
        expected = expected - np.mean(expected)
    usable = np.isfinite(log_flux) & np.isfinite(log_error) & (log_error > 0)
    while True:
        index, start, point, points = select(frame, star, usable, frames=frames)
        stars = np.diff(start)
        poor = (stars > 0) & (stars < LEAST_STARS)
        if not poor.any():
            break
        usable &= ~poor[frame]
    nowhere = np.empty(0, dtype=np.float32)
    seen = Observations(start, point, nowhere, nowhere, 0, points)
    value = log_flux[index] + np.repeat(expected, stars)
    value -= np.median(value) if len(value) else 0.0
    stated = (1.0 / (log_error[index] ** 2 + floor**2)).astype(np.float32)
    group = islands(seen)
    present = stars > 0
    coarse = None
    if placement is not None and frames > DENSE_LIMIT:
        coarse = coarse_space(placement, 0, most=DENSE_LIMIT)
    known = np.zeros(frames, dtype=bool) if fixed is None else fixed
    delta, system, scatter, spread = _reweighted(seen, value, stated, group, present, coarse, known)
    groups = int(group.max()) + 1 if frames else 0
    count = np.maximum(np.bincount(group[present], minlength=groups), 1)
    mean = np.bincount(group[present], weights=delta[present], minlength=groups) / count
    mean[group[present & known]] = 0.0
    delta[known] = 0.0
    delta = np.where(present, delta - mean[group], 0.0)
    error = np.where(present, _errors(system, group, present, coarse), np.nan)
    return Scales(np.exp(expected + delta), error, stars, group, scatter, spread)


def _reweighted(
    seen: Observations,
    value: Floats,
    stated: Singles,
    group: Ints,
    present: NDArray[np.bool_],
    coarse: Coarse | None,
    fixed: NDArray[np.bool_],
) -> tuple[Floats, System, float, float]:
    unknown = present & ~fixed
    x, weight, scatter, spread = np.zeros((seen.frames, 1)), stated, 1.0, FIRST_SPREAD
    groups = len(np.unique(group[present]))
    # Every star takes one residual, every frame but one of a group another.
    free = len(value) - seen.points - np.count_nonzero(present) + groups
    for turn in range(TUKEY):
        system = System(seen, weight, np.where(fixed, HELD_SPREAD, spread)[:, None] ** -2.0)
        right = system.project(value)
        if seen.frames <= DENSE_LIMIT:
            factor = system.factor()
            x = scipy.linalg.cho_solve(factor, right.ravel(), check_finite=False)[:, None]
        else:
            x, _ = joint.conjugate_gradients(system.apply, right, x, system.preconditioner(coarse))
        if turn == TUKEY - 1 or not len(value):
            break
        alone = np.maximum(1.0 - system.leverage(), 1e-3)
        square = system.residual(value, x) ** 2 * stated / alone
        # Not a median: where frames share pixels half of the residuals are 0.
        centre = 1.4826 * float(np.sqrt(np.median(square)))
        for _ in range(10 if free > 0 else 0):
            limit = (HUBER_LIMIT * max(scatter, centre)) ** 2
            # Huber's proposal 2: 0.778 is the mean of min(z², 1.5²) of a Gaussian.
            scatter = max(float(np.sqrt(np.sum(alone * np.minimum(square, limit)) / (0.778 * free))), 0.1)
        z = np.sqrt(square) / scatter
        if turn + 1 < LEAST_SQUARES:
            robust = np.ones_like(z)
        elif turn + 1 < HUBER:
            robust = HUBER_LIMIT / np.maximum(z, HUBER_LIMIT)
        else:
            robust = np.maximum(1.0 - (z / TUKEY_LIMIT) ** 2, 0.0) ** 2
        if turn > 0 and unknown.any():
            spread = _spread(x[unknown, 0], _posterior(system, coarse)[unknown], spread)
        weight = (stated * robust / scatter**2).astype(np.float32)
    # m = M − ln a: the fitted offset of a frame is −(ln a − expected).
    return -x[:, 0], system, scatter, spread


def _posterior(system: System, coarse: Coarse | None) -> Floats:
    """Variance of each frame's offset; beyond `DENSE_LIMIT` that within its panel plus that of the panel."""
    frames = system.observations.frames
    if frames <= DENSE_LIMIT:
        return np.asarray(np.diag(_inverse(system.factor(), frames)))
    held = system.alone()[:, 0, 0] + system.prior[:, 0]
    return np.asarray(1.0 / held) + (0.0 if coarse is None else np.diag(_of_panels(system, coarse))[coarse.panel])


def _of_panels(system: System, coarse: Coarse) -> Floats:
    """Covariance of the panels' common offsets; 0 for panels of one frame, which are that frame."""
    inverse = np.linalg.inv(system.coarse_matrix(coarse))
    shared = np.bincount(coarse.panel, minlength=len(inverse)) > 1
    return np.asarray(inverse * (shared[:, None] & shared))


def _inverse(factor: tuple[Floats, bool], size: int) -> Floats:
    return np.asarray(scipy.linalg.cho_solve(factor, np.eye(size), check_finite=False))


def _spread(x: Floats, variance: Floats, spread: float) -> float:
    """Next estimate of the rms of offsets, robust against a cloudy frame or two (see `background`)."""
    square = np.minimum(x**2, 9.0 * max(float(np.median(x**2 + variance)), LEAST_SPREAD**2) / 0.455)
    determined = float(np.sum(1.0 - variance / spread**2))
    if determined > 0.1 * len(x):
        return max(float(np.sqrt(np.sum(square) / determined)), LEAST_SPREAD)
    return max(float(np.sqrt(np.mean(square + variance))), LEAST_SPREAD)


def _errors(system: System, group: Ints, present: NDArray[np.bool_], coarse: Coarse | None) -> Floats:
    """Standard errors relative to the mean of the group (the common constant is a convention)."""
    frames = system.observations.frames
    out = np.zeros(frames)
    if frames <= DENSE_LIMIT:
        inverse, member = _inverse(system.factor(), frames), np.arange(frames)
    elif coarse is not None:
        out += _posterior(system, None)
        inverse, member = _of_panels(system, coarse), coarse.panel
    else:
        return np.sqrt(_posterior(system, None))
    for label in np.unique(group[present]):
        here = np.flatnonzero(present & (group == label))
        weight = np.bincount(member[here], minlength=len(inverse)) / len(here)
        to_mean = inverse @ weight
        own = np.diag(inverse) - 2.0 * to_mean + weight @ to_mean
        out[here] += own[member[here]]
    return np.sqrt(np.maximum(out, 0.0))
