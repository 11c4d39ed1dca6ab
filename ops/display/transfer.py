"""The curves that turn linear values into what a screen shows: from 0…1 to 0…1, monotone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError

Floats = NDArray[np.float64]


def midtones_transfer(x: Floats, midtones: float) -> Floats:
    """Midtones transfer function, MTF(x; m) = (m - 1) x / ((2m - 1) x - m).

    PixInsight reference documentation, HistogramTransformation: MTF(m; m) = 0.5.
    """
    return np.asarray((midtones - 1.0) * x / ((2.0 * midtones - 1.0) * x - midtones))


def asinh_transfer(x: Floats, strength: float) -> Floats:
    """asinh(β x) / asinh(β) (Lupton et al. 2004); β = 0 is the identity."""
    if strength < 1e-6:
        return np.asarray(x, dtype=np.float64)
    return np.asarray(np.arcsinh(strength * x) / math.asinh(strength))


@dataclass(frozen=True)
class Hyperbolic:
    """A generalized hyperbolic stretch."""

    strength: float
    """ln(D + 1)."""
    local: float
    """b: -1 logarithmic, 0 exponential, 1 harmonic, other positive ones hyperbolic."""
    symmetry: float
    """SP, where the contrast is highest."""
    shadows: float
    """LP: linear below it."""
    highlights: float
    """HP: linear above it."""

    def check(self) -> None:
        """Refuse points that are out of order.

        Raises
        ------
        ConfigError
            Unless 0 ≤ LP ≤ SP ≤ HP ≤ 1.
        """
        if not 0.0 <= self.shadows <= self.symmetry <= self.highlights <= 1.0:
            raise ConfigError(
                f"protect_shadows = {self.shadows:g}, symmetry = {self.symmetry:g}, protect_highlights = "
                f"{self.highlights:g} should be in this order between 0 and 1"
            )


def _base(x: Floats, d: float, b: float) -> Floats:
    """T(x), x ≥ 0, T(0) = 0, up to a factor."""
    if b == -1.0:
        return np.asarray(np.log1p(d * x))
    if b < 0.0:
        return np.asarray((1.0 - (1.0 - b * d * x) ** ((b + 1.0) / b)) / (b + 1.0))
    if b == 0.0:
        return np.asarray(1.0 - np.exp(-d * x))
    return np.asarray(1.0 - (1.0 + b * d * x) ** (-1.0 / b))


def _slope(x: Floats, d: float, b: float) -> Floats:
    """Derivative of `_base`."""
    if b == -1.0:
        return np.asarray(d / (1.0 + d * x))
    if b < 0.0:
        return np.asarray(d * (1.0 - b * d * x) ** (1.0 / b))
    if b == 0.0:
        return np.asarray(d * np.exp(-d * x))
    return np.asarray(d * (1.0 + b * d * x) ** (-(1.0 + b) / b))


def hyperbolic_transfer(x: Floats, stretch: Hyperbolic) -> Floats:
    """Generalized hyperbolic stretch (Payne and Cranfield, ghsastro.co.uk).

    T(x - SP) above the symmetry point, -T(SP - x) below it, straight lines with the same slope below LP and above
    HP, the whole scaled to run from 0 to 1.
    """
    d = math.expm1(stretch.strength)
    if d <= 0.0:
        return np.asarray(x, dtype=np.float64)
    b, sp, lp, hp = stretch.local, stretch.symmetry, stretch.shadows, stretch.highlights

    def raw(values: Any) -> Floats:
        values = np.asarray(values, dtype=np.float64)
        inside = np.clip(values, lp, hp)
        distance = np.abs(inside - sp)
        middle = np.where(inside < sp, -_base(distance, d, b), _base(distance, d, b))
        return np.asarray(middle + (values - inside) * _slope(distance, d, b))

    low, high = float(raw(0.0)), float(raw(1.0))
    return np.asarray((raw(x) - low) / (high - low))


def curve_transfer(x: Floats, points: Sequence[Sequence[float]]) -> Floats:
    """Smooth monotone curve through points (x, y), from (0, 0) to (1, 1) where they do not say otherwise.

    Piecewise cubic Hermite (Fritsch and Carlson 1980): it does not swing between the points.

    Raises
    ------
    ConfigError
        If the points are no rising pairs between 0 and 1.
    """
    knots = check_curve(points)
    from scipy.interpolate import PchipInterpolator  # a quarter of a second that only curves need

    return np.asarray(PchipInterpolator([k[0] for k in knots], [k[1] for k in knots])(x))


def check_curve(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Points of a curve, the ends added."""
    knots: list[tuple[float, float]] = []
    for point in points:
        if len(point) != 2 or not all(0.0 <= float(v) <= 1.0 for v in point):
            raise ConfigError(f"curve: {list(point)} is no point x, y between 0 and 1")
        knots.append((float(point[0]), float(point[1])))
    if not knots or knots[0][0] > 0.0:
        knots.insert(0, (0.0, 0.0))
    if knots[-1][0] < 1.0:
        knots.append((1.0, 1.0))
    for (x0, y0), (x1, y1) in pairwise(knots):
        if not (x1 > x0 and y1 >= y0):
            raise ConfigError(f"curve: ({x1:g}, {y1:g}) does not rise from ({x0:g}, {y0:g}); order points by x")
    return knots


def solve_strength(value: float, target: float, transfer: Any, *, highest: float) -> float:
    """Strength at which `transfer(value, strength)` is `target` (bisection between 0 and `highest`).

    The end nearest to the target where none reaches it.
    """
    low, high = 0.0, highest
    if not 0.0 < value < 1.0 or transfer(value, low) >= target:
        return low
    if transfer(value, high) <= target:
        return high
    for _ in range(80):
        middle = 0.5 * (low + high)
        if transfer(value, middle) < target:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
