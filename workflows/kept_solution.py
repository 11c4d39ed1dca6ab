"""A solution that is kept: which earlier result stays, by its key, and what new frames then leave to be done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.held import AUTO, BASIS, KEEP, NEW
from skyloom.ops.objects import is_address
from skyloom.ops.registration.canvas import Wishes
from skyloom.ops.registration.given_canvas import AUTO as ANY_CANVAS
from skyloom.ops.registration.given_canvas import KEEP as KEEP_CANVAS
from skyloom.workflows.graph import Node
from skyloom.workflows.kept_canvas import with_canvas
from skyloom.workflows.kept_images import by_content
from skyloom.workflows.store import Store

PARAMETER, EARLIER = "solution", "earlier"
_OF = " of "
_FREE = {PARAMETER, "solution_tolerance", "canvas", "growth", "tile", *Wishes.shaping}
"""Parameters that may differ from those of the solution that is kept: a canvas moves no frame."""
_NAMED = 3
_FROM_FILES = ("ingest",)
"""Ops whose parameters count by what they make of each frame."""


def keeps(node: Node) -> bool:
    """Whether a node is to hold an earlier solution."""
    return str(node.parameters.get(PARAMETER, NEW)) != NEW


def with_solution(
    node: Node, input_keys: Sequence[str], inputs: Mapping[str, xr.Dataset | None], store: Store | None
) -> tuple[Node, xr.Dataset | None]:
    """Return the node with the key of the solution it keeps among its parameters, and that solution.

    The key says what an earlier result is, not where it lies. The result itself stays until the new one is
    complete, so a run that is stopped and goes on finds the same.

    Parameters
    ----------
    node
        Any node; those that do not keep a solution come back with their canvas settled (`with_canvas`).
    input_keys, inputs
        Of its inputs.
    store
        The project.

    Raises
    ------
    DataError
        If a project that is named has no such solution.
    ConfigError
        If the solution was made in another way than is asked for now.
    """
    if not keeps(node):
        return with_canvas(node, input_keys, store), None
    given = str(node.parameters[PARAMETER])
    word = given if given in (KEEP, AUTO) else KEEP
    source = store if given in (KEEP, AUTO) else Store(given if is_address(given) else Path(given).expanduser())
    if "canvas" in node.parameters and node.parameters["canvas"] == ANY_CANVAS:
        node = _with(node, canvas=KEEP_CANVAS if source is store else given)
    found = _newest(node, source) if source is not None and source.exists else None
    if source is None or found is None:
        if given != word:
            raise DataError(
                f"solution = {given}: no run of this project has come to its {node.op.name} yet "
                f"(words are {KEEP}, {AUTO} and {NEW})"
            )
        return with_canvas(_with(node, **{PARAMETER: NEW}), input_keys, store), None
    name, key = found
    if source is store:
        # The very run that is there already: to keep its result would be to make it again.
        before = dict((source.meta(name, key) or {}).get("parameters", {}))
        again = with_canvas(_with(node, **{PARAMETER: before.get(PARAMETER, NEW)}), input_keys, store)
        if by_content(again).key(input_keys) == key:
            return again, None
    earlier = source.open(name, key)
    if earlier.attrs.get("normalization") == "none" and node.parameters.get("mode") == "none":
        return with_canvas(_with(node, **{PARAMETER: NEW}), input_keys, store), None
    _check(node, inputs, earlier, word)
    return with_canvas(_with(node, **{PARAMETER: f"{word}{_OF}{key}"}), input_keys, store), earlier


def _with(node: Node, **parameters: Any) -> Node:
    return replace(node, parameters={**node.parameters, **parameters})


def _newest(node: Node, store: Store) -> tuple[str, str] | None:
    """Name and key of the newest result of a node, or of the only node with its op."""
    same = [node.name] if store.newest(node.name) and store.op(node.name) == node.op.name else []
    for name in same or [n for n in store.nodes() if store.op(n) == node.op.name]:
        key = store.newest(name)
        if key:
            return name, key
    return None


def _check(node: Node, inputs: Mapping[str, xr.Dataset | None], earlier: xr.Dataset, word: str) -> None:
    """Refuse to keep what was solved in another way: scales or positions would not mean the same."""
    now = {(node.name, node.op.name): (node.op.version, dict(node.parameters))}
    for dataset in inputs.values():
        for entry in _record(dataset):
            now[entry["node"], entry["op"]] = (entry["version"], entry["parameters"])
    for entry in _record(earlier):
        name, op = entry["node"], entry["op"]
        if (name, op) not in now or op in _FROM_FILES:
            continue
        version, parameters = now[name, op]
        remedy = f"solution = {NEW} solves all frames anew"
        if version != entry["version"]:
            raise ConfigError(
                f"solution = {word}: the solution there is of {op} version {entry['version']}, this is {version}; "
                f"{remedy}"
            )
        for parameter, value in entry["parameters"].items():
            is_now = parameters.get(parameter, value)
            if parameter not in _FREE and json.dumps(is_now) != json.dumps(value):
                raise ConfigError(
                    f"solution = {word}: the solution there was made with {name}.{parameter} = {value}, "
                    f"not {is_now}; {remedy}"
                )


def _record(dataset: xr.Dataset | None) -> list[dict[str, Any]]:
    return json.loads(dataset.attrs.get("provenance", "[]")) if dataset is not None else []


def foreseen(session: xr.Dataset, earlier: xr.Dataset, lazy: xr.Dataset) -> xr.Dataset:
    """What a node that keeps a solution will say of the frames it knows, with arbitrary values for the others.

    Parameters
    ----------
    session
        Table of the frames now.
    earlier
        The solution that is kept.
    lazy
        The node's result, not computed.
    """
    before = {f: i for i, f in enumerate(earlier["frame"].values.astype(str).tolist())}
    rows = np.array([before.get(f, -1) for f in session["frame"].values.astype(str).tolist()], dtype=np.int64)
    known = rows >= 0
    variables: dict[str, Any] = {}
    for name, variable in lazy.data_vars.items():
        if variable.chunks is None:
            variables[str(name)] = variable
        elif variable.dims[:1] == ("frame",) and name in earlier:
            values = np.asarray(earlier[name].values)
            out = np.ones((len(rows), *variable.shape[1:]), dtype=values.dtype)
            out[known] = values[rows[known]]
            variables[str(name)] = (variable.dims, out)
    return xr.Dataset(variables, lazy.coords, lazy.attrs)


def could_stay(
    node: Node, inputs: Mapping[str, xr.Dataset | None], session: xr.Dataset, store: Store | None
) -> str:
    """Say what a node gives up that solves other frames than last time all anew; "" where it gives up nothing."""
    if node.parameters.get(PARAMETER) != NEW or store is None or not store.exists or not store.newest(node.name):
        return ""
    earlier = store.open(node.name)
    now, before = (set(d["frame"].values.astype(str).tolist()) for d in (session, earlier))
    try:
        _check(node, inputs, earlier, KEEP)
    except ConfigError:
        return ""
    if now == before or not now & before or BASIS not in earlier:
        return ""
    return (
        f"{node.name}: {len(now & before)} frames that were solved before are solved anew with the others; "
        f"--solution {KEEP} would leave them, and the tiles without new frames, as they are"
    )


def changes(session: xr.Dataset, earlier: xr.Dataset | None, store: Store | None) -> str:
    """Which frames are new or gone since a solution was made, to be put behind a sentence."""
    if earlier is None:
        return ""
    now, before = (d["frame"].values.astype(str) for d in (session, earlier))
    names = dict(zip(now.tolist(), session["name"].values.astype(str).tolist(), strict=True))
    new = [names[f] for f in now.tolist() if f not in set(before.tolist())]
    gone = [f for f in before.tolist() if f not in names]
    if gone and store is not None and store.exists:
        for node in store.nodes():
            if store.newest(node) and {"name", "source"} <= set((table := store.open(node)).variables):
                pairs = zip(table["frame"].values.astype(str).tolist(), table["name"].values.tolist(), strict=True)
                names |= {f: str(n) for f, n in pairs}
    gone = [names.get(f, f) for f in gone]
    told = [f"{_counted(found)} {word}" for found, word in ((new, "new"), (gone, "gone")) if found]
    return ": " + "; ".join(told) if told else ""


def _counted(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(names[:_NAMED])}{more} {verb}"
