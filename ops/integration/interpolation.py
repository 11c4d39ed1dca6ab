"""The kernel under `resample`: along rows of the canvas, whose pixels lie along rows of the frame nearly always.

A canvas row is worked in the segments between two nodes of the coordinate grid. Where the frame pixels under
neighbouring canvas pixels are neighbours too, the loop over pixels is the innermost one and the compiler makes
vector instructions of it; elsewhere (turned frames) pixels are worked one by one, with the same sums in the same
order, so that what a pixel gets does not depend on its company.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skyloom.ops.integration.coordinates import NODE_STEP
from skyloom.ops.integration.kernels import PHASES
from skyloom.ops.integration.taper import TAPER_CODES, taper_code

VALID_TAPS = 0.6
"""Least sum of the taps that meet data; below it (or with the nearest pixel missing) the result is NaN."""
SHORT = 4
"""Runs of fewer pixels are not worth the set-up of a vector loop."""

_N = np.uint64(NODE_STEP)
_1, _2, _3, _4, _5 = (np.uint64(i) for i in range(1, 6))


@njit(nogil=True, cache=True)
def _partial(source, excess, top, left, taps_y, taps_x, near_y, near_x):  # type: ignore[no-untyped-def]
    """Interpolate over the taps that meet data; (top, left) may lie outside `source`."""
    rows, columns = source.shape
    if near_y < 0 or near_y >= rows or near_x < 0 or near_x >= columns:
        return np.float32(np.nan)
    if not np.isfinite(source[near_y, near_x]):
        return np.float32(np.nan)
    total = np.float32(0.0)
    weight = np.float32(0.0)
    for j in range(taps_y.size):
        y = top + j
        if y < 0 or y >= rows:
            continue
        for i in range(taps_x.size):
            x = left + i
            if x < 0 or x >= columns:
                continue
            value = source[y, x]
            if np.isfinite(value):
                w = taps_y[j] * taps_x[i]
                total += w * (value - excess[y, x] if excess.size else value)
                weight += w
    if weight < np.float32(VALID_TAPS):
        return np.float32(np.nan)
    return total / weight


@njit(nogil=True, cache=True)
def _rings(excess, top, left, taps_y, taps_x):  # type: ignore[no-untyped-def]
    """What the kernel makes of the light that is too sharp for it."""
    total = np.float32(0.0)
    for j in range(taps_y.size):
        for i in range(taps_x.size):
            total += taps_y[j] * taps_x[i] * excess[top + j, left + i]
    return total


@njit(nogil=True, cache=True)
def _bilinear(excess, row, column, p, q):  # type: ignore[no-untyped-def]
    """The same light at phases p, q in x, y of pixel (row, column), which may lie outside, without rings."""
    rows, columns = excess.shape
    total = np.float32(0.0)
    for j in range(2):
        for i in range(2):
            if 0 <= row + j < rows and 0 <= column + i < columns:
                w = np.float32((q if j else PHASES - q) * (p if i else PHASES - p)) / np.float32(PHASES * PHASES)
                total += w * excess[row + j, column + i]
    return total


@njit(nogil=True, cache=True)
def _along(flat, at, stride, wx, wy, count, values):  # type: ignore[no-untyped-def]
    """Six by six taps of `count` canvas pixels whose frame pixels follow each other from `at` on.

    Unsigned indices: a signed one would be tested for counting from the end at each tap. The tap of pixel k in
    direction i is w[i · NODE_STEP + k].
    """
    at1 = at + stride
    at2 = at1 + stride
    at3 = at2 + stride
    at4 = at3 + stride
    at5 = at4 + stride
    for n in range(count):
        k = np.uint64(n)
        u, v, w = wx[k], wx[k + _N], wx[k + _2 * _N]
        x, y, z = wx[k + _3 * _N], wx[k + _4 * _N], wx[k + _5 * _N]
        b = at + k
        r0 = (((u * flat[b] + v * flat[b + _1]) + w * flat[b + _2]) + x * flat[b + _3]) + y * flat[b + _4]
        r0 += z * flat[b + _5]
        b = at1 + k
        r1 = (((u * flat[b] + v * flat[b + _1]) + w * flat[b + _2]) + x * flat[b + _3]) + y * flat[b + _4]
        r1 += z * flat[b + _5]
        b = at2 + k
        r2 = (((u * flat[b] + v * flat[b + _1]) + w * flat[b + _2]) + x * flat[b + _3]) + y * flat[b + _4]
        r2 += z * flat[b + _5]
        b = at3 + k
        r3 = (((u * flat[b] + v * flat[b + _1]) + w * flat[b + _2]) + x * flat[b + _3]) + y * flat[b + _4]
        r3 += z * flat[b + _5]
        b = at4 + k
        r4 = (((u * flat[b] + v * flat[b + _1]) + w * flat[b + _2]) + x * flat[b + _3]) + y * flat[b + _4]
        r4 += z * flat[b + _5]
        b = at5 + k
        r5 = (((u * flat[b] + v * flat[b + _1]) + w * flat[b + _2]) + x * flat[b + _3]) + y * flat[b + _4]
        r5 += z * flat[b + _5]
        total = ((wy[k] * r0 + wy[k + _N] * r1) + wy[k + _2 * _N] * r2) + wy[k + _3 * _N] * r3
        values[k] = (total + wy[k + _4 * _N] * r4) + wy[k + _5 * _N] * r5


@njit(nogil=True, cache=True)
def _at(flat, at, stride, table, p, q):  # type: ignore[no-untyped-def]
    """The taps of one canvas pixel at phases p, q in x, y, summed in the order of `_along`."""
    total = np.float32(0.0)
    taps = table.shape[1]
    if taps == 6:
        u, v, w = table[p, 0], table[p, 1], table[p, 2]
        x, y, z = table[p, 3], table[p, 4], table[p, 5]
        for j in range(6):
            line = u * flat[at] + v * flat[at + _1]
            line = ((line + w * flat[at + _2]) + x * flat[at + _3]) + y * flat[at + _4]
            line += z * flat[at + _5]
            total += table[q, j] * line
            at += stride
        return total
    for j in range(taps):
        line = np.float32(0.0)
        for i in range(taps):
            line += table[p, i] * flat[at + np.uint64(i)]
        total += table[q, j] * line
        at += stride
    return total


@njit(nogil=True, cache=True)
def interpolate(  # type: ignore[no-untyped-def]
    source, source_row, source_column, height, width, fields, node_row, node_column, row0, column0,
    taper, table, excess, near, out, codes,
):  # fmt: skip
    """Interpolate a window of the canvas: see `skyloom.ops.integration.resample.resample`.

    Parameters
    ----------
    source, source_row, source_column
        Pixels of the frame from this row and column on, float32, C order.
    height, width
        Of the whole frame.
    fields, node_row, node_column
        Of the coordinate grid.
    row0, column0
        First pixel of the window.
    taper
        Width of the taper (frame pixels).
    table
        From `tap_table`.
    excess, near
        From `skyloom.ops.integration.sharp.sharp_light`.
    out, codes
        Shape of the window, written.
    """
    rows, columns = out.shape
    flat = source.reshape(-1)
    stride = np.uint64(source.shape[1])
    source_rows, source_columns = source.shape
    nan = np.float32(np.nan)
    taps = table.shape[1]
    reach = taps // 2
    right_edge, top_edge = width - 0.5, height - 0.5
    sharp = near.size > 0
    xs, ys = np.empty(NODE_STEP), np.empty(NODE_STEP)
    left, top = np.empty(NODE_STEP, np.int64), np.empty(NODE_STEP, np.int64)
    px, py = np.empty(NODE_STEP, np.int64), np.empty(NODE_STEP, np.int64)
    inside, odd = np.empty(NODE_STEP, np.bool_), np.empty(NODE_STEP, np.bool_)
    wx, wy = np.empty(taps * NODE_STEP, np.float32), np.empty(taps * NODE_STEP, np.float32)
    values = np.empty(NODE_STEP, np.float32)
    for r in range(rows):
        canvas_row = row0 + r
        ky = canvas_row // NODE_STEP - node_row
        ty = (canvas_row % NODE_STEP) / NODE_STEP
        c = 0
        while c < columns:
            canvas_column = column0 + c
            kx = canvas_column // NODE_STEP - node_column
            phase = canvas_column % NODE_STEP
            stop = min(columns, c + NODE_STEP - phase)
            count = stop - c
            xl = fields[0, ky, kx] + ty * (fields[0, ky + 1, kx] - fields[0, ky, kx])
            xr = fields[0, ky, kx + 1] + ty * (fields[0, ky + 1, kx + 1] - fields[0, ky, kx + 1])
            yl = fields[1, ky, kx] + ty * (fields[1, ky + 1, kx] - fields[1, ky, kx])
            yr = fields[1, ky, kx + 1] + ty * (fields[1, ky + 1, kx + 1] - fields[1, ky, kx + 1])
            if not (
                max(xl, xr) >= -0.5 and min(xl, xr) < right_edge and max(yl, yr) >= -0.5 and min(yl, yr) < top_edge
            ):
                for k in range(c, stop):
                    out[r, k] = nan
                    codes[r, k] = 0
                c = stop
                continue
            gl = fields[2, ky, kx] + ty * (fields[2, ky + 1, kx] - fields[2, ky, kx])
            gr = fields[2, ky, kx + 1] + ty * (fields[2, ky + 1, kx + 1] - fields[2, ky, kx + 1])
            bl = fields[3, ky, kx] + ty * (fields[3, ky + 1, kx] - fields[3, ky, kx])
            br = fields[3, ky, kx + 1] + ty * (fields[3, ky + 1, kx + 1] - fields[3, ky, kx + 1])
            cl = fields[4, ky, kx] + ty * (fields[4, ky + 1, kx] - fields[4, ky, kx])
            cr = fields[4, ky, kx + 1] + ty * (fields[4, ky + 1, kx + 1] - fields[4, ky, kx + 1])
            untapered = (
                min(xl, xr) + 0.5 >= taper
                and right_edge - max(xl, xr) >= taper
                and min(yl, yr) + 0.5 >= taper
                and top_edge - max(yl, yr) >= taper
                and min(cl, cr) * TAPER_CODES >= TAPER_CODES - 0.5
            )
            # Of a frame from the other side of the meridian the segment is worked from its right end.
            flipped = xr < xl
            begin, step = (phase + count - 1, -1) if flipped else (phase, 1)
            for k in range(count):
                tx = (begin + step * k) / NODE_STEP
                x = xl + tx * (xr - xl)
                y = yl + tx * (yr - yl)
                xs[k], ys[k] = x, y
                inside[k] = (x >= -0.5) & (x < right_edge) & (y >= -0.5) & (y < top_edge)
                fx, fy = np.floor(x), np.floor(y)
                left[k] = int(fx) - reach + 1 - source_column
                top[k] = int(fy) - reach + 1 - source_row
                px[k] = int((x - fx) * PHASES + 0.5)
                py[k] = int((y - fy) * PHASES + 0.5)
            first = 0
            while first < count:
                if not inside[first]:
                    values[first] = nan
                    first += 1
                    continue
                line, column = top[first], left[first]
                if column < 0 or line < 0 or column + taps > source_columns or line + taps > source_rows:
                    values[first] = nan
                    odd[first] = True
                    last, found = first + 1, 1
                else:
                    last = first + 1
                    furthest = min(count, first + source_columns - taps - column + 1)
                    while (
                        last < furthest
                        and top[last] == line
                        and left[last] == column + last - first
                        and inside[last]
                    ):
                        last += 1
                    at = np.uint64(line) * stride + np.uint64(column)
                    if taps == 6 and last - first >= SHORT:
                        for k in range(first, last):
                            p, q = px[k], py[k]
                            for i in range(6):
                                wx[i * NODE_STEP + k - first] = table[p, i]
                                wy[i * NODE_STEP + k - first] = table[q, i]
                        _along(flat, at, stride, wx, wy, last - first, values[first:])
                    else:
                        for k in range(first, last):
                            values[k] = _at(flat, at + np.uint64(k - first), stride, table, px[k], py[k])
                    # A NaN anywhere under the kernel shows in the sum: clean pixels pay one test for all taps.
                    found = 0
                    for k in range(first, last):
                        odd[k] = not np.isfinite(values[k])
                        found += odd[k]
                    if sharp:
                        for k in range(first, last):
                            odd[k] |= near[line, column + k - first] != 0
                            found += odd[k]
                if found:
                    for k in range(first, last):
                        if not odd[k]:
                            continue
                        value = values[k]
                        if not np.isfinite(value):
                            value = _partial(
                                source, excess, top[k], left[k], table[py[k]], table[px[k]],
                                int(np.floor(ys[k] + 0.5)) - source_row,
                                int(np.floor(xs[k] + 0.5)) - source_column,
                            )  # fmt: skip
                        else:
                            value -= _rings(excess, top[k], left[k], table[py[k]], table[px[k]])
                        if sharp:
                            value += _bilinear(excess, top[k] + reach - 1, left[k] + reach - 1, px[k], py[k])
                        values[k] = value
                first = last
            place = c - phase + begin
            for k in range(count):
                tx = (begin + step * k) / NODE_STEP
                gain = gl + tx * (gr - gl)
                base = bl + tx * (br - bl)
                out[r, place + step * k] = np.float32(gain * (values[k] - base))
            for k in range(count):
                if not inside[k]:
                    code = 0
                elif untapered:
                    code = TAPER_CODES
                else:
                    x, y = xs[k], ys[k]
                    tx = (begin + step * k) / NODE_STEP
                    edge = min(x + 0.5, right_edge - x, y + 0.5, top_edge - y)
                    code = taper_code(edge, taper, cl + tx * (cr - cl))
                codes[r, place + step * k] = code
            c = stop
