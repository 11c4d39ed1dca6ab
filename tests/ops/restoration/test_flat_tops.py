"""Saturated stars are told from whole ones by their cores, though shifting and stacking rounds flat tops off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import shift

from skyloom.ops.restoration.flat_tops import core_to_wings, flat_topped, plateaus
from skyloom.ops.restoration.psf_stars import psf_stars

from .conftest import profile

Floats = NDArray[np.float64]
RADIUS = 12


def stamp(fwhm: float = 3.0) -> NDArray[np.float32]:
    offsets = np.arange(-RADIUS, RADIUS + 1, dtype=float)
    dx, dy = np.meshgrid(offsets, offsets)
    return profile(dx, dy, fwhm, 0.0, 0.0).astype(np.float32)


def star(dx: float, dy: float, height: float, fwhm: float = 3.0) -> Floats:
    offsets = np.arange(-RADIUS, RADIUS + 1, dtype=float)
    x, y = np.meshgrid(offsets - dx, offsets - dy)
    shape = profile(x, y, fwhm, 0.0, 0.0)
    return np.asarray(height * shape / float(profile(np.zeros(1), np.zeros(1), fwhm, 0.0, 0.0)[0]))


def stacked(dx: float, dy: float, height: float, limit: float) -> Floats:
    """Four frames that cut the star at a level, shifted onto each other: no pixel is as high as another."""
    frames = []
    for a, b in ((0.0, 0.0), (0.4, -0.3), (-0.35, 0.2), (0.25, 0.45)):
        frame = np.minimum(star(dx + a, dy + b, height), limit)
        frames.append(shift(frame, (-b, -a), order=3, mode="nearest"))
    return np.asarray(np.mean(frames, axis=0))


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.4, -0.2), (-0.5, 0.5)])
def test_a_whole_star_has_the_core_its_wings_foretell(dx: float, dy: float) -> None:
    rng = np.random.default_rng(1)
    window = 300.0 + stacked(dx, dy, 5e4, np.inf) + rng.normal(0, 20, (2 * RADIUS + 1,) * 2)
    assert core_to_wings(window.astype(np.float32), stamp(), dx, dy) == pytest.approx(1.0, abs=0.06)
    # A neighbour in the wings is left out of them.
    window += np.roll(star(0, 0, 8e3), (4, -3), (0, 1))
    assert core_to_wings(window.astype(np.float32), stamp(), dx, dy) > 0.8


@pytest.mark.parametrize("beyond", [1.8, 3.0])
def test_a_cut_star_has_less_though_its_top_is_round(beyond: float) -> None:
    rng = np.random.default_rng(2)
    window = stacked(0.2, 0.1, beyond * 4e4, 4e4) + rng.normal(0, 20, (2 * RADIUS + 1,) * 2)
    assert np.ptp(np.sort(window.ravel())[-4:]) > 100, "no plateau is left"
    ratio = core_to_wings(window.astype(np.float32), stamp(), 0.2, 0.1)
    # The core's slopes below the cut are whole.
    assert 1.0 / beyond < ratio < 1.5 / beyond
    assert ratio < 0.75


def scene() -> tuple[NDArray[np.float32], Floats, Floats, Floats]:
    """Stars at (x, y): whole, cut, whole and faint, cut."""
    rng = np.random.default_rng(3)
    image = 300.0 + rng.normal(0, 20, (160, 160))
    places = np.array([(40.3, 40.1), (110.2, 41.4), (40.4, 112.3), (111.1, 110.2)])
    heights = (3e4, 1.2e5, 5e3, 9e4)
    for (x, y), height in zip(places, heights, strict=True):
        column, row = round(x), round(y)
        window = np.s_[row - RADIUS : row + RADIUS + 1, column - RADIUS : column + RADIUS + 1]
        image[window] += stacked(x - column, y - row, height, 4e4)
    return image.astype(np.float32), places[:, 0], places[:, 1], np.minimum(heights, 4.1e4)


def test_the_cut_stars_of_a_field_are_found() -> None:
    image, x, y, peak = scene()
    assert flat_topped(image, x, y, peak, stamp()).tolist() == [False, True, False, True]


def test_what_no_list_holds_is_found_by_its_height() -> None:
    image, x, y, _ = scene()
    known = np.array([0, 1, 2])
    flat = np.array([False, True, False])
    image[20, 130] += 5e4  # a cosmic ray is no plateau
    found = plateaus(image, x[known], y[known], flat, RADIUS)
    assert found.shape == (1, 3)
    np.testing.assert_allclose(found[0, :2], (x[3], y[3]), atol=0.5)
    assert found[0, 2] > 5e5
    assert plateaus(image, x, y, np.zeros(4, dtype=bool), RADIUS).shape == (0, 3)


def test_saturated_stars_are_told_and_the_psf_is_of_the_others(make: Callable[..., Any]) -> None:
    field = make(shape=(300, 300), flux=(4.3, 5.6), fwhm=(3.0, 3.0))
    image = field.mosaic["image"].values.copy()
    limit = float(np.quantile(image, 0.999))
    cut = np.minimum(image, limit)
    # What stacking makes of it: the tops are round.
    soft = np.mean([shift(cut[0], (a, b), order=1, mode="nearest") for a, b in ((0, 0), (0.3, 0.3))], axis=0)
    inside = (np.abs(field.x - 150) < 135) & (np.abs(field.y - 150) < 135)
    xs, ys = field.x[inside], field.y[inside]
    heights = [
        float(image[0, round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2].max())
        for x, y in zip(xs, ys, strict=True)
    ]
    beyond = np.array(heights) > 2.5 * limit
    assert 2 <= beyond.sum() <= 12
    found = psf_stars(
        field.mosaic.assign(image=(("band", "y", "x"), soft[None].astype(np.float32))), region=512
    ).compute()
    listed = found["saturated"].values[0, 0, 0]
    listed = listed[np.isfinite(listed[:, 0])]
    for x, y in zip(xs[beyond], ys[beyond], strict=True):
        assert np.hypot(listed[:, 0] - x, listed[:, 1] - y).min() < 1.0
    whole = np.array(heights) < 0.5 * limit
    for x, y in listed[:, :2]:
        assert np.hypot(xs[whole] - x, ys[whole] - y).min() > 2.0
