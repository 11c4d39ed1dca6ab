"""The pixels of a sensor under a frame: its own, or those of one colour of a filter array under a colour plane."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.cfa import KIND, places, superpixel
from skyloom.ops.calibration.layers import spec_text
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.integration.overlaps import FrameSpec
from skyloom.ops.integration.single import read_window

Windows = tuple[slice, slice]


@dataclass(frozen=True)
class Drops:
    """Pixels of a frame that are dropped alike."""

    pixels: NDArray[np.float32]
    offset: tuple[float, float] = (0.0, 0.0)
    """Of the drops' centres from those of the frame's pixels, y first (pixels)."""
    size: float = 1.0
    """Side of what a drop is made from (pixels)."""
    share: float = 1.0
    """Part of a pixel's area it stands for."""


def colour_plane(source: str) -> dict[str, Any] | None:
    """Fields of a source that is one colour of a filter array; None for others."""
    fields: dict[str, Any] = json.loads(source)
    return fields if fields.get("kind") == KIND else None


def read_drops(frame: FrameSpec, window: Windows, mosaic: bool) -> tuple[NDArray[np.float32], list[Drops]]:
    """Pixels of a window of a frame, and what to drop of it.

    Superpixels of red and blue are single pixels of the sensor; those of green are two, at opposite corners.
    """
    plane = colour_plane(frame.source) if mosaic else None
    if plane is None:
        pixels = read_window(frame, window)
        return pixels, [Drops(pixels)]
    try:
        array = open_source(spec_text(plane["source"])).read(_twice(window[0]), _twice(window[1]))
    except Exception as failure:
        raise DataError(f"drizzle: {frame.name} cannot be read: {failure}") from failure
    at = places(plane["bayer"], plane["band"])
    middle = np.mean(at, axis=0)
    drops = [
        Drops(
            np.ascontiguousarray(array[row::2, column::2]),
            ((row - middle[0]) / 2.0, (column - middle[1]) / 2.0),
            0.5,
            1.0 / len(at),
        )
        for row, column in at
    ]
    return superpixel(array, plane["bayer"], plane["band"]), drops


def _twice(window: slice) -> slice:
    return slice(2 * window.start, 2 * window.stop)
