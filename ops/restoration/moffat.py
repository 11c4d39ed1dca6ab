"""A Moffat profile with elliptical isophotes, fitted to many stars at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

Floats = NDArray[np.float64]

MODEL_ERROR = 0.03
"""Of a star's profile, what the fit may miss before noise counts: bright cores do not outvote the wings."""


@dataclass(frozen=True)
class Moffat:
    """(1 + q)^-β, q a quadratic form of the offset; sampled at pixels, so the pixel is in it."""

    fwhm: float
    """Geometric mean of both axes (pixels)."""
    stretch: tuple[float, float]
    """ln(major / minor) times cos and sin of twice the angle of the major axis, from x to y."""
    beta: float

    @property
    def ellipticity(self) -> float:
        """1 - minor / major."""
        return 1.0 - math.exp(-math.hypot(*self.stretch))

    @property
    def theta(self) -> float:
        """Angle of the major axis from x to y (radians)."""
        return 0.5 * math.atan2(self.stretch[1], self.stretch[0])

    @property
    def minor(self) -> float:
        """FWHM along the minor axis (pixels)."""
        return self.fwhm * math.exp(-0.5 * math.hypot(*self.stretch))

    def __call__(self, dx: Floats, dy: Floats) -> Floats:
        """Profile with peak 1 at offsets from the centre (pixels)."""
        g = math.hypot(*self.stretch)
        sine = math.sinh(g) / g if g > 1e-9 else 1.0
        even, cross = math.cosh(g), sine * self.stretch[1]
        tilt = sine * self.stretch[0]
        scale = (2.0 ** (1.0 / self.beta) - 1.0) * (2.0 / self.fwhm) ** 2
        q = scale * ((even - tilt) * dx * dx + (even + tilt) * dy * dy - 2.0 * cross * dx * dy)
        return np.asarray((1.0 + q) ** -self.beta)

    @property
    def vector(self) -> Floats:
        """Unbounded parameters for a fit."""
        return np.array([math.log(self.fwhm), *self.stretch, math.log(self.beta - 1.0)])

    @classmethod
    def of(cls, vector: Floats) -> Moffat:
        """Inverse of `vector`; β from 1.05 to 20."""
        beta = 1.0 + math.exp(float(np.clip(vector[3], math.log(0.05), math.log(19.0))))
        return cls(math.exp(float(np.clip(vector[0], -2.0, 5.0))), (float(vector[1]), float(vector[2])), beta)


@dataclass(frozen=True)
class Cutouts:
    """Windows around stars, whose centres lie within half a pixel of the middle pixel."""

    data: Floats
    """Shape (stars, side, side)."""
    weight: Floats
    """Same shape: 1 / variance, 0 = not to be used."""
    dx: Floats
    dy: Floats
    """Centre of each star from the middle pixel (pixels)."""

    def take(self, which: NDArray[np.bool_]) -> Cutouts:
        """Return some of the stars."""
        return Cutouts(self.data[which], self.weight[which], self.dx[which], self.dy[which])

    def offsets(self) -> tuple[Floats, Floats]:
        """Pixel minus centre of the star, shapes (stars, 1, side) and (stars, side, 1)."""
        radius = self.data.shape[1] // 2
        axis = np.arange(-radius, radius + 1.0)
        return axis[None, None, :] - self.dx[:, None, None], axis[None, :, None] - self.dy[:, None, None]


def levels(cutouts: Cutouts, model: Floats) -> tuple[Floats, Floats]:
    """Height and background of each star by least squares (a line through pixels by model)."""
    w = cutouts.weight
    total = np.maximum(w.sum(axis=(1, 2)), 1e-300)
    mean_m = (w * model).sum(axis=(1, 2)) / total
    mean_d = (w * cutouts.data).sum(axis=(1, 2)) / total
    around = model - mean_m[:, None, None]
    spread = (w * around * around).sum(axis=(1, 2))
    height = (w * around * (cutouts.data - mean_d[:, None, None])).sum(axis=(1, 2)) / np.maximum(spread, 1e-300)
    return height, mean_d - height * mean_m


def fit_moffat(cutouts: Cutouts, start: Moffat) -> Moffat:
    """Profile that fits all stars best, each with its own height and background.

    Parameters
    ----------
    cutouts
        Stars; one is enough.
    start
        First guess.
    """
    dx, dy = cutouts.offsets()
    root = np.sqrt(cutouts.weight)

    def residuals(vector: Floats) -> Floats:
        model = Moffat.of(vector)(dx, dy)
        height, level = levels(cutouts, model)
        return np.asarray((root * (cutouts.data - height[:, None, None] * model - level[:, None, None])).ravel())

    found = least_squares(residuals, start.vector, loss="soft_l1", f_scale=2.0, diff_step=1e-4, max_nfev=25)
    return Moffat.of(found.x)


def centred(cutouts: Cutouts, model: Moffat) -> Cutouts:
    """Cutouts with the centres moved to where the model fits (one Gauss-Newton step, at most 0.3 pixels)."""
    dx, dy = cutouts.offsets()
    values = model(dx, dy)
    step = 0.05
    along_x = (model(dx - step, dy) - model(dx + step, dy)) / (2 * step)
    along_y = (model(dx, dy - step) - model(dx, dy + step)) / (2 * step)
    columns = np.stack([values, np.ones_like(values), along_x, along_y], axis=1)
    weighted = columns * cutouts.weight[:, None]
    normal = np.einsum("niyx,njyx->nij", weighted, columns)
    right = np.einsum("niyx,nyx->ni", weighted, cutouts.data)
    normal += 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(4)
    solution = np.linalg.solve(normal, right[..., None])[..., 0]
    height = np.where(solution[:, 0] > 0, solution[:, 0], np.inf)
    shift_x, shift_y = (np.clip(solution[:, k] / height, -0.3, 0.3) for k in (2, 3))
    return Cutouts(cutouts.data, cutouts.weight, cutouts.dx + shift_x, cutouts.dy + shift_y)


def reweighted(cutouts: Cutouts, model: Moffat) -> Cutouts:
    """Cutouts whose weights allow for what the model misses (`MODEL_ERROR`)."""
    values = model(*cutouts.offsets())
    height, _ = levels(cutouts, values)
    missed = (MODEL_ERROR * height[:, None, None] * values) ** 2
    weight = np.where(
        cutouts.weight > 0, 1.0 / (1.0 / np.where(cutouts.weight > 0, cutouts.weight, 1.0) + missed), 0.0
    )
    return Cutouts(cutouts.data, weight, cutouts.dx, cutouts.dy)
