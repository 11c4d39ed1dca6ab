"""Reads a workflow from YAML: names and values only, nothing in it is code."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from skyloom.ops.errors import ConfigError
from skyloom.ops.registry import suggest

_TOP_KEYS = {"name", "description", "extends", "nodes"}
_NODE_KEYS = {"op", "inputs", "parameters"}


@dataclass(frozen=True)
class NodeSpec:
    """A node as a file declares it, not yet checked against the ops there are."""

    name: str
    op: str
    inputs: tuple[str, ...] | Mapping[str, str] = ()
    """Names of producers: in the op's order, or by the op's input names."""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkflowSpec:
    """A workflow as a file declares it."""

    name: str
    nodes: tuple[NodeSpec, ...]
    description: str = ""
    origin: str = ""
    """The file, for error messages."""


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error instead of silently the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def preset_names() -> list[str]:
    """Names of the presets that come with skyloom."""
    folder = resources.files("skyloom.configs") / "presets"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_workflow(name_or_path: str | Path, *, within: tuple[str, ...] = ()) -> WorkflowSpec:
    """Read a preset by name or a YAML file by path.

    Parameters
    ----------
    name_or_path
        Which.
    within
        Workflows that extend it: none may be among its own.

    Raises
    ------
    ConfigError
        If there is no such preset or file, or the file is no workflow.
    """
    text_name = str(name_or_path)
    path = Path(name_or_path)
    if path.suffix.lower() in {".yaml", ".yml"}:
        try:
            return parse_workflow(path.read_text(encoding="utf-8"), origin=text_name, within=within)
        except OSError as failure:
            raise ConfigError(
                f"workflow file {text_name}: {failure.strerror or failure}; presets are: "
                f"{', '.join(preset_names())}"
            ) from failure
        except UnicodeDecodeError:
            raise ConfigError(f"workflow file {text_name} is not UTF-8 text") from None
    if text_name not in preset_names():
        raise ConfigError(
            f"unknown preset {text_name!r}{suggest(text_name, preset_names())} (a file ends in .yaml)"
        )
    preset = resources.files("skyloom.configs") / "presets" / f"{text_name}.yaml"
    return parse_workflow(preset.read_text(encoding="utf-8"), origin=text_name, within=within)


def parse_workflow(text: str, *, origin: str, within: tuple[str, ...] = ()) -> WorkflowSpec:
    """Read a workflow from YAML text.

    Parameters
    ----------
    text
        The YAML document.
    origin
        What error messages call it; a file that it extends is looked for beside this one.
    within
        Workflows that extend it.

    Notes
    -----
    A workflow may extend a preset or another file: nodes of the same name take what is written here and keep the
    rest, parameters one by one; a node that is null is left out; others are added.

    Raises
    ------
    ConfigError
        If the text is no YAML or not of a workflow's form; the message has the line or the node.
    """
    try:
        # _Loader is a SafeLoader: a document cannot make objects, only values.
        document = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as failure:
        mark = getattr(failure, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(failure, "problem", None) or "no YAML"
        raise ConfigError(f"{origin}{where}: {problem}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{origin}: a workflow is a mapping with 'nodes'")
    for key in document:
        if key not in _TOP_KEYS:
            raise ConfigError(f"{origin}: unknown key {key!r}{suggest(str(key), _TOP_KEYS)}")
    extended = document.get("extends")
    base = None if extended is None else _base(extended, origin, within)
    nodes = document.get("nodes", {} if base is not None else None)
    if not isinstance(nodes, dict) or (not nodes and base is None):
        raise ConfigError(f"{origin}: 'nodes' should map the name of each node to its op")
    description = document.get("description", base.description if base is not None else "")
    return WorkflowSpec(
        name=str(document.get("name", Path(origin).stem)),
        description=" ".join(str(description).split()),
        nodes=_joined(base.nodes if base is not None else (), nodes, origin),
        origin=origin,
    )


def _base(extended: Any, origin: str, within: tuple[str, ...]) -> WorkflowSpec:
    """The workflow that one extends."""
    if not isinstance(extended, str):
        raise ConfigError(f"{origin}: 'extends' should name a preset or a file")
    beside = Path(origin).parent / extended
    is_file = beside.suffix.lower() in {".yaml", ".yml"}
    chain = (*within, str(Path(origin).resolve()) if Path(origin).suffix else origin)
    if (str(beside.resolve()) if is_file else extended) in chain:
        raise ConfigError(f"{origin}: extends: {extended} extends this one")
    try:
        return load_workflow(beside if is_file else extended, within=chain)
    except ConfigError as failure:
        raise ConfigError(f"{origin}: extends: {failure}") from None


def _joined(base: tuple[NodeSpec, ...], nodes: Mapping[Any, Any], origin: str) -> tuple[NodeSpec, ...]:
    """Nodes of the workflow that is extended, changed, and those that are new."""
    out = {n.name: n for n in base}
    for key, body in nodes.items():
        name = str(key)
        if body is None and base:
            if name not in out:
                raise ConfigError(f"{origin}: node {name!r}: nothing to leave out{suggest(name, out)}")
            del out[name]
            continue
        node = _node(name, body, origin)
        old = out.get(name)
        if old is not None and node.op in (name, old.op):
            inputs = node.inputs if "inputs" in body else old.inputs
            node = NodeSpec(name, old.op, inputs, {**old.parameters, **node.parameters})
        out[name] = node
    return tuple(out.values())


def _node(name: str, body: Any, origin: str) -> NodeSpec:
    where = f"{origin}: node {name!r}"
    if not isinstance(body, dict):
        raise ConfigError(f"{where} should be a mapping with 'op', 'inputs', 'parameters'")
    for key in body:
        if key not in _NODE_KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}{suggest(str(key), _NODE_KEYS)}")
    inputs = body.get("inputs", [])
    if isinstance(inputs, str):
        inputs = [inputs]
    if isinstance(inputs, dict):
        named: tuple[str, ...] | dict[str, str] = {str(k): str(v) for k, v in inputs.items()}
    elif isinstance(inputs, list):
        named = tuple(str(i) for i in inputs)
    else:
        raise ConfigError(f"{where}: 'inputs' should be a list of node names or a mapping")
    parameters = body.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise ConfigError(f"{where}: 'parameters' should be a mapping")
    return NodeSpec(
        name=name,
        op=str(body.get("op", name)),
        inputs=named,
        parameters={str(k): v for k, v in parameters.items()},
    )
