"""Fixed patterns of a detector: the same in any window, as large as stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.detector import (
    bias_pattern,
    dark_current,
    dust_grains,
    flat_field,
    flat_level,
    hot_charge,
)

CAMERA = Camera(
    height=240,
    width=300,
    vignetting=0.3,
    dust=9,
    response=0.01,
    hot_fraction=2e-3,
    cold_fraction=1e-3,
    dark=0.2,
    dark_pattern=0.4,
)
WHOLE = slice(0, 240), slice(0, 300)
PART = slice(31, 77), slice(102, 299)


def patterns(rows: slice, columns: slice) -> list[NDArray[np.float64]]:
    return [
        flat_field(CAMERA, rows, columns),
        flat_field(CAMERA, rows, columns, (1, 1)),
        dark_current(CAMERA, rows, columns),
        hot_charge(CAMERA, 60.0, rows, columns),
    ]


def test_a_window_is_a_cut_of_the_whole() -> None:
    for part, whole in zip(patterns(*PART), patterns(*WHOLE), strict=True):
        assert np.array_equal(part, whole[PART])
    wide = replace(CAMERA, overscan=12)
    assert np.array_equal(bias_pattern(wide, slice(5, 200)), bias_pattern(wide, slice(0, 312))[5:200])


def test_dust_is_on_window_filter_and_of_the_night() -> None:
    def grains(*optics: int) -> set[tuple[float, ...]]:
        return {tuple(row) for row in dust_grains(CAMERA, (optics[0], optics[1]))}

    red, green, later = grains(0, 0), grains(1, 0), grains(0, 1)
    assert len(red) == 9
    assert len(red & green) == 6
    assert len(red & later) == 6
    assert len(green & later) == 3


def test_a_grain_casts_its_shadow() -> None:
    camera = Camera(height=240, width=300, dust=1, seed=3)
    x, y, size, depth = dust_grains(camera)[0]
    flat = flat_field(camera, *WHOLE)
    row, column = np.mgrid[:240, :300]
    distance = np.hypot(column - x, row - y) / size
    assert np.all(flat[distance >= 2.0] == 1.0)
    assert flat[distance < 2.0].min() == pytest.approx(1.0 - depth, rel=2e-3)
    assert 0.7 < distance[np.unravel_index(flat.argmin(), flat.shape)] < 0.9


def test_pixels_differ_as_stated() -> None:
    smooth = replace(CAMERA, response=0.0, cold_fraction=0.0)
    ratio = flat_field(CAMERA, *WHOLE) / flat_field(smooth, *WHOLE)
    cold = ratio < 0.5
    assert 40 < cold.sum() < 110
    assert ratio[cold].min() >= 0.045
    assert ratio[~cold].std() == pytest.approx(0.01, rel=0.03)
    corner = flat_field(Camera(height=240, width=300, vignetting=0.3), *WHOLE)
    assert corner[0, 0] == pytest.approx(0.7)
    assert corner[120, 150] == pytest.approx(1.0, abs=1e-4)


def test_level_is_the_mean_of_each_phase() -> None:
    flat = flat_field(CAMERA, *WHOLE, (2, 0))
    assert flat_level(CAMERA, (2, 0)) == (flat.mean(),) * 4
    colour = replace(CAMERA, bayer="RGGB")
    expected = [flat[r::2, c::2].mean() for r in (0, 1) for c in (0, 1)]
    assert flat_level(colour, (2, 0)) == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) == 4


def test_dark_current_and_hot_pixels_grow_with_time_and_warmth() -> None:
    cold, warm = (replace(CAMERA, temperature=t) for t in (-10.0, -4.0))
    dark = dark_current(cold, *WHOLE)
    assert dark.mean() == pytest.approx(0.2, rel=0.01)
    assert np.log(dark).std() == pytest.approx(0.4, rel=0.02)
    np.testing.assert_allclose(dark_current(warm, *WHOLE), 2.0 * dark)
    hot = hot_charge(cold, 60.0, *WHOLE)
    assert np.count_nonzero(hot) == pytest.approx(144, abs=60)
    assert hot[hot > 0].mean() == pytest.approx(2000.0, rel=0.3)
    np.testing.assert_allclose(hot_charge(warm, 180.0, *WHOLE), 6.0 * hot)
    assert not hot_charge(warm, 0.0, *WHOLE).any()


def test_bias_has_columns() -> None:
    bias = bias_pattern(Camera(width=2000, bias=700.0), slice(0, 2000))
    assert bias.mean() == pytest.approx(700.0, abs=0.3)
    assert bias.std() == pytest.approx(2.0, rel=0.1)
