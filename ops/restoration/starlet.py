"""Starlets: an image as structures of 2, 4, 8 … pixels that add up to it, holes left out of every mean."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.symmetric import convolve

Floats = NDArray[np.float64]

B3 = np.array([6.0, 4.0, 1.0]) / 16.0
"""Cubic B-spline, its middle and one side; at scale j the taps are 2^(j - 1) pixels apart."""
NEIGHBOURS = np.array([2.0, 1.0]) / 4.0
"""Mean over a coefficient and its neighbours, likewise."""
CERTAIN = 1e6
"""(Coefficient / noise)² where noise is not known: nothing there is taken for noise."""


def reach(scales: int, around: int, restore: int = 0) -> int:
    """Pixels around a pixel that its denoised value depends on, parameters as in `shrink`."""
    coarsest = 1 << (scales - 1)
    return (1 + restore) * 2 * (2 * coarsest - 1) + (1 + around) * coarsest


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


@njit(nogil=True, cache=True, fastmath=False, error_model="numpy")
def divide(values: Floats, share: Floats, there: NDArray[np.bool_]) -> None:
    """Sums become means over what is there, in place; 0 where a pixel itself is not."""
    height, width = values.shape
    for y in range(height):
        for x in range(width):
            values[y, x] = values[y, x] / share[y, x] if there[y, x] else 0.0


@njit(nogil=True, cache=True, fastmath=False, error_model="numpy")
def significance(fine: Floats, coarse: Floats, variance: Floats, factor: float, out: Floats) -> None:
    """Write (coefficient / noise)², coefficients being fine - coarse and the noise sqrt(variance · factor)."""
    height, width = fine.shape
    for y in range(height):
        f, c, v, target = fine[y], coarse[y], variance[y], out[y]
        for x in range(width):
            detail = f[x] - c[x]
            noise = v[x] * factor
            target[x] = min(detail * detail / noise, CERTAIN) if noise > 0.0 else CERTAIN


@njit(nogil=True, cache=True, fastmath=False, error_model="numpy")
def certainty(energy: Floats, low: float) -> None:
    """Mean (coefficient / noise)² becomes the fraction that is signal, in place: 0 up to low², 1 from (2 low)²."""
    height, width = energy.shape
    for y in range(height):
        line = energy[y]
        for x in range(width):
            t = min(max(np.sqrt(line[x]) / low - 1.0, 0.0), 1.0) if low > 0.0 else 1.0
            line[x] = t * t * (3.0 - 2.0 * t)


@njit(nogil=True, cache=True, fastmath=False, error_model="numpy")
def _take(
    fine: Floats,
    coarse: Floats,
    noise: Floats,
    certain: Floats,
    quiet: float,
    reference: float,
    kept: NDArray[np.float32],
    signal: NDArray[np.float32],
    denoised: Floats,
) -> None:
    """Take the noise of the coefficients fine - coarse from `denoised`; `kept` is what stays of them, written."""
    height, width = fine.shape
    for y in range(height):
        for x in range(width):
            stays = quiet
            if reference > 0.0 and noise[y, x] > 0.0:
                stays = min(1.0, quiet * np.sqrt(reference / noise[y, x]))
            stays += (1.0 - stays) * certain[y, x]
            kept[y, x] = stays
            # Half certain is noise that stands out: nothing of it is put back.
            signal[y, x] = max(2.0 * certain[y, x] - 1.0, 0.0)
            denoised[y, x] -= (1.0 - stays) * (fine[y, x] - coarse[y, x])


@njit(nogil=True, cache=True, fastmath=False, error_model="numpy")
def shrink(
    image: Floats,
    variance: Floats,
    covariance: Floats,
    low: float,
    around: int,
    restore: int,
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
        Coefficients up to so many steps from signal stay too.
    restore
        How often the coefficients that are signal are made those of the image again. A star is a peak and a ring
        whose sum is 0, and the peak without the ring, which noise hides, would change its flux.
    quiet
        Fraction of the noise of each scale that stays.
    reference
        Variance of pixels to whose noise that fraction refers; 0: to that of the pixels themselves.
    denoised, left
        Written: the plane less what was taken for noise, and the variance of its pixels. The outer `reach(scales,
        around, restore)` pixels of an array lack the neighbours they depend on.
    """
    height, width = image.shape
    scales = len(quiet)
    there = np.isfinite(image)
    whole = there.all()
    smooth, level, energy = np.empty((height, width)), np.empty((height, width)), np.empty((height, width))
    noise, one = np.empty((height, width)), np.empty((height, width))
    share = np.empty((0, 0) if whole else (height, width))
    kept = np.empty((scales, height, width), np.float32)
    signal = np.empty((scales, height, width), np.float32)
    denoised[:] = image
    prepare(image, variance, there, one, level, noise)
    for scale in range(scales):
        step = 2**scale
        convolve(level, B3, step, 0, smooth)
        if not whole:
            convolve(one, B3, step, 0, share)
            divide(smooth, share, there)
        # The finer level makes room for the energy once its coefficients are taken.
        significance(level, smooth, noise, covariance[scale, scale], left)
        if not whole:
            for y in range(height):
                for x in range(width):
                    left[y, x] *= one[y, x]
        convolve(left, NEIGHBOURS, step, 0, energy)
        if not whole:
            convolve(one, NEIGHBOURS, step, 0, left)
            divide(energy, left, there)
        certainty(energy, low)
        if around > 0:
            widen(energy, around, step, left)
        _take(level, smooth, noise, energy, quiet[scale], reference, kept[scale], signal[scale], denoised)
        level, smooth = smooth, level
        if scale + 1 < scales:
            convolve(noise, B3, step, 0, smooth)
            if not whole:
                divide(smooth, share, there)
            noise, smooth = smooth, noise
    for _ in range(restore):
        for y in range(height):
            for x in range(width):
                level[y, x] = image[y, x] - denoised[y, x] if there[y, x] else 0.0
        for scale in range(scales):
            convolve(level, B3, 2**scale, 0, smooth)
            if not whole:
                convolve(one, B3, 2**scale, 0, share)
                divide(smooth, share, there)
            for y in range(height):
                for x in range(width):
                    denoised[y, x] += signal[scale, y, x] * (level[y, x] - smooth[y, x])
            level, smooth = smooth, level
    _left(variance, kept, covariance, left)


@njit(nogil=True, cache=True, fastmath=False)
def _left(variance: Floats, kept: NDArray[np.float32], covariance: Floats, left: Floats) -> None:
    """Variance of pixels of whose coefficients a part is kept, and all of the smooth rest."""
    scales, height, width = kept.shape
    for y in range(height):
        line = left[y]
        line[:] = covariance[scales, scales]
        for i in range(scales):
            one = kept[i, y]
            rest = 2.0 * covariance[i, scales]
            for x in range(width):
                line[x] += one[x] * (rest + covariance[i, i] * one[x])
            for j in range(i):
                other, both = kept[j, y], 2.0 * covariance[i, j]
                for x in range(width):
                    line[x] += both * one[x] * other[x]
        for x in range(width):
            line[x] *= variance[y, x]
