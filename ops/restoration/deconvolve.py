"""Deconvolution of a mosaic: stars and structure as sharp as the data allow, the sky as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.arrays import array_spec
from skyloom.ops.colour.adjustment import require_linear
from skyloom.ops.colour.survey import lead_of
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.frames import open_source
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, Param, register, suggest
from skyloom.ops.restoration.aims import aims
from skyloom.ops.restoration.block import Nodes, Settings, deconvolve_block
from skyloom.ops.restoration.richardson_lucy import narrower
from skyloom.ops.tiles import Dependencies, Output, Planes, Tile, by_tiles, grid_of

Floats = NDArray[np.float64]

BLOCK = 512
"""Side of the blocks the canvas is deconvolved in, whatever its tiles: pixels are the same in any tiling."""
HALO = 3
"""Radii of the PSF read around a block."""
RATE = 18.0
"""Mpixel·iterations a second."""
STORED = 0.8
"""Bytes on the disk over bytes of the arrays, at most: images 0.7 to 0.9, variances less."""
_BYTES = 230.0
"""Bytes a pixel of a block with its halo."""


@dataclass(frozen=True)
class _Deconvolve:
    """Task of a tile."""

    image: Planes
    variance: Planes
    stamps: tuple[str, ...]
    """Sources of the pictures of all PSFs, one a band."""
    chosen: tuple[int, ...]
    """Places of the bands to deconvolve."""
    region: int
    radius: int
    target: float
    settings: Settings

    def __call__(self, tile: Tile, fwhm: Any, saturated: Any, layers: Any) -> dict[str, NDArray[Any]]:
        fwhm, saturated = np.asarray(fwhm, np.float64), np.asarray(saturated, np.float64)
        wanted, worth = aims(fwhm, self.chosen, self.target)
        image, variance = self.image.read(*tile), self.variance.read(*tile)
        for band in worth:
            kernels: dict[tuple[int, int], Floats] = {}
            for rows, columns in blocks(*tile):
                inside, part = _common((rows, columns), tile)
                if np.isfinite(image[band][inside]).any():
                    found = self._block(
                        band, rows, columns, fwhm[band], saturated[band], layers[band], wanted, kernels
                    )
                    image[band][inside] = found[part]
        return {"image": image, "variance": variance}

    def _block(
        self,
        band: int,
        rows: slice,
        columns: slice,
        fwhm: Floats,
        saturated: Floats,
        layers: Floats,
        wanted: float,
        kernels: dict[tuple[int, int], Floats],
    ) -> NDArray[np.float32]:
        halo = HALO * self.radius
        height, width = self.image.shape
        top, left = max(rows.start - halo, 0), max(columns.start - halo, 0)
        window = slice(top, min(rows.stop + halo, height)), slice(left, min(columns.stop + halo, width))
        pixels, variance = (
            Planes((p.specs[band],), p.shape).read(*window)[0] for p in (self.image, self.variance)
        )
        centres = [region_centres(n, self.region) for n in self.image.shape]
        span = [_around(c, w, self.radius) for c, w in zip(centres, window, strict=True)]
        side = 2 * self.radius + 1
        stamps = np.empty((len(span[0]), len(span[1]), side, side))
        for i in span[0]:
            for j in span[1]:
                if (i, j) not in kernels:
                    there = slice(i * side, (i + 1) * side), slice(j * side, (j + 1) * side)
                    stamp = open_source(self.stamps[band]).read(*there).astype(np.float64)
                    kernels[i, j] = narrower(stamp, wanted)
                stamps[i - span[0].start, j - span[1].start] = kernels[i, j]
        near = slice(span[0].start, span[0].stop), slice(span[1].start, span[1].stop)
        stars = saturated[near].reshape(-1, 3)
        stars = stars[np.isfinite(stars[:, 2])] - (left, top, 0.0)
        found = deconvolve_block(
            pixels, variance, Nodes(stamps, centres[0][near[0]], centres[1][near[1]]), stars,
            corner=(top, left), fwhm=float(np.median(fwhm)), noise=layers.tolist(), settings=self.settings,
        )  # fmt: skip
        return found[rows.start - top :, columns.start - left :]


def region_centres(length: int, region: int) -> Floats:
    """Middle of each region along an axis of the canvas (pixels); the last may be smaller."""
    begins = np.arange(0, length, region)
    return np.asarray((begins + np.minimum(begins + region, length) - 1) / 2.0)


def _around(centres: Floats, window: slice, radius: int) -> range:
    """Regions whose PSF reaches into a window along one axis, its margin of a radius and more included."""
    first = int(np.searchsorted(centres, window.start - radius)) - 1
    last = int(np.searchsorted(centres, window.stop + 3 * radius))
    return range(min(max(first, 0), len(centres) - 1), min(max(last, 0), len(centres) - 1) + 1)


def blocks(rows: slice, columns: slice) -> list[tuple[slice, slice]]:
    """Blocks of the canvas that a window touches."""
    axes = [
        [slice(k * BLOCK, (k + 1) * BLOCK) for k in range(w.start // BLOCK, -(-w.stop // BLOCK))]
        for w in (rows, columns)
    ]
    return [(y, x) for y in axes[0] for x in axes[1]]


def _common(block: Tile, tile: Tile) -> tuple[Tile, Tile]:
    """Where block and tile meet, counted from the corner of the tile and of the block."""
    starts = [max(b.start, t.start) for b, t in zip(block, tile, strict=True)]
    stops = [min(b.stop, t.stop) for b, t in zip(block, tile, strict=True)]
    (y0, x0), (y1, x1) = starts, stops
    here, there = (
        (slice(y0 - w[0].start, y1 - w[0].start), slice(x0 - w[1].start, x1 - w[1].start)) for w in (tile, block)
    )
    return here, there


def _chosen(wanted: list[str], bands: list[str]) -> tuple[int, ...]:
    for name in wanted:
        if name not in bands:
            raise ConfigError(f"bands: {name!r}: there is no such band{suggest(name, bands)}")
    return tuple(i for i, b in enumerate(bands) if not wanted or b in wanted)


def _cost(image: xr.Dataset, psf: xr.Dataset, *, bands: list[str], iterations: int, **parameters: Any) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    lead = lead_of(image)
    count = len(_chosen(bands, [str(b) for b in image[lead].values]))
    radius = int(psf.attrs["radius"])
    side = BLOCK + 2 * (HALO + 1) * radius
    # Every tile computes the blocks it touches.
    axes = []
    for sizes in grid.chunks:
        ends = np.cumsum(sizes)
        begins = ends - np.asarray(sizes)
        axes.append(-(-ends // BLOCK) - begins // BLOCK)
    touched = axes[0][:, None] * axes[1][None, :] * float(side) ** 2
    rows, columns = (np.asarray(c, dtype=np.float64) for c in grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    # The last tiles of a small canvas hold no more than they are.
    block = np.minimum(side, np.maximum(grid.shape[0], grid.shape[1]) + 4.0 * radius) ** 2
    tables = 2.0 * sum(psf[n].nbytes for n in ("fwhm", "saturated"))
    memory = 8.0 * image.sizes[lead] * pixels + _BYTES * block + tables
    return Cost(
        work=count * touched * iterations / 1e6,
        read=8.0 * count * touched + 8.0 * (image.sizes[lead] - count) * pixels,
        memory=memory,
        rate=RATE,
        stored=STORED,
    )


@register(version=2, unit=("y", "x"), cost=_cost)
def deconvolve(
    image: xr.Dataset,
    psf: xr.Dataset,
    *,
    bands: list[str] = [],  # noqa: B006  (never changed; a list is what YAML has)
    target: Annotated[float, Param(low=0.2, high=0.95)] = 0.5,
    iterations: Annotated[int, Param(low=1, high=1000)] = 30,
    regularisation: Annotated[float, Param(unit="sigma", low=0, high=100)] = 4.0,
    background: Annotated[float, Param(unit="sigma", low=0, high=1000)] = 4.0,
    deringing: Annotated[float, Param(unit="sigma", low=0, high=10000)] = 0.5,
    star_protection: Annotated[float, Param(low=0, high=1)] = 1.0,
) -> xr.Dataset:
    """Deconvolve a linear mosaic by the PSF that its stars show from place to place; the sky stays as it is.

    Parameters
    ----------
    image
        A linear mosaic over (band, y, x) with its variance.
    psf
        The PSF of each region (`psf`).
    bands
        Names of the bands to deconvolve, as ["L"]; empty: all. The others pass unchanged. Change it to the bands
        that carry the detail: L of LRGB.
    target
        FWHM to work towards as a fraction of the median one of these bands, the same everywhere and in all of
        them; never less than 2 pixels, which is what pixels can show as round. Where the PSF is wider than usual
        the stars come less close to it. Bands whose stars are hardly wider than that pass unchanged. Change it to
        0.7 for a gentler result, to less only where the signal is strong and stars are sampled well.
    iterations
        Of Richardson-Lucy. Fewer are gentler. Change it to less where bright structure looks hard, to more where
        `target` is not reached.
    regularisation
        A wavelet layer of the image is left as it is where it is less significant than this. 0: all is followed.
        Change it to more where grain appears in nebulae, to less where weak detail stays soft.
    background
        Only where layers of the image are more significant than this is anything changed, fully from twice that
        on. 0: everywhere. Change it to more where the sky beside objects becomes grainy.
    deringing
        How far below its surroundings anything beside a star may become. Change it to less where dark rings show
        around stars.
    star_protection
        How much of their old pixels saturated stars keep: they have another shape than the PSF. Change it to less
        where bright stars look bloated beside the others.

    Returns
    -------
    xarray.Dataset
        `image` and `variance` over (band, y, x), lazy, a block a tile; NaN stays NaN. `variance` is that of the
        mosaic before: sums over a star keep it, single pixels of sharpened structure scatter more. Attributes
        `deconvolved`: the bands, `target`. Reads up to 512 + 3 · radius of the PSF beyond each tile.

    Raises
    ------
    ConfigError
        If there is no such band.
    DataError
        If the data are not linear or have no variance, or the PSF is of another canvas or other bands.

    Notes
    -----
    Regularised Richardson-Lucy (Starck & Murtagh 1994) to an image with a PSF that its pixels can show (Magain et
    al. 1998), on a floor that no ring goes below. The PSF of a pixel is interpolated between the regions' centres
    (Nagy & O'Leary 1998). Blocks of 512 pixels of the canvas are deconvolved one at a time with all that is
    around them, so pixels do not depend on the tiles; tiles of a multiple of 512 pixels compute no block twice.
    """
    require_linear(image, "deconvolution")
    lead = lead_of(image)
    names = [str(b) for b in image[lead].values]
    chosen = _chosen(bands, names)
    if "variance" not in image:
        raise DataError(
            "deconvolution needs the variance of the mosaic; take it from integrate, adjust or channels"
        )
    grid = grid_of(image)
    _check(psf, grid, lead, names)
    dependencies = Dependencies()
    arguments = [dependencies.argument(psf[n]) for n in ("fwhm", "saturated", "layer_noise")]
    task = _Deconvolve(
        Planes.of(image, "image"),
        Planes.of(image, "variance"),
        tuple(array_spec(psf, "stamp", **{lead: i}) for i in range(len(names))),
        chosen,
        int(psf.attrs["region"]),
        int(psf.attrs["radius"]),
        target,
        Settings(iterations, regularisation, background, deringing, star_protection),
    )
    over = {lead: len(names)}
    arrays = by_tiles(
        "deconvolve",
        grid,
        task,
        {n: Output.image(np.float32, over) for n in ("image", "variance")},
        arguments=arguments,
        dependencies=dependencies,
    )
    kept = {k: v for k, v in image.attrs.items() if k != "provenance"}
    attrs = {**kept, "deconvolved": ", ".join(names[i] for i in chosen), "target": target}
    return xr.Dataset(arrays, coords={lead: image[lead].values}, attrs=attrs)


def _check(psf: xr.Dataset, grid: Grid, lead: str, names: list[str]) -> None:
    if "stamp" not in psf or "region" not in psf.attrs:
        raise DataError("there are no PSFs here; deconvolve takes the mosaic and the result of psf")
    theirs = [str(b) for b in psf[lead].values] if lead in psf.dims else []
    if theirs != names:
        raise DataError(
            f"the PSFs are of bands {', '.join(theirs) or 'none'}, the mosaic has {', '.join(names)}; make them "
            "from the same mosaic"
        )
    other = Grid.from_attrs(psf.attrs)
    if other.shape != grid.shape or other.header != grid.header:
        raise DataError(
            f"the PSFs are of a canvas of {other.shape[1]} × {other.shape[0]} pixels, the mosaic is another of "
            f"{grid.shape[1]} × {grid.shape[0]}; make them from the same mosaic"
        )
