"""Detections that stay where they are on the sensor while the sky moves: hot pixels pass for stars.

In uncalibrated frames there may be more of them than stars, at the same places in all frames, so that any two
frames seem to show the same sky. Where the mount follows so well that the stars stay, too, both are right: a
detection is suspected for its place, and guilty only when stars are known to have moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.registration.pairs import Edge

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REACH = 0.4
"""Distance (px) within which detections are at one place of the sensor."""
SHARE = 0.4
"""Part of a camera's frames that must see something at a place for it to be suspected."""
STILL = 1.0
"""Move (px) below which two frames may show the same pixels instead of the same stars."""
LOOKED_AT = 64
"""Frames of a camera that tell its places: work grows with the frames, not with their pairs."""
SAME_SKY = 0.7
"""Part of the brighter detections of a frame found again in another that claims to show the same sky."""


def fixed_places(lists: Mapping[int, Floats], frames: Sequence[int], *, least: int = 2) -> Floats:
    """Places of a sensor where `SHARE` of the frames, and `least`, see something.

    Parameters
    ----------
    lists
        Frame → (stars, 2) pixel positions.
    frames
        Of one camera.
    least
        Number of frames.

    Returns
    -------
    ndarray
        (places, 2), one for every detection there.
    """
    asked = [
        frames[i] for i in np.unique(np.linspace(0, len(frames) - 1, min(len(frames), LOOKED_AT)).astype(int))
    ]
    if len(asked) < 2:
        return np.empty((0, 2))
    points = np.concatenate([lists[f] for f in asked])
    tree = cKDTree(points)
    # Two detections of one frame are further apart than this: neighbours are frames.
    seen = tree.query_ball_point(points, REACH, return_length=True)
    return np.asarray(points[seen >= max(least, int(np.ceil(SHARE * len(asked))))])


def at_places(points: Floats, places: Floats) -> Bools:
    """Which of (n, 2) points lie at one of the places."""
    if not len(places) or not len(points):
        return np.zeros(len(points), np.bool_)
    distance, _ = cKDTree(places).query(points, distance_upper_bound=REACH)
    return np.asarray(np.isfinite(distance))


def suspects(lists: Mapping[int, Floats], camera: Mapping[int, int]) -> dict[int, Bools]:
    """Which detections of every frame are at fixed places of their camera; empty where no camera has one."""
    out: dict[int, Bools] = {}
    for label in sorted({camera[f] for f in lists}):
        frames = [f for f in sorted(lists) if camera[f] == label]
        places = fixed_places(lists, frames)
        if len(places):
            out |= {f: at_places(lists[f], places) for f in frames}
    return out if any(mask.any() for mask in out.values()) else {}


def stays(edge: Edge, stars_a: Floats, stars_b: Floats) -> bool:
    """Whether all that two frames share is at the same pixels in both."""
    away = np.hypot(*(stars_a[edge.row_a] - stars_b[edge.row_b]).T)
    return bool(np.quantile(away, 0.9) < STILL)


def same_sky(edge: Edge, stars_a: Floats, stars_b: Floats) -> bool:
    """Whether frames that stay show the same stars, and not the same hot pixels before other stars.

    One sky at the same pixels is seen whole by both: of the brighter detections of the shallower frame most are
    found in the other, too.
    """
    shares = []
    for rows, points in ((edge.row_a, stars_a), (edge.row_b, stars_b)):
        brighter = min(max(int(np.median(rows)) + 1, len(rows) // 2), len(points))
        shares.append(float(np.mean(rows < brighter)) * len(rows) / brighter)
    return max(shares) >= SAME_SKY


def moved_frames(
    edges: Iterable[Edge], lists: Mapping[int, Floats], camera: Mapping[int, int], island: NDArray[np.int64]
) -> set[int]:
    """Frames in islands where the stars moved over the sensor of their camera."""
    moved = {
        (int(island[e.a]), camera[e.a])
        for e in edges
        if camera[e.a] == camera[e.b] and not stays(e, lists[e.a], lists[e.b])
    }
    return {f for f in lists if (int(island[f]), camera[f]) in moved}


def acquitted(
    lists: Mapping[int, Floats],
    suspected: Mapping[int, Bools],
    camera: Mapping[int, int],
    moved: set[int],
) -> dict[int, Bools]:
    """Detections of the frames that did not move which are not hot for certain.

    Parameters
    ----------
    lists, camera
        All detections, and whose they are.
    suspected
        From `suspects`.
    moved
        Frames whose stars moved: what stays in them is hot, in the other frames of their camera, too.

    Returns
    -------
    dict
        Frame → which of its suspected detections may be stars; only frames that have some.
    """
    out: dict[int, Bools] = {}
    for label in sorted({camera[f] for f in suspected}):
        fixed = {f: lists[f][suspected[f]] for f in moved if f in suspected and camera[f] == label}
        places = fixed_places(fixed, sorted(fixed)) if len(fixed) > 1 else np.empty((0, 2))
        for f in suspected:
            if camera[f] == label and f not in moved:
                doubtful = suspected[f] & ~at_places(lists[f], places)
                if doubtful.any():
                    out[f] = doubtful
    return out
