"""Lines of JSON that are only ever added to: a file, or numbered objects where a store cannot append."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from skyloom.ops.errors import SkyloomError
from skyloom.workflows.places import AT_A_TIME, ObjectPlace, Place, Taken, delete

BATCH_SECONDS = 3.0
"""Lines for an object store are kept back so long; as many a killed run loses."""
JOINED = 8
"""Objects that are left as they are; more are joined when a node or a run is through."""
_DIGITS = 8

Entries = Iterable[dict[str, Any]]


class Lines(Protocol):
    """Lines of JSON."""

    def read(self) -> bytes:
        """All of them, b"" where there are none."""

    def append(self, entries: Entries, *, durable: bool) -> None:
        """Add some; durable: see them to the disk, or to the store within `BATCH_SECONDS`."""

    def flush(self) -> None:
        """See to it that what was appended is kept."""

    def remove(self) -> None:
        """Forget all."""

    def size(self) -> int:
        """Bytes."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See to it that what is appended inside is kept, whatever ends it."""


def lines_of(path: Place) -> Lines:
    """Lines that lie at a place."""
    return ObjectLines(path) if isinstance(path, ObjectPlace) else FileLines(path)


class FileLines:
    """Lines of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> bytes:
        """All of them."""
        return self.path.read_bytes() if self.path.exists() else b""

    def append(self, entries: Entries, *, durable: bool) -> None:
        """Add some (see `append_lines`)."""
        append_lines(self.path, entries, durable=durable)

    def flush(self) -> None:
        """Nothing: they are in the file."""

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def size(self) -> int:
        """Bytes of the file."""
        return self.path.stat().st_size if self.path.exists() else 0

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Nothing: they are in the file."""
        yield


class ObjectLines:
    """Lines in objects 00000001, 00000002, … below a place. One process at a time writes them."""

    def __init__(self, place: ObjectPlace) -> None:
        self.place = place
        self._waiting: list[bytes] = []
        self._flushed = time.monotonic()
        self._number: int | None = None

    def _parts(self) -> list[ObjectPlace]:
        return [found for found, _ in self.place.listed()]

    def read(self) -> bytes:
        """All lines, those that wait among them."""
        parts = self._parts()
        if len(parts) > 1:
            with ThreadPoolExecutor(AT_A_TIME) as pool:
                texts = list(pool.map(ObjectPlace.read_bytes, parts))
        else:
            texts = [part.read_bytes() for part in parts]
        return b"".join([*texts, *self._waiting])

    def append(self, entries: Entries, *, durable: bool) -> None:
        """Add some, which are written with the next batch."""
        del durable
        self._waiting += [json.dumps(entry).encode() + b"\n" for entry in entries]
        if time.monotonic() - self._flushed > BATCH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one object."""
        if not self._waiting:
            return
        if self._number is None:
            self._number = max((int(p.name) for p in self._parts() if p.name.isdecimal()), default=0)
        lines = b"".join(self._waiting)
        while True:
            self._number += 1
            try:
                (self.place / f"{self._number:0{_DIGITS}d}").put(lines, over=None)
                break
            except Taken:
                continue
        self._waiting.clear()
        self._flushed = time.monotonic()

    def remove(self) -> None:
        """Delete all objects."""
        self._waiting.clear()
        delete(self._parts())

    def size(self) -> int:
        """Bytes of the objects."""
        return sum(state.st_size for _, state in self.place.listed())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write what waits at the end, and make few objects of many."""
        try:
            yield
        except BaseException:
            # What ended it may be that the store is gone, and is what is to be told.
            with suppress(SkyloomError):
                self.flush()
            raise
        self.flush()
        self._join()

    def _join(self) -> None:
        """Put all lines into one object behind the others, then delete those: read twice they say the same."""
        parts = self._parts()
        if len(parts) > JOINED:
            self._waiting = [self.read()]
            self.flush()
            delete(parts)


def append_lines(path: Path, entries: Entries, *, durable: bool) -> None:
    """Append entries to a file as lines of JSON.

    They start with a newline if a crash tore the last line, so that only the torn line is lost.

    Parameters
    ----------
    path
        File; made with its folder if it is not there.
    entries
        What to add.
    durable
        See them to the disk before this returns.
    """
    lines = b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        lead = b""
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            lead = b"" if file.read(1) == b"\n" else b"\n"
        file.write(lead + lines)
        file.flush()
        if durable:
            os.fsync(file.fileno())
