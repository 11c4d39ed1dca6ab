"""One run a project: who holds it is said, and who held it and died is recognised."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skyloom.workflows import lock as locks
from skyloom.workflows.lock import Busy, Owner, lock


def test_the_second_run_is_refused_and_a_killed_one_is_told_of(faults: Any, until: Callable[..., None]) -> None:
    faults.order("hang-2-1")
    first = faults.start()
    try:
        until(lambda: "tile 2-1" in faults.done())
        second = subprocess.run(faults.command(), capture_output=True, text=True, check=False)
        assert second.returncode == 5
        said = (
            f"skyloom: project {faults.project}: another run (process {first.pid} on {socket.gethostname()}, since"
        )
        assert second.stderr.startswith(said), second.stderr
        assert "wait for it or stop it" in second.stderr
    finally:
        first.kill()
        first.communicate()
    (faults.orders / "hang-2-1").unlink()
    kept = len(next(iter((faults.project / "journal").glob("tiles-*"))).read_text().splitlines())
    assert kept >= 8
    faults.forget()
    third = subprocess.run(faults.command(), capture_output=True, text=True, check=False)
    assert third.returncode == 0, third.stderr
    assert f"the last run here (process {first.pid} on " in third.stderr
    assert "did not end by itself: its process is gone; what it had done is kept" in third.stderr
    assert "--memory" in third.stderr
    assert len(faults.done()) == 16 - kept
    fourth = subprocess.run(faults.command(), capture_output=True, text=True, check=False)
    assert "the last run here" not in fourth.stderr


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no locks."""

    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def held(project: Path, owner: Owner, *, silent: float = 0.0) -> Path:
    path = project / ".lock.held"
    path.write_text(owner.to_json())
    os.utime(path, (time.time() - silent, time.time() - silent))
    return path


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_file_stands_for_one(tmp_path: Path) -> None:
    with lock(tmp_path) as note:
        assert note == ""
        with (
            pytest.raises(Busy, match=rf"another run \(process {os.getpid()} on .*\) is at work here"),
            lock(tmp_path),
        ):
            pass
        assert (tmp_path / ".lock.held").exists()
    assert not (tmp_path / ".lock.held").exists()


@pytest.mark.usefixtures("no_locks")
def test_a_file_left_by_the_dead_is_taken_away(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    me = Owner.me()
    for owner, why in (
        (replace(me, pid=ended.pid), "its process is gone"),
        (replace(me, born="1"), "its process is gone"),  # another process has its number now
        (replace(me, boot="another"), "the machine was started anew since"),
    ):
        held(tmp_path, owner)
        with lock(tmp_path) as note:
            assert f"did not end by itself: {why}" in note
    elsewhere = replace(me, host="elsewhere")
    held(tmp_path, elsewhere)
    with pytest.raises(Busy, match="on elsewhere"), lock(tmp_path):
        pass
    held(tmp_path, elsewhere, silent=locks.SILENT_SECONDS + 5)
    with lock(tmp_path) as note:
        assert "process" in note
    (tmp_path / ".lock.held").write_text('{"host": "cut sh')
    with pytest.raises(Busy, match="of an unknown process"), lock(tmp_path):
        pass


@pytest.mark.usefixtures("no_locks")
def test_a_holder_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02)
    with lock(tmp_path):
        path = tmp_path / ".lock.held"
        os.utime(path, (1.0, 1.0))
        end = time.monotonic() + 10
        while path.stat().st_mtime < 2.0:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("attempt", range(20))
def test_of_many_that_come_at_once_one_gets_it(tmp_path: Path, attempt: int) -> None:
    held(tmp_path, replace(Owner.me(), boot="another"))
    together, done = threading.Barrier(8, timeout=60), threading.Barrier(8, timeout=60)

    def come(number: int) -> str:
        together.wait()
        try:
            with lock(tmp_path) as note:
                done.wait()
                return note
        except Busy:
            done.wait()
            return ""

    with ThreadPoolExecutor(8) as pool:
        notes = [n for n in pool.map(come, range(8)) if n]
    assert len(notes) == 1
    assert "did not end by itself" in notes[0]
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


@pytest.mark.usefixtures("no_locks")
def test_who_takes_over_leaves_no_moment_without_a_holder(tmp_path: Path) -> None:
    """One that read the dead holder's file before another took over finds the living one, and nobody slips in."""
    dead = held(tmp_path, replace(Owner.me(), boot="another")).read_text()
    with lock(tmp_path):
        path = tmp_path / ".lock.held"
        kept = path.read_text()
        assert not locks._take_over(path, stale=dead, mine="late")
        assert path.read_text() == kept
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".lock.held"]
    assert not path.exists()


@pytest.mark.usefixtures("no_locks")
def test_a_run_that_died_taking_over_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*arguments: Any) -> None:
        raise SystemExit

    held(tmp_path, replace(Owner.me(), boot="another"))
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", die)
        with pytest.raises(SystemExit), lock(tmp_path):
            pass
    (claim,) = tmp_path.glob(".lock.held.*")
    os.utime(claim, (1.0, 1.0))
    with pytest.raises(Busy, match=f"remove {claim}"), lock(tmp_path):
        pass
    claim.unlink()
    with lock(tmp_path) as note:
        assert "started anew" in note


@pytest.mark.usefixtures("no_locks")
def test_one_that_was_silent_for_too_long_leaves_its_successor_alone(tmp_path: Path) -> None:
    path = tmp_path / ".lock.held"
    with lock(tmp_path):
        path.write_text("of the successor")
    assert path.read_text() == "of the successor"
