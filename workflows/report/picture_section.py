"""The picture: as it was finished, and its linear data in a linked and an unlinked stretch."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.stretch import BACKGROUND, Stretch, autostretch, midtones_for
from skyloom.workflows.report.facts import Project
from skyloom.workflows.report.markup import Markup, el
from skyloom.workflows.report.pictures import BUDGET, picture, small_plane

SIDE = 1100
"""Longest side (pixels)."""
_MONO = 560
"""Of a band on its own."""
_BANDS = 6

Pixels = NDArray[np.float32]


def picture_section(project: Project) -> Markup | None:
    """The finished picture where there is one, and the last linear one stretched for the screen."""
    finished = _last(project, linear=False)
    linear = _last(project, linear=True)
    figures: list[Markup] = []
    if finished is not None:
        name, result, lead = finished
        planes = _planes(result, lead, SIDE)
        shown = _eight_bit(np.clip(planes, 0.0, 1.0))
        figures.append(picture(shown, f"{name}: the picture as it was finished"))
    if linear is not None:
        figures += _linear(*linear)
    return el("div", figures) if figures else None


def _last(project: Project, *, linear: bool) -> tuple[str, xr.Dataset, str] | None:
    """Last result with a canvas: its node, itself, its first dimension."""
    found = None
    for name, result in project.results.items():
        if "image" not in result or result["image"].dims[-2:] != ("y", "x") or result["image"].ndim != 3:
            continue
        lead = str(result["image"].dims[0])
        if lead in ("band", "channel") and bool(result.attrs.get("linear", True)) == linear:
            found = name, result, lead
    return found


def _linear(name: str, result: xr.Dataset, lead: str) -> list[Markup]:
    labels = result[lead].values.astype(str).tolist()
    colours = [labels.index(c) for c in ("R", "G", "B")] if {"R", "G", "B"} <= set(labels) else []
    if not colours:
        figures = []
        side = SIDE if len(labels) == 1 else _MONO
        for i, label in enumerate(labels[:_BANDS]):
            pixels = small_plane(result, "image", side=side, budget=BUDGET / len(labels), **{lead: i}).pixels
            figures.append(picture(_eight_bit(autostretch(pixels).apply(pixels)), f"{name}, {label}: autostretch"))
        return figures if len(figures) == 1 else [el("div", figures, class_="grid")]
    planes = _planes(result, lead, SIDE, take=colours)
    one = linked_stretch(planes)
    linked = _eight_bit(one.apply(planes))
    unlinked = _eight_bit(np.stack([autostretch(p).apply(p) for p in planes]))
    return [
        el(
            "div",
            picture(
                linked,
                f"{name}, linear: linked stretch (one for all channels: colours as they are); black: no data",
            ),
            picture(
                unlinked, f"{name}, linear: unlinked stretch (one a channel: the sky made grey); black: no data"
            ),
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


def _planes(result: xr.Dataset, lead: str, side: int, *, take: list[int] | None = None) -> Pixels:
    number = result.sizes[lead]
    rows = take if take is not None else list(range(min(number, 3)) if number >= 3 else range(1))
    budget = BUDGET / len(rows)
    return np.stack([small_plane(result, "image", side=side, budget=budget, **{lead: i}).pixels for i in rows])


def _eight_bit(shades: Pixels) -> NDArray[np.uint8]:
    """Shades 0…1 as bytes, the top row first; black where any channel has no data."""
    shown = np.rint(255.0 * np.nan_to_num(shades)).astype(np.uint8)
    if shades.ndim == 3:
        shown[:, np.isnan(shades).any(axis=0)] = 0
        shown = np.moveaxis(shown, 0, -1) if len(shown) > 1 else shown[0]
    return np.ascontiguousarray(shown[::-1])
