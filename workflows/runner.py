"""Runs a plan: node by node, unit by unit, each written and journaled before the next node sees it."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from dask import config
from dask.local import get_sync

from skyloom.ops.errors import CapacityError, ClusterError, DataError, SkyloomError
from skyloom.ops.registry import FILES
from skyloom.ops.threads import one_blas_thread_for_all
from skyloom.workflows.evaluate import Step, evaluate_node, is_session
from skyloom.workflows.graph import Workflow
from skyloom.workflows.inputs import Inputs, inputs_of
from skyloom.workflows.lines import lines_of
from skyloom.workflows.lock import lock
from skyloom.workflows.machine import BASE_BYTES, count, peak_memory, release_memory
from skyloom.workflows.node_outputs import draw_links, draw_normalization, made_before, write_outputs
from skyloom.workflows.node_units import NodeUnits
from skyloom.workflows.places import ObjectPlace, Place
from skyloom.workflows.plan import Plan, Planned, left_out, make_plan, plan_node
from skyloom.workflows.progress import Advance, Logged, Reporter, Silent
from skyloom.workflows.quality import link_problems, quality
from skyloom.workflows.run_report import NodeReport, RunReport
from skyloom.workflows.schedulers import Scheduler, default_workers, open_scheduler
from skyloom.workflows.source_hash import source_id
from skyloom.workflows.store import FRAMES, Store, disk_errors
from skyloom.workflows.stored import DamagedResult
from skyloom.workflows.unpack import frame_bytes, packed_frames, unpack, unpacked
from skyloom.workflows.verify import lost_units

REPAIRS = 3
"""Times a result is mended in one run; a disk that damages it again is no place for it."""


class Interrupted(SkyloomError):
    """The user asked to stop; what is done is in the store."""

    exit_code = 130


class Run:
    """One run of a workflow in a project."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        files: Sequence[str | Path],
        scheduler: Scheduler,
        reporter: Reporter,
        task_timeout: float | None = None,
    ) -> None:
        self.plan = plan
        self.task_timeout = task_timeout
        self.inputs = Inputs([])
        self.at = ""
        """Node at work."""
        self.kept = ""
        """What of it is done, in words."""
        self.store = store
        self.files = files
        self.scheduler = scheduler
        self.reporter = reporter
        self.stop = threading.Event()
        self.log_lines = lines_of(store.project / "run.log.jsonl")

    def log(self, event: str, **facts: Any) -> None:
        """Append an event to the project's log."""
        with disk_errors(f"project {self.store.project}"):
            self.log_lines.append([{"time": round(time.time(), 3), "event": event, **facts}], durable=False)
            self.log_lines.flush()

    def _last_words(self, event: str, **facts: Any) -> None:
        """Log what ends the run; on the disk that ended it there may be no room for that either."""
        try:
            self.log(event, **facts)
        except (SkyloomError, OSError) as failure:
            self.reporter.message(f"the log does not have it: {failure}")

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
        self.log(
            "run",
            workflow=self.plan.workflow.name,
            scheduler=self.scheduler.name,
            workers=self.scheduler.workers,
            frames=self.plan.frames,
            skyloom=source_id(),
            pid=os.getpid(),
            **({"dashboard": self.scheduler.dashboard} if self.scheduler.dashboard else {}),
        )
        with disk_errors(f"project {self.store.project}"):
            (self.store.project / "workflow.yaml").write_text(self.plan.workflow.to_yaml(), encoding="utf-8")
        if blind := self.scheduler.blind(str(self.store.root)):
            remedy = (
                "they need skyloom[objects] and credentials in their own environment"
                if isinstance(self.store.root, ObjectPlace)
                else "put it on a file system that all workers have under the same path"
            )
            raise ClusterError(
                f"project {self.store.project}: {count(len(blind), 'worker')}, such as {blind[0]}, cannot see "
                f"it; {remedy}"
            )
        if not self.scheduler.local:
            self.reporter.message(f"{self.scheduler.name}: {count(self.scheduler.workers, 'task')} at a time")
        if self.scheduler.dashboard:
            self.reporter.message(f"dashboard of dask: {self.scheduler.dashboard}")
        for note in (*self.scheduler.notes, *self.plan.notes):
            self.reporter.message(note)
        try:
            done = self._run_nodes()
        except SkyloomError as problem:
            problem.exit_code = _exit_code(problem)
            self._last_words("stopped", node=self.at, reason=str(problem), exit_code=problem.exit_code)
            raise
        except Exception as failure:
            self._last_words("failed", node=self.at, reason=str(failure), traceback=traceback.format_exc())
            raise
        result = RunReport(
            project=self.store.project,
            nodes=tuple(done.reports),
            left_out=done.left_out,
            quality=done.quality,
            outputs=tuple(done.outputs),
            seconds=time.monotonic() - begin,
            planned_memory=done.planned_memory,
            peak_memory=peak_memory(),
        )
        self.log("done", seconds=round(result.seconds, 3), left_out=[list(p) for p in result.left_out])
        return result

    def _run_nodes(self) -> _Done:
        """Run node after node; one whose result turns out to be damaged is mended before the others go on."""
        done = _Done()
        repairs: dict[str, int] = {}
        names = self.plan.workflow.names
        index = 0
        while True:
            self.at, self.kept = names[index] if index < len(names) else "", ""
            try:
                if index == len(names):
                    # What sums a run up reads results, too.
                    found = ((s.dataset, s.stored) for s in done.steps.values() if s.dataset is not None)
                    done.left_out, done.quality = left_out(found), tuple(quality(self.store))
                    return done
                self._run_one(names[index], done)
                index += 1
            except DamagedResult as damaged:
                repairs[damaged.path] = repairs.get(damaged.path, 0) + 1
                if repairs[damaged.path] > REPAIRS:
                    raise DataError(
                        f"node {self.at!r}: {damaged.path} in {damaged.root} was damaged {REPAIRS} times "
                        f"in this run ({damaged.reason}); this disk is not to be trusted: move the project"
                    ) from damaged
                self.log("damaged", path=damaged.path, reason=damaged.reason)
                index = self._mend(damaged, done)

    def _mend(self, damaged: DamagedResult, done: _Done) -> int:
        """Take back what is damaged and say from which node to go on."""
        names = self.plan.workflow.names
        if damaged.node == FRAMES:
            self.reporter.message(f"the copy of a frame is damaged ({damaged.reason}): decoded again")
            self.store.take_back(damaged)
            first = next(i for i, n in enumerate(names) if FILES in self.plan.workflow[n].inputs.values())
            # Their tables point to the copy that is gone.
            evaluated = {
                n: evaluate_node(s.node, {}, self.files, store=self.store) for n, s in self.plan.steps.items()
            }
            self.plan = replace(self.plan, steps=evaluated)
        elif damaged.node in names:
            self.reporter.message(
                f"{damaged.node}: part of its result is damaged ({damaged.reason}): read back, and computed again "
                "where it is not what was written"
            )
            self.store.take_back(damaged)
            first = names.index(damaged.node)
        else:
            raise damaged
        for name in names[first:]:
            done.steps.pop(name, None)
        return first

    def _run_one(self, name: str, done: _Done) -> None:
        """Run one node, or take its result as it is."""
        node = self.plan.workflow[name]
        if FILES in node.inputs.values():
            step = self.plan.steps[name]
            self._store_table(step)
            files = {n: s.dataset for n, s in self.plan.steps.items()}
            self.inputs = inputs_of(files)
            self.inputs.check()
            step = self._unpack(step)
            # Frames that lie in the store now are read from there: their files may go.
            self.inputs = inputs_of({**files, name: step.dataset})
            self.inputs.check()
        else:
            planned = plan_node(
                node,
                done.steps,
                self.files,
                store=self.store,
                limit=self.plan.memory_limit,
                workers=self.scheduler.workers if self.scheduler.local else self.scheduler.threads,
            )
            if planned.step.stored and (lost := lost_units(self.store, planned.step)):
                raise DamagedResult(
                    str(self.store.root), f"{name}/{planned.step.key}", f"{count(lost, 'block')} not there"
                )
            if node.op.table:
                self._store_table(planned.step)
                if node.op.name == "link":
                    self._show_links(planned.step, done)
                done.steps[name] = planned.step
                return
            _tidy()
            report, made = self._run_node(planned, done.steps)
            done.reports.append(report)
            done.outputs.extend(p for p in made if p not in done.outputs)
            if node.op.name == "normalize":
                solved = self._stored(planned.step)
                done.outputs += draw_normalization(self.store, solved, done.steps, before=planned.step.stored)
            done.planned_memory = max(done.planned_memory, planned.plan.memory)
            step = self._stored(planned.step)
            if step.dataset is not None and "notes" in step.dataset and str(step.dataset["notes"].values):
                self.reporter.message(f"{name}: {step.dataset['notes'].values}")
        done.steps[name] = step
        self._check_stop()

    def leave_page(self) -> Place | None:
        """Write the page that shows the project as it is; that it cannot be written stops nothing."""
        from skyloom.workflows.report.page import write_report

        try:
            return write_report(self.store.project)
        except Exception as failure:
            self.reporter.message(f"no report: {failure}")
            return None

    def _check_stop(self) -> None:
        if self.stop.is_set():
            where = f" in node {self.at!r}" if self.at else ""
            raise Interrupted(
                f"stopped as asked{where}{self.kept}; what is done is kept: run the same command again to go on"
            )

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

    def _run_node(self, planned: Planned, steps: Mapping[str, Step]) -> tuple[NodeReport, list[Place]]:
        step, plan = planned.step, planned.plan
        begin = time.monotonic()
        before = made_before(self.store, step) if step.node.op.sink else []
        if step.stored or before:
            if step.stored:
                self.store.keep_only(plan.name, step.key)
            self.reporter.node_ends(plan.name, seconds=0.0, note="as before")
            return NodeReport(plan.name, step.key, 0, 0, 0.0, 0.0, peak_memory()), before
        if plan.memory > self.plan.memory_limit:
            self.plan_refusal(planned)
        made: list[Place] = []
        skipped = reused = 0
        largest = 0.0
        if step.node.op.sink:
            made = write_outputs(self.store, step, steps, self.reporter)
        elif planned.layout is None or not planned.layout.variables:
            assert step.dataset is not None
            self.store.write_table(plan.name, step.key, step.dataset, self._meta(step))
            self.reporter.node_ends(plan.name, seconds=0.0, note="done")
        else:
            tasks = NodeUnits(
                store=self.store,
                scheduler=self.scheduler,
                reporter=self.reporter,
                inputs=self.inputs,
                task_timeout=self.task_timeout,
                stop=self.stop,
                check_stop=self._check_stop,
                so_far=self._so_far,
                say=self._say,
            )
            skipped, reused, largest = tasks.run(planned, self._meta(step))
        seconds = time.monotonic() - begin
        # A unit that did not arrive as it was written has been computed.
        units = plan.units + plan.reused - reused
        facts = {
            "seconds": round(seconds, 3),
            "units": units,
            "reused": reused,
            "peak_memory": peak_memory(),
            "planned_memory": plan.memory,
            **({"worker_memory": largest} if largest else {}),
        }
        self.log("node", node=plan.name, key=step.key, **facts)
        report = NodeReport(
            plan.name,
            step.key,
            units,
            skipped,
            seconds,
            plan.work,
            peak_memory(),
            reused,
            planned_memory=plan.memory,
            worker_memory=largest,
        )
        return report, made

    def plan_refusal(self, planned: Planned) -> None:
        """Refuse a node whose cost, now that its inputs are known, does not fit."""
        replace(self.plan, nodes=(planned.plan,)).check()

    def _show_links(self, step: Step, done: _Done) -> None:
        """Draw what was linked with what, and say what is broken."""
        done.outputs += draw_links(self.store, step, done.steps)
        for problem in link_problems(step.dataset) if step.dataset is not None else ():
            self.reporter.message(problem)

    def _so_far(self, kept: str) -> None:
        self.kept = kept

    def _say(self, text: str) -> None:
        self.reporter.message(text)
        self._last_words("message", node=self.at, text=text)


@dataclass
class _Done:
    """What the nodes of a run have left so far."""

    steps: dict[str, Step] = field(default_factory=dict)
    reports: list[NodeReport] = field(default_factory=list)
    outputs: list[Place] = field(default_factory=list)
    planned_memory: float = 0.0
    left_out: tuple[tuple[str, str], ...] = ()
    quality: tuple[str, ...] = ()


def _exit_code(problem: SkyloomError) -> int:
    """Exit code of what stopped a run that had begun: the command was in order, something else was not."""
    if problem.exit_code != SkyloomError.exit_code:
        return problem.exit_code
    if isinstance(problem, DataError):
        return 3
    return 4 if isinstance(problem, CapacityError) else problem.exit_code


def _tidy() -> None:
    """Let go what planning or a node left unused: graphs are full of cycles, and add to the next node's peak."""
    gc.collect()
    release_memory()


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
    project: str | Place,
    scheduler: Any = "threads",
    workers: int | None = None,
    memory: float | None = None,
    reporter: Reporter | None = None,
    page: bool = True,
    task_timeout: float | None = None,
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
        "synchronous", "threads", a dask scheduler's address, a `distributed.Client` or a `ClusterSpec`; all give
        the same pixels.
    workers
        Tasks at a time (the cores there are).
    memory
        Limit in bytes (three quarters of what is available).
    reporter
        Hears of the progress, beside the logger `skyloom.run`.
    page
        Leave `outputs/report.html`, also when the run fails.
    task_timeout
        Seconds after which a task is taken to hang and tried again; None: on a cluster twenty times what like
        tasks took, at least ten minutes; in this process never.

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
    # By name dask would look for a cluster's client first, and import its scheduler for it.
    with (
        config.set(scheduler=get_sync),
        one_blas_thread_for_all(),
        open_scheduler(scheduler, workers=count) as opened,
    ):
        if opened.memory is not None:
            # What counts is the room a worker has, not that of the machine that hands the tasks out.
            memory = min(memory, opened.memory) if memory is not None else opened.memory
        at_a_time = count if opened.local else opened.threads
        plan = _plan(workflow, paths, store, memory=memory, workers=at_a_time, reporter=reporter)
        plan.check()
        # Of its lazy results only the tables of files are used again; the others would stay.
        plan = replace(plan, steps={n: s for n, s in plan.steps.items() if FILES in s.node.inputs.values()})
        store.create()
        run = Run(plan, store, paths, opened, reporter, task_timeout)
        with lock(store.project) as note, _interruptible(run.stop, reporter):
            if note:
                reporter.message(note)
                run.log("note", text=note)
            try:
                with run.log_lines.writing():
                    report = run.run()
                return replace(report, page=run.leave_page()) if page else report
            except Exception:
                # Not after a second Ctrl-C, which is no Exception: who asks for it wants out.
                if page:
                    run.leave_page()
                raise
            finally:
                reporter.close()


def _plan(
    workflow: Workflow,
    paths: Sequence[str | Path],
    store: Store,
    *,
    memory: float | None,
    workers: int,
    reporter: Reporter,
) -> Plan:
    """Make the plan; results of the project that turn out to be damaged are taken back on the way."""
    for _ in range(REPAIRS * len(workflow.nodes)):
        try:
            return make_plan(workflow, paths, project=store.project, memory=memory, workers=workers)
        except DamagedResult as damaged:
            reporter.message(f"{damaged.path}: damaged ({damaged.reason}), taken back")
            with lock(store.project):
                store.take_back(damaged)
    return make_plan(workflow, paths, project=store.project, memory=memory, workers=workers)
