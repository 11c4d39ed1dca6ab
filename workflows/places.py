"""Where a project lies: a folder, or a part of an object store. What is asked of both is here, and nothing else.

A folder is a `Path`, and everything about it is as it always was. `ObjectPlace` has the same faces; where the two
differ (a whole file at once, a folder that goes, files made by what only knows folders) there is a function here.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from skyloom.ops.errors import ConfigError
from skyloom.ops.objects import ObjectPath, is_address, opened, said, scratch_base

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

DESCRIPTION = "zarr.json"
"""Name of what describes a group or an array."""
NOTE = "skyloom"
"""Name of what is noted with an object."""
PART_BYTES, PARTS = 2**25, 4
"""Larger objects are sent in parts of this size, so many at a time."""
AT_A_TIME = 16
"""Small requests that are sent at a time: what takes long is waiting for the answers."""
_DELETED_AT_ONCE = 1000


LOOK_SECONDS = 5.0
"""How long what was seen of an object store is taken to be so still."""
_SEEN_AT_MOST = 4096
_seen: dict[str, tuple[float, Any]] = {}


def remembered(what: str, ask: Callable[[], Any]) -> Any:
    """What was seen a moment ago, else what is asked now.

    A project is one process' at a time: what it writes itself makes it forget. Others see it a little later.
    """
    known = _seen.get(what)
    if known is not None and time.monotonic() - known[0] < LOOK_SECONDS:
        return known[1]
    found = ask()
    if len(_seen) >= _SEEN_AT_MOST:
        _seen.clear()
    _seen[what] = time.monotonic(), found
    return found


def forget_seen() -> None:
    """Look anew at all object stores."""
    _seen.clear()


class Taken(Exception):
    """Somebody else has written an object first."""


class ObjectPlace(ObjectPath):
    """A part of an object store that is written to."""

    def write_bytes(self, data: bytes, *, note: str = "") -> None:
        """Write an object whole, or not at all."""
        self.put(data, note=note)

    def write_text(self, text: str, encoding: str = "utf-8", errors: str = "strict") -> None:
        """Write an object whole, or not at all."""
        self.put(text.encode(encoding, errors))

    def put(self, data: bytes | Path, *, note: str = "", over: str | None = "") -> str:
        """Write an object whole, or not at all.

        Parameters
        ----------
        data
            What, or the file that holds it.
        note
            To be kept beside it (`note`).
        over
            Tag of the object that may be written over; None: there must be none; "": whatever is there.

        Returns
        -------
        str
            Tag of the object now.

        Raises
        ------
        Taken
            If another object is there.
        """
        import obstore

        mode: Any = None if over == "" else "create" if over is None else {"e_tag": over}
        attributes: Any = {NOTE: note} if note else None
        with said(self):
            try:
                answer = obstore.put(
                    self.store,
                    self.key,
                    data,
                    attributes=attributes,
                    mode=mode,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS,
                )
                return str(answer["e_tag"])
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                raise Taken(str(self)) from None
            finally:
                if self.name == DESCRIPTION:
                    forget_seen()

    def note(self) -> str:
        """What was noted with an object, "" for nothing."""
        import obstore

        with said(self):
            return str(obstore.get(self.store, self.key, options={"head": True}).attributes.get(NOTE, ""))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete an object; stores do not say whether it was there."""
        del missing_ok
        delete([self])

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: folders are only in names."""

    def copy(self, target: ObjectPlace) -> None:
        """Have the store copy an object."""
        import obstore

        with said(self):
            obstore.copy(self.store, self.key, target.key)


Place = Path | ObjectPlace


def place(address: str | Path | ObjectPlace) -> Place:
    """A folder or file, or a part of an object store, by what a user calls it."""
    if isinstance(address, ObjectPlace):
        return address
    return ObjectPlace.of(str(address)) if is_address(address) else Path(address)


def local(address: str, what: str) -> Path:
    """A path on this machine; an address is refused.

    Raises
    ------
    ConfigError
        If it is the address of an object store.
    """
    if is_address(address):
        raise ConfigError(f"{address}: {what} is written to a folder, not to an object store; give one")
    return Path(address)


def delete(objects: Iterable[ObjectPath]) -> None:
    """Delete objects of one bucket; those that are not there are passed over."""
    import obstore

    doomed = list(objects)
    for first in range(0, len(doomed), _DELETED_AT_ONCE):
        some = doomed[first : first + _DELETED_AT_ONCE]
        with said(some[0]):
            try:
                obstore.delete(some[0].store, [o.key for o in some])
            except FileNotFoundError as failure:
                if "NoSuchBucket" in str(failure):
                    raise
    forget_seen()


def put_all(where: ObjectPlace, objects: Mapping[str, bytes]) -> None:
    """Write objects below a place."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda item: (where / item[0]).write_bytes(item[1]), objects.items()))


def folders(where: Place) -> list[Place]:
    """Folders right below, none where there is no such place."""
    if isinstance(where, ObjectPlace):
        return list(remembered(f"folders {where}", lambda: where.children()[0]))
    return [p for p in where.iterdir() if p.is_dir()] if where.exists() else []


def files(where: Place) -> list[tuple[Place, int]]:
    """All files below, with their bytes."""
    if isinstance(where, ObjectPlace):
        return [(found, state.st_size) for found, state in where.listed()]
    return [(p, p.stat().st_size) for p in where.rglob("*") if p.is_file()]


def is_there(where: Place) -> bool:
    """Whether there is such a file or folder, or any object of this name or below."""
    if isinstance(where, ObjectPlace):
        return where.exists() or any(where.children())
    return where.exists()


def changed(where: Place) -> float | None:
    """Time of the last change of a file (s), None where it is not there."""
    try:
        if isinstance(where, ObjectPlace):
            return float(remembered(f"stat {where}", where.stat).st_mtime)
        return where.stat().st_mtime
    except FileNotFoundError:
        return None


def description(where: ObjectPlace) -> bytes:
    """Description of an array or a group in an object store."""
    data: bytes = remembered(str(where), where.read_bytes)
    return data


def remove_tree(where: Place) -> None:
    """Delete all that is below."""
    if isinstance(where, ObjectPlace):
        delete(found for found, _ in where.listed())
    else:
        shutil.rmtree(where, ignore_errors=True)


def write_whole(where: Place, data: bytes) -> None:
    """Write a file so that nobody ever sees a part of it."""
    if isinstance(where, ObjectPlace):
        where.write_bytes(data)
        return
    where.parent.mkdir(parents=True, exist_ok=True)
    partial = where.with_name(f".{where.name}.partial")
    partial.write_bytes(data)
    partial.replace(where)


@contextmanager
def as_folder(where: Place) -> Iterator[tuple[Path, Callable[[Path], Place]]]:
    """A folder on this machine for what can only write to one; it is what `where` is, or goes there at the end.

    Yields
    ------
    folder, final
        Where to write, and what says where a file of it will be.
    """
    if isinstance(where, Path):
        where.mkdir(parents=True, exist_ok=True)
        yield where, lambda path: path
        return
    with tempfile.TemporaryDirectory(prefix="skyloom-", dir=scratch_base()) as scratch:
        folder = Path(scratch)
        yield folder, lambda path: where / path.relative_to(folder).as_posix()
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            (where / path.relative_to(folder).as_posix()).put(path)


def relative(where: Place, folder: Place) -> str:
    """Way from a folder to a place."""
    return os.path.relpath(str(where), str(folder))


def resolved(folder: Place, way: str) -> Place:
    """Place that a way from a folder leads to."""
    return folder / way if isinstance(folder, ObjectPlace) else Path(os.path.normpath(folder / way))


def zarr_root(root: str) -> Any:
    """What zarr opens a hierarchy with: a path as it is, an address as a store."""
    return _zarr_store(root) if is_address(root) else root


@lru_cache(maxsize=64)
def _zarr_store(root: str) -> ZarrStore:
    from zarr.storage import ObjectStore

    class ProjectObjects(ObjectStore[Any]):
        """zarr's store on obstore, whose failures are told in our words."""

        address = root

        def with_read_only(self, read_only: bool = False) -> ProjectObjects:
            return type(self)(self.store, read_only=read_only)

        async def get(
            self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
        ) -> Buffer | None:
            with said(f"{root}/{key}"):
                if byte_range is not None or not key.endswith(DESCRIPTION):
                    return await super().get(key, prototype, byte_range)
                known = _seen.get(f"{root}/{key}")
                if known is not None and time.monotonic() - known[0] < LOOK_SECONDS:
                    return prototype.buffer.from_bytes(known[1])
                found = await super().get(key, prototype, byte_range)
                if found is not None:
                    _seen[f"{root}/{key}"] = time.monotonic(), found.to_bytes()
                return found

        async def exists(self, key: str) -> bool:
            with said(f"{root}/{key}"):
                return await super().exists(key)

        async def set(self, key: str, value: Buffer) -> None:
            with said(f"{root}/{key}"):
                await super().set(key, value)
            if key.endswith(DESCRIPTION):
                forget_seen()

        async def set_if_not_exists(self, key: str, value: Buffer) -> None:
            with said(f"{root}/{key}"):
                await super().set_if_not_exists(key, value)

        async def delete(self, key: str) -> None:
            with said(f"{root}/{key}"):
                await super().delete(key)
            if key.endswith(DESCRIPTION):
                forget_seen()

        async def delete_dir(self, prefix: str) -> None:
            with said(f"{root}/{prefix}"):
                await super().delete_dir(prefix)
            forget_seen()

        async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
            with said(f"{root}/{prefix}"):
                async for name in super().list_dir(prefix):
                    yield name

    return ProjectObjects(opened(root))


def object_root(store: ZarrStore) -> ObjectPlace | None:
    """Address of a hierarchy that zarr has open in an object store, None for any other."""
    root = getattr(store, "address", None)
    return ObjectPlace.of(root) if isinstance(root, str) else None


# A fork must not share what its parent has open.
os.register_at_fork(after_in_child=_zarr_store.cache_clear)
