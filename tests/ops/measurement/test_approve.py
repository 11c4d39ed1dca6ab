"""Measures of frames, and rules over them."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from skyloom.ops.errors import ConfigError
from skyloom.ops.measurement.approve import MEASURES, approve, frame_measures, judge


def tables() -> tuple[np.ndarray, np.ndarray]:
    """Frames: good, hazy (half the light, twice the sky), out of focus (twice the width), and an empty one."""
    stars = np.full((4, 5, 9), np.nan)
    flux = np.array([1000.0, 500, 200, 100])
    for i, (light, width) in enumerate([(1.0, 3.0), (0.5, 3.0), (1.0, 6.0)]):
        stars[i, :4] = 0
        stars[i, :4, 2], stars[i, :4, 3], stars[i, :4, 4] = flux * light, 10.0, width
        stars[i, 3, 8] = 4  # saturated: counts nowhere
    summary = np.array(
        [
            [100, 5, 3, 0.1, 3, 1, 0],
            [200, 7, 3, 0.1, 3, 1, 0],
            [100, 5, 6, 0.4, 3, 1, 0],
            [np.nan, np.nan, np.nan, np.nan, 0, 0, 1],
        ],
        dtype=float,
    )
    return stars, summary


def test_measures_are_those_of_the_formulas() -> None:
    measures = frame_measures(*tables())
    assert set(measures) | {"exposure", "temperature"} == set(MEASURES)
    total, area = 1700.0, 0.25 * np.pi * (1.822615 * 3) ** 2
    assert measures["psf_signal"][0] == pytest.approx(total * total / area / (5 * 100))
    assert measures["psf_snr"][0] == pytest.approx((total / 5) ** 2)
    assert measures["eccentricity"][0] == pytest.approx(np.sqrt(1 - 0.9**2))
    assert measures["snr"][0] == 50.0
    assert (measures["psf_signal"][1:3] < measures["psf_signal"][0] / 3).all()
    assert measures["psf_snr"][2] == measures["psf_snr"][0]  # does not see blur
    assert all(np.isnan(measures[n][3]) for n in ("fwhm", "psf_signal", "psf_snr", "snr"))


def test_a_rule_says_which_condition_a_frame_fails() -> None:
    measures = frame_measures(*tables())
    approved, reason = judge("fwhm < 4 px and psf_signal > 0.5 * best(psf_signal)", measures)
    assert approved.tolist() == [True, False, False, False]
    assert reason[0] == ""
    assert reason[1].startswith("not approved: psf_signal > 0.5 * best(psf_signal) is not so (psf_signal = ")
    assert reason[2] == "not approved: fwhm < 4 is not so (fwhm = 6 px)"
    assert reason[3] == "not approved: fwhm < 4 is not so (fwhm = nan px)"
    assert judge("  ", measures)[0].all()


def test_the_op_is_lazy_and_refuses_a_bad_rule_at_once() -> None:
    stars, summary = tables()
    session = xr.Dataset({"exposure": ("frame", np.array([60.0, 60, 60, 10]))}, {"frame": list("abcd")})
    measurement = xr.Dataset(
        {
            "stars": (("frame", "star", "star_quantity"), da.from_array(stars, chunks=(1, -1, -1))),
            "summary": (("frame", "summary_quantity"), da.from_array(summary, chunks=(1, -1))),
        }
    )
    result = approve(session, measurement, rule="exposure > 30 s")
    assert all(v.chunks is not None for v in result.data_vars.values())
    assert result["use"].values.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(result["fwhm"].values, summary[:, 2])
    with pytest.raises(ConfigError, match="did you mean 'fwhm'"):
        approve(session, measurement, rule="fwhn < 3")
