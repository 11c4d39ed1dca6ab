"""Frames drawn quickly: a window is a cut of the whole, light and noise are those of the exact simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.simulation import quick
from skyloom.ops.simulation.camera import Background, Camera
from skyloom.ops.simulation.presets import raw_camera
from skyloom.ops.simulation.session import SimulatedSession

Small = Callable[..., SimulatedSession]


def drawn(session: SimulatedSession, index: int, rows: slice, columns: slice) -> NDArray[np.float32]:
    frame = session.descriptors()[index]
    return quick.draw(frame.camera, frame.exposure, session.sky, rows, columns)


def clear(session: SimulatedSession) -> SimulatedSession:
    """The session with next to no noise: electrons beyond number."""
    return replace(session, camera=replace(session.camera, gain=1e12, read_noise=0.0, dark=0.0), cosmic_rays=0.0)


def test_a_window_holds_the_pixels_of_the_whole(small: Small) -> None:
    session = small(trails=1.0, moonlight=0.2, barrel=2.0)
    whole = drawn(session, 7, slice(0, 96), slice(0, 128))
    assert whole.dtype == np.float32
    random = np.random.default_rng(1)
    for _ in range(12):
        top, left = random.integers(0, 90), random.integers(0, 120)
        bottom, right = random.integers(top + 1, 97), random.integers(left + 1, 129)
        window = drawn(session, 7, slice(top, bottom), slice(left, right))
        assert np.array_equal(window, whole[top:bottom, left:right])


def test_frames_differ_and_repeat(small: Small) -> None:
    session = small()
    rows, columns = slice(0, 96), slice(0, 128)
    assert np.array_equal(drawn(session, 3, rows, columns), drawn(small(), 3, rows, columns))
    assert np.median(np.abs(drawn(session, 3, rows, columns) - drawn(session, 4, rows, columns))) > 1


def test_light_is_that_of_the_exact_simulation(small: Small) -> None:
    session = clear(small(trails=1.0, moonlight=0.2, barrel=2.0))
    session = replace(session, sky=replace(session.sky, nebula=0.0))
    rows, columns = slice(5, 96), slice(20, 128)
    exact = session.render(7, rows=rows, columns=columns)
    # float32 of the light, and what is left of the noise.
    np.testing.assert_allclose(drawn(session, 7, rows, columns), exact, rtol=3e-6, atol=2e-2)


def test_nebula_is_interpolated(small: Small) -> None:
    session = clear(small())
    nothing = replace(session, sky=replace(session.sky, nebula=0.0))
    rows, columns = slice(0, 96), slice(0, 128)
    exact = session.render(2).astype(np.float64) - nothing.render(2)
    quickly = drawn(session, 2, rows, columns).astype(np.float64) - drawn(nothing, 2, rows, columns)
    assert exact.max() > 50
    assert np.abs(quickly - exact).max() < 0.05 * exact.max()
    nodes = np.abs(quickly - exact)[:: quick.STEP, :: quick.STEP]
    assert nodes.max() < 0.02, "at the places themselves it is the nebula's own value"


def test_noise_has_the_variance_of_its_charge(small: Small) -> None:
    session = small(camera=Camera(height=512, width=512, gain=2.0, read_noise=12.0, dark=0.0), cosmic_rays=0.0)
    session = replace(session, sky=replace(session.sky, nebula=0.0, star_density=0.0))
    frame = session.descriptors()[0]
    exposure = replace(frame.exposure, background=Background(level=300.0), trail=0.0)
    image = quick.draw(frame.camera, exposure, session.sky, slice(0, 512), slice(0, 512)).astype(np.float64)
    sigma = np.sqrt(300.0 / 2.0 + (12.0 / 2.0) ** 2)
    z = (image - 300.0) / sigma
    assert abs(z.mean()) < 5 / 512
    assert z.var() == pytest.approx(1.0, abs=0.01)
    assert (z**4).mean() == pytest.approx(3.0, abs=0.06)
    assert (np.abs(z) > 3.0).mean() == pytest.approx(0.0027, rel=0.15)
    neighbours = (z[:, 1:] * z[:, :-1]).mean(), (z[1:] * z[:-1]).mean()
    assert np.abs(neighbours).max() < 0.01


def test_saturation_and_cosmic_rays(small: Small) -> None:
    session = small(camera=Camera(height=96, width=128, saturation=1200.0), cosmic_rays=3000.0)
    image = drawn(session, 0, slice(0, 96), slice(0, 128))
    without = drawn(replace(session, cosmic_rays=0.0), 0, slice(0, 96), slice(0, 128))
    assert image.max() == 1200.0
    hit = image > without
    assert 20 < hit.sum() < 400
    assert np.array_equal(image[~hit], without[~hit])


@pytest.mark.parametrize("changes", [{"response": 0.01}, {"dust": 3}, {"hot_fraction": 1e-3}, {"vignetting": 0.2}])
def test_fixed_patterns_are_not_drawn(small: Small, changes: dict[str, float]) -> None:
    frame = small().descriptors()[0]
    assert quick.drawable(frame.camera, frame.exposure)
    assert not quick.drawable(replace(frame.camera, **changes), frame.exposure)  # type: ignore[arg-type]
    assert not quick.drawable(raw_camera(frame.camera), frame.exposure)
    assert not quick.drawable(frame.camera, replace(frame.exposure, smear=(3.0, 0.0)))
