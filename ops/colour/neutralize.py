"""The sky made grey: every band's background brought to one level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.adjustment import (
    Table,
    band_names,
    band_noise,
    check_same_bands,
    lines_of,
    require_linear,
    table_dataset,
    table_values,
)
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.tiles import Dependencies, whole_cost

Floats = NDArray[np.float64]

DARK = 0.05
"""Quantile of the cells that tells where the darkest are."""
WHOLE = 0.9
"""Fraction of a cell that must have data."""
LEAST = 12
"""Cells a background rests on at least."""
MEDIAN_NOISE = 1.2533
"""σ of a median in units of that of a mean."""


def dark_cells(median: Floats, noise: Floats, valid: Floats, *, pixels: int, reach: float) -> NDArray[np.bool_]:
    """Cells that are as dark as the darkest, within the noise, in every band.

    Parameters
    ----------
    median, noise, valid
        Shape (bands, cells): of a survey.
    pixels
        Pixels of a cell.
    reach
        How far (σ of a cell's median) above the dark quantile a cell may lie.

    Returns
    -------
    ndarray
        Shape (cells,).
    """
    whole = (valid >= WHOLE).all(axis=0) & np.isfinite(median).all(axis=0)
    if whole.sum() < LEAST:
        whole = (valid > 0).all(axis=0) & np.isfinite(median).all(axis=0)
    if not whole.any():
        raise DataError("no cell has data in every band: the bands do not overlap")
    # One number for the noise of a band: cells with many frames must not be the only ones that count as dark.
    sigma = MEDIAN_NOISE * np.array([np.median(n[whole]) for n in noise]) / np.sqrt(pixels)
    low = np.array([np.quantile(m[whole], DARK) for m in median])
    height = (median - low[:, None]) / np.maximum(sigma, 1e-300)[:, None]
    highest = np.where(whole, height.max(axis=0), np.inf)
    chosen = highest <= reach
    if chosen.sum() < min(LEAST, int(whole.sum())):
        # The darkest places of the bands are not the same: those that are least bright in all of them.
        chosen = highest <= np.sort(highest)[min(LEAST, int(whole.sum())) - 1]
    return np.asarray(chosen & whole)


def clipped_level(values: Floats) -> float:
    """Median of what lies within 2.5 σ of it, on the dark side and the bright one."""
    for _ in range(10):
        centre = float(np.median(values))
        sigma = 1.4826 * float(np.median(np.abs(values - centre)))
        kept = values[np.abs(values - centre) <= 2.5 * sigma]
        if kept.size in (0, values.size):
            break
        values = kept
    return float(np.median(values))


@dataclass(frozen=True)
class _Neutralize:
    """Task: background of each band, and the lines that make it `target`."""

    cell: int
    reach: float
    region: tuple[int, ...]
    target: float | None

    def __call__(
        self, median: NDArray[Any], noise: NDArray[Any], valid: NDArray[Any], *table: Any
    ) -> dict[str, NDArray[Any]]:
        lines = lines_of(*table)
        bands = len(median)
        if self.region:
            x0, y0, x1, y1 = (-(-c // self.cell) if i < 2 else c // self.cell for i, c in enumerate(self.region))
            part = (slice(None), slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1)))
            median, noise, valid = median[part], noise[part], valid[part]
        levels, sigma, share = (a.reshape(bands, -1).astype(np.float64) for a in (median, noise, valid))
        reach = np.inf if self.region else self.reach
        chosen = dark_cells(levels, sigma, share, pixels=self.cell**2, reach=reach)
        found = np.array([clipped_level(v[chosen]) for v in levels])
        adjusted = lines.scale * found + lines.offset
        target = float(adjusted.mean()) if self.target is None else self.target
        moved = lines.then(np.ones(bands), target - adjusted, background=target)
        typical = np.array([band_noise(noise, band) for band in range(bands)])
        return table_values(moved, level=found, noise=typical, cells=np.array(int(chosen.sum())))


def _cost(survey: xr.Dataset, adjustment: xr.Dataset | None = None, **parameters: Any) -> Cost:
    return whole_cost(survey, ("median", "noise", "valid"), copies=6.0)


@register(version=1, cost=_cost)
def neutralize(
    survey: xr.Dataset,
    adjustment: xr.Dataset | None = None,
    *,
    region: list[int] = [],  # noqa: B006  (never changed; a list is what YAML has)
    target: float | None = 0.0,
    reach: Annotated[float, Param(unit="sigma", low=1, high=100)] = 4.0,
) -> xr.Dataset:
    """Make the background neutral: the level of the darkest places, free of stars and nebula, equal in all bands.

    Parameters
    ----------
    survey
        Of the linear mosaic (`survey`).
    adjustment
        Lines to begin from (`linear_fit`).
    region
        x0, y0, x1, y1 (canvas pixels) of a piece of plain sky; empty: found automatically. Change it where you
        know a piece of plain sky and the automatic choice takes nebula.
    target
        Level the background gets (units of the adjusted bands); none: the mean of the bands' levels. Change it to
        none where the mosaic's own level shall stay.
    reach
        Automatically, cells count as sky up to this far above the dark quantile (5 %) in every band. Change it to
        less where faint nebula counts as sky.

    Returns
    -------
    xarray.Dataset
        The table over `band` with `scale`, `offset`, `background` (the level all bands now have), `level` and
        `noise` (what was found, raw units) and `cells` (how many it rests on).

    Raises
    ------
    ConfigError
        If the region is no region of the canvas.
    DataError
        If the data are not linear; while computing, if the bands do not overlap.

    Notes
    -----
    The median of a cell of 16 × 16 pixels does not see its stars. Nothing is clipped: noise below the target
    stays.
    """
    require_linear(survey, "neutralizing the background")
    check_same_bands(survey, adjustment)
    bands = band_names(survey)
    cell = int(survey.attrs["cell"])
    _check_region(region, Grid.from_attrs(survey.attrs).shape, cell)
    dependencies = Dependencies()
    table = Table(dependencies, adjustment, len(bands))
    arguments = [dependencies.argument(survey[n]) for n in ("median", "noise", "valid")]
    attrs = dict(adjustment.attrs) if adjustment is not None else {}
    over = (("band",), (len(bands),), np.float64)
    return table_dataset(
        "neutralize",
        _Neutralize(cell, reach, tuple(region), target),
        bands,
        arguments=[*arguments, *table.arguments],
        dependencies=dependencies,
        attrs=attrs,
        extra={"level": over, "noise": over, "cells": ((), (), np.int64)},
    )


def _check_region(region: list[int], shape: tuple[int, int], cell: int) -> None:
    if not region:
        return
    if len(region) != 4:
        raise ConfigError(f"region = {region}: give x0, y0, x1, y1 in canvas pixels")
    x0, y0, x1, y1 = region
    if not (0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0]):
        raise ConfigError(f"region = {region} does not lie in the canvas of {shape[1]} × {shape[0]} pixels")
    if min(x1 - x0, y1 - y0) < 2 * cell:
        raise ConfigError(f"region = {region} is smaller than two cells of {cell} pixels; make it larger")
