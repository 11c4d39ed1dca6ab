"""Turns a workflow and files into lazy Datasets: stored results where there are some, dask graphs elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from skyloom.ops.errors import DataError, NotYetKnown, SkyloomError, prefixed
from skyloom.ops.registry import FILES
from skyloom.workflows.graph import Node, Workflow
from skyloom.workflows.kept_images import by_content
from skyloom.workflows.kept_solution import EARLIER, with_solution
from skyloom.workflows.places import Place
from skyloom.workflows.store import Store
from skyloom.workflows.stored import DamagedResult
from skyloom.workflows.unpack import unpacked

_NOT_CONTENT = {"name", "source", "facts"}
"""Columns that may change (a file renamed or moved) without the frames being others."""


@dataclass(frozen=True)
class Step:
    """A node with its key and its lazy result."""

    node: Node
    key: str
    dataset: xr.Dataset | None
    """None for a sink: it makes files, no arrays."""
    stored: bool
    """Whether the dataset is the store's complete result."""
    earlier: xr.Dataset | None = None
    """The solution that is kept, where one is."""


def is_session(dataset: xr.Dataset | None) -> bool:
    """Whether a result is a table of frames."""
    return dataset is not None and "name" in dataset and "source" in dataset and "frame" in dataset.dims


def table_key(node: Node, table: xr.Dataset) -> str:
    """Key of a result made from the user's files: what they contain, not where they lie."""
    digest = blake2b(digest_size=8)
    for name in sorted(str(n) for n in table.variables):
        if name not in _NOT_CONTENT:
            values = np.asarray(table[name].values)
            digest.update(name.encode())
            digest.update(json.dumps(values.tolist()).encode())
    return node.key([digest.hexdigest()])


def evaluate_node(
    node: Node,
    inputs: Mapping[str, Step],
    files: Sequence[str | Path],
    *,
    store: Store | None = None,
    execution: Mapping[str, Any] | None = None,
) -> Step:
    """Lazy result of one node.

    Parameters
    ----------
    node
        What to evaluate.
    inputs
        Steps of its producers, by node name.
    files
        The workflow's own input.
    store
        Where finished results are looked up.
    execution
        Values for the node's execution parameters.

    Raises
    ------
    SkyloomError
        What the op says of its inputs, with the node's name in front.
    """
    parameters = {**node.parameters, **(execution or {})}
    arguments: dict[str, Any] = {}
    for name, producer in node.inputs.items():
        arguments[name] = list(files) if producer == FILES else inputs[producer].dataset
    try:
        if FILES in node.inputs.values():
            table = node.op.function(**arguments, **parameters)
            key = table_key(node, table)
            if store is not None and is_session(table):
                table = unpacked(table, store)
            return Step(node, key, _signed(table, node, key, inputs), stored=False)
        keys = [inputs[p].key for p in node.inputs.values()]
        node, earlier = with_solution(node, keys, arguments, store)
        if earlier is not None:
            arguments[EARLIER] = earlier
        parameters = {**node.parameters, **(execution or {})}
        key = by_content(node).key(keys)
        if node.op.sink:
            return Step(node, key, None, stored=False)
        if not node.op.table and store is not None and store.is_complete(node.name, key):
            return Step(node, key, store.open(node.name, key), stored=True)
        dataset = node.op.function(**arguments, **parameters)
    except DamagedResult:
        raise
    except SkyloomError as problem:
        raise prefixed(problem, f"node {node.name!r}") from problem
    return Step(node, key, _signed(dataset, node, key, inputs), stored=False, earlier=earlier)


def _signed(dataset: xr.Dataset, node: Node, key: str, inputs: Mapping[str, Step]) -> xr.Dataset:
    """The Dataset with the record of how it comes about in its attributes."""
    record: list[dict[str, Any]] = []
    for producer in node.inputs.values():
        if producer == FILES:
            continue
        upstream = inputs[producer].dataset
        for entry in json.loads(upstream.attrs.get("provenance", "[]")) if upstream is not None else []:
            if entry not in record:
                record.append(entry)
    parameters = {k: v for k, v in node.parameters.items() if not node.op.parameters[k].execution}
    record.append(
        {"node": node.name, "op": node.op.name, "version": node.op.version, "key": key, "parameters": parameters}
    )
    return dataset.assign_attrs(provenance=json.dumps(record))


def evaluate(
    workflow: Workflow,
    files: Sequence[str | Path],
    *,
    store: Store | None = None,
    execution: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Step]:
    """Evaluate all nodes lazily; nothing is computed but what headers say."""
    steps: dict[str, Step] = {}
    for node in workflow.nodes:
        try:
            steps[node.name] = evaluate_node(
                node, steps, files, store=store, execution=(execution or {}).get(node.name)
            )
        except NotYetKnown:
            # What follows is known when the nodes before have run.
            break
    return steps


class Results(Mapping[str, xr.Dataset]):
    """The nodes of a workflow as lazy Datasets: `results["integrate"].image[0, :100, :100].compute()`."""

    def __init__(self, steps: Mapping[str, Step]) -> None:
        self._steps = {n: s for n, s in steps.items() if s.dataset is not None}

    def __getitem__(self, node: str) -> xr.Dataset:
        dataset = self._steps[node].dataset
        assert dataset is not None
        return dataset

    def __iter__(self) -> Iterator[str]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)

    def state(self, node: str) -> str:
        """Whether a node's result is stored, or lazy: computed when it is asked for."""
        return "stored" if self._steps[node].stored else "lazy"

    def _repr_html_(self) -> str:
        from skyloom.workflows.notebook import results_html

        return results_html(self)

    def __repr__(self) -> str:
        lines = [f"  {n}: {self.state(n)} {dict(self[n].sizes)}" for n in self._steps]
        return "<skyloom results>\n" + "\n".join(lines)


def open_workflow(
    workflow: Workflow | str, files: Sequence[str | Path] | str | Path, *, project: str | Place | None = None
) -> Results:
    """Open every node of a workflow lazily, without running it.

    Parameters
    ----------
    workflow
        A `Workflow`, a preset's name or a YAML file.
    files
        Frames or folders of frames.
    project
        A project whose finished results are taken instead of computed.

    Returns
    -------
    Results
        Node name → Dataset. Computing a window of a canvas reads the frames over its tiles and what the
        nodes before need, and nothing else.
    """
    if isinstance(workflow, str):
        workflow = Workflow.load(workflow)
    paths = [files] if isinstance(files, str | Path) else list(files)
    store = Store(project) if project is not None else None
    if store is not None and not store.exists:
        raise DataError(f"{project} is no project: it has no store; run the workflow there first")
    return Results(evaluate(workflow, paths, store=store))
