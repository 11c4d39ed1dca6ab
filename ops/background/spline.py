"""A smoothing spline through samples of plain sky, for backgrounds that no polynomial follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.background.polynomials import folds

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

LEAST = 16
"""Samples a spline needs."""
FILLED = 0.3
"""Fraction of a sample's blocks that must be plain sky."""
STIFFNESS = tuple(float(s) for s in 10.0 ** np.arange(-3.0, 2.1, 0.5))
"""Smoothing parameters that are tried: of scipy's thin-plate splines, samples in −1…1."""


@dataclass(frozen=True)
class Samples:
    """Levels of plain sky at some places."""

    s: Floats
    t: Floats
    level: Floats


def sample_boxes(s: Floats, t: Floats, level: Floats, plain: Mask, *, boxes: int) -> Samples:
    """Means of the plain sky in boxes of a regular lattice, at the mean place of what is plain in them.

    Parameters
    ----------
    s, t
        Shape (rows, columns): places of blocks, −1…1 along the longer side.
    level, plain
        Of the same shape.
    boxes
        Boxes along the longer side.
    """
    side = max(level.shape) / boxes
    rows, columns = (np.floor(np.arange(n) / side).astype(np.int64) for n in level.shape)
    index = rows[:, None] * (boxes + 1) + columns[None, :]
    size = (boxes + 1) ** 2
    whole = np.bincount(index.ravel(), minlength=size)
    number = np.bincount(index[plain], minlength=size)
    good = (number > 0) & (number >= FILLED * whole)
    sums = (np.bincount(index[plain], weights=v[plain], minlength=size)[good] for v in (s, t, level))
    return Samples(*(np.asarray(total / number[good]) for total in sums))


def fit_spline(samples: Samples, stiffness: float | None) -> tuple[Callable[[Floats], Floats], float]:
    """Thin-plate smoothing spline; without a stiffness the one that best foretells patches held out.

    Returns
    -------
    spline, stiffness
        The spline takes places of shape (points, 2), t before s.
    """
    places = np.stack([samples.t, samples.s], axis=1)
    if stiffness is None:
        fold = folds(samples.s, samples.t)
        errors = [_held_out(places, samples.level, fold, s) for s in STIFFNESS]
        # The stiffest of those that do as well.
        best = min(errors)
        stiffness = max(s for s, e in zip(STIFFNESS, errors, strict=True) if e <= 1.02 * best)
    return _spline(places, samples.level, stiffness), stiffness


def _spline(places: Floats, level: Floats, stiffness: float) -> Callable[[Floats], Floats]:
    # A quarter of a second of everybody's start-up, for what few ask for.
    from scipy.interpolate import RBFInterpolator

    found: Callable[[Floats], Floats] = RBFInterpolator(
        places, level, kernel="thin_plate_spline", smoothing=stiffness, degree=1
    )
    return found


def _held_out(places: Floats, level: Floats, fold: NDArray[np.int64], stiffness: float) -> float:
    wrong = []
    for group in np.unique(fold):
        out = fold == group
        if (~out).sum() >= LEAST // 2:
            wrong.append(level[out] - _spline(places[~out], level[~out], stiffness)(places[out]))
    if not wrong:
        return float("inf")
    residual = np.concatenate(wrong)
    limit = 3 * 1.4826 * np.median(np.abs(residual))
    return float(np.sqrt(np.mean(np.minimum(residual**2, limit**2))))
