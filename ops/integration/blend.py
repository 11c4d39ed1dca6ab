"""A mosaic for the eye: what panels still disagree about is spread widely instead of ending at their borders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.artifacts.consensus import check_same_frames
from skyloom.ops.blocks import Block
from skyloom.ops.errors import ConfigError
from skyloom.ops.footprints import footprint, placement
from skyloom.ops.grid import Grid
from skyloom.ops.integration.blend_tiles import BlendSpec, blend_halo, blend_rows, blend_tile, blend_windows
from skyloom.ops.integration.canvas_graph import canvas_arrays
from skyloom.ops.integration.integrate import (
    canvas_of,
    frame_digests,
    graph_token,
    lazy_solution,
    noise_factor,
    options_of,
    reaching,
    units_of,
)
from skyloom.ops.integration.kernels import Resampling
from skyloom.ops.integration.masked import frame_masks
from skyloom.ops.integration.overlaps import Piece, frame_specs, index_frames
from skyloom.ops.integration.rejection import Method
from skyloom.ops.integration.tiles import Options, widen
from skyloom.ops.integration.weights import Weighting
from skyloom.ops.normalization.panels import MOST_PANELS, panels
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.unit_keys import digest

RATE = 4.0
"""Mpixel·frames a second of each of two tasks at a time, halo not counted."""

Pieces = Mapping[tuple[int, int, int], Sequence[Piece]]


def _around(pieces: Pieces, grid: Grid, levels: int) -> dict[tuple[int, int, int], list[Piece]]:
    """Frames over each tile and what its blending looks at around it; areas are those over the tile.

    Windows are those of the tile and its neighbours together, an upper bound.
    """
    if grid.tile < blend_halo(levels):
        raise ConfigError(
            f"blend: tile = {grid.tile} should be at least {blend_halo(levels)} with levels = {levels}"
        )
    found: dict[tuple[int, int, int], list[Piece]] = {}
    for band, ty, tx in pieces:
        over: dict[int, Piece] = {}
        for j in range(ty - 1, ty + 2):
            for i in range(tx - 1, tx + 2):
                for piece in pieces.get((band, j, i), ()):
                    own = j == ty and i == tx
                    before = over.get(piece.frame)
                    over[piece.frame] = Piece(
                        piece.frame,
                        piece.area if own else before.area if before else 0.0,
                        piece.window + (before.window if before else 0.0),
                        piece.jacobian,
                    )
        found[band, ty, tx] = [over[f] for f in sorted(over)]
    return found


def frame_panels(session: xr.Dataset, grid: Grid, frames: NDArray[np.int64]) -> dict[int, int]:
    """Panel of each of some frames: those that look at nearly the same place are of one."""
    columns = [session[v].values[frames].tolist() for v in ("wcs", "height", "width")]
    places = [
        placement(footprint(wcs, (height, width), grid)) for wcs, height, width in zip(*columns, strict=True)
    ]
    if not places:
        return {}
    label = panels(np.array(places), most=MOST_PANELS)
    return {int(f): int(p) for f, p in zip(frames, label, strict=True)}


def _rows(
    grid: Grid, key: tuple[int, int, int], found: Sequence[Piece], panel: Mapping[int, int], options: Options,
    levels: int, *, masked: bool,
) -> tuple[int, float]:  # fmt: skip
    """Rows at a time and peak of memory of a tile, as far as headers tell."""
    shape = [s.stop - s.start for s in blend_windows(grid, key[1:], levels)]
    # No window is larger in its frame than the canvas window there, turned by 45° at worst.
    window = min(max(p.window for p in found), 2.0 * max(p.jacobian for p in found) * shape[0] * shape[1])
    return blend_rows(
        grid, key[1:], len(found), len({panel[p.frame] for p in found}), window, options, levels,
        masked=masked,
    )  # fmt: skip


def _cost(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None = None,
    artifacts: xr.Dataset | None = None,
    *,
    levels: int,
    tile: int,
    **parameters: Any,
) -> Cost:
    """Cost of each tile of each band, from headers alone; `read` counts pixels as float32."""
    grid = canvas_of(registration, tile)
    options = options_of(session, **parameters)
    bands, pieces = index_frames(session, registration, grid, parameters["resampling"])
    panel = frame_panels(session, grid, reaching(pieces))
    work, read, memory = np.zeros((3, len(bands), *grid.tiles))
    for key, found in _around(pieces, grid, levels).items():
        work[key] = sum(p.area for p in found) / 1e6 + 1e-3 * len(found)
        read[key] = 4.0 * sum(p.window for p in found)
        memory[key] = _rows(grid, key, found, panel, options, levels, masked=artifacts is not None)[1]
    return Cost(work=work, read=read, memory=memory, rate=RATE)


def _keys(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None = None,
    artifacts: xr.Dataset | None = None,
    *,
    levels: int,
    tile: int,
    weighting: Weighting,
    weight_rule: str,
    resampling: Resampling,
    **parameters: Any,
) -> NDArray[np.str_]:
    """What each tile depends on: as `integrate`, of all it looks at, and which frames are of one panel."""
    grid = canvas_of(registration, tile)
    bands, pieces = index_frames(session, registration, grid, resampling)
    frames = frame_digests(
        session, registration, normalization, approval, artifacts, pieces,
        weighting=weighting, weight_rule=weight_rule,
    )  # fmt: skip
    panel = frame_panels(session, grid, reaching(pieces))
    keys = np.full((len(bands), *grid.tiles), "", dtype="<U16")
    for (band, ty, tx), found in _around(pieces, grid, levels).items():
        rows, columns = blend_windows(grid, (ty, tx), levels)
        wide = grid.place(widen(rows, grid.shape[0]), widen(columns, grid.shape[1]))
        used = [p.frame for p in found if frames[p.frame]]
        groups: dict[int, int] = {}
        over = [(frames[f], groups.setdefault(panel[f], len(groups))) for f in used]
        keys[band, ty, tx] = digest(grid.lattice, grid.place(*grid.window(ty, tx)), wide, over)
    return keys


@register(version=2, unit=("band", "y", "x"), cost=_cost, keys=_keys)
def blend(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None = None,
    artifacts: xr.Dataset | None = None,
    *,
    levels: Annotated[int, Param(low=2, high=8)] = 6,
    rejection: Method = "winsorized",
    low: Annotated[float | None, Param(low=0.0, high=1000)] = None,
    high: Annotated[float | None, Param(low=0.0, high=1000)] = None,
    significance: Annotated[float, Param(low=1e-6, high=0.5)] = 0.02,
    grow: bool = True,
    weighting: Weighting = "inverse_variance",
    weight_rule: str = "",
    resampling: Resampling = "auto",
    clamp: Annotated[float, Param(low=0.0, high=1.0)] = 0.0,
    taper: Annotated[float, Param(low=0.0, high=0.5)] = 0.03,
    tile: Annotated[int, Param(unit="px", low=32, high=16384)] = 1024,
    task_memory: Annotated[float, Param(unit="byte", low=1e6, execution=True)] = 2.0**30,
) -> xr.Dataset:
    """Integrate as `integrate` does and blend the panels (multi-band): a picture without seams, for the eye.

    Worth it where panels still disagree after `normalize`, as with modes none and linear or under fast clouds.
    Measure on the result of `integrate`: near borders of panels blending moves the sky.

    Parameters
    ----------
    session
        Frames (`ingest`).
    registration
        Canvas and corrections of position (`register`).
    normalization
        Scale, offset, confidence and noise of each frame (`normalize`).
    approval
        Measures of the frames (`approve`), for weights that need them.
    artifacts
        Masks of trails, ghosts and blobs (`artifacts`).
    levels
        What panels disagree about is spread over some 2 · 2 ** levels pixels on either side; overlaps should be
        at least as wide. Change it to less where overlaps are narrower than that, to more where broad steps
        between panels are left.
    rejection
        As in `integrate`, over the frames of all panels together. Change it as in `integrate`.
    low
        Limit below the centre, as in `integrate`. Change it as in `integrate`.
    high
        Limit above the centre. Change it as in `integrate`.
    significance
        esd: chance of finding an outlier in a pixel without one. Change it as in `integrate`.
    grow
        Reject the neighbours of strong outliers from 2 sigma on. Change it as in `integrate`.
    weighting
        As in `integrate`. Change it as in `integrate`.
    weight_rule
        As in `integrate`. Change it with `weighting`.
    resampling
        As in `integrate`. Change it as in `integrate`.
    clamp
        As in `integrate`. Change it as in `integrate`.
    taper
        Width of the band along a frame's edges in which its weight falls to nothing, as a fraction of the
        shorter side. Change it as in `integrate`.
    tile
        Side of a tile of the canvas, a multiple of 32 and more than 7 · 2 ** levels. Change it to more with more
        `levels`, to less where the plan says that a task does not fit the memory.
    task_memory
        Memory one tile may take; frames are resampled in strips to stay below it.

    Returns
    -------
    xarray.Dataset
        `image` (float32, NaN = no data), blended; `weight, variance, count, rejected_low, rejected_high` as
        `integrate` has them, over (band, y, x), lazy, one block a tile. Attributes as those of `integrate`, and
        `blended`.

    Raises
    ------
    ConfigError
        If `tile` does not fit, limits do not fit the method, or what the weights need is missing.
    CapacityError
        If `task_memory` cannot hold a strip of 32 rows of the deepest tile.
    DataError
        While computing: as `integrate`.

    Notes
    -----
    Burt & Adelson (1983). Frames whose centres lie within a third of a frame's side are of one panel. Detail finer
    than 8 pixels is that of the mean of all frames, so the noise is that of `integrate`.
    """
    if artifacts is not None:
        check_same_frames(session, "blend", artifacts=artifacts)
    options = options_of(
        session, rejection=rejection, low=low, high=high, significance=significance, grow=grow,
        weighting=weighting, resampling=resampling, clamp=clamp, taper=taper, task_memory=task_memory,
    )  # fmt: skip
    grid = canvas_of(registration, tile)
    bands, pieces = index_frames(session, registration, grid, resampling)
    around = _around(pieces, grid, levels)
    panel = frame_panels(session, grid, reaching(pieces))
    for key, found in around.items():
        _rows(grid, key, found, panel, options, levels, masked=artifacts is not None)
    dependencies, gathering = lazy_solution(
        session, registration, normalization, approval, pieces, options, weight_rule
    )  # fmt: skip
    token = graph_token(
        session, artifacts, dependencies, gathering, grid, sorted(pieces), repr(options), levels,
    )  # fmt: skip
    masks = frame_masks(session, grid, artifacts)

    def tile_spec(block: Block) -> BlendSpec:
        over = [p.frame for p in around[block[0], block[1], block[2]]]
        specs = frame_specs(session, over, masks)
        return BlendSpec(grid, (block[1], block[2]), specs, tuple(panel[f] for f in over), options, levels)

    variables = canvas_arrays(
        "blend", token, grid, len(bands), around, work=blend_tile, spec=tile_spec,
        solution=gathering, dependencies=dependencies,
    )  # fmt: skip
    attrs = {
        **grid.to_attrs(),
        "units": units_of(session),
        "kernel_noise_factor": round(noise_factor(pieces, resampling), 4),
        "blended": 1,
    }
    return xr.Dataset(variables, coords={"band": np.asarray(bands, dtype=str)}, attrs=attrs)
