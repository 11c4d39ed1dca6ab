"""Small mosaics whose stars and PSF are known from place to place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.grid import Grid, wcs_header

Floats = NDArray[np.float64]


def profile(dx: Floats, dy: Floats, fwhm: float, ellipticity: float, theta: float, beta: float = 3.0) -> Floats:
    """Moffat profile of sum 1, written with the axes of its ellipse."""
    root = math.sqrt(1.0 - ellipticity)
    along = math.cos(theta) * dx + math.sin(theta) * dy
    across = -math.sin(theta) * dx + math.cos(theta) * dy
    k = 2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0)
    major, minor = fwhm / root / k, fwhm * root / k
    shape = (1.0 + (along / major) ** 2 + (across / minor) ** 2) ** -beta
    return np.asarray((beta - 1.0) / (math.pi * major * minor) * shape)


@dataclass(frozen=True)
class Field:
    """A mosaic and what is in it."""

    mosaic: xr.Dataset
    x: Floats
    y: Floats
    flux: Floats
    fwhm: Floats
    """At each star."""
    noise: float
    level: float


def make_field(
    *,
    shape: tuple[int, int] = (420, 460),
    lattice: int = 46,
    noise: float = 4.0,
    level: float = 200.0,
    fwhm: tuple[float, float] = (3.6, 4.4),
    seed: int = 3,
    flux: tuple[float, float] = (4.3, 5.3),
    bands: tuple[str, ...] = ("L",),
    tile: int = 512,
) -> Field:
    """Stars on a jittered lattice; the FWHM grows along x, the ellipticity from 0 to 0.12."""
    rng = np.random.default_rng(seed)
    height, width = shape
    rows, columns = np.mgrid[:height, :width].astype(float)
    yy, xx = np.mgrid[lattice // 2 : height : lattice, lattice // 2 : width : lattice].reshape(2, -1).astype(float)
    x, y = xx + rng.uniform(-5, 5, xx.size), yy + rng.uniform(-5, 5, yy.size)
    total = 10 ** rng.uniform(*flux, x.size)
    width_here = fwhm[0] + (fwhm[1] - fwhm[0]) * x / width
    image = np.full(shape, level)
    for xs, ys, f, w in zip(x, y, total, width_here, strict=True):
        x0, y0 = int(xs), int(ys)
        window = slice(max(y0 - 50, 0), y0 + 51), slice(max(x0 - 50, 0), x0 + 51)
        image[window] += f * profile(columns[window] - xs, rows[window] - ys, w, 0.12 * xs / width, 0.5)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [270.0, -24.0]
    wcs.wcs.crpix = [width / 2, height / 2]
    wcs.wcs.cd = np.diag([-2.0, 2.0]) / 3600
    wcs.wcs.set()
    grid = Grid(wcs_header(wcs), shape, tile)
    noisy = np.stack([image + rng.normal(0.0, noise, shape) for _ in bands]).astype(np.float32)
    mosaic = xr.Dataset(
        {
            "image": (("band", "y", "x"), noisy),
            "variance": (("band", "y", "x"), np.full(noisy.shape, noise**2, np.float32)),
        },
        {"band": list(bands)},
        {**grid.to_attrs(), "units": "adu"},
    )
    return Field(retiled(mosaic, tile), x, y, total, width_here, noise, level)


def retiled(mosaic: xr.Dataset, tile: int) -> xr.Dataset:
    """The same pixels in tiles of another size."""
    grid = Grid.from_attrs(mosaic.attrs).retile(tile)
    return mosaic.chunk({"band": 1, "y": tile, "x": tile}).assign_attrs(grid.to_attrs())


@pytest.fixture(scope="session")
def field() -> Field:
    return make_field()


@pytest.fixture(scope="session")
def make() -> Callable[..., Field]:
    return make_field


@pytest.fixture(scope="session")
def retile() -> Callable[[xr.Dataset, int], xr.Dataset]:
    return retiled


@pytest.fixture(scope="session")
def moffat() -> Callable[..., Floats]:
    return profile
