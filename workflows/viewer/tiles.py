"""Tiles of a page: layers by name, their pixels at any factor, PNGs of them; kept within a budget of memory."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid
from skyloom.workflows.store import Store
from skyloom.workflows.viewer.contents import Contents, Result
from skyloom.workflows.viewer.frames import FRAME, FrameLayer, FrameTable, frame_table
from skyloom.workflows.viewer.kept import Kept
from skyloom.workflows.viewer.layer import (
    Layer,
    Placement,
    StoredLayer,
    cell_size,
    place_on,
    stored_layer,
)
from skyloom.workflows.viewer.levels import OVERLAP, TILE, Levels, last_factor
from skyloom.workflows.viewer.look import Look, Tones, picture, png, tones_of

Pixels = NDArray[np.float32]
TILES_BYTES = 24 * 2**20
SAMPLES_BYTES = 24 * 2**20
SAMPLE = 2**18
"""Pixels of a plane that tones are measured on, at most."""
_LOOK = 3.0
"""Seconds for which a look at the registration holds."""
_GROWN = 1.25
"""Times as many pixels of a result that is being made: then its tones are measured anew."""


@dataclass(frozen=True)
class Geometry:
    """How a layer is cut into tiles."""

    shape: tuple[int, int]
    last: int
    """Factor of the smallest view."""

    @property
    def padded(self) -> tuple[int, int]:
        """Rows, columns, filled up to whole pixels of the smallest view, so that all views lie on each other."""
        height, width = (-(-n // self.last) * self.last for n in self.shape)
        return height, width

    def window(self, factor: int, column: int, row: int) -> tuple[slice, slice]:
        """Rows and columns of a view that a tile shows; tiles count from the top, rows from the bottom.

        Raises
        ------
        ConfigError
            If there is no such tile.
        """
        good = 1 <= factor <= self.last and factor & (factor - 1) == 0
        height, width = (n // factor for n in self.padded) if good else (0, 0)
        if not (0 <= column * TILE < width and 0 <= row * TILE < height):
            raise ConfigError(f"there is no tile {column}, {row} at 1/{factor}")
        top, bottom = (height - r for r in _with_overlap(row, height))
        return slice(bottom, top), slice(*_with_overlap(column, width))


def _with_overlap(number: int, length: int) -> tuple[int, int]:
    """First and last pixel (and one) of a tile and of what it has of its neighbours."""
    first = number * TILE
    return first - (OVERLAP if number else 0), min(first + TILE + OVERLAP, length)


class Tiles:
    """What the page shows of a project."""

    def __init__(self, store: Store) -> None:
        self.contents = Contents(store)
        self.levels = Levels()
        self._frames = FrameTable("", {}, None)
        self._frames_key: str | None = None
        self._frames_looked = -_LOOK
        self._lock = threading.Lock()
        self._pixels: Kept[Pixels] = Kept(TILES_BYTES, lambda a: a.nbytes)
        self._samples: Kept[Pixels] = Kept(SAMPLES_BYTES, lambda a: a.nbytes)
        self._grown: dict[str, tuple[int, str]] = {}
        self._tones: Kept[Tones] = Kept(2**20, lambda t: 1024)
        # More at a time would only take more memory.
        self.busy = threading.BoundedSemaphore(max(2, min(4, os.cpu_count() or 2)))

    # --- layers ---

    @property
    def frames(self) -> FrameTable:
        """Frames of the newest registration."""
        if time.monotonic() - self._frames_looked < _LOOK:
            return self._frames
        store = self.contents.store
        newest = [store.newest(n) or "" for n in store.nodes() if store.op(n) == "register"]
        key = newest[-1] if newest else ""
        with self._lock:
            if key != self._frames_key:
                self._frames, self._frames_key = frame_table(store), key
            self._frames_looked = time.monotonic()
        return self._frames

    def layer(self, name: str) -> Layer:
        """Layer of an id: node/variable/plane, node/variable/rgb, @/frame.

        Raises
        ------
        ConfigError
            If there is none.
        """
        parts = name.split("/")
        if len(parts) == 2 and parts[0] == FRAME:
            table = self.frames
            if parts[1] not in table.frames or table.grid is None:
                raise ConfigError(f"no frame {parts[1]!r} has a place on the canvas")
            return FrameLayer(table.frames[parts[1]], table.grid, name, table.key)
        if len(parts) != 3:
            raise ConfigError(f"{name!r} is no layer: node/variable/plane")
        result = self.contents.result(parts[0])
        return stored_layer(result, parts[1], parts[2], revision=self.contents.revision(result))

    def grid(self, layer: Layer) -> Grid | None:
        """Canvas of a layer."""
        if isinstance(layer, FrameLayer):
            return layer.grid
        assert isinstance(layer, StoredLayer)
        return layer.result.grid

    def placement(self, layer: Layer, canvas: Grid | None) -> Placement:
        """Where a layer's pixels lie on a canvas."""
        grid = self.grid(layer)
        if grid is None:
            return Placement(0.0, 0.0, 1.0)
        place = place_on(grid, canvas)
        cell = cell_size(layer.variable, grid) if isinstance(layer, StoredLayer) else 1.0
        return Placement(place.left, place.bottom, place.scale * cell)

    def revision(self, layer: Layer) -> str:
        """Text that changes when a tile of the layer may look otherwise."""
        return f"{layer.revision}.{self.levels.stage(layer)}.{self._sample_key(layer)}"

    @staticmethod
    def geometry(layer: Layer) -> Geometry:
        """How a layer is cut."""
        return Geometry(layer.shape, last_factor(layer.shape))

    # --- pixels ---

    def pixels(self, layer: Layer, factor: int, column: int, row: int) -> Pixels:
        """Pixels of a tile, shape (planes, rows, columns), the first row at the bottom; NaN = no data."""
        geometry = self.geometry(layer)
        window = geometry.window(factor, column, row)
        key = (layer.name, layer.revision, self.levels.stamp(layer, factor), factor, column, row)
        return self._pixels.get(key, lambda: self._read(layer, factor, *window))

    def _read(self, layer: Layer, factor: int, rows: slice, columns: slice) -> Pixels:
        shape = rows.stop - rows.start, columns.stop - columns.start
        inside = [
            slice(min(s.start * factor, n), min(s.stop * factor, n))
            for s, n in zip((rows, columns), layer.shape, strict=True)
        ]
        out = np.full((layer.count, *shape), np.nan, np.float32)
        if all(s.stop > s.start for s in inside):
            view = self.levels.view(layer, inside[0], inside[1], factor)
            out[:, : view.shape[1], : view.shape[2]] = view
        return out

    def _sample_key(self, layer: Layer) -> str:
        """Which sample tones are measured on: that of a result being made is kept until much more is there."""
        if not isinstance(layer, StoredLayer) or layer.result.complete:
            return ""
        known = self._grown.get(layer.name)
        if known is not None and known[1].partition(" ")[2] == layer.revision:
            return known[1].partition(" ")[0]
        sample = self._draw(layer)
        count = int(np.isfinite(sample).all(axis=0).sum())
        if known is None or count > _GROWN * known[0]:
            made = str(count)
            self._samples.get((layer.name, layer.result.key, made), lambda: sample)
            self._grown[layer.name] = (count, f"{made} {layer.revision}")
            return made
        made = known[1].partition(" ")[0]
        self._grown[layer.name] = (known[0], f"{made} {layer.revision}")
        return made

    def _draw(self, layer: Layer) -> Pixels:
        sample = self.levels.sample(layer)
        step = -(-sample.shape[1] // SAMPLE)
        return np.ascontiguousarray(sample[:, ::step])

    def tones(self, layer: Layer, look: Look) -> Tones:
        """Tones of a layer, the same for all of its tiles."""
        key: tuple[Any, ...]
        if isinstance(layer, StoredLayer):
            key = (layer.name, layer.result.key, self._sample_key(layer))
        else:
            key = (layer.name, layer.revision, "")
        return self._tones.get(
            (*key, look), lambda: tones_of(self._samples.get(key, lambda: self._draw(layer)), look)
        )

    def png(
        self, layer: Layer, factor: int, column: int, row: int, look: Look, *, like: Layer | None = None
    ) -> bytes:
        """Tile as a PNG.

        Parameters
        ----------
        layer
            Whose pixels.
        factor, column, row
            Which tile, counted from the top left.
        look
            How it is shown.
        like
            Layer whose tones are taken instead of its own.
        """
        pixels = self.pixels(layer, factor, column, row)
        tones = self.tones(like or layer, look)
        if len(tones.black) != layer.count:
            first = [np.full(layer.count, float(v.mean())) for v in vars(tones).values()]
            tones = Tones(*first)
        return png(picture(pixels, look, tones))

    # --- neighbours ---

    def made_of(self, result: Result, ops: tuple[str, ...]) -> Result | None:
        """Result of one of some ops that a result was made from (or is), else the newest there is."""
        known = [r for r in self.contents.results().values() if r.op in ops and r.grid is not None]
        if result in known:
            return result
        own = [r for r in known if result.made_from.get(r.node) == r.key]
        same = [r for r in known if r.complete]
        found = own or same
        return found[-1] if found else None
