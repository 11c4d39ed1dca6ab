"""The nebula: splines over hashed lattices, structure everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.simulation.hashing import hash_key, mix, uniform
from skyloom.ops.simulation.nebula import add_octave
from skyloom.ops.simulation.sky import SkyModel


def test_octave_is_a_cubic_spline_of_hashed_values() -> None:
    key = hash_key(5)
    x, y = np.random.default_rng(1).uniform(-3.0, 3.0, (2, 40))
    out = np.zeros(40)
    add_octave(x, y, 0.5, key, 2.0, out)

    def lattice(i: int, j: int) -> float:
        row = mix(key, np.uint64(j + 1048576))
        return 2.0 * float(uniform(np.uint64(mix(np.uint64(row), np.uint64(i + 1048576))))) - 1.0

    def spline(t: float) -> list[float]:
        s = 1.0 - t
        return [s**3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (3 * s**3 - 6 * s**2 + 4) / 6, t**3 / 6]

    for n in range(40):
        px, py = x[n] / 0.5, y[n] / 0.5
        i, j = math.floor(px), math.floor(py)
        naive = sum(
            vy * wx * lattice(i + a, j + b)
            for b, vy in enumerate(spline(py - j))
            for a, wx in enumerate(spline(px - i))
        )
        assert out[n] == pytest.approx(2.0 * naive, abs=1e-12)


def test_nebula_is_positive_smooth_and_everywhere() -> None:
    sky = SkyModel(seed=1, star_density=0.0)
    ra: NDArray[np.float64] = np.asarray(np.linspace(83.0, 85.0, 20001), dtype=np.float64)
    line = sky.brightness(ra, np.full_like(ra, 30.0), "L")
    assert line.min() >= 0.0
    assert 0.3 < line.mean() / sky.nebula < 3.0
    # 0.31" steps on structure of 16" and more: curvature stays small and finite.
    assert np.abs(np.diff(line, 2)).max() < 2e-3 * line.max()
    for place in ((0.0, 89.99), (359.999, -60.0), (264.0, -29.0)):
        assert np.isfinite(sky.brightness(np.array([place[0]]), np.array([place[1]]), "R")).all()


def test_nebula_has_structure_on_all_scales() -> None:
    sky = SkyModel(seed=1, star_density=0.0)
    for step in (8.0, 60.0, 600.0, 3600.0):
        ra = np.array([79.0 + n * step * 2.0 / 3600.0 for n in range(400)])
        line = sky.brightness(ra, np.full(400, 30.0), "L")
        assert np.sqrt(np.mean(np.diff(line) ** 2)) > 0.01 * sky.nebula
