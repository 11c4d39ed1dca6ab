"""One interpolation from a frame to the canvas, with the normalization applied on the way."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.integration.area import average_area
from skyloom.ops.integration.coordinates import CoordinateGrid
from skyloom.ops.integration.interpolation import interpolate
from skyloom.ops.integration.kernels import RINGING, tap_table
from skyloom.ops.integration.sharp import sharp_light


def resample(
    source: NDArray[np.float32],
    window: tuple[slice, slice],
    grid: CoordinateGrid,
    rows: slice,
    columns: slice,
    *,
    kernel: str = "lanczos3",
    clamp: float = 0.0,
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
        From `CoordinateGrid.window`, with the kernel's reach (`skyloom.ops.integration.kernels.window_reach`).
    grid
        Covers the canvas window.
    rows, columns
        The canvas window.
    kernel
        From `skyloom.ops.integration.kernels`, not auto.
    clamp
        Part of what is too sharp for a kernel that rings which goes through it all the same, 0 … 1.
    taper
        Width of the taper at the frame's edges (frame pixels).
    out, codes
        Where to write; made when absent.

    Returns
    -------
    values : ndarray
        float32, s = J·a·(d - b); NaN where the frame has no pixel within half a pixel.
    codes : ndarray
        uint8 codes of taper × confidence (`taper_weight`), 1…255 wherever the frame reaches, 0 elsewhere.

    Notes
    -----
    Missing pixels (NaN, or beyond the frame's edge) are left out and the remaining taps renormalised, as long
    as the nearest pixel is there and the remaining taps sum to `VALID_TAPS`. So one NaN costs one or two
    canvas pixels and not 36, and noise is amplified at most 1 / 0.6 times beside it.
    Lanczos and bicubic kernels ring beside what is sharper than a star of 1.7 pixels: a hot pixel has a dark ring
    of up to a fifth of its height. Such light is interpolated bilinearly (`skyloom.ops.integration.sharp`), which
    keeps its sum and place.
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
        table = tap_table(kernel)
        part = 1.0 - clamp if kernel in RINGING else 0.0
        interpolate(*place, width, table, *sharp_light(source, table.shape[1], part=part), out, codes)
    return out, codes
