"""All stars of an island as one picture: what a plate solver is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.registration.placing import Place, directions, plane_of, tangent_basis
from skyloom.ops.registration.relink import relink, undistorted

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MOST_STARS = 4000
"""Brightest stars of an island that are kept."""
_GRID = 200
_ALIKE = 0.02  # of half a diagonal: frames nearer to each other cover the same


@dataclass(frozen=True)
class Field:
    """Stars and outline of an island in the tangent plane at its middle, in pixels of its frames."""

    basis: Floats
    """(3, 3): rows east, north, middle, in the island's own coordinates."""
    pixel: float
    """Radians a pixel, as the island was laid (rough, or a guess)."""
    vectors: Floats
    """(n, 3) directions of the stars in the island's coordinates, brightest first."""
    plane: NDArray[np.complex128]
    """(n,) the same in the plane (px; real part to the east)."""
    covered: Bools
    """(rows, columns) cells of the plane that a frame covers."""
    origin: complex
    """Lower left corner of the cells (px)."""
    cell: float
    """Side of a cell (px)."""

    @property
    def area(self) -> float:
        """Of what frames cover (px²)."""
        return float(self.covered.sum()) * self.cell**2

    @property
    def radius(self) -> float:
        """Distance of the furthest covered cell from the middle (px)."""
        row, column = np.nonzero(self.covered)
        return float(np.abs(self.origin + self.cell * ((column + 0.5) + 1j * (row + 0.5))).max())

    def inside(self, plane: NDArray[np.complex128]) -> Bools:
        """Whether a frame covers points of the plane."""
        at = (plane - self.origin) / self.cell
        with np.errstate(invalid="ignore"):
            column = np.where(np.isfinite(at), np.floor(at.real), -1).astype(np.int64)
            row = np.where(np.isfinite(at), np.floor(at.imag), -1).astype(np.int64)
        rows, columns = self.covered.shape
        good = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return np.asarray(good & self.covered[np.clip(row, 0, rows - 1), np.clip(column, 0, columns - 1)])


def make_field(
    places: Mapping[int, Place],
    camera: Mapping[int, int],
    half: Mapping[int, float],
    shapes: Mapping[int, tuple[int, int]],
    stars: Mapping[int, Floats],
    distortion: Mapping[int, Floats],
    *,
    tolerance: float = 3.0,
) -> Field:
    """Stars of all frames of an island, each once.

    Parameters
    ----------
    places, camera, half, stars, distortion
        As in `relink`.
    shapes
        Frame → rows, columns.
    tolerance
        Distance (px) at which two detections are one star.

    Notes
    -----
    How bright a star is: how many stars of its frame, a unit of area, are brighter; the mean over its frames. It
    needs no photometry across exposures and filters, and it ranks as the levels of the catalogue do.
    """
    frames = sorted(places)
    looks = {f: places[f].look(undistorted(stars[f], places[f], half[f], distortion[camera[f]])) for f in frames}
    found = relink(places, camera, half, stars, distortion, tolerance=tolerance)
    start = dict(zip(frames, np.cumsum([0, *(len(stars[f]) for f in frames)])[:-1].tolist(), strict=True))
    total = sum(len(stars[f]) for f in frames)
    label = np.full(total, -1, np.int64)
    label[np.array([start[f] for f in found.frame.tolist()], np.int64) + found.row] = found.object
    alone = label < 0
    label[alone] = found.objects + np.arange(int(alone.sum()))
    vectors = np.concatenate([looks[f] for f in frames])
    density = np.concatenate(
        [np.log((np.arange(len(stars[f])) + 1.0) / (np.prod(shapes[f]) * places[f].scale ** 2)) for f in frames]
    )
    count = np.bincount(label)
    total_of = [np.bincount(label, vectors[:, k]).astype(np.float64) for k in range(3)]
    mean: Floats = np.stack(total_of, axis=-1)
    mean = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    order = np.argsort(np.bincount(label, density) / count, kind="stable")[:MOST_STARS]
    mean = mean[order]
    middle = np.mean([places[f].centre for f in frames], axis=0)
    basis = tangent_basis(middle / np.linalg.norm(middle))
    pixel = float(np.median([places[f].scale for f in frames]))
    plane = plane_of(mean, basis) / pixel
    good = np.isfinite(plane).all(axis=1)
    covered, origin, cell = _cover(places, camera, half, shapes, basis, pixel)
    return Field(
        basis, pixel, np.ascontiguousarray(mean[good]), plane[good, 0] + 1j * plane[good, 1], covered, origin, cell
    )


def _cover(
    places: Mapping[int, Place],
    camera: Mapping[int, int],
    half: Mapping[int, float],
    shapes: Mapping[int, tuple[int, int]],
    basis: Floats,
    pixel: float,
) -> tuple[Bools, complex, float]:
    """Cells of the plane that frames cover, their corner and their side."""
    chosen: dict[tuple[float, ...], int] = {}
    for f in sorted(places):
        step = _ALIKE * half[f] * places[f].scale
        turned = np.arctan2(places[f].linear[1, 0], places[f].linear[0, 0])
        key = (camera[f], *np.round(places[f].centre / step).astype(int).tolist(), round(float(turned) / 0.05))
        chosen.setdefault(key, f)
    corners = []
    for f in chosen.values():
        height, width = shapes[f]
        box = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
        corners.append(plane_of(places[f].look(box), basis) / pixel)
    every = np.concatenate(corners)
    every = every[np.isfinite(every).all(axis=1)]
    low, high = every.min(axis=0), every.max(axis=0)
    cell = max(float((high - low).max()) / _GRID, 1.0)
    columns, rows = (int(np.ceil(n)) for n in (high - low) / cell)
    x, y = np.meshgrid(low[0] + cell * (np.arange(columns) + 0.5), low[1] + cell * (np.arange(rows) + 0.5))
    look = directions(np.stack([x.ravel(), y.ravel()], axis=-1) * pixel, basis)
    covered = np.zeros(rows * columns, np.bool_)
    for f in chosen.values():
        height, width = shapes[f]
        at = plane_of(look, places[f].basis) @ np.linalg.inv(places[f].linear).T + places[f].middle
        with np.errstate(invalid="ignore"):
            covered |= ((at > -0.5) & (at < (width - 0.5, height - 0.5))).all(axis=1)
    return covered.reshape(rows, columns), complex(*low), cell
