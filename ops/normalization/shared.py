"""What the surfaces of a group of frames have in common: the flat's error or the moon of a night.

x_f = o_f + h_g, with own parts o ~ N(0, σ_o²) and a common part h ~ N(0, σ_h²) of each group, term by term. No
unknowns are added: with h integrated out, the prior precision of the n frames of a group is

    (σ_o² I + σ_h² 11ᵀ)⁻¹ = σ_o⁻² (I − c 11ᵀ),   c = σ_h² / (σ_o² + n σ_h²)

so that a slope which all frames of a night have costs what one has, and not n times that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from skyloom.ops.normalization.observations import Bools, Floats, Ints

ALONE = -1
"""Group of frames which share nothing."""


@dataclass(frozen=True)
class Shared:
    """The common part of the prior for given spreads."""

    group: Ints
    """(frames,) numbered from 0; `ALONE`."""
    factor: Floats
    """(groups, K): σ_o⁻² c."""

    def times(self, x: Floats) -> Floats:
        """What is taken from Λx, shapes (frames, K)."""
        within = self.group >= 0
        label = self.group[within]
        total = np.zeros_like(self.factor)
        np.add.at(total, label, x[within])
        out = np.zeros_like(x)
        out[within] = (self.factor * total)[label]
        return out

    def subtract_from(self, matrix: Floats) -> None:
        """Take it from Λ inside the dense matrix (frames·K, frames·K), in place."""
        terms = self.factor.shape[1]
        for g, factors in enumerate(self.factor):
            members = np.flatnonzero(self.group == g)
            for k in range(terms):
                at = members * terms + k
                matrix[np.ix_(at, at)] -= factors[k]


def shared_prior(group: Ints, own: Floats, common: Floats) -> Shared:
    """Set up from spreads of each term.

    Parameters
    ----------
    group
        (frames,).
    own, common
        (K,) σ_o and σ_h.
    """
    count = np.bincount(group[group >= 0], minlength=int(group.max(initial=-1)) + 1)
    share = common**2 / (own**2 + count[:, None] * common**2)
    return Shared(group, share / own**2)


def measured_spreads(
    x: Floats, inverse: Floats, group: Ints, own: Floats, common: Floats, *, terms: Ints, calm: Bools
) -> tuple[Floats, Floats]:
    """Next estimates of σ_o and σ_h of each order, from a solution and its covariance.

    Parameters
    ----------
    x, inverse
        Coefficients (frames, K), and their posterior covariance (frames·K, frames·K).
    group, own, common
        As for `shared_prior`, but (order + 1,) each.
    terms
        (K,) order of each term.
    calm
        (frames,) frames to look at.
    """
    k_all = x.shape[1]
    squares: list[list[list[Floats]]] = [[[] for _ in own], [[] for _ in own]]
    posterior: list[list[list[Floats]]] = [[[] for _ in own], [[] for _ in own]]
    for k in range(k_all):
        order = int(terms[k])
        so, sh = own[order] ** 2, common[order] ** 2
        for members in _members(group, calm):
            at = members * k_all + k
            cov, n = inverse[np.ix_(at, at)], len(members)
            # Frames alone have no common part.
            shares = group[members[0]] >= 0
            c = sh / (so + n * sh) if shares else 0.0
            rest = sh * so / (so + n * sh) if shares else 0.0
            to_sum, mean = cov.sum(axis=1), c * float(x[members, k].sum())
            of_mean = c * c * float(to_sum.sum())
            squares[0][order].append((x[members, k] - mean) ** 2)
            posterior[0][order].append(np.diag(cov) - 2 * c * to_sum + of_mean + rest)
            if shares:
                squares[1][order].append(np.array([mean**2]))
                posterior[1][order].append(np.array([of_mean + rest]))
    next_own = _estimates(squares[0], posterior[0], own)
    next_common = _estimates(squares[1], posterior[1], common)
    least = float(next_own.max())
    return np.maximum(next_own, 1e-3 * least), np.maximum(next_common, 1e-6 * least)


def _members(group: Ints, calm: Bools) -> list[Ints]:
    alone = [np.array([f]) for f in np.flatnonzero(calm & (group < 0))]
    together = [np.flatnonzero(calm & (group == g)) for g in range(int(group.max(initial=-1)) + 1)]
    return [m for m in (*alone, *together) if len(m)]


def _estimates(
    squares: Sequence[Sequence[Floats]], posterior: Sequence[Sequence[Floats]], sigma: Floats
) -> Floats:
    out = sigma.copy()
    for order, (one, other) in enumerate(zip(squares, posterior, strict=True)):
        if one:
            out[order] = next_spread(np.concatenate(one), np.concatenate(other), float(sigma[order]))
    return out


def next_spread(square: Floats, posterior: Floats, sigma: float) -> float:
    """Next estimate of a spread (MacKay's fixed point of the evidence), the old one where there is nothing.

    σ² = Σx² / γ with γ = Σ(1 − var/σ²), the number of coefficients which the data determine; where that is small
    one plain EM step, σ² = mean(x² + var).
    """
    if square.size == 0 or not np.isfinite(posterior).all():
        return sigma
    determined = float(np.sum(1.0 - posterior / sigma**2))
    if determined > 0.1 * square.size:
        return float(np.sqrt(np.sum(square) / determined))
    return float(np.sqrt(max(float(np.mean(square + posterior)), 0.0)))
