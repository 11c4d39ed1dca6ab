"""Images from outside the session: references and anchors, of any scale and in any units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.measurement.measure import BYTES_PER_PIXEL, measure_frame
from skyloom.ops.normalization.lattice import drop_stars
from skyloom.ops.normalization.sightings import star_extents
from skyloom.ops.normalization.sky import Placed, Sampled, Sky, place_frame, sample
from skyloom.ops.session.ingest import ingest

LEAST_CELL = 2
"""Side of an image's cells (px) at least: of fewer pixels no mean can leave out a bad one."""
_MOST_STARS = 20000
IMAGE_BYTES = 4 + BYTES_PER_PIXEL
"""Peak for a pixel of an image: as it is read, and while it is measured."""
_MARGIN = 24
"""Pixels of the image beyond the canvas that are read with it."""


@dataclass(frozen=True)
class Image:
    """An image of the sky with a WCS."""

    name: str
    source: str
    """For `open_source`."""
    shape: tuple[int, int]
    wcs: str
    content: str = ""
    """Content id."""


@dataclass(frozen=True)
class PlacedImage:
    """The part of an image that lies on the canvas."""

    placed: Placed
    cells: NDArray[np.float32]
    cell: int


def open_images(paths: Sequence[str], what: str) -> tuple[Image, ...]:
    """Find images by their paths; headers only.

    Parameters
    ----------
    paths
        Files in any format that frames may have.
    what
        What they are for, as errors name it.

    Raises
    ------
    DataError
        If a file cannot be read, or says not where it points.
    """
    out = []
    for path in paths:
        try:
            found = ingest([path], take="all")
        except DataError as problem:
            raise DataError(f"normalize: {what} {path}: {problem}") from problem
        image = _image(found)
        if not image.wcs:
            raise DataError(f"normalize: {what} {path} has no WCS; solve it first")
        out.append(image)
    return tuple(out)


def _image(found: xr.Dataset) -> Image:
    name, source, wcs = (str(found[k].values[0]) for k in ("name", "source", "wcs"))
    shape = (int(found["height"].values[0]), int(found["width"].values[0]))
    return Image(name, source, shape, wcs, str(found["frame"].values[0]))


def given_image(mode: str, reference: str) -> bool:
    """Whether the reference of `normalize` is an image of the user's."""
    return mode in ("reference", "linear") and reference not in ("panel", "canvas")


def image_bytes(images: Sequence[Image], grid: Grid) -> float:
    """Peak memory of reading and measuring the images, one after the other."""
    windows = [_window(image, grid) for image in images]
    return max((float(np.prod([max(s.stop - s.start, 0) for s in w])) for w in windows), default=0.0) * IMAGE_BYTES


def _window(image: Image, grid: Grid) -> tuple[slice, slice]:
    """Rows and columns of an image that lie on the canvas; empty where it does not reach it."""
    wcs = parse_wcs(image.wcs)
    rows, columns = grid.shape
    y, x = (g.ravel() for g in np.meshgrid(np.linspace(0, rows - 1, 17), np.linspace(0, columns - 1, 17)))
    ix, iy = sky_to_pixel(wcs, *pixel_to_sky(grid.wcs, x, y))
    good = np.isfinite(ix) & np.isfinite(iy)
    window = []
    for along, size in ((iy[good], image.shape[0]), (ix[good], image.shape[1])):
        low = max(math.floor(along.min(initial=np.inf)) - _MARGIN, 0) if len(along) else 0
        high = min(math.ceil(along.max(initial=-np.inf)) + _MARGIN, size) if len(along) else 0
        window.append(slice(low, max(high, low)))
    return window[0], window[1]


def place_image(image: Image, grid: Grid, *, cell: int) -> PlacedImage:
    """Read the part of an image that lies on the canvas, and measure it as frames are.

    Parameters
    ----------
    image, grid
        The image and the canvas.
    cell
        Side of the frames' cells (canvas pixels); the image's cells are of the same size on the sky, where they
        can be.

    Raises
    ------
    DataError
        If it does not reach the canvas.
    """
    window = _window(image, grid)
    if any(w.stop - w.start < 3 * LEAST_CELL for w in window):
        raise DataError(f"normalize: {image.name} does not reach the canvas")
    wcs = parse_wcs(image.wcs)
    pixels = open_source(image.source).read(*window)
    cut = wcs_header(wcs.slice(window))
    scale = float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix)))) * 3600.0
    side = max(LEAST_CELL, round(cell * grid.pixel_scale / scale))
    measured = measure_frame(np.ascontiguousarray(pixels), cell=side, max_stars=_MOST_STARS)
    placed = place_frame(
        cut,
        pixels.shape,
        measured.stars,
        float(measured.summary[1]),
        float(measured.summary[2]),
        np.zeros(2),
        grid,
    )
    if placed is None:
        raise DataError(f"normalize: the WCS of {image.name} does not reach all of the canvas")
    return PlacedImage(placed, measured.cells, side)


def sample_image(image: PlacedImage, sky: Sky) -> Sampled | None:
    """Superpixels of an image on the points of the frames, less those near its own stars.

    The frames keep theirs: the stars of an image of low resolution may cover everything.
    """
    middle = image.placed.mapping.area
    area = float(middle[middle.shape[0] // 2, middle.shape[1] // 2])
    near = drop_stars(sky.lattice, *star_extents([image.placed.stars], np.array([image.placed.fwhm]), area=area))
    return sample(image.cells, image.placed, Sky(sky.lattice, sky.dropped | near), image.cell)
