"""Two frames, star by star: whether the similarity their patterns suggest holds for all their stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.registration.quads import Meeting

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

RADII = (12.0, 8.0, 5.0, 3.0, 3.0)
"""Distances (px of the second frame) within which stars are one, round by round."""
LEAST_MATCHES = 8
"""Stars two frames must have in common."""
_FEW = 20  # matches below which only an affine map is fitted
_SIGNIFICANCE = 5.0


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


def verify(meeting: Meeting, stars_a: Floats, stars_b: Floats, *, least: int = LEAST_MATCHES) -> Edge | None:
    """Match the stars of two frames by the similarity their patterns gave.

    Parameters
    ----------
    meeting
        The pair and its similarity.
    stars_a, stars_b
        (stars, 2) pixel positions.
    least
        Matches wanted, beyond what chance gives.

    Returns
    -------
    Edge or None
        None where the stars do not support it: fewer than `least`, or not five standard deviations more than at
        eight displaced places (a crowded field matches itself anywhere).

    Notes
    -----
    The map grows from the similarity to an affine and, with twenty stars or more, a quadratic one: distortion
    bends an overlap by some pixels, smoothly.
    """
    tree = cKDTree(stars_b)
    matrix = meeting.matrix
    predicted = stars_a @ matrix[:, :2].T + matrix[:, 2]
    ia = ib = np.empty(0, np.intp)
    rms = np.inf
    for radius in RADII:
        ia, ib = _mutual(predicted, stars_b, tree, radius)
        if len(ia) < least:
            return None
        predicted, rms = _fit(stars_a, stars_a[ia], stars_b[ib])
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
    return Edge(meeting.a, meeting.b, ia, ib, rms, bool(np.linalg.det(matrix[:, :2]) < 0))


def _mutual(a: Floats, b: Floats, tree: cKDTree, radius: float) -> tuple[Indices, Indices]:
    """Pairs that are each other's nearest, within the radius."""
    distance, near = tree.query(a, distance_upper_bound=radius)
    row = np.flatnonzero(np.isfinite(distance))
    order = row[np.argsort(distance[row], kind="stable")]
    _, first = np.unique(near[order], return_index=True)
    ia = np.sort(order[first])
    return ia, near[ia]


def _fit(points: Floats, a: Floats, b: Floats) -> tuple[Floats, float]:
    """Positions of `points` by the robust map that takes `a` to `b`, and its rms (px)."""
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
    return design(points) @ solution, float(np.sqrt(np.mean(distance[good] ** 2))) if good.any() else np.inf
