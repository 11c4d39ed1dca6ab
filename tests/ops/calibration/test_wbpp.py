"""The rules of PixInsight's WBPP, one by one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import xarray as xr

from skyloom.ops.calibration.link import link

MakeSession = Callable[[list[dict[str, Any]]], xr.Dataset]
LIGHT = {
    "kind": "light",
    "band": "L",
    "exposure": 120.0,
    "camera": "A",
    "gain_setting": 100.0,
    "temperature": -10.0,
}
DARK = {**LIGHT, "kind": "dark", "band": "none"}
FLAT = {**LIGHT, "kind": "flat", "exposure": 2.0}
BIAS = {**DARK, "kind": "bias", "exposure": 0.0}
FLATDARK = {**DARK, "kind": "flatdark", "exposure": 2.0}


def wbpp(session: xr.Dataset, **parameters: Any) -> xr.Dataset:
    return link(session, rules="wbpp", on_broken=parameters.pop("on_broken", "without"), **parameters)


def linked(links: xr.Dataset, role: str, frame: int = 0) -> str:
    index = int(links[role].values[frame])
    return str(links["label"].values[index]) if index >= 0 else ""


def own(links: xr.Dataset, kind: str, role: str) -> str:
    index = int(links[f"own_{role}"].values[links["kind"].values.tolist().index(kind)])
    return str(links["label"].values[index]) if index >= 0 else ""


@pytest.mark.parametrize(
    ("row", "change", "count"),
    [
        (DARK, {"exposure": 110.0}, 1),
        (DARK, {"exposure": 109.0}, 2),
        (DARK, {"camera": "B", "gain_setting": 0.0, "temperature": 20.0, "offset_setting": 9.0}, 1),
        (DARK, {"width": 50}, 2),
        (DARK, {"binning": "2x2"}, 2),
        (DARK, {"binning": "1x1"}, 1),
        (DARK, {"kind": "flatdark"}, 1),
        (DARK, {"master": True}, 2),
        (FLAT, {"band": "Ha"}, 2),
        (FLAT, {"night": "2026-01-01", "rotation": 90.0, "exposure": 9.0}, 1),
        (FLAT, {"bayer": "RGGB"}, 2),
        (BIAS, {"exposure": 1.0}, 1),
    ],
)
def test_grouping(make_session: MakeSession, row: dict[str, Any], change: dict[str, Any], count: int) -> None:
    assert wbpp(make_session([LIGHT, row, {**row, **change}])).sizes["group"] == count


@pytest.mark.parametrize(("other", "groups"), [(121.0, 1), (122.0, 1), (123.0, 2)])
def test_lights_within_two_seconds_are_one_group(make_session: MakeSession, other: float, groups: int) -> None:
    links = wbpp(make_session([LIGHT, {**LIGHT, "exposure": other}]))
    assert len(json.loads(links.attrs["light_groups"])) == groups


def test_the_dark_closest_in_exposure_however_far(make_session: MakeSession) -> None:
    session = make_session([LIGHT, {**DARK, "exposure": 30.0}, {**DARK, "exposure": 600.0}])
    links = wbpp(session)
    assert linked(links, "dark").startswith("dark 30 s")
    assert "exposure 30 s, not 120 s" in str(links["note"].values[0])
    assert not links["problem"].values[0]


def test_unknown_exposure_takes_the_longest_dark(make_session: MakeSession) -> None:
    light = {**LIGHT, "exposure": math.nan}
    links = wbpp(make_session([light, {**DARK, "exposure": 30.0}, {**DARK, "exposure": 600.0}]))
    assert linked(links, "dark").startswith("dark 600 s")


def test_what_is_not_compared_is_told(make_session: MakeSession) -> None:
    dark = {**DARK, "gain_setting": 0.0, "temperature": 10.0, "camera": "B", "exposure": 100.0}
    note = str(wbpp(make_session([LIGHT, dark]))["note"].values[0])
    for words in ("gain 0, not 100", "temperature 20 °C off", "camera B, not A", "exposure 100 s, not 120 s"):
        assert words in note


def test_a_dark_contains_the_bias(make_session: MakeSession) -> None:
    links = wbpp(make_session([LIGHT, DARK, BIAS]))
    assert linked(links, "dark")
    assert not linked(links, "bias")
    assert not links["scale_dark"].values[0]
    scaled = wbpp(make_session([LIGHT, DARK, BIAS]), scale_darks="when_needed")
    assert linked(scaled, "bias")
    assert scaled["scale_dark"].values[0]
    assert linked(wbpp(make_session([LIGHT, BIAS])), "bias")


@pytest.mark.parametrize(
    ("frames", "dark", "bias"),
    [
        ([FLATDARK], "dark 2 s", ""),
        ([FLATDARK, BIAS], "dark 2 s", ""),
        ([{**FLATDARK, "exposure": 2.4}, BIAS], "dark 2.4 s", ""),
        ([{**FLATDARK, "exposure": 2.6}, BIAS], "", "bias"),
        ([{**FLATDARK, "exposure": 2.6}], "dark 2.6 s", ""),
        ([DARK, BIAS], "", "bias"),
        ([DARK], "dark 120 s", ""),
    ],
)
def test_what_a_flat_gets(make_session: MakeSession, frames: list[dict[str, Any]], dark: str, bias: str) -> None:
    links = wbpp(make_session([LIGHT, FLAT, *frames]))
    assert own(links, "flat", "dark").startswith(dark)
    assert bool(own(links, "flat", "dark")) == bool(dark)
    assert own(links, "flat", "bias").startswith(bias)
    assert bool(own(links, "flat", "bias")) == bool(bias)


@pytest.mark.parametrize(
    "change", [{"band": "Ha"}, {"band": "none"}, {"width": 50}, {"binning": "2x2"}, {"bayer": "RGGB"}]
)
def test_flats_that_do_not_fit(make_session: MakeSession, change: dict[str, Any]) -> None:
    links = wbpp(make_session([LIGHT, {**FLAT, **change}]))
    assert not linked(links, "flat")
    assert "no flat fits" in str(links["problem"].values[0])


def test_a_group_that_mixes_settings_is_told(make_session: MakeSession) -> None:
    links = wbpp(make_session([LIGHT, DARK, {**DARK, "gain_setting": 0.0}]))
    assert "mixes gain 0 and 100" in str(links["note"].values[0])


def test_the_patterns_of_sensors_are_kept(make_session: MakeSession) -> None:
    links = wbpp(make_session([{**LIGHT, "bayer": "GBRG"}, {**DARK, "bayer": "GBRG"}]))
    assert links["bayer"].values.tolist() == ["GBRG"]
