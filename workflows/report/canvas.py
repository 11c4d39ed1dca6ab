"""Planes of a project's canvases, shrunk; of canvases too large to be read from what other nodes made of them."""

from __future__ import annotations

import math
from dataclasses import replace

import xarray as xr

from skyloom.workflows.pyramid import open_levels
from skyloom.workflows.report.facts import Project
from skyloom.workflows.report.pictures import Small, small_plane

_LEAST = 0.25
"""A smaller view is taken if it has this part of the pixels a side that are wanted."""


def shown_plane(project: Project, node: str, variable: str, *, index: int, side: int, budget: float) -> Small:
    """Plane of a node's result, shrunk to about `side` pixels.

    Parameters
    ----------
    project, node
        Whose result.
    variable
        Over (band or channel, y, x).
    index
        Along the first dimension.
    side
        Longest side of the result (pixels).
    budget
        Pixels to read. Of a larger image its pyramid is read; without one the medians of its cells (`survey`,
        `coverage`), else blocks with gaps between.
    """
    result = project.results[node]
    lead = str(result[variable].dims[0])
    if math.prod(result[variable].shape[-2:]) > budget and not (variable == "image" and has_levels(result)):
        op, name = ("survey", "median") if variable == "image" else ("coverage", variable)
        source = _made_of(project, node, op)
        cells = project.results[source] if source else None
        if cells is not None and name in cells and max(cells[name].shape[-2:]) >= _LEAST * side:
            small = small_plane(cells, name, side=side, budget=budget, **{lead: index})
            return replace(small, how=f"medians of cells, from node {source}")
    return small_plane(result, variable, side=side, budget=budget, **{lead: index})


def _made_of(project: Project, node: str, op: str) -> str | None:
    """Node of an op that worked on the image of another."""
    return next(
        (n for n in project.results if project.op(n) == op and project.meta(n)["inputs"].get("image") == node),
        None,
    )


def has_levels(result: xr.Dataset) -> bool:
    """Whether a result has a pyramid."""
    try:
        return len(open_levels(result)) > 1
    except Exception:  # it is only slower without
        return False
