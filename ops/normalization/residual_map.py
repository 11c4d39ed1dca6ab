"""Where on the canvas frames disagree, before and after: a coarse map of overlap residuals."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.observations import Floats, Observations, Singles

CELLS = 96
"""Cells of the map along the longer side of the canvas."""
STAGES = ("before", "after")
_TO_SIGMA = math.sqrt(math.pi / 2.0)


def map_step(canvas: tuple[int, int]) -> float:
    """Side of a cell of the map (canvas pixels)."""
    return max(max(canvas) / CELLS, 1.0)


def map_shape(canvas: tuple[int, int]) -> tuple[int, int]:
    """Cells in y and x."""
    rows, columns = (max(math.ceil(n / map_step(canvas)), 1) for n in canvas)
    return rows, columns


def residual_map(
    seen: Observations, placement: Floats, weight: Singles, before: Floats, after: Floats, canvas: tuple[int, int]
) -> NDArray[np.float32]:
    """Typical distance of samples to the mean of the other frames, over cells of the canvas.

    Parameters
    ----------
    seen, weight
        Samples and what they count for in the mean.
    placement
        (frames, 2, 3): canvas x, y of a frame's (u, v, 1).
    before, after
        Samples as they are and less their backgrounds.
    canvas
        Rows and columns (pixels).

    Returns
    -------
    ndarray
        (stage, y, x): mean |distance| × √(π/2), which is the rms of normal errors but lets single samples
        stand out less; NaN where nothing overlaps.
    """
    rows, columns = map_shape(canvas)
    step = map_step(canvas)
    out = np.full((len(STAGES), rows * columns), np.nan, dtype=np.float32)
    if not len(seen.point) or len(seen.u) != len(seen.point):
        return out.reshape(-1, rows, columns)
    nothing = np.zeros((seen.frames, 1))
    flat = Observations(seen.start, seen.point, seen.u, seen.v, 0, seen.points)
    system = System(flat, weight, nothing)
    # Frame by frame: the solve's memory is that of few numbers a sample.
    for stage, value in enumerate((before, after)):
        rest = system.residual(value, nothing)
        total, count = np.zeros((2, rows * columns))
        for f in np.flatnonzero(seen.count):
            here = slice(seen.start[f], seen.start[f + 1])
            share = weight[here] * system.inverse_depth[seen.point[here]]
            place = np.stack([seen.u[here], seen.v[here], np.ones(here.stop - here.start)])
            x, y = np.floor((placement[f] @ place + 0.5) / step).astype(np.int64)
            cell = np.clip(y, 0, rows - 1) * columns + np.clip(x, 0, columns - 1)
            np.add.at(total, cell, np.abs(rest[here]) / np.maximum(1.0 - share, 1e-6))
            np.add.at(count, cell, 1.0)
        out[stage, count > 0] = _TO_SIGMA * total[count > 0] / count[count > 0]
    return out.reshape(-1, rows, columns)
