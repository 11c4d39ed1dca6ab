"""Patterns of the catalogue's stars, level by level: each has half the stars of the one before."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.registration.quads import quad_code
from skyloom.ops.registration.sky.catalogue import BrightStars

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

LEVELS = 9
CELL_STARS = 24
"""Stars of a level in a cell in which the brightest are chosen: as a picture shows the brightest of its place."""


@njit(nogil=True, cache=True, fastmath=False)
def sphere_codes(vectors, quads, least, code, ends):  # type: ignore[no-untyped-def]
    """Codes of quads of directions, each in the tangent plane at its mean; returns how many are fit for use.

    As `quads._codes`, but `ends` are the rows of the two stars that span the code.
    """
    used = 0
    p = np.empty((4, 2))
    for q in range(len(quads)):
        mx = my = mz = 0.0
        for i in range(4):
            v = vectors[quads[q, i]]
            mx += v[0]
            my += v[1]
            mz += v[2]
        n = np.sqrt(mx * mx + my * my + mz * mz)
        mx, my, mz = mx / n, my / n, mz / n
        h = np.sqrt(mx * mx + my * my)
        ex, ey = (-my / h, mx / h) if h > 1e-12 else (0.0, 1.0)
        for i in range(4):
            v = vectors[quads[q, i]]
            depth = mx * v[0] + my * v[1] + mz * v[2]
            p[i, 0] = (ex * v[0] + ey * v[1]) / depth
            # North = mean × east.
            p[i, 1] = (-mz * ey * v[0] + mz * ex * v[1] + (mx * ey - my * ex) * v[2]) / depth
        first, second = quad_code(p, least, code[used])
        if first < 0:
            continue
        ends[used, 0], ends[used, 1] = quads[q, first], quads[q, second]
        used += 1
    return used


@functools.cache
def _triples(neighbours: int) -> Indices:
    return np.array(list(combinations(range(neighbours), 3)), dtype=np.intp)


def neighbour_quads(vectors: Floats, neighbours: int) -> Indices:
    """(patterns, 4) rows: every star with all threes of its nearest neighbours, each set once."""
    k = min(neighbours + 1, len(vectors))
    if k < 4:
        return np.empty((0, 4), np.intp)
    _, near = cKDTree(vectors).query(vectors, k=k)
    triples = _triples(k - 1)
    quads = np.concatenate(
        [np.repeat(near[:, :1], len(triples), axis=0), near[:, 1:][:, triples].reshape(-1, 3)], axis=1
    )
    quads = np.sort(quads, axis=1)
    # Each set once, by one number: sorting rows of four takes five times as long.
    mixed = quads[:, 0] * np.int64(0x9E3779B97F4A7C1) + quads[:, 1]
    mixed = (mixed * np.int64(0x2545F4914F6CDD1) + quads[:, 2]) * np.int64(0x106689D45497FDB) + quads[:, 3]
    _, first = np.unique(mixed, return_index=True)
    return np.asarray(quads[np.sort(first)])


def make_codes(vectors: Floats, quads: Indices, *, least: float = 0.0) -> tuple[Floats, Indices]:
    """Codes (n, 4) of quads and the stars (n, 2) that span them; those shorter than `least` (rad) are left out."""
    code, ends = np.empty((len(quads), 4)), np.empty((len(quads), 2), np.intp)
    used = sphere_codes(vectors, quads, least, code, ends)
    return code[:used], ends[:used]


@dataclass(frozen=True)
class Level:
    """Stars of one density and their patterns."""

    density: float
    """Stars a steradian."""
    vectors: Floats
    """(n, 3)"""
    tree: cKDTree
    """Of the stars."""
    codes: cKDTree
    ends: Indices
    """(patterns, 2) rows of `vectors`."""


def level_rows(stars: BrightStars, level: int) -> Indices:
    """Rows of the catalogue that belong to a level, brightest first.

    Notes
    -----
    Cells of equal area, in each the same number of stars: in the Milky Way as at its poles a picture's brightest
    stars are those of one level.
    """
    if level == 0:
        return np.arange(len(stars))
    density = len(stars) / (4.0 * np.pi) / 2.0**level
    side = np.sqrt(CELL_STARS / density)
    z = stars.vectors[:, 2]
    bands = max(round(np.pi / side), 1)
    band = np.clip(((np.arcsin(z) / np.pi + 0.5) * bands).astype(np.int64), 0, bands - 1)
    edges = np.sin((np.arange(bands + 1) / bands - 0.5) * np.pi)
    size = 2.0 * np.pi * np.diff(edges)
    count = np.maximum(np.round(size / side**2), 1).astype(np.int64)
    turn = np.arctan2(stars.vectors[:, 1], stars.vectors[:, 0]) / (2.0 * np.pi) % 1.0
    cell = np.concatenate([[0], np.cumsum(count)])[band] + np.minimum(turn * count[band], count[band] - 1).astype(
        np.int64
    )
    # Stable: within a cell the brightest stay first.
    order = np.argsort(cell, kind="stable")
    start = np.concatenate([[True], np.diff(cell[order]) != 0])
    position = np.arange(len(order))
    rank = position - np.maximum.accumulate(np.where(start, position, 0))
    allowed = np.round(density * size / count)[band[order]]
    return np.asarray(np.sort(order[rank < allowed]))


def build_level(stars: BrightStars, rows: Indices, level: int, *, neighbours: int) -> Level:
    """Patterns of the stars of a level.

    Parameters
    ----------
    stars, rows
        The catalogue and what belongs to the level (or the part of it that is looked at).
    level
        0 = all stars.
    neighbours
        Nearest stars that a star makes patterns with: 4 make four patterns a star, 6 twenty.
    """
    vectors = np.ascontiguousarray(stars.vectors[rows])
    code, ends = make_codes(vectors, neighbour_quads(vectors, neighbours))
    density = len(stars) / (4.0 * np.pi) / 2.0**level
    # No pattern at all: one that nothing resembles.
    codes = cKDTree(code if len(code) else np.full((1, 4), 1e9), balanced_tree=False, compact_nodes=False)
    return Level(density, vectors, cKDTree(vectors), codes, ends)
