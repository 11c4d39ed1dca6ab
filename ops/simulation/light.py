"""Noise-free light on the detector: stars, nebula, foreground, flat panels, satellites; and cosmic rays.

d = scale · (stars ⊗ PSF + nebula · pixel area) + background(u, v), in DN before the flat field.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.simulation.camera import Camera, Exposure
from skyloom.ops.simulation.hashing import random_stream
from skyloom.ops.simulation.projection import place_pixels
from skyloom.ops.simulation.sky import SkyModel
from skyloom.ops.simulation.stars import STAR_FLOOR, add_stars, star_reach

FLAT_COLOUR = {"R": 0.6, "G": 1.0, "B": 0.75}
"""Light of a flat panel behind each colour of a filter array."""
_ROWS = 64
_COSMIC, _TRAIL = 14, 15


def light(
    camera: Camera, exposure: Exposure, sky: SkyModel | None, rows: slice, columns: slice
) -> NDArray[np.float64]:
    """Noise-free light of a window (DN before flat, bias and dark), without cosmic rays.

    Parameters
    ----------
    camera, exposure
        What looks.
    sky
        What it looks at; may be None when the exposure has no pointing.
    rows, columns
        Window, explicit bounds, step 1.
    """
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    out = np.full(shape, exposure.flat_level)
    if exposure.pointing is None or sky is None:
        if camera.bayer and exposure.flat_level:
            for name, phase in bayer_phases(camera, rows, columns):
                out[phase] *= FLAT_COLOUR[name]
        return out
    bands = camera.bands or (exposure.band,)
    matrix = exposure.pointing.matrix(sky.axes)
    planes = np.zeros((len(bands), *shape))
    table, x, y = stars_near(exposure, sky, matrix, rows, columns)
    for plane, band in zip(planes, bands, strict=True):
        flux = exposure.scale * sky.star_flux(table, band)
        if not exposure.scale:
            continue
        steps = smear_steps(exposure)
        for t in ((np.arange(steps) + 0.5) / steps - 0.5).tolist():
            px, py = x + t * exposure.smear[0], y + t * exposure.smear[1]
            floor = STAR_FLOOR * exposure.scale / steps
            add_stars(plane, rows.start, columns.start, px, py, flux / steps, exposure.fwhm, floor)
    # |matrix · (x, y, 1)| is 1 / cos of the distance from the tangent point.
    pointing = exposure.pointing
    pixel = exposure.scale * pointing.scale**2
    lens = (pointing.x, pointing.y, pointing.barrel / pointing.half**3)
    u = np.arange(columns.start, columns.stop) / max(camera.width - 1, 1)
    v = np.arange(rows.start, rows.stop)[:, None] / max(camera.height - 1, 1)
    for start in range(0, shape[0], _ROWS):
        strip = slice(start, min(start + _ROWS, shape[0]))
        if sky.nebula > 0:
            px, py = np.empty((2, strip.stop - strip.start, shape[1]))
            area = place_pixels(matrix, rows.start + start, columns.start, px, py, pixel, lens)
            planes[:, strip] += sky.plane_brightness(px, py, bands) * area
        out[strip] += exposure.background.at(u, v[strip])
    if camera.bayer:
        for name, phase in bayer_phases(camera, rows, columns):
            out[phase] += planes["RGB".index(name)][phase]
    else:
        out += planes[0]
    if exposure.trail > 0:
        x0, y0, angle = trail_line(camera, exposure)
        sigma = exposure.fwhm / 2.3548
        add_trail(x0, y0, angle, sigma, exposure.trail, rows.start, columns.start, out)
    return out


def smear_steps(exposure: Exposure) -> int:
    """Images of a star that make its trail."""
    return max(1, math.ceil(3.0 * math.hypot(*exposure.smear) / exposure.fwhm))


def bayer_phases(camera: Camera, rows: slice, columns: slice) -> list[tuple[str, tuple[slice, slice]]]:
    """Colour and pixels (within a window) of each place of the colour filter array."""
    return [
        (name, (slice((k // 2 - rows.start) % 2, None, 2), slice((k % 2 - columns.start) % 2, None, 2)))
        for k, name in enumerate(camera.bayer)
    ]


def stars_near(
    exposure: Exposure, sky: SkyModel, matrix: NDArray[np.float64], rows: slice, columns: slice
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Stars whose images may reach a window: rows of `SkyModel.plane_stars`, and x, y of each (px)."""
    assert exposure.pointing is not None
    margin = star_reach(exposure.fwhm, sky.star_bright) + 0.5 * math.hypot(*exposure.smear)
    t = np.linspace(0.0, 1.0, 17)
    xs = columns.start - margin + t * (columns.stop - columns.start + 2 * margin)
    ys = rows.start - margin + t * (rows.stop - rows.start + 2 * margin)
    px, py = exposure.pointing.undistorted(*np.meshgrid(xs, ys))
    vectors = matrix @ np.stack([px.ravel(), py.ravel(), np.ones(px.size)])
    u, v = sky.plane_of(vectors / np.linalg.norm(vectors, axis=0), np.eye(3))
    table = sky.plane_stars((float(u.min()), float(v.min())), (float(u.max()), float(v.max())))
    ray = np.linalg.solve(matrix, sky.unplane(table[:, 0], table[:, 1]))
    ahead = ray[2] > 0
    ray = ray[:, ahead]
    x, y = exposure.pointing.distorted(ray[0] / ray[2], ray[1] / ray[2])
    seen = np.isfinite(x)
    return table[ahead][seen], x[seen], y[seen]


def cosmic_rays(camera: Camera, exposure: Exposure) -> NDArray[np.float64]:
    """Hits of a frame: rows of x, y, dx, dy (px) and electrons; half of them points, half short tracks."""
    random = random_stream(camera.seed, exposure.index, _COSMIC)
    count = int(random.poisson(exposure.cosmic_rays * camera.height * camera.width / 1e6))
    length = np.where(random.uniform(size=count) < 0.5, 0.0, 1.0 + random.exponential(4.0, count))
    angle = random.uniform(0.0, 2.0 * np.pi, count)
    return np.stack(
        [
            random.uniform(-0.5, camera.width - 0.5, count),
            random.uniform(-0.5, camera.height - 0.5, count),
            length * np.cos(angle),
            length * np.sin(angle),
            2000.0 * np.exp(random.normal(0.0, 0.7, count)) * (1.0 + 0.5 * length),
        ],
        axis=-1,
    )


def trail_line(camera: Camera, exposure: Exposure) -> tuple[float, float, float]:
    """Point (x, y, px) and angle (rad) of a frame's satellite trail."""
    random = random_stream(camera.seed, exposure.index, _TRAIL)
    x, y = random.uniform(0.25, 0.75, 2)
    return float(x) * camera.width, float(y) * camera.height, float(random.uniform(0.0, np.pi))


def cosmic_charge(camera: Camera, exposure: Exposure, rows: slice, columns: slice) -> NDArray[np.float64]:
    """Electrons that cosmic rays leave in a window."""
    out = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
    if exposure.cosmic_rays > 0:
        tracks(cosmic_rays(camera, exposure), rows.start, columns.start, out)
    return out


@njit(nogil=True, cache=True, fastmath=False)
def tracks(hits: NDArray[np.float64], row: int, column: int, out: NDArray[np.floating[Any]]) -> None:
    """Add straight tracks (x, y, dx, dy, amount) to a window, in steps of a quarter pixel."""
    for n in range(hits.shape[0]):
        x, y, dx, dy, electrons = hits[n]
        steps = 1 + int(4.0 * math.hypot(dx, dy))
        for k in range(steps):
            t = (k + 0.5) / steps
            c = math.floor(x + t * dx + 0.5) - column
            r = math.floor(y + t * dy + 0.5) - row
            if 0 <= r < out.shape[0] and 0 <= c < out.shape[1]:
                out[r, c] += electrons / steps


@njit(nogil=True, cache=True, fastmath=False)
def add_trail(
    x0: float,
    y0: float,
    angle: float,
    sigma: float,
    peak: float,
    row: int,
    column: int,
    out: NDArray[np.floating[Any]],
) -> None:
    """Add a straight trail through (x0, y0) with a Gaussian profile and a slow tumble."""
    c, s = math.cos(angle), math.sin(angle)
    for r in range(out.shape[0]):
        for k in range(out.shape[1]):
            dx, dy = column + k - x0, row + r - y0
            across = -s * dx + c * dy
            if abs(across) < 6.0 * sigma:
                along = c * dx + s * dy
                tumble = 1.0 + 0.3 * math.sin(along / 150.0)
                out[r, k] += peak * tumble * math.exp(-0.5 * (across / sigma) ** 2)
