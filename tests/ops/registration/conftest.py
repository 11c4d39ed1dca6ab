"""Frames of stars without pixels, of which everything is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.registration.placing import Place, directions, plane_of, tangent_basis, unit_vector

ARCSEC = np.pi / 180 / 3600


@dataclass(frozen=True)
class Panels:
    """Star lists of a mosaic, and the truth."""

    stars: dict[int, NDArray[np.float64]]
    """Frame → (stars, 2) positions, brightest first."""
    identity: dict[int, NDArray[np.intp]]
    """Frame → which star of the sky each is."""
    truth: dict[int, Place]
    camera: dict[int, int]
    bend: dict[int, float]
    """Camera → radial distortion at the corner (px)."""
    shape: tuple[int, int]

    @property
    def half(self) -> float:
        return 0.5 * float(np.hypot(*self.shape))

    @property
    def middle(self) -> NDArray[np.float64]:
        return np.array([0.5 * (self.shape[1] - 1), 0.5 * (self.shape[0] - 1)])

    def look(self, frame: int, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """True directions of pixels."""
        q = (pixels - self.middle) / self.half
        r2 = (q**2).sum(axis=1, keepdims=True)
        return self.truth[frame].look(pixels + self.bend[self.camera[frame]] * r2 * q)

    def error(self, look: Callable[[int, NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
        """Distance (px) of a solution from the truth on grids of all frames, less one similarity of the whole."""
        x, y = np.meshgrid(np.linspace(0, self.shape[1] - 1, 5), np.linspace(0, self.shape[0] - 1, 5))
        pixels = np.stack([x.ravel(), y.ravel()], axis=-1)
        mine = np.concatenate([look(f, pixels) for f in self.truth])
        true = np.concatenate([self.look(f, pixels) for f in self.truth])
        u, _, vt = np.linalg.svd(true.T @ mine)
        mine = mine @ (u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt).T
        basis = tangent_basis(true.mean(axis=0) / np.linalg.norm(true.mean(axis=0)))
        a, b = (plane_of(v, basis) @ (1.0, 1j) for v in (mine, true))
        turn = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean())
        scale = float(np.median([p.scale for p in self.truth.values()]))
        return np.asarray(np.abs(turn * (a - a.mean()) + b.mean() - b) / scale)


@pytest.fixture
def panels() -> Callable[..., Panels]:
    """Make a mosaic."""

    def make(
        *,
        rows: int = 2,
        columns: int = 3,
        depth: int = 2,
        shape: tuple[int, int] = (1400, 2000),
        overlap: float = 0.1,
        density: float = 60.0,
        noise: float = 0.08,
        missed: float = 0.15,
        scales: tuple[float, ...] = (1.0,),
        bend: tuple[float, ...] = (0.0,),
        flip: bool = True,
        limit: int = 250,
        seed: int = 1,
        ra: float = 83.0,
        dec: float = 20.0,
    ) -> Panels:
        """`density` stars a Mpixel; frame k of a panel is of camera k % len(scales), every other upside down."""
        rng = np.random.default_rng(seed)
        scale = 2.0 * ARCSEC
        height, width = shape
        sky = tangent_basis(unit_vector(ra, dec))
        size = np.array([columns * width, rows * height]) * scale * 1.2
        count = int(density * size.prod() / scale**2 / 1e6)
        vectors = directions((rng.uniform(-0.5, 0.5, (count, 2))) * size, sky)
        order = np.argsort(rng.exponential(size=count))
        middle = np.array([0.5 * (width - 1), 0.5 * (height - 1)])
        half = 0.5 * float(np.hypot(*shape))
        stars, identity, truth, camera = {}, {}, {}, {}
        frame = 0
        for row in range(rows):
            for column in range(columns):
                for k in range(depth):
                    label = k % len(scales)
                    at = np.array([column - 0.5 * (columns - 1), row - 0.5 * (rows - 1)]) * (1 - overlap)
                    at = at * (width, height) * scale + rng.normal(0, 8 * scale, 2)
                    angle = np.radians(rng.normal(0, 1) + 180 * (flip and k % 2))
                    c, s = np.cos(angle), np.sin(angle)
                    linear = scale * scales[label] * np.array([[-c, s], [s, c]])
                    place = Place(directions(at[None], sky)[0], linear, middle)
                    u = plane_of(vectors, place.basis) @ np.linalg.inv(linear).T
                    p = u.copy()
                    for _ in range(20):
                        p = u - bend[label] * ((p / half) ** 2).sum(axis=1, keepdims=True) * p / half
                    p = p + middle
                    inside = ((p > 4) & (p < (width - 5, height - 5))).all(axis=1) & (
                        rng.uniform(size=count) > missed
                    )
                    seen = order[inside[order]][:limit]
                    stars[frame] = p[seen] + rng.normal(0, noise, (len(seen), 2))
                    identity[frame] = seen
                    truth[frame], camera[frame] = place, label
                    frame += 1
        return Panels(stars, identity, truth, camera, dict(enumerate(bend)), shape)

    return make
