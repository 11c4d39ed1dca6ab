"""What is under the pointer: exact values of the store, and which frames made a pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid, pixel_to_sky
from skyloom.workflows.viewer.contents import Result
from skyloom.workflows.viewer.frames import FrameLayer
from skyloom.workflows.viewer.layer import Layer, StoredLayer, place_on
from skyloom.workflows.viewer.overlay import dec_text, ra_text
from skyloom.workflows.viewer.tiles import Tiles

TRACED = ("integrate", "drizzle")
COUNTS = ("count", "rejected_low", "rejected_high")
_ARCSEC = 1.0 / 3600.0


def value_at(tiles: Tiles, layer: Layer, x: int, y: int) -> dict[str, Any]:
    """Values of a pixel.

    Parameters
    ----------
    tiles
        Of the project.
    layer
        What is shown.
    x, y
        Column and row of the layer, from 0.

    Returns
    -------
    dict
        `x`, `y`, `inside`; `ra`, `dec` (degrees) and `sky` (text) where the canvas is on the sky; `labels` of the
        planes; `values`: variable → a number a plane, exactly as stored (NaN is None), that shown first; `counts`
        of the pixel of the frames' mosaic (`node`, `x`, `y`, `values`) where the result has none of its own.
    """
    inside = 0 <= x < layer.shape[1] and 0 <= y < layer.shape[0]
    answer: dict[str, Any] = {"x": x, "y": y, "inside": inside}
    grid = tiles.grid(layer)
    place = tiles.placement(layer, grid)
    column, row = ((v + 0.5) * place.scale - 0.5 for v in (x, y))
    answer |= _sky(grid, column, row)
    if not inside:
        return answer
    if isinstance(layer, FrameLayer):
        u, v, value = layer.value(x, y)
        frame = {"name": layer.frame.name, "x": _plain(u), "y": _plain(v)}
        return {**answer, "labels": [layer.frame.band], "values": {"frame": [_plain(value)]}, "frame": frame}
    assert isinstance(layer, StoredLayer)
    result, shown = layer.result, layer.variable
    names = [shown.name, *(n for n in result.variables if n != shown.name)]
    values = {}
    for name in names:
        variable = result.variables[name]
        if variable.shape != shown.shape or variable.labels not in (shown.labels, ("",)):
            continue
        planes = layer.planes if variable.labels == shown.labels else (0,)
        at = slice(y, y + 1), slice(x, x + 1)
        values[name] = [_plain(variable.plane(p).values(*at)[0, 0].item()) for p in planes]
    answer |= {"labels": [shown.labels[p] for p in layer.planes], "values": values}
    if "count" not in values:
        made = tiles.made_of(result, TRACED)
        if made is not None:
            answer["counts"] = _counts(made, result, grid, column, row, answer["labels"])
    return answer


def _counts(
    made: Result, result: Result, grid: Grid | None, column: float, row: float, labels: list[str]
) -> dict[str, Any] | None:
    """Counts of the mosaic at a position of another canvas."""
    if grid is None or made.grid is None:
        return None
    x, y = on_canvas(grid, made.grid, column, row)
    if not (0 <= x < made.grid.shape[1] and 0 <= y < made.grid.shape[0]):
        return None
    at = slice(y, y + 1), slice(x, x + 1)
    values = {}
    for name in COUNTS:
        variable = made.variables.get(name)
        if variable is None:
            continue
        planes = [variable.labels.index(b) for b in labels if b in variable.labels] or range(len(variable.labels))
        values[name] = [_plain(variable.plane(p).values(*at)[0, 0].item()) for p in planes]
        bands = [variable.labels[p] for p in planes]
    return {"node": made.id, "x": x, "y": y, "labels": bands, "values": values} if values else None


def on_canvas(grid: Grid, other: Grid, column: float, row: float) -> tuple[int, int]:
    """Column and row of another canvas' pixel at a position."""
    place = place_on(grid, other)
    x, y = (
        v * place.scale + p for v, p in zip((column + 0.5, row + 0.5), (place.left, place.bottom), strict=True)
    )
    return math.floor(x), math.floor(y)


def frames_of(tiles: Tiles, layer: Layer, x: int, y: int) -> dict[str, Any]:
    """Which frames made a pixel and with what weight, as `skyloom pixel` tells it.

    Raises
    ------
    ConfigError
        If it is not on the canvas of a mosaic of frames.
    DataError
        If what the mosaic was made from is no longer there.
    """
    from skyloom.workflows.pixel import pixel_answer

    grid = tiles.grid(layer)
    if grid is None:
        raise ConfigError("this has no place on the canvas: it is not made of registered frames")
    result = layer.result if isinstance(layer, StoredLayer) else None
    known = list(tiles.contents.results().values())
    made = tiles.made_of(result, TRACED) if result is not None else None
    if made is None:
        made = next((r for r in reversed(known) if r.op in TRACED and r.complete), None)
    if made is None or made.grid is None:
        raise ConfigError("no mosaic of frames is finished yet: ask again when integrate has run")
    if not made.complete:
        raise ConfigError(f"node {made.node} is still being made: ask again when it has run")
    scale = tiles.placement(layer, grid).scale
    column, row = ((v + 0.5) * scale - 0.5 for v in (x, y))
    bands = made.variables["image"].labels
    band = None
    if isinstance(layer, StoredLayer) and len(layer.planes) == 1:
        label = layer.variable.labels[layer.planes[0]]
        band = label if label in bands else None
    elif isinstance(layer, FrameLayer):
        band = layer.frame.band if layer.frame.band in bands else None
    place = on_canvas(grid, made.grid, column, row)
    return pixel_answer(tiles.contents.store.project, place=place, node=made.node, band=band)


def _sky(grid: Grid | None, column: float, row: float) -> dict[str, Any]:
    if grid is None or not grid.on_sky:
        return {}
    ra, dec = (float(v[0]) for v in pixel_to_sky(grid.wcs, np.array([column]), np.array([row])))
    if not (math.isfinite(ra) and math.isfinite(dec)):
        return {}
    fine = min(grid.pixel_scale * _ARCSEC / 2.0, _ARCSEC)
    return {"ra": ra, "dec": dec, "sky": f"{ra_text(ra, fine)} {dec_text(dec, fine)}"}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
