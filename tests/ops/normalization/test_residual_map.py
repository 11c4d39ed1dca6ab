"""The map of residuals against the same by hand."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.normalization.observations import Observations
from skyloom.ops.normalization.residual_map import CELLS, map_shape, map_step, residual_map


def test_residuals_lie_where_frames_overlap_and_are_distances_to_the_others() -> None:
    canvas = (40, 96)
    rng = np.random.default_rng(0)
    # Three frames of 40 × 40 px at x = 0, 20, 40; a sample every 4 px, on points of the canvas.
    place = np.array([[[40.0, 0, x0], [0, 40.0, 0]] for x0 in (0, 20, 40)])
    parts = []
    for f, x0 in enumerate((0, 20, 40)):
        gy, gx = (g.ravel() for g in np.meshgrid(np.arange(10), np.arange(10), indexing="ij"))
        x, y = x0 + gx * 4 + 2.0, gy * 4 + 2.0
        point = (gy * 24 + (x // 4)).astype(int)
        parts.append((np.full(100, f), point, (x - x0) / 40, y / 40, x, y))
    frame, point, u, v, x, y = (np.concatenate(p) for p in zip(*parts, strict=True))
    shared = np.bincount(point, minlength=240)[point] >= 2
    frame, point, u, v, x, y = (a[shared] for a in (frame, point, u, v, x, y))
    number = np.unique(point, return_inverse=True)[1].astype(np.int32)
    start = np.searchsorted(frame, np.arange(4))
    seen = Observations(start, number, u.astype(np.float32), v.astype(np.float32), 2, int(number.max()) + 1)
    weight = rng.uniform(0.5, 2.0, len(frame)).astype(np.float32)
    before = rng.normal(0, 5, len(frame))
    found = residual_map(seen, place, weight, before, 0.1 * before, canvas)
    assert found.shape == (2, *map_shape(canvas)) == (2, 40, 96)
    assert map_step(canvas) == 96 / CELLS
    wanted = np.full((40, 96), np.nan)
    for cell in {(int(b), int(a)) for a, b in zip(x, y, strict=True)}:
        here = np.flatnonzero((x.astype(int) == cell[1]) & (y.astype(int) == cell[0]))
        away = []
        for i in here:
            others = here[here != i]
            away.append(abs(before[i] - np.average(before[others], weights=weight[others])))
        wanted[cell] = np.mean(away) * np.sqrt(np.pi / 2)
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4)
    np.testing.assert_allclose(found[1], 0.1 * wanted, rtol=1e-4)
    assert np.isnan(found[:, :, :20]).all()


def test_without_overlap_there_is_no_map() -> None:
    none = np.empty(0, np.float32)
    seen = Observations(np.zeros(3, np.int64), np.empty(0, np.int32), none, none, 1, 0)
    found = residual_map(seen, np.zeros((2, 2, 3)), none, np.empty(0), np.empty(0), (5000, 300))
    assert found.shape == (2, 96, 6)
    assert np.isnan(found).all()
    assert map_step((5000, 300)) == pytest.approx(5000 / 96)
