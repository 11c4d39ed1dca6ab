"""The screen stretch, against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from skyloom.ops.stretch import Stretch, autostretch, midtones_for


def test_median_lands_on_the_background_and_stars_stay_below_one() -> None:
    rng = np.random.default_rng(1)
    sky = rng.normal(1000, 10, (200, 200))
    sky[50, 50] = 30000
    sky[:20] = np.nan
    out = autostretch(sky).apply(sky)
    assert np.nanmedian(out) == pytest.approx(0.25, abs=0.01)
    assert np.isnan(out[:20]).all()
    assert np.nanmin(out) >= 0
    assert np.nanmax(out) <= 1


def test_midtones_function() -> None:
    m = midtones_for(0.02, 0.25)
    stretch = Stretch(0.0, 1.0, m)
    assert stretch.apply(np.array([0.0, 0.02, 1.0])) == pytest.approx([0, 0.25, 1])
    assert stretch.apply(np.array([m])) == pytest.approx([0.5])


@pytest.mark.parametrize("pixels", [np.full((4, 4), np.nan), np.full((4, 4), 7.0)])
def test_nothing_to_stretch(pixels: np.ndarray) -> None:
    out = autostretch(pixels).apply(pixels)
    assert not np.isinf(out).any()
