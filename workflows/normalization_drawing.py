"""Pictures of a normalization: where frames disagree, the corrections of the worst frames, scales over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from skyloom.workflows.normalization_maps import (
    Course,
    FrameMaps,
    course,
    frame_maps,
    residual_maps,
    worst_frames,
)

Floats = NDArray[np.float64]
FOLDER = "normalization"
_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
_EMPTY = (225, 228, 232)
_COLOURS = ("#2f5f9e", "#c62828", "#23806f", "#b06f00", "#77489c", "#56657a", "#2c8a2c", "#a01c6c")
_TEXT, _SOFT, _LINE = "#222222", "#5a6675", "#c9d0d8"
_MARGIN, _BAR, _HEAD = 18, 16, 40


def write_pictures(session: xr.Dataset, normalization: xr.Dataset, folder: Path) -> list[Path]:
    """Write all pictures there is something to show in.

    Parameters
    ----------
    session, normalization
        Of the same frames.
    folder
        Where they go: `residuals.png`, `frames.png`, `course.png`.

    Returns
    -------
    list of Path
        The files.
    """
    normalization = normalization.load()
    made = []
    bands = session["band"].values.astype(str)
    maps = residual_maps(normalization)
    rows = worst_frames(normalization, bands)
    pictures = {
        "residuals": draw_residuals(maps) if maps else None,
        "frames": draw_frames([frame_maps(session, normalization, i) for i in rows]) if rows else None,
        "course": draw_course(course(session, normalization)) if rows else None,
    }
    for name, picture in pictures.items():
        if picture is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{name}.png"
            picture.save(path, compress_level=4)
            made.append(path)
    return made


def draw_residuals(maps: dict[str, Floats]) -> Image.Image:
    """Overlap residuals on the canvas before and after, a row a band, north of the canvas up."""
    size = 420
    panels = []
    for band, both in maps.items():
        low, high = (_limit(both[k]) for k in (0, 1))
        texts = (f"{band}: frames apart, before (mean {np.nanmean(both[0]):.3g})",
                 f"after (mean {np.nanmean(both[1]):.3g})")  # fmt: skip
        panels.append([_panel(both[k], texts[k], (0.0, top), size) for k, top in ((0, low), (1, high))])
    return _grid(panels, "Disagreement of overlapping frames, canvas units; grey: one frame only, or none")


def draw_frames(frames: Sequence[FrameMaps]) -> Image.Image:
    """Scale, offset and confidence of some frames, a row each."""
    panels = []
    for f in frames:
        middle = float(np.median(f.offset))
        panels.append([
            _panel(f.scale, f"{f.name} ({f.band}): scale", _range(f.scale, 0.002 * float(np.mean(f.scale))), 250),
            _panel(f.offset - middle, f"offset − {middle:.4g}", _range(f.offset - middle, 0.0), 250),
            _panel(f.confidence, "confidence", (0.0, 1.0), 250, note=f.why),
        ])  # fmt: skip
    return _grid(panels, "Corrections of the frames that agree least with the others")


def draw_course(points: Course) -> Image.Image:
    """Scales against time, night by night, and against airmass where it is known."""
    bands = sorted(set(points.band.tolist()))
    parts = [(points.hours, "hours, nights one after the other"), (points.airmass, "airmass")]
    parts = [(x, label) for x, label in parts if np.isfinite(x).any()]
    if not parts:
        parts = [(np.arange(len(points.scale), dtype=np.float64), "frame")]
    plots = [_scatter(x, points, bands, label) for x, label in parts]
    legend = "Scale of every frame (its stars are multiplied by it); bars: spread over the frame"
    return _grid([[p] for p in plots], legend)


# --- panels ---


def _font(size: int = 13) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _limit(values: Floats) -> float:
    """Top of a scale from 0: what all but the worst hundredth stay below."""
    good = values[np.isfinite(values)]
    return max(float(np.quantile(good, 0.99)), 1e-12) if good.size else 1.0


def _range(values: Floats, least: float) -> tuple[float, float]:
    low, high = float(np.min(values)), float(np.max(values))
    if high - low < max(2 * least, 1e-9):
        middle, half = 0.5 * (low + high), max(least, 1e-6)
        return middle - half, middle + half
    return low, high


def _colour(values: Floats, limits: tuple[float, float]) -> NDArray[np.uint8]:
    place = np.clip((values - limits[0]) / (limits[1] - limits[0]), 0.0, 1.0) * (len(_STOPS) - 1)
    place = np.nan_to_num(place)
    first = np.minimum(place.astype(int), len(_STOPS) - 2)
    part = (place - first)[..., None]
    table = np.array(_STOPS, dtype=np.float64)
    rgb = (1 - part) * table[first] + part * table[first + 1]
    rgb[~np.isfinite(values)] = _EMPTY
    return np.asarray(np.round(rgb), dtype=np.uint8)


def _panel(values: Floats, title: str, limits: tuple[float, float], size: int, *, note: str = "") -> Image.Image:
    """A map with its title above and its scale beside it; the first row of `values` is at the bottom."""
    rows, columns = values.shape
    factor = size / max(rows, columns)
    width, height = max(round(columns * factor), 40), max(round(rows * factor), 40)
    picture = Image.fromarray(_colour(values[::-1], limits)).resize((width, height), Image.Resampling.NEAREST)
    out = Image.new("RGB", (max(width + 80, 330), height + 46), "white")
    draw = ImageDraw.Draw(out)
    draw.text((0, 2), _cut(title, 52), fill=_TEXT, font=_font())
    out.paste(picture, (0, 24))
    steps = np.linspace(limits[1], limits[0], height)[:, None] * np.ones((1, _BAR))
    out.paste(Image.fromarray(_colour(steps, limits)), (width + 8, 24))
    for value, y in (
        (limits[1], 24),
        (0.5 * (limits[0] + limits[1]), 24 + height // 2 - 6),
        (limits[0], 12 + height),
    ):
        draw.text((width + 12 + _BAR, y), f"{value:.4g}", fill=_SOFT, font=_font(11))
    draw.text((0, height + 27), _cut(note, 60), fill=_SOFT, font=_font(11))
    return out


def _scatter(x: Floats, points: Course, bands: Sequence[str], label: str) -> Image.Image:
    width, height, left, top, bottom = 900, 300, 60, 22, 44
    out = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(out)
    good = np.isfinite(x) & np.isfinite(points.scale)
    xs, ys = _range(x[good], 0.05), _range(points.scale[good], 0.02)
    pad = 0.06 * (ys[1] - ys[0])
    ys = (ys[0] - pad, ys[1] + pad)
    pad = 0.02 * (xs[1] - xs[0])
    xs = (xs[0] - pad, xs[1] + pad)

    def place(a: float, b: float) -> tuple[float, float]:
        return (
            left + (a - xs[0]) / (xs[1] - xs[0]) * (width - left - 20),
            height - bottom - (b - ys[0]) / (ys[1] - ys[0]) * (height - top - bottom),
        )

    for tick in _ticks(*ys):
        y = place(xs[0], tick)[1]
        draw.line([(left, y), (width - 20, y)], fill=_LINE)
        draw.text((8, y - 7), f"{tick:.4g}", fill=_SOFT, font=_font(11))
    for tick in _ticks(*xs):
        a = place(tick, ys[0])[0]
        draw.line([(a, height - bottom), (a, height - bottom + 4)], fill=_SOFT)
        draw.text((a - 8, height - bottom + 6), f"{tick:.4g}", fill=_SOFT, font=_font(11))
    draw.text((left, height - 18), label, fill=_TEXT, font=_font(12))
    for k in np.flatnonzero(good).tolist():
        colour = _COLOURS[bands.index(str(points.band[k])) % len(_COLOURS)]
        scale, spread = float(points.scale[k]), float(points.scale[k] * points.spread[k])
        a, b = place(float(x[k]), scale)
        if spread > 0:
            draw.line([place(float(x[k]), scale - spread), place(float(x[k]), scale + spread)], fill=colour)
        draw.ellipse([a - 3, b - 3, a + 3, b + 3], fill=colour)
    for number, band in enumerate(bands):
        a = float(left + 70 * number)
        draw.ellipse([a, 6.0, a + 8, 14.0], fill=_COLOURS[number % len(_COLOURS)])
        draw.text((a + 12, 2), _cut(band, 8), fill=_TEXT, font=_font(12))
    return out


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers between two."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= 8)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def _grid(panels: Sequence[Sequence[Image.Image]], title: str) -> Image.Image:
    wide = max(sum(p.width + _MARGIN for p in row) for row in panels)
    tall = sum(max(p.height for p in row) + _MARGIN for row in panels)
    out = Image.new("RGB", (max(wide, 560) + _MARGIN, tall + _HEAD), "white")
    ImageDraw.Draw(out).text((_MARGIN, 12), title, fill=_TEXT, font=_font(15))
    y = _HEAD
    for row in panels:
        x = _MARGIN
        for panel in row:
            out.paste(panel, (x, y))
            x += panel.width + _MARGIN
        y += max(p.height for p in row) + _MARGIN
    return out


def _cut(text: str, length: int) -> str:
    """Text as the font that comes with Pillow has letters for it."""
    plain = (
        text.translate({0x2212: "-", 0xD7: "x", 0x2026: "...", 0x2013: "-"})
        .encode("latin-1", "replace")
        .decode("latin-1")
    )
    return plain if len(plain) <= length else plain[: length - 3] + "..."
