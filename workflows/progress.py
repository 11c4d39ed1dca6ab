"""How far a run is: one stream of events, shown as bars on a terminal, a table in a notebook, lines in a log."""

from __future__ import annotations

import logging
import os
import sys
import time
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from skyloom.workflows.machine import count, format_seconds


@dataclass(frozen=True)
class Advance:
    """State of a node after a unit."""

    node: str
    units: int
    """Done."""
    total: int
    work: float
    """Mpixel·frames done."""
    total_work: float
    seconds: float
    """Since the node began in this run."""

    @property
    def rate(self) -> float:
        """Mpixel·frames a second."""
        return self.work / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float:
        """Seconds to go, from the work left: depth varies from tile to tile, so tasks are no measure."""
        return (self.total_work - self.work) / self.rate if self.rate > 0 else float("nan")

    def text(self) -> str:
        """Rate and time to go."""
        eta = f", {format_seconds(self.eta)} to go" if self.units < self.total and self.rate > 0 else ""
        return f"{self.rate:.1f} Mpx·frames/s{eta}"


class Reporter(Protocol):
    """Hears of everything that happens in a run."""

    def node_begins(self, name: str, *, units: int, done: int) -> None:
        """A node starts; `done` of its `units` were finished by an earlier run."""

    def unit_done(self, state: Advance) -> None:
        """A unit is written."""

    def node_ends(self, name: str, *, seconds: float, note: str) -> None:
        """A node is complete."""

    def message(self, text: str) -> None:
        """Something a person should read."""

    def close(self) -> None:
        """The run is over."""


class Silent:
    """Says nothing."""

    def node_begins(self, name: str, *, units: int, done: int) -> None:
        """Say nothing."""

    def unit_done(self, state: Advance) -> None:
        """Say nothing."""

    def node_ends(self, name: str, *, seconds: float, note: str) -> None:
        """Say nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


class Lines:
    """A line a node, and one every few seconds in between: for logs and pipes."""

    def __init__(self, *, interval: float = 10.0) -> None:
        self.interval = interval
        self._last = time.monotonic()

    def _print(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def node_begins(self, name: str, *, units: int, done: int) -> None:
        """Say how much there is to do."""
        self._last = time.monotonic()
        self._print(f"{name}: {count(units, 'task')}" + (f", {done} done before" if done else ""))

    def unit_done(self, state: Advance) -> None:
        """Say where it is, from time to time."""
        if time.monotonic() - self._last >= self.interval:
            self._last = time.monotonic()
            self._print(f"{state.node}: {state.units}/{state.total} tasks, {state.text()}")

    def node_ends(self, name: str, *, seconds: float, note: str) -> None:
        """Say how long it took."""
        self._print(f"{name}: {note or f'done in {format_seconds(seconds)}'}")

    def message(self, text: str) -> None:
        """Print it."""
        self._print(text)

    def close(self) -> None:
        """Nothing to close."""


class Bars:
    """A bar a node on the terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.fields[name]:<12}"),
            BarColumn(bar_width=28),
            TextColumn("{task.completed}/{task.total} tasks"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def node_begins(self, name: str, *, units: int, done: int) -> None:
        """Add a bar."""
        self._tasks[name] = self._progress.add_task("", name=name, total=max(1, units), completed=done, text="")

    def unit_done(self, state: Advance) -> None:
        """Move the bar."""
        self._progress.update(self._tasks[state.node], completed=state.units, text=state.text())

    def node_ends(self, name: str, *, seconds: float, note: str) -> None:
        """Fill the bar."""
        if name not in self._tasks:
            self.node_begins(name, units=1, done=1)
        task = self._tasks[name]
        total = next(t.total for t in self._progress.tasks if t.id == task)
        self._progress.update(task, completed=total)
        if note:
            self._progress.update(task, text=note)

    def message(self, text: str) -> None:
        """Print above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


class Cell:
    """A table under a notebook's cell, one row a node, that is drawn anew as the run goes on."""

    def __init__(self, *, interval: float = 0.5) -> None:
        shown: Any = import_module("IPython.display")
        self.interval = interval
        self._html = shown.HTML
        self._rows: dict[str, tuple[float, str]] = {}
        self._messages: list[str] = []
        self._last = 0.0
        self._handle: Any = shown.display(shown.HTML(""), display_id=True)

    def _draw(self, *, now: bool = True) -> None:
        if not now and time.monotonic() - self._last < self.interval:
            return
        self._last = time.monotonic()
        rows = "".join(
            f'<tr><td style="text-align:left">{escape(name)}</td>'
            f'<td><progress max="1" value="{share:.3f}"></progress></td>'
            f'<td style="text-align:left">{escape(text)}</td></tr>'
            for name, (share, text) in self._rows.items()
        )
        messages = "".join(f"<div>{escape(text)}</div>" for text in self._messages)
        self._handle.update(self._html(f"<table>{rows}</table>{messages}"))

    def node_begins(self, name: str, *, units: int, done: int) -> None:
        """Add a row."""
        self._rows[name] = (done / max(1, units), count(units, "task"))
        self._draw()

    def unit_done(self, state: Advance) -> None:
        """Move its bar, a few times a second at most."""
        share = state.units / max(1, state.total)
        self._rows[state.node] = (share, f"{state.units}/{state.total} tasks, {state.text()}")
        self._draw(now=False)

    def node_ends(self, name: str, *, seconds: float, note: str) -> None:
        """Fill its bar."""
        self._rows[name] = (1.0, note or f"done in {format_seconds(seconds)}")
        self._draw()

    def message(self, text: str) -> None:
        """Write it below the table."""
        self._messages.append(text)
        self._draw()

    def close(self) -> None:
        """Show the last state."""
        self._draw()


class Logged:
    """Passes everything on to another reporter and to the logger `skyloom.run`."""

    def __init__(self, shown: Reporter) -> None:
        self.shown = shown
        self._log = logging.getLogger("skyloom.run")

    def node_begins(self, name: str, *, units: int, done: int) -> None:
        """Log how much there is to do."""
        self._log.info("%s: %s%s", name, count(units, "task"), f", {done} done before" if done else "")
        self.shown.node_begins(name, units=units, done=done)

    def unit_done(self, state: Advance) -> None:
        """Log where it is (debug)."""
        self._log.debug("%s: %d/%d tasks, %s", state.node, state.units, state.total, state.text())
        self.shown.unit_done(state)

    def node_ends(self, name: str, *, seconds: float, note: str) -> None:
        """Log how long it took."""
        self._log.info("%s: %s", name, note or f"done in {format_seconds(seconds)}")
        self.shown.node_ends(name, seconds=seconds, note=note)

    def message(self, text: str) -> None:
        """Log it as a warning: a person should read it."""
        self._log.warning("%s", text)
        self.shown.message(text)

    def close(self) -> None:
        """Close the other one."""
        self.shown.close()


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def reporter() -> Reporter:
    """Bars on a terminal, a table in a notebook, lines elsewhere."""
    if in_notebook():
        return Cell()
    # A dumb terminal (an editor's shell, some CI) shows escape codes as they are.
    return Bars() if sys.stderr.isatty() and os.environ.get("TERM", "") != "dumb" else Lines()
