"""Where on the sky a field may be: like patterns, each tried on the field's brightest stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from skyloom.ops.registration.sky.field import Field
from skyloom.ops.registration.sky.index import Level, make_codes, neighbour_quads

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Complex = NDArray[np.complex128]

CODE_TOLERANCE = 0.015
"""Distance of codes that may be one pattern."""
LEAST_SPAN = 12.0
"""Shortest pattern (px)."""
TRIED = 24
"""Stars of the field that a candidate is tried on."""
FEWEST, MOST = 6.0, 120.0
"""Stars of a level on the field between which the level is of use for it."""
CHANCE = 0.05
"""Part of the sky that is near a star of the level: how near a star has to be."""
KEPT = 60
"""Candidates of a level that are looked at closely."""


@dataclass(frozen=True)
class Candidates:
    """Places a field may have, most likely first."""

    centre: Floats
    """(n, 3) direction of the field's middle."""
    turn: Complex
    """(n,) radians a pixel and rotation: plane at `centre` = turn · z of the field, or of its mirror image."""
    mirrored: NDArray[np.bool_]
    """(n,)"""
    tried: int
    """Pairs of like patterns they were chosen from."""


def field_patterns(field: Field) -> tuple[Floats, Indices]:
    """Codes (n, 4) and spanning stars (n, 2) of the field: of all its stars, of the brighter half, and so on."""
    codes, ends = [], []
    count = min(len(field.vectors), 240)
    while count >= 4:
        part = np.ascontiguousarray(field.vectors[:count])
        code, end = make_codes(part, neighbour_quads(part, 6), least=LEAST_SPAN * field.pixel)
        codes.append(code)
        ends.append(end)
        if count == 4:
            break
        count = max(count // 2, 4) if count >= 12 else 3
    if not codes:
        return np.empty((0, 4)), np.empty((0, 2), np.intp)
    every, first = np.unique(np.concatenate(codes), axis=0, return_index=True)
    return every, np.concatenate(ends)[first]


def find_candidates(
    field: Field,
    patterns: tuple[Floats, Indices],
    level: Level,
    *,
    scale: tuple[float, float],
    near: tuple[Floats, float] | None = None,
) -> Candidates:
    """Places at which patterns of the field look like those of a level.

    Parameters
    ----------
    field, patterns
        The field and its `field_patterns`.
    level
        Of the catalogue.
    scale
        Radians a pixel, from and to.
    near
        Direction and angle (radians) in which the field's middle must be.
    """
    parts = [_alike(field, patterns, level, mirrored=m) for m in (False, True)]
    centre = np.concatenate([p[0] for p in parts])
    turn = np.concatenate([p[1] for p in parts])
    mirrored = np.repeat([False, True], [len(p[1]) for p in parts])
    size = np.abs(turn)
    wanted = level.density * field.area * size**2
    keep = (size > scale[0]) & (size < scale[1]) & (wanted > FEWEST) & (wanted < MOST)
    if near is not None:
        keep &= centre @ near[0] > np.cos(near[1])
    centre, turn, mirrored, wanted = centre[keep], turn[keep], mirrored[keep], wanted[keep]
    score = _score(field, centre, turn, mirrored, wanted, level)
    order = np.argsort(score, kind="stable")
    chosen: list[int] = []
    for i in order.tolist():
        if len(chosen) == KEPT:
            break
        same = (np.abs(turn[chosen] / turn[i] - 1.0) < 0.02) & (mirrored[chosen] == mirrored[i])
        same &= np.linalg.norm(centre[chosen] - centre[i], axis=1) < 0.02 * field.radius * abs(turn[i])
        if not same.any():
            chosen.append(i)
    return Candidates(centre[chosen], turn[chosen], mirrored[chosen], len(turn))


def _alike(
    field: Field, patterns: tuple[Floats, Indices], level: Level, *, mirrored: bool
) -> tuple[Floats, Complex]:
    """Direction of the field's middle, and turn, by every pair of like patterns."""
    code, ends = patterns
    if not len(code):
        return np.empty((0, 3)), np.empty(0, np.complex128)
    asked = code * (1.0, -1.0, 1.0, -1.0) if mirrored else code
    k = 12
    distance, index = level.codes.query(asked, k=k, distance_upper_bound=CODE_TOLERANCE)
    row, column = np.nonzero(np.isfinite(distance))
    theirs = level.ends[index[row, column]]
    mine = ends[row]
    sign = -1.0 if mirrored else 1.0
    flip = np.array([sign, 1.0, 1.0])
    # The island's directions about its middle, as (east, north, depth).
    a1, a2 = (field.vectors[mine[:, k]] @ field.basis.T * flip for k in (0, 1))
    b1, b2 = (level.vectors[theirs[:, k]] for k in (0, 1))
    basis_a, basis_b = _bases(a1 + a2), _bases(b1 + b2)
    turn = (_plane(b2, basis_b) - _plane(b1, basis_b)) / (_plane(a2, basis_a) - _plane(a1, basis_a))
    middle = np.broadcast_to(np.array([0.0, 0.0, 1.0]), a1.shape)
    # Half the way through each pattern lies at the origin of both planes.
    origin = turn * (_plane(middle, basis_a) - 0.5 * (_plane(a1, basis_a) + _plane(a2, basis_a)))
    origin += 0.5 * (_plane(b1, basis_b) + _plane(b2, basis_b))
    centre = basis_b[:, 2] + origin.real[:, None] * basis_b[:, 0] + origin.imag[:, None] * basis_b[:, 1]
    centre /= np.linalg.norm(centre, axis=1, keepdims=True)
    basis_c = _bases(centre)
    z1, z2 = (field.plane[mine[:, k]] for k in (0, 1))
    if mirrored:
        z1, z2 = -z1.conj(), -z2.conj()
    with np.errstate(all="ignore"):
        turn = (_plane(b2, basis_c) - _plane(b1, basis_c)) / (z2 - z1)
    good = np.isfinite(turn) & (np.sum(centre * (b1 + b2), axis=1) > 0.5)
    return centre[good], turn[good]


def _bases(vectors: Floats) -> Floats:
    """(n, 3, 3) tangent bases: east, north, centre."""
    centre = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    east = np.stack([-centre[:, 1], centre[:, 0], np.zeros(len(centre))], axis=-1)
    length = np.linalg.norm(east, axis=1, keepdims=True)
    east = np.where(length < 1e-12, (0.0, 1.0, 0.0), east / np.maximum(length, 1e-300))
    return np.stack([east, np.cross(centre, east), centre], axis=1)


def _plane(vectors: Floats, bases: Floats) -> Complex:
    """Complex tangent-plane coordinates of one direction a basis."""
    x, y, z = np.einsum("nkv,nv->kn", bases, vectors)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((x + 1j * y) / z)


def _score(
    field: Field, centre: Floats, turn: Complex, mirrored: NDArray[np.bool_], wanted: Floats, level: Level
) -> Floats:
    """Chance (log10) that so many of the field's brightest stars have a star of the level near them."""
    if not len(turn):
        return np.empty(0)
    reach = np.sqrt(CHANCE / (np.pi * level.density))
    bases = _bases(centre)
    used = np.clip(np.ceil(wanted), 8, TRIED).astype(np.int64)
    z = field.plane[:TRIED]
    hits = np.zeros(len(turn), np.int64)
    for k in range(len(z)):
        rows = np.flatnonzero(used > k)
        if not len(rows):
            break
        w = turn[rows] * np.where(mirrored[rows], -z[k].conj(), z[k])
        look = bases[rows, 2] + w.real[:, None] * bases[rows, 0] + w.imag[:, None] * bases[rows, 1]
        look /= np.linalg.norm(look, axis=1, keepdims=True)
        distance, _ = level.tree.query(look, distance_upper_bound=reach)
        hits[rows] += np.isfinite(distance)
    used = np.minimum(used, len(z))
    return np.asarray(np.log10(np.maximum(bdtrc(hits - 1.0, used, CHANCE), 1e-300)))
