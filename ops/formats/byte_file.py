"""A file of frames as bytes at places: a file of this machine, or an object of a store read by ranges.

What headers, and samples of the data, are read through. Pixels of an object are read from a copy on this machine
(`skyloom.ops.formats.fetched`).
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from skyloom.ops.formats.fetched import kept_copy
from skyloom.ops.objects import ObjectPath, ObjectState, is_address

AHEAD = 2**16
"""Bytes that are read at least: the headers of most frames in one request."""
NEAR = 2**12
"""Ranges no further apart are read with one request."""

_here = threading.local()


class _Ranges:
    """What has been read of an object."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.path = ObjectPath.of(address)
        start, self.state = self.path.read_start(AHEAD)
        self._blocks = [(0, start)]

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from an offset; fewer at the end."""
        stop = min(offset + count, self.state.st_size)
        if stop <= offset:
            return b""
        for first, block in self._blocks:
            if first <= offset and stop <= first + len(block):
                return block[offset - first : stop - first]
        end = min(max(stop, offset + AHEAD), self.state.st_size)
        (block,) = self.path.read_ranges([offset], [end], near=0)
        # The head is looked at again and again, of the rest what was read last.
        self._blocks[1:] = [(offset, block)]
        return block[: stop - offset]


class ObjectFile(io.RawIOBase):
    """An object, read like a file that is open."""

    def __init__(self, ranges: _Ranges) -> None:
        self._ranges = ranges
        self._at = 0

    @property
    def state(self) -> ObjectState:
        """Size and time of the object."""
        return self._ranges.state

    def pread(self, count: int, offset: int) -> bytes:
        """Up to `count` bytes from an offset."""
        return self._ranges.read(offset, count)

    def parts(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Bytes at several (offset, count), asked for at a time, or read from a copy on this machine."""
        size = self.state.st_size
        if copy := kept_copy(self._ranges.address, size, self.state.st_mtime_ns):
            # It may have made room for another one since.
            with suppress(OSError), copy.open("rb") as file:
                return [os.pread(file.fileno(), count, offset) for offset, count in places]
        whole = [(min(a, size), min(a + n, size)) for a, n in places]
        asked = [(a, b) for a, b in whole if b > a]
        found = iter(self._ranges.path.read_ranges(*zip(*asked, strict=True), near=NEAR) if asked else [])
        return [next(found) if b > a else b"" for a, b in whole]

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.state.st_size}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        with memoryview(buffer).cast("B") as view:
            data = self.pread(len(view), self._at)
            view[: len(data)] = data
        self._at += len(data)
        return len(data)


@contextmanager
def one_look(address: str) -> Iterator[None]:
    """Inside, this thread opens an object again and again and asks for its beginning once."""
    _here.ranges = _Ranges(address)
    try:
        yield
    finally:
        _here.ranges = None


def open_file(path: str) -> Any:
    """Open a file or an object for reading.

    Raises
    ------
    OSError
        If it is not there.
    """
    if not is_address(path):
        return Path(path).open("rb")
    known = getattr(_here, "ranges", None)
    return ObjectFile(known if known is not None and known.address == path else _Ranges(path))


def facts_of(file: Any) -> Any:
    """Size (`st_size`, bytes) and time of the last change (`st_mtime_ns`) of an open file."""
    return file.state if isinstance(file, ObjectFile) else os.fstat(file.fileno())


def pread(file: Any, count: int, offset: int) -> bytes:
    """Up to `count` bytes of an open file from an offset."""
    return file.pread(count, offset) if isinstance(file, ObjectFile) else os.pread(file.fileno(), count, offset)


def full_name(path: str | Path) -> str:
    """Absolute path, or the address."""
    return str(path) if is_address(path) else str(Path(path).absolute())
