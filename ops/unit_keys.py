"""Keys of units: what one unit of a result depends on, so that it can be taken over from an earlier result."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.arrays import LOCATION
from skyloom.ops.errors import NotYetKnown


def digest(*parts: Any) -> str:
    """Hash of plain values, texts and arrays, in their order.

    Parameters
    ----------
    *parts
        Arrays (their bytes, shape and dtype count), dataclasses and plain values (their `repr` counts: 1 and 1.0
        differ, NaN equals NaN).

    Returns
    -------
    str
        16 hexadecimal digits.
    """
    whole = blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
            text = f"{part.dtype.str}{part.shape}".encode() + np.ascontiguousarray(part).tobytes()
        else:
            text = repr(part.tolist() if isinstance(part, np.ndarray | np.generic) else part).encode()
        # The length in front: ("ab", "c") is not ("a", "bc").
        whole.update(len(text).to_bytes(8, "big"))
        whole.update(text)
    return whole.hexdigest()


def known(dataset: xr.Dataset, *names: str) -> tuple[NDArray[Any], ...]:
    """Values of variables that are in memory or in the store; nothing is computed for a key.

    Raises
    ------
    NotYetKnown
        If one of them would have to be computed first.
    """
    for name in names:
        if dataset[name].chunks is not None and LOCATION not in dataset.encoding:
            raise NotYetKnown(f"{name} is not computed yet")
    return tuple(np.asarray(dataset[name].values) for name in names)


def made_by(dataset: xr.Dataset | None, *ops: str) -> list[Any]:
    """How a result was made: op, version and parameters of itself and what it was made from.

    Parameters
    ----------
    dataset
        A result as the runner signs it.
    *ops
        Only these ops count; all when none is named.
    """
    entries = json.loads(dataset.attrs.get("provenance", "[]")) if dataset is not None else []
    return [[e.get("op"), e.get("version"), e.get("parameters")] for e in entries if not ops or e.get("op") in ops]
