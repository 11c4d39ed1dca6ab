"""Runs a plan: node by node, unit by unit, each written and journaled before the next node sees it."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from dask import config

from skyloom.ops.errors import ConfigError, SkyloomError
from skyloom.ops.registry import FILES
from skyloom.workflows.evaluate import Step, is_session
from skyloom.workflows.graph import Workflow
from skyloom.workflows.journal import UnitRecord
from skyloom.workflows.link_drawing import link_svg
from skyloom.workflows.machine import BASE_BYTES, count, format_bytes, format_seconds, peak_memory, release_memory
from skyloom.workflows.plan import Plan, Planned, left_out, make_plan, plan_node
from skyloom.workflows.progress import Advance, Logged, Reporter, Silent
from skyloom.workflows.quality import link_problems, quality
from skyloom.workflows.reuse import take_overs
from skyloom.workflows.schedulers import Scheduler, default_workers, open_scheduler
from skyloom.workflows.store import Store, UnitWriter, disk_errors
from skyloom.workflows.units import drive, unit_tasks
from skyloom.workflows.unpack import frame_bytes, packed_frames, unpack, unpacked

RECENT_SECONDS = 60.0
"""On resume, units journaled this long before the last one are read back: their pixels may not have reached
the disk when the power went."""


class Interrupted(SkyloomError):
    """The user asked to stop; what is done is in the store."""


@dataclass(frozen=True)
class NodeReport:
    """What a node did in this run."""

    name: str
    key: str
    units: int
    skipped: int
    seconds: float
    work: float
    peak_memory: float
    """Bytes of this process at its peak up to the end of the node."""
    reused: int = 0
    """Units taken over from an earlier result."""


@dataclass(frozen=True)
class RunReport:
    """What a run did."""

    project: Path
    nodes: tuple[NodeReport, ...]
    left_out: tuple[tuple[str, str], ...]
    quality: tuple[str, ...]
    """How well the result is known, a line each."""
    outputs: tuple[Path, ...]
    seconds: float
    planned_memory: float
    peak_memory: float
    page: Path | None = None
    """`report.html`."""

    def __repr__(self) -> str:
        return f"<skyloom run of {self.project}: {summary(self)}>"

    def _repr_html_(self) -> str:
        from skyloom.workflows.notebook import report_html

        return report_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values (what `run --json` prints)."""
        plain = asdict(self)
        plain["project"] = str(self.project)
        plain["outputs"] = [str(path) for path in self.outputs]
        plain["page"] = str(self.page) if self.page else None
        return plain


class Run:
    """One run of a workflow in a project."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        files: Sequence[str | Path],
        scheduler: Scheduler,
        reporter: Reporter,
    ) -> None:
        self.plan = plan
        self.store = store
        self.files = files
        self.scheduler = scheduler
        self.reporter = reporter
        self.stop = threading.Event()
        self.log_path = store.project / "run.log.jsonl"

    def log(self, event: str, **facts: Any) -> None:
        """Append an event to the project's log."""
        with disk_errors(f"project {self.store.project}"), self.log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n")

    def run(self) -> RunReport:
        """Run all nodes that are not done.

        Raises
        ------
        SkyloomError
            The first thing that stops the run; all finished units stay.
        Interrupted
            After Ctrl-C.
        """
        begin = time.monotonic()
        self.log("run", workflow=self.plan.workflow.name, scheduler=self.scheduler.name, frames=self.plan.frames)
        with disk_errors(f"project {self.store.project}"):
            (self.store.project / "workflow.yaml").write_text(self.plan.workflow.to_yaml(), encoding="utf-8")
        steps: dict[str, Step] = {}
        reports: list[NodeReport] = []
        outputs: list[Path] = []
        planned_memory = 0.0
        at = ""
        for note in self.plan.notes:
            self.reporter.message(note)
        try:
            for node in self.plan.workflow.nodes:
                at = node.name
                if FILES in node.inputs.values():
                    step = self.plan.steps[node.name]
                    self._store_table(step)
                    step = self._unpack(step)
                    planned = Planned(step, next(n for n in self.plan.nodes if n.name == node.name))
                else:
                    planned = plan_node(
                        node,
                        steps,
                        self.files,
                        store=self.store,
                        limit=self.plan.memory_limit,
                        workers=self.scheduler.workers if self.scheduler.local else 1,
                    )
                    if node.op.table:
                        self._store_table(planned.step)
                        if node.op.name == "link":
                            outputs += self._draw_links(planned.step, steps)
                        steps[node.name] = planned.step
                        continue
                    _tidy()
                    report, made = self._run_node(planned, steps)
                    reports.append(report)
                    outputs.extend(made)
                    if node.op.name == "normalize":
                        solved = self._stored(planned.step)
                        outputs += self._draw_normalization(solved, steps, before=planned.step.stored)
                    planned_memory = max(planned_memory, planned.plan.memory)
                    step = self._stored(planned.step)
                    if step.dataset is not None and "notes" in step.dataset and str(step.dataset["notes"].values):
                        self.reporter.message(f"{node.name}: {step.dataset['notes'].values}")
                steps[node.name] = step
                del planned
                _tidy()
                self._check_stop()
        except SkyloomError as problem:
            self.log("stopped", node=at, reason=str(problem))
            raise
        except Exception as failure:
            self.log("failed", node=at, reason=str(failure), traceback=traceback.format_exc())
            raise
        result = RunReport(
            project=self.store.project,
            nodes=tuple(reports),
            left_out=left_out((s.dataset, s.stored) for s in steps.values() if s.dataset is not None),
            quality=tuple(quality(self.store)),
            outputs=tuple(outputs),
            seconds=time.monotonic() - begin,
            planned_memory=planned_memory,
            peak_memory=peak_memory(),
        )
        self.log("done", seconds=round(result.seconds, 3), left_out=[list(p) for p in result.left_out])
        return result

    def leave_page(self) -> Path | None:
        """Write the page that shows the project as it is; that it cannot be written stops nothing."""
        from skyloom.workflows.report.page import write_report

        try:
            return write_report(self.store.project)
        except Exception as failure:
            self.reporter.message(f"no report: {failure}")
            return None

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Interrupted("stopped as asked; run the same command again to go on")

    def _store_table(self, step: Step) -> None:
        """Keep the table of frames; a renamed file changes it without changing its key."""
        assert step.dataset is not None
        name = step.node.name
        if self.store.is_complete(name, step.key):
            stored = self.store.open(name, step.key)
            same = stored.attrs == step.dataset.attrs and all(
                np.array_equal(stored[v].values, step.dataset[v].values)
                for v in ("name", "source", "facts")
                if v in stored
            )
            if same:
                self.reporter.node_ends(name, seconds=0.0, note="as before")
                return
        self.store.write_table(name, step.key, step.dataset, self._meta(step))
        self.reporter.node_ends(name, seconds=0.0, note=count(step.dataset.sizes.get("frame", 0), "frame"))

    def _draw_links(self, step: Step, steps: Mapping[str, Step]) -> list[Path]:
        """Leave the picture of what was linked with what, and say what is broken."""
        links, session = step.dataset, steps[step.node.inputs["session"]].dataset
        if links is None or session is None:
            return []
        path = self.store.project / "outputs" / "links.svg"
        with disk_errors(f"writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(link_svg(links, session), encoding="utf-8")
        for problem in link_problems(links):
            self.reporter.message(problem)
        return [path]

    def _draw_normalization(self, step: Step, steps: Mapping[str, Step], *, before: bool) -> list[Path]:
        """Leave pictures of what was corrected and how well."""
        from skyloom.workflows.normalization_drawing import FOLDER, write_pictures

        session = steps[step.node.inputs["session"]].dataset
        if step.dataset is None or session is None:
            return []
        folder = self.store.project / "outputs" / FOLDER
        if before and (made := sorted(folder.glob("*.png"))):
            return made
        with disk_errors(f"writing to {folder}"):
            return write_pictures(session, step.dataset, folder)

    def _unpack(self, step: Step) -> Step:
        """Decode the frames that cannot be read by window into the store, once."""
        session = step.dataset
        if session is None or not is_session(session):
            return step
        rows = packed_frames(session, self.store)
        if not rows:
            return step
        begin = time.monotonic()
        pixels = (session["height"].values * session["width"].values).astype(float) / 1e6
        total, work, failed = float(pixels[rows].sum()), 0.0, 0
        _, peak = frame_bytes(session, rows)
        workers = self.scheduler.window
        if self.scheduler.local:
            workers = max(1, min(self.scheduler.workers, int((self.plan.memory_limit - BASE_BYTES) // peak)))
        self.reporter.node_begins("unpack", units=len(rows), done=0)
        for done, (row, problem) in enumerate(
            unpack(session, rows, self.store, self.scheduler, workers=workers), start=1
        ):
            work += float(pixels[row])
            failed += bool(problem)
            if problem:
                self.log("unpack", frame=str(session["name"].values[row]), reason=problem)
            seconds = time.monotonic() - begin
            self.reporter.unit_done(Advance("unpack", done, len(rows), work, total, seconds))
            self._check_stop()
        note = f"{count(len(rows), 'frame')} decoded" + (f", {failed} cannot be" if failed else "")
        self.reporter.node_ends("unpack", seconds=time.monotonic() - begin, note=note)
        return replace(step, dataset=unpacked(session, self.store))

    def _stored(self, step: Step) -> Step:
        if step.dataset is None or step.stored:
            return step
        return Step(step.node, step.key, self.store.open(step.node.name, step.key), stored=True)

    def _meta(self, step: Step) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "key": step.key,
            "op": step.node.op.name,
            "version": step.node.op.version,
            "parameters": dict(step.node.parameters),
            "inputs": dict(step.node.inputs),
            "skyloom": version("skyloom"),
            "started": time.time(),
        }

    def _run_node(self, planned: Planned, steps: Mapping[str, Step]) -> tuple[NodeReport, list[Path]]:
        step, plan = planned.step, planned.plan
        begin = time.monotonic()
        before = self._made_before(step) if step.node.op.sink else []
        if step.stored or before:
            self.reporter.node_ends(plan.name, seconds=0.0, note="as before")
            return NodeReport(plan.name, step.key, 0, 0, 0.0, 0.0, peak_memory()), before
        if plan.memory > self.plan.memory_limit:
            self.plan_refusal(planned)
        made: list[Path] = []
        skipped = reused = 0
        if step.node.op.sink:
            made = self._run_sink(step, steps)
        elif planned.layout is None or not planned.layout.variables:
            assert step.dataset is not None
            self.store.write_table(plan.name, step.key, step.dataset, self._meta(step))
            self.reporter.node_ends(plan.name, seconds=0.0, note="done")
        else:
            skipped, reused = self._run_units(planned)
        seconds = time.monotonic() - begin
        # A unit that did not arrive as it was written has been computed.
        units = plan.units + plan.reused - reused
        facts = {
            "seconds": round(seconds, 3), "units": units, "reused": reused, "peak_memory": peak_memory()
        }  # fmt: skip
        self.log("node", node=plan.name, key=step.key, **facts)
        return NodeReport(plan.name, step.key, units, skipped, seconds, plan.work, peak_memory(), reused), made

    def plan_refusal(self, planned: Planned) -> None:
        """Refuse a node whose cost, now that its inputs are known, does not fit."""
        replace(self.plan, nodes=(planned.plan,)).check()

    def _run_sink(self, step: Step, steps: Mapping[str, Step]) -> list[Path]:
        """Let an export write its files."""
        node = step.node
        directory, manifest = self._outputs(step)
        self.reporter.node_begins(node.name, units=1, done=0)
        begin = time.monotonic()
        with disk_errors(f"node {node.name!r}, writing to {directory}"):
            directory.mkdir(parents=True, exist_ok=True)
            inputs = {n: steps[p].dataset for n, p in node.inputs.items()}
            made = [Path(p) for p in node.op.function(**inputs, directory=directory, **node.parameters)]
            files = {os.path.relpath(p, directory): p.stat().st_size for p in made}
            manifest.write_text(json.dumps({"key": step.key, "files": files}), encoding="utf-8")
        self.reporter.node_ends(node.name, seconds=time.monotonic() - begin, note="")
        return made

    def _outputs(self, step: Step) -> tuple[Path, Path]:
        """Folder of the files an export makes, and the list of them."""
        directory = self.store.project / "outputs"
        return directory, directory / f".{step.node.name}.json"

    def _made_before(self, step: Step) -> list[Path]:
        """Files an export made under this key, if they are all still there in their full size."""
        directory, manifest = self._outputs(step)
        try:
            record = json.loads(manifest.read_text(encoding="utf-8"))
            files = {Path(os.path.normpath(directory / n)): int(size) for n, size in record["files"].items()}
            if record["key"] == step.key and all(p.stat().st_size == size for p, size in files.items()):
                return list(files)
        except (OSError, ValueError, KeyError, AttributeError):
            pass
        return []

    def _run_units(self, planned: Planned) -> tuple[int, int]:
        """Take over, compute, write and journal the units of a node that are not done.

        Returns
        -------
        done, reused
            How many were there before, and how many an earlier result held.
        """
        step, layout, work = planned.step, planned.layout, planned.work
        assert step.dataset is not None
        assert layout is not None
        assert work is not None
        name, op = step.node.name, step.node.op
        writer = self.store.prepare(name, step.key, step.dataset, layout, self._meta(step))
        journal = self.store.journal(name, step.key)
        done = set(_verified(journal.read(), writer))
        missing = [u for u in layout.units() if work[u] > 0 and u not in done]
        held = [u for u in missing if u in planned.reuse]
        total = int((work > 0).sum())
        total_work = float(sum(work[u] for u in missing if u not in planned.reuse))
        reused: set[tuple[int, ...]] = set()
        progress = {"units": len(done), "work": 0.0}
        begin = time.monotonic()
        self.reporter.node_begins(name, units=total, done=len(done))

        def finished(records: Sequence[UnitRecord]) -> None:
            with disk_errors(f"node {name!r}, project {self.store.project}"):
                journal.append(records)
            for record in records:
                progress["units"] += 1
                if record.reused:
                    reused.add(record.unit)
                else:
                    progress["work"] += float(work[record.unit])
            self.reporter.unit_done(
                Advance(
                    name, int(progress["units"]), total, progress["work"], total_work, time.monotonic() - begin
                )
            )

        window = planned.plan.workers if self.scheduler.local else self.scheduler.window
        if self.scheduler.local and planned.plan.workers == self.scheduler.workers > 1:
            # One more waits for a thread, so that none is idle while a finished unit gets into the journal.
            window += 1
        if held and planned.keys is not None:
            tasks = take_overs(planned.reuse, held, planned.keys, writer)
            drive(self.scheduler, tasks, finished, window=window, stop=self.stop, node=name)
            self._check_stop()
            self.reporter.message(f"{name}: {len(reused)} of {total} reused")
            begin = time.monotonic()  # the rate is that of computing
        # What they hold of this node is taken over now.
        self.store.thin(name, step.key)
        todo = [u for u in missing if u not in reused]
        units = unit_tasks(step.dataset, layout, todo, writer, keys=planned.keys, lasting=op.lasting)
        drive(self.scheduler, units, finished, window=window, stop=self.stop, node=name)
        self._check_stop()
        seconds = time.monotonic() - begin
        facts = {"seconds": round(seconds, 3), "units": total, "reused": len(reused)}
        self.store.complete(name, step.key, facts)
        rate = progress["work"] / seconds if seconds > 0 else 0.0
        note = f"done in {format_seconds(seconds)}"
        note += f", {len(reused)} of {total} reused" if reused else ""
        note += f", {rate:.1f} Mpx·frames/s" if total > 1 and todo else ""
        self.reporter.node_ends(name, seconds=seconds, note=note)
        return len(done), len(reused)


def _tidy() -> None:
    """Let go what planning or a node left unused: graphs are full of cycles, and add to the next node's peak."""
    gc.collect()
    release_memory()


def _verified(
    records: Mapping[tuple[int, ...], UnitRecord], writer: UnitWriter
) -> dict[tuple[int, ...], UnitRecord]:
    """Journaled units, less the recent ones whose pixels are not what was written."""
    if not records:
        return {}
    newest = max(r.finished for r in records.values())
    return {
        u: r
        for u, r in records.items()
        if newest - r.finished > RECENT_SECONDS or writer.read_checksum(u) == r.checksum
    }


@contextmanager
def _lock(project: Path) -> Iterator[None]:
    """One run a project at a time; the lock dies with its process."""
    with (project / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise ConfigError(
                f"project {project}: another run (process {owner}) is at work here; wait for it or stop it"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _interruptible(stop: threading.Event, reporter: Reporter) -> Iterator[None]:
    """First Ctrl-C lets the tasks in flight finish, the second abandons them; both resume."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        reporter.message("stopping: tasks in flight are finished first (Ctrl-C again abandons them)")

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_workflow(
    workflow: Workflow | str,
    files: Sequence[str | Path] | str | Path,
    *,
    project: str | Path,
    scheduler: Any = "threads",
    workers: int | None = None,
    memory: float | None = None,
    reporter: Reporter | None = None,
    page: bool = True,
) -> RunReport:
    """Run a workflow in a project, going on where an earlier run stopped.

    Parameters
    ----------
    workflow
        A `Workflow`, a preset's name or a YAML file.
    files
        Frames or folders of frames.
    project
        Folder of the project; made if it is not there.
    scheduler
        "synchronous", "threads", a dask scheduler's address or a `distributed.Client`; all give the same pixels.
    workers
        Tasks at a time (the cores there are).
    memory
        Limit in bytes (three quarters of what is available).
    reporter
        Hears of the progress, beside the logger `skyloom.run`.
    page
        Leave `outputs/report.html`, also when the run fails.

    Returns
    -------
    RunReport
        What was done, what was left out and why.

    Raises
    ------
    SkyloomError
        ConfigError, DataError or CapacityError with one clear line; Interrupted after Ctrl-C.
    """
    if isinstance(workflow, str):
        workflow = Workflow.load(workflow)
    paths = [files] if isinstance(files, str | Path) else list(files)
    reporter = Logged(reporter or Silent())
    store = Store(project)
    count = workers or default_workers()
    if scheduler == "synchronous":
        count = 1
    # Small arrays are read here, one by one; asking which scheduler to use would import `distributed`.
    with config.set(scheduler="synchronous"), open_scheduler(scheduler, workers=count) as opened:
        plan = make_plan(workflow, paths, project=project, memory=memory, workers=count)
        plan.check()
        # Of its lazy results only the tables of files are used again; the others would stay.
        plan = replace(plan, steps={n: s for n, s in plan.steps.items() if FILES in s.node.inputs.values()})
        store.create()
        run = Run(plan, store, paths, opened, reporter)
        with _lock(store.project), _interruptible(run.stop, reporter):
            try:
                report = run.run()
                return replace(report, page=run.leave_page()) if page else report
            except Exception:
                # Not after a second Ctrl-C, which is no Exception: who asks for it wants out.
                if page:
                    run.leave_page()
                raise
            finally:
                reporter.close()


def summary(report: RunReport) -> str:
    """One line that sums a run up."""
    return (
        f"done in {format_seconds(report.seconds)}, peak memory {format_bytes(report.peak_memory)} "
        f"(planned {format_bytes(report.planned_memory)})"
    )
