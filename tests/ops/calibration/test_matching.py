"""How groups are compared, preferred and told of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.calibration.groups import Groups, make_groups
from skyloom.ops.calibration.link_facts import Facts, read_facts
from skyloom.ops.calibration.link_rules import Rule, Tolerances, skyloom_rules
from skyloom.ops.calibration.matching import compare, fit, pick

MakeSession = Callable[[list[dict[str, Any]]], xr.Dataset]
COMMON = {"camera": "A", "gain_setting": 100.0, "offset_setting": 50.0, "temperature": -10.0, "binning": "1x1"}
LIGHT = {**COMMON, "kind": "light", "band": "L", "exposure": 120.0, "night": "2026-01-10", "rotation": 10.0}
DARK = {**COMMON, "kind": "dark", "exposure": 120.0, "night": "2026-01-10"}
FLAT = {**COMMON, "kind": "flat", "band": "L", "exposure": 2.0, "night": "2026-01-10", "rotation": 10.0}
RULES = skyloom_rules(Tolerances())


def parts(session: xr.Dataset) -> tuple[Facts, Groups]:
    """Lights, and every other frame as a group of its own."""
    facts = read_facts(session)
    light = facts.kind == "light"
    single = np.flatnonzero(~light)
    return facts.take(np.flatnonzero(light)), make_groups(facts, facts, [], single=single)


def rule_of(kind: str) -> Rule:
    return {"dark": RULES.dark, "flat": RULES.flat, "bias": RULES.bias}[kind]


@pytest.mark.parametrize(
    ("light", "frame", "words"),
    [
        ({}, DARK, "same in all that counts"),
        ({}, {**DARK, "temperature": -9.5}, "temperature 0.5 °C off"),
        ({}, {**DARK, "temperature": -5.0}, "temperature 5 °C off (tolerance 2)"),
        ({}, {**DARK, "temperature": math.nan}, "temperature not known"),
        ({}, {**DARK, "exposure": 122.0}, "exposure 122 s, not 120 s"),
        ({}, {**DARK, "exposure": 60.0}, "exposure 60 s, not 120 s (tolerance 2.4 s)"),
        ({}, {**DARK, "gain_setting": 0.0}, "gain 0, not 100"),
        ({}, {**DARK, "offset_setting": math.nan}, "offset not known"),
        ({"offset_setting": math.nan}, {**DARK, "offset_setting": math.nan}, "same in all that counts"),
        ({}, {**DARK, "camera": "B"}, "camera B, not A"),
        ({}, {**DARK, "camera": "", "temperature": math.nan}, "camera and temperature not known"),
        ({}, {**DARK, "width": 50}, "size 50 × 100, not 200 × 100"),
        ({}, {**DARK, "binning": "2x2"}, "binning 2x2, not 1x1"),
        ({"bayer": "RGGB"}, {**DARK, "bayer": "GBRG"}, "Bayer pattern GBRG, not RGGB"),
        ({"bayer": "RGGB"}, DARK, "same in all that counts"),
        ({}, {**DARK, "night": "2026-01-01"}, "9 days apart"),
        ({"telescope": "Newton"}, {**DARK, "telescope": "Esprit"}, "telescope Esprit, not Newton"),
        ({}, {**FLAT, "band": "Ha"}, "filter Ha, not L"),
        ({}, {**FLAT, "band": "none"}, "filter not known"),
        ({"band": "none"}, {**FLAT, "band": "none"}, "same in all that counts"),
        ({}, {**FLAT, "rotation": 13.0}, "rotated by 3°"),
        ({"rotation": 359.0}, {**FLAT, "rotation": 1.5}, "rotated by 2.5°"),
        ({}, {**FLAT, "rotation": 190.0}, "rotated by 180° (tolerance 5)"),
        ({}, {**FLAT, "night": "2026-01-12"}, "2 nights apart"),
        ({}, {**FLAT, "night": ""}, "night not known"),
        ({"focal_length": 530.0}, {**FLAT, "focal_length": 400.0}, "focal length 400 mm, not 530 mm"),
        ({"focal_length": 530.0}, {**FLAT, "focal_length": 520.0}, "focal length 520 mm, not 530 mm"),
    ],
)
def test_differences_in_words(
    make_session: MakeSession, light: dict[str, Any], frame: dict[str, Any], words: str
) -> None:
    lights, groups = parts(make_session([{**LIGHT, **light}, frame]))
    text = fit(lights, 0, groups.facts, 0, rule_of(frame["kind"]).allowances).text
    assert text.startswith(words)


def test_an_angle_on_the_sky_is_the_same_after_the_meridian_flip(make_session: MakeSession) -> None:
    def differences(light: str, flat: str) -> float:
        rows = [{**LIGHT, "rotation": 10.0}, {**FLAT, "rotation": 190.0}]
        for row, keyword in zip(rows, (light, flat), strict=True):
            row["facts"] = f'{{"rotation": [10, "header {keyword}"]}}'
        lights, groups = parts(make_session(rows))
        return float(compare(lights, groups.facts, RULES.flat.allowances).of("rotation")[0, 0])

    assert differences("POSANGLE", "POSANGLE") == 0
    assert differences("ROTATANG", "ROTATANG") == 180
    assert differences("ROTANGLE", "ROTATOR") == 180
    assert math.isnan(differences("POSANGLE", "ROTATANG"))


@pytest.mark.parametrize(("keyword", "told"), [("ROTATANG", True), ("OBJCTROT", False)])
def test_flats_without_a_rotator(make_session: MakeSession, keyword: str, told: bool) -> None:
    light = {**LIGHT, "facts": f'{{"rotation": [10, "header {keyword}"]}}'}
    lights, groups = parts(make_session([light, {**FLAT, "rotation": math.nan}]))
    assert ("rotation not known" in fit(lights, 0, groups.facts, 0, RULES.flat.allowances).text) is told


@pytest.mark.parametrize(
    ("frames", "best"),
    [
        # What is known before what is not.
        ([{**DARK, "temperature": math.nan}, {**DARK, "temperature": -11.5}], 1),
        ([{**DARK, "temperature": -11.5}, {**DARK, "temperature": -10.2}], 1),
        ([{**DARK, "exposure": 121.5}, {**DARK, "exposure": 120.0, "temperature": -11.0}], 1),
        # Tenths of a degree prefer nothing; a master does, and the nearer in time.
        ([{**DARK, "temperature": -10.0}, {**DARK, "temperature": -10.2, "master": True}], 1),
        ([{**DARK, "night": "2025-10-01"}, {**DARK, "night": "2025-12-01"}], 1),
        # A master of last year is not preferred to darks of last week.
        ([{**DARK, "master": True, "night": "2024-12-01"}, {**DARK, "night": "2026-01-02"}], 1),
        ([{**FLAT, "night": "2026-01-08"}, {**FLAT, "night": "2026-01-11"}], 1),
        ([{**FLAT, "rotation": 14.0}, {**FLAT, "rotation": 10.0}], 1),
        ([{**FLAT, "night": ""}, {**FLAT, "night": "2025-12-11"}], 1),
        ([{**FLAT, "night": "2026-01-12", "master": True}, FLAT], 1),
        ([{**FLAT, "gain_setting": 0.0}, FLAT], 1),
        # Of two nights equally far, the one before.
        ([{**FLAT, "night": "2026-01-11"}, {**FLAT, "night": "2026-01-09"}], 1),
    ],
)
def test_preferences(make_session: MakeSession, frames: list[dict[str, Any]], best: int) -> None:
    for order in (frames, frames[::-1]):
        lights, groups = parts(make_session([LIGHT, *order]))
        rule = rule_of(frames[0]["kind"])
        picked = pick(lights, groups, groups.of_kind(*rule.kinds), rule.allowances, rule.order)
        chosen = int(groups.members[int(picked.best[0])][0]) - 1
        assert order[chosen] == frames[best]


@pytest.mark.parametrize(
    ("frames", "best", "near", "nearest"),
    [
        ([DARK, {**DARK, "temperature": -5.0}], 0, 1, None),
        ([DARK, {**DARK, "temperature": 5.0}], 0, None, None),
        ([DARK, {**DARK, "gain_setting": 0.0}], 0, None, None),
        ([DARK, {**DARK, "temperature": -5.0, "exposure": 125.0}], 0, None, None),
        # Nothing fits: another gain is nearer than another camera or size.
        ([{**DARK, "camera": "B"}, {**DARK, "gain_setting": 0.0, "exposure": 1.0}], None, None, 1),
        ([{**DARK, "exposure": 60.0}, {**DARK, "exposure": 100.0}], None, None, 1),
        ([{**FLAT, "band": "Ha"}, {**FLAT, "rotation": 90.0}], None, None, 1),
        # Another camera of another size is no candidate at all, one of the two may be a mistake.
        ([{**DARK, "camera": "B", "width": 50}], None, None, None),
        ([{**DARK, "width": 50}], None, None, 0),
    ],
)
def test_nearest_and_near_misses(
    make_session: MakeSession,
    frames: list[dict[str, Any]],
    best: int | None,
    near: int | None,
    nearest: int | None,
) -> None:
    lights, groups = parts(make_session([LIGHT, *frames]))
    rule = rule_of(frames[0]["kind"])
    picked = pick(lights, groups, groups.of_kind(*rule.kinds), rule.allowances, rule.order)
    found = [
        int(groups.members[int(i)][0]) - 1 if i >= 0 else None
        for i in (picked.best[0], picked.near[0], picked.nearest[0])
    ]
    assert found == [best, near, nearest]


def test_blocks_make_no_difference(make_session: MakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**LIGHT, "temperature": -12.0 + 0.1 * i} for i in range(40)]
    lights, groups = parts(make_session([*rows, DARK, {**DARK, "temperature": -8.0}]))

    def picked() -> list[list[int]]:
        found = pick(lights, groups, groups.of_kind("dark"), RULES.dark.allowances, RULES.dark.order)
        return [found.best.tolist(), found.nearest.tolist(), found.near.tolist()]

    whole = picked()
    monkeypatch.setattr("skyloom.ops.calibration.matching.BLOCK", 7)
    assert picked() == whole
    assert len(set(whole[0])) == 2
