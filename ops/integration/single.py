"""Reading frames, and the cosmic rays in them where no other frame tells."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.cosmic_rays import CosmicRays, blockwise, find_cosmic_rays
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.integration.overlaps import FrameSpec


def read_window(frame: FrameSpec, window: tuple[slice, slice]) -> NDArray[np.float32]:
    """Pixels of a window of a frame.

    Raises
    ------
    DataError
        If it cannot be read, or is not what the session says.
    """
    try:
        source = open_source(frame.source)
        shape = source.shape
        if shape == frame.shape:
            return source.read(*window)
    except Exception as failure:
        raise DataError(f"integrate: {frame.name} cannot be read: {failure}") from failure
    raise DataError(
        f"integrate: {frame.name} has {shape[0]} × {shape[1]} pixels, the session says {frame.shape[0]} × "
        f"{frame.shape[1]}: it changed, ingest it again"
    )


def frame_hits(frame: FrameSpec, window: tuple[slice, slice]) -> NDArray[np.bool_]:
    """Pixels of a window of a frame hit by cosmic rays (L.A.Cosmic, blocks that lie where the frame's do)."""

    def search(rows: slice, columns: slice) -> NDArray[np.bool_]:
        image = read_window(frame, (rows, columns))
        one = np.ones(image.shape, dtype=np.float32)
        saturated = np.zeros(image.shape, dtype=np.bool_)
        return find_cosmic_rays(image, saturated, one, settings=CosmicRays(), gain=math.nan, read_noise=math.nan)

    return blockwise(("hits where alone", frame.source), frame.shape, search, *window)
