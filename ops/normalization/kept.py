"""A solution that is kept: frames it knows stay as they are, new ones are solved against what it makes of the sky.

With their scales and backgrounds held, all that old frames say of a point of sky is one number and its weight,
their robust mean, and of a star the mean of its fluxes. So they come into the solve of the new frames as one more
member of the band, in common units and without a background: the cost is that of the new frames alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.normalization.bands import BandSamples, BandSolution, expected_scales
from skyloom.ops.normalization.hold_out import point_positions
from skyloom.ops.normalization.legendre import HIGHEST_ORDER
from skyloom.ops.normalization.observations import (
    Bools,
    Floats,
    Ints,
    Samples,
    Singles,
    islands,
    join_samples,
    no_samples,
)
from skyloom.ops.normalization.residual_map import residual_map
from skyloom.ops.normalization.reweighting import DISAGREES
from skyloom.ops.normalization.sightings import Sightings
from skyloom.ops.normalization.sky import Sampled

FRAME = (
    "scale", "offset", "confidence", "noise", "use", "reason", "mean_scale", "scale_error", "scale_spread",
    "stars", "residual_before", "residual_after", "residual_held", "note", "rejected", "inflation",
)  # fmt: skip
"""Variables over the frames that stay as they were."""
BAND = ("prior_sigma", "shared_sigma", "noise_scale", "degree", "held_out", "mode_sigma")
"""Variables over the bands that stay as they were."""
_ROUNDS, _STARS_FLOOR = 3, 0.01
_PATCHES, _LEAST = 4, 6
"""Patches along a frame's side over which new frames and the sky kept are compared, and points at least."""
_SURE = 3.0


@dataclass(frozen=True)
class Kept:
    """An earlier result of `normalize`, and which frames of this session it knows."""

    row: Ints
    """(frame,) row there; -1: not known, or not as it is now."""
    frames: Mapping[str, NDArray[np.generic]]
    """Variables of `FRAME`."""
    bands: tuple[str, ...]
    values: Mapping[str, NDArray[np.generic]]
    """Variables of `BAND`."""

    def of(self, name: str, rows: Ints) -> NDArray[np.generic]:
        """What was found of frames, by their rows in this session."""
        return np.asarray(self.frames[name])[self.row[rows]]

    def spreads(self, band: str) -> tuple[int, tuple[Floats, Floats]] | None:
        """Degree of a band's surfaces and the measured spread of their coefficients; None where there are none."""
        number = self.bands.index(band)
        degree = int(np.asarray(self.values["degree"])[number])
        own, common = (
            np.asarray(self.values[n], dtype=np.float64)[number, : degree + 1]
            for n in ("prior_sigma", "shared_sigma")
        )
        if degree < 0 or not np.isfinite(own).all() or not (own > 0).all():
            return None
        # What frames share may have been measured as nothing, but a prior without spread has no inverse.
        return degree, (own, np.maximum(np.nan_to_num(common), 1e-6 * own.max()))


@dataclass(frozen=True)
class Mosaic:
    """What the kept frames of a band say together, in common units."""

    sampled: Sampled
    sightings: Sightings
    level: float
    """Mean over the frames of ln a less what their exposures explain."""


def background(offset: Floats, scale: Floats, area: Floats) -> Floats:
    """J·a·b of a frame as coefficients of `surface`, from its record and its `FrameMap.area`."""
    basis = surface.basis(surface.sample_positions())
    return surface.fit((basis @ offset @ basis.T) * (basis @ scale @ basis.T) * area)


def _at(coefficients: Floats, u: NDArray[np.floating], v: NDArray[np.floating]) -> Floats:
    return surface.evaluate(coefficients, u.astype(np.float64), v.astype(np.float64))


def kept_mosaic(
    rows: Ints,
    sampled: Sequence[Sampled],
    kept: Kept,
    sightings: Sightings,
    *,
    expected: Floats,
    clip: float,
    canvas: tuple[int, int],
    number: int,
    wanted: Sequence[Sampled],
) -> Mosaic:
    """Put together what the kept frames of a band say.

    Parameters
    ----------
    rows, sampled
        Of the frames that are used, rows of the session ascending.
    kept
        The earlier result.
    sightings
        Of all frames.
    expected
        (rows,) ln a that exposures explain, up to a constant.
    clip
        Samples that disagree with the others by more than this (robust σ) do not count.
    canvas
        Rows and columns (pixels).
    number
        Row the mosaic counts as among the sightings.
    wanted
        Of all others: only what they see too is put together.
    """
    highest = max((int(s.samples.point.max()) for s in (*sampled, *wanted) if len(s.samples)), default=-1)
    common = np.zeros(highest + 1, dtype=bool)
    for other in wanted:
        common[other.samples.point] = True
    scale, offset, inflation, mean = (
        np.asarray(kept.of(n, rows), dtype=np.float64) for n in ("scale", "offset", "inflation", "mean_scale")
    )
    parts = []
    for k, one in enumerate(sampled):
        s = one.samples
        s = s.take(common[s.point])
        a = _at(scale[k], s.u, s.v)
        y = s.value * a - _at(background(offset[k], scale[k], one.area), s.u, s.v)
        usual = inflation[k] <= DISAGREES
        w = np.where(usual & (s.variance > 0), 1.0 / (s.variance * a**2 * inflation[k]), 0.0)
        x = one.placement @ np.stack([s.u.astype(np.float64), s.v.astype(np.float64), np.ones(len(s))])
        parts.append((s.point, y, w, x[0].astype(np.float32), x[1].astype(np.float32)))
    point, y, w, px, py = (
        np.concatenate([np.empty(0, parts[0][i].dtype), *(p[i] for p in parts)]) for i in range(5)
    )
    good = np.isfinite(y) & np.isfinite(w) & (w > 0)
    ids, first, index = np.unique(point[good], return_index=True, return_inverse=True)
    place = np.stack([px[good][first], py[good][first]])
    value, weight = _robust_mean(index.reshape(-1), y[good], w[good], clip=clip)
    height, width = canvas
    samples = no_samples()
    if len(ids):
        samples = Samples(
            ids.astype(np.int32), value, (1.0 / weight).astype(np.float32),
            (place[0] / max(width - 1, 1)).astype(np.float32), (place[1] / max(height - 1, 1)).astype(np.float32),
        )  # fmt: skip
    placement = np.array([[max(width - 1, 1), 0.0, 0.0], [0.0, max(height - 1, 1), 0.0]], dtype=np.float64)
    nodes = len(surface.sample_positions())
    return Mosaic(
        Sampled(samples, placement, np.ones((nodes, nodes))),
        _mean_sightings(sightings, rows, scale, number),
        float(np.mean(np.log(mean) - expected)),
    )


def _robust_mean(index: Ints, value: Floats, weight: Floats, *, clip: float) -> tuple[Floats, Floats]:
    """Mean of the values of each index 0…, those that disagree left out, and its weight."""
    order = np.lexsort((value, index))
    count = np.bincount(index)
    # Where two disagree nobody knows which is right.
    several = count[index] > 2
    # From the median on: a mean that an outlier has moved has nobody near it.
    mean = value[order][np.cumsum(count) - count + count // 2]
    total, share = np.zeros(len(count)), np.zeros(len(value))
    for _ in range(_ROUNDS):
        z = np.abs(value - mean[index]) * np.sqrt(weight / np.maximum(1.0 - share, 1e-3))
        typical = 1.4826 * float(np.median(z[several])) if several.any() else 1.0
        limit = clip * max(typical, 1e-6)
        held = weight * np.where(several, np.maximum(1.0 - (z / limit) ** 2, 1e-3) ** 2, 1.0)
        total = np.bincount(index, weights=held).astype(np.float64)
        mean = np.bincount(index, weights=held * value) / np.maximum(total, 1e-300)
        share = held / np.maximum(total[index], 1e-300)
    return mean, total


def _mean_sightings(sightings: Sightings, rows: Ints, scale: Floats, number: int) -> Sightings:
    """One sighting of each star that kept frames see, in common units."""
    place = np.full(int(max(rows.max(initial=-1), sightings.frame.max(initial=-1))) + 1, -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    mine = np.flatnonzero(place[sightings.frame] >= 0)
    k = place[sightings.frame[mine]]
    order = np.argsort(k, kind="stable")
    mine, k = mine[order], k[order]
    gain = np.zeros(len(mine))
    edges = np.searchsorted(k, np.arange(len(rows) + 1))
    for f in range(len(rows)):
        here = mine[edges[f] : edges[f + 1]]
        gain[edges[f] : edges[f + 1]] = np.log(_at(scale[f], sightings.u[here], sightings.v[here]))
    value = sightings.log_flux[mine] + gain
    weight = 1.0 / (sightings.log_error[mine].astype(np.float64) ** 2 + _STARS_FLOOR**2)
    good = np.isfinite(value) & np.isfinite(weight)
    star, index = np.unique(sightings.star[mine][good], return_inverse=True)
    mean, total = _robust_mean(index.reshape(-1), value[good], weight[good], clip=5.0)
    half = np.full(len(star), 0.5, dtype=np.float32)
    return Sightings(
        np.full(len(star), number, dtype=np.int32), star.astype(np.int32), mean,
        (total**-0.5).astype(np.float32), half, half,
    )  # fmt: skip


def joined(sightings: Sightings, rows: Ints, more: Sightings) -> Sightings:
    """Sightings of some frames, and others."""
    mine = np.isin(sightings.frame, rows)
    names = ("frame", "star", "log_flux", "log_error", "u", "v")
    return Sightings(*(np.concatenate([getattr(sightings, n)[mine], getattr(more, n)]) for n in names))


def expected_of(rows: Ints, exposure: Floats, units: NDArray[np.str_]) -> Floats:
    """Ln a that the exposures of frames explain, up to a constant."""
    return expected_scales(exposure[rows].astype(np.float64), units[rows].astype(str))


def without(solution: BandSolution, left: Bools) -> BandSolution:
    """The solution of a band less some of its members."""
    keep = ~left
    scales, surfaces = solution.scales, solution.surfaces
    fields = ("frame", "scale", "error", "stars", "field", "departure", "anchor")
    of_surfaces = (
        "coefficients", "island", "samples", "residual_before", "residual_after", "rejected", "inflation",
        "residual_held", "covariance",
    )  # fmt: skip
    return replace(
        solution,
        scales=replace(scales, **{n: getattr(scales, n)[keep] for n in fields}),
        surfaces=replace(surfaces, **{n: getattr(surfaces, n)[keep] for n in of_surfaces}),
        **{n: getattr(solution, n)[keep] for n in ("scale", "offset", "spread", "confidence")},
    )


def change(solution: BandSolution, samples: BandSamples, fixed: Bools) -> float:
    """How far new frames lie from the sky kept, in units of their pixel noise.

    Parameters
    ----------
    solution, samples
        Of the new frames, anchors and the sky kept.
    fixed
        (frame,) which of them is the sky kept.

    Returns
    -------
    float
        The largest difference over a patch of a quarter of a frame, less three of its standard errors: what new
        frames cannot follow with surfaces of their own, and would move the old ones if these were free. NaN
        without common sky.

    Notes
    -----
    Medians over patches, whatever the weights: the solve has put aside what disagrees. Of the frames over a patch
    the median counts, of two the one that differs less: clouds on one frame say nothing of the sky kept.
    """
    seen, area = samples.observations, samples.area
    sky = np.full(seen.points, np.nan)
    for f in np.flatnonzero(fixed).tolist():
        here = slice(seen.start[f], seen.start[f + 1])
        sky[seen.point[here]] = samples.value[here]
    own = np.flatnonzero(~fixed & ~solution.scales.anchor & (seen.count > 0))
    if not len(own):
        return float("nan")
    side = float(np.median(np.sqrt(np.abs(np.linalg.det(samples.placement[own][:, :, :2]))))) / _PATCHES
    patches = np.floor(point_positions(seen, samples.placement) / side).astype(np.int64)
    number = np.unique(patches, axis=0, return_inverse=True)[1].reshape(-1)
    over: dict[int, list[float]] = {}
    for f in own.tolist():
        here = slice(seen.start[f], seen.start[f + 1])
        held = background(solution.offset[f], solution.scale[f], area[f])
        rest = samples.value[here] - _at(held, seen.u[here], seen.v[here]) - sky[seen.point[here]]
        noise = samples.noise[f] * solution.scales.scale[f] * float(np.median(area[f]))
        mine = np.where(np.isfinite(rest), number[seen.point[here]], -1)
        for patch in np.flatnonzero(np.bincount(mine + 1) >= _LEAST) - 1:
            if patch < 0 or not noise > 0:
                continue
            values = rest[mine == patch]
            middle = float(np.median(values))
            error = 1.25 * 1.4826 * float(np.median(np.abs(values - middle))) / np.sqrt(len(values))
            excess = np.sign(middle) * max(abs(middle) - _SURE * error, 0.0) / noise
            over.setdefault(int(patch), []).append(excess)
    return max((_agreed(found) for found in over.values()), default=float("nan"))


def _agreed(values: list[float]) -> float:
    """Size of the median; of an even number the smaller of the middle two, 0 where these contradict each other."""
    ordered = sorted(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return min(abs(low), abs(high)) if low * high > 0 else 0.0


def overlaps(
    sampled: Sequence[Sampled], scale: Floats, offset: Floats, inflation: Floats, canvas: tuple[int, int]
) -> tuple[Ints, Singles]:
    """Islands of frames, and the map of what they disagree by, from their records.

    Parameters
    ----------
    sampled, scale, offset, inflation
        Of frames, kept and new.
    canvas
        Rows and columns (pixels).
    """
    factor = [_at(a, one.samples.u, one.samples.v) for a, one in zip(scale, sampled, strict=True)]
    seen, value, precision = join_samples([s.samples for s in sampled], factor, order=HIGHEST_ORDER)
    left = value.copy()
    for f in np.flatnonzero(seen.count).tolist():
        here = slice(seen.start[f], seen.start[f + 1])
        held = background(offset[f], scale[f], sampled[f].area)
        left[here] -= _at(held, seen.u[here], seen.v[here])
        precision[here] /= np.float32(inflation[f])
    placement = np.array([s.placement for s in sampled]).reshape(-1, 2, 3)
    return islands(seen), residual_map(seen, placement, precision, value, left, canvas)
