"""Places of which the user knows that they show nothing but background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.coordinates import Angle
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel
from skyloom.ops.normalization.lattice import Lattice
from skyloom.ops.normalization.observations import Samples
from skyloom.ops.normalization.sky import Sampled

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """A disc on the sky (degrees)."""

    ra: float
    dec: float
    radius: float


def read_regions(texts: Sequence[str], *, what: str = "normalize: background") -> tuple[Region, ...]:
    """Read discs: "RA DEC RADIUS", in degrees or RA as 5:35:17 (hours) and DEC as -5:23:28.

    Parameters
    ----------
    texts
        As people write them.
    what
        Node and parameter, for the message.

    Raises
    ------
    ConfigError
        If a text is none.
    """
    out = []
    for text in texts:
        parts = str(text).split()
        try:
            ra, dec, radius = parts
            hours = "hourangle" if ":" in ra or "h" in ra else "deg"
            region = Region(Angle(ra, hours).deg, Angle(dec, "deg").deg, float(radius))
            if not (radius and region.radius > 0 and abs(region.dec) <= 90):
                raise ValueError(text)
        except ValueError as problem:
            raise ConfigError(
                f'{what} {text!r} is no place: write "RA DEC RADIUS" in degrees, such as '
                '"83.82 -5.39 0.1" or "5:35:17 -5:23:28 0.1"'
            ) from problem
        out.append(region)
    return tuple(out)


def sample_regions(regions: Sequence[Region], lattice: Lattice, grid: Grid) -> Sampled | None:
    """Superpixels whose centres lie in any of some regions, with the value 0; None where there are none.

    Variances are 1; what they count for is decided where the frames' are known.
    """
    size = lattice.step * lattice.group
    chosen: set[tuple[int, int]] = set()
    for region in regions:
        chosen |= _inside(region, lattice, grid, size)
    if not chosen:
        return None
    sy, sx = np.array(sorted(chosen), dtype=np.int64).T
    rows, columns = lattice.shape
    point = lattice.ids(sy, sx)
    order = np.argsort(point)
    nodes = len(surface.sample_positions())
    samples = Samples(
        point[order].astype(np.int32),
        np.zeros(len(order)),
        np.ones(len(order), np.float32),
        ((sx[order] + 0.5) / columns).astype(np.float32),
        ((sy[order] + 0.5) / rows).astype(np.float32),
    )
    return Sampled(samples, np.array([[columns * size, 0, -0.5], [0, rows * size, -0.5]]), np.ones((nodes, nodes)))


def _inside(region: Region, lattice: Lattice, grid: Grid, size: float) -> set[tuple[int, int]]:
    x, y = sky_to_pixel(grid.wcs, np.array([region.ra]), np.array([region.dec]))
    if not (np.isfinite(x[0]) and np.isfinite(y[0])):
        return set()
    reach = 1.2 * region.radius * 3600.0 / grid.pixel_scale + size
    low = np.floor((np.array([y[0], x[0]]) - reach) / size).astype(int)
    high = np.ceil((np.array([y[0], x[0]]) + reach) / size).astype(int)
    rows = np.arange(max(low[0], 0), min(high[0], lattice.shape[0] - 1) + 1)
    columns = np.arange(max(low[1], 0), min(high[1], lattice.shape[1] - 1) + 1)
    sy, sx = (g.ravel() for g in np.meshgrid(rows, columns, indexing="ij"))
    if not len(sy):
        return set()
    ra, dec = pixel_to_sky(grid.wcs, (sx + 0.5) * size - 0.5, (sy + 0.5) * size - 0.5)
    a, d, a0, d0 = (np.radians(q) for q in (ra, dec, region.ra, region.dec))
    away = 2 * np.arcsin(np.sqrt(np.sin((d - d0) / 2) ** 2 + np.cos(d) * np.cos(d0) * np.sin((a - a0) / 2) ** 2))
    near = np.degrees(away) <= region.radius
    # A point is a place too: the superpixel that holds it.
    if not near.any():
        near[np.argmin(away)] = True
    return set(zip(sy[near].tolist(), sx[near].tolist(), strict=True))
