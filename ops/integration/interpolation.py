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
SHORT = 8
"""Runs of fewer pixels are not worth the set-up of a vector loop."""

BLOCK = 32
"""Pixels whose taps are laid out at once."""
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
def _along(flat, at, stride, wx, wy, values):  # type: ignore[no-untyped-def]
    """Six by six taps of a run of canvas pixels whose frame pixels follow each other from `at` on.

    Unsigned indices: a signed one would be tested for counting from the end at each tap. The tap of pixel k in
    direction i is w[i // 2, 2 k + i % 2].
    """
    at1 = at + stride
    at2 = at1 + stride
    at3 = at2 + stride
    at4 = at3 + stride
    at5 = at4 + stride
    wuv, wwx, wyz = wx[0], wx[1], wx[2]
    w01, w23, w45 = wy[0], wy[1], wy[2]
    for n in range(values.size):
        k = np.uint64(n)
        i = k + k
        u, v, w, x, y, z = wuv[i], wuv[i + _1], wwx[i], wwx[i + _1], wyz[i], wyz[i + _1]
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
        total = ((w01[i] * r0 + w01[i + _1] * r1) + w23[i] * r2) + w23[i + _1] * r3
        values[k] = (total + w45[i] * r4) + w45[i + _1] * r5


@njit(nogil=True, cache=True)
def _taps(pairs, phases, taps):  # type: ignore[no-untyped-def]
    """Lay the six taps at the phases of a run of pixels out as `_along` reads them: two at a time."""
    a, b, c = taps[0], taps[1], taps[2]
    for begin in range(0, phases.size, BLOCK):
        end = min(begin + BLOCK, phases.size)
        alike = np.uint64(phases[begin])
        other = np.uint64(0)
        for n in range(begin, end):
            other |= np.uint64(phases[n]) ^ alike
        # Along the rows of a frame that is hardly turned phases stay as they are.
        if not other:
            at = _3 * alike
            u, v, w = pairs[at], pairs[at + _1], pairs[at + _2]
            for n in range(begin, end):
                k = np.uint64(n)
                a[k], b[k], c[k] = u, v, w
            continue
        for n in range(begin, end):
            k = np.uint64(n)
            at = _3 * np.uint64(phases[n])
            a[k], b[k], c[k] = pairs[at], pairs[at + _1], pairs[at + _2]


@njit(nogil=True, cache=True)
def _ends(field, ky, kx, ty):  # type: ignore[no-untyped-def]
    """A field of the coordinate grid at both ends of a cell, `ty` of the way down it."""
    return (
        field[ky, kx] + ty * (field[ky + 1, kx] - field[ky, kx]),
        field[ky, kx + 1] + ty * (field[ky + 1, kx + 1] - field[ky, kx + 1]),
    )


@njit(nogil=True, cache=True)
def _segment(cell, phase0, columns, first, last, flipped):  # type: ignore[no-untyped-def]
    """Columns of the window in a cell, where they begin in the row as it is worked, and their steps in the cell.

    The row is worked from column `first` on, or, `flipped`, from before `last` down.
    """
    start, stop = max(cell * NODE_STEP - phase0, 0), min((cell + 1) * NODE_STEP - phase0, columns)
    phase = (start + phase0) % NODE_STEP
    if flipped:
        return start, stop, last - stop, phase + stop - start - 1, -1
    return start, stop, start - first, phase, 1


@njit(nogil=True, cache=True)
def _locate(xs, ys, right_edge, top_edge, shift_x, shift_y, inside, left, top, px, py, parted):  # type: ignore[no-untyped-def]
    """Fill what follows from positions: the first tap, phases, whether a pixel does not follow the one before."""
    for k in range(xs.size):
        x, y = xs[k], ys[k]
        inside[k] = (x >= -0.5) & (x < right_edge) & (y >= -0.5) & (y < top_edge)
        fx, fy = np.floor(x), np.floor(y)
        left[k] = int(fx) - shift_x
        top[k] = int(fy) - shift_y
        px[k] = int((x - fx) * PHASES + 0.5)
        py[k] = int((y - fy) * PHASES + 0.5)
    parted[0] = 1
    for k in range(1, xs.size):
        parted[k] = (top[k] != top[k - 1]) | (left[k] != left[k - 1] + 1) | (inside[k] == 0)


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
    xs, ys = np.empty(columns), np.empty(columns)
    left, top = np.empty(columns, np.int64), np.empty(columns, np.int64)
    px, py = np.empty(columns, np.int64), np.empty(columns, np.int64)
    inside, parted = np.empty(columns, np.uint8), np.empty(columns, np.uint8)
    wx, wy = np.empty((3, columns)), np.empty((3, columns))
    wx_single, wy_single = wx.view(np.float32), wy.view(np.float32)
    pairs = table.reshape(-1).view(np.float64) if taps == 6 else wx[0]
    values = np.empty(columns, np.float32)
    phase0, cell0 = column0 % NODE_STEP, column0 // NODE_STEP - node_column
    cells = (phase0 + columns - 1) // NODE_STEP + 1
    for r in range(rows):
        ky = (row0 + r) // NODE_STEP - node_row
        ty = ((row0 + r) % NODE_STEP) / NODE_STEP
        # Of a frame from the other side of the meridian a row is worked from its right end.
        flipped = fields[0, ky, cell0 + cells] < fields[0, ky, cell0]
        # Cells that meet the frame lie between these two.
        before, after = cells, 0
        for cell in range(cells):
            xl, xr = _ends(fields[0], ky, cell0 + cell, ty)
            yl, yr = _ends(fields[1], ky, cell0 + cell, ty)
            if max(xl, xr) >= -0.5 and min(xl, xr) < right_edge and max(yl, yr) >= -0.5 and min(yl, yr) < top_edge:
                before, after = min(before, cell), cell + 1
        if before >= after:
            out[r] = nan
            codes[r] = 0
            continue
        first_column, stop_column = max(before * NODE_STEP - phase0, 0), min(after * NODE_STEP - phase0, columns)
        out[r, :first_column] = nan
        out[r, stop_column:] = nan
        codes[r, :first_column] = 0
        codes[r, stop_column:] = 0
        size = stop_column - first_column
        for cell in range(before, after):
            c, stop, at, begin, step = _segment(cell, phase0, columns, first_column, stop_column, flipped)
            xl, xr = _ends(fields[0], ky, cell0 + cell, ty)
            yl, yr = _ends(fields[1], ky, cell0 + cell, ty)
            x_cell, y_cell = xs[at : at + stop - c], ys[at : at + stop - c]
            for k in range(x_cell.size):
                tx = (begin + step * k) / NODE_STEP
                x_cell[k] = xl + tx * (xr - xl)
                y_cell[k] = yl + tx * (yr - yl)
        _locate(
            xs[:size], ys[:size], right_edge, top_edge, reach - 1 + source_column, reach - 1 + source_row,
            inside, left, top, px, py, parted,
        )  # fmt: skip
        first = 0
        while first < size:
            if not inside[first]:
                values[first] = nan
                first += 1
                continue
            line, column = top[first], left[first]
            last = first + 1
            if column < 0 or line < 0 or column + taps > source_columns or line + taps > source_rows:
                values[first] = nan
                found = 1
            else:
                furthest = min(size, first + source_columns - taps - column + 1)
                while last < furthest and not parted[last]:
                    last += 1
                start = np.uint64(line) * stride + np.uint64(column)
                if taps == 6 and last - first >= SHORT:
                    _taps(pairs, px[first:last], wx)
                    _taps(pairs, py[first:last], wy)
                    _along(flat, start, stride, wx_single, wy_single, values[first:last])
                else:
                    for k in range(first, last):
                        values[k] = _at(flat, start + np.uint64(k - first), stride, table, px[k], py[k])
                # A NaN anywhere under the kernel shows in the sum: clean pixels pay one test for all taps.
                found = 0
                for k in range(first, last):
                    found |= not np.isfinite(values[k])
                if sharp:
                    for k in range(last - first):
                        found |= near[line, column + k]
            if found:
                for k in range(first, last):
                    value = values[k]
                    missing = not np.isfinite(value)
                    if not missing and not (sharp and near[line, column + k - first]):
                        continue
                    if missing:
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
        for cell in range(before, after):
            c, stop, at, begin, step = _segment(cell, phase0, columns, first_column, stop_column, flipped)
            gl, gr = _ends(fields[2], ky, cell0 + cell, ty)
            bl, br = _ends(fields[3], ky, cell0 + cell, ty)
            cl, cr = _ends(fields[4], ky, cell0 + cell, ty)
            cell_values, cell_inside = values[at : at + stop - c], inside[at : at + stop - c]
            for k in range(cell_values.size):
                tx = (begin + step * k) / NODE_STEP
                gain = gl + tx * (gr - gl)
                base = bl + tx * (br - bl)
                cell_values[k] = np.float32(gain * (cell_values[k] - base))
            row = out[r, c:stop]
            if flipped:
                for k in range(row.size):
                    row[row.size - 1 - k] = cell_values[k]
            else:
                for k in range(row.size):
                    row[k] = cell_values[k]
            x_cell, y_cell = xs[at : at + stop - c], ys[at : at + stop - c]
            first_x, last_x, first_y, last_y = x_cell[0], x_cell[-1], y_cell[0], y_cell[-1]
            untapered = (
                min(first_x, last_x) + 0.5 >= taper
                and right_edge - max(first_x, last_x) >= taper
                and min(first_y, last_y) + 0.5 >= taper
                and top_edge - max(first_y, last_y) >= taper
                and min(cl, cr) * TAPER_CODES >= TAPER_CODES - 0.5
            )
            if untapered:
                codes[r, c:stop] = TAPER_CODES
                continue
            for k in range(x_cell.size):
                code = 0
                if cell_inside[k]:
                    x, y = x_cell[k], y_cell[k]
                    tx = (begin + step * k) / NODE_STEP
                    edge = min(x + 0.5, right_edge - x, y + 0.5, top_edge - y)
                    code = taper_code(edge, taper, cl + tx * (cr - cl))
                codes[r, stop - 1 - k if flipped else c + k] = code
