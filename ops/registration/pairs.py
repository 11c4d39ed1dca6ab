"""Two frames, star by star: whether the similarity their patterns suggest holds for all their stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.stats import binom

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
    tree = cKDTree(stars_b)
    matrix = meeting.matrix
    if same_scale and abs(np.sqrt(abs(np.linalg.det(matrix[:, :2]))) - 1.0) > SAME_SCALE:
        return None
    predicted = stars_a @ matrix[:, :2].T + matrix[:, 2]
    ia = ib = np.empty(0, np.intp)
    rms, linear = np.inf, matrix[:, :2]
    for radius in RADII:
        ia, ib = _mutual(predicted, stars_b, tree, radius)
        if len(ia) < least:
            return None
        predicted, rms, linear = _fit(stars_a, stars_a[ia], stars_b[ib])
    ia, ib = _mutual(predicted, stars_b, tree, RADII[-1])
    angles = np.arange(8) * np.pi / 4
    chance = np.mean(
        [
            len(_mutual(predicted + 4 * RADII[-1] * np.array([c, s]), stars_b, tree, RADII[-1])[0])
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
    return near >= _COMMON * among and float(binom.sf(near - _FREE - 1, among, chance)) < _CHANCE


def _inside(points: Floats, others: Floats) -> NDArray[np.bool_]:
    """Which points lie within the bounds of others."""
    return np.asarray(((points >= others.min(axis=0)) & (points <= others.max(axis=0))).all(axis=1))


def _mutual(a: Floats, b: Floats, tree: cKDTree, radius: float) -> tuple[Indices, Indices]:
    """Pairs that are each other's nearest, within the radius."""
    distance, near = tree.query(a, distance_upper_bound=radius)
    row = np.flatnonzero(np.isfinite(distance))
    order = row[np.argsort(distance[row], kind="stable")]
    _, first = np.unique(near[order], return_index=True)
    ia = np.sort(order[first])
    return ia, near[ia]


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

    terms = design(a)
    weight = np.ones(len(a))
    for _ in range(4):
        root = np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(terms * root, b * root, rcond=None)[0]
        distance = np.hypot(*(terms @ solution - b).T)
        limit = 2.5 * max(float(np.median(distance)), 0.02)
        weight = np.minimum(1.0, limit / np.maximum(distance, 1e-12))
    good = distance < 2 * limit
    rms = float(np.sqrt(np.mean(distance[good] ** 2))) if good.any() else np.inf
    return design(points) @ solution, rms, np.asarray(solution[1:3].T / size, dtype=np.float64)
