"""Maps of background and noise against what was put into the frame."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from skyloom.ops.errors import DataError
from skyloom.ops.measurement.cells import cell_statistics
from skyloom.ops.measurement.maps import frame_maps


def test_background_and_noise_come_back() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:320, :480]
    sigma = np.where(x < 240, 4.0, 9.0)
    image = (200 + 0.05 * x + 0.1 * y + sigma * rng.standard_normal(x.shape)).astype(np.float32)
    image[:32, :32] = np.nan
    image[::2, 160:176] = np.nan
    cells = cell_statistics(image, np.zeros(image.shape, np.bool_), cell=16)
    measurement = xr.Dataset(
        {"cells": (("frame", "cell_y", "cell_x", "cell_quantity"), da.from_array(cells[None]))},
        {"frame": [7], "cell_quantity": ["mean", "error", "valid"]},
        {"cell": 16},
    )
    maps = frame_maps(measurement)
    assert all(v.chunks for v in maps.data_vars.values())
    maps = maps.compute().isel(frame=0)
    assert maps.background.dims == maps.noise.dims == ("cell_y", "cell_x")
    truth = 200 + 0.05 * maps.x + 0.1 * (maps.y + 0.5 * (maps.x // 16 == 10))
    pull = (maps.background - truth) * np.sqrt(maps.valid) * 16 / (4.0 + 5.0 * (maps.x > 240))
    assert float(pull.std()) == pytest.approx(1.0, abs=0.1)
    assert abs(float(pull.mean())) < 0.1
    np.testing.assert_allclose(maps.noise.isel(cell_x=slice(2, 14)).mean(), 4.0, rtol=0.03)
    np.testing.assert_allclose(maps.noise.isel(cell_x=10).mean(), 4.0, rtol=0.06)  # half of its pixels are missing
    np.testing.assert_allclose(maps.noise.isel(cell_x=slice(15, 30)).mean(), 9.0, rtol=0.03)
    assert np.isnan(maps.background[:2, :2]).all()
    assert (maps.valid[:2, :2] == 0).all()
    assert int(np.isnan(maps.noise).sum()) == 4


def test_other_results_are_refused() -> None:
    with pytest.raises(DataError, match="no cells"):
        frame_maps(xr.Dataset())
