"""Starlets: an image as structures of 2, 4, 8 … pixels that add up to it, holes left out of every mean."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]

B3 = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16.0
"""Taps of the cubic B-spline; at scale j they are 2^(j - 1) pixels apart."""
NEIGHBOURS = np.array([1.0, 2.0, 1.0]) / 4.0
"""Taps of the mean over a coefficient and its neighbours."""
CERTAIN = 1e6
"""(Coefficient / noise)² where noise is not known: nothing there is taken for noise."""


def reach(scales: int, around: int) -> int:
    """Pixels around a pixel that its starlets depend on, and those of neighbours up to `around` + 1 steps away."""
    coarsest = 1 << (scales - 1)
    return 2 * (2 * coarsest - 1) + (1 + around) * coarsest


@njit(nogil=True, cache=True, fastmath=False)
def spread(values: Floats, taps: Floats, step: int, rows: Floats, out: Floats) -> None:
    """Sum of taps · values, the taps `step` pixels apart, along both axes; beyond the array is nothing.

    Parameters
    ----------
    values
        Shape (rows, columns).
    taps
        An odd number.
    step
        Pixels.
    rows, out
        As `values`; written: the sums along y alone, and along both.
    """
    height, width = values.shape
    middle = len(taps) // 2
    rows[:] = 0.0
    out[:] = 0.0
    for y in range(height):
        for k in range(len(taps)):
            source = y + (k - middle) * step
            if 0 <= source < height:
                tap = taps[k]
                for x in range(width):
                    rows[y, x] += tap * values[source, x]
    for y in range(height):
        for k in range(len(taps)):
            shift = (k - middle) * step
            tap = taps[k]
            for x in range(max(0, -shift), min(width, width - shift)):
                out[y, x] += tap * rows[y, x + shift]


@njit(nogil=True, cache=True, fastmath=False)
def widen(values: Floats, count: int, step: int, rows: Floats) -> None:
    """Largest of the values up to `count` steps away along both axes, in place; `rows` is scratch."""
    height, width = values.shape
    for y in range(height):
        rows[y] = values[y]
        for k in range(-count, count + 1):
            source = y + k * step
            if 0 <= source < height:
                for x in range(width):
                    rows[y, x] = max(rows[y, x], values[source, x])
    for y in range(height):
        values[y] = rows[y]
        for k in range(-count, count + 1):
            shift = k * step
            for x in range(max(0, -shift), min(width, width - shift)):
                values[y, x] = max(values[y, x], rows[y, x + shift])


@njit(nogil=True, cache=True, fastmath=False)
def prepare(
    image: Floats, variance: Floats, there: NDArray[np.bool_], one: Floats, level: Floats, noise: Floats
) -> None:
    """Write 1, the pixels and their variance where there are data, else 0; variance that is not known is 0."""
    height, width = image.shape
    for y in range(height):
        for x in range(width):
            v = variance[y, x]
            one[y, x] = 1.0 if there[y, x] else 0.0
            level[y, x] = image[y, x] if there[y, x] else 0.0
            noise[y, x] = v if there[y, x] and np.isfinite(v) and v > 0.0 else 0.0


@njit(nogil=True, cache=True, fastmath=False)
def divide(values: Floats, share: Floats, there: NDArray[np.bool_]) -> None:
    """Sums become means over what is there, in place; 0 where a pixel itself is not."""
    height, width = values.shape
    for y in range(height):
        for x in range(width):
            values[y, x] = values[y, x] / share[y, x] if there[y, x] else 0.0


@njit(nogil=True, cache=True, fastmath=False)
def significance(detail: Floats, variance: Floats, factor: float, there: NDArray[np.bool_], out: Floats) -> None:
    """Write (coefficient / noise)², the noise being sqrt(variance · factor); 0 where there is no data."""
    height, width = detail.shape
    for y in range(height):
        for x in range(width):
            noise = variance[y, x] * factor
            if not there[y, x]:
                out[y, x] = 0.0
            elif noise > 0.0:
                out[y, x] = min(detail[y, x] * detail[y, x] / noise, CERTAIN)
            else:
                out[y, x] = CERTAIN


@njit(nogil=True, cache=True, fastmath=False)
def certainty(energy: Floats, low: float) -> None:
    """Mean (coefficient / noise)² becomes the fraction that is signal, in place: 0 up to low², 1 from (2 low)²."""
    height, width = energy.shape
    for y in range(height):
        for x in range(width):
            if low > 0.0:
                t = min(max(np.sqrt(energy[y, x]) / low - 1.0, 0.0), 1.0)
                energy[y, x] = t * t * (3.0 - 2.0 * t)
            else:
                energy[y, x] = 1.0


@njit(nogil=True, cache=True, fastmath=False)
def shrink(
    image: Floats,
    variance: Floats,
    covariance: Floats,
    low: float,
    around: int,
    quiet: Floats,
    reference: float,
    denoised: Floats,
    left: Floats,
) -> None:
    """Take noise out of the starlets of a plane.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    variance
        As `image`; where it is NaN or 0 nothing is taken for noise.
    covariance
        Shape (scales + 1, scales + 1): of the starlets of a pixel and of the smooth rest, for noise of variance 1.
    low
        Up to so many σ a coefficient and its neighbours count as noise, from twice as many as signal.
    around
        Coefficients up to so many steps from signal stay too: a star is a peak and a ring whose sum is 0, and one
        without the other would change its flux.
    quiet
        Fraction of the noise of each scale that stays.
    reference
        Variance of pixels to whose noise that fraction refers; 0: to that of the pixels themselves.
    denoised, left
        Written: the plane less what was taken for noise, and the variance of its pixels. The outer `reach(scales,
        around)` pixels of an array lack the neighbours they depend on.
    """
    height, width = image.shape
    scales = len(quiet)
    there = np.isfinite(image)
    whole = there.all()
    smooth, level, energy = np.empty((height, width)), np.empty((height, width)), np.empty((height, width))
    rows, share, one = np.empty((height, width)), np.ones((height, width)), np.empty((height, width))
    noise, detail = np.empty((height, width)), np.empty((height, width))
    factors = np.empty((scales + 1, height, width), np.float32)
    factors[scales] = 1.0
    denoised[:] = image
    prepare(image, variance, there, one, level, noise)
    for scale in range(scales):
        step = 2**scale
        spread(level, B3, step, rows, smooth)
        if not whole:
            spread(one, B3, step, rows, share)
            divide(smooth, share, there)
        for y in range(height):
            for x in range(width):
                detail[y, x] = level[y, x] - smooth[y, x]
        level, smooth = smooth, level
        significance(detail, noise, covariance[scale, scale], there, smooth)
        spread(smooth, NEIGHBOURS, step, rows, energy)
        if not whole:
            spread(one, NEIGHBOURS, step, rows, smooth)
            divide(energy, smooth, there)
        certainty(energy, low)
        if around > 0:
            widen(energy, around, step, rows)
        for y in range(height):
            for x in range(width):
                stays = quiet[scale]
                if reference > 0.0 and noise[y, x] > 0.0:
                    stays = min(1.0, stays * np.sqrt(reference / noise[y, x]))
                stays += (1.0 - stays) * energy[y, x]
                factors[scale, y, x] = stays
                denoised[y, x] -= (1.0 - stays) * detail[y, x]
        if scale + 1 < scales:
            spread(noise, B3, step, rows, smooth)
            if not whole:
                divide(smooth, share, there)
            noise, smooth = smooth, noise
    for y in range(height):
        for x in range(width):
            total = 0.0
            for i in range(scales + 1):
                for j in range(scales + 1):
                    total += factors[i, y, x] * factors[j, y, x] * covariance[i, j]
            left[y, x] = variance[y, x] * total
