"""Slopes go, nebulae stay, and what cannot be told apart is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.background.gradient import gradient, model_window
from skyloom.ops.background.gradient_model import gradient_model
from skyloom.ops.background.plain_sky import densest
from skyloom.ops.background.polynomials import least_squares, likeliest_surfaces, reach
from skyloom.ops.colour.survey import survey
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid, pixel_to_sky
from skyloom.ops.normalization.legendre import legendre

Make = Callable[..., xr.Dataset]
Floats = NDArray[np.float64]


def corrected(mosaic: xr.Dataset, **options: Any) -> tuple[xr.Dataset, xr.Dataset]:
    model = gradient_model(survey(mosaic), **options).compute()
    return gradient(mosaic, model).compute(), model


def taken(mosaic: xr.Dataset, model: xr.Dataset, band: int = 0) -> Floats:
    """What the correction takes away, less its level."""
    height, width = mosaic.sizes["y"], mosaic.sizes["x"]
    window = slice(0, height), slice(0, width)
    return model_window(model["coefficients"].values[band], (height, width), *window) - float(model["level"][band])


def losses(left: Floats, nebula: Floats) -> tuple[float, float]:
    """What is left of a slope from end to end, and the fraction of the nebula's flux that went with it.

    The flux is what lies above the sky around it, as one measures it.
    """
    around = float(np.median(left[nebula <= 0]))
    return float(np.ptp(left)), float(-(left - around)[nebula > 0].sum() / nebula.sum())


@pytest.mark.parametrize("method", ["polynomial", "spline"])
@pytest.mark.parametrize("where", ["centre", "side", "corner"])
def test_slope_goes_and_a_nebula_over_two_fifths_stays(
    mosaic: Make, scene: Callable[..., Any], where: str, method: str
) -> None:
    for seed in (2, 3) if method == "polynomial" else (3,):
        made = scene(where=where, seed=seed)
        assert (made.nebula > 0).mean() == pytest.approx(0.4, abs=0.01)
        field = mosaic({"L": made.image})
        done, model = corrected(field, method=method)
        assert int(model["degree"][0]) == 2
        left, lost = losses(made.slope - taken(field, model), made.nebula)
        assert left < 0.05 * np.ptp(made.slope)
        assert abs(lost) < 0.03
        # What is reported is what was done.
        assert float(model["amplitude"][0]) == pytest.approx(np.ptp(made.slope[8::16, 8::16]), rel=0.05)
        assert 0.4 < float(model["protected"][0]) < 0.65
        np.testing.assert_allclose(
            done["image"].values[0], field["image"].values[0] - taken(field, model), rtol=1e-6
        )
        np.testing.assert_array_equal(done["variance"].values, field["variance"].values)
        # The sky keeps its level.
        plain = made.nebula <= 0
        assert np.median(done["image"].values[0][plain]) == pytest.approx(500 + np.median(made.slope), abs=1.0)


def test_nothing_is_taken_where_there_is_nothing(mosaic: Make, scene: Callable[..., Any]) -> None:
    field = mosaic({"L": scene(amplitude=0.0).image})
    done, model = corrected(field, degree=3)
    assert int(model["degree"][0]) == 0
    np.testing.assert_array_equal(done["image"].values, field["image"].values)


def test_a_plane_is_a_plane(mosaic: Make, scene: Callable[..., Any]) -> None:
    made = scene(degree=1)
    field = mosaic({"L": made.image})
    _, model = corrected(field, degree=4)
    assert int(model["degree"][0]) == 1
    assert losses(made.slope - taken(field, model), made.nebula)[0] < 0.02 * np.ptp(made.slope)


@pytest.mark.parametrize(("size", "amplitude", "seed"), [(90.0, 40.0, 3), (90.0, 40.0, 4), (140.0, 40.0, 3)])
def test_glow_in_a_corner_does_not_bend_the_surface_away_from_the_slope(
    mosaic: Make, scene: Callable[..., Any], size: float, amplitude: float, seed: int
) -> None:
    made = scene(share=0.05, seed=seed)
    rows, columns = np.mgrid[:512, :512]
    # As of an amplifier beside the sensor: no polynomial.
    glow = amplitude * np.exp(-np.hypot(511 - columns, 0.7 * rows) / size)
    field = mosaic({"L": made.image + glow})
    _, model = corrected(field, degree=3)
    assert int(model["degree"][0]) >= 2
    assert float(model["protected"][0]) < 0.48
    left = made.slope + glow - taken(field, model)
    away = glow < 0.3 * amplitude
    left -= np.median(left[away])
    assert np.std(left[away]) < 0.05 * np.ptp(made.slope + glow)


@pytest.mark.parametrize("seed", [2, 4])
def test_a_bent_slope_is_no_nebula_to_a_plane(mosaic: Make, scene: Callable[..., Any], seed: int) -> None:
    made = scene(seed=seed, amplitude=240.0, share=0.3, noise=2.0)
    field = mosaic({"L": made.image})
    _, model = corrected(field, degree=1)
    assert int(model["degree"][0]) == 1
    assert "L: its sky bends more than degree 1 does: allow 2" in str(model["notes"].values)
    rows, columns = np.mgrid[-1:1:512j, -1:1:512j]
    plane = np.stack([np.ones_like(rows), rows, columns], axis=-1)
    sky = made.nebula <= 0
    best = plane @ np.linalg.lstsq(plane[sky], made.slope[sky], rcond=None)[0]
    left = made.slope - taken(field, model)
    assert np.std(left[sky]) < 1.15 * np.std((made.slope - best)[sky])


def test_a_nebula_over_all_the_field_is_left_alone(mosaic: Make, scene: Callable[..., Any]) -> None:
    made = scene(where="everywhere", amplitude=20.0, nebula=300.0, noise=2.0)
    field = mosaic({"L": made.image})
    done, model = corrected(field)
    assert int(model["degree"][0]) == 0
    np.testing.assert_array_equal(done["image"].values, field["image"].values)
    assert str(model["notes"].values).startswith("L: no plain sky: it scatters by ")


def test_where_one_band_has_no_sky_others_with_structure_are_left_alone(
    mosaic: Make, scene: Callable[..., Any]
) -> None:
    full = scene(where="everywhere", amplitude=20.0, nebula=300.0, noise=2.0)
    steep = full.image + 40 * scene(amplitude=60.0).slope
    clean = scene()
    _, model = corrected(mosaic({"Ha": full.image, "OIII": clean.image, "R": steep}))
    assert model["degree"].values.tolist() == [0, 2, 0]
    assert "R: its sky has structure too" in str(model["notes"].values)
    _, alone = corrected(mosaic({"R": steep}))
    assert int(alone["degree"][0]) == 2


def test_a_slope_that_only_one_side_knows_is_of_a_lower_degree(mosaic: Make, scene: Callable[..., Any]) -> None:
    made = scene(where="side", share=0.72, nebula=200.0, degree=1)
    field = mosaic({"L": made.image})
    _, model = corrected(field, plain=["455 255 110 500 px"], degree=4)
    assert int(model["degree"][0]) == 4, "places that the user gives count"
    _, model = corrected(field, degree=4)
    assert int(model["degree"][0]) <= 1
    assert "plain sky" in str(model["notes"].values)


def test_bands_share_the_places_of_sky(mosaic: Make, scene: Callable[..., Any]) -> None:
    here, there = scene(where="centre", share=0.2), scene(where="corner", seed=3, share=0.2)
    _, model = corrected(mosaic({"R": here.image, "B": there.image}))
    red, blue = model["sky"].values
    np.testing.assert_array_equal(red, blue)
    either = ((here.nebula + there.nebula) > 1).reshape(32, 16, 32, 16).mean(axis=(1, 3)) > 0.5
    assert not (red & either).any()


def test_no_tile_shows(
    mosaic: Make, scene: Callable[..., Any], retile: Callable[[xr.Dataset, int], xr.Dataset]
) -> None:
    field = mosaic({"L": scene().image[:400]})
    one, model = corrected(field)
    other = retile(field, 160)
    again = gradient_model(survey(other)).compute()
    np.testing.assert_array_equal(model["coefficients"].values, again["coefficients"].values)
    two = gradient(other, again)
    assert two.chunks["x"][0] == 160
    np.testing.assert_allclose(two["image"].values, one["image"].values, rtol=2e-7)


def test_dividing_scales_the_noise(mosaic: Make, scene: Callable[..., Any]) -> None:
    made = scene(nebula=0.0, noise=1.0)
    field = mosaic({"L": made.image})
    model = gradient_model(survey(field)).compute()
    done = gradient(field, model, how="divide").compute()
    level = float(model["level"][0])
    factor = level / (taken(field, model) + level)
    np.testing.assert_allclose(done["image"].values[0], field["image"].values[0] * factor, rtol=1e-5)
    np.testing.assert_allclose(done["variance"].values[0], factor**2, rtol=1e-5)
    np.testing.assert_allclose(done["weight"].values[0], factor**-2, rtol=1e-5)
    dark = field.assign(image=field["image"] - 500.0)
    with pytest.raises(DataError, match=r"band L: the background falls to -\d.*subtract"):
        gradient(dark, gradient_model(survey(dark)).compute(), how="divide").compute()


def test_the_sky_may_become_zero(mosaic: Make, scene: Callable[..., Any]) -> None:
    made = scene()
    field = mosaic({"L": made.image})
    for degree in (0, 2):
        model = gradient_model(survey(field), degree=degree).compute()
        done = gradient(field, model, level="zero").compute()
        assert abs(np.median(done["image"].values[0][made.nebula <= 0])) < (1.0 if degree else 20.0)


def test_protected_places_do_not_count(mosaic: Make, scene: Callable[..., Any]) -> None:
    made = scene(nebula=0.0, degree=1)
    rows, columns = np.mgrid[:512, :512]
    # A smooth glow over a corner, which looks like a slope to a surface of degree 4.
    glow = 40 * np.exp(-0.5 * ((rows - 420.0) ** 2 + (columns - 400.0) ** 2) / 150.0**2)
    field = mosaic({"L": made.image + glow})
    grid = Grid.from_attrs(field.attrs)
    ra, dec = (float(q[0]) for q in pixel_to_sky(grid.wcs, np.array([400.0]), np.array([420.0])))
    side = 460 * grid.pixel_scale / 3600
    for place in (f"{ra:.6f} {dec:.6f} {side:.4f} {side:.4f}", "400 420 230 px"):
        _, model = corrected(field, protect=[place], degree=1)
        sky = model["sky"].values[0]
        assert not sky[20:32, 18:32].any()
        left = made.slope - taken(field, model)
        assert np.ptp(left[:180]) < 0.1 * np.ptp(made.slope)


def test_method_none_is_off(mosaic: Make, scene: Callable[..., Any]) -> None:
    field = mosaic({"L": scene().image})
    for options in ({"method": "none"}, {"degree": 0}):
        done, model = corrected(field, **options)
        np.testing.assert_array_equal(done["image"].values, field["image"].values)
        assert float(model["amplitude"][0]) == 0.0


def test_attributes_say_what_was_done_and_nothing_is_computed_early(
    mosaic: Make, scene: Callable[..., Any]
) -> None:
    field = mosaic({"L": scene().image}, tile=256)

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        lazy = gradient(field, gradient_model(survey(field)))
    assert "gradient_amplitude" not in lazy.attrs
    model = gradient_model(survey(field)).compute()
    done = gradient(field, model)
    assert done.attrs["gradient"] == "subtract"
    assert done.attrs["gradient_amplitude"] == pytest.approx([float(model["amplitude"][0])], rel=1e-5)
    assert done.attrs["gradient_degree"] == [2]
    np.testing.assert_array_equal(lazy["image"].values, done["image"].values)


def test_mistakes(mosaic: Make, scene: Callable[..., Any]) -> None:
    field = mosaic({"L": scene().image})
    cells = survey(field)
    for place in ("1 2", "270 -24 -1", "a b c", "1 2 3 4 5", "270 -24 0.1 deg"):
        with pytest.raises(ConfigError, match=r"gradient_model: protect .* is no place: write"):
            gradient_model(cells, protect=[place])
    with pytest.raises(DataError, match="no place to measure the background at"):
        gradient_model(cells, protect=["256 256 600 px"]).compute()
    with pytest.raises(DataError, match="needs linear data"):
        gradient_model(cells.assign_attrs(linear=False))
    with pytest.raises(DataError, match="of another canvas"):
        gradient(mosaic({"L": scene().image[:300]}), gradient_model(cells))
    with pytest.raises(DataError, match="level = 'zero' goes with how = 'subtract' only"):
        gradient(field, gradient_model(cells), how="divide", level="zero")
    nowhere = cells.assign_attrs(Grid.from_attrs(cells.attrs).named("RELATIVE").to_attrs())
    with pytest.raises(ConfigError, match="nothing says where on the sky this canvas is"):
        gradient_model(nowhere, protect=["270 -24 0.1"])


def test_robust_fits_against_truth() -> None:
    rng = np.random.default_rng(4)
    s, t = rng.uniform(-1, 1, (2, 800))
    terms, true = legendre(s, t, 2), np.array([10.0, 3.0, -2.0, 1.0, 0.5, -1.5])
    values = terms @ true + rng.normal(0, 0.1, 800)
    np.testing.assert_allclose(least_squares(terms, values), true, atol=0.03)
    bad = s < -0.3
    values[bad] += rng.uniform(3, 20, int(bad.sum()))
    found = likeliest_surfaces(terms, values, 0.35, number=1)[0]
    np.testing.assert_allclose((terms @ (found - true))[~bad], 0, atol=0.15)
    assert np.abs(terms @ (least_squares(terms, values) - true)).max() > 1


def test_reach_is_that_of_the_errors() -> None:
    rng = np.random.default_rng(5)
    s, t = (g.ravel() for g in np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 20)))
    terms, chosen = legendre(s, t, 2), s > -0.2
    assert reach(terms, np.ones(400, bool)) == pytest.approx(1.0)
    spread = []
    for some in (chosen, np.ones(400, bool)):
        fits = [np.linalg.lstsq(terms[some], rng.normal(size=int(some.sum())), rcond=None)[0] for _ in range(600)]
        spread.append(np.std(terms @ np.array(fits).T, axis=1).max() * np.sqrt(some.sum()))
    assert reach(terms, chosen) == pytest.approx(spread[0] / spread[1], rel=0.15)
    assert reach(terms, s == s[0]) == np.inf


def test_the_densest_third_is_the_sky() -> None:
    rng = np.random.default_rng(6)
    values = np.concatenate([rng.normal(7, 2, 3000), rng.uniform(12, 90, 2500)])
    middle, sigma, _ = densest(values)
    assert middle == pytest.approx(7, abs=0.7)
    assert sigma == pytest.approx(2, rel=0.15)
