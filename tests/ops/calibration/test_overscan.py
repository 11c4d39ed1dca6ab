"""Sections of the detector and the level of the overscan."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.arrays import array_spec
from skyloom.ops.calibration.overscan import Overscan, parse_section, row_levels, turned_pattern


@pytest.mark.parametrize(
    ("text", "window"),
    [
        ("[1:4,1:3]", (0, 3, 0, 4)),
        (" [ 33:2048 , 5:100 ] ", (4, 100, 32, 2048)),
        ("[2048:2048,100:100]", (99, 100, 2047, 2048)),
        ("[1:2049,1:3]", None),
        ("[1:4,1:101]", None),
        ("[0:0,0:0]", None),
        ("[5:4,1:3]", None),
        ("[*,1:3]", None),
        ("", None),
    ],
)
def test_sections_count_from_one_and_include_their_ends(text: str, window: tuple[int, ...] | None) -> None:
    assert parse_section(text, (100, 2048)) == window


@pytest.mark.parametrize("bayer", ["RGGB", "GRBG"])
def test_the_pattern_turns_with_the_trim(bayer: str) -> None:
    colours = np.tile(np.array(list(bayer)).reshape(2, 2), (4, 4))
    for row in range(4):
        for column in range(4):
            seen = "".join(colours[row : row + 2, column : column + 2].ravel())
            assert turned_pattern(bayer, row, column) == seen
    assert turned_pattern("", 1, 1) == ""


def test_level_of_a_row_is_its_clipped_mean() -> None:
    random = np.random.default_rng(3)
    pixels = np.rint(random.normal(500.3, 4.0, (4000, 32))).astype(np.float32)
    pixels[:, 5] += np.where(random.uniform(size=4000) < 0.3, 3000, 0)  # hits
    pixels[7] = np.nan
    pixels[8, 1:] = np.nan
    levels = row_levels(pixels)
    assert np.isnan(levels[7]).all()
    np.testing.assert_array_equal(levels[8], [pixels[8, 0], 0])
    good = np.delete(levels, [7, 8], axis=0).astype(float)
    assert good[:, 0].mean() == pytest.approx(500.3, abs=0.05)
    assert good[:, 0].std() == pytest.approx(4.0 / np.sqrt(31.7), rel=0.05)
    # The variance is what the levels scatter by.
    assert good[:, 1].mean() == pytest.approx(good[:, 0].var(), rel=0.06)
    constant = row_levels(np.full((2, 9), 17, np.float32))
    np.testing.assert_array_equal(constant, [[17, 0], [17, 0]])


def test_levels_of_rows_or_of_the_frame() -> None:
    pixels = np.zeros((20, 12), np.float32)
    pixels[:, 8:] = np.arange(20)[:, None]
    spec = array_spec(xr.Dataset({"image": (("y", "x"), pixels)}), "image")
    rows = Overscan((2, 20, 8, 12), "row").levels(spec, 5, 9)
    np.testing.assert_array_equal(rows[:, 0], [5, 6, 7, 8])
    whole = Overscan((2, 6, 8, 12), "frame").levels(spec, 5, 9)
    np.testing.assert_array_equal(whole[:, 0], [3.5] * 4)
