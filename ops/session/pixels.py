"""Pixels of a frame of the session, lazily."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.frames import open_source

BLOCK_BYTES = 2**24
"""Size of the blocks of `frame_pixels` (bytes of float32)."""


def frame_pixels(session: xr.Dataset, index: int) -> xr.DataArray:
    """Pixels of a frame, read when computed.

    Parameters
    ----------
    session
        As `ingest` returns it.
    index
        Row of the session.

    Returns
    -------
    xarray.DataArray
        float32 (y, x), dask-backed in bands of rows (frames that must be decoded whole: one chunk); NaN = no data;
        attrs `name`, `units`, `band`.
    """
    row = session.isel(frame=index)
    spec = str(row["source"].values)
    height, width = int(row["height"]), int(row["width"])
    band = min(height, max(1, BLOCK_BYTES // (4 * width))) if open_source(spec).windowed else height
    starts = list(range(0, height, band))
    name = f"frame-{dask.base.tokenize(spec, band)}"
    graph = {(name, i, 0): (_read_rows, spec, y, min(y + band, height)) for i, y in enumerate(starts)}
    chunks = (tuple(min(band, height - y) for y in starts), (width,))
    array = da.Array(graph, name, chunks, dtype=np.float32)
    attrs = {key: str(row[key].values) for key in ("name", "units", "band")}
    return xr.DataArray(array, dims=("y", "x"), attrs=attrs, name=attrs["name"])


def _read_rows(spec: str, start: int, stop: int) -> NDArray[np.float32]:
    source = open_source(spec)
    return source.read(slice(start, stop), slice(0, source.shape[1]))
