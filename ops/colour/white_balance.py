"""White: what the average star, a given star, or a catalogue says it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.colour.adjustment import (
    Table,
    band_names,
    chosen_reference,
    lines_of,
    table_dataset,
    table_values,
)
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid, sky_to_pixel
from skyloom.ops.measurement.starlist import densest
from skyloom.ops.registry import Cost, Param, register, suggest
from skyloom.ops.tiles import Dependencies, whole_cost

Floats = NDArray[np.float64]

LEAST = 5
"""Stars a balance rests on at least."""
TOP = 0.7
"""Stars with a peak above this fraction of the highest may be saturated."""
SHAPE = 0.2
"""A star's concentration may differ so much (relative) from the usual one."""


@dataclass(frozen=True)
class Stars:
    """Measured stars fit for colours."""

    x: Floats
    y: Floats
    flux: Floats
    """Shape (bands, stars)."""


def select_stars(
    x: Floats, y: Floats, flux: Floats, error: Floats, peak: Floats, concentration: Floats, *, snr: float
) -> Stars:
    """Stars that are well measured in every band, not saturated, not blended, no nebula.

    Parameters
    ----------
    x, y, concentration
        Shape (stars,).
    flux, error, peak
        Shape (bands, stars).
    snr
        Least flux / error in every band.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        good = np.isfinite(flux).all(axis=0) & (flux > snr * error).all(axis=0) & np.isfinite(concentration)
    if good.sum() >= 3 * LEAST:
        unsaturated = (peak < TOP * np.nanmax(np.where(good, peak, np.nan), axis=1, keepdims=True)).all(axis=0)
        if (good & unsaturated).sum() >= LEAST:
            good &= unsaturated
        usual = densest(concentration[good].astype(np.float64))
        shaped = np.abs(concentration - usual) < SHAPE * usual
        if (good & shaped).sum() >= LEAST:
            good &= shaped
    return Stars(x[good], y[good], flux[:, good].astype(np.float64))


def centre(values: Floats) -> tuple[float, float]:
    """Clipped mean about the median, and its error."""
    for _ in range(10):
        middle = float(np.median(values))
        sigma = max(1.4826 * float(np.median(np.abs(values - middle))), 1e-12)
        kept = values[np.abs(values - middle) <= 2.5 * sigma]
        if kept.size in (0, values.size):
            break
        values = kept
    return float(values.mean()), float(values.std() / np.sqrt(values.size))


def colour_line(index: Floats, ratio: Floats) -> tuple[float, float, Floats]:
    """Robust line ratio = zero + slope · index: zero, slope, residuals (Huber weights at 1.5 σ)."""
    weight = np.ones(index.size)
    zero, slope = float(np.median(ratio)), 0.0
    for _ in range(30):
        total = weight.sum()
        mean_index, mean_ratio = weight @ index / total, weight @ ratio / total
        spread = weight @ (index - mean_index) ** 2
        slope = float(weight @ ((index - mean_index) * (ratio - mean_ratio)) / spread) if spread > 0 else 0.0
        zero = float(mean_ratio - slope * mean_index)
        residual = ratio - zero - slope * index
        sigma = max(1.4826 * float(np.median(np.abs(residual))), 1e-9)
        weight = np.minimum(1.0, 1.5 * sigma / np.maximum(np.abs(residual), 1e-12))
    return zero, slope, ratio - zero - slope * index


@dataclass(frozen=True)
class _Balance:
    """Task: the factor of each band that makes white white."""

    places: tuple[int, ...]
    """Of the measured bands among all."""
    reference: int
    """Of the reference among the measured."""
    snr: float
    white: tuple[float, ...]
    grid: Grid
    match_radius: float
    white_index: float

    def __call__(self, *arguments: Any) -> dict[str, NDArray[Any]]:
        lines = lines_of(*arguments[:3])
        factors, slopes, count, scatter = np.ones(len(lines.scale)), None, 0, np.zeros(len(self.places))
        gains = lines.scale[list(self.places)]
        if self.white:
            level = np.log(np.array(self.white) * np.abs(gains))
        else:
            x, y, flux, error, peak, concentration = (np.asarray(a, dtype=np.float64) for a in arguments[3:9])
            bands = len(self.places)
            stars = select_stars(
                x.ravel(), y.ravel(), flux.reshape(bands, -1), error.reshape(bands, -1),
                peak.reshape(bands, -1), concentration.ravel(), snr=self.snr,
            )  # fmt: skip
            flux = np.log(stars.flux * gains[:, None])
            index = np.full(stars.x.size, np.nan)
            if len(arguments) > 9:
                index = self._match(stars, *arguments[9:12])
                flux, index = flux[:, np.isfinite(index)], index[np.isfinite(index)]
            count = flux.shape[1]
            if count < LEAST:
                raise DataError(
                    f"{count} stars are bright enough in every band"
                    + (" and in the catalogue" if len(arguments) > 9 else "")
                    + f", a white balance needs {LEAST}; lower snr = {self.snr:g}, give white, or leave it out"
                )
            level = np.zeros(bands)
            slopes = np.zeros(bands)
            for band in range(bands):
                ratio = flux[band] - flux[self.reference]
                if len(arguments) > 9:
                    zero, slopes[band], residual = colour_line(index - self.white_index, ratio)
                    level[band] = zero
                    scatter[band] = 1.4826 * np.median(np.abs(residual))
                else:
                    level[band], scatter[band] = centre(ratio)
        factors[list(self.places)] = np.exp(level[self.reference] - level)
        # The background stays where it is.
        offset = np.zeros(len(factors))
        if np.isfinite(lines.background):
            offset = lines.background * (1.0 - factors)
        found = lines.then(factors, offset, background=lines.background)
        extra = np.zeros((2, len(factors)))
        extra[0, list(self.places)] = scatter
        if slopes is not None:
            extra[1, list(self.places)] = slopes
        return table_values(found, factor=factors, stars=np.array(count), scatter=extra[0], slope=extra[1])

    def _match(self, stars: Stars, ra: Floats, dec: Floats, index: Floats) -> Floats:
        """Colour index of each star in the catalogue, NaN where it has none."""
        x, y = sky_to_pixel(self.grid.wcs, np.asarray(ra), np.asarray(dec))
        there = np.isfinite(x) & np.isfinite(y)
        out = np.full(stars.x.size, np.nan)
        if there.any() and stars.x.size:
            tree = cKDTree(np.stack([x[there], y[there]], axis=-1))
            reach = self.match_radius / self.grid.pixel_scale
            distance, place = tree.query(np.stack([stars.x, stars.y], axis=-1), distance_upper_bound=reach)
            near = np.isfinite(distance)
            out[near] = np.asarray(index)[there][place[near]]
        return out


def _cost(stars: xr.Dataset, adjustment: xr.Dataset, *inputs: Any, **parameters: Any) -> Cost:
    return whole_cost(stars, ("x", "y", "flux", "error", "peak", "concentration"), copies=5.0)


@register(version=1, cost=_cost)
def white_balance(
    stars: xr.Dataset,
    adjustment: xr.Dataset,
    catalogue: xr.Dataset | None = None,
    *,
    white: dict[str, float] = {},  # noqa: B006  (never changed; a mapping is what YAML has)
    reference: str = "auto",
    snr: Annotated[float, Param(low=1, high=1e6)] = 20.0,
    match_radius: Annotated[float, Param(unit="arcsec", low=0.01, high=3600)] = 4.0,
    white_index: Annotated[float, Param(unit="mag", low=-5, high=10)] = 0.65,
) -> xr.Dataset:
    """Balance the bands so that white is white: the average star, a star you describe, or one of a catalogue.

    Parameters
    ----------
    stars
        Stars of the mosaic in all bands (`star_colours`); bands that are not measured there stay as they are.
    adjustment
        Lines to begin from (`neutralize`); the background they reach stays.
    catalogue
        Colours of stars (`star_catalogue`): the instrument's colours are fitted to them by a line, and a star of
        colour `white_index` becomes white.
    white
        Flux of a white star in each band in the mosaic's own units, up to a common factor (a sensor's response to
        a G2V star): then no star is looked at. Empty: the average star is white. Change it where the response of
        sensor and filters to a white star is known.
    reference
        Band whose scale stays; auto: G. Change it where there is no G, or another band is the deepest.
    snr
        Least signal to noise of a star in every band. Change it to less where there are few stars.
    match_radius
        How far a star may be from its place in the catalogue. Change it to more where the mosaic's WCS is coarse,
        to less in crowded fields.
    white_index
        Colour of white in the catalogue: B-V 0.65 is G2V, as is BP-RP 0.82. Change it to make another kind of star
        white, as 0.3 for an average spiral's light.

    Returns
    -------
    xarray.Dataset
        The table over `band`, with `factor` (of this step), `scatter` (error of the mean log ratio; with a
        catalogue the robust scatter of the stars about the line), `slope` (log flux ratio per magnitude) and
        `stars`.

    Raises
    ------
    ConfigError
        For an unknown band.
    DataError
        While computing, if fewer than five stars are fit for it.
    """
    check = [b for b in band_names(stars) if b not in band_names(adjustment)]
    if check:
        raise DataError(f"the adjustment has no band {check[0]!r}; make both from the same mosaic")
    bands, measured = band_names(adjustment), band_names(stars)
    for name, value in white.items():
        if name not in bands:
            raise ConfigError(f"white: {name!r}: there is no such band{suggest(name, bands)}")
        if not value > 0:
            raise ConfigError(f"white: {name} = {value:g} should be above 0")
    if white:
        measured = [b for b in bands if b in white]
    place = chosen_reference(reference, measured)
    dependencies = Dependencies()
    table = Table(dependencies, adjustment, len(bands))
    arguments = list(table.arguments)
    if not white:
        names = ("x", "y", "flux", "error", "peak", "concentration")
        arguments += [dependencies.argument(stars[n]) for n in names]
        if catalogue is not None:
            arguments += [dependencies.argument(catalogue[n]) for n in ("ra", "dec", "index")]
    work = _Balance(
        places=tuple(bands.index(b) for b in measured),
        reference=place,
        snr=snr,
        white=tuple(white[b] for b in measured) if white else (),
        grid=Grid.from_attrs(stars.attrs),
        match_radius=match_radius,
        white_index=white_index,
    )
    over = (("band",), (len(bands),), np.float64)
    return table_dataset(
        "white_balance",
        work,
        bands,
        arguments=arguments,
        dependencies=dependencies,
        attrs=adjustment.attrs,
        extra={"factor": over, "scatter": over, "slope": over, "stars": ((), (), np.int64)},
    )
