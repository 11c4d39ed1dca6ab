"""The profile of a trail across it: how wide it is, and whether it is one."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Floats = NDArray[np.float64]

SIDE = 8
"""Blocks to either side of a trail that are looked at."""
ENERGY = 2.9
"""Half-width of what is masked, in standard deviations of a Gaussian profile: 99.6 % of the light."""
WINGS = 0.01
"""Part of the light in the middle that wings are followed to."""
FLANK = 0.3
"""Most light beside a trail, in units of that in its middle."""
LEAST = 8
"""Blocks that a part of a profile needs to say something."""


def stands_out(values: Plane, local: Plane, distance: Floats, known: NDArray[np.bool_], half: float) -> bool:
    """Whether it is dark to both sides of a line, as it is not at the edge of a ghost, and bright in itself."""
    core = known & (np.abs(distance) <= min(half, 1.5))
    sides = [known & (side * distance > half + 0.5) for side in (-1.0, 1.0)]
    if min(int(m.sum()) for m in (core, *sides)) < LEAST:
        return False
    light = float(np.median((values - local)[core]))
    flanks = max(float(np.median((values - local)[m])) for m in sides)
    return flanks < FLANK * light and float(np.median(values[core])) > 0.5 * light


def half_width(values: NDArray[np.float32], distance: Floats) -> float:
    """Distance (blocks) from the middle of a trail within which nearly all of its light is.

    Parameters
    ----------
    values
        Blocks near a trail (canvas units), any shape.
    distance
        How far each is from its middle (blocks).

    Notes
    -----
    That of the Gaussian that fits the medians over rows best, or as far as the profile is well above its errors.
    """
    step = 0.5
    number = np.round(np.abs(distance) / step).astype(np.int64).ravel()
    flat = values.ravel()
    profile, error = np.zeros(int(SIDE / step)), np.full(int(SIDE / step), np.inf)
    for k in range(profile.size):
        part = flat[number == k]
        if part.size >= 8:
            profile[k] = np.median(part)
            spread = 1.4826 * float(np.median(np.abs(part - profile[k])))
            error[k] = 1.2533 * spread / math.sqrt(part.size)
    # Of all widths the one whose Gaussian finds most light in the profile.
    where, weight = np.arange(profile.size) * step, error**-2.0
    widths = np.geomspace(0.35, SIDE / ENERGY, 24)
    shape = np.exp(-0.5 * (where / widths[:, None]) ** 2)
    light = np.maximum((weight * profile * shape).sum(axis=1), 0.0)
    width = widths[int(np.argmax(light / np.sqrt(np.maximum((weight * shape * shape).sum(axis=1), 1e-30))))]
    # Wings that a Gaussian does not have.
    peak = float(profile[:2].max())
    k = 0
    while k + 1 < profile.size and profile[k + 1] > max(5.0 * error[k + 1], WINGS * peak):
        k += 1
    return float(min(max(ENERGY * width, (k + 1) * step, 1.0), SIDE))
