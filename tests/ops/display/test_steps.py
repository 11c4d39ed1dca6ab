"""Looking a shade up among a curve's steps is rounding what the curve gives, bit by bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.display.steps import STEPS, curve_steps, stepped
from skyloom.ops.display.transfer import asinh_transfer, midtones_transfer

Floats = NDArray[np.float64]
BLACK = np.array([[980.0], [-0.002]])
WHITE = np.array([[65000.0], [0.7]])

CURVES: dict[str, Callable[[Floats], Floats]] = {
    "straight": lambda x: x,
    "midtones": lambda x: midtones_transfer(x, 0.0004),
    "asinh": lambda x: asinh_transfer(x, 3e4),
    "half": lambda x: 0.5 * x,
    "a jump": lambda x: np.where(x > 0.25, 1.0, 0.0),
}


def pixels() -> NDArray[np.float32]:
    """Sky, stars, numbers near the ends, and none."""
    rng = np.random.default_rng(3)
    sky = np.stack([rng.normal(1000, 10, (60, 70)), rng.normal(0, 0.001, (60, 70))])
    sky[0, :20] = 10 ** rng.uniform(2.9, 5, (20, 70))
    sky[1, :20] = 10 ** rng.uniform(-5, 1, (20, 70))
    out = sky.astype(np.float32)
    out[:, 30, :8] = [0.0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-45, -1e-45]
    out[0, 31, 4] = out[1, 31, 5] = np.nan
    return out


@pytest.mark.parametrize("curve", CURVES)
def test_steps_are_those_of_the_curve(curve: str) -> None:
    def show(x: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return CURVES[curve](np.clip((x - BLACK) / (WHITE - BLACK), 0.0, 1.0))

    image = pixels()
    steps = curve_steps(show, 2)
    assert steps.shape == (2, STEPS)
    # Where the curve takes a step, and the last number before it.
    for row, edge in ((33, steps), (38, np.nextafter(steps, np.float32(-np.inf)))):
        image[:, row : row + 3] = np.nan_to_num(np.resize(edge, (2, 210)), nan=7.0).reshape(2, 3, 70)
        image[:, row + 3] = np.nan_to_num(edge[:, -70:], nan=7.0)
    found = stepped(image, steps)
    there = ~np.isnan(image).any(axis=0)
    assert (~there).sum() == 2
    expected = np.rint(255 * show(image.reshape(2, -1).astype(np.float64))).reshape(image.shape)
    for plane in range(2):
        np.testing.assert_array_equal(found[..., plane], np.where(there, expected[plane], 0))
    np.testing.assert_array_equal(found[..., 2], 255 * there)


def test_a_curve_that_stays_low_has_no_further_steps() -> None:
    steps = curve_steps(lambda x: np.clip(x, 0.0, 1.0) * 0.1, 1)
    assert np.isfinite(steps[0, :25]).all()
    assert np.isnan(steps[0, 26:]).all()
