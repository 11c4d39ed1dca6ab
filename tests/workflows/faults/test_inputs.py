"""Input files that go, change or are touched while they are read: the run stops, no frame is lost silently."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skyloom.workflows.inputs import InputChanged
from skyloom.workflows.progress import Silent
from skyloom.workflows.runner import run_workflow

TOTAL = 600.0 * (1 + 2 + 3 + 4)


class AfterTwo(Silent):
    """Does something when two frames are read."""

    def __init__(self, what: Callable[[], Any]) -> None:
        self.what = what

    def unit_done(self, state: Any) -> None:
        if state.node == "sums" and state.units == 2:
            self.what()


def run(faults: Any, what: Callable[[], Any]) -> None:
    run_workflow(
        faults.workflow, faults.frames, project=faults.project, scheduler="synchronous", reporter=AfterTwo(what)
    )


def rewritten_with_its_time_kept(faults: Any) -> None:
    facts = faults.frame(3).stat()
    faults.write(3, 40)
    os.utime(faults.frame(3), ns=(facts.st_atime_ns, facts.st_mtime_ns))


CASES: dict[str, tuple[Callable[[Any], Any], str, float | None]] = {
    "gone": (lambda f: f.frame(3).unlink(), r"frame3.fits: gone", 600.0 * (1 + 2 + 3)),
    "written again": (lambda f: f.write(3, 40), "frame3.fits: other content", 600.0 * (1 + 2 + 3 + 40)),
    "written again, its time kept": (
        rewritten_with_its_time_kept,
        "frame3.fits: other content",
        600.0 * (1 + 2 + 3 + 40),
    ),
    "touched": (lambda f: os.utime(f.frame(3)), "frame3.fits: its time of change is another", TOTAL),
    "cut short": (lambda f: os.truncate(f.frame(3), 3000), "frame3.fits: 3000 bytes, it had", None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_changes_stops_the_run(faults: Any, case: str) -> None:
    what, says, total = CASES[case]
    with pytest.raises(InputChanged, match=rf"1 of 4 files changed while they were used \({says}") as stopped:
        run(faults, lambda: what(faults))
    assert stopped.value.exit_code == 3
    assert "run the same command again" in str(stopped.value)
    faults.forget()
    if total is None:
        faults.write(3, 4)
        total = TOTAL
    run(faults, lambda: None)
    np.testing.assert_array_equal(faults.image(), faults.expected(total))


def test_what_was_read_before_is_kept(faults: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at as the work goes on: only what was done since is done again."""
    monkeypatch.setattr("skyloom.workflows.node_units.LOOK_SECONDS", 0.0)
    with pytest.raises(InputChanged):
        run(faults, lambda: os.utime(faults.frame(3)))
    faults.forget()
    run(faults, lambda: None)
    assert [d for d in faults.done() if d.startswith("sum")] == ["sum 1200", "sum 1800", "sum 2400"]
    np.testing.assert_array_equal(faults.image(), faults.expected())


def test_a_file_that_is_only_moved_about_stops_nothing(faults: Any) -> None:
    """Its time of change is kept, its content too: as a backup, a new name beside it or new rights leave it."""

    def meddle() -> None:
        faults.frame(3).chmod(0o600)
        os.link(faults.frame(2), faults.base / "another_name.fits")

    run(faults, meddle)
    np.testing.assert_array_equal(faults.image(), faults.expected())
