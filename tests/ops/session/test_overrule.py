"""What the user states goes before everything."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from skyloom.ops.errors import ConfigError
from skyloom.ops.session.fact import Fact
from skyloom.ops.session.overrule import read_rules, stated


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*/flats/*", "/data/m31/Flats/x.fits", True),
        ("flats/*", "/data/m31/flats/a/x.fits", True),
        ("flats/*", "/data/m31/skyflats/x.fits", False),
        ("x.fits", "/data/x.fits", True),
        ("x.fits", "/data/ax.fits", False),
        ("*_300s_*.fit?", "/data/a_300s_1.fits", True),
        ("/data/*", "/data/x.fits", True),
        ("/data/*", "/more/data/x.fits", False),
        ("*", "/x.fits", True),
        ("flats\\*", "/data/flats/x.fits", True),
    ],
)
def test_patterns(pattern: str, path: str, matches: bool) -> None:
    (rule,) = read_rules([{"match": pattern, "kind": "flat"}])
    assert rule.matches(path) is matches


def test_a_plane_of_a_file_can_be_named() -> None:
    (rule,) = read_rules([{"match": "*.fits [[]R]", "band": "Ha"}])
    assert rule.matches("/d/x.fits", "R")
    assert not rule.matches("/d/x.fits", "G")
    assert not rule.matches("/d/x.fits")


def test_the_later_rule_counts() -> None:
    rules = read_rules(
        [
            {"match": "*/m31/*", "kind": "light", "band": "L", "exposure": 60},
            {"match": "*_Ha_*", "band": "H-alpha"},
            {"match": "*.xisf", "band": "R"},
        ]
    )
    assert stated(rules, "/d/m31/x_ha_1.fits") == {
        "kind": Fact("light", "user '*/m31/*'"),
        "exposure": Fact(60.0, "user '*/m31/*'"),
        "band": Fact("Ha", "user '*_Ha_*'"),
    }


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("kind", "Dark Frame", "dark"),
        ("kind", "unknown", "unknown"),
        ("master", True, True),
        ("band", 3, "3"),
        ("exposure", 60, 60.0),
        ("exposure", "60", 60.0),
        ("binning", 2, "2x2"),
        ("binning", "2x1", "2x1"),
        ("bayer", "rggb", "RGGB"),
        ("bayer", "none", ""),
        ("night", "2024-01-31", "2024-01-31"),
        ("night", date(2024, 1, 31), "2024-01-31"),
        ("date", "2024-01-31T21:05:00Z", "2024-01-31T21:05:00.000"),
        ("trim", "[5:100, 1:80]", "[5:100,1:80]"),
        ("trim", "", ""),
        ("camera", None, ""),
        ("band", None, "none"),
        ("telescope", 8, "8"),
    ],
)
def test_values(name: str, given: Any, value: Any) -> None:
    (rule,) = read_rules([{"match": "*", name: given}])
    assert rule.values[name] == value
    assert type(rule.values[name]) is type(value)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"kind": "flat"}, "overrule 1: 'match' should be a pattern"),
        ({"match": "  ", "kind": "flat"}, "overrule 1: 'match' should be a pattern"),
        ({"match": "*/a/*"}, r"overrule '\*/a/\*' states no fact"),
        ({"match": "*", "filte": "L"}, "there is no fact 'filte'; did you mean 'filter'"),
        ({"match": "*", "kind": "drak"}, "kind = 'drak' should be one of light, .*; did you mean 'dark'"),
        ({"match": "*", "exposure": "long"}, "exposure = 'long' should be a number of seconds"),
        ({"match": "*", "exposure": True}, "exposure = True should be"),
        ({"match": "*", "exposure": -1}, "exposure = -1 should be"),
        ({"match": "*", "exposure": float("nan")}, "exposure = nan should be"),
        ({"match": "*", "master": "yes"}, "master = 'yes' should be true or false"),
        ({"match": "*", "bayer": "RGBG"}, "bayer = 'RGBG' should be RGGB"),
        ({"match": "*", "binning": "big"}, "binning = 'big' should be"),
        ({"match": "*", "night": "tonight"}, "night = 'tonight' should be a day"),
        ({"match": "*", "trim": "[0:1]"}, "trim = .* should be a FITS section"),
        ({"match": "*", "ra": 400}, "ra = 400 should be"),
        ({"match": "*", "camera": ["a"]}, "camera = .* should be a text"),
    ],
)
def test_rules_that_make_no_sense(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_rules([rule])
