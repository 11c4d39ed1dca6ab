"""A small session to change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.presets import raw_conditions
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel


def _small(**changes: object) -> SimulatedSession:
    values: dict[str, object] = {
        "seed": 5,
        "panels": (2, 3),
        "frames": 2,
        "pixel_scale": 6.0,
        "dither": 3.0,
        "camera": Camera(height=96, width=128),
        "sky": SkyModel(seed=5, ra=0.02, dec=60.0, finest=48.0, extent=0.3),
    }
    return SimulatedSession(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def small() -> Callable[..., SimulatedSession]:
    """Six panels of 96 × 128 px; fields of the session may be given."""
    return _small


@pytest.fixture
def raw() -> SimulatedSession:
    """Two panels in R, G, B over two nights, raw, three frames a set."""
    return raw_conditions(_small(panels=(1, 2), bands=("R", "G", "B"), nights=2, calibration_frames=3))
