"""Star patterns that know neither scale nor rotation: four stars make a code, alike codes make frames meet.

Geometric hashing as Lang et al. 2010 (astrometry.net) do it: of four stars the two furthest apart span a frame in
which the other two have coordinates, four numbers that do not change when the picture is moved, turned or scaled.
Stars are taken with their neighbours, so that a pattern fits into a small overlap and distortion hardly bends it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Complex = NDArray[np.complex64]

NEIGHBOURS = 6
"""Neighbours a star makes patterns with: 20 patterns a star."""
CODE_TOLERANCE = 0.012
"""Distance of codes that may be one pattern: a distortion of one per cent across it."""
MOST_QUERIES = 200_000
"""Patterns looked up at most: more frames are asked with fewer patterns each, and memory stays bounded."""
_BLOCK = 20_000
_STILL = 1.0  # px
LEAST_SPAN = 12.0
"""Shortest pattern (px): below, errors of positions blur the code."""
BORDERS = (0.07, 0.14)
"""Widths (of the frame's side) of the strips along its sides that make patterns of their own …"""
BORDER_STARS = 30
"""… with as many stars each."""
_TRIPLES = np.array(list(combinations(range(NEIGHBOURS), 3)), dtype=np.intp)


@dataclass(frozen=True)
class Patterns:
    """Codes of many frames."""

    frame: NDArray[np.int32]
    """(patterns,)"""
    code: Floats
    """(patterns, 4) x, y of the third and x, y of the fourth star."""
    first: Floats
    """(patterns, 2) pixel position of the first star of the pair that spans it."""
    second: Floats
    """(patterns, 2) of the other."""
    mirrored: bool = False
    """Of pictures flipped left to right."""


@njit(nogil=True, cache=True, fastmath=False)
def quad_code(p, least, code):  # type: ignore[no-untyped-def]
    """Write the code of four points `p` (4, 2); returns the pair that spans them, or −1, −1 if it is too short."""
    # The pair furthest apart.
    best, a, b = -1.0, 0, 1
    for i in range(4):
        for j in range(i + 1, 4):
            dx, dy = p[i, 0] - p[j, 0], p[i, 1] - p[j, 1]
            far = dx * dx + dy * dy
            if far > best:
                best, a, b = far, i, j
    if best < least * least:
        return -1, -1
    c = d = -1
    for i in range(4):
        if i != a and i != b:
            if c < 0:
                c = i
            else:
                d = i
    ux, uy = p[b, 0] - p[a, 0], p[b, 1] - p[a, 1]
    cx, cy = p[c, 0] - p[a, 0], p[c, 1] - p[a, 1]
    dx, dy = p[d, 0] - p[a, 0], p[d, 1] - p[a, 1]
    # Coordinates with the pair as unit x axis: (c · conj(u)) / |u|².
    c1, c2 = (cx * ux + cy * uy) / best, (cy * ux - cx * uy) / best
    d1, d2 = (dx * ux + dy * uy) / best, (dy * ux - dx * uy) / best
    swap = c1 + d1 > 1.0
    if swap:
        c1, c2, d1, d2 = 1.0 - c1, -c2, 1.0 - d1, -d2
    if c1 > d1:
        c1, c2, d1, d2 = d1, d2, c1, c2
    code[0], code[1], code[2], code[3] = c1, c2, d1, d2
    return (b, a) if swap else (a, b)


@njit(nogil=True, cache=True, fastmath=False)
def _codes(points, quads, least, code, ends):  # type: ignore[no-untyped-def]
    """Code and spanning stars of each quad; returns how many are fit for use (the others are skipped)."""
    used = 0
    p = np.empty((4, 2))
    for q in range(len(quads)):
        for i in range(4):
            p[i, 0], p[i, 1] = points[quads[q, i], 0], points[quads[q, i], 1]
        first, second = quad_code(p, least, code[used])
        if first < 0:
            continue
        ends[used, 0], ends[used, 1] = p[first, 0], p[first, 1]
        ends[used, 2], ends[used, 3] = p[second, 0], p[second, 1]
        used += 1
    return used


def make_quads(points: Floats) -> Indices:
    """Patterns of a frame: every star with all threes of its neighbours, each set once.

    Parameters
    ----------
    points
        (stars, 2), brightest first.

    Returns
    -------
    ndarray
        (patterns, 4) rows of `points`, each ascending.

    Notes
    -----
    Neighbours are sought twice: among all stars given, and among the brighter half, because a shorter exposure or
    another filter shows fewer stars.
    """
    sets: list[NDArray[np.intp]] = []
    for count in (len(points), len(points) // 2, len(points) // 4):
        if count < 5 and sets:
            break
        if count < 4:
            break
        k = min(NEIGHBOURS + 1, count)
        _, near = cKDTree(points[:count]).query(points[:count], k=k)
        triples = _TRIPLES[(k - 1 > _TRIPLES).all(axis=1)]
        quads = np.concatenate(
            [np.repeat(near[:, :1], len(triples), axis=0), near[:, 1:][:, triples].reshape(-1, 3)], axis=1
        )
        sets.append(np.sort(quads, axis=1))
    if not sets:
        return np.empty((0, 4), np.intp)
    return np.unique(np.concatenate(sets), axis=0).astype(np.intp)


def border_groups(points: Floats, shape: tuple[int, int]) -> list[Indices]:
    """Rows of the stars along each side of a frame: patterns that fit into a narrow overlap.

    Parameters
    ----------
    points
        (stars, 2), brightest first.
    shape
        Rows, columns of the frame.

    Notes
    -----
    Of the brightest stars of the whole frame few lie there, and their neighbours lie further in.
    """
    out = []
    for axis, size in ((0, shape[1]), (1, shape[0])):
        for part in BORDERS:
            for inside in (points[:, axis] < part * size, points[:, axis] > (1.0 - part) * size):
                out.append(np.flatnonzero(inside)[:BORDER_STARS].astype(np.intp))
    return out


def make_patterns(
    stars: dict[int, Floats], *, mirrored: bool = False, groups: Mapping[int, Sequence[Indices]] | None = None
) -> Patterns:
    """Codes of all frames.

    Parameters
    ----------
    stars
        Frame → (stars, 2) pixel positions, brightest first; frames with fewer than four have no pattern.
    mirrored
        Flip the pictures left to right first (a diagonal mirror in the light path of one of the cameras).
    groups
        Frame → rows of stars that make patterns with each other (all with all).
    """
    frames, codes, ends = [], [], []
    for frame, given in stars.items():
        points = np.ascontiguousarray(given * (-1.0, 1.0) if mirrored else given, dtype=np.float64)
        if groups is None:
            quads = make_quads(points)
        else:
            parts = [rows[make_quads(points[rows])] for rows in groups[frame] if len(rows) >= 4]
            quads = np.unique(np.concatenate([np.empty((0, 4), np.intp), *parts]), axis=0)
        code, end = np.empty((len(quads), 4)), np.empty((len(quads), 4))
        used = _codes(points, quads, LEAST_SPAN, code, end)
        frames.append(np.full(used, frame, np.int32))
        codes.append(code[:used])
        ends.append(end[:used] * (-1.0, 1.0, -1.0, 1.0) if mirrored else end[:used])
    if not frames:
        return Patterns(np.empty(0, np.int32), np.empty((0, 4)), np.empty((0, 2)), np.empty((0, 2)))
    every = np.concatenate(ends)
    return Patterns(np.concatenate(frames), np.concatenate(codes), every[:, :2], every[:, 2:], mirrored)


@dataclass(frozen=True)
class Meeting:
    """Two frames that share patterns, and the similarity most of them agree on."""

    a: int
    b: int
    votes: int
    matrix: Floats
    """(2, 3): position in `b` = matrix · (x, y, 1) of `a`."""
    still: bool = False
    """Of patterns that are at the same pixels in both."""


def find_meetings(
    patterns: Patterns,
    other: Patterns | None = None,
    *,
    neighbours: int = 12,
    least: int = 3,
    scale_range: float = 20.0,
) -> list[Meeting]:
    """Pairs of frames whose patterns agree, without trying all pairs.

    Parameters
    ----------
    patterns
        Of all frames.
    other
        Patterns to look up in them (themselves): of some frames, or mirrored ones to find mirror images.
    neighbours
        Nearest codes looked at for each: deep stacks hold every pattern many times, and a frame needs a few
        partners only, so the work grows with the frames and not with their pairs.
    least
        Patterns that must agree on one similarity.
    scale_range
        Largest ratio of pixel scales.

    Returns
    -------
    list of Meeting
        Most votes first; a pair once, or twice where some patterns are at the same pixels in both.
    """
    other = other or patterns
    mirror = other.mirrored
    if len(patterns.frame) < 2 or not len(other.frame):
        return []
    tree = cKDTree(patterns.code)
    k = min(neighbours + 1, len(patterns.frame))
    asked = _sample(other.frame, MOST_QUERIES)
    parts = [
        _similarities(patterns, other, asked[start : start + _BLOCK], tree, k, mirror, scale_range)
        for start in range(0, len(asked), _BLOCK)
    ]
    low, high, turn, shift, places = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((high, low))
    low, high, turn, shift, places = low[order], high[order], turn[order], shift[order], places[order]
    change = np.flatnonzero((np.diff(low) != 0) | (np.diff(high) != 0)) + 1
    found = []
    for start, stop in zip(np.r_[0, change], np.r_[change, len(low)], strict=True):
        if stop - start < least:
            continue
        rows = np.arange(start, stop)
        stays = np.abs(shift[rows] + (turn[rows] - 1.0) * places[rows]) < _STILL
        # Hot pixels are where they were, whatever the stars say: who has not moved votes for himself.
        apart = not mirror and int(stays.sum()) >= least
        for mine, still in ((rows[stays], True), (rows[~stays], False)) if apart else ((rows, False),):
            if len(mine) < least:
                continue
            alike = mine[_agree(turn[mine], shift[mine])]
            if len(alike) >= least:
                t, s = _mean_similarity(turn[alike], shift[alike], places[alike])
                found.append(Meeting(int(low[start]), int(high[start]), len(alike), _matrix(t, s, mirror), still))
    return sorted(found, key=lambda m: (-m.votes, m.a, m.b))


def _sample(frame: NDArray[np.int32], most: int) -> Indices:
    """Rows of patterns to look up: all, or as many of each frame as make `most`."""
    if len(frame) <= most:
        return np.arange(len(frame))
    _, start, count = np.unique(frame, return_index=True, return_counts=True)
    each = max(most // len(start), 1)
    return np.concatenate(
        [
            s + np.unique(np.linspace(0, n - 1, min(n, each)).astype(np.intp))
            for s, n in zip(start, count, strict=True)
        ]
    )


def _similarities(
    patterns: Patterns, other: Patterns, asked: Indices, tree: cKDTree, k: int, mirror: bool, scale_range: float
) -> tuple[NDArray[np.int32], NDArray[np.int32], Complex, Complex, Complex]:
    """Lower and higher frame, similarity (turn, shift) and place of every pair of like patterns.

    A pair is looked at from its lower frame, so that both directions vote together.
    """
    distance, index = tree.query(other.code[asked], k=k, distance_upper_bound=CODE_TOLERANCE)
    row, column = np.nonzero(np.isfinite(distance))
    mine, theirs = asked[row], index[row, column]
    keep = other.frame[mine] != patterns.frame[theirs]
    mine, theirs = mine[keep], theirs[keep]
    a, b = other.frame[mine], patterns.frame[theirs]
    # Spans as complex numbers: their quotient is scale and rotation of the similarity.
    span_a = _complex(other.second[mine] - other.first[mine])
    span_b = _complex(patterns.second[theirs] - patterns.first[theirs])
    turn = span_b / (-span_a.conj() if mirror else span_a)
    origin = _complex(other.first[mine])
    shift = _complex(patterns.first[theirs]) - turn * (-origin.conj() if mirror else origin)
    size = np.abs(turn)
    keep = (size < scale_range) & (size > 1 / scale_range)
    flip = (a > b) & keep
    turn[flip], shift[flip] = _inverse(turn[flip], shift[flip], mirror)
    # Where in the lower frame the pattern is: there its similarity holds best.
    place = 0.5 * np.where(
        a > b,
        _complex(patterns.first[theirs] + patterns.second[theirs]),
        _complex(other.first[mine] + other.second[mine]),
    )
    return (
        np.minimum(a, b)[keep],
        np.maximum(a, b)[keep],
        turn[keep].astype(np.complex64),
        shift[keep].astype(np.complex64),
        place[keep].astype(np.complex64),
    )


def _complex(points: Floats) -> NDArray[np.complex128]:
    return np.asarray(points[:, 0] + 1j * points[:, 1])


def _inverse(
    turn: NDArray[np.complex128], shift: NDArray[np.complex128], mirror: bool
) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Inverse of z → turn · z + shift, or of z → turn · (−conj z) + shift."""
    if not mirror:
        return 1.0 / turn, -shift / turn
    # w = −t·conj(z) + s  →  z = −conj((w − s)/t) = (1/conj t)·(−conj w) + conj(s/t)
    return 1.0 / turn.conj(), (shift / turn).conj()


def _agree(turn: Complex, shift: Complex) -> NDArray[np.bool_]:
    """Members of the largest group of like similarities.

    Alike: scale within 3 %, rotation within 2°, and the frame's far corner (2000 px) within what these allow.
    """
    best = np.zeros(len(turn), np.bool_)
    for i in np.linspace(0, len(turn) - 1, min(len(turn), 48)).astype(int).tolist():
        alike = np.abs(turn / turn[i] - 1.0) < 0.035
        alike &= np.abs(shift - shift[i]) < 0.05 * (np.abs(shift[i]) + 2000.0 * abs(turn[i]))
        if alike.sum() > best.sum():
            best = alike
            if 2 * best.sum() > len(turn):
                break
    return best


def _mean_similarity(turn: Complex, shift: Complex, place: Complex) -> tuple[complex, complex]:
    """Similarity that carries the patterns' places as their own similarities do, in the median."""
    t = complex(np.median(turn.real), np.median(turn.imag))
    away = shift + (turn - t) * place
    return t, complex(np.median(away.real), np.median(away.imag))


def _matrix(turn: complex, shift: complex, mirror: bool) -> Floats:
    c, s = turn.real, turn.imag
    linear = np.array([[c, -s], [s, c]])
    if mirror:
        linear = linear @ np.diag([-1.0, 1.0])
    return np.column_stack([linear, [shift.real, shift.imag]])
