"""Small mosaics whose stars, sky and nebula are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
    wcs.wcs.crpix = [shape[1] / 2, shape[0] / 2]
    wcs.wcs.cd = np.diag([-2.0, 2.0]) / 3600
    wcs.wcs.set()
    return Grid(wcs_header(wcs), shape, tile)


@dataclass(frozen=True)
class Sky:
    """A mosaic and what is in it."""

    mosaic: xr.Dataset
    x: Floats
    y: Floats
    colour: Mapping[str, Floats]
    """Band → true flux of each star before the band's gain."""


GAIN = {"R": 0.6, "G": 1.0, "B": 1.7, "L": 2.5}
LEVEL = {"R": 300.0, "G": 520.0, "B": 410.0, "L": 900.0}


def make_sky(
    *,
    bands: tuple[str, ...] = ("B", "G", "L", "R"),
    shape: tuple[int, int] = (352, 320),
    tile: int = 352,
    stars: int = 120,
    noise: float = 4.0,
    nebula: float = 0.0,
    seed: int = 5,
    spread: float = 0.25,
) -> Sky:
    """Stars of average colour white (0 in log flux), a nebula over half of the field, sky of another colour."""
    rng = np.random.default_rng(seed)
    height, width = shape
    rows, columns = np.mgrid[:height, :width].astype(float)
    x, y = rng.uniform(10, width - 10, stars), rng.uniform(10, height - 10, stars)
    total = 10 ** rng.uniform(3.2, 4.8, stars)
    temperature = rng.normal(0.0, spread, stars)
    temperature -= np.median(temperature)
    colour = {b: total * np.exp(s * temperature) for b, s in (("R", 1.0), ("G", 0.0), ("B", -1.0))}
    colour["L"] = sum(colour.values()) / 3.0  # type: ignore[assignment]
    cloud = nebula * np.exp(-0.5 * (((columns - width) / (0.2 * width)) ** 2 + ((rows - height / 2) / 150) ** 2))
    share = {"R": 1.5, "G": 0.9, "B": 0.6, "L": 1.0}
    image = np.empty((len(bands), height, width))
    for plane, band in zip(image, bands, strict=True):
        plane[:] = share[band] * cloud
        for xs, ys, flux in zip(x, y, colour[band], strict=True):
            x0, y0 = int(xs), int(ys)
            window = slice(max(y0 - 12, 0), y0 + 13), slice(max(x0 - 12, 0), x0 + 13)
            r2 = (columns[window] - xs) ** 2 + (rows[window] - ys) ** 2
            plane[window] += flux * np.exp(-0.5 * r2 / 1.4**2) / (2 * np.pi * 1.4**2)
        plane *= GAIN[band]
        plane += LEVEL[band] + rng.normal(0.0, noise, shape)
    grid = canvas(shape, tile)
    mosaic = xr.Dataset(
        {
            "image": (("band", "y", "x"), image.astype(np.float32)),
            "variance": (("band", "y", "x"), np.full(image.shape, noise**2, np.float32)),
        },
        {"band": list(bands)},
        {**grid.to_attrs(), "units": "adu"},
    )
    return Sky(retiled(mosaic, tile), x, y, colour)


def retiled(mosaic: xr.Dataset, tile: int) -> xr.Dataset:
    """The same pixels in tiles of another size."""
    lead = str(mosaic["image"].dims[0])
    grid = Grid.from_attrs(mosaic.attrs).retile(tile)
    chunked = mosaic.chunk({lead: 1, "y": tile, "x": tile})
    return chunked.assign_attrs(grid.to_attrs())


@pytest.fixture(scope="session")
def sky() -> Callable[..., Sky]:
    return make_sky


@pytest.fixture(scope="session")
def retile() -> Callable[[xr.Dataset, int], xr.Dataset]:
    return retiled


@pytest.fixture(scope="session")
def truth() -> dict[str, Any]:
    return {"gain": GAIN, "level": LEVEL}
