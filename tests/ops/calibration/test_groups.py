"""Grouping of calibration frames: what belongs together, whatever the order and the names."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ops.calibration.groups import Groups, clusters, make_groups, mixed_settings
from skyloom.ops.calibration.link_facts import plain_name, read_facts
from skyloom.ops.calibration.link_rules import Tolerances, skyloom_rules

MakeSession = Callable[[list[dict[str, Any]]], xr.Dataset]
DARK = {"kind": "dark", "camera": "A", "exposure": 120.0, "temperature": -10.0, "gain_setting": 100.0}
FLAT = {"kind": "flat", "camera": "A", "band": "L", "exposure": 2.0, "night": "2026-01-10"}


def grouped(session: xr.Dataset, **tolerances: Any) -> Groups:
    facts = read_facts(session)
    rules = skyloom_rules(Tolerances(**tolerances))
    raw = np.flatnonzero((facts.kind != "light") & ~facts.master)
    return make_groups(facts, facts, rules.group(facts, raw), single=np.flatnonzero(facts.master))


# --- clusters ---


@pytest.mark.parametrize(
    ("values", "turn", "expected"),
    [
        ([], 0, []),
        ([-10.0], 0, [0]),
        ([-10.0, -10.1, -5.0, -9.9], 0, [0, 0, 1, 0]),
        ([math.nan, -10.0, math.nan], 0, [1, 0, 1]),
        # A chain longer than the limit parts at its widest gap, in its middle where all are equal.
        ([0.0, 1.0, 2.0, 3.0], 0, [0, 0, 1, 1]),
        ([0.0, 1.0, 2.0, 5.0, 6.0, 7.0], 0, [0, 0, 0, 1, 1, 1]),
        ([0.0, 1.5, 2.1], 0, [0, 1, 1]),
        ([359.0, 1.0, 180.0, 179.0], 360, [0, 0, 1, 1]),
        ([179.0, 1.0, 90.0], 180, [1, 1, 0]),
    ],
)
def test_clusters(values: list[float], turn: float, expected: list[int]) -> None:
    assert clusters(np.array(values), lambda v: 2.0, turn=turn).tolist() == expected


@given(
    st.lists(st.one_of(st.just(math.nan), st.integers(-400, 400).map(lambda i: i / 10)), max_size=25),
    st.sampled_from([0.0, 0.5, 2.0, 30.0]),
    st.randoms(use_true_random=False),
)
def test_clusters_are_narrow_whole_and_do_not_depend_on_order(
    values: list[float], limit: float, random: Any
) -> None:
    array = np.array(values, dtype=np.float64)
    label = clusters(array, lambda v: limit)
    order = list(range(len(values)))
    random.shuffle(order)
    shuffled = clusters(array[order], lambda v: limit)
    assert shuffled.tolist() == label[order].tolist()
    for one in np.unique(label):
        inside = array[label == one]
        assert np.isnan(inside).all() or not np.isnan(inside).any()
        if not np.isnan(inside).any():
            assert np.ptp(inside) <= limit + 1e-6
            others = array[(label != one) & np.isfinite(array)]
            assert not ((others > inside.min()) & (others < inside.max())).any()
    # Equal values stay together.
    for value in np.unique(array[np.isfinite(array)]):
        assert np.unique(label[array == value]).size == 1


# --- groups ---


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({}, 1),
        ({"temperature": -8.5}, 1),
        ({"temperature": -5.0}, 2),
        ({"temperature": math.nan}, 2),
        ({"exposure": 121.0}, 1),
        ({"exposure": 130.0}, 2),
        ({"gain_setting": 101.0}, 2),
        ({"offset_setting": 10.0}, 2),
        ({"camera": "B"}, 2),
        ({"camera": "a"}, 1),
        ({"telescope": "Newton"}, 2),
        ({"binning": "2x2"}, 2),
        ({"width": 100}, 2),
        ({"bayer": "RGGB"}, 2),
        ({"kind": "flatdark"}, 2),
        ({"master": True}, 2),
        ({"night": "2025-01-01"}, 1),
        ({"band": "L"}, 1),
        ({"rotation": 90.0}, 1),
    ],
)
def test_what_parts_darks(make_session: MakeSession, change: dict[str, Any], count: int) -> None:
    assert len(grouped(make_session([DARK, DARK, {**DARK, **change}]))) == count


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({}, 1),
        ({"exposure": 9.0}, 1),
        ({"temperature": 20.0}, 1),
        ({"band": "R"}, 2),
        ({"night": "2026-01-11"}, 2),
        ({"night": ""}, 2),
        ({"rotation": 30.0}, 2),
        ({"telescope": "Newton"}, 2),
        ({"gain_setting": 0.0}, 2),
    ],
)
def test_what_parts_flats(make_session: MakeSession, change: dict[str, Any], count: int) -> None:
    assert len(grouped(make_session([FLAT, FLAT, {**FLAT, **change}]))) == count


def test_a_dark_age_parts_darks_taken_further_apart(make_session: MakeSession) -> None:
    session = make_session([{**DARK, "night": n} for n in ("2025-01-01", "2025-01-20", "2026-01-01")])
    assert len(grouped(session)) == 1
    assert len(grouped(session, dark_age=30)) == 2


def test_ignored_facts_part_nothing(make_session: MakeSession) -> None:
    session = make_session([DARK, {**DARK, "camera": "B", "temperature": 5.0}])
    assert len(grouped(session)) == 2
    assert len(grouped(session, ignore=frozenset({"camera", "temperature"}))) == 1


def test_groups_do_not_depend_on_order_or_names(make_session: MakeSession) -> None:
    rows = [{**DARK, "id": 1}, {**DARK, "exposure": 60.0, "id": 2}, {**FLAT, "id": 3}, {**DARK, "id": 4}]
    first = grouped(make_session(rows))
    for order in permutations(range(4)):
        again = grouped(make_session([{**rows[i], "name": f"renamed_{order}_{i}.fits"} for i in order]))
        assert again.facts.content.tolist() == first.facts.content.tolist()
        assert again.labels == first.labels


def test_a_group_key_changes_with_its_members(make_session: MakeSession) -> None:
    two, three = grouped(make_session([DARK] * 2)), grouped(make_session([DARK] * 3))
    assert two.facts.content[0] != three.facts.content[0]


def test_labels(make_session: MakeSession) -> None:
    rows = [
        *[DARK] * 20,
        {**DARK, "master": True, "exposure": 0.002},
        {**DARK, "temperature": math.nan, "gain_setting": math.nan},
        {**DARK, "kind": "bias", "exposure": 0.0, "temperature": -9.9},
        {**FLAT, "band": "OIII"},
        {**DARK, "kind": "flatdark", "exposure": 2.5},
    ]
    assert list(grouped(make_session(rows)).labels) == [
        "bias, −10 °C, gain 100, 1 frame",
        "master dark 0.002 s, −10 °C, gain 100",
        "dark 120 s, −10 °C, gain 100, 20 frames",
        "dark 120 s, 1 frame",
        "flat-dark 2.5 s, −10 °C, gain 100, 1 frame",
        "flat OIII, 2026-01-10, 1 frame",
    ]


def test_equal_labels_get_what_tells_the_groups_apart(make_session: MakeSession) -> None:
    rows = [DARK, {**DARK, "camera": "B"}, {**FLAT, "rotation": 0.0}, {**FLAT, "rotation": 90.0}]
    labels = grouped(make_session(rows)).labels
    assert labels[0] == "dark 120 s, −10 °C, gain 100, A, 1 frame"
    assert labels[1] == "dark 120 s, −10 °C, gain 100, B, 1 frame"
    assert [x.split(", ")[2] for x in labels[2:]] == ["rotation 0°", "rotation 90°"]


def test_masters_of_equal_facts_are_numbered(make_session: MakeSession) -> None:
    labels = grouped(make_session([{**DARK, "master": True}] * 2)).labels
    assert labels[0].endswith("(1)")
    assert labels[1].endswith("(2)")


def test_what_a_group_mixes_is_told(make_session: MakeSession) -> None:
    facts = read_facts(make_session([DARK, {**DARK, "gain_setting": 0.0, "camera": "B", "temperature": 5.0}]))
    assert mixed_settings(facts, np.array([0, 1])) == "mixes gain 0 and 100, −10 to 5 °C, cameras A and B"
    assert mixed_settings(facts, np.array([0])) == ""


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ZWO ASI2600MM Pro", "ZWO CCD ASI2600MM Pro", True),
        ("ZWO ASI2600MM Pro", "ASI2600mm pro", True),
        ("ZWO ASI2600MM Pro", "ZWO ASI2600MC Pro", False),
        ("ZWO ASI2600MM Pro (1)", "ZWO ASI2600MM Pro (2)", False),
        ("CCD", "Camera", False),
    ],
)
def test_names_of_cameras(one: str, other: str, same: bool) -> None:
    assert (plain_name(one) == plain_name(other)) is same
