"""A survey's cells gathered to the blocks a background is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

BLOCKS = 64
"""Blocks along the longer side at most."""
WHOLE = 0.5
"""Fraction of a cell, and of a block, that must have data."""
MEDIAN_NOISE = 1.2533
"""σ of a median in units of that of a mean."""


@dataclass(frozen=True)
class Blocks:
    """Level of each block of each band, and where blocks lie."""

    level: Floats
    """Shape (bands, rows, columns), NaN = no data."""
    sigma: Floats
    """Of the level, from the noise of pixels."""
    pixel_noise: Floats
    """σ of a pixel."""
    size: int
    """Side of a block (canvas pixels)."""
    canvas: tuple[int, int]
    """Rows, columns (pixels)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns of blocks."""
        return int(self.level.shape[1]), int(self.level.shape[2])

    def centres(self) -> tuple[Floats, Floats]:
        """Canvas pixels x and y of the blocks' centres, each of the blocks' shape."""
        y, x = (
            0.5 * (np.arange(n) * self.size + np.minimum((np.arange(n) + 1) * self.size, whole)) - 0.5
            for n, whole in zip(self.shape, self.canvas, strict=True)
        )
        xs, ys = np.meshgrid(x, y)
        return xs, ys


def block_cells(canvas: tuple[int, int], cell: int) -> int:
    """Cells along the side of a block."""
    return max(1, -(-max(-(-n // cell) for n in canvas) // BLOCKS))


def gather(
    median: NDArray[Any],
    noise: NDArray[Any],
    valid: NDArray[Any],
    *,
    cell: int,
    canvas: tuple[int, int],
    use: Mask | None = None,
    any_cell: bool = False,
) -> Blocks:
    """Blocks of a survey: the median of the cells that have data.

    Parameters
    ----------
    median, noise, valid
        Shape (bands, cells_y, cells_x), as `survey` has them.
    cell
        Side of a cell (pixels).
    canvas
        Rows, columns (pixels).
    use
        Shape (cells_y, cells_x): cells that may be used; none: all.
    any_cell
        A block needs one cell only, not half of them.
    """
    group = block_cells(canvas, cell)
    # A cell at the end of the canvas is whole if what there is of it is.
    inside = [np.minimum(cell, n - cell * np.arange(-(-n // cell))) / cell for n in canvas]
    share = inside[0][:, None] * inside[1][None, :]
    needed = np.maximum(1.0, 0.0 if any_cell else WHOLE * (_stack(share, group, fill=0.0) > 0).sum(axis=-1))
    levels, sigmas, pixels = [], [], []
    for values, spread, part in zip(median, noise, valid, strict=True):
        good = (part >= WHOLE * share) & np.isfinite(values)
        if use is not None:
            good &= use
        stacked = _stack(np.where(good, values, np.nan), group)
        number = np.isfinite(stacked).sum(axis=-1)
        there = number >= needed
        level, pixel = np.full((2, *number.shape), np.nan)
        level[there] = np.nanmedian(stacked[there], axis=-1)
        pixel[there] = np.nanmedian(_stack(np.where(good, spread, np.nan), group)[there], axis=-1)
        levels.append(level)
        pixels.append(pixel)
        sigmas.append(MEDIAN_NOISE * pixel / (cell * np.sqrt(np.maximum(number, 1))))
    return Blocks(np.stack(levels), np.stack(sigmas), np.stack(pixels), group * cell, canvas)


def _stack(values: NDArray[Any], group: int, *, fill: float = np.nan) -> Floats:
    """Cells of each block along a last axis."""
    rows, columns = (-(-n // group) for n in values.shape)
    padded = np.full((rows * group, columns * group), fill)
    padded[: values.shape[0], : values.shape[1]] = values
    return padded.reshape(rows, group, columns, group).swapaxes(1, 2).reshape(rows, columns, group * group)
