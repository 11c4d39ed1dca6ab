"""The solution of a band: scales of its frames, then their samples in common units, then their backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.normalization.background import Surfaces, solve_surfaces
from skyloom.ops.normalization.legendre import evaluate
from skyloom.ops.normalization.observations import Floats, Ints, Observations, Singles, join_samples
from skyloom.ops.normalization.photometry import solve_scales
from skyloom.ops.normalization.sightings import Sightings
from skyloom.ops.normalization.sky import Sampled

SCALE_RANGE = 5.0
"""A scale further than this factor from the expected one is not transparency: the frame is left out."""


@dataclass(frozen=True)
class BandScales:
    """Scales of a band's frames; arrays over `frame`."""

    frame: Ints
    """Rows of the session that go on."""
    scale: Floats
    error: Floats
    """Standard error of ln a."""
    stars: Ints
    left_out: dict[int, str]
    """Rows that do not go on, and why."""


@dataclass(frozen=True)
class BandSamples:
    """Samples of a band's frames in common units, and what is needed to go back to theirs."""

    observations: Observations
    value: Floats
    precision: Singles
    placement: Floats
    area: Floats
    """(frame, v, u) of the `FrameMap`s."""


@dataclass(frozen=True)
class BandSolution:
    """All that is known of a band."""

    scales: BandScales
    surfaces: Surfaces
    offset: Floats
    """(frame, node_y, node_x) b in frame units; NaN where it came out undefined."""


def expected_scales(exposure: Floats, units: NDArray[np.str_]) -> Floats:
    """Expect ln a of frames that differ in exposure only, up to a constant; 0 where that cannot be said."""
    exposure = exposure.astype(np.float64)
    counts = np.array(["/s" not in str(u).replace(" ", "").lower() for u in units], dtype=bool)
    known = np.isfinite(exposure) & (exposure > 0) & counts
    return -np.log(exposure) if known.all() and len(exposure) else np.zeros(len(exposure))


def band_scales(
    sightings: Sightings,
    members: Ints,
    sampled: Sequence[Sampled | None],
    exposure: Floats,
    units: NDArray[np.str_],
) -> BandScales:
    """Scales of a band's frames from the stars they have in common.

    Parameters
    ----------
    sightings
        Of all frames.
    members
        Rows of the session.
    sampled, exposure, units
        Of the members; frames which are None do not take part.
    """
    here = np.array([s is not None for s in sampled], dtype=bool)
    members = members[here]
    placement = np.array([s.placement for s in sampled if s is not None]).reshape(-1, 2, 3)
    expected = expected_scales(exposure[here], units[here])
    local = np.full(int(max(members.max(initial=-1), sightings.frame.max(initial=-1))) + 1, -1, dtype=np.int64)
    local[members] = np.arange(len(members))
    seen = local[sightings.frame] >= 0
    solved = solve_scales(
        local[sightings.frame[seen]],
        sightings.star[seen],
        sightings.log_flux[seen],
        sightings.log_error[seen].astype(np.float64),
        frames=len(members),
        expected=expected,
        placement=placement,
    )
    # Only departures from what exposures explain are suspicious.
    away = np.log(solved.scale) - (expected - expected.mean() if len(members) else expected)
    good = np.isfinite(away) & (np.abs(away) <= np.log(SCALE_RANGE))
    left_out = {
        int(members[i]): f"scale {np.exp(away[i]):.3g} from {solved.stars[i]} stars is outside "
        f"{1 / SCALE_RANGE:g}-{SCALE_RANGE:g} of the expected one"
        for i in np.flatnonzero(~good)
    }
    log_scale, group = np.log(solved.scale[good]), solved.group[good]
    if left_out and good.any():
        # The convention (mean of the group) was set with the frames that are gone.
        mean = np.bincount(group, weights=away[good]) / np.maximum(np.bincount(group), 1)
        log_scale = log_scale - mean[group]
    return BandScales(members[good], np.exp(log_scale), solved.error[good], solved.stars[good], left_out)


def band_samples(
    scales: BandScales, members: Ints, sampled: Sequence[Sampled | None], *, order: int
) -> BandSamples:
    """Join the samples of the frames that go on.

    Parameters
    ----------
    scales
        Of the band.
    members, sampled
        As in `band_scales`.
    order
        Degree of the surfaces.
    """
    by_row = dict(zip(members.tolist(), sampled, strict=True))
    here = [s for i in scales.frame.tolist() if (s := by_row[i]) is not None]
    observations, value, precision = join_samples([s.samples for s in here], scales.scale, order=order)
    nodes = len(surface.sample_positions())
    return BandSamples(
        observations,
        value,
        precision,
        np.array([s.placement for s in here]).reshape(-1, 2, 3),
        np.array([s.area for s in here]).reshape(-1, nodes, nodes),
    )


def solve_band(scales: BandScales, samples: BandSamples, *, clip: float) -> BandSolution:
    """Backgrounds of a band's frames.

    Parameters
    ----------
    scales, samples
        Of the band.
    clip
        As in `normalize`.
    """
    surfaces = solve_surfaces(
        samples.observations, samples.value, samples.precision, placement=samples.placement, clip=clip
    )
    at = surface.sample_positions()
    v, u = np.meshgrid(at, at, indexing="ij")
    offset = np.full((len(scales.frame), surface.NODES + 2, surface.NODES + 2), np.nan)
    for k, (coefficients, area) in enumerate(zip(surfaces.coefficients, samples.area, strict=True)):
        values = evaluate(coefficients, u, v) / (area * scales.scale[k])
        if np.isfinite(values).all():
            offset[k] = surface.fit(values)
    return BandSolution(scales, surfaces, offset)
