"""What the page asks for, by path: each answer is made from the query alone and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid
from skyloom.workflows.report.frames import band_rank
from skyloom.workflows.viewer.contents import NEW, Result, Variable
from skyloom.workflows.viewer.frames import FRAME, FrameLayer
from skyloom.workflows.viewer.layer import RGB, StoredLayer, cell_size, has_colours
from skyloom.workflows.viewer.look import Look
from skyloom.workflows.viewer.overlay import panel_outlines, sky_lines
from skyloom.workflows.viewer.probe import TRACED, frames_of, value_at
from skyloom.workflows.viewer.tiles import Tiles

Query = Mapping[str, str]
HEAVY = ("/api/tones", "/api/frames")
"""Answers that take as much as a tile."""
_MOST = 4
"""Layers asked after at a time."""


class Api:
    """Answers of a project."""

    def __init__(self, tiles: Tiles, *, first: str | None = None) -> None:
        self.tiles = tiles
        self.first = first
        self.answers: Mapping[str, Callable[[Query], Any]] = {
            "/api/project": self.project,
            "/api/layer": self.layer,
            "/api/state": self.state,
            "/api/tones": self.tones,
            "/api/value": self.value,
            "/api/frames": self.frames,
            "/api/grid": self.grid,
            "/api/outlines": self.outlines,
        }
        self._canvas: Grid | None = None

    @property
    def canvas(self) -> Grid | None:
        """Canvas on which all layers are laid: that of what was shown first."""
        if self._canvas is None:
            result = self._default()
            self._canvas = result.grid if result is not None else None
        return self._canvas

    def _default(self) -> Result | None:
        results = self.tiles.contents.results()
        return results.get(self.first or "") or self.tiles.contents.default()

    def first_layer(self) -> str | None:
        """Id of the layer shown first."""
        default = self._default()
        return default_layer(default) if default is not None else None

    def project(self, query: Query) -> dict[str, Any]:
        """What there is to show."""
        results = list(self.tiles.contents.results().values())
        grid = self.canvas
        frames = [
            {"layer": f"{FRAME}/{f.id}", "name": f.name, "band": f.band, "used": f.used}
            for f in self.tiles.frames.frames.values()
        ]
        return {
            "name": self.tiles.contents.store.project.name,
            "results": [_result(r) for r in results],
            "frames": frames,
            "first": self.first_layer(),
            "canvas": None if grid is None else {"width": grid.shape[1], "height": grid.shape[0]},
        }

    def layer(self, query: Query) -> dict[str, Any]:
        """Where a layer lies and how it is cut."""
        layer = self.tiles.layer(_text(query, "layer"))
        geometry, place = self.tiles.geometry(layer), self.tiles.placement(layer, self.canvas)
        grid = self.tiles.grid(layer)
        stored = layer if isinstance(layer, StoredLayer) else None
        return {
            "layer": layer.name,
            "title": layer.frame.name if isinstance(layer, FrameLayer) else f"{_shown(layer.name)}",
            "width": layer.shape[1],
            "height": layer.shape[0],
            "padded": {"width": geometry.padded[1], "height": geometry.padded[0]},
            "last": geometry.last,
            "place": {"left": place.left, "bottom": place.bottom, "scale": place.scale},
            "sky": grid is not None and grid.on_sky,
            "linear": layer.linear,
            "map": stored is not None and stored.is_map,
            "planes": layer.count,
            "units": stored.variable.units if stored is not None else "",
            "pixel_scale": grid.pixel_scale if grid is not None and grid.on_sky else None,
            "revision": self.tiles.revision(layer),
        }

    def state(self, query: Query) -> dict[str, Any]:
        """What has changed since: of some layers, and of the list of results."""
        found: dict[str, Any] = {}
        for name in [n for n in query.get("layers", "").split(",") if n][:_MOST]:
            try:
                layer = self.tiles.layer(name)
            except ConfigError:
                found[name] = None
                continue
            found[name] = {
                "revision": self.tiles.revision(layer),
                "refined": self.tiles.levels.progress(layer),
                "enlarged": self.tiles.levels.between(layer),
                "complete": not isinstance(layer, StoredLayer) or layer.result.complete,
            }
        results = self.tiles.contents.results().values()
        return {"layers": found, "results": [f"{r.id} {r.key} {r.complete} {len(r.levels)}" for r in results]}

    def tones(self, query: Query) -> dict[str, Any]:
        """Black and white of a layer in a look."""
        layer = self.tiles.layer(_text(query, "like") if query.get("like") else _text(query, "layer"))
        tones = self.tiles.tones(layer, Look.of(query))
        return {n: [float(x) for x in v] for n, v in vars(tones).items()}

    def value(self, query: Query) -> dict[str, Any]:
        """Values under the pointer."""
        return value_at(
            self.tiles, self.tiles.layer(_text(query, "layer")), _whole(query, "x"), _whole(query, "y")
        )

    def frames(self, query: Query) -> dict[str, Any]:
        """Frames of a pixel."""
        return frames_of(
            self.tiles, self.tiles.layer(_text(query, "layer")), _whole(query, "x"), _whole(query, "y")
        )

    def grid(self, query: Query) -> dict[str, Any]:
        """Lines of right ascension and declination across a window of the canvas all lie on."""
        if self.canvas is None:
            return {"lines": []}
        edges = {n: _number(query, n) for n in ("left", "right", "bottom", "top")}
        return {"lines": sky_lines(self.canvas, **edges)}

    def outlines(self, query: Query) -> dict[str, Any]:
        """Outlines of the frames, and of the panels of those in use, on the canvas all lie on."""
        canvas = self.canvas
        if canvas is None:
            return {"frames": [], "panels": []}
        found, used = [], []
        for frame in self.tiles.frames.frames.values():
            outline = frame.outline(canvas)
            # NaN is no JSON.
            if np.isfinite(outline).all():
                found.append(
                    {"layer": f"{FRAME}/{frame.id}", "name": frame.name, "band": frame.band, "used": frame.used,
                     "points": outline.round(2).tolist()}
                )  # fmt: skip
                if frame.used:
                    used.append(outline)
        return {"frames": found, "panels": panel_outlines(used)}


def default_layer(result: Result) -> str:
    """Layer of a result that is shown first: its picture in colour, else its first band."""
    name = "image" if "image" in result.variables else next(iter(result.variables))
    variable = result.variables[name]
    if has_colours(variable.labels) and variable.lead == "channel":
        return f"{result.id}/{name}/{RGB}"
    return f"{result.id}/{name}/{_order(variable)[0]}"


def _order(variable: Variable) -> list[int]:
    """Planes in the field's order of bands."""
    if variable.lead not in ("band", "channel"):
        return list(range(len(variable.labels)))
    return sorted(range(len(variable.labels)), key=lambda i: band_rank(variable.labels[i]))


def _result(result: Result) -> dict[str, Any]:
    return {
        "id": result.id,
        "title": f"{result.node} (being made anew)" if result.id.endswith(NEW) else result.node,
        "op": result.op,
        "complete": result.complete,
        "canvas": result.grid is not None,
        "traced": result.op in TRACED,
        "first": default_layer(result),
        "variables": [_variable(result, v) for v in result.variables.values()],
    }


def _variable(result: Result, variable: Variable) -> dict[str, Any]:
    cell = cell_size(variable, result.grid) if result.grid is not None else 1.0
    return {
        "name": variable.name,
        "lead": variable.lead,
        "planes": [{"plane": str(i), "label": variable.labels[i]} for i in _order(variable)],
        "rgb": has_colours(variable.labels),
        "width": variable.shape[1],
        "height": variable.shape[0],
        "cell": cell,
        "units": variable.units,
        "pyramid": variable.name == "image" and bool(result.levels),
    }


def _shown(name: str) -> str:
    node, variable, _ = name.split("/")
    return node if variable == "image" else f"{node} · {variable}"


def _text(query: Query, name: str) -> str:
    if not query.get(name):
        raise ConfigError(f"{name} is missing")
    return query[name]


def _whole(query: Query, name: str) -> int:
    try:
        return int(_text(query, name))
    except ValueError:
        raise ConfigError(f"{name} = {query[name]!r} is no whole number") from None


def _number(query: Query, name: str) -> float:
    try:
        value = float(_text(query, name))
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e7:
        raise ConfigError(f"{name} = {query[name]!r} is no place on a canvas")
    return value
