"""How far a frame's correction can be trusted in each part of it: where nothing ties it, it should count for less.

A surface is known where samples hold it and runs away where none do: beyond the last overlap, where stars or
clouds took the samples, in a corner. Its standard error there, the other frames taken as right, is

    σ²(u, v) = φᵀ (ΦᵀW(1 − share)Φ + Λ)⁻¹ φ

with the weights and the prior of the last round. A frame whose surface errs by σ and whose pixels by n deserves,
over a patch of L × L pixels, the weight 1 / (n²/L² + σ²): what n alone would give, times 1 / (1 + (L σ/n)²).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from skyloom.ops import surface
from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.legendre import ORDERS, legendre
from skyloom.ops.normalization.observations import Floats, Observations, Singles

VISIBLE = 1.0 / 8.0
"""Error of a background, in units of the pixel noise, at which a frame counts half: patches of 8 × 8 pixels."""
_NEAR = 1.0 / 16.0
"""Width (standard deviation, parts of a frame) of what counts as near by: two superpixels."""


def surface_covariances(system: System) -> Floats:
    """Covariance of each frame's coefficients, the others taken as right, shape (frames, K, K)."""
    terms = system.observations.terms
    held = system.alone()
    held[:, np.arange(terms), np.arange(terms)] += system.prior
    return np.asarray(np.linalg.inv(held))


def surface_error(covariance: Floats) -> Floats:
    """Standard error of a frame's surface at `surface.sample_positions`, (v, u), from (K, K)."""
    terms = _terms(len(covariance))
    variance = np.sum((terms @ covariance) * terms, axis=-1)
    side = len(surface.sample_positions())
    return np.asarray(np.sqrt(np.maximum(variance, 0.0)).reshape(side, side))


@lru_cache(maxsize=8)
def _terms(count: int) -> Floats:
    order = next(n for n, terms in ORDERS.items() if len(terms) == count)
    at = 2.0 * surface.sample_positions() - 1.0
    t, s = (g.ravel() for g in np.meshgrid(at, at, indexing="ij"))
    return np.asarray(legendre(s, t, order))


def support(seen: Observations, frame: int, kept: Singles) -> Floats:
    """Whether robust weighting has kept the samples near by, (v, u); 1 where there are none.

    Parameters
    ----------
    seen, frame
        The samples, and whose.
    kept
        Robust weight of each sample of all frames, 0…1.

    Returns
    -------
    ndarray
        1 where at least six in ten count, falling to 0 where a quarter does: a trail takes a row of samples, and
        pixels by themselves are for rejection to find; a glow takes them all.
    """
    here = slice(seen.start[frame], seen.start[frame + 1])
    at, mine = surface.sample_positions(), kept[here].astype(np.float64)
    if len(seen.u) != len(seen.point) or mine.min(initial=1.0) > 0.5:
        return np.ones((len(at), len(at)))
    across, up = (np.exp(-0.5 * ((at[:, None] - c[here]) / _NEAR) ** 2) for c in (seen.u, seen.v))
    # Rejected is what has lost most of its weight: half of a good sample's is how the biweight treats noise.
    lost = (up * (mine < 0.25)) @ across.T
    t = np.clip((lost / (up @ across.T + 1.0) - 0.4) / 0.35, 0.0, 1.0)
    return np.asarray(1.0 - t * t * (3.0 - 2.0 * t))


def confidence(error: Floats, support: Floats, noise: Floats | float) -> Floats:
    """Weight of a frame relative to that of one which is corrected perfectly, 0…1.

    Parameters
    ----------
    error
        Of the background.
    support
        From `support`.
    noise
        Of a pixel, in the same units; where it is not known, or 0, the error does not count.
    """
    noise = np.broadcast_to(np.asarray(noise, dtype=np.float64), error.shape)
    known = np.isfinite(noise) & (noise > 0)
    ratio = np.divide(error, VISIBLE * noise, out=np.zeros_like(error), where=known)
    # Squares of what is unknown altogether may be infinite.
    with np.errstate(over="ignore"):
        return np.asarray(support / (1.0 + ratio**2))
