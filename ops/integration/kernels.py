"""Interpolation kernels: their taps at sub-pixel phases, and what they do to noise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.integration.sharp import SURROUNDINGS

Kernel = Literal["lanczos3", "lanczos4", "bicubic", "bilinear", "nearest", "area"]
Resampling = Literal["auto", "lanczos3", "lanczos4", "bicubic", "bilinear", "nearest", "area"]

REACH: Mapping[str, int] = {"lanczos3": 3, "lanczos4": 4, "bicubic": 2, "bilinear": 1, "nearest": 1}
"""Frame pixels a kernel reaches to either side; that of `area` depends on the canvas."""
RINGING = ("lanczos3", "lanczos4", "bicubic")
"""Kernels with negative taps."""
PHASES = 2048
"""Sub-pixel phases of the tap table: the position is rounded to 1/2048 pixel."""
SHRINKS = 1.2
"""auto: canvas pixels of a larger side than this (frame pixels) are averages over their area."""


def lanczos(x: NDArray[np.float64], reach: int = 3) -> NDArray[np.float64]:
    """Lanczos kernel: sinc(x) sinc(x / reach) within ±reach, else 0."""
    return np.where(np.abs(x) < reach, np.sinc(x) * np.sinc(x / reach), 0.0)


def lanczos_taps(fraction: NDArray[np.float64], reach: int = 3) -> NDArray[np.float64]:
    """Weights of pixels floor(x) - reach + 1 … floor(x) + reach for x = floor(x) + fraction.

    Lanczos alone moves a ramp, and with it every star of a frame that is shifted only, by up to 0.02 px. So the
    taps are corrected, within the kernel's own window and as little as possible, to sum to 1 and to have their
    centre of gravity at x.

    Parameters
    ----------
    fraction
        0…1, any shape.
    reach
        3 or 4.

    Returns
    -------
    ndarray
        Shape `fraction.shape + (2 reach,)`.
    """
    distance = np.arange(1 - reach, reach + 1) - np.asarray(fraction, dtype=np.float64)[..., None]
    taps, window = lanczos(distance, reach), np.clip(np.sinc(distance / reach), 0.0, None)
    s0, s1, s2 = (np.sum(window * distance**k, axis=-1) for k in range(3))
    lack, lean = 1.0 - taps.sum(axis=-1), -np.sum(taps * distance, axis=-1)
    determinant = s0 * s2 - s1 * s1
    level = (s2 * lack - s1 * lean) / determinant
    slope = (s0 * lean - s1 * lack) / determinant
    return np.asarray(taps + window * (level[..., None] + slope[..., None] * distance))


def taps(kernel: str, fraction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of pixels floor(x) - reach + 1 … floor(x) + reach, shape `fraction.shape + (2 reach,)`.

    bicubic is Keys' (1981) cubic convolution, a = -0.5.
    """
    f = np.asarray(fraction, dtype=np.float64)
    if kernel in ("lanczos3", "lanczos4"):
        return lanczos_taps(f, REACH[kernel])
    if kernel == "bicubic":
        return np.stack(
            [
                ((-0.5 * f + 1.0) * f - 0.5) * f,
                (1.5 * f - 2.5) * f * f + 1.0,
                ((-1.5 * f + 2.0) * f + 0.5) * f,
                (0.5 * f - 0.5) * f * f,
            ],
            axis=-1,
        )
    if kernel == "bilinear":
        return np.stack([1.0 - f, f], axis=-1)
    if kernel == "nearest":
        return np.stack([f < 0.5, f >= 0.5], axis=-1).astype(np.float64)
    raise ConfigError(f"kernel {kernel!r} has no taps; there is: {', '.join(REACH)}")


@lru_cache(maxsize=8)
def tap_table(kernel: str = "lanczos3") -> NDArray[np.float32]:
    """`taps` at PHASES + 1 fractions, shape (PHASES + 1, 2 reach), float32, read-only."""
    table = taps(kernel, np.arange(PHASES + 1) / PHASES).astype(np.float32)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=4096)
def kernel_noise_factor(kernel: str = "lanczos3", jacobian: float = 1.0) -> float:
    """Variance of a canvas pixel of white noise over that carried, mean over all sub-pixel positions.

    Parameters
    ----------
    kernel
        Not auto.
    jacobian
        Area of a canvas pixel in frame pixels; only area depends on it.

    Notes
    -----
    Interpolation: the sum of squared taps. Area: a canvas pixel of side s frame pixels and parallel to them has
    (1 - 1 / 3 s)² of the variance s² of as many independent pixels, (1 - s / 3)² s² where s < 1.
    """
    if kernel == "area":
        side = jacobian**0.5
        return float((1.0 - 1.0 / (3.0 * side)) ** 2 if side > 1.0 else (side * (1.0 - side / 3.0)) ** 2)
    squares = np.sum(tap_table(kernel)[:-1].astype(np.float64) ** 2, axis=1)
    return float(squares.mean() ** 2)


def window_reach(kernel: str) -> int:
    """Frame pixels to either side of a position that its value depends on; not of area."""
    return REACH[kernel] + (SURROUNDINGS if kernel in RINGING else 0)


def chosen(resampling: str, jacobian: float) -> str:
    """Kernel for a frame in which a canvas pixel has this area (frame pixels)."""
    if resampling == "auto":
        return "area" if jacobian > SHRINKS**2 else "lanczos3"
    return resampling
