"""How a layer is shown: the stretch a person asked for, by the curves and tones that make the finished picture."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.display.steps import curve_steps, stepped
from skyloom.ops.display.stretch import Curve, Method
from skyloom.ops.display.tones import measured_tones
from skyloom.ops.display.transfer import Hyperbolic
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.stretch import BACKGROUND, SHADOWS
from skyloom.workflows.report.pictures import palette

Pixels = NDArray[np.float32]
Floats = NDArray[np.float64]
_METHODS: Mapping[str, Method] = {"stf": "stf", "asinh": "asinh", "linear": "none", "none": "none"}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_UP = 2
"""Filter of a PNG's row: differences from the row above it."""
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Of a PNG by the numbers of a pixel: grey, grey and alpha, RGB, RGBA."""
_STRIP = 64
"""Rows shown at a time."""
_LIMITS = {
    "shadows": (-20.0, 5.0),
    "background": (0.02, 0.8),
    "low": (0.0, 0.9),
    "white": (0.5, 1.0),
    "strength": (0.0, 1e6),
    "saturation": (0.0, 4.0),
}


@dataclass(frozen=True)
class Look:
    """What a person chose."""

    method: str = "stf"
    """stf, asinh; linear: straight from black to white; none: 0…1 as it is."""
    linked: bool = True
    """One stretch for all colours."""
    shadows: float = SHADOWS
    """Black, σ from the median (stf, asinh)."""
    background: float = BACKGROUND
    """Where the median lands (stf, asinh)."""
    low: float = 0.005
    """Quantile that is black (linear)."""
    white: float = 0.9999
    """Quantile that is white."""
    strength: float = 0.0
    """Of asinh; 0: what shows the median at the background level."""
    saturation: float = 1.0
    colours: Literal["grey", "viridis"] = "grey"
    """Of a single plane."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Look:
        """Look of an address.

        Raises
        ------
        ConfigError
            For a value that cannot be.
        """
        given: dict[str, Any] = {}
        for item in fields(cls):
            text = query.get(item.name)
            if text is None:
                continue
            if item.name in _LIMITS:
                given[item.name] = _number(item.name, text)
            elif item.name == "linked":
                given[item.name] = text == "1"
            else:
                allowed = tuple(_METHODS) if item.name == "method" else ("grey", "viridis")
                if text not in allowed:
                    raise ConfigError(f"{item.name} = {text!r}: one of {', '.join(allowed)}")
                given[item.name] = text
        return cls(**given)


def _number(name: str, text: str) -> float:
    low, high = _LIMITS[name]
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not low <= value <= high:
        raise ConfigError(f"{name} = {text!r}: a number from {low:g} to {high:g}")
    return value


@dataclass(frozen=True)
class Tones:
    """Black, white, median and midtones of each plane; the same for all tiles."""

    black: Floats
    white: Floats
    median: Floats
    midtones: Floats


def tones_of(sample: Pixels, look: Look) -> Tones:
    """Tones of a layer.

    Parameters
    ----------
    sample
        Shape (planes, pixels), of the whole layer.
    look
        What a person chose.
    """
    count = len(sample)
    plain = Tones(np.zeros(count), np.ones(count), np.full(count, 0.5), np.full(count, 0.5))
    if look.method == "none":
        return plain
    try:
        found = measured_tones(
            sample, linked=look.linked, shadows=look.shadows, background=look.background, white=look.white
        )
    except DataError:
        return plain
    black, white = found["black"], found["white"]
    if look.method == "linear":
        good = sample[:, np.isfinite(sample).all(axis=0)].astype(np.float64)
        black, white = (np.quantile(good, q, axis=1) for q in (look.low, look.white))
        if look.linked:
            black, white = np.full_like(black, black.min()), np.full_like(white, white.max())
        # All alike: the colour of the middle.
        alike = ~(white > black)
        black, white = np.where(alike, black - 1.0, black), np.where(alike, white + 1.0, white)
    return Tones(black, white, found["median"], found["midtones"])


def shades(pixels: NDArray[np.floating], look: Look, tones: Tones) -> Floats:
    """Shown values 0…1, NaN = no data; shape (planes, rows, columns) as the pixels."""
    curve = Curve(
        method=_METHODS[look.method],
        midtones=0.5,
        strength=look.strength,
        hyperbolic=Hyperbolic(0.0, 0.0, 0.0, 0.0, 1.0),
        points=(),
        keep_colour=0.0,
        saturation=look.saturation,
        background=look.background,
    )
    shown, _ = curve.show(pixels.astype(np.float64), tones.black, tones.white, tones.median, tones.midtones)
    return shown


def picture(pixels: Pixels, look: Look, tones: Tones) -> NDArray[np.uint8]:
    """Tile as bytes, shape (rows, columns, 2 or 4): grey or colours, then 255 where there are data, else 0."""
    if len(pixels) == 3 and look.saturation != 1.0:
        return _saturated(pixels, look, tones)
    mapped = len(pixels) == 1 and look.colours == "viridis"
    shades = len(_table()) if mapped else 256
    out = stepped(pixels, _steps(look, shades, *(tuple(v.tolist()) for v in vars(tones).values())))
    return _table()[out[..., 0]] * (out[..., 1:] > 0) if mapped else out


@lru_cache(maxsize=64)
def _steps(look: Look, count: int, *tones: tuple[float, ...]) -> Pixels:
    """Where the stretch takes its steps: it is evaluated there, and not for each pixel."""
    measured = Tones(*(np.array(v) for v in tones))
    return curve_steps(lambda x: shades(x[:, None], look, measured)[:, 0], len(measured.black), shades=count)


@cache
def _table() -> NDArray[np.uint8]:
    """Colours of the shades of a single plane, shape (shades, 4)."""
    colours = np.array(palette(), np.uint8).reshape(-1, 3)
    return np.column_stack([colours, np.full(len(colours), 255, np.uint8)])


def _saturated(pixels: Pixels, look: Look, tones: Tones) -> NDArray[np.uint8]:
    """Tile of colours that are shown together."""
    out = np.zeros((*pixels.shape[1:], 4), np.uint8)
    # In strips that fit the processor's cache: the shades are float64.
    for start in range(0, out.shape[0], _STRIP):
        rows = slice(start, start + _STRIP)
        shown = shades(pixels[:, rows], look, tones)
        there = np.isfinite(shown).all(axis=0)
        np.nan_to_num(shown, copy=False)
        out[rows, :, :-1] = np.moveaxis(np.rint(255.0 * shown), 0, -1)
        out[rows][~np.asarray(there)] = 0
        out[rows, :, -1] = 255 * there
    return out


def png(shown: NDArray[np.uint8]) -> bytes:
    """Tile of `picture` as a PNG, its first row at the bottom; transparent where there are no data.

    Pillow tries all filters of a row and looks for repetitions in noise, which has none: five times the work, in
    which no other thread runs, for a file of the same size.
    """
    upright = shown[::-1]
    if (shown[..., -1] == 255).all():
        upright = upright[..., :-1]
    height, width, count = upright.shape
    rows = np.empty((height, 1 + width * count), np.uint8)
    rows[:, 0] = _UP
    rows[:, 1:] = upright.reshape(height, -1)
    rows[1:, 1:] -= upright[:-1].reshape(height - 1, -1)
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    data = packer.compress(rows.data) + packer.flush()
    head = struct.pack(">2I5B", width, height, 8, _COLOUR_TYPES[count], 0, 0, 0)
    return _SIGNATURE + _png_chunk(b"IHDR", head) + _png_chunk(b"IDAT", data) + _png_chunk(b"IEND", b"")


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return b"".join(
        [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))]
    )
