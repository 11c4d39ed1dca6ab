"""What became of a solution that was to be kept, in a few lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from skyloom.ops.held import decides
from skyloom.workflows.store import Store

_OPS = {"locate": "placed", "register": "placed", "normalize": "solved"}


def solution_lines(store: Store) -> list[str]:
    """How many frames stayed as they were, and how well new ones fit; nothing where all was solved together."""
    lines = []
    for node in store.nodes():
        op, key = store.op(node), store.newest(node)
        meta = store.meta(node, key) if key else None
        if op not in _OPS or meta is None or " " not in str(meta["parameters"].get("solution", "")):
            continue
        result = store.open(node, key)
        kept = result["kept"].values.astype(bool)
        if not kept.any():
            lines.append(f"{node}: no frame is as it was before: all {kept.size} were {_OPS[op]} anew")
            continue
        lines.append(f"{node}: {kept.sum()} frames as they were before, {(~kept).sum()} {_OPS[op]} now")
        if op == "normalize":
            lines.extend(_departures(node, result, meta["parameters"]))
    return lines


def _departures(node: str, result: xr.Dataset, parameters: dict[str, Any]) -> list[str]:
    limit, lines = float(parameters["solution_tolerance"]), []
    for band in result["band"].values.tolist():
        change = float(result["solution_change"].sel(band=band).values)
        if not np.isfinite(change):
            continue
        by = f"by up to {change:.2g} of the pixel noise" if change > 0 else "by no more than their errors"
        text = f"{node}: {band}: new frames differ from the sky kept {by}"
        if change > limit:
            text += f", more than {limit:.2g}: "
            text += "all were solved anew" if decides(parameters["solution"]) else "solution = new solves all anew"
        lines.append(text)
    return lines
