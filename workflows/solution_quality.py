"""What became of a solution that was to be kept, in a few lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from skyloom.ops.held import decides

_OPS = {"locate": "placed", "register": "placed", "normalize": "solved"}


def solution_lines(results: Mapping[str, xr.Dataset]) -> list[str]:
    """How many frames stayed as they were, and how well new ones fit; nothing where all was solved together.

    Parameters
    ----------
    results
        Op → its result.
    """
    lines = []
    for op, solved in _OPS.items():
        made = json.loads(results[op].attrs.get("provenance", "[]")) if op in results else []
        if not made or " " not in str(made[-1]["parameters"].get("solution", "")):
            continue
        node, kept = made[-1]["node"], results[op]["kept"].values.astype(bool)
        if not kept.any():
            lines.append(f"{node}: no frame is as it was before: all {kept.size} were {solved} anew")
            continue
        lines.append(f"{node}: {kept.sum()} frames as they were before, {(~kept).sum()} {solved} now")
        if op == "normalize":
            lines.extend(_departures(node, results[op], made[-1]["parameters"]))
    return lines


def _departures(node: str, result: xr.Dataset, parameters: Mapping[str, Any]) -> list[str]:
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
