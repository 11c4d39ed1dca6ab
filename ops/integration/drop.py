"""Drizzle: the pixels of a frame, made smaller, dropped on the canvas by the area they cover there.

Fruchter & Hook (2002, PASP 114, 144). A canvas pixel gets w·a of the weight of a drop, a its overlap in canvas
pixels times the area of the frame that the drop stands for over its own: where drops lie evenly, Σa is 1 a frame.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numba import njit

from skyloom.ops.integration.average import HIGH, LOW, NO_DATA
from skyloom.ops.integration.onto_canvas import NODE_STEP
from skyloom.ops.integration.taper import TAPER_CODES, taper_code

Kernel = Literal["square", "turbo", "point"]
SQUARE, TURBO, POINT = range(3)
KERNELS = {"square": SQUARE, "turbo": TURBO, "point": POINT}
LEAST = 1e-9
"""Overlaps of less (canvas pixels) are rounding."""
ALONE = 4
"""Fate of a sample that no other frame could be compared with."""
GOT, WENT_LOW, WENT_HIGH = 1, 2, 4
"""Bits of `marks`: a drop fell on the pixel, one that would have was rejected."""


def correlation(kernel: str, side: float) -> float:
    """Noise of a sum over a large area over that of as many independent pixels, drops lying evenly.

    Parameters
    ----------
    kernel
        square, turbo or point.
    side
        Of a drop (canvas pixels).

    Notes
    -----
    side / (1 - 1 / 3 side), below 1: 1 / (1 - side / 3) (Fruchter & Hook 2002, eq. 9, for parallel sides).
    """
    if kernel == "point":
        return 1.0
    return side / (1.0 - 1.0 / (3.0 * side)) if side >= 1.0 else 1.0 / (1.0 - side / 3.0)


@njit(nogil=True, cache=True)
def _below(low, high, width):  # type: ignore[no-untyped-def]
    """Area in a unit square below a segment that goes over `width` of it, from height `low` to `high`."""
    if low >= 1.0:
        return width
    if low >= 0.0 and high <= 1.0:
        return width * 0.5 * (low + high)
    # Beyond the square its height counts as 0 or 1.
    inside = min(high, 1.0) - max(low, 0.0)
    middle = 0.5 * (min(high, 1.0) + max(low, 0.0))
    return width * (inside * middle + max(high - 1.0, 0.0)) / (high - low)


@njit(nogil=True, cache=True)
def overlaps(x, y, areas, left, bottom):  # type: ignore[no-untyped-def]
    """Overlap of a polygon with pixels, by the areas below its edges (Green's theorem).

    Parameters
    ----------
    x, y
        Corners, in order.
    areas
        (rows, columns) of pixels; filled, negative where the corners run clockwise.
    left, bottom
        Outer edges of the first pixel; the polygon lies right of and above them, and inside of the last.
    """
    rows, columns = areas.shape
    areas[:] = 0.0
    for k in range(x.size):
        n = k + 1 if k + 1 < x.size else 0
        x0, y0, x1, y1 = x[k] - left, y[k] - bottom, x[n] - left, y[n] - bottom
        if x0 == x1:
            continue
        # From left to right, the sum's sign tells which way it was.
        sign = -1.0
        if x0 > x1:
            x0, y0, x1, y1 = x1, y1, x0, y0
            sign = 1.0
        slope = (y1 - y0) / (x1 - x0)
        for c in range(max(int(x0), 0), min(int(x1) + 1, columns)):
            a, b = max(x0, float(c)), min(x1, c + 1.0)
            if b <= a:
                continue
            ya, yb = y0 + slope * (a - x0), y0 + slope * (b - x0)
            low, high = min(ya, yb), max(ya, yb)
            for r in range(rows):
                if high <= r:
                    break
                areas[r, c] += sign * _below(low - r, high - r, b - a)


@njit(nogil=True, cache=True)
def drop(  # type: ignore[no-untyped-def]
    pixels, row0, column0, height, width, fields, node_row, node_column, offset_y, offset_x, size, share, kernel,
    top, left, crpix_y, crpix_x, fates, fate_row, fate_column, scale, hits, taper, weight, noise,
    sums, marks,
):  # fmt: skip
    """Drop a window of a frame on a window of the canvas: add to the sums and marks.

    Parameters
    ----------
    pixels
        (rows, columns), beginning at `row0`, `column0` of a frame of `height`, `width`; NaN = no data.
    fields
        (4, node rows, node columns): position x, y of the nodes on the canvas' lattice, factor a and offset b of
        the values. The first node is number `node_row`, `node_column`.
    offset_y, offset_x
        Of the drops' centres from the pixels' (pixels).
    size
        Side of a drop (pixels).
    share
        Part of a pixel's area that a drop stands for.
    kernel
        SQUARE: the drop as it lies on the canvas; TURBO: a square along the canvas' axes; POINT.
    top, left
        First row and column of the window of the canvas; `crpix_y`, `crpix_x` its reference pixel (from 1).
    fates
        (rows, columns): what became of the frame's samples on the coarse canvas, from `fate_row`, `fate_column`,
        `scale` canvas pixels a pixel; pixels beyond go by the nearest. Empty: all are used.
    hits
        As `pixels`: those with cosmic rays, which do not count where the frame is `ALONE`; or empty.
    taper
        Width of the taper at the frame's edges (pixels).
    weight
        Of the frame.
    noise
        rms of what a drop is made from (the frame's units).
    sums
        float64 (rows, columns, 3): sums over the drops of w·a, w·a·v and (w·a·σ)², σ the noise of the value v.
    marks
        uint8, bits GOT, WENT_LOW, WENT_HIGH.
    """
    rows, columns = marks.shape
    # Canvas pixel r, c lies on the lattice at y0 + r, x0 + c: exact, the same whatever the window.
    y0, x0 = top - crpix_y, left - crpix_x
    step = float(NODE_STEP)
    right_edge, top_edge = width - 0.5, height - 0.5
    half = 0.5 * size
    corner_x, corner_y, areas = np.empty(4), np.empty(4), np.empty((4, 4))
    unit = 1.0 / (TAPER_CODES * TAPER_CODES)
    for j in range(pixels.shape[0]):
        y = row0 + j
        ky = y // NODE_STEP - node_row
        ty = ((y % NODE_STEP) + 0.5 + offset_y) / step
        for i in range(pixels.shape[1]):
            d = pixels[j, i]
            if not np.isfinite(d):
                continue
            x = column0 + i
            kx = x // NODE_STEP - node_column
            tx = ((x % NODE_STEP) + 0.5 + offset_x) / step
            x00, x01, x10, x11 = (
                fields[0, ky, kx], fields[0, ky, kx + 1], fields[0, ky + 1, kx], fields[0, ky + 1, kx + 1],
            )  # fmt: skip
            y00, y01, y10, y11 = (
                fields[1, ky, kx], fields[1, ky, kx + 1], fields[1, ky + 1, kx], fields[1, ky + 1, kx + 1],
            )  # fmt: skip
            cx = (1 - ty) * ((1 - tx) * x00 + tx * x01) + ty * ((1 - tx) * x10 + tx * x11)
            cy = (1 - ty) * ((1 - tx) * y00 + tx * y01) + ty * ((1 - tx) * y10 + tx * y11)
            # Sides of a pixel on the canvas.
            ux = ((1 - ty) * (x01 - x00) + ty * (x11 - x10)) / step
            uy = ((1 - ty) * (y01 - y00) + ty * (y11 - y10)) / step
            vx = ((1 - tx) * (x10 - x00) + tx * (x11 - x01)) / step
            vy = ((1 - tx) * (y10 - y00) + tx * (y11 - y01)) / step
            area = abs(ux * vy - uy * vx)
            if not (area > 0.0):
                continue
            if kernel == SQUARE:
                reach_x, reach_y = half * (abs(ux) + abs(vx)), half * (abs(uy) + abs(vy))
            elif kernel == TURBO:
                reach_x = reach_y = half * np.sqrt(area)
            else:
                reach_x = reach_y = 0.0
            if (
                cx + reach_x < x0 - 0.5
                or cx - reach_x > x0 + columns - 0.5
                or cy + reach_y < y0 - 0.5
                or cy - reach_y > y0 + rows - 0.5
            ):
                continue
            bit = GOT
            if fates.size:
                fy = int(np.floor(cy + crpix_y + 0.5)) // scale - fate_row
                fx = int(np.floor(cx + crpix_x + 0.5)) // scale - fate_column
                fate = fates[min(max(fy, 0), fates.shape[0] - 1), min(max(fx, 0), fates.shape[1] - 1)]
                if fate == NO_DATA:
                    continue
                if fate == LOW:
                    bit = WENT_LOW
                elif fate == HIGH or (fate == ALONE and hits.size and hits[j, i]):
                    bit = WENT_HIGH
            a0 = fields[2, ky, kx] + tx * (fields[2, ky, kx + 1] - fields[2, ky, kx])
            a1 = fields[2, ky + 1, kx] + tx * (fields[2, ky + 1, kx + 1] - fields[2, ky + 1, kx])
            b0 = fields[3, ky, kx] + tx * (fields[3, ky, kx + 1] - fields[3, ky, kx])
            b1 = fields[3, ky + 1, kx] + tx * (fields[3, ky + 1, kx + 1] - fields[3, ky + 1, kx])
            c0 = fields[4, ky, kx] + tx * (fields[4, ky, kx + 1] - fields[4, ky, kx])
            c1 = fields[4, ky + 1, kx] + tx * (fields[4, ky + 1, kx + 1] - fields[4, ky + 1, kx])
            factor = (a0 + ty * (a1 - a0)) / area
            value = factor * (d - (b0 + ty * (b1 - b0)))
            sigma = factor * noise
            edge = min(x + 0.5, right_edge - x, y + 0.5, top_edge - y)
            code = float(taper_code(edge, taper, c0 + ty * (c1 - c0)))
            w = weight * (code * code) * unit
            if kernel == POINT:
                # As on the whole canvas: what a boundary belongs to does not depend on the window.
                r, c = int(np.floor(cy + crpix_y + 0.5)) - top, int(np.floor(cx + crpix_x + 0.5)) - left
                if 0 <= r < rows and 0 <= c < columns:
                    marks[r, c] |= bit
                    if bit == GOT:
                        wa = w * area * share
                        sums[r, c, 0] += wa
                        sums[r, c, 1] += wa * value
                        sums[r, c, 2] += (wa * sigma) ** 2
                continue
            w *= share / (size * size)
            if kernel == SQUARE:
                for k in range(4):
                    # Round the drop: lower left, lower right, upper right, upper left.
                    s = tx + (half if k == 1 or k == 2 else -half) / step
                    t = ty + (half if k >= 2 else -half) / step
                    corner_x[k] = (1 - t) * ((1 - s) * x00 + s * x01) + t * ((1 - s) * x10 + s * x11)
                    corner_y[k] = (1 - t) * ((1 - s) * y00 + s * y01) + t * ((1 - s) * y10 + s * y11)
                low_x = min(corner_x[0], corner_x[1], corner_x[2], corner_x[3])
                high_x = max(corner_x[0], corner_x[1], corner_x[2], corner_x[3])
                low_y = min(corner_y[0], corner_y[1], corner_y[2], corner_y[3])
                high_y = max(corner_y[0], corner_y[1], corner_y[2], corner_y[3])
            else:
                low_x, high_x, low_y, high_y = cx - reach_x, cx + reach_x, cy - reach_y, cy + reach_y
            first_r, last_r = int(np.floor(low_y - (y0 - 0.5))), int(np.floor(high_y - (y0 - 0.5)))
            first_c, last_c = int(np.floor(low_x - (x0 - 0.5))), int(np.floor(high_x - (x0 - 0.5)))
            if kernel == SQUARE:
                high, wide = last_r - first_r + 1, last_c - first_c + 1
                if high > areas.shape[0] or wide > areas.shape[1]:
                    areas = np.empty((max(high, areas.shape[0]), max(wide, areas.shape[1])))
                overlaps(corner_x, corner_y, areas[:high, :wide], x0 - 0.5 + first_c, y0 - 0.5 + first_r)
            for r in range(max(first_r, 0), min(last_r + 1, rows)):
                py = y0 + r - 0.5
                for c in range(max(first_c, 0), min(last_c + 1, columns)):
                    px = x0 + c - 0.5
                    if kernel == SQUARE:
                        overlap = abs(areas[r - first_r, c - first_c])
                    else:
                        overlap = (min(high_x - px, 1.0) - max(low_x - px, 0.0)) * (
                            min(high_y - py, 1.0) - max(low_y - py, 0.0)
                        )
                    if overlap < LEAST:
                        continue
                    marks[r, c] |= bit
                    if bit == GOT:
                        wa = w * overlap
                        sums[r, c, 0] += wa
                        sums[r, c, 1] += wa * value
                        sums[r, c, 2] += (wa * sigma) ** 2
