"""Bands of several mosaics in one."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr

from skyloom.ops.colour.adjustment import band_names
from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import register


@register(version=1, unit=("band", "y", "x"))
def merge_bands(
    first: xr.Dataset,
    second: xr.Dataset,
    third: xr.Dataset | None = None,
    fourth: xr.Dataset | None = None,
) -> xr.Dataset:
    """Put the bands of up to four mosaics of the same canvas together.

    Parameters
    ----------
    first, second, third, fourth
        Mosaics over (band, y, x) with different bands.

    Returns
    -------
    xarray.Dataset
        All bands of the variables that all of them have.

    Raises
    ------
    DataError
        If the canvases differ, or a band is there twice.
    """
    mosaics = [m for m in (first, second, third, fourth) if m is not None]
    grid = Grid.from_attrs(mosaics[0].attrs)
    bands: list[str] = []
    for mosaic in mosaics:
        other = Grid.from_attrs(mosaic.attrs)
        names = band_names(mosaic)
        if other.shape != grid.shape or other.header != grid.header:
            raise DataError(
                f"the bands {', '.join(bands)} lie on a canvas of {_size(grid)}, {', '.join(names)} on another of "
                f"{_size(other)}; integrate all of them with the same registration"
            )
        twice = sorted(set(names) & set(bands))
        if twice:
            raise DataError(f"band {twice[0]!r} is there twice; leave one of the two out")
        bands += names
    linear = {bool(m.attrs.get("linear", True)) for m in mosaics}
    if len(linear) > 1:
        raise DataError("some of these mosaics are linear, some stretched; merge linear ones")
    rows, columns = grid.chunks
    variables = {}
    for name, item in first.data_vars.items():
        if all(name in m for m in mosaics) and item.dims == ("band", "y", "x"):
            arrays = [
                da.asarray(m[name].data).rechunk({0: 1, 1: rows, 2: columns}, method="tasks") for m in mosaics
            ]
            variables[name] = (item.dims, da.concatenate(arrays, axis=0), item.attrs)
    attrs = {k: v for k, v in first.attrs.items() if k != "provenance"}
    return xr.Dataset(variables, coords={"band": np.asarray(bands, dtype=str)}, attrs=attrs)


def _size(grid: Grid) -> str:
    return f"{grid.shape[1]} × {grid.shape[0]} pixels of {grid.pixel_scale:.3g} arcsec"
