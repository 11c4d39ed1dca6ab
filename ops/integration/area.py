"""Averages over the area of canvas pixels that are larger than the frame's: its pixels count by their overlap."""

from __future__ import annotations

import numpy as np
from numba import njit

from skyloom.ops.integration.coordinates import NODE_STEP
from skyloom.ops.integration.taper import taper_code

VALID_AREA = 0.5
"""Least part of a canvas pixel that data must cover; below it the result is NaN."""


@njit(nogil=True, cache=True)
def _ramp(t):  # type: ignore[no-untyped-def]
    """Integral of t cut to 0…1."""
    if t <= 0.0:
        return 0.0
    return 0.5 * t * t if t < 1.0 else t - 0.5


@njit(nogil=True, cache=True)
def area_below(x0, y0, x1, y1):  # type: ignore[no-untyped-def]
    """Area between a segment and the x axis inside the unit square, negative where the segment runs to the left.

    Summed over the edges of a polygon: its overlap with the square, by Green's theorem.
    """
    a, b = min(max(x0, 0.0), 1.0), min(max(x1, 0.0), 1.0)
    width = b - a
    if width == 0.0:
        return 0.0
    slope = (y1 - y0) / (x1 - x0)
    ya, yb = y0 + slope * (a - x0), y0 + slope * (b - x0)
    if max(ya, yb) <= 0.0:
        return 0.0
    if min(ya, yb) >= 1.0:
        return width
    if abs(yb - ya) < 1e-9:
        return width * min(max(0.5 * (ya + yb), 0.0), 1.0)
    return width * (_ramp(yb) - _ramp(ya)) / (yb - ya)


@njit(nogil=True, cache=True)
def average_area(  # type: ignore[no-untyped-def]
    source, source_row, source_column, height, width, fields, node_row, node_column, row0, column0,
    taper, out, codes,
):  # fmt: skip
    """Fill `out` with J·a·(mean of d over the pixel - b), `codes` with taper codes."""
    rows, columns = out.shape
    source_rows, source_columns = source.shape
    nan = np.float32(np.nan)
    step = float(NODE_STEP)
    right_edge, top_edge = width - 0.5, height - 0.5
    corner_x, corner_y = np.empty(4), np.empty(4)
    for r in range(rows):
        ky = (row0 + r) // NODE_STEP - node_row
        ty = ((row0 + r) % NODE_STEP) / step
        for c in range(columns):
            kx = (column0 + c) // NODE_STEP - node_column
            tx = ((column0 + c) % NODE_STEP) / step
            x00, x01, x10, x11 = (
                fields[0, ky, kx], fields[0, ky, kx + 1], fields[0, ky + 1, kx], fields[0, ky + 1, kx + 1],
            )  # fmt: skip
            y00, y01, y10, y11 = (
                fields[1, ky, kx], fields[1, ky, kx + 1], fields[1, ky + 1, kx], fields[1, ky + 1, kx + 1],
            )  # fmt: skip
            x = (1 - ty) * ((1 - tx) * x00 + tx * x01) + ty * ((1 - tx) * x10 + tx * x11)
            y = (1 - ty) * ((1 - tx) * y00 + tx * y01) + ty * ((1 - tx) * y10 + tx * y11)
            out[r, c] = nan
            codes[r, c] = 0
            if not (x >= -0.5 and x < right_edge and y >= -0.5 and y < top_edge):
                continue
            for k in range(4):
                # Round the pixel: lower left, lower right, upper right, upper left.
                u = tx + (0.5 if k == 1 or k == 2 else -0.5) / step
                v = ty + (0.5 if k >= 2 else -0.5) / step
                corner_x[k] = (1 - v) * ((1 - u) * x00 + u * x01) + v * ((1 - u) * x10 + u * x11)
                corner_y[k] = (1 - v) * ((1 - u) * y00 + u * y01) + v * ((1 - u) * y10 + u * y11)
            left, right = int(np.floor(corner_x.min() + 0.5)), int(np.floor(corner_x.max() + 0.5))
            bottom, top = int(np.floor(corner_y.min() + 0.5)), int(np.floor(corner_y.max() + 0.5))
            whole = covered = total = 0.0
            for k in range(4):
                n = (k + 1) % 4
                whole += 0.5 * (corner_x[k] - corner_x[n]) * (corner_y[k] + corner_y[n])
            for j in range(max(bottom, source_row), min(top + 1, source_row + source_rows)):
                for i in range(max(left, source_column), min(right + 1, source_column + source_columns)):
                    value = source[j - source_row, i - source_column]
                    if not np.isfinite(value):
                        continue
                    overlap = 0.0
                    for k in range(4):
                        n = (k + 1) % 4
                        overlap += area_below(
                            corner_x[k] - i + 0.5,
                            corner_y[k] - j + 0.5,
                            corner_x[n] - i + 0.5,
                            corner_y[n] - j + 0.5,
                        )
                    overlap = abs(overlap)
                    covered += overlap
                    total += overlap * value
            if covered > 0.0 and covered >= VALID_AREA * abs(whole):
                g0 = fields[2, ky, kx] + tx * (fields[2, ky, kx + 1] - fields[2, ky, kx])
                g1 = fields[2, ky + 1, kx] + tx * (fields[2, ky + 1, kx + 1] - fields[2, ky + 1, kx])
                b0 = fields[3, ky, kx] + tx * (fields[3, ky, kx + 1] - fields[3, ky, kx])
                b1 = fields[3, ky + 1, kx] + tx * (fields[3, ky + 1, kx + 1] - fields[3, ky + 1, kx])
                out[r, c] = np.float32((g0 + ty * (g1 - g0)) * (total / covered - (b0 + ty * (b1 - b0))))
            edge = min(x + 0.5, right_edge - x, y + 0.5, top_edge - y)
            c0 = fields[4, ky, kx] + tx * (fields[4, ky, kx + 1] - fields[4, ky, kx])
            c1 = fields[4, ky + 1, kx] + tx * (fields[4, ky + 1, kx + 1] - fields[4, ky + 1, kx])
            codes[r, c] = taper_code(edge, taper, c0 + ty * (c1 - c0))
