"""Backgrounds in the units of their frames: where transparency varies, what is smooth on the detector may be b.

    a·d = s + a·b,   a·b = g·(L + Φx),   g = 1 + q·(a / (mean of a over the frame) − 1)

Light from below thin clouds (towns, the moon on haze) stays what it is while a frame's scale follows them: a·b
then has the shape of the clouds in it, times the whole glow L, and takes surfaces of twice the degree; times g, a
plane stays a plane. Light from above the clouds is dimmed as stars are, and a·b is smooth by itself. q is the part
from below, 0…1, and overlaps tell it: a·b differs from a quadratic by q·L·(a / mean − 1) or does not.

A constant added to x is then no longer one added to the sky: uneven frames know what is a convention elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.linalg

from skyloom.ops import surface
from skyloom.ops.normalization.joint import Coarse, System
from skyloom.ops.normalization.legendre import evaluate, legendre
from skyloom.ops.normalization.observations import Bools, Floats, Ints, Observations, Samples, Singles
from skyloom.ops.normalization.reweighting import LEAST_SQUARES, Reweighting
from skyloom.ops.normalization.sweeps import subtract_surfaces

SURE = 5.0
"""Standard errors by which the part from below must differ from 0."""
PART_ORDER = 2
"""Degree of the surfaces beside which it is told."""
_ROUNDS, _PLAIN = 7, 3
"""Of estimates, and those without robust weights: until then uneven frames look as if they disagreed."""
_FITTED = 200
"""Samples of a frame which its part of the coarse space is fitted to."""


def sample_gains(seen: Observations, field: Floats) -> Singles:
    """Gains of samples for q = 1 from ln a (frame, 6); empty where all frames are evenly transparent."""
    if not field[:, 1:].any():
        return np.empty(0, dtype=np.float32)
    gain: Singles = np.ones(len(seen.point), dtype=np.float32)
    for f in np.flatnonzero(field[:, 1:].any(axis=1)).tolist():
        mine = slice(seen.start[f], seen.start[f + 1])
        gain[mine] = _gain(field[f], seen.u[mine].astype(np.float64), seen.v[mine].astype(np.float64))
    return gain


def glow(field: Floats, samples: Sequence[Samples], own: Bools) -> float:
    """L: the typical level of the frames (not anchors) in common units.

    The median of a frame is that of its glow, whatever is bright in it.
    """
    levels = [
        float(np.exp(field[f, 0]) * np.median(samples[f].value))
        for f in np.flatnonzero(own).tolist()
        if len(samples[f])
    ]
    return float(np.median(levels)) if levels else 0.0


def gain_maps(field: Floats, part: float) -> Floats:
    """Gains of each frame at `surface.sample_positions`, (frame, v, u)."""
    at = surface.sample_positions()
    v, u = np.meshgrid(at, at, indexing="ij")
    return np.array([1.0 + part * (_gain(f, u, v) - 1.0) for f in field]).reshape(-1, len(at), len(at))


def _gain(field: Floats, u: Floats, v: Floats) -> Floats:
    if not field[1:].any():
        return np.ones(np.shape(u))
    return np.asarray(np.exp(evaluate(np.concatenate([[0.0], field[1:]]), u, v)))


def part_below(
    seen: Observations, y: Floats, stated: Singles, spread: float, *, level: float, clip: float
) -> float:
    """Tell the part q of the glow that clouds do not dim; 0 where overlaps cannot tell it from 0.

    Parameters
    ----------
    seen, y, stated
        Samples with gains of few frames, which stand for all.
    spread
        Of the surfaces' coefficients, generously.
    level
        L.
    clip
        As in `solve_surfaces`.

    Notes
    -----
    One more unknown beside quadratics of all frames and the sky, found by Gauss and Newton: a·b changes with q by
    (a / mean − 1)·(L + Φx). What surfaces and sky leave of that is compared with what they leave of the samples.
    Errors of a make it somewhat too small.
    """
    excess = seen.gain.astype(np.float64) - 1.0
    seen = replace(seen, order=PART_ORDER)
    prior = np.full((seen.frames, seen.terms), spread**-2.0)
    reweighting = Reweighting(seen, stated, clip)
    weight, part, error, smooth = stated, 0.5, np.inf, np.empty(len(y))
    for turn in range(_ROUNDS):
        own, rest = below_clouds(seen, y, part=part, level=level)
        system = System(own, weight, prior)
        factor = system.factor()
        x = _solve(factor, system.project(rest))
        subtract_surfaces(seen.start, seen.u, seen.v, seen.order, seen.gain[:0], np.zeros(len(y)), x, smooth)
        shape = excess * (level - smooth)
        left = system.residual(shape, _solve(factor, system.project(shape)))
        strength = float(np.sum(weight * left**2))
        if strength <= 0:
            return 0.0
        step = float(np.sum(weight * left * system.residual(rest, x))) / strength
        part, error = float(np.clip(part + step, -0.5, 1.5)), strength**-0.5
        if _PLAIN <= turn + 1 < _ROUNDS:
            # Huber's weights to the end: a frame that counts for nothing tells nothing.
            weight = reweighting.next(system, rest, x, LEAST_SQUARES)
    return float(np.clip(part, 0.0, 1.0)) if part > SURE * error else 0.0


def _solve(factor: tuple[Floats, bool], right: Floats) -> Floats:
    found = scipy.linalg.cho_solve(factor, right.ravel(), check_finite=False)
    return np.asarray(found.reshape(right.shape))


def below_clouds(seen: Observations, y: Floats, *, part: float, level: float) -> tuple[Observations, Floats]:
    """Samples with the gains g, less the level g·L."""
    if part == 0.0:
        return replace(seen, gain=np.empty(0, np.float32)), y
    excess = np.float32(part) * (seen.gain - np.float32(1))
    return replace(seen, gain=excess + np.float32(1)), y - level * excess.astype(np.float64)


def follow_gains(coarse: Coarse, seen: Observations) -> Coarse:
    """Bend a coarse space so that gains times its surfaces are, as near as may be, surfaces of the sky again."""
    if not len(seen.gain):
        return coarse
    transform = coarse.transform.copy()
    for f in np.flatnonzero(seen.count).tolist():
        here = slice(seen.start[f], seen.start[f + 1], max(int(seen.count[f]) // _FITTED, 1))
        gain = seen.gain[here].astype(np.float64)
        if np.ptp(gain) == 0:
            continue
        s, t = (2.0 * c[here].astype(np.float64) - 1.0 for c in (seen.u, seen.v))
        terms = legendre(s, t, seen.order)
        bent = terms * gain[:, None]
        # What samples do not hold stays as it was.
        stiff = 1e-9 * len(s) * np.eye(seen.terms)
        missing = (terms - bent) @ transform[f]
        transform[f] += np.linalg.solve(bent.T @ bent + stiff, bent.T @ missing)
    return replace(coarse, transform=transform)


def centre(background: Floats, island: Ints, own: Bools) -> Floats:
    """Backgrounds (frame, v, u) with mean 0 over the frames of each island."""
    size = int(island.max(initial=-1)) + 1
    total = np.bincount(island[own], weights=background[own].mean(axis=(1, 2)), minlength=size)
    mean = total / np.maximum(np.bincount(island[own], minlength=size), 1)
    return np.asarray(background - mean[island][:, None, None])
