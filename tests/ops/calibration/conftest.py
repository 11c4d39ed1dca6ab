"""Sessions made by hand: tables of frames without a file behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import xarray as xr

Row = dict[str, Any]

UNKNOWN: Row = {
    "kind": "light",
    "band": "none",
    "master": False,
    "camera": "",
    "telescope": "",
    "binning": "",
    "bayer": "",
    "night": "",
    "facts": "{}",
    "height": 100,
    "width": 200,
    "exposure": math.nan,
    "temperature": math.nan,
    "gain_setting": math.nan,
    "offset_setting": math.nan,
    "rotation": math.nan,
    "focal_length": math.nan,
}


def table(rows: Sequence[Row]) -> xr.Dataset:
    """Session of rows; what a row does not say is not known. A row's `id` makes its content."""
    full = [{**UNKNOWN, **row} for row in rows]
    columns: dict[str, Any] = {}
    for name, value in UNKNOWN.items():
        kind = np.float64 if isinstance(value, float) else (np.str_ if isinstance(value, str) else type(value))
        columns[name] = ("frame", np.array([row[name] for row in full], dtype=kind))
    names = [str(row.get("name", f"{i:04d}.fits")) for i, row in enumerate(rows)]
    columns["name"] = ("frame", np.array(names, dtype=np.str_))
    columns["source"] = ("frame", np.array(names, dtype=np.str_))
    ids = [blake2b(str(row.get("id", i)).encode(), digest_size=8).hexdigest() for i, row in enumerate(rows)]
    return xr.Dataset(columns, coords={"frame": np.array(ids, dtype=np.str_)}, attrs={"left_out": "[]"})


@pytest.fixture(scope="session")
def make_session() -> Callable[[Sequence[Row]], xr.Dataset]:
    return table
