"""Stars of frames on the canvas, and which are the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.grid import Grid
from skyloom.ops.normalization.sightings import LEAST_SNR, frame_stars, match_sightings, no_stars, star_extents

SHAPE = (1200, 1200)


def table(x: list[float], flux: list[float], flag: list[int], rows: int = 6) -> NDArray[np.float64]:
    """Stars of a frame of 1200 px along its diagonal, flux errors 10, peaks a tenth of the flux."""
    out = np.full((rows, 9), np.nan)
    out[: len(x)] = np.stack([np.array(x), np.array(x), np.array(flux), *[np.zeros(len(x))] * 6], axis=-1)
    out[: len(x), 3], out[: len(x), 7], out[: len(x), 8] = 10.0, 0.1 * np.array(flux), flag
    return out


def test_stars_come_to_the_canvas_whatever_their_flags(canvas: Grid, tangent: Callable[..., str]) -> None:
    stars = frame_stars(
        tangent(1200), table([100, 300, 500], [1e4, 2e4, -5.0], [0, 4, 0]), 5.0, np.zeros(2), canvas, shape=SHAPE
    )
    assert len(stars) == 3
    assert np.allclose(stars.x, [100, 300, 500], atol=1e-6)
    assert np.allclose(stars.y, [100, 300, 500], atol=1e-6)
    assert stars.clean.tolist() == [True, False, True]
    assert np.allclose(stars.log_flux[:2], np.log([1e4, 2e4]))
    assert np.isnan(stars.log_flux[2])
    assert np.allclose(stars.peak, [200, 400, -0.1])
    assert np.allclose(stars.u, np.array([100, 300, 500]) / 1199)
    assert np.array_equal(stars.u, stars.v)
    moved = frame_stars(tangent(1200), table([100], [1e4], [0]), 5.0, np.array([3.0, -2.0]), canvas, shape=SHAPE)
    assert np.allclose([moved.x[0], moved.y[0]], [97, 102], atol=1e-3)


def test_extents_grow_with_the_peak(canvas: Grid, tangent: Callable[..., str]) -> None:
    stars = frame_stars(
        tangent(1200), table([100, 300, 500], [1e3, 1e5, -5.0], [0, 4, 0]), 5.0, np.zeros(2), canvas, shape=SHAPE
    )
    x, y, radius = star_extents([stars, no_stars()], np.array([3.0, np.nan]), area=0.25)
    assert x.shape == y.shape == radius.shape == (3,)
    expected = 2 * 0.98 * 3.0 * np.sqrt(np.maximum(np.cbrt(5.0 * np.array([20.0, 2000.0, 0.0])) - 1.0, 0.5))
    assert np.allclose(radius, expected)
    unknown = frame_stars(tangent(1200), table([100], [1e3], [0]), np.nan, np.zeros(2), canvas, shape=SHAPE)
    assert star_extents([unknown], np.array([3.0]), area=1.0)[2].tolist() == [0.0]
    assert star_extents([], np.empty(0), area=1.0)[0].shape == (0,)


def test_bright_clean_stars_are_matched(canvas: Grid, tangent: Callable[..., str]) -> None:
    faint = 0.9 * LEAST_SNR * 10.0
    one, two = (
        frame_stars(tangent(1200), seen, 5.0, np.zeros(2), canvas, shape=SHAPE)
        for seen in (
            table([100, 300, 500, 700], [1e4, 2e4, 3e4, faint], [0, 0, 2, 0]),
            table([500.5, 300.5, 900, 700], [6e4, 4e4, 1e4, faint], [0, 0, 0, 0]),
        )
    )
    found = match_sightings([one, no_stars(), two])
    assert found.frame.tolist() == [0, 2]
    assert len(set(found.star.tolist())) == 1
    assert np.diff(found.log_flux) == pytest.approx([np.log(2)])
    assert np.allclose(found.log_error, [10 / 2e4, 10 / 4e4])
    assert np.allclose(found.u, [300 / 1199, 300.5 / 1199])
    assert np.array_equal(found.u, found.v)
    assert match_sightings([]).frame.shape == (0,)
