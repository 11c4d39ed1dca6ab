"""The picture: as it was finished, and its linear data in a linked and an unlinked stretch."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.stretch import BACKGROUND, Stretch, autostretch, midtones_for
from skyloom.workflows.report.canvas import shown_plane
from skyloom.workflows.report.facts import Project
from skyloom.workflows.report.markup import Markup, el
from skyloom.workflows.report.pictures import BUDGET, picture

SIDE = 1100
"""Longest side (pixels)."""
_MONO = 560
"""Of a band on its own."""
_BANDS = 6

Pixels = NDArray[np.float32]


def picture_section(project: Project) -> Markup | None:
    """The finished picture where there is one, and the last linear one stretched for the screen."""
    finished, linear = _last(project, linear=False), _last(project, linear=True)
    figures: list[Markup] = []
    if finished is not None:
        shown = _eight_bit(np.clip(_planes(project, finished, SIDE, _colours(project, finished)), 0.0, 1.0))
        figures.append(picture(shown, f"{finished}: the picture as it was finished"))
    if linear is not None:
        figures += _linear(project, linear)
    return el("div", figures) if figures else None


def _last(project: Project, *, linear: bool) -> str | None:
    """Last node with a canvas."""
    found = None
    for name, result in project.results.items():
        if "image" not in result or result["image"].dims[-2:] != ("y", "x") or result["image"].ndim != 3:
            continue
        if _lead(result) in ("band", "channel") and bool(result.attrs.get("linear", True)) == linear:
            found = name
    return found


def _lead(result: xr.Dataset) -> str:
    return str(result["image"].dims[0])


def _colours(project: Project, node: str) -> list[int]:
    """Planes shown together: red, green and blue where they are all there, else the first."""
    result = project.results[node]
    labels = result[_lead(result)].values.astype(str).tolist()
    return [labels.index(c) for c in ("R", "G", "B")] if {"R", "G", "B"} <= set(labels) else [0]


def _linear(project: Project, node: str) -> list[Markup]:
    result, colours = project.results[node], _colours(project, node)
    labels = result[_lead(result)].values.astype(str).tolist()
    if len(colours) == 1:
        figures = []
        side = SIDE if len(labels) == 1 else _MONO
        for i, label in enumerate(labels[:_BANDS]):
            pixels = _planes(project, node, side, [i], share=min(len(labels), _BANDS))
            figures.append(picture(_eight_bit(autostretch(pixels).apply(pixels)), f"{node}, {label}: autostretch"))
        return figures if len(figures) == 1 else [el("div", figures, class_="pair")]
    planes = _planes(project, node, SIDE, colours)
    linked = _eight_bit(linked_stretch(planes).apply(planes))
    unlinked = _eight_bit(np.stack([autostretch(p).apply(p) for p in planes]))
    told = "one for all channels: colours as they are", "one a channel: the sky made grey"
    return [
        el(
            "div",
            picture(linked, f"{node}, linear: linked stretch ({told[0]}); black: no data"),
            picture(unlinked, f"{node}, linear: unlinked stretch ({told[1]}); black: no data"),
            class_="pair",
        )
    ]


def linked_stretch(planes: Pixels) -> Stretch:
    """One screen transfer function for all channels: shadows and midtones from the means over the channels.

    Parameters
    ----------
    planes
        Shape (channels, rows, columns), NaN = no data.

    Notes
    -----
    As PixInsight's STF with linked channels: clipping points and medians are averaged over the channels.
    """
    each = [autostretch(p) for p in planes]
    middles = [float(np.nanmedian(p)) if np.isfinite(p).any() else 0.0 for p in planes]
    low = float(np.mean([s.shadows for s in each]))
    high = max(s.highlights for s in each)
    if not high > low:
        return Stretch(low, low + 1.0, 0.5)
    return Stretch(low, high, midtones_for((float(np.mean(middles)) - low) / (high - low), BACKGROUND))


def _planes(project: Project, node: str, side: int, planes: list[int], *, share: int = 0) -> Pixels:
    """Planes of an image, shrunk; one of `share` parts of the budget for each."""
    budget = 0.5 * BUDGET / (share or len(planes))
    return np.stack(
        [shown_plane(project, node, "image", index=i, side=side, budget=budget).pixels for i in planes]
    )


def _eight_bit(shades: Pixels) -> NDArray[np.uint8]:
    """Shades 0…1 as bytes, the top row first; black where any channel has no data."""
    shown = np.rint(255.0 * np.nan_to_num(shades)).astype(np.uint8)
    if shades.ndim == 3:
        shown[:, np.isnan(shades).any(axis=0)] = 0
        shown = np.moveaxis(shown, 0, -1) if len(shown) > 1 else shown[0]
    return np.ascontiguousarray(shown[::-1])
