"""Places on a canvas that the user names: discs and boxes on the sky or in pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel
from skyloom.ops.normalization.regions import read_regions

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Place:
    """A disc or a box."""

    x: float
    """Right ascension (degrees), or column (pixels)."""
    y: float
    width: float
    """Degrees or pixels; of a disc its diameter."""
    height: float
    disc: bool
    pixels: bool


def read_places(texts: Sequence[str], *, what: str) -> tuple[Place, ...]:
    """Read "RA DEC RADIUS" or "RA DEC WIDTH HEIGHT" (degrees, RA also as 5:35:17), or "X Y RADIUS px" and such.

    Parameters
    ----------
    texts
        As people write them.
    what
        Node and parameter, for the message.

    Raises
    ------
    ConfigError
        If a text is no place.
    """
    places = []
    for text in texts:
        parts = str(text).split()
        pixels = parts[-1:] == ["px"]
        parts = parts[:-1] if pixels else parts
        try:
            sizes = [float(p) for p in parts[2:]]
            if len(sizes) not in (1, 2) or not all(0 < s < np.inf for s in sizes):
                raise ValueError(text)
            if pixels:
                x, y = float(parts[0]), float(parts[1])
            else:
                region = read_regions([" ".join([*parts[:2], "1"])], what=what)[0]
                x, y = region.ra, region.dec
        except (ValueError, ConfigError) as problem:
            raise ConfigError(
                f'{what} {text!r} is no place: write "RA DEC RADIUS" or "RA DEC WIDTH HEIGHT" in degrees, or '
                '"X Y RADIUS px" or "X Y WIDTH HEIGHT px" in canvas pixels'
            ) from problem
        disc = len(sizes) == 1
        width, height = (2 * sizes[0], 2 * sizes[0]) if disc else sizes
        places.append(Place(x, y, width, height, disc, pixels))
    return tuple(places)


def check_places(places: Sequence[Place], grid: Grid, *, what: str) -> None:
    """Refuse places on the sky of a canvas that is not on it.

    Raises
    ------
    ConfigError
        If there is such a place.
    """
    if not grid.on_sky and any(not p.pixels for p in places):
        raise ConfigError(
            f"{what}: nothing says where on the sky this canvas is; give the place in canvas pixels, such as "
            '"400 300 50 px"'
        )


def cells_within(places: Sequence[Place], grid: Grid, cell: int) -> Mask:
    """Cells of a canvas whose centre lies in any of the places; of a place without one the cell that holds it.

    Parameters
    ----------
    places
        Which.
    grid
        The canvas.
    cell
        Side of a cell (pixels).

    Returns
    -------
    ndarray
        Shape (cells_y, cells_x).
    """
    rows, columns = (-(-n // cell) for n in grid.shape)
    found = np.zeros((rows, columns), dtype=bool)
    y, x = (np.asarray((np.arange(n) + 0.5) * cell - 0.5, dtype=np.float64) for n in (rows, columns))
    for place in places:
        if place.pixels:
            dx, dy = np.broadcast_arrays(x[None, :] - place.x, y[:, None] - place.y)
            inside = _inside(place, dx, dy)
            centre = np.array([place.x]), np.array([place.y])
        else:
            inside = np.zeros_like(found)
            for row in range(rows):
                ra, dec = pixel_to_sky(grid.wcs, x, np.full(columns, y[row]))
                inside[row] = _inside(place, *_offsets(place, ra, dec))
            centre = sky_to_pixel(grid.wcs, np.array([place.x]), np.array([place.y]))
        if not inside.any() and np.isfinite(centre[0][0]):
            at = int((centre[1][0] + 0.5) // cell), int((centre[0][0] + 0.5) // cell)
            if 0 <= at[0] < rows and 0 <= at[1] < columns:
                inside[at] = True
        found |= inside
    return found


def _inside(place: Place, dx: Floats, dy: Floats) -> Mask:
    if place.disc:
        return np.asarray(np.hypot(dx, dy) <= 0.5 * place.width)
    return np.asarray((np.abs(dx) <= 0.5 * place.width) & (np.abs(dy) <= 0.5 * place.height))


def _offsets(place: Place, ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    """East and north of the place (degrees); of a disc the distance and nothing."""
    if not place.disc:
        east = (ra - place.x + 180.0) % 360.0 - 180.0
        return np.asarray(east * np.cos(np.radians(dec))), np.asarray(dec - place.y)
    a, d, a0, d0 = (np.radians(q) for q in (ra, dec, place.x, place.y))
    away = 2 * np.arcsin(np.sqrt(np.sin((d - d0) / 2) ** 2 + np.cos(d) * np.cos(d0) * np.sin((a - a0) / 2) ** 2))
    return np.asarray(np.degrees(away)), np.zeros_like(away)
