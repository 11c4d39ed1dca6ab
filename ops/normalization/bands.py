"""The solution of a band: scales of its frames, then their samples in common units, then their backgrounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.normalization.background import Surfaces, solve_surfaces
from skyloom.ops.normalization.confidence import confidence, support, surface_error
from skyloom.ops.normalization.gains import below_clouds, centre, gain_maps, glow, sample_gains
from skyloom.ops.normalization.legendre import HIGHEST_ORDER, evaluate
from skyloom.ops.normalization.observations import (
    Bools,
    Floats,
    Ints,
    Observations,
    Samples,
    Singles,
    join_samples,
)
from skyloom.ops.normalization.photometry import LEAST_STARS, solve_scales
from skyloom.ops.normalization.residual_map import residual_map
from skyloom.ops.normalization.sightings import Sightings
from skyloom.ops.normalization.sky import Sampled
from skyloom.ops.normalization.sweeps import subtract_surfaces
from skyloom.ops.normalization.transparency import Fields, even_fields, solve_fields

SCALE_RANGE = 5.0
"""A scale further than this factor from the expected one is not transparency: the frame is left out."""


@dataclass(frozen=True)
class BandScales:
    """Scales of a band's frames and anchors; arrays over both."""

    frame: Ints
    """Rows of the session that go on; rows beyond the session are anchors."""
    scale: Floats
    """exp of the mean of ln a over the frame."""
    error: Floats
    """Standard error of ln a."""
    stars: Ints
    left_out: dict[int, str]
    """Rows that do not go on, and why."""
    field: Floats
    """(frame, 6): ln a as Legendre coefficients."""
    departure: Floats
    """Scale over that which exposures explain."""
    anchor: Bools
    """(frame,)."""
    regions: bool = False
    """The last anchor is not an image but places that show nothing but background."""


@dataclass(frozen=True)
class BandSamples:
    """Samples of a band's frames in common units, and what is needed to go back to theirs."""

    observations: Observations
    value: Floats
    precision: Singles
    placement: Floats
    area: Floats
    """(frame, v, u) of the `FrameMap`s."""
    noise: Floats
    """(frame,) of a pixel, frame units; NaN: not known."""
    canvas: tuple[int, int] = (1, 1)
    """Rows, columns."""
    level: float = 0.0
    """Of the glow, where transparency varies (`gains`)."""


@dataclass(frozen=True)
class BandSolution:
    """All that is known of a band; anchors are last in the arrays."""

    scales: BandScales
    surfaces: Surfaces
    scale: Floats
    """(frame, node_y, node_x) a."""
    offset: Floats
    """(frame, node_y, node_x) b in frame units; NaN where it came out undefined."""
    spread: Floats
    """(frame,) rms of ln a over the frame."""
    confidence: Floats
    """(frame, node_y, node_x) 0…1: how far b can be trusted there."""
    residuals: Singles
    """(stage, y, x) of `residual_map`."""


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
    *,
    anchors: int = 0,
    even: bool = False,
    expected: Floats | None = None,
    fixed: int | None = None,
) -> BandScales:
    """Scales of a band's frames from the stars they have in common.

    Parameters
    ----------
    sightings
        Of all frames.
    members
        Rows of the session; those of anchors are last.
    sampled, exposure, units
        Of the members; frames which are None do not take part.
    anchors
        How many of the members are anchors: images whose units have nothing to do with those of the frames.
    even
        True: one number a frame, however transparency varies across it.
    expected
        (members,) ln a without clouds, where that is known and not only its differences.
    fixed
        Which of the anchors (a row of the session) is in common units already.
    """
    here = np.array([s is not None for s in sampled], dtype=bool)
    anchor = (np.arange(len(members)) >= len(members) - anchors)[here]
    members = members[here]
    placement = np.array([s.placement for s in sampled if s is not None]).reshape(-1, 2, 3)
    known = members == (-1 if fixed is None else fixed)
    if expected is None:
        expected = np.zeros(len(members))
        expected[~anchor] = expected_scales(exposure[here][~anchor], units[here][~anchor])
    else:
        expected = np.where(anchor, 0.0, expected[here])
    local = np.full(int(max(members.max(initial=-1), sightings.frame.max(initial=-1))) + 1, -1, dtype=np.int64)
    local[members] = np.arange(len(members))
    seen = local[sightings.frame] >= 0
    frame, star, log_flux = local[sightings.frame[seen]], sightings.star[seen], sightings.log_flux[seen]
    log_error = sightings.log_error[seen].astype(np.float64)
    for k in np.flatnonzero(anchor & ~known).tolist():
        expected[k] = _expected_of_anchor(k, frame, star, log_flux, expected, anchor & ~known)
    # Nothing depends on the mean of what is expected but the convention, which is that of the frames.
    if (~anchor).any() and fixed is None:
        expected -= expected[~anchor].mean()
    solved = solve_scales(
        frame,
        star,
        log_flux,
        log_error,
        frames=len(members),
        expected=expected,
        placement=placement,
        fixed=None if fixed is None else known,
    )
    # `solve_scales` has centred what is expected over the anchors too.
    centred = expected - (expected.mean() if len(members) and fixed is None else 0.0)
    fields: Fields = even_fields(solved)
    if len(frame) and not even:
        fields = solve_fields(
            frame,
            star,
            log_flux,
            log_error,
            sightings.u[seen],
            sightings.v[seen],
            scales=solved,
            expected=centred,
            placement=placement,
            fixed=None if fixed is None else known,
        )
    # Only departures from what exposures explain are suspicious.
    field = fields.coefficients.copy()
    away = field[:, 0] - centred
    good = np.isfinite(away) & ((np.abs(away) <= np.log(SCALE_RANGE)) | anchor)
    good &= ~anchor | (solved.stars >= LEAST_STARS) | known
    left_out = {
        int(members[i]): f"only {solved.stars[i]} stars in common"
        if anchor[i]
        else f"scale {np.exp(away[i]):.3g} from {solved.stars[i]} stars is outside "
        f"{1 / SCALE_RANGE:g}-{SCALE_RANGE:g} of the expected one"
        for i in np.flatnonzero(~good)
    }
    if fixed is None and (left_out or anchor.any()) and (good & ~anchor).any():
        # The convention (mean of the group) was set with frames that are gone or count for nothing.
        own = good & ~anchor
        size = int(solved.group.max()) + 1
        total = np.bincount(solved.group[own], weights=away[own], minlength=size)
        mean = total / np.maximum(np.bincount(solved.group[own], minlength=size), 1)
        away = away - mean[solved.group]
        field[:, 0] = expected + away
    return BandScales(
        members[good], np.exp(field[good, 0]), solved.error[good], solved.stars[good], left_out,
        field[good], np.exp(away[good]), anchor[good],
    )  # fmt: skip


def _expected_of_anchor(
    k: int, frame: Ints, star: NDArray[np.int32], log_flux: Floats, expected: Floats, anchor: Bools
) -> float:
    """Ln a of an anchor from the median of its stars against the same stars of all frames."""
    size = int(star.max(initial=-1)) + 1
    usual = np.isfinite(log_flux) & ~anchor[frame]
    total = np.bincount(star[usual], weights=(log_flux + expected[frame])[usual], minlength=size)
    count = np.bincount(star[usual], minlength=size)
    mine = (frame == k) & np.isfinite(log_flux) & (count[star] > 0)
    if not mine.any():
        return 0.0
    return float(np.median(total[star[mine]] / count[star[mine]] - log_flux[mine]))


def band_samples(
    scales: BandScales, members: Ints, sampled: Sequence[Sampled | None], *, canvas: tuple[int, int] = (1, 1)
) -> BandSamples:
    """Join the samples of the frames that go on.

    Parameters
    ----------
    scales
        Of the band.
    members, sampled
        As in `band_scales`.
    canvas
        Rows and columns (pixels).
    """
    by_row = dict(zip(members.tolist(), sampled, strict=True))
    here = [s for i in scales.frame.tolist() if (s := by_row[i]) is not None]
    factor = [_factor(c, s.samples) for c, s in zip(scales.field, here, strict=True)]
    observations, value, precision = join_samples([s.samples for s in here], factor, order=HIGHEST_ORDER)
    if scales.regions:
        # A place of the user's counts as much as a superpixel of a frame.
        first = observations.start[-2]
        precision[first:] = np.median(precision[:first]) if first else 1.0
    gain = sample_gains(observations, scales.field)
    level = glow(scales.field, [s.samples for s in here], ~scales.anchor) if len(gain) else 0.0
    nodes = len(surface.sample_positions())
    return BandSamples(
        replace(observations, gain=gain),
        value,
        precision,
        np.array([s.placement for s in here]).reshape(-1, 2, 3),
        np.array([s.area for s in here]).reshape(-1, nodes, nodes),
        np.array([s.noise for s in here], dtype=np.float64),
        canvas,
        level,
    )


def with_regions(scales: BandScales, row: int) -> BandScales:
    """Add places without anything but background as an anchor, which needs no scale, in a row of its own."""
    return BandScales(
        np.append(scales.frame, row), np.append(scales.scale, 1.0), np.append(scales.error, 0.0),
        np.append(scales.stars, 0), scales.left_out, np.concatenate([scales.field, np.zeros((1, 6))]),
        np.append(scales.departure, 1.0), np.append(scales.anchor, True), regions=True,
    )  # fmt: skip


def _factor(field: Floats, samples: Samples) -> Floats | float:
    if not field[1:].any():
        return float(np.exp(field[0]))
    return np.exp(evaluate(field, samples.u.astype(np.float64), samples.v.astype(np.float64)))


def solve_band(
    scales: BandScales,
    samples: BandSamples,
    *,
    clip: float,
    degree: int | None,
    flat: Bools | None = None,
    group: Ints | None = None,
    fixed: Bools | None = None,
    spreads: tuple[Floats, Floats] | None = None,
) -> BandSolution:
    """Backgrounds of a band's frames, all overlaps at once.

    Parameters
    ----------
    scales, samples
        Of the band.
    clip
        As in `normalize`.
    degree
        Of the surfaces; None: chosen.
    flat
        (frame,) frames whose background has no gradient, beside the anchors.
    group
        (frame,) frames whose surfaces have a part in common.
    fixed, spreads
        As in `solve_surfaces`.
    """
    held = scales.anchor if flat is None else scales.anchor | flat
    if fixed is not None:
        # What is kept says what a constant is; surfaces of new frames are those of even ones.
        samples = replace(samples, observations=replace(samples.observations, gain=np.empty(0, np.float32)))
    surfaces = solve_surfaces(
        replace(samples.observations, order=HIGHEST_ORDER if degree is None else degree),
        samples.value,
        samples.precision,
        placement=samples.placement,
        clip=clip,
        flat=held,
        choose=degree is None,
        group=group,
        fixed=fixed,
        spreads=spreads,
        level=samples.level,
    )
    at = surface.sample_positions()
    v, u = np.meshgrid(at, at, indexing="ij")
    background = np.array([evaluate(c, u, v) for c in surfaces.coefficients])
    seen, value = below_clouds(
        replace(samples.observations, order=surfaces.order), samples.value,
        part=surfaces.below, level=samples.level,
    )  # fmt: skip
    left = np.empty(len(value))
    subtract_surfaces(seen.start, seen.u, seen.v, seen.order, seen.gain, value, surfaces.coefficients, left)
    gain = gain_maps(scales.field, surfaces.below)
    if surfaces.below:
        background = gain * (samples.level + background) - samples.level
        background = centre(background, surfaces.island, ~held & (seen.count > 0))
    return record(
        scales, samples, surfaces, background, left, lambda k: gain[k] * surface_error(surfaces.covariance[k])
    )


def record(
    scales: BandScales,
    samples: BandSamples,
    surfaces: Surfaces,
    background: Floats,
    left: Floats,
    error: Callable[[int], Floats],
) -> BandSolution:
    """Turn scales and backgrounds of all frames into coefficients of B-splines.

    Parameters
    ----------
    scales, samples, surfaces
        Of the band.
    background
        (frame, v, u) J·a·b at `surface.sample_positions`.
    left
        Samples less their backgrounds.
    error
        Standard error of that of one frame.
    """
    at = surface.sample_positions()
    v, u = np.meshgrid(at, at, indexing="ij")
    frames, nodes = len(scales.frame), surface.NODES + 2
    scale, offset = np.ones((frames, nodes, nodes)), np.full((frames, nodes, nodes), np.nan)
    confident, spread = np.ones((frames, nodes, nodes)), np.zeros(frames)
    for k in range(frames):
        a = np.full_like(u, scales.scale[k])
        scale[k] = scales.scale[k]
        if scales.field[k, 1:].any():
            a = np.exp(evaluate(scales.field[k], u, v))
            scale[k], spread[k] = surface.fit(a), float(np.std(np.log(a)))
        values = background[k] / (samples.area[k] * a)
        if np.isfinite(values).all():
            offset[k] = surface.fit(values)
        # A frame which nothing ties is not known less than others: nobody disagrees.
        if surfaces.samples[k]:
            held = support(samples.observations, k, surfaces.kept)
            confident[k] = surface.fit(confidence(error(k), held, samples.noise[k] * samples.area[k] * a))
    seen, weight = samples.observations, samples.precision * surfaces.kept
    for k in np.flatnonzero(seen.count).tolist():
        weight[seen.start[k] : seen.start[k + 1]] /= np.float32(surfaces.inflation[k])
    residuals = residual_map(seen, samples.placement, weight, samples.value, left, samples.canvas)
    return BandSolution(scales, surfaces, scale, offset, spread, confident, residuals)
