"""Rules that run no code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ops.errors import ConfigError
from skyloom.ops.expression import FUNCTIONS, Expression

NAMES = {"fwhm": "px", "eccentricity": "", "stars": ""}
VALUES = {
    "fwhm": np.array([3.0, 4.5, np.nan]),
    "eccentricity": np.array([0.3, 0.5, 0.7]),
    "stars": np.array([100.0, 40.0, 70.0]),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fwhm < 4 px and eccentricity < 0.6", [True, False, False]),
        ("fwhm<4px", [True, False, False]),
        ("not fwhm > 4", [True, False, True]),
        ("stars > 0.6 * median(stars) or eccentricity < .2", [True, False, True]),
        ("0.2 < eccentricity <= 0.5", [True, True, False]),
        ("stars == best(stars)", [True, False, False]),
        ("2 > 1", [True, True, True]),
    ],
)
def test_rules(text: str, expected: list[bool]) -> None:
    assert Expression(text, NAMES).evaluate(VALUES).tolist() == expected


def test_arithmetic() -> None:
    found = Expression("-(stars - mean(stars)) / max(fwhm, 4) ** 2 + abs(-1)", NAMES).evaluate(VALUES)
    np.testing.assert_allclose(found, [-30 / 16 + 1, 30 / 4.5**2 + 1, 0 + 1])
    assert Expression("sigma(stars)", NAMES).evaluate(VALUES)[0] == pytest.approx(1.4826 * 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fwmh < 4", "unknown name 'fwmh'; did you mean 'fwhm'"),
        ("fwhm < 4 arcsec", r"nothing in it is in arcsec; there is: fwhm \(px\)"),
        ("stars > 3 px", "nothing in it is in px; there is: nothing with a unit"),
        ("fwhm <", "is no expression, such as"),
        ("", "is no expression"),
        ("__import__('os').system('true')", "not allowed in a rule"),
        ("stars.__class__", "not allowed in a rule"),
        ("open(stars)", "unknown function 'open'"),
        ("[s for s in stars]", "not allowed"),
        ("stars if fwhm else 1", "not allowed"),
        ("lambda: 1", "not allowed"),
        ("(stars := 3)", "not allowed"),
        ("'a' < stars", "'a' is no number"),
        ("True", "True is no number"),
        ("fwhm in stars", "not allowed"),
        ("fwhm | stars", "not allowed"),
        ("max(fwhm)", "takes another number of values"),
        ("median(fwhm, stars)", "takes another number of values"),
        ("sqrt(*stars)", "not allowed"),
        ("-" * 80 + "1", "nested too deep"),
        ("1+" * 400 + "1", "has 801 characters"),
    ],
)
def test_what_is_no_rule_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Expression(text, NAMES)


@given(st.text(alphabet="fwhmstarsecy0123456789.()<>=+-*/ andornot_[]'\"px,", max_size=40))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = Expression(text, NAMES)
    except ConfigError:
        return
    assert len(rule.evaluate(VALUES)) == 3


def test_parts_are_what_and_joins() -> None:
    assert [
        p.text for p in Expression("fwhm < 4 px and stars > 3 and (fwhm > 1 or stars < 9)", NAMES).parts()
    ] == [
        "fwhm < 4",
        "stars > 3",
        "fwhm > 1 or stars < 9",
    ]
    assert len(Expression("fwhm < 4", NAMES).parts()) == 1
    assert "median" in FUNCTIONS
