"""What goes wrong with a project in an object store: kills, two runs, damage, a store that does not answer."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from skyloom.ops import objects
from skyloom.ops.errors import ClusterError
from skyloom.workflows import lines, lock, places
from skyloom.workflows.cli import main
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.store import Store


@pytest.fixture
def far(faults: Any, s3: Any, request: pytest.FixtureRequest) -> Any:
    """The faults, with the project in a bucket."""
    faults.project = f"s3://nights/{request.node.name}/p"
    return faults


def blocks(project: str) -> list[str]:
    """Blocks of tiles in the store."""
    return [str(p) for p, _ in places.files(Store(project).root / "tiles") if "/c/" in str(p)]


def test_a_killed_run_loses_no_tile_that_was_stored(far: Any) -> None:
    far.order("kill-2-1")
    killed = far.start("--workers", "1")
    _, err = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, err
    stored = blocks(far.project)
    assert len(stored) >= 8
    # Their lines were kept back, and went with it.
    (key,) = Store(far.project).keys("tiles")
    assert len(Store(far.project).journal("tiles", key).read()) < len(stored)
    (far.orders / "kill-2-1").unlink()
    far.forget()
    assert main(far.command("--quiet")[2:]) == 0
    after = [d for d in far.done() if d.startswith("tile")]
    assert len(after) == len(set(after)) == 16 - len(stored), "what was stored is not made again"
    np.testing.assert_array_equal(far.image(), far.expected())
    (key,) = Store(far.project).keys("tiles")
    assert len(Store(far.project).journal("tiles", key).read()) == 16


def test_tiles_that_were_taken_back_are_not_found_again(far: Any) -> None:
    assert main(far.command("--quiet")[2:]) == 0
    store = Store(far.project)
    (key,) = store.keys("tiles")
    store.journal("tiles", key).void([(0, 0)], "as a test has it")
    store.mark_suspect("tiles", key)
    far.forget()
    assert main(far.command("--quiet")[2:]) == 0
    assert far.done() == ["tile 0-0"]


def test_a_second_run_is_refused_and_a_dead_one_is_not_waited_for(
    far: Any, until: Callable[..., None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    far.order("hang-1-0")
    first = far.start("--workers", "1")
    until(lambda: "tile 1-0" in far.done())
    assert main(far.command("--quiet")[2:]) == 5
    assert f"process {first.pid} on " in capsys.readouterr().err
    first.kill()
    first.communicate()
    (far.orders / "hang-1-0").unlink()
    # It says of itself that it is of another machine: only its silence tells.
    held = places.place(far.project) / lock.NAME
    owner = json.loads(held.read_bytes())
    held.write_text(json.dumps({**owner, "host": "elsewhere"}))
    assert main(far.command("--quiet")[2:]) == 5
    monkeypatch.setattr(lock, "SILENT_SECONDS", -5.0)
    assert main(far.command()[2:]) == 0
    assert "did not end by itself" in capsys.readouterr().err
    assert not held.exists(), "it is given back"
    np.testing.assert_array_equal(far.image(), far.expected())


def test_the_lock_shows_that_its_holder_lives(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    project = places.ObjectPlace.of("s3://nights/beats")
    with lock.lock(project) as note:
        assert note == ""
        puts = [a for a in s3.asked if a[0] == "PUT"]
        end = time.monotonic() + 10
        while len([a for a in s3.asked if a[0] == "PUT"]) < len(puts) + 3:
            assert time.monotonic() < end
            time.sleep(0.02)
        with pytest.raises(lock.Busy), lock.lock(project):
            pass
        # Another that took it for dead: it is not given back in that one's stead.
        (project / lock.NAME).write_text(lock.Owner("elsewhere", 1, "", "", 0.0).to_json())
    assert (project / lock.NAME).exists()


def test_a_damaged_block_is_found_and_mended(far: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(far.command("--quiet")[2:]) == 0
    one, other = (places.place(b) for b in blocks(far.project)[3:5])
    assert isinstance(one, places.ObjectPlace)
    data = bytearray(one.read_bytes())
    data[40] ^= 1
    one.write_bytes(bytes(data))
    other.unlink()
    assert main(["status", far.project, "--check"]) == 0
    assert "tiles: damaged (2 tasks not as written)" in capsys.readouterr().out
    far.forget()
    assert main(far.command("--quiet")[2:]) == 0
    assert len(far.done()) == 2
    np.testing.assert_array_equal(far.image(), far.expected())


def test_a_block_that_is_gone_is_noticed_by_the_next_run(far: Any) -> None:
    assert main(far.command("--quiet")[2:]) == 0
    places.place(blocks(far.project)[6]).unlink()
    far.forget()
    assert main(far.command("--quiet")[2:]) == 0
    assert len(far.done()) == 1
    np.testing.assert_array_equal(far.image(), far.expected())


def test_a_store_that_fails_for_a_while_is_survived(far: Any, s3: Any) -> None:
    failed: list[str] = []

    def unwell(method: str, path: str) -> str:
        # Every third request, as long as there have been few.
        if len(s3.asked) % 3 == 0 and len(failed) < 60:
            failed.append(path)
            return "503 Slow Down" if len(failed) % 2 else "500 Internal Server Error"
        return ""

    s3.fails = unwell
    run_workflow(far.workflow, far.frames, project=far.project, workers=2, page=False)
    assert len(failed) > 20
    assert len([d for d in far.done() if d.startswith("tile")]) == 16, "no task is done twice for it"
    np.testing.assert_array_equal(far.image(), far.expected())


def test_a_store_that_stays_away_stops_the_run_and_it_goes_on(
    far: Any, s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0.5)
    s3.fails = lambda method, path: (
        "500 Internal Server Error" if "tile 1-3" in far.done() and "/p" in path else ""
    )
    assert main(far.command("--quiet", "--workers", "1")[2:]) == 4
    err = capsys.readouterr().err
    assert "the store does not answer (HTTP 500 InternalError)" in err
    assert "what is done is kept" in err
    assert s3.key not in err
    assert err.count("\n") <= 2
    s3.fails = lambda method, path: ""
    before = set(far.done())
    far.forget()
    assert main(far.command("--quiet")[2:]) == 0
    assert len(before & set(far.done())) <= 1, "the tile in flight"
    np.testing.assert_array_equal(far.image(), far.expected())


def test_no_permission_in_the_middle(far: Any, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    s3.fails = lambda method, path: "403 Forbidden" if method == "PUT" and "/tiles/" in path else ""
    assert main(far.command("--quiet")[2:]) == 4
    err = capsys.readouterr().err
    assert "the store does not allow it (HTTP 403 AccessDenied); look at the credentials" in err
    assert s3.key not in err
    log = lines.lines_of(places.place(far.project) / "run.log.jsonl").read()
    assert json.loads(log.splitlines()[-1])["event"] == "stopped"
    assert s3.key.encode() not in log


def test_mistakes_are_one_line_before_anything_runs(
    far: Any, s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(project: str) -> str:
        objects._opened.cache_clear()
        places._zarr_store.cache_clear()
        far.project = project
        assert main(far.command("--quiet")[2:]) == 2
        out = capsys.readouterr()
        assert out.err.count("\n") == 1
        assert s3.key not in out.err
        assert s3.secret not in out.err
        return out.err

    assert "s3://nowhere: there is no such bucket" in refused("s3://nowhere/p")
    assert main(["status", "s3://nights/nothing"]) == 2
    assert "s3://nights/nothing is no project" in capsys.readouterr().err
    assert main(["status", "s3://nowhere/p"]) == 2
    assert "there is no such bucket" in capsys.readouterr().err
    assert "no address that is known" in refused("ftp://host/p")
    word = refused("s3://who:password@nights/p")
    assert "leave them out of the address" in word
    assert "password@" not in word
    s3.fails = lambda method, path: "403 Forbidden"
    assert "does not allow it (HTTP 403" in refused("s3://nights/closed/p")
    s3.fails = lambda method, path: ""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refused("s3://nights/p")
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    assert "pip install 'skyloom[objects]'" in refused("s3://nights/p")


def test_an_object_that_is_written_again_while_it_is_used(
    far: Any, s3: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "s3://nights/changing/frames"
    for i in range(4):
        (places.place(address) / f"{i}.fits").write_bytes(far.frame(i).read_bytes())
    command = [*far.command("--quiet")[2:]]
    command[command.index(str(far.frames))] = address

    def write_again(method: str, path: str) -> str:
        if not written and "tile 0-0" in far.done():
            written.append(path)
            far.write(2, 7)
            (places.place(address) / "2.fits").write_bytes(far.frame(2).read_bytes())
        return ""

    written: list[str] = []
    s3.fails = write_again
    assert main(command) == 3
    assert "2.fits: other content" in capsys.readouterr().err
    assert main(command) == 0
    np.testing.assert_array_equal(far.image(), far.expected(600.0 * (1 + 2 + 7 + 4)))


@pytest.mark.slow
def test_workers_of_a_cluster_open_the_same_address(
    far: Any, program: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distributed import Client, LocalCluster

    monkeypatch.syspath_prepend(str(Path(program.__file__ or "").parent))
    address = "s3://nights/cluster/frames"
    for i in range(4):
        (places.place(address) / f"{i}.fits").write_bytes(far.frame(i).read_bytes())
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        run_workflow(far.workflow, [address], project=far.project, scheduler=client, page=False)
        np.testing.assert_array_equal(far.image(), far.expected())
        store = Store(far.project)
        (key,) = store.keys("tiles")
        assert all(r.worker.startswith("tcp://") for r in store.journal("tiles", key).read().values())
        # A worker that is not let in is told of before it gets tasks.
        client.run(exec, _LET_OUT)
        with pytest.raises(
            ClusterError, match=r"1 worker, .* cannot see it; they need skyloom\[objects\] and cred"
        ):
            run_workflow(far.workflow, [address], project=far.project, scheduler=client, page=False)


_LET_OUT = """
import os
from skyloom.ops import objects
os.environ.pop("AWS_ACCESS_KEY_ID")
objects._opened.cache_clear()
"""


def test_lines_are_joined_and_read_in_order(s3: Any) -> None:
    place = places.ObjectPlace.of("s3://nights/lines")
    many = lines.ObjectLines(place)
    for i in range(lines.JOINED + 3):
        many.append([{"n": i}], durable=True)
        many.flush()
    assert [json.loads(line)["n"] for line in many.read().splitlines()] == list(range(lines.JOINED + 3))
    with many.writing():
        many.append([{"n": -1}], durable=True)
        assert len(places.files(place)) == lines.JOINED + 3, "kept back"
    assert len(places.files(place)) == 1
    found = [json.loads(line)["n"] for line in lines.ObjectLines(place).read().splitlines()]
    assert found == [*range(lines.JOINED + 3), -1]
    # A run that another one has overtaken does not write over its lines.
    one, other = lines.ObjectLines(place), lines.ObjectLines(place)
    one.append([{"n": 1}], durable=True)
    other.append([{"n": 2}], durable=True)
    one.flush()
    other.flush()
    assert len(places.files(place)) == 3
