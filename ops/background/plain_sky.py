"""Which places of a mosaic show nothing but sky."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from skyloom.ops.background.polynomials import least_squares, likeliest_surfaces

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

FIRST_TERMS = (1, 3, 6, 10, 15)
"""Terms of surfaces of degree 0, 1, …"""
ROUNDS = 15
BELOW = 20.0
"""How much the fraction of the field that lies below a surface counts against it."""
EXTENDED = 4
"""Blocks that stand out together from which on they are an object that reaches as far as it can be seen."""
FADES = 0.7
"""An object ends where the smoothed excess falls below this fraction of the limit."""
LAX = 1.5
"""Factor by which the laxer limit is larger."""
CLEARLY = 1.05
"""Factor by which the sky must become narrower by it."""
DENSEST = 0.35
"""Fraction of the field that is taken to be sky to begin with."""


@dataclass(frozen=True)
class Plain:
    """The blocks that are sky, and the surface through them."""

    blocks: Mask
    coefficients: Floats
    misfit: float
    """Width of the densest third of the residuals, larger by what lies below the sky where nothing can."""


def plain_blocks(level: Floats, sigma: Floats, terms: Floats, there: Mask, *, limit: float, grow: int) -> Plain:
    """Find the blocks of a field that are sky: those a surface runs through and nothing lies below.

    Parameters
    ----------
    level, sigma
        Shape (rows, columns): levels and their noise.
    terms
        Shape (rows, columns, terms): of the surface of the sky, those of lower order first.
    there
        Shape (rows, columns): blocks that may be sky.
    limit
        σ above the sky at which a block is an object.
    grow
        Blocks that are left out around an extended object.

    Notes
    -----
    The surfaces closest to a third of the field first, then, for each, what stands out of the narrowest third of
    the residuals is left out and the surface fitted to the rest, until nothing changes. Objects only add light:
    the surface counts that ends with the narrowest residuals and the least below it.

    Light that a surface does not quite follow may be taken for an object; the surface then bends away from it, and
    more of it stands out the next time. So all is done with a laxer limit too, with which a surface follows such
    light. That counts if it leaves the sky clearly narrower: a nebula makes it no narrower.
    """
    found: list[Plain] = []
    for number in (n for n in FIRST_TERMS if n <= terms.shape[-1]):
        some = 2 if number == terms.shape[-1] else 1
        for first in likeliest_surfaces(terms[there][:, :number], level[there], DENSEST, number=some):
            begin = terms[..., :number] @ first
            strict, lax = (
                _settle(level, sigma, terms, there, begin, limit=limit, admitted=factor * limit, grow=grow)
                for factor in (1.0, LAX)
            )
            found += [strict, replace(lax, misfit=CLEARLY * lax.misfit)]
    return min(found, key=lambda p: p.misfit)


def _settle(
    level: Floats,
    sigma: Floats,
    terms: Floats,
    there: Mask,
    first: Floats,
    *,
    limit: float,
    admitted: float,
    grow: int,
) -> Plain:
    """Leave out what stands out by more than is admitted and fit the rest until nothing changes."""
    residual = level - first
    plain = there & (excess(residual, sigma, there) < admitted)
    coefficients = np.zeros(terms.shape[-1])
    for _ in range(ROUNDS):
        coefficients = least_squares(terms[plain], level[plain])
        residual = level - terms @ coefficients
        new = there & ~objects(residual, sigma, there, admitted, grow)
        if new.sum() < 3 * terms.shape[-1] or (new == plain).all():
            break
        plain = new
    below = float(np.mean(excess(residual, sigma, there)[there] < -limit))
    return Plain(plain, coefficients, densest(residual[there])[2] * (1.0 + BELOW * below))


def densest(values: Floats) -> tuple[float, float, float]:
    """Where values are most alike, how much they scatter below that, and how wide the densest third is.

    Returns
    -------
    middle
        Median of the narrowest interval that holds `DENSEST` of the values: the half-sample mode (Robertson &
        Cryer 1974) with another fraction. What lies on one side only does not move it.
    sigma
        From the median deviation of what lies below the middle: objects only add light.
    width
        Of the interval.
    """
    ordered = np.sort(values)
    number = max(int(np.ceil(DENSEST * len(ordered))), 2)
    if len(ordered) <= number:
        return float(np.median(ordered)), float(np.std(ordered)), float(np.ptp(ordered))
    widths = ordered[number - 1 :] - ordered[: len(ordered) - number + 1]
    best = int(np.argmin(widths))
    middle = float(np.median(ordered[best : best + number]))
    return middle, 1.4826 * float(np.median(middle - ordered[ordered <= middle])), float(widths[best])


def excess(residual: Floats, sigma: Floats, there: Mask) -> Floats:
    """How far blocks lie above the sky, in σ: of the noise, and of what the sky scatters beyond it."""
    middle, scatter, _ = densest(residual[there])
    more = max(scatter**2 - float(np.median(sigma[there] ** 2)), 0.0)
    return np.asarray((residual - middle) / np.maximum(np.sqrt(sigma**2 + more), 1e-12))


def objects(residual: Floats, sigma: Floats, there: Mask, limit: float, grow: int) -> Mask:
    """What stands out of the sky, and what surrounds it.

    Parameters
    ----------
    residual
        Shape (rows, columns): above the surface of the sky.
    sigma
        Noise of the levels.
    there
        Where both are known.
    limit
        σ at which a block, or the mean of 3 × 3, is an object.
    grow
        Blocks around an extended one.
    """
    above = np.where(there, excess(residual, sigma, there), 0.0)
    number = ndimage.uniform_filter(there.astype(np.float64), 3, mode="constant")
    # Single stars do not make a neighbourhood bright.
    capped = np.where(there, np.minimum(above, limit), 0.0)
    mean = ndimage.uniform_filter(capped, 3, mode="constant") / np.maximum(number, 1.0 / 9.0)
    # Neighbours are correlated, by resampling and by what the surface cannot follow: means have their own scatter.
    # Where the cap makes all alike is no sky.
    quiet = there & (above < limit)
    smooth = excess(mean, np.zeros_like(mean), quiet if quiet.any() else there)
    bright = there & ((above > limit) | (smooth > limit))
    faint = there & (smooth > FADES * limit)
    labels, count = ndimage.label(faint | bright, structure=np.ones((3, 3)))
    cores = np.bincount(labels[there & (smooth > limit)], minlength=count + 1)
    extended = cores >= EXTENDED
    extended[0] = False
    found = extended[labels]
    return np.asarray(bright | (ndimage.binary_dilation(found, iterations=grow) if grow else found))
