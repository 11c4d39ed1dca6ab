"""Bands become the channels of a picture: balanced, mixed, the luminance over the colours, still linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.adjustment import (
    Lines,
    Table,
    band_names,
    check_same_bands,
    lines_of,
    require_linear,
)
from skyloom.ops.colour.chroma import Chroma, Green, recolour
from skyloom.ops.colour.palettes import COLOURS, PaletteName, Recipe
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.tiles import Dependencies, Output, Planes, by_tiles, grid_of

Floats = NDArray[np.float64]

RATE = 3.5
"""Mpixel of the canvas a second, colours smoothed."""
STORED = 0.95
"""Bytes on the disk over bytes of the arrays, at most: what scatters about zero hardly compresses."""
PLANES = 40
"""float64 planes of a strip a task holds while colours are smoothed."""
STRIP = 256
"""Rows of a tile computed at a time."""


@dataclass(frozen=True)
class _Combine:
    """Task of a tile."""

    image: Planes
    variance: Planes | None
    """Of the bands that take part, in the order of `recipe.used`."""
    recipe: Recipe
    chroma: Chroma

    def __call__(self, tile: tuple[slice, slice], *table: Any) -> dict[str, NDArray[Any]]:
        lines = lines_of(*table)
        rows, columns = tile
        shape = len(self.recipe.channels), rows.stop - rows.start, columns.stop - columns.start
        names = ("image",) if self.variance is None else ("image", "variance")
        out = {n: np.empty(shape, np.float32) for n in names}
        for start in range(rows.start, rows.stop, STRIP):
            stop = min(start + STRIP, rows.stop)
            for name, part in self._strip((slice(start, stop), columns), lines).items():
                out[name][:, start - rows.start : stop - rows.start] = part
        return out

    def _strip(self, tile: tuple[slice, slice], lines: Lines) -> dict[str, NDArray[Any]]:
        halo = self.chroma.halo
        shape = tuple(s.stop - s.start for s in tile)
        count = len(self.recipe.channels)
        pixels = self.image.read(*tile, halo=halo)
        names = [self.recipe.bands[i] for i in self.recipe.used]
        if np.isnan(pixels[:, halo : halo + shape[0], halo : halo + shape[1]]).all():
            empty = np.full((count, *shape), np.nan, np.float32)
            return {"image": empty} | ({"variance": empty} if self.variance is not None else {})
        scale, offset = (v[list(self.recipe.used), None, None] for v in (lines.scale, lines.offset))
        values = dict(zip(names, pixels * scale + offset, strict=True))
        variance = None
        if self.variance is not None:
            variance = dict(zip(names, self.variance.read(*tile, halo=halo) * scale**2, strict=True))
        mixed = self.recipe.mix(values, variance)
        image, spread = self._picture(mixed, lines.background if np.isfinite(lines.background) else 0.0)
        out = {"image": image.astype(np.float32)}
        if self.variance is not None:
            assert spread is not None
            out["variance"] = spread.astype(np.float32)
        return out

    def _picture(
        self, mixed: dict[str, tuple[Floats, Floats | None]], background: float
    ) -> tuple[Floats, Floats | None]:
        halo = self.chroma.halo
        rows, columns = (
            slice(halo, n - halo) for n in mixed["luminance" if "red" not in mixed else "red"][0].shape
        )
        if "red" not in mixed:
            light, light_variance = mixed["luminance"]
            return (
                light[None, rows, columns],
                None if light_variance is None else light_variance[None, rows, columns],
            )
        rgb = np.stack([mixed[c][0] for c in COLOURS])
        spreads = [mixed[c][1] for c in COLOURS]
        variance = None if spreads[0] is None else np.stack([s for s in spreads if s is not None])
        if "luminance" in mixed:
            light, light_variance = mixed["luminance"]
        elif self.chroma.smoothing == 0 and self.chroma.green == "none":
            # Where a band is missing there is no colour, only a false one.
            gap = ~np.isfinite(rgb).all(axis=0)
            rgb[:, gap] = np.nan
            if variance is not None:
                variance[:, gap] = np.nan
                variance = variance[:, rows, columns]
            return rgb[:, rows, columns], variance
        else:
            light = rgb.mean(axis=0)
            light_variance = None if variance is None else variance.sum(axis=0) / 9.0
        image, spread = recolour(
            rgb - background, variance, light - background, light_variance, self.chroma, margin=halo
        )
        return image + background, spread


def _cost(image: xr.Dataset, adjustment: xr.Dataset | None = None, **parameters: Any) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    halo = 2 * Chroma(parameters["colour_smoothing"], 0.0).halo
    rows, columns = (np.asarray(c, dtype=np.float64) for c in grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    strip = (np.minimum(rows[:, None], STRIP) + halo) * (columns[None, :] + halo)
    memory = 8 * PLANES * strip + 24 * pixels
    read = 8 * len(band_names(image)) * pixels
    return Cost(work=pixels / 1e6, read=read, memory=memory, rate=RATE, stored=STORED)


@register(version=2, unit=("y", "x"), cost=_cost)
def channels(
    image: xr.Dataset,
    adjustment: xr.Dataset | None = None,
    *,
    palette: PaletteName = "auto",
    red: str = "",
    green: str = "",
    blue: str = "",
    luminance: str = "",
    colour_smoothing: Annotated[float, Param(unit="px", low=0, high=20)] = 1.5,
    knee: Annotated[float, Param(unit="sigma", low=0, high=1000)] = 3.0,
    colour_significance: Annotated[float, Param(unit="sigma", low=0, high=100)] = 1.0,
    less_green: Green = "none",
    green_amount: Annotated[float, Param(low=0, high=1)] = 1.0,
) -> xr.Dataset:
    """Combine bands to the red, green and blue of a picture, by a palette or as you write it; still linear.

    Parameters
    ----------
    image
        A linear mosaic with the bands.
    adjustment
        Scale and offset of each band (`linear_fit`, `neutralize`, `white_balance`, `fit_luminance`).
    palette
        LRGB, RGB, SHO (SII, Ha, OIII), HOO (Ha, OIII, OIII), HaRGB and HaLRGB (red 0.4 R + 0.6 Ha), L (one
        channel), custom (all as you write it); auto: what the bands there are allow. Change it where the bands
        allow more than one, as HaRGB in place of RGB.
    red
        Mixture for red in place of the palette's: bands, numbers, + - * / **, min, max, where, sqrt, as in
        0.7 * Ha + 0.3 * SII. Change it for a mixture of your own, with the palette custom or in place of one of
        its colours.
    green
        Mixture for green. Change it as `red`.
    blue
        Mixture for blue. Change it as `red`.
    luminance
        Mixture for the luminance, on the scale of the mean of the three colours. Change it to make a luminance of
        bands that were not taken through an L filter, as L + R + G + B.
    colour_smoothing
        σ of the smoothing of colour, not of brightness; four times as much where there is hardly signal. 0: none.
        Change it to more where the colour of faint parts is noisy, to 0 where fine coloured structure matters
        more.
    knee
        Below so many σ of the smoothed brightness colour is added, above it multiplies the luminance. Change it to
        more where dark parts show coloured grain.
    colour_significance
        Colours of the smoothed picture that differ from grey by less fade into it: no blotches on the sky. 0:
        none. Change it to more where the sky is blotchy, to 0 for measurements on the colours.
    less_green
        Hold green down to the average of red and blue, or to the larger of them (SCNR); brightness stays. Change
        it to average where the sky or nebulae keep a green cast after the white balance, as pictures of colour
        sensors and the Hubble palette do.
    green_amount
        How much of that. Change it to less where green light that is real (comets, OIII in some palettes) fades
        too much.

    Returns
    -------
    xarray.Dataset
        `image` and, where the mosaic has one, `variance` over (channel, y, x), channel R, G, B (or L), lazy, a
        block a tile; NaN where any band that takes part has no data. Attributes: those of the mosaic, `linear`,
        `palette`. Reads 16 · colour_smoothing + 2 pixels beyond each tile.

    Raises
    ------
    ConfigError
        If a mixture means nothing.
    DataError
        If a band is missing or the data are not linear.

    Notes
    -----
    See `chroma.recolour` for how luminance and colour meet. Variance is that of a pixel, to first order; smoothed
    colours make neighbours correlated.
    """
    require_linear(image, "combining bands")
    check_same_bands(image, adjustment)
    bands = band_names(image)
    written = {"red": red, "green": green, "blue": blue, "luminance": luminance}
    recipe = Recipe.of(palette, written, bands)
    smoothing = colour_smoothing if recipe.channels != ("L",) else 0.0
    chroma = Chroma(smoothing, knee, less_green, green_amount, colour_significance if smoothing > 0 else 0.0)
    dependencies = Dependencies()
    table = Table(dependencies, adjustment, len(bands))
    names = [n for n in ("image", "variance") if n in image]
    planes = {n: Planes.of(image, n, take=recipe.used) for n in names}
    arrays = by_tiles(
        "channels",
        grid_of(image),
        _Combine(planes["image"], planes.get("variance"), recipe, chroma),
        {n: Output.image(np.float32, {"channel": len(recipe.channels)}) for n in names},
        arguments=table.arguments,
        dependencies=dependencies,
    )
    attrs = {k: v for k, v in image.attrs.items() if k != "provenance"}
    mixtures = ", ".join(f"{part} = {text}" for part, text in recipe.parts)
    return xr.Dataset(
        arrays,
        coords={"channel": np.asarray(recipe.channels, dtype=str)},
        attrs={**attrs, "linear": True, "palette": mixtures},
    )
