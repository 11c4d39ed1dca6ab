"""Drizzle: from dithered frames to a finer canvas, every pixel dropped where it lies, no interpolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.artifacts.consensus import check_same_frames
from skyloom.ops.blocks import Block
from skyloom.ops.calibration.cfa import places
from skyloom.ops.errors import ConfigError
from skyloom.ops.integration.canvas_graph import canvas_arrays
from skyloom.ops.integration.drizzle_tiles import (
    WAITING_BYTES,
    DrizzleSpec,
    Drizzling,
    drizzle_rows,
    drizzle_tile,
    finer,
)
from skyloom.ops.integration.drop import Kernel, correlation
from skyloom.ops.integration.integrate import (
    canvas_of,
    frame_digests,
    graph_token,
    lazy_solution,
    options_of,
    reaching,
    units_of,
)
from skyloom.ops.integration.masked import frame_masks
from skyloom.ops.integration.overlaps import Piece, frame_spec, frame_specs, index_frames
from skyloom.ops.integration.rejection import Method
from skyloom.ops.integration.sensor_pixels import colour_plane
from skyloom.ops.integration.tiles import Options, widen
from skyloom.ops.integration.weights import Weighting
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.unit_keys import digest

RATE = 3.0
"""Mpixel·frames a second of each of two tasks at a time, pixels of the coarse canvas: drops 6 to 8 million."""
STORED = 0.7
"""Bytes on the disk over bytes of the arrays, at most: every pixel has a weight of its own."""
KEY_MARGIN = 8
"""Coarse pixels around a tile within which the canvas' edge may change what falls on it."""

Colours = Literal["mosaic", "planes"]


def drizzle_options(session: xr.Dataset, *, masked: bool, **parameters: Any) -> tuple[Options, Drizzling]:
    """How outliers are found and how drops fall, from the parameters of `drizzle`; others are not looked at."""
    mosaic = parameters["colours"] == "mosaic"
    planes = (colour_plane(str(s)) for s in session["source"].values) if mosaic else ()
    most = max((len(places(p["bayer"], p["band"])) for p in planes if p is not None), default=1)
    waiting = float(WAITING_BYTES * most)
    drizzling = Drizzling(
        parameters["kernel"], parameters["pixfrac"], parameters["scale"], mosaic, waiting, masked
    )  # fmt: skip
    return options_of(session, **parameters), drizzling


def _cost(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None = None,
    artifacts: xr.Dataset | None = None,
    **parameters: Any,
) -> Cost:
    """Cost of each tile of each band, from headers alone; `read` counts pixels as float32."""
    options, drizzling = drizzle_options(session, masked=artifacts is not None, **parameters)
    grid = canvas_of(registration, parameters["tile"])
    bands, pieces = index_frames(session, registration, grid, options.resampling)
    work, read, memory = np.zeros((3, len(bands), *grid.tiles))
    for key, found in pieces.items():
        work[key] = sum(p.area for p in found) / 1e6 + 1e-3 * len(found)
        read[key] = 4.0 * sum(p.window for p in found)
        memory[key] = drizzle_rows(grid, key[1:], found, options, drizzling)[1]
    return Cost(work=work, read=read, memory=memory, rate=RATE, stored=STORED)


def _keys(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None = None,
    artifacts: xr.Dataset | None = None,
    *,
    weighting: Weighting,
    weight_rule: str,
    tile: int,
    scale: int,
    **parameters: Any,
) -> NDArray[np.str_]:
    """What each tile depends on: its place on the sky, and the frames over it with all that was solved of them."""
    grid = canvas_of(registration, tile)
    bands, pieces = index_frames(session, registration, grid, "auto")
    frames = frame_digests(
        session, registration, normalization, approval, artifacts, pieces,
        weighting=weighting, weight_rule=weight_rule,
    )  # fmt: skip
    keys = np.full((len(bands), *grid.tiles), "", dtype="<U16")
    for (band, ty, tx), found in pieces.items():
        window = grid.window(ty, tx)
        wide = [
            widen(slice(max(s.start - KEY_MARGIN, 0), min(s.stop + KEY_MARGIN, n)), n)
            for s, n in zip(window, grid.shape, strict=True)
        ]
        over = [frames[p.frame] for p in found if frames[p.frame]]
        keys[band, ty, tx] = digest(grid.lattice, grid.place(*window), grid.place(wide[0], wide[1]), over)
    return keys


@register(version=3, unit=("band", "y", "x"), cost=_cost, keys=_keys)
def drizzle(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None = None,
    artifacts: xr.Dataset | None = None,
    *,
    scale: Annotated[int, Param(low=1, high=8)] = 2,
    pixfrac: Annotated[float, Param(low=0.01, high=1.0)] = 0.9,
    kernel: Kernel = "square",
    colours: Colours = "mosaic",
    rejection: Method = "winsorized",
    low: Annotated[float | None, Param(low=0.0, high=1000)] = None,
    high: Annotated[float | None, Param(low=0.0, high=1000)] = None,
    significance: Annotated[float, Param(low=1e-6, high=0.5)] = 0.02,
    grow: bool = True,
    weighting: Weighting = "inverse_variance",
    weight_rule: str = "",
    taper: Annotated[float, Param(low=0.0, high=0.5)] = 0.03,
    tile: Annotated[int, Param(unit="px", low=32, high=8192)] = 512,
    task_memory: Annotated[float, Param(unit="byte", low=1e6, execution=True)] = 2.0**30,
) -> xr.Dataset:
    """Drop the pixels of all frames, made smaller, on a finer canvas: more resolution from dithered frames.

    Worth it where stars are narrower than some 2 pixels and frames many and dithered: with few, holes stay.

    Parameters
    ----------
    session
        Frames (`ingest`, `debayer`).
    registration
        Canvas and corrections of position (`register`).
    normalization
        Scale, offset and noise of each frame (`normalize`).
    approval
        Measures of the frames (`approve`), for weights that need them.
    artifacts
        Masks of trails, ghosts and blobs (`artifacts`): what they cover of a frame is not dropped.
    scale
        Pixels of the result along one of the registered canvas. Change it to 1 where stars are wider than 2.5
        pixels (nothing is gained), to 3 only with some fifty dithered frames and stars under 1.5 pixels.
    pixfrac
        Side of a drop, of the sensor's pixel. Smaller is sharper and needs more frames: at scale 2 some 10 for
        0.9, of colour sensors four times that for red and blue. Change it to 1 with few frames, to 0.7 and less
        with many; where the weight map is grainy it is too small.
    kernel
        square: the drop as it lies on the canvas, by exact overlap; turbo: a square of its area along the canvas'
        axes; point: all of it in one pixel, noise stays white, needs most frames. Change it to turbo for speed
        where frames are hardly turned, to point with hundreds of frames.
    colours
        mosaic: of colour sensors the sensor's own pixels are dropped (CFA drizzle); planes: superpixels. Frames
        come from debayer either way, with method = superpixel. Change it to planes with fewer than some forty
        frames of a colour sensor.
    rejection
        How outliers are found on the registered canvas, as `integrate` does; a frame's pixel goes if its sample
        at the canvas pixel under its centre does. Change it as in `integrate`.
    low
        Limit below the centre, as in `integrate`. Change it as in `integrate`.
    high
        Limit above the centre. Change it as in `integrate`.
    significance
        esd: chance of finding an outlier in a pixel without one. Change it as in `integrate`.
    grow
        Reject the neighbours of strong outliers from 2 sigma on. Change it as in `integrate`.
    weighting
        As in `integrate`; inverse_variance and point_source count the noise of areas. Change it as in `integrate`.
    weight_rule
        As in `integrate`. Change it with `weighting`.
    taper
        Width of the band along a frame's edges in which its weight falls to nothing, as a fraction of the
        shorter side. Change it as in `integrate`.
    tile
        Side of a tile in pixels of the registered canvas, a multiple of 32; those of the result have
        scale times as many. Change it to less where the plan says that a task does not fit the memory.
    task_memory
        Memory one tile may take; tiles with many frames are computed in strips to stay below it.

    Returns
    -------
    xarray.Dataset
        `image, weight, variance` (float32, NaN where no drop falls) and `count, rejected_low, rejected_high`
        (uint16; frames with a drop on the pixel that counts, or that went) over (band, y, x), lazy, one block a
        tile. Attributes: the grid, `units`, `kernel_noise_factor` (1), `noise_correlation`.

    Raises
    ------
    ConfigError
        If `tile` is no multiple of 32, limits do not fit the method, what the weights need is missing, or
        planes of a mosaic are interpolated.
    CapacityError
        If `task_memory` cannot hold a strip of 32 rows of the deepest tile.
    DataError
        While computing: as `integrate`.

    Notes
    -----
    s = Σ w a v / Σ w a over the drops, v = J·a₀·(d - b), J the area of a canvas pixel in frame pixels there, a the
    overlap in canvas pixels times the area that the drop stands for over its own (Fruchter & Hook 2002): the sum
    of a star over the canvas is a₀ times its sum over the frame (of colours: over the superpixels). weight =
    Σ w a, about Σ w where drops lie evenly. variance = Σ (w a σ)² / (Σ w a)², that of the pixel itself. Neighbours
    share drops: the rms of a sum over a large area is `noise_correlation` times that of as many independent
    pixels, where drops lie evenly.
    """
    parameters = {name: value for name, value in locals().items() if name not in _INPUTS}
    if artifacts is not None:
        check_same_frames(session, "drizzle", artifacts=artifacts)
    options, drizzling = drizzle_options(session, masked=artifacts is not None, **parameters)
    grid = canvas_of(registration, tile)
    fine = finer(grid, scale)
    bands, pieces = index_frames(session, registration, grid, options.resampling)
    specs = {int(i): frame_spec(session, int(i)) for i in reaching(pieces)}
    planes = {i: colour_plane(s.source) for i, s in specs.items()} if drizzling.mosaic else {}
    for i, fields in planes.items():
        if fields is not None and fields["method"] != "superpixel":
            raise ConfigError(
                f"drizzle: {specs[i].name} is interpolated, its noise is not its own: set debayer.method = "
                "superpixel, or colours = planes"
            )
    for key, found in pieces.items():
        drizzle_rows(grid, key[1:], found, options, drizzling)
    dependencies, gathering = lazy_solution(
        session, registration, normalization, approval, pieces, options, weight_rule
    )  # fmt: skip
    token = graph_token(
        session, artifacts, dependencies, gathering, grid, sorted(pieces), repr(options), repr(drizzling),
    )  # fmt: skip
    masks = frame_masks(session, grid, artifacts)

    def tile_spec(block: Block) -> DrizzleSpec:
        over = (p.frame for p in pieces[block[0], block[1], block[2]])
        frames = frame_specs(session, over, masks)
        return DrizzleSpec(grid, (block[1], block[2]), frames, options, drizzling)

    variables = canvas_arrays(
        "drizzle", token, fine, len(bands), pieces, work=drizzle_tile, spec=tile_spec,
        solution=gathering, dependencies=dependencies,
    )  # fmt: skip
    attrs = {
        **fine.to_attrs(),
        "units": units_of(session),
        "kernel_noise_factor": 1.0,
        "noise_correlation": round(_correlation(pieces, planes, drizzling), 4),
    }
    return xr.Dataset(variables, coords={"band": np.asarray(bands, dtype=str)}, attrs=attrs)


_INPUTS = ("session", "registration", "normalization", "approval", "artifacts")


def _correlation(
    pieces: Mapping[tuple[int, int, int], Sequence[Piece]], planes: Mapping[int, Any], drizzling: Drizzling
) -> float:
    """Mean over the frames, every frame counting by its area."""
    total = area = 0.0
    for piece in (p for found in pieces.values() for p in found if p.area > 0):
        pixel = piece.jacobian**-0.5 * drizzling.scale * (0.5 if planes.get(piece.frame) else 1.0)
        total += piece.area * correlation(drizzling.kernel, drizzling.pixfrac * pixel)
        area += piece.area
    return total / area if area else correlation(drizzling.kernel, drizzling.pixfrac * drizzling.scale)
