"""Lazy results of one task for all frames: the solves, and what is judged of all frames together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from dask.highlevelgraph import HighLevelGraph

Kind = tuple[Any, tuple[int, ...], tuple[str, ...]]
"""Type, shape, dimensions of a result."""


@dataclass(frozen=True)
class _Place:
    """Where a computed array belongs."""

    number: int


@dataclass(frozen=True)
class _Solve:
    """The task with what is known of its arguments."""

    task: Callable[..., Mapping[str, Any]]
    arguments: tuple[Any, ...]

    def __call__(self, *computed: Any) -> Mapping[str, Any]:
        """Call the task with the arrays in their places."""

        def filled(argument: Any) -> Any:
            if isinstance(argument, _Place):
                return computed[argument.number]
            return [filled(a) for a in argument] if isinstance(argument, list) else argument

        return self.task(*(filled(a) for a in self.arguments))


def solved_arrays(
    name: str,
    token: str,
    task: Callable[..., Mapping[str, Any]],
    arguments: Sequence[Any],
    kinds: Mapping[str, Kind],
) -> dict[str, tuple[tuple[str, ...], da.Array]]:
    """Variables of a Dataset, all from one call of a task.

    `dask.delayed` does the same; with dask arrays as arguments it imports dask's distributed scheduler, a fifth of
    a second of every start (so does rechunking without a method).

    Parameters
    ----------
    name, token
        Begin and end of the names of the graph's layers.
    task
        Returns an array for each of `kinds`.
    arguments
        Of the task; dask arrays among them, and in lists, are computed, each as a whole.
    kinds
        What comes.
    """
    arrays: list[da.Array] = []

    def placed(argument: Any) -> Any:
        if isinstance(argument, da.Array):
            arrays.append(argument.rechunk(-1, method="tasks"))
            return _Place(len(arrays) - 1)
        return [placed(a) for a in argument] if isinstance(argument, list) else argument

    solve = _Solve(task, tuple(placed(a) for a in arguments))
    key = f"{name}-solve-{token}"
    needs = [(a.name, *(0,) * a.ndim) for a in arrays]
    dependencies: list[Any] = list(arrays)
    base = HighLevelGraph.from_collections(key, {key: (solve, *needs)}, dependencies=dependencies)
    variables = {}
    for variable, (dtype, shape, dims) in kinds.items():
        layer = f"{name}-{variable}-{token}"
        block: Any = (layer, *(0,) * len(shape))
        graph = HighLevelGraph(
            {**base.layers, layer: {block: (_pick, key, variable)}}, {**base.dependencies, layer: {key}}
        )
        variables[variable] = (dims, da.Array(graph, layer, chunks=tuple((n,) for n in shape), dtype=dtype))
    return variables


def _pick(result: Mapping[str, Any], name: str) -> Any:
    return np.asarray(result[name])
