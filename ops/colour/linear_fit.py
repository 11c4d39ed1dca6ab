"""Bands brought to the scale of one of them, and the luminance to that of the colours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.adjustment import (
    Table,
    band_names,
    band_noise,
    check_same_bands,
    chosen_reference,
    lines_of,
    require_linear,
    table_dataset,
    table_values,
)
from skyloom.ops.colour.lines import fit_line
from skyloom.ops.errors import ConfigError
from skyloom.ops.registry import Cost, register, suggest
from skyloom.ops.tiles import Dependencies, whole_cost

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _FitBands:
    """Task: line of each band onto the reference."""

    bands: tuple[int, ...]
    reference: int

    def __call__(
        self, sample: NDArray[np.float32], noise: NDArray[np.float32], *table: Any
    ) -> dict[str, NDArray[Any]]:
        lines = lines_of(*table)
        count = len(sample)
        scale, offset = np.ones(count), np.zeros(count)
        points, scatter = np.zeros(count, np.int64), np.full(count, np.nan)
        target = lines.apply(sample[self.reference].ravel(), self.reference)
        target_noise = abs(lines.scale[self.reference]) * band_noise(noise, self.reference)
        for band in self.bands:
            line = fit_line(
                lines.apply(sample[band].ravel(), band),
                target,
                noise_x=abs(lines.scale[band]) * band_noise(noise, band),
                noise_y=target_noise,
            )
            scale[band], offset[band] = line.slope, line.offset
            points[band], scatter[band] = line.points, line.scatter
        return table_values(lines.then(scale, offset, background=np.nan), points=points, scatter=scatter)


def _fit_cost(survey: xr.Dataset, adjustment: xr.Dataset | None = None, **parameters: Any) -> Cost:
    return whole_cost(survey, ("sample", "noise"), copies=6.0)


@register(version=2, cost=_fit_cost)
def linear_fit(survey: xr.Dataset, adjustment: xr.Dataset | None = None, *, reference: str = "auto") -> xr.Dataset:
    """Fit every band to a reference band by a line through background and signal (PixInsight's LinearFit).

    Parameters
    ----------
    survey
        Of the linear mosaic (`survey`).
    adjustment
        Lines to begin from.
    reference
        Name of the band that stays; auto: G, else Ha, R, L, else the first. Change it where the band it takes is
        much shallower than another.

    Returns
    -------
    xarray.Dataset
        Over `band`: `scale` and `offset` of each band (v' = scale · v + offset), `points` (pixels with signal the
        line rests on, 0 = too few, or no signal in common: then the noise levels are made equal), `scatter`
        (relative, about the line); `background` NaN.

    Raises
    ------
    ConfigError
        If there is no such band.
    DataError
        If the data are not linear.

    Notes
    -----
    See `lines.fit_line` for the line. It makes the *average object* neutral: good before a stretch of bands whose
    sensitivities differ, no substitute for a white balance.
    """
    require_linear(survey, "a linear fit")
    check_same_bands(survey, adjustment)
    bands = band_names(survey)
    place = chosen_reference(reference, bands)
    dependencies = Dependencies()
    table = Table(dependencies, adjustment, len(bands))
    arguments = [dependencies.argument(survey[n]) for n in ("sample", "noise")]
    return table_dataset(
        "linear_fit",
        _FitBands(tuple(i for i in range(len(bands)) if i != place), place),
        bands,
        arguments=[*arguments, *table.arguments],
        dependencies=dependencies,
        attrs=_attrs(survey, reference=bands[place]),
        extra={
            "points": (("band",), (len(bands),), np.int64),
            "scatter": (("band",), (len(bands),), np.float64),
        },
    )


def _attrs(survey: xr.Dataset, **more: Any) -> dict[str, Any]:
    return {k: survey.attrs[k] for k in ("units",) if k in survey.attrs} | more


@dataclass(frozen=True)
class _FitLuminance:
    """Task: line of the luminance onto the mean of the colours."""

    luminance: int
    colours: tuple[int, ...]

    def __call__(
        self, sample: NDArray[np.float32], noise: NDArray[np.float32], *table: Any
    ) -> dict[str, NDArray[Any]]:
        lines = lines_of(*table)
        count = len(self.colours)
        mean = np.zeros(sample[0].size)
        variance = 0.0
        for band in self.colours:
            mean += lines.apply(sample[band].ravel(), band) / count
            variance += (lines.scale[band] * band_noise(noise, band) / count) ** 2
        line = fit_line(
            lines.apply(sample[self.luminance].ravel(), self.luminance),
            mean,
            noise_x=abs(lines.scale[self.luminance]) * band_noise(noise, self.luminance),
            noise_y=float(np.sqrt(variance)),
        )
        scale, offset = np.ones(len(sample)), np.zeros(len(sample))
        scale[self.luminance], offset[self.luminance] = line.slope, line.offset
        if np.isfinite(lines.background):
            # The background of L is as well known as that of the colours: only the slope is the line's.
            offset[self.luminance] = lines.background * (1.0 - line.slope)
        fitted = lines.then(scale, offset, background=lines.background)
        return table_values(fitted, points=np.array(line.points), scatter=np.array(line.scatter))


@register(version=1, cost=_fit_cost)
def fit_luminance(
    survey: xr.Dataset,
    adjustment: xr.Dataset,
    *,
    luminance: str = "L",
    colours: list[str] = ["R", "G", "B"],  # noqa: B006  (never changed; a list is what YAML has)
) -> xr.Dataset:
    """Fit the luminance band to the mean of the adjusted colour bands, so that it can take its place.

    Parameters
    ----------
    survey
        Of the linear mosaic (`survey`).
    adjustment
        Lines of the balanced bands (`white_balance`).
    luminance
        Name of the band that carries the detail. Change it where the band has another name, as Ha.
    colours
        Names of the bands whose mean it shall match. Change it where the colours come from other bands.

    Returns
    -------
    xarray.Dataset
        The table with another line for the luminance; `points` and `scatter` as in `linear_fit`.

    Raises
    ------
    ConfigError
        If there is no such band.
    DataError
        If the data are not linear.
    """
    require_linear(survey, "a fit of the luminance")
    check_same_bands(survey, adjustment)
    bands = band_names(survey)
    for name in (luminance, *colours):
        if name not in bands:
            raise ConfigError(f"band {name!r}: there is no such band{suggest(name, bands)}")
    dependencies = Dependencies()
    table = Table(dependencies, adjustment, len(bands))
    arguments = [dependencies.argument(survey[n]) for n in ("sample", "noise")]
    return table_dataset(
        "fit_luminance",
        _FitLuminance(bands.index(luminance), tuple(bands.index(c) for c in colours)),
        bands,
        arguments=[*arguments, *table.arguments],
        dependencies=dependencies,
        attrs={**adjustment.attrs, "luminance": luminance},
        extra={"points": ((), (), np.int64), "scatter": ((), (), np.float64)},
    )
