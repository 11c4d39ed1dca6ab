"""Pictures in the page: canvases shrunk window by window, maps in colour, all of it as base64 texts."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.arrays import array_spec
from skyloom.ops.frames import open_source
from skyloom.ops.pyramid import block_mean
from skyloom.workflows.report.markup import Markup, el, number
from skyloom.workflows.stored_layout import INNER_CHUNK

Pixels = NDArray[np.float32]
Read = Callable[[slice, slice], Pixels]
ROWS, COLUMNS = 256, 2048
"""Window read at a time (pixels), about."""
BUDGET = 4e8
"""Pixels read for a section of the page, which take some seconds; of what has more a part is read."""
_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Of the colour map viridis."""
_SHADES = 128
"""Of a map: what an eye tells apart, and half the bytes of twice as many."""
EMPTY = (128, 134, 142)


@dataclass(frozen=True)
class Small:
    """A canvas, shrunk; the first row is the bottom one."""

    pixels: Pixels
    factor: int
    """Canvas pixels a pixel."""
    skipped: int = 1
    """One block in so many was read."""
    how: str = ""
    """What else a person should know of it."""


def shrink(read: Read, shape: tuple[int, int], *, side: int, budget: float = BUDGET) -> Small:
    """Shrink an image to at most `side` pixels, a window at a time.

    Parameters
    ----------
    read
        Pixels of a window (rows, columns).
    shape
        Rows, columns.
    side
        Longest side of the result.
    budget
        Pixels to read; where the image has more, one chunk of the store in so many becomes a pixel.
    """
    height, width = shape
    if height * width > budget:
        step = int(np.ceil(np.sqrt(height * width / budget)))
        factor = step * INNER_CHUNK
        out = np.full((-(-height // factor), -(-width // factor)), np.nan, dtype=np.float32)
        for j, i in np.ndindex(*out.shape):
            y, x = j * factor, i * factor
            block = read(slice(y, min(y + INNER_CHUNK, height)), slice(x, min(x + INNER_CHUNK, width)))
            out[j, i] = block_mean(block, INNER_CHUNK)[0, 0]
        return Small(out, factor, step * step)
    factor = max(1, -(-max(shape) // side))
    rows, columns = (max(1, n // factor) * factor for n in (ROWS, COLUMNS))
    out = np.empty((-(-height // factor), -(-width // factor)), dtype=np.float32)
    for y in range(0, height, rows):
        for x in range(0, width, columns):
            block = block_mean(read(slice(y, min(y + rows, height)), slice(x, min(x + columns, width))), factor)
            top, left = y // factor, x // factor
            out[top : top + block.shape[0], left : left + block.shape[1]] = block
    return Small(out, factor)


def small_plane(dataset: xr.Dataset, variable: str, *, side: int, budget: float = BUDGET, **index: int) -> Small:
    """Plane of a stored canvas, shrunk, from the level of its pyramid that suits where there is one."""
    rows, columns = (int(n) for n in dataset[variable].shape[-2:])
    if variable == "image" and index:
        found = _level(dataset, side, next(iter(index.values())))
        if found is not None:
            read, shape = found
            small = shrink(read, shape, side=side, budget=budget)
            return replace(small, factor=small.factor * round(rows / shape[0]))
    source = open_source(array_spec(dataset, variable, **index))
    return shrink(source.read, (rows, columns), side=side, budget=budget)


def _level(dataset: xr.Dataset, side: int, plane: int) -> tuple[Read, tuple[int, int]] | None:
    from skyloom.workflows.pyramid import open_levels

    try:
        levels = open_levels(dataset)
    except Exception:  # it is only faster with one
        return None
    large = [a for a in levels if max(a.shape[-2:]) >= side]
    array: Any = large[-1] if large else levels[0]
    if array.ndim != 3:
        return None

    def read(rows: slice, columns: slice) -> Pixels:
        return np.asarray(array[plane, rows, columns], dtype=np.float32)

    return read, (int(array.shape[-2]), int(array.shape[-1]))


# --- as texts ---


def data_uri(pixels: NDArray[np.uint8], kind: Literal["png", "jpeg"]) -> str:
    """8-bit pixels, grey or RGB, the first row on top, as a `data:` address."""
    from PIL import Image

    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if kind == "png":
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="JPEG", quality=86)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def image_uri(image: Any) -> str:
    """Pillow image as a `data:` address of a PNG with a palette of 256 colours."""
    buffer = io.BytesIO()
    image.convert("RGB").quantize(256, dither=0).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def map_uri(values: Pixels, low: float, high: float) -> str:
    """Values, the first row at the bottom, as a `data:` address of a PNG: colours of viridis, grey where NaN."""
    from PIL import Image

    span = high - low if high > low else 1.0
    place = np.clip((values.astype(np.float64) - low) / span, 0.0, 1.0)
    index = np.where(np.isfinite(values), np.rint(np.nan_to_num(place) * (_SHADES - 1)), _SHADES).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(index[::-1]))
    image.putpalette([*palette(), *EMPTY])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def palette() -> list[int]:
    """Red, green, blue of each shade of a map, 0…255 (viridis)."""
    stops = np.array(_STOPS, dtype=np.float64)
    at = np.linspace(0.0, len(stops) - 1.0, _SHADES)
    columns = [np.interp(at, np.arange(len(stops)), stops[:, c]) for c in range(3)]
    return [int(v) for v in np.rint(np.stack(columns, axis=-1)).ravel()]


def picture(pixels: NDArray[np.uint8], caption: object, *, kind: Literal["png", "jpeg"] = "jpeg") -> Markup:
    """Return a figure."""
    height, width = pixels.shape[:2]
    image = el("img", src=data_uri(pixels, kind), alt=caption, width=width, height=height)
    return el("figure", image, el("figcaption", caption), class_="picture")


def colour_map(
    small: Small,
    title: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    over: Markup | None = None,
) -> Markup:
    """Map in colour with its scale.

    Parameters
    ----------
    small
        Values, NaN = none.
    title, unit
        What they are.
    low, high
        Ends of the scale; the 0.5 and 99.5 % quantiles.
    over
        Drawn over it (SVG).
    """
    good = small.pixels[np.isfinite(small.pixels)]
    if good.size == 0:
        return el("figure", el("p", "no data", class_="soft"), el("figcaption", el("b", title)), class_="map")
    low = float(np.quantile(good, 0.005)) if low is None else low
    high = float(np.quantile(good, 0.995)) if high is None else high
    # All alike: the colour of the middle, both ends of the scale the same number.
    ends = (low, high) if high > low else (low - 1.0, low + 1.0)
    height, width = small.pixels.shape
    image = el(
        "img", src=map_uri(small.pixels, *ends), alt=title, width=width, height=height, class_="pixels"
    )  # fmt: skip
    scale = el("div", el("span", number(low, 3)), el("i"), el("span", number(high, 3)), class_="scale")
    notes = f"one block of {INNER_CHUNK} px in {small.skipped} was read" if small.skipped > 1 else small.how
    return el(
        "figure",
        el("figcaption", el("b", title), f" ({unit})" if unit else None),
        el("div", image, over, class_="stack"),
        scale,
        el("p", notes, class_="soft") if notes else None,
        class_="map",
    )
