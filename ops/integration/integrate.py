"""From frames to the canvas: resample, normalize, reject and average, a tile at a time, in one task each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from skyloom.ops.artifacts.consensus import check_same_frames
from skyloom.ops.blocks import Block
from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid
from skyloom.ops.integration.canvas_graph import canvas_arrays
from skyloom.ops.integration.combine import Combination
from skyloom.ops.integration.coordinates import NODE_STEP
from skyloom.ops.integration.kernels import Resampling, chosen, kernel_noise_factor
from skyloom.ops.integration.masked import frame_masks
from skyloom.ops.integration.overlaps import Piece, frame_specs, index_frames, strip_rows
from skyloom.ops.integration.rejection import Method, Rejection
from skyloom.ops.integration.solution import Names, gather, mean_scale
from skyloom.ops.integration.tiles import Options, TileSpec, integrate_tile, widen
from skyloom.ops.integration.weights import (
    Weighting,
    frame_factors,
    keyword_values,
    measures_needed,
    measures_of,
    needs_noise,
)
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.unit_keys import digest, known

SOURCE_BYTES = 4 + 4
"""Bytes of a frame pixel while it is read: float32 and what it was decoded from. Calibrated frames take more."""
RATE = 9.0
"""Mpixel·frames a second of each of two tasks at a time: resampling 30, rejection and mean 50, writing 60."""
STORED = 0.5
"""Bytes of a stored mosaic over those of its arrays, at most: 0.15 to 0.2 with two frames a pixel, 0.45 with 48,
where many pixels have rejected samples and so weights of their own."""


def canvas_of(registration: xr.Dataset, tile: int) -> Grid:
    """The canvas, cut into tiles.

    Raises
    ------
    ConfigError
        If `tile` is no multiple of the nodes' distance.
    """
    if tile % NODE_STEP:
        raise ConfigError(f"tile = {tile} should be a multiple of {NODE_STEP}")
    return Grid.from_attrs(registration.attrs).retile(tile)


def source_bytes_of(session: xr.Dataset) -> float:
    """Bytes a pixel of the session's frames takes while it is read."""
    return float(session.attrs.get("source_bytes", SOURCE_BYTES))


def options_of(session: xr.Dataset, **parameters: Any) -> Options:
    """How tiles are integrated, from the parameters of `integrate`; others are not looked at."""
    rejection = Rejection(
        parameters["rejection"], low=parameters["low"], high=parameters["high"],
        grow=2.0 if parameters["grow"] else None, significance=parameters["significance"],
    )  # fmt: skip
    return Options(
        rejection,
        float(parameters["task_memory"]),
        source_bytes_of(session),
        taper=parameters["taper"],
        weighting=parameters["weighting"],
        combination=parameters.get("combination", "mean"),
        resampling=parameters.get("resampling", "auto"),
        clamp=parameters.get("clamp", 0.0),
    )


def _cost(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None = None,
    artifacts: xr.Dataset | None = None,
    *,
    rejection: Method = "winsorized",
    resampling: Resampling = "auto",
    combination: Combination = "mean",
    tile: int = 1024,
    task_memory: float = 2.0**30,
    **parameters: Any,
) -> Cost:
    """Cost of each tile of each band, from headers alone; `read` counts pixels as float32."""
    grid = canvas_of(registration, tile)
    bands, pieces = index_frames(session, registration, grid, resampling)
    work, read, memory = np.zeros((3, len(bands), *grid.tiles))
    source = source_bytes_of(session)
    for key, found in pieces.items():
        # A frame within the margin only still costs its look-up.
        work[key] = sum(p.area for p in found) / 1e6 + 1e-3 * len(found)
        read[key] = 4.0 * sum(p.window for p in found)
        memory[key] = strip_rows(
            grid, key[1:], found, task_memory, source, Rejection(rejection), combination, artifacts is not None
        )[1]  # fmt: skip
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
    resampling: Resampling,
    tile: int,
    **parameters: Any,
) -> NDArray[np.str_]:
    """What each tile depends on: its place on the sky, and the frames over it with all that was solved of them."""
    grid = canvas_of(registration, tile)
    bands, pieces = index_frames(session, registration, grid, resampling)
    frames = frame_digests(
        session, registration, normalization, approval, artifacts, pieces,
        weighting=weighting, weight_rule=weight_rule,
    )  # fmt: skip
    keys = np.full((len(bands), *grid.tiles), "", dtype="<U16")
    for (band, ty, tx), found in pieces.items():
        rows, columns = grid.window(ty, tx)
        # At the edges of the canvas rejection does not see beyond.
        wide = grid.place(widen(rows, grid.shape[0]), widen(columns, grid.shape[1]))
        over = [frames[p.frame] for p in found if frames[p.frame]]
        keys[band, ty, tx] = digest(grid.lattice, grid.place(rows, columns), wide, over)
    return keys


def frame_digests(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None,
    artifacts: xr.Dataset | None,
    pieces: Mapping[tuple[int, int, int], Sequence[Piece]],
    *,
    weighting: Weighting,
    weight_rule: str,
) -> list[str]:
    """Hash of each frame of the session and of all that was solved of it; "" where it is not used.

    Raises
    ------
    NotYetKnown
        If a solution is not computed yet.
    """
    use, shift = known(registration, "use", "shift")
    normalized, *solved = known(normalization, "use", "scale", "offset", "noise", *_confidence(normalization))
    used = np.asarray(use, dtype=bool) & np.asarray(normalized, dtype=bool)
    names = measures_needed(weighting, weight_rule)
    taken = measures_of(session, approval, names)
    measures = {n: known(taken[n].to_dataset(name=n), n)[0] for n in names}
    if weighting == "keyword":
        measures["keyword"] = keyword_values(session, reaching(pieces), weight_rule)
    factor = frame_factors(
        weighting, weight_rule, measures, mean_scale(np.asarray(solved[0])), used,
        tuple(str(n) for n in session["name"].values),
    )  # fmt: skip
    columns = [session[v].values.tolist() for v in ("frame", "wcs", "height", "width")]
    masks = [""] * len(used) if artifacts is None else known(artifacts, "content")[0].astype(str).tolist()
    digests = [
        digest(*row, *(a[i] for a in (shift, *solved, factor))) if used[i] else ""
        for i, row in enumerate(zip(*columns, strict=True))
    ]
    return [digest(d, m) if d and m else d for d, m in zip(digests, masks, strict=True)]


def _confidence(normalization: xr.Dataset) -> tuple[str, ...]:
    return ("confidence",) if "confidence" in normalization else ()


def _confident(normalization: xr.Dataset) -> Any:
    """Confidence of every frame; full where a normalization does not speak of it."""
    if _confidence(normalization):
        return normalization["confidence"]
    return np.ones(normalization["scale"].shape)


def reaching(pieces: Mapping[tuple[int, int, int], Sequence[Piece]]) -> NDArray[np.int64]:
    """Frames that may reach the canvas."""
    return np.unique([p.frame for found in pieces.values() for p in found]).astype(np.int64)


@register(version=4, unit=("band", "y", "x"), cost=_cost, keys=_keys)
def integrate(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None = None,
    artifacts: xr.Dataset | None = None,
    *,
    rejection: Method = "winsorized",
    low: Annotated[float | None, Param(low=0.0, high=1000)] = None,
    high: Annotated[float | None, Param(low=0.0, high=1000)] = None,
    significance: Annotated[float, Param(low=1e-6, high=0.5)] = 0.02,
    grow: bool = True,
    combination: Combination = "mean",
    weighting: Weighting = "inverse_variance",
    weight_rule: str = "",
    resampling: Resampling = "auto",
    clamp: Annotated[float, Param(low=0.0, high=1.0)] = 0.0,
    taper: Annotated[float, Param(low=0.0, high=0.5)] = 0.03,
    tile: Annotated[int, Param(unit="px", low=32, high=16384)] = 1024,
    task_memory: Annotated[float, Param(unit="byte", low=1e6, execution=True)] = 2.0**30,
) -> xr.Dataset:
    """Resample, normalize, reject outliers and average all frames onto the canvas.

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
        Masks of trails, ghosts and blobs (`artifacts`): what they cover of a frame is taken out before rejection
        looks at it, and counts as rejected high. Where all samples of a pixel are masked, all are kept.
    rejection
        How outliers are found, pixel by pixel: winsorized (PixInsight's winsorized sigma, from 8 samples on),
        sigma (kappa-sigma about the median, from 15), mad (median absolute deviation, from 8), esd (generalized
        extreme studentised deviates, from 10), linear (line through value by rank, from 15), percentile and minmax
        (from 3), noise (the frames' noise and that of the surroundings),
        averaged (the scatter of the surroundings), none. With fewer samples all compare as noise does; of two the
        higher goes. auto is winsorized, and where one frame is alone cosmic rays are found by their sharpness and
        left without data. Change it to esd or linear with twenty-five frames and more over a place and changing
        skies, to noise with five and fewer, to none to see what it takes away.
    low
        Limit below the centre; samples beyond it are rejected. In standard deviations; for percentile a fraction
        of the centre, for minmax a number of samples, for linear mean deviations, for esd a factor on the test.
        None: 4; averaged 4.5, percentile 0.2, minmax 1, linear 10, esd 1. Change it to more where dark structure
        is lost, as `skyloom pixel` and the map of rejected samples show.
    high
        Limit above the centre. None: 3; averaged 3.5, percentile 0.1, minmax 1, linear 9, esd 1. Change it to less
        where trails are left, to more where star cores are rejected in changing seeing.
    significance
        esd: chance of finding an outlier in a pixel without one. Change it to less where the map of rejected
        samples shows more than outliers.
    grow
        Reject the neighbours of strong outliers from 2 sigma on: the wings of trails, ringing around cosmic rays.
        Change it to false where many frames overlap and every sample counts.
    combination
        mean: weighted; median: of the samples kept, all alike. Change it to median for a look at what few frames
        share; it has a quarter more noise.
    weighting
        inverse_variance: frames weigh 1 / noise² in canvas units, best for what is extended; point_source: that
        over FWHM²; psf_signal, psf_snr: PixInsight's, from the frames' stars; exposure; keyword, expression: as
        weight_rule says; none: all the same. Weights steer the mean, not what is rejected. Change it to
        point_source for stars and small galaxies in changing seeing, to exposure or none to compare with other
        programs.
    weight_rule
        The keyword of the headers, such as SSWEIGHT, or an expression such as: snr / fwhm ** 2. Names are those of
        approve's rule, and scale (what the frame's pixels are multiplied with). Change it with `weighting` =
        keyword or expression.
    resampling
        lanczos3, lanczos4, bicubic, bilinear, nearest, or area (mean over the canvas pixel); auto is area for
        frames in which a canvas pixel is wider than 1.2 pixels, else lanczos3. Change it to bilinear to
        see what rings, to lanczos4 for the last bit of sharpness with well sampled stars.
    clamp
        How much of what is sharper than a star of 1.7 pixels (hot pixels, cosmic rays, narrow stars) lanczos and
        bicubic may ring beside; the rest of its light is interpolated bilinearly, and none is lost or gained.
        Change it to 1 to have the plain kernel everywhere, with dark rings around such pixels.
    taper
        Width of the band along a frame's edges in which its weight falls to nothing, as a fraction of the
        shorter side. Change it to more where borders of frames show in the noise or in the seeing, to 0 for a
        single pointing without dither.
    tile
        Side of a tile of the canvas, a multiple of 32. Change it to 512 or 256 where the plan says that a task
        does not fit the memory: hundreds of frames over one place.
    task_memory
        Memory one tile may take; tiles with many frames are computed in strips to stay below it.

    Returns
    -------
    xarray.Dataset
        `image, weight, variance` (float32, NaN = no data) and `count, rejected_low, rejected_high` (uint16)
        over (band, y, x), lazy, one block a tile. Attributes: the grid, `units`, `kernel_noise_factor`.

    Raises
    ------
    ConfigError
        If `tile` is no multiple of 32, limits do not fit the method, or what the weights need is missing.
    CapacityError
        If `task_memory` cannot hold a strip of 32 rows of the deepest tile.
    DataError
        While computing: a frame that cannot be read, has no noise estimate or weight, or is shifted by more than
        64 pixels.

    Notes
    -----
    s = J·a·(d - b), J = area of a canvas pixel in frame pixels: the sum of a star over the canvas is a times its
    sum over the frame. Noise is carried as if pixels were independent: the kernel makes the pixel rms smaller by
    sqrt(`kernel_noise_factor`) and neighbours correlated, so that sums over areas have the noise `variance` says.
    Where a frame's offset is not known well, its weight falls with the confidence of the normalization: others
    decide there. Where it is alone, it still gives the value.
    """
    if artifacts is not None:
        check_same_frames(session, "integrate", artifacts=artifacts)
    options = options_of(
        session, rejection=rejection, low=low, high=high, significance=significance, grow=grow,
        combination=combination, weighting=weighting, resampling=resampling, clamp=clamp, taper=taper,
        task_memory=task_memory,
    )  # fmt: skip
    grid = canvas_of(registration, tile)
    bands, pieces = index_frames(session, registration, grid, resampling)
    for key, found in pieces.items():
        strip_rows(
            grid, key[1:], found, options.task_memory, options.source_bytes, options.rejection, combination,
            artifacts is not None,
        )  # fmt: skip
    dependencies, gathering = lazy_solution(
        session, registration, normalization, approval, pieces, options, weight_rule
    )  # fmt: skip
    token = graph_token(session, artifacts, dependencies, gathering, grid, sorted(pieces), repr(options))

    masks = frame_masks(session, grid, artifacts)

    def tile_spec(block: Block) -> TileSpec:
        over = (p.frame for p in pieces[block[0], block[1], block[2]])
        frames = frame_specs(session, over, masks)
        return TileSpec(grid, (block[1], block[2]), frames, options)

    variables = canvas_arrays(
        "integrate", token, grid, len(bands), pieces, work=integrate_tile, spec=tile_spec,
        solution=gathering, dependencies=dependencies,
    )  # fmt: skip
    attrs = {
        **grid.to_attrs(),
        "units": units_of(session),
        "kernel_noise_factor": round(noise_factor(pieces, resampling), 4),
    }
    return xr.Dataset(variables, coords={"band": np.asarray(bands, dtype=str)}, attrs=attrs)


def noise_factor(pieces: Mapping[tuple[int, int, int], Sequence[Piece]], resampling: str) -> float:
    """Mean over the frames of what the kernel makes of noise, every frame counting by its area."""
    total = area = 0.0
    for piece in (p for found in pieces.values() for p in found if p.area > 0):
        kernel = chosen(resampling, piece.jacobian)
        total += piece.area * kernel_noise_factor(kernel, piece.jacobian if kernel == "area" else 1.0)
        area += piece.area
    return total / area if area else kernel_noise_factor()


def units_of(session: xr.Dataset) -> str:
    """Units of the frames' pixels, adu where they differ or do not say."""
    units = {str(u) for u in session["units"].values} - {""}
    return units.pop() if len(units) == 1 else "adu"


def graph_token(
    session: xr.Dataset,
    artifacts: xr.Dataset | None,
    dependencies: Sequence[Any],
    gathering: tuple[Any, ...],
    *more: Any,
) -> str:
    """Token of all that tiles are made from: frames, masks, what is solved, and what else there is."""
    columns = ("frame", "name", "source", "wcs", "height", "width", "band")
    return str(
        tokenize(
            [session[v].values.tolist() for v in columns], [a.name for a in dependencies], repr(gathering[1:]),
            None if artifacts is None else tokenize(artifacts["mask"].data), *more,
        )
    )  # fmt: skip


def lazy_solution(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    approval: xr.Dataset | None,
    pieces: Mapping[tuple[int, int, int], Sequence[Piece]],
    options: Options,
    rule: str,
) -> tuple[list[Any], tuple[Any, ...]]:
    """Dask arrays needed, and the task that gathers from them all that is solved and measured of the frames."""
    measures: dict[str, Any] = measures_of(session, approval, measures_needed(options.weighting, rule))
    if options.weighting == "keyword":
        measures["keyword"] = keyword_values(session, reaching(pieces), rule)
    return solution_task(session, registration, normalization, options, rule, measures)


def solution_task(
    session: xr.Dataset,
    registration: xr.Dataset,
    normalization: xr.Dataset,
    options: Options,
    rule: str,
    measures: Mapping[str, Any],
) -> tuple[list[Any], tuple[Any, ...]]:
    """Dask arrays needed, and the task that gathers the per-frame solution from them."""
    dependencies: list[Any] = []

    def argument(variable: Any) -> Any:
        data = getattr(variable, "data", variable)
        if not isinstance(data, da.Array):
            return np.asarray(data)
        whole = data.rechunk(-1, method="tasks")
        dependencies.append(whole)
        return (whole.name, *(0 for _ in whole.shape))

    arguments = [
        argument(registration["use"]), argument(registration["shift"]), argument(normalization["use"]),
        argument(normalization["scale"]), argument(normalization["offset"]), argument(normalization["noise"]),
        argument(_confident(normalization)),
        Names(tuple(measures)), *(argument(values) for values in measures.values()),
    ]  # fmt: skip
    noise = needs_noise(options.weighting) or options.rejection.method != "none" or options.combination == "median"
    names = Names(tuple(str(n) for n in session["name"].values))
    return dependencies, (gather, names, options.weighting, rule, noise, *arguments)
