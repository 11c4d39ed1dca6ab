"""Arrays of a project's store as sources that tasks read by window."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from skyloom.ops.errors import DataError, SkyloomError
from skyloom.ops.frames import register_source
from skyloom.ops.objects import is_address
from skyloom.workflows.places import ObjectPlace, Place, description, place, zarr_root
from skyloom.workflows.shards import read_window, shards_of

KIND = "stored"


class DamagedResult(SkyloomError, ValueError):
    """Part of the store is not what was written there. No op takes it for a frame that cannot be read."""

    exit_code = 3

    def __init__(self, root: str, path: str, reason: str) -> None:
        super().__init__(
            f"{root}: {path} is damaged ({reason}); run the workflow again, what is damaged is computed again"
        )
        self.root, self.path, self.reason = root, path, reason

    def __reduce__(self) -> tuple[type[DamagedResult], tuple[str, str, str]]:
        # The default would call __init__ with the one joined message; workers send errors pickled.
        return (DamagedResult, (self.root, self.path, self.reason))

    @property
    def node(self) -> str:
        """Whose result it is."""
        return self.path.split("/")[0]

    @property
    def key(self) -> str:
        """Key of that result."""
        return self.path.split("/")[1]


@contextmanager
def damage(root: str, path: str) -> Iterator[None]:
    """What a codec says of a chunk that is torn or has rotted, as an error that says where."""
    try:
        yield
    except (ValueError, RuntimeError, TypeError, IndexError, OverflowError) as failure:
        if isinstance(failure, SkyloomError):
            raise
        raise DamagedResult(root, path, " ".join(str(failure).split())[:200]) from failure


def location(root: str, group: str) -> dict[str, str]:
    """Where a result lies, for `skyloom.ops.arrays`."""
    return {"kind": KIND, "module": __name__, "root": root, "group": group}


def stored_array(root: str, path: str) -> zarr.Array[Any]:
    """Array of a zarr hierarchy, opened once a process and state of its metadata.

    Raises
    ------
    OSError
        If it is not there: an open array would go on and read what is gone as fill value.
    """
    if is_address(root):
        return _opened(root, path, description(ObjectPlace.of(root) / path / "zarr.json"))
    state = Path(root, path, "zarr.json").stat()
    return _opened(root, path, (state.st_mtime_ns, state.st_ino, state.st_size))


@lru_cache(maxsize=1024)
def _opened(root: str, path: str, state: Hashable) -> zarr.Array[Any]:
    array = zarr.open_array(zarr_root(root), path=path, mode="r", zarr_format=3)
    return array


# A fork must not share what its parent has open.
os.register_at_fork(after_in_child=_opened.cache_clear)


@dataclass(frozen=True)
class StoredSource:
    """Two dimensions of an array in a zarr hierarchy."""

    root: str
    path: str
    index: tuple[int, ...]
    """Position along each dimension; -1 = a dimension of the image."""
    shape: tuple[int, int]

    @property
    def windowed(self) -> bool:
        """True: only the chunks of a window are decoded."""
        return True

    @property
    def chunk(self) -> int:
        """Pixels a side that are decoded at least."""
        return max(self._array().chunks[-2:])

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window (see `FrameSource.read`)."""
        return np.ascontiguousarray(self.values(rows, columns), dtype=np.float32)

    def values(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Pixels of a window in the array's own type; what was never written is the fill value.

        Raises
        ------
        DataError
            If the array is not there.
        DamagedResult
            If what is stored is damaged.
        """
        array = self._array()
        try:
            with damage(self.root, self.path):
                values = read_window(array, self._window(rows, columns))
        except (OSError, KeyError) as failure:
            raise self._unreadable(failure) from failure
        return values if values.shape else values.reshape(1, 1)

    def files(self, rows: slice, columns: slice) -> list[Place]:
        """Files that a window is read from, whether they are there or not."""
        array = self._array()
        folder = place(self.root) / self.path
        return [folder / array.metadata.encode_chunk_key(p) for p in shards_of(array, self._window(rows, columns))]

    def _window(self, rows: slice, columns: slice) -> tuple[slice | int, ...]:
        window = iter((rows, columns))
        return tuple(next(window) if i < 0 else i for i in self.index)

    def _array(self) -> zarr.Array[Any]:
        try:
            with damage(self.root, self.path):
                return stored_array(self.root, self.path)
        except (OSError, KeyError) as failure:
            raise self._unreadable(failure) from failure

    def _unreadable(self, failure: Exception) -> DataError:
        return DataError(f"{self.root}: {self.path} cannot be read ({failure}); run again")


def _open(fields: dict[str, Any]) -> StoredSource:
    try:
        shape = fields["shape"] or (1, 1)
        return StoredSource(
            root=str(fields["root"]),
            path=f"{fields['group']}/{fields['variable']}".strip("/"),
            index=tuple(int(i) for i in fields["index"]),
            shape=(int(shape[0]), int(shape[1])),
        )
    except (KeyError, TypeError, ValueError, IndexError) as wrong:
        raise DataError(f"not the source of a stored array ({wrong})") from wrong


register_source(KIND, _open)
