"""References for frames: which frames they are made of, and the scale of each frame against them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import erfc

from skyloom.ops.normalization.bands import BandSamples, BandScales
from skyloom.ops.normalization.legendre import legendre
from skyloom.ops.normalization.observations import Bools, Floats, Ints, Observations
from skyloom.ops.normalization.panels import panels
from skyloom.ops.normalization.sightings import Sightings

LEAST_RATIOS = 10
"""Stars in common with the reference below which its structure, or the common solution, gives the scale."""
LEAST_STRUCTURE, LEAST_CORRELATION = 64, 0.97
"""Superpixels, and how well frame and reference must go together, for a scale from structure."""
FLOOR = 0.01
"""Error of ln flux no star is believed to beat."""
CHAUVENET = 0.3
"""Expected number of values as far out as the farthest, below which it is rejected."""


def best_frames(scales: BandScales, samples: BandSamples, *, best: int) -> tuple[Ints, Bools]:
    """Choose the frames a reference is made of: little noise and little gradient of their own.

    Parameters
    ----------
    scales, samples
        Of the band.
    best
        Frames of each panel.

    Returns
    -------
    label
        (frame,) panel.
    chosen
        (frame,) True for the best of each panel.

    Notes
    -----
    What overlaps tell of a gradient is how it differs from those of the panel's other frames: the smooth part
    (degree 2) of frame − median of the panel. Cost of a frame: (noise / median)² · (1 + (gradient / median)²). The
    frame with the least noise, often the choice of other programs, may have the worst gradient.
    """
    seen, frames = samples.observations, samples.observations.frames
    own = ~scales.anchor & (seen.count > 0)
    label = np.full(frames, -1, dtype=np.int64)
    chosen = np.zeros(frames, dtype=bool)
    if not own.any():
        return label, chosen
    label[own] = panels(samples.placement[own], most=frames)
    for panel in np.unique(label[own]):
        members = np.flatnonzero(label == panel)
        points = np.unique(np.concatenate([seen.point[seen.start[f] : seen.start[f + 1]] for f in members]))
        values = np.full((len(members), len(points)), np.nan)
        noise, terms = np.empty(len(members)), []
        for k, f in enumerate(members):
            here = slice(seen.start[f], seen.start[f + 1])
            values[k, np.searchsorted(points, seen.point[here])] = samples.value[here]
            noise[k] = float(np.median(samples.precision[here])) ** -0.5
            terms.append(_smooth(seen, here))
        usual = np.nanmedian(values, axis=0)
        gradient = np.zeros(len(members))
        for k in range(len(members)):
            mine = np.isfinite(values[k])
            rest = (values[k] - usual)[mine]
            if len(rest) > terms[k].shape[1]:
                fitted = terms[k] @ np.linalg.lstsq(terms[k], rest, rcond=None)[0]
                gradient[k] = float(np.std(fitted))
        typical = max(float(np.median(gradient)), 1e-12)
        cost = (noise / np.median(noise)) ** 2 * (1.0 + (gradient / typical) ** 2)
        chosen[members[np.argsort(cost, kind="stable")[:best]]] = True
    return label, chosen


def reference_scales(
    scales: BandScales, samples: BandSamples, sightings: Sightings, *, whole: bool, best: int
) -> BandScales:
    """Scale of each frame against its reference: mean of flux ratios, outliers rejected.

    Parameters
    ----------
    scales
        Of the band, all stars at once; they put the frames of the reference on one footing, and are what is left
        where stars and structure are few.
    samples
        Joined with these scales.
    sightings
        Of all frames and the anchor.
    whole, best
        As for `solve_local`.
    """
    label, chosen = best_frames(scales, samples, best=best)
    if scales.anchor.any():
        chosen, whole = scales.anchor.copy(), True
    local = np.full(
        int(max(scales.frame.max(initial=-1), sightings.frame.max(initial=-1))) + 1, -1, dtype=np.int64
    )
    local[scales.frame] = np.arange(len(scales.frame))
    frame = local[sightings.frame]
    order = np.argsort(frame, kind="stable")
    order = order[frame[order] >= 0]
    frame, star = frame[order], sightings.star[order]
    level = sightings.log_flux[order] + np.log(scales.scale)[frame]
    uncertain = np.hypot(sightings.log_error[order].astype(np.float64), FLOOR)
    size = int(star.max(initial=-1)) + 1
    log_scale, stars = np.log(scales.scale), scales.stars.copy()
    error = scales.error.copy()
    for panel in [-1] if whole else np.unique(label[label >= 0]).tolist():
        references = chosen if whole else chosen & (label == panel)
        mine = references[frame]
        count = np.bincount(star[mine], minlength=size)
        mean = np.bincount(star[mine], weights=level[mine], minlength=size) / np.maximum(count, 1)
        square = np.bincount(star[mine], weights=uncertain[mine] ** 2, minlength=size)
        of_mean = np.sqrt(square) / np.maximum(count, 1)
        for f in np.flatnonzero(~scales.anchor & ((label == panel) | whole)).tolist():
            first, last = np.searchsorted(frame, (f, f + 1))
            both = count[star[first:last]] > 0
            ratio = (mean[star[first:last]] - level[first:last])[both]
            spread = np.hypot(uncertain[first:last], of_mean[star[first:last]])[both]
            if len(ratio) >= LEAST_RATIOS:
                kept = keep_chauvenet((ratio - np.median(ratio)) / spread)
                weight = kept / spread**2
                log_scale[f] += float(np.sum(weight * ratio) / np.sum(weight))
                stars[f] = np.count_nonzero(kept)
                error[f] = float(np.sqrt(np.sum((weight * (ratio - np.median(ratio))) ** 2)) / np.sum(weight))
                continue
            # Stars it has in common with all frames know better than structure, which noise weakens.
            if scales.stars[f] < LEAST_RATIOS:
                others = np.flatnonzero(references & (np.arange(len(label)) != f))
                log_scale[f] += _from_structure(samples, f, others)
                stars[f] = len(ratio)
    field = np.zeros_like(scales.field)
    field[:, 0] = log_scale
    departure = scales.departure * np.exp(log_scale) / scales.scale
    return replace(scales, scale=np.exp(log_scale), error=error, stars=stars, field=field, departure=departure)


def keep_chauvenet(value: Floats) -> Bools:
    """Tell values from outliers: by median and half-width first, by mean and standard deviation last.

    Robust Chauvenet rejection (Maples et al. 2018, ApJS 238, 2).
    """
    keep = np.ones(len(value), dtype=bool)
    for robust in (True, False):
        while np.count_nonzero(keep) > 3:
            held = value[keep]
            centre = float(np.median(held)) if robust else float(np.mean(held))
            away = np.where(keep, np.abs(value - centre), -1.0)
            spread = float(np.quantile(away[keep], 0.683)) if robust else float(np.std(held, ddof=1))
            farthest = int(np.argmax(away))
            if spread <= 0 or len(held) * float(erfc(away[farthest] / spread / np.sqrt(2.0))) >= CHAUVENET:
                break
            keep[farthest] = False
    return keep


def _smooth(seen: Observations, here: slice) -> Floats:
    """Quadratics at a frame's samples."""
    u, v = seen.u[here].astype(np.float64), seen.v[here].astype(np.float64)
    return legendre(2.0 * u - 1.0, 2.0 * v - 1.0, 2)


def _from_structure(samples: BandSamples, f: int, references: Ints) -> float:
    """Ln of the scale that makes the structure of a frame that of its reference; 0 where that cannot be told."""
    seen = samples.observations
    here = slice(seen.start[f], seen.start[f + 1])
    point = seen.point[here]
    total, count = np.zeros(seen.points), np.zeros(seen.points)
    for r in references:
        mine = slice(seen.start[r], seen.start[r + 1])
        total[seen.point[mine]] += samples.value[mine]
        count[seen.point[mine]] += 1
    good = count[point] > 0
    if np.count_nonzero(good) < LEAST_STRUCTURE:
        return 0.0
    terms = _smooth(seen, here)[good]
    both = np.stack([samples.value[here][good], (total[point] / np.maximum(count[point], 1))[good]], axis=-1)
    both = both - terms @ np.linalg.lstsq(terms, both, rcond=None)[0]
    # Superpixels whose detail is lost in the noise say nothing.
    limit = 3.0 / np.sqrt(np.median(samples.precision[here]))
    both = both[np.abs(both).max(axis=-1) > limit]
    if len(both) < LEAST_STRUCTURE or np.corrcoef(both.T)[0, 1] < LEAST_CORRELATION:
        return 0.0
    return float(np.log(np.std(both[:, 1]) / np.std(both[:, 0])))
