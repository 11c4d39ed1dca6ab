"""What one frame says of itself: stars, noise, superpixels. Every frame is read once, whole, uninterpolated."""

from __future__ import annotations

import errno
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from skyloom.ops.blocks import Block, BlockLayer, Blocks, extended
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.measurement.cells import cell_statistics, pixel_noise
from skyloom.ops.measurement.detection import background_mesh, detect
from skyloom.ops.measurement.starlist import MIN_STARS, tabulate_stars
from skyloom.ops.registration.stars import STAR_QUANTITIES
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.unit_keys import digest

CELL_QUANTITIES = ("mean", "error", "valid")
SUMMARY_QUANTITIES = ("background", "noise", "fwhm", "ellipticity", "stars", "valid", "status")

OK, NO_PIXELS, UNREADABLE, FEW_STARS = 0, 1, 2, 3
"""Values of a frame's status."""

# Errors of the system that say something of the file. None: raised by a decompressor.
_LASTING = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM)
_LARGEST_STAR = 0.2  # FWHM in meshes: a wider "star" is what the mesh left of a nebula

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrameMeasurement:
    """What `measure_frame` returns, unpadded."""

    stars: Floats
    """(stars, STAR_QUANTITIES), brightest first."""
    cells: NDArray[np.float32]
    """(cells_y, cells_x, CELL_QUANTITIES)."""
    summary: Floats
    """(SUMMARY_QUANTITIES,)."""


def measure_frame(
    image: NDArray[np.float32],
    *,
    cell: int = 16,
    max_stars: int = 1000,
    threshold: float = 5.0,
    mesh: int = 64,
    aperture: float = 2.0,
    gain: float = math.nan,
    saturation: float = math.nan,
) -> FrameMeasurement:
    """Measure stars, noise and superpixels of one frame.

    Parameters
    ----------
    image
        float32, shape (rows, columns), C-contiguous, NaN = no data.
    cell, max_stars, threshold, mesh, aperture
        As in `measure`.
    gain
        e-/DN, NaN = unknown (then the stars' own photon noise is not in `flux_error`).
    saturation
        Level (frame units) from which a pixel is saturated; NaN = unknown (then plateaus tell).

    Returns
    -------
    FrameMeasurement
        Unpadded tables.

    Notes
    -----
    Positions and shapes: adaptive Gaussian moments (Bernstein & Jarvis 2002; Hirata & Seljak 2003), FWHM corrected
    for the frame's own profile. FWHM is that of the profile as the pixels see it.
    """
    location, sigma, noise = background_mesh(image, mesh=mesh)
    valid = float(np.isfinite(image[::3, ::3]).mean())
    if not math.isfinite(noise):
        # Too sparse for a mesh, perhaps not for a number: only a frame without a pixel has nothing to say.
        valid = float(np.isfinite(image).mean())
    masked = np.zeros(image.shape, np.bool_)
    summary = np.full(len(SUMMARY_QUANTITIES), np.nan)
    summary[4], summary[5] = 0, valid
    stars = np.empty((0, len(STAR_QUANTITIES)))
    if valid == 0.0 and not np.isfinite(image).any():
        summary[6] = NO_PIXELS
        return FrameMeasurement(stars, cell_statistics(image, masked, cell=cell), summary)
    summary[0] = float(np.median(location))
    summary[1] = noise
    summary[6] = FEW_STARS
    if noise > 0:
        found, level = detect(image, location, sigma, noise, mesh=mesh, threshold=threshold)
        stars, fwhm, ellipticity = tabulate_stars(
            image,
            found,
            masked,
            noise=noise,
            threshold=level,
            max_stars=max_stars,
            largest=mesh * _LARGEST_STAR,
            aperture=aperture,
            gain=gain,
            saturation=saturation,
        )
        clean = int(np.sum(stars[:, 8] == 0)) if len(stars) else 0
        summary[2], summary[3], summary[4] = fwhm, ellipticity, clean
        summary[1] = noise = _finite(pixel_noise(image, masked), noise)
        if clean >= MIN_STARS:
            summary[6] = OK
    cells = cell_statistics(image, masked, cell=cell, noise=_finite(noise, 0.0))
    return FrameMeasurement(stars, cells, summary)


def _finite(value: float, otherwise: float) -> float:
    return float(value) if math.isfinite(value) else otherwise


def measure_spec(spec: str, shape: tuple[int, int], **parameters: Any) -> FrameMeasurement:
    """Read one frame and measure it; one that is broken or gone has status 2, so that the others go on.

    Parameters
    ----------
    spec
        For `open_source`.
    shape
        Rows, columns the session promised.
    **parameters
        Of `measure_frame`.

    Raises
    ------
    OSError
        If the disk or the network failed: that may pass, whereas a status is kept for good.
    """
    try:
        image = open_source(spec).read(slice(0, shape[0]), slice(0, shape[1]))
        if image.shape != shape:
            raise DataError(f"the frame is {image.shape[0]} × {image.shape[1]}, not {shape[0]} × {shape[1]}")
        return measure_frame(image, **parameters)
    except DataError as problem:
        if isinstance(fault := problem.__cause__, OSError) and fault.errno not in _LASTING:
            raise OSError(fault.errno, str(problem)) from problem
        summary = np.full(len(SUMMARY_QUANTITIES), np.nan)
        summary[4:] = 0, 0, UNREADABLE
        cell = parameters["cell"]
        cells = np.full((-(-shape[0] // cell), -(-shape[1] // cell), 3), np.nan, np.float32)
        cells[..., 2] = 0
        return FrameMeasurement(np.empty((0, len(STAR_QUANTITIES))), cells, summary)


def _measure_padded(
    spec: str, shape: tuple[int, int], padded: tuple[int, int], parameters: dict[str, Any]
) -> tuple[Floats, NDArray[np.float32], Floats]:
    """Arrays of one frame with the leading dimension and the padding of the Dataset."""
    result = measure_spec(spec, shape, **parameters)
    stars = np.full((1, parameters["max_stars"], len(STAR_QUANTITIES)), np.nan)
    stars[0, : len(result.stars)] = result.stars
    cells = np.full((1, *padded, len(CELL_QUANTITIES)), np.nan, np.float32)
    cells[..., 2] = 0
    cells[0, : result.cells.shape[0], : result.cells.shape[1]] = result.cells
    return stars, cells, result.summary[None]


def _pick(results: tuple[Any, ...], index: int) -> Any:
    return results[index]


BYTES_PER_PIXEL = 14.0
"""Peak of a frame's task: pixels and detection image (float32), masks, and the reader's own copy."""
SOURCE_BYTES = 8.0
"""Of them, what reading takes: pixels and what they were decoded from. Of calibrated frames it is more."""
_FIXED_BYTES = 40e6
RATE = 18.0
"""Mpixel a second of each of two tasks at a time; one alone does 36, but sep holds the interpreter."""


def measure_cost(session: xr.Dataset, **parameters: Any) -> Cost:
    """Cost of `measure`: one unit a frame."""
    pixels = session["height"].values.astype(np.float64) * session["width"].values
    # Detection works on the pixels when reading is over.
    peak = max(BYTES_PER_PIXEL, float(session.attrs.get("source_bytes", SOURCE_BYTES)))
    return Cost(work=pixels / 1e6, read=4 * pixels, memory=peak * pixels + _FIXED_BYTES, rate=RATE)


def _keys(session: xr.Dataset, *, cell: int, **parameters: Any) -> NDArray[np.str_]:
    """What the measures of each frame depend on: its content, and how far they are padded."""
    columns = [session[v].values.tolist() for v in ("frame", "height", "width", "gain", "saturation")]
    padded = _padded(session, cell)
    return np.array([digest(padded, *row) for row in zip(*columns, strict=True)], dtype=np.str_)


def _padded(session: xr.Dataset, cell: int) -> tuple[int, int]:
    """Cells in y and x of the largest frame."""
    return (-(-int(session["height"].values.max()) // cell), -(-int(session["width"].values.max()) // cell))


def _lasting(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the frame could be read."""
    return bool(arrays["summary"][0, SUMMARY_QUANTITIES.index("status")] != UNREADABLE)


@register(version=1, unit=("frame",), cost=measure_cost, keys=_keys, lasting=_lasting)
def measure(
    session: xr.Dataset,
    *,
    cell: Annotated[int, Param(unit="px", low=4, high=256)] = 16,
    max_stars: Annotated[int, Param(low=10, high=20000)] = 1000,
    threshold: Annotated[float, Param(unit="sigma", low=1.5, high=1000)] = 5.0,
    background_mesh: Annotated[int, Param(unit="px", low=16, high=1024)] = 64,
    aperture: Annotated[float, Param(unit="FWHM", low=0.5, high=10)] = 2.0,
) -> xr.Dataset:
    """Measure stars, noise and superpixels of every frame.

    Parameters
    ----------
    session
        Table over `frame` from `ingest` (or from `calibrate`).
    cell
        Side of the square cells whose clipped means feed the normalization. Change it to more for very large
        frames (it saves memory in the solves), to less for frames smaller than some 500 pixels.
    max_stars
        Stars kept a frame, brightest first. Change it to more where panels overlap little and have few stars in
        common, to less to save memory with thousands of frames.
    threshold
        Detection limit in σ of the smoothed frame. Change it to less for narrowband frames with few stars, to more
        where noise or hot pixels are taken for stars.
    background_mesh
        Mesh of the background that is taken off to find stars; larger than the largest star. Change it to more
        where large bright stars or small galaxies disappear into the background, to less where nebula is full of
        structure.
    aperture
        Radius of the flux aperture in units of each frame's own FWHM, so that it encloses the same share of a
        star's light in good and bad seeing. Change it to less in crowded fields, to more for bright isolated
        stars.

    Returns
    -------
    xarray.Dataset
        Lazy, one task a frame: `stars` (frame, star, star_quantity) float64, NaN-padded; `cells` (frame, cell_y,
        cell_x, cell_quantity) float32; `summary` (frame, summary_quantity) float64. Flags of a star: 1 blended,
        2 near edge or NaN, 4 saturated. Status of a frame: 0 ok, 1 no valid pixels, 2 unreadable, 3 too few stars.

    Raises
    ------
    DataError
        If the session has no frames.

    Notes
    -----
    Reads each frame whole, once, and holds about 14 bytes a pixel of one frame a task. `flux` is the aperture sum
    above a local ring, `peak` the highest pixel above it; x and y count from 0 at pixel centres.
    """
    count = session.sizes["frame"]
    if not count:
        raise DataError("the session has no frames to measure")
    heights, widths = session["height"].values.astype(int), session["width"].values.astype(int)
    padded = _padded(session, cell)
    specs = [str(s) for s in session["source"].values]
    gains, saturations = session["gain"].values, session["saturation"].values
    common = {
        "cell": cell,
        "max_stars": max_stars,
        "threshold": threshold,
        "mesh": background_mesh,
        "aperture": aperture,
    }
    token = tokenize("measure", specs, heights, widths, gains, saturations, common)
    base = f"measure-{token}"

    def task(block: Block) -> tuple[Any, ...]:
        (i,) = block
        parameters = {**common, "gain": float(gains[i]), "saturation": float(saturations[i])}
        return (_measure_padded, specs[i], (int(heights[i]), int(widths[i])), padded, parameters)

    measured = HighLevelGraph({base: BlockLayer(base, Blocks((count,)), task)}, {base: set()})
    shapes = {
        "stars": ((max_stars, len(STAR_QUANTITIES)), np.float64, ("star", "star_quantity")),
        "cells": ((*padded, len(CELL_QUANTITIES)), np.float32, ("cell_y", "cell_x", "cell_quantity")),
        "summary": ((len(SUMMARY_QUANTITIES),), np.float64, ("summary_quantity",)),
    }
    variables = {}
    for index, (name, (shape, dtype, dims)) in enumerate(shapes.items()):
        key = f"measure-{name}-{token}"
        ones = (1,) * len(shape)

        def pick(block: Block, index: int = index) -> tuple[Any, ...]:
            return (_pick, (base, block[0]), index)

        picks = BlockLayer(key, Blocks((count, *ones)), pick)
        array = da.Array(
            extended(measured, picks, needs=base), key, ((1,) * count, *((n,) for n in shape)), dtype=dtype
        )
        variables[name] = (("frame", *dims), array)
    return xr.Dataset(
        variables,
        coords={
            "frame": session["frame"].values,
            "star_quantity": list(STAR_QUANTITIES),
            "cell_quantity": list(CELL_QUANTITIES),
            "summary_quantity": list(SUMMARY_QUANTITIES),
        },
        attrs={"cell": cell, "aperture": aperture},
    )
