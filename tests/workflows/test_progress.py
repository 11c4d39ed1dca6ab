"""Progress on terminals, in pipes, in notebooks, and in Python's logging."""

from __future__ import annotations

import logging
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skyloom.workflows import progress
from skyloom.workflows.graph import Workflow
from skyloom.workflows.progress import Advance, Bars, Cell, Lines, Silent, reporter
from skyloom.workflows.runner import run_workflow


class Shown:
    """Stands in for IPython.display."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def module(self) -> types.ModuleType:
        module = types.ModuleType("IPython.display")
        module.HTML = str  # type: ignore[attr-defined]
        module.display = lambda html, display_id: self  # type: ignore[attr-defined]
        return module

    def update(self, html: str) -> None:
        self.states.append(html)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Shown:
    shown = Shown()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown.module())
    return shown


def test_a_notebook_gets_a_table(
    notebook: Shown, toy_workflow: Workflow, numbers: Callable[..., list[Path]], tmp_path: Path
) -> None:
    shown = reporter()
    assert isinstance(shown, Cell)
    run_workflow(toy_workflow, numbers(1, 2), project=tmp_path / "p", scheduler="synchronous", reporter=shown)
    last = notebook.states[-1]
    assert "tiles" in last
    assert last.count('value="1.000"') == last.count("<tr>") == 3
    assert "\x1b" not in last


def test_a_table_is_drawn_now_and_then_and_escapes(notebook: Shown) -> None:
    cell = Cell(interval=60.0)
    cell.node_begins("a", units=100, done=0)
    before = len(notebook.states)
    for n in range(100):
        cell.unit_done(Advance("a", n + 1, 100, n + 1.0, 100.0, 1.0))
    assert len(notebook.states) == before
    cell.message("<b>")
    cell.close()
    assert "&lt;b&gt;" in notebook.states[-1]
    assert "100/100 tasks" in notebook.states[-1]


def test_who_gets_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "in_notebook", lambda: False)
    assert isinstance(reporter(), Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(reporter(), Lines)
    monkeypatch.setenv("TERM", "xterm")
    bars = reporter()
    bars.close()
    assert isinstance(bars, Bars)


def test_in_a_pipe_there_are_lines_from_time_to_time(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(interval=0.0)
    lines.node_begins("a", units=2, done=0)
    lines.unit_done(Advance("a", 1, 2, 1.0, 2.0, 1.0))
    lines.interval = 60.0
    lines.unit_done(Advance("a", 2, 2, 2.0, 2.0, 2.0))
    lines.node_ends("a", seconds=2.0, note="")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "a: 2 tasks\na: 1/2 tasks, 1.0 Mpx·frames/s, 1 s to go\na: done in 2 s\n"


def test_a_run_is_logged(
    toy_workflow: Workflow,
    numbers: Callable[..., list[Path]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.INFO, logger="skyloom"):
        run_workflow(toy_workflow, numbers(1), project=tmp_path / "p", scheduler="synchronous")
    told = [r.getMessage() for r in caplog.records if r.name == "skyloom.run"]
    assert "tiles: 15 tasks" in told
    assert capsys.readouterr().err == ""


def test_a_library_is_silent_unless_asked() -> None:
    code = "import logging, skyloom.ops; logging.getLogger('skyloom.run').warning('loud')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_messages_reach_both(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []

    class Ear(Silent):
        def message(self, text: str) -> None:
            heard.append(text)

    progress.Logged(Ear()).message("look")
    assert heard == ["look"]
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [("WARNING", "look")]


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {}])
def test_tables_in_a_pipe_and_without_colour_have_no_escape_codes(setting: dict[str, str]) -> None:
    code = "from skyloom.workflows.cli import main; main(['ops', 'tones'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"} | setting
    )
    assert b"tones" in done.stdout
    assert b"\x1b" not in done.stdout
