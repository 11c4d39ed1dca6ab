"""The points all frames have in common, less those near stars."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.grid import Grid
from skyloom.ops.normalization.lattice import MOST_DROPPED, Lattice, drop_stars, make_lattice


def test_lattice_follows_the_pixel_scale(canvas: Grid) -> None:
    lattice = make_lattice(canvas, cell=16, area=0.25, superpixel=60.0)
    assert lattice.step == pytest.approx(32.0)
    assert lattice.group == 4
    assert lattice.shape == (10, 10)
    assert lattice.points == (40, 40)


def test_stars_are_dropped_like_the_naive_loop() -> None:
    lattice = Lattice(16.0, 4, (20, 22))
    rng = np.random.default_rng(1)
    x, y, r = rng.uniform(-30, 1450, 150), rng.uniform(-30, 1300, 150), rng.uniform(3, 30, 150)
    dropped = drop_stars(lattice, x, y, r)
    px, py = np.meshgrid(lattice.positions(0, 88), lattice.positions(0, 80))
    expected = np.zeros((80, 88), dtype=bool)
    for k in range(150):
        expected |= (px - x[k]) ** 2 + (py - y[k]) ** 2 <= np.float32(r[k] + 8.0) ** 2
    assert expected.mean() < MOST_DROPPED
    assert np.array_equal(dropped, expected)


def test_crowded_fields_keep_points_away_from_bright_stars() -> None:
    lattice = Lattice(16.0, 4, (16, 19))
    rng = np.random.default_rng(2)
    x, y, r = rng.uniform(0, 640, 4000), rng.uniform(0, 1024, 4000), np.full(4000, 5.0)
    r[:3] = 60.0
    dropped = drop_stars(lattice, x, y, r)
    left = dropped[:, :32].reshape(4, 16, 2, 16).mean(axis=(1, 3))
    assert np.all(left <= MOST_DROPPED + 1e-9)
    for k in range(3):
        j, i = round((y[k] + 0.5) / 16 - 0.5), round((x[k] + 0.5) / 16 - 0.5)
        if 0 <= j < 64 and 0 <= i < 76:
            assert dropped[j, i]
    # Sparse part: nothing is lost there.
    assert not dropped[:, 48:].any()
