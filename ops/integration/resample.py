"""One interpolation from a frame to the canvas, with the normalization applied on the way."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.integration.area import average_area
from skyloom.ops.integration.coordinates import NODE_STEP, CoordinateGrid
from skyloom.ops.integration.kernels import PHASES, tap_table
from skyloom.ops.integration.taper import TAPER_CODES, taper_code

CLAMP = 0.02
"""Ringing allowed: part of the range of the pixels under the kernel."""
VALID_TAPS = 0.6
"""Least sum of the taps that meet data; below it (or with the nearest pixel missing) the result is NaN."""


def resample(
    source: NDArray[np.float32],
    window: tuple[slice, slice],
    grid: CoordinateGrid,
    rows: slice,
    columns: slice,
    *,
    kernel: str = "lanczos3",
    clamp: float = CLAMP,
    taper: float = 0.0,
    out: NDArray[np.float32] | None = None,
    codes: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Pixels of a canvas window from one frame, normalized.

    Parameters
    ----------
    source
        Pixels of `window` of the frame (float32, C order, NaN = no data).
    window
        From `CoordinateGrid.window`.
    grid
        Covers the canvas window.
    rows, columns
        The canvas window.
    kernel
        From `skyloom.ops.integration.kernels`, not auto.
    clamp
        Depth to which ringing may fall below all pixels under the kernel, as a fraction of their range.
    taper
        Width of the taper at the frame's edges (frame pixels).
    out, codes
        Where to write; made when absent.

    Returns
    -------
    values : ndarray
        float32, s = J·a·(d - b); NaN where the frame has no pixel within half a pixel.
    codes : ndarray
        uint8 taper codes (`taper_weight`), 1…255 wherever the frame reaches, 0 elsewhere.

    Notes
    -----
    Missing pixels (NaN, or beyond the frame's edge) are left out and the remaining taps renormalised, as long
    as the nearest pixel is there and the remaining taps sum to `VALID_TAPS`. So one NaN costs one or two
    canvas pixels and not 36, and noise is amplified at most 1 / 0.6 times beside it.
    Lanczos and bicubic kernels ring beside what is sharper than a star: a hot pixel has a dark ring 0.06 of its
    height deep. A value more than `clamp` of the range below the least pixel under the kernel is raised to that,
    as hardly any noise and no star of 2 pixels and more is. Peaks are not cut: those of stars lie above their
    pixels.
    area: mean over the canvas pixel, every frame pixel counting by its overlap; half of it must have data.
    """
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    if out is None:
        out = np.empty(shape, dtype=np.float32)
    if codes is None:
        codes = np.empty(shape, dtype=np.uint8)
    place = (
        source, window[0].start, window[1].start, grid.shape[0], grid.shape[1],
        grid.fields, grid.origin[0], grid.origin[1], rows.start, columns.start,
    )  # fmt: skip
    width = max(float(taper), 1e-3)
    if kernel == "area":
        average_area(*place, width, out, codes)
    else:
        rings = kernel in ("lanczos3", "lanczos4", "bicubic")
        _resample(*place, width, tap_table(kernel), np.float32(clamp if rings else np.inf), out, codes)
    return out, codes


@njit(nogil=True, cache=True)
def _partial(source, top, left, taps_y, taps_x, near_y, near_x):  # type: ignore[no-untyped-def]
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
                total += w * value
                weight += w
    if weight < np.float32(VALID_TAPS):
        return np.float32(np.nan)
    return total / weight


@njit(nogil=True, cache=True)
def _floor(source, top, left, taps, clamp):  # type: ignore[no-untyped-def]
    """Least value that ringing may reach: `clamp` of the range of the pixels under the kernel below the least."""
    rows, columns = source.shape
    least, most = np.float32(np.inf), np.float32(-np.inf)
    for y in range(max(top, 0), min(top + taps, rows)):
        for x in range(max(left, 0), min(left + taps, columns)):
            value = source[y, x]
            least = min(least, value) if np.isfinite(value) else least
            most = max(most, value) if np.isfinite(value) else most
    return least - clamp * (most - least)


@njit(nogil=True, cache=True)
def _resample(  # type: ignore[no-untyped-def]
    source, source_row, source_column, height, width, fields, node_row, node_column, row0, column0,
    taper, table, clamp, out, codes,
):  # fmt: skip
    rows, columns = out.shape
    flat = source.reshape(-1)
    stride = np.uint64(source.shape[1])
    source_rows, source_columns = source.shape
    nan = np.float32(np.nan)
    taps = table.shape[1]
    reach = taps // 2
    right_edge, top_edge = width - 0.5, height - 0.5
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
            untapered = (
                min(xl, xr) + 0.5 >= taper
                and right_edge - max(xl, xr) >= taper
                and min(yl, yr) + 0.5 >= taper
                and top_edge - max(yl, yr) >= taper
            )
            for k in range(c, stop):
                tx = (phase + k - c) / NODE_STEP
                x = xl + tx * (xr - xl)
                y = yl + tx * (yr - yl)
                if not (x >= -0.5 and x < right_edge and y >= -0.5 and y < top_edge):
                    out[r, k] = nan
                    codes[r, k] = 0
                    continue
                fx, fy = np.floor(x), np.floor(y)
                wx = table[int((x - fx) * PHASES + 0.5)]
                wy = table[int((y - fy) * PHASES + 0.5)]
                left = int(fx) - reach + 1 - source_column
                top = int(fy) - reach + 1 - source_row
                value = nan
                if left < 0 or top < 0 or left + taps > source_columns or top + taps > source_rows:
                    value = nan
                elif taps == 6:
                    # Unsigned: a signed index would be tested for counting from the end at each tap.
                    at = np.uint64(top) * stride + np.uint64(left)
                    a0 = a1 = a2 = a3 = a4 = a5 = np.float32(0.0)
                    for j in range(6):
                        w = wy[j]
                        a0 += w * flat[at]
                        a1 += w * flat[at + np.uint64(1)]
                        a2 += w * flat[at + np.uint64(2)]
                        a3 += w * flat[at + np.uint64(3)]
                        a4 += w * flat[at + np.uint64(4)]
                        a5 += w * flat[at + np.uint64(5)]
                        at += stride
                    value = ((a0 * wx[0] + a1 * wx[1]) + (a2 * wx[2] + a3 * wx[3])) + (a4 * wx[4] + a5 * wx[5])
                else:
                    at = np.uint64(top) * stride + np.uint64(left)
                    value = np.float32(0.0)
                    for j in range(taps):
                        line = np.float32(0.0)
                        for i in range(taps):
                            line += wx[i] * flat[at + np.uint64(i)]
                        value += wy[j] * line
                        at += stride
                # A NaN anywhere under the kernel shows in the sum: clean pixels pay one test for 36 taps.
                if not np.isfinite(value):
                    value = _partial(
                        source, top, left, wy, wx,
                        int(np.floor(y + 0.5)) - source_row, int(np.floor(x + 0.5)) - source_column,
                    )  # fmt: skip
                    if clamp < np.inf:
                        value = max(value, _floor(source, top, left, taps, clamp))
                elif clamp < np.inf:
                    # The middle four tell most pixels that they are not beneath all others.
                    at = np.uint64(top + reach - 1) * stride + np.uint64(left + reach - 1)
                    m0, m1 = flat[at], flat[at + np.uint64(1)]
                    m2, m3 = flat[at + stride], flat[at + stride + np.uint64(1)]
                    least, most = min(m0, m1, m2, m3), max(m0, m1, m2, m3)
                    if value < least - clamp * (most - least):
                        value = max(value, _floor(source, top, left, taps, clamp))
                gain = gl + tx * (gr - gl)
                base = bl + tx * (br - bl)
                out[r, k] = np.float32(gain * (value - base))
                if untapered:
                    codes[r, k] = TAPER_CODES
                else:
                    codes[r, k] = taper_code(min(x + 0.5, right_edge - x, y + 0.5, top_edge - y), taper)
            c = stop
