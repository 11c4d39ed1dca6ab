"""The result of `normalize`: one row a frame, filled in band by band, and what is suspicious about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.held import BASIS
from skyloom.ops.normalization.bands import BandSolution
from skyloom.ops.normalization.legendre import HIGHEST_ORDER
from skyloom.ops.normalization.modes import MODES
from skyloom.ops.normalization.observations import Floats, Ints
from skyloom.ops.normalization.residual_map import STAGES, map_shape
from skyloom.ops.normalization.reweighting import DISAGREES

NO_ISLAND = -1
DIMENSIONS: dict[str, tuple[str, ...]] = {
    "scale": ("frame", "node_y", "node_x"),
    "offset": ("frame", "node_y", "node_x"),
    "confidence": ("frame", "node_y", "node_x"),
    "sky_residual": ("band", "stage", "sky_y", "sky_x"),
    "prior_sigma": ("band", "term_order"),
    "shared_sigma": ("band", "term_order"),
    "noise_scale": ("band",),
    "degree": ("band",),
    "held_out": ("band", "term_order"),
    "mode_sigma": ("band", "mode"),
    "anchor_scale": ("band", "anchor"),
    "anchor_stars": ("band", "anchor"),
    "anchor_residual": ("band", "anchor"),
    "solution_change": ("band",),
}
"""Of the variables that are not over `frame` alone."""
UNDEFINED = "its background came out undefined: its WCS does not reach all of the frame"

FEW_STARS = 10
"""Common stars below which a frame's scale is worth a look."""
UNEVEN = 0.05
"""Rms of ln a over a frame from which on it is worth a look."""

Result = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Limits:
    """What is suspicious, and what happens to it."""

    low: float = 0.8
    """Scale over the expected one."""
    high: float = 1.2
    drop: bool = False
    """True: frames whose scale is outside, or which disagree with all others, are not used."""


def left_alone(
    frames: int,
    bands: int,
    anchors: int = 0,
    *,
    canvas: tuple[int, int] = (1, 1),
    noise: Floats,
    use: NDArray[np.bool_],
    reason: NDArray[np.str_],
) -> Result:
    """Return scale 1 and offset 0 everywhere, nothing known; nothing to doubt either.

    Parameters
    ----------
    frames, bands, anchors
        How many.
    canvas
        Rows and columns (pixels).
    noise, use, reason
        (frame,) of the pixels; whether a frame is used; if not, why.
    """
    nodes = surface.NODES + 2
    return {
        "scale": np.ones((frames, nodes, nodes)),
        "offset": np.zeros((frames, nodes, nodes)),
        "confidence": np.ones((frames, nodes, nodes)),
        "noise": np.asarray(noise, dtype=np.float64).copy(),
        "use": use.copy(),
        "reason": np.asarray(reason, dtype="<U200").copy(),
        "island": np.full(frames, NO_ISLAND, dtype=np.int64),
        "mean_scale": np.ones(frames),
        "scale_error": np.full(frames, np.nan),
        "scale_spread": np.zeros(frames),
        "stars": np.zeros(frames, dtype=np.int64),
        "residual_before": np.full(frames, np.nan),
        "residual_after": np.full(frames, np.nan),
        "residual_held": np.full(frames, np.nan),
        "note": np.full(frames, "", dtype="<U200"),
        "rejected": np.zeros(frames),
        "inflation": np.ones(frames),
        "sky_residual": np.full((bands, len(STAGES), *map_shape(canvas)), np.nan, dtype=np.float32),
        "prior_sigma": np.full((bands, HIGHEST_ORDER + 1), np.nan),
        "shared_sigma": np.full((bands, HIGHEST_ORDER + 1), np.nan),
        "noise_scale": np.full(bands, np.nan),
        "degree": np.full(bands, -1, dtype=np.int64),
        "held_out": np.full((bands, HIGHEST_ORDER + 1), np.nan),
        "mode_sigma": np.full((bands, len(MODES)), np.nan),
        "anchor_scale": np.full((bands, anchors), np.nan),
        "anchor_stars": np.zeros((bands, anchors), dtype=np.int64),
        "anchor_residual": np.full((bands, anchors), np.nan),
        "solution_change": np.full(bands, np.nan),
        "kept": np.zeros(frames, dtype=bool),
        BASIS: np.full(frames, "", dtype="<U16"),
    }


def fill_in(out: Result, solutions: Sequence[BandSolution | None], limits: Limits) -> Result:
    """Write the solutions of all bands, in their order, into a result of `left_alone`; islands are numbered on."""
    islands = 0
    for number, solution in enumerate(solutions):
        if solution is None:
            continue
        scales, surfaces = solution.scales, solution.surfaces
        own = ~scales.anchor
        frame = scales.frame[own]
        for row, why in scales.left_out.items():
            if row < len(out["use"]):
                out["use"][row] = False
                out["reason"][row] = why
        out["mean_scale"][frame] = scales.scale[own]
        out["scale_error"][frame] = (scales.scale * scales.error)[own]
        out["scale_spread"][frame] = solution.spread[own]
        out["stars"][frame] = scales.stars[own]
        label = by_size(surfaces.island[own])
        out["island"][frame] = label + islands
        islands += int(label.max(initial=-1)) + 1
        for name in ("residual_before", "residual_after", "residual_held", "rejected", "inflation"):
            out[name][frame] = getattr(surfaces, name)[own]
        anchor = scales.frame[~own] - len(out["use"])
        out["anchor_scale"][number, anchor] = scales.scale[~own]
        out["anchor_stars"][number, anchor] = scales.stars[~own]
        out["anchor_residual"][number, anchor] = surfaces.residual_after[~own]
        out["sky_residual"][number] = solution.residuals
        out["prior_sigma"][number, : len(surfaces.prior_sigma)] = surfaces.prior_sigma
        out["shared_sigma"][number, : len(surfaces.prior_sigma)] = surfaces.shared_sigma
        out["noise_scale"][number] = surfaces.noise_scale
        # Against a reference there are no such surfaces.
        out["degree"][number] = surfaces.order if np.isfinite(surfaces.prior_sigma).all() else -1
        out["held_out"][number] = surfaces.trials
        out["mode_sigma"][number] = surfaces.modes.sigma
        defined = np.isfinite(solution.offset[own]).all(axis=(1, 2))
        out["scale"][frame[defined]] = solution.scale[own][defined]
        out["offset"][frame[defined]] = solution.offset[own][defined]
        out["confidence"][frame[defined]] = solution.confidence[own][defined]
        out["use"][frame[~defined]] = False
        out["reason"][frame[~defined]] = UNDEFINED
        _judge(out, solution, limits)
    return out


def _judge(out: Result, solution: BandSolution, limits: Limits) -> None:
    """Name what is suspicious of each frame of a band; leave out what the limits say."""
    scales, surfaces = solution.scales, solution.surfaces
    for k in np.flatnonzero(~scales.anchor):
        row, ratio, inflation = int(scales.frame[k]), float(scales.departure[k]), float(surfaces.inflation[k])
        serious, other = [], []
        if not limits.low <= ratio <= limits.high:
            serious.append(f"scale {ratio:.2f} × the expected one, outside {limits.low:g}-{limits.high:g}")
        if inflation > DISAGREES:
            serious.append(f"disagrees with all others: residuals {np.sqrt(inflation):.1f} × those of most frames")
        if len(scales.frame) > 1 and scales.stars[k] < FEW_STARS:
            other.append(f"scale from {scales.stars[k]} common stars only")
        if solution.spread[k] > UNEVEN:
            other.append(f"transparency varies by {100 * solution.spread[k]:.0f} % across it")
        out["note"][row] = "; ".join(serious + other)[:200]
        if serious and limits.drop and out["use"][row]:
            out["use"][row] = False
            out["reason"][row] = "; ".join(serious)[:200]


def by_size(label: Ints) -> Ints:
    """Renumber islands, the one with most frames first."""
    sizes = np.bincount(label) if len(label) else np.zeros(0, np.int64)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    return np.asarray(rank[label])


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
