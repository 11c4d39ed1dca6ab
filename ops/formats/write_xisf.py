"""Writing XISF files strip by strip: monolithic, uncompressed, one image, as PixInsight reads them."""

from __future__ import annotations

import math
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.formats.cards import STRUCTURAL, value_text, with_rows_reversed
from skyloom.ops.formats.fits_header import Card, Scalar
from skyloom.ops.formats.xisf_header import PREAMBLE, SIGNATURE

ALIGNMENT = 4096
"""Bytes the pixels begin at a multiple of."""


@dataclass(frozen=True)
class Display:
    """How a linear plane is to be shown: midtones balance (0…1), shadows and highlights (units of the pixels)."""

    midtones: float
    shadows: float
    highlights: float

    def within(self, low: float, high: float) -> tuple[float, float, float]:
        """Midtones, shadows, highlights where `low` is black and `high` is white."""
        reach = high - low
        shadows, highlights = (min(max((v - low) / reach, 0.0), 1.0) for v in (self.shadows, self.highlights))
        return self.midtones, shadows, max(highlights, shadows)


_FORMATS = {"<f4": "Float32", "<u2": "UInt16"}


def write_xisf(
    path: str | Path,
    strips: NDArray[Any] | Iterable[NDArray[Any]],
    *,
    shape: tuple[int, ...],
    dtype: str = "float32",
    cards: Mapping[str, Scalar | tuple[Scalar, str]] | None = None,
    history: Sequence[str] = (),
    row_zero: Literal["bottom", "top"] = "bottom",
    bounds: tuple[float, float] | None = None,
    no_data: float = math.nan,
    creator: str = "skyloom",
    display: Sequence[Display] = (),
    profile: bytes = b"",
) -> Path:
    """Write an image as an XISF file; it has its name only when it is complete.

    Parameters
    ----------
    path
        File to be; replaced if it exists.
    strips
        The image in strips of rows, from row 0: (rows, x), or (3, rows, x) for red, green and blue. One strip at a
        time is held. A whole image is one strip.
    shape
        (y, x), or (3, y, x).
    dtype
        "float32" or "uint16": type of the stored numbers; strips are converted (uint16: rounded and clipped, no
        data become 0).
    cards
        FITS keywords, values or (value, comment); the WCS is that of the image as given. What describes the
        storage of a FITS file (BITPIX, NAXIS, …) is left out.
    history
        Lines of HISTORY.
    row_zero
        Edge of the picture row 0 is at. "bottom", as FITS viewers show it: the rows are stored in reverse, for
        XISF begins at the top. "top": they are stored as they come.
    bounds
        Range of float pixels PixInsight takes for black and white; None: (0, 1) if all are in it, else lowest and
        highest.
    no_data
        What takes the place of NaN in float pixels (units of the pixels); PixInsight's tools want a number.
    creator
        Name and version of the program.
    display
        One for each plane: PixInsight shows the image through them (a screen transfer function) and leaves the
        pixels alone.
    profile
        ICC profile.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    DataError
        If the strips are not what `shape` promises, or there is no value for `no_data` to be told from NaN.

    Notes
    -----
    XISF 1.0 specification. PixInsight counts rows in WCS keywords from the bottom edge, whatever is stored first:
    with "top" they are turned over, with "bottom" they already are so.
    """
    path = Path(path)
    stored = np.dtype(dtype).newbyteorder("<")
    if stored.str not in _FORMATS or not (len(shape) == 2 or (len(shape) == 3 and shape[0] == 3)):
        raise DataError(
            f"{path}: XISF is written as float32 or uint16 of (y, x) or (3, y, x), not {dtype} {shape}"
        )
    if isinstance(strips, np.ndarray):
        strips = (strips,)
    planes, height, width = (1, *shape) if len(shape) == 2 else shape
    if not (height > 0 and width > 0):
        raise DataError(f"{path}: an image without pixels {shape}")
    keywords = _keywords(cards or {}, height, turn=row_zero == "top")
    head = _Head(
        (planes, height, width),
        _FORMATS[stored.str],
        keywords,
        history=history,
        creator=creator,
        bounds=bounds,
        display=display,
        profile=profile,
    )
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            pixels = _Pixels(
                file.fileno(), head.offset, (planes, height, width), stored, reverse=row_zero == "bottom"
            )
            for strip in strips:
                pixels.write(path, strip, no_data)
            pixels.check_complete(path)
            os.pwrite(file.fileno(), head.encode(pixels.low, pixels.high), 0)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


class _Pixels:
    """Puts strips where they belong."""

    def __init__(
        self, descriptor: int, offset: int, shape: tuple[int, int, int], dtype: np.dtype[Any], *, reverse: bool
    ) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._shape = shape
        self._dtype = dtype
        self._reverse = reverse
        self._done = 0
        self.low, self.high = math.inf, -math.inf
        """Range of the pixels so far."""

    def write(self, path: Path, strip: NDArray[Any], no_data: float) -> None:
        planes, height, width = self._shape
        part = strip[None] if strip.ndim == 2 else strip
        if (
            part.ndim != 3
            or part.shape[0] != planes
            or part.shape[2] != width
            or self._done + part.shape[1] > height
        ):
            raise DataError(
                f"{path}: a strip {strip.shape} at row {self._done} does not fit an image of {planes} plane(s), "
                f"{height} rows, {width} columns"
            )
        rows = part.shape[1]
        if not rows:
            return
        first = height - self._done - rows if self._reverse else self._done
        for plane in range(planes):
            numbers = self._numbers(part[plane], no_data)
            data = numbers[::-1] if self._reverse else numbers
            place = self._offset + (plane * height + first) * width * self._dtype.itemsize
            _write_all(self._descriptor, np.ascontiguousarray(data).reshape(-1).view(np.uint8).data, place)
        self._done += rows

    def _numbers(self, pixels: NDArray[Any], no_data: float) -> NDArray[Any]:
        if self._dtype.kind == "u":
            if pixels.dtype.kind == "f":
                pixels = np.rint(np.nan_to_num(pixels, nan=0.0))
            clipped: NDArray[Any] = np.clip(pixels, 0, 65535).astype(self._dtype)
            return clipped
        numbers = pixels.astype(self._dtype)
        if not math.isnan(no_data):
            numbers[np.isnan(numbers)] = no_data
        low, high = float(numbers.min()), float(numbers.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            finite = numbers[np.isfinite(numbers)]
            low, high = (float(finite.min()), float(finite.max())) if finite.size else (math.inf, -math.inf)
        self.low, self.high = min(self.low, low), max(self.high, high)
        return numbers

    def check_complete(self, path: Path) -> None:
        if self._done != self._shape[1]:
            raise DataError(f"{path}: {self._done} rows came for an image of {self._shape[1]}")


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done : done + 2**30], offset + done)


# --- header ---


def _keywords(
    cards: Mapping[str, Scalar | tuple[Scalar, str]], height: int, *, turn: bool
) -> list[tuple[str, str, str]]:
    """Names, values in FITS syntax, comments."""
    given = {k.strip().upper(): Card(*c) if isinstance(c, tuple) else Card(c, "") for k, c in cards.items()}
    kept = {k: c for k, c in given.items() if k and not STRUCTURAL.match(k)}
    if "CTYPE1" in kept:
        kept = _with_cd_matrix(kept)
        if turn:
            kept = with_rows_reversed(kept, height)
    return [(k, value_text(c.value), c.comment) for k, c in kept.items()]


def _with_cd_matrix(cards: dict[str, Card]) -> dict[str, Card]:
    """Cards with CD = CDELT · PC: PixInsight reads CD, or CDELT with CROTA, but no PC."""
    if "CD1_1" in cards or not any(re.match(r"PC[12]_[12]$", k) for k in cards):
        return cards
    result = {k: c for k, c in cards.items() if not re.match(r"PC[12]_[12]$|CDELT[12]$|CROTA[12]$", k)}
    for i in (1, 2):
        for j in (1, 2):
            scale = cards.get(f"CDELT{i}", Card(1.0, "")).value
            turn = cards.get(f"PC{i}_{j}", Card(float(i == j), "")).value
            if isinstance(scale, int | float) and isinstance(turn, int | float):
                result[f"CD{i}_{j}"] = Card(float(scale) * float(turn), "")
    return result


class _Head:
    """Header of a file; its length is fixed before the range of the pixels is known."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        form: str,
        keywords: Sequence[tuple[str, str, str]],
        *,
        history: Sequence[str],
        creator: str,
        bounds: tuple[float, float] | None,
        display: Sequence[Display],
        profile: bytes,
    ) -> None:
        self._shape = shape
        self._form = form
        self._keywords = [*keywords, *(("HISTORY", "", line) for line in history)]
        self._creator = creator
        self._bounds = bounds
        self._display = tuple(display)
        self._profile = profile
        self._created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.offset = 0
        """First byte of the pixels."""
        # A float64 takes no more than 24 characters, the offset no more than 20.
        longest = PREAMBLE + len(self._xml(-1.2345678901234567e-300, 1.2345678901234567e-300)) + 20 + 12 * 25
        self.offset = -(-longest // ALIGNMENT) * ALIGNMENT

    def encode(self, low: float, high: float) -> bytes:
        """Everything in front of the pixels."""
        if self._bounds is not None:
            low, high = self._bounds
        elif low > high or (low >= 0.0 and high <= 1.0):
            low, high = 0.0, 1.0
        elif low == high:
            high = low + 1.0
        xml = self._xml(low, high)
        preamble = SIGNATURE + len(xml).to_bytes(4, "little") + bytes(4)
        return (preamble + xml).ljust(self.offset, b"\0")

    def _xml(self, low: float, high: float) -> bytes:
        planes, height, width = self._shape
        item = 4 if self._form == "Float32" else 2
        attributes = {
            "id": "image",
            "geometry": f"{width}:{height}:{planes}",
            "sampleFormat": self._form,
            "colorSpace": "RGB" if planes == 3 else "Gray",
            "location": f"attachment:{self.offset}:{planes * height * width * item}",
        }
        if self._form == "Float32":
            attributes["bounds"] = f"{low:.17g}:{high:.17g}"
        lines = [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<xisf version="1.0" xmlns="http://www.pixinsight.com/xisf" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
            'xsi:schemaLocation="http://www.pixinsight.com/xisf http://pixinsight.com/xisf/xisf-1.0.xsd">',
            f"<Image {_attributes(attributes)}>",
            *(
                f"<FITSKeyword {_attributes({'name': name, 'value': value, 'comment': comment})}/>"
                for name, value, comment in self._keywords
            ),
            *self._shown(low, high),
            "</Image>",
            "<Metadata>",
            _text("XISF:CreationTime", self._created),
            _text("XISF:CreatorApplication", self._creator),
            f'<Property id="XISF:BlockAlignmentSize" type="UInt16" value="{ALIGNMENT}"/>',
            "</Metadata>",
            "</xisf>",
        ]
        return "\n".join(lines).encode()

    def _shown(self, low: float, high: float) -> list[str]:
        """Elements of display and profile."""
        lines = []
        if self._display:
            if self._form != "Float32":
                low, high = 0.0, 65535.0
            planes = [d.within(low, high) for d in self._display]
            # Red or grey, green, blue, luminance.
            missing = [(0.5, 0.0, 1.0)] * (4 - len(planes))
            m, s, h = (":".join(f"{v:.9g}" for v in values) for values in zip(*planes, *missing, strict=True))
            shown = {"m": m, "s": s, "h": h, "l": "0:0:0:0", "r": "1:1:1:1", "name": "AutoStretch"}
            lines.append(f"<DisplayFunction {_attributes(shown)}/>")
        if self._profile:
            text = b64encode(self._profile).decode("ascii")
            lines.append(f'<ICCProfile location="inline:base64">{text}</ICCProfile>')
        return lines


def _attributes(values: Mapping[str, str]) -> str:
    return " ".join(f"{k}={quoteattr(_allowed(v))}" for k, v in values.items())


def _text(name: str, value: str) -> str:
    return f'<Property id="{name}" type="String">{escape(_allowed(value))}</Property>'


def _allowed(text: str) -> str:
    """Text without the characters XML 1.0 has no way to write."""
    return "".join(c if c.isprintable() else " " for c in text)
