"""Arrays of results as sources: a task names the master it needs instead of carrying it.

A result that lies in a store says where (`dataset.encoding["location"]`, a JSON object with "kind" and "module"
that `open_source` understands); its arrays are read by window from there, in any process. A result that has not
been computed is kept in this process under the name of its dask array, and a window computes what it needs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.local import get_sync
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.frames import FrameSource, open_source, register_source

LOCATION = "location"
"""Key of `Dataset.encoding` under which a store says where a result lies."""

_lazy: dict[str, Any] = {}


def array_spec(dataset: xr.Dataset, variable: str, **index: int) -> str:
    """Text `open_source` opens one two-dimensional (or single) array of a result from.

    Parameters
    ----------
    dataset
        A result: from a store, or lazy.
    variable
        Name of the array.
    **index
        Position along every dimension but the last two (or along all of them, for one number).

    Returns
    -------
    str
        For `open_source(spec).read(rows, columns)`, or for `read_number(spec)`.

    Raises
    ------
    DataError
        If the result has no such variable or what is left has neither two dimensions nor none.
    """
    if variable not in dataset:
        raise DataError(f"the result has no {variable!r}; there is: {', '.join(map(str, dataset.data_vars))}")
    item = dataset[variable]
    left = [d for d in item.dims if d not in index]
    if len(left) not in (0, 2):
        raise DataError(f"{variable!r} is over {', '.join(map(str, left))}; an image is over two dimensions")
    location = dataset.encoding.get(LOCATION)
    if location is not None:
        where = tuple(index.get(str(d), -1) for d in item.dims)
        return array_fields(location, variable, where, tuple(item.sizes[d] for d in left))
    data = item.isel(index).data
    name = data.name if isinstance(data, da.Array) else tokenize(np.asarray(data))
    _lazy[name] = data
    fields = {"kind": "lazy", "module": __name__, "name": name}
    return json.dumps(fields, separators=(",", ":"))


def array_fields(
    location: Mapping[str, str], variable: str, index: tuple[int, ...], shape: tuple[int, ...]
) -> str:
    """Spec of a stored array: where its result lies, its name, its place (-1 = a dimension of the image)."""
    return json.dumps({**location, "variable": variable, "index": index, "shape": shape}, separators=(",", ":"))


def read_number(spec: str) -> float:
    """Value of a spec of a single number."""
    source = open_source(spec)
    return float(source.read(slice(0, 1), slice(0, 1))[0, 0])


@dataclass(frozen=True)
class LazyArray:
    """A dask (or numpy) array of this process as a source; what windows need is computed when they are read."""

    name: str
    array: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns; a single number is 1 × 1."""
        shape = self.array.shape or (1, 1)
        return int(shape[0]), int(shape[1])

    @property
    def windowed(self) -> bool:
        """True: only the blocks of a window are computed."""
        return True

    def read(self, rows: slice, columns: slice) -> NDArray[np.float32]:
        """Pixels of a window (see `FrameSource.read`)."""
        window = self.array.reshape(1, 1) if not self.array.shape else self.array[rows, columns]
        # This runs inside a task: parallelism comes from tasks.
        values = window.compute(scheduler=get_sync) if hasattr(window, "compute") else window
        return np.array(values, dtype=np.float32, order="C")


_gate = threading.Lock()


def _open_lazy(fields: dict[str, Any]) -> FrameSource:
    name = str(fields.get("name"))
    with _gate:
        array = _lazy.get(name)
    if array is None:
        raise DataError(
            f"the array {name!r} is not computed and lives in another process; run the nodes before this one first"
        )
    return LazyArray(name, array)


register_source("lazy", _open_lazy)
