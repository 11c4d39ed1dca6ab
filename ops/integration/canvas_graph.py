"""Lazy results over a canvas whose tiles are made from the frames over them and what was solved of all frames."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from skyloom.ops.blocks import Block, BlockLayer, Blocks, extended
from skyloom.ops.grid import Grid
from skyloom.ops.integration.combine import Combined

DTYPES: Mapping[str, Any] = {
    "image": np.float32,
    "weight": np.float32,
    "variance": np.float32,
    "count": np.uint16,
    "rejected_low": np.uint16,
    "rejected_high": np.uint16,
}
"""Arrays of a tile's result."""


def canvas_arrays(
    name: str, token: str, grid: Grid, bands: int, tiles: Collection[Block], *,
    work: Callable[..., Combined], spec: Callable[[Block], Any], solution: tuple[Any, ...],
    dependencies: Sequence[Any],
) -> Mapping[str, tuple[tuple[str, ...], da.Array]]:  # fmt: skip
    """Variables over (band, y, x) of a canvas, one block a tile.

    Parameters
    ----------
    name, token
        Begin and end of the names of the graph's layers.
    grid
        The canvas.
    bands
        How many there are.
    tiles
        (band, ty, tx) of those with frames.
    work, spec
        A tile is work(spec(tile), solution).
    solution
        Task that gathers the solution from `dependencies`, dask arrays.
    """
    solution_key, tiles_name = f"{name}-solution-{token}", f"{name}-tile-{token}"

    def tile_task(block: Block) -> tuple[Any, ...]:
        return (work, spec(block), solution_key)

    first = HighLevelGraph.from_collections(solution_key, {solution_key: solution}, dependencies=dependencies)
    base = extended(first, BlockLayer(tiles_name, tiles, tile_task), needs=solution_key)
    chunks = ((1,) * bands, *grid.chunks)
    variables = {}
    for variable, dtype in DTYPES.items():
        layer_name = f"{name}-{variable}-{token}"

        def block_task(block: Block, variable: str = variable) -> tuple[Any, ...]:
            if block in tiles:
                return (_pick, (tiles_name, *block), variable)
            return (_fill, chunks[1][block[1]], chunks[2][block[2]], variable)

        layer = BlockLayer(layer_name, Blocks((bands, *grid.tiles)), block_task)
        array = da.Array(extended(base, layer, needs=tiles_name), layer_name, chunks=chunks, dtype=dtype)
        variables[variable] = (("band", "y", "x"), array)
    return variables


def _pick(result: Combined, name: str) -> NDArray[Any]:
    """One array of a tile's result, over (band, y, x)."""
    return np.asarray(getattr(result, name))[np.newaxis]


def _fill(rows: int, columns: int, name: str) -> NDArray[Any]:
    """The same of a tile without frames."""
    dtype = np.dtype(DTYPES[name])
    return np.full((1, rows, columns), np.nan if dtype.kind == "f" else 0, dtype=dtype)
