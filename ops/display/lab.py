"""CIE L*a*b* of sRGB pictures, D65: where lightness and colour are what the eye says they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
"""IEC 61966-2-1, sRGB primaries."""
_FROM_XYZ = np.linalg.inv(_TO_XYZ)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_EDGE = 6.0 / 29.0


def decoded(values: Floats) -> Floats:
    """Linear light of sRGB values (0…1)."""
    return np.where(values > 0.04045, ((np.maximum(values, 0.0) + 0.055) / 1.055) ** 2.4, values / 12.92)


def encoded(light: Floats) -> Floats:
    """Return the sRGB values of linear light."""
    return np.where(light > 0.0031308, 1.055 * np.maximum(light, 0.0) ** (1 / 2.4) - 0.055, 12.92 * light)


def _root(t: Floats) -> Floats:
    return np.where(t > _EDGE**3, np.cbrt(t), t / (3 * _EDGE**2) + 4.0 / 29.0)


def _cube(f: Floats) -> Floats:
    return np.where(f > _EDGE, f**3, 3 * _EDGE**2 * (f - 4.0 / 29.0))


def rgb_to_lab(rgb: Floats) -> Floats:
    """L* (0…100), a*, b* of sRGB values, shape (3, …) both (CIE 15)."""
    x, y, z = _root(np.tensordot(_TO_XYZ, decoded(rgb), axes=1) / _WHITE.reshape(3, *(1,) * (rgb.ndim - 1)))
    return np.stack([116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)])


def lab_to_rgb(lab: Floats) -> Floats:
    """Return the sRGB values of L*, a*, b*; outside 0…1 where a screen cannot show the colour."""
    y = (lab[0] + 16.0) / 116.0
    xyz = np.stack([y + lab[1] / 500.0, y, y - lab[2] / 200.0])
    light = np.tensordot(_FROM_XYZ, _cube(xyz) * _WHITE.reshape(3, *(1,) * (lab.ndim - 1)), axes=1)
    return encoded(light)


def lightness(values: Floats) -> Floats:
    """L* of grey sRGB values."""
    return np.asarray(116.0 * _root(decoded(values)) - 16.0)
