"""Where the mask of a frame's artifacts lies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.frames import open_source


@dataclass(frozen=True)
class FrameMask:
    """Where the mask of a frame is, and where on the canvas it lies."""

    source: str
    """Bits along x, eight a byte (`numpy.packbits`)."""
    corner: tuple[int, int]
    """Canvas row and column of its first cell; whole cells from the canvas' first pixel."""
    shape: tuple[int, int]
    """Rows and bytes that belong to the frame."""
    step: int
    """Canvas pixels a side of a cell."""

    def read(self, rows: slice, columns: slice) -> tuple[NDArray[np.uint8], int, int] | None:
        """Part of the mask over a window of the canvas, canvas row and column of its corner; None: not there."""
        wide = 8 * self.step
        first = (max(rows.start - self.corner[0], 0) // self.step, max(columns.start - self.corner[1], 0) // wide)
        last = (
            min(-(-(rows.stop - self.corner[0]) // self.step), self.shape[0]),
            min(-(-(columns.stop - self.corner[1]) // wide), self.shape[1]),
        )
        if last[0] <= first[0] or last[1] <= first[1]:
            return None
        part = open_source(self.source).read(slice(first[0], last[0]), slice(first[1], last[1])).astype(np.uint8)
        return part, self.corner[0] + first[0] * self.step, self.corner[1] + first[1] * wide
