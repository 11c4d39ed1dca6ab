"""Layers on demand give dask what layers of tuples give it, and make no task that nobody needs."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask.highlevelgraph import HighLevelGraph
from dask.optimization import cull

from skyloom.ops.blocks import Block, BlockLayer, Blocks, Tasks, extended


def _value(row: int, column: int) -> np.ndarray[Any, Any]:
    return np.full((2, 3), 10 * row + column)


def _double(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return 2 * value


class _Counted:
    """Makes tasks and remembers for which blocks."""

    def __init__(self) -> None:
        self.asked: list[Block] = []

    def __call__(self, block: Block) -> tuple[Any, ...]:
        self.asked.append(block)
        return (_value, *block)


def _array(make: _Counted, shape: tuple[int, int] = (4, 5)) -> da.Array:
    first = HighLevelGraph({"first": BlockLayer("first", Blocks(shape), make)}, {"first": set()})
    second = BlockLayer("second", Blocks(shape), lambda block: (_double, ("first", *block)))
    chunks = ((2,) * shape[0], (3,) * shape[1])
    return da.Array(extended(first, second, needs="first"), "second", chunks=chunks, dtype=np.int64)


def test_blocks_are_those_of_the_shape() -> None:
    blocks = Blocks((2, 1, 3))
    assert list(blocks) == [(i, 0, j) for i in range(2) for j in range(3)]
    assert len(blocks) == 6
    assert (1, 0, 2) in blocks
    for wrong in ((2, 0, 0), (0, 0), (0, 0, 3), (-1, 0, 0), "abc", (0, 0, "x")):
        assert wrong not in blocks


def test_computes_what_a_materialized_graph_computes() -> None:
    make = _Counted()
    expected = 2 * np.repeat(np.repeat(10 * np.arange(4)[:, None] + np.arange(5), 2, axis=0), 3, axis=1)
    np.testing.assert_array_equal(_array(make).compute(scheduler="synchronous"), expected)
    rechunked = _array(make).rechunk(-1) + 1
    np.testing.assert_array_equal(rechunked.compute(scheduler="synchronous"), expected + 1)
    window = _array(make)[3:5, 4:7].compute(scheduler="threads")
    np.testing.assert_array_equal(window, expected[3:5, 4:7])
    assert _array(make).sum().compute(scheduler="threads") == expected.sum()


def test_building_and_culling_make_only_the_tasks_needed() -> None:
    make = _Counted()
    array = _array(make, (1000, 1000))
    assert make.asked == []
    part, _ = cull(Tasks([array.__dask_graph__()]), [("second", 7, 11)])
    assert set(part) == {("second", 7, 11), ("first", 7, 11)}
    assert set(make.asked) == {(7, 11)}


def test_only_the_blocks_of_a_sparse_layer_have_tasks() -> None:
    layer = BlockLayer("sparse", {(0, 1), (3, 3)}, _Counted())
    assert set(layer) == {("sparse", 0, 1), ("sparse", 3, 3)}
    assert ("sparse", 0, 0) not in layer
    assert ("other", 0, 1) not in layer
    with pytest.raises(KeyError):
        layer["sparse", 0, 0]
    culled, needs = layer.cull({("sparse", 0, 1), ("sparse", 9, 9), "other"}, set())
    assert dict(culled) == {("sparse", 0, 1): (_value, 0, 1)}
    assert needs == {("sparse", 0, 1): set()}


def test_tasks_of_several_graphs_are_one_mapping() -> None:
    array = _array(_Counted(), (2, 2))
    tasks = Tasks([array.__dask_graph__(), {"lone": (_value, 1, 2), ("odd", 0): "lone"}])
    merged = {**dict(array.__dask_graph__()), "lone": (_value, 1, 2), ("odd", 0): "lone"}
    assert dict(tasks) == merged
    assert len(tasks) == len(merged)
    assert "nothing" not in tasks
    assert ("second", 5, 5) not in tasks
    with pytest.raises(KeyError):
        tasks["nothing"]
