"""From bands to a picture: the right bands in the right colours, no tile to be seen, mistakes told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from skyloom.ops.colour.channels import channels
from skyloom.ops.colour.merge import merge_bands
from skyloom.ops.colour.neutralize import neutralize
from skyloom.ops.colour.palettes import Recipe
from skyloom.ops.colour.survey import survey
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid

PLAIN: dict[str, Any] = {"colour_smoothing": 0.0}


@pytest.mark.parametrize(
    ("palette", "bands", "sources"),
    [
        ("RGB", ("B", "G", "R"), {"R": "R", "G": "G", "B": "B"}),
        ("SHO", ("Ha", "OIII", "SII"), {"R": "SII", "G": "Ha", "B": "OIII"}),
        ("HOO", ("Ha", "OIII"), {"R": "Ha", "G": "OIII", "B": "OIII"}),
        ("auto", ("Ha", "OIII"), {"R": "Ha", "G": "OIII", "B": "OIII"}),
    ],
)
def test_palettes(sky: Callable[..., Any], palette: Any, bands: Any, sources: dict[str, str]) -> None:
    mosaic = named(sky(bands=("B", "G", "R")[: len(bands)], shape=(80, 64), tile=64, stars=5).mosaic, bands)
    made = channels(mosaic, palette=palette, **PLAIN)
    assert made["image"].dims == ("channel", "y", "x")
    assert made.attrs["linear"] is True
    assert made.attrs["units"] == "adu"
    for channel, band in sources.items():
        np.testing.assert_array_equal(made["image"].sel(channel=channel), mosaic["image"].sel(band=band))
        np.testing.assert_allclose(
            made["variance"].sel(channel=channel), mosaic["variance"].sel(band=band), rtol=1e-5
        )


def named(mosaic: xr.Dataset, bands: tuple[str, ...]) -> xr.Dataset:
    return mosaic.assign_coords(band=list(bands))


def test_mixtures_and_their_variance(sky: Callable[..., Any]) -> None:
    mosaic = named(sky(bands=("B", "G", "R"), shape=(64, 64), tile=64, stars=3).mosaic, ("Ha", "L-Pro", "OIII"))
    made = channels(
        mosaic,
        palette="custom",
        red="0.7 * Ha + 0.3 * OIII",
        green="max(L_Pro, OIII)",
        blue="OIII ** 2 / 100",
        **PLAIN,
    ).compute()
    h, p, o = mosaic["image"].values.astype(float)
    for found, expected in zip(
        made["image"].values, (0.7 * h + 0.3 * o, np.maximum(p, o), o**2 / 100), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(made["variance"].values[0], 16 * (0.49 + 0.09), rtol=1e-4)
    np.testing.assert_allclose(made["variance"].values[2], 16 * (2 * o / 100) ** 2, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"less_green": "average", "colour_smoothing": 1.0}])
def test_no_tile_shows(
    sky: Callable[..., Any], retile: Callable[[xr.Dataset, int], xr.Dataset], options: dict[str, Any]
) -> None:
    mosaic = sky(shape=(200, 168), tile=200, stars=30, nebula=50.0).mosaic
    table = neutralize(survey(mosaic)).compute()
    one = channels(mosaic, table, **options).compute()
    for tile in (64, 96):
        other = channels(retile(mosaic, tile), table, **options).compute()
        np.testing.assert_allclose(one["image"], other["image"], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(one["variance"], other["variance"], rtol=1e-4)


def test_luminance_is_the_mean_of_the_channels(sky: Callable[..., Any]) -> None:
    mosaic = sky(shape=(96, 96), tile=64, stars=20).mosaic
    table = neutralize(survey(mosaic), target=50.0).compute()
    made = channels(mosaic, table, palette="LRGB").compute()
    light = mosaic["image"].sel(band="L").values + float(table["offset"].sel(band="L"))
    np.testing.assert_allclose(made["image"].mean("channel"), light, atol=2e-3)
    only = channels(mosaic, table, palette="L").compute()
    assert only["channel"].values.tolist() == ["L"]
    np.testing.assert_allclose(only["image"][0], light, atol=1e-4)


def test_nothing_is_computed_before_it_is_asked_for(sky: Callable[..., Any]) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed")

    mosaic = sky(shape=(96, 96), tile=64, stars=3).mosaic
    with dask.config.set(scheduler=never):
        made = channels(mosaic, neutralize(survey(mosaic)))
    assert made["image"].chunks == ((3,), (64, 32), (64, 32))


def test_gaps_are_gaps_in_all_channels(sky: Callable[..., Any]) -> None:
    mosaic = sky(shape=(64, 64), tile=64, stars=3).mosaic
    image = mosaic["image"].values
    image[1, 10:20, 30:40] = np.nan
    mosaic["image"] = (mosaic["image"].dims, image)
    for options in (PLAIN, {}):
        made = channels(mosaic, palette="RGB", **options).compute()
        gap = np.isnan(made["image"].values)
        assert gap[:, 10:20, 30:40].all()
        assert gap.sum() == 3 * 100


def test_mistakes(sky: Callable[..., Any]) -> None:
    mosaic = sky(shape=(64, 64), tile=64, stars=3).mosaic
    with pytest.raises(
        DataError, match="palette SHO needs the bands Ha, OIII, SII; missing: Ha, OIII, SII; there is"
    ):
        channels(mosaic, palette="SHO")
    with pytest.raises(DataError, match="palette LRGB needs the bands B, G, L, R; missing: B"):
        channels(mosaic.isel(band=[1, 2, 3]), palette="LRGB")
    with pytest.raises(DataError, match="the bands B, G fit no palette"):
        channels(mosaic.isel(band=[0, 1]))
    with pytest.raises(DataError, match="combining bands needs linear data, these have been stretched"):
        channels(mosaic.assign_attrs(linear=False))
    with pytest.raises(ConfigError, match="palette custom: give a mixture for green, blue"):
        channels(mosaic, palette="custom", red="R")
    with pytest.raises(ConfigError, match="not allowed in a rule"):
        channels(mosaic, palette="RGB", red="R.__class__")
    with pytest.raises(ConfigError, match="unknown function 'median'"):
        channels(mosaic, palette="RGB", red="median(R)")
    with pytest.raises(DataError, match="made of bands already"):
        channels(channels(mosaic))
    assert Recipe.of("auto", {"red": "B"}, ["B", "G", "R"]).parts[0] == ("red", "B")


def test_bands_of_two_mosaics(sky: Callable[..., Any]) -> None:
    mosaic = sky(shape=(64, 64), tile=64, stars=3).mosaic
    both = merge_bands(mosaic.isel(band=[2]), mosaic.isel(band=[0, 1, 3]))
    assert both["band"].values.tolist() == ["L", "B", "G", "R"]
    np.testing.assert_array_equal(both["image"].sel(band="R"), mosaic["image"].sel(band="R"))
    assert both["image"].chunks == ((1,) * 4, (64,), (64,))
    with pytest.raises(DataError, match="band 'B' is there twice"):
        merge_bands(mosaic, mosaic.isel(band=[0]))
    other = sky(shape=(96, 64), tile=64, stars=3).mosaic
    with pytest.raises(
        DataError, match="lie on a canvas of 64 × 64 pixels of 2 arcsec, L, R on another of 64 × 96"
    ):
        merge_bands(mosaic.isel(band=[0]), other.isel(band=[2, 3]))
    moved = mosaic.assign_attrs(Grid.from_attrs(other.attrs).to_attrs())
    assert moved.attrs != mosaic.attrs
    with pytest.raises(DataError, match="some of these mosaics are linear"):
        merge_bands(mosaic.isel(band=[0]), mosaic.isel(band=[1]).assign_attrs(linear=False))
