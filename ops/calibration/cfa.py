"""Colour planes of frames with a colour filter array, as sources: a window is made from a window of the array."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.calibration.layers import STRIP, spec_text
from skyloom.ops.errors import DataError
from skyloom.ops.frames import FrameSource, open_source, register_source

KIND = "cfa"
BANDS = ("R", "G", "B")
PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")
HALO = 2
"""Pixels around a window that interpolation looks at."""
_OWN, _ACROSS, _UPRIGHT, _DIAGONAL, _BESIDE = range(5)

Method = Literal["superpixel", "interpolate"]
Pixels = NDArray[np.float32]


def places(bayer: str, band: str) -> list[tuple[int, int]]:
    """Rows and columns, in the 2 × 2 of the array, of the pixels that see a band."""
    return [(k // 2, k % 2) for k, colour in enumerate(bayer) if colour == band]


@dataclass(frozen=True)
class CfaSource:
    """One colour of a frame with a colour filter array.

    superpixel: a pixel for each 2 × 2 of the array: red, blue, the mean of the two greens (NaN when either is).
    interpolate: every pixel of the array; see `interpolate`.
    """

    source: str
    """Spec of the frame."""
    bayer: str
    """Colours of its first 2 × 2 pixels, row by row."""
    band: str
    method: Method
    shape: tuple[int, int]
    """Rows, columns of the plane."""

    @property
    def windowed(self) -> bool:
        """Whether a window of the frame is read without decoding the whole."""
        return open_source(self.source).windowed

    def spec(self) -> str:
        """Text `open_source` makes this source from."""
        return spec_text(
            {
                "kind": KIND,
                "module": __name__,
                "source": json.loads(self.source),
                "bayer": self.bayer,
                "band": self.band,
                "method": self.method,
                "shape": list(self.shape),
            }
        )

    def read(self, rows: slice, columns: slice) -> Pixels:
        """Pixels of a window of the plane (see `FrameSource.read`)."""
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        bottom, right = max(bottom, top), max(right, left)
        work = self._superpixels if self.method == "superpixel" else self._interpolated
        strip = STRIP // 2 if self.method == "superpixel" else STRIP
        if bottom - top <= 2 * strip:
            return work(top, bottom, left, right)
        # By the frame's strips: what is made of them is still in the processor's cache, and small.
        out = np.empty((bottom - top, right - left), np.float32)
        for first in range(top - top % strip, bottom, strip):
            low, high = max(first, top), min(first + strip, bottom)
            out[low - top : high - top] = work(low, high, left, right)
        return out

    def _superpixels(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        array = open_source(self.source).read(slice(2 * top, 2 * bottom), slice(2 * left, 2 * right))
        return superpixel(array, self.bayer, self.band)

    def _interpolated(self, top: int, bottom: int, left: int, right: int) -> Pixels:
        y0, y1 = max(top - HALO, 0), min(bottom + HALO, self.shape[0])
        x0, x1 = max(left - HALO, 0), min(right + HALO, self.shape[1])
        array = open_source(self.source).read(slice(y0, y1), slice(x0, x1))
        missing = ((y0 - top + HALO, bottom + HALO - y1), (x0 - left + HALO, right + HALO - x1))
        if any(side for axis in missing for side in axis):
            # Mirrored about the outer pixels' centres, so that colours go on in turn.
            array = np.pad(array, missing, mode="reflect")
        return interpolate(array, _kinds(self.bayer, self.band), top, left)


def superpixel(array: Pixels, bayer: str, band: str) -> Pixels:
    """Pixel of a band, or the mean of two, of every 2 × 2 of an array that begins with its pattern.

    Parameters
    ----------
    array
        (2 rows, 2 columns).
    bayer
        Colours of its first 2 × 2 pixels.
    band
        One of them.

    Returns
    -------
    numpy.ndarray
        float32 (rows, columns), in the units of a single pixel.
    """
    (row, column), *others = places(bayer, band)
    out = np.array(array[row::2, column::2], order="C")
    for row, column in others:
        out += array[row::2, column::2]
    if others:
        out *= np.float32(1.0 / (1 + len(others)))
    return out


def _kinds(bayer: str, band: str) -> NDArray[np.int64]:
    """How a band is found at each of the 2 × 2 pixels."""
    colours = np.array(list(bayer)).reshape(2, 2)
    kinds = np.empty((2, 2), np.int64)
    for r in range(2):
        for c in range(2):
            if colours[r, c] == band:
                kinds[r, c] = _OWN
            elif band == "G":
                kinds[r, c] = _BESIDE
            elif colours[r, c] != "G":
                kinds[r, c] = _DIAGONAL
            else:
                kinds[r, c] = _ACROSS if colours[r, 1 - c] == band else _UPRIGHT
    return kinds


@njit(nogil=True, cache=True, fastmath=False)
def _mean(a: np.float32, b: np.float32, c: np.float32, d: np.float32) -> np.float32:
    """Mean of those that are no NaN."""
    total, count = np.float32(0.0), np.float32(0.0)
    for value in (a, b, c, d):
        if not np.isnan(value):
            total += value
            count += np.float32(1.0)
    return total / count if count > 0 else np.float32(np.nan)


@njit(nogil=True, cache=True, fastmath=False)
def interpolate(array: Pixels, kinds: NDArray[np.int64], top: int, left: int) -> Pixels:
    """Plane of one colour at every pixel, gradient-corrected linear (Malvar, He & Cutler 2004).

    Parameters
    ----------
    array
        Window of the colour filter array with 2 pixels more on every side.
    kinds
        (2, 2): how the colour is found at pixels of even and odd rows and columns (`_kinds`).
    top, left
        Row and column of the frame where the window begins: they tell the phase.

    Returns
    -------
    numpy.ndarray
        float32, the window. The colour's own pixels stay as they are, NaN too. Others are the mean of its nearest
        ones, plus what the pixel itself exceeds those of its own colour around, times 1/2 (green), 5/8 or 3/4; a
        NaN among them leaves the mean of the nearest ones there are.

    Notes
    -----
    Linear with constant weights: the noise is what the weights say, faint stars are treated as bright ones are,
    and light is neither made nor lost: each red or blue pixel counts four times in the plane's sum, each green one
    twice, and other colours with weights that add up to zero. Adaptive methods (VNG, AHD, RCD) follow edges, and
    make some where there is noise. Where the two greens of a sensor differ (some parts in a thousand), that shows
    between the phases of all planes.
    """
    rows, columns = array.shape[0] - 4, array.shape[1] - 4
    out = np.empty((rows, columns), np.float32)
    eighth, half, nan = np.float32(0.125), np.float32(0.5), np.float32(np.nan)
    two, three, four, five = np.float32(2.0), np.float32(3.0), np.float32(4.0), np.float32(5.0)
    for y in range(rows):
        a, b, c, d, e = array[y], array[y + 1], array[y + 2], array[y + 3], array[y + 4]
        line = out[y]
        for side in range(2):
            kind = kinds[(top + y) % 2, (left + side) % 2]
            if kind == _OWN:
                for x in range(side, columns, 2):
                    line[x] = c[x + 2]
            elif kind == _BESIDE:
                for x in range(side, columns, 2):
                    near = (b[x + 2] + d[x + 2]) + (c[x + 1] + c[x + 3])
                    far = (a[x + 2] + e[x + 2]) + (c[x] + c[x + 4])
                    value = eighth * (two * near + (four * c[x + 2] - far))
                    line[x] = value if value == value else _mean(b[x + 2], d[x + 2], c[x + 1], c[x + 3])
            elif kind == _DIAGONAL:
                for x in range(side, columns, 2):
                    near = (b[x + 1] + b[x + 3]) + (d[x + 1] + d[x + 3])
                    far = (a[x + 2] + e[x + 2]) + (c[x] + c[x + 4])
                    value = eighth * (two * near + (two * three * c[x + 2] - half * three * far))
                    line[x] = value if value == value else _mean(b[x + 1], b[x + 3], d[x + 1], d[x + 3])
            else:
                for x in range(side, columns, 2):
                    corners = (b[x + 1] + b[x + 3]) + (d[x + 1] + d[x + 3])
                    upright, across = a[x + 2] + e[x + 2], c[x] + c[x + 4]
                    if kind == _ACROSS:
                        p, q = c[x + 1], c[x + 3]
                        far = across - half * upright
                    else:
                        p, q = b[x + 2], d[x + 2]
                        far = upright - half * across
                    value = eighth * (four * (p + q) + (five * c[x + 2] - corners - far))
                    line[x] = value if value == value else _mean(p, q, nan, nan)
    return out


def _from_fields(fields: dict[str, Any]) -> FrameSource:
    try:
        bayer, band, method = str(fields["bayer"]), str(fields["band"]), fields["method"]
        height, width = fields["shape"]
        if method not in ("superpixel", "interpolate") or bayer not in PATTERNS or band not in BANDS:
            raise ValueError(f"{band} of {bayer} by {method}")
        return CfaSource(spec_text(fields["source"]), bayer, band, method, (int(height), int(width)))
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        raise DataError(f"not the source of a colour plane ({wrong!r}); make it with `debayer`") from wrong


register_source(KIND, _from_fields)
