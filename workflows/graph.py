"""Workflows: a checked, ordered graph of nodes, each an op bound to inputs and parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml

from skyloom.configs.loader import NodeSpec, WorkflowSpec, load_workflow
from skyloom.ops.errors import ConfigError, prefixed
from skyloom.ops.registry import FILES, Op, get_op, suggest

RESERVED = "frames"
"""Where the store keeps decoded frames."""
FRAME_OPS = ("calibrate", "debayer")
"""Ops that make frames: a workflow that ends in one of them writes them."""


@dataclass(frozen=True)
class Node:
    """An op bound to the names of its inputs and to complete, checked parameters."""

    name: str
    op: Op
    inputs: Mapping[str, str]
    """The op's input name → the node (or `files`) that produces it."""
    parameters: Mapping[str, Any]

    def __repr__(self) -> str:
        inputs = ", ".join(self.inputs.values())
        return f"<skyloom node {self.name}: {self.op.name}({inputs})>"

    def key(self, input_keys: Iterable[str]) -> str:
        """Content key of the result: op, version, parameters and the keys of the inputs.

        Execution parameters are left out: they change how, not what.
        """
        content = [
            self.op.name,
            self.op.version,
            {k: v for k, v in sorted(self.parameters.items()) if not self.op.parameters[k].execution},
            list(input_keys),
        ]
        return blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Workflow:
    """A directed acyclic graph of nodes, valid by construction, in an order that can be run."""

    name: str
    nodes: tuple[Node, ...]
    description: str = ""

    @classmethod
    def from_spec(cls, spec: WorkflowSpec) -> Workflow:
        """Check a declared workflow against the registered ops.

        Raises
        ------
        ConfigError
            One line with file and node: unknown op, parameter or input (with the nearest name), wrong type
            or range, missing producer, name given twice, cycle.
        """
        names = [n.name for n in spec.nodes]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{spec.origin}: node {name!r} is there twice")
            if name == FILES:
                raise ConfigError(f"{spec.origin}: {FILES!r} is the workflow's own input, no name for a node")
            if name == RESERVED:
                raise ConfigError(f"{spec.origin}: {RESERVED!r} is where decoded frames lie, no name for a node")
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ConfigError(
                    f"{spec.origin}: node {name!r}: a name has letters, digits, - and _ only (it names a group)"
                )
        nodes = {n.name: _check(n, names, spec.origin) for n in spec.nodes}
        graph = {n.name: [p for p in n.inputs.values() if p != FILES] for n in nodes.values()}
        try:
            order = list(TopologicalSorter(graph).static_order())
        except CycleError as cycle:
            raise ConfigError(f"{spec.origin}: the nodes form a cycle: {' → '.join(cycle.args[1])}") from None
        return cls(spec.name, tuple(nodes[n] for n in order), spec.description)

    @classmethod
    def load(cls, name_or_path: str | Path) -> Workflow:
        """Load and check a preset (by name) or a YAML file (by path)."""
        return cls.from_spec(load_workflow(name_or_path))

    @classmethod
    def build(cls, name: str, nodes: Iterable[NodeSpec], *, description: str = "") -> Workflow:
        """Declare a workflow in Python; the same checks as for a file."""
        return cls.from_spec(WorkflowSpec(name, tuple(nodes), description, origin=name))

    def __repr__(self) -> str:
        return f"<skyloom workflow {self.name}: {' → '.join(self.names)}>"

    def _repr_html_(self) -> str:
        from skyloom.workflows.notebook import workflow_html

        return workflow_html(self)

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigError(f"workflow {self.name!r} has no node {name!r}{suggest(name, self.names)}")

    @property
    def names(self) -> list[str]:
        """Names of the nodes in running order."""
        return [n.name for n in self.nodes]

    def with_parameters(self, settings: Mapping[str, Any]) -> Workflow:
        """Return the workflow with some parameters set anew.

        Parameters
        ----------
        settings
            "node.parameter" → value.

        Raises
        ------
        ConfigError
            If there is no such node or parameter, or the value does not fit.
        """
        changed = {n.name: dict(n.parameters) for n in self.nodes}
        for name, value in settings.items():
            node_name, dot, parameter = name.partition(".")
            if not dot:
                raise ConfigError(f"--set {name}: write node.parameter=value")
            node = self[node_name]
            if parameter not in node.op.parameters:
                raise ConfigError(
                    f"node {node_name!r} has no parameter {parameter!r}{suggest(parameter, node.op.parameters)}"
                )
            try:
                changed[node_name][parameter] = node.op.parameters[parameter].check(value)
            except ConfigError as problem:
                raise ConfigError(f"node {node_name!r}: {problem}") from None
        return replace(self, nodes=tuple(replace(n, parameters=changed[n.name]) for n in self.nodes))

    def until(self, name: str, *, write: bool = False) -> Workflow:
        """Return only the node of that name and what it needs.

        Parameters
        ----------
        name
            The last node.
        write
            Where that node makes frames (calibrated, debayered), write them as files.
        """
        needed: set[str] = set()
        todo = [name]
        while todo:
            node = self[todo.pop()]
            needed.add(node.name)
            todo.extend(p for p in node.inputs.values() if p != FILES and p not in needed)
        nodes = tuple(n for n in self.nodes if n.name in needed)
        if write and self[name].op.name in FRAME_OPS:
            op = get_op("write_frames")
            nodes += (Node(op.name, op, {op.inputs[0]: name}, op.check({})),)
        return replace(self, nodes=nodes)

    def to_dict(self) -> dict[str, Any]:
        """Return the complete, effective workflow as plain values: what a workflow file holds."""
        return {
            "name": self.name,
            "description": self.description,
            "nodes": {
                n.name: {
                    "op": n.op.name,
                    "inputs": dict(n.inputs),
                    "parameters": {k: _plain(v) for k, v in n.parameters.items()},
                }
                for n in self.nodes
            },
        }

    def to_yaml(self) -> str:
        """Return the complete, effective workflow as a file that can be run again."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _check(spec: NodeSpec, names: list[str], origin: str) -> Node:
    where = f"{origin}: node {spec.name!r}"
    try:
        op = get_op(spec.op)
        parameters = op.check(spec.parameters)
    except ConfigError as problem:
        raise prefixed(problem, where) from problem.__cause__
    given = spec.inputs
    if not isinstance(given, Mapping):
        if len(given) > len(op.inputs):
            raise ConfigError(
                f"{where}: op {op.name!r} takes {len(op.inputs)} inputs ({', '.join(op.inputs)}), got {len(given)}"
            )
        given = dict(zip(op.inputs, given, strict=False))
    for name, producer in given.items():
        if name not in op.inputs:
            raise ConfigError(f"{where}: op {op.name!r} has no input {name!r}{suggest(name, op.inputs)}")
        if producer != FILES and producer not in names:
            raise ConfigError(
                f"{where}: nothing produces its input {producer!r}{suggest(producer, [*names, FILES])}"
            )
        if (producer == FILES) != (name == FILES):
            raise ConfigError(f"{where}: input {name!r} cannot be {producer!r}")
    for name in op.inputs:
        if name not in given and name not in op.optional_inputs:
            raise ConfigError(f"{where}: op {op.name!r} needs its input {name!r}")
    sinks = [n for n in given.values() if n == spec.name]
    if sinks:
        raise ConfigError(f"{where} cannot be its own input")
    return Node(spec.name, op, {n: given[n] for n in op.inputs if n in given}, parameters)
