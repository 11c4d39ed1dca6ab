"""The result of `normalize`: one row a frame, filled in band by band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.normalization.bands import BandSolution
from skyloom.ops.normalization.observations import Floats, Ints

NO_ISLAND = -1
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "scale": ("frame", "node_y", "node_x"),
    "offset": ("frame", "node_y", "node_x"),
    "prior_sigma": ("band", "term_order"),
    "noise_scale": ("band",),
}
"""Of the variables that are not over `frame` alone."""
UNDEFINED = "its background came out undefined: its WCS does not reach all of the frame"

Result = dict[str, NDArray[Any]]


def left_alone(
    frames: int, bands: int, order: int, *, noise: Floats, use: NDArray[np.bool_], reason: NDArray[np.str_]
) -> Result:
    """Return scale 1 and offset 0 everywhere, nothing known.

    Parameters
    ----------
    frames, bands, order
        How many, and the degree of the surfaces.
    noise, use, reason
        (frame,) of the pixels; whether a frame is used; if not, why.
    """
    nodes = surface.NODES + 2
    return {
        "scale": np.ones((frames, nodes, nodes)),
        "offset": np.zeros((frames, nodes, nodes)),
        "noise": np.asarray(noise, dtype=np.float64).copy(),
        "use": use.copy(),
        "reason": np.asarray(reason, dtype="<U200").copy(),
        "island": np.full(frames, NO_ISLAND, dtype=np.int64),
        "mean_scale": np.ones(frames),
        "scale_error": np.full(frames, np.nan),
        "stars": np.zeros(frames, dtype=np.int64),
        "residual_before": np.full(frames, np.nan),
        "residual_after": np.full(frames, np.nan),
        "rejected": np.zeros(frames),
        "inflation": np.ones(frames),
        "prior_sigma": np.full((bands, order + 1), np.nan),
        "noise_scale": np.full(bands, np.nan),
    }


def fill_in(out: Result, solutions: Sequence[BandSolution]) -> Result:
    """Write the solutions of all bands, in their order, into a result of `left_alone`; islands are numbered on."""
    islands = 0
    for number, solution in enumerate(solutions):
        scales, surfaces, frame = solution.scales, solution.surfaces, solution.scales.frame
        for row, why in scales.left_out.items():
            out["use"][row] = False
            out["reason"][row] = why
        out["mean_scale"][frame] = scales.scale
        out["scale_error"][frame] = scales.scale * scales.error
        out["stars"][frame] = scales.stars
        label = _by_size(surfaces.island)
        out["island"][frame] = label + islands
        islands += int(label.max(initial=-1)) + 1
        for name in ("residual_before", "residual_after", "rejected", "inflation"):
            out[name][frame] = getattr(surfaces, name)
        out["prior_sigma"][number] = surfaces.prior_sigma
        out["noise_scale"][number] = surfaces.noise_scale
        defined = np.isfinite(solution.offset).all(axis=(1, 2))
        out["scale"][frame[defined]] = scales.scale[defined, None, None]
        out["offset"][frame[defined]] = solution.offset[defined]
        out["use"][frame[~defined]] = False
        out["reason"][frame[~defined]] = UNDEFINED
    return out


def _by_size(label: Ints) -> Ints:
    """Renumber islands, the one with most frames first."""
    sizes = np.bincount(label) if len(label) else np.zeros(0, np.int64)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return rank[label]


def reasons(registered: NDArray[np.str_], status: Floats, use: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Why frames are not used: as registration says, else as measurement says.

    Parameters
    ----------
    registered
        Reasons of the registration.
    status
        Of the measurement's summary.
    use
        Frames that are used.
    """
    texts = []
    for given, code, used in zip(np.asarray(registered).astype(str), status, use, strict=True):
        known = {1: "no valid pixels", 2: "cannot be read"}.get(int(code) if np.isfinite(code) else -1, "")
        texts.append("" if used else given or known or "left out by the registration")
    return np.array(texts, dtype="<U200")
