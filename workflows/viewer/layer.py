"""What is shown at a time: one plane or three of a variable, as float pixels on a canvas of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel
from skyloom.ops.pyramid import quick_block_mean
from skyloom.ops.registry import suggest
from skyloom.workflows.places import Place
from skyloom.workflows.viewer.contents import Result, Variable

Pixels = NDArray[np.float32]
WINDOW = 512
"""Side of what is read at a time (pixels): a MiB, which the next one takes again (`return_memory_early`)."""
COLOURS = ("R", "G", "B")
RGB = "rgb"


class Layer(Protocol):
    """Planes that are shown together."""

    @property
    def name(self) -> str:
        """Its id, as addresses have it."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns (its own pixels)."""

    @property
    def count(self) -> int:
        """Planes: 1, or 3 for colours."""

    @property
    def linear(self) -> bool:
        """False: 0…1, made for the screen."""

    @property
    def revision(self) -> str:
        """Text that changes when its pixels do."""

    def reduced(self, rows: slice, columns: slice, factor: int) -> Pixels:
        """Means over blocks of factor × factor pixels, shape (planes, rows, columns); NaN = no data.

        `rows` and `columns` are the layer's pixels; they begin at multiples of the factor.
        """


@dataclass(frozen=True)
class StoredLayer:
    """Planes of a variable of a result."""

    result: Result
    variable: Variable
    planes: tuple[int, ...]
    name: str
    revision: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.variable.shape

    @property
    def count(self) -> int:
        """Planes."""
        return len(self.planes)

    @property
    def linear(self) -> bool:
        """Whether it is to be stretched."""
        return self.result.linear or self.variable.name != "image"

    @property
    def is_map(self) -> bool:
        """Whether it is a quantity (weights, counts, …) and no picture of the sky."""
        return self.variable.name not in ("image", "median", "middle", "low", "high")

    @cached_property
    def _counts(self) -> Variable | None:
        """Where integers are 0 without data the count says so."""
        if self.variable.kind == "f" or self.variable.name == "count":
            return None
        count = self.result.variables.get("count")
        return count if count is not None and count.shape == self.shape else None

    def window(self, plane: int, rows: slice, columns: slice) -> Pixels:
        """Pixels of a plane (its number in the array); NaN = no data."""
        out = self.variable.plane(plane).read(rows, columns)
        if self.variable.kind != "f" and self.variable.name == "count":
            out[out == 0] = np.nan
        elif self._counts is not None:
            out[(out == 0) & (self._counts.plane(plane).read(rows, columns) == 0)] = np.nan
        return out

    def reduced(self, rows: slice, columns: slice, factor: int) -> Pixels:
        """Means over blocks (see `Layer`), read a window at a time."""
        shape = (-(-(rows.stop - rows.start) // factor), -(-(columns.stop - columns.start) // factor))
        out = np.empty((self.count, *shape), np.float32)
        step = max(WINDOW // factor, 1)
        for y in range(0, shape[0], step):
            for x in range(0, shape[1], step):
                window = (
                    slice(rows.start + y * factor, min(rows.start + (y + step) * factor, rows.stop)),
                    slice(columns.start + x * factor, min(columns.start + (x + step) * factor, columns.stop)),
                )
                for target, plane in zip(out, self.planes, strict=True):
                    target[y : y + step, x : x + step] = quick_block_mean(self.window(plane, *window), factor)
        return out

    def level(self, factor: int, rows: slice, columns: slice) -> Pixels:
        """Pixels of a level of the pyramid, shape (planes, rows, columns)."""
        planes = [self.variable.plane_of(self.levels[factor], p) for p in self.planes]
        return np.stack([p.read(rows, columns) for p in planes])

    def state(self, rows: slice, columns: slice) -> tuple[int, ...]:
        """Numbers that change when a window of a result that is being made does."""
        if self.result.complete:
            return ()
        found = [f for p in self.planes for f in self.variable.plane(p).files(rows, columns)]
        return tuple(map(_changed, dict.fromkeys(found)))

    @cached_property
    def chunk(self) -> int:
        """Pixels a side that are decoded at least."""
        return self.variable.plane(0).chunk

    @cached_property
    def levels(self) -> dict[int, Place]:
        """Factor → array of the pyramid, where the result has one."""
        if self.variable.name != "image":
            return {}
        return {2**k: p for k, p in enumerate(self.result.levels) if k > 0}


def _changed(path: Place) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def stored_layer(result: Result, variable: str, planes: str, *, revision: str) -> StoredLayer:
    """Layer of a variable.

    Parameters
    ----------
    result
        Whose.
    variable
        Its name.
    planes
        A number, or "rgb".
    revision
        As `Contents.revision` gives it.

    Raises
    ------
    ConfigError
        If there is no such variable or plane.
    """
    if variable not in result.variables:
        raise ConfigError(
            f"node {result.id!r} has no image {variable!r}{suggest(variable, result.variables)}; there is: "
            f"{', '.join(result.variables)}"
        )
    found = result.variables[variable]
    name = f"{result.id}/{variable}/{planes}"
    if planes == RGB and has_colours(found.labels):
        return StoredLayer(result, found, tuple(found.labels.index(c) for c in COLOURS), name, revision)
    if not planes.isdecimal() or len(planes) > 6 or int(planes) >= len(found.labels):
        raise ConfigError(f"{result.id}/{variable} has no plane {planes!r}, it has {len(found.labels)} from 0")
    return StoredLayer(result, found, (int(planes),), name, revision)


def has_colours(labels: Sequence[str]) -> bool:
    """Whether red, green and blue are all there."""
    return set(COLOURS) <= set(labels)


@dataclass(frozen=True)
class Placement:
    """Where a layer's pixels lie on the canvas of another: x' = left + scale · x, of the edges of pixels."""

    left: float
    bottom: float
    scale: float


def cell_size(variable: Variable, grid: Grid) -> float:
    """Canvas pixels a side of a variable's pixel: 1, or that of the cells it is given by."""
    if variable.shape == grid.shape:
        return 1.0
    for cell in range(2, 1025):
        if variable.shape == tuple(-(-n // cell) for n in grid.shape):
            return float(cell)
    return max(grid.shape) / max(variable.shape)


def place_on(grid: Grid | None, other: Grid | None) -> Placement:
    """Where a canvas lies on another: exact on the same lattice, else by two places near the middle.

    Canvases of different projections do not lie on each other by a shift and a scale; they are shown so that their
    middles do.
    """
    if grid is None or other is None or grid == other:
        return Placement(0.0, 0.0, 1.0)
    if grid.lattice == other.lattice:
        x, y = np.asarray(other.wcs.wcs.crpix, float) - np.asarray(grid.wcs.wcs.crpix, float)
        return Placement(float(x), float(y), 1.0)
    height, width = grid.shape
    x = np.array([width / 4.0, 3.0 * width / 4.0]) - 0.5
    y = np.array([height / 4.0, 3.0 * height / 4.0]) - 0.5
    there_x, there_y = sky_to_pixel(other.wcs, *pixel_to_sky(grid.wcs, x, y))
    if not (np.isfinite(there_x).all() and np.isfinite(there_y).all()):
        return Placement(0.0, 0.0, 1.0)
    scale = float(np.hypot(np.ptp(there_x), np.ptp(there_y)) / np.hypot(np.ptp(x), np.ptp(y)))
    left = float(there_x.mean() + 0.5 - scale * (x.mean() + 0.5))
    bottom = float(there_y.mean() + 0.5 - scale * (y.mean() + 0.5))
    return Placement(left, bottom, scale)
