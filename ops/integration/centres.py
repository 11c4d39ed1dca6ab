"""First pass over a stack: the centre of each pixel's samples, and what may lie how far from it."""

from __future__ import annotations

import numpy as np
from numba import njit

from skyloom.ops.integration.clipping import (
    WINSOR_FACTOR,
    WINSOR_LIMIT,
    clip_esd,
    clip_line,
    clip_mad,
    clip_sorted,
)
from skyloom.ops.integration.rejection import AVERAGED, ESD, LINEAR, MAD, MINMAX, PERCENTILE, SIGMA, WINSORIZED
from skyloom.ops.integration.sorting import LANES, sort_lanes

PERCENTILE_GUARD = 2.0 / 3.0
"""percentile: no sample within this part of the noise's limits goes, however dark the sky."""


@njit(nogil=True, cache=True)
def find_centres(  # type: ignore[no-untyped-def]
    stack, extents, sigma, pairs, starts, ranks, to_noise, few, method, low, high, noise_low, noise_high, floor,
    critical, outliers, centre, scale, ratio, rms, spread, below, above, count, suspect,
):  # fmt: skip
    """Fill the planes from `centre` on: what `combine` says of them.

    `extents` are those of `find_extents`: samples beyond them are not looked at.
    """
    frames, rows, columns = stack.shape
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    half, one, two = np.float32(0.5), np.float32(1.0), np.float32(2.0)
    own_part = floor if method == AVERAGED else one
    cut = method >= PERCENTILE
    values = np.empty((frames, LANES), dtype=np.float32)
    column = np.empty(frames, dtype=np.float32)
    n = np.empty(LANES, dtype=np.int32)
    variance, middle, reach, widen, sums, squares, drawn, drawn_squares, limit = np.ones(
        (9, LANES), dtype=np.float32
    )
    least_sigma = sigma.min() * own_part
    for y in range(rows):
        for x0 in range(0, columns, LANES):
            lanes = min(LANES, columns - x0)
            used = 0
            n[:] = 0
            variance[:] = 0
            for i in range(frames):
                if x0 >= extents[i, y, 1] or x0 + lanes <= extents[i, y, 0]:
                    continue
                source, target = stack[i, y, x0 : x0 + lanes], values[used]
                own = sigma[i] * sigma[i]
                met = 0
                for p in range(lanes):
                    v = source[p]
                    good = v == v
                    target[p] = v if good else inf
                    variance[p] += own if good else np.float32(0.0)
                    n[p] += 1 if good else 0
                    met += 1 if good else 0
                if met > 0:
                    used += 1
            if used > 1:
                sort_lanes(values, used, lanes, pairs, starts)
            many = False
            for p in range(lanes):
                m = n[p]
                x = x0 + p
                count[y, x] = m
                spread[y, x] = nan
                if m == 0:
                    centre[y, x] = nan
                    scale[y, x] = inf
                    ratio[y, x] = rms[y, x] = 0
                    middle[p] = reach[p] = 0
                    if cut:
                        below[y, x] = above[y, x] = inf
                    continue
                noise = np.sqrt(variance[p] / np.float32(m))
                rms[y, x] = noise
                c = half * (values[(m - 1) // 2, p] + values[m // 2, p])
                if m == 2:
                    # Not the mean: half of a cosmic ray would be in it.
                    c = values[0, p]
                middle[p] = c
                centre[y, x] = c
                top, bottom = values[m - 1, p] - c, c - values[0, p]
                if m >= few:
                    many = True
                    if method != MINMAX:
                        reach[p] = max(top / high, bottom / low)
                    widen[p] = one + two / np.float32(m)
                    continue
                scale[y, x] = 0
                ratio[y, x] = own_part
                own = least_sigma
                if m == 1:
                    scale[y, x] = inf
                elif m == 2:
                    ratio[y, x] = 0
                    own = np.sqrt(variance[p]) * own_part
                    scale[y, x] = own
                    spread[y, x] = top * to_noise[2]
                else:
                    spread[y, x] = (values[m - 1 - ranks[m], p] - values[ranks[m], p]) * to_noise[m]
                suspect[y, x] = top > noise_high * own or bottom > noise_low * own
                if cut:
                    below[y, x], above[y, x] = noise_low * scale[y, x], noise_high * scale[y, x]
            if not many:
                continue
            if method in (SIGMA, WINSORIZED):
                # Where winsorising at the scatter that would just keep the extremes gives a larger scatter, the
                # iteration (monotone) ends above it and nothing is rejected: most pixels need no iteration.
                sums[:] = 0
                squares[:] = 0
                drawn[:] = 0
                drawn_squares[:] = 0
                for p in range(lanes):
                    limit[p] = np.float32(WINSOR_LIMIT) * reach[p] / widen[p]
                for k in range(used):
                    row = values[k]
                    for p in range(lanes):
                        d = row[p] - middle[p] if k < n[p] else np.float32(0.0)
                        sums[p] += d
                        squares[p] += d * d
                        d = min(max(d, -limit[p]), limit[p])
                        drawn[p] += d
                        drawn_squares[p] += d * d
            for p in range(lanes):
                m = n[p]
                if m < few:
                    continue
                x = x0 + p
                size, under = np.float32(m), np.float32(m - 1)
                least = floor * rms[y, x]
                if method in (SIGMA, WINSORIZED):
                    s = np.sqrt(max(squares[p] - sums[p] * sums[p] / size, np.float32(0.0)) / under)
                    if method == WINSORIZED:
                        w = np.float32(WINSOR_FACTOR) * np.sqrt(
                            max(drawn_squares[p] - drawn[p] * drawn[p] / size, np.float32(0.0)) / under
                        )
                    else:
                        w = s
                    w = max(w * widen[p], least)
                    if reach[p] <= w and (reach[p] <= s * widen[p] or reach[p] <= least):
                        scale[y, x] = w
                        suspect[y, x] = 0
                    else:
                        for k in range(m):
                            column[k] = values[k, p]
                        centre[y, x], scale[y, x] = clip_sorted(column, m, method == WINSORIZED, low, high, least)
                        suspect[y, x] = 1
                    ratio[y, x] = scale[y, x] / rms[y, x]
                    continue
                if method == MAD:
                    centre[y, x], scale[y, x], start, stop = clip_mad(values, p, m, low, high, least)
                    suspect[y, x] = start > 0 or stop < m
                    ratio[y, x] = scale[y, x] / rms[y, x]
                    continue
                ratio[y, x] = 0
                if method == PERCENTILE:
                    level = abs(middle[p])
                    below[y, x], above[y, x] = low * level, high * level
                    ratio[y, x] = np.float32(PERCENTILE_GUARD)
                    scale[y, x] = max(above[y, x] / noise_high, ratio[y, x] * rms[y, x])
                    suspect[y, x] = reach[p] > level
                    continue
                start, stop = 0, m
                if method == MINMAX:
                    start, stop = int(low), m - int(high)
                elif method == LINEAR:
                    start, stop = clip_line(values, p, m, low, high, least)
                elif method == ESD:
                    start, stop = clip_esd(
                        values, p, m, middle[p], low, high, least, critical, int(outliers * m)
                    )  # fmt: skip
                c = half * (values[start + (stop - start - 1) // 2, p] + values[start + (stop - start) // 2, p])
                centre[y, x] = c
                # Limits at the outermost samples kept: what equals them is kept too.
                above[y, x] = values[stop - 1, p] - c if stop < m else inf
                below[y, x] = c - values[start, p] if start > 0 else inf
                suspect[y, x] = start > 0 or stop < m
                t = q = 0.0
                for k in range(start, stop):
                    d = float(values[k, p]) - c
                    t += d
                    q += d * d
                kept = stop - start
                spent = np.sqrt(max(q - t * t / kept, 0.0) / max(kept - 1, 1))
                scale[y, x] = max(np.float32(spent), least)
