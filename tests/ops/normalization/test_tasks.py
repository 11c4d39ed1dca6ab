"""The graph of the solve: what rests on what."""

from __future__ import annotations

import dask.array as da
import numpy as np
from dask.core import flatten, get_dependencies

from skyloom.ops.grid import Grid
from skyloom.ops.normalization.tasks import Options, Table, solve_tasks


class Stored:
    """An array that is read block by block."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.ndim, self.dtype = shape, len(shape), np.dtype(np.float64)

    def __getitem__(self, index: object) -> np.ndarray:
        raise AssertionError("read while building")


def arrays(n: int) -> dict[str, da.Array]:
    shapes = {"stars": (n, 10, 9), "cells": (n, 4, 4, 3), "summary": (n, 7), "use": (n,), "shift": (n, 2)}
    built = {k: da.from_array(Stored(s), chunks=(1, *s[1:])) for k, s in shapes.items()}
    return {**built, "reason": da.from_array(np.array([""] * n), chunks=-1)}


def table(n: int, canvas: Grid) -> tuple[Table, Options]:
    text = np.array([""] * n)
    columns = dict.fromkeys(("wcs", "units"), text) | {k: np.ones(n) for k in ("height", "width", "exposure")}
    columns["band"] = np.array(["L", "R"] * (n // 2))
    inside = np.ones(n, dtype=bool)
    inside[1] = False
    return Table(columns, inside, ("L", "R")), Options(canvas, 16, "joint", 2, None, 5.0)


def test_frames_read_their_own_blocks_inside_their_tasks(canvas: Grid) -> None:
    """Else dask notes for every frame the reads of all the others: memory with the square of the frames."""
    lazy = arrays(6)
    frames, options = table(6, canvas)
    _, tasks = solve_tasks(frames, lazy, options, "solved")
    graph = {k: v for array in lazy.values() for k, v in dict(array.__dask_graph__()).items()} | tasks
    blocks = {key for name in ("stars", "cells") for key in flatten(lazy[name].__dask_keys__())}
    assert len(blocks) == 12
    for i in (0, 2, 3, 4, 5):
        assert not get_dependencies(graph, ("solved-place", i)) & blocks
        assert not get_dependencies(graph, ("solved-sample", i)) & blocks
        assert {("solved-place", i), "solved-sky"} <= get_dependencies(graph, ("solved-sample", i))
    assert ("solved-place", 1) not in tasks


def test_a_band_waits_for_its_own_frames_only(canvas: Grid) -> None:
    frames, options = table(6, canvas)
    _, tasks = solve_tasks(frames, arrays(6), options, "solved")
    for band, rows in enumerate(((0, 2, 4), (3, 5))):
        members = {("solved-sample", i) for i in rows}
        assert get_dependencies(tasks, ("solved-scales", band)) == {"solved-sky", *members}
        assert get_dependencies(tasks, ("solved-joined", band)) == {("solved-scales", band), *members}
        assert get_dependencies(tasks, ("solved-solution", band)) == {
            ("solved-scales", band),
            ("solved-joined", band),
        }
