"""Robust weights: of samples by their residual, of frames by the spread of theirs."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.normalization.joint import System
from skyloom.ops.normalization.observations import Bools, Floats, Observations, Singles

LEAST_SQUARES, HUBER, ROUNDS = 1, 4, 9
"""Rounds of reweighting: plain until the first, Huber until the second, Tukey's biweight to the end."""
HUBER_LIMIT, TUKEY_LIMIT = 1.5, 5.0
"""In robust standard deviations of the residuals."""
DISAGREES, SHUT = 9.0, 1e9
"""Inflation from which on a frame counts for nothing, and by how much its variances grow then: long waves are held
by no more than the prior, against which a thousand samples of a cloud are still strong."""
NOISY = 1.25
"""A frame's residuals may be this much wider than those of most before it counts for less."""


class Reweighting:
    """Weights for the next round, from the residuals of the last."""

    def __init__(
        self,
        seen: Observations,
        stated: Singles,
        clip: float,
        *,
        least: float = 1e-6,
        trusted: Bools | None = None,
    ) -> None:
        """Start from inverse variances as stated; samples beyond `clip` robust σ will not count.

        The residuals' robust rms, in stated errors, is taken for `least` where it is smaller. Frames
        that are `trusted` count however much they disagree.
        """
        self.seen, self.stated, self.clip, self.least = seen, stated, clip, least
        self.scale = 1.0
        self.inflation = np.ones(seen.frames)
        self.trusted = np.zeros(seen.frames, dtype=bool) if trusted is None else trusted

    def next(self, system: System, y: Floats, x: Floats, turn: int) -> Singles:
        """Weights for the round after `turn`."""
        if len(y) == 0:
            return self.stated
        z = standardized(system, y, x, self.stated)
        spread = _median_by_frame(z, self.seen) * 1.4826
        # Most frames decide what the noise is; a frame that is noisier than they are counts for less as a whole.
        self.scale = max(float(np.nanmedian(spread)), self.least)
        relative = np.nan_to_num(spread / self.scale, nan=1.0)
        self.inflation = np.where(relative > NOISY, relative**2, 1.0)
        weight = np.empty_like(self.stated)
        huber = HUBER_LIMIT if LEAST_SQUARES <= turn + 1 < HUBER else np.inf
        clip = self.clip if turn + 1 >= HUBER else np.inf
        _weigh(self.seen.start, z, self.stated, self.scale * np.sqrt(self.inflation), huber, clip, weight)
        if turn + 1 >= HUBER:
            for f in np.flatnonzero(self.shut):
                weight[self.seen.start[f] : self.seen.start[f + 1]] /= SHUT
        return weight

    @property
    def shut(self) -> Bools:
        """Frames that disagree with all others."""
        return np.asarray((self.inflation > DISAGREES) & ~self.trusted)

    def kept(self, weight: Singles) -> Singles:
        """Part of its frame's usual weight that each sample has, 0…1."""
        variance = self.scale**2 * self.inflation * np.where(self.shut, SHUT, 1.0)
        out = weight / self.stated
        for f in np.flatnonzero(self.seen.count):
            out[self.seen.start[f] : self.seen.start[f + 1]] *= np.float32(variance[f])
        return np.asarray(np.minimum(out, np.float32(1.0)))

    def rejected(self, weight: Singles) -> Floats:
        """Part of each frame's samples that has lost nine tenths of its weight or more."""
        variance = self.scale**2 * self.inflation * np.where(self.shut, SHUT, 1.0)
        low = _count_low(self.seen.start, weight, self.stated, variance)
        return np.asarray(low / np.maximum(self.seen.count, 1))


@njit(nogil=True, cache=True, fastmath=False)
def _standardize(point, stated, weight, inverse_depth, z):  # type: ignore[no-untyped-def]
    """Residuals → their size in units of their stated errors, in place."""
    for i in range(len(z)):
        alone = max(1.0 - weight[i] * inverse_depth[point[i]], 1e-3)
        z[i] = abs(z[i]) * np.sqrt(stated[i] / alone)


@njit(nogil=True, cache=True, fastmath=False)
def _weigh(start, z, stated, factor, huber, clip, weight):  # type: ignore[no-untyped-def]
    for f in range(len(start) - 1):
        for i in range(start[f], start[f + 1]):
            size = z[i] / factor[f]
            robust = 1.0
            if clip < np.inf:
                robust = max(1.0 - (size / clip) ** 2, 0.0) ** 2
            elif size > huber:
                robust = huber / size
            weight[i] = stated[i] / factor[f] ** 2 * robust


@njit(nogil=True, cache=True, fastmath=False)
def _count_low(start, weight, stated, factor):  # type: ignore[no-untyped-def]
    out = np.zeros(len(start) - 1)
    for f in range(len(out)):
        for i in range(start[f], start[f + 1]):
            if weight[i] * factor[f] < 0.1 * stated[i]:
                out[f] += 1.0
    return out


@njit(nogil=True, cache=True, fastmath=False)
def _leave_out(point, weight, inverse_depth, rest):  # type: ignore[no-untyped-def]
    """Distance to the mean of all → size of that to the mean of the others, in place."""
    for i in range(len(rest)):
        rest[i] = abs(rest[i]) / max(1.0 - weight[i] * inverse_depth[point[i]], 1e-6)


def standardized(system: System, y: Floats, x: Floats, stated: Singles) -> Floats:
    """Size of each residual in units of its error, the sample's share in its own sky accounted for."""
    z = system.residual(y, x)
    _standardize(system.observations.point, stated, system.weight, system.inverse_depth, z)
    return z


def rms_by_frame(system: System, y: Floats, x: Floats, *, only: Bools | None = None) -> Floats:
    """Robust rms distance of each frame's samples (or some of them) to the mean of the other frames.

    NaN where there are none.
    """
    rest = system.residual(y, x)
    _leave_out(system.observations.point, system.weight, system.inverse_depth, rest)
    return 1.4826 * _median_by_frame(rest, system.observations, only)


def _median_by_frame(value: Floats, seen: Observations, only: Bools | None = None) -> Floats:
    """Median of the samples of each frame; NaN where there are none."""
    out: NDArray[np.float64] = np.full(seen.frames, np.nan)
    for f in np.flatnonzero(seen.count):
        mine = value[seen.start[f] : seen.start[f + 1]]
        if only is not None:
            mine = mine[only[seen.start[f] : seen.start[f + 1]]]
        if len(mine):
            out[f] = np.median(mine)
    return out
