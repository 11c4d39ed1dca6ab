"""Stars of a finished mosaic in all bands through one aperture: what their colours are measured from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.colour.adjustment import band_names, check_same_bands, require_linear
from skyloom.ops.colour.survey import LARGE_CELL
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid
from skyloom.ops.measurement.apertures import aperture_sums
from skyloom.ops.registry import Cost, Param, register, suggest
from skyloom.ops.tiles import Dependencies, Output, Planes, by_tiles, grid_of

Floats = NDArray[np.float64]

CELL = LARGE_CELL
"""The brightest star of each cell of so many pixels a side is measured: the same for any tiles."""
NEIGHBOUR = 3
"""A star is the brightest pixel within so many pixels."""
RATE = 50.0


def _halo(radius: float) -> int:
    return math.ceil(_ring(radius)[1]) + NEIGHBOUR + 2


def _ring(radius: float) -> tuple[float, float]:
    return radius + 2.0, radius + 6.0


@njit(nogil=True, cache=True, fastmath=False)
def brightest(image: NDArray[np.float32], halo: int, cell: int, x: Floats, y: Floats) -> None:
    """Find the highest local maximum of each cell, and its centroid.

    Parameters
    ----------
    image
        Shape (rows + 2·halo, columns + 2·halo), NaN = no data.
    halo
        Pixels around the cells.
    cell
        Side of a cell (pixels).
    x, y
        Shape (cells_y, cells_x), written: position in `image` (pixels), NaN where a cell has no maximum.
    """
    height, width = image.shape
    for cy in range(x.shape[0]):
        for cx in range(x.shape[1]):
            best, by, bx = -np.inf, -1, -1
            for row in range(halo + cy * cell, min(halo + (cy + 1) * cell, height - halo)):
                for column in range(halo + cx * cell, min(halo + (cx + 1) * cell, width - halo)):
                    value = image[row, column]
                    if not value > best:
                        continue
                    highest = True
                    for dy in range(-NEIGHBOUR, NEIGHBOUR + 1):
                        for dx in range(-NEIGHBOUR, NEIGHBOUR + 1):
                            other = image[row + dy, column + dx]
                            if other > value or not np.isfinite(other):
                                highest = False
                                break
                        if not highest:
                            break
                    if highest:
                        best, by, bx = value, row, column
            x[cy, cx] = np.nan
            y[cy, cx] = np.nan
            if by < 0:
                continue
            low = np.inf
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    low = min(low, image[by + dy, bx + dx])
            total, sum_x, sum_y = 0.0, 0.0, 0.0
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    share = image[by + dy, bx + dx] - low
                    total += share
                    sum_x += share * dx
                    sum_y += share * dy
            if total > 0.0:
                x[cy, cx] = bx + sum_x / total
                y[cy, cx] = by + sum_y / total


@dataclass(frozen=True)
class _Measure:
    """Task of a tile."""

    planes: Planes
    radius: float

    def __call__(self, tile: tuple[slice, slice], noise: Floats) -> dict[str, NDArray[Any]]:
        rows, columns = tile
        halo = _halo(self.radius)
        images = self.planes.read(rows, columns, halo=halo)
        bands = len(images)
        shape = (-(-(rows.stop - rows.start) // CELL), -(-(columns.stop - columns.start) // CELL))
        weights = (1.0 / np.asarray(noise, dtype=np.float64)).tolist()
        together = np.zeros(images.shape[1:], np.float32)
        for image, weight in zip(images, weights, strict=True):
            together += image * np.float32(weight)
        x, y = np.empty((2, *shape))
        brightest(together, halo, CELL, x, y)
        found = np.flatnonzero(np.isfinite(x.ravel()))
        flux, error, peak = np.full((3, bands, x.size), np.nan, np.float32)
        inside = np.zeros((2, found.size))
        place = np.ascontiguousarray(x.ravel()[found]), np.ascontiguousarray(y.ravel()[found])
        inner, outer = _ring(self.radius)
        for band, image in enumerate(images):
            sums, core = np.empty((2, found.size, 6))
            aperture_sums(image, *place, self.radius, inner, outer, sums)
            aperture_sums(image, *place, 0.5 * self.radius, inner, outer, core)
            whole = sums[:, 4] == 0
            flux[band, found] = np.where(whole, sums[:, 0], np.nan)
            area, rms, count = sums[:, 1], sums[:, 2], sums[:, 3]
            error[band, found] = np.sqrt(area * rms**2 + (area * rms) ** 2 / np.maximum(count, 1))
            peak[band, found] = sums[:, 5]
            inside += weights[band] * np.stack([core[:, 0], sums[:, 0]])
        compact = np.full(x.size, np.nan, np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            compact[found] = inside[0] / inside[1]
        return {
            "x": x + (columns.start - halo),
            "y": y + (rows.start - halo),
            "flux": flux.reshape(bands, *shape),
            "error": error.reshape(bands, *shape),
            "peak": peak.reshape(bands, *shape),
            "concentration": compact.reshape(shape),
        }


def _cost(image: xr.Dataset, neutral: xr.Dataset, *, bands: list[str], radius: float) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    count = len(_chosen(bands, band_names(image)))
    halo = 2 * _halo(radius)
    rows, columns = (np.asarray(c, dtype=np.float64) + halo for c in grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    return Cost(work=count * pixels / 1e6, read=4 * count * pixels, memory=4 * (count + 3) * pixels, rate=RATE)


def _chosen(wanted: list[str], bands: list[str]) -> list[int]:
    """Places of the bands to measure: those named, else all but luminance."""
    for name in wanted:
        if name not in bands:
            raise ConfigError(f"bands: {name!r}: there is no such band{suggest(name, bands)}")
    return [i for i, b in enumerate(bands) if (b in wanted if wanted else b != "L")]


@register(version=1, unit=("y", "x"), cost=_cost)
def star_colours(
    image: xr.Dataset,
    neutral: xr.Dataset,
    *,
    bands: list[str] = [],  # noqa: B006  (never changed; a list is what YAML has)
    radius: Annotated[float, Param(unit="px", low=1.5, high=50)] = 6.0,
) -> xr.Dataset:
    """Measure the brightest star of every 32 × 32 pixels of a mosaic in all bands through the same aperture.

    Parameters
    ----------
    image
        A linear mosaic.
    neutral
        The table of `neutralize`, for the noise of each band: how much it counts where a star is looked for.
    bands
        Names of the bands; empty: all but L. Change it where only some bands make the colours.
    radius
        Of the aperture; 1.5 FWHM of the worst band or more, so that all bands lose as little. Change it to some
        1.5 FWHM of the worst band where stars are wide, less in crowded fields.

    Returns
    -------
    xarray.Dataset
        Over (y, x), counting cells, lazy, a block a tile: `x`, `y` (canvas pixels, NaN = no star),
        `concentration` (flux within half the radius / flux), and over (band, y, x) `flux`, `error`, `peak` in the
        mosaic's units. The sky under a star is the clipped mean of a ring of 2 to 6 pixels around the aperture.
        Reads radius + 11 pixels beyond each tile.

    Raises
    ------
    ConfigError
        If there is no such band.
    DataError
        If the data are not linear, or the table is of other bands or has no noise.
    """
    require_linear(image, "measuring star colours")
    names = band_names(image)
    take = _chosen(bands, names)
    grid = grid_of(image, multiple=CELL)
    dependencies = Dependencies()
    if "noise" not in neutral or neutral["noise"].dims != ("band",):
        raise DataError("the table has no noise of the bands: measure star colours after neutralize")
    check_same_bands(image, neutral)
    noise = dependencies.argument(neutral["noise"].isel(band=take))
    over = {"band": len(take)}
    arrays = by_tiles(
        "star_colours",
        grid,
        _Measure(Planes.of(image, "image", take=take), radius),
        {
            **{n: Output(np.float64, {}, {}, CELL) for n in ("x", "y")},
            "concentration": Output(np.float32, {}, {}, CELL),
            **{n: Output(np.float32, over, {}, CELL) for n in ("flux", "error", "peak")},
        },
        arguments=[noise],
        dependencies=dependencies,
    )
    kept = {k: v for k, v in image.attrs.items() if k != "provenance"}
    return xr.Dataset(arrays, coords={"band": image["band"].values[take]}, attrs={**kept, "cell": CELL})
