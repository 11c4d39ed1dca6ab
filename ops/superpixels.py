"""Samples of the same sky from every frame: cells of frames → superpixels of one lattice on the canvas.

Differences of frames are unbiased in nebulosity only if both sides are means over the same sky. Frames keep means
over their own cells; here each cell map is reconstructed at the points of one lattice, points near any star of
any frame are dropped for all frames, and what is left is averaged over superpixels that a frame covers wholly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numba import njit
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.registration.stars import place_stars

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIDES = 32
"""Superpixels along the shorter side of a frame, unless the user chooses: ~1000 samples a frame at any size."""
LEAST_VALID = 0.3
"""Part of a cell's pixels that must have entered its mean."""
LEAST_POINTS = 0.25
"""Part of a superpixel's points that must be free of stars."""
MOST_DROPPED = 0.6
"""Part of a block of points that stars may take; beyond, only the brightest stars count there."""
STRUCTURE = 0.1
"""Error of a sample in units of the local change from cell to cell (PSF, mask and position differences)."""
MULTIPLICATIVE = 0.002
"""Error of a sample in units of its height above the sky (scale and flat errors)."""
_BLOCK = 16
_DEGREE = 5


@dataclass(frozen=True)
class FrameMap:
    """Canvas → frame as polynomials around the frame's centre, with derivatives."""

    centre: tuple[float, float]
    half: float
    x: Floats
    """(degree + 1, degree + 1), powers of canvas y first."""
    y: Floats
    error: float
    """Largest departure from the WCS (frame pixels) at the points of the fit."""
    bounds: tuple[float, float, float, float]
    """Canvas x and y the frame reaches: left, right, low, high."""
    placement: Floats
    """(2, 3): affine canvas x, y of (u, v, 1)."""
    area: Floats
    """J (frame pixels a canvas pixel) at `surface.sample_positions` of the frame, v first."""

    def grid(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        """Frame x, y and J on the points y[:, None], x[None, :] of the canvas."""
        size = len(self.x)
        s, t = (x - self.centre[0]) / self.half, (y - self.centre[1]) / self.half
        across, up = np.vander(s, size, increasing=True), np.vander(t, size, increasing=True)
        area = _determinant(
            up @ self.x @ _derivative(across).T,
            _derivative(up) @ self.x @ across.T,
            up @ self.y @ _derivative(across).T,
            _derivative(up) @ self.y @ across.T,
        )
        return up @ self.x @ across.T, up @ self.y @ across.T, area / self.half**2


def _derivative(powers: Floats) -> Floats:
    out = np.zeros_like(powers)
    out[:, 1:] = powers[:, :-1] * np.arange(1, powers.shape[1])
    return out


def _determinant(xx: Floats, xy: Floats, yx: Floats, yy: Floats) -> Floats:
    return np.abs(xx * yy - xy * yx)


def frame_map(header: str, shape: tuple[int, int], shift: Floats, grid: Grid) -> FrameMap | None:
    """Fit the mapping of one frame.

    Parameters
    ----------
    header
        WCS text of the frame.
    shape
        Rows, columns of the frame.
    shift
        (dx, dy) of the registration: true position = WCS position + shift (frame pixels).
    grid
        The canvas.

    Returns
    -------
    FrameMap or None
        None where the frame has no place on the canvas.
    """
    height, width = shape
    for degree in (_DEGREE, 9):
        side = np.linspace(-0.02, 1.02, 2 * degree + 3)
        u, v = (g.ravel() for g in np.meshgrid(side, side))
        fx, fy = u * (width - 1), v * (height - 1)
        cx, cy = _to_canvas(header, fx - shift[0], fy - shift[1], grid)
        if not (np.isfinite(cx).all() and np.isfinite(cy).all()):
            return None
        centre = (float(cx.mean()), float(cy.mean()))
        half = 0.5 * max(float(np.ptp(cx)), float(np.ptp(cy)), 1e-9)
        s, t = (cx - centre[0]) / half, (cy - centre[1]) / half
        power = [(j, i) for j in range(degree + 1) for i in range(degree + 1 - j)]
        design = np.stack([t**j * s**i for j, i in power], axis=-1)
        solution = np.linalg.lstsq(design, np.stack([fx, fy], axis=-1), rcond=None)[0]
        error = float(np.abs(design @ solution - np.stack([fx, fy], axis=-1)).max())
        if error < 0.05:
            break
    tables = np.zeros((2, degree + 1, degree + 1))
    for (j, i), both in zip(power, solution, strict=True):
        tables[:, j, i] = both
    affine = np.linalg.lstsq(np.stack([u, v, np.ones_like(u)], axis=-1), np.stack([cx, cy], axis=-1), rcond=None)[
        0
    ].T
    at = surface.sample_positions()
    gx, gy = np.meshgrid(at * (width - 1) - shift[0], at * (height - 1) - shift[1])
    px, py = _to_canvas(header, gx.ravel(), gy.ravel(), grid)
    s, t = (px - centre[0]) / half, (py - centre[1]) / half
    across, up = np.vander(s, degree + 1, increasing=True), np.vander(t, degree + 1, increasing=True)
    slopes = [
        np.einsum("nj,ji,ni->n", b, table, a)
        for table in tables
        for b, a in ((up, _derivative(across)), (_derivative(up), across))
    ]
    area = (_determinant(*slopes) / half**2).reshape(gx.shape)
    bounds = (float(cx.min()), float(cx.max()), float(cy.min()), float(cy.max()))
    return FrameMap(centre, half, tables[0], tables[1], error, bounds, affine, area)


def _to_canvas(header: str, x: Floats, y: Floats, grid: Grid) -> tuple[Floats, Floats]:
    return sky_to_pixel(grid.wcs, *pixel_to_sky(parse_wcs(header), x, y))


@dataclass(frozen=True)
class Lattice:
    """Regular points on the canvas, `group` × `group` of them to a superpixel."""

    step: float
    """Distance of points (canvas pixels), a frame's cell on average."""
    group: int
    shape: tuple[int, int]
    """Superpixels in y and x."""

    @property
    def points(self) -> tuple[int, int]:
        """Points in y and x."""
        return self.shape[0] * self.group, self.shape[1] * self.group

    def positions(self, first: int, stop: int) -> Floats:
        """Canvas coordinate of points along an axis."""
        return np.asarray((np.arange(first, stop) + 0.5) * self.step - 0.5, dtype=np.float64)

    def ids(self, sy: NDArray[np.int64], sx: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of superpixels, block by block: neighbours on the sky have near numbers."""
        across = -(-self.shape[1] // _BLOCK)
        block = (sy // _BLOCK) * across + sx // _BLOCK
        return np.asarray(block * _BLOCK**2 + (sy % _BLOCK) * _BLOCK + sx % _BLOCK)


def make_lattice(grid: Grid, *, cell: int, area: float, superpixel: float) -> Lattice:
    """Lattice for a canvas.

    Parameters
    ----------
    grid
        The canvas.
    cell
        Side of the frames' cells (frame pixels).
    area
        J: frame pixels a canvas pixel, typical of the frames.
    superpixel
        Side of a superpixel (frame pixels); taken to the nearest multiple of the cell.
    """
    step = cell / float(np.sqrt(area))
    group = max(1, round(superpixel / cell))
    rows, columns = (int(np.ceil(n / (step * group))) for n in grid.shape)
    return Lattice(step, group, (rows, columns))


@njit(nogil=True, cache=True, fastmath=False)
def _paint(x, y, reach, step, brightest):  # type: ignore[no-untyped-def]
    """Largest reach of the stars whose disc holds a point."""
    rows, columns = brightest.shape
    for k in range(len(x)):
        r = reach[k]
        low = max(int(np.ceil((y[k] - r + 0.5) / step - 0.5)), 0)
        high = min(int(np.floor((y[k] + r + 0.5) / step - 0.5)), rows - 1)
        left = max(int(np.ceil((x[k] - r + 0.5) / step - 0.5)), 0)
        right = min(int(np.floor((x[k] + r + 0.5) / step - 0.5)), columns - 1)
        for j in range(low, high + 1):
            dy = (j + 0.5) * step - 0.5 - y[k]
            for i in range(left, right + 1):
                dx = (i + 0.5) * step - 0.5 - x[k]
                if dx * dx + dy * dy <= r * r and r > brightest[j, i]:
                    brightest[j, i] = r


def drop_stars(lattice: Lattice, x: Floats, y: Floats, radius: Floats) -> Bools:
    """Points that no frame may use.

    Parameters
    ----------
    lattice
        The points.
    x, y, radius
        Canvas position and extent of every star of every frame (canvas pixels).

    Returns
    -------
    ndarray
        Shape `lattice.points`. A point is dropped within radius + half a step of a star; in blocks of 16 × 16
        where that would take more than `MOST_DROPPED`, small stars are let through until it does not.
    """
    brightest = np.zeros(lattice.points, dtype=np.float32)
    _paint(x, y, (radius + 0.5 * lattice.step).astype(np.float32), lattice.step, brightest)
    rows, columns = brightest.shape
    dropped = brightest > 0
    keep = 1.0 - MOST_DROPPED
    for top in range(0, rows, _BLOCK):
        strip = brightest[top : top + _BLOCK]
        padded = np.pad(strip, ((0, 0), (0, -columns % _BLOCK)), constant_values=np.inf)
        blocks = padded.reshape(len(strip), -1, _BLOCK).transpose(1, 0, 2).reshape(-1, len(strip) * _BLOCK)
        real = np.full(len(blocks), blocks.shape[1])
        real[-1] -= (-columns % _BLOCK) * len(strip)
        ordered = np.sort(blocks, axis=1)
        index = np.maximum(np.ceil(keep * real).astype(np.int64) - 1, 0)
        limit = np.repeat(ordered[np.arange(len(blocks)), index], _BLOCK)[:columns]
        dropped[top : top + _BLOCK] &= strip > limit
    return dropped


def star_extents(
    session: xr.Dataset,
    stars: Floats,
    noise: Floats,
    fwhm: Floats,
    grid: Grid,
    *,
    shift: Floats,
    use: Bools,
    area: float,
) -> tuple[Floats, Floats, Floats]:
    """Canvas positions and radii of all stars of all frames, whatever their flags.

    Parameters
    ----------
    session, stars, grid, shift, use
        As in `stars.place_stars`; star quantity 7 is the peak above the background.
    noise, fwhm
        (frame,) of the measurement's summary (frame units, frame pixels).
    area
        J: frame pixels a canvas pixel.

    Returns
    -------
    x, y, radius
        Canvas pixels. The radius is where a Moffat profile (β = 3) falls to a fifth of the pixel noise.
    """
    found = place_stars(session, stars, grid, shift=shift, use=use, flags=7)
    known = np.where(noise > 0, noise, np.nan)
    peak = stars[found.frame, found.row, 7] / known[found.frame]
    width = np.where(np.isfinite(fwhm), fwhm, np.nanmedian(fwhm) if np.isfinite(fwhm).any() else 3.0)
    radius = 0.98 * width[found.frame] * np.sqrt(np.maximum(np.cbrt(5.0 * np.maximum(peak, 0.0)) - 1.0, 0.5))
    radius = np.nan_to_num(radius / np.sqrt(area), nan=0.0)
    return found.x, found.y, radius


@dataclass(frozen=True)
class Samples:
    """Superpixels of one frame."""

    point: NDArray[np.int64]
    """`Lattice.ids`."""
    value: Floats
    """J·d: frame units a canvas pixel."""
    variance: Floats
    u: NDArray[np.float32]
    v: NDArray[np.float32]

    def __len__(self) -> int:
        return int(self.point.size)


def no_samples() -> Samples:
    """Return what a frame without usable cells has."""
    none = np.empty(0)
    return Samples(np.empty(0, np.int64), none, none, none.astype(np.float32), none.astype(np.float32))


def fill_holes(mean: Floats) -> Floats:
    """Fill single holes of a map from opposite neighbours (exact for planes), twice; larger ones stay NaN."""
    out = mean.copy()
    for _ in range(2):
        hole = ~np.isfinite(out)
        if not hole.any():
            break
        padded = np.pad(out, 1, constant_values=np.nan)
        rows, columns = out.shape
        total, count = np.zeros_like(out), np.zeros_like(out)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            one = padded[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]
            other = padded[1 - dy : 1 - dy + rows, 1 - dx : 1 - dx + columns]
            pair = one + other
            good = np.isfinite(pair)
            total[good] += 0.5 * pair[good]
            count += good
        new = hole & (count > 0)
        out[new] = total[new] / count[new]
    return out


def extend(mean: Floats) -> Floats:
    """One more row and column on each side, by the parabola through the last three."""
    for _ in range(2):
        first = 3 * mean[0] - 3 * mean[1] + mean[2]
        last = 3 * mean[-1] - 3 * mean[-2] + mean[-3]
        mean = np.concatenate([first[None], mean, last[None]]).T
    return mean


def smooth(mean: Floats) -> Floats:
    """Take off what cells cannot carry: ¼, ½, ¼ along both axes, along the rim only at the outermost cells.

    Structure near two cells comes out of any interpolation by the phase of the cells, differently in every frame.
    What a smooth sky loses is the same for all frames, however they are turned.
    """
    for _ in range(2):
        inner = 0.25 * mean[:-2] + 0.5 * mean[1:-1] + 0.25 * mean[2:]
        mean = np.concatenate([mean[:1], inner, mean[-1:]]).T
    return mean


def _cubic(t: Floats) -> Floats:
    """Keys' convolution weights (a = −½) of the four cells around a point; exact for parabolas."""
    return np.stack(
        [
            ((-0.5 * t + 1.0) * t - 0.5) * t,
            (1.5 * t - 2.5) * t * t + 1.0,
            ((-1.5 * t + 2.0) * t + 0.5) * t,
            (0.5 * t - 0.5) * t * t,
        ]
    )


def sample_frame(
    cells: NDArray[np.float32],
    shape: tuple[int, int],
    cell: int,
    mapping: FrameMap,
    lattice: Lattice,
    dropped: Bools,
) -> Samples:
    """Superpixels of one frame.

    Parameters
    ----------
    cells
        (cell_y, cell_x, 3): mean, error, valid fraction, from pixel (0, 0) on; may be padded.
    shape
        Rows, columns of the frame.
    cell
        Side of a cell (pixels).
    mapping
        Canvas → frame.
    lattice, dropped
        The points, and those that no frame may use (`drop_stars`).

    Returns
    -------
    Samples
        Only superpixels which the frame covers wholly.
    """
    height, width = shape
    # A cell cut by the frame's edge has its centre elsewhere.
    cells = cells[: height // cell, : width // cell].astype(np.float64)
    rows, columns = cells.shape[:2]
    if min(rows, columns) < 3:
        return no_samples()
    good = (cells[..., 2] >= LEAST_VALID) & np.isfinite(cells[..., 0]) & np.isfinite(cells[..., 1])
    if not good.any():
        return no_samples()
    mean = fill_holes(np.where(good, cells[..., 0], np.nan))
    noise = np.where(good, cells[..., 1], np.nan) ** 2 + _structure(mean)

    size = lattice.step * lattice.group
    left, right, low, high = mapping.bounds
    sx0, sx1 = max(int((left + 0.5) // size), 0), min(int((right + 0.5) // size) + 1, lattice.shape[1])
    sy0, sy1 = max(int((low + 0.5) // size), 0), min(int((high + 0.5) // size) + 1, lattice.shape[0])
    if sx0 >= sx1 or sy0 >= sy1:
        return no_samples()
    x = lattice.positions(sx0 * lattice.group, sx1 * lattice.group)
    y = lattice.positions(sy0 * lattice.group, sy1 * lattice.group)
    fx, fy, area = mapping.grid(x, y)
    cx, cy = (fx + 0.5) / cell - 0.5, (fy + 0.5) / cell - 0.5
    inside = (cx >= 0) & (cx <= columns - 1) & (cy >= 0) & (cy <= rows - 1)
    free = ~dropped[sy0 * lattice.group : sy1 * lattice.group, sx0 * lattice.group : sx1 * lattice.group]

    take = inside & free
    ix = np.minimum(cx[take].astype(np.int64), columns - 2)
    iy = np.minimum(cy[take].astype(np.int64), rows - 2)
    tx, ty = cx[take] - ix, cy[take] - iy
    padded = extend(smooth(mean))
    wx, wy = _cubic(tx), _cubic(ty)
    value, spread = np.zeros(len(ix)), np.zeros(len(ix))
    for j in range(4):
        for i in range(4):
            value += wy[j] * wx[i] * padded[iy + j, ix + i]
    for j, sy in enumerate((1 - ty, ty)):
        for i, sx in enumerate((1 - tx, tx)):
            # A cell that does not count for the point may be missing.
            weight = sy * sx
            spread += np.where(weight > 0, weight * noise[iy + j, ix + i], 0.0)
    fine = np.isfinite(value) & np.isfinite(spread)

    def grouped(of_points: Floats) -> Floats:
        """Sums over superpixels of something known at `take`."""
        full = np.zeros(take.shape)
        full[take] = of_points
        g = lattice.group
        return np.asarray(full.reshape(sy1 - sy0, g, sx1 - sx0, g).sum(axis=(1, 3)))

    def counted(mask: Bools) -> NDArray[np.int64]:
        g = lattice.group
        return np.asarray(mask.reshape(sy1 - sy0, g, sx1 - sx0, g).sum(axis=(1, 3)))

    unmasked, outside, count = counted(free), counted(free & ~inside), grouped(fine.astype(np.float64))
    # Holes of one frame inside a superpixel are let pass when small; its rim must be the same for all.
    whole = (outside == 0) & (unmasked >= max(1.0, LEAST_POINTS * lattice.group**2)) & (count >= 0.8 * unmasked)
    number = np.maximum(count, 1.0)
    scaled = area[take]
    total = grouped(np.where(fine, value * scaled, 0.0)) / number
    variance = grouped(np.where(fine, spread * scaled**2, 0.0)) / number**2
    u = grouped(np.where(fine, fx[take], 0.0)) / number / (width - 1)
    v = grouped(np.where(fine, fy[take], 0.0)) / number / (height - 1)
    sy, sx = np.nonzero(whole)
    level = float(np.median(total[sy, sx])) if len(sy) else 0.0
    # Frames without noise (simulated, masters) must still have a finite weight.
    rounding = (1e-7 * level) ** 2 + np.finfo(np.float64).tiny
    return Samples(
        lattice.ids(sy + sy0, sx + sx0),
        total[sy, sx],
        variance[sy, sx] + (MULTIPLICATIVE * (total[sy, sx] - level)) ** 2 + rounding,
        u[sy, sx].astype(np.float32),
        v[sy, sx].astype(np.float32),
    )


def _structure(mean: Floats) -> Floats:
    """Variance of cells for what changes within them: slope of the map without its plane."""
    rows, columns = mean.shape
    v, u = (g - 0.5 for g in np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij"))
    good = np.isfinite(mean)
    design = np.stack([np.ones_like(u), u, v], axis=-1)
    plane = design @ np.linalg.lstsq(design[good], mean[good], rcond=None)[0]
    slope_y, slope_x = np.gradient(mean - plane)
    return np.asarray(STRUCTURE**2 * np.nan_to_num(slope_x**2 + slope_y**2))
