"""Block means of every frame: small enough to compare all frames of a place, and to see what is wide and dim."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.artifacts.coarse import STEP, shape_in
from skyloom.ops.errors import DataError
from skyloom.ops.integration.overlaps import FrameSpec, frame_spec
from skyloom.ops.integration.single import read_window
from skyloom.ops.registry import Cost, register
from skyloom.ops.unit_keys import digest

ROWS = 512
"""Rows of a frame read at a time, where its source reads windows."""
SOURCE_BYTES = 8.0
RATE = 150.0
"""Mpixel a second."""


@njit(nogil=True, cache=True)
def block_means(image: NDArray[np.float32], step: int, out: NDArray[np.float32]) -> None:
    """Mean of the finite pixels of blocks of `step` × `step`; NaN where less than half are."""
    height, width = image.shape
    sums = np.empty(out.shape[1], dtype=np.float64)
    counts = np.empty(out.shape[1], dtype=np.int64)
    for by in range(out.shape[0]):
        sums[:] = 0.0
        counts[:] = 0
        for y in range(by * step, min((by + 1) * step, height)):
            for bx in range(out.shape[1]):
                for x in range(bx * step, min((bx + 1) * step, width)):
                    value = image[y, x]
                    if np.isfinite(value):
                        sums[bx] += value
                        counts[bx] += 1
        for bx in range(out.shape[1]):
            enough = 2 * counts[bx] >= step * step
            out[by, bx] = sums[bx] / counts[bx] if enough else np.nan


def _shrunken(frame: FrameSpec, padded: tuple[int, int], rows: int) -> NDArray[np.float32]:
    out = np.full((1, *padded), np.nan, dtype=np.float32)
    height, width = frame.shape
    try:
        for start in range(0, height, rows):
            stop = min(start + rows, height)
            image = read_window(frame, (slice(start, stop), slice(0, width)))
            first, last = start // STEP, -(-stop // STEP)
            block_means(image, STEP, out[0, first:last, : -(-width // STEP)])
    except DataError:
        # `measure` says of each frame whether it can be read; one that cannot has no artifacts.
        out[...] = np.nan
    return out


def _padded(session: xr.Dataset) -> tuple[int, int]:
    return shape_in((int(session["height"].values.max()), int(session["width"].values.max())), STEP)


def _cost(session: xr.Dataset) -> Cost:
    heights, widths = (session[v].values.astype(np.float64) for v in ("height", "width"))
    pixels = heights * widths
    source = float(session.attrs.get("source_bytes", SOURCE_BYTES))
    memory = source * widths * np.minimum(heights, ROWS) + 4.0 * float(np.prod(_padded(session)))
    return Cost(work=pixels / 1e6, read=4.0 * pixels, memory=memory + 1e6, rate=RATE)


def _keys(session: xr.Dataset) -> NDArray[np.str_]:
    columns = [session[v].values.tolist() for v in ("frame", "height", "width")]
    padded = _padded(session)
    return np.array([digest(padded, *row) for row in zip(*columns, strict=True)], dtype=np.str_)


@register(version=1, unit=("frame",), cost=_cost, keys=_keys)
def shrink(session: xr.Dataset) -> xr.Dataset:
    """Average every frame over blocks of 4 × 4 pixels, for `consensus` and `artifacts`.

    Parameters
    ----------
    session
        Frames (`ingest`).

    Returns
    -------
    xarray.Dataset
        Lazy, one task a frame: `mean` (frame, block_y, block_x) float32, frame units, NaN where less than half of
        a block has data. Attribute `step`: pixels a side.

    Raises
    ------
    DataError
        If the session has no frames.

    Notes
    -----
    Every frame is read once, in strips of 512 rows.
    """
    count = session.sizes["frame"]
    if not count:
        raise DataError("the session has no frames to shrink")
    padded = _padded(session)
    specs = [frame_spec(session, i) for i in range(count)]
    token = tokenize("shrink", [repr(s) for s in specs])
    key = f"shrink-mean-{token}"
    tasks: dict[Any, Any] = {(key, i, 0, 0): (_shrunken, spec, padded, ROWS) for i, spec in enumerate(specs)}
    graph = HighLevelGraph({key: tasks}, {key: set()})
    array = da.Array(graph, key, ((1,) * count, *((n,) for n in padded)), dtype=np.float32)
    return xr.Dataset(
        {"mean": (("frame", "block_y", "block_x"), array)},
        coords={"frame": session["frame"].values},
        attrs={"step": STEP},
    )
