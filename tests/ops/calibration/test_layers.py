"""What lights need of masters: strips where the stored ones lie, shared by all that are alike."""

from __future__ import annotations

import numpy as np
import xarray as xr

from skyloom.ops.arrays import array_spec
from skyloom.ops.calibration.layers import STRIP, DarkCurrent, Level, Master, Response, Strips, Variance
from skyloom.ops.calibration.overscan import Overscan

SHAPE = (2 * STRIP + 50, 12)
RANDOM = np.random.default_rng(2)
BIAS, DARK, FLAT = (RANDOM.normal(level, 0.3, SHAPE).astype(np.float32) for level in (500, 520, 3))
WINDOW = slice(240, 300), slice(2, 9)


def spec(pixels: np.ndarray) -> str:
    return array_spec(xr.Dataset({"image": (("y", "x"), pixels)}), "image")


def test_strips_begin_where_those_of_the_detector_do() -> None:
    strips = Strips(height=600, width=12, row=30)
    assert list(strips.over(0, 600)) == [(0, 226), (226, 482), (482, 600)]
    assert list(strips.over(225, 227)) == [(0, 226), (226, 482)]
    assert list(strips.over(226, 227)) == [(226, 482)]
    assert list(Strips(600, 12).over(0, 600)) == [(0, 256), (256, 512), (512, 600)]


def test_layers() -> None:
    strips = Strips(*SHAPE)
    bias = Master(spec(BIAS), variance=spec(FLAT), pedestal=7.0)
    dark = Master(spec(DARK), pedestal=9.0)
    np.testing.assert_array_equal(strips.window(Level(bias), *WINDOW), BIAS[WINDOW] - np.float32(7))
    np.testing.assert_array_equal(strips.window(Variance(bias), *WINDOW), FLAT[WINDOW])
    current = strips.window(DarkCurrent(dark, bias), *WINDOW)
    np.testing.assert_array_equal(current, (DARK - np.float32(9) - (BIAS - np.float32(7)))[WINDOW])
    np.testing.assert_array_equal(strips.window(None, *WINDOW, default=1.0), np.ones((60, 7)))
    bad = np.zeros(SHAPE, np.uint8)
    bad[250, 4] = 2
    flat = Master(spec(FLAT), bad=spec(bad))
    expected = np.float32(1) / FLAT
    expected[bad > 0] = np.nan
    np.testing.assert_array_equal(strips.window(Response(flat, (flat,)), *WINDOW), expected[WINDOW])
    np.testing.assert_array_equal(
        strips.window(Response(None, (flat,)), *WINDOW), np.where(bad > 0, np.nan, 1)[WINDOW]
    )


def test_a_master_of_the_whole_detector_for_a_trimmed_light() -> None:
    overscan = Overscan((0, SHAPE[0], 0, 2), "row")
    master = Master(spec(BIAS), origin=(10, 2), overscan=overscan)
    levels = overscan.levels(spec(BIAS), 10, SHAPE[0])[:, :1]
    found = Strips(SHAPE[0] - 10, 10, 10).window(Level(master), slice(0, SHAPE[0] - 10), slice(0, 10))
    np.testing.assert_array_equal(found, BIAS[10:, 2:] - levels)


def test_fields_make_the_master_again() -> None:
    master = Master(spec(BIAS), spec(DARK), spec(FLAT), "", (3, 4), 5.0, Overscan((0, SHAPE[0], 0, 2), "frame"))
    again = Master.from_fields(master.fields())
    assert again == master
    # Equal masters share what is decoded, whichever light names them.
    assert hash(Level(again)) == hash(Level(master))
    assert Master.from_fields(None) is None
