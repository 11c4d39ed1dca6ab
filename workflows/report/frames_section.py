"""Quality of the frames over time, the frames that were left out, and a table of all."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.frames import open_source
from skyloom.ops.stretch import autostretch
from skyloom.workflows.machine import count
from skyloom.workflows.report.charts import Floats, Series, band_colour, legend, scatter
from skyloom.workflows.report.facts import Project
from skyloom.workflows.report.frames import Frames, LeftOut, measures
from skyloom.workflows.report.markup import Markup, el, number, table
from skyloom.workflows.report.pictures import data_uri, shrink

THUMBNAILS = 12
"""Frames left out that are shown; every reason is."""
SIDE = 150
_PIXELS = 4e6
"""Read of a frame for its thumbnail."""
ROWS = 1000
"""Frames in the table."""
_LISTED = 200


def by_band(frames: Frames, x: Floats, y: Floats, titles: Sequence[str], *, crosses: bool = True) -> list[Series]:
    """Columns of the frames as a series a band."""
    bands, used = frames.texts("band"), frames.used
    out = []
    for band in frames.bands:
        here = np.flatnonzero(bands == band)
        left = ~used[here] if crosses else None
        out.append(
            Series(
                band,
                band_colour(band, frames.bands),
                x[here],
                y[here],
                [titles[i] for i in here.tolist()],
                here,
                left,
            )
        )
    return out


def band_legend(frames: Frames) -> Markup:
    """What the colours of the bands are, and the crosses."""
    return legend([(b, band_colour(b, frames.bands)) for b in frames.bands], left_out=not frames.used.all())


def titles_of(frames: Frames, label: str, values: Floats, unit: str = "") -> list[str]:
    """What the points of a chart say."""
    names, dates = frames.texts("name").tolist(), frames.texts("date").tolist()
    return [
        f"{name}: {label} {number(value)}{f' {unit}' if unit else ''}" + (f", {date[:19]}" if date else "")
        for name, date, value in zip(names, dates, values.tolist(), strict=True)
    ]


def frames_section(project: Project) -> Markup | None:
    """Charts of what was measured over time, and a table of it."""
    frames = project.frames
    found = measures(frames) if len(frames) else {}
    if not found:
        return None
    hours, breaks, label = frames.hours()
    charts = []
    for name, (unit, values) in found.items():
        short = "" if name == "weight" else unit
        series = by_band(frames, hours, values, titles_of(frames, name, values, short))
        charts.append(
            scatter(name, series, x_label=label, unit=unit, breaks=breaks, zero=name in ("weight", "eccentricity"))
        )
    return el("div", band_legend(frames), el("div", charts, class_="grid"), _table(frames, found))


def _table(frames: Frames, found: dict[str, tuple[str, Floats]]) -> Markup:
    extra = {
        "exposure": ("s", frames.numbers("exposure")),
        "residual": ("px", frames.of(frames.project.result("register"), "residual")),
    }
    columns = {**extra, **found}
    columns = {n: c for n, c in columns.items() if np.isfinite(c[1]).any()}
    head = [
        "frame",
        "band",
        "date",
        *(f"{n} ({u})" if u and n != "weight" else n for n, (u, _) in columns.items()),
    ]
    reasons = frames.reasons
    head.append("left out")
    texts = [frames.texts(n).tolist() for n in ("name", "band", "date")]
    rows = []
    for i in range(min(len(frames), ROWS)):
        name, band, date = (t[i] for t in texts)
        values = [number(float(v[i])) for _, v in columns.values()]
        rows.append([name, band, date[:19].replace("T", " "), *values, reasons.get(frames.ids[i], ("", ""))[1]])
    shown = (
        f"{len(rows)} of {count(len(frames), 'frame')}"
        if len(rows) < len(frames)
        else f"{count(len(rows), 'frame')}"
    )
    return el("details", el("summary", f"Table: {shown}"), table(head, rows, numbers=range(3, len(head) - 1)))


def left_out_section(project: Project) -> Markup | None:
    """Frames that were not used, why, and how they look where they can be read."""
    frames = project.frames
    left = frames.left_out()
    if not left:
        return None
    figures: list[Markup] = []
    for entry in left:
        if len(figures) == THUMBNAILS:
            break
        shown = _thumbnail(entry)
        if shown is not None:
            height, width = shown.shape
            figures.append(
                el(
                    "figure",
                    el("img", src=data_uri(shown, "jpeg"), alt=entry.name, width=width, height=height),
                    el("figcaption", el("b", entry.name), el("br"), entry.reason),
                    class_="thumb",
                )
            )  # fmt: skip
    rows = [(e.name, e.node, e.reason) for e in left[:_LISTED]]
    more = f"and {len(left) - _LISTED} more" if len(left) > _LISTED else None
    return el(
        "div",
        table(("frame", "by node", "reason"), rows),
        el("p", more, class_="soft") if more else None,
        el("div", figures, class_="thumbs") if figures else None,
    )


def _thumbnail(entry: LeftOut) -> NDArray[np.uint8] | None:
    """Small autostretched view of a frame's file; None where it cannot be read without decoding all of it."""
    if not entry.source:
        return None
    try:
        source = open_source(_file_of(entry.source))
        if not source.windowed:
            return None
        height, width = source.shape
        factor = max(1, -(-max(source.shape) // SIDE))
        # Of large frames some rows of every block tell enough.
        take = max(1, min(factor, int(_PIXELS * factor / (height * width))))

        def read(rows: slice, columns: slice) -> NDArray[np.float32]:
            out = np.full((rows.stop - rows.start, columns.stop - columns.start), np.nan, dtype=np.float32)
            for y in range(rows.start, rows.stop, factor):
                part = slice(y, min(y + take, rows.stop))
                out[y - rows.start : part.stop - rows.start] = source.read(part, columns)
            return out

        small = shrink(read, (height, width), side=SIDE, budget=np.inf).pixels
        shades = np.nan_to_num(autostretch(small).apply(small))
    except Exception:  # gone, changed, broken: that may be why it was left out
        return None
    return np.asarray(np.rint(255 * shades[::-1]), dtype=np.uint8)


def _file_of(source: str) -> str:
    """The file's own source inside that of a calibrated frame: a thumbnail needs no calibration."""
    fields = json.loads(source)
    while isinstance(fields, dict):
        inner = next((fields[k] for k in ("light", "source") if isinstance(fields.get(k), dict)), None)
        if inner is None:
            break
        fields = inner
    return json.dumps(fields)
