"""Two frames, star by star: whether the similarity their patterns suggest holds for all their stars."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import bdtrc

from skyloom.ops.registration.quads import Meeting

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

RADII = (12.0, 8.0, 5.0, 3.0, 3.0)
"""Distances (px of the second frame) within which stars are one, round by round."""
LEAST_MATCHES = 8
"""Stars two frames must have in common."""
_FEW = 20  # matches below which only an affine map is fitted
_SIGNIFICANCE = 5.0
SAME_SCALE = 0.05
"""Difference of the scales of two frames of one camera, with what a lens bends of it in a corner."""
_SHEAR = 0.15  # largest difference of the scales along two axes of one map
_CHANCE = 1e-8
"""Probability that as many stars lie so near to others by chance: some ten thousand maps are tried."""
_COMMON = 0.25
"""Of the stars in the overlap of two frames, what both must see at least (the shallower counts)."""
_FREE = 3  # matches that an affine map always brings together


@dataclass(frozen=True)
class Edge:
    """Two frames and the stars they share."""

    a: int
    b: int
    row_a: Indices
    """(matches,) rows of the star list of `a`."""
    row_b: Indices
    rms: float
    """Of the fitted map (px of `b`)."""
    mirrored: bool

    def __len__(self) -> int:
        return len(self.row_a)


def verify(
    meeting: Meeting, stars_a: Floats, stars_b: Floats, *, least: int = LEAST_MATCHES, same_scale: bool = False
) -> Edge | None:
    """Match the stars of two frames by the similarity their patterns gave.

    Parameters
    ----------
    meeting
        The pair and its similarity.
    stars_a, stars_b
        (stars, 2) pixel positions.
    least
        Matches wanted, beyond what chance gives.
    same_scale
        Both are of one camera.

    Returns
    -------
    Edge or None
        None where the stars do not support it: fewer than `least`, or not five standard deviations more than at
        eight displaced places (a crowded field matches itself anywhere); too few of those in the overlap; a map
        that no two cameras have.

    Notes
    -----
    The map grows from the similarity to an affine and, with twenty stars or more, a quadratic one: distortion
    bends an overlap by some pixels, smoothly.
    """
    matrix = meeting.matrix
    if same_scale and abs(np.sqrt(abs(np.linalg.det(matrix[:, :2]))) - 1.0) > SAME_SCALE:
        return None
    rows = np.argsort(stars_b[:, 1], kind="stable")
    ordered = np.ascontiguousarray(stars_b[rows], dtype=np.float64)
    predicted = np.ascontiguousarray(stars_a @ matrix[:, :2].T + matrix[:, 2])
    rms, linear = np.inf, matrix[:, :2]
    for radius in RADII:
        near = mutual_nearest(predicted, ordered, radius)
        ia = np.flatnonzero(near >= 0)
        if len(ia) < least:
            return None
        predicted, rms, linear = _fit(stars_a, stars_a[ia], ordered[near[ia]])
    near = mutual_nearest(predicted, ordered, RADII[-1])
    ia = np.flatnonzero(near >= 0)
    ib = rows[near[ia]]
    angles = np.arange(8) * np.pi / 4
    chance = np.mean(
        [
            (mutual_nearest(predicted + 4 * RADII[-1] * np.array([c, s]), ordered, RADII[-1]) >= 0).sum()
            for c, s in zip(np.cos(angles), np.sin(angles), strict=True)
        ]
    )
    if len(ia) < least or len(ia) < chance + _SIGNIFICANCE * np.sqrt(chance + 1.0):
        return None
    long, short = np.linalg.svd(linear, compute_uv=False)
    if long > (1.0 + _SHEAR) * short or (same_scale and abs(np.sqrt(long * short) - 1.0) > SAME_SCALE):
        return None
    back = _fit(stars_b, stars_b[ib], stars_a[ia])[0]
    if not _unlikely(predicted, back, stars_a, stars_b, ia, ib, rms):
        return None
    return Edge(meeting.a, meeting.b, ia, ib, rms, bool(np.linalg.det(matrix[:, :2]) < 0))


def _unlikely(
    predicted: Floats, back: Floats, stars_a: Floats, stars_b: Floats, ia: Indices, ib: Indices, rms: float
) -> bool:
    """Whether the matches are more than chance gives the stars in the overlap, and enough of these."""
    inside_a, inside_b = _inside(predicted, stars_b), _inside(back, stars_a)
    inside_a[ia] = True
    inside_b[ib] = True
    among = min(int(inside_a.sum()), int(inside_b.sum()))
    # The nearer the matches are, the less are they by chance.
    radius = float(np.clip(3.0 * rms, 0.5, RADII[-1]))
    near = int((np.hypot(*(predicted[ia] - stars_b[ib]).T) <= radius).sum())
    area = max(float(np.prod(np.ptp(stars_b, axis=0))), 1.0)
    chance = min(len(stars_b) * np.pi * radius**2 / area, 1.0)
    return near >= _COMMON * among and float(bdtrc(near - _FREE - 1, among, chance)) < _CHANCE


def _inside(points: Floats, others: Floats) -> NDArray[np.bool_]:
    """Which points lie within the bounds of others."""
    return np.asarray(((points >= others.min(axis=0)) & (points <= others.max(axis=0))).all(axis=1))


@njit(nogil=True, cache=True, fastmath=False)
def mutual_nearest(a: Floats, b: Floats, radius: float) -> Indices:
    """For each position of `a` the row of `b` within `radius` that is nearest to it and has no nearer one in `a`.

    Parameters
    ----------
    a
        (positions, 2)
    b
        (positions, 2), ascending in the second coordinate.
    radius
        In the positions' unit.

    Returns
    -------
    ndarray
        (positions of a,), −1 for none.
    """
    nearest = np.full(len(a), -1, np.intp)
    distance = np.full(len(a), np.inf)
    taken = np.full(len(b), -1, np.intp)
    heights = b[:, 1].copy()
    for i in range(len(a)):
        x, y = a[i, 0], a[i, 1]
        for k in range(np.searchsorted(heights, y - radius), len(b)):
            dy = heights[k] - y
            if dy > radius:
                break
            r2 = (b[k, 0] - x) ** 2 + dy * dy
            if r2 < distance[i] and r2 < radius * radius:
                distance[i], nearest[i] = r2, k
        k = nearest[i]
        if k >= 0 and (taken[k] < 0 or distance[i] < distance[taken[k]]):
            taken[k] = i
    for i in range(len(a)):
        if nearest[i] >= 0 and taken[nearest[i]] != i:
            nearest[i] = -1
    return nearest


def _fit(points: Floats, a: Floats, b: Floats) -> tuple[Floats, float, Floats]:
    """Positions of `points` by the robust map that takes `a` to `b`, its rms (px), its linear part (2, 2)."""
    centre = a.mean(axis=0)
    size = max(float(np.abs(a - centre).max()), 1.0)
    quadratic = len(a) >= _FEW

    def design(p: Floats) -> Floats:
        x, y = ((p - centre) / size).T
        columns = [np.ones(len(p)), x, y]
        if quadratic:
            # Outside of the overlap a quadratic means nothing.
            x, y = np.clip(x, -1.2, 1.2), np.clip(y, -1.2, 1.2)
            columns += [x * x, x * y, y * y]
        return np.stack(columns, axis=-1)

    solution, rms = _robust_fit(design(a), np.ascontiguousarray(b))
    return design(points) @ solution, rms, np.asarray(solution[1:3].T / size, dtype=np.float64)


@njit(nogil=True, cache=True, fastmath=False)
def _robust_fit(terms: Floats, values: Floats) -> tuple[Floats, float]:
    """Coefficients (terms, 2) of a fit reweighted four times with Huber's weights, and the rms of what fits.

    Terms are of unit size, so that the normal equations lose nothing; a ridge of 1e-10 keeps few stars in a line
    from stopping it.
    """
    count, size = terms.shape
    weight = np.ones(count)
    solution = np.zeros((size, 2))
    distance = np.empty(count)
    limit = 0.0
    for _ in range(4):
        normal = np.zeros((size, size + 2))
        for i in range(count):
            for j in range(size):
                w = weight[i] * terms[i, j]
                for k in range(j, size):
                    normal[j, k] += w * terms[i, k]
                normal[j, size] += w * values[i, 0]
                normal[j, size + 1] += w * values[i, 1]
        for j in range(size):
            for k in range(j):
                normal[j, k] = normal[k, j]
            normal[j, j] *= 1.0 + 1e-10
            normal[j, j] += 1e-12
        # Gauss: positive definite needs no pivots.
        for j in range(size):
            for k in range(j + 1, size):
                factor = normal[k, j] / normal[j, j]
                for m in range(j, size + 2):
                    normal[k, m] -= factor * normal[j, m]
        for j in range(size - 1, -1, -1):
            for c in range(2):
                total = normal[j, size + c]
                for k in range(j + 1, size):
                    total -= normal[j, k] * solution[k, c]
                solution[j, c] = total / normal[j, j]
        for i in range(count):
            dx, dy = -values[i, 0], -values[i, 1]
            for j in range(size):
                dx += terms[i, j] * solution[j, 0]
                dy += terms[i, j] * solution[j, 1]
            distance[i] = math.sqrt(dx * dx + dy * dy)
        limit = 2.5 * max(np.median(distance), 0.02)
        for i in range(count):
            weight[i] = min(1.0, limit / max(distance[i], 1e-12))
    total, good = 0.0, 0
    for i in range(count):
        if distance[i] < 2 * limit:
            total += distance[i] * distance[i]
            good += 1
    return solution, math.sqrt(total / good) if good else np.inf
