"""Arrays of a project's store as sources that tasks read by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.frames import register_source

KIND = "stored"


def location(root: str, group: str) -> dict[str, str]:
    """Where a result lies, for `skyloom.ops.arrays`."""
    return {"kind": KIND, "module": __name__, "root": root, "group": group}


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
            array = zarr.open_array(self.root, path=self.path, mode="r", zarr_format=3)
            values = np.asarray(array[selection])
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
