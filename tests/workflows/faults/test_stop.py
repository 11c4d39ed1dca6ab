"""Ctrl-C, kills and full disks at any moment, in a process of its own: exit code, words, and what is kept."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyloom.ops.errors import CapacityError
from skyloom.workflows import driving, shards
from skyloom.workflows import lines as lines_module
from skyloom.workflows.cli import main
from skyloom.workflows.progress import Silent
from skyloom.workflows.runner import run_workflow

# A function is replaced by one that, the n-th time, asks for a stop first.
INTERRUPTED = """
import os, runpy, signal, sys
from skyloom.workflows import {module} as module
holder = {holder}
original, count = getattr(holder, {name!r}), [0]
def asked(*arguments, **options):
    count[0] += 1
    if count[0] == {times}:
        os.kill(os.getpid(), signal.SIGINT)
    return original(*arguments, **options)
setattr(holder, {name!r}, asked)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

MOMENTS = {
    "while planning": ("plan", "module", "plan_node", 2, "abandoned", 0),
    "while writing": ("store", "module.UnitWriter", "write", 9, "stopped as asked in node 'tiles' after", 4),
    "while journaling": ("journal", "module.Journal", "append", 8, "stopped as asked in node 'tiles' after", 3),
    "between nodes": (
        "store",
        "module.Store",
        "complete",
        2,
        "stopped as asked in node 'sums' after 4 of 4",
        0,
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment(faults: Any, moment: str) -> None:
    module, holder, name, times, says, kept = MOMENTS[moment]
    code = INTERRUPTED.format(module=module, holder=holder, name=name, times=times)
    command = [sys.executable, "-c", code, *faults.command("--workers", "1")[1:]]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 130, ended.stderr
    assert says in ended.stderr
    assert "run the same command again" in ended.stderr
    assert "what is done is kept" in ended.stderr
    assert "Traceback" not in ended.stderr
    before = faults.done()
    assert len([d for d in before if d.startswith("tile")]) >= kept
    faults.forget()
    assert main(faults.command("--quiet")[2:]) == 0
    assert not set(before) & set(faults.done()), "what was done is not done again"
    np.testing.assert_array_equal(faults.image(), faults.expected())


def test_sigterm_is_a_wish_to_stop(faults: Any, until: Callable[..., None]) -> None:
    faults.order("wait-1-0")
    process = faults.start("--workers", "1")
    until(lambda: "tile 1-0" in faults.done())
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped as asked in node 'tiles' after 5 of 16 tasks; what is done is kept" in err


def test_a_task_that_hangs_is_tried_again_and_the_process_ends(faults: Any) -> None:
    faults.order("hang-once-1-2")
    assert main(faults.command("--quiet", "--task-timeout", "1.5")[2:]) == 0
    np.testing.assert_array_equal(faults.image(), faults.expected())
    assert faults.done().count("tile 1-2") == 2
    shutil.rmtree(faults.project)
    faults.order("hang-1-2")
    command = faults.command("--task-timeout", "1.5")
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 4, ended.stderr
    again = r"node 'tiles', unit \(1, 2\): no end after \d+ s; tried again \(2 of 3\)"
    assert re.search(again, ended.stderr), ended.stderr
    assert ", 3 times; look at the disk or the network its files are on, or raise --task-timeout" in ended.stderr
    (faults.orders / "hang-1-2").unlink()
    faults.forget()
    assert main(faults.command("--quiet")[2:]) == 0
    assert len(faults.done()) < 12
    np.testing.assert_array_equal(faults.image(), faults.expected())


def test_patience_follows_what_like_tasks_took() -> None:
    from skyloom.workflows.journal import UnitRecord

    patience = driving.Patience(adaptive=True)
    for i in range(driving.LIKE_TASKS):
        assert patience.limit(1.0) is None
        patience.learn(UnitRecord((i,), 0, 50.0, 0.0), 10.0)
    assert patience.limit(1.0) == driving.PATIENCE_FACTOR * 50.0
    assert patience.limit(100.0) == driving.PATIENCE_FACTOR * 500.0, "a tile with more frames may take longer"
    assert driving.Patience(5.0, adaptive=True).limit(100.0) == 5.0
    assert driving.Patience().limit(1.0) is None


NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def can_mount() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], check=False).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
def test_a_disk_that_is_full_in_the_middle_of_a_node(faults: Any) -> None:
    """A real one: 8 MiB of memory, filled by a task."""
    disk = faults.base / "disk"
    disk.mkdir()
    faults.project = disk / "p"
    faults.order("fill-1-3")
    script = f"""
        mount -t tmpfs -o size=8m none {disk} || exit 99
        ln -s {disk}/ballast {faults.orders}/ballast
        "$@"; echo "first $?" >&2
        rm {disk}/ballast {faults.orders}/fill-1-3
        "$@"; code=$?; echo "second $code" >&2
        cp -r {faults.project} {faults.base}/copy
        exit $code
    """
    ended = subprocess.run(
        [*NAMESPACE, "sh", "-c", script, "sh", *faults.command("--workers", "1")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stderr.split("first ")
    assert second.startswith("4\n"), ended.stderr
    assert "the disk is full; make room and run the same command again, what is done is kept" in first
    assert "Traceback" not in ended.stderr
    done = [d for d in faults.done() if d.startswith("tile")]
    # The tile before it may have been written, and found no room in the journal.
    assert len(done) in (17, 18), "only the tile that found no room is made twice"
    assert done.count("tile 1-3") == 2
    np.testing.assert_array_equal(faults.image(faults.base / "copy"), faults.expected())
    assert not list((faults.base / "copy").rglob("*.partial"))


def test_a_project_that_becomes_read_only(faults: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write = shards.write_block

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(faults.project))

    def writable(target: Any, region: Any, values: Any) -> None:
        if "tiles" in target.path and len(faults.done()) > 8:
            monkeypatch.setattr(lines_module, "append_lines", refuse)
            refuse()
        write(target, region, values)

    class Told(Silent):
        def message(self, text: str) -> None:
            lines.append(text)

    lines: list[str] = []
    with monkeypatch.context() as disk:
        disk.setattr("skyloom.workflows.store.write_block", writable)
        with pytest.raises(CapacityError, match=r"Read-only file system .* make it writable or choose") as stopped:
            run_workflow(
                faults.workflow, faults.frames, project=faults.project, scheduler="synchronous", reporter=Told()
            )
        assert stopped.value.exit_code == 4
        assert "node 'tiles'" in str(stopped.value)
        assert any(line.startswith("the log does not have it") for line in lines)
    monkeypatch.setattr(lines_module, "append_lines", append_lines)
    faults.forget()
    run_workflow(faults.workflow, faults.frames, project=faults.project, scheduler="synchronous")
    assert len(faults.done()) == 12
    np.testing.assert_array_equal(faults.image(), faults.expected())


append_lines = lines_module.append_lines


def test_a_process_the_system_kills_for_its_memory(faults: Any) -> None:
    """Nothing can be said by the dead; the next run does."""
    faults.order("kill-once-2-2")
    ended = subprocess.run(
        faults.command("--workers", "1"), capture_output=True, check=False, env=dict(os.environ)
    )
    assert ended.returncode == -signal.SIGKILL
    before = faults.done()
    assert before[-1] == "tile 2-2"
    # One more may have been done that the driver, slower than its worker, had not taken in.
    kept = len(next(iter((faults.project / "journal").glob("tiles-*"))).read_text().splitlines())
    assert 10 - 1 <= kept <= 10
    faults.forget()
    again = subprocess.run(faults.command(), capture_output=True, check=False, text=True)
    assert again.returncode == 0
    assert (
        "its process is gone; what it had done is kept (if the system killed it for want of memory" in again.stderr
    )
    done = faults.done()
    assert not [d for d in done if d.startswith("sum")]
    assert len(done) == len(set(done)) == 16 - kept
    assert set(done) & set(before) <= set(before[-2:])
    np.testing.assert_array_equal(faults.image(), faults.expected())
