"""Cards as capture programs write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.cards import first_number, first_text, number, sexagesimal
from skyloom.ops.session.fact import Fact

HeaderOf = Callable[[Any], Header]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("05 35 17.3", 5 + 35 / 60 + 17.3 / 3600),
        ("05:35:17.3", 5 + 35 / 60 + 17.3 / 3600),
        ("05h 35m 17.3s", 5 + 35 / 60 + 17.3 / 3600),
        ("-05d 23m 28s", -(5 + 23 / 60 + 28 / 3600)),
        ("-00 30 00", -0.5),
        ("+47 11", 47 + 11 / 60),
        ("3 43 0.000", 3 + 43 / 60),
        ("149 03 52", 149 + 3 / 60 + 52 / 3600),
        ("-68:10:48:00", -(68 + 10 / 60 + 48 / 3600)),
        ("105 30 00 W", -105.5),
        ("47°11'42\"", 47 + 11 / 60 + 42 / 3600),
    ],
)
def test_angles_in_parts_of_sixty(text: str, value: float) -> None:
    assert sexagesimal(text) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(
    "text", ["", "hh:mm:ss.ss", "12", "12.5", "5 75 00", "5 10 61", "M 31", "1 2 3 4 5", "12 x 30"]
)
def test_what_is_no_angle(text: str) -> None:
    assert sexagesimal(text) is None


@given(st.text(max_size=30))
def test_no_text_raises(text: str) -> None:
    value = sexagesimal(text)
    assert value is None or abs(value) < 1000.0


def test_numbers_and_texts(header_of: HeaderOf) -> None:
    header = header_of(
        {
            "A": "40      ",
            "B": "forty",
            "C": True,
            "D": "-1.79769313486232E+308",
            "E": "None",
            "F": "  x ",
            "G": 7,
            "H": "1D400",
        }
    )
    assert number(header, "A") == 40.0
    assert [number(header, k) for k in ("B", "C", "H", "Z")] == [None] * 4
    assert first_number(header, ("D", "A"), -300.0, 100.0) == Fact(40.0, "header A")
    assert first_number(header, ("D", "B"), -300.0, 100.0) is None
    assert first_text(header, ("E", "C", "F")) == Fact("x", "header F")
    assert first_text(header, ("G",)) == Fact("7", "header G")
    assert first_text(header, ("E",)) is None
