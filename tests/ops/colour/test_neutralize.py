"""The sky is grey, nebula and stars notwithstanding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.colour.adjustment import adjust
from skyloom.ops.colour.neutralize import neutralize
from skyloom.ops.colour.survey import survey
from skyloom.ops.errors import ConfigError, DataError


@pytest.mark.parametrize("nebula", [0.0, 200.0])
def test_background_is_neutral(sky: Callable[..., Any], truth: dict[str, Any], nebula: float) -> None:
    mosaic = sky(nebula=nebula, stars=200).mosaic
    table = neutralize(survey(mosaic), target=None).compute()
    goal = np.mean(list(truth["level"].values()))
    assert float(table["background"]) == pytest.approx(goal, rel=0.005)
    for band, level in truth["level"].items():
        found = float(table["scale"].sel(band=band)) * level + float(table["offset"].sel(band=band))
        assert found == pytest.approx(float(table["background"]), rel=0.005), band
    # Darkest of the noise would be biased: by far less than the noise of a pixel.
    np.testing.assert_allclose(
        table["level"].values, [truth["level"][b] for b in table["band"].values], atol=0.4 if nebula == 0 else 1.5
    )


def test_nebula_over_most_of_the_field_is_not_the_sky(sky: Callable[..., Any], truth: dict[str, Any]) -> None:
    mosaic = sky(stars=100).mosaic.copy(deep=True)
    image = mosaic["image"].values
    columns = np.arange(image.shape[2])
    image += (np.array([20.0, 30.0, 60.0, 90.0])[:, None] * np.clip((columns - 90.0) / 60.0, 0.0, 1.0))[:, None, :]
    mosaic["image"] = (mosaic["image"].dims, image)
    table = neutralize(survey(mosaic)).compute()
    np.testing.assert_allclose(
        table["level"].values, [truth["level"][b] for b in table["band"].values], rtol=0.002
    )


def test_a_region_is_taken_at_its_word(sky: Callable[..., Any]) -> None:
    mosaic = sky(nebula=300.0, stars=1).mosaic
    region = [256, 160, 304, 208]
    table = neutralize(survey(mosaic), region=region, target=10.0).compute()
    inside = mosaic["image"].values[:, 160:208, 256:304].reshape(4, -1)
    np.testing.assert_allclose(table["level"].values, np.median(inside, axis=1), rtol=0.01)
    done = adjust(mosaic, neutralize(survey(mosaic), region=region, target=10.0)).compute()
    medians = np.median(done["image"].values[:, 160:208, 256:304].reshape(4, -1), axis=1)
    assert np.abs(medians - 10.0).max() < 3.0
    assert int(table["cells"]) == 9


def test_lines_add_up_and_carry_the_variance(sky: Callable[..., Any]) -> None:
    mosaic = sky(shape=(96, 96), tile=64, stars=5).mosaic
    first = xr.Dataset(
        {
            "scale": ("band", np.array([2.0, 1.0, 0.5, 3.0])),
            "offset": ("band", np.array([1.0, 0.0, 5.0, -2.0])),
            "background": ((), np.nan),
        },
        {"band": mosaic["band"].values},
    )
    table = neutralize(survey(mosaic), first).compute()
    np.testing.assert_array_equal(table["scale"], first["scale"])
    done = adjust(mosaic, table).compute()
    expected = (
        mosaic["image"].values * table["scale"].values[:, None, None] + table["offset"].values[:, None, None]
    )
    np.testing.assert_allclose(done["image"], expected, atol=1e-3)
    np.testing.assert_allclose(done["variance"].values[:, 0, 0], 16.0 * first["scale"].values ** 2, rtol=1e-6)
    assert (
        np.abs(np.median(done["image"].values.reshape(4, -1), axis=1)) < 0.1 * 4.0 * first["scale"].values
    ).all()


def test_mistakes(sky: Callable[..., Any]) -> None:
    mosaic = sky(shape=(64, 64), tile=64, stars=3).mosaic
    plates = survey(mosaic)
    for region, says in (
        ([1, 2, 3], "give x0, y0, x1, y1"),
        ([0, 0, 90, 40], "does not lie in the canvas of 64 × 64"),
        ([0, 0, 20, 40], "smaller than two cells of 16"),
    ):
        with pytest.raises(ConfigError, match=says):
            neutralize(plates, region=region)
    apart = mosaic.copy(deep=True)
    image = apart["image"].values
    image[0, :32], image[1, 32:] = np.nan, np.nan
    apart["image"] = (apart["image"].dims, image)
    with pytest.raises(DataError, match="the bands do not overlap"):
        neutralize(survey(apart)).compute()
