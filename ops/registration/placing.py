"""Frames on the sphere, one after another: each laid on the stars it shares with those that lie there already."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.registration.pairs import Edge

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where a frame looks: a tangent plane and the map from its pixels to it."""

    centre: Floats
    """(3,) unit vector of the tangent point."""
    linear: Floats
    """(2, 2): plane coordinates (radians, to the east and to the north) = linear · (pixel − middle)."""
    middle: Floats
    """(2,) zero-based pixel that looks at the tangent point."""

    @property
    def basis(self) -> Floats:
        """(3, 3): rows east, north, centre."""
        return tangent_basis(self.centre)

    @property
    def scale(self) -> float:
        """Radians a pixel."""
        return float(np.sqrt(abs(np.linalg.det(self.linear))))

    def look(self, pixels: Floats) -> Floats:
        """(n, 3) unit vectors of (n, 2) undistorted pixels."""
        plane = (pixels - self.middle) @ self.linear.T
        return directions(plane, self.basis)


def tangent_basis(centre: Floats) -> Floats:
    """Rows east, north, centre of the tangent plane at a direction."""
    # Written out: this is asked thousands of times for a mosaic, and np.cross takes thirty times as long.
    x, y, z = centre.tolist()
    across = math.hypot(x, y)
    ex, ey = (-y / across, x / across) if across >= 1e-12 else (0.0, 1.0)
    return np.array([[ex, ey, 0.0], [-z * ey, z * ex, x * ey - y * ex], [x, y, z]])


def directions(plane: Floats, basis: Floats) -> Floats:
    """Unit vectors of (n, 2) plane coordinates (gnomonic projection)."""
    vectors = basis[2] + plane @ basis[:2]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def plane_of(vectors: Floats, basis: Floats) -> Floats:
    """Plane coordinates of (n, 3) unit vectors; NaN behind the plane."""
    x, y, z = basis @ vectors.T
    with np.errstate(divide="ignore", invalid="ignore"):
        plane = np.stack([x / z, y / z], axis=-1)
    return np.where(z[:, None] > 0, plane, np.nan)


def unit_vector(ra: float, dec: float) -> Floats:
    """Direction of a sky position (degrees)."""
    a, d = np.radians([ra, dec])
    return np.array([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])


def sky_position(vector: Floats) -> tuple[float, float]:
    """Right ascension (0…360) and declination of a direction (degrees)."""
    x, y, z = vector
    return float(np.degrees(np.arctan2(y, x)) % 360.0), float(np.degrees(np.arctan2(z, np.hypot(x, y))))


def similarity(pixels: Floats, plane: Floats, *, mirrored: bool) -> tuple[Floats, Floats]:
    """Linear part and origin of the robust similarity pixels → plane.

    Parameters
    ----------
    pixels, plane
        (n, 2) positions of the same stars.
    mirrored
        Whether the map changes the handedness.
    """
    z = pixels[:, 0] + 1j * pixels[:, 1]
    z = z.conj() if mirrored else z
    w = plane[:, 0] + 1j * plane[:, 1]
    weight = np.ones(len(z))
    turn, shift = 1.0 + 0j, 0j
    for _ in range(6):
        total = weight.sum()
        mz, mw = (weight * z).sum() / total, (weight * w).sum() / total
        spread = (weight * np.abs(z - mz) ** 2).sum()
        turn = (weight * (w - mw) * (z - mz).conj()).sum() / max(spread, 1e-300)
        shift = mw - turn * mz
        distance = np.abs(turn * z + shift - w)
        limit = 2.5 * max(float(np.median(distance)), 1e-3 * abs(turn))
        weight = np.minimum(1.0, limit / np.maximum(distance, 1e-300))
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    if mirrored:
        linear = linear @ np.diag([1.0, -1.0])
    return linear, np.array([shift.real, shift.imag])


def place_frame(pixels: Floats, vectors: Floats, middle: Floats, *, mirrored: bool) -> Place:
    """Lay a frame on directions its stars are known to have.

    Parameters
    ----------
    pixels
        (n, 2) of its stars.
    vectors
        (n, 3) their directions.
    middle
        (2,) the pixel that is to become the tangent point.
    mirrored
        Whether pixel axes and (east, north) differ in handedness.
    """
    centre = vectors.mean(axis=0)
    centre /= np.linalg.norm(centre)
    linear = np.eye(2)
    for _ in range(4):
        basis = tangent_basis(centre)
        linear, origin = similarity(pixels - middle, plane_of(vectors, basis), mirrored=mirrored)
        centre = directions(origin[None], basis)[0]
    return Place(centre, linear, middle)


def place_island(
    root: int,
    start: Place,
    edges: Sequence[Edge],
    stars: Mapping[int, Floats],
    middles: Mapping[int, Floats],
) -> dict[int, Place]:
    """Lay all frames that edges connect to the root.

    Parameters
    ----------
    root, start
        Frame to begin with, and where it looks.
    edges
        Verified pairs.
    stars
        Frame → (stars, 2) pixel positions.
    middles
        Frame → (2,) its middle pixel.

    Notes
    -----
    The frame with most stars in common with those already placed comes next (Prim's order), and is laid on all of
    them: an error of one pair does not travel on.
    """
    beside: dict[int, list[Edge]] = {}
    for edge in edges:
        beside.setdefault(edge.a, []).append(edge)
        beside.setdefault(edge.b, []).append(edge)
    places = {root: start}
    hand = {root: bool(np.linalg.det(start.linear) < 0)}
    queue: list[tuple[int, int]] = []

    def push(frame: int) -> None:
        for edge in beside.get(frame, []):
            other = edge.b if edge.a == frame else edge.a
            if other not in places:
                heapq.heappush(queue, (-len(edge), other))

    push(root)
    while queue:
        _, frame = heapq.heappop(queue)
        if frame in places:
            continue
        pixels, vectors, hands = [], [], []
        for edge in beside[frame]:
            mine, theirs, other = (
                (edge.row_a, edge.row_b, edge.b) if edge.a == frame else (edge.row_b, edge.row_a, edge.a)
            )
            if other in places:
                pixels.append(stars[frame][mine])
                vectors.append(places[other].look(stars[other][theirs]))
                hands.append(hand[other] != edge.mirrored)
        hand[frame] = sum(hands) * 2 > len(hands)
        places[frame] = place_frame(
            np.concatenate(pixels), np.concatenate(vectors), middles[frame], mirrored=hand[frame]
        )
        push(frame)
    return places


def common_scale(places: Mapping[int, Place], camera: Mapping[int, int]) -> dict[int, Place]:
    """Give all frames of a camera the camera's median scale: what a chain of frames drifts in first is scale."""
    out = {}
    for label in sorted({camera[f] for f in places}):
        mine = [f for f in places if camera[f] == label]
        scale = float(np.median([places[f].scale for f in mine]))
        for f in mine:
            out[f] = replace(places[f], linear=places[f].linear * (scale / places[f].scale))
    return out


def rescale(places: Mapping[int, Place], factor: float) -> dict[int, Place]:
    """The island with all distances from its middle, and all scales, times a factor near 1."""
    middle = np.mean([p.centre for p in places.values()], axis=0)
    middle /= np.linalg.norm(middle)
    out = {}
    for f, place in places.items():
        angle = float(np.arccos(np.clip(place.centre @ middle, -1.0, 1.0)))
        if angle < 1e-12:
            out[f] = replace(place, linear=place.linear * factor)
            continue
        across = (place.centre - np.cos(angle) * middle) / np.sin(angle)
        centre = np.cos(angle * factor) * middle + np.sin(angle * factor) * across
        # Carried along the great circle, so that the frame keeps its angle to it.
        axis = np.cross(middle, across)
        turn = _about(axis, angle * (factor - 1.0))
        old, new = place.basis @ turn.T, tangent_basis(centre)
        out[f] = replace(place, centre=centre, linear=factor * (new[:2] @ old[:2].T) @ place.linear)
    return out


def _about(axis: Floats, angle: float) -> Floats:
    """Rotation about a unit vector (Rodrigues)."""
    x, y, z = axis
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * k + (1.0 - np.cos(angle)) * (k @ k))
