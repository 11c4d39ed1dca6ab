"""The same stretch for every tile, colours kept where asked, what is clipped recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.colour.survey import survey
from skyloom.ops.display.lab import rgb_to_lab
from skyloom.ops.display.lightness import replace_lightness
from skyloom.ops.display.stretch import stretch
from skyloom.ops.display.tones import tones
from skyloom.ops.errors import ConfigError, DataError

Make = Callable[..., xr.Dataset]


def test_autostretch_by_hand(picture: Make) -> None:
    data = picture()
    table = tones(survey(data), linked=False).compute()
    for number in range(3):
        pixels = data["image"].values[number]
        pixels = pixels[np.isfinite(pixels)].astype(float)
        median = np.median(pixels)
        black = max(median - 2.8 * 1.4826 * np.median(np.abs(pixels - median)), pixels.min())
        white = np.quantile(pixels, 0.9999)
        assert float(table["black"][number]) == pytest.approx(black)
        assert float(table["white"][number]) == pytest.approx(white)
        c = (median - black) / (white - black)
        # m with MTF(c; m) = 1/4.
        assert float(table["midtones"][number]) == pytest.approx(0.75 * c / (0.5 * c + 0.25))
    shown = stretch(data, tones(survey(data), linked=False)).compute()
    assert shown.attrs["linear"] is False
    assert "units" not in shown.attrs
    for channel in shown["image"].values:
        assert np.nanmedian(channel) == pytest.approx(0.25, abs=1e-4)


def test_linked_means_one_stretch(picture: Make) -> None:
    data = picture()
    table = tones(survey(data)).compute()
    for name in ("black", "white", "midtones"):
        assert len(set(table[name].values.tolist())) == 1
    shown = stretch(data, tones(survey(data))).compute()["image"].values
    order = np.argsort(data["image"].values[:, 100, 100])
    assert (np.diff(shown[order, 100, 100]) >= 0).all()
    assert np.nanmedian(shown[1]) > np.nanmedian(shown[0]) > np.nanmedian(shown[2])


@pytest.mark.parametrize(
    "options",
    [
        {"method": "stf", "keep_colour": 0.5},
        {"method": "asinh", "keep_colour": 1.0, "saturation": 1.3},
        {"method": "ghs", "local": -1.0, "protect_highlights": 0.9},
        {"method": "mtf", "midtones": 0.05, "curve": [[0.3, 0.2], [0.7, 0.8]]},
        {"method": "none"},
    ],
)
def test_no_tile_shows_and_all_is_between_0_and_1(picture: Make, options: dict[str, Any]) -> None:
    one = picture()
    other = picture(tile=64)
    a, b = (stretch(d, tones(survey(d)), **options).compute() for d in (one, other))
    np.testing.assert_allclose(a["image"], b["image"], atol=1e-6)
    np.testing.assert_array_equal(a["clipped"], b["clipped"])
    values = a["image"].values
    assert values.dtype == np.float32
    assert np.isnan(values[:, :5, :7]).all()
    assert np.isfinite(values).sum() == values.size - 3 * 35
    assert np.nanmin(values) >= 0.0
    assert np.nanmax(values) <= 1.0
    if options["method"] in ("asinh", "ghs"):
        assert np.nanmedian(values) == pytest.approx(0.25, abs=0.02), "the median lands where tones say"


def test_clipped_pixels_are_flagged(picture: Make) -> None:
    data = picture()
    table = tones(survey(data), shadows=-1.0, white=0.99)
    shown, values = stretch(data, table).compute(), table.compute()
    image, black, white = data["image"].values, float(values["black"][0]), float(values["white"][0])
    np.testing.assert_array_equal(shown["clipped"].values & 1 > 0, (image < np.float32(black)).any(axis=0))
    np.testing.assert_array_equal(shown["clipped"].values & 2 > 0, (image > np.float32(white)).any(axis=0))
    assert (shown["clipped"].values & 1).mean() > 0.1


def test_burnt_out_stars_are_filled_and_said_so(picture: Make) -> None:
    for tile in (160, 64):
        data = picture(tile=tile).load()
        image = data["image"].values
        rows, columns = np.mgrid[:160, :128]
        image += 4000 * np.exp(-0.5 * ((rows - 62) ** 2 + (columns - 66) ** 2) / 3.0**2)
        core = (rows - 62) ** 2 + (columns - 66) ** 2 < 4**2
        image[:, core] = np.nan
        image[:, 120:, 100:] = np.nan
        data["image"] = (data["image"].dims, image)
        data = data.chunk({"channel": 3, "y": tile, "x": tile})
        shown = stretch(data, tones(survey(data))).compute()
        assert np.isfinite(shown["image"].values[:, core]).all()
        assert shown["image"].values[:, core].min() > 0.9, "as bright as its rim"
        np.testing.assert_array_equal(shown["clipped"].values & 4 > 0, core)
        assert np.isnan(shown["image"].values[:, 120:, 100:]).all(), "what is no hole stays"
        assert np.isnan(shown["image"].values[:, :5, :7]).all()
        none = stretch(data, tones(survey(data)), fill_gaps=0).compute()
        assert np.isnan(none["image"].values[:, core]).all()


def test_colour_is_kept(picture: Make) -> None:
    data = picture()
    table = tones(survey(data), shadows=-6.0).compute()
    shown = stretch(data, table, method="asinh", keep_colour=1.0).compute()["image"].values
    black, white = float(table["black"][0]), float(table["white"][0])
    x = (data["image"].values - black) / (white - black)
    inside = (x > 0.02).all(axis=0) & (shown < 0.999).all(axis=0) & (shown.max(axis=0) < 0.95)
    inside &= (x / x.mean(axis=0) * shown.mean(axis=0) < 1.0).all(axis=0)
    assert inside.sum() > 20
    ratio = (shown / shown.mean(axis=0))[:, inside]
    np.testing.assert_allclose(ratio, (x / x.mean(axis=0))[:, inside], rtol=1e-4)


@pytest.mark.parametrize("method", ["stf", "asinh"])
def test_sky_is_grey_whatever_is_bright_in_a_channel(picture: Make, method: Any) -> None:
    data = picture()
    image = np.random.default_rng(3).normal(0.0, 8.0, data["image"].shape).astype(np.float32)
    # The brightest stars of the channels differ, their sky does not.
    image[:, ::8, ::8] += np.array([2700.0, 1500.0, 900.0], np.float32)[:, None, None]
    data["image"] = (data["image"].dims, image)
    table = tones(survey(data), linked=False, background=0.2, white=0.999)
    assert np.ptp(table["white"].values) > 1000
    options: dict[str, Any] = {"method": method, "keep_colour": 0.6, "saturation": 1.2}
    shown = stretch(data, table, **options).compute()["image"].values
    medians = np.nanmedian(shown.reshape(3, -1), axis=1)
    np.testing.assert_allclose(medians, medians.mean(), rtol=0.01)
    assert medians.mean() == pytest.approx(0.2, rel=0.05)


def test_a_stretched_picture_takes_curves_only(picture: Make) -> None:
    data = picture()
    shown = stretch(data, tones(survey(data)))
    again = stretch(shown, method="none", curve=[[0.25, 0.1]]).compute()["image"].values
    assert np.nanmedian(again) < 0.15
    for options in ({"method": "stf"}, {"method": "asinh"}):
        with pytest.raises(DataError, match="needs linear data, these have been stretched"):
            stretch(shown, **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="an autostretch needs linear data"):
        tones(survey(shown))
    with pytest.raises(DataError, match="a linear picture needs tones"):
        stretch(data)
    with pytest.raises(DataError, match="the tones are not of channel R, G, B"):
        stretch(data, tones(survey(picture(channels="LR"))))
    with pytest.raises(ConfigError, match="give the strength of ghs"):
        stretch(shown, method="ghs")


def test_lightness_is_the_luminance_s(picture: Make) -> None:
    data, light = picture(), picture(channels="L")
    table = tones(survey(data))
    colour, grey = stretch(data, table), stretch(light, table)
    made = replace_lightness(colour, grey, colour_smoothing=0.0).compute()
    lab = rgb_to_lab(made["image"].values.astype(float))
    wanted = rgb_to_lab(np.repeat(grey["image"].values.astype(float), 3, axis=0))[0]
    before = rgb_to_lab(colour["image"].values.astype(float))
    inside = made["clipped"].values == 0
    inside &= np.isfinite(wanted)
    np.testing.assert_allclose(lab[0][inside], wanted[inside], atol=1e-2)
    np.testing.assert_allclose(lab[1:][:, inside], before[1:][:, inside], atol=0.05)
    assert np.isnan(made["image"].values[:, :5, :7]).all()


def test_lightness_no_tile_shows_and_mistakes(picture: Make) -> None:
    results = []
    for tile in (160, 64):
        data, light = picture(tile=tile), picture(channels="L", tile=tile)
        table = tones(survey(data))
        results.append(
            replace_lightness(
                stretch(data, table), stretch(light, table), saturation=0.3, midtones=0.4, colour_smoothing=2.0
            ).compute()["image"]
        )
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    data = picture()
    shown = stretch(data, tones(survey(data)))
    with pytest.raises(DataError, match="the luminance is linear: stretch it first"):
        replace_lightness(shown, picture(channels="L"))
    other = picture(shape=(96, 96), tile=96, channels="L")
    with pytest.raises(DataError, match="different canvases"):
        replace_lightness(shown, stretch(other, tones(survey(other))))
    with pytest.raises(DataError, match="three channels and a luminance of one"):
        replace_lightness(shown, shown)
