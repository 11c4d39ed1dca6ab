"""Mosaics whose outline, depth, sky and nebula are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

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


@dataclass(frozen=True)
class Scene:
    """Light over a nebula over a sky, and their sum with stars and noise."""

    image: Floats
    slope: Floats
    nebula: Floats


SKY = 500.0


@lru_cache(maxsize=32)
def make_scene(
    *,
    where: str = "centre",
    seed: int = 2,
    size: int = 512,
    amplitude: float = 60.0,
    nebula: float = 60.0,
    share: float = 0.4,
    noise: float = 4.0,
    degree: int = 2,
) -> Scene:
    """A slope of degree 1 or 2 over a field a share of which is covered by a textured nebula, and 150 stars."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / (size - 1) * 2 - 1
    c = rng.normal(size=5) * np.array([1, 1, *([1, 1, 1] if degree == 2 else [0, 0, 0])])
    slope = c[0] * x + c[1] * y + c[2] * x * x + c[3] * x * y + c[4] * y * y
    slope *= amplitude / np.ptp(slope)
    k = np.fft.fftfreq(size)[:, None] ** 2 + np.fft.rfftfreq(size)[None, :] ** 2
    waves = (rng.normal(size=k.shape) + 1j * rng.normal(size=k.shape)) * np.where(k > 0, k, np.inf) ** -0.9
    texture = np.fft.irfft2(waves, (size, size))
    texture = (texture - texture.min()) / np.ptp(texture)
    away = {
        "centre": np.hypot(x, y),
        "side": x + 1 + 0.15 * np.sin(4 * y),
        "corner": np.hypot(x + 1, y + 1),
        "everywhere": 1e-3 * np.hypot(x, y),
    }[where]
    edge = np.quantile(away, share) if where != "everywhere" else 1.0
    mask = np.clip((edge - away) / (0.35 * edge), 0, 1)
    cloud = nebula * mask**2 * (3 - 2 * mask) * (0.3 + texture)
    image = SKY + slope + cloud + rng.normal(0, noise, (size, size))
    for _ in range(150):
        xs, ys, flux = rng.uniform(10, size - 10), rng.uniform(10, size - 10), 10 ** rng.uniform(2.5, 5)
        window = slice(int(ys) - 9, int(ys) + 10), slice(int(xs) - 9, int(xs) + 10)
        rows, columns = np.mgrid[window]
        image[window] += flux * np.exp(-0.5 * ((columns - xs) ** 2 + (rows - ys) ** 2) / 2.25) / (4.5 * np.pi)
    return Scene(image, slope, cloud)


@pytest.fixture(scope="session")
def scene() -> Callable[..., Scene]:
    return make_scene
