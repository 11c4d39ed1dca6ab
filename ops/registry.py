"""The ops skyloom knows: their inputs, parameters, units and cost.

An op is a plain function: xarray Datasets in (positional), a lazy Dataset out, everything tunable
keyword-only and annotated. `register` reads the signature; nothing is declared twice.
"""

from __future__ import annotations

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError

ENTRY_POINT = "skyloom.ops"
FILES = "files"
"""Name of the workflow's own input: the list of files the user gave."""
CHANGE = "Change it"
"""Words with which the sentence begins, in a parameter's text, that says when to change it."""


@dataclass(frozen=True)
class Param:
    """What an annotation says of a parameter beyond its type: `Annotated[float, Param(unit="px")]`."""

    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    execution: bool = False
    """True: changes how, not what, is computed; not part of a node's key, set by the plan."""


@dataclass(frozen=True)
class Cost:
    """What the units of a node cost, known before a pixel moves. All arrays have the shape of the units."""

    work: NDArray[np.float64]
    """Mpixel·frames to process; 0 marks a unit without data, which is neither run nor written."""
    read: NDArray[np.float64]
    """Bytes read from frames."""
    memory: NDArray[np.float64]
    """Peak bytes of the unit's task."""
    rate: float
    """Mpixel·frames a second on one core, for the estimate of time."""
    stored: float = 1.0
    """Bytes on the disk over bytes of the arrays, at most: noise does not compress, counts and weights do."""


UnitKeys = Callable[..., NDArray[np.str_]]
"""Called with an op's inputs and parameters, returns a text for each unit: a digest of all of the inputs that the
unit's pixels depend on (the parameters are added by the caller); "" = never taken over. It computes nothing; where
it needs what is not computed yet it raises `NotYetKnown`."""
Lasting = Callable[[Mapping[str, NDArray[Any]]], bool]
"""Called with a unit's arrays by name, tells whether they follow from the inputs alone: False where a file could
not be read, which may be well again later."""


@dataclass(frozen=True)
class Parameter:
    """One keyword parameter of an op."""

    name: str
    kind: Any
    default: Any
    unit: str
    low: float
    high: float
    execution: bool
    doc: str

    @property
    def what(self) -> str:
        """What it does: its text up to `CHANGE`."""
        return self.doc.partition(CHANGE)[0].strip()

    @property
    def when(self) -> str:
        """When to change it: the rest of its text."""
        _, found, rest = self.doc.partition(CHANGE)
        return found + rest

    @property
    def range_text(self) -> str:
        """The values it may have, where a number is bounded."""
        bounded = self.low > -math.inf or self.high < math.inf
        return _range_text(self) if bounded else ""

    @property
    def type_name(self) -> str:
        """The type as a user reads it."""
        if typing.get_origin(self.kind) is Literal:
            return " | ".join(str(a) for a in typing.get_args(self.kind))
        if isinstance(self.kind, types.UnionType) or typing.get_origin(self.kind) is typing.Union:
            return " | ".join(
                "none" if a is type(None) else getattr(a, "__name__", str(a)) for a in typing.get_args(self.kind)
            )
        if typing.get_origin(self.kind) is not None:
            return str(self.kind).replace("typing.", "")
        return getattr(self.kind, "__name__", str(self.kind))

    def to_dict(self) -> dict[str, Any]:
        """Return the parameter as plain values, as JSON has them."""
        required = self.default is inspect.Parameter.empty
        return {
            "name": self.name,
            "type": self.type_name,
            "required": required,
            "default": None if required else self.default,
            "unit": self.unit,
            "low": self.low if math.isfinite(self.low) else None,
            "high": self.high if math.isfinite(self.high) else None,
            "what": self.what,
            "when": self.when,
        }

    def check(self, value: Any) -> Any:
        """Value as the op wants it.

        Raises
        ------
        ConfigError
            If type or range are wrong; the message names the parameter, the value and what is allowed.
        """
        kind = self.kind
        options = typing.get_args(kind) if _is_union(kind) else (kind,)
        for option in options:
            converted = _convert(value, option)
            if converted is not _NO:
                if (
                    isinstance(converted, int | float)
                    and not isinstance(converted, bool)
                    and not (self.low <= converted <= self.high)
                ):
                    raise ConfigError(f"{self.name} = {value!r} is out of range: {_range_text(self)}")
                return converted
        hint = ""
        literals = [str(a) for o in options if typing.get_origin(o) is Literal for a in typing.get_args(o)]
        close = get_close_matches(str(value), literals, n=1)
        if close:
            hint = f"; did you mean {close[0]!r}?"
        raise ConfigError(f"{self.name} = {value!r} should be {self.type_name}{hint}")


_NO = object()


def _is_union(kind: Any) -> bool:
    return isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union


def _range_text(parameter: Parameter) -> str:
    unit = f" {parameter.unit}" if parameter.unit else ""
    if parameter.low == -math.inf:
        return f"at most {parameter.high:g}{unit}"
    if parameter.high == math.inf:
        return f"at least {parameter.low:g}{unit}"
    return f"{parameter.low:g} to {parameter.high:g}{unit}"


def _convert(value: Any, kind: Any) -> Any:
    """Value as `kind`, or `_NO`. Lossless only: 1 is a float, 1.5 and True are no int."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value if value in typing.get_args(kind) else _NO
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return _NO
        element = typing.get_args(kind)[0] if typing.get_args(kind) else Any
        items = [_convert(v, element) for v in value]
        return _NO if any(i is _NO for i in items) else origin(items)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
            return _NO
        converted = {k: _convert(_as_text(v), typing.get_args(kind)[1]) for k, v in value.items()}
        return _NO if any(v is _NO for v in converted.values()) else converted
    if kind is Any:
        return value
    if kind is type(None):
        return None if value is None else _NO
    if kind is float:
        ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if ok else _NO
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else _NO
    return value if isinstance(value, kind) else _NO


def _as_text(value: Any) -> Any:
    """YAML makes dates of texts that look like them; keys and stored workflows need texts."""
    return value.isoformat() if isinstance(value, date) else value


@dataclass(frozen=True)
class Op:
    """A registered op."""

    name: str
    function: Callable[..., Any]
    version: int
    inputs: tuple[str, ...]
    parameters: Mapping[str, Parameter]
    unit: tuple[str, ...]
    """Dimensions along which the work is cut: one unit = one task = one block along these."""
    cost: Callable[..., Cost] | None
    sink: bool
    """True: writes files for people (exports) and returns no Dataset."""
    summary: str
    optional_inputs: tuple[str, ...] = ()
    origin: str = field(default="skyloom")
    table: bool = False
    """True: the result is a table made at once from tables, anew in every run: it may name files."""
    keys: UnitKeys | None = None
    """What each unit depends on; None: on everything."""
    lasting: Lasting | None = None
    """Whether a unit may be taken over; None: always."""

    def to_dict(self) -> dict[str, Any]:
        """Return what a user can know of the op as plain values, as JSON has them."""
        return {
            "name": self.name,
            "version": self.version,
            "origin": self.origin,
            "summary": self.summary,
            "inputs": list(self.inputs),
            "optional_inputs": list(self.optional_inputs),
            "unit": list(self.unit),
            "writes_files": self.sink,
            "parameters": [p.to_dict() for p in self.parameters.values() if not p.execution],
        }

    def check(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Complete, checked parameters: defaults filled in.

        Raises
        ------
        ConfigError
            For an unknown parameter (with the nearest legal name) or a wrong value.
        """
        for name in parameters:
            if name not in self.parameters:
                raise ConfigError(f"op {self.name!r} has no parameter {name!r}{suggest(name, self.parameters)}")
        complete = {}
        for name, parameter in self.parameters.items():
            if name in parameters:
                complete[name] = parameter.check(parameters[name])
            elif parameter.default is inspect.Parameter.empty:
                raise ConfigError(f"op {self.name!r} needs a value for {name}")
            else:
                complete[name] = parameter.default
        return complete


def suggest(name: str, known: typing.Iterable[str]) -> str:
    """Return "; did you mean …?" or the list of what there is, to end an error message."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there is: {', '.join(names)}" if names else "; there is none"


_OPS: dict[str, Op] = {}
_entry_points_loaded = False

Function = TypeVar("Function", bound=Callable[..., Any])


def register(
    *,
    version: int,
    unit: tuple[str, ...] = (),
    cost: Callable[..., Cost] | None = None,
    sink: bool = False,
    table: bool = False,
    keys: UnitKeys | None = None,
    lasting: Lasting | None = None,
    name: str | None = None,
    origin: str = "skyloom",
) -> Callable[[Function], Function]:
    """Make a function an op that workflows can name.

    Parameters
    ----------
    version
        Part of the key of every result; raise it when the result changes.
    unit
        Dimensions of the result along which it is computed and written block by block; () = in one piece.
    cost
        Called with the op's arguments, returns the `Cost` of its units.
    sink
        The op writes files for people: `function(*inputs, directory, ...)`, returns the paths.
    table
        The op makes a table at once from tables and headers, no pixels: it is made anew in every run (files may
        have moved), and kept in the store for people to see.
    keys
        Called with the op's arguments, returns the `UnitKeys`: units whose key is that of a unit of an earlier
        result are taken over from there. Without it a result is computed as a whole.
    lasting
        Called with a unit's arrays: whether later results may take it over (see `Lasting`).
    name
        Defaults to the function's.
    origin
        Shown by `skyloom ops`.

    Raises
    ------
    ConfigError
        If the name is taken by another function, or a parameter has no annotation.
    """

    def decorate(function: Function) -> Function:
        entry = _describe(
            function,
            name=name or function.__name__,
            version=version,
            unit=unit,
            cost=cost,
            sink=sink,
            table=table,
            keys=keys,
            lasting=lasting,
            origin=origin,
        )
        known = _OPS.get(entry.name)
        if known is not None and known.function.__qualname__ != function.__qualname__:
            raise ConfigError(f"an op {entry.name!r} exists already ({known.function.__module__})")
        _OPS[entry.name] = entry
        return function

    return decorate


def _describe(
    function: Callable[..., Any],
    *,
    name: str,
    version: int,
    unit: tuple[str, ...],
    cost: Callable[..., Cost] | None,
    sink: bool,
    table: bool,
    keys: UnitKeys | None,
    lasting: Lasting | None,
    origin: str,
) -> Op:
    docs = _parameter_docs(function.__doc__ or "")
    hints = typing.get_type_hints(function, include_extras=True)
    inputs, optional, parameters = [], [], {}
    for item in inspect.signature(function).parameters.values():
        if sink and item.name == "directory":
            continue  # the runner's to give
        if item.kind is item.POSITIONAL_OR_KEYWORD:
            inputs.append(item.name)
            if item.default is not item.empty:
                optional.append(item.name)
            continue
        if item.kind is not item.KEYWORD_ONLY:
            raise ConfigError(f"op {name!r}: {item.name} must be a plain input or keyword-only")
        if item.name not in hints:
            raise ConfigError(f"op {name!r}: parameter {item.name} has no type")
        kind, extra = hints[item.name], Param()
        if typing.get_origin(kind) is typing.Annotated:
            kind, *extras = typing.get_args(kind)
            extra = next((e for e in extras if isinstance(e, Param)), extra)
        parameters[item.name] = Parameter(
            name=item.name,
            kind=kind,
            default=item.default,
            unit=extra.unit,
            low=extra.low,
            high=extra.high,
            execution=extra.execution,
            doc=docs.get(item.name, ""),
        )
    summary = (function.__doc__ or "").strip().partition("\n")[0]
    return Op(
        name=name,
        function=function,
        version=version,
        inputs=tuple(inputs),
        parameters=parameters,
        unit=unit,
        cost=cost,
        sink=sink,
        summary=summary,
        optional_inputs=tuple(optional),
        origin=origin,
        table=table,
        keys=keys,
        lasting=lasting,
    )


def _parameter_docs(doc: str) -> dict[str, str]:
    """Texts of a numpydoc Parameters section, a line each."""
    section = re.search(r"Parameters\n\s*-{3,}\n(.*?)(?:\n\s*\n\s*\w+\n\s*-{3,}|\Z)", doc, re.DOTALL)
    if section is None:
        return {}
    lines = inspect.cleandoc("\n" + section.group(1)).splitlines()
    docs: dict[str, list[str]] = {}
    names: list[str] = []
    for line in lines:
        if line and not line[0].isspace():
            names = [n.strip() for n in line.split(":")[0].split(",")]
            for n in names:
                docs[n] = []
        elif line.strip():
            for n in names:
                docs[n].append(line.strip())
    return {n: " ".join(t) for n, t in docs.items()}


def _load_entry_points() -> None:
    global _entry_points_loaded  # noqa: PLW0603  (installed packages do not change while we run)
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    for point in entry_points(group=ENTRY_POINT):
        try:
            point.load()
        except Exception as failure:
            raise ConfigError(
                f"the ops of entry point {point.name!r} ({point.value}) cannot be loaded: {failure}"
            ) from failure


def all_ops() -> dict[str, Op]:
    """Every registered op by name: skyloom's own, installed entry points, and `register`ed ones."""
    _load_entry_points()
    return dict(sorted(_OPS.items()))


def get_op(name: str) -> Op:
    """Op of that name.

    Raises
    ------
    ConfigError
        If there is none; the message has the nearest name.
    """
    ops = all_ops()
    if name not in ops:
        raise ConfigError(f"unknown op {name!r}{suggest(name, ops)}")
    return ops[name]
