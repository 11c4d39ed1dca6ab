"""Where a frame's pixels lie on the canvas: one smooth map a frame instead of many look-ups in its WCS."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel

Floats = NDArray[np.float64]

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
