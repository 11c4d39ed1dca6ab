"""From linear pixels to what a screen can show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHADOWS = -2.8
"""Clipping point in robust sigmas below the median (the field's habit)."""
BACKGROUND = 0.25
"""Where the median lands on a scale of 0…1."""


@dataclass(frozen=True)
class Stretch:
    """A screen transfer function: shadows, highlights (pixel units) and midtones balance (0…1)."""

    shadows: float
    highlights: float
    midtones: float

    def apply(self, pixels: NDArray[np.floating]) -> NDArray[np.float32]:
        """Stretched pixels, 0…1; NaN stays NaN.

        The midtones transfer function is MTF(x; m) = (m − 1)x / ((2m − 1)x − m)
        (PixInsight reference documentation, HistogramTransformation).
        """
        x = np.clip((pixels - self.shadows) / (self.highlights - self.shadows), 0.0, 1.0)
        m = self.midtones
        return np.asarray((m - 1) * x / ((2 * m - 1) * x - m), dtype=np.float32)


def midtones_for(value: float, target: float) -> float:
    """Midtones balance that maps `value` to `target` (both 0…1); its own inverse in form."""
    if value <= 0.0:
        return 0.5
    return (target - 1) * value / ((2 * target - 1) * value - target)


def autostretch(pixels: NDArray[np.floating], *, background: float = BACKGROUND) -> Stretch:
    """Screen transfer function that shows a linear image of mostly sky.

    Parameters
    ----------
    pixels
        Any shape; NaN ignored.
    background
        Where the median lands, 0…1.

    Returns
    -------
    Stretch
        Shadows at median − 2.8·1.4826·MAD, highlights at the 99.99th percentile.
    """
    good = pixels[np.isfinite(pixels)]
    if good.size == 0:
        return Stretch(0.0, 1.0, 0.5)
    median = float(np.median(good))
    spread = 1.4826 * float(np.median(np.abs(good - median)))
    high = float(np.percentile(good, 99.99))
    low = max(median + SHADOWS * spread, float(good.min()))
    if not high > low:
        return Stretch(low, low + 1.0, 0.5)
    return Stretch(low, high, midtones_for((median - low) / (high - low), background))
