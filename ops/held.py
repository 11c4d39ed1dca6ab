"""Frames that an earlier solution knows: which they are, so that what was found of them can stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.unit_keys import digest

NEW, KEEP, AUTO = "new", "keep", "auto"
"""Values of the parameter `solution`; else a project whose solution is held."""
BASIS = "basis"
"""Variable of a solution: hash of what it found for each frame rests on, beside the other frames."""


def bases(*columns: Sequence[Any] | NDArray[Any]) -> NDArray[np.str_]:
    """Hash of each row of some columns of equal length.

    Parameters
    ----------
    *columns
        (frame, …) each.
    """
    rows = zip(*columns, strict=True)
    return np.array([digest(*(np.asarray(v) for v in row)) for row in rows], dtype="<U16")


def rows_before(basis: NDArray[np.str_], earlier: NDArray[np.str_]) -> NDArray[np.int64]:
    """Row of each frame in the earlier solution, -1 where that does not know it as it is now."""
    known = {text: row for row, text in enumerate(np.asarray(earlier).astype(str).tolist()) if text}
    return np.array([known.get(text, -1) for text in np.asarray(basis).astype(str).tolist()], dtype=np.int64)


def decides(solution: str) -> bool:
    """Whether the solution may be left where new frames would change it too much."""
    return solution.split(" ")[0] == AUTO


def known_frames(session: xr.Dataset, earlier: xr.Dataset) -> NDArray[np.bool_]:
    """Frames whose content an earlier solution has seen, from the tables alone."""
    return np.isin(session["frame"].values.astype(str), earlier["frame"].values.astype(str))
