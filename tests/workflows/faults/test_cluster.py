"""Workers of a real cluster that die, hang, stop for a while or run another skyloom: the pixels are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import dask
import distributed
import numpy as np
import pytest

from skyloom.ops.errors import CapacityError, ClusterError
from skyloom.ops.threads import blas_kernels
from skyloom.workflows import clusters, distributed_executor, driving, source_hash
from skyloom.workflows.clusters import ClusterSpec
from skyloom.workflows.progress import Silent
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.schedulers import LetGo

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(faults: Any, program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two workers of one thread, which the scheduler misses after some seconds."""
    monkeypatch.syspath_prepend(str(Path(program.__file__ or "").parent))
    monkeypatch.setattr(driving, "LOST_SECONDS", 60.0)
    settings = {
        "distributed.scheduler.worker-ttl": "8s",
        "distributed.scheduler.allowed-failures": 0,
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as made,
    ):
        yield made


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def run(faults: Any, cluster: Any, **options: Any) -> list[str]:
    told = Told()
    try:
        with distributed.Client(cluster) as client:
            run_workflow(
                faults.workflow,
                faults.frames,
                project=faults.project,
                scheduler=client,
                page=False,
                reporter=told,
                **options,
            )
    finally:
        faults.told = told.lines
    return told.lines


def test_a_worker_that_dies_costs_its_tasks_in_flight(faults: Any, cluster: Any) -> None:
    cluster.scheduler.allowed_failures = 3
    faults.order("kill-once-1-1")
    faults.order("kill-once-2-3")
    told = run(faults, cluster)
    np.testing.assert_array_equal(faults.image(), faults.expected())
    tiles = [d for d in faults.done() if d.startswith("tile")]
    assert len(set(tiles)) == 16
    assert 18 <= len(tiles) <= 20, "what was in flight at the dead is done again, nothing else"
    assert any("2 tasks at a time" in t for t in told)
    assert any(t.startswith("dashboard of dask: http://127.0.0.1:") for t in told)
    (path,) = (faults.project / "journal").glob("tiles-*")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) == 16
    assert all(r["worker"].startswith("tcp://127.0.0.1:") and r["memory"] > 2e7 for r in records)
    events = [json.loads(line) for line in (faults.project / "run.log.jsonl").read_text().splitlines()]
    assert events[0]["dashboard"].startswith("http://127.0.0.1:")
    assert events[0]["skyloom"] == source_hash.source_id()
    node = next(e for e in events if e.get("node") == "tiles")
    assert node["worker_memory"] == max(r["memory"] for r in records)
    assert node["planned_memory"] > 0


def test_a_task_that_kills_every_worker_is_named(faults: Any, cluster: Any) -> None:
    faults.order("kill-1-1")
    with pytest.raises(CapacityError, match=r"node 'tiles', unit \(1, 1\): the worker .* died.*memory") as stop:
        run(faults, cluster)
    assert stop.value.exit_code == 6
    assert any("tried again one by one" in t for t in faults.told)
    (faults.orders / "kill-1-1").unlink()
    faults.forget()
    run(faults, cluster)
    assert len(faults.done()) < 14
    np.testing.assert_array_equal(faults.image(), faults.expected())


def test_a_worker_without_network_for_a_while(faults: Any, cluster: Any) -> None:
    """Its task is done elsewhere; when it is back it does no harm."""
    faults.order("stop-once-1-0")
    stopped: list[int] = []

    def wake() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for pid in _pids(cluster):
                if _state(pid) == "T":
                    stopped.append(pid)
                    time.sleep(16.0)
                    with suppress(ProcessLookupError):  # the one who watches over it may have started another
                        os.kill(pid, signal.SIGCONT)
                    return
            time.sleep(0.05)

    waker = threading.Thread(target=wake)
    waker.start()
    faults.order("wait-3-3")
    run(faults, cluster)
    waker.join()
    assert len(stopped) == 1
    np.testing.assert_array_equal(faults.image(), faults.expected())


def _pids(cluster: Any) -> list[int]:
    return [n.process.pid for n in cluster.workers.values() if n.process is not None and n.process.pid]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_a_task_that_hangs_is_run_elsewhere(faults: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "LOOK_SECONDS", 0.2)
    faults.order("hang-once-0-2")
    told = run(faults, cluster, task_timeout=8.0)
    assert any("node 'tiles', unit (0, 2): no end after" in t and "tried again (2 of 3)" in t for t in told), told
    np.testing.assert_array_equal(faults.image(), faults.expected())


def test_all_workers_gone_and_nobody_comes(
    faults: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    monkeypatch.setattr(driving, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(driving, "LOST_SECONDS", 1.0)
    faults.order("hang-1-1")

    def empty() -> None:
        until(lambda: "tile 1-1" in faults.done())
        cluster.scale(0)

    leaver = threading.Thread(target=empty)
    leaver.start()
    with pytest.raises(
        ClusterError, match=r"no worker is left for .*what is done is kept: start workers"
    ) as stopped:
        run(faults, cluster)
    leaver.join()
    assert stopped.value.exit_code == 6
    assert any(t.startswith("no worker is left: waiting up to") for t in faults.told)


def test_a_scheduler_that_dies_is_said(
    faults: Any, until: Callable[..., None], program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(program.__file__ or "").parent))
    script = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    options = ["--scheduler-file", str(faults.base / "scheduler.json"), "--no-dashboard"]
    scheduler = subprocess.Popen([*script, *options], stderr=subprocess.DEVNULL)
    worker = subprocess.Popen(
        [*script[:2], "distributed.cli.dask_worker", options[0], options[1], "--no-nanny", "--no-dashboard"],
        stderr=subprocess.DEVNULL,
    )
    try:
        until((faults.base / "scheduler.json").exists)
        address = json.loads((faults.base / "scheduler.json").read_text())["address"]
        with distributed.Client(address) as client:
            client.wait_for_workers(1, timeout=60)
        faults.order("hang-1-1")

        def kill() -> None:
            until(lambda: "tile 1-1" in faults.done())
            scheduler.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(ClusterError, match=r"the dask scheduler .*is gone") as stopped:
            run_workflow(faults.workflow, faults.frames, project=faults.project, scheduler=address, page=False)
        killer.join()
        assert stopped.value.exit_code == 6
        (path,) = (faults.project / "journal").glob("tiles-*")
        assert len(path.read_text().splitlines()) >= 3
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


def test_workers_that_run_another_skyloom_are_refused(
    faults: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skyloom.workflows.distributed_executor.source_id", lambda: "0.0+other")
    with pytest.raises(ClusterError, match=r"2 of 2 workers do not run the skyloom that is here \(0.0\+other\)"):
        run(faults, cluster)
    assert not faults.project.exists()
    monkeypatch.setattr("skyloom.workflows.distributed_executor.source_id", source_hash.source_id)
    # One that joins later is asked by each task.
    monkeypatch.setattr("skyloom.workflows.driving.source_id", lambda: "0.0+other")
    with pytest.raises(
        ClusterError, match=r"the worker tcp://.* runs skyloom .*here is 0.0\+other; install the same"
    ):
        run(faults, cluster)


def test_workers_with_another_blas_are_told_of(faults: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their last bits differ, which nobody would find out later."""
    assert distributed_executor.other_sums({"tcp://one": blas_kernels()}) == ""
    assert not any("BLAS" in t for t in run(faults, cluster))
    monkeypatch.setattr(distributed_executor, "blas_kernels", lambda: "openblas 0.1 Abacus")
    (note,) = (t for t in run(faults, cluster) if "BLAS" in t)
    assert note.startswith("2 of 2 workers have another BLAS (tcp://127.0.0.1:")
    assert "openblas 0.1 Abacus" in note
    assert "OPENBLAS_CORETYPE" in note


def test_a_task_the_scheduler_lets_go_of_is_sent_again(
    faults: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, sent = distributed_executor.DistributedExecutor.submit, []

    def lossy(self: Any, *arguments: Any, **options: Any) -> Any:
        future = submit(self, *arguments, **options)
        sent.append(future)
        if len(sent) == 5:
            self._remote[future].cancel()
        return future

    monkeypatch.setattr(distributed_executor.DistributedExecutor, "submit", lossy)
    run(faults, cluster)
    np.testing.assert_array_equal(faults.image(), faults.expected())
    assert isinstance(sent[4].exception(), LetGo)


def test_a_cluster_of_its_own_killed_in_the_middle(faults: Any) -> None:
    """`--cluster FILE.yaml`, as a program: its worker dies, the result is that of one process."""
    path = faults.base / "cluster.yaml"
    path.write_text("kind: local\nworkers: 2\nmemory: 700MiB\n")
    faults.order("kill-once-2-0")
    ended = subprocess.run(faults.command("--cluster", str(path)), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "dashboard of dask: http://127.0.0.1:" in ended.stderr
    np.testing.assert_array_equal(faults.image(), faults.expected())
    tiles = [d for d in faults.done() if d.startswith("tile")]
    assert len(set(tiles)) == 16
    assert len(tiles) <= 18


def test_a_project_that_workers_do_not_see(faults: Any, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if it were on a disk of this machine alone.
    monkeypatch.setattr("skyloom.workflows.distributed_executor.sees", lambda path: False)
    with pytest.raises(ClusterError, match=r"2 workers, such as tcp://127.*, cannot see it; put") as refused:
        run(faults, cluster)
    assert refused.value.exit_code == 6


def test_nobody_comes_to_a_cluster_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with distributed.LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as empty:
        spec = ClusterSpec.parse({"kind": "slurm", "memory": "4GiB", "wait": 0.5}, "c.yaml")
        monkeypatch.setattr(clusters, "deploy", lambda _: empty)
        with (
            pytest.raises(ClusterError, match="slurm: no worker came in 1 s; look at the queue"),
            clusters.start(spec),
        ):
            pass
