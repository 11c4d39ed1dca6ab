"""A run resumes, redoes only what changed, and gives the same pixels on every scheduler."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from skyloom.ops.errors import CapacityError, ConfigError, DataError
from skyloom.workflows import runner, units
from skyloom.workflows.evaluate import open_workflow
from skyloom.workflows.graph import Workflow
from skyloom.workflows.lock import lock
from skyloom.workflows.progress import Silent
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.shards import write_block
from skyloom.workflows.store import Store

Numbers = Callable[..., list[Path]]


def pixels(project: Path) -> np.ndarray:
    return np.asarray(Store(project).open("tiles")["image"].values)


def test_runs_writes_and_skips_empty_units(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    report = run_workflow(toy_workflow, numbers(1, 2), project=tmp_path / "p")
    image = pixels(tmp_path / "p")
    assert image.shape == (32, 32)
    assert np.isnan(image[:8, :8]).all()
    assert image[8, 8] == 2 * 3 + 101
    assert (0, 0) not in toy["computed"]
    assert sorted(toy["computed"]) == sorted(set(toy["computed"]))
    assert len(toy["computed"]) == 15
    assert [n.name for n in report.nodes] == ["tiles", "total"]
    written = list(Path(str(Store(tmp_path / "p").root), "tiles").rglob("c/*/*"))
    assert len([w for w in written if w.is_file()]) == 15


def test_second_run_computes_nothing(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    files = numbers(1, 2)
    run_workflow(toy_workflow, files, project=tmp_path / "p")
    before = len(toy["computed"])
    run_workflow(toy_workflow, files, project=tmp_path / "p")
    assert len(toy["computed"]) == before


def test_changed_parameter_redoes_the_node_and_what_follows(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    files = numbers(1, 2)
    run_workflow(toy_workflow, files, project=tmp_path / "p")
    toy["computed"].clear()
    run_workflow(toy_workflow.with_parameters({"tiles.gain": 10}), files, project=tmp_path / "p")
    assert len(toy["computed"]) == 15
    assert pixels(tmp_path / "p")[8, 8] == 10 * 3 + 101
    assert len(Store(tmp_path / "p").keys("tiles")) == 1, "the replaced result is gone"


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_failure_keeps_what_is_done_and_resumes(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path, scheduler: str
) -> None:
    files = numbers(4)
    toy["fail"] = (2, 1)
    with pytest.raises(DataError, match=r"node 'tiles', unit \(2, 1\): tile is broken"):
        run_workflow(toy_workflow, files, project=tmp_path / "p", scheduler=scheduler)
    toy["fail"] = None
    done = set(toy["computed"]) - {(2, 1)}
    assert len(done) >= 8
    toy["computed"].clear()
    run_workflow(toy_workflow, files, project=tmp_path / "p", scheduler=scheduler)
    assert not done & set(toy["computed"]), "finished tiles are not computed again"
    run_workflow(toy_workflow, files, project=tmp_path / "undisturbed")
    np.testing.assert_array_equal(pixels(tmp_path / "p"), pixels(tmp_path / "undisturbed"))


def test_recent_unit_lost_by_the_disk_is_redone(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    files = numbers(4)
    toy["fail"] = (3, 3)
    with pytest.raises(DataError):
        run_workflow(toy_workflow, files, project=tmp_path / "p", scheduler="synchronous")
    store = Store(tmp_path / "p")
    (chunk,) = Path(str(store.root), "tiles").rglob("c/1/2")
    chunk.write_bytes(bytes(chunk.stat().st_size))
    toy["fail"] = None
    toy["computed"].clear()
    run_workflow(toy_workflow, files, project=tmp_path / "p", scheduler="synchronous")
    assert sorted(toy["computed"]) == [(1, 2), (3, 3)]
    assert pixels(tmp_path / "p")[8, 16] == 2 * 4 + 102


def test_torn_journal_line_loses_only_its_unit(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    files = numbers(4)
    toy["fail"] = (3, 3)
    with pytest.raises(DataError):
        run_workflow(toy_workflow, files, project=tmp_path / "p", scheduler="synchronous")
    (path,) = (tmp_path / "p" / "journal").glob("tiles-*")
    path.write_bytes(path.read_bytes()[:-20])
    toy["fail"] = None
    toy["computed"].clear()
    run_workflow(toy_workflow, files, project=tmp_path / "p", scheduler="synchronous")
    assert sorted(toy["computed"]) == [(3, 2), (3, 3)]
    assert len(path.read_text().splitlines()) == 16, "the torn line stays, whole ones follow"


def test_stop_finishes_what_flies_and_resumes(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = numbers(4)

    class Stopper(Silent):
        def unit_done(self, state: Any) -> None:
            if state.units == 5:
                import signal

                signal.raise_signal(signal.SIGINT)

    with pytest.raises(runner.Interrupted, match="run the same command again"):
        run_workflow(toy_workflow, files, project=tmp_path / "p", workers=2, reporter=Stopper())
    done = len(toy["computed"])
    assert 5 <= done <= 7
    toy["computed"].clear()
    run_workflow(toy_workflow, files, project=tmp_path / "p")
    assert len(toy["computed"]) == 15 - done


def test_system_errors_are_tried_again_and_a_full_disk_is_not(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    toy["fail"] = (1, 1)
    toy["error"] = OSError(errno.EIO, "I/O error")
    with pytest.raises(DataError, match=r"node 'tiles', unit \(1, 1\): I/O error"):
        run_workflow(toy_workflow, numbers(4), project=tmp_path / "p", scheduler="synchronous")
    assert toy["computed"].count((1, 1)) == units.ATTEMPTS


def test_two_runs_in_one_project_are_refused(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    Store(tmp_path / "p").create()
    with (
        lock(tmp_path / "p"),
        pytest.raises(ConfigError, match=r"another run .* is at work here"),
    ):
        run_workflow(toy_workflow, numbers(1), project=tmp_path / "p")


def test_memory_decides_how_many_tasks_run_and_refuses(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    heavy = toy_workflow.with_parameters({"tiles.gain": 500.0})  # 500 MB a task, by the toy's cost
    with pytest.raises(CapacityError, match=r"node 'tiles' needs .* the limit is 400.0 MiB; raise --memory"):
        run_workflow(heavy, numbers(1), project=tmp_path / "p", memory=400 * 2**20)
    assert not (tmp_path / "p").exists()
    assert toy["computed"] == []


def test_project_that_cannot_be_written_is_refused(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    (tmp_path / "p").write_text("a file in the way")
    with pytest.raises(CapacityError, match="a file is in the way"):
        run_workflow(toy_workflow, numbers(1), project=tmp_path / "p")


def test_a_window_computes_only_its_tiles(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    results = open_workflow(toy_workflow, numbers(1, 2))
    assert toy["computed"] == []
    window = results["tiles"]["image"][10:14, 17:25].compute()
    assert sorted(toy["computed"]) == [(1, 2), (1, 3)]
    assert window.values[0, 0] == 2 * 3 + 102


def test_log_and_effective_workflow_are_kept(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    run_workflow(toy_workflow, numbers(1), project=tmp_path / "p")
    events = [json.loads(line)["event"] for line in (tmp_path / "p" / "run.log.jsonl").read_text().splitlines()]
    assert events[0] == "run"
    assert events[-1] == "done"
    assert Workflow.load(tmp_path / "p" / "workflow.yaml") == toy_workflow


def test_full_disk_is_said_and_what_is_done_is_kept(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = numbers(4)
    original = write_block
    left = 5

    def write(target: zarr.Array[Any], region: Any, value: Any) -> None:
        nonlocal left
        if "tiles" in target.path and left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        left -= "tiles" in target.path
        original(target, region, value)

    with monkeypatch.context() as full:
        full.setattr("skyloom.workflows.store.write_block", write)
        with pytest.raises(CapacityError, match=r"node 'tiles'.*the disk is full; make room and run"):
            run_workflow(toy_workflow, files, project=tmp_path / "p", scheduler="synchronous")
    assert len(toy["computed"]) == 6, "a full disk is not tried again"
    toy["computed"].clear()
    run_workflow(toy_workflow, files, project=tmp_path / "p", scheduler="synchronous")
    assert len(toy["computed"]) == 10


def test_killed_between_the_last_unit_and_the_mark(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    """Tiles and a node in one piece: all units journaled, the mark missing."""
    files = numbers(1, 2)
    run_workflow(toy_workflow, files, project=tmp_path / "p")
    store = Store(tmp_path / "p")
    before = len(toy["computed"])
    for node in ("tiles", "total"):
        group = zarr.open_group(store.root, path=f"{node}/{store.newest(node)}", mode="r+")
        meta: Any = group.attrs["skyloom"]
        group.attrs["skyloom"] = {**meta, "complete": False}
    run_workflow(toy_workflow, files, project=tmp_path / "p")
    assert len(toy["computed"]) == before
    assert store.is_complete("tiles", store.keys("tiles")[0])
    assert store.is_complete("total", store.keys("total")[0])
