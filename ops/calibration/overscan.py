"""Sections of the detector: the part that saw the sky, and the overscan that tells each frame's zero level."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.frames import decoded, open_source
from skyloom.ops.robust import clipped_sums, median_mad

Window = tuple[int, int, int, int]
"""First row, end of rows, first column, end of columns (zero-based)."""

_SECTION = re.compile(r"\s*\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]\s*$")
_CLIP = 4.0


def parse_section(text: str, shape: tuple[int, int]) -> Window | None:
    """Pixels of a FITS section "[x1:x2,y1:y2]" (counted from 1, ends included).

    Parameters
    ----------
    text
        Value of TRIMSEC, DATASEC or BIASSEC.
    shape
        Rows, columns of the frame.

    Returns
    -------
    tuple of int or None
        None when the text is no section or does not lie within the frame.
    """
    match = _SECTION.match(text)
    if match is None:
        return None
    x1, x2, y1, y2 = (int(g) for g in match.groups())
    if not (1 <= x1 <= x2 <= shape[1] and 1 <= y1 <= y2 <= shape[0]):
        return None
    return y1 - 1, y2, x1 - 1, x2


def turned_pattern(bayer: str, row: int, column: int) -> str:
    """Colours of a filter array's 2 × 2 pixels as seen from pixel (row, column) instead of (0, 0)."""
    if len(bayer) != 4:
        return bayer
    return "".join(bayer[(r + row) % 2 * 2 + (c + column) % 2] for r in range(2) for c in range(2))


@dataclass(frozen=True)
class Overscan:
    """Pixels that saw no light, and how their level is taken off."""

    region: Window
    mode: Literal["row", "frame"]
    """row: each row its own level; frame: one number."""

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any] | None) -> Overscan | None:
        """Rebuild from the fields of a spec."""
        if fields is None:
            return None
        a, b, c, d = (int(v) for v in fields["region"])
        return cls((a, b, c, d), "row" if fields["mode"] == "row" else "frame")

    def fields(self) -> dict[str, Any]:
        """Return what `from_fields` takes."""
        return {"region": list(self.region), "mode": self.mode}

    def levels(self, spec: str, first: int, stop: int) -> NDArray[np.float32]:
        """Level of each row of a frame, read once a frame and kept with the decoded frames.

        Parameters
        ----------
        spec
            Source of the whole frame, overscan included.
        first, stop
            Rows of the frame.

        Returns
        -------
        numpy.ndarray
            float32 (rows, 2): level (DN) and its variance (DN²).
        """
        table = decoded(("overscan", spec, self), lambda: self._measure(spec))
        if self.mode == "frame":
            return np.broadcast_to(table[0], (stop - first, 2))
        return table[first - self.region[0] : stop - self.region[0]]

    def _measure(self, spec: str) -> NDArray[np.float32]:
        top, bottom, left, right = self.region
        pixels = open_source(spec).read(slice(top, bottom), slice(left, right))
        return row_levels(pixels if self.mode == "row" else pixels.reshape(1, -1))


@njit(nogil=True, cache=True, fastmath=False)
def row_levels(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Clipped mean of every row and its variance, (rows, 2); NaN where a row has no pixel.

    A mean and not a median: that of integers has steps of half a unit, and is a quarter noisier.
    """
    out = np.full((pixels.shape[0], 2), np.float32(np.nan))
    values = np.empty(pixels.shape[1], np.float32)
    for r in range(pixels.shape[0]):
        count = 0
        for c in range(pixels.shape[1]):
            if np.isfinite(pixels[r, c]):
                values[count] = pixels[r, c]
                count += 1
        if count == 0:
            continue
        copy = values[:count].copy()
        centre, sigma = median_mad(copy, count)
        # Integers of little noise have a deviation of 0: a unit either side always belongs.
        first, second, used = clipped_sums(values, count, centre, max(_CLIP * sigma, 1.5))
        mean = first / used
        out[r, 0] = centre + mean
        out[r, 1] = max(second / used - mean * mean, 0.0) / max(used - 1, 1)
    return out
