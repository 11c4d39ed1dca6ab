"""Star colours of a known sky come out right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.colour.linear_fit import linear_fit
from skyloom.ops.colour.neutralize import neutralize
from skyloom.ops.colour.star_catalogue import star_catalogue
from skyloom.ops.colour.star_colours import star_colours
from skyloom.ops.colour.survey import survey
from skyloom.ops.colour.white_balance import white_balance
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid, pixel_to_sky


def measured(mosaic: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    lines = neutralize(survey(mosaic))
    return star_colours(mosaic, lines), lines


def test_fluxes_are_those_of_the_stars(sky: Callable[..., Any], truth: dict[str, Any]) -> None:
    made = sky(stars=40, spread=0.3)
    stars, _ = measured(made.mosaic)
    assert stars["band"].values.tolist() == ["B", "G", "R"]
    stars = stars.compute()
    x, y = stars["x"].values.ravel(), stars["y"].values.ravel()
    seen = 0
    for number, (xs, ys) in enumerate(zip(made.x, made.y, strict=True)):
        near = np.flatnonzero(np.hypot(x - xs, y - ys) < 0.3)
        alone = np.sort(np.hypot(made.x - xs, made.y - ys))[1] > 22
        if near.size and alone and min(xs, ys) > 16 and max(xs, ys) < 300:
            for place, band in enumerate("BGR"):
                flux = stars["flux"].values[place].ravel()[near[0]]
                error = stars["error"].values[place].ravel()[near[0]]
                assert abs(flux - truth["gain"][band] * made.colour[band][number]) < 5 * error + 0.005 * flux
            seen += 1
    assert seen >= 8


def test_no_tile_shows(sky: Callable[..., Any], retile: Callable[[xr.Dataset, int], xr.Dataset]) -> None:
    mosaic = sky(stars=60).mosaic
    one = star_colours(mosaic, neutralize(survey(mosaic))).compute()
    other = star_colours(retile(mosaic, 96), neutralize(survey(mosaic))).compute()
    for name in one.data_vars:
        np.testing.assert_allclose(one[name].values, other[name].values, rtol=1e-5, atol=1e-6)


def test_the_average_star_is_white_and_the_others_keep_their_colours(
    sky: Callable[..., Any], truth: dict[str, Any]
) -> None:
    made = sky(stars=150, nebula=60.0)
    stars, _ = measured(made.mosaic)
    lines = neutralize(survey(made.mosaic), target=40.0)
    table = white_balance(stars, lines).compute()
    assert int(table["stars"]) > 30
    for band in "RB":
        # Every star's flux ratio after the balance is its true one: the gains are undone.
        found = float(table["scale"].sel(band=band)) * truth["gain"][band]
        assert found == pytest.approx(1.0, abs=0.03), band
        level = float(table["scale"].sel(band=band)) * truth["level"][band] + float(table["offset"].sel(band=band))
        assert abs(level - 40.0) < 1.0, "the background stays"
    assert float(table["scale"].sel(band="L")) == 1.0


def test_a_catalogue_says_what_is_white(sky: Callable[..., Any], truth: dict[str, Any], tmp_path: Path) -> None:
    """The stars of this field are red on average: without a catalogue they would come out white."""
    made = sky(stars=150, spread=0.3)
    temperature = 0.5 * (np.log(made.colour["R"]) - np.log(made.colour["B"])) + 0.4
    gains = {"R": np.exp(0.4), "G": 1.0, "B": np.exp(-0.4), "L": 1.0}
    mosaic = made.mosaic.copy()
    factor = np.array([gains[b] for b in mosaic["band"].values], np.float32)[:, None, None]
    mosaic["image"] = mosaic["image"] * factor
    ra, dec = pixel_to_sky(Grid.from_attrs(mosaic.attrs).wcs, made.x, made.y)
    table = tmp_path / "stars.csv"
    lines = [
        f"{i},{r:.7f},{d:.7f},{0.65 + t:.4f}" for i, (r, d, t) in enumerate(zip(ra, dec, temperature, strict=True))
    ]
    table.write_text("# mine\nname,RA,Dec,B-V\n" + "\n".join([*lines, "x,1,2,", "bad row"]) + "\n")
    catalogue = star_catalogue([], table=str(table))
    assert catalogue.sizes["star"] == 150
    stars, neutral = measured(mosaic)
    found = white_balance(stars, neutral, catalogue, white_index=0.65).compute()
    for band in "RB":
        # The gain of the sensor alone is undone, the redness of the stars is not.
        assert float(found["scale"].sel(band=band)) * truth["gain"][band] == pytest.approx(1.0, abs=0.03), band
    assert float(found["slope"].sel(band="R")) == pytest.approx(1.0, abs=0.1)
    assert float(found["slope"].sel(band="B")) == pytest.approx(-1.0, abs=0.1)


def test_a_white_star_as_described(sky: Callable[..., Any], truth: dict[str, Any]) -> None:
    stars, lines = measured(sky(shape=(64, 64), tile=64, stars=2).mosaic)
    white = {b: g for b, g in truth["gain"].items() if b != "L"}
    table = white_balance(stars, lines, white=white).compute()
    for band, gain in white.items():
        assert float(table["scale"].sel(band=band)) * gain == pytest.approx(1.0)
    assert int(table["stars"]) == 0


def test_mistakes(sky: Callable[..., Any], tmp_path: Path) -> None:
    mosaic = sky(shape=(96, 96), tile=96, stars=3).mosaic
    stars, lines = measured(mosaic)
    with pytest.raises(DataError, match=r"\d stars are bright enough in every band, a white balance needs 5"):
        white_balance(stars, lines).compute()
    with pytest.raises(ConfigError, match="white: 'Q': there is no such band"):
        white_balance(stars, lines, white={"Q": 1.0})
    with pytest.raises(ConfigError, match="G = 0 should be above 0"):
        white_balance(stars, lines, white={"G": 0.0})
    with pytest.raises(ConfigError, match="bands: 'Ha': there is no such band"):
        star_colours(mosaic, lines, bands=["Ha"])
    with pytest.raises(DataError, match="has no noise of the bands: measure star colours after neutralize"):
        star_colours(mosaic, linear_fit(survey(mosaic)))
    with pytest.raises(DataError, match="measure star colours after neutralize"):
        star_colours(mosaic, survey(mosaic))
    with pytest.raises(ConfigError, match="cannot be read"):
        star_catalogue([], table=str(tmp_path / "none.csv"))
    (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="no column ra or ra_deg or raj2000; there is: a, b"):
        star_catalogue([], table=str(tmp_path / "odd.csv"))
    (tmp_path / "empty.csv").write_text("ra,dec,b-v\n1,2,x\n")
    with pytest.raises(DataError, match="no row has ra, dec and a colour"):
        star_catalogue([], table=str(tmp_path / "empty.csv"))
