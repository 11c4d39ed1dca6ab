"""Where units run: in turn, on threads, or on a dask cluster, behind one `concurrent.futures` face."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from skyloom.ops.errors import ConfigError


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


def default_workers() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@contextmanager
def open_scheduler(kind: Any = "threads", *, workers: int | None = None) -> Iterator[Scheduler]:
    """Open a scheduler for a run.

    Parameters
    ----------
    kind
        "synchronous", "threads", the address of a dask scheduler ("tcp://host:8786"), or a
        `distributed.Client`.
    workers
        Tasks at a time (threads only); the cores there are.

    Raises
    ------
    ConfigError
        If the address does not answer or has no worker.
    """
    if kind == "synchronous":
        yield Scheduler("synchronous", InlineExecutor(), 1, 1, local=True)
        return
    if kind == "threads":
        count = workers or default_workers()
        pool = ThreadPoolExecutor(count, thread_name_prefix="skyloom")
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

    if isinstance(kind, Client):
        yield _cluster(kind)
        return
    if not isinstance(kind, str) or "://" not in kind:
        raise ConfigError(
            f"scheduler {kind!r}: use synchronous, threads or the address of a dask scheduler (tcp://host:8786)"
        )
    try:
        client = Client(kind, timeout=10)
    except (OSError, TimeoutError, ValueError) as failure:
        raise ConfigError(f"no dask scheduler answers at {kind} ({failure}); is it running?") from failure
    try:
        yield _cluster(client)
    finally:
        client.close()


def _cluster(client: Any) -> Scheduler:
    threads = sum(client.nthreads().values())
    if threads == 0:
        raise ConfigError(f"the dask scheduler at {client.scheduler.address} has no worker; start some first")
    # Twice the threads: the next task's payload travels while one runs.
    return Scheduler("distributed", client.get_executor(pure=False, retries=3), threads, 2 * threads, local=False)
