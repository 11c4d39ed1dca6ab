"""Masks of what one frame shows of a place and the others do not: trails, ghosts, blobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from skyloom.ops.arrays import array_spec
from skyloom.ops.artifacts.blobs import find_blobs
from skyloom.ops.artifacts.coarse import (
    MASK_STEP,
    STEP,
    Placement,
    Shrunken,
    Window,
    block_noise,
    coarse_nodes,
    on_coarse_canvas,
    reaches,
)
from skyloom.ops.artifacts.consensus import check_same_frames, solved_arguments
from skyloom.ops.artifacts.difference import Difference, compare
from skyloom.ops.artifacts.trails import Trail, find_trails
from skyloom.ops.frames import open_source
from skyloom.ops.grid import Grid
from skyloom.ops.integration.overlaps import frame_spec, index_frames
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.tiles import Dependencies
from skyloom.ops.unit_keys import digest, known

PLANES = ("low", "middle", "high", "spread", "count")
PER_BLOCK = STEP // MASK_STEP
TRAILS = 24
"""Trails a frame of which places are kept."""
TRAIL_QUANTITIES = ("x0", "y0", "x1", "y1", "width", "significance")
BLOCK_BYTES = 120.0
"""Peak bytes a block of a frame's window: planes, difference, sums over Gaussians, labels, distances."""
RATE = 18.0
"""Mpixel a second, counted in frame pixels."""


@dataclass(frozen=True)
class Found:
    """What was found in a frame."""

    mask: NDArray[np.bool_]
    """Cells of `MASK_STEP` canvas pixels."""
    trails: list[Trail]
    blobs: int


def find_artifacts(difference: Difference, *, trails: float, blobs: float) -> Found:
    """Trails and blobs of a frame; thresholds of 0 look for none.

    Parameters
    ----------
    difference
        The frame against the others.
    trails, blobs
        As in `artifacts`.
    """
    rows, columns = difference.value.shape
    mask = np.zeros((rows * PER_BLOCK, columns * PER_BLOCK), dtype=np.bool_)
    lines = find_trails(difference, threshold=trails) if trails > 0 else []
    for line in lines:
        line.draw(mask, PER_BLOCK)
    count = 0
    if blobs > 0:
        taken = np.asarray(mask.reshape(rows, PER_BLOCK, columns, PER_BLOCK).any(axis=(1, 3)))
        blob, count = find_blobs(difference, taken, threshold=blobs)
        mask |= np.repeat(np.repeat(blob, PER_BLOCK, axis=0), PER_BLOCK, axis=1)
    return Found(mask, lines, count)


@dataclass(frozen=True)
class _Frame:
    shrunken: Shrunken
    grid: Grid
    window: Window
    planes: tuple[str, ...]
    padded: tuple[int, int]
    trails: float
    blobs: float


def _frame_artifacts(work: _Frame, *solved: NDArray[Any]) -> dict[str, NDArray[Any]]:
    placed = Placement.of(*solved)
    out = _nothing(work.padded)
    index = work.shrunken.frame.index
    if not placed.use[index]:
        return out
    rows, columns = work.window
    frame = np.full((rows.stop - rows.start, columns.stop - columns.start), np.nan, dtype=np.float32)
    nodes = coarse_nodes(work.grid, rows, columns)
    if not on_coarse_canvas(work.shrunken, work.grid, work.window, nodes, placed, frame):
        return out
    planes = dict(zip(PLANES, (open_source(p).read(rows, columns) for p in work.planes), strict=True))
    difference = compare(frame, **planes, noise=block_noise(work.shrunken.frame, work.grid, placed))
    if difference is None:
        return out
    found = find_artifacts(difference, trails=work.trails, blobs=work.blobs)
    compared = np.isfinite(difference.value)
    packed = np.packbits(found.mask, axis=1)
    out["mask"][0, : packed.shape[0], : packed.shape[1]] = packed
    for k, trail in enumerate(found.trails[:TRAILS]):
        out["trails"][0, k] = _ends(trail, rows.start, columns.start)
    out["trail_count"][0] = len(found.trails)
    out["blob_count"][0] = found.blobs
    cells = np.repeat(np.repeat(compared, PER_BLOCK, axis=0), PER_BLOCK, axis=1)
    out["masked"][0] = float((found.mask & cells).sum()) / max(int(cells.sum()), 1)
    if found.mask.any():
        out["content"][0] = digest(packed, [s.start for s in work.window])
    return out


def _ends(trail: Trail, row: int, column: int) -> list[float]:
    """Ends of a trail (canvas x, y), width of what is masked (px), and significance."""
    along = np.array([trail.start, trail.stop])
    across = trail.at(along)
    x, y = (across, along) if trail.steep else (along, across)
    ends = [((x[k] + column + 0.5) * STEP - 0.5, (y[k] + row + 0.5) * STEP - 0.5) for k in (0, 1)]
    return [*ends[0], *ends[1], 2.0 * trail.half * STEP, trail.significance]


def _nothing(padded: tuple[int, int]) -> dict[str, NDArray[Any]]:
    return {
        "mask": np.zeros((1, *padded), dtype=np.uint8),
        "trails": np.full((1, TRAILS, len(TRAIL_QUANTITIES)), np.nan),
        "trail_count": np.zeros(1, dtype=np.int64),
        "blob_count": np.zeros(1, dtype=np.int64),
        "masked": np.zeros(1),
        "content": np.full(1, "", dtype="<U16"),
    }


@dataclass(frozen=True)
class _Nothing:
    """Task of a frame beyond the canvas."""

    padded: tuple[int, int]

    def __call__(self) -> dict[str, NDArray[Any]]:
        return _nothing(self.padded)


def _pick(found: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    return found[name]


def mask_shape(windows: list[Window | None]) -> tuple[int, int]:
    """Rows and bytes of the largest mask."""
    shapes = [[(s.stop - s.start) * PER_BLOCK for s in w] for w in windows if w is not None] or [[1, 1]]
    rows, columns = np.max(shapes, axis=0).tolist()
    return rows, -(-columns // 8)


def _cost(
    session: xr.Dataset, shrunken: xr.Dataset, registration: xr.Dataset, normalization: xr.Dataset,
    consensus: xr.Dataset, **parameters: Any,
) -> Cost:  # fmt: skip
    windows = reaches(session, Grid.from_attrs(registration.attrs))
    blocks = np.array([0.0 if w is None else np.prod([float(s.stop - s.start) for s in w]) for w in windows])
    pixels = np.where(blocks > 0, session["height"].values.astype(np.float64) * session["width"].values, 0.0)
    padded = float(np.prod(mask_shape(windows)))
    read = blocks * 4.0 * len(PLANES) + 4.0 * pixels / STEP**2
    # Units without work are not written: frames beyond the canvas have an empty mask all the same.
    return Cost(work=pixels / 1e6 + 1e-6, read=read, memory=BLOCK_BYTES * blocks + padded + 2e7, rate=RATE)


def _keys(
    session: xr.Dataset, shrunken: xr.Dataset, registration: xr.Dataset, normalization: xr.Dataset,
    consensus: xr.Dataset, **parameters: Any,
) -> NDArray[np.str_]:  # fmt: skip
    """What a frame's mask depends on: all frames that meet it, with what was solved of them."""
    use, shift = known(registration, "use", "shift")
    normalized, *solved = known(normalization, "use", "scale", "offset", "noise")
    placed = Placement.of(use, shift, normalized, *solved)
    grid = Grid.from_attrs(registration.attrs)
    windows = reaches(session, grid)
    columns = [session[v].values.tolist() for v in ("frame", "wcs", "height", "width", "band")]
    frames = [
        digest(*row, *(a[i] for a in (shift, *solved))) if placed.use[i] else ""
        for i, row in enumerate(zip(*columns, strict=True))
    ]
    padded = mask_shape(windows)
    keys = []
    for i, window in enumerate(windows):
        if window is None or not frames[i]:
            keys.append(digest(padded, "nothing"))
            continue
        over = [f for f, w in zip(frames, windows, strict=True) if f and w is not None and _meet(window, w)]
        place = grid.place(*(slice(s.start * STEP, s.stop * STEP) for s in window))
        keys.append(digest(padded, grid.lattice, place, frames[i], over))
    return np.array(keys, dtype=np.str_)


def _meet(a: Window, b: Window) -> bool:
    return all(p.start < q.stop and q.start < p.stop for p, q in zip(a, b, strict=True))


@register(version=2, unit=("frame",), cost=_cost, keys=_keys)
def artifacts(
    session: xr.Dataset,
    shrunken: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    consensus: xr.Dataset,
    *,
    trails: Annotated[float, Param(unit="sigma", low=0.0, high=1000)] = 7.0,
    blobs: Annotated[float, Param(unit="sigma", low=0.0, high=1000)] = 6.0,
) -> xr.Dataset:
    """Find satellite trails, ghosts and blobs: what one frame shows of a place and the others do not.

    Parameters
    ----------
    session
        Frames (`ingest`).
    shrunken
        Their block means (`shrink`).
    registration
        Canvas and corrections of position (`register`).
    normalization
        Scale, offset and noise of each frame (`normalize`).
    consensus
        What the frames of each place agree on.
    trails
        Significance from which on the light along a line is a trail; 0 looks for none. Change it to less where
        trails are left in the picture, to more where good light is lost.
    blobs
        Significance from which on the light under a Gaussian (standard deviation 6 … 96 canvas pixels) is a blob;
        0 looks for none. Change it to less where ghosts and soft patches are left, to more where good light is
        lost.

    Returns
    -------
    xarray.Dataset
        Lazy, one task a frame. (frame, mask_y, mask_x) uint8: `mask`, eight cells of 2 × 2 canvas pixels a byte
        along x (`numpy.packbits`), from the first block the frame may reach on; (frame): `trail_count`,
        `blob_count`, `masked` (part of the frame), `content` (digest of the mask, "" = empty); (frame, trail,
        trail_quantity): `trails`, ends (canvas px), width of what is masked (px) and significance.

    Raises
    ------
    DataError
        If the tables are not of the same frames.

    Notes
    -----
    A frame is compared with the median of the *other* frames of each place, so what is in fewer than half of them
    can go and what is on the sky stays. Of two frames the brighter one is at fault. Errors include the range of
    the sky over 3 × 3 blocks (stars in changing seeing, filaments) and, from six frames on, the frames' scatter.
    Trails: Σ light / √Σ weight along all lines through strips of 1024 canvas pixels, followed over the whole
    frame, masked to 2.9 σ of their width. Blobs: matched to Gaussians above the level around, and masked along
    their own shape to where, by the edge or the Gaussian that fits, all but 0.3 % of their light is inside.
    """
    check_same_frames(session, "artifacts", shrunken=shrunken, registration=registration)
    grid = Grid.from_attrs(registration.attrs)
    windows = reaches(session, grid)
    padded = mask_shape(windows)
    bands, _ = index_frames(session, registration, grid, "auto")
    names = session["band"].values.astype(str)
    dependencies = Dependencies()
    solved = solved_arguments(registration, normalization, dependencies)
    sources = [array_spec(shrunken, "mean", frame=i) for i in range(len(windows))]
    agreed = [tuple(array_spec(consensus, p, band=b) for p in PLANES) for b in range(len(bands))]
    token = tokenize(
        "artifacts", [repr(frame_spec(session, i)) for i in range(session.sizes["frame"])], grid, trails, blobs,
        sources, agreed,
        [a.name for a in dependencies.arrays], [repr(a) for a in solved],
    )  # fmt: skip
    base = f"artifacts-{token}"
    tasks: dict[Any, Any] = {}
    for i, window in enumerate(windows):
        if window is None or names[i] not in bands:
            tasks[base, i] = (_Nothing(padded),)
            continue
        planes = agreed[bands.index(str(names[i]))]
        work = _Frame(Shrunken(frame_spec(session, i), sources[i]), grid, window, planes, padded, trails, blobs)
        tasks[base, i] = (_frame_artifacts, work, *solved)
    shared = HighLevelGraph.from_collections(base, tasks, dependencies=dependencies.arrays)
    dims = {"mask": ("mask_y", "mask_x"), "trails": ("trail", "trail_quantity")}
    variables = {}
    for name, example in _nothing(padded).items():
        key = f"artifacts-{name}-{token}"
        zeros = (0,) * (example.ndim - 1)
        picks: dict[Any, Any] = {(key, i, *zeros): (_pick, (base, i), name) for i in range(len(windows))}
        graph = HighLevelGraph({**shared.layers, key: picks}, {**shared.dependencies, key: {base}})
        chunks = ((1,) * len(windows), *((n,) for n in example.shape[1:]))
        array = da.Array(graph, key, chunks=chunks, dtype=example.dtype)
        variables[name] = (("frame", *dims.get(name, ())), array)
    return xr.Dataset(
        variables,
        coords={"frame": session["frame"].values, "trail_quantity": list(TRAIL_QUANTITIES)},
        attrs={"step": STEP, "mask_step": MASK_STEP},
    )
