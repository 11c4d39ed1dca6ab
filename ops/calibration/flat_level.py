"""How much light a flat got: its level in each phase of the colour filter array, and whether it can be used."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.members import NO_LIGHT, OK, SATURATED, Group, Member, read_window
from skyloom.ops.calibration.overscan import parse_section
from skyloom.ops.calibration.references import Reference
from skyloom.ops.calibration.strips import STRIP
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source

LEVEL_PIXELS = 2**20
"""Pixels a level is taken from: blocks of 2 × 2, evenly spread."""
REACH = 3.0
"""Pixels with more or less than this times the usual light do not count."""
LEAST_SIGNAL = 5.0
"""A flat's brightest phase is at least this many times the noise of a pixel."""

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class FlatLevel:
    """What is known of a flat."""

    level: tuple[float, float, float, float]
    """DN above the dark, of the phases (0,0), (0,1), (1,0), (1,1); all the same of a monochrome sensor."""
    noise: float
    """Of a pixel, the pixels' different response included (DN)."""
    saturated: float
    """Share of saturated pixels."""
    status: int
    reason: str


def flat_level(group: Group, frame: Member, reference: Reference | None, *, max_saturated: float) -> FlatLevel:
    """Measure a flat, strip by strip.

    Parameters
    ----------
    group
        The flat's.
    frame
        The flat.
    reference
        What is taken off it; None = nothing.
    max_saturated
        Largest share of saturated pixels.

    Raises
    ------
    DataError
        If the frame cannot be read or has another size than the session says.
    """
    source = open_source(frame.source)
    shape = group.shape
    if source.shape != shape:
        raise DataError(f"it is {source.shape[0]} × {source.shape[1]} pixels, not {shape[0]} × {shape[1]}")
    top, bottom, left, right = parse_section(group.trim, shape) or (0, shape[0], 0, shape[1])
    # Blocks of all four phases, at the same places in every flat of this size.
    step = 2 * max(round(math.sqrt((bottom - top) * (right - left) / LEVEL_PIXELS)), 1)
    parts: list[list[Pixels]] = [[], [], [], []]
    differences: list[Pixels] = []
    pedestal = 0.0 if group.given else frame.pedestal
    ceiling = frame.saturation if math.isfinite(frame.saturation) and not group.given else math.inf
    saturated = pixels = 0
    for first in range(0, shape[0], STRIP):
        rows = slice(first, min(first + STRIP, shape[0]))
        image = read_window(frame, rows, slice(0, shape[1]))
        low, high = max(top, rows.start), min(bottom, rows.stop)
        if low >= high:
            continue
        inside = image[low - first : high - first, left:right]
        saturated += int((inside >= ceiling).sum())
        pixels += inside.size
        if reference is not None:
            image -= reference.level(rows)
        image -= np.float32(pedestal)
        for phase in range(4):
            # Rows and columns counted from the frame's own corner.
            y = slice(first_place(low, step, phase // 2) - first, high - first, step)
            part = image[y, first_place(left, step, phase % 2) : right : step]
            parts[phase].append(part[np.isfinite(part)])
        inside = image[first_place(low, step, 0) - first : high - first : step, left:right]
        differences.append((inside[:, 2::8] - inside[:, :-2:8][:, : inside[:, 2::8].shape[1]]).ravel())
    values = [np.concatenate(p) for p in parts] if pixels else [np.empty(0, np.float32)] * 4
    if not group.bayer:
        values = [np.concatenate(values)] * 4
    means = [robust_mean(v) for v in (values if group.bayer else values[:1])]
    level = (means[0], means[1], means[2], means[3]) if group.bayer else (means[0],) * 4
    known = np.concatenate(differences) if differences else np.empty(0, np.float32)
    known = known[np.isfinite(known)]
    noise = 1.4826 * float(np.median(np.abs(known))) / math.sqrt(2.0) if known.size else math.nan
    share = saturated / max(pixels, 1)
    status, reason = _judge(level, noise, share, max_saturated)
    return FlatLevel(level, noise, share, status, reason)


def _judge(level: tuple[float, ...], noise: float, share: float, max_saturated: float) -> tuple[int, str]:
    if share > max_saturated:
        return SATURATED, f"{share:.1%} of the flat's pixels are saturated, more than {max_saturated:.1%}"
    brightest, darkest = max(level), min(level)
    if not all(math.isfinite(v) for v in level):
        return NO_LIGHT, "the flat has no pixels with a value"
    if not brightest > LEAST_SIGNAL * noise:
        return NO_LIGHT, f"the flat has next to no light: {brightest:.4g} DN above its dark, noise {noise:.3g} DN"
    if darkest <= 0:
        return NO_LIGHT, f"a colour of the flat has no light: {darkest:.4g} DN above its dark"
    return OK, ""


def robust_mean(values: Pixels) -> float:
    """Mean of the values between a third and three times their median (no dead or hot pixels); NaN of nothing.

    A trimmed mean would leave out the corners of a flat, and not be its mean.
    """
    if not values.size:
        return math.nan
    middle = float(np.median(values))
    if not middle > 0:
        return middle
    low, high = middle / REACH, middle * REACH
    return float(values[(values >= low) & (values <= high)].mean(dtype=np.float64))


def first_place(start: int, step: int, phase: int) -> int:
    """First place at or after `start` that is `phase` modulo `step`."""
    return start + (phase - start) % step
