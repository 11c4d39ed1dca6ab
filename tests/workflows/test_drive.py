"""What surrounds units: as many run as there are workers, one waits and a stop does not begin it; memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from skyloom.ops.errors import DataError
from skyloom.workflows import units
from skyloom.workflows.driving import drive
from skyloom.workflows.journal import UnitRecord
from skyloom.workflows.schedulers import open_scheduler


@dataclass
class Gate:
    """Holds tasks until it opens and counts those that have begun."""

    opened: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: int = 0


@dataclass(frozen=True)
class Held:
    """A task that waits at the gate."""

    unit: tuple[int, ...]
    gate: Gate
    fails: bool = False

    def run(self) -> tuple[UnitRecord, ...]:
        with self.gate.lock:
            self.gate.begun += 1
        assert self.gate.opened.wait(20)
        if self.fails:
            raise DataError("broken")
        return (UnitRecord(self.unit, 0, 0.0, 0.0),)


def started(gate: Gate, count: int) -> None:
    """Wait until so many tasks have begun, and a little for one that should not."""
    for _ in range(2000):
        if gate.begun >= count:
            break
        time.sleep(0.005)
    time.sleep(0.1)
    assert gate.begun == count


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_that_waits_is_not_begun_after_a_stop(fails: bool) -> None:
    gate, stop = Gate(), threading.Event()
    tasks = iter([Held((n,), gate, fails=fails and n == 0) for n in range(9)])
    seen: list[tuple[int, ...]] = []
    problems: list[BaseException] = []

    def finished(records: Sequence[UnitRecord]) -> None:
        seen.extend(r.unit for r in records)

    def work() -> None:
        with open_scheduler("threads", workers=2) as scheduler:
            try:
                drive(scheduler, tasks, finished, window=3, stop=stop, node="toy")
            except DataError as problem:
                problems.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    started(gate, 2)
    assert next(tasks).unit == (3,), "the third has been made and waits"
    stop.set()
    # The driver looks at the stop every half second.
    time.sleep(0.8)
    gate.opened.set()
    thread.join(20)
    assert gate.begun == 2
    assert sorted(seen) == ([(1,)] if fails else [(0,), (1,)])
    assert len(problems) == fails


def test_memory_goes_back_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, given = [100.0], []
    monkeypatch.setattr(units, "_given_back", 0.0)
    monkeypatch.setattr(units, "release_memory", lambda: given.append(clock[0]))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(9):
        units._give_back()
        clock[0] += units.GIVE_BACK_SECONDS * 0.4
    assert given == pytest.approx([100.0 + units.GIVE_BACK_SECONDS * k for k in (0.0, 1.2, 2.4)])
    clock[0] += 10
    units._give_back()
    clock[0] += units.GIVE_BACK_SECONDS
    units._give_back()
    assert len(given) == 5, "units that take longer give back each"
