"""Lazy results of a canvas, a task a tile, and small results in one piece: the graphs under the ops of colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from skyloom.ops.arrays import array_spec
from skyloom.ops.blocks import Block, BlockLayer, Blocks, extended
from skyloom.ops.errors import ConfigError
from skyloom.ops.frames import open_source
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost

Tile = tuple[slice, slice]
Work = Callable[..., Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Planes:
    """The planes of one variable of a canvas as sources: any window of all of them, halo included."""

    specs: tuple[str, ...]
    shape: tuple[int, int]
    """Rows, columns of the canvas."""

    @classmethod
    def of(cls, dataset: xr.Dataset, variable: str, *, take: Sequence[int] | None = None) -> Planes:
        """Planes along the first dimension of a variable over (band or channel, y, x)."""
        item = dataset[variable]
        lead = str(item.dims[0])
        indices = range(item.sizes[lead]) if take is None else take
        specs = tuple(array_spec(dataset, variable, **{lead: int(i)}) for i in indices)
        return cls(specs, (int(item.sizes["y"]), int(item.sizes["x"])))

    def read(self, rows: slice, columns: slice, *, halo: int = 0) -> NDArray[np.float32]:
        """Pixels of a window, shape (planes, rows + 2·halo, columns + 2·halo); NaN beyond the canvas."""
        height, width = rows.stop - rows.start + 2 * halo, columns.stop - columns.start + 2 * halo
        out = np.full((len(self.specs), height, width), np.nan, dtype=np.float32)
        top, left = rows.start - halo, columns.start - halo
        y = slice(max(top, 0), min(rows.stop + halo, self.shape[0]))
        x = slice(max(left, 0), min(columns.stop + halo, self.shape[1]))
        for plane, spec in zip(out, self.specs, strict=True):
            plane[y.start - top : y.stop - top, x.start - left : x.stop - left] = open_source(spec).read(y, x)
        return out


@dataclass(frozen=True)
class Output:
    """One array of a tile's result: over lead dimensions, then y and x, then tail dimensions."""

    dtype: Any
    lead: Mapping[str, int]
    """Dimension → length; empty for (y, x)."""
    tail: Mapping[str, int]
    cell: int = 1
    """Canvas pixels a side that one element stands for."""

    @classmethod
    def image(cls, dtype: Any, lead: Mapping[str, int] | None = None) -> Output:
        """An array of pixels."""
        return cls(dtype, lead or {}, {})


class Dependencies:
    """Small arrays a graph depends on: computed once, whole, and handed to every task."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []

    def argument(self, variable: xr.DataArray) -> Any:
        """Return what a task takes for a variable: the array, or the key under which it is computed."""
        data = variable.data
        if not isinstance(data, da.Array):
            return np.asarray(data)
        whole = data.rechunk(-1, method="tasks") if data.npartitions > 1 else data
        self.arrays.append(whole)
        return (whole.name, *(0 for _ in whole.shape))


def grid_of(dataset: xr.Dataset, *, multiple: int = 1) -> Grid:
    """Canvas of a Dataset, its tiles a multiple of `multiple` pixels.

    Raises
    ------
    ConfigError
        If they are not, so that what belongs to one tile would be cut.
    """
    grid = Grid.from_attrs(dataset.attrs)
    if grid.tile % multiple and grid.tiles != (1, 1):
        raise ConfigError(f"tile = {grid.tile} should be a multiple of {multiple}")
    return grid


def by_tiles(
    name: str,
    grid: Grid,
    work: Work,
    outputs: Mapping[str, Output],
    *,
    arguments: Sequence[Any] = (),
    dependencies: Dependencies | None = None,
) -> dict[str, tuple[tuple[str, ...], da.Array]]:
    """Lazy arrays of a canvas, one task a tile.

    Parameters
    ----------
    name
        Of the op, for the keys.
    grid
        The canvas; its tiles are the chunks.
    work
        Called with a tile's (rows, columns) and the arguments; returns its arrays by name. A frozen dataclass with
        `__call__`: it travels to the worker.
    outputs
        What each array is.
    arguments
        Further arguments of `work`, from `dependencies.argument`.
    dependencies
        Arrays they come from.

    Returns
    -------
    dict
        Name → (dimensions, dask array), as `xarray.Dataset` takes them.
    """
    needed = dependencies.arrays if dependencies is not None else []
    token = tokenize(name, grid, repr(work), [a.name for a in needed], [repr(a) for a in arguments])
    base = f"{name}-tile-{token}"

    def task(block: Block) -> tuple[Any, ...]:
        return (_run, work, _Window(*grid.window(*block)), *arguments)

    shared = HighLevelGraph.from_collections(base, BlockLayer(base, Blocks(grid.tiles), task), dependencies=needed)
    variables = {}
    for variable, output in outputs.items():
        key = f"{name}-{variable}-{token}"
        first = len(output.lead)

        def pick(block: Block, variable: str = variable, first: int = first) -> tuple[Any, ...]:
            return (_pick, (base, *block[first : first + 2]), variable)

        blocks = Blocks((1,) * first + grid.tiles + (1,) * len(output.tail))
        graph = extended(shared, BlockLayer(key, blocks, pick), needs=base)
        sizes = tuple(tuple(-(-n // output.cell) for n in axis) for axis in grid.chunks)
        chunks = (*((n,) for n in output.lead.values()), *sizes, *((n,) for n in output.tail.values()))
        array = da.Array(graph, key, chunks=chunks, dtype=output.dtype)
        variables[variable] = ((*output.lead, "y", "x", *output.tail), array)
    return variables


def in_one_piece(
    name: str,
    work: Work,
    outputs: Mapping[str, tuple[tuple[str, ...], tuple[int, ...], Any]],
    *,
    arguments: Sequence[Any],
    dependencies: Dependencies,
) -> dict[str, tuple[tuple[str, ...], da.Array]]:
    """Lazy arrays of a small result that needs all of its inputs: one task.

    Parameters
    ----------
    name, work, arguments, dependencies
        As for `by_tiles`, `work` without a tile.
    outputs
        Name → (dimensions, shape, dtype).
    """
    token = tokenize(name, repr(work), [a.name for a in dependencies.arrays], [repr(a) for a in arguments])
    base = f"{name}-all-{token}"
    shared = HighLevelGraph.from_collections(
        base, {base: (_run, work, *arguments)}, dependencies=dependencies.arrays
    )
    variables = {}
    for variable, (dims, shape, dtype) in outputs.items():
        key = f"{name}-{variable}-{token}"
        layer: dict[Any, Any] = {(key, *(0 for _ in shape)): (_pick, base, variable)}
        graph = HighLevelGraph({**shared.layers, key: layer}, {**shared.dependencies, key: {base}})
        variables[variable] = (dims, da.Array(graph, key, chunks=tuple((n,) for n in shape), dtype=dtype))
    return variables


def whole_cost(dataset: xr.Dataset, names: Sequence[str], *, copies: float) -> Cost:
    """Cost of a result in one piece that holds some arrays of an input whole, `copies` times at its peak."""
    size = float(sum(dataset[n].nbytes for n in names))
    return Cost(
        work=np.array(max(size / 4e6, 1e-3)), read=np.array(size), memory=np.array(copies * size), rate=20.0
    )


@dataclass(frozen=True)
class _Window:
    """Rows and columns of a tile; in a class of its own, which dask does not search for keys."""

    rows: slice
    columns: slice


def _run(work: Work, *arguments: Any) -> Mapping[str, NDArray[Any]]:
    plain = [(a.rows, a.columns) if isinstance(a, _Window) else a for a in arguments]
    return work(*plain)


def _pick(result: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    return result[name]
