"""How well frames lie on each other."""

from __future__ import annotations

import numpy as np

from skyloom.workflows.machine import count
from skyloom.workflows.report.charts import scatter
from skyloom.workflows.report.facts import Project
from skyloom.workflows.report.frames_section import band_legend, by_band, titles_of
from skyloom.workflows.report.markup import Markup, el, number, table

_WORST = 8


def registration_section(project: Project) -> Markup | None:
    """Charts of residuals, matches, ties and shifts, and the frames that fit worst."""
    result, frames = project.result("register"), project.frames
    if result is None or not len(frames):
        return None
    location = project.result("locate")
    hours, breaks, label = frames.hours()
    # What was left out before has zeros, not measurements.
    used = (frames.of(result, "use") == 1) | np.isfinite(frames.of(result, "residual"))
    columns = {
        "residual": ("px", frames.of(result, "residual")),
        "stars matched": ("", np.where(used, frames.of(result, "matches"), np.nan)),
        "place known to": ("px", frames.of(location, "tie")),
    }
    charts = [
        scatter(
            name,
            by_band(frames, hours, values, titles_of(frames, name, values, unit)),
            x_label=label,
            unit=unit,
            breaks=breaks,
            zero=name == "residual",
        )
        for name, (unit, values) in columns.items()
    ]
    dx, dy = (np.where(used, frames.of(result, "shift", axis=a), np.nan) for a in ("x", "y"))
    shifts = [
        f"{name}: {number(x)}, {number(y)} px" for name, x, y in zip(frames.texts("name"), dx, dy, strict=True)
    ]
    if np.abs(np.nan_to_num(np.stack([dx, dy]))).max(initial=0.0) > 1e-6:
        charts.append(
            scatter(
                "shift against the WCS, y",
                by_band(frames, dx, dy, shifts),
                x_label="x (px)",
                unit="px",
                square=True,
            )
        )
    residual, names = columns["residual"][1], frames.texts("name")
    known = np.flatnonzero(np.isfinite(residual))
    worst = known[np.argsort(-residual[known], kind="stable")][:_WORST]
    matches = columns["stars matched"][1]
    rows = [(names[i], number(residual[i]), f"{matches[i]:.0f}") for i in worst.tolist()]
    islands = len({i for i in result["island"].values.tolist() if i >= 0}) if "island" in result else 1
    lines = [f"{count(islands, 'island')} of frames that overlap"] if islands > 1 else []
    if known.size:
        lines.insert(
            0,
            f"{known.size} frames verified by stars: residual {number(float(np.median(residual[known])))} px in "
            f"the median, {number(float(residual[known].max()))} px at worst",
        )
    return el(
        "div",
        [el("p", line) for line in lines],
        band_legend(frames),
        el("div", charts, class_="grid"),
        el(
            "details",
            el("summary", "Frames that fit worst"),
            table(("frame", "residual (px)", "stars"), rows, numbers=(1, 2)),
        )
        if rows
        else None,
    )
