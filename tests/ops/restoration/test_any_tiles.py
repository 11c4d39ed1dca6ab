"""All that follows the gradient, from deconvolution to the picture, in tiles of other sizes: the same pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from skyloom.ops.colour.channels import channels
from skyloom.ops.colour.linear_fit import linear_fit
from skyloom.ops.colour.neutralize import neutralize
from skyloom.ops.colour.survey import survey
from skyloom.ops.display.stretch import stretch
from skyloom.ops.display.tones import tones
from skyloom.ops.restoration.deconvolve import deconvolve
from skyloom.ops.restoration.denoise import denoise
from skyloom.ops.restoration.noise_levels import noise_levels
from skyloom.ops.restoration.psf import psf
from skyloom.ops.restoration.psf_stars import psf_stars


def stages(mosaic: xr.Dataset) -> dict[str, xr.Dataset]:
    """The nodes of the preset rgb behind `gradient`."""
    with dask.config.set(scheduler="synchronous"):
        table = psf(psf_stars(mosaic, region=256)).compute()
        sharp = deconvolve(mosaic, table, bands=["G"], iterations=3).persist()
        plates = survey(mosaic).compute()
        lines = neutralize(plates, linear_fit(plates)).compute()
        colour = channels(sharp, lines, palette="RGB", less_green="average").persist()
        levels = noise_levels(colour).compute()
        quiet = denoise(colour, levels).persist()
        shown = stretch(quiet, tones(survey(colour)), keep_colour=0.6, saturation=1.2).compute()
    return {"psf": table, "deconvolve": sharp, "channels": colour, "levels": levels, "denoise": quiet, "": shown}


@pytest.fixture(scope="module")
def mosaic(make: Callable[..., Any]) -> xr.Dataset:
    made: xr.Dataset = make(bands=("B", "G", "R")).mosaic
    image, variance = made["image"].values.copy(), made["variance"].values.copy()
    # A hole, a rim, and a step of depth.
    image[:, 120:150, 200:260] = np.nan
    image[:, :9] = np.nan
    variance[:, :, 230:] *= 4.0
    image[:, :, 230:] += np.random.default_rng(1).normal(0, 7, image[:, :, 230:].shape)
    dims = ("band", "y", "x")
    return made.assign(image=(dims, image), variance=(dims, np.where(np.isfinite(image), variance, np.nan)))


@pytest.fixture(scope="module")
def whole(mosaic: xr.Dataset) -> dict[str, xr.Dataset]:
    return stages(mosaic)


@pytest.mark.parametrize("tile", [288, 160])
def test_the_same_pixels(
    mosaic: xr.Dataset, whole: dict[str, xr.Dataset], retile: Callable[[xr.Dataset, int], xr.Dataset], tile: int
) -> None:
    tiled = stages(retile(mosaic, tile))
    assert tiled["denoise"].chunks["y"][0] == tile
    for stage, expected in whole.items():
        for name, values in expected.data_vars.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(
                    tiled[stage][name].values, values.values, rtol=2e-6, atol=2e-5, err_msg=f"{stage} {name}"
                )
    assert np.nanstd(whole["denoise"]["image"] - whole["channels"]["image"]) > 1.0
    assert np.isfinite(whole["levels"]["sigma"].values).sum() >= 3
