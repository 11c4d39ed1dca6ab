"""How frames were made alike: their disagreement before and after, what is known per band, maps of corrections."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from skyloom.workflows.report.charts import Series, legend, scatter
from skyloom.workflows.report.facts import Project
from skyloom.workflows.report.frames import Frames
from skyloom.workflows.report.frames_section import band_legend, by_band, titles_of
from skyloom.workflows.report.markup import Markup, el, number, table
from skyloom.workflows.report.pictures import image_uri

STAGES = (("before", "residual_before", 6), ("after", "residual_after", 5), ("held out", "residual_held", 7))
"""Label, variable and colour of what frames disagree by."""


def normalization_section(project: Project) -> Markup | None:
    """Charts, a table of the bands, and pictures of the corrections."""
    node = project.node_of("normalize")
    frames = project.frames
    if node is None or not len(frames):
        return None
    result, session = project.results[node], project.session_of(node)
    hours, breaks, label = frames.hours()
    series = []
    for name, variable, colour in STAGES:
        values = frames.of(result, variable)
        titles = titles_of(frames, f"disagreement {name}", values)
        series.append(Series(name, colour, hours, values, titles, np.arange(len(frames))))
    units = str(result.attrs.get("units", ""))
    first = scatter(
        "disagreement with overlapping frames", series, x_label=label, unit=units, log=True, breaks=breaks
    )
    charts: list[Markup | None] = []
    for name, variable in (("error of scale", "scale_error"), ("stars behind the scale", "stars")):
        values = np.where(frames.of(result, "use") == 1, frames.of(result, variable), np.nan)
        shown = by_band(frames, hours, values, titles_of(frames, name, values))
        charts.append(scatter(name, shown, x_label=label, breaks=breaks))
    told = "Held out: patches of sky that the solution did not see; what frames disagree by there is its error."
    stages = legend([(name, colour) for name, _, colour in STAGES])
    return el(
        "div",
        el("p", told, class_="soft"),
        el(
            "div",
            el("div", stages, first),
            el("div", band_legend(frames), charts[0]),
            charts[1:],
            class_="grid low",
        ),
        _bands(frames, result),
        _notes(frames, result),
        _pictures(session, result) if session is not None else None,
    )


def _bands(frames: Frames, result: xr.Dataset) -> Markup:
    """What is known of each band."""
    bands, used = frames.texts("band"), frames.of(result, "use") == 1
    columns = {v: frames.of(result, v) for _, v, _ in STAGES}
    scale = frames.of(result, "mean_scale")
    rows = []
    for band in frames.bands:
        here = used & (bands == band)
        if not here.any():
            continue
        middle = [
            number(float(np.nanmedian(v[here]))) if np.isfinite(v[here]).any() else "–" for v in columns.values()
        ]
        rows.append(
            [
                band,
                int(here.sum()),
                f"{np.nanmin(scale[here]):.3f} to {np.nanmax(scale[here]):.3f}",
                *middle,
                *_known(result, band),
            ]
        )
    head = (
        "band",
        "frames",
        "scales",
        "before",
        "after",
        "held out",
        "degree",
        "level ±",
        "planes ±",
        "quadratics ±",
    )
    return table(head, rows, numbers=range(1, len(head)))


def _known(result: xr.Dataset, band: str) -> list[str]:
    """Degree of a band's surfaces and errors of its long waves."""
    labels = result["band"].values.astype(str).tolist() if "band" in result else []
    if band not in labels or "mode_sigma" not in result:
        return ["–"] * 4
    here: Any = result.isel(band=labels.index(band))
    sigma = np.asarray(here["mode_sigma"].values, dtype=np.float64)
    parts = [sigma[:1], sigma[1:3], sigma[3:]]
    degree = int(here["degree"].values)
    return [str(degree) if degree >= 0 else "–", *(number(float(np.sqrt(np.sum(p**2))), 2) for p in parts)]


def _notes(frames: Frames, result: xr.Dataset) -> Markup | None:
    """Frames that have a note."""
    if "note" not in result or "frame" not in result:
        return None
    name = dict(zip(frames.ids, frames.texts("name").tolist(), strict=True))
    ids, notes = result["frame"].values.astype(str).tolist(), result["note"].values.astype(str).tolist()
    rows = [(name.get(i, i), note) for i, note in zip(ids, notes, strict=True) if note]
    if not rows:
        return None
    return el("details", el("summary", f"Notes on {len(rows)} frames"), table(("frame", "note"), rows))


def _pictures(session: xr.Dataset, result: xr.Dataset) -> list[Markup]:
    """Residuals on the canvas and corrections of the worst frames, as the run draws them."""
    from skyloom.workflows.normalization_drawing import draw_frames, draw_residuals
    from skyloom.workflows.normalization_maps import frame_maps, residual_maps, worst_frames

    result = result.load()
    maps = residual_maps(result)
    rows = worst_frames(result, session["band"].values.astype(str))
    drawn = [
        ("Disagreement of overlapping frames on the canvas", draw_residuals(maps) if maps else None),
        (
            "Corrections of the frames that agree least",
            draw_frames([frame_maps(session, result, i) for i in rows]) if rows else None,
        ),
    ]
    return [
        el("div", el("img", src=image_uri(p), alt=name, width=p.width, height=p.height), class_="wide paper")
        for name, p in drawn
        if p is not None
    ]
