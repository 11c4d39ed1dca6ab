"""Shifts of all frames at once: least squares over every star that two frames share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, cg

from skyloom.ops.registration.layout import Layout
from skyloom.ops.registration.stars import Detections, Matches, link_stars

_POSITION_FLOOR = 0.05  # px: undersampling and distortion keep bright stars from better

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def solve_shifts(matches: Matches, weight: Floats, held: Floats, prior: Floats, frames: int) -> Floats:
    """Translations of all frames that bring the sightings of every object together, least squares.

    Parameters
    ----------
    matches
        Linked sightings (canvas pixels).
    weight
        (sightings,) inverse variances (1/px²).
    held
        (frame, 2) translation the prior pulls to.
    prior
        (frame,) inverse variance of the prior (1/px²); 0 leaves a frame free.
    frames
        Number of frames.

    Returns
    -------
    ndarray
        (frame, 2) to add to positions.

    Notes
    -----
    Minimises Σ w |p + t_f - X_o|² + Σ λ_f |t_f - h_f|² with the object positions X_o eliminated: a sparse
    operator "translate, average per object, subtract", conjugate gradients, no list of pairs.
    """
    objects = matches.objects
    incidence = csr_matrix((weight, (matches.frame, matches.object)), shape=(frames, objects))
    per_object = np.maximum(np.asarray(incidence.sum(axis=0)).ravel(), 1e-300)
    per_frame = np.asarray(incidence.sum(axis=1)).ravel()
    transposed = incidence.T.tocsr()
    # A frame with neither data nor prior stays: any diagonal will do.
    diagonal = per_frame + np.where((per_frame == 0) & (prior == 0), 1.0, prior)

    def normal(t: Floats) -> Floats:
        return np.asarray(diagonal * t - incidence @ ((transposed @ t) / per_object))

    own = np.asarray((incidence.multiply(incidence) / per_object).sum(axis=1)).ravel()
    precondition = 1.0 / np.maximum(diagonal - own, 1e-6 * diagonal)
    shape = (frames, frames)
    position = np.stack([matches.x, matches.y], axis=-1)
    translation = np.zeros((frames, 2))
    for axis in range(2):
        p = position[:, axis]
        mean = np.bincount(matches.object, weight * p, objects) / per_object
        right = np.bincount(matches.frame, weight * (mean[matches.object] - p), frames) + prior * held[:, axis]
        if not right.any():
            continue
        translation[:, axis], _ = cg(
            LinearOperator(shape, matvec=normal, dtype=np.float64),
            right,
            rtol=1e-10,
            atol=0.0,
            maxiter=5000,
            M=LinearOperator(shape, matvec=lambda t: precondition * t, dtype=np.float64),
        )
    return translation


def scatter(matches: Matches, weight: Floats, translation: Floats) -> Floats:
    """Distance of every sighting to the mean of the same star in the other frames.

    Parameters
    ----------
    matches, weight
        As in `solve_shifts`.
    translation
        (frame, 2) added to the positions first (pixels).

    Returns
    -------
    ndarray
        (sightings, 2); NaN where no other frame counts.
    """
    moved = np.stack([matches.x, matches.y], axis=-1) + translation[matches.frame]
    weights = np.bincount(matches.object, weight, matches.objects)
    total = np.stack(
        [np.bincount(matches.object, weight * moved[:, k], matches.objects) for k in range(2)], axis=-1
    )
    rest = weights[matches.object] - weight
    others = (total[matches.object] - weight[:, None] * moved) / np.maximum(rest, 1e-300)[:, None]
    return np.where((rest > 1e-9 * weight)[:, None], moved - others, np.nan)


def _per_frame(matches: Matches, residual: Floats, scale: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Robust rms residual (frame pixels) and number of matches of every frame."""
    n = len(scale)
    rms, count = np.full(n, np.nan), np.zeros(n, np.int64)
    distance = np.hypot(residual[:, 0], residual[:, 1])
    known = np.isfinite(distance)
    frame, distance = matches.frame[known], distance[known]
    order = np.argsort(frame, kind="stable")
    frame, distance = frame[order], distance[order]
    edges = np.searchsorted(frame, np.arange(n + 1))
    for i in range(n):
        values = distance[edges[i] : edges[i + 1]]
        if values.size:
            good = values[values <= 4 * np.median(values) + 1e-9]
            count[i] = good.size
            rms[i] = float(np.sqrt(np.mean(good**2))) / scale[i]
    return rms, count


def _weights(stars: Floats, placed: Matches, scale: Floats) -> Floats:
    """Inverse variance of each sighting's position (canvas pixels)."""
    table = stars[placed.frame, placed.row]
    snr = table[:, 2] / np.maximum(table[:, 3], 1e-30)
    sigma = np.hypot(_POSITION_FLOOR, table[:, 4] / 2.355 / np.maximum(snr, 1.0)) * scale[placed.frame]
    return np.asarray(1.0 / sigma**2)


def refine_shifts(
    stars: Floats,
    placed: Detections,
    layout: Layout,
    use: Bools,
    translation: Floats,
    prior: Floats,
    *,
    move: bool,
    tolerance: float,
    min_matches: int,
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Link and solve until the links are stable.

    Parameters
    ----------
    stars
        (frame, star, quantity) of a measurement.
    placed
        Their canvas positions by each frame's own WCS.
    layout
        Geometry of the frames.
    use
        (frame,): frames that take part.
    translation
        (frame, 2) to begin with (canvas pixels).
    prior
        (frame,) inverse variance of the header's WCS (1/px²).
    move
        Solve for translations; otherwise only say how well the stars agree.
    tolerance
        Distance within which sightings may be one star (frame pixels).
    min_matches
        Frames with fewer links are not moved by them.

    Returns
    -------
    translation, residual, matches
        (frame, 2) canvas pixels; rms distance (frame pixels) to the same stars in other frames, NaN without any;
        how many of them.
    """
    n = len(use)
    mine = placed.take(use[placed.frame])
    typical = float(np.median(layout.scale[use])) if use.any() else 1.0
    residual, count = np.full(n, np.nan), np.zeros(n, np.int64)
    for radius in (tolerance, max(0.5 * tolerance, 1.0)) if move else (tolerance,):
        at = Detections(
            mine.frame, mine.row, mine.x + translation[mine.frame, 0], mine.y + translation[mine.frame, 1]
        )
        matches = link_stars(at, tolerance=radius * typical)
        if not matches.objects:
            return translation, residual, count
        base = _weights(stars, matches, layout.scale)
        # A frame known by a handful of chance hits must not be moved by them.
        seen = np.bincount(matches.frame, minlength=n)
        base = np.where(seen[matches.frame] >= min_matches, base, 1e-12)
        weight = base.copy()
        step = np.zeros((n, 2))
        each = scatter(matches, weight, step)
        for _ in range(4 if move else 0):
            step = solve_shifts(matches, weight, -translation, prior, n)
            each = scatter(matches, base, step)
            distance = np.hypot(each[:, 0], each[:, 1])
            limit = 2.5 * max(float(np.nanmedian(distance)), 0.02)
            # Huber: beyond the limit a star pulls with constant force.
            factor = np.where(distance > limit, limit / np.maximum(distance, 1e-12), 1.0)
            weight = base * np.where(np.isfinite(factor), factor, 1.0)
        translation = translation + step
        residual, count = _per_frame(matches, each, layout.scale)
    return translation, residual, count
