"""What registration and normalization found of each frame, gathered and checked for the tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.errors import DataError
from skyloom.ops.integration.overlaps import SHIFT_MARGIN
from skyloom.ops.integration.weights import Weighting, frame_factors


@dataclass(frozen=True)
class Solution:
    """Per-frame results of registration and normalization, arrays over all frames of the session."""

    use: NDArray[np.bool_]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    noise: NDArray[np.float64]
    confidence: NDArray[np.float64]
    factor: NDArray[np.float64]
    """What weights are, or what 1 / noise² is multiplied with."""


def mean_scale(scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the frame of a record of scales, (…, node_y, node_x) → (…,)."""
    mean = surface.basis(np.linspace(0.0, 1.0, 33)).mean(axis=0)
    return np.asarray(np.abs(mean @ scale @ mean))


@dataclass(frozen=True)
class Names:
    """Names of frames or measures; in a class of its own, which dask does not search for keys."""

    names: tuple[str, ...]


def gather(
    names: Names,
    weighting: Weighting,
    rule: str,
    needs_noise: bool,
    registered: NDArray[np.bool_],
    shift: NDArray[np.float64],
    normalized: NDArray[np.bool_],
    scale: NDArray[np.float64],
    offset: NDArray[np.float64],
    noise: NDArray[np.float64],
    confidence: NDArray[np.float64],
    measured: Names,
    *measures: NDArray[np.float64],
) -> Solution:
    """Put the solution together.

    Raises
    ------
    DataError
        For a frame in use that is shifted too far, or lacks its noise, normalization or weight.
    """
    use = np.asarray(registered, dtype=bool) & np.asarray(normalized, dtype=bool)
    for index in np.flatnonzero(use):
        name = names.names[index]
        distance = float(np.hypot(*shift[index]))
        if not distance <= SHIFT_MARGIN:
            raise DataError(
                f"integrate: {name} is shifted by {distance:.1f} px, more than the {SHIFT_MARGIN:.0f} px allowed: "
                "correct its WCS or leave the frame out"
            )
        if needs_noise and not (np.isfinite(noise[index]) and noise[index] > 0):
            raise DataError(
                f"integrate: {name} has no noise estimate ({noise[index]}): leave the frame out, or use "
                "weighting none and rejection none"
            )
        if not all(np.isfinite(field[index]).all() for field in (scale, offset, confidence)):
            raise DataError(f"integrate: the normalization of {name} is not finite: leave the frame out")
    known = {n: np.asarray(v, dtype=np.float64) for n, v in zip(measured.names, measures, strict=True)}
    factor = frame_factors(weighting, rule, known, mean_scale(np.asarray(scale)), use, names.names)
    return Solution(
        use, np.asarray(shift), np.asarray(scale), np.asarray(offset), np.asarray(noise),
        np.asarray(confidence), factor,
    )  # fmt: skip
