"""LRGB as it is done on stretched pictures: the luminance takes the place of the lightness in CIE L*a*b*."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.gaussian import TRUNCATE, smooth
from skyloom.ops.display.lab import lab_to_rgb, lightness, rgb_to_lab
from skyloom.ops.display.stretch import ABOVE, BELOW, STORED
from skyloom.ops.display.transfer import midtones_transfer
from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.tiles import Output, Planes, by_tiles, grid_of

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Lightness:
    """Task of a tile."""

    image: Planes
    luminance: Planes
    midtones: float
    saturation: float
    smoothing: float

    def __call__(self, tile: tuple[slice, slice]) -> dict[str, NDArray[Any]]:
        halo = _halo(self.smoothing)
        rgb = self.image.read(*tile, halo=halo).astype(np.float64)
        light = self.luminance.read(*tile, halo=halo)[0].astype(np.float64)
        there = np.isfinite(rgb).all(axis=0) & np.isfinite(light)
        lab = rgb_to_lab(np.where(there, rgb, np.nan))
        if self.smoothing > 0:
            lab[1:] = smooth(lab[1:], self.smoothing)
        light = np.where(there, light, np.nan)
        lab[0] = 100.0 * midtones_transfer(np.clip(lightness(light) / 100.0, 0.0, 1.0), self.midtones)
        if self.saturation != 0.5:
            lab[1:] *= _boost(np.hypot(lab[1], lab[2]), lab[0], self.saturation)
        inner = tuple(slice(halo, halo + s.stop - s.start) for s in tile)
        out = lab_to_rgb(lab)[(slice(None), *inner)]
        clipped = (out < 0.0).any(axis=0) * np.uint8(BELOW) | (out > 1.0).any(axis=0) * np.uint8(ABOVE)
        return {"image": np.clip(out, 0.0, 1.0).astype(np.float32), "clipped": np.asarray(clipped, np.uint8)}


def _boost(chroma: Floats, light: Floats, saturation: float) -> Floats:
    """Factor of a* and b*: c' = MTF(m; c) L + c (1 - L), less where it is dark (PixInsight's LRGBCombination)."""
    c, brightness = np.clip(chroma / 100.0, 0.0, 1.0), light / 100.0
    raised = midtones_transfer(c, saturation) * brightness + c * (1.0 - brightness)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(c > 0, raised / c, 1.0)


def _halo(smoothing: float) -> int:
    return math.ceil(TRUNCATE * smoothing) + 1 if smoothing > 0 else 0


def _cost(image: xr.Dataset, luminance: xr.Dataset, *, colour_smoothing: float, **parameters: Any) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    halo = 2 * _halo(colour_smoothing)
    rows, columns = (np.asarray(c, dtype=np.float64) for c in grid.chunks)
    pixels = (rows[:, None] + halo) * (columns[None, :] + halo)
    return Cost(work=pixels / 1e6, read=16 * pixels, memory=8 * 30 * pixels, rate=2.0, stored=STORED)


@register(version=1, unit=("y", "x"), cost=_cost, name="lightness")
def replace_lightness(
    image: xr.Dataset,
    luminance: xr.Dataset,
    *,
    midtones: Annotated[float, Param(low=0.01, high=0.99)] = 0.5,
    saturation: Annotated[float, Param(low=0.01, high=0.99)] = 0.5,
    colour_smoothing: Annotated[float, Param(unit="px", low=0, high=20)] = 2.0,
) -> xr.Dataset:
    """Give a stretched colour picture the lightness of a stretched luminance, in CIE L*a*b* (LRGBCombination).

    Parameters
    ----------
    image
        Stretched picture over channel R, G, B.
    luminance
        Stretched luminance of the same canvas: one channel or band, stretched with the tones of the colours.
    midtones
        Balance of the lightness: below 0.5 brighter. Change it to less where the luminance looks dull, to more
        where it overwhelms the colours.
    saturation
        Balance of the chroma: below 0.5 more colour where it is light. Change it to less where the luminance
        washes the colours out.
    colour_smoothing
        σ of the Gaussian over a* and b*: takes the noise of the colours away. Change it to more where colours are
        noisy.

    Returns
    -------
    xarray.Dataset
        `image` (0…1) and `clipped` as of `stretch`, lazy, a block a tile. Reads 4 · colour_smoothing + 1 pixels
        beyond each tile.

    Raises
    ------
    DataError
        If a picture is linear, the canvases differ, or there are not three channels and one luminance.
    """
    for what, data in (("picture", image), ("luminance", luminance)):
        if data.attrs.get("linear", True):
            raise DataError(f"the {what} is linear: stretch it first, or combine linear bands with channels")
    grid, other = Grid.from_attrs(image.attrs), Grid.from_attrs(luminance.attrs)
    if grid.shape != other.shape or grid.header != other.header:
        raise DataError(
            f"picture and luminance lie on different canvases ({grid.shape[1]} × {grid.shape[0]} and "
            f"{other.shape[1]} × {other.shape[0]} pixels); integrate all bands with the same registration"
        )
    lead = str(luminance["image"].dims[0])
    if image.sizes.get("channel") != 3 or luminance.sizes[lead] != 1:
        raise DataError("lightness needs a picture of three channels and a luminance of one")
    arrays = by_tiles(
        "lightness",
        grid_of(image),
        _Lightness(
            Planes.of(image, "image"), Planes.of(luminance, "image"), midtones, saturation, colour_smoothing
        ),
        {"image": Output.image(np.float32, {"channel": 3}), "clipped": Output.image(np.uint8)},
    )
    attrs = {k: v for k, v in image.attrs.items() if k != "provenance"}
    return xr.Dataset(arrays, coords={"channel": image["channel"].values}, attrs=attrs)
