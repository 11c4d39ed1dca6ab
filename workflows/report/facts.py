"""What a report tells, read from the store, the journals, the log and the workflow's file; nothing is computed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import xarray as xr
import yaml

from skyloom.ops.registry import FILES
from skyloom.workflows.lines import lines_of
from skyloom.workflows.places import Place
from skyloom.workflows.store import Store

if TYPE_CHECKING:
    from skyloom.workflows.report.frames import Frames

_SMALL = 16
"""Values a frame of a variable that is read with the others."""
SINKS = ("export", "pyramid", "write_frames")


@dataclass(frozen=True)
class NodeFacts:
    """What is known of a node."""

    name: str
    op: str
    inputs: tuple[str, ...]
    state: str
    """done, earlier (by an earlier run), unfinished, failed, waiting."""
    units: int
    """Done."""
    reused: int
    seconds: float
    """NaN: not known."""
    peak_memory: float
    """Bytes of the process at its peak up to the end of the node; NaN: not known."""


@dataclass(frozen=True)
class LastRun:
    """The run the report is of."""

    workflow: str
    scheduler: str
    frames: int
    started: float
    """Seconds since the epoch; NaN: no run is in the log."""
    outcome: str
    """done, stopped, failed, or "" where the log ends without a word."""
    reason: str
    node: str
    """Where it stopped."""
    seconds: float
    peak_memory: float


class Project:
    """A project's results and history."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._metas: dict[str, dict[str, Any]] = {}

    @cached_property
    def declared(self) -> dict[str, dict[str, Any]]:
        """Node → op, inputs, parameters, in running order; of the store where the workflow's file is not there."""
        try:
            document = yaml.safe_load((self.store.project / "workflow.yaml").read_text(encoding="utf-8"))
            nodes = {str(n): dict(v) for n, v in document["nodes"].items()}
            return {n: {"op": str(v["op"]), "inputs": dict(v["inputs"]), **v} for n, v in nodes.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
            return self._stored_nodes()

    def _stored_nodes(self) -> dict[str, dict[str, Any]]:
        metas = [(n, self.meta(n)) for n in self.store.nodes()]
        metas.sort(key=lambda pair: float(pair[1].get("started", math.inf)))
        return {
            n: {"op": str(m.get("op", "")), "inputs": dict(m.get("inputs", {})), "parameters": {}}
            for n, m in metas
        }

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """Events of the log, oldest first; a torn line is left out."""
        events = []
        try:
            written = lines_of(self.store.project / "run.log.jsonl").read()
            lines = written.decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and "event" in entry:
                events.append(entry)
        return events

    @cached_property
    def last_events(self) -> list[dict[str, Any]]:
        """Events of the last run."""
        begin = max((i for i, e in enumerate(self.log) if e["event"] == "run"), default=len(self.log))
        return self.log[begin:]

    @cached_property
    def last(self) -> LastRun:
        """The last run."""
        events = self.last_events
        first: dict[str, Any] = events[0] if events else {}
        end: dict[str, Any] = next((e for e in events if e["event"] in ("done", "stopped", "failed")), {})
        started = float(first.get("time", math.nan))
        peaks = [float(e["peak_memory"]) for e in events if "peak_memory" in e]
        return LastRun(
            workflow=str(first.get("workflow", "")),
            scheduler=str(first.get("scheduler", "")),
            frames=int(first.get("frames", 0)),
            started=started,
            outcome=str(end.get("event", "")),
            reason=str(end.get("reason", "")),
            node=str(end.get("node", "")),
            seconds=float(end.get("time", events[-1].get("time", math.nan) if events else math.nan)) - started,
            peak_memory=max(peaks, default=math.nan),
        )

    def meta(self, node: str) -> dict[str, Any]:
        """Record of the newest complete result of a node, else of the newest, else nothing."""
        if node not in self._metas:
            self._metas[node] = self._read_meta(node)
        return self._metas[node]

    def _read_meta(self, node: str) -> dict[str, Any]:
        keys = self.store.keys(node)
        key = self.store.newest(node) or (keys[-1] if keys else None)
        return (self.store.meta(node, key) or {}) if key else {}

    @cached_property
    def results(self) -> dict[str, xr.Dataset]:
        """Node → its newest complete result, in running order; what cannot be opened is left out.

        So are the long texts of frames that are not shown: of thousands of frames they are most of the bytes.
        """
        found: dict[str, xr.Dataset] = {}
        for node in [*self.declared, *(n for n in self.store.nodes() if n not in self.declared)]:
            try:
                if self.store.newest(node):
                    dataset = self.store.open(node)
                    unused = ["facts", *(["wcs"] if self.op(node) == "locate" else [])]
                    # Sources: those of the first table are the files'.
                    unused += ["source"] if any("source" in d for d in found.values()) else []
                    found[node] = _columns_read(dataset.drop_vars(unused, errors="ignore"))
            except Exception:  # a result that is broken is told of by the run; the page shows the others
                continue
        return found

    def node_of(self, *ops: str) -> str | None:
        """Last node of one of some ops that has a result."""
        names = [n for n in self.results if self.op(n) in ops]
        return names[-1] if names else None

    def result(self, *ops: str) -> xr.Dataset | None:
        """Result of the last node of one of some ops."""
        node = self.node_of(*ops)
        return self.results[node] if node else None

    def op(self, node: str) -> str:
        """Name of a node's op."""
        return str(self.meta(node).get("op") or self.declared.get(node, {}).get("op", ""))

    def session_of(self, node: str | None) -> xr.Dataset | None:
        """Table of the frames a node worked on."""
        producer = self.meta(node).get("inputs", {}).get("session") if node else None
        return self.results.get(str(producer))

    @cached_property
    def sessions(self) -> list[xr.Dataset]:
        """All tables of frames, in running order."""
        return [d for d in self.results.values() if "name" in d and "frame" in d.dims]

    @cached_property
    def frames(self) -> Frames:
        """The frames, with what is known of each."""
        from skyloom.workflows.report.frames import Frames

        return Frames(self)

    @cached_property
    def nodes(self) -> list[NodeFacts]:
        """All nodes, in running order."""
        return [self._node(name, spec) for name, spec in self.declared.items()]

    def _node(self, name: str, spec: dict[str, Any]) -> NodeFacts:
        meta = self.meta(name)
        complete, last = bool(meta.get("complete")), self.last
        events = [e for e in self.log if e["event"] == "node" and e.get("node") == name]
        now = [e for e in self.last_events if e["event"] == "node" and e.get("node") == name]
        facts: dict[str, Any] = (now or events or [{}])[-1]
        unfinished = [k for k in self.store.keys(name) if not self.store.is_complete(name, k)]
        state = "done" if complete or now else "waiting"
        if not now and float(meta.get("finished", math.inf)) < last.started:
            state = "earlier"
        if spec["op"] in SINKS and not now and events:
            state = "earlier"
        records = {}
        if unfinished:
            state = "unfinished"
            records = self.store.journal(name, unfinished[-1]).read()
        if last.outcome in ("stopped", "failed") and last.node == name and not now:
            state = "failed"
        seconds = facts.get("seconds", meta.get("seconds", math.nan))
        return NodeFacts(
            name=name,
            op=str(spec["op"]),
            inputs=tuple(dict.fromkeys(str(p) for p in spec["inputs"].values() if p != FILES)),
            state=state,
            units=len(records) if unfinished else int(facts.get("units", meta.get("units", 0))),
            reused=int(facts.get("reused", meta.get("reused", 0))),
            seconds=math.nan if unfinished and not now else float(seconds),
            peak_memory=float(facts.get("peak_memory", math.nan)),
        )


def _columns_read(dataset: xr.Dataset) -> xr.Dataset:
    """The result with its columns over the frames read at once: one by one takes ten times as long."""
    lazy = [
        str(n)
        for n, v in dataset.data_vars.items()
        if v.chunks is not None and v.dims and v.dims[0] == "frame" and v.size <= _SMALL * v.shape[0]
    ]
    return dataset.assign(dataset[lazy].compute().data_vars) if lazy else dataset


def open_facts(project: str | Place) -> Project:
    """Read a project.

    Raises
    ------
    DataError
        If the folder is none.
    """
    from skyloom.workflows.status import open_project

    return Project(open_project(project))
