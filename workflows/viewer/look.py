"""How a layer is shown: the stretch a person asked for, by the curves and tones that make the finished picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.display.stretch import Curve, Method
from skyloom.ops.display.tones import measured_tones
from skyloom.ops.display.transfer import Hyperbolic
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.stretch import BACKGROUND, SHADOWS
from skyloom.workflows.report.pictures import palette

Pixels = NDArray[np.float32]
Floats = NDArray[np.float64]
_METHODS: Mapping[str, Method] = {"stf": "stf", "asinh": "asinh", "linear": "none", "none": "none"}
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


def shades(pixels: Pixels, look: Look, tones: Tones) -> Floats:
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


def png(shown: Floats, *, colours: str = "grey") -> bytes:
    """Tile as a PNG, the first row at the bottom; transparent where a plane has no data."""
    from PIL import Image

    there = np.asarray(np.isfinite(shown).all(axis=0))[::-1]
    bytes_ = np.rint(255.0 * np.nan_to_num(shown[:, ::-1])).astype(np.uint8)
    if len(shown) == 3:
        planes = [*bytes_]
    elif colours == "viridis":
        table = np.array(palette(), np.uint8).reshape(-1, 3)
        index = np.rint(np.nan_to_num(shown[0, ::-1]) * (len(table) - 1)).astype(np.intp)
        planes = [*np.moveaxis(table[index], -1, 0)]
    else:
        planes = [bytes_[0]]
    if not there.all():
        planes.append(np.where(there, np.uint8(255), np.uint8(0)))
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[len(planes)]
    pixels = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    assert image.mode == mode
    buffer = io.BytesIO()
    # Noise does not compress, and the page is on this machine.
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
