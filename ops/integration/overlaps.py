"""Which frames may reach a tile, from headers alone, and how much memory the tile takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import CapacityError
from skyloom.ops.footprints import EDGE_POINTS, clip, footprint, tiles_touched
from skyloom.ops.grid import Grid
from skyloom.ops.integration import sharp
from skyloom.ops.integration.combine import working_bytes
from skyloom.ops.integration.coordinates import NODE_STEP
from skyloom.ops.integration.frame_mask import FrameMask
from skyloom.ops.integration.kernels import chosen, window_reach
from skyloom.ops.integration.rejection import Rejection
from skyloom.ops.integration.tolerance import HALO

CALIBRATION_KINDS = ("dark", "flat", "flatdark", "bias")
SHIFT_MARGIN = 64.0
"""Frame pixels a registration may move a frame: tiles list the frames that could reach them."""
MIN_STRIP = 32
"""Least rows of a tile computed at a time; less would mostly compute halo."""
SAMPLE_BYTES = 4 + 1
"""Bytes of a sample of the stack: its value and its taper code."""
WINDOW_BYTES = 4 + sharp.BYTES
"""Bytes of a pixel of a frame's window while it is interpolated."""
RESULT_BYTES = 3 * 4 + 3 * 2
"""Bytes of a finished pixel."""
MASK_BYTES = 8
"""Working bytes of a pixel where masks of artifacts are laid on it."""
SINGLE_BYTES = 560.0**2 * 48.0
"""Bytes the search for cosmic rays takes, a block at a time, where one frame alone is."""


@dataclass(frozen=True)
class FrameSpec:
    """What a tile's task must know of a frame."""

    index: int
    name: str
    source: str
    wcs: str
    shape: tuple[int, int]
    mask: FrameMask | None = None
    """Its artifacts; None: none are known."""


@dataclass(frozen=True)
class Piece:
    """A frame over a tile, as far as the headers tell."""

    frame: int
    area: float
    """Overlap (canvas pixels)."""
    window: float
    """Pixels of the frame's window that holds the overlap."""
    jacobian: float = 1.0
    """Area of a canvas pixel in the frame, mean (frame pixels)."""


def frame_spec(session: xr.Dataset, index: int) -> FrameSpec:
    """Return a frame of the session."""
    return frame_specs(session, [index], {index: None})[0]


def frame_specs(
    session: xr.Dataset, indices: Iterable[int], masks: Sequence[FrameMask | None] | Mapping[int, FrameMask | None]
) -> tuple[FrameSpec, ...]:
    """Frames of the session with their masks (`frame_masks`, over all frames)."""
    # Taking a variable out of a dataset takes longer than all else here.
    name, source, wcs, height, width = (session[n].values for n in ("name", "source", "wcs", "height", "width"))
    return tuple(
        FrameSpec(i, str(name[i]), str(source[i]), str(wcs[i]), (int(height[i]), int(width[i])), masks[i])
        for i in indices
    )


def index_frames(
    session: xr.Dataset, registration: xr.Dataset, grid: Grid, resampling: str
) -> tuple[list[str], Mapping[tuple[int, int, int], Sequence[Piece]]]:
    """Bands, and the frames that may reach each (band, ty, tx), from headers alone."""
    kinds = session["kind"].values
    wanted = registration["in_canvas"].values.astype(bool) & ~np.isin(kinds, CALIBRATION_KINDS)
    wanted &= session["wcs"].values != ""
    columns = [session[v].values[wanted].tolist() for v in ("wcs", "height", "width", "band")]
    frames = tuple(zip(np.flatnonzero(wanted).tolist(), *columns, strict=True))
    return _indexed(frames, grid, resampling)


@lru_cache(maxsize=2)
def _indexed(
    frames: tuple[tuple[int, str, int, int, str], ...], grid: Grid, resampling: str
) -> tuple[list[str], Mapping[tuple[int, int, int], Sequence[Piece]]]:
    """The index of frames (number, WCS, rows, columns, band): costs, keys and graph of a plan all ask for it."""
    bands = sorted({band for *_, band in frames})
    found: dict[tuple[int, int, int], list[Piece]] = {}
    for index, wcs, height, width, band in frames:
        polygon = footprint(wcs, (height, width), grid)
        if not np.isfinite(polygon).all():
            continue
        to_canvas, margin = frame_axes(polygon, (height, width))
        to_frame = np.linalg.inv(to_canvas).astype(np.float64)
        for (ty, tx), (rows, columns) in tiles_touched(polygon, grid, margin=margin):
            piece = _piece(index, polygon, to_frame, (height, width), rows, columns, resampling)
            found.setdefault((bands.index(band), ty, tx), []).append(piece)
    return bands, MappingProxyType(dict(sorted(found.items())))


def frame_axes(polygon: NDArray[np.float64], shape: tuple[int, int]) -> tuple[NDArray[np.float64], float]:
    """Mean linear map from frame to canvas pixels (2, 2), and the margin in canvas pixels that shifts need."""
    side = EDGE_POINTS - 1
    along_x = (polygon[side] - polygon[0]) / shape[1]
    along_y = (polygon[3 * side] - polygon[0]) / shape[0]
    matrix = np.stack([along_x, along_y], axis=1)
    return matrix, 1.0 + SHIFT_MARGIN * float(np.linalg.norm(matrix, 2))


def _piece(
    index: int, polygon: NDArray[np.float64], to_frame: NDArray[np.float64], shape: tuple[int, int],
    rows: slice, columns: slice, resampling: str,
) -> Piece:  # fmt: skip
    clipped = clip(polygon, columns.start - 0.5, columns.stop - 0.5, rows.start - 0.5, rows.stop - 0.5)
    if len(clipped) < 3:
        return Piece(index, 0.0, 0.0)
    x, y = clipped.T
    area = 0.5 * abs(float(np.dot(x[1:], y[:-1]) - np.dot(x[:-1], y[1:]) + x[0] * y[-1] - x[-1] * y[0]))
    # The window holds whole cells of the coordinate grid and the kernel's reach.
    in_frame, pixel = clipped @ to_frame.T, np.abs(to_frame).sum(axis=1)
    jacobian = abs(float(to_frame[0, 0] * to_frame[1, 1] - to_frame[0, 1] * to_frame[1, 0]))
    kernel = chosen(resampling, jacobian)
    reach = 0.5 * float(pixel.max()) + 1.0 if kernel == "area" else float(window_reach(kernel))
    extent = in_frame.max(axis=0) - in_frame.min(axis=0) + NODE_STEP * pixel + 2.0 * reach
    return Piece(index, area, float(min(extent[0], shape[1]) * min(extent[1], shape[0])), jacobian)


def _strip_bytes(depth: int, rows: int, columns: int, rejection: Rejection, combination: str) -> float:
    wide = columns + 2 * HALO
    pixels = (rows + 2 * HALO) * wide
    return float(pixels * depth * SAMPLE_BYTES) + working_bytes(
        depth, (rows + 2 * HALO, wide), rejection=rejection, combination=combination
    )


def strip_rows(
    grid: Grid, index: tuple[int, ...], pieces: Sequence[Piece], task_memory: float, source_bytes: float,
    rejection: Rejection, combination: str, masked: bool = False,
) -> tuple[int, float]:  # fmt: skip
    """Rows to compute at a time, and the task's peak of memory (bytes).

    Raises
    ------
    CapacityError
        If not even `MIN_STRIP` rows fit.
    """
    window = grid.window(index[0], index[1])
    rows, columns = (s.stop - s.start for s in window)
    depth = len(pieces)
    source = max(source_bytes, WINDOW_BYTES) * max(p.window for p in pieces)
    result = RESULT_BYTES * rows * columns + (SINGLE_BYTES if rejection.method == "auto" else 0.0)
    for strips in range(1, -(-rows // MIN_STRIP) + 1):
        height = -(-rows // strips)
        peak = (
            result
            + source * min(1.0, (height + 2 * HALO + NODE_STEP) / rows)
            + _strip_bytes(depth, height, columns, rejection, combination)
            + (MASK_BYTES * (height + 2 * HALO) * (columns + 2 * HALO) if masked else 0.0)
        )
        if peak <= task_memory:
            return height, peak
    raise CapacityError(
        f"tile {index[0]}, {index[1]} has {depth} frames and needs {peak / 2**20:.0f} MiB even in strips of "
        f"{height} rows, a task may take {task_memory / 2**20:.0f} MiB; raise the memory limit (--memory) or make "
        f"tile = {grid.tile} smaller"
    )
