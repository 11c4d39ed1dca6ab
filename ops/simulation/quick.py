"""Calibrated frames drawn quickly, for canvases too large to wait for the exact simulation.

Light and noise follow the laws of `readout`, less exactly: the nebula is that of places 8 px apart, linear between
them; shot and read noise are one normal number of the pixel's variance; fixed patterns of the detector are none.
Every number is one of the pixel, so a window holds the same pixels, bit for bit, as the whole.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import ndtri

from skyloom.ops.simulation.camera import Camera, Exposure
from skyloom.ops.simulation.hashing import hash_key, mix
from skyloom.ops.simulation.light import add_trail, cosmic_rays, stars_near, trail_line
from skyloom.ops.simulation.light import tracks as add_tracks
from skyloom.ops.simulation.projection import place_pixels
from skyloom.ops.simulation.sky import SkyModel
from skyloom.ops.simulation.stars import STAR_FLOOR, add_stars

STEP = 8
"""Distance of the places at which the nebula is computed (px)."""
_NOISE = 11
_LEVELS = 4096
_QUANTILES = ndtri((np.arange(_LEVELS) + 0.5) / _LEVELS)
# Two of them make a normal number: 0.8² + 0.6² = 1, and steps of one fill the gaps of the other.
_FIRST = (0.8 * _QUANTILES / _QUANTILES.std()).astype(np.float32)
_SECOND = (0.6 * _QUANTILES / _QUANTILES.std()).astype(np.float32)


def drawable(camera: Camera, exposure: Exposure) -> bool:
    """Whether a calibrated frame has nothing that only the exact simulation draws."""
    patterns = (camera.vignetting, camera.dust, camera.response, camera.cold_fraction, camera.hot_fraction)
    return (
        not camera.bayer
        and not any(patterns)
        and exposure.pointing is not None
        and not any(exposure.smear)
        and exposure.scale > 0
    )


def draw(camera: Camera, exposure: Exposure, sky: SkyModel, rows: slice, columns: slice) -> NDArray[np.float32]:
    """Pixels of a window of a calibrated frame.

    Parameters
    ----------
    camera, exposure
        What looks; `drawable`.
    sky
        What it looks at.
    rows, columns
        Window, explicit bounds, step 1.

    Returns
    -------
    ndarray
        float32, shape of the window, DN.

    Notes
    -----
    d = scale · (stars ⊗ PSF + nebula · pixel area) + background + sqrt(charge + read noise²) / gain · z, with the
    charge in electrons and z of the normal law (to 5 sigma). Takes 4 bytes a pixel beside the nebula's places.
    """
    assert exposure.pointing is not None
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    out = np.zeros(shape, dtype=np.float32)
    matrix = exposure.pointing.matrix(sky.axes)
    table, x, y = stars_near(exposure, sky, matrix, rows, columns)
    flux = exposure.scale * sky.star_flux(table, exposure.band)
    add_stars(out, rows.start, columns.start, x, y, flux, exposure.fwhm, STAR_FLOOR * exposure.scale)
    if exposure.trail > 0:
        x0, y0, angle = trail_line(camera, exposure)
        add_trail(x0, y0, angle, exposure.fwhm / 2.3548, exposure.trail, rows.start, columns.start, out)
    nebula = _nebula(exposure, sky, matrix, rows, columns)
    background = exposure.background
    u = np.arange(columns.start, columns.stop) / max(camera.width - 1, 1) - 0.5
    v = np.arange(rows.start, rows.stop) / max(camera.height - 1, 1) - 0.5
    phi = math.radians(background.moon_angle)
    _expose(
        out,
        (rows.start, columns.start, camera.width),
        (u, v),
        (background.level, *background.linear, *background.quadratic),
        (
            np.exp(background.steepness * math.cos(phi) * u),
            background.moon * np.exp(background.steepness * math.sin(phi) * v),
        ),
        nebula,
        hash_key(camera.seed, exposure.index, _NOISE),
        (camera.gain, camera.read_noise, camera.dark * camera.warmth * exposure.seconds),
        (_FIRST, _SECOND),
    )
    if exposure.cosmic_rays > 0:
        hits = cosmic_rays(camera, exposure)
        hits[:, 4] /= camera.gain
        add_tracks(hits, rows.start, columns.start, out)
    return np.minimum(out, np.float32(camera.saturation), out=out)


def _nebula(
    exposure: Exposure, sky: SkyModel, matrix: NDArray[np.float64], rows: slice, columns: slice
) -> NDArray[np.float64]:
    """Nebula (DN per pixel) at the places around a window; empty where there is none."""
    if sky.nebula == 0:
        return np.empty((0, 0))
    pointing = exposure.pointing
    assert pointing is not None
    first_row, first_column = rows.start // STEP, columns.start // STEP
    shape = ((rows.stop - 1) // STEP + 2 - first_row, (columns.stop - 1) // STEP + 2 - first_column)
    x, y = np.empty((2, *shape))
    # Places are pixels of a frame that is STEP times coarser.
    coarse = matrix @ np.diag([STEP, STEP, 1.0])
    lens = (pointing.x / STEP, pointing.y / STEP, pointing.barrel / pointing.half**3 * STEP**2)
    area = place_pixels(coarse, first_row, first_column, x, y, exposure.scale * pointing.scale**2, lens)
    return np.asarray(sky.plane_brightness(x, y, [exposure.band])[0] * area)


@njit(nogil=True, cache=True, fastmath=False)
def _expose(  # type: ignore[no-untyped-def]
    out, frame, place, surface, moon, nebula, key, camera, quantiles
):
    """Add foreground, nebula and noise to a window that holds the stars."""
    row, column, width = frame
    u, v = place
    level, p, q, a, b, c = surface
    across, along = moon
    gain, read_noise, dark = camera
    first, second = quantiles
    base = dark + read_noise * read_noise
    diffuse = np.zeros(out.shape[1])
    first_row, first_column = row // 8, column // 8
    for r in range(out.shape[0]):
        y = v[r]
        if nebula.shape[0]:
            at = (row + r) / 8.0 - first_row
            j = int(at)
            t = at - j
            for k in range(out.shape[1]):
                place_x = (column + k) / 8.0 - first_column
                i = int(place_x)
                s = place_x - i
                above = nebula[j + 1, i] + s * (nebula[j + 1, i + 1] - nebula[j + 1, i])
                below = nebula[j, i] + s * (nebula[j, i + 1] - nebula[j, i])
                diffuse[k] = below + t * (above - below)
        start = np.uint64(np.int64(row + r) * width + column)
        for k in range(out.shape[1]):
            x = u[k]
            mean = out[r, k] + diffuse[k] + along[r] * across[k]
            mean += level * (1.0 + p * x + a * x * x + y * (q + b * x + c * y))
            bits = mix(key, start + np.uint64(k))
            z = first[bits & np.uint64(4095)] + second[(bits >> np.uint64(32)) & np.uint64(4095)]
            out[r, k] = mean + math.sqrt(max(mean * gain, 0.0) + base) / gain * z
