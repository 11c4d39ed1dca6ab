"""Transparency across frames: clouds are found where they are, and clear frames stay clear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.normalization.background import uneven
from skyloom.ops.normalization.legendre import ORDERS, evaluate
from skyloom.ops.normalization.photometry import solve_scales
from skyloom.ops.normalization.transparency import Fields, solve_fields

Floats = NDArray[np.float64]
PANELS, VISITS, PITCH, STARS = 6, 6, 0.85, 600


def sky_of_stars(
    truth: Floats, *, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats, Floats]:
    """Frame, star, ln flux, u, v of sightings in a row of panels of side 1 that overlap by 15 %."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, PANELS * PITCH + 0.2, STARS), rng.uniform(0, 1, STARS)
    flux = rng.normal(9, 1, STARS)
    parts = []
    for f in range(PANELS * VISITS):
        x0 = f // VISITS * PITCH + rng.uniform(0, 0.03)
        star = np.flatnonzero((x > x0) & (x < x0 + 1))
        u, v = x[star] - x0, y[star]
        parts.append((np.full(len(star), f), star, flux[star] - evaluate(truth[f], u, v), u, v))
    frame, star, value, u, v = (np.concatenate(p) for p in zip(*parts, strict=True))
    return frame, star, value + rng.normal(0, 0.03, len(value)), u, v


def solved(truth: Floats) -> Fields:
    frame, star, value, u, v = sky_of_stars(truth)
    frames = len(truth)
    error = np.full(len(value), 0.028)
    placement = np.array([[[1.0, 0, f // VISITS * PITCH], [0, 1.0, 0]] for f in range(frames)])
    scales = solve_scales(frame, star, value, error, frames=frames)
    return solve_fields(
        frame, star, value, error, u.astype(np.float32), v.astype(np.float32),
        scales=scales, expected=np.zeros(frames), placement=placement,
    )  # fmt: skip


def test_clouds_of_a_few_frames_do_not_tilt_the_others() -> None:
    truth = np.zeros((PANELS * VISITS, len(ORDERS[2])))
    cloudy = np.isin(np.arange(len(truth)) % VISITS, (1, 4))
    # All clouds are thicker on the same side: a Gaussian prior would lean the clear frames the other way.
    truth[cloudy, 1] = np.random.default_rng(3).uniform(0.04, 0.10, cloudy.sum())
    found = solved(truth).coefficients
    wrong = found[:, 1:] - truth[:, 1:]
    assert np.sqrt(np.mean(wrong[~cloudy] ** 2)) < 0.001
    assert np.sqrt(np.mean(wrong[cloudy] ** 2)) < 0.005


def test_frames_which_all_vary_keep_their_own() -> None:
    truth = np.zeros((PANELS * VISITS, len(ORDERS[2])))
    truth[:, 1:] = np.random.default_rng(4).normal(0, 0.03, (len(truth), 5))
    wrong = (solved(truth).coefficients - truth).reshape(PANELS, VISITS, -1)
    within = wrong - wrong.mean(axis=1, keepdims=True)
    assert np.sqrt(np.mean(within[..., 1:] ** 2)) < 0.009


def test_most_surfaces_say_what_is_usual() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.01, (200, 3))
    x[::4, 1:] = rng.normal(0, 0.3, (50, 2))
    there = np.ones(200, dtype=bool)
    sigma, loose = uneven(x, np.array([5.0, 0.2]), ORDERS[1], there, least=1e-3)
    assert sigma[0] == 5.0
    assert 0.008 < sigma[1] < 0.02
    assert np.all(loose[:, 0] == 1)
    assert np.median(loose[::4, 1]) < 0.05 < 0.7 < np.median(np.delete(loose[:, 1], np.arange(0, 200, 4)))
    assert uneven(x, np.array([5.0, 0.2]), ORDERS[1], there, least=0.1)[0][1] == 0.1
