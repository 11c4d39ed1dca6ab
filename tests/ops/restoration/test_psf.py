"""The PSF of regions against the one the stars were made with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.registry import get_op
from skyloom.ops.restoration.aims import aims
from skyloom.ops.restoration.psf import psf, region_weights, typical_layers
from skyloom.ops.restoration.psf_stars import psf_stars

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def measured(field: Any) -> xr.Dataset:
    return psf_stars(field.mosaic, region=256).compute()


def test_stamps_are_the_truth_where_their_stars_are(
    field: Any, measured: xr.Dataset, moffat: Callable[..., Floats]
) -> None:
    axis = np.arange(-15, 16.0)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        here = (field.x // 256 == j) & (field.y // 256 == i)
        assert measured["stars"].values[0, i, j] == pytest.approx(here.sum(), abs=6)
        x = field.x[here].mean() / 460
        fwhm, ellipticity = 3.6 + 0.8 * x, 0.12 * x
        assert measured["fwhm"].values[0, i, j] == pytest.approx(fwhm, rel=0.02)
        assert measured["ellipticity"].values[0, i, j] == pytest.approx(ellipticity, abs=0.02)
        assert measured["beta"].values[0, i, j] == pytest.approx(3.0, abs=0.2)
        wanted = moffat(axis[None, :], axis[:, None], fwhm, ellipticity, 0.5)
        stamp = measured["stamp"].values[0, i, j]
        assert np.abs(stamp - wanted / wanted.sum()).max() < 0.03 * wanted.max()
        assert stamp.sum() == pytest.approx(1.0, abs=1e-5)
        centre = [(stamp * axis[:, None]).sum(), (stamp * axis[None, :]).sum()]
        assert np.abs(centre).max() < 0.05
    assert measured["noise"].values[0, 0, 0] == pytest.approx(field.noise, rel=0.03)


def test_shape_that_is_no_moffat_is_in_the_residuals(
    make: Callable[..., Any], moffat: Callable[..., Floats]
) -> None:
    field = make(noise=1.0, fwhm=(3.4, 3.4), flux=(4.8, 5.2), shape=(256, 256), lattice=42)
    # A companion of a tenth, three pixels above: coma, or two exposures out of register.
    shifted = np.roll(field.mosaic["image"].values[0] - field.level, 3, axis=0)
    image = (field.mosaic["image"] + 0.1 * shifted).astype(np.float32)
    found = psf_stars(field.mosaic.assign(image=image), region=256).compute()
    axis = np.arange(-15, 16.0)
    wanted = moffat(axis[None, :], axis[:, None], 3.4, 0.06, 0.5)
    wanted = wanted + 0.1 * np.roll(wanted, 3, axis=0)
    stamp = found["stamp"].values[0, 0, 0]
    y, x = 15.0 + (stamp * axis[:, None]).sum(), 15.0 + (stamp * axis[None, :]).sum()
    assert abs(x - 15) < 0.1
    wanted /= wanted.sum()
    # Where the stamp calls the middle is its own affair.
    from scipy import ndimage

    shift = y - 15.0 - (wanted * axis[:, None]).sum()
    assert np.abs(ndimage.shift(wanted, (shift, 0), order=3) - stamp).max() < 0.02 * stamp.max()


def test_does_not_depend_on_tiles(
    field: Any, measured: xr.Dataset, retile: Callable[[xr.Dataset, int], xr.Dataset]
) -> None:
    xr.testing.assert_equal(psf_stars(retile(field.mosaic, 96), region=256).compute(), measured)


def test_regions_without_stars_have_their_neighbours(measured: xr.Dataset) -> None:
    poor = measured.copy(deep=True)
    poor["fwhm"][0, 0, 1] = np.nan
    poor["stamp"][0, 0, 1] = np.nan
    poor["stars"][0, 0, 1] = 2
    found = psf(poor, enough=5).compute()
    assert found["stamp"].shape == (1, 62, 62)
    stamp = found["stamp"].values[0, :31, 31:]
    assert stamp.sum() == pytest.approx(1.0, abs=1e-5)
    others = measured["fwhm"].values[0, [0, 1, 1], [0, 0, 1]]
    assert others.min() < found["fwhm"].values[0, 0, 1] < others.max()
    assert found["used"].values[0, 0, 1] >= 5
    own = psf(measured, enough=5).compute()
    np.testing.assert_allclose(own["stamp"].values[0, 31:, :31], measured["stamp"].values[0, 1, 0], atol=1e-4)


def test_a_band_without_stars_has_no_psf_and_stops_nothing(measured: xr.Dataset) -> None:
    nothing = measured.assign(fwhm=measured["fwhm"] * np.nan)
    both = xr.concat([measured, nothing.assign_coords(band=["R"])], "band")
    found = psf(both, enough=5).compute()
    np.testing.assert_array_equal(found["fwhm"].values[0], psf(measured, enough=5).compute()["fwhm"].values[0])
    assert np.isnan(found["fwhm"].values[1]).all()
    assert not found["stamp"].values[1].any()
    wanted, worth = aims(found["fwhm"].values, (0, 1), 0.5)
    assert worth == (0,)
    assert wanted == pytest.approx(aims(found["fwhm"].values[:1], (0,), 0.5)[0])
    assert aims(found["fwhm"].values, (1,), 0.5)[1] == ()


def test_weights_grow_with_distance_until_stars_are_enough() -> None:
    stars = np.zeros((5, 7))
    stars[0, 0], stars[4, 6] = 30, 40
    weight = region_weights(stars, 0, 1, enough=20)
    assert weight[0, 0] == pytest.approx(1.0)
    both = region_weights(stars, 2, 3, enough=60)
    assert both.sum() == pytest.approx(1.0)
    assert both[0, 0] > 0.3
    assert both[4, 6] > 0.3


def test_deep_layers_are_no_noisier_than_the_second_lets_expect() -> None:
    white = np.array([0.8908, 0.2007, 0.0855, 0.0412])
    layers = np.full((2, 1, 3, 4), np.nan)
    layers[0, 0, 0] = white * (1, 1, 5, 20)
    found = typical_layers(layers) / white
    np.testing.assert_allclose(found, 1.0, rtol=1e-2)
    layers[0, 0, 0] = white * (0.6, 2.0, 2.5, 20)
    np.testing.assert_allclose((typical_layers(layers) / white)[0], [0.6, 2.0, 2.5, 2**1.55], rtol=1e-2)


def test_saturated_stars_are_told(make: Callable[..., Any]) -> None:
    field = make(shape=(300, 300), flux=(4.3, 4.6))
    brightest = int(np.argmax(field.flux))
    x, y = field.x[brightest], field.y[brightest]
    rows, columns = np.mgrid[:300, :300]
    image = field.mosaic["image"].values.copy()
    image[0] += (4e4 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8.0)).astype(np.float32)
    image = np.minimum(image, 9000)
    found = psf_stars(field.mosaic.assign(image=(("band", "y", "x"), image)), region=512).compute()
    listed = found["saturated"].values[0, 0, 0]
    listed = listed[np.isfinite(listed[:, 0])]
    assert len(listed) == 1
    np.testing.assert_allclose(listed[0, :2], (x, y), atol=0.5)
    assert 8 < listed[0, 2] < 60


def test_lazy_and_misuse(field: Any) -> None:
    stretched = field.mosaic.assign_attrs(linear=False)
    with pytest.raises(DataError, match="measuring the PSF needs linear data, these have been stretched"):
        psf_stars(stretched)
    with pytest.raises(ConfigError, match="radius = 64 should be at most a quarter of region = 250"):
        psf_stars(field.mosaic, region=250, radius=64)
    assert get_op("psf_stars").unit == ("y", "x")
