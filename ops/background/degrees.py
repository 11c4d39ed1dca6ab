"""How much of a surface a band's sky can bear: the degree, and what speaks against a higher one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.background.plain_sky import plain_blocks
from skyloom.ops.background.polynomials import folds, held_out_error, least_squares, reach
from skyloom.ops.normalization.legendre import ORDERS, legendre

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FARTHEST = 6.0
"""How much larger than with sky everywhere the error of a surface may be where objects hide the sky."""
HIGHEST = 4
POINTS = 8
"""Blocks of plain sky a term of the surface needs."""
SHARE = (0.0, 0.15, 0.25, 0.35, 0.45)
"""Fraction of the field that must be plain sky for a surface of degree 0, 1, …"""
CLEAR = 3.0
"""Scatter of the sky, in σ of a cell, beyond which it may be nebula."""
STANDS_OUT = (0.0, 20.0, 30.0, 50.0, 80.0)
"""Amplitude of a surface of degree 0, 1, … in units of that scatter from which on it is one nevertheless."""
NOT_PLAIN = "no plain sky"
GAIN = 1.01
"""Factor by which a higher degree must foretell held-out sky better."""


@dataclass(frozen=True)
class Surface:
    """The polynomial of a band's sky."""

    degree: int
    coefficients: Floats
    plain: Mask
    scatter: float
    """σ of the plain blocks about it."""
    noise: float
    """σ that the pixels' noise explains."""
    told: str = ""
    """Why it is of a lower degree than asked, or that a higher one would follow the sky."""
    structure: float = 0.0
    """What the plain blocks scatter beyond their noise, in σ of a cell."""
    nebula: bool = False
    """No surface was found because the whole field has structure."""


def find_surface(
    level: Floats, sigma: Floats, s: Floats, t: Floats, *, degree: int, limit: float, grow: int, cell_noise: float
) -> Surface:
    """Plain sky of a band and the highest degree it bears.

    Parameters
    ----------
    level, sigma
        Shape (rows, columns): levels of blocks and their noise, NaN = not to be used.
    s, t
        Their places, −1…1 along the longer side.
    degree
        The highest.
    limit, grow
        See `plain_blocks`.
    cell_noise
        σ of the level of a cell of 16 pixels: the measure of structure, whatever the blocks.
    """
    told: list[str] = []

    def attempt(tried: int) -> Surface:
        return _attempt(level, sigma, s, t, tried, limit=limit, grow=grow, cell_noise=cell_noise)

    for tried in range(degree, 0, -1):
        surface = attempt(tried)
        if not surface.told:
            return replace(simplest(surface, level, sigma, s, t), told=told[0] if told else "")
        told.append(surface.told)
        # Structure that a surface of a higher degree follows is a bend of the slope and no nebula.
        if tried == degree and surface.nebula:
            for higher in range(degree + 1, HIGHEST + 1):
                bent = attempt(higher)
                if not bent.told:
                    lower = refit(replace(bent, degree=degree), level, sigma, s, t, bent.plain)
                    return replace(lower, told=f"its sky bends more than degree {degree} does: allow {higher}")
    flat = constant(level, sigma, s, t, limit=limit, grow=grow)
    return replace(flat, told=told[0] if told else "", nebula=any(text.startswith(NOT_PLAIN) for text in told))


def _attempt(
    level: Floats, sigma: Floats, s: Floats, t: Floats, degree: int, *, limit: float, grow: int, cell_noise: float
) -> Surface:
    """A surface of a degree, with what speaks against it as `told` (`nebula`: because the field has structure)."""
    there = np.isfinite(level)
    terms = legendre(s, t, degree)
    if there.sum() < POINTS * terms.shape[-1]:
        return Surface(degree, np.zeros(1), there, 0.0, 0.0, f"too few places for degree {degree}")
    found = plain_blocks(level, sigma, terms, there, limit=limit, grow=grow)
    surface = _surface(level, sigma, terms, degree, found.blocks)
    beyond = float(np.sqrt(max(surface.scatter**2 - surface.noise**2, 0.0)))
    against = unknown(degree, surface.plain, terms, there) or _hidden(surface, terms, there, beyond, cell_noise)
    return replace(
        surface,
        told=against,
        structure=beyond / max(cell_noise, 1e-300),
        nebula=against.startswith(NOT_PLAIN),
    )


def constant(level: Floats, sigma: Floats, s: Floats, t: Floats, *, limit: float, grow: int) -> Surface:
    """The level of the plain sky."""
    there = np.isfinite(level)
    terms = legendre(s, t, 0)
    if there.sum() < 2 * POINTS:
        return _surface(level, sigma, terms, 0, there)
    return _surface(
        level, sigma, terms, 0, plain_blocks(level, sigma, terms, there, limit=limit, grow=grow).blocks
    )


def refit(surface: Surface, level: Floats, sigma: Floats, s: Floats, t: Floats, plain: Mask) -> Surface:
    """The same degree through other blocks."""
    fresh = _surface(level, sigma, legendre(s, t, surface.degree), surface.degree, plain)
    return replace(fresh, told=surface.told, structure=surface.structure)


def simplest(surface: Surface, level: Floats, sigma: Floats, s: Floats, t: Floats) -> Surface:
    """The lowest degree that foretells patches of plain sky held out of the fit as well as the best does."""
    plain = surface.plain
    fold = folds(s[plain], t[plain])
    errors = [
        held_out_error(legendre(s[plain], t[plain], d), level[plain], fold) for d in range(surface.degree + 1)
    ]
    degree = next(d for d, e in enumerate(errors) if e <= GAIN * min(errors))
    return refit(replace(surface, degree=degree), level, sigma, s, t, plain)


def least_points(degree: int) -> int:
    """Blocks of plain sky a degree needs."""
    return POINTS * len(ORDERS[degree])


def _surface(level: Floats, sigma: Floats, terms: Floats, degree: int, plain: Mask) -> Surface:
    if not plain.any():
        return Surface(0, np.zeros(1), plain, 0.0, 0.0)
    coefficients = least_squares(terms[plain], level[plain])
    residual = level[plain] - terms[plain] @ coefficients
    scatter = 1.4826 * float(np.median(np.abs(residual)))
    return Surface(degree, coefficients, plain, scatter, float(np.median(sigma[plain])))


def unknown(degree: int, plain: Mask, terms: Floats, there: Mask) -> str:
    """Whether there is too little plain sky for a surface, and why; empty: enough."""
    share = plain.sum() / there.sum()
    if share < SHARE[degree] or plain.sum() < least_points(degree):
        return f"{100 * share:.0f} % of the field are plain sky, too little for degree {degree}"
    if reach(terms[there], plain[there]) > FARTHEST:
        return f"plain sky lies on one side only, degree {degree} would be a guess elsewhere"
    return ""


def _hidden(surface: Surface, terms: Floats, there: Mask, beyond: float, cell_noise: float) -> str:
    """Whether a surface is hidden in the structure of the field, and how; empty: not."""
    amplitude = float(np.ptp(np.quantile(terms[there] @ surface.coefficients, (0.02, 0.98))))
    if beyond <= CLEAR * cell_noise or amplitude >= STANDS_OUT[surface.degree] * beyond:
        return ""
    return (
        f"{NOT_PLAIN}: it scatters by {beyond:.3g} ({beyond / max(cell_noise, 1e-300):.0f} times its noise), "
        f"and no slope of {amplitude:.3g} stands out of that"
    )
