"""What a run will cost, from headers alone, and whether it fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from dask import config
from dask.local import get_sync
from numpy.typing import NDArray

from skyloom.ops.errors import CapacityError, NotYetKnown
from skyloom.ops.footprints import overlap
from skyloom.ops.grid import Grid
from skyloom.ops.registry import FILES, Cost
from skyloom.workflows.evaluate import Step, evaluate_node, is_session
from skyloom.workflows.graph import Node, Workflow
from skyloom.workflows.kept_solution import changes, could_stay, foreseen
from skyloom.workflows.layout import Layout
from skyloom.workflows.machine import BASE_BYTES, available_memory, format_bytes, format_seconds
from skyloom.workflows.places import Place
from skyloom.workflows.reuse import Donor, reusable, unit_keys
from skyloom.workflows.store import Store
from skyloom.workflows.unpack import frame_bytes, packed_frames

TASK_MEMORY = "task_memory"
"""Execution parameter by which an op takes its bytes a task."""

TAKE_OVER_COPIES = 3.0
"""Peak of taking a unit over, in blocks of its largest variable."""

_DEFAULT_RATE = 50.0


@dataclass(frozen=True)
class NodePlan:
    """What one node will do."""

    name: str
    op: str
    key: str
    stored: bool
    """Finished already: it will not run again."""
    units: int
    """Tasks to run (units with data that are not done)."""
    done: int
    reused: int
    """Units taken over from an earlier result."""
    empty: int
    """Units without data: neither run nor written."""
    work: float
    """Mpixel·frames."""
    bytes_read: float
    bytes_written: float
    """On the disk: compressed as far as the op foretells it."""
    unit_memory: float
    """Bytes of one task at its peak."""
    workers: int
    """Tasks at a time."""
    memory: float
    """Bytes of the process at its peak."""
    seconds: float
    execution: Mapping[str, Any]


@dataclass(frozen=True)
class Planned:
    """A node ready to run: its lazy result, its cost, and which of its units are to be done."""

    step: Step
    plan: NodePlan
    layout: Layout | None = None
    """None: stored, in memory already, or a sink."""
    work: NDArray[np.float64] | None = None
    """Mpixel·frames of each unit; 0 = empty."""
    keys: NDArray[np.str_] | None = None
    """What each unit depends on; None: not known, or on everything."""
    reuse: Mapping[tuple[int, ...], Donor] = field(default_factory=dict)
    """Units that an earlier result holds."""


@dataclass(frozen=True)
class Canvas:
    """Size and depth of the mosaic."""

    shape: tuple[int, int]
    pixel_scale: float
    """arcsec."""
    tile: int
    tiles: int
    tiles_with_data: int
    depth: Mapping[int, int]
    """Frames over a tile → number of tiles."""


@dataclass(frozen=True)
class Plan:
    """Workflow + inputs + store + limits, costed. Built by `make_plan`."""

    workflow: Workflow
    steps: Mapping[str, Step]
    nodes: tuple[NodePlan, ...]
    frames: int
    left_out: tuple[tuple[str, str], ...]
    """(frame, reason) of the frames known from their headers not to take part."""
    canvas: Canvas | None
    memory_limit: float
    disk_free: float | None
    workers: int
    notes: tuple[str, ...] = ()
    """What a person should know of the files: rules that fitted none, and the like."""
    later: tuple[str, ...] = ()
    """Nodes whose cost is known only when an earlier one has run."""

    def __repr__(self) -> str:
        from skyloom.workflows.notebook import plan_line

        return f"<skyloom plan {plan_line(self)}>"

    def _repr_html_(self) -> str:
        from skyloom.workflows.notebook import plan_html

        return plan_html(self)

    @property
    def memory(self) -> float:
        """Bytes of the process at its peak over all nodes."""
        return max((n.memory for n in self.nodes), default=float(BASE_BYTES))

    @property
    def disk(self) -> float:
        """Bytes to be written in all."""
        return sum(n.bytes_written for n in self.nodes)

    @property
    def seconds(self) -> float:
        """Estimated time to run."""
        return sum(n.seconds for n in self.nodes)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values (what `--json` prints)."""
        return {
            "workflow": self.workflow.name,
            "frames": self.frames,
            "left_out": [list(pair) for pair in self.left_out],
            "canvas": asdict(self.canvas) if self.canvas else None,
            "nodes": [asdict(n) for n in self.nodes],
            "memory": self.memory,
            "memory_limit": self.memory_limit,
            "disk": self.disk,
            "disk_free": self.disk_free,
            "seconds": self.seconds,
            "workers": self.workers,
            "later": list(self.later),
            "notes": list(self.notes),
        }

    def check(self) -> None:
        """Refuse what cannot fit.

        Raises
        ------
        CapacityError
            Naming the node, the numbers and what would help.
        """
        for node in self.nodes:
            if node.memory > self.memory_limit and not node.stored:
                raise CapacityError(
                    f"node {node.name!r} needs {format_bytes(node.memory)} with one task at a time, the limit is "
                    f"{format_bytes(self.memory_limit)}; {_memory_remedy(node, self.workflow[node.name])}"
                )
        if self.disk_free is not None and self.disk > self.disk_free:
            largest = max(self.nodes, key=lambda n: n.bytes_written)
            raise CapacityError(
                f"the run writes up to {format_bytes(self.disk)} "
                f"({format_bytes(largest.bytes_written)} of it in node {largest.name!r}), "
                f"{format_bytes(self.disk_free)} are free; choose another disk with -o"
                " or stop earlier with --until"
            )


def _memory_remedy(node: NodePlan, declared: Node) -> str:
    tile = declared.parameters.get("tile")
    if isinstance(tile, int) and tile > 256:
        return f"raise --memory or set {node.name}.tile={tile // 2}"
    return "raise --memory"


def left_out(results: Iterable[tuple[xr.Dataset, bool]]) -> tuple[tuple[str, str], ...]:
    """(frame, reason) of every frame left out, once, with its first reason.

    Parameters
    ----------
    results
        Results in the order of the work, each with whether its lazy reasons may be computed (of a stored result
        that is a small read).
    """
    found: dict[str, str] = {}
    names: dict[str, str] = {}
    for dataset, compute in results:
        if is_session(dataset):
            names.update(zip(dataset["frame"].values.tolist(), dataset["name"].values.tolist(), strict=True))
            for name, reason in json.loads(dataset.attrs.get("left_out", "[]")):
                found.setdefault(str(name), str(reason))
        for name, variable in dataset.variables.items():
            if not str(name).endswith("reason") or variable.dims != ("frame",):
                continue
            if variable.chunks is not None and not compute:
                continue
            for frame, reason in zip(dataset["frame"].values.tolist(), variable.values.tolist(), strict=True):
                if reason:
                    found.setdefault(names.get(frame, str(frame)), str(reason))
    return tuple(found.items())


def _left_out_of(steps: Mapping[str, Step]) -> tuple[tuple[str, str], ...]:
    return left_out((s.dataset, s.stored) for s in steps.values() if s.dataset is not None)


def _notes(
    session: xr.Dataset | None, steps: Mapping[str, Step], plans: Sequence[NodePlan], store: Store | None
) -> tuple[str, ...]:
    """What a person should know of the files, and of what is left of an earlier run."""
    if session is None:
        return ()
    notes = list(json.loads(session.attrs.get("notes", "[]")))
    for plan in plans:
        step = steps[plan.name]
        if step.node.op.name == "normalize" and not step.stored:
            inputs = {n: steps[p].dataset for n, p in step.node.inputs.items()}
            notes += [text] if (text := could_stay(step.node, inputs, session, store)) else []
        held = [s for p in step.node.inputs.values() if p != FILES and (s := steps[p]).earlier is not None]
        total = plan.units + plan.done + plan.reused
        if held and step.node.op.keys is not None and not plan.stored and total:
            why = changes(session, held[-1].earlier, store)
            notes.append(f"{plan.name}: {plan.units} of {total} tiles are to be made{why}")
    return tuple(notes)


def session_of(steps: Mapping[str, Step]) -> xr.Dataset | None:
    """The table of the user's frames, if the workflow has one."""
    for step in steps.values():
        if FILES in step.node.inputs.values() and is_session(step.dataset):
            return step.dataset
    return None


def node_cost(step: Step, inputs: Mapping[str, Step], layout: Layout, execution: Mapping[str, Any]) -> Cost:
    """Cost of a node's units: the op's own account, or one from the sizes of its arrays."""
    node = step.node
    if node.op.cost is not None:
        arguments = {n: inputs[p].dataset for n, p in node.inputs.items() if p != FILES}
        return node.op.cost(**arguments, **{**node.parameters, **execution})
    pixels = float(layout.unit_bytes()) / 4e6
    shape = layout.unit_shape
    return Cost(np.full(shape, pixels), np.zeros(shape), np.full(shape, 3.0 * layout.unit_bytes()), _DEFAULT_RATE)


def make_plan(
    workflow: Workflow,
    files: Sequence[str | Path],
    *,
    project: str | Place | None = None,
    memory: float | None = None,
    workers: int = 1,
) -> Plan:
    """Cost a workflow before a pixel moves.

    Parameters
    ----------
    workflow
        What to run.
    files
        Frames or folders.
    project
        Project folder: its finished results cost nothing, its disk is checked.
    memory
        Limit in bytes; three quarters of what is available now.
    workers
        Tasks at a time at most; a node whose tasks are too big for that gets fewer.

    Returns
    -------
    Plan
        Not yet checked: call `Plan.check`.
    """
    # What is stored is small and read here; by name dask would look for a cluster's client first.
    with config.set(scheduler=get_sync):
        return _make_plan(workflow, files, project=project, memory=memory, workers=workers)


def _make_plan(
    workflow: Workflow,
    files: Sequence[str | Path],
    *,
    project: str | Place | None,
    memory: float | None,
    workers: int,
) -> Plan:
    limit = float(memory) if memory is not None else 0.75 * available_memory()
    store = Store(project) if project is not None else None
    if store is not None:
        # An object store that cannot be had is told of before headers are read.
        _ = store.exists
    steps: dict[str, Step] = {}
    plans = []
    for node in workflow.nodes:
        try:
            planned = plan_node(node, steps, files, store=store, limit=limit, workers=workers)
        except NotYetKnown:
            break
        steps[node.name] = planned.step
        plans.append(planned.plan)
    session = session_of(steps)
    return Plan(
        workflow=workflow,
        steps=steps,
        nodes=tuple(plans),
        frames=session.sizes["frame"] if session is not None else 0,
        left_out=_left_out_of(steps),
        canvas=_canvas(steps),
        memory_limit=limit,
        disk_free=_disk_free(store) if store is not None else None,
        workers=workers,
        notes=_notes(session, steps, plans, store),
        later=tuple(n for n in workflow.names if n not in steps),
    )


def plan_node(
    node: Node,
    steps: Mapping[str, Step],
    files: Sequence[str | Path],
    *,
    store: Store | None,
    limit: float,
    workers: int,
) -> Planned:
    """Evaluate and cost one node, choosing how many of its tasks run at a time and with how much memory."""
    room = max(limit - BASE_BYTES, 0.0)
    for count in sorted({workers, max(1, workers // 2), 1}, reverse=True):
        execution = {TASK_MEMORY: room / count} if TASK_MEMORY in node.op.parameters else {}
        try:
            step = evaluate_node(node, steps, files, store=store, execution=execution)
            planned = _cost_of(step, steps, store=store, execution=execution)
        except CapacityError:
            # Fewer tasks at a time get more memory each.
            if count == 1:
                raise
            continue
        plan = planned.plan
        fits = int(room // plan.unit_memory) if plan.unit_memory > 0 else workers
        used = max(1, min(workers, fits, max(1, plan.units)))
        plan = replace(
            plan, workers=used, memory=BASE_BYTES + used * plan.unit_memory, seconds=plan.seconds / used
        )
        if used >= min(count, max(1, plan.units)):
            break
    return replace(planned, plan=plan)


def _cost_of(
    step: Step, steps: Mapping[str, Step], *, store: Store | None, execution: Mapping[str, Any]
) -> Planned:
    node = step.node
    base = NodePlan(
        name=node.name,
        op=node.op.name,
        key=step.key,
        stored=step.stored,
        units=0,
        done=0,
        reused=0,
        empty=0,
        work=0.0,
        bytes_read=0.0,
        bytes_written=0.0,
        unit_memory=0.0,
        workers=1,
        memory=float(BASE_BYTES),
        seconds=0.0,
        execution=execution,
    )
    if step.stored:
        return Planned(step, base)
    if node.op.sink:
        if node.op.cost is None:
            return Planned(step, replace(base, units=1))
        arguments = {n: steps[p].dataset for n, p in node.inputs.items()}
        cost = node.op.cost(**arguments, **node.parameters)
        plan = replace(
            base,
            units=1,
            work=float(cost.work.sum()),
            bytes_written=float(cost.read.sum()),
            unit_memory=float(cost.memory.max()),
            seconds=float(cost.work.sum()) / cost.rate,
        )
        return Planned(step, plan)
    assert step.dataset is not None
    layout = Layout.of(step.dataset, node.op.unit, node=node.name)
    if not layout.variables:
        plan = replace(base, units=1, bytes_written=float(step.dataset.nbytes))
        return Planned(step, _with_unpacking(plan, step, store))
    cost = node_cost(step, steps, layout, execution)
    todo = np.asarray(cost.work > 0)  # of a node in one piece it would be a scalar
    empty = int(todo.size - todo.sum())
    done = reused = 0
    arguments = {n: steps[p].dataset for n, p in node.inputs.items() if p != FILES}
    keys = unit_keys(node, arguments, layout.unit_shape, execution)
    reuse: dict[tuple[int, ...], Donor] = {}
    if store is not None:
        for unit in store.journal(node.name, step.key).read():
            if len(unit) == todo.ndim and todo[unit]:
                todo[unit] = False
                done += 1
        reuse = reusable(store, node.name, step.key, keys) if keys is not None else {}
        for unit in reuse or _foreseen(step, steps, arguments, layout, store=store, execution=execution):
            if todo[unit]:
                todo[unit] = False
                reused += 1
    work = float(cost.work[todo].sum())
    plan = replace(
        base,
        units=int(todo.sum()),
        done=done,
        reused=reused,
        empty=empty,
        work=work,
        bytes_read=float(cost.read[todo].sum()),
        bytes_written=cost.stored * float(layout.unit_bytes()) * int(todo.sum()),
        unit_memory=max(
            float(cost.memory[todo].max()) if todo.any() else 0.0,
            # What is taken over is read back: a variable at a time, compressed and not.
            TAKE_OVER_COPIES * layout.largest_block() if reused else 0.0,
        ),
        seconds=work / cost.rate,
    )
    return Planned(step, plan, layout, cost.work, keys, reuse)


def _foreseen(
    step: Step,
    steps: Mapping[str, Step],
    arguments: Mapping[str, xr.Dataset | None],
    layout: Layout,
    *,
    store: Store,
    execution: Mapping[str, Any],
) -> Mapping[tuple[int, ...], Donor]:
    """Units that will be taken over once the solutions that are kept are there; only to be counted."""
    session = arguments.get("session")
    if session is None:
        return {}
    known: dict[str, xr.Dataset | None] = dict(arguments)
    for name, producer in step.node.inputs.items():
        held = steps[producer] if producer != FILES else None
        if held is not None and held.earlier is not None and held.dataset is not None:
            known[name] = foreseen(session, held.earlier, held.dataset)
    if all(known[n] is arguments[n] for n in known):
        return {}
    keys = unit_keys(step.node, known, layout.unit_shape, execution)
    return reusable(store, step.node.name, step.key, keys) if keys is not None else {}


def _with_unpacking(plan: NodePlan, step: Step, store: Store | None) -> NodePlan:
    """Add what it costs to decode the frames that cannot be read by window."""
    if FILES not in step.node.inputs.values() or step.dataset is None or not is_session(step.dataset):
        return plan
    written, peak = frame_bytes(step.dataset, packed_frames(step.dataset, store))
    return replace(
        plan,
        bytes_written=plan.bytes_written + written,
        unit_memory=peak,
        seconds=written / 4e6 / _DEFAULT_RATE,
    )


def _canvas(steps: Mapping[str, Step]) -> Canvas | None:
    found = [s for s in steps.values() if s.dataset is not None and "grid_wcs" in s.dataset.attrs]
    session = (
        steps[found[0].node.inputs["session"]].dataset if found and "session" in found[0].node.inputs else None
    )
    on_grid = [s.dataset for s in found if s.dataset is not None]
    if session is None:
        return None
    grid = Grid.from_attrs(on_grid[-1].attrs)
    use = next(
        (d["in_canvas"].values for d in on_grid if "in_canvas" in d and d["in_canvas"].chunks is None), None
    )
    depth = overlap(session, grid, use=use).depth()
    counts, tiles = np.unique(depth, return_counts=True)
    return Canvas(
        shape=grid.shape,
        pixel_scale=grid.pixel_scale,
        tile=grid.tile,
        tiles=int(depth.size),
        tiles_with_data=int((depth > 0).sum()),
        depth={int(c): int(t) for c, t in zip(counts, tiles, strict=True)},
    )


def _disk_free(store: Store) -> float | None:
    folder = store.project
    if not isinstance(folder, Path):
        return None
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    # A file system without size (/proc) tells nothing; trying to write there will.
    return float(usage.free) if usage.total else None


def reused_line(node: NodePlan) -> str:
    """What a node takes over from an earlier result, in words; "" where that is nothing."""
    if not node.reused:
        return ""
    total = node.units + node.done + node.reused
    return f"{node.name}: {node.reused} of {total} reused, what they depend on has not changed"


def describe(plan: Plan) -> str:
    """One line that sums the plan up."""
    later = f"; after that {', '.join(plan.later)}, whose cost is not known yet" if plan.later else ""
    reused = sum(n.reused for n in plan.nodes)
    tasks = f"{sum(n.units for n in plan.nodes)} tasks" + (f" and {reused} reused" if reused else "")
    return (
        f"{plan.frames} frames, {tasks}, "
        f"peak memory {format_bytes(plan.memory)} of {format_bytes(plan.memory_limit)}, "
        f"writes {format_bytes(plan.disk)}, about {format_seconds(plan.seconds)}{later}"
    )
