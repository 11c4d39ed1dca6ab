"""A straight line through two noisy bands: background, stars and nebula at once, outliers rejected."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

POINTS = 200_000
"""Pixels used at most, of those with signal and of those without."""
SIGNAL = 6.0
"""σ above the background (both bands together) from which a pixel tells the slope."""
REJECT = 3.0
"""Residuals beyond this many σ are left out."""
LEAST = 30
"""Fewer pixels with signal than this tell no slope."""
TOP = 0.92
"""Pixels above this fraction of a band's range may be saturated."""
COLOURS = (0.02, 0.35)
"""Bounds of the relative scatter that the colours of the objects add to the noise."""
FLATTEST = 0.03
"""Slopes in units of noise beyond this or its inverse are no line: what one band shows the other does not."""
ROUNDS = 30


@dataclass(frozen=True)
class Line:
    """y = offset + slope · x."""

    slope: float
    offset: float
    points: int
    """Pixels with signal it rests on; 0 = too few, or no common signal: the slope is the ratio of noise levels."""
    scatter: float
    """Relative scatter of the signal about the line."""


def fit_line(x: Floats, y: Floats, *, noise_x: float, noise_y: float) -> Line:
    """Fit a line to two bands that are both noisy.

    Parameters
    ----------
    x, y
        The same pixels of the two bands; NaN is left out.
    noise_x, noise_y
        Their pixel noise (same units).

    Returns
    -------
    Line
        Slope, offset and what they rest on.

    Notes
    -----
    PixInsight's LinearFit minimises the mean absolute deviation of y alone, which makes the slope too small where
    x is noisy. Here both are divided by their noise and the distance from the line counts (total least squares,
    Deming 1943). A pixel weighs 1 / (1 + (κ t)²), t its signal in σ and κ the relative scatter of the colours,
    which is measured: one bright star of an odd colour does not turn the line. Residuals beyond 3 σ are rejected,
    as are pixels in the top 8 % of a band's range.
    """
    good = np.isfinite(x) & np.isfinite(y)
    x, y = x[good].astype(np.float64), y[good].astype(np.float64)
    noise_x, noise_y = max(noise_x, 1e-300), max(noise_y, 1e-300)
    if x.size < LEAST:
        return Line(noise_y / noise_x, 0.0, 0, math.nan)
    base_x, base_y = float(np.median(x)), float(np.median(y))
    unsaturated = np.ones(x.size, dtype=bool)
    for band, base in ((x, base_x), (y, base_y)):
        unsaturated &= band <= base + TOP * (float(band.max()) - base)
    u, v = (x - base_x)[unsaturated] / noise_x, (y - base_y)[unsaturated] / noise_y
    bright = u + v > SIGNAL * math.sqrt(2.0)
    points = int(bright.sum())
    if points < LEAST:
        return Line(noise_y / noise_x, base_y - base_x * noise_y / noise_x, 0, math.nan)
    u, v = (
        np.concatenate([_thin(values[bright]), _thin(values[~bright & (np.abs(u) + np.abs(v) < 4 * SIGNAL)])])
        for values in (u, v)
    )
    slope, centre, scatter = _total_least_squares(u, v)
    if not FLATTEST < slope < 1.0 / FLATTEST:
        return Line(noise_y / noise_x, base_y - base_x * noise_y / noise_x, 0, math.nan)
    # v = centre + slope·u in units of noise about the medians.
    ratio = noise_y / noise_x
    return Line(slope * ratio, base_y + centre * noise_y - slope * ratio * base_x, points, scatter)


def _thin(values: Floats) -> Floats:
    return values[:: max(1, -(-values.size // POINTS))]


def _total_least_squares(u: Floats, v: Floats) -> tuple[float, float, float]:
    """Slope and offset of v over u (unit noise each), and the relative scatter of the signal."""
    bright = u + v > SIGNAL * math.sqrt(2.0)
    angle = float(np.median(np.arctan2(v[bright], u[bright])))
    angle = min(max(angle, 1e-3), 0.5 * math.pi - 1e-3)
    across, kappa = 0.0, 0.1
    for _ in range(ROUNDS):
        sine, cosine = math.sin(angle), math.cos(angle)
        along = u * cosine + v * sine
        distance = v * cosine - u * sine - across
        far = along > 20.0
        if far.sum() >= LEAST:
            spread = 1.4826 * float(np.median(np.abs(distance[far] / along[far])))
            kappa = min(max(spread, COLOURS[0]), COLOURS[1])
        variance = 1.0 + (kappa * np.maximum(along, 0.0)) ** 2
        weight = np.where(distance**2 < REJECT**2 * variance, 1.0 / variance, 0.0)
        total = float(weight.sum())
        if total <= 0.0:
            break
        mean_u, mean_v = float(weight @ u) / total, float(weight @ v) / total
        du, dv = u - mean_u, v - mean_v
        uu, vv, uv = (float(weight @ p) / total for p in (du * du, dv * dv, du * dv))
        turned = 0.5 * math.atan2(2.0 * uv, uu - vv)
        turned = min(max(turned, 1e-3), 0.5 * math.pi - 1e-3)
        moved = abs(turned - angle)
        angle = turned
        across = mean_v * math.cos(angle) - mean_u * math.sin(angle)
        if moved < 1e-7:
            break
    slope = math.tan(angle)
    return slope, across / math.cos(angle), kappa
