"""Calibrated frames as sources: a window of a light is calibrated while it is read, and nothing is written."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.arrays import read_number
from skyloom.ops.calibration.cosmic_rays import CosmicRays, blockwise, find_cosmic_rays
from skyloom.ops.calibration.layers import (
    LEAST_RESPONSE,
    STRIP,
    DarkCurrent,
    Layer,
    Level,
    Master,
    Pixels,
    Response,
    Strips,
    Variance,
    spec_text,
)
from skyloom.ops.calibration.overscan import Overscan
from skyloom.ops.errors import DataError
from skyloom.ops.frames import FrameSource, open_source, register_source

KIND = "calibrated"
HOT, COLD, SATURATED, COSMIC_RAY, NO_DATA = 1, 2, 4, 8, 16
"""Bits of `CalibratedSource.flags`."""


@dataclass(frozen=True)
class CalibratedSource:
    """A light and what calibrates it.

    Its pixels (DN above zero light, signed, nothing clipped) are

        ((L − P − B) − k (D − B)) / F

    with L the light, P what was added to it (its pedestal and the level of its overscan), B, D, F the masters,
    each without its own pedestal and overscan level, and F ≈ 1. With k = 1 the bias cancels and is not read. NaN:
    L is NaN or saturated, hot or cold in the maps, F not finite or ≤ 0.05, a cosmic ray.
    """

    light: str
    """Spec of the raw frame."""
    shape: tuple[int, int]
    """Rows, columns, trimmed."""
    origin: tuple[int, int] = (0, 0)
    """Row and column of the raw frame where the trimmed one begins."""
    bias: Master | None = None
    dark: Master | None = None
    dark_bias: Master | None = None
    """Bias of the dark where it is not the light's."""
    flat: Master | None = None
    dark_scale: float | str = 1.0
    """k, or the spec of it."""
    pedestal: float = 0.0
    overscan: Overscan | None = None
    saturation: float = math.nan
    """Raw level from which a pixel is saturated (DN)."""
    keep_saturated: bool = False
    gain: float = math.nan
    """e-/DN."""
    read_noise: float = math.nan
    """e-."""
    bayer: str = ""
    """Colours of the trimmed frame's first 2 × 2 pixels; "" = monochrome."""
    cosmic_rays: CosmicRays | None = None

    @property
    def windowed(self) -> bool:
        """Whether a window of the light is read without decoding the whole."""
        return open_source(self.light).windowed

    def spec(self) -> str:
        """Text `open_source` makes this source from."""
        return self._spec

    @cached_property
    def _spec(self) -> str:
        parts = {k: getattr(self, k) for k in _PARTS}
        numbers = {k: getattr(self, k) for k in ("saturation", "gain", "read_noise")}
        scale = json.loads(self.dark_scale) if isinstance(self.dark_scale, str) else self.dark_scale
        return spec_text(
            {
                "kind": KIND,
                "module": __name__,
                "light": json.loads(self.light),
                "shape": list(self.shape),
                "origin": list(self.origin),
                "dark_scale": scale,
                "pedestal": self.pedestal,
                "keep_saturated": self.keep_saturated,
                "bayer": self.bayer,
                **{k: part.fields() for k, part in parts.items() if part is not None},
                **{k: v for k, v in numbers.items() if math.isfinite(v)},
            }
        )

    # --- what is asked of it ---

    def read(self, rows: slice, columns: slice) -> Pixels:
        """Calibrated pixels of a window (see `FrameSource.read`)."""
        rows, columns = self._bounds(rows, columns)
        pixels = self._calibrate(rows, columns, math.inf if self.keep_saturated else self._limit)
        if self.cosmic_rays is not None:
            pixels[self._hits(rows, columns)] = np.nan
        return pixels

    def flags(self, rows: slice, columns: slice) -> NDArray[np.uint8]:
        """Why pixels of a window are not to be trusted.

        Returns
        -------
        numpy.ndarray
            uint8 (rows, columns), sum of: 1 hot, 2 cold or dead (also F ≤ 0.05), 4 saturated (also when kept),
            8 cosmic ray, 16 no data in the light or in a master.
        """
        rows, columns = self._bounds(rows, columns)
        light = self._light(rows, columns)
        flags = np.where(np.isfinite(light), 0, NO_DATA).astype(np.uint8)
        flags[light >= self._limit] |= SATURATED
        for master in (self._plus, self.dark if self._scaled is not None else None, self.flat):
            if master is None:
                continue
            values = master.read(master.image, rows, columns)
            flags[~np.isfinite(values)] |= NO_DATA
            if master is self.flat:
                flags[values <= LEAST_RESPONSE] |= COLD
        for master in (self.dark or self.bias, self.flat):
            if master is not None and master.bad:
                flags |= master.read(master.bad, rows, columns).astype(np.uint8) & np.uint8(HOT | COLD)
        if self.cosmic_rays is not None:
            flags[self._hits(rows, columns)] |= COSMIC_RAY
        return flags

    def variance(self, rows: slice, columns: slice) -> Pixels:
        """Variance of the calibrated pixels of a window (DN²).

        Returns
        -------
        numpy.ndarray
            float32 (rows, columns); NaN where there is no pixel, and everywhere when the gain g (e-/DN) is
            unknown: without it the photons' share would be a guess.

        Notes
        -----
        With C the calibrated pixel, r the read noise (e-) and V the variances of the masters' means:

            [max(L − P − B, 0)/g + r²/g² + V_o + (1 − k)² V_B + k² V_D + C² V_F] / F²

        The light's dark current counts with its photons: only the bias is taken off for that. Where neither light
        nor dark has one the dark is; then r²/g² is the scatter of the dark's frames, dark current and all, or
        the shot noise of the dark current is missing where the dark does not tell. The bias comes in twice, hence
        (1 − k)²; where the dark has another one, B', it is V_B + k² (V_D + V_B'). V_o is that of the overscan
        level. What is not known of k, g and the flat's own bias is not in it. An unknown r is taken from the
        scatter of the bias's frames, and as 0 without any.
        """
        rows, columns = self._bounds(rows, columns)
        out = np.full((rows.stop - rows.start, columns.stop - columns.start), np.nan, np.float32)
        if self.gain > 0:
            for first, stop in self._strips.over(rows.start, rows.stop):
                part = slice(max(first, rows.start), min(stop, rows.stop))
                out[part.start - rows.start : part.stop - rows.start] = self._variance(part, columns)
        return out

    # --- the work ---

    def _variance(self, rows: slice, columns: slice) -> Pixels:
        """Variance of a window of one strip."""
        pixels, offsets = self.read(rows, columns), self._offsets(rows)
        total = self._light(rows, columns)
        total -= offsets[:, :1]
        if self._zero is not None:
            total -= self._strips.window(Level(self._zero), rows, columns)
        np.maximum(total, 0, out=total)
        total *= np.float32(1.0 / self.gain)
        total += np.float32(self._read_variance) + offsets[:, 1:]
        for master, share in self._shares():
            if master is not None and master.variance and share > 0:
                total += np.float32(share) * self._strips.window(Variance(master), rows, columns)
        if self.flat is not None and self.flat.variance:
            total += pixels**2 * self._strips.window(Variance(self.flat), rows, columns)
        total *= self._strips.window(self._response, rows, columns, default=1.0) ** 2
        total[np.isnan(pixels)] = np.nan
        return total

    def _bounds(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        return slice(top, max(bottom, top)), slice(left, max(right, left))

    def _light(self, rows: slice, columns: slice) -> Pixels:
        row, column = self.origin
        pixels = open_source(self.light).read(
            slice(rows.start + row, rows.stop + row), slice(columns.start + column, columns.stop + column)
        )
        if pixels.shape != (rows.stop - rows.start, columns.stop - columns.start):
            raise DataError(
                f"the raw frame is smaller than {self.shape[0]} × {self.shape[1]} pixels from row {row}, column "
                f"{column}: it changed, ingest it again"
            )
        return pixels

    def _calibrate(self, rows: slice, columns: slice, limit: float) -> Pixels:
        """Calibrated pixels; NaN where the raw ones reach `limit`."""
        if rows.stop - rows.start <= 2 * STRIP:
            return self._calibrate_piece(rows, columns, limit)
        # By strips: raw pixels are still in the processor's cache, and what they are decoded from stays small.
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), np.float32)
        for first, stop in self._strips.over(rows.start, rows.stop):
            piece = slice(max(first, rows.start), min(stop, rows.stop))
            out[piece.start - rows.start : piece.stop - rows.start] = self._calibrate_piece(piece, columns, limit)
        return out

    def _calibrate_piece(self, rows: slice, columns: slice, limit: float) -> Pixels:
        pixels = self._light(rows, columns)
        offsets = np.ascontiguousarray(self._offsets(rows)[:, 0])
        scale = np.float32(self._k if self._scaled is not None else 0.0)
        plus = None if self._plus is None else Level(self._plus)
        for first, stop in self._strips.over(rows.start, rows.stop):
            calibrate_rows(
                pixels,
                max(first - rows.start, 0),
                min(stop, rows.stop) - rows.start,
                offsets,
                np.float32(limit),
                self._strips.decoded(plus, first, stop),
                self._strips.decoded(self._scaled, first, stop),
                scale,
                self._strips.decoded(self._response, first, stop, default=1.0),
                max(rows.start - first, 0),
                columns.start,
            )
        return pixels

    @property
    def _limit(self) -> float:
        return self.saturation if math.isfinite(self.saturation) else math.inf

    @property
    def _strips(self) -> Strips:
        return Strips(*self.shape, self.origin[0])

    @cached_property
    def _k(self) -> float:
        k = self.dark_scale if isinstance(self.dark_scale, int | float) else read_number(self.dark_scale)
        if not math.isfinite(k):
            raise DataError("the scale of its dark could not be found (see the status in `levels`)")
        if k != 1.0 and self.dark is not None and self.dark_bias is None and self.bias is None:
            raise DataError(
                f"its dark is to be scaled by {k:.3f} and has no bias: link one, or do not scale darks"
            )
        return float(k)

    @cached_property
    def _plus(self) -> Master | None:
        """What is subtracted as it is: with k = 1 the dark, else the bias."""
        if self.dark is not None and self._k == 1.0:
            return self.dark
        return self.bias if self.bias is not None or self.dark is None else self.dark_bias

    @cached_property
    def _scaled(self) -> Layer | None:
        """What is subtracted k times."""
        bias = self.dark_bias or self.bias
        return None if self.dark is None or bias is None or self._k == 1.0 else DarkCurrent(self.dark, bias)

    @cached_property
    def _response(self) -> Layer | None:
        maps = tuple(m for m in (self.dark or self.bias, self.flat) if m is not None and m.bad)
        return Response(self.flat, maps) if maps or self.flat is not None else None

    @property
    def _zero(self) -> Master | None:
        """The level without photons and dark current, as near as the masters tell."""
        return next((m for m in (self.bias, self.dark_bias, self.dark) if m is not None), None)

    def _shares(self) -> list[tuple[Master | None, float]]:
        """How often the variances of bias and dark masters count."""
        k = self._k
        if self.dark is None:
            return [(self.bias, 1.0)]
        if self._plus == self.dark:
            return [(self.dark, 1.0)]
        if self.dark_bias is None or self.dark_bias == self._plus:
            return [(self._plus, (1 - k) ** 2), (self.dark, k**2)]
        return [(self._plus, 1.0), (self.dark, k**2), (self.dark_bias, k**2)]

    @cached_property
    def _read_variance(self) -> float:
        """Of the raw frame without light, beside what `_zero` leaves in the signal (DN²)."""
        zero = self._zero
        known = math.isfinite(self.read_noise)
        if known and (zero is None or zero != self.dark):
            return (self.read_noise / self.gain) ** 2
        scatter = _scatter(zero, self.shape) if zero is not None else math.nan
        if math.isfinite(scatter):
            return scatter
        return (self.read_noise / self.gain) ** 2 if known else 0.0

    def _offsets(self, rows: slice) -> Pixels:
        """Pedestal and overscan level of rows, and the level's variance: (rows, 2)."""
        out = np.zeros((rows.stop - rows.start, 2), np.float32)
        # A pedestal was added to every pixel: the overscan's level has it already.
        if self.overscan is None:
            out[:, 0] = self.pedestal
        else:
            row = self.origin[0]
            out += self.overscan.levels(self.light, rows.start + row, rows.stop + row)
        return out

    def _hits(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Cosmic rays of a window."""
        return blockwise(("cosmic rays", self._spec), self.shape, self._search, rows, columns)

    def _search(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        assert self.cosmic_rays is not None
        return find_cosmic_rays(
            self._calibrate(rows, columns, math.inf),
            self._light(rows, columns) >= self._limit,
            self._strips.window(self._response, rows, columns, default=1.0),
            settings=self.cosmic_rays,
            gain=self.gain,
            read_noise=math.sqrt(self._read_variance) * self.gain,
            mosaic=bool(self.bayer),
        )


def _scatter(master: Master, shape: tuple[int, int]) -> float:
    """Variance of a pixel of a single frame of a master (DN²), NaN = unknown."""
    if not (master.variance and master.count):
        return math.nan
    middle = shape[0] // 2
    window = slice(max(middle - STRIP // 2, 0), middle + 1), slice(0, shape[1])
    count, variance = (master.read(spec, *window) for spec in (master.count, master.variance))
    one = (variance * count)[(count > 1) & (variance > 0)]
    if not one.size:
        return math.nan
    # A mean, for variances of few frames are skewed; without hot pixels, which have much more.
    return float(one[one <= 3.0 * np.median(one)].mean())


@njit(nogil=True, cache=True, fastmath=False)
def calibrate_rows(
    pixels: Pixels,
    first: int,
    stop: int,
    offsets: Pixels,
    limit: np.float32,
    plus: Pixels,
    scaled: Pixels,
    k: np.float32,
    response: Pixels,
    row: int,
    column: int,
) -> None:
    """Replace raw pixels by (pixel − offset − plus − k · scaled) · response; NaN from the limit on.

    Parameters
    ----------
    pixels
        (rows, columns), raw (DN).
    first, stop
        Rows to calibrate.
    offsets
        (rows,), of all rows of `pixels`.
    limit
        DN.
    plus, scaled, response
        Strips of whole rows of the frame, or a single row that holds for all.
    row, column
        Where in the strips row `first` of the pixels begins.
    """
    nan = np.float32(np.nan)
    width = pixels.shape[1]
    for r in range(first, stop):
        # Views of rows: with them, unlike with two indices, the loop runs in vector registers (3 times faster).
        values, offset, i = pixels[r], offsets[r], row + r - first
        a = plus[i if plus.shape[0] > 1 else 0, column : column + width]
        b = scaled[i if scaled.shape[0] > 1 else 0, column : column + width]
        g = response[i if response.shape[0] > 1 else 0, column : column + width]
        for c in range(width):
            value = values[c]
            calibrated = (value - offset - a[c] - k * b[c]) * g[c]
            values[c] = calibrated if value < limit else nan


_PARTS = ("bias", "dark", "dark_bias", "flat", "overscan", "cosmic_rays")


def _from_fields(fields: dict[str, Any]) -> FrameSource:
    try:
        (height, width), (row, column) = fields["shape"], fields["origin"]
        scale = fields["dark_scale"]
        return CalibratedSource(
            light=spec_text(fields["light"]),
            shape=(int(height), int(width)),
            origin=(int(row), int(column)),
            bias=Master.from_fields(fields.get("bias")),
            dark=Master.from_fields(fields.get("dark")),
            dark_bias=Master.from_fields(fields.get("dark_bias")),
            flat=Master.from_fields(fields.get("flat")),
            dark_scale=spec_text(scale) if isinstance(scale, dict) else float(scale),
            pedestal=float(fields["pedestal"]),
            overscan=Overscan.from_fields(fields.get("overscan")),
            saturation=float(fields.get("saturation", math.nan)),
            gain=float(fields.get("gain", math.nan)),
            read_noise=float(fields.get("read_noise", math.nan)),
            keep_saturated=bool(fields["keep_saturated"]),
            bayer=str(fields["bayer"]),
            cosmic_rays=CosmicRays.from_fields(fields.get("cosmic_rays")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        raise DataError(f"not the source of a calibrated frame ({wrong!r}); make it with `calibrate`") from wrong


register_source(KIND, _from_fields)
