"""Mosaics whose outline, depth, sky and nebula are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.grid import Grid, wcs_header

Floats = NDArray[np.float64]


def canvas(shape: tuple[int, int], tile: int) -> Grid:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [270.0, -24.0]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5, shape[0] / 2 + 0.5]
    wcs.wcs.cd = np.diag([-4.0, 4.0]) / 3600
    wcs.wcs.set()
    return Grid(wcs_header(wcs), shape, tile)


def make_mosaic(planes: Mapping[str, Floats], *, tile: int = 512, weight: Floats | None = None) -> xr.Dataset:
    """A mosaic of these bands; weight 1 / variance, the number of frames four times that."""
    image = np.stack(list(planes.values())).astype(np.float32)
    depth = np.broadcast_to(np.ones(image.shape[1:]) if weight is None else weight, image.shape)
    there = np.isfinite(image) & (depth > 0)
    depth = np.where(there, depth, np.nan)
    dims = ("band", "y", "x")
    mosaic = xr.Dataset(
        {
            "image": (dims, np.where(there, image, np.nan).astype(np.float32)),
            "weight": (dims, depth.astype(np.float32)),
            "variance": (dims, (1.0 / depth).astype(np.float32)),
            "count": (dims, np.where(there, np.ceil(4 * depth), 0).astype(np.uint16)),
        },
        {"band": list(planes)},
        {**canvas(image.shape[1:], tile).to_attrs(), "units": "adu"},
    )
    return retiled(mosaic, tile)


def retiled(mosaic: xr.Dataset, tile: int) -> xr.Dataset:
    """The same pixels in tiles of another size."""
    grid = Grid.from_attrs(mosaic.attrs).retile(tile)
    return mosaic.chunk({"band": 1, "y": tile, "x": tile}).assign_attrs(grid.to_attrs())


@pytest.fixture(scope="session")
def mosaic() -> Callable[..., xr.Dataset]:
    return make_mosaic


@pytest.fixture(scope="session")
def retile() -> Callable[[xr.Dataset, int], xr.Dataset]:
    return retiled
