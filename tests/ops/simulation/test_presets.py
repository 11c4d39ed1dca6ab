"""Sessions with a purpose look as promised."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.simulation.presets import acceptance_session, demo_session, raw_conditions

EARLIER = [
    [892.8453, 878.3196, 899.0932, 882.1235],
    [887.3590, 924.2012, 874.4717, 888.4815],
    [898.7068, 890.7731, 874.2875, 896.5647],
]


def test_parameters_stay_in_their_ranges() -> None:
    session = acceptance_session()
    frames = session.lights
    assert len(frames) == len(session) == 36
    assert len({f.name for f in frames}) == 36
    assert [f.date for f in frames] == sorted(f.date for f in frames)
    t = np.array([f.transparency for f in frames])
    assert t.min() >= 0.7
    assert t.max() <= 1.05
    assert np.ptp(t) > 0.25
    slopes = [np.hypot(*f.exposure.background.linear) for f in frames]
    assert 0.19 < min(slopes) < max(slopes) <= 0.25
    assert max(np.abs(f.exposure.background.quadratic).max() for f in frames) <= 0.2
    assert np.mean([f.noise for f in frames]) == pytest.approx(14.0, abs=0.5)
    assert 2 <= sum(f.exposure.trail > 0 for f in frames) <= 12


def test_acceptance_frame_looks_as_promised() -> None:
    session = acceptance_session()
    image = session.render(4, rows=slice(900, 1200), columns=slice(0, 2048)).astype(np.float64)
    difference = np.diff(image, axis=1) / np.sqrt(2.0)
    noise = 1.4826 * np.median(np.abs(difference - np.median(difference)))
    assert noise == pytest.approx(14.0, abs=1.5)
    assert 800 < np.median(image) < 1400


def test_nebula_covers_the_acceptance_field() -> None:
    session = acceptance_session()
    offset = np.linspace(-1.4, 1.4, 60)
    ra, dec = np.meshgrid(84.0 + offset / np.cos(np.radians(30.0)), 30.0 + offset)
    light = session.sky.brightness(ra, dec, "L") * session.pixel_scale**2
    assert np.mean(light > 5.0) > 0.5
    assert 10.0 < light.std() < 120.0


def test_the_demo_is_small_and_complete() -> None:
    session = demo_session(seed=2)
    kinds = [f.kind for f in session.descriptors()]
    assert {k: kinds.count(k) for k in kinds} == {"light": 48, "bias": 16, "dark": 16, "flat": 64}
    pixels = sum(h * w for h, w in map(session.shape, range(len(session))))
    assert pixels < 40e6


def test_raw_conditions_keep_the_sky_and_the_pointing() -> None:
    session = acceptance_session(panels=(1, 1), bands=("R", "G"))
    raw = raw_conditions(session)
    assert raw.sky == session.sky
    assert raw.lights[0].wcs == session.lights[0].wcs
    assert raw.exposures == (120.0, 180.0)
    assert raw_conditions(acceptance_session()).exposures == ()


def test_rendered_pixels_stay_what_they_were() -> None:
    """Results of earlier versions are compared with: the acceptance session may not drift."""
    pixels = acceptance_session().render(7, rows=slice(700, 703), columns=slice(300, 304))
    np.testing.assert_allclose(pixels, EARLIER, rtol=1e-6)
