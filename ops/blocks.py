"""Layers of a graph whose tasks are made when they are asked for: a graph of any size takes no memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from typing import Any

import numpy as np
from dask.core import keys_in_tasks
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

Block = tuple[int, ...]


class Blocks(Collection[Block]):
    """All places of an array's blocks, none of them held."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __contains__(self, block: object) -> bool:
        return (
            isinstance(block, tuple)
            and len(block) == len(self.shape)
            and all(isinstance(i, int) and 0 <= i < n for i, n in zip(block, self.shape, strict=True))
        )

    def __iter__(self) -> Iterator[Block]:
        return np.ndindex(*self.shape)

    def __len__(self) -> int:
        return math.prod(self.shape)


class BlockLayer(Layer):
    """A layer with one task a block, keyed (name, *block).

    dask's own layers hold their tasks. With a thousand frames those of all nodes take tens of MiB while a run is
    planned, and what they leave of the heap in pieces stays with the process.

    Parameters
    ----------
    name
        Of the layer.
    blocks
        Places that have a task: a `Blocks`, or those of a sparse array.
    make
        Makes the task of a place; called each time one is looked at.
    """

    def __init__(self, name: str, blocks: Collection[Block], make: Callable[[Block], Any]) -> None:
        super().__init__()
        self.name = name
        self.blocks = blocks
        self.make = make

    @property
    def has_legacy_tasks(self) -> bool:
        """Tasks are tuples; asked for by dask, which would look at them all."""
        return True

    def is_materialized(self) -> bool:
        """Whether the tasks are held."""
        return False

    def get_output_keys(self) -> Set[Any]:
        """Keys of all blocks."""
        return self.keys()

    def cull(self, keys: Set[Any], all_hlg_keys: Collection[Any]) -> tuple[Layer, Mapping[Any, set[Any]]]:
        """Return a layer of the tasks of some keys, and the keys each depends on."""
        tasks = {k: self[k] for k in keys if k in self}
        return MaterializedLayer(tasks), {k: keys_in_tasks(all_hlg_keys, [t]) for k, t in tasks.items()}

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and bool(key) and key[0] == self.name and key[1:] in self.blocks

    def __getitem__(self, key: Any) -> Any:
        if key not in self:
            raise KeyError(key)
        return self.make(key[1:])

    def __iter__(self) -> Iterator[Any]:
        return ((self.name, *block) for block in self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)


def extended(graph: HighLevelGraph, layer: BlockLayer, *, needs: str) -> HighLevelGraph:
    """Return a graph with one more layer, whose tasks refer to the layer called `needs`."""
    return HighLevelGraph(
        {**graph.layers, layer.name: layer}, {**graph.dependencies, layer.name: {needs}}
    )  # fmt: skip


class Tasks(Mapping[Any, Any]):
    """The tasks of several graphs by key, looked up where they are: nothing is copied, nothing made unasked."""

    def __init__(self, graphs: Collection[Any]) -> None:
        self.layers: dict[str, Mapping[Any, Any]] = {}
        for number, graph in enumerate(graphs):
            layers = graph.layers if isinstance(graph, HighLevelGraph) else {f"graph-{number}": graph}
            self.layers.update(layers)

    def _layer(self, key: Any) -> Mapping[Any, Any] | None:
        # A layer is nearly always called as its keys are.
        named = self.layers.get(key[0] if isinstance(key, tuple) and key and isinstance(key[0], str) else key)
        if named is not None and key in named:
            return named
        return next((layer for layer in self.layers.values() if key in layer), None)

    def __contains__(self, key: object) -> bool:
        return self._layer(key) is not None

    def __getitem__(self, key: Any) -> Any:
        layer = self._layer(key)
        if layer is None:
            raise KeyError(key)
        return layer[key]

    def __iter__(self) -> Iterator[Any]:
        return (key for layer in self.layers.values() for key in layer)

    def __len__(self) -> int:
        return sum(len(layer) for layer in self.layers.values())
