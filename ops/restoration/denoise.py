"""Noise taken out of a linear image scale by scale, as much of it as the variance map says there is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.survey import lead_of
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.restoration.colour_planes import ColourPlanes
from skyloom.ops.restoration.noise_levels import check_noisy
from skyloom.ops.restoration.starlet import reach, shrink
from skyloom.ops.restoration.starlet_noise import starlet_covariance
from skyloom.ops.tiles import Dependencies, Output, Planes, by_tiles, grid_of

Floats = NDArray[np.float64]

STRIP = 512
"""Rows of a tile computed at a time."""
RATE = 8.0
"""Mpixel of a plane a second."""
STORED = 0.95
"""Bytes on the disk over bytes of the arrays, at most: what scatters about zero hardly compresses."""
PLANES = 12
"""float64 planes of a strip a task holds while one of its bands is denoised."""
PLANES_OF_BAND = 1
"""For each band: pixels and variance as they are read."""
INNER_PLANES = 8
"""float64 planes of a strip without what is around it, for each band."""
QUIET_CELLS = 0.25
"""Quantile of the cells' scatter that counts as noise: those above hold structure of the sky."""
FINE = 2
"""Scales whose scatter is that of noise even where clouds fill the field; that of coarser ones may be theirs."""
USUAL = (1.0, 1.0, 1.0, 0.6, 0.3, 0.3, 0.3)
"""Strength of the scales."""
DEEP_CELLS = 0.25
"""Quantile of the cells' noise that even noise refers to."""


@dataclass(frozen=True)
class Shrinkage:
    """How coefficients shrink."""

    threshold: float
    around: int
    """Steps around signal that are left alone."""
    restore: int
    """How often signal is made that of the image again."""
    strength: tuple[float, ...]
    """Of each scale."""
    chroma: float
    """Factor on what is left of noise in planes of colour: strength there is 1 - (1 - strength) · chroma."""
    noise_factor: float

    def quiet(self, colour: bool) -> Floats:
        """Fraction of the noise of each scale that stays."""
        left = 1.0 - np.array(self.strength)
        return left * self.chroma if colour else left


@dataclass(frozen=True)
class _Denoise:
    """Task of a tile."""

    image: Planes
    variance: Planes
    planes: ColourPlanes
    shrinkage: Shrinkage

    def __call__(self, tile: tuple[slice, slice], *levels: Any) -> dict[str, NDArray[Any]]:
        scales = len(self.shrinkage.strength)
        ratios, references = measured_levels(*levels, scales=scales, planes=len(self.planes.names))
        rows, columns = tile
        shape = len(self.planes.names), rows.stop - rows.start, columns.stop - columns.start
        out = {n: np.empty(shape, np.float32) for n in ("image", "variance")}
        for start in range(rows.start, rows.stop, STRIP):
            stop = min(start + STRIP, rows.stop)
            part = slice(start - rows.start, stop - rows.start)
            out["image"][:, part], out["variance"][:, part] = self._strip(
                (slice(start, stop), columns), ratios, references
            )
        return out

    def _strip(self, tile: tuple[slice, slice], ratios: Floats, references: Floats) -> tuple[Floats, Floats]:
        scales = len(self.shrinkage.strength)
        halo = reach(scales, self.shrinkage.around, self.shrinkage.restore)
        inner = tuple(slice(halo, halo + s.stop - s.start) for s in tile)
        pixels = self.image.read(*tile, halo=halo)
        if np.isnan(pixels[:, *inner]).all():
            empty = np.full(pixels[:, *inner].shape, np.nan)
            return empty, empty
        variance = self.variance.read(*tile, halo=halo)
        covariance = starlet_covariance(scales, self.shrinkage.noise_factor)
        shape = (len(ratios), *(s.stop - s.start for s in tile))
        planes, share = np.empty(shape), np.ones(shape)
        for plane in range(len(ratios)):
            image, noise = self.planes.apart(pixels, plane), self.planes.variances(variance, plane)
            denoised, left = np.empty(image.shape), np.empty(image.shape)
            scale = np.append(ratios[plane], ratios[plane, -1])
            shrink(
                image,
                noise,
                covariance * np.outer(scale, scale),
                self.shrinkage.threshold,
                self.shrinkage.around,
                self.shrinkage.restore,
                self.shrinkage.quiet(self.planes.chroma(plane)),
                float(references[plane]) ** 2,
                denoised,
                left,
            )
            planes[plane] = denoised[inner]
            with np.errstate(invalid="ignore"):
                np.divide(left[inner], noise[inner], out=share[plane], where=noise[inner] > 0.0)
        left = self.planes.left(variance[:, *inner].astype(np.float64), share)
        return self.planes.together(planes), left


def measured_levels(*levels: Any, scales: int, planes: int) -> tuple[Floats, Floats]:
    """Noise against the variance map (plane, scale), and that of the deep parts (plane), from `noise_levels`.

    Parameters
    ----------
    *levels
        Its `ratio` (plane, y, x, scale) and `sigma` (plane, y, x), or nothing: ratios 1, references 0.
    scales, planes
        Their numbers.
    """
    if not levels:
        return np.ones((planes, scales)), np.zeros(planes)
    ratio, sigma = (np.asarray(v, dtype=np.float64) for v in levels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        ratios = np.nanquantile(ratio[..., :scales], QUIET_CELLS, axis=(1, 2))
        references = np.nanquantile(sigma, DEEP_CELLS, axis=(1, 2))
    # Canvases smaller than a cell: the variance map alone.
    ratios = np.where(np.isfinite(ratios), ratios, 1.0)
    # Smoothing takes noise from fine scales, none adds to coarse ones alone.
    most = np.maximum(ratios[:, :FINE].max(axis=1, keepdims=True), 1.0)
    ratios[:, FINE:] = np.minimum(ratios[:, FINE:], most)
    return ratios, np.where(np.isfinite(references), references, 0.0)


def _cost(image: xr.Dataset, noise: xr.Dataset | None = None, **parameters: Any) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    lead = image.sizes[lead_of(image)]
    scales = int(parameters["scales"])
    halo = 2 * reach(scales, int(parameters["protect"]), int(parameters["restore"]))
    rows, columns = (np.asarray(c, dtype=np.float64) for c in grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    strip = (np.minimum(rows[:, None], STRIP) + halo) * (columns[None, :] + halo)
    memory = strip * (8 * PLANES + 8 * scales + 8 * PLANES_OF_BAND * lead)
    memory += 8 * INNER_PLANES * lead * np.minimum(rows[:, None], STRIP) * columns[None, :] + 8 * lead * pixels
    work = strip * np.ceil(rows[:, None] / STRIP) * lead / 1e6
    return Cost(work=work, read=8.0 * lead * pixels, memory=memory, rate=RATE, stored=STORED)


@register(version=2, unit=("y", "x"), cost=_cost)
def denoise(
    image: xr.Dataset,
    noise: xr.Dataset | None = None,
    *,
    strength: Annotated[float, Param(low=0, high=1)] = 0.8,
    threshold: Annotated[float, Param(unit="sigma", low=0, high=20)] = 2.0,
    protect: Annotated[int, Param(unit="steps", low=0, high=4)] = 0,
    restore: Annotated[int, Param(low=0, high=8)] = 2,
    scales: Annotated[int, Param(unit="scales", low=1, high=7)] = 5,
    scale_strength: list[float] = [],  # noqa: B006  (never changed; a list is what YAML has)
    chroma_left: Annotated[float, Param(low=0, high=1)] = 0.5,
    even: bool = True,
) -> xr.Dataset:
    """Take noise out of a linear image by starlets, more where the variance map has more: depth steps disappear.

    Parameters
    ----------
    image
        A linear mosaic over (band, y, x), or channels, with its variance.
    noise
        Its `noise_levels`: what the noise really is at each scale, and how large that of the whole mosaic is.
        Without it the variance map and the resampling's correlation are believed, and steps of depth stay.
    strength
        1 - strength of the noise stays; 1 leaves a sky like plastic. Change it to taste: 0.5 is hardly seen as
        noise reduction, above 0.9 looks like plastic.
    threshold
        Coefficients which, with their neighbours, are below so many σ (rms) shrink as noise; from twice as many on
        they stay as they are. Change it to more where grain is left as if it were detail, to less where faint
        detail goes.
    protect
        What lies up to so many steps (of 2^(scale - 1) pixels) from such coefficients stays too: with it a disc of
        noise around every star. Change it to 3, and `restore` to 0, where no flux may change by more than 1 %.
    restore
        How often what such coefficients have lost by the shrinking of others is put back. 0: the peak of a star
        stays and the ring around it, hidden in noise, does not; fluxes grow by up to 10 %. 2: fluxes are as good
        as before. Change it to 1 or 0 where time matters more.
    scales
        Structures up to 2^scales pixels; noise of larger ones stays. Change it to more where blotches wider than
        32 pixels are left.
    scale_strength
        Strength of each scale, finest first, times `strength`; scales without a value take 1, 1, 1, 0.6, 0.3, 0.3,
        0.3: there is little noise in the coarse ones, and faint clouds. Change it where noise of one size is left
        over: name the strengths of all scales up to it.
    chroma_left
        What stays of noise in colour, as a fraction of what stays in brightness (channels R, G, B). Change it to
        less where coloured grain is left.
    even
        The noise that stays is everywhere 1 - strength of that of the mosaic's deep parts (lower quarter), but
        never more than there was; needs `noise`. Change it to false where deep parts shall become smoother than
        shallow ones, as they are in the data.

    Returns
    -------
    xarray.Dataset
        `image` (NaN = no data) and `variance` with the dimensions of the input, lazy, a block a tile. Reads
        (1 + restore) · (2^(scales + 1) - 2) + (1 + protect) · 2^(scales - 1) pixels beyond each tile.

    Raises
    ------
    ConfigError
        For a scale's strength outside 0…1, or more of them than scales.
    DataError
        If the image is stretched, has no variance, or `noise` is of another image.

    Notes
    -----
    Starck, Fadili & Murtagh 2007 (undecimated wavelets, B-splines), holes left out by normalised convolution. The
    noise of a coefficient is sqrt(variance) times that of the starlet of unit noise, the correlation by resampling
    included. Coefficients are judged together with their eight neighbours (Cai & Silverman 2001) and shrink by a
    smooth step between noise and signal, which leaves strong ones alone (firm shrinkage, Gao & Bruce 1997). What
    is taken away is transformed again, and its coefficients that are signal are put back (iterations with the
    multiresolution support, Starck & Murtagh 1994).

    `variance` is what is left of that of each pixel, the coefficients' fractions taken as given; the noise left is
    correlated over 2^scales pixels. Sums over larger areas have the noise the input's variance says: none is taken
    from them, nor any signal.
    """
    lead, planes = check_noisy(image, "denoising")
    if len(scale_strength) > scales or any(not 0.0 <= s <= 1.0 for s in scale_strength):
        raise ConfigError(f"scale_strength = {scale_strength}: at most {scales} numbers of 0 to 1")
    dependencies = Dependencies()
    arguments: list[Any] = []
    if noise is not None:
        names = tuple(str(p) for p in noise["plane"].values) if "plane" in noise.dims else ()
        if names != planes.planes or noise.attrs.get("grid_shape") != image.attrs.get("grid_shape"):
            raise DataError("the noise levels are not of this image; make them of it with the op noise_levels")
        if noise.sizes["scale"] < scales:
            raise DataError(
                f"the noise levels are of {noise.sizes['scale']} scales, not {scales}; set noise_levels' scales"
            )
        # Arguments of a task that are computed are handed over whole.
        sigma = noise["sigma"] if even else xr.full_like(noise["sigma"], np.nan)
        arguments = [dependencies.argument(noise["ratio"]), dependencies.argument(sigma)]
    each = tuple(strength * s for s in [*scale_strength, *USUAL[len(scale_strength) : scales]])
    factor = float(image.attrs.get("kernel_noise_factor", 1.0))
    work = _Denoise(
        Planes.of(image, "image"),
        Planes.of(image, "variance"),
        planes,
        Shrinkage(threshold, protect, restore, each, chroma_left, factor),
    )
    sizes = {lead: image.sizes[lead]}
    arrays = by_tiles(
        "denoise",
        grid_of(image),
        work,
        {n: Output.image(np.float32, sizes) for n in ("image", "variance")},
        arguments=arguments,
        dependencies=dependencies,
    )
    for name in arrays:
        attributes = {k: v for k, v in image[name].attrs.items() if k == "units"}
        dims, data = arrays[name]
        arrays[name] = (dims, data, attributes)  # type: ignore[assignment]
    kept = {k: v for k, v in image.attrs.items() if k not in ("provenance", "kernel_noise_factor")}
    said = f"starlets of {scales} scales, strength {strength:g}: noise correlated over {2**scales} pixels"
    return xr.Dataset(
        arrays, coords={lead: image[lead].values}, attrs={**kept, "kernel_noise_factor": 1.0, "denoised": said}
    )
