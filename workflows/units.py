"""Units as tasks: a part of the dask graph, computed and written where it travels."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import xarray as xr
from dask.local import get_sync
from dask.optimization import cull
from numpy.typing import NDArray

from skyloom.ops.blocks import Tasks
from skyloom.ops.errors import CapacityError, ClusterError, DataError, SkyloomError, prefixed
from skyloom.ops.registry import Lasting
from skyloom.workflows.journal import UnitRecord
from skyloom.workflows.layout import Layout
from skyloom.workflows.machine import peak_memory, release_memory
from skyloom.workflows.source_hash import source_id
from skyloom.workflows.store import UnitWriter
from skyloom.workflows.stored import DamagedResult

ATTEMPTS = 3
"""Tries of a unit whose files or store gave an error of the system (not of the data), or which hung."""

GIVE_BACK_SECONDS = 0.25
"""Freed memory is handed back to the system this often; longer units do so each."""


@dataclass(frozen=True)
class UnitTask:
    """One unit: its part of the dask graph and where its arrays go. Self-sufficient, travels to a worker."""

    unit: tuple[int, ...]
    graph: Mapping[Any, Any]
    keys: tuple[Any, ...]
    writer: UnitWriter
    key: str = ""
    """What the unit depends on."""
    lasting: Lasting | None = None

    def run(self) -> tuple[UnitRecord, ...]:
        """Compute and write it."""
        return (run_unit(self),)


class Task(Protocol):
    """What `drive` runs."""

    @property
    def unit(self) -> tuple[int, ...]:
        """Named when the task fails."""

    def run(self) -> tuple[UnitRecord, ...]:
        """Do it; returns the units that are in the store now."""


def run_task(task: Task, source: str = "") -> tuple[UnitRecord, ...]:
    """Run a task where it has travelled to.

    Raises
    ------
    ClusterError
        If another skyloom than `source` is there: a worker that came later.
    """
    if source and source != source_id():
        raise ClusterError(
            f"the worker {worker_name()} runs skyloom {source_id()}, here is {source}; install the same there, "
            "start the workers anew and run the same command again"
        )
    return task.run()


def run_unit(task: UnitTask) -> UnitRecord:
    """Compute a unit with dask's synchronous scheduler and write it.

    Parallelism comes from units: one thread a unit makes its memory what the plan says.
    """
    begin = time.monotonic()
    arrays = get_sync(dict(task.graph), list(task.keys))
    names = [v.name for v in task.writer.layout.variables]
    named = dict(zip(names, arrays, strict=True))
    key = task.key if task.lasting is None or task.lasting(named) else ""
    checksum = replace(task.writer, key=key).write(task.unit, named)
    del arrays, named
    _give_back()
    seconds = round(time.monotonic() - begin, 4)
    return UnitRecord(
        task.unit, checksum, seconds, round(time.time(), 3), key, False, peak_memory(), worker_name()
    )


def worker_name() -> str:
    """Address of the worker of a cluster this runs on, "" outside of one."""
    # Not imported for this: where it is not there already, this is no worker.
    module = sys.modules.get("distributed.worker")
    if module is None:
        return ""
    try:
        return str(module.get_worker().address)
    except ValueError:
        return ""


_given_back = 0.0


def _give_back() -> None:
    """Hand freed memory back, once in `GIVE_BACK_SECONDS` at most.

    Many units leave holes in the heap of each thread: without this a large canvas peaks higher than a small one.
    After every unit it would cost small ones a tenth of their time, most of it to get the pages again.
    """
    global _given_back  # noqa: PLW0603  (a race makes it happen twice)
    now = time.monotonic()
    if now - _given_back >= GIVE_BACK_SECONDS:
        _given_back = now
        release_memory()


def unit_tasks(
    dataset: xr.Dataset,
    layout: Layout,
    units: Sequence[tuple[int, ...]],
    writer: UnitWriter,
    *,
    keys: NDArray[np.str_] | None = None,
    lasting: Lasting | None = None,
) -> Iterator[UnitTask]:
    """Cut a lazy Dataset's graph into the tasks of its units, one at a time.

    Parameters
    ----------
    dataset, layout
        The result and how it is cut.
    units
        Which.
    writer
        Where they go.
    keys
        What each unit depends on.
    lasting
        Whether a unit may be taken over by later results.
    """
    arrays = [dataset.variables[v.name].data for v in layout.variables]
    graph = Tasks([array.__dask_graph__() for array in arrays])
    for unit in units:
        names = tuple(
            (array.name, *(unit[p] if p >= 0 else 0 for p in variable.unit_axes))
            for array, variable in zip(arrays, layout.variables, strict=True)
        )
        part, _ = cull(graph, list(names))
        yield UnitTask(unit, part, names, writer, str(keys[unit]) if keys is not None else "", lasting)


def transient(problem: BaseException) -> bool:
    """Whether another try may help: the system's trouble, not the data's and not a full disk's."""
    return isinstance(problem, OSError) and problem.errno not in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EACCES,
        errno.EROFS,
        errno.ENOENT,
    )


def named(problem: BaseException, node: str, unit: tuple[int, ...]) -> BaseException:
    """The problem with node and unit in front where it does not say so itself."""
    where = f"node {node!r}" + (f", unit {unit}" if unit else "")
    if isinstance(problem, MemoryError):
        return CapacityError(f"{where}: out of memory; lower --workers or --memory and run the same command again")
    if isinstance(problem, SkyloomError):
        if str(problem).startswith("node ") or isinstance(problem, DamagedResult):
            return problem
        return prefixed(problem, where)
    if isinstance(problem, OSError):
        return DataError(f"{where}: {problem.strerror or problem} {problem.filename or ''}".rstrip())
    return problem
