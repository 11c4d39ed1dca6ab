"""Frames as layers: each read from its source by window and laid on the canvas, without being resampled well."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.footprints import footprint
from skyloom.ops.frames import FrameSource, open_source
from skyloom.ops.grid import Grid, pixel_to_sky
from skyloom.ops.integration.coordinates import central_jacobian, frame_positions
from skyloom.ops.pyramid import quick_block_mean
from skyloom.workflows.store import Store
from skyloom.workflows.viewer.kept import Kept

Pixels = NDArray[np.float32]
FRAME = "@"
"""In place of a node in the id of a layer that is a frame."""
_NODES = 32
"""Pixels of a view between exact positions."""
_ROWS = 512
_KEPT: Kept[Pixels] = Kept(48 * 2**20, lambda a: a.nbytes)


@dataclass(frozen=True)
class Frame:
    """A frame that has a place on the canvas."""

    id: str
    """Content id."""
    name: str
    band: str
    used: bool
    source: str
    wcs: str
    shape: tuple[int, int]
    shift: tuple[float, float]
    """Frame pixels, x and y, added to what the WCS says."""

    def outline(self, grid: Grid) -> NDArray[np.float64]:
        """Corners and edges on a canvas, shape (points, 2); NaN where it has no place there."""
        return footprint(self.wcs, self.shape, grid)


@dataclass(frozen=True)
class FrameTable:
    """The frames of a project, and the canvas they were registered on."""

    key: str
    frames: dict[str, Frame]
    grid: Grid | None


def frame_table(store: Store) -> FrameTable:
    """Frames of the newest registration; none where nothing is registered yet."""
    nodes = [(n, store.newest(n)) for n in store.nodes() if store.op(n) == "register"]
    found = [(n, k) for n, k in nodes if k is not None]
    if not found:
        return FrameTable("", {}, None)
    node, key = found[-1]
    meta = store.meta(node, key) or {}
    registration = store.open(node, key)
    producer = str(meta.get("inputs", {}).get("session", ""))
    if store.newest(producer) is None:
        return FrameTable("", {}, None)
    session = store.open(producer)
    places = {f: i for i, f in enumerate(registration["frame"].values.astype(str).tolist())}
    use, shifts = registration["use"].values.astype(bool), registration["shift"].values
    columns = [session[v].values.tolist() for v in ("frame", "name", "band", "source", "wcs", "height", "width")]
    frames = {}
    for frame, name, band, source, wcs, height, width in zip(*columns, strict=True):
        place = places.get(str(frame))
        if place is None or not wcs:
            continue
        shift = (float(shifts[place, 0]), float(shifts[place, 1]))
        frames[str(frame)] = Frame(
            str(frame), str(name), str(band), bool(use[place]), str(source), str(wcs), (int(height), int(width)),
            shift if all(map(math.isfinite, shift)) else (0.0, 0.0),
        )  # fmt: skip
    return FrameTable(key, frames, Grid.from_attrs(registration.attrs))


@dataclass(frozen=True)
class FrameLayer:
    """A frame on a canvas: the nearest of its pixels, or of their means over blocks where the view is smaller."""

    frame: Frame
    grid: Grid
    name: str
    revision: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns of the canvas."""
        return self.grid.shape

    @property
    def count(self) -> int:
        """One plane."""
        return 1

    @property
    def linear(self) -> bool:
        """True: frames are."""
        return True

    @cached_property
    def scale(self) -> float:
        """Frame pixels a canvas pixel."""
        return math.sqrt(central_jacobian(self.grid.header, self.frame.wcs, self.frame.shape))

    @cached_property
    def _source(self) -> FrameSource:
        return open_source(self.frame.source)

    def positions(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Frame pixels of canvas pixels."""
        u, v = frame_positions(self.frame.wcs, *pixel_to_sky(self.grid.wcs, x, y))
        return u + self.frame.shift[0], v + self.frame.shift[1]

    def value(self, x: int, y: int) -> tuple[float, float, float]:
        """Frame pixel x, y of a canvas pixel's centre, and the value of the nearest pixel there."""
        u, v = (float(p[0]) for p in self.positions(np.array([float(x)]), np.array([float(y)])))
        if not (math.isfinite(u) and math.isfinite(v)):
            return math.nan, math.nan, math.nan
        i, j = math.floor(u + 0.5), math.floor(v + 0.5)
        if not (0 <= j < self.frame.shape[0] and 0 <= i < self.frame.shape[1]):
            return u, v, math.nan
        return u, v, float(self._source.read(slice(j, j + 1), slice(i, i + 1))[0, 0])

    def reduced(self, rows: slice, columns: slice, factor: int) -> Pixels:
        """View of a window (see `Layer`)."""
        height, width = (-(-(s.stop - s.start) // factor) for s in (rows, columns))
        out = np.full((1, height, width), np.nan, np.float32)
        step = max(1, 2 ** math.floor(math.log2(max(factor * self.scale, 1.0))))
        nodes = [np.append(np.arange(0, n, _NODES), n) + 0.5 for n in (height, width)]
        ny, nx = np.meshgrid(*nodes, indexing="ij")
        u, v = self.positions(
            (columns.start + nx * factor - 0.5).ravel(), (rows.start + ny * factor - 0.5).ravel()
        )
        if not self._meets(u, v):
            return out
        at = [np.arange(n) + 0.5 for n in (height, width)]
        # Whole numbers of blocks; positions without a place are far outside.
        u, v = (np.nan_to_num((p.reshape(ny.shape) + 0.5) / step, nan=-1e9) for p in (u, v))
        j, i = (np.floor(_bilinear(p, nodes, at)).astype(np.int64) for p in (v, u))
        limits = [-(-n // step) for n in self.frame.shape]
        good = (j >= 0) & (j < limits[0]) & (i >= 0) & (i < limits[1])
        if not good.any():
            return out
        if step == 1:
            top, left = int(j[good].min()), int(i[good].min())
            window = slice(top, int(j[good].max()) + 1), slice(left, int(i[good].max()) + 1)
            pixels = self._source.read(*window)
        else:
            top, left, pixels = 0, 0, _KEPT.get((self.frame.source, step), lambda: self._small(step))
        out[0][good] = pixels[j[good] - top, i[good] - left]
        return out

    def _meets(self, u: NDArray[np.float64], v: NDArray[np.float64]) -> bool:
        if not np.isfinite(u).any():
            return False
        height, width = self.frame.shape
        return bool(np.nanmax(u) > -1 and np.nanmin(u) < width and np.nanmax(v) > -1 and np.nanmin(v) < height)

    def _small(self, step: int) -> Pixels:
        height, width = self.frame.shape
        rows = max(_ROWS // step, 1) * step
        parts = [
            quick_block_mean(self._source.read(slice(y, min(y + rows, height)), slice(0, width)), step)
            for y in range(0, height, rows)
        ]
        return np.concatenate(parts)


def _bilinear(
    values: NDArray[np.float64], nodes: list[NDArray[np.float64]], at: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Values at nodes (rows, columns), at all crossings of two sets of places between them."""
    for axis in (0, 1):
        k = np.clip(np.searchsorted(nodes[axis], at[axis], side="right") - 1, 0, len(nodes[axis]) - 2)
        t = (at[axis] - nodes[axis][k]) / (nodes[axis][k + 1] - nodes[axis][k])
        t = t[:, None] if axis == 0 else t[None, :]
        values = np.take(values, k, axis=axis) * (1.0 - t) + np.take(values, k + 1, axis=axis) * t
    return values
