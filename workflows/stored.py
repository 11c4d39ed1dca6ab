"""Arrays of a project's store as sources that tasks read by window."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.frames import register_source
from skyloom.workflows.shards import read_window

KIND = "stored"


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
    state = Path(root, path, "zarr.json").stat()
    return _opened(root, path, (state.st_mtime_ns, state.st_ino, state.st_size))


@lru_cache(maxsize=1024)
def _opened(root: str, path: str, state: tuple[int, int, int]) -> zarr.Array[Any]:
    array = zarr.open_array(root, path=path, mode="r", zarr_format=3)
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

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window (see `FrameSource.read`)."""
        window = iter((rows, columns))
        selection = tuple(next(window) if i < 0 else i for i in self.index)
        try:
            values = read_window(stored_array(self.root, self.path), selection)
        except (OSError, KeyError, ValueError, RuntimeError) as failure:
            raise DataError(f"{self.root}: {self.path} cannot be read ({failure}); run again") from failure
        return np.array(values.reshape(1, 1) if not values.shape else values, dtype=np.float32, order="C")


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
