"""Keeps a bounded number of tasks in flight, tries again what may pass, and notices what hangs or is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from typing import Any

from skyloom.ops.errors import CapacityError, ClusterError, SkyloomError
from skyloom.workflows.journal import UnitRecord
from skyloom.workflows.machine import format_seconds
from skyloom.workflows.schedulers import LetGo, Scheduler
from skyloom.workflows.source_hash import source_id
from skyloom.workflows.units import ATTEMPTS, Task, named, run_task, transient

LOOK_SECONDS = 5.0
"""How often tasks in flight are looked at: do they hang, are there workers."""
LOST_SECONDS = 600.0
"""How long a cluster without workers is waited for."""
LIKE_TASKS = 8
"""Tasks that have to be done before the others are expected to take as long."""
LEAST_PATIENCE = 600.0
"""Seconds no task is taken to hang before."""
PATIENCE_FACTOR = 20.0
"""Times what like tasks took."""


class HungTask(CapacityError):
    """A task that did not come to an end, tried often enough."""

    exit_code = 4


@dataclass
class Patience:
    """How long a task may take before it is taken to hang.

    A fixed time where the user gives one. Else, on a cluster, a multiple of what like tasks of the node took:
    known when some are done, and never of a node with a few tasks, whose solves may take hours. Tasks in this
    process have no limit unless one is given: what hangs there can be watched, and cannot be stopped.
    """

    fixed: float | None = None
    """Seconds; None: none is given."""
    adaptive: bool = False
    slowest: float = 0.0
    slowest_rate: float = 0.0
    """Seconds a unit of work."""
    seen: int = 0

    def learn(self, record: UnitRecord, work: float) -> None:
        """Take note of a task that is done."""
        self.seen += not record.reused
        self.slowest = max(self.slowest, record.seconds)
        if work > 0:
            self.slowest_rate = max(self.slowest_rate, record.seconds / work)

    def limit(self, work: float) -> float | None:
        """Seconds a task of so much work may take; None: as long as it likes."""
        if self.fixed is not None:
            return self.fixed
        if not self.adaptive or self.seen < LIKE_TASKS:
            return None
        return max(LEAST_PATIENCE, PATIENCE_FACTOR * max(self.slowest, self.slowest_rate * work))


Landing = Future[tuple[UnitRecord, ...]]


@dataclass
class _Flight:
    """A task that is in flight."""

    task: Task
    attempt: int
    since: float


class Drive:
    """Keeps tasks of one node in flight (see `drive`)."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        window: int,
        stop: threading.Event,
        node: str,
        patience: Patience,
        work: Callable[[tuple[int, ...]], float],
        say: Callable[[str], None],
    ) -> None:
        self.scheduler, self.window, self.stop, self.node = scheduler, window, stop, node
        self.patience, self.work, self.say = patience, work, say
        self.flying: dict[Landing, _Flight] = {}
        self.failure: BaseException | None = None
        self.suspects: list[Task] = []
        """Tasks whose workers died. Some were only waiting there: each is tried once more, alone."""
        self._alone: Task | None = None
        self._looked = time.monotonic()
        self._lost_since: float | None = None

    @property
    def going_on(self) -> bool:
        """Whether tasks are to be begun."""
        return self.failure is None and not self.stop.is_set()

    def fill(self, tasks: Iterator[Task]) -> None:
        """Begin as many tasks as there is room for."""
        while self.going_on and not self.suspects and len(self.flying) < self.window:
            if (task := next(tasks, None)) is None:
                break
            self.launch(task, 1)
        if self.going_on and self.suspects and not self.flying:
            self._alone = self.suspects.pop()
            self.launch(self._alone, 1)

    def launch(self, task: Task, attempt: int) -> None:
        """Send a task off."""
        source = "" if self.scheduler.local else source_id()
        future = self.scheduler.executor.submit(run_task, task, source)
        self.flying[future] = _Flight(task, attempt, time.monotonic())

    def land(
        self, future: Future[tuple[UnitRecord, ...]], finished: Callable[[Sequence[UnitRecord]], None]
    ) -> None:
        """Take in a task's outcome: done, to be tried again, or what ends the node."""
        flight = self.flying.pop(future)
        problem = future.exception()
        if problem is None:
            try:
                for record in future.result():
                    self.patience.learn(record, self.work(record.unit))
                finished(future.result())
            except SkyloomError as trouble:
                self.failure = self.failure or trouble
        elif self.scheduler.killed(problem) and flight.task is not self._alone and self.going_on:
            if not self.suspects:
                self.say(f"node {self.node!r}: workers died; tasks that were there are tried again one by one")
            self.suspects.append(flight.task)
        elif (transient(problem) or isinstance(problem, LetGo)) and flight.attempt < ATTEMPTS and self.going_on:
            self.launch(flight.task, flight.attempt + 1)
        else:
            self.failure = self.failure or named(problem, self.node, flight.task.unit)

    def look(self) -> None:
        """Look for tasks that hang and for a cluster that is gone."""
        now = time.monotonic()
        if now - self._looked < (LOOK_SECONDS if self.patience.fixed is None else min(LOOK_SECONDS, 0.5)):
            return
        self._looked = now
        if not self._lost(now):
            # On a cluster a task may have to wait for another one on its worker.
            turns = max(1, -(-self.window // max(1, self.scheduler.workers)))
            for future, flight in list(self.flying.items()):
                limit = self.patience.limit(self.work(flight.task.unit))
                if limit is not None and now - flight.since > limit * turns and not future.done():
                    self._hangs(future, flight, now - flight.since)

    def _hangs(self, future: Future[Any], flight: _Flight, seconds: float) -> None:
        where = self.scheduler.where(future)
        self.scheduler.abandon(future)
        del self.flying[future]
        told = (
            f"node {self.node!r}" + (f", unit {flight.task.unit}" if flight.task.unit else "") + ": no end after "
            f"{format_seconds(seconds)}" + (f" on {where}" if where else "")
        )
        if flight.attempt < ATTEMPTS and self.going_on:
            self.say(f"{told}; tried again ({flight.attempt + 1} of {ATTEMPTS})")
            self.launch(flight.task, flight.attempt + 1)
        else:
            self.failure = self.failure or HungTask(
                f"{told}, {flight.attempt} times; look at the disk or the network its files are on, or raise "
                "--task-timeout; what is done is kept: run the same command again to go on"
            )

    def _lost(self, now: float) -> bool:
        what = self.scheduler.lost()
        if not what:
            if self._lost_since is not None:
                self.say("the cluster is there again")
            self._lost_since = None
            return False
        if self._lost_since is None:
            self._lost_since = now
            self.say(f"{what}: waiting up to {format_seconds(LOST_SECONDS)} for it to come back")
        elif now - self._lost_since > LOST_SECONDS:
            raise ClusterError(
                f"node {self.node!r}: {what} for {format_seconds(now - self._lost_since)}; what is done is kept: "
                "start workers and run the same command again"
            )
        # Their time counts from when there is somebody to do them.
        for flight in self.flying.values():
            flight.since = now
        return True


def drive(
    scheduler: Scheduler,
    tasks: Iterator[Task],
    finished: Callable[[Sequence[UnitRecord]], None],
    *,
    window: int,
    stop: threading.Event,
    node: str,
    patience: Patience | None = None,
    work: Callable[[tuple[int, ...]], float] = lambda unit: 0.0,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Keep `window` tasks in flight until all are done, or until `stop` is set and those in flight are.

    Parameters
    ----------
    scheduler
        Where they run.
    tasks
        What to do, made when it is needed.
    finished
        Called with what each leaves, in this thread.
    window
        Tasks in flight.
    stop
        No new ones are begun when it is set.
    node
        For messages.
    patience
        How long a task may take; None: as long as it likes.
    work
        Work of a unit, in any measure.
    say
        Tells a person.

    Raises
    ------
    SkyloomError
        The first failure, after the tasks in flight are done and journaled; of a cluster that is gone at once.
    """
    at_work = Drive(
        scheduler, window=window, stop=stop, node=node, patience=patience or Patience(), work=work, say=say
    )
    flying = at_work.flying
    while True:
        at_work.fill(tasks)
        if not flying or isinstance(at_work.failure, ClusterError):
            break
        if scheduler.local and (at_work.failure is not None or stop.is_set()):
            # Those that wait for a thread have not begun.
            for future in [f for f in flying if f.cancel()]:
                del flying[future]
            if not flying:
                break
        # A timeout lets the main thread see signals.
        ready, _ = wait(flying, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in ready:
            at_work.land(future, finished)
        at_work.look()
    if at_work.failure is not None:
        raise at_work.failure
