"""The tasks of a node: taken over or computed, written and journaled, while the input files stay as they were."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.workflows.driving import Patience, drive
from skyloom.workflows.inputs import InputChanged, Inputs
from skyloom.workflows.journal import UnitRecord
from skyloom.workflows.machine import count, format_seconds
from skyloom.workflows.plan import Planned
from skyloom.workflows.progress import Advance, Reporter
from skyloom.workflows.reuse import take_overs
from skyloom.workflows.schedulers import Scheduler
from skyloom.workflows.store import Store, disk_errors
from skyloom.workflows.units import unit_tasks
from skyloom.workflows.verify import verified

LOOK_SECONDS = 60.0
"""How often the input files are looked at while a node runs."""


@dataclass(frozen=True)
class NodeUnits:
    """Runs the tasks of a node in a run."""

    store: Store
    scheduler: Scheduler
    reporter: Reporter
    inputs: Inputs
    """Files that may be read."""
    task_timeout: float | None
    """Seconds after which a task counts as hung."""
    stop: threading.Event
    """Set when no more tasks are to begin."""
    check_stop: Callable[[], None]
    """Raises when the run is to stop."""
    so_far: Callable[[str], None]
    """Gets what is done, in words."""
    say: Callable[[str], None]
    """Gets what is to be told and logged."""

    def run(self, planned: Planned, meta: Mapping[str, Any]) -> tuple[int, int, float]:
        """Take over, compute, write and journal the units of a node that are not done.

        Returns
        -------
        done, reused, memory
            How many were there before, how many an earlier result held, and the bytes of the largest worker.
        """
        step, layout, work = planned.step, planned.layout, planned.work
        assert step.dataset is not None
        assert layout is not None
        assert work is not None
        name, op = step.node.name, step.node.op
        suspect = self.store.suspect(name, step.key)
        writer = self.store.prepare(name, step.key, step.dataset, layout, dict(meta))
        journal = self.store.journal(name, step.key)
        done, lost = verified(self.store, name, step.key, writer, all_of_them=suspect)
        if lost:
            told = f"{count(lost, 'task')} of {lost + len(done)} did not reach the disk whole, done again"
            self.reporter.message(f"{name}: {told}")
        missing = [u for u in layout.units() if work[u] > 0 and u not in done]
        held = [u for u in missing if u in planned.reuse]
        total = int((work > 0).sum())
        total_work = float(sum(work[u] for u in missing if u not in planned.reuse))
        reused: set[tuple[int, ...]] = set()
        progress = {"units": float(len(done)), "work": 0.0, "memory": 0.0, "looked": time.monotonic()}
        unchecked: list[tuple[int, ...]] = []
        begin = time.monotonic()

        def look() -> None:
            try:
                self.inputs.check()
            except InputChanged as changed:
                # Any of them may have read the file as it is now.
                journal.void(unchecked, "input files changed")
                raise changed
            unchecked.clear()
            progress["looked"] = time.monotonic()

        self.reporter.node_begins(name, units=total, done=len(done))

        def finished(records: Sequence[UnitRecord]) -> None:
            with disk_errors(f"node {name!r}, project {self.store.project}"):
                journal.append(records)
            for record in records:
                progress["units"] += 1
                unchecked.append(record.unit)
                if record.worker:
                    progress["memory"] = max(progress["memory"], record.memory)
                if record.reused:
                    reused.add(record.unit)
                else:
                    progress["work"] += float(work[record.unit])
            self.reporter.unit_done(
                Advance(
                    name, int(progress["units"]), total, progress["work"], total_work, time.monotonic() - begin
                )
            )
            self.so_far(f" after {int(progress['units'])} of {count(total, 'task')}")
            if time.monotonic() - progress["looked"] > LOOK_SECONDS:
                look()

        window = planned.plan.workers if self.scheduler.local else self.scheduler.window
        if self.scheduler.name == "threads" and planned.plan.workers == self.scheduler.workers:
            # One more waits for a thread, so that none is idle while a finished unit gets into the journal.
            window += 1
        with journal.writing():
            if held and planned.keys is not None:
                tasks = take_overs(planned.reuse, held, planned.keys, writer)
                self._drive(name, tasks, finished, look, window=window, work=work)
                self.check_stop()
                self.reporter.message(f"{name}: {len(reused)} of {total} reused")
                begin = time.monotonic()  # the rate is that of computing
            # What they hold of this node is taken over now.
            self.store.thin(name, step.key)
            todo = [u for u in missing if u not in reused]
            units = unit_tasks(step.dataset, layout, todo, writer, keys=planned.keys, lasting=op.lasting)
            self._drive(name, units, finished, look, window=window, work=work)
            self.check_stop()
        seconds = time.monotonic() - begin
        facts = {"seconds": round(seconds, 3), "units": total, "reused": len(reused)}
        self.store.complete(name, step.key, facts)
        rate = progress["work"] / seconds if seconds > 0 else 0.0
        note = f"done in {format_seconds(seconds)}"
        note += f", {len(reused)} of {total} reused" if reused else ""
        note += f", {rate:.1f} Mpx·frames/s" if total > 1 and todo else ""
        self.reporter.node_ends(name, seconds=seconds, note=note)
        return len(done), len(reused), progress["memory"]

    def _drive(
        self,
        name: str,
        tasks: Iterator[Any],
        finished: Callable[[Sequence[UnitRecord]], None],
        look: Callable[[], None],
        *,
        window: int,
        work: NDArray[np.float64],
    ) -> None:
        """Run tasks, and see that the files they read were the same from first to last."""
        try:
            drive(
                self.scheduler,
                tasks,
                finished,
                window=window,
                stop=self.stop,
                node=name,
                patience=Patience(self.task_timeout, adaptive=not self.scheduler.local),
                work=lambda unit: float(work[unit]),
                say=self.say,
            )
        except InputChanged:
            look()
            raise
        except DataError:
            # Files that changed are a better reason than what an op makes of them.
            look()
            raise
        look()
