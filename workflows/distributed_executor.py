"""Tasks on a dask cluster: what is lost with a worker, a scheduler or a network is said, and run elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from distributed import Client, KilledWorker

from skyloom.ops.errors import CapacityError, ClusterError
from skyloom.ops.threads import blas_kernels
from skyloom.workflows.places import is_there, place
from skyloom.workflows.schedulers import LetGo, Remote, Scheduler
from skyloom.workflows.source_hash import source_id

START_SECONDS = 30
"""How long the first worker of a cluster that runs already is waited for."""
RESTART_SECONDS = 60
"""How long a worker that hangs is given to start anew."""


def sees(path: str) -> bool:
    """Whether a path is there, on the worker this runs on."""
    return is_there(place(path))


class WorkersDied(CapacityError):
    """A task whose workers died, each of them."""

    exit_code = ClusterError.exit_code


class DistributedExecutor(Remote):
    """Tasks on a `distributed.Client`. A task whose worker dies is run on another one by dask."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._remote: dict[Future[Any], Any] = {}
        self._lock = threading.Lock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a task; the future is done when its outcome is back."""
        try:
            remote = self.client.submit(fn, *args, pure=False, retries=0, **kwargs)
        except Exception as failure:
            raise ClusterError(_gone(self.client)) from failure
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            self._remote[future] = remote
        remote.add_done_callback(lambda done: self._transmit(done, future))
        return future

    def _transmit(self, remote: Any, future: Future[Any]) -> None:
        with self._lock:
            if self._remote.pop(future, None) is None:
                return  # abandoned
        problem: BaseException | None
        try:
            if remote.status == "finished":
                future.set_result(remote.result())
                return
            problem = remote.exception() if remote.status == "error" else self._let_go()
        except KilledWorker as failure:
            problem = failure
        except BaseException as failure:
            problem = ClusterError(f"{_gone(self.client)} ({failure})")
        future.set_exception(_in_words(problem) if problem is not None else ClusterError(_gone(self.client)))

    def _let_go(self) -> ClusterError:
        there = self.client.status == "running"
        return LetGo(_gone(self.client)) if there else ClusterError(_gone(self.client))

    def killed(self, problem: BaseException) -> bool:
        """Whether dask gave a task up since workers died that had it, be it by its fault or not."""
        return isinstance(problem, WorkersDied)

    def lost(self) -> str:
        """What is amiss with the cluster now, "" for nothing."""
        if self.client.status not in ("running", "newclient"):
            return "the dask scheduler is gone"
        try:
            return "" if self.client.nthreads() else "no worker is left"
        except Exception:
            return "the dask scheduler does not answer"

    def where(self, future: Future[Any]) -> str:
        """Address of the worker a task is on, "" where nobody knows."""
        remote = self._remote.get(future)
        if remote is None:
            return ""
        with suppress(Exception):
            for address, keys in self.client.processing().items():
                if remote.key in keys:
                    return str(address)
        return ""

    def abandon(self, future: Future[Any]) -> None:
        """Forget a task and start its worker anew: a thread that hangs would keep it from other tasks."""
        address = self.where(future)
        with self._lock:
            remote = self._remote.pop(future, None)
        if remote is None:
            return
        with suppress(Exception):
            remote.cancel()
        if address:
            # That takes its time, and the others are not to wait for it.
            threading.Thread(target=self._restart, args=(address,), name="skyloom-restart", daemon=True).start()

    def _restart(self, address: str) -> None:
        try:
            self.client.restart_workers([address], timeout=RESTART_SECONDS)
        except TimeoutError:
            return  # it may come yet
        except Exception:
            # It has nobody who could start it anew: the others do without it.
            with suppress(Exception):
                self.client.retire_workers([address], close_workers=True)

    def blind(self, path: str) -> list[str]:
        """Addresses of the workers that do not see a path of this machine."""
        found = self.client.run(sees, path, on_error="return")
        return [address for address, seen in found.items() if seen is not True]


def cluster_scheduler(client: Client) -> Scheduler:
    """Scheduler of a client whose workers are there and run this skyloom.

    Raises
    ------
    ClusterError
        If it has no worker, or workers that run another skyloom.
    """
    with suppress(TimeoutError):
        # They may be about to start, or to start anew.
        client.wait_for_workers(1, timeout=START_SECONDS)
    threads = sum(client.nthreads().values())
    if threads == 0:
        raise ClusterError(f"the dask scheduler at {_address(client)} has no worker; start some first")
    check_same_source(client.run(_source_there, on_error="return"))
    other = other_sums(client.run(_sums_there, on_error="ignore"))
    found = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [(float(w["memory_limit"]), int(w["nthreads"])) for w in found if w.get("memory_limit")]
    memory, at_a_time = min(limits, key=lambda limit: limit[0] / limit[1], default=(None, 1))
    # Twice the threads: the next task's payload travels while one runs.
    return Scheduler(
        "distributed",
        DistributedExecutor(client),
        threads,
        2 * threads,
        local=False,
        memory=memory,
        threads=at_a_time,
        dashboard=str(client.dashboard_link or ""),
        notes=(other,) if other else (),
    )


def _source_there() -> str:
    """What a worker runs."""
    return source_id()


def _sums_there() -> str:
    """How a worker adds."""
    return blas_kernels()


def check_same_source(found: dict[str, Any]) -> None:
    """Refuse workers that run another skyloom: their pixels might be others.

    Parameters
    ----------
    found
        Address → what the worker says it runs, or the error it gave.
    """
    here = source_id()
    others = {address: told for address, told in found.items() if told != here}
    if others:
        address, told = next(iter(others.items()))
        said = "has no skyloom of this kind" if isinstance(told, BaseException) else f"runs skyloom {told}"
        raise ClusterError(
            f"{len(others)} of {len(found)} workers do not run the skyloom that is here ({here}): {address} "
            f"{said}; install the same there and start the workers anew"
        )


def other_sums(found: dict[str, str]) -> str:
    """What to tell of workers whose BLAS adds in another order than the one here, "" for nothing.

    Parameters
    ----------
    found
        Address → what the worker says of its BLAS.
    """
    here = blas_kernels()
    others = {address: told for address, told in found.items() if told != here}
    if not others:
        return ""
    address, told = next(iter(others.items()))
    return (
        f"{len(others)} of {len(found)} workers have another BLAS ({address}: {told}) than is here ({here}): "
        "registration and normalization may differ in their last bits; for the same bits set OPENBLAS_CORETYPE "
        "alike on all"
    )


def _in_words(problem: BaseException) -> BaseException:
    """What dask says of a task that took its workers down, as one clear line."""
    if isinstance(problem, KilledWorker):
        last = getattr(problem, "last_worker", None)
        where = f", the last time {last.address}" if last is not None else ""
        return WorkersDied(
            f"the worker that ran it died{where}, again and again: most likely out of memory; give the workers "
            "more memory or fewer threads, or lower --memory"
        )
    return problem


def _address(client: Client) -> str:
    return str(getattr(client.scheduler, "address", None) or "its address")


def _gone(client: Client) -> str:
    where = _address(client)
    return (
        f"the dask scheduler at {where} is gone or has let go of this run's tasks; what is done is kept: "
        "start it again and run the same command again"
    )
