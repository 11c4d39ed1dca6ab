"""Centre and limits of one pixel's sorted samples, by each method that needs more than a pass over them."""

from __future__ import annotations

import numpy as np
from numba import njit

WINSOR_LIMIT, WINSOR_FACTOR, WINSOR_TOLERANCE = 1.5, 1.134, 5e-4
MAD_TO_SIGMA = 1.4826
MAD_WIDEN = 6.0
"""The median deviation of m samples is believed 1 + 6 / m times: it scatters more than the standard deviation."""
LEAST_DEVIATION = 0.05
"""linear: least mean deviation from the line, of the least scatter."""


@njit(nogil=True, cache=True)
def clip_sorted(column, n, winsorize, low, high, least):  # type: ignore[no-untyped-def]
    """Centre and scatter of sorted values after iterated clipping; `least` bounds the scatter from below."""
    start, stop = 0, n
    centre = column[(n - 1) // 2]
    scatter = np.float32(0.0)
    while True:
        m = stop - start
        middle = start + (m - 1) // 2
        centre = np.float32(0.5) * (column[middle] + column[start + m // 2])
        if m < 3:
            return centre, max(scatter, least)
        total = square = 0.0
        for k in range(start, stop):
            d = float(column[k]) - centre
            total += d
            square += d * d
        spread = np.sqrt(max(square - total * total / m, 0.0) / (m - 1))
        if winsorize:
            for _ in range(100):
                limit = WINSOR_LIMIT * spread
                t, q = total, square
                k = start
                while k < stop and float(column[k]) - centre < -limit:
                    d = float(column[k]) - centre
                    t += -limit - d
                    q += limit * limit - d * d
                    k += 1
                k = stop - 1
                while k >= start and float(column[k]) - centre > limit:
                    d = float(column[k]) - centre
                    t += limit - d
                    q += limit * limit - d * d
                    k -= 1
                new = WINSOR_FACTOR * np.sqrt(max(q - t * t / m, 0.0) / (m - 1))
                done = abs(new - spread) <= WINSOR_TOLERANCE * spread
                spread = new
                if done:
                    break
        scatter = max(np.float32(spread * (1.0 + 2.0 / m)), least)
        before = m
        while start < stop and column[start] < centre - low * scatter:
            start += 1
        while start < stop and column[stop - 1] > centre + high * scatter:
            stop -= 1
        if stop - start == before or stop - start < 3:
            return centre, scatter


@njit(nogil=True, cache=True)
def median_deviation(values, p, start, stop, centre):  # type: ignore[no-untyped-def]
    """Median of |v - centre| over sorted values[start:stop, p], whose median `centre` is.

    The deviations to the left and to the right are sorted each, so the middle of both together is found by
    halving.
    """
    m = stop - start
    at = start + (m - 1) // 2
    left, right = at - start + 1, stop - at - 1
    wanted = (m - 1) // 2 + 1
    low, high = max(0, wanted - right), min(wanted, left)
    while low < high:
        i = (low + high) // 2
        if centre - values[at - i, p] < values[at + wanted - i, p] - centre:
            low = i + 1
        else:
            high = i
    j = wanted - low
    middle = np.float32(0.0)
    if low > 0:
        middle = centre - values[at - low + 1, p]
    if j > 0:
        middle = max(middle, values[at + j, p] - centre)
    if m % 2:
        return middle
    after = np.float32(np.inf)
    if low < left:
        after = centre - values[at - low, p]
    if j < right:
        after = min(after, values[at + 1 + j, p] - centre)
    return np.float32(0.5) * (middle + after)


@njit(nogil=True, cache=True)
def clip_mad(values, p, n, low, high, least):  # type: ignore[no-untyped-def]
    """Centre, scatter and ranks kept, clipping about the median by the median deviation until nothing goes."""
    start, stop = 0, n
    scatter = least
    while True:
        m = stop - start
        centre = np.float32(0.5) * (values[start + (m - 1) // 2, p] + values[start + m // 2, p])
        if m < 3:
            return centre, scatter, start, stop
        deviation = median_deviation(values, p, start, stop, centre)
        widen = np.float32(MAD_TO_SIGMA * (1.0 + MAD_WIDEN / m))
        scatter = max(widen * deviation, least)
        while start < stop and values[start, p] < centre - low * scatter:
            start += 1
        while start < stop and values[stop - 1, p] > centre + high * scatter:
            stop -= 1
        if stop - start == m or stop - start < 3:
            return centre, scatter, start, stop


@njit(nogil=True, cache=True)
def line_of(values, p, start, stop):  # type: ignore[no-untyped-def]
    """Level at rank `start` and slope of a line through sorted values that their ends do not steer.

    Tukey's resistant line: the slope between the medians of the outer thirds, the level from those of all three.
    """
    m = stop - start
    third = m // 6
    x0, x1 = float(third), float(m - 1 - third)
    y0, y1 = float(values[start + third, p]), float(values[stop - 1 - third, p])
    middle = 0.5 * (float(values[start + (m - 1) // 2, p]) + float(values[start + m // 2, p]))
    slope = (y1 - y0) / (x1 - x0)
    level = (y0 - slope * x0 + middle - slope * 0.5 * (m - 1) + y1 - slope * x1) / 3.0
    return level, slope


@njit(nogil=True, cache=True)
def clip_line(values, p, n, low, high, least):  # type: ignore[no-untyped-def]
    """Ranks kept: the ends beyond `low`, `high` mean absolute deviations from a line through value by rank."""
    start, stop = 0, n
    while stop - start > 3:
        m = stop - start
        level, slope = line_of(values, p, start, stop)
        total = 0.0
        for k in range(m):
            total += abs(float(values[start + k, p]) - (level + slope * k))
        deviation = max(total / m, LEAST_DEVIATION * least)
        first, last = 0, m
        while first < last and level + slope * first - float(values[start + first, p]) > low * deviation:
            first += 1
        while (
            first < last and float(values[start + last - 1, p]) - (level + slope * (last - 1)) > high * deviation
        ):
            last -= 1
        if last - first == m or last - first < 3:
            break
        stop = start + last
        start += first
    return start, stop


@njit(nogil=True, cache=True)
def clip_esd(values, p, n, centre, low, high, least, critical, most):  # type: ignore[no-untyped-def]
    """Ranks kept by the generalized extreme studentised deviate test of at most `most` outliers."""
    total = square = 0.0
    for k in range(n):
        d = float(values[k, p]) - centre
        total += d
        square += d * d
    first, last = 0, n
    start, stop = 0, n
    smallest = float(least) * float(least)
    for _ in range(most):
        m = last - first
        if m < 3:
            break
        mean = total / m
        variance = max((square - total * mean) / (m - 1), smallest)
        bottom, top = float(values[first, p]) - centre, float(values[last - 1, p]) - centre
        below, above = (mean - bottom) / low, (top - mean) / high
        far = max(below, above)
        if above >= below:
            last -= 1
            total -= top
            square -= top * top
        else:
            first += 1
            total -= bottom
            square -= bottom * bottom
        if far * far > critical[m] * critical[m] * variance:
            start, stop = first, last
    return start, stop
