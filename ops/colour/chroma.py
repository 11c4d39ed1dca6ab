"""Colour apart from brightness, on linear data: a luminance for the colours, smooth colour, no green cast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.colour.gaussian import TRUNCATE, smooth_both

Floats = NDArray[np.float64]
Green = Literal["none", "average", "maximum"]
GREENS = ("none", "average", "maximum")

COARSE = 4.0
"""Scale of the colour of faint places, in units of that of bright ones."""
BRIGHT = (2.0, 8.0)
"""Signal to noise of the smoothed brightness between which the coarse colour gives way to the fine one."""
DIFFERENT = (3.0, 9.0)
"""The fine colour's difference from the coarse one, squared over what noise makes of it, likewise."""


@dataclass(frozen=True)
class Chroma:
    """How colour is kept apart from brightness."""

    smoothing: float
    """σ of the Gaussian that smooths colour where there is signal (pixels); 0 = none."""
    knee: float
    """Pedestal under the ratios, in σ of the smoothed brightness: colour fades into grey below it."""
    green: Green = "none"
    amount: float = 1.0
    """Of the green cast that is taken away, 0…1."""
    significance: float = 0.0
    """Differences from grey below so many σ of theirs fade away."""

    @property
    def halo(self) -> int:
        """Pixels needed around a tile."""
        return 2 if self.smoothing == 0 else math.ceil(TRUNCATE * COARSE * self.smoothing) + 2


@njit(nogil=True, cache=True, fastmath=False, error_model="numpy")
def _recolour(
    light: Floats,
    light_variance: Floats,
    fine: Floats,
    fine_variance: Floats,
    coarse: Floats,
    coarse_variance: Floats,
    there: NDArray[np.bool_],
    two_scales: bool,
    knee: float,
    significance: float,
    green: int,
    amount: float,
    out: Floats,
    spread: Floats,
) -> None:
    """Write pixels and their variance as `recolour` has them; arrays without rows: not known, or not wanted."""
    height, width = light.shape
    known, wanted = fine_variance.shape[1] > 0, spread.shape[1] > 0
    third, ninth = 1.0 / 3.0, 1.0 / 9.0
    for y in range(height):
        for x in range(width):
            if not there[y, x]:
                for c in range(3):
                    out[c, y, x] = np.nan
                    if wanted:
                        spread[c, y, x] = np.nan
                continue
            r, g, b = fine[0, y, x], fine[1, y, x], fine[2, y, x]
            vr, vg, vb = 0.0, 0.0, 0.0
            if known:
                vr, vg, vb = fine_variance[0, y, x], fine_variance[1, y, x], fine_variance[2, y, x]
            bright = (r + g + b) * third
            noise = np.sqrt((vr + vg + vb) * ninth)
            if two_scales and noise > 0.0:
                step = min(max((bright / noise - BRIGHT[0]) / (BRIGHT[1] - BRIGHT[0]), 0.0), 1.0)
                step = step * step * (3.0 - 2.0 * step)
                rest = 1.0 - step
                cr, cg, cb = coarse[0, y, x], coarse[1, y, x], coarse[2, y, x]
                wr, wg, wb = coarse_variance[0, y, x], coarse_variance[1, y, x], coarse_variance[2, y, x]
                # Detail of colour that noise would make is left out: the coarse ratios on the fine brightness.
                lift = knee * np.sqrt((wr + wg + wb) * ninth) + 2.0 * max(-min(cr, cg, cb), 0.0)
                scale = (bright + lift) / max((cr + cg + cb) * third + lift, 1e-30)
                pr, pg, pb = scale * (cr + lift) - lift, scale * (cg + lift) - lift, scale * (cb + lift) - lift
                change = ((r - pr) ** 2 + (g - pg) ** 2 + (b - pb) ** 2) / (6.0 * noise * noise)
                detail = min(max((change - DIFFERENT[0]) / (DIFFERENT[1] - DIFFERENT[0]), 0.0), 1.0)
                detail *= detail * (3.0 - 2.0 * detail)
                # Where a star is diluted by what is around, its ratios are noisier than those of the fine scale.
                plain = (1.0 - detail) * max(1.0 - scale**2 * (wr + wg + wb) / (vr + vg + vb), 0.0)
                finer = step * (1.0 - plain)
                plain *= step
                r = finer * r + plain * pr + rest * cr
                g = finer * g + plain * pg + rest * cg
                b = finer * b + plain * pb + rest * cb
                other = (plain * scale + rest) ** 2
                vr, vg, vb = finer**2 * vr + other * wr, finer**2 * vg + other * wg, finer**2 * vb + other * wb
                bright = (r + g + b) * third
            mean_variance = (vr + vg + vb) * ninth
            if significance > 0.0 and known:
                # Shrunk towards grey by what noise alone would make of the differences (James and Stein 1961).
                size = (r - bright) ** 2 + (g - bright) ** 2 + (b - bright) ** 2
                share = max(1.0 - significance**2 * 6.0 * mean_variance / size, 0.0) if size > 0.0 else 0.0
                r, g, b = (
                    bright + (r - bright) * share,
                    bright + (g - bright) * share,
                    bright + (b - bright) * share,
                )
            # A colour below the background lifts the pedestal, so that no ratio is negative or divided by nothing.
            pedestal = knee * noise + 2.0 * max(-min(r, g, b), 0.0)
            below = 1.0 / max(bright + pedestal, 1e-30)
            r = max((r + pedestal) * below, 0.0)
            g = max((g + pedestal) * below, 0.0)
            b = max((b + pedestal) * below, 0.0)
            if green > 0:
                limit = 0.5 * (r + b) if green == 1 else max(r, b)
                g -= amount * max(g - limit, 0.0)
            total = r + g + b
            if total > 0.0:
                whole = 3.0 / total
                r, g, b = r * whole, g * whole, b * whole
            else:
                r = g = b = 1.0
            # A dead pixel far below the background is grey.
            gain = max(light[y, x] + pedestal, 0.0)
            out[0, y, x] = light[y, x] + gain * (r - 1.0)
            out[1, y, x] = light[y, x] + gain * (g - 1.0)
            out[2, y, x] = light[y, x] + gain * (b - 1.0)
            if wanted:
                # First order: r dL + (L + k)/(Y + k) (dc - r dY), the luminance independent of the colours.
                steep, own = (gain * below) ** 2, light_variance[y, x]
                spread[0, y, x] = r**2 * own + steep * (vr * (1.0 - 2.0 * third * r) + r**2 * mean_variance)
                spread[1, y, x] = g**2 * own + steep * (vg * (1.0 - 2.0 * third * g) + g**2 * mean_variance)
                spread[2, y, x] = b**2 * own + steep * (vb * (1.0 - 2.0 * third * b) + b**2 * mean_variance)


def recolour(
    rgb: Floats,
    variance: Floats | None,
    light: Floats,
    light_variance: Floats | None,
    chroma: Chroma,
    *,
    margin: int = 0,
) -> tuple[Floats, Floats | None]:
    """Put the colour of `rgb` on the brightness `light`, linearly.

    Parameters
    ----------
    rgb, variance
        Shape (3, rows, columns), background at 0, NaN = no data; variance None = not known.
    light, light_variance
        Shape (rows, columns): luminance on the scale of the mean of the three, or that mean itself.
    chroma
        How.
    margin
        Rows and columns on each side that are not wanted; `chroma.halo` of them depend on what is beyond.

    Returns
    -------
    pixels, variance
        Shape (3, rows - 2 margin, columns - 2 margin). The mean of the three is `light`, whatever the smoothing.

    Notes
    -----
    c' = (L + k) (c_s + k) / (Y_s + k) - k with the smoothed colours c_s, their mean Y_s and k = knee · σ(Y_s): the
    ratio of colours where there is signal, the difference from grey where there is none, so that noise about zero
    is never divided by. Where Y_s is below 2…8 σ the colours come from a scale four times coarser; where they are
    those of that scale but for noise (the squared difference less than 3…9 times as large), its ratios are put on
    Y_s, as far as those are less noisy. Where a smoothed colour lies below the background, k is larger by twice
    that depth. Differences of the smoothed colours from grey that noise alone explains are shrunk away: no
    blotches on the sky. Green is held down as PixInsight's SCNR does it: G' = min(G, (R + B)/2) (average) or
    min(G, max(R, B)) (maximum).
    """
    there = np.isfinite(rgb).all(axis=0) & np.isfinite(light)
    known = variance is not None and light_variance is not None
    if variance is not None and light_variance is not None:
        there &= np.isfinite(variance).all(axis=0) & np.isfinite(light_variance)
    inner = (slice(margin, there.shape[0] - margin), slice(margin, there.shape[1] - margin))
    fine, fine_variance = rgb[:, *inner], None if variance is None else variance[:, *inner]
    coarse, coarse_variance = fine, fine_variance
    smoothed = chroma.smoothing > 0
    if smoothed:
        fine, fine_variance = smooth_both(rgb, variance, there, chroma.smoothing, margin=margin)
        if variance is not None:
            coarse, coarse_variance = smooth_both(rgb, variance, there, COARSE * chroma.smoothing, margin=margin)
    out = np.empty(fine.shape)
    spread = np.empty(fine.shape if known else (3, 0, 0))
    nothing = np.empty((3, 0, 0))
    _recolour(
        light[inner],
        nothing[0] if light_variance is None else light_variance[inner],
        fine,
        nothing if fine_variance is None else fine_variance,
        coarse,
        nothing if coarse_variance is None else coarse_variance,
        there[inner],
        smoothed and variance is not None,
        chroma.knee,
        chroma.significance,
        GREENS.index(chroma.green),
        chroma.amount,
        out,
        spread,
    )
    return out, spread if known else None
