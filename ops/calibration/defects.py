"""Maps of bad pixels: hot ones of dark masters, dead ones of flats."""

from __future__ import annotations

import math
from typing import Annotated, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.robust import select

HOT, COLD = 1, 2
"""Bits of the map."""
CELL = 64
"""Side of the cells whose medians tell what is usual where (px)."""
RATE = 25.0
"""Mpixel a second of each of two tasks at a time."""
PIXEL_BYTES = 4 + 4 + 1 + 1
"""Of a task: the master, its strips before they are put together, the map and what of it is looked at twice."""

_NEAR = 3  # neighbours of the same phase to either side
_NOISE_STEP = (16, 4)  # rows, columns: where the noise of a single frame is looked up
_FIXED_BYTES = 20e6


def _cost(masters: xr.Dataset, **parameters: Any) -> Cost:
    """Cost of each master."""
    pixels = masters["height"].values.astype(np.float64) * masters["width"].values
    padded = float(masters.sizes["y"] * masters.sizes["x"])
    memory = np.full(pixels.shape, PIXEL_BYTES * padded + _FIXED_BYTES)
    return Cost(work=pixels / 1e6, read=4.0 * pixels, memory=memory, rate=RATE)


@register(version=1, unit=("master",), cost=_cost)
def defects(
    masters: xr.Dataset,
    *,
    hot_sigma: Annotated[float, Param(unit="sigma", low=2, high=1000)] = 10.0,
    cold_sigma: Annotated[float, Param(unit="sigma", low=2, high=1000)] = 5.0,
    dead_fraction: Annotated[float, Param(low=0.0, high=0.8)] = 0.5,
) -> xr.Dataset:
    """Find bad pixels: hot and cold ones in bias and dark masters, dead and odd ones in flats.

    Parameters
    ----------
    masters
        Masters (`masters`) or flats (`flats`).
    hot_sigma
        A pixel of a dark this far above its surroundings is hot; in σ of the surroundings or of a single frame,
        whichever is larger: charge lost in the noise of every frame is no reason to lose the pixel. Change it to
        less where warm pixels are left in the picture and there are few dithers, to more where too many pixels are
        lost.
    cold_sigma
        A pixel this far below is cold. Change it as `hot_sigma`.
    dead_fraction
        A pixel of a flat with less than this share of the light around it is dead (one with more than its inverse
        is hot). Change it to less where deep dust shadows are taken for dead pixels.

    Returns
    -------
    xarray.Dataset
        `bad` (master, y, x) uint8, lazy, a task a master: 1 hot, 2 cold or dead, 0 good and in the padding. Pixels
        of a master that have no value (saturated in all frames) are hot in a dark and dead in a flat.

    Notes
    -----
    What is usual is the median of cells of 64 pixels, of each phase (row, column modulo 2) by itself,
    interpolated; cells unlike those around them (clusters of dead pixels) take their median. What stands out must
    also stand out from the 7 × 7 pixels of its phase around it: the glow of an amplifier, vignetting and dust do
    not. A pixel below `dead_fraction` is dead whatever is around it: clusters are. One that lacks half as much
    light as a dead one, and more than `cold_sigma`, is bad, too. Holds one master at a time.
    """
    count = masters.sizes["master"]
    about = {n: masters[n] for n in ("group", "kind", "height", "width")}
    shape = (count, masters.sizes["y"], masters.sizes["x"])
    if 0 in shape:
        return xr.Dataset({"bad": (("master", "y", "x"), np.zeros(shape, np.uint8)), **about})
    kinds = [str(k) for k in masters["kind"].values]
    sizes = list(zip(masters["height"].values.tolist(), masters["width"].values.tolist(), strict=True))
    limits = (hot_sigma, cold_sigma, dead_fraction)
    dependencies: list[Any] = []

    def whole(name: str, m: int, rows: slice, columns: slice) -> Any:
        data = masters[name].data[m, rows, columns]
        if not isinstance(data, da.Array):
            return np.asarray(data)
        one = data.rechunk(-1, method="tasks")
        dependencies.append(one)
        return (one.name, 0, 0)

    arguments = []
    for m, (height, width) in enumerate(sizes):
        few = (slice(0, height, _NOISE_STEP[0]), slice(0, width, _NOISE_STEP[1]))
        arguments.append(
            (
                whole("image", m, slice(0, height), slice(0, width)),
                *(whole(n, m, *few) for n in ("variance", "count")),
            )
        )
    names = [d.name for d in dependencies] if dependencies else arguments
    key = f"defects-{tokenize('defects', names, kinds, sizes, limits)}"
    layer: dict[Any, Any] = {
        (key, m, 0, 0): (_map, *arguments[m], kinds[m], shape[1:], limits) for m in range(count)
    }
    graph = HighLevelGraph.from_collections(key, layer, dependencies=dependencies)
    bad = da.Array(graph, key, chunks=((1,) * count, (shape[1],), (shape[2],)), dtype=np.uint8)
    return xr.Dataset({"bad": (("master", "y", "x"), bad), **about})


def _map(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    count: NDArray[np.uint16],
    kind: str,
    padded: tuple[int, int],
    limits: tuple[float, float, float],
) -> NDArray[np.uint8]:
    hot_sigma, cold_sigma, dead_fraction = limits
    out = np.zeros((1, *padded), np.uint8)
    inner = out[0, : image.shape[0], : image.shape[1]]
    image = np.ascontiguousarray(image)
    if kind == "flat":
        inner[:] = flat_defects(image, cold_sigma=cold_sigma, dead_fraction=dead_fraction)
    else:
        noise = single_frame_noise(variance, count)
        inner[:] = dark_defects(image, noise, hot_sigma=hot_sigma, cold_sigma=cold_sigma)
    return out


def single_frame_noise(variance: NDArray[np.float32], count: NDArray[np.uint16]) -> float:
    """Noise of an ordinary pixel of one frame of a master; 0 where that is not known."""
    one = variance * count
    one = one[np.isfinite(one) & (count > 0)]
    return math.sqrt(float(np.median(one))) if one.size else 0.0


def dark_defects(
    image: NDArray[np.float32], noise: float, *, hot_sigma: float, cold_sigma: float
) -> NDArray[np.uint8]:
    """Map of a bias or dark master.

    Parameters
    ----------
    image
        float32 (rows, columns), NaN = no data.
    noise
        Of a single frame (units of the image).
    hot_sigma, cold_sigma
        As in `defects`.
    """
    level, width = usual(image)
    width = np.maximum(width, max(noise, float(np.median(width))))
    out = np.zeros(image.shape, np.uint8)
    _dark_map(image, level, width, hot_sigma, cold_sigma, out)
    return out


def flat_defects(image: NDArray[np.float32], *, cold_sigma: float, dead_fraction: float) -> NDArray[np.uint8]:
    """Map of a master flat (see `dark_defects`)."""
    level, width = usual(image)
    width = np.maximum(width, float(np.median(width)))
    out = np.zeros(image.shape, np.uint8)
    _flat_map(image, level, width, cold_sigma, dead_fraction, out)
    return out


def usual(image: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Level and scatter of cells of each phase: (4, cells_y, cells_x), robust against clusters of bad pixels."""
    cells = (max(round(image.shape[0] / CELL), 1), max(round(image.shape[1] / CELL), 1))
    level, width = _cells(image, *cells)
    return _repaired(level, level), _repaired(width, level)


def _repaired(mesh: NDArray[np.float64], level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mesh with the cells whose level is unlike that of the cells around them replaced by their median."""
    rest = np.abs(level - _around(level))
    # A slope across cells is usual.
    odd = ~(rest <= 10.0 * _around(rest) + 1e-9 * np.abs(level))
    out = np.where(odd | ~np.isfinite(mesh), _around(mesh), mesh)
    known = out[np.isfinite(out)]
    return np.where(np.isfinite(out), out, np.median(known) if known.size else 0.0)


@njit(nogil=True, cache=True, fastmath=False)
def _around(mesh):  # type: ignore[no-untyped-def]
    """Median of 5 × 5 cells of each phase, NaN where none has a value."""
    out = np.full(mesh.shape, np.nan)
    near = np.empty(25)
    for phase in range(mesh.shape[0]):
        for y in range(mesh.shape[1]):
            for x in range(mesh.shape[2]):
                n = 0
                for j in range(max(y - 2, 0), min(y + 3, mesh.shape[1])):
                    for i in range(max(x - 2, 0), min(x + 3, mesh.shape[2])):
                        if np.isfinite(mesh[phase, j, i]):
                            near[n] = mesh[phase, j, i]
                            n += 1
                if n > 0:
                    out[phase, y, x] = np.median(near[:n])
    return out


@njit(nogil=True, cache=True, fastmath=False)
def _cells(image, cells_y, cells_x):  # type: ignore[no-untyped-def]
    """Median of the pixels of each phase in each cell; scatter, from differences of neighbours of a phase.

    Differences, so that the slope of a glow or of vignetting is no scatter.
    """
    height, width = image.shape
    level = np.full((4, cells_y, cells_x), np.nan)
    scatter = np.full((4, cells_y, cells_x), np.nan)
    values = np.empty((height // cells_y + 2) * (width // cells_x + 2), dtype=np.float32)
    for cy in range(cells_y):
        top, bottom = cy * height // cells_y, (cy + 1) * height // cells_y
        for cx in range(cells_x):
            left, right = cx * width // cells_x, (cx + 1) * width // cells_x
            for phase in range(4):
                n = 0
                for y in range(top + (phase // 2 - top) % 2, bottom, 2):
                    for x in range(left + (phase % 2 - left) % 2, right, 2):
                        v = image[y, x]
                        if v == v:
                            values[n] = v
                            n += 1
                if n == 0:
                    continue
                level[phase, cy, cx] = select(values, n, n // 2)
                n = 0
                for y in range(top + (phase // 2 - top) % 2, bottom, 2):
                    for x in range(left + (phase % 2 - left) % 2, right - 2, 2):
                        d = image[y, x + 2] - image[y, x]
                        if d == d:
                            values[n] = abs(d)
                            n += 1
                if n > 0:
                    scatter[phase, cy, cx] = 1.4826 * select(values, n, n // 2) / np.sqrt(2.0)
    return level, scatter


@njit(nogil=True, cache=True, fastmath=False)
def _row_between(mesh, y, shape, out):  # type: ignore[no-untyped-def]
    """Mesh along row `y` of the image: linear between the centres of cells, and on to the edges."""
    height, width = shape
    cells_y, cells_x = mesh.shape[1], mesh.shape[2]
    at = (y + 0.5) * cells_y / height - 0.5
    j = min(max(int(at), 0), max(cells_y - 2, 0))
    up = at - j
    below = min(j + 1, cells_y - 1)
    first = 2 * (y % 2)
    for x in range(width):
        phase = first + x % 2
        across = (x + 0.5) * cells_x / width - 0.5
        i = min(max(int(across), 0), max(cells_x - 2, 0))
        right = across - i
        k = min(i + 1, cells_x - 1)
        here = mesh[phase, j, i] * (1.0 - right) + mesh[phase, j, k] * right
        there = mesh[phase, below, i] * (1.0 - right) + mesh[phase, below, k] * right
        out[x] = here * (1.0 - up) + there * up


@njit(nogil=True, cache=True, fastmath=False)
def _near(image, y, x, scratch, otherwise):  # type: ignore[no-untyped-def]
    """Median of the pixels of the same phase around a pixel; `otherwise` where none has a value."""
    top, bottom = max(y - 2 * _NEAR, y % 2), min(y + 2 * _NEAR + 1, image.shape[0])
    left, right = max(x - 2 * _NEAR, x % 2), min(x + 2 * _NEAR + 1, image.shape[1])
    down = across = 0.0
    if bottom - top < 4 * _NEAR + 1 or right - left < 4 * _NEAR + 1:
        # At an edge the others lie to one side: on a slope their median is off.
        down = _slope(image, top, bottom, left, right, 2, 0, scratch)
        across = _slope(image, top, bottom, left, right, 0, 2, scratch)
    n = 0
    for j in range(top, bottom, 2):
        for i in range(left, right, 2):
            v = image[j, i]
            if v == v and not (j == y and i == x):
                scratch[n] = v - down * (j - y) - across * (i - x)
                n += 1
    return np.median(scratch[:n]) if n > 0 else otherwise


@njit(nogil=True, cache=True, fastmath=False)
def _slope(image, top, bottom, left, right, dy, dx, scratch):  # type: ignore[no-untyped-def]
    """Median growth a pixel of a window in a direction."""
    n = 0
    for j in range(top, bottom - dy, 2):
        for i in range(left, right - dx, 2):
            d = float(image[j + dy, i + dx]) - float(image[j, i])
            if d == d:
                scratch[n] = d
                n += 1
    return np.median(scratch[:n]) / (dy + dx) if n > 0 else 0.0


@njit(nogil=True, cache=True, fastmath=False)
def _dark_map(image, level, width, hot, cold, out):  # type: ignore[no-untyped-def]
    usual, spread = np.empty((2, image.shape[1]))
    least = width.min()
    scratch = np.empty((2 * _NEAR + 1) ** 2)
    for y in range(image.shape[0]):
        _row_between(level, y, image.shape, usual)
        _row_between(width, y, image.shape, spread)
        np.maximum(spread, least, spread)
        for x in range(image.shape[1]):
            v = float(image[y, x])
            above = v - usual[x]
            if not np.isfinite(v):
                out[y, x] = HOT
            elif above > hot * spread[x]:
                if v - _near(image, y, x, scratch, usual[x]) > hot * spread[x]:
                    out[y, x] = HOT
            elif above < -cold * spread[x] and v - _near(image, y, x, scratch, usual[x]) < -cold * spread[x]:
                out[y, x] = COLD


@njit(nogil=True, cache=True, fastmath=False)
def _flat_map(image, level, width, sigma, dead, out):  # type: ignore[no-untyped-def]
    usual, spread = np.empty((2, image.shape[1]))
    least = width.min()
    scratch = np.empty((2 * _NEAR + 1) ** 2)
    odd = 0.5 * (1.0 - dead)
    for y in range(image.shape[0]):
        _row_between(level, y, image.shape, usual)
        _row_between(width, y, image.shape, spread)
        np.maximum(spread, least, spread)
        for x in range(image.shape[1]):
            v, light = float(image[y, x]), usual[x]
            if not np.isfinite(v):
                out[y, x] = COLD
            elif light <= 0.0:
                continue
            elif v < dead * light:
                out[y, x] = COLD
            elif abs(v - light) > max(sigma * spread[x], odd * light):
                rest = v - _near(image, y, x, scratch, light)
                if rest < -max(sigma * spread[x], odd * light):
                    out[y, x] = COLD
                elif rest > max(sigma * spread[x], light * (1.0 / max(dead, 1e-3) - 1.0)):
                    out[y, x] = HOT
