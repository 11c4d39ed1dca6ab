"""One interpolation from a frame to the canvas: Lanczos-3 with the normalization applied on the way.

Positions are exact at nodes every `NODE_STEP` canvas pixels and bilinear in between. The nodes are anchored
at canvas pixel (0, 0), so what a pixel gets does not depend on the tile or strip it is computed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.grid import WCS_LOCK, Grid, parse_wcs, pixel_to_sky, sky_to_pixel

NODE_STEP = 32
"""Canvas pixels between nodes of the coordinate grid."""
REACH = 3
"""Frame pixels a Lanczos-3 kernel reaches to either side."""
PHASES = 2048
"""Sub-pixel phases of the tap table: the position is rounded to 1/2048 pixel."""
VALID_TAPS = 0.6
"""Least sum of the taps that meet data; below it (or with the nearest pixel missing) the result is NaN."""
TAPER_CODES = 255
"""Taper weights are stored as `round(255 sqrt(w))`, at least 1: a byte a sample, fine steps near zero."""

_ITERATIONS = 40


def lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lanczos-3 kernel: sinc(x) sinc(x / 3) within ±3, else 0."""
    return np.where(np.abs(x) < REACH, np.sinc(x) * np.sinc(x / REACH), 0.0)


def lanczos_taps(fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of pixels floor(x) - 2 … floor(x) + 3 for x = floor(x) + fraction.

    Lanczos-3 alone moves a ramp, and with it every star of a frame that is shifted only, by up to 0.02 px. So the
    taps are corrected, within the kernel's own window and as little as possible, to sum to 1 and to have their
    centre of gravity at x.

    Parameters
    ----------
    fraction
        0…1, any shape.

    Returns
    -------
    ndarray
        Shape `fraction.shape + (6,)`.
    """
    distance = np.arange(1 - REACH, REACH + 1) - np.asarray(fraction, dtype=np.float64)[..., None]
    taps, window = lanczos(distance), np.clip(np.sinc(distance / REACH), 0.0, None)
    s0, s1, s2 = (np.sum(window * distance**k, axis=-1) for k in range(3))
    lack, lean = 1.0 - taps.sum(axis=-1), -np.sum(taps * distance, axis=-1)
    determinant = s0 * s2 - s1 * s1
    level = (s2 * lack - s1 * lean) / determinant
    slope = (s0 * lean - s1 * lack) / determinant
    return np.asarray(taps + window * (level[..., None] + slope[..., None] * distance))


@lru_cache(maxsize=1)
def tap_table() -> NDArray[np.float32]:
    """`lanczos_taps` at PHASES + 1 fractions, shape (PHASES + 1, 6), float32, read-only."""
    table = lanczos_taps(np.arange(PHASES + 1) / PHASES).astype(np.float32)
    table.flags.writeable = False
    return table


def kernel_noise_factor() -> float:
    """Mean over all sub-pixel positions of the sum of squared taps: variance out / variance in of white noise."""
    squares = np.sum(tap_table()[:-1].astype(np.float64) ** 2, axis=1)
    return float(squares.mean() ** 2)


def taper_weight(code: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Weight (0…1) of stored taper codes."""
    return (code.astype(np.float64) / TAPER_CODES) ** 2


@dataclass(frozen=True)
class CanvasNodes:
    """The nodes that surround a window of the canvas, and where on the sky they are."""

    origin: tuple[int, int]
    """Row and column of the first node, in units of NODE_STEP; one node of halo is included."""
    shape: tuple[int, int]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]

    @classmethod
    def around(cls, grid: Grid, rows: slice, columns: slice) -> CanvasNodes:
        """Nodes of all cells a window touches, plus one on each side for the Jacobian's differences."""
        first = [s.start // NODE_STEP - 1 for s in (rows, columns)]
        last = [(s.stop - 1) // NODE_STEP + 2 for s in (rows, columns)]
        y = np.arange(first[0], last[0] + 1) * float(NODE_STEP)
        x = np.arange(first[1], last[1] + 1) * float(NODE_STEP)
        xx, yy = np.meshgrid(x, y)
        ra, dec = pixel_to_sky(grid.wcs, xx.ravel(), yy.ravel())
        return cls((first[0], first[1]), xx.shape, ra, dec)


@dataclass(frozen=True)
class CoordinateGrid:
    """A frame seen from a window of the canvas: where its pixels are and how they are normalized.

    `fields` holds at each node the frame position x, y (pixels), the factor J·a and the offset b of
    s = J·a·(d - b).
    """

    origin: tuple[int, int]
    fields: NDArray[np.float64]
    """Shape (4, nodes in y, nodes in x): x, y, J·a, b."""
    shape: tuple[int, int]
    """Rows, columns of the frame."""

    def window(self, rows: slice, columns: slice) -> tuple[slice, slice] | None:
        """Window of the frame that the canvas window needs (taps included), None if they do not meet."""
        height, width = self.shape
        ny0, nx0 = self.origin
        ky = slice(rows.start // NODE_STEP - ny0, (rows.stop - 1) // NODE_STEP + 2 - ny0)
        kx = slice(columns.start // NODE_STEP - nx0, (columns.stop - 1) // NODE_STEP + 2 - nx0)
        x, y = self.fields[0, ky, kx], self.fields[1, ky, kx]
        corners = np.stack([np.stack([p[:-1, :-1], p[:-1, 1:], p[1:, :-1], p[1:, 1:]]) for p in (x, y)])
        low, high = corners.min(axis=1), corners.max(axis=1)
        meets = (high[0] >= -0.5) & (low[0] <= width - 0.5) & (high[1] >= -0.5) & (low[1] <= height - 0.5)
        if not meets.any():
            return None
        x0, y0 = (int(max(np.floor(low[i][meets].min()) - REACH, 0)) for i in (0, 1))
        x1 = int(min(np.ceil(high[0][meets].max()) + REACH + 1, width))
        y1 = int(min(np.ceil(high[1][meets].max()) + REACH + 1, height))
        return (slice(y0, y1), slice(x0, x1)) if x1 > x0 and y1 > y0 else None


def frame_positions(
    wcs: str, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frame pixel positions of sky positions, each independent of the others in the call.

    astropy's inverse of a distortion iterates all points until the worst has converged, so a point's last
    bits depend on its company; here a point stops when it has converged itself (1e-9 px). NaN where it does not.
    """
    frame = parse_wcs(wcs)
    with WCS_LOCK, np.errstate(all="ignore"):
        if not frame.has_distortion:
            return sky_to_pixel(frame, ra, dec)
        target = np.stack(frame.wcs_world2pix(ra, dec, 0))
        position = target.copy()
        moving = np.isfinite(target).all(axis=0)
        position[:, ~moving] = np.nan
        for _ in range(_ITERATIONS):
            if not moving.any():
                break
            step = np.stack(frame.pix2foc(*position[:, moving], 0)) - target[:, moving]
            position[:, moving] -= step
            size = np.abs(step).max(axis=0)
            moving[moving] = ~(size < 1e-9)
            moving &= np.abs(position).max(axis=0) < 1e7
        position[:, moving | ~(np.abs(position).max(axis=0) < 1e7)] = np.nan
    return position[0], position[1]


def _extended_basis(u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spline basis that goes on straight (odd reflection) beyond the frame, where nodes of edge cells lie."""
    inside = np.clip(u, 0.0, 1.0)
    return 2.0 * surface.basis(inside) - surface.basis(np.clip(2.0 * inside - u, 0.0, 1.0))


def _field(
    coefficients: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(np.sum((_extended_basis(v) @ coefficients) * _extended_basis(u), axis=-1))


def coordinate_grid(
    nodes: CanvasNodes,
    wcs: str,
    shape: tuple[int, int],
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: NDArray[np.float64] | None = None,
    offset: NDArray[np.float64] | None = None,
) -> CoordinateGrid:
    """Map the nodes of a canvas window into a frame.

    Parameters
    ----------
    nodes
        From `CanvasNodes.around`, shared by all frames of a tile.
    wcs
        Header text of the frame.
    shape
        Rows, columns of the frame.
    shift
        Added to the mapped position (frame pixels, x first).
    scale, offset
        Coefficients of a and b (`skyloom.ops.surface`); 1 and 0 when absent.
    """
    height, width = shape
    x, y = (p.reshape(nodes.shape) for p in frame_positions(wcs, nodes.ra, nodes.dec))
    dx_dy, dx_dx = np.gradient(x, float(NODE_STEP))
    dy_dy, dy_dx = np.gradient(y, float(NODE_STEP))
    jacobian = np.abs(dx_dx * dy_dy - dx_dy * dy_dx)[1:-1, 1:-1]
    x, y = x[1:-1, 1:-1] + shift[0], y[1:-1, 1:-1] + shift[1]
    # A field's value far outside the frame is never used, but must not be NaN.
    u = np.nan_to_num(x / max(width - 1, 1)).ravel()
    v = np.nan_to_num(y / max(height - 1, 1)).ravel()
    gain = jacobian if scale is None else jacobian * _field(scale, u, v).reshape(x.shape)
    base = np.zeros_like(x) if offset is None else _field(offset, u, v).reshape(x.shape)
    fields = np.ascontiguousarray(np.stack([x, y, gain, base]))
    return CoordinateGrid((nodes.origin[0] + 1, nodes.origin[1] + 1), fields, shape)


@lru_cache(maxsize=16384)
def central_jacobian(canvas: str, wcs: str, shape: tuple[int, int]) -> float:
    """Area of a canvas pixel (header text `canvas`) in frame pixels, at the frame's centre."""
    ra, dec = pixel_to_sky(parse_wcs(wcs), np.array([(shape[1] - 1) / 2.0]), np.array([(shape[0] - 1) / 2.0]))
    x, y = sky_to_pixel(parse_wcs(canvas), ra, dec)
    ra, dec = pixel_to_sky(
        parse_wcs(canvas), x + np.array([-8.0, 8.0, 0.0, 0.0]), y + np.array([0.0, 0.0, -8.0, 8.0])
    )
    u, v = frame_positions(wcs, ra, dec)
    return float(abs((u[1] - u[0]) * (v[3] - v[2]) - (u[3] - u[2]) * (v[1] - v[0])) / 256.0)


def resample(
    source: NDArray[np.float32],
    window: tuple[slice, slice],
    grid: CoordinateGrid,
    rows: slice,
    columns: slice,
    *,
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
    A canvas coarser than 1.3 frame pixels aliases: Lanczos-3 is not widened.
    """
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    if out is None:
        out = np.empty(shape, dtype=np.float32)
    if codes is None:
        codes = np.empty(shape, dtype=np.uint8)
    _resample(
        source, window[0].start, window[1].start, grid.shape[0], grid.shape[1],
        grid.fields, grid.origin[0], grid.origin[1], rows.start, columns.start,
        max(float(taper), 1e-3), tap_table(), out, codes,
    )  # fmt: skip
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
    for j in range(6):
        y = top + j
        if y < 0 or y >= rows:
            continue
        for i in range(6):
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
def _resample(  # type: ignore[no-untyped-def]
    source, source_row, source_column, height, width, fields, node_row, node_column, row0, column0,
    taper, table, out, codes,
):  # fmt: skip
    rows, columns = out.shape
    flat = source.reshape(-1)
    stride = np.uint64(source.shape[1])
    source_rows, source_columns = source.shape
    nan = np.float32(np.nan)
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
                left = int(fx) - 2 - source_column
                top = int(fy) - 2 - source_row
                value = nan
                if left >= 0 and top >= 0 and left + 6 <= source_columns and top + 6 <= source_rows:
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
                # A NaN anywhere under the kernel shows in the sum: clean pixels pay one test for 36 taps.
                if not np.isfinite(value):
                    value = _partial(
                        source, top, left, wy, wx,
                        int(np.floor(y + 0.5)) - source_row, int(np.floor(x + 0.5)) - source_column,
                    )  # fmt: skip
                gain = gl + tx * (gr - gl)
                base = bl + tx * (br - bl)
                out[r, k] = np.float32(gain * (value - base))
                if untapered:
                    codes[r, k] = TAPER_CODES
                else:
                    edge = min(x + 0.5, right_edge - x, y + 0.5, top_edge - y)
                    t = min(edge / taper, 1.0)
                    # sqrt of the smootherstep t³(10 - 15t + 6t²)
                    root = np.sqrt(t * t * t * (10.0 - 15.0 * t + 6.0 * t * t))
                    codes[r, k] = max(int(root * TAPER_CODES + 0.5), 1)
            c = stop
