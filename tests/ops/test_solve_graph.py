"""One task for all frames: what it is given, what comes of it, and that nothing runs before it is asked for."""

from __future__ import annotations

import pickle
from typing import Any

import dask.array as da
import numpy as np
import pytest

from skyloom.ops.solve_graph import solved_arrays

CALLS: list[str] = []


def task(stars: Any, before: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    CALLS.append("called")
    assert isinstance(stars, np.ndarray)
    return {"sum": stars.sum(axis=1) + options["add"], "count": len(before) and before[1].sum(), "all": stars}


def test_arguments_come_computed_and_whole() -> None:
    CALLS.clear()
    stars = da.arange(12, chunks=5).reshape(4, 3).rechunk((1, 3))
    before = [da.ones(3, chunks=1), da.arange(4, chunks=3)]
    kinds = {
        "sum": (np.float64, (4,), ("frame",)),
        "count": (np.int64, (), ()),
        "all": (np.int64, (4, 3), ("frame", "axis")),
    }
    made = solved_arrays("toy", "t", task, [stars, before, {"add": 0.5}], kinds)
    assert CALLS == []
    assert {name: dims for name, (dims, _) in made.items()} == {n: k[2] for n, k in kinds.items()}
    total, count, whole = (made[n][1] for n in kinds)
    values = da.compute(total, count, whole, scheduler="synchronous")
    assert CALLS == ["called"], "once for all of them"
    np.testing.assert_array_equal(values[0], np.arange(12).reshape(4, 3).sum(axis=1) + 0.5)
    assert values[1] == 6
    np.testing.assert_array_equal(values[2], np.arange(12).reshape(4, 3))
    assert (total.shape, total.dtype, count.shape, whole.chunks) == ((4,), np.float64, (), ((4,), (3,)))


def test_graphs_travel() -> None:
    kinds = {"sum": (np.float64, (2,), ("frame",))}
    array = solved_arrays("toy", "t", task, [da.ones((2, 2), chunks=1), [], {"add": 1.0}], kinds)["sum"][1]
    sent = pickle.loads(pickle.dumps(dict(array.__dask_graph__())))
    assert dask_get(sent, array) == pytest.approx([3.0, 3.0])


def dask_get(graph: dict[Any, Any], array: da.Array) -> Any:
    from dask.local import get_sync

    return get_sync(graph, (array.name, 0))
