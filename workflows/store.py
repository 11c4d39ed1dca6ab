"""The project's zarr v3 hierarchy: `<node>/<key>` holds one result, complete when its mark says so.

A unit of work writes whole chunks (shards where the tile allows), so two tasks never touch one file.
"""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from skyloom.ops.arrays import LOCATION
from skyloom.ops.errors import CapacityError, DataError, SkyloomError
from skyloom.ops.objects import is_address
from skyloom.workflows.graph import RESERVED
from skyloom.workflows.journal import Journal
from skyloom.workflows.layout import Layout
from skyloom.workflows.places import (
    AT_A_TIME,
    ObjectPlace,
    Place,
    changed,
    files,
    folders,
    forget_seen,
    place,
    put_all,
    remove_tree,
    zarr_root,
)
from skyloom.workflows.shards import packed_block, read_window, write_block
from skyloom.workflows.stored import DamagedResult, damage, location, stored_array
from skyloom.workflows.stored_layout import StoredArray, as_text, create_lazy, write_array

STORE_NAME = "project.zarr"
FRAMES = RESERVED
"""Group of decoded frames."""
ORDER = "variables"
"""Attribute of a result's group: names of its variables in the order checksums go through them."""
OME = "ome"
"""Attribute of a result's group: its levels of detail, for viewers."""
# zarr's own pools multiply with dask's threads.
zarr.config.set({"async.concurrency": 4, "threading.max_workers": 2})


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn the file system's refusals into one clear line."""
    try:
        yield
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CapacityError(
                f"{what}: the disk is full; make room and run the same command again, what is done is kept"
            ) from failure
        if failure.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise CapacityError(
                f"{what}: {failure.strerror} ({failure.filename}); make it writable or choose a project folder you"
                " may write to; what is done is kept"
            ) from failure
        if isinstance(failure, FileExistsError | NotADirectoryError):
            raise CapacityError(f"{what}: a file is in the way; choose another folder") from failure
        raise


@dataclass(frozen=True)
class UnitWriter:
    """Writes the arrays of a unit; small enough to travel to a worker."""

    root: str
    group: str
    node: str
    layout: Layout
    key: str = ""
    """What the unit that is written depends on, to be noted with it."""

    def write(self, unit: tuple[int, ...], arrays: Mapping[str, NDArray[Any]]) -> int:
        """Write all variables of a unit as whole blocks and return their checksum.

        In an object store the checksum is noted with the block that is written last: a run that is killed has
        units there that its journal does not tell of yet.

        Raises
        ------
        DataError
            If an array has not the shape its block should have: an op broke its promise.
        CapacityError
            If the disk is full or may not be written.
        """
        checksum = 0
        last: tuple[ObjectPlace, bytes] | None = None
        with disk_errors(f"node {self.node!r}, writing to {self.root}"):
            names = tuple(v.name for v in self.layout.variables)
            targets = _open_arrays(self.root, self.group, names)
            for variable in self.layout.variables:
                region = variable.region(unit)
                array = np.asarray(arrays[variable.name])
                expected = tuple(s.stop - s.start for s in region)
                if array.shape != expected:
                    raise DataError(
                        f"node {self.node!r}: {variable.name} of unit {unit} has shape {array.shape}, "
                        f"its block is {expected}"
                    )
                target = targets[variable.name]
                if array.dtype.kind in "UOT":
                    array = array.astype(object)
                checksum = _checksum(array, checksum)
                block = packed_block(target, region, array) if is_address(self.root) else None
                if block is None or block[1] is None:
                    write_block(target, region, array)
                    continue
                if last is not None:
                    last[0].write_bytes(last[1])
                last = ObjectPlace.of(self.root) / self.group / variable.name / block[0], block[1]
            if last is not None:
                last[0].write_bytes(last[1], note=json.dumps({"checksum": checksum, "key": self.key}))
        return checksum

    def absent(self, units: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """Units without a file for each of their blocks; a block that is all fill value has none."""
        if is_address(self.root):
            there = {str(p) for p, _ in files(place(self.root) / self.group)}
            return [unit for unit in units if not all(str(p) in there for p in self._files(unit))]
        return [unit for unit in units if not all(p.exists() for p in self._files(unit))]

    def _files(self, unit: tuple[int, ...]) -> Iterator[Place]:
        for variable in self.layout.variables:
            index = [str(unit[p]) if p >= 0 else "0" for p in variable.unit_axes]
            yield (place(self.root) / self.group).joinpath(variable.name, "c", *index)

    def noted(self, units: Iterable[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], ObjectPlace]]:
        """Of some units those that lie in an object store with a note, and where it is."""
        if not is_address(self.root):
            return
        there = {str(p) for p, _ in files(place(self.root) / self.group)}
        for unit in units:
            blocks = [p for p in self._files(unit) if isinstance(p, ObjectPlace) and str(p) in there]
            if blocks:
                yield unit, blocks[-1]

    def read_checksum(self, unit: tuple[int, ...]) -> int | None:
        """Checksum of what the store holds for a unit, or None where it cannot be read."""
        checksum = 0
        try:
            group = zarr.open_group(zarr_root(self.root), path=self.group, mode="r", zarr_format=3)
            for variable in self.layout.variables:
                source = group[variable.name]
                assert isinstance(source, zarr.Array)
                array = read_window(source, variable.region(unit))
                checksum = _checksum(
                    array.astype(variable.dtype) if array.dtype.kind in "UOT" else array, checksum
                )
        except (OSError, KeyError, ValueError, RuntimeError, TypeError, IndexError, OverflowError):
            return None
        return checksum


def _checksum(array: NDArray[Any], before: int) -> int:
    if array.dtype.kind in "UOT":
        return zlib.crc32("\0".join(str(t) for t in array.ravel()).encode(), before)
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, before)


# What lies under a key has one form: it is not asked for with every unit.
@lru_cache(maxsize=64)
def _open_arrays(root: str, group: str, names: tuple[str, ...]) -> dict[str, zarr.Array[Any]]:
    """Arrays of a result, to be written."""
    opened = zarr.open_group(zarr_root(root), path=group, mode="r+", zarr_format=3)
    arrays = {}
    for name in names:
        array = opened[name]
        assert isinstance(array, zarr.Array)
        arrays[name] = array
    return arrays


os.register_at_fork(after_in_child=_open_arrays.cache_clear)


class Store:
    """A project's place: results by node and key, journals, exports."""

    def __init__(self, project: str | Place) -> None:
        self.project: Place = place(project)
        if isinstance(self.project, Path):
            self.project = self.project.absolute()
        self.root: Place = self.project / STORE_NAME

    @property
    def exists(self) -> bool:
        """Whether there is a store here already."""
        if isinstance(self.root, ObjectPlace):
            try:
                # Asked so, a store tells a bucket that is not there.
                self.root.joinpath("zarr.json").read_start(1)
            except FileNotFoundError:
                return False
            return True
        return (self.root / "zarr.json").exists()

    def create(self) -> None:
        """Make the folder and the empty hierarchy if they are not there.

        Raises
        ------
        CapacityError
            If the place cannot be written.
        """
        if isinstance(self.project, ObjectPlace):
            self._create_objects(self.project)
            return
        assert isinstance(self.root, Path)
        with disk_errors(f"project {self.project}"):
            try:
                self.project.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise CapacityError(
                    f"project {self.project}: a file is in the way; choose another folder with -o"
                ) from None
            except FileNotFoundError as failure:
                raise CapacityError(
                    f"project {self.project} cannot be made ({failure.strerror}); choose another folder with -o"
                ) from None
            # A group that can be made says nothing of a folder that lost its write bit since.
            probe = self.project / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
            _drop_damaged(self.root / "zarr.json")
            if not self.exists:
                zarr.create_group(self.hierarchy, zarr_format=3)
            for folder in self.root.iterdir():
                if folder.is_dir():
                    _drop_damaged(folder / "zarr.json")
                    if not (folder / "zarr.json").exists():
                        zarr.open_group(self.hierarchy, mode="r+", zarr_format=3).create_group(folder.name)

    def _create_objects(self, project: ObjectPlace) -> None:
        # What may be written may not have to be deleted, and is not there in a moment.
        probe = project / f".write-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
        if not self.exists:
            zarr.create_group(self.hierarchy, zarr_format=3)
        for folder in folders(self.root):
            if not (folder / "zarr.json").exists():
                zarr.open_group(self.hierarchy, mode="r+", zarr_format=3).create_group(folder.name)

    @property
    def hierarchy(self) -> Any:
        """What zarr opens the hierarchy with."""
        return zarr_root(str(self.root))

    def journal(self, node: str, key: str) -> Journal:
        """Journal of one result."""
        return Journal(self.project / "journal" / f"{node}-{key}.jsonl")

    def _group(self, node: str, key: str) -> zarr.Group | None:
        if isinstance(self.root, Path) and not (self.root / node / key / "zarr.json").exists():
            return None
        try:
            return zarr.open_group(self.hierarchy, path=f"{node}/{key}", mode="r", zarr_format=3)
        except FileNotFoundError:
            if isinstance(self.root, Path):
                raise
            return None
        except (ValueError, KeyError, TypeError):
            # Cut short when the power went: as if it were not there.
            return None

    def meta(self, node: str, key: str) -> dict[str, Any] | None:
        """What was recorded with a result (parameters, inputs, versions, timings), or None."""
        group = self._group(node, key)
        if group is None or "skyloom" not in group.attrs:
            return None
        meta = group.attrs["skyloom"]
        assert isinstance(meta, dict)
        return dict(meta)

    def is_complete(self, node: str, key: str) -> bool:
        """Whether the result is all there (its mark is written last)."""
        meta = self.meta(node, key)
        return bool(meta and meta.get("complete"))

    def keys(self, node: str) -> list[str]:
        """Keys of the results of a node, complete or not, newest last."""
        found = [(p.name, changed(p / "zarr.json")) for p in folders(self.root / node)]
        there = [(time, name) for name, time in found if time is not None]
        return [name for _, name in sorted(there)]

    def nodes(self) -> list[str]:
        """Names of the nodes with a result here."""
        names = [p.name for p in folders(self.root) if p.name != FRAMES]
        return sorted(name for name in names if self.keys(name))

    def op(self, node: str) -> str | None:
        """Name of the op behind the newest result of a node."""
        meta = self.meta(node, self.keys(node)[-1]) if self.keys(node) else None
        return str(meta["op"]) if meta else None

    def newest(self, node: str) -> str | None:
        """Key of the newest complete result of a node."""
        complete = [k for k in self.keys(node) if self.is_complete(node, k)]
        return complete[-1] if complete else None

    def prepare(
        self, node: str, key: str, dataset: xr.Dataset, layout: Layout, meta: Mapping[str, Any]
    ) -> UnitWriter:
        """Lay out the arrays of a result and write all that is not computed by units.

        What is already there for this very key is kept: units may be done. Where only the description of the
        arrays was lost it is written anew, around the units the journal knows.
        """
        writer = UnitWriter(str(self.root), f"{node}/{key}", node, layout)
        if self.meta(node, key) is not None:
            return writer
        with disk_errors(f"node {node!r}, project {self.project}"):
            if self.journal(node, key).read():
                self._strip(node, key, {v.name for v in layout.variables})
            else:
                self.journal(node, key).remove()
                self._clear(node, key)
            with self._new_group(node, key) as group:
                lazy = {v.name for v in layout.variables}
                for variable in layout.variables:
                    create_lazy(group, variable, dataset.variables[variable.name])
                for name, item in dataset.variables.items():
                    if str(name) not in lazy:
                        write_array(group, str(name), item)
                group.attrs.update(
                    {
                        **{str(k): v for k, v in dataset.attrs.items()},
                        "coordinates": sorted(str(c) for c in dataset.coords),
                        ORDER: [str(n) for n in dataset.variables],
                        # Written last: a template without it is begun anew.
                        "skyloom": {**meta, "complete": False},
                    }
                )
        return writer

    @contextmanager
    def _new_group(self, node: str, key: str) -> Iterator[zarr.Group]:
        """Group of a result that is laid out; one in an object store is made here and sent as a whole."""
        if not isinstance(self.root, ObjectPlace):
            _drop_damaged(self.root / node / "zarr.json")
            parent = zarr.open_group(self.hierarchy, mode="a", zarr_format=3)
            yield parent.require_group(node).create_group(key)
            return
        # zarr would ask for every group above an array with every array.
        made: dict[str, Any] = {}
        memory = zarr.storage.MemoryStore(store_dict=made)
        zarr.create_group(memory, zarr_format=3)
        yield zarr.create_group(memory, path=f"{node}/{key}", zarr_format=3)
        # The description of the whole comes last.
        head = f"{node}/{key}/zarr.json"
        put_all(
            self.root, {name: data.to_bytes() for name, data in made.items() if name not in ("zarr.json", head)}
        )
        (self.root / head).write_bytes(made[head].to_bytes())

    def write_table(self, node: str, key: str, dataset: xr.Dataset, meta: Mapping[str, Any]) -> None:
        """Write a result that is in memory already, replacing what is there under the key."""
        self._clear(node, key)
        self.prepare(node, key, dataset, Layout((), (), ()), meta)
        self.complete(node, key, {})

    def complete(self, node: str, key: str, extra: Mapping[str, Any]) -> None:
        """Mark a result as all there, and drop the results it replaces."""
        with disk_errors(f"node {node!r}, project {self.project}"):
            group = self._to_mark(node, key)
            meta = group.attrs["skyloom"]
            assert isinstance(meta, dict)
            group.attrs["skyloom"] = {**meta, **extra, "complete": True, "finished": time.time()}
        for other in self.keys(node):
            if other != key:
                self.remove(node, other)

    def _to_mark(self, node: str, key: str) -> zarr.Group:
        """Group of a result as it is now, to write other marks."""
        forget_seen()
        return zarr.open_group(self.hierarchy, path=f"{node}/{key}", mode="r+", zarr_format=3)

    def keep_only(self, node: str, key: str) -> None:
        """Drop other complete results: a stop after the mark leaves one, and the clock may call it newer."""
        for other in self.keys(node):
            if other != key and self.is_complete(node, other):
                self.remove(node, other)

    def remove(self, node: str, key: str) -> None:
        """Delete a result and its journal."""
        self._clear(node, key)
        self.journal(node, key).remove()

    def order(self, node: str, key: str) -> list[str]:
        """Names of a result's variables in the order its checksums go through them; [] where that is not known."""
        group = self._group(node, key)
        order = group.attrs.get(ORDER) if group is not None else None
        return [str(name) for name in order] if isinstance(order, list) else []

    def suspect(self, node: str, key: str) -> bool:
        """Whether what is there of a result has to be read back before it is used: something of it was damaged."""
        meta = self.meta(node, key)
        return meta is None or bool(meta.get("suspect"))

    def mark_suspect(self, node: str, key: str) -> None:
        """Take back that a result is complete and well; its units are read back when it is next run."""
        with disk_errors(f"node {node!r}, project {self.project}"):
            try:
                # All of it but the units themselves is read here.
                self.open(node, key)
                group = self._to_mark(node, key)
                meta = group.attrs["skyloom"]
                assert isinstance(meta, dict)
                group.attrs["skyloom"] = {**meta, "complete": False, "suspect": True}
            except (SkyloomError, ValueError, KeyError, TypeError, RuntimeError):
                (self.root / node / key / "zarr.json").unlink(missing_ok=True)

    def take_back(self, damaged: DamagedResult) -> None:
        """See to it that what is damaged is mended by the next run."""
        if damaged.node == FRAMES:
            self.forget_frame(damaged.key)
        else:
            self.mark_suspect(damaged.node, damaged.key)

    def trust(self, node: str, key: str) -> None:
        """Units have been read back: what the journal says is so."""
        group = self._to_mark(node, key)
        meta = group.attrs["skyloom"]
        assert isinstance(meta, dict)
        if meta.get("suspect"):
            group.attrs["skyloom"] = {**meta, "suspect": False}

    def forget_frame(self, content: str) -> None:
        """Delete the copy of a decoded frame."""
        self._clear(FRAMES, content)

    def _strip(self, node: str, key: str, lazy: set[str]) -> None:
        """Leave of a result the blocks of its units alone."""
        folder = self.root / node / key
        (folder / "zarr.json").unlink(missing_ok=True)
        for part in folders(folder):
            if part.name in lazy:
                (part / "zarr.json").unlink(missing_ok=True)
            else:
                remove_tree(part)

    def _clear(self, node: str, key: str) -> None:
        folder = self.root / node / key
        # First, so that what a kill leaves of it is not taken for a result.
        (folder / "zarr.json").unlink(missing_ok=True)
        remove_tree(folder)

    def thin(self, node: str, key: str) -> None:
        """Leave one result beside that of a key: the newest complete one, else the newest."""
        others = [k for k in self.keys(node) if k != key]
        kept = [k for k in others if self.is_complete(node, k)] or others
        for other in others:
            if other != kept[-1]:
                self.remove(node, other)

    def open(self, node: str, key: str | None = None) -> xr.Dataset:
        """Open a result lazily: dask arrays cut as they lie in the store.

        Parameters
        ----------
        node
            Name of the node.
        key
            Which result; the newest complete one.

        Raises
        ------
        DataError
            If there is none.
        """
        key = key or self.newest(node)
        group = self._group(node, key) if key else None
        if group is None or key is None:
            there = ", ".join(self.nodes()) or "nothing"
            raise DataError(f"project {self.project} has no complete result of node {node!r}; there is: {there}")
        attrs = dict(group.attrs)
        coordinates = attrs.pop("coordinates", [])
        attrs.pop("skyloom", None)
        attrs.pop(OME, None)
        order = attrs.pop(ORDER, [])
        if isinstance(self.root, ObjectPlace) and isinstance(order, list) and order:
            arrays, known = self._distant_arrays(f"{node}/{key}", [str(name) for name in order])
        else:
            for name in order if isinstance(order, list) else ():
                if not (self.root / node / key / str(name) / "zarr.json").exists():
                    raise DamagedResult(str(self.root), f"{node}/{key}/{name}", "not there")
            with damage(str(self.root), f"{node}/{key}/"):
                arrays = list(group.arrays())
            known = {}
        variables: dict[str, xr.Variable] = {}
        if isinstance(order, list) and order:
            arrays.sort(key=lambda item: order.index(item[0]) if item[0] in order else len(order))
        for name, array in arrays:
            item = dict(array.attrs)
            lazy = bool(item.pop("lazy", False))
            dims = tuple(str(d) for d in (array.metadata.dimension_names or ()))  # type: ignore[union-attr]
            if lazy:
                blocks = array.shards or array.chunks
                token = f"store-{node}-{key}-{name}"
                data: Any = da.from_array(
                    StoredArray(str(self.root), f"{node}/{key}/{name}"), chunks=blocks, name=token
                )
            else:
                with damage(str(self.root), f"{node}/{key}/{name}"):
                    data = as_text(known[name] if name in known else np.asarray(array[...]))
            variables[name] = xr.Variable(dims, data, item)
        assert isinstance(coordinates, list)
        coords = {n: v for n, v in variables.items() if n in coordinates}
        dataset = xr.Dataset({n: v for n, v in variables.items() if n not in coords}, coords, attrs)
        dataset.encoding[LOCATION] = location(str(self.root), f"{node}/{key}")
        return dataset

    def _distant_arrays(
        self, group: str, names: list[str]
    ) -> tuple[list[tuple[str, zarr.Array[Any]]], dict[str, NDArray[Any]]]:
        """Arrays of a result in an object store, and the values of those that are not lazy: all at a time."""

        def read(name: str) -> tuple[zarr.Array[Any], NDArray[Any] | None]:
            path = f"{group}/{name}"
            try:
                with damage(str(self.root), path):
                    array = stored_array(str(self.root), path)
                    return array, None if array.attrs.get("lazy", False) else np.asarray(array[...])
            except FileNotFoundError:
                raise DamagedResult(str(self.root), path, "not there") from None

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            found = dict(zip(names, pool.map(read, names), strict=True))
        return [(n, array) for n, (array, _) in found.items()], {
            n: values for n, (_, values) in found.items() if values is not None
        }


def _drop_damaged(path: Place) -> None:
    """Delete a group's description that was cut short, so that it is written anew."""
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return
    except ValueError:
        path.unlink(missing_ok=True)
