"""Every run leaves its page, whatever became of it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyloom.ops.errors import DataError
from skyloom.workflows import runner
from skyloom.workflows.graph import Workflow
from skyloom.workflows.progress import Silent
from skyloom.workflows.report import page as page_module
from skyloom.workflows.report.facts import open_facts
from skyloom.workflows.runner import run_workflow

Numbers = Callable[..., list[Path]]
Read = Callable[[str], Any]


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def page_of(project: Path) -> str:
    return (project / "outputs" / "report.html").read_text(encoding="utf-8")


def states(project: Path) -> dict[str, str]:
    return {n.name: n.state for n in open_facts(project).nodes}


def test_run_leaves_a_page(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path, read: Read
) -> None:
    report = run_workflow(toy_workflow, numbers(1, 2), project=tmp_path / "p")
    assert report.page == tmp_path / "p" / "outputs" / "report.html"
    page = read(page_of(tmp_path / "p"))
    assert page.problems == []
    assert "toy: complete" in page.text
    assert "15 tasks" in page.sections["graph"]
    assert "could not be made" not in page.text
    assert states(tmp_path / "p") == {"read": "done", "tiles": "done", "total": "done"}
    run_workflow(toy_workflow, numbers(1, 2), project=tmp_path / "p")
    assert states(tmp_path / "p") == {"read": "earlier", "tiles": "earlier", "total": "earlier"}


def test_no_page_where_none_is_wanted(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path
) -> None:
    report = run_workflow(toy_workflow, numbers(1, 2), project=tmp_path / "p", page=False)
    assert report.page is None
    toy["fail"] = (2, 1)
    with pytest.raises(DataError):
        run_workflow(toy_workflow, numbers(4), project=tmp_path / "p", page=False)
    assert not (tmp_path / "p" / "outputs" / "report.html").exists()


def test_failed_run_leaves_a_page_that_says_where(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path, read: Read
) -> None:
    toy["fail"], toy["error"] = (2, 1), DataError("tile <is> broken")
    with pytest.raises(DataError, match="broken"):
        run_workflow(toy_workflow, numbers(4), project=tmp_path / "p", scheduler="synchronous")
    page = read(page_of(tmp_path / "p"))
    assert page.problems == []
    assert "toy: stopped" in page.text
    assert "node 'tiles', unit (2, 1): tile <is> broken" in page.text
    assert "stopped here" in page.sections["graph"]
    assert states(tmp_path / "p") == {"read": "done", "tiles": "failed", "total": "waiting"}
    (tiles,) = [n for n in open_facts(tmp_path / "p").nodes if n.name == "tiles"]
    # Rows 0 and 1 but for the empty corner, and one of row 2.
    assert tiles.units == 3 + 4 + 1
    toy["fail"] = None
    run_workflow(toy_workflow, numbers(4), project=tmp_path / "p", scheduler="synchronous")
    assert "toy: complete" in page_of(tmp_path / "p")


def test_error_of_the_program_leaves_a_page(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path, read: Read
) -> None:
    toy["fail"], toy["error"] = (2, 1), ZeroDivisionError("division by zero")
    with pytest.raises(Exception, match="division by zero"):
        run_workflow(toy_workflow, numbers(4), project=tmp_path / "p", scheduler="synchronous")
    page = read(page_of(tmp_path / "p"))
    assert "division by zero" in page.text
    assert "complete" not in page.text


def test_stopped_run_leaves_a_page(
    toy: dict[str, Any],
    toy_workflow: Workflow,
    numbers: Numbers,
    tmp_path: Path,
    read: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy["wait"] = 0.05
    stops: list[threading.Event] = []
    make = runner.Run.__init__

    def init(self: runner.Run, *arguments: Any) -> None:
        make(self, *arguments)
        stops.append(self.stop)

    monkeypatch.setattr(runner.Run, "__init__", init)

    def stop() -> None:
        while len(toy["computed"]) < 3:
            time.sleep(0.01)
        stops[0].set()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(runner.Interrupted):
        run_workflow(toy_workflow, numbers(4), project=tmp_path / "p", scheduler="synchronous")
    thread.join()
    page = read(page_of(tmp_path / "p"))
    assert "stopped as asked" in page.text
    assert states(tmp_path / "p")["total"] == "waiting"


def test_page_that_cannot_be_written_stops_nothing(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(project: Path) -> Path:
        raise RuntimeError("no ink")

    monkeypatch.setattr(page_module, "write_report", broken)
    heard = Heard()
    report = run_workflow(toy_workflow, numbers(1), project=tmp_path / "p", reporter=heard)
    assert report.page is None
    assert "no report: no ink" in heard.messages
    toy["fail"] = (1, 1)
    again = toy_workflow.with_parameters({"tiles.gain": 3.0})
    with pytest.raises(DataError, match="tile is broken"):
        run_workflow(again, numbers(1), project=tmp_path / "p", reporter=heard)


def test_run_that_was_killed_is_not_called_complete(
    toy: dict[str, Any], toy_workflow: Workflow, numbers: Numbers, tmp_path: Path, read: Read
) -> None:
    project = tmp_path / "p"
    run_workflow(toy_workflow, numbers(1), project=project)
    log = project / "run.log.jsonl"
    events = [json.loads(line) for line in log.read_text().splitlines()]
    log.write_text("".join(json.dumps(e) + "\n" for e in events if e["event"] != "done"))
    page = read(page_module.write_report(project).read_text(encoding="utf-8"))
    assert "toy: not finished" in page.text
    assert "was killed" in page.text
