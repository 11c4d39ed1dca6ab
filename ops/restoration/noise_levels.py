"""How much noise a mosaic has, against its variance map: what `denoise` cannot know from a tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.colour.adjustment import require_linear
from skyloom.ops.colour.survey import lead_of
from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.restoration.colour_planes import ColourPlanes
from skyloom.ops.restoration.starlet import B3, divide, prepare
from skyloom.ops.restoration.starlet_noise import starlet_covariance
from skyloom.ops.robust import median_mad
from skyloom.ops.symmetric import convolve
from skyloom.ops.tiles import Output, Planes, by_tiles, grid_of

Floats = NDArray[np.float64]

CELL = 256
"""Side of a cell (pixels)."""
REGION = 4 * CELL
"""Side of the regions measured at a time, whatever the tiles."""
FULL = 0.5
"""Fraction of a cell with data from which it counts."""
FEW = 1024
"""Pixels it needs in any case."""
RATE = 6.0
"""Mpixel of a plane a second."""
_BYTES = 55.0
_BYTES_OF_BAND = 20.0
"""Bytes of a pixel, halo included, while a plane is measured, and beside that for each."""


@njit(nogil=True, cache=True, fastmath=False)
def level_cells(
    image: Floats,
    variance: Floats,
    covariance: Floats,
    halo: int,
    cell: int,
    ratio: NDArray[np.float32],
    sigma: NDArray[np.float32],
) -> None:
    """Scatter of the starlets of each cell over what the variance makes of it, and the cell's noise.

    Parameters
    ----------
    image, variance
        Shape (rows + 2 halo, columns + 2 halo), NaN = no data.
    covariance
        As for `starlet.shrink`.
    halo, cell
        Pixels.
    ratio
        Shape (cells_y, cells_x, scales), written: σ from the median absolute deviation of coefficient / noise; NaN
        where too little of the cell has data.
    sigma
        Shape (cells_y, cells_x), written: square root of the median variance.
    """
    height, width = image.shape
    there = np.isfinite(image)
    whole = there.all()
    level, smooth, noise = np.empty((height, width)), np.empty((height, width)), np.empty((height, width))
    share, one = np.ones((height, width)), np.empty((height, width))
    prepare(image, variance, there, one, level, noise)
    buffer = np.empty(cell * cell, np.float32)
    for cy in range(sigma.shape[0]):
        for cx in range(sigma.shape[1]):
            bottom, left = halo + cy * cell, halo + cx * cell
            top, right = min(bottom + cell, height - halo), min(left + cell, width - halo)
            count = 0
            for y in range(bottom, top):
                for x in range(left, right):
                    if noise[y, x] > 0.0:
                        buffer[count] = noise[y, x]
                        count += 1
            enough = count >= max(FULL * (top - bottom) * (right - left), FEW)
            sigma[cy, cx] = np.sqrt(median_mad(buffer, count)[0]) if enough else np.nan
    for scale in range(ratio.shape[2]):
        step = 2**scale
        convolve(level, B3, step, 0, smooth)
        if not whole:
            convolve(one, B3, step, 0, share)
            divide(smooth, share, there)
        for cy in range(sigma.shape[0]):
            for cx in range(sigma.shape[1]):
                count = 0
                bottom, left = halo + cy * cell, halo + cx * cell
                for y in range(bottom, min(bottom + cell, height - halo)):
                    for x in range(left, min(left + cell, width - halo)):
                        if noise[y, x] > 0.0 and np.isfinite(sigma[cy, cx]):
                            expected = np.sqrt(noise[y, x] * covariance[scale, scale])
                            buffer[count] = (level[y, x] - smooth[y, x]) / expected
                            count += 1
                ratio[cy, cx, scale] = median_mad(buffer, count)[1] if count > 0 else np.nan
        level, smooth = smooth, level
        convolve(noise, B3, step, 0, smooth)
        if not whole:
            divide(smooth, share, there)
        noise, smooth = smooth, noise


@dataclass(frozen=True)
class _Levels:
    """Task of a tile."""

    image: Planes
    variance: Planes
    planes: ColourPlanes
    scales: int
    noise_factor: float

    def __call__(self, tile: tuple[slice, slice]) -> dict[str, NDArray[Any]]:
        halo = 2 * (2**self.scales - 1)
        shape = tuple(-(-(s.stop - s.start) // CELL) for s in tile)
        count = len(self.planes.names)
        ratio = np.empty((count, *shape, self.scales), np.float32)
        sigma = np.empty((count, *shape), np.float32)
        covariance = starlet_covariance(self.scales, self.noise_factor)
        pixels, variance = (p.read(*tile, halo=halo) for p in (self.image, self.variance))
        for plane in range(count):
            image, noise = self.planes.apart(pixels, plane), self.planes.variances(variance, plane)
            level_cells(image, noise, covariance, halo, CELL, ratio[plane], sigma[plane])
        return {"ratio": ratio, "sigma": sigma}


def check_noisy(image: xr.Dataset, what: str) -> tuple[str, ColourPlanes]:
    """Dimension of bands or channels of a linear image with a variance map, and its planes.

    Raises
    ------
    DataError
        If it is stretched or has no variance.
    """
    require_linear(image, what)
    lead = lead_of(image)
    if "variance" not in image:
        raise DataError(f"{what} needs the variance map of the image, there is none; take the node it was lost in")
    return lead, ColourPlanes.of(lead, tuple(str(n) for n in image[lead].values))


def _cost(image: xr.Dataset, **parameters: Any) -> Cost:
    grid = Grid.from_attrs(image.attrs).retile(REGION)
    lead = image.sizes[lead_of(image)]
    halo = 4 * (2 ** int(parameters["scales"]) - 1)
    rows, columns = (np.asarray(c, dtype=np.float64) for c in grid.chunks)
    pixels = (rows[:, None] + halo) * (columns[None, :] + halo)
    memory = pixels * (_BYTES + _BYTES_OF_BAND * lead)
    return Cost(work=lead * pixels / 1e6, read=8.0 * lead * pixels, memory=memory, rate=RATE)


@register(version=2, unit=("y", "x"), cost=_cost)
def noise_levels(
    image: xr.Dataset, *, scales: Annotated[int, Param(unit="scales", low=1, high=7)] = 5
) -> xr.Dataset:
    """Measure how noisy a mosaic is at each scale, against its variance map, cell by cell.

    Parameters
    ----------
    image
        A linear mosaic over (band, y, x), or channels, with its variance.
    scales
        Structures of 2, 4, … 2^scales pixels. Change it with denoise.scales, which cannot be more.

    Returns
    -------
    xarray.Dataset
        Over (plane, y, x), y and x counting cells of 256 pixels, lazy, a task for 4 × 4 of them: `ratio`
        (…, scale), the scatter of the starlets (median absolute deviation) over that of the variance map after
        resampling; `sigma`, noise of the pixels by that map. Planes are the bands, or brightness and the
        differences of red and blue from it. NaN where less than half of a cell has data. Reads 2^(scales + 1) - 2
        pixels beyond each.

    Raises
    ------
    DataError
        If the image is stretched or has no variance.
    """
    lead, planes = check_noisy(image, "measuring noise")
    grid = grid_of(image).retile(REGION)
    factor = float(image.attrs.get("kernel_noise_factor", 1.0))
    work = _Levels(Planes.of(image, "image"), Planes.of(image, "variance"), planes, scales, factor)
    sizes = {"plane": image.sizes[lead]}
    arrays = by_tiles(
        "noise_levels",
        grid,
        work,
        {
            "ratio": Output(np.float32, sizes, {"scale": scales}, CELL),
            "sigma": Output(np.float32, sizes, {}, CELL),
        },
    )
    kept = {k: v for k, v in image.attrs.items() if k != "provenance"}
    return xr.Dataset(arrays, coords={"plane": list(planes.planes)}, attrs={**kept, "cell": CELL})
