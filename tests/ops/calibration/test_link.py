"""Links: every frame finds its own, every planted fault is told by name."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ops.calibration.link import link
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.registry import get_op

Row = dict[str, Any]
MakeSession = Callable[[list[Row]], xr.Dataset]
CAMERA = {"camera": "ZWO ASI2600MM Pro", "telescope": "Esprit 100", "binning": "1x1", "offset_setting": 50.0}
LIGHT = {**CAMERA, "kind": "light", "band": "L", "exposure": 120.0, "temperature": -10.0, "gain_setting": 100.0}
LIGHT |= {"night": "2026-01-10", "rotation": 45.0}
DARK = {**LIGHT, "kind": "dark", "band": "none", "rotation": math.nan}
BIAS = {**DARK, "kind": "bias", "exposure": 0.0}
FLAT = {**LIGHT, "kind": "flat", "exposure": 2.0}
FLATDARK = {**DARK, "kind": "flatdark", "exposure": 2.0}


def label(links: xr.Dataset, role: str, frame: int = 0) -> str:
    index = int(links[role].values[frame])
    return str(links["label"].values[index]) if index >= 0 else ""


def own(links: xr.Dataset, kind: str, role: str) -> str:
    index = int(links[f"own_{role}"].values[links["kind"].values.tolist().index(kind)])
    return str(links["label"].values[index]) if index >= 0 else ""


# --- a session as people bring it ---

NIGHTS = {"2026-01-10": {"gain_setting": 100.0, "temperature": -10.0}, "2026-01-11": {"gain_setting": 0.0}}
NIGHTS["2026-01-11"]["temperature"] = -5.0


def two_nights() -> list[Row]:
    """Three filters, two nights of different gain and temperature; no OIII flat at all, one dark too short."""
    rows: list[Row] = []
    for night, settings_ in NIGHTS.items():
        of_night = {"night": night, **settings_}
        for band, exposure in (("L", 120.0), ("Ha", 300.0), ("OIII", 300.0)):
            rows += [{**LIGHT, **of_night, "band": band, "exposure": exposure}] * 4
            if band != "OIII":
                rows += [{**FLAT, **of_night, "band": band}] * 6
        for exposure in (120.0, 300.0):
            rows += [{**DARK, **of_night, "exposure": exposure}] * 6
        rows += [{**FLATDARK, **of_night}] * 6
        rows += [{**BIAS, **of_night}] * 6
    rows.append({**DARK, "exposure": 30.0})
    return [{**row, "id": i} for i, row in enumerate(rows)]


def shuffled(rows: list[Row]) -> list[Row]:
    order = random.Random(5).sample(rows, len(rows))
    return [{**row, "name": f"IMG_{i:04d}.fits"} for i, row in enumerate(order)]


def test_two_nights_shuffled_and_renamed(make_session: MakeSession) -> None:
    rows = shuffled(two_nights())
    links = link(make_session(rows), on_broken="without")
    for i, row in enumerate(rows):
        if row["kind"] != "light":
            assert links["member"].values[i] >= 0
            assert links["kind"].values[links["member"].values[i]] == row["kind"]
            continue
        dark = links.isel(group=int(links["dark"].values[i]))
        assert float(dark["exposure"]) == row["exposure"]
        assert float(dark["temperature"]) == row["temperature"]
        assert float(dark["gain_setting"]) == row["gain_setting"]
        assert int(dark["count"]) == 6
        assert links["bias"].values[i] == -1
        if row["band"] == "OIII":
            assert links["flat"].values[i] == -1
            continue
        assert not links["problem"].values[i]
        flat = links.isel(group=int(links["flat"].values[i]))
        assert (str(flat["band"].values), str(flat["night"].values)) == (row["band"], row["night"])
        flatdark = links.isel(group=int(flat["own_dark"]))
        assert str(flatdark["kind"].values) == "flatdark"
        assert float(flatdark["gain_setting"]) == row["gain_setting"]
        assert int(flat["own_bias"]) == -1


def test_every_planted_fault_is_told_by_name(make_session: MakeSession) -> None:
    rows = shuffled(two_nights())
    session = make_session(rows)
    links = link(session, on_broken="without")
    for i, row in enumerate(rows):
        problem = str(links["problem"].values[i])
        if row["kind"] == "light" and row["band"] == "OIII":
            assert problem.startswith("no flat fits; nearest: flat ")
            assert "not OIII" in problem
        else:
            assert not problem
    stray = links["label"].values.tolist().index("dark 30 s, −10 °C, gain 100, 1 frame")
    assert not links["used"].values[stray]
    assert "exposure 30 s, not 120 s (tolerance 2.4 s)" in str(links["group_note"].values[stray])
    with pytest.raises(DataError) as refusal:
        link(session)
    names = [r["name"] for r in rows if r["kind"] == "light" and r["band"] == "OIII"]
    text = str(refusal.value)
    assert "8 of 24 lights" in text
    assert any(name in text for name in names)
    for words in ("filter", "not OIII", "on_broken", "force"):
        assert words in text


def test_a_flat_of_the_night_before_is_taken_and_told(make_session: MakeSession) -> None:
    session = make_session([{**LIGHT, "night": "2026-01-11"}, FLAT, FLATDARK, DARK])
    links = link(session)
    assert "there is none of 2026-01-11; 1 night apart" in str(links["note"].values[0])
    broken = link(session, flat_age=0, on_broken="without")
    assert str(broken["problem"].values[0]) == (
        "no flat fits; nearest: flat L, 2026-01-10, gain 100, 1 frame: 1 night apart (limit 0)"
    )


# --- policies ---


def test_policies(make_session: MakeSession) -> None:
    session = make_session([LIGHT, {**LIGHT, "exposure": 1.0}, DARK, BIAS])
    with pytest.raises(DataError, match=r"1 of 2 lights has .*0001\.fits.*exposure 120 s, not 1 s"):
        link(session)
    without = link(session, on_broken="without")
    assert without["use"].values.all()
    assert label(without, "dark", 1) == ""
    assert label(without, "bias", 1).startswith("bias")
    out = link(session, on_broken="leave_out")
    assert out["use"].values.tolist() == [True, False, True, True]
    assert str(out["reason"].values[1]) == str(out["problem"].values[1])
    assert not out["used"].values[out["kind"].values == "bias"][0]
    with pytest.raises(DataError, match="no light is left"):
        link(session.isel(frame=[1, 2]), on_broken="leave_out")


def test_what_nobody_brought_is_no_broken_link(make_session: MakeSession) -> None:
    links = link(make_session([LIGHT]))
    assert str(links["note"].values[0]) == "no calibration frames of this camera: taken as it is"
    assert links.sizes["group"] == 0
    links = link(make_session([LIGHT, BIAS]))
    assert "no flat or dark frames of this camera" in str(links["note"].values[0])
    assert label(links, "bias").startswith("bias")


def test_a_frame_of_another_size_is_flagged_once(make_session: MakeSession) -> None:
    links = link(make_session([{**LIGHT, "width": 150}, DARK, FLAT, BIAS]), on_broken="without")
    problem = str(links["problem"].values[0])
    assert problem.startswith("no flat or dark or bias fits; nearest: flat")
    assert problem.endswith("size 200 × 100, not 150 × 100")


def test_a_name_that_says_nothing_is_a_light(make_session: MakeSession) -> None:
    links = link(make_session([{**LIGHT, "kind": "unknown"}, DARK]))
    assert label(links, "dark")
    assert "taken as a light" in str(links["note"].values[0])


# --- darks, bias, flats ---


@pytest.mark.parametrize(
    ("change", "parameters", "fits"),
    [
        ({"temperature": -8.0}, {}, True),
        ({"temperature": -7.9}, {}, False),
        ({"temperature": -5.0}, {"temperature_tolerance": 5.0}, True),
        ({"exposure": 122.0}, {}, True),
        ({"exposure": 125.0}, {}, False),
        ({"exposure": 125.0}, {"exposure_tolerance": 5.0}, True),
        ({"exposure": 125.0}, {"exposure_tolerance_relative": 0.05}, True),
        ({"gain_setting": 99.0}, {}, False),
        ({"gain_setting": 99.0}, {"ignore": ["gain"]}, True),
        ({"gain_setting": math.nan}, {}, True),
        ({"camera": "ASI2600MM Pro"}, {}, True),
        ({"camera": "QHY268M"}, {}, False),
        ({"camera": "QHY268M"}, {"ignore": ["camera"]}, True),
        ({"telescope": "Newton"}, {}, True),
        ({"night": "2020-01-01"}, {}, True),
        ({"night": "2020-01-01"}, {"dark_age": 365}, False),
    ],
)
def test_darks(make_session: MakeSession, change: Row, parameters: dict[str, Any], fits: bool) -> None:
    links = link(make_session([LIGHT, {**DARK, **change}]), on_broken="without", **parameters)
    assert bool(label(links, "dark")) is fits
    assert bool(links["problem"].values[0]) is not fits


@pytest.mark.parametrize(
    ("change", "parameters", "fits"),
    [
        ({"gain_setting": 0.0, "temperature": 15.0, "exposure": 9.0}, {}, True),
        ({"rotation": 50.0}, {}, True),
        ({"rotation": 51.0}, {}, False),
        ({"rotation": 60.0}, {"rotation_tolerance": 20.0}, True),
        ({"rotation": math.nan}, {}, True),
        ({"band": "Ha"}, {}, False),
        ({"band": "Ha"}, {"ignore": ["filter"]}, True),
        ({"telescope": "Newton"}, {}, False),
        ({"night": "2026-01-13"}, {"flat_age": 3}, True),
        ({"night": "2026-01-14"}, {"flat_age": 3}, False),
    ],
)
def test_flats(make_session: MakeSession, change: Row, parameters: dict[str, Any], fits: bool) -> None:
    rows = [LIGHT, DARK, {**FLAT, **change}]
    rows += [{**BIAS, **{k: v for k, v in change.items() if k == "gain_setting"}}]
    links = link(make_session(rows), on_broken="without", **parameters)
    assert bool(label(links, "flat")) is fits


@pytest.mark.parametrize(
    ("frames", "scale", "dark", "scaled"),
    [
        ([{**DARK, "exposure": 300.0}, BIAS], "never", "", False),
        ([{**DARK, "exposure": 300.0}, BIAS], "when_needed", "dark 300 s", True),
        ([{**DARK, "exposure": 300.0}], "when_needed", "", False),
        ([{**DARK, "exposure": 300.0, "temperature": 0.0}, BIAS], "when_needed", "", False),
        ([{**DARK, "exposure": 60.0}, BIAS], "when_needed", "dark 60 s", True),
        ([{**DARK, "exposure": 59.0}, BIAS], "when_needed", "", False),
        ([{**DARK, "exposure": 300.0}, DARK, BIAS], "when_needed", "dark 120 s", False),
        ([{**DARK, "exposure": 300.0}, DARK, BIAS], "always", "dark 120 s", True),
        ([DARK], "always", "dark 120 s", False),
    ],
)
def test_scaled_darks(make_session: MakeSession, frames: list[Row], scale: Any, dark: str, scaled: bool) -> None:
    links = link(make_session([LIGHT, *frames]), scale_darks=scale, on_broken="without")
    assert label(links, "dark").startswith(dark)
    assert bool(label(links, "dark")) == bool(dark)
    assert bool(links["scale_dark"].values[0]) is scaled
    has_bias = any(f["kind"] == "bias" for f in frames)
    assert bool(label(links, "bias")) is (has_bias and (scaled or not dark))
    if scaled:
        assert own(links, "dark", "bias") if len(frames) == 2 else True
        assert "to be scaled" in str(links["note"].values[0])
    assert bool(links["problem"].values[0]) is not bool(dark)


def test_a_dark_that_may_be_scaled_is_no_near_miss(make_session: MakeSession) -> None:
    session = make_session([LIGHT, DARK, {**DARK, "exposure": 125.0}, BIAS])
    assert "near miss: dark 125 s" in str(link(session)["note"].values[0])
    assert "near miss" not in str(link(session, scale_darks="when_needed")["note"].values[0])


def test_the_numbers_told_do_not_depend_on_order(make_session: MakeSession) -> None:
    rows = [{**LIGHT, "exposure": 120.0 + 0.1 * i, "id": i} for i in range(9)] + [{**DARK, "id": "d"}]
    notes = {str(link(make_session(rows[i:9] + rows[:i] + rows[9:]))["note"].values[0]) for i in range(9)}
    assert len(notes) == 1


def test_why_a_dark_is_not_scaled(make_session: MakeSession) -> None:
    def problem(scale: Any, *frames: Row) -> str:
        return str(
            link(make_session([LIGHT, *frames]), scale_darks=scale, on_broken="without")["problem"].values[0]
        )

    long = {**DARK, "exposure": 300.0}
    assert problem("never", long, BIAS).endswith("and scale_darks is never")
    assert problem("when_needed", long).endswith("to scale it takes a bias")
    assert problem("when_needed", {**DARK, "exposure": 10.0}, BIAS).endswith("more than 2 × shorter")


@pytest.mark.parametrize(
    ("frames", "dark", "bias", "broken"),
    [
        ([FLATDARK, BIAS], "flat-dark 2 s", "", False),
        ([{**FLATDARK, "exposure": 2.5}, BIAS], "flat-dark 2.5 s", "", False),
        ([{**FLATDARK, "exposure": 2.6}, BIAS], "", "bias", False),
        ([{**DARK, "exposure": 2.0}, BIAS], "dark 2 s", "", False),
        ([{**DARK, "exposure": 2.0}, FLATDARK], "flat-dark 2 s", "", False),
        ([BIAS], "", "bias", False),
        ([{**BIAS, "gain_setting": 0.0}], "", "", True),
        ([{**FLATDARK, "gain_setting": 0.0}, BIAS], "", "bias", False),
        ([DARK], "dark 120 s", "", False),
        ([], "", "", False),
    ],
)
def test_what_a_flat_gets(
    make_session: MakeSession, frames: list[Row], dark: str, bias: str, broken: bool
) -> None:
    links = link(make_session([LIGHT, FLAT, *frames]), on_broken="without")
    assert own(links, "flat", "dark").startswith(dark)
    assert bool(own(links, "flat", "dark")) == bool(dark)
    assert bool(own(links, "flat", "bias")) == bool(bias)
    assert ("has no flat-dark, bias or dark that fits" in str(links["problem"].values[0])) is broken


def test_one_bias_serves_lights_and_flats_of_many_groups(make_session: MakeSession) -> None:
    rows = [{**LIGHT, "band": b} for b in "LRGB"] + [{**FLAT, "band": b} for b in "LRGB"]
    links = link(make_session([*rows, BIAS]))
    assert set(links["bias"].values[:4].tolist()) == {links["kind"].values.tolist().index("bias")}
    assert (links["own_bias"].values[links["kind"].values == "flat"] >= 0).all()


# --- masters ---


def test_a_given_master_is_preferred_and_taken_as_it_is(make_session: MakeSession) -> None:
    master = {"master": True}
    rows = [LIGHT, {**DARK, **master}, *[DARK] * 9, {**FLAT, **master}, *[BIAS] * 9]
    links = link(make_session(rows))
    assert label(links, "dark") == "master dark 120 s, −10 °C, gain 100"
    assert own(links, "flat", "bias") == ""
    raw = links["label"].values.tolist().index("dark 120 s, −10 °C, gain 100, 9 frames")
    assert not links["used"].values[raw]
    assert str(links["group_note"].values[raw]).endswith("but master dark 120 s, −10 °C, gain 100 is a master")


def test_stacks_of_lights_beside_raw_lights_are_left_out(make_session: MakeSession) -> None:
    stack = {**LIGHT, "master": True, "exposure": 3600.0}
    links = link(make_session([LIGHT, stack, DARK]))
    assert links["use"].values.tolist() == [True, False, True]
    assert "counted twice" in str(links["reason"].values[1])
    alone = link(make_session([stack]))
    assert alone["use"].values.tolist() == [True]


def test_what_was_taken_off_already_is_not_taken_off_again(make_session: MakeSession) -> None:
    facts = '{"calibrated": ["bias, dark", "header CALSTAT"]}'
    links = link(make_session([{**LIGHT, "facts": facts}, DARK, BIAS, FLAT]))
    assert (label(links, "dark"), label(links, "bias")) == ("", "")
    assert label(links, "flat")
    assert "dark taken off already" in str(links["note"].values[0])


def test_a_filter_counts_behind_a_colour_sensor(make_session: MakeSession) -> None:
    def colour(name: str) -> Row:
        return {"band": "CFA", "bayer": "RGGB", "facts": f'{{"filter": ["{name}", "header FILTER"]}}'}

    rows = [{**LIGHT, **colour("L-eXtreme")}, {**FLAT, **colour("IRCUT")}, {**FLAT, **colour("L-eXtreme")}]
    links = link(make_session(rows))
    assert label(links, "flat").startswith("flat L-eXtreme")


# --- rigs ---


def test_rigs_never_mix(make_session: MakeSession) -> None:
    def rig(camera: str, telescope: str) -> Row:
        return {"camera": camera, "telescope": telescope}

    # Two cameras of one model on two telescopes in one night, and a third camera.
    rigs = [rig("ASI533", "Newton"), rig("ASI533", "Esprit"), rig("QHY", "Newton")]
    rows = [{**row, **r} for r in rigs for row in (LIGHT, DARK, FLAT, BIAS)]
    links = link(make_session(rows))
    for i, row in enumerate(rows):
        for role in ("dark", "flat") if row["kind"] == "light" else ():
            group = links.isel(group=int(links[role].values[i]))
            assert str(group["camera"].values) == row["camera"]
            assert str(group["telescope"].values) == row["telescope"]
    lacking = [r for r in rows if r["kind"] != "dark" or r["telescope"] != "Esprit"]
    broken = link(make_session(lacking), on_broken="without")
    assert "telescope Newton, not Esprit" in str(broken["problem"].values[4])


def test_one_camera_takes_its_darks_to_another_telescope(make_session: MakeSession) -> None:
    rows = [{**LIGHT, "telescope": "Newton", "night": "2026-01-11"}, LIGHT, DARK]
    links = link(make_session(rows))
    assert label(links, "dark", 0)
    assert "telescope Esprit 100, not Newton" in str(links["note"].values[0])


# --- links by hand ---


def test_force(make_session: MakeSession) -> None:
    dark = {**DARK, "temperature": 0.0, "name": "old/warm_dark.fits"}
    rows = [{**LIGHT, "name": "n1/M31_001.fits"}, {**LIGHT, "name": "n1/M42_001.fits"}, DARK, dark, FLAT, BIAS]
    session = make_session(rows)

    def forced(*orders: Any) -> xr.Dataset:
        return link(session, force=list(orders))

    links = forced({"lights": "M31*", "dark": "warm*"})
    assert "0 °C" in label(links, "dark", 0)
    assert "−10 °C" in label(links, "dark", 1)
    assert "by hand; temperature 10 °C off (tolerance 2)" in str(links["note"].values[0])
    links = forced({"lights": "*", "dark": "dark 120 s, 0 *"}, {"lights": "m42*", "dark": None, "flat": "none"})
    assert "0 °C" in label(links, "dark", 0)
    assert (label(links, "dark", 1), label(links, "flat", 1)) == ("", "")
    assert label(links, "bias", 1)
    assert "no dark, by hand" in str(links["note"].values[1])
    assert not links["problem"].values[1]
    # The minus of a label may be typed as a hyphen; of several groups that match the one that fits.
    assert "−10 °C" in label(forced({"lights": "*", "dark": "dark*-10*"}), "dark", 0)
    assert "−10 °C" in label(forced({"lights": "*", "dark": "dark*"}), "dark", 0)
    assert own(forced({"flats": "flat L*", "dark": "warm*"}), "flat", "dark").startswith("dark 120 s, 0")
    assert own(forced({"flats": "*", "bias": "none"}), "flat", "bias") == ""


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("M31", "is no order"),
        ({"light": "*", "dark": "*"}, "'light' is unknown; did you mean 'lights'"),
        ({"lights": "*"}, "should name lights"),
        ({"flats": "*", "flat": "*"}, "should name lights"),
        ({"lights": "M31*", "dark": "*"}, r"no lights match 'M31\*'"),
        ({"lights": "*", "dark": "dark 300*"}, r"no dark matches 'dark 300\*'"),
        ({"lights": "*", "dark": "dark*150*"}, "has 150 × 100 pixels, 0000.fits has 200 × 100"),
    ],
)
def test_orders_that_mean_nothing(make_session: MakeSession, order: Any, message: str) -> None:
    session = make_session([LIGHT, DARK, {**DARK, "width": 150}])
    with pytest.raises(ConfigError, match=message):
        link(session, force=[order])


def test_facts_that_cannot_be_ignored(make_session: MakeSession) -> None:
    with pytest.raises(ConfigError, match=r"'temprature' is no fact .* did you mean 'temperature'"):
        link(make_session([LIGHT]), ignore=["temprature"])


# --- the shape of it ---


def test_columns(make_session: MakeSession) -> None:
    links = link(make_session([LIGHT, DARK, FLAT, BIAS]))
    assert dict(links.sizes) == {"frame": 4, "group": 3}
    for name in ("member", "light_group", "bias", "dark", "flat"):
        assert links[name].dims == ("frame",)
        assert links[name].dtype == np.int64
    for name in ("use", "scale_dark"):
        assert links[name].dtype == np.bool_
    for name in ("kind", "label", "own_bias", "own_dark", "used", "master", "height", "width", "group_note"):
        assert links[name].dims == ("group",)
    assert len(set(links["group"].values.tolist())) == 3
    assert all(len(key) == 16 for key in links["group"].values.tolist())
    edges = json.loads(links.attrs["edges"])
    assert {e["verdict"] for e in edges} == {"chosen"}
    assert {(e["from"].split(" ")[0], e["role"]) for e in edges} == {
        ("light", "flat"),
        ("light", "dark"),
        ("flat", "bias"),
    }


def test_a_session_of_another_time_has_fewer_columns(make_session: MakeSession) -> None:
    session = make_session([LIGHT, DARK, FLAT])[["name", "kind", "band", "exposure", "height", "width", "camera"]]
    links = link(session)
    assert label(links, "dark").startswith("dark 120 s")
    assert "temperature" in str(links["note"].values[0])
    with pytest.raises(DataError, match="no column 'height'"):
        link(session.drop_vars("height"))


def test_masters_alone(make_session: MakeSession) -> None:
    links = link(make_session([DARK, DARK, BIAS]))
    assert links["used"].values.all()
    assert json.loads(links.attrs["light_groups"]) == []


def test_it_is_an_op_with_units_and_ranges() -> None:
    op = get_op("link")
    assert op.table
    assert op.unit == ()
    assert (op.parameters["temperature_tolerance"].unit, op.parameters["rotation_tolerance"].high) == ("°C", 180)
    assert all(p.doc for p in op.parameters.values())
    checked = op.check({"force": [{"lights": "*", "dark": None}], "flat_age": 3, "ignore": ["gain"]})
    assert checked["force"] == [{"lights": "*", "dark": None}]


# --- properties ---

FACTS: dict[str, list[Any]] = {
    "kind": ["light", "light", "dark", "flat", "bias", "flatdark"],
    "band": ["L", "Ha", "none"],
    "exposure": [120.0, 121.0, 60.0, 2.0, math.nan],
    "temperature": [-10.0, -9.0, -7.5, 5.0, math.nan],
    "gain_setting": [100.0, 0.0, math.nan],
    "offset_setting": [50.0, math.nan],
    "camera": ["A", "A", "B", ""],
    "telescope": ["T", "U", ""],
    "night": ["2026-01-10", "2026-01-11", "2026-01-20", ""],
    "rotation": [10.0, 13.0, 100.0, math.nan],
    "width": [200, 200, 150],
    "binning": ["1x1", "2x2", ""],
    "master": [False, False, False, True],
}
frames = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in FACTS.items()})
tables = st.lists(frames, min_size=1, max_size=24).map(lambda rows: [{**r, "id": i} for i, r in enumerate(rows)])
choices = st.fixed_dictionaries(
    {
        "rules": st.sampled_from(["skyloom", "wbpp"]),
        "scale_darks": st.sampled_from(["never", "when_needed", "always"]),
        "dark_age": st.sampled_from([None, 5]),
        "flat_age": st.sampled_from([None, 1]),
    }
)
MESSAGES = ("problem", "note", "reason")


def by_content(links: xr.Dataset, *, words: bool = True) -> dict[str, tuple[Any, ...]]:
    """What every frame got, by content id; groups by their keys."""
    keys = [*links["group"].values.tolist(), ""]
    own_ = {
        key: (keys[b], keys[d])
        for key, b, d in zip(keys, links["own_bias"].values, links["own_dark"].values, strict=False)
    }
    result = {}
    for i, frame in enumerate(links["frame"].values.tolist()):
        groups = [keys[int(links[name].values[i])] for name in ("member", "bias", "dark", "flat")]
        said = tuple(str(links[m].values[i]) if words else bool(links[m].values[i]) for m in MESSAGES[:2])
        flags = (bool(links["use"].values[i]), bool(links["scale_dark"].values[i]))
        result[frame] = (*groups, own_.get(groups[0]), *flags, *(said if words else said[:1]))
    return result


@settings(max_examples=50, deadline=None)
@given(rows=tables, parameters=choices, shuffle=st.randoms(use_true_random=False))
def test_order_and_names_change_nothing(
    make_session: MakeSession, rows: list[Row], parameters: dict[str, Any], shuffle: random.Random
) -> None:
    links = link(make_session(rows), on_broken="without", **parameters)
    other = [{**row, "name": f"{shuffle.random()}.fits"} for row in shuffle.sample(rows, len(rows))]
    again = link(make_session(other), on_broken="without", **parameters)
    assert by_content(again) == by_content(links)
    assert again["group"].values.tolist() == links["group"].values.tolist()
    assert again["label"].values.tolist() == links["label"].values.tolist()
    assert again.attrs["edges"] == links.attrs["edges"]


@settings(max_examples=40, deadline=None)
@given(rows=tables, parameters=choices, kind=st.sampled_from(["light", "dark", "flat", "bias", "flatdark"]))
def test_a_frame_of_another_rig_changes_nothing_else(
    make_session: MakeSession, rows: list[Row], parameters: dict[str, Any], kind: str
) -> None:
    # Unknown cameras match any, and would take it.
    rows = [{**row, "camera": row["camera"] or "A"} for row in rows]
    stranger = {**LIGHT, "kind": kind, "camera": "Another", "width": 31, "id": "stranger"}
    links = by_content(link(make_session(rows), on_broken="without", **parameters), words=False)
    more = by_content(link(make_session([*rows, stranger]), on_broken="without", **parameters), words=False)
    if not any(row["kind"] == "light" and not row["master"] for row in rows) and kind == "light":
        return  # stacks alone are taken, beside a raw light they are not
    assert {frame: got for frame, got in more.items() if frame in links} == links


def agree(light: Row, frame: Row, name: str, limit: float) -> bool:
    one, other = light[name], frame[name]
    if isinstance(one, str):
        return one in ("", "none", other) or other in ("", "none")
    return math.isnan(one) or math.isnan(other) or abs(one - other) <= limit + 1e-9


def may_serve(light: Row, group: Row, role: str) -> bool:
    """Naive twin of the rules: whether a group may serve a light."""
    limits: dict[str, float] = {"camera": 0, "binning": 0}
    if role == "flat":
        limits |= {"telescope": 0, "band": 0, "rotation": 5.0}
    else:
        limits |= {"gain_setting": 0, "offset_setting": 0}
    if role == "dark":
        limits |= {"exposure": max(0.05, 0.02 * light["exposure"]), "temperature": 2.0}
    return light["width"] == group["width"] and all(agree(light, group, n, limit) for n, limit in limits.items())


def group_row(links: xr.Dataset, index: int) -> Row:
    columns = ("camera", "telescope", "binning", "band", "exposure", "temperature", "gain_setting")
    row = {n: links[n].values[index].item() for n in (*columns, "offset_setting", "rotation", "width", "kind")}
    return row


@settings(max_examples=60, deadline=None)
@given(rows=tables)
def test_what_is_chosen_is_within_tolerance_and_what_is_not_has_a_reason(
    make_session: MakeSession, rows: list[Row]
) -> None:
    # One telescope a camera: two in a night make its telescope count for darks too.
    rows = [{**row, "telescope": {"A": "T", "B": "U"}.get(row["camera"], "")} for row in rows]
    links = link(make_session(rows), on_broken="without")
    edges = json.loads(links.attrs["edges"])
    groups = [group_row(links, i) for i in range(links.sizes["group"])]
    lights = json.loads(links.attrs["light_groups"])
    for i, row in enumerate(rows):
        if row["kind"] != "light" or not links["use"].values[i]:
            continue
        part = lights[int(links["light_group"].values[i])]
        told = {e["role"]: e for e in edges if e["from"] == part["label"] and e["verdict"] != "near"}
        for role in ("bias", "dark", "flat"):
            chosen = int(links[role].values[i])
            able = [k for k, g in enumerate(groups) if g["kind"] == role and may_serve(row, g, role)]
            if chosen >= 0:
                assert chosen in able
                assert told[role]["verdict"] == "chosen"
                assert told[role]["to"] == links["label"].values[chosen]
            elif role == "bias" and links["dark"].values[i] >= 0:
                assert role not in told
            else:
                assert not able
                assert told[role]["verdict"] in ("broken", "missing")
                assert told[role]["reason"]
                assert bool(part["problems"]) >= (told[role]["verdict"] == "broken")


settings_of_darks = st.fixed_dictionaries(
    {
        "exposure": st.sampled_from([120.0, 121.5, 122.4, 123.0, 125.0, 2.0, 2.03, 2.05, 2.08]),
        "temperature": st.integers(-24, -10).map(lambda i: i / 2),
        "gain_setting": st.sampled_from([0.0, 100.0]),
    }
)


@settings(max_examples=60, deadline=None)
@given(darks=st.lists(settings_of_darks, min_size=1, max_size=20))
def test_a_light_like_a_dark_has_a_dark(make_session: MakeSession, darks: list[Row]) -> None:
    """Whatever else it is grouped with."""
    rows = [{**base, **d} for d in darks for base in (DARK, LIGHT)]
    links = link(make_session(rows), on_broken="without")
    assert (links["dark"].values[1::2] >= 0).all()


@settings(max_examples=25, deadline=None)
@given(rows=tables, policy=st.sampled_from(["refuse", "leave_out"]))
def test_policies_keep_their_word(make_session: MakeSession, rows: list[Row], policy: Any) -> None:
    session = make_session(rows)
    links = link(session, on_broken="without")
    broken = links["problem"].values != ""
    lights = links["light_group"].values >= 0
    if policy == "refuse" and broken.any():
        with pytest.raises(DataError, match=f"^{broken.sum()} of {lights.sum()} light"):
            link(session, on_broken=policy)
    elif lights.any() and broken[lights].all():
        with pytest.raises(DataError, match="no light is left"):
            link(session, on_broken=policy)
    else:
        kept = link(session, on_broken=policy)
        assert (kept["use"].values[lights] == ~broken[lights]).all()


def test_five_thousand_frames_in_two_seconds(make_session: MakeSession) -> None:
    draw = np.random.default_rng(3)
    rows: list[Row] = []
    for i in range(4000):
        settings_ = {"gain_setting": (0.0, 100.0)[i % 2], "exposure": (60.0, 120.0, 300.0)[i % 3]}
        measured = {"temperature": float(draw.normal(-10, 0.3)), "rotation": float(draw.normal(45, 0.5))}
        rows.append(
            {**LIGHT, **settings_, **measured, "band": "LRGBH"[i % 5], "night": f"2026-01-{i % 28 + 1:02d}"}
        )
    for i in range(500):
        rows.append({**DARK, "gain_setting": (0.0, 100.0)[i % 2], "exposure": (60.0, 120.0, 300.0)[i % 3]})
        rows.append({**FLAT, "band": "LRGBH"[i % 5], "night": f"2026-01-{i * 3 % 28 + 1:02d}"})
    session = make_session(rows)
    link(session.isel(frame=slice(3990, 4100)), on_broken="without")
    start = time.process_time()
    links = link(session, on_broken="without")
    assert time.process_time() - start < 2.0  # of its own: others may share the machine
    assert (links["dark"].values[:4000] >= 0).all()
    assert (links["flat"].values[:4000] >= 0).all()
