"""Where units run: in turn, on threads, or on a dask cluster, behind one `concurrent.futures` face."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

from skyloom.ops.errors import ClusterError, ConfigError


class InlineExecutor(Executor):
    """Runs each task in the caller's thread at once: the tested reference."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run now; the future is done when this returns."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as failure:
            future.set_exception(failure)
        return future


class Threads(Executor):
    """Threads of this process.

    One that hangs (a file server that does not answer) cannot be stopped: it is left alone, another takes its
    place, and neither the pool nor the end of the process waits for it, which a `ThreadPoolExecutor` would.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._todo: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._current: dict[threading.Thread, Future[Any]] = {}
        self._abandoned: set[Future[Any]] = set()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run on the next free thread."""
        while len(self._threads) < self.count:
            self._add()
        future: Future[Any] = Future()
        self._todo.put((future, partial(fn, *args, **kwargs)))
        return future

    def _add(self) -> None:
        thread = threading.Thread(target=self._work, name=f"skyloom-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        me = threading.current_thread()
        while (item := self._todo.get()) is not None:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            self._current[me] = future
            try:
                future.set_result(call())
            except BaseException as failure:
                future.set_exception(failure)
            del self._current[me], item, call
            if future in self._abandoned:
                return  # another has taken its place
            del future

    def abandon(self, future: Future[Any]) -> None:
        """Leave a task alone that hangs; one thread more does what it keeps from being done."""
        if not future.cancel():
            self._abandoned.add(future)
            self._add()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let go of the threads, and wait for those that do not hang."""
        while cancel_futures and not self._todo.empty():
            if (item := self._todo.get()) is not None:
                item[0].cancel()
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads if wait else ():
            if self._current.get(thread) not in self._abandoned:
                thread.join()


@dataclass(frozen=True)
class Scheduler:
    """An executor and what the driver has to know of it."""

    name: str
    executor: Executor
    workers: int
    """Tasks that run at one time."""
    window: int
    """Tasks to keep in flight: enough that no worker waits, few enough that memory follows the plan."""
    local: bool
    """Whether the tasks run in this process."""
    memory: float | None = None
    """Bytes of the smallest worker of a cluster, where it has a limit."""
    threads: int = 1
    """Tasks at a time of that worker."""
    dashboard: str = ""
    """Address of the page that shows what the cluster does."""
    notes: tuple[str, ...] = ()
    """What the run should tell of it."""

    def lost(self) -> str:
        """What is amiss with the cluster now, "" for nothing."""
        return self.executor.lost() if isinstance(self.executor, Remote) else ""

    def killed(self, problem: BaseException) -> bool:
        """Whether a task failed since workers died that had it, be it by its fault or not."""
        return isinstance(self.executor, Remote) and self.executor.killed(problem)

    def blind(self, path: str) -> list[str]:
        """Addresses of the workers that do not see a path of this machine."""
        return self.executor.blind(path) if isinstance(self.executor, Remote) else []

    def abandon(self, future: Future[Any]) -> None:
        """Do not wait for a task any longer, and let others run where it hangs."""
        if isinstance(self.executor, Threads | Remote):
            self.executor.abandon(future)

    def where(self, future: Future[Any]) -> str:
        """Which worker a task is on, "" where that says nothing."""
        return self.executor.where(future) if isinstance(self.executor, Remote) else ""


class LetGo(ClusterError):
    """A task that a cluster let go of, although it is there: its last worker left while it ran."""


class Remote(Executor, ABC):
    """An executor that can lose its workers."""

    @abstractmethod
    def killed(self, problem: BaseException) -> bool:
        """Whether a task failed since workers died that had it."""

    @abstractmethod
    def blind(self, path: str) -> list[str]:
        """Addresses of the workers that do not see a path of this machine."""

    @abstractmethod
    def lost(self) -> str:
        """What is amiss with the cluster now, "" for nothing."""

    @abstractmethod
    def abandon(self, future: Future[Any]) -> None:
        """Stop a task, if need be with its worker."""

    @abstractmethod
    def where(self, future: Future[Any]) -> str:
        """Address of the worker a task is on."""


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@contextmanager
def open_scheduler(kind: Any = "threads", *, workers: int | None = None) -> Iterator[Scheduler]:
    """Open a scheduler for a run.

    Parameters
    ----------
    kind
        "synchronous", "threads", the address of a dask scheduler ("tcp://host:8786"), a `distributed.Client`, or
        a `skyloom.workflows.clusters.ClusterSpec`, which is started and stopped with the run.
    workers
        Tasks at a time (threads only); the cores there are.

    Raises
    ------
    ClusterError
        If the address does not answer or has no worker, or the workers run another skyloom.
    ConfigError
        If the kind means nothing.
    """
    if kind == "synchronous":
        yield Scheduler("synchronous", InlineExecutor(), 1, 1, local=True)
        return
    if kind == "threads":
        count = workers or default_workers()
        pool = Threads(count)
        wait = True
        try:
            yield Scheduler("threads", pool, count, count, local=True)
        except KeyboardInterrupt:
            wait = False  # abandoned: nobody waits for tasks in flight
            raise
        finally:
            pool.shutdown(wait=wait, cancel_futures=True)
        return

    from distributed import Client

    from skyloom.workflows.clusters import ClusterSpec, start
    from skyloom.workflows.distributed_executor import cluster_scheduler

    if isinstance(kind, ClusterSpec):
        with start(kind) as client:
            yield cluster_scheduler(client)
        return
    if isinstance(kind, Client):
        yield cluster_scheduler(kind)
        return
    if not isinstance(kind, str) or "://" not in kind:
        raise ConfigError(
            f"scheduler {kind!r}: use synchronous, threads or the address of a dask scheduler (tcp://host:8786)"
        )
    try:
        client = Client(kind, timeout=10)
    except (OSError, TimeoutError, ValueError) as failure:
        raise ClusterError(f"no dask scheduler answers at {kind} ({failure}); is it running?") from failure
    try:
        yield cluster_scheduler(client)
    finally:
        client.close()
