"""Bands come to the scale of the reference, noise in both and odd colours notwithstanding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skyloom.ops.colour.linear_fit import fit_luminance, linear_fit
from skyloom.ops.colour.lines import fit_line
from skyloom.ops.colour.neutralize import neutralize
from skyloom.ops.colour.survey import survey
from skyloom.ops.errors import ConfigError, DataError


def points(slope: float, offset: float, noise: tuple[float, float], count: int = 60_000) -> Any:
    rng = np.random.default_rng(3)
    signal = np.where(rng.random(count) < 0.05, 10 ** rng.uniform(1, 3.5, count), 0.0)
    x = 100.0 + signal + rng.normal(0, noise[0], count)
    y = offset + slope * (100.0 + signal) + rng.normal(0, noise[1], count)
    return x, y, signal, rng


@pytest.mark.parametrize(("slope", "noise"), [(0.4, (9.0, 4.0)), (2.5, (3.0, 9.0)), (1.0, (9.0, 1.0))])
def test_slope_is_right_though_x_is_noisy(slope: float, noise: tuple[float, float]) -> None:
    x, y, _, _ = points(slope, 30.0, noise)
    line = fit_line(x, y, noise_x=noise[0], noise_y=noise[1])
    assert line.slope == pytest.approx(slope, rel=3e-3)
    assert line.offset + line.slope * 100.0 == pytest.approx(30.0 + slope * 100.0, abs=0.1)


def test_without_noise_the_line_is_exact() -> None:
    x = np.linspace(0, 1000, 500)
    line = fit_line(x, 7.0 + 0.3 * x, noise_x=1e-3, noise_y=1e-3)
    assert line.slope == pytest.approx(0.3, rel=1e-9)
    assert line.offset == pytest.approx(7.0, rel=1e-7)


def test_colours_and_outliers_do_not_turn_it() -> None:
    x, y, signal, rng = points(0.7, 30.0, (5.0, 5.0))
    y += 0.7 * signal * rng.normal(0, 0.1, signal.size)
    odd = (signal > 0) & (rng.random(signal.size) < 0.1)
    y[odd] += 3.0 * signal[odd]
    line = fit_line(x, y, noise_x=5.0, noise_y=5.0)
    assert line.slope == pytest.approx(0.7, rel=0.01)
    assert 0.05 < line.scatter < 0.2


def test_nothing_but_noise_tells_no_slope() -> None:
    rng = np.random.default_rng(1)
    line = fit_line(rng.normal(50, 2, 5000), rng.normal(80, 6, 5000), noise_x=2.0, noise_y=6.0)
    assert line.points == 0
    assert line.slope == pytest.approx(3.0)
    assert line.offset + line.slope * 50 == pytest.approx(80, abs=0.5)


def test_what_bands_do_not_share_tells_no_slope() -> None:
    """A gradient of one band beside a nebula of the other: no line, least of all a flat one."""
    rng = np.random.default_rng(1)
    t = np.linspace(0, 1, 20000)
    x = 50.0 + 400.0 * t + rng.normal(0, 2, t.size)
    y = 80.0 + 100.0 * (1 - t) ** 2 + rng.normal(0, 6, t.size)
    line = fit_line(x, y, noise_x=2.0, noise_y=6.0)
    assert line.points == 0
    assert line.slope == pytest.approx(3.0)


def test_bands_come_to_the_reference(sky: Callable[..., Any], truth: dict[str, Any]) -> None:
    mosaic = sky(spread=0.05).mosaic
    table = linear_fit(survey(mosaic)).compute()
    assert table.attrs["reference"] == "G"
    for band in "RBL":
        line = table.sel(band=band)
        assert float(line["scale"]) == pytest.approx(1.0 / truth["gain"][band], rel=0.02)
        level = float(line["scale"]) * truth["level"][band] + float(line["offset"])
        assert level == pytest.approx(truth["level"]["G"], abs=1.0)
    assert float(table["scale"].sel(band="G")) == 1.0
    assert (table["points"].sel(band=["R", "B"]).values > 100).all()


def test_luminance_comes_to_the_mean_of_the_colours(sky: Callable[..., Any], truth: dict[str, Any]) -> None:
    plates = survey(sky().mosaic)
    sky_is_grey = neutralize(plates)
    # Each colour's own gain is undone by hand: what is left is the luminance.
    balanced = sky_is_grey.copy()
    gains = np.array([truth["gain"][b] if b != "L" else 1.0 for b in sky_is_grey["band"].values])
    balanced["scale"] = sky_is_grey["scale"] / gains
    balanced["offset"] = sky_is_grey["offset"] / gains
    table = fit_luminance(plates, balanced).compute()
    assert float(table["scale"].sel(band="L")) == pytest.approx(1.0 / truth["gain"]["L"], rel=0.02)
    level = float(table["scale"].sel(band="L")) * truth["level"]["L"] + float(table["offset"].sel(band="L"))
    assert level == pytest.approx(0.0, abs=0.5)
    np.testing.assert_array_equal(table["scale"].sel(band="R"), balanced["scale"].sel(band="R").compute())


def test_mistakes(sky: Callable[..., Any]) -> None:
    plates = survey(sky(shape=(64, 64), tile=64, stars=3).mosaic)
    with pytest.raises(ConfigError, match=r"reference = 'Ha': there is no such band; there is: B, G, L, R"):
        linear_fit(plates, reference="Ha")
    with pytest.raises(DataError, match="linear fit needs linear data, these have been stretched"):
        linear_fit(plates.assign_attrs(linear=False))
    with pytest.raises(DataError, match="made of bands already"):
        linear_fit(plates.rename(band="channel"))
    with pytest.raises(DataError, match="the adjustment is of bands B, G, the mosaic has B, G, L, R"):
        linear_fit(plates, linear_fit(plates.isel(band=[0, 1])))
