"""What a project has to show: nodes with their images, finished or being made, read from the store's metadata."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import suggest
from skyloom.workflows.places import ObjectPlace, Place, folders
from skyloom.workflows.store import OME, Store
from skyloom.workflows.stored import StoredSource, stored_array

NEW = "+"
"""Behind the name of a node: its result that is being made while an earlier one is still there."""
_STALE = 0.5
"""Seconds for which a look at the store holds."""
_STALE_FAR = 10.0
"""The same of an object store, which takes some requests."""
_FIRST = ("image", "weight", "variance", "count", "rejected_low", "rejected_high")
_KINDS = "fiub"
_LEAST = 8
"""Pixels a side: what is smaller is a table of regions."""


@dataclass(frozen=True)
class Variable:
    """An array of pixels of a result."""

    name: str
    folder: Place
    lead: str
    """Dimension before y and x; "" = none."""
    labels: tuple[str, ...]
    """Along it: bands, channels, masters; one "" without such a dimension."""
    shape: tuple[int, int]
    units: str
    kind: str
    """Of its numbers, as numpy has it: f, i, u, b."""

    def plane(self, number: int) -> StoredSource:
        """Pixels of a plane."""
        return self.plane_of(self.folder, number)

    def plane_of(self, folder: Place, number: int) -> StoredSource:
        """Pixels of a plane of an array with the same dimensions: a level of the pyramid."""
        index = (number, -1, -1) if self.lead else (-1, -1)
        return StoredSource(str(folder.parent), folder.name, index, self.shape)


@dataclass(frozen=True)
class Result:
    """A node's result that has pixels."""

    id: str
    """The node's name, with `NEW` where an earlier result is still there."""
    node: str
    key: str
    op: str
    complete: bool
    inputs: Mapping[str, str]
    linear: bool
    started: float
    grid: Grid | None
    variables: Mapping[str, Variable]
    levels: tuple[Place, ...]
    """Arrays of its pyramid: the image and those above; () = it has none."""
    made_from: Mapping[str, str] = field(default_factory=dict)
    """Node → key of all that it was made from."""


class Contents:
    """Results of a project, looked up anew as a run goes on."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._found: dict[str, Result] = {}
        self._looked = -_STALE
        self._known: dict[tuple[str, str, tuple[int, int]], Result | None] = {}

    def results(self) -> dict[str, Result]:
        """All results with pixels, by id, in the order in which they were begun."""
        if time.monotonic() - self._looked < (_STALE if isinstance(self.store.root, Path) else _STALE_FAR):
            return self._found
        found: list[Result] = []
        for node in self.store.nodes():
            known = [r for key in self.store.keys(node) if (r := self._result(node, key)) is not None]
            complete = [r for r in known if r.complete]
            making = [r for r in known if not r.complete]
            if complete:
                found.append(complete[-1])
            if making:
                latest = making[-1]
                name = node + NEW if complete else node
                found.append(replace(latest, id=name))
        found.sort(key=lambda r: r.started)
        self._found = {r.id: r for r in found}
        self._looked = time.monotonic()
        return self._found

    def result(self, name: str) -> Result:
        """Result of an id.

        Raises
        ------
        ConfigError
            If there is none.
        """
        results = self.results()
        if name not in results:
            there = ", ".join(results) or "nothing yet"
            raise ConfigError(f"no node {name!r} with an image{suggest(name, results)}; there is: {there}")
        return results[name]

    def revision(self, result: Result) -> str:
        """Text that changes when more of a result is there."""
        if result.complete:
            return f"{result.key}{'p' if result.levels else ''}"
        return f"{result.key}-{self.store.journal(result.node, result.key).size}"

    def default(self) -> Result | None:
        """What to show first: the last stretched picture, else the last mosaic, else what comes last."""
        results = list(self.results().values())
        on_canvas = [r for r in results if r.grid is not None and "image" in r.variables]
        whole = [r for r in on_canvas if r.variables["image"].shape == (r.grid.shape if r.grid else None)]
        for group in ([r for r in whole if not r.linear and r.complete], whole, on_canvas):
            if group:
                return group[-1]
        return next((r for r in results if r.grid is not None), None)

    def _result(self, node: str, key: str) -> Result | None:
        folder = self.store.root / node / key
        try:
            state = (folder / "zarr.json").stat()
        except OSError:
            return None
        known = (node, key, (state.st_mtime_ns, state.st_size))
        if known not in self._known:
            self._known[known] = _read_result(folder, node, key)
        return self._known[known]


def _read_result(folder: Place, node: str, key: str) -> Result | None:
    try:
        attrs = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        meta = attrs["skyloom"]
    except (OSError, ValueError, KeyError):
        # It is being laid out.
        return None
    found = (_variable(p) for p in sorted(folders(folder), key=str))
    variables = {v.name: v for v in found if v is not None}
    if "image" in variables and not variables["image"].units:
        variables["image"] = replace(variables["image"], units=str(attrs.get("units", "")))
    # Places of stars by cell are a table, not an image.
    if not variables or {"x", "y"} & set(variables):
        return None
    order = [n for n in _FIRST if n in variables] + [n for n in variables if n not in _FIRST]
    try:
        grid = Grid.from_attrs(attrs)
    except DataError:
        grid = None
    provenance = json.loads(attrs.get("provenance", "[]"))
    return Result(
        id=node,
        node=node,
        key=key,
        op=str(meta.get("op", "")),
        complete=bool(meta.get("complete")),
        inputs={str(k): str(v) for k, v in dict(meta.get("inputs", {})).items()},
        linear=bool(attrs.get("linear", True)),
        started=float(meta.get("started", 0.0)),
        grid=grid,
        variables={n: variables[n] for n in order},
        levels=_levels(folder, attrs),
        made_from={str(e["node"]): str(e["key"]) for e in provenance},
    )


def _variable(folder: Place) -> Variable | None:
    """Array as a variable, if it is an image or a stack of images."""
    try:
        about = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
        if about["node_type"] != "array" or about["data_type"] == "string":
            return None
        dims = [str(d) for d in about.get("dimension_names") or ()]
        shape, kind = tuple(int(n) for n in about["shape"]), np.dtype(about["data_type"]).kind
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if len(shape) not in (2, 3) or dims[-2:] != ["y", "x"] or kind not in _KINDS:
        return None
    if min(shape) < 1 or min(shape[-2:]) < _LEAST:
        return None
    lead = dims[0] if len(shape) == 3 else ""
    return Variable(
        name=folder.name,
        folder=folder,
        lead=lead,
        labels=_labels(folder, lead, shape[0]) if lead else ("",),
        shape=(shape[-2], shape[-1]),
        units=str(about["attributes"].get("units", "")),
        kind=kind,
    )


def _labels(folder: Place, lead: str, count: int) -> tuple[str, ...]:
    try:
        named = stored_array(str(folder.parent), lead)
        texts = [str(v) for v in named[...].tolist()]  # type: ignore[union-attr]
    except (OSError, KeyError, ValueError, AttributeError):
        texts = []
    if len(texts) != count:
        texts = _kinds(folder, count)
    return tuple(texts) if len(texts) == count else tuple(str(i) for i in range(count))


def _kinds(folder: Place, count: int) -> list[str]:
    """Masters have no names; what they are of says more than a number."""
    try:
        kinds = [str(v) for v in stored_array(str(folder.parent), "kind")[...].tolist()]  # type: ignore[union-attr]
    except (OSError, KeyError, ValueError, AttributeError):
        return []
    return [f"{kind} {i}" for i, kind in enumerate(kinds)] if len(kinds) == count else []


def _levels(folder: Place, attrs: Mapping[str, Any]) -> tuple[Place, ...]:
    try:
        datasets = attrs[OME]["multiscales"][0]["datasets"]
        paths = tuple(folder / str(d["path"]) for d in datasets)
    except (KeyError, IndexError, TypeError):
        return ()
    inside = all(_is_inside(p, folder) and (p / "zarr.json").exists() for p in paths)
    return paths if inside and len(paths) > 1 else ()


def _is_inside(path: Place, folder: Place) -> bool:
    if isinstance(path, ObjectPlace) or isinstance(folder, ObjectPlace):
        return str(path).startswith(f"{folder}/")
    return path.resolve().is_relative_to(folder.resolve())
