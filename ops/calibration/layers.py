"""What a light needs of the masters, as strips of rows kept decoded: a hundred lights read a master once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.overscan import Overscan
from skyloom.ops.frames import decoded, open_source

STRIP = 256
"""Rows of a decoded piece: the strips that masters are stored in."""
LEAST_RESPONSE = 0.05
"""A pixel whose flat is not above it saw next to nothing: no data."""

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Master:
    """A master as one light uses it."""

    image: str
    """Spec of its pixels; so are the others."""
    variance: str = ""
    """Of the mean (DN²); "" = taken as 0."""
    count: str = ""
    """Frames in the mean."""
    bad: str = ""
    """Map of its bad pixels: bits 1 hot, 2 cold."""
    origin: tuple[int, int] = (0, 0)
    """Row and column of the master where the trimmed light begins."""
    pedestal: float = 0.0
    """What had been added to its frames (DN)."""
    overscan: Overscan | None = None

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any] | None) -> Master | None:
        """Rebuild from the fields of a spec."""
        if fields is None:
            return None
        row, column = fields["origin"]
        return cls(
            **{name: spec_text(fields[name]) for name in _SPECS if name in fields},
            origin=(int(row), int(column)),
            pedestal=float(fields["pedestal"]),
            overscan=Overscan.from_fields(fields.get("overscan")),
        )

    def fields(self) -> dict[str, Any]:
        """Return what `from_fields` takes."""
        overscan = {} if self.overscan is None else {"overscan": self.overscan.fields()}
        specs = {name: json.loads(spec) for name in _SPECS if (spec := getattr(self, name))}
        return {**specs, "origin": list(self.origin), "pedestal": self.pedestal, **overscan}

    def read(self, spec: str, rows: slice, columns: slice) -> Pixels:
        """Window, in pixels of the trimmed light, of one of its arrays."""
        row, column = self.origin
        return open_source(spec).read(
            slice(rows.start + row, rows.stop + row), slice(columns.start + column, columns.stop + column)
        )


_SPECS = ("image", "variance", "count", "bad")


def spec_text(fields: Mapping[str, Any]) -> str:
    """Text of a spec that lies in another one; equal fields give equal texts, which share what is decoded."""
    return json.dumps(fields, separators=(",", ":"))


class Layer(Protocol):
    """An array over the pixels of a light that is made of masters; equal layers share what is decoded."""

    def rows(self, first: int, stop: int, width: int) -> Pixels:
        """Rows first…stop of the light, all its columns."""


@dataclass(frozen=True)
class Level:
    """A bias or a dark without its pedestal and overscan level."""

    master: Master

    def rows(self, first: int, stop: int, width: int) -> Pixels:
        """Rows of the light (see `Layer`)."""
        pixels = self.master.read(self.master.image, slice(first, stop), slice(0, width))
        if self.master.overscan is not None:
            # Its level has the pedestal, which was added to every pixel.
            row = self.master.origin[0]
            pixels -= self.master.overscan.levels(self.master.image, first + row, stop + row)[:, :1]
        else:
            pixels -= np.float32(self.master.pedestal)
        return pixels


@dataclass(frozen=True)
class DarkCurrent:
    """A dark without its bias: what is scaled."""

    dark: Master
    bias: Master

    def rows(self, first: int, stop: int, width: int) -> Pixels:
        """Rows of the light (see `Layer`)."""
        return Level(self.dark).rows(first, stop, width) - Level(self.bias).rows(first, stop, width)


@dataclass(frozen=True)
class Response:
    """1 / F; NaN where the flat is of no use or a map says that the pixel is bad."""

    flat: Master | None
    maps: tuple[Master, ...]
    """Masters whose maps of bad pixels count."""

    def rows(self, first: int, stop: int, width: int) -> Pixels:
        """Rows of the light (see `Layer`)."""
        window = slice(first, stop), slice(0, width)
        out = np.ones((stop - first, width), np.float32)
        if self.flat is not None:
            flat = self.flat.read(self.flat.image, *window)
            with np.errstate(divide="ignore", invalid="ignore"):
                np.divide(out, flat, out=out)
                out[~((flat > LEAST_RESPONSE) & np.isfinite(flat))] = np.nan
        for master in self.maps:
            out[master.read(master.bad, *window) != 0] = np.nan
        return out


@dataclass(frozen=True)
class Variance:
    """Variance of a master's mean."""

    master: Master

    def rows(self, first: int, stop: int, width: int) -> Pixels:
        """Rows of the light (see `Layer`)."""
        return self.master.read(self.master.variance, slice(first, stop), slice(0, width))


@lru_cache(maxsize=64)
def _row(value: float, width: int) -> Pixels:
    row = np.full((1, width), value, np.float32)
    # Read-only like what `decoded` gives: one type for the compiled kernel.
    row.flags.writeable = False
    return row


@dataclass(frozen=True)
class Strips:
    """How a trimmed light is cut into strips, in rows of the detector: those of the stored masters."""

    height: int
    width: int
    row: int = 0
    """Row of the detector where the trimmed light begins."""

    def over(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """First row and end of the strips that hold some rows."""
        for start in range(first - (first + self.row) % STRIP, stop, STRIP):
            yield max(start, 0), min(start + STRIP, self.height)

    def decoded(self, layer: Layer | None, first: int, stop: int, *, default: float = 0.0) -> Pixels:
        """Strip of a layer, (rows, width), read-only; of none a single row of `default`."""
        if layer is None:
            return _row(default, self.width)
        # The whole of what decides the values, so that lights, and windows of them, share it.
        return decoded((layer, first, stop, self.width), lambda: layer.rows(first, stop, self.width))

    def window(self, layer: Layer | None, rows: slice, columns: slice, *, default: float = 0.0) -> Pixels:
        """Window of a layer, read-only where it is a strip's."""
        parts = []
        for first, stop in self.over(rows.start, rows.stop):
            strip = np.broadcast_to(self.decoded(layer, first, stop, default=default), (stop - first, self.width))
            parts.append(strip[max(rows.start - first, 0) : rows.stop - first, columns])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
