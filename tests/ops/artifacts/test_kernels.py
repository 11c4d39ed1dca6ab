"""Kernels of the artifacts against plain numpy: block means, ranks, medians of others, sums along lines, masks."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.artifacts.blobs import without_specks
from skyloom.ops.artifacts.consensus import middle_ranks
from skyloom.ops.artifacts.difference import subtract
from skyloom.ops.artifacts.line_sums import line_sums, strongest_line
from skyloom.ops.artifacts.shrink import block_means
from skyloom.ops.artifacts.trail_profile import half_width
from skyloom.ops.integration.combine import median_loss
from skyloom.ops.integration.masked import mark_cells

Plane = NDArray[np.float32]


def stack(n: int, shape: tuple[int, int] = (9, 11), seed: int = 0) -> Plane:
    rng = np.random.default_rng(seed + n)
    out = rng.normal(10, 1, (n, *shape)).astype(np.float32)
    out[rng.random(out.shape) < 0.15] = np.nan
    out[:, 0, 0] = 7.0
    return out


def test_block_means_are_those_of_what_is_there() -> None:
    image = stack(1, (13, 18))[0]
    image[4:8, 4:8] = np.nan
    image[7, 4:8] = 3.0
    out = np.empty((4, 5), dtype=np.float32)
    block_means(image, 4, out)
    for (y, x), got in np.ndenumerate(out):
        part = image[4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
        there = part[np.isfinite(part)]
        if there.size < 8:
            assert np.isnan(got)
        else:
            assert got == pytest.approx(there.mean(dtype=np.float64), rel=1e-6)
    assert np.isnan(out[1, 1])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 9, 16])
def test_the_median_of_the_others_comes_from_the_middle_ranks(n: int) -> None:
    samples = stack(n)
    planes = np.empty((5, *samples.shape[1:]), dtype=np.float32)
    middle_ranks(samples, planes)
    low, middle, high, spread, count = planes
    there = np.isfinite(samples).sum(axis=0)
    np.testing.assert_array_equal(count, there)
    enough = there >= 2
    np.testing.assert_array_equal(np.isfinite(middle), enough)
    np.testing.assert_allclose(middle[enough], np.nanmedian(samples[:, enough], axis=0), rtol=1e-6)
    np.testing.assert_array_equal(np.isfinite(spread), there >= 6)
    value, error = np.empty((2, *samples.shape[1:]), dtype=np.float32)
    for i in range(n):
        subtract(samples[i], low, middle, high, spread, count, 1.0, median_loss(n + 1), 0.0, value, error)
        known = np.isfinite(samples[i]) & enough
        np.testing.assert_array_equal(np.isfinite(value), known)
        for y, x in np.argwhere(known):
            others = np.delete(samples[:, y, x], i)
            assert value[y, x] == pytest.approx(samples[i, y, x] - np.nanmedian(others), abs=2e-6)


def test_the_range_of_the_sky_is_excused() -> None:
    sky = np.zeros((9, 9), dtype=np.float32)
    sky[4, 4] = 100.0
    count = np.full(sky.shape, 5, dtype=np.float32)
    value, error = np.empty((2, 9, 9), dtype=np.float32)
    spread = np.full(sky.shape, np.nan, dtype=np.float32)
    subtract(sky, sky, sky, sky, spread, count, 1.0, median_loss(6), 0.5, value, error)
    near = np.zeros(sky.shape, dtype=bool)
    near[3:6, 3:6] = True
    assert (error[near] > 45).all()
    assert (error[~near] < 1.5).all()


@pytest.mark.parametrize(("rows", "columns"), [(2, 5), (8, 13), (16, 16)])
def test_sums_along_lines_equal_a_walk_along_them(rows: int, columns: int) -> None:
    values = np.random.default_rng(rows).normal(size=(rows, columns)).astype(np.float32)
    got = line_sums(values, np.empty((2, rows, rows + columns), dtype=np.float32)).copy()

    def walk(first: int, size: int, s: int, x: int) -> float:
        if size == 1:
            return float(values[first, x]) if 0 <= x < columns else 0.0
        half = size // 2
        return walk(first, half, s // 2, x) + walk(first + half, half, s // 2, x + (s + 1) // 2)

    for s in range(rows):
        for x in range(-rows, columns):
            assert got[s, rows + x] == pytest.approx(walk(0, rows, s, x), abs=1e-5)
    # The lines are straight: their ends are where they should be, and no block is far from the chord.
    ends = np.zeros((rows, columns), dtype=np.float32)
    for s in range(min(rows, columns)):
        ends[:] = 0
        ends[0, 0], ends[-1, s] = 1, 2
        assert line_sums(ends, np.empty((2, rows, rows + columns), dtype=np.float32))[s, rows] == 3


def test_the_strongest_line_is_the_one_that_was_drawn() -> None:
    values = np.zeros((16, 20), dtype=np.float32)
    for row in range(16):
        values[row, 3 + round(row * 9 / 15)] = 1.0
    sums = line_sums(values, np.empty((2, 16, 36), dtype=np.float32))
    weights = line_sums(np.ones((16, 20), np.float32), np.empty((2, 16, 36), dtype=np.float32))
    ratio, s, x, kept = strongest_line(sums, weights, 8.0, 7, np.empty(4096, dtype=np.float32))
    assert (abs(s - 9), abs(x - 16 - 3)) <= (1, 1)
    assert ratio > 0.8 * np.sqrt(16)
    assert kept == np.sum((weights.ravel() >= 8.0)[::7])
    assert strongest_line(sums, weights, 99.0, 7, np.empty(9, dtype=np.float32))[0] == -np.inf


def test_specks_go_and_blobs_stay() -> None:
    ratio = np.random.default_rng(1).normal(0, 0.5, (60, 60)).astype(np.float32)
    speck, blob = np.zeros((2, 60, 60), dtype=bool)
    speck[10:12, 20:22] = speck[30, 40:43] = True
    blob[40:52, 10:24] = True
    got = without_specks(np.where(speck, np.float32(40), np.where(blob, np.float32(6), ratio)), 2.5)
    assert (np.abs(got[speck]) < 2).all()
    assert (got[41:51, 11:23] == 6).all()
    np.testing.assert_array_equal(got[~speck & ~blob], ratio[~speck & ~blob])


def test_cells_of_a_mask_cover_their_pixels_of_any_window() -> None:
    rng = np.random.default_rng(3)
    cells = rng.random((10, 24)) < 0.3
    whole = np.zeros((60, 90), dtype=bool)
    whole[8:28, 12:60] = np.repeat(np.repeat(cells, 2, axis=0), 2, axis=1)
    packed = np.packbits(cells, axis=1)
    for row, column, shape in ((0, 0, (60, 90)), (9, 13, (7, 11)), (20, 40, (40, 50)), (50, 70, (5, 5))):
        marked = np.ones(shape, dtype=bool)
        mark_cells(packed, 8, 12, 2, row, column, marked)
        np.testing.assert_array_equal(marked, whole[row : row + shape[0], column : column + shape[1]])


@pytest.mark.parametrize("sigma", [0.5, 0.8, 1.3])
def test_the_width_of_a_trail_holds_nearly_all_of_its_light(sigma: float) -> None:
    rng = np.random.default_rng(2)
    distance = np.arange(-8, 9) + rng.uniform(-0.5, 0.5, (250, 1))
    for peak in (1.0, 5.0, 100.0):
        values = peak * np.exp(-0.5 * (distance / sigma) ** 2) + rng.normal(0, 0.6, distance.shape)
        half = half_width(values.astype(np.float32), distance)
        assert 2.3 * sigma < half < 4.6 * sigma
