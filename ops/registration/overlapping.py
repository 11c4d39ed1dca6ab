"""Which frames see the same sky: verified pairs of all frames, and the islands they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from skyloom.ops.registration.bundle import Bundle
from skyloom.ops.registration.bundle_problem import distortion_terms
from skyloom.ops.registration.fixed import acquitted, moved_frames, same_sky, stays, suspects
from skyloom.ops.registration.pairs import Edge, verify
from skyloom.ops.registration.quads import Meeting, border_groups, find_meetings, make_patterns

PATTERN_STARS = 120
"""Brightest stars a frame that make patterns."""
PARTNERS = 8
"""Frames a frame is compared with at least, where it meets so many."""

Floats = NDArray[np.float64]


def moving_edges(
    lists: dict[int, Floats], sigma: dict[int, Floats], camera: Mapping[int, int], least: int
) -> tuple[list[Edge], dict[int, Floats], dict[int, Floats]]:
    """Verified pairs, and the star lists they are of: without what stays on the sensor while the stars move."""
    suspected = suspects(lists, camera)
    if not suspected:
        return _edges(lists, camera, least), lists, sigma

    def only(keep: Mapping[int, NDArray[np.bool_]], values: Mapping[int, Floats]) -> dict[int, Floats]:
        return {f: np.ascontiguousarray(v[keep[f]]) if f in keep else v for f, v in values.items()}

    keep = {f: ~mask for f, mask in suspected.items()}
    moving = only(keep, lists)
    edges = _edges(moving, camera, least)
    island = islands(edges, max(lists) + 1)
    moved = moved_frames(edges, moving, camera, island)
    doubtful = acquitted(lists, suspected, camera, moved)
    if doubtful:
        keep = {f: mask | doubtful.get(f, False) for f, mask in keep.items()}
        moving = only(keep, lists)
        edges = _edges(moving, camera, least)
    return edges, moving, only(keep, sigma)


def _edges(lists: Mapping[int, Floats], camera: Mapping[int, int], least: int) -> list[Edge]:
    """Verified pairs; mirror images are looked for only among frames that nothing connects."""
    bright = {f: points[:PATTERN_STARS] for f, points in lists.items()}
    patterns = make_patterns(bright)
    edges: list[Edge] = []
    degree = dict.fromkeys(lists, 0)
    group = _Groups(lists)
    for (a, b), candidates in _by_pair(find_meetings(patterns)).items():
        # Best first: connected frames with neighbours enough need no more, the solution links all their stars.
        known = group.find(a) == group.find(b)
        if known and min(degree[a], degree[b]) >= PARTNERS:
            continue
        edge = _verified(candidates, lists, camera, least)
        if edge is not None:
            edges.append(edge)
            degree[edge.a] += 1
            degree[edge.b] += 1
            group.join(edge.a, edge.b)
    count = max(lists, default=-1) + 1
    label = islands(edges, count)
    if len(lists) and (label[list(lists)] != label[next(iter(lists))]).any():
        for meeting in find_meetings(patterns, make_patterns(bright, mirrored=True)):
            apart = label[meeting.a] != label[meeting.b] or label[meeting.a] < 0
            if apart:
                edge = verify(meeting, lists[meeting.a], lists[meeting.b], least=least)
                if edge is not None:
                    edges.append(edge)
    return edges


def straightened(
    lists: Mapping[int, Floats],
    camera: Mapping[int, int],
    half: Mapping[int, float],
    middles: Mapping[int, Floats],
    bundle: Bundle,
) -> dict[int, Floats]:
    """Star lists without the distortion that was found."""
    out = {}
    for f, points in lists.items():
        bend = bundle.distortion.get(camera[f])
        out[f] = points if bend is None else points + distortion_terms((points - middles[f]) / half[f]) @ bend.T
    return out


def second_look(
    straight: dict[int, Floats],
    shapes: list[tuple[int, int]],
    camera: Mapping[int, int],
    island: NDArray[np.int64],
    least: int,
) -> list[Edge]:
    """Verified pairs of frames of different islands, by the stars along their sides, with the lenses known.

    A lens bends a narrow overlap by more than the distance at which stars are one, and a map through ten stars
    cannot follow it.
    """
    groups = {f: border_groups(points, shapes[f]) for f, points in straight.items()}
    patterns = make_patterns(straight, groups=groups)
    apart = make_patterns({f: points for f, points in straight.items() if island[f] != 0}, groups=groups)
    edges = []
    for (a, b), candidates in _by_pair(find_meetings(patterns, apart)).items():
        if island[a] != island[b] or island[a] < 0:
            edge = _verified(candidates, straight, camera, least)
            if edge is not None:
                edges.append(edge)
    return edges


def _by_pair(meetings: list[Meeting]) -> dict[tuple[int, int], list[Meeting]]:
    """Meetings of each pair, the pair with most votes first."""
    out: dict[tuple[int, int], list[Meeting]] = {}
    for meeting in meetings:
        out.setdefault((meeting.a, meeting.b), []).append(meeting)
    return out


def _verified(
    candidates: list[Meeting], lists: Mapping[int, Floats], camera: Mapping[int, int], least: int
) -> Edge | None:
    """Pair of frames by the candidate its stars support; one that moves nothing stands aside for one that does.

    Hot pixels stay whatever the stars do; where the stars stay, too, there is no other candidate.
    """
    for meeting in sorted(candidates, key=lambda m: m.still):
        a, b = lists[meeting.a], lists[meeting.b]
        alike = camera[meeting.a] == camera[meeting.b]
        edge = verify(meeting, a, b, least=least, same_scale=alike)
        if edge is None:
            continue
        if not alike or not stays(edge, a, b) or same_sky(edge, a, b):
            return edge
    return None


class _Groups:
    """Which frames are connected so far (disjoint sets)."""

    def __init__(self, frames: Iterable[int]) -> None:
        self._parent = {f: f for f in frames}

    def find(self, frame: int) -> int:
        while self._parent[frame] != frame:
            self._parent[frame] = self._parent[self._parent[frame]]
            frame = self._parent[frame]
        return frame

    def join(self, a: int, b: int) -> None:
        self._parent[self.find(a)] = self.find(b)


def islands(edges: list[Edge], count: int) -> NDArray[np.int64]:
    """Groups of frames that pairs connect, largest first; −1 for a frame alone."""
    a, b = np.array([e.a for e in edges], np.intp), np.array([e.b for e in edges], np.intp)
    graph = coo_array((np.ones(len(edges), np.int8), (a, b)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    size = np.bincount(label, minlength=1)
    first = np.full(len(size), count)
    np.minimum.at(first, label, np.arange(count))
    order = np.lexsort((first, -size))
    rank = np.empty(len(size), np.int64)
    rank[order] = np.arange(len(size))
    rank[size < 2] = -1
    return rank[label] if count else np.empty(0, np.int64)
