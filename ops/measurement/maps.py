"""Maps of background and noise: the cells of a measurement in the words people ask for them."""

from __future__ import annotations

import numpy as np
import xarray as xr

from skyloom.ops.errors import DataError


def frame_maps(measurement: xr.Dataset) -> xr.Dataset:
    """Background and noise of every frame, on its cells, stars left out.

    Parameters
    ----------
    measurement
        From `measure`.

    Returns
    -------
    xarray.Dataset
        Over (frame, cell_y, cell_x), as lazy as the measurement: `background` (clipped mean) and `noise` (rms of a
        pixel about it; structure within a cell counts as noise), in the frames' units, NaN where no pixel was;
        `valid` (fraction of the pixels that were used). Coordinates `x` and `y`: the cells' middles (px).

    Raises
    ------
    DataError
        If there are no cells in it.

    Notes
    -----
    The error of a cell's mean is noise / √(used pixels).
    """
    if "cells" not in measurement or "cell" not in measurement.attrs:
        raise DataError("these results hold no cells; give those of `measure`")
    cell = float(measurement.attrs["cell"])
    quantities = [str(q) for q in measurement["cell_quantity"].values]
    mean, error, valid = (
        measurement["cells"].isel(cell_quantity=quantities.index(n), drop=True) for n in ("mean", "error", "valid")
    )
    middle = {
        axis: (f"cell_{axis}", (np.arange(measurement.sizes[f"cell_{axis}"]) + 0.5) * cell - 0.5) for axis in "xy"
    }
    maps = {"background": mean, "noise": error * np.sqrt(valid) * np.float32(cell), "valid": valid}
    return xr.Dataset(maps).assign_coords(middle)
