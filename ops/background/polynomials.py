"""Polynomial surfaces over a canvas: robust fits, and how far they reach beyond their points."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

BEGINNINGS = 30
"""Random surfaces to begin from, for each term."""
PATCHES = 6
"""Patches a side that are held out together."""
FOLDS = 5


def solve(terms: Floats, values: Floats, weights: Floats | None = None) -> Floats:
    """Coefficients of a (weighted) least-squares fit, by normal equations: Legendre terms are well conditioned."""
    weighted = terms if weights is None else terms * weights[:, None]
    matrix = weighted.T @ terms
    # Where points do not determine a term it gets the smallest value, and not a wild one.
    matrix[np.diag_indices_from(matrix)] += 1e-10 * np.trace(matrix) / len(matrix) + 1e-300
    return np.asarray(np.linalg.solve(matrix, weighted.T @ values))


def least_squares(terms: Floats, values: Floats) -> Floats:
    """Coefficients of a fit with the outliers weighted down (Huber's loss, from 1.5 σ on).

    Parameters
    ----------
    terms
        Shape (points, terms).
    values
        Shape (points,).
    """
    weights = np.ones(len(values))
    before = np.full(terms.shape[1], np.inf)
    for _ in range(30):
        coefficients = solve(terms, values, weights)
        residual = np.abs(values - terms @ coefficients)
        sigma = 1.4826 * float(np.median(residual))
        if sigma == 0 or np.abs(coefficients - before).max() < 1e-4 * sigma / np.sqrt(len(values)):
            break
        weights = np.minimum(1.0, 1.5 * sigma / np.maximum(residual, 1e-12 * sigma))
        before = coefficients
    return coefficients


def likeliest_surfaces(terms: Floats, values: Floats, share: float, *, number: int) -> list[Floats]:
    """Surfaces that run as closely as possible through a share of the points, whatever the others do.

    Parameters
    ----------
    terms
        Shape (points, terms).
    values
        Shape (points,).
    share
        Fraction of the points a surface should fit.
    number
        How many surfaces to return.

    Returns
    -------
    list
        Coefficients, the closest first.

    Notes
    -----
    Least trimmed squares by random beginnings and concentration (Rousseeuw & Van Driessen 1999): surfaces through
    as few points as determine one, each fitted again, twice, to the share of the points that it comes closest to.
    With two fifths of the field in the wrong place one of 180 begins well with a probability of 0.9998 (6 terms).
    """
    count, size = terms.shape
    kept = max(int(np.ceil(share * count)), min(size + 1, count))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(BEGINNINGS * size):
        chosen = rng.choice(count, size=min(size, count), replace=False)
        for _ in range(3):
            coefficients = solve(terms[chosen], values[chosen])
            distance = np.abs(values - terms @ coefficients)
            chosen = np.argpartition(distance, kept - 1)[:kept]
        found.append((float(np.sum(distance[chosen] ** 2)), coefficients))
    found.sort(key=lambda f: f[0])
    return [coefficients for _, coefficients in found[:number]]


def reach(terms: Floats, chosen: Mask) -> float:
    """How much larger the error of a fit becomes, at its worst, for points chosen among all there are.

    Parameters
    ----------
    terms
        Shape (points, terms): of all points.
    chosen
        Shape (points,): those that are fitted.

    Returns
    -------
    float
        Largest σ of the surface over all points (in units of one point's over root n), relative to that of a fit
        to all points; infinite where the chosen do not determine it.
    """

    def worst(some: Floats) -> float:
        r = np.asarray(np.linalg.qr(some, mode="r"), dtype=np.float64)
        diagonal = np.abs(np.diag(r))
        if len(some) < terms.shape[1] or diagonal.min() < 1e-8 * diagonal.max():
            return np.inf
        solved = np.linalg.solve(r.T, terms.T)
        return float(np.sqrt(np.max(np.sum(solved**2, axis=0)) * len(some)))

    return worst(terms[chosen]) / worst(terms)


def folds(s: Floats, t: Floats) -> NDArray[np.int64]:
    """Which of five groups of patches of the field each point belongs to (s, t: −1…1)."""
    row, column = (np.clip(((p + 1) / 2 * PATCHES).astype(np.int64), 0, PATCHES - 1) for p in (t, s))
    return np.asarray((row + 2 * column) % FOLDS)


def held_out_error(terms: Floats, values: Floats, fold: NDArray[np.int64]) -> float:
    """Typical error with which patches of the field are foretold by the rest."""
    wrong = np.full(len(values), np.nan)
    for group in range(FOLDS):
        out = fold == group
        if not out.any() or (~out).sum() < 2 * terms.shape[1]:
            continue
        wrong[out] = values[out] - terms[out] @ least_squares(terms[~out], values[~out])
    if not np.isfinite(wrong).any():
        return np.inf
    wrong = wrong[np.isfinite(wrong)]
    limit = 3 * 1.4826 * np.median(np.abs(wrong))
    return float(np.sqrt(np.mean(np.minimum(wrong**2, limit**2))))
