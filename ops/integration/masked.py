"""Masks of artifacts, laid on the samples of a tile before rejection looks at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.arrays import array_spec
from skyloom.ops.artifacts.coarse import reaches
from skyloom.ops.grid import Grid
from skyloom.ops.integration.frame_mask import FrameMask


@njit(nogil=True, cache=True)
def mark_cells(bits, top, left, step, row0, column0, marked):  # type: ignore[no-untyped-def]
    """Set the pixels of a window from (row0, column0) on that bits from (top, left) on cover, clear the others."""
    for r in range(marked.shape[0]):
        j = (row0 + r - top) // step if row0 + r >= top else -1
        for c in range(marked.shape[1]):
            i = (column0 + c - left) // step if column0 + c >= left else -1
            bit = False
            if 0 <= j < bits.shape[0] and 0 <= i < 8 * bits.shape[1]:
                bit = (bits[j, i >> 3] >> (7 - (i & 7))) & 1 != 0
            marked[r, c] = bit


def drop_artifacts(
    samples: NDArray[np.float32], masks: Sequence[FrameMask | None], rows: slice, columns: slice
) -> NDArray[np.uint16] | None:
    """Take what is masked out of the samples of a window of the canvas, in place.

    Parameters
    ----------
    samples
        (frame, row, column), NaN = no data.
    masks
        Of each of the frames; None: nothing is masked.
    rows, columns
        The window.

    Returns
    -------
    ndarray or None
        Samples taken out of each pixel; None: none. A pixel whose samples are all masked keeps them all.
    """
    parts = []
    for i, mask in enumerate(masks):
        part = None if mask is None else mask.read(rows, columns)
        if mask is not None and part is not None and part[0].any():
            parts.append((i, part, mask.step))
    if not parts:
        return None
    there, out = np.zeros((2, *samples.shape[1:]), dtype=np.uint16)
    marked = np.empty(samples.shape[1:], dtype=np.bool_)
    for sample in samples:
        there += np.isfinite(sample)
    for i, part, step in parts:
        mark_cells(*part, step, rows.start, columns.start, marked)
        out += marked & np.isfinite(samples[i])
    out[out == there] = 0
    # A second time, so that one plane of marks is in memory and not one a frame.
    for i, part, step in parts:
        mark_cells(*part, step, rows.start, columns.start, marked)
        samples[i][marked & (out > 0)] = np.nan
    return np.asarray(out, dtype=np.uint16)


def frame_masks(session: xr.Dataset, grid: Grid, artifacts: xr.Dataset | None) -> list[FrameMask | None]:
    """Masks of all frames of a session."""
    if artifacts is None:
        return [None] * session.sizes["frame"]
    step, per_block = int(artifacts.attrs["mask_step"]), int(artifacts.attrs["step"])
    masks: list[FrameMask | None] = []
    for i, window in enumerate(reaches(session, grid)):
        if window is None:
            masks.append(None)
            continue
        rows, columns = ((s.stop - s.start) * per_block // step for s in window)
        corner = (window[0].start * per_block, window[1].start * per_block)
        masks.append(FrameMask(array_spec(artifacts, "mask", frame=i), corner, (rows, -(-columns // 8)), step))
    return masks
