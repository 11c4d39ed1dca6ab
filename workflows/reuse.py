"""Units of an earlier result that the new one shares are taken over instead of computed.

An op may say what each of its units depends on (`skyloom.ops.registry.UnitKeys`). The journal keeps that key with
every unit; a unit of a new result whose key is in the journal of another result of the same node is that unit, at
whatever place it stood there.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError, NotYetKnown
from skyloom.ops.unit_keys import digest
from skyloom.workflows.graph import Node
from skyloom.workflows.journal import UnitRecord
from skyloom.workflows.layout import VariableLayout
from skyloom.workflows.places import ObjectPlace, Place, place, zarr_root
from skyloom.workflows.store import Store, UnitWriter, disk_errors

BATCH_UNITS = 64
BATCH_BYTES = 64e6
"""A task takes over this many units, or this many bytes: small ones together, so that opening and journaling count
little."""

Unit = tuple[int, ...]


@dataclass(frozen=True)
class Donor:
    """A finished unit of another result of the node."""

    result: str
    """Key of that result."""
    unit: Unit
    checksum: int


def unit_keys(
    node: Node, inputs: Mapping[str, xr.Dataset | None], shape: tuple[int, ...], execution: Mapping[str, Any]
) -> NDArray[np.str_] | None:
    """Key of each unit of a node: op, version, parameters, and what the op says the unit depends on.

    Parameters
    ----------
    node
        Whose units.
    inputs
        The op's input name → Dataset.
    shape
        Of its units.
    execution
        Values of its execution parameters; they are not in the keys.

    Returns
    -------
    array of str, or None
        None where the op says nothing, or what it needs is not known before other nodes have run.

    Raises
    ------
    ConfigError
        If the op's keys do not have the shape of its units (an error of the op).
    """
    op = node.op
    if op.keys is None:
        return None
    try:
        content = np.asarray(op.keys(**inputs, **{**node.parameters, **execution}))
    except NotYetKnown:
        return None
    if content.shape != shape:
        raise ConfigError(f"node {node.name!r}: op {op.name!r} gives {content.shape} keys for {shape} units")
    parameters = {k: v for k, v in sorted(node.parameters.items()) if not op.parameters[k].execution}
    common = digest(op.name, op.version, parameters)
    keys = [digest(common, text) if text else "" for text in content.ravel().tolist()]
    return np.array(keys, dtype=np.str_).reshape(shape)


def reusable(store: Store, node: str, key: str, keys: NDArray[np.str_]) -> dict[Unit, Donor]:
    """Units of a result that other results of the node hold, complete or not; the newest holder of each."""
    known: dict[str, Donor] = {}
    for other in store.keys(node):
        if other == key or store.meta(node, other) is None:
            continue
        for record in store.journal(node, other).read().values():
            if record.key:
                known[record.key] = Donor(other, record.unit, record.checksum)
    if not known:
        return {}
    return {unit: known[str(text)] for unit, text in np.ndenumerate(keys) if str(text) in known}


@dataclass(frozen=True)
class TakeOver:
    """The task of taking some units over; self-sufficient, travels to a worker."""

    units: tuple[tuple[Unit, Donor, str], ...]
    """Unit, where it comes from, and its key."""
    writer: UnitWriter

    @property
    def unit(self) -> Unit:
        """The first of its units."""
        return self.units[0][0]

    def run(self) -> tuple[UnitRecord, ...]:
        """Take units over and read them back.

        Returns
        -------
        tuple of UnitRecord
            Those that arrived as they were written once; the others are to be computed.
        """
        done = []
        sources: dict[str, _Arrays | None] = {}
        begin = time.time()
        with disk_errors(f"node {self.writer.node!r}, writing to {self.writer.root}"):
            target = _Arrays.open(self.writer, self.writer.group)
            for unit, donor, key in self.units:
                if donor.result not in sources:
                    group = f"{self.writer.group.rpartition('/')[0]}/{donor.result}"
                    sources[donor.result] = _try_open(self.writer, group)
                source = sources[donor.result]
                if (
                    source is not None
                    and target is not None
                    and _take(target, source, unit, donor, key, self.writer)
                ):
                    end = time.time()
                    record = UnitRecord(
                        unit, donor.checksum, round(end - begin, 4), round(end, 3), key, reused=True
                    )
                    done.append(record)
                    begin = end
        return tuple(done)


def take_overs(
    reuse: Mapping[Unit, Donor], units: Sequence[Unit], keys: NDArray[np.str_], writer: UnitWriter
) -> Iterator[TakeOver]:
    """Tasks that take the given units over."""
    size = int(min(max(BATCH_BYTES // max(writer.layout.unit_bytes(), 1), 1), BATCH_UNITS))
    for first in range(0, len(units), size):
        part = units[first : first + size]
        yield TakeOver(tuple((unit, reuse[unit], str(keys[unit])) for unit in part), writer)


@dataclass(frozen=True)
class _Arrays:
    """Arrays of a result in the store."""

    root: str
    arrays: Mapping[str, zarr.Array[Any]]

    @classmethod
    def open(cls, writer: UnitWriter, group: str) -> _Arrays:
        opened = zarr.open_group(zarr_root(writer.root), path=group, mode="r", zarr_format=3)
        arrays = {}
        for variable in writer.layout.variables:
            array = opened[variable.name]
            assert isinstance(array, zarr.Array)
            arrays[variable.name] = array
        return cls(writer.root, arrays)

    def region(self, variable: VariableLayout, unit: Unit) -> tuple[slice, ...]:
        """Where a unit lies in a variable."""
        array = self.arrays[variable.name]
        return replace(variable, shape=array.shape, block=array.shards or array.chunks).region(unit)

    def file(self, variable: VariableLayout, unit: Unit) -> Place:
        """The one file that holds a unit of a variable; it is not there when all is fill value."""
        array = self.arrays[variable.name]
        index = tuple(unit[p] if p >= 0 else 0 for p in variable.unit_axes)
        return place(self.root) / array.path / array.metadata.encode_chunk_key(index)

    def form(self, variable: VariableLayout) -> dict[str, Any]:
        """How a block of a variable is written: two arrays of the same form share files."""
        form = dict(self.arrays[variable.name].metadata.to_dict())
        return {k: v for k, v in form.items() if k not in ("shape", "attributes")}


def _try_open(writer: UnitWriter, group: str) -> _Arrays | None:
    """Arrays of an earlier result; None where it is gone or holds other variables."""
    try:
        return _Arrays.open(writer, group)
    except (OSError, KeyError, ValueError, AssertionError):
        return None


def _take(target: _Arrays, source: _Arrays, unit: Unit, donor: Donor, key: str, writer: UnitWriter) -> bool:
    """Take one unit over; False where it is not what its journal says."""
    variables = writer.layout.variables
    for variable in variables:
        there, here = source.region(variable, donor.unit), target.region(variable, unit)
        if [s.stop - s.start for s in there] != [s.stop - s.start for s in here]:
            return False
    if all(source.form(v) == target.form(v) for v in variables):
        for variable in variables:
            _share(source.file(variable, donor.unit), target.file(variable, unit))
        if writer.read_checksum(unit) == donor.checksum:
            return True
        for variable in variables:
            target.file(variable, unit).unlink(missing_ok=True)
        return False
    try:
        arrays = {
            v.name: np.asarray(source.arrays[v.name][source.region(v, donor.unit)]).astype(v.dtype)
            for v in variables
        }
    except (OSError, KeyError, ValueError, RuntimeError):
        return False
    return replace(writer, key=key).write(unit, arrays) == donor.checksum


def _share(source: Place, target: Place) -> None:
    """Let a second name point to a file, or copy it where that cannot be done.

    Blocks are only ever replaced as whole files, so what happens to one name does not touch the other.
    """
    if isinstance(source, ObjectPlace) or isinstance(target, ObjectPlace):
        assert isinstance(source, ObjectPlace)
        assert isinstance(target, ObjectPlace)
        try:
            source.copy(target)
        except FileNotFoundError:
            target.unlink()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        return
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        part = target.with_name(f"{target.name}.{os.getpid()}.partial")
        shutil.copyfile(source, part)
        part.replace(target)
