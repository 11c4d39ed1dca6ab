"""Fixed patterns of a detector: flat field and dust, dark current, hot pixels, bias.

Each is a hash of the pixel (and, for dust, of filter and night): any window is a cut of the whole.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.hashing import hash_key, mix, normal, random_stream, uniform

DUST_EDGE = 2.0
"""Radius of a grain's shadow (of its size)."""
_HOT, _RESPONSE = 12, 13
_DUST, _COLUMNS, _PIXEL_DARK, _COLD = 16, 17, 18, 19


@njit(nogil=True, cache=True, fastmath=False)
def _flat(
    row: int,
    column: int,
    height: int,
    width: int,
    vignetting: float,
    response: float,
    cold: float,
    grains: NDArray[np.float64],
    keys: tuple[np.uint64, np.uint64],
    out: NDArray[np.float64],
) -> None:
    cx, cy = 0.5 * (width - 1), 0.5 * (height - 1)
    corner = max(cx * cx + cy * cy, 1.0)
    response_key, cold_key = keys
    for r in range(out.shape[0]):
        y = float(row + r)
        for c in range(out.shape[1]):
            x = float(column + c)
            value = 1.0 - vignetting * ((x - cx) ** 2 + (y - cy) ** 2) / corner
            for g in range(grains.shape[0]):
                d = math.hypot(x - grains[g, 0], y - grains[g, 1]) / grains[g, 2]
                if d < 2.0:
                    value *= 1.0 - grains[g, 3] * math.exp(-((d - 0.8) ** 2) * 12.0)
            pixel = np.uint64(np.int64(row + r) * width + column + c)
            if response > 0.0:
                value *= 1.0 + response * normal(mix(response_key, pixel))
            if cold > 0.0:
                bits = mix(cold_key, pixel)
                if uniform(bits) < cold:
                    value *= 0.05 + 0.4 * uniform(mix(bits, np.uint64(1)))
            out[r, c] = value


def dust_grains(camera: Camera, optics: tuple[int, int] | None = None) -> NDArray[np.float64]:
    """Dust: rows of x, y, size (px) and depth; a ring of 0.8 sizes' radius is darkest.

    Parameters
    ----------
    camera
        Its `dust` says how many.
    optics
        Filter and night: a third of the grains lies on the sensor's window, a third on the filter, a third has
        been blown elsewhere since the night before. None: all on the window.
    """
    if optics is None:
        return _grains(camera, camera.dust, random_stream(camera.seed, _DUST))
    band, night = optics
    window = -(-camera.dust // 3)
    moved = camera.dust // 3
    return np.concatenate(
        [
            _grains(camera, window, random_stream(camera.seed, _DUST)),
            _grains(camera, camera.dust - window - moved, random_stream(camera.seed, _DUST, 1, band)),
            _grains(camera, moved, random_stream(camera.seed, _DUST, 2, night)),
        ]
    )


def _grains(camera: Camera, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    size = min(camera.height, camera.width)
    return np.stack(
        [
            random.uniform(0, camera.width, count),
            random.uniform(0, camera.height, count),
            size * random.uniform(0.01, 0.03, count),
            random.uniform(0.03, 0.12, count),
        ],
        axis=-1,
    )


def flat_field(
    camera: Camera, rows: slice, columns: slice, optics: tuple[int, int] | None = None
) -> NDArray[np.float64]:
    """Relative sensitivity of the pixels of a window: vignetting × dust × response, 1 at a clean centre.

    Parameters
    ----------
    camera
        The detector.
    rows, columns
        Window, explicit bounds, of the pixels that see light.
    optics
        Filter and night, see `dust_grains`; a filter has a vignetting of its own, too.
    """
    out = np.ones((rows.stop - rows.start, columns.stop - columns.start))
    if not (camera.vignetting or camera.response or camera.dust or camera.cold_fraction):
        return out
    vignetting = camera.vignetting
    if optics is not None:
        vignetting *= float(random_stream(camera.seed, _DUST, 3, optics[0]).uniform(0.8, 1.0))
    _flat(
        rows.start,
        columns.start,
        camera.height,
        camera.width,
        vignetting,
        camera.response,
        camera.cold_fraction,
        dust_grains(camera, optics),
        (hash_key(camera.seed, _RESPONSE), hash_key(camera.seed, _COLD)),
        out,
    )
    return out


@lru_cache(maxsize=64)
def flat_level(camera: Camera, optics: tuple[int, int] | None = None) -> tuple[float, float, float, float]:
    """Mean of the flat field over each phase (row, column modulo 2) of the colour filter array.

    All four are the mean of the whole for a monochrome sensor.
    """
    flat = flat_field(camera, slice(0, camera.height), slice(0, camera.width), optics)
    if not camera.bayer:
        return (float(flat.mean()),) * 4
    a, b, c, d = (float(flat[r::2, k::2].mean()) for r in (0, 1) for k in (0, 1))
    return a, b, c, d


def dark_current(camera: Camera, rows: slice, columns: slice) -> NDArray[np.float64]:
    """Electrons per second of the pixels of a window, without hot pixels' excess."""
    mean = camera.dark * camera.warmth
    out = np.full((rows.stop - rows.start, columns.stop - columns.start), mean)
    if camera.dark_pattern > 0:
        spread = camera.dark_pattern
        z = pixel_normals(hash_key(camera.seed, _PIXEL_DARK), rows, columns, camera.width)
        # The mean of a lognormal law stays what it says.
        out *= np.exp(spread * z - 0.5 * spread * spread)
    return out


def hot_charge(camera: Camera, seconds: float, rows: slice, columns: slice) -> NDArray[np.float64]:
    """Excess of the hot pixels of a window after an exposure (electrons); 0 elsewhere.

    Charge gathers for ten minutes, and a bias frame has none.
    """
    out = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
    if camera.hot_fraction > 0:
        level = camera.hot_level * min(seconds / 60.0, 10.0) * camera.warmth
        key = hash_key(camera.seed, _HOT)
        _hot(rows.start, columns.start, camera.width, key, camera.hot_fraction, level, out)
    return out


@njit(nogil=True, cache=True, fastmath=False)
def _hot(
    row: int, column: int, width: int, key: np.uint64, fraction: float, level: float, out: NDArray[np.float64]
) -> None:
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            bits = mix(key, np.uint64(np.int64(row + r) * width + column + c))
            if uniform(bits) < fraction:
                out[r, c] = -level * math.log(uniform(mix(bits, np.uint64(1))))


def bias_pattern(camera: Camera, columns: slice) -> NDArray[np.float64]:
    """Bias level of the columns of a stored frame (DN), those of the overscan first."""
    pattern = np.random.Generator(np.random.Philox(int(hash_key(camera.seed, _COLUMNS))))
    level = pattern.normal(size=camera.width)
    if camera.overscan:
        level = np.concatenate([random_stream(camera.seed, _COLUMNS, 1).normal(size=camera.overscan), level])
    return np.asarray(camera.bias + 2.0 * level[columns])


def pixel_normals(key: np.uint64, rows: slice, columns: slice, width: int) -> NDArray[np.float64]:
    """Standard normal numbers of the pixels of a window of rows `width` long."""
    out = np.empty((rows.stop - rows.start, columns.stop - columns.start))
    _normals(key, rows.start, columns.start, width, out)
    return out


@njit(nogil=True, cache=True, fastmath=False)
def _normals(key: np.uint64, row: int, column: int, width: int, out: NDArray[np.float64]) -> None:
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            out[r, c] = normal(mix(key, np.uint64(np.int64(row + r) * width + column + c)))
