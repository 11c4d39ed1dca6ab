"""From light to counts: charge, noise, read-out, saturation; and what a perfect calibration makes of the counts.

Counts of a raw frame: n = round((P(light · flat · gain + dark) + cosmic rays + read noise) / gain + bias), clipped
at the camera's saturation; P is Poisson's law and dark the charge of dark current and hot pixels. So their
variance is (mean charge + read noise²) / gain² + 1/12 DN² as long as the noise is wider than a count. A saturated
pixel reads the ceiling exactly; charge does not spill over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.simulation.camera import Camera, Exposure
from skyloom.ops.simulation.detector import (
    bias_pattern,
    dark_current,
    flat_field,
    flat_level,
    hot_charge,
    pixel_normals,
)
from skyloom.ops.simulation.hashing import hash_key, mix, normal, poisson, random_stream, uniform
from skyloom.ops.simulation.light import cosmic_charge, light
from skyloom.ops.simulation.sky import SkyModel

NEAR_SATURATION = 4.0
"""A pixel this close to the ceiling (noise sigmas) may be clipped and has no truth."""
_NOISE, _OVERSCAN, _DRIFT = 11, 41, 42


@njit(nogil=True, cache=True, fastmath=False)
def _detect(
    light: NDArray[np.float64],
    flat: NDArray[np.float64],
    dark: NDArray[np.float64],
    hot: NDArray[np.float64],
    extra: NDArray[np.float64],
    row: int,
    column: int,
    width: int,
    noise_key: np.uint64,
    gain: float,
    read_noise: float,
    out: NDArray[np.float64],
) -> None:
    """Electrons read from each pixel, given light (DN before the flat), flat and charges (electrons)."""
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            pixel = np.uint64(np.int64(row + r) * width + column + c)
            mean = light[r, c] * flat[r, c] * gain + dark[r, c]
            mean += hot[r, c]
            bits = mix(noise_key, pixel)
            second = mix(bits, np.uint64(1))
            if mean > 30.0:
                z = normal(bits)
                # Cornish-Fisher keeps the Poisson law's skewness.
                electrons = mean + math.sqrt(mean) * z + (z * z - 1.0) / 6.0
            elif mean > 0.0:
                electrons = float(poisson(mean, uniform(bits)))
            else:
                electrons = 0.0
            out[r, c] = electrons + extra[r, c] + read_noise * normal(second)


def expose(
    camera: Camera,
    exposure: Exposure,
    sky: SkyModel | None,
    rows: slice,
    columns: slice,
    *,
    raw: bool = False,
) -> NDArray[np.float32] | NDArray[np.uint16]:
    """Pixels of a window of a frame.

    Parameters
    ----------
    camera, exposure, sky
        As for `light`.
    rows, columns
        Window, explicit bounds, step 1; the columns of a raw frame begin with the overscan.
    raw
        True: counts as read out, with bias, dark and flat in them. False: what a perfect calibration makes of
        those counts (hot pixels stay), so that vignetting shows only in the noise.

    Returns
    -------
    ndarray
        uint16 (raw) or float32, shape of the window, DN.
    """
    if raw:
        return _counts(camera, exposure, sky, rows, columns)
    flat = flat_field(camera, rows, columns, exposure.optics)
    dark = dark_current(camera, rows, columns) * exposure.seconds
    charge = _charge(camera, exposure, sky, rows, columns, flat, dark)
    return np.minimum((charge - dark) / (camera.gain * flat), camera.saturation).astype(np.float32)


def _charge(
    camera: Camera,
    exposure: Exposure,
    sky: SkyModel | None,
    rows: slice,
    columns: slice,
    flat: NDArray[np.float64],
    dark: NDArray[np.float64],
) -> NDArray[np.float64]:
    out = np.empty(flat.shape)
    _detect(
        light(camera, exposure, sky, rows, columns),
        flat,
        dark,
        hot_charge(camera, exposure.seconds, rows, columns),
        cosmic_charge(camera, exposure, rows, columns),
        rows.start,
        columns.start,
        camera.width,
        hash_key(camera.seed, exposure.index, _NOISE),
        camera.gain,
        camera.read_noise,
        out,
    )
    return out


def _counts(
    camera: Camera, exposure: Exposure, sky: SkyModel | None, rows: slice, columns: slice
) -> NDArray[np.uint16]:
    level = bias_pattern(camera, columns) + base_level(camera, exposure)
    blind = slice(min(columns.start, camera.overscan), min(columns.stop, camera.overscan))
    seeing = slice(max(columns.start - camera.overscan, 0), max(columns.stop - camera.overscan, 0))
    out = np.empty((rows.stop - rows.start, columns.stop - columns.start))
    width = blind.stop - blind.start
    if width:
        key = hash_key(camera.seed, exposure.index, _OVERSCAN)
        out[:, :width] = camera.read_noise * pixel_normals(key, rows, blind, camera.overscan)
    if seeing.stop > seeing.start:
        flat = flat_field(camera, rows, seeing, exposure.optics)
        dark = dark_current(camera, rows, seeing) * exposure.seconds
        out[:, width:] = _charge(camera, exposure, sky, rows, seeing, flat, dark)
    return np.clip(np.rint(out / camera.gain + level), 0, camera.ceiling).astype(np.uint16)


def base_level(camera: Camera, exposure: Exposure) -> float:
    """What a frame has beyond the bias pattern: pedestal and drift (DN)."""
    drift = camera.drift
    if drift:
        drift *= float(random_stream(camera.seed, exposure.index, _DRIFT).normal())
    return exposure.pedestal + drift


@dataclass(frozen=True)
class Truth:
    """What is true of the pixels of a window of a raw frame, which sees light throughout."""

    image: NDArray[np.float64]
    """Calibrated, the flat's mean 1 over each phase of the colour filter array, without noise (DN); NaN where the
    count saturates or nearly does."""
    variance: NDArray[np.float64]
    """Of such a calibrated pixel with ideal masters (DN²)."""
    counts: NDArray[np.float64]
    """Expected raw counts (DN), not clipped."""
    flat: NDArray[np.float64]
    """Flat field, mean 1 over each phase."""
    bias: NDArray[np.float64]
    """Bias with what the frame has beyond its pattern (DN)."""
    dark: NDArray[np.float64]
    """Dark current and hot pixels (DN)."""
    hot: NDArray[np.float64]
    """Of these the hot pixels' excess (DN)."""


def truth(camera: Camera, exposure: Exposure, sky: SkyModel | None, rows: slice, columns: slice) -> Truth:
    """What is true of a window of a frame.

    Parameters
    ----------
    camera, exposure, sky
        As for `light`.
    rows, columns
        Window, explicit bounds, of the pixels that see light: column 0 comes after the overscan.
    """
    level = np.array(flat_level(camera, exposure.optics)).reshape(2, 2)
    phase = level[np.ix_(np.arange(rows.start, rows.stop) % 2, np.arange(columns.start, columns.stop) % 2)]
    flat = flat_field(camera, rows, columns, exposure.optics)
    hot = hot_charge(camera, exposure.seconds, rows, columns)
    dark = dark_current(camera, rows, columns) * exposure.seconds + hot
    shone = light(camera, exposure, sky, rows, columns)
    charge = np.maximum(shone * flat * camera.gain + dark, 0.0)
    stored = slice(columns.start + camera.overscan, columns.stop + camera.overscan)
    bias = np.broadcast_to(bias_pattern(camera, stored) + base_level(camera, exposure), shone.shape)
    counts = charge / camera.gain + bias
    variance = (charge + camera.read_noise**2) / camera.gain**2 + 1.0 / 12.0
    saturated = counts + NEAR_SATURATION * np.sqrt(variance) >= camera.ceiling
    flat /= phase
    return Truth(
        image=np.where(saturated, np.nan, shone * phase),
        variance=variance / flat**2,
        counts=counts,
        flat=flat,
        bias=bias,
        dark=dark / camera.gain,
        hot=hot / camera.gain,
    )
