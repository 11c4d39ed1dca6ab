"""The background of all bands of a mosaic: what is sky, the surface through it, how far to trust it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skyloom.ops import surface as bspline
from skyloom.ops.background.blocks import MEDIAN_NOISE, Blocks
from skyloom.ops.background.degrees import (
    CLEAR,
    Surface,
    constant,
    find_surface,
    least_points,
    refit,
    simplest,
    unknown,
)
from skyloom.ops.background.plain_sky import objects
from skyloom.ops.background.polynomials import FOLDS, PATCHES
from skyloom.ops.background.spline import LEAST, fit_spline, sample_boxes
from skyloom.ops.normalization.legendre import legendre

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Method = Literal["polynomial", "spline", "none"]
Field = Callable[[Floats, Floats], Floats]

NODES = 33
"""Knots an axis of the stored surface: cubics are exact, splines smooth on a 32nd of the canvas."""
REPEATS = 3
"""Times a spline is fitted again after what it is fitted to has been chosen again."""
NOISE_CELL = 16


@dataclass(frozen=True)
class Choices:
    """What the user chose."""

    method: Method
    degree: int
    limit: float
    grow: int
    boxes: int
    stiffness: float | None
    given: bool
    """The places of plain sky are the user's."""


@dataclass(frozen=True)
class Background:
    """The background of one band."""

    coefficients: Floats
    """B-spline over the canvas (`ops.surface`)."""
    model: Floats
    """Shape (rows, columns): at the blocks."""
    surface: Surface
    samples: int
    stiffness: float
    error: float
    """Expected σ of the model where it is known worst."""


def fit_backgrounds(blocks: Blocks, choices: Choices) -> list[Background]:
    """Background of each band.

    Places that show an object in one band are not used in any, as long as enough are left: errors that remain are
    then the same in all bands, and make no colour.
    """
    s, t = _places(blocks, *blocks.centres())
    surfaces = [_surface(blocks, band, s, t, choices) for band in range(len(blocks.level))]
    if len(surfaces) > 1 and not choices.given:
        surfaces = _together(blocks, _all_or_none(blocks, surfaces, s, t, choices), s, t)
    return [_background(blocks, band, surface, s, t, choices) for band, surface in enumerate(surfaces)]


def _places(blocks: Blocks, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Canvas pixels as −1…1 along the longer side."""
    height, width = blocks.canvas
    half = 0.5 * max(height, width)
    return (x - 0.5 * (width - 1)) / half, (y - 0.5 * (height - 1)) / half


def _surface(blocks: Blocks, band: int, s: Floats, t: Floats, choices: Choices) -> Surface:
    level, sigma = blocks.level[band], blocks.sigma[band]
    there = np.isfinite(level)
    if choices.given:
        return _as_given(level, sigma, s, t, choices.degree)
    if choices.method == "none" or choices.degree == 0 or not there.any():
        return constant(level, sigma, s, t, limit=choices.limit, grow=choices.grow)
    noise = MEDIAN_NOISE * float(np.median(blocks.pixel_noise[band][there])) / NOISE_CELL
    return find_surface(
        level, sigma, s, t, degree=choices.degree, limit=choices.limit, grow=choices.grow, cell_noise=noise
    )


def _as_given(level: Floats, sigma: Floats, s: Floats, t: Floats, degree: int) -> Surface:
    """The user's places, all of them: only their number limits the degree."""
    plain = np.isfinite(level)
    lowered, told = degree, ""
    while lowered > 0 and plain.sum() < least_points(lowered) // 4:
        lowered -= 1
        told = f"{int(plain.sum())} places are too few for degree {degree}"
    start = Surface(lowered, np.zeros(1), plain, 0.0, 0.0, told)
    return refit(start, level, sigma, s, t, plain) if plain.any() else replace(start, degree=0)


def _all_or_none(blocks: Blocks, surfaces: list[Surface], s: Floats, t: Floats, choices: Choices) -> list[Surface]:
    """Where nebula fills the field in one band, slopes of others with structure are not trusted either."""
    if not any(f.nebula for f in surfaces):
        return surfaces
    out = []
    for band, surface in enumerate(surfaces):
        if surface.degree > 0 and surface.structure > CLEAR:
            flat = constant(blocks.level[band], blocks.sigma[band], s, t, limit=choices.limit, grow=choices.grow)
            told = f"its sky has structure too ({surface.structure:.0f} times its noise)"
            surface = replace(flat, told=told)
        out.append(surface)
    return out


def _together(blocks: Blocks, surfaces: list[Surface], s: Floats, t: Floats) -> list[Surface]:
    """Surfaces through what is plain in all bands that have one, if that is enough."""
    sloping = [b for b, f in enumerate(surfaces) if f.degree > 0]
    shown = np.zeros(blocks.shape, dtype=bool)
    for band in sloping:
        shown |= np.isfinite(blocks.level[band]) & ~surfaces[band].plain
    left = {band: surfaces[band].plain & ~shown for band in sloping}
    for band in sloping:
        there = np.isfinite(blocks.level[band])
        degree = surfaces[band].degree
        if unknown(degree, left[band], legendre(s, t, degree), there):
            return surfaces
    out = list(surfaces)
    for band in sloping:
        again = replace(surfaces[band], plain=left[band])
        out[band] = simplest(again, blocks.level[band], blocks.sigma[band], s, t)
    return out


def _background(blocks: Blocks, band: int, surface: Surface, s: Floats, t: Floats, choices: Choices) -> Background:
    level, sigma = blocks.level[band], blocks.sigma[band]

    def polynomial(u: Floats, v: Floats) -> Floats:
        return np.asarray(legendre(u, v, surface.degree) @ surface.coefficients)

    field: Field = polynomial
    samples, stiffness = int(surface.plain.sum()), np.nan
    error = _error(surface, s, t, np.isfinite(level))
    if choices.method == "spline" and (surface.degree > 0 or choices.given):
        found = _spline(level, sigma, surface, s, t, choices, polynomial)
        if found is None:
            surface = replace(surface, told=f"too few samples of plain sky for a spline: degree {surface.degree}")
        else:
            field, surface, samples, stiffness = found
            error = np.nan
    height, width = blocks.canvas
    at = bspline.sample_positions(nodes=NODES)
    u, v = np.meshgrid(at * (width - 1), at * (height - 1))
    coefficients = bspline.fit(field(*_places(blocks, u, v)), nodes=NODES)
    if surface.degree == 0 and np.isnan(stiffness):
        coefficients = bspline.constant(float(field(np.zeros(1), np.zeros(1))[0]), nodes=NODES)
    return Background(coefficients, field(s, t), surface, samples, stiffness, error)


def _spline(
    level: Floats, sigma: Floats, surface: Surface, s: Floats, t: Floats, choices: Choices, polynomial: Field
) -> tuple[Field, Surface, int, float] | None:
    """Spline of what the polynomial leaves, and the plain sky chosen once more by it."""
    there = np.isfinite(level)
    plain, rest = surface.plain, level - polynomial(s, t)
    boxes = max(level.shape) if choices.given else choices.boxes
    result: tuple[Field, Surface, int, float] | None = None
    for _ in range(1 if choices.given else REPEATS):
        samples = sample_boxes(s, t, rest, plain, boxes=boxes)
        if len(samples.level) < (4 if choices.given else LEAST):
            break
        spline, stiffness = fit_spline(samples, choices.stiffness)
        field = _sum(polynomial, spline)
        residual = level - field(s, t)
        scatter = 1.4826 * float(np.median(np.abs(residual[plain])))
        result = field, replace(surface, plain=plain, scatter=scatter), len(samples.level), stiffness
        plain = there & ~objects(residual, sigma, there, choices.limit, choices.grow)
    return result


def _sum(polynomial: Field, spline: Callable[[Floats], Floats]) -> Field:
    def field(u: Floats, v: Floats) -> Floats:
        points = np.stack([np.ravel(v), np.ravel(u)], axis=1)
        return np.asarray(polynomial(u, v) + spline(points).reshape(np.shape(u)))

    return field


def _error(surface: Surface, s: Floats, t: Floats, there: Mask) -> float:
    """σ of the surface where it is largest on the canvas, with patches of the field as independent samples."""
    plain = surface.plain
    if not plain.any():
        return np.nan
    terms = legendre(s, t, surface.degree)
    number = min(int(plain.sum()), PATCHES**2 * FOLDS)
    matrix = terms[plain].T @ terms[plain] / plain.sum()
    worst = np.einsum("ij,jk,ik->i", terms[there], np.linalg.pinv(matrix), terms[there]).max()
    return float(surface.scatter * np.sqrt(worst / number))
