"""What a failing disk or a power cut leaves of a project: noticed, computed again, nothing else is."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyloom.ops.errors import DataError
from skyloom.workflows import verify
from skyloom.workflows.cli import main
from skyloom.workflows.progress import Silent
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.store import Store
from skyloom.workflows.stored import DamagedResult


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def run(faults: Any, **changes: Any) -> list[str]:
    told = Told()
    workflow = faults.workflow.with_parameters(changes) if changes else faults.workflow
    run_workflow(workflow, faults.frames, project=faults.project, scheduler="synchronous", reporter=told)
    return told.lines


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flip": flip,
    "halve": halve,
    "empty": empty,
    "zeros": zeros,
    "gone": Path.unlink,
}


def block(faults: Any, node: str, *index: int) -> Path:
    (path,) = (faults.project / "project.zarr" / node).glob(f"*/*/c/{'/'.join(map(str, index))}")
    return Path(path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_block_of_a_complete_result_is_computed_again(faults: Any, damage: str) -> None:
    run(faults)
    DAMAGE[damage](block(faults, "sums", 2))
    faults.forget()
    told = run(faults, **{"tiles.gain": 2.0})
    assert [d for d in faults.done() if d.startswith("sum")] == ["sum 1800"], "the others are kept"
    assert any("sums: part of its result is damaged" in t for t in told), told
    assert any("sums: 1 task of 4 did not reach the disk whole, done again" in t for t in told), told
    np.testing.assert_array_equal(faults.image(), faults.expected(12000.0))
    events = [json.loads(line) for line in (faults.project / "run.log.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events if e["event"] in ("damaged", "done")] == ["done", "damaged", "done"]


@pytest.mark.parametrize("finder", ["run", "check", "export"])
@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_damage_in_the_last_result(
    faults: Any, damage: str, finder: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A block that is gone is missed by any run; one that is damaged by whoever reads it."""
    run(faults)
    DAMAGE[damage](block(faults, "tiles", 1, 2))
    faults.forget()
    if finder == "check":
        assert main(["status", str(faults.project), "--check"]) == 0
        assert "tiles: damaged (1 task not as written); run the workflow again" in capsys.readouterr().out
    if finder == "export" and damage == "flip":
        assert main(["export", str(faults.project), "tiles", str(tmp_path / "t.tif")]) == 3
        assert "is damaged" in capsys.readouterr().err
    if damage == "flip":
        with pytest.raises((DamagedResult, DataError)):
            faults.image()
    run(faults)
    if finder == "run" and damage == "flip":
        assert faults.done() == [], "it does not read what it does not need"
        return
    assert [d for d in faults.done() if d.startswith("tile")] == ["tile 1-2"]
    np.testing.assert_array_equal(faults.image(), faults.expected())
    assert main(["status", str(faults.project), "--check"]) == 0
    assert "all results are as they were written (20 tasks read back)" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["halve", "empty", "zeros", "gone"])
@pytest.mark.parametrize("what", ["root", "node", "key", "variable"])
def test_descriptions_cut_short_are_written_anew_around_the_blocks(faults: Any, what: str, damage: str) -> None:
    run(faults)
    root = faults.project / "project.zarr"
    (key,) = Store(faults.project).keys("sums")
    path = {
        "root": root / "zarr.json",
        "node": root / "sums" / "zarr.json",
        "key": root / "sums" / key / "zarr.json",
        "variable": root / "sums" / key / "sum" / "zarr.json",
    }[what]
    DAMAGE[damage](path)
    faults.forget()
    run(faults, **{"tiles.gain": 2.0})
    assert not [d for d in faults.done() if d.startswith("sum")], "no pixels were read again"
    np.testing.assert_array_equal(faults.image(), faults.expected(12000.0))
    json.loads(path.read_bytes())


def test_a_journal_cut_short_costs_what_it_no_longer_tells(faults: Any) -> None:
    run(faults)
    store = Store(faults.project)
    (key,) = store.keys("tiles")
    path = faults.project / "journal" / f"tiles-{key}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:10]) + lines[10][:30])
    store.mark_suspect("tiles", key)
    faults.forget()
    run(faults)
    assert len(faults.done()) == 6
    np.testing.assert_array_equal(faults.image(), faults.expected())


def test_a_table_that_is_damaged_is_written_again(faults: Any) -> None:
    run(faults)
    root = faults.project / "project.zarr" / "ingest"
    for path in root.glob("*/name/c/0"):
        flip(path)
    run(faults, **{"tiles.gain": 2.0})
    np.testing.assert_array_equal(faults.image(), faults.expected(12000.0))
    assert Store(faults.project).open("ingest")["name"].values.tolist() == [f"frame{i}.fits" for i in range(4)]


def test_a_damaged_copy_of_a_decoded_frame_is_decoded_again(faults: Any) -> None:
    packed = faults.frame(2)
    packed.with_name("frame2.fits.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    run(faults)
    for path in (faults.project / "project.zarr" / "frames").glob("*/c/0/0"):
        flip(path)
    store = Store(faults.project)
    store.remove("sums", store.keys("sums")[0])
    told = run(faults)
    assert any("the copy of a frame is damaged" in t for t in told)
    np.testing.assert_array_equal(faults.image(), faults.expected())


def test_a_disk_that_damages_all_it_gets_is_given_up(faults: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from skyloom.workflows.store import UnitWriter

    write = UnitWriter.write

    def rotten(self: UnitWriter, unit: tuple[int, ...], arrays: Any) -> int:
        checksum = write(self, unit, arrays)
        if self.node == "sums" and unit == (1,):
            flip(block(faults, "sums", 1))
        return checksum

    monkeypatch.setattr(UnitWriter, "write", rotten)
    with pytest.raises(DataError, match="was damaged 3 times in this run") as stopped:
        run(faults)
    assert stopped.value.exit_code == 3


def test_clocks_that_jump_hide_no_lost_block(faults: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last minute is that of the work, whatever the clock said: backwards by a day, and ahead by a year."""
    import time

    faults.order("oserror-3-3")
    real, begin = time.time, time.monotonic()
    jumps = [-86400.0, 0.0, 3e7, -5000.0]

    def jumping() -> float:
        return real() + jumps[len(faults.done()) % len(jumps)]

    with monkeypatch.context() as clock:
        clock.setattr("time.time", jumping)
        with pytest.raises(DataError, match="Input/output error"):
            run(faults)
    assert time.monotonic() - begin < verify.RECENT_SECONDS, "else this shows nothing"
    (faults.orders / "oserror-3-3").unlink()
    zeros(block(faults, "tiles", 0, 1))
    zeros(block(faults, "tiles", 3, 2))
    faults.forget()
    told = run(faults)
    assert sorted(faults.done()) == ["tile 0-1", "tile 3-2", "tile 3-3"]
    assert any("2 tasks of 15 did not reach the disk whole" in t for t in told)
    np.testing.assert_array_equal(faults.image(), faults.expected())


def test_the_last_minute_is_that_of_the_work() -> None:
    from skyloom.workflows.journal import UnitRecord

    def records(times: list[float]) -> dict[tuple[int, ...], UnitRecord]:
        return {(i,): UnitRecord((i,), 0, 10.0, t) for i, t in enumerate(times)}

    even = [10.0 * i for i in range(20)]
    assert verify.recent(records(even)) == [(i,) for i in range(19, 12, -1)]
    back = even[:15] + [t - 86400 for t in even[15:]]
    assert set(verify.recent(records(even))) <= set(verify.recent(records(back)))
    ahead = even[:15] + [t + 86400 for t in even[15:]]
    assert set(verify.recent(records(even))) <= set(verify.recent(records(ahead)))
    assert len(verify.recent(records(ahead))) < 20
