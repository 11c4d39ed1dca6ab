"""Last pass over a stack: which samples go, and the mean or the median of the others."""

from __future__ import annotations

import numpy as np
from numba import njit

from skyloom.ops.integration.extents import BLOCK
from skyloom.ops.integration.sorting import LANES, sort_lanes
from skyloom.ops.integration.taper import TAPER_CODES

NO_DATA, USED, LOW, HIGH = range(4)
"""What became of a sample: there is none, it counts, it went for being too low or too high."""


@njit(nogil=True, cache=True)
def _mark(values, own, low, high, own_low, own_high, centre, below, above, ratio, excuse, marks):  # type: ignore[no-untyped-def]
    """Mark a row's outliers: 1 above, 2 below, 4 far beyond; say which there are."""
    found = 0
    two = np.float32(2.0)
    for x in range(values.size):
        d = values[x] - centre[x]
        s = ratio[x] * own
        up, down = max(high * above[x], own_high * s) + excuse[x], max(low * below[x], own_low * s) + excuse[x]
        mark = 1 if d > up else 0
        mark += 2 if -d > down else 0
        mark += 4 if d > two * up or -d > two * down else 0
        marks[x] = mark
        found |= mark
    return found


@njit(nogil=True, cache=True)
def _add(values, taper, final, weight, own, total, total_x, total_s, kept):  # type: ignore[no-untyped-def]
    """Add the samples of a row that are not rejected, `own` their variance, to the sums over frames."""
    nothing = np.float32(0.0)
    for x in range(values.size):
        v = values[x]
        good = v == v and (final[x] & 3) == 0
        code = float(taper[x])
        w = weight * (code * code) if good else 0.0
        total[x] += w
        total_x[x] += w * float(v if good else nothing)
        total_s[x] += w * w * own
        kept[x] += 1 if good else 0


@njit(nogil=True, cache=True)
def _grow(seeds, begin, end, values, centre, scale, ratio, excuse, own, grow, first, last, final):  # type: ignore[no-untyped-def]
    """Mark outliers from `first` to `last` beside a seed: 4 in a row of marks from `begin` to `end`."""
    for low in range(begin, end, BLOCK):
        block = seeds[low : min(low + BLOCK, end)]
        found = 0
        for k in range(block.size):
            found |= block[k]
        if not found & 4:
            continue
        for k in range(block.size):
            if not block[k] & 4:
                continue
            for x in range(max(low + k - 1, first), min(low + k + 2, last)):
                if not final[x] & 3:
                    d = values[x] - centre[x]
                    s = grow * max(scale[x], ratio[x] * own) + excuse[x]
                    final[x] = (1 if d > s else 0) | (2 if -d > s else 0)


@njit(nogil=True, cache=True)
def average(  # type: ignore[no-untyped-def]
    stack, codes, extents, sigma, weights, reject, low, high, own_low, own_high, grow, median, loss, pairs, starts,
    centre, scale, ratio, excuse, lower, upper, row0, column0,
    image, weight, variance, count, rejected_low, rejected_high, fates,
):  # fmt: skip
    """Fill the results from `image` on: what `combine` says of them; `fates` unless it is empty.

    `extents` are those of `find_extents`: nothing is done about samples beyond them.
    """
    frames, rows, columns = stack.shape
    out_rows, out_columns = image.shape
    unit = 1.0 / (TAPER_CODES * TAPER_CODES)
    inf = np.float32(np.inf)
    marks = np.zeros((frames, 3, columns), dtype=np.uint8)
    found = np.zeros((frames, 3), dtype=np.uint8)
    final = np.zeros(columns, dtype=np.uint8)
    total, total_x, total_s, sharpness = np.empty((4, columns), dtype=np.float64)
    kept, above, below = np.empty((3, columns), dtype=np.int32)
    values_kept = np.empty((frames if median else 0, columns if median else 0), dtype=np.float32)
    lanes_kept = np.empty((frames if median else 0, LANES), dtype=np.float32)
    marked = -1
    for r in range(out_rows):
        y = row0 + r
        if reject:
            for j in range(max(marked + 1, y - 1, 0), min(y + 2, rows)):
                for i in range(frames):
                    a, b = extents[i, j]
                    found[i, j % 3] = _mark(
                        stack[i, j, a:b], sigma[i], low, high, own_low, own_high, centre[j, a:b],
                        lower[j, a:b], upper[j, a:b], ratio[j, a:b], excuse[j, a:b], marks[i, j % 3, a:b],
                    )  # fmt: skip
                marked = j
        total[:] = 0
        total_x[:] = 0
        total_s[:] = 0
        sharpness[:] = 0
        kept[:] = 0
        above[:] = 0
        below[:] = 0
        for i in range(frames):
            values, taper = stack[i, y], codes[i, y]
            w_frame = weights[i] * unit
            own = float(sigma[i]) * float(sigma[i])
            a, b = extents[i, y]
            final[a:b] = marks[i, y % 3, a:b]
            seeds = found[i, 0] | found[i, 1] | found[i, 2]
            if reject and grow < np.inf and seeds & 4:
                for j in range(max(y - 1, 0), min(y + 2, rows)):
                    if found[i, j % 3] & 4:
                        _grow(
                            marks[i, j % 3], extents[i, j, 0], extents[i, j, 1], values, centre[y], scale[y],
                            ratio[y], excuse[y], sigma[i], grow, a, b, final,
                        )  # fmt: skip
            _add(
                values[a:b],
                taper[a:b],
                final[a:b],
                w_frame,
                own,
                total[a:b],
                total_x[a:b],
                total_s[a:b],
                kept[a:b],
            )
            if fates.size:
                row_fates = fates[i, r]
                for c in range(out_columns):
                    x = column0 + c
                    mark = final[x] & 3
                    fate = USED if mark == 0 else (HIGH if mark & 1 else LOW)
                    row_fates[c] = fate if values[x] == values[x] else NO_DATA
            if median:
                row = values_kept[i]
                inverse = 1.0 / float(sigma[i])
                for x in range(columns):
                    good = values[x] == values[x] and (final[x] & 3) == 0
                    row[x] = values[x] if good else inf
                    sharpness[x] += inverse if good else 0.0
            if reject and (seeds & 7):
                for x in range(a, b):
                    above[x] += final[x] & 1
                    below[x] += (final[x] >> 1) & 1
        if median:
            for x0 in range(column0, column0 + out_columns, LANES):
                lanes = min(LANES, column0 + out_columns - x0)
                for i in range(frames):
                    lanes_kept[i, :lanes] = values_kept[i, x0 : x0 + lanes]
                sort_lanes(lanes_kept, frames, lanes, pairs, starts)
                for p in range(lanes):
                    m = kept[x0 + p]
                    if m > 0 and total[x0 + p] > 0:
                        middle = 0.5 * (float(lanes_kept[(m - 1) // 2, p]) + float(lanes_kept[m // 2, p]))
                        total_x[x0 + p] = middle * total[x0 + p]
                        noise = loss[m] * m / (sharpness[x0 + p] * sharpness[x0 + p])
                        total_s[x0 + p] = noise * total[x0 + p] * total[x0 + p]
        for c in range(out_columns):
            x = column0 + c
            if kept[x] == 0 and above[x] + below[x] > 0:
                nearest = np.float32(np.inf)
                for i in range(frames):
                    d = abs(stack[i, y, x] - centre[y, x])
                    nearest = d if d < nearest else nearest
                best = -1
                # The middle two are equally far from their mean, up to rounding.
                for i in range(frames):
                    v = stack[i, y, x]
                    near_enough = abs(v - centre[y, x]) <= nearest * np.float32(1.00001)
                    if near_enough and (best < 0 or v < stack[best, y, x]):
                        best = i
                v = stack[best, y, x]
                if v > centre[y, x]:
                    above[x] -= 1
                else:
                    below[x] -= 1
                code = float(codes[best, y, x])
                w = weights[best] * unit * code * code
                total[x], total_x[x], kept[x] = w, w * float(v), 1
                if fates.size:
                    fates[best, r, c] = USED
                total_s[x] = w * w * float(sigma[best]) * float(sigma[best])
            count[r, c] = kept[x]
            rejected_high[r, c] = above[x]
            rejected_low[r, c] = below[x]
            if kept[x] > 0 and total[x] > 0:
                image[r, c] = total_x[x] / total[x]
                weight[r, c] = total[x]
                variance[r, c] = total_s[x] / (total[x] * total[x])
            else:
                count[r, c] = 0
                image[r, c] = weight[r, c] = variance[r, c] = np.nan
