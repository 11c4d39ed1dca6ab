"""Small linear pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS

from skyloom.ops.grid import Grid, wcs_header


def make_picture(shape: tuple[int, int] = (160, 128), tile: int = 160, channels: str = "RGB") -> xr.Dataset:
    rng = np.random.default_rng(8)
    image = rng.normal(20.0, 3.0, (len(channels), *shape))
    image *= np.array([1.0, 1.1, 0.9])[: len(channels), None, None]
    for _ in range(60):
        y, x = rng.integers(4, shape[0] - 4), rng.integers(4, shape[1] - 4)
        image[:, y - 1 : y + 2, x - 1 : x + 2] += (
            rng.uniform(50, 3000) * np.array([1.0, 0.8, 0.6])[: len(channels), None, None]
        )
    image[:, :5, :7] = np.nan
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cd = np.diag([-2.0, 2.0]) / 3600
    wcs.wcs.set()
    grid = Grid(wcs_header(wcs), shape, tile)
    picture = xr.Dataset(
        {"image": (("channel", "y", "x"), image.astype(np.float32))},
        {"channel": list(channels)},
        {**grid.to_attrs(), "units": "adu", "linear": True},
    )
    return picture.chunk({"channel": len(channels), "y": tile, "x": tile})


@pytest.fixture(scope="session")
def picture() -> Callable[..., xr.Dataset]:
    return make_picture
