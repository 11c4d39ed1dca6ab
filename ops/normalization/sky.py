"""What the frames show of one sky: each laid on the canvas, then sampled at the points all have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.grid import Grid
from skyloom.ops.normalization.frame_map import FrameMap, frame_map
from skyloom.ops.normalization.lattice import Lattice, drop_stars, make_lattice
from skyloom.ops.normalization.observations import Samples
from skyloom.ops.normalization.sightings import FrameStars, Sightings, frame_stars, match_sightings, star_extents
from skyloom.ops.normalization.superpixels import SIDES, sample_frame

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Placed:
    """One frame on the canvas."""

    shape: tuple[int, int]
    mapping: FrameMap
    stars: FrameStars
    fwhm: float
    noise: float = float("nan")
    """Of a pixel (frame units)."""


@dataclass(frozen=True)
class Sky:
    """What every frame's samples need to know of the others."""

    lattice: Lattice
    dropped: Bools


@dataclass(frozen=True)
class Sampled:
    """One frame at the points of the lattice."""

    samples: Samples
    placement: Floats
    area: Floats
    """Of the `FrameMap`."""
    noise: float = float("nan")
    """Of a pixel (frame units); NaN: not known."""


def place_frame(
    header: str, shape: tuple[int, int], table: Floats, noise: float, fwhm: float, shift: Floats, grid: Grid
) -> Placed | None:
    """Lay a frame on the canvas.

    Parameters
    ----------
    header, shape
        WCS text; rows, columns.
    table
        (star, quantity) of a measurement, NaN-padded.
    noise, fwhm
        Of the measurement's summary (frame units, frame pixels).
    shift
        (dx, dy) of the registration.
    grid
        The canvas.

    Returns
    -------
    Placed or None
        None where the frame has no place on the canvas.
    """
    mapping = frame_map(header, shape, shift, grid) if header else None
    if mapping is None:
        return None
    stars = frame_stars(header, table, noise, shift, grid, shape=shape)
    side = float(np.median(mapping.area)) ** -0.5
    return Placed(shape, mapping, replace(stars, fwhm=fwhm if fwhm > 0 else 3.0, pixel=side), fwhm, noise)


def plan_sky(
    placed: Sequence[Placed | None],
    rows: NDArray[np.int64],
    grid: Grid,
    *,
    cell: int,
    superpixel: float | None,
    images: Sequence[Placed] = (),
    first_image: int = 0,
) -> tuple[Sky, Sightings]:
    """Lattice of the canvas, the points near stars, and the stars that frames have in common.

    Parameters
    ----------
    placed, rows
        Frames and their rows in the session; None: not used.
    grid
        The canvas.
    cell, superpixel
        Side of a cell and of a superpixel (frame pixels); None for about 32 superpixels a side.
    images, first_image
        Images whose stars are matched too; rows they count as, from the first on.
    """
    here = [p for p in placed if p is not None]
    middle = [p.mapping.area[p.mapping.area.shape[0] // 2, p.mapping.area.shape[1] // 2] for p in here]
    area = float(np.median(middle)) if here else 1.0
    if superpixel is None:
        superpixel = (float(np.median([min(p.shape) for p in here])) if here else cell * SIDES) / SIDES
    lattice = make_lattice(grid, cell=cell, area=area, superpixel=superpixel)
    dropped = drop_stars(
        lattice, *star_extents([p.stars for p in here], np.array([p.fwhm for p in here]), area=area)
    )
    row = rows[[p is not None for p in placed]].astype(np.int32)
    row = np.concatenate([row, first_image + np.arange(len(images), dtype=np.int32)])
    found = match_sightings([p.stars for p in here], [p.stars for p in images])
    return Sky(lattice, dropped), replace(found, frame=row[found.frame])


def sample(cells: NDArray[np.float32], placed: Placed | None, sky: Sky, cell: int) -> Sampled | None:
    """Superpixels of one frame; None where it is not used.

    Parameters
    ----------
    cells
        (cell_y, cell_x, 3) of a measurement.
    placed, sky
        The frame, and the points.
    cell
        Side of a cell (frame pixels).
    """
    if placed is None:
        return None
    samples = sample_frame(cells, placed.shape, cell, placed.mapping, sky.lattice, sky.dropped)
    return Sampled(samples, placed.mapping.placement, placed.mapping.area, placed.noise)
