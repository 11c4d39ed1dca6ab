"""Superpixels of frames without pixels, of which everything is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray

from skyloom.ops.grid import Grid, wcs_header
from skyloom.ops.normalization.background import Surfaces, solve_surfaces
from skyloom.ops.normalization.legendre import evaluate, legendre
from skyloom.ops.normalization.observations import Observations, Samples, join_samples

Floats = NDArray[np.float64]


@dataclass
class Drawn:
    """Samples of frames, the truth, and how wrong a solution is."""

    frame: NDArray[np.int64]
    point: NDArray[np.int64]
    value: Floats
    u: Floats
    v: Floats
    placement: Floats
    truth: Floats
    columns: int
    noise: float

    def samples(self) -> list[Samples]:
        """Frame by frame, as the superpixels come."""
        out = []
        for f in range(len(self.truth)):
            mine = np.flatnonzero(self.frame == f)
            mine = mine[np.argsort(self.point[mine])]
            variance = np.full(len(mine), self.noise**2, dtype=np.float32)
            u, v = (c[mine].astype(np.float32) for c in (self.u, self.v))
            out.append(Samples(self.point[mine].astype(np.int32), self.value[mine], variance, u, v))
        return out

    def join(self, order: int = 2) -> tuple[Observations, Floats, NDArray[np.float32]]:
        return join_samples(self.samples(), np.ones(len(self.truth)), order=order)

    def solve(self, *, order: int = 2, **options: Any) -> Surfaces:
        options = {"placement": self.placement, **options}
        return solve_surfaces(*self.join(order), **options)

    def errors(self, solved: Surfaces, order: int, *, ignore: tuple[int, ...] = ()) -> tuple[float, Floats]:
        """Seam rms; rms of the mosaic's background after a constant, a plane, a quadratic."""
        keep = ~np.isin(self.frame, ignore)
        frame, point = self.frame[keep], self.point[keep]
        s, t = 2 * self.u[keep] - 1, 2 * self.v[keep] - 1
        wrong = np.einsum("ik,ik->i", legendre(s, t, 2), self.truth[frame])
        wrong -= np.einsum("ik,ik->i", legendre(s, t, order), solved.coefficients[frame])
        count = np.bincount(point)
        mean = np.bincount(point, weights=wrong) / np.maximum(count, 1)
        seen = np.flatnonzero(count)
        y, x = np.divmod(seen, self.columns)
        x, y = 2 * x / x.max() - 1.0, 2 * y / y.max() - 1.0
        out = []
        for degree in (0, 1, 2):
            terms = legendre(x, y, degree)
            rest = mean[seen] - terms @ np.linalg.lstsq(terms, mean[seen], rcond=None)[0]
            out.append(np.sqrt(np.mean(rest**2)))
        return float(np.std(wrong - mean[point])), np.array(out)


def draw_frames(
    nx: int = 3,
    ny: int = 3,
    visits: int = 4,
    *,
    noise: float = 0.25,
    gap: int = 0,
    seed: int = 0,
    turn: bool = True,
) -> Drawn:
    """Superpixels of 64 px from frames of 2048 px, 15 % overlap, dithers, half turns, a wavy sky."""
    rng = np.random.default_rng(seed)
    size, step = 2048, 64
    pitch = size * 0.85
    columns = int((nx * pitch + size + 200 + gap) // step)
    amplitude = rng.normal(0, 30, 8)
    length, angle = np.geomspace(150, 5000, 8), rng.uniform(0, np.pi, 8)
    parts: list[list[Floats]] = [[], [], [], [], []]
    placement: list[Floats] = []
    truth: list[Floats] = []
    for j in range(ny):
        for i in range(nx):
            for k in range(visits):
                x0 = 60 + i * pitch + rng.uniform(-50, 50) + (gap if i == nx - 1 else 0)
                y0 = 60 + j * pitch + rng.uniform(-50, 50)
                a = np.array([[size, 0, x0], [0, size, y0]], dtype=np.float64)
                if turn and k % 2:
                    a = np.array([[-size, 0, x0 + size], [0, -size, y0 + size]])
                gx, gy = (
                    g.ravel()
                    for g in np.meshgrid(
                        np.arange(np.ceil(x0 / step), (x0 + size) // step),
                        np.arange(np.ceil(y0 / step), (y0 + size) // step),
                    )
                )
                x, y = (gx + 0.5) * step, (gy + 0.5) * step
                u, v = (x - a[0, 2]) / a[0, 0], (y - a[1, 2]) / a[1, 1]
                direction = rng.uniform(0, 2 * np.pi)
                swing = rng.uniform(100, 125)
                c = np.array(
                    [
                        rng.normal(0, 80),
                        swing * np.cos(direction),
                        swing * np.sin(direction),
                        *rng.normal(0, 25, 3),
                    ]
                )
                sky = 1000 + sum(
                    p * np.cos(2 * np.pi * (x * np.cos(q) + y * np.sin(q)) / w)
                    for p, w, q in zip(amplitude, length, angle, strict=True)
                )
                value = sky + evaluate(c, u, v) + rng.normal(0, noise, len(u))
                for part, new in zip(
                    parts, (np.full(len(u), float(len(truth))), gy * columns + gx, value, u, v), strict=True
                ):
                    part.append(new)
                placement.append(a)
                truth.append(c)
    frame, point, value, u, v = (np.concatenate(p) for p in parts)
    return Drawn(
        frame.astype(np.int64),
        point.astype(np.int64),
        value,
        u,
        v,
        np.array(placement),
        np.array(truth),
        columns,
        noise,
    )


@pytest.fixture(scope="session")
def draw() -> Callable[..., Any]:
    """`draw_frames`."""
    return draw_frames


def tangent_wcs(
    size: int, *, ra: float = 40.0, dec: float = 30.0, angle: float = 0.0, scale: float = 1.0, sip: bool = False
) -> str:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(size + 1) / 2, (size + 1) / 2]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[-c, s], [s, c]])
    if sip:
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[2, 0], b[1, 1], a[0, 3] = 3e-6, -2e-6, 4e-10
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
        wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.wcs.set()
    return wcs_header(wcs)


@pytest.fixture(scope="session")
def tangent() -> Callable[..., str]:
    """`tangent_wcs`."""
    return tangent_wcs


@pytest.fixture(scope="session")
def canvas() -> Grid:
    return Grid(tangent_wcs(1200), (1200, 1200), 512)
