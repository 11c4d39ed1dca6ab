"""What is surveyed is what is there, whatever the tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.colour import survey as module
from skyloom.ops.colour.survey import cell_of, survey
from skyloom.ops.errors import DataError


def test_cells_equal_numpy(sky: Callable[..., Any]) -> None:
    mosaic = sky(shape=(100, 70), tile=64, stars=10).mosaic
    image = mosaic["image"].values
    image[1, 3:40, 5:30] = np.nan
    mosaic["image"] = (mosaic["image"].dims, image)
    found = survey(mosaic).compute()
    assert found.sizes == {"band": 4, "y": 7, "x": 5, "sample": 256}
    for band in range(4):
        for cy, cx in ((0, 0), (1, 1), (6, 4), (2, 0)):
            cell = image[band, cy * 16 : cy * 16 + 16, cx * 16 : cx * 16 + 16].ravel()
            good = np.sort(cell[np.isfinite(cell)])
            assert found["valid"].values[band, cy, cx] == pytest.approx(good.size / 256)
            middle = good[good.size // 2]
            assert found["median"].values[band, cy, cx] == middle
            deviation = np.sort(np.abs(good - middle))[good.size // 2]
            assert found["noise"].values[band, cy, cx] == pytest.approx(1.4826022 * deviation, rel=1e-5)
            kept = found["sample"].values[band, cy, cx]
            np.testing.assert_array_equal(np.sort(kept[np.isfinite(kept)]), good)


def test_no_tile_shows(sky: Callable[..., Any], retile: Callable[[xr.Dataset, int], xr.Dataset]) -> None:
    mosaic = sky().mosaic
    one, other = survey(mosaic).compute(), survey(retile(mosaic, 64)).compute()
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, other[name].values)


def test_the_sample_of_a_large_canvas_is_small() -> None:
    for side in (100, 3000, 9000, 100_000):
        cell, step = cell_of((side, side))
        assert cell % step == 0
        assert (side // step) ** 2 <= 10e6
    assert cell_of((1000, 1000)) == (16, 1)


def test_of_a_large_canvas_every_nth_pixel_is_kept(
    sky: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLES", 1000)
    mosaic = sky(shape=(128, 96), tile=64, stars=5).mosaic
    found = survey(mosaic).compute()
    assert found.sizes["sample"] == 16
    image = mosaic["image"].values
    for cy, cx in ((0, 0), (5, 3)):
        cell = image[2, cy * 16 : cy * 16 + 16 : 4, cx * 16 : cx * 16 + 16 : 4]
        np.testing.assert_array_equal(found["sample"].values[2, cy, cx], cell.ravel())


def test_a_table_is_no_mosaic(sky: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="no 'image' over"):
        survey(sky(shape=(64, 64), tile=64, stars=1).mosaic.isel(band=0))
