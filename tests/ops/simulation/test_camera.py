"""What a camera and a foreground are."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation.camera import Background, Camera


def test_background_is_the_stated_surface() -> None:
    background = Background(1000.0, (0.2, 0.1), (0.04, 0.0, 0.0), 0.0)
    u, v = np.array([0.0, 0.5, 1.0]), np.array([0.5, 0.5, 0.5])
    np.testing.assert_allclose(background.at(u, v), [910.0, 1000.0, 1110.0])
    moon = Background(0.0, moon=100.0, moon_angle=90.0, steepness=0.7)
    np.testing.assert_allclose(moon.at(v, u), 100.0 * np.exp(0.7 * (u - 0.5)))


def test_six_degrees_double_the_dark_current() -> None:
    assert Camera().warmth == 1.0
    assert Camera(temperature=-4.0).warmth == pytest.approx(2.0)
    assert Camera(temperature=-20.0, doubling=5.0).warmth == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("values", "message"),
    [({"bayer": "RGBW"}, "no colour filter array 'RGBW'"), ({"gain": 0.0}, "gain"), ({"overscan": 7}, "even")],
)
def test_impossible_cameras_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Camera(**values)  # type: ignore[arg-type]
