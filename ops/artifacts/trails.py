"""Straight trails in the difference of a frame: found by the light along lines, followed over the frame."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.artifacts.difference import Difference
from skyloom.ops.artifacts.line_sums import line_sums, strongest_line
from skyloom.ops.artifacts.trail_profile import SIDE, half_width, stands_out

Plane = NDArray[np.float32]
Floats = NDArray[np.float64]

STRIP = 256
"""Most rows (blocks) over which lines are summed at a time; a power of two."""
LEAST_LENGTH = 24.0
"""Blocks of full weight a line must cross."""
CUT = 4.0
"""No block counts more than this many of its errors: cosmic rays and bright stars do not make lines."""
SECTION = 8
"""Rows (blocks) of a trail that are looked at together when it is followed."""
FOLLOW = 3.0
"""A trail goes on while the light of five sections exceeds so many of its errors."""
STEADY = 0.5
"""Part of the significance that must be left without the brightest fifth of the sections: no row of stars."""
ENDING = 64
"""Least length (blocks) of a trail that reaches no edge of the frame."""
MOST = 24
"""Trails looked for in a frame."""


@dataclass(frozen=True)
class Trail:
    """A trail on the window of the coarse canvas: positions in blocks."""

    steep: bool
    """True: x as a function of y; False: y as a function of x."""
    polynomial: tuple[float, ...]
    """Coefficients of the position, constant first."""
    start: float
    stop: float
    half: float
    """Half-width of what is masked, across the trail."""
    significance: float

    def at(self, along: Floats) -> Floats:
        """Position across at positions along."""
        return _polynomial(self.polynomial, along)

    def draw(self, mask: NDArray[np.bool_], scale: int) -> None:
        """Set the cells of a mask, `scale` of them a block, that the trail covers."""
        view = mask if self.steep else mask.T
        rows = (np.arange(view.shape[0]) + 0.5) / scale - 0.5
        middle = self.at(rows)
        slope = np.gradient(middle, rows) if rows.size > 1 else np.zeros(1)
        reach = self.half * np.hypot(1.0, slope)
        first = np.clip(np.round((middle - reach + 0.5) * scale - 0.5), 0, view.shape[1]).astype(int)
        last = np.clip(np.round((middle + reach + 0.5) * scale - 0.5) + 1, 0, view.shape[1]).astype(int)
        for row in np.flatnonzero((rows >= self.start) & (rows <= self.stop) & (last > first)):
            view[row, first[row] : last[row]] = True


def _polynomial(coefficients: Sequence[float] | Floats, at: Floats) -> Floats:
    return np.asarray(np.polynomial.polynomial.polyval(at, np.asarray(coefficients)), dtype=np.float64)


def find_trails(difference: Difference, *, threshold: float) -> list[Trail]:
    """Trails of a frame, in the order they are found.

    Parameters
    ----------
    difference
        The frame against the others.
    threshold
        Least significance: light along a line over its error.
    """
    flat = (difference.value - difference.local) / difference.error
    known = np.isfinite(flat)
    if not known.any():
        return []
    unit = np.float32(np.median(difference.error[known]))
    weight = np.where(known, np.minimum(unit / difference.error, 1.0), 0.0).astype(np.float32)
    light = np.where(known, np.clip(flat, -CUT, CUT), 0.0).astype(np.float32) * weight
    views = {
        steep: _View(steep, *(a if steep else a.T for a in (light, weight, difference.value, difference.local)))
        for steep in (True, False)
    }
    trails: list[Trail] = []
    seeds: list[tuple[float, int, bool, int, _Seed]] = []
    for steep, view in views.items():
        for first in range(0, view.light.shape[0], STRIP):
            seed = _strongest(view.light, view.weight, first, threshold)
            if seed is not None:
                heapq.heappush(seeds, (-seed.significance, first, steep, 0, seed))
    # The strongest first, whatever its direction: a bright trail shows in lines that cross it too.
    erased = 0
    while seeds and erased < MOST:
        _, first, steep, known_at, seed = heapq.heappop(seeds)
        view = views[steep]
        if known_at == erased:
            trail = _follow(view, seed, threshold)
            if trail is not None:
                trails.append(trail)
            _erase(view.light, view.weight, seed, trail)
            erased += 1
        seed = _strongest(view.light, view.weight, first, threshold)
        if seed is not None:
            heapq.heappush(seeds, (-seed.significance, first, steep, erased, seed))
    return trails


@dataclass(frozen=True)
class _View:
    """A difference with its rows up, or its columns."""

    steep: bool
    light: Plane
    """value / error² in common units, the local level taken off; 0 = no data."""
    weight: Plane
    """1 / error in the same units, at most 1."""
    value: Plane
    local: Plane


@dataclass(frozen=True)
class _Seed:
    first: int
    last: int
    """Rows of the strip, the last one included."""
    x: float
    slope: float
    significance: float

    def at(self, rows: Floats) -> Floats:
        return self.x + self.slope * (rows - self.first)


def _strongest(light: Plane, weight: Plane, first: int, threshold: float) -> _Seed | None:
    """Most significant line through a strip, of those not flatter than its diagonal; None: none is enough."""
    stop = min(first + STRIP, light.shape[0])
    rows = 1 << max(stop - first - 1, 1).bit_length()
    best: _Seed | None = None
    sample = np.empty(4096, dtype=np.float32)
    work = np.empty((2, 2, rows, rows + light.shape[1]), dtype=np.float32)
    for turn in (1, -1):
        both = []
        for k, plane in enumerate((light, weight * weight)):
            strip = np.zeros((rows, light.shape[1]), dtype=np.float32)
            strip[: stop - first] = plane[first:stop, ::turn]
            both.append(line_sums(strip, work[k]))
        step = max(both[0].size // sample.size, 1) | 1
        ratio, s, x, kept = strongest_line(both[0], both[1], LEAST_LENGTH, step, sample)
        if not kept:
            continue
        # Interpolated blocks are correlated, what the errors do not know is in here too.
        ratio /= max(1.0, 1.4826 * float(np.median(np.abs(sample[:kept]))))
        if ratio > threshold and (best is None or ratio > best.significance):
            slope = s / max(rows - 1, 1)
            start = float(x - rows)
            if turn < 0:
                start, slope = light.shape[1] - 1 - start, -slope
            best = _Seed(first, stop - 1, start, slope, float(ratio))
    return best


def _across(plane: Plane, rows: Floats, middle: Floats) -> tuple[Plane, Floats]:
    """Blocks to either side of a line, and how far they are from it along the rows; 0 outside the plane."""
    nearest = np.round(middle).astype(np.int64)
    columns = nearest[:, None] + np.arange(-SIDE, SIDE + 1)
    inside = (columns >= 0) & (columns < plane.shape[1])
    values = plane[rows.astype(np.int64)[:, None], np.clip(columns, 0, plane.shape[1] - 1)]
    return np.where(inside, values, np.float32(0.0)), columns - middle[:, None]


def _sections(values: Floats) -> Floats:
    """Sums over the sections of a trail."""
    return np.add.reduceat(values, np.arange(0, values.size, SECTION))


def _run(light: Floats, weight: Floats, seed: tuple[int, int]) -> tuple[int, int]:
    """Sections over which a trail goes on, to either side of those of the seed."""
    pad = np.pad(light, 2), np.pad(weight, 2)
    total, weights = (sum(p[k : k + light.size] for k in range(5)) for p in pad)
    going = (total > FOLLOW * np.sqrt(weights)) | (weights < 0.25 * SECTION)
    first, last = seed
    while first < last and not going[first]:
        first += 1
    while last > first and not going[last]:
        last -= 1
    while first > 0 and going[first - 1]:
        first -= 1
    while last < light.size - 1 and going[last + 1]:
        last += 1
    # Most trails cross the whole frame: where little is left of the way out, it is theirs too.
    data = np.flatnonzero(weight > 0)
    little = 1 + (last - first) // 4
    if data.size and first - data[0] <= little:
        first = min(first, int(data[0]))
    if data.size and data[-1] - last <= little:
        last = max(last, int(data[-1]))
    return first, last


def _grown(first: int, last: int, length: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, each twice the one before, until all are in."""
    while True:
        yield first, last
        if first == 0 and last == length - 1:
            return
        more = last - first + 1
        first, last = max(first - more, 0), min(last + more, length - 1)


def _follow(view: _View, seed: _Seed, threshold: float) -> Trail | None:
    """Follow a line beyond its strip, and measure it; None: it is no trail."""
    light, weight = view.light, view.weight
    polynomial: Floats = np.array([seed.x - seed.slope * seed.first, seed.slope])
    rows = np.zeros(0)
    light_in = weight_in = rows
    part = np.zeros(2, dtype=np.int64)
    for first, last in _grown(seed.first, seed.last, light.shape[0]):
        rows = np.arange(first, last + 1, dtype=np.float64)
        # The first fit is rough, the second starts from it.
        for near in (2.5, 1.75):
            middle = _polynomial(polynomial, rows)
            a, t = _across(light, rows, middle)
            w, _ = _across(weight, rows, middle)
            close = np.abs(t) * math.cos(math.atan(polynomial[1])) <= near
            light_in, weight_in = _sections((a * close).sum(axis=1)), _sections((w * w * close).sum(axis=1))
            moment = _sections((a * t * close).sum(axis=1))
            where = _sections(rows) / _sections(np.ones(rows.size))
            strength = light_in / np.sqrt(np.maximum(weight_in, 1e-6))
            good = (strength > 2.0) & (weight_in > 1.0)
            if good.sum() < 3:
                return None
            shift = moment[good] / light_in[good]
            degree = 2 if good.sum() >= 24 and np.ptp(where[good]) > STRIP else 1
            fit = np.polynomial.Polynomial.fit(where[good], np.clip(shift, -near, near), degree, w=strength[good])
            correction = np.asarray(fit.convert().coef, dtype=np.float64)
            both = np.zeros(max(polynomial.size, correction.size))
            both[: polynomial.size] += polynomial
            both[: correction.size] += correction
            polynomial = both
        begin = int((seed.first - first) // SECTION), int((seed.last - first) // SECTION)
        part = np.asarray(_run(light_in, weight_in, (begin[0], min(begin[1], light_in.size - 1))), dtype=np.int64)
    inside = np.zeros(light_in.size, dtype=np.bool_)
    inside[part[0] : part[1] + 1] = weight_in[part[0] : part[1] + 1] > 1.0
    if not inside.any():
        return None
    # Where the line has left the frame there is nothing to be steady.
    order = np.sort(light_in[inside] / np.sqrt(weight_in[inside]))
    steady = float(order[: max(1, int(0.8 * order.size))].sum()) / math.sqrt(order.size)
    if steady < STEADY * threshold:
        return None
    part, data = np.flatnonzero(inside)[[0, -1]], np.flatnonzero(weight_in > 1.0)
    # Satellites come from beyond the frame; what begins and ends in it could be a chord of a ghost.
    if part[0] > data[0] + 1 and part[1] < data[-1] - 1 and (part[1] - part[0] + 1) * SECTION < ENDING:
        return None
    here = (rows >= rows[0] + part[0] * SECTION) & (rows < rows[0] + (part[1] + 1) * SECTION)
    middle = _polynomial(polynomial, rows[here])
    cosine = math.cos(math.atan(float(polynomial[1])))
    values, t = _across(view.value, rows[here], middle)
    local, _ = _across(view.local, rows[here], middle)
    known = _across(weight, rows[here], middle)[0] > 0.5
    t *= cosine
    half = half_width((values - local)[known], t[known])
    if not stands_out(values, local, t, known, half):
        return None
    total = float(light_in[part[0] : part[1] + 1].sum() / np.sqrt(weight_in[part[0] : part[1] + 1].sum()))
    return Trail(
        view.steep, tuple(polynomial.tolist()), float(rows[here][0] - SECTION), float(rows[here][-1] + SECTION),
        half, max(total, seed.significance),
    )  # fmt: skip


def _erase(light: Plane, weight: Plane, seed: _Seed, trail: Trail | None) -> None:
    """Take a line out of what is still looked at."""
    if trail is None:
        rows = np.arange(seed.first, seed.last + 1, dtype=np.float64)
        middle, reach = seed.at(rows), np.full(rows.size, 1.0 + abs(seed.slope))
    else:
        rows = np.arange(max(trail.start, 0), min(trail.stop, light.shape[0] - 1) + 1, dtype=np.float64)
        rows = np.floor(rows)
        middle = trail.at(rows)
        reach = np.full(rows.size, (trail.half + 1.0) * 1.5)
    for row, centre, far in zip(rows.astype(int), middle, reach, strict=True):
        left, right = max(math.floor(centre - far), 0), math.ceil(centre + far) + 1
        if right > left:
            light[row, left:right] = 0
            weight[row, left:right] = 0
