"""Frames in object stores: their pixels are read from copies on this machine, each fetched once and kept a while.

A window of a frame is a part of many rows: ranges of an object that hold them would be as much as the frame, again
for every tile. So a frame is fetched whole when its first pixels are asked for, into a folder that all processes
of the machine share and whose size is bounded; the copies that were used longest ago go first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import CapacityError, DataError
from skyloom.ops.formats.frame_file import FrameFile, UnusableFile
from skyloom.ops.frames import FrameSource, open_source, register_source
from skyloom.ops.objects import ObjectPath, is_address, said, scratch_base, state_of

KIND = "fetched"
SCRATCH, SCRATCH_GIB = "SKYLOOM_SCRATCH", "SKYLOOM_SCRATCH_GIB"
"""Environment: folder of the copies, and how much they may take (half of what is free)."""
PIECE = 2**23
_ATTEMPTS = 3
_LOCKS = 64


@dataclass(frozen=True)
class FetchedSource:
    """A frame of a file in an object store."""

    path: str
    """Address."""
    size: int
    mtime_ns: int
    fields: str
    """Spec of the source that reads the file where it is a path."""

    @cached_property
    def _source(self) -> FrameSource:
        return open_source(self.fields)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns (pixels)."""
        return self._source.shape

    @property
    def windowed(self) -> bool:
        """Whether a window is read without decoding the whole frame, once the file is here."""
        return self._source.windowed

    def spec(self) -> str:
        """Text `open_source` makes this source from."""
        place = {"path": self.path, "size": self.size, "mtime_ns": self.mtime_ns}
        fields = {"kind": KIND, "module": __name__, **place, "file": json.loads(self.fields)}
        return json.dumps(fields, separators=(",", ":"))

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window (see `FrameSource.read`)."""
        fields = json.loads(self.fields)
        for attempt in range(_ATTEMPTS):
            copy = local_copy(self.path, self.size, self.mtime_ns)
            # Another name is another source: only that of the copy is cached.
            here = json.dumps({**fields, "path": str(copy)}, separators=(",", ":"))
            try:
                return open_source(here).read(rows, columns)
            except UnusableFile as problem:
                # It may have made room for another one since.
                if copy.exists() or attempt == _ATTEMPTS - 1:
                    raise UnusableFile(self.path, problem.reason) from None
        raise AssertionError("not reached")


def examine_object(path: str, examine: Callable[[str], list[FrameFile]], *, by_range: bool) -> list[FrameFile]:
    """Frames of an object, by what reads files.

    Parameters
    ----------
    path
        Address.
    examine
        Makes frames of a path; where `by_range`, also of an address.
    by_range
        Whether a few short reads tell; else the whole file is fetched first.
    """
    if by_range:
        found = examine(path)
    else:
        try:
            state = ObjectPath.of(path).stat()
            copy = local_copy(path, state.st_size, state.st_mtime_ns)
            found = examine(str(copy))
        except FileNotFoundError as failure:
            raise UnusableFile(path, f"cannot be read: {failure.strerror}") from None
        except UnusableFile as problem:
            raise UnusableFile(path, problem.reason) from None
    return [replace(frame, source=_fetched(path, json.loads(frame.source.spec()))) for frame in found]


def _fetched(path: str, fields: dict[str, Any]) -> FetchedSource:
    place = {"path": path, "size": int(fields["size"]), "mtime_ns": int(fields["mtime_ns"])}
    return FetchedSource(**place, fields=json.dumps({**fields, "path": path}, separators=(",", ":")))  # type: ignore[arg-type]


@contextmanager
def on_disk(path: str) -> Iterator[str]:
    """Path of a file, or of the copy of an object, for what reads nothing else."""
    if not is_address(path):
        yield path
        return
    state = ObjectPath.of(path).stat()
    yield str(local_copy(path, state.st_size, state.st_mtime_ns))


def local_copy(address: str, size: int, mtime_ns: int) -> Path:
    """Copy of an object on this machine, fetched if it is not there.

    Raises
    ------
    UnusableFile
        If the object is gone, or not that of this size and time.
    CapacityError
        If the store does not answer, or there is no room for the copy.
    """
    folder = scratch_folder()
    copy = folder / _name(address, size, mtime_ns)
    if _used(copy, mtime_ns):
        return copy
    lock = folder / f".lock-{int(copy.name.partition('.')[0], 16) % _LOCKS}"
    try:
        with lock.open("w") as file:
            # Threads and processes that want the same frame wait for the first of them.
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _used(copy, mtime_ns):
                _fetch(address, size, mtime_ns, copy)
                _make_room(folder, copy)
    except OSError as failure:
        raise CapacityError(
            f"{address}: cannot be fetched to {folder} ({failure.strerror or failure}); name another folder with "
            f"{SCRATCH}, or let it take less with {SCRATCH_GIB}"
        ) from failure
    return copy


def kept_copy(address: str, size: int, mtime_ns: int) -> Path | None:
    """Copy of an object, if there is one on this machine that may be used."""
    with suppress(OSError, CapacityError):
        copy = scratch_folder() / _name(address, size, mtime_ns)
        if _used(copy, mtime_ns):
            return copy
    return None


def _name(address: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.blake2b(f"{address} {size} {mtime_ns}".encode(), digest_size=12).hexdigest()
    return f"{digest}{ObjectPath.of(address).suffix}"


def scratch_folder() -> Path:
    """Folder of the copies, this user's own."""
    given = os.environ.get(SCRATCH)
    folder = Path(given) if given else scratch_base() / f"skyloom-frames-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not given and folder.stat().st_uid != os.getuid():
        raise CapacityError(f"{folder} belongs to another user; name a folder with {SCRATCH}")
    return folder


def _used(copy: Path, mtime_ns: int) -> bool:
    """Whether a copy is there; it counts as used now."""
    try:
        # Its time of change is that of the object, by which its readers know it.
        os.utime(copy, ns=(time.time_ns(), mtime_ns))
    except FileNotFoundError:
        return False
    return True


def _fetch(address: str, size: int, mtime_ns: int, copy: Path) -> None:
    import obstore

    where = ObjectPath.of(address)
    partial = copy.with_name(f".{copy.name}.{os.getpid()}.partial")
    try:
        with said(where):
            found = obstore.get(where.store, where.key)
            state = state_of(found.meta)
            if (state.st_size, state.st_mtime_ns) != (size, mtime_ns):
                raise UnusableFile(address, "changed since it was ingested (it was written again); run again")
            with partial.open("wb") as file:
                for piece in found.stream(min_chunk_size=PIECE):
                    file.write(piece)
        os.utime(partial, ns=(time.time_ns(), mtime_ns))
        partial.replace(copy)
    except FileNotFoundError:
        raise UnusableFile(address, "cannot be read: no such object") from None
    finally:
        partial.unlink(missing_ok=True)


def _make_room(folder: Path, newest: Path) -> None:
    """Delete the copies that were used longest ago until the others keep within the bound."""
    there = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if not path.name.startswith("."):
                state = path.stat()
                there.append((state.st_atime_ns, state.st_size, path))
    taken = sum(size for _, size, _ in there)
    try:
        bound = float(os.environ[SCRATCH_GIB]) * 2**30
    except (KeyError, ValueError):
        bound = (shutil.disk_usage(folder).free + taken) / 2
    for _, size, path in sorted(there):
        if taken <= bound:
            return
        if path != newest:
            path.unlink(missing_ok=True)
            taken -= size


def _open(fields: dict[str, Any]) -> FetchedSource:
    try:
        return FetchedSource(
            str(fields["path"]),
            int(fields["size"]),
            int(fields["mtime_ns"]),
            json.dumps(fields["file"], separators=(",", ":")),
        )
    except (KeyError, TypeError, ValueError) as wrong:
        raise DataError(f"not the source of a frame in a store ({wrong}); make it with `ingest`") from wrong


register_source(KIND, _open)
