"""Cards read as astropy reads them; what violates the standard is guessed, never raised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ops.formats.fits_header import Card, Header


def card(text: str) -> bytes:
    return text.ljust(80).encode("latin-1")


def test_cards_as_astropy_reads_them() -> None:
    cards = fits.Header()
    values: dict[str, Any] = {
        "A": 1,
        "B": -2.5e-7,
        "C": "it's / odd",
        "D": True,
        "E": False,
        "F": "",
        "G": 12345678901234567890,
        "H": "trailing   ",
        "LONG": "x" * 200,
    }
    for key, value in values.items():
        cards[key] = (value, f"comment of {key}"[:40])
    cards["HIERARCH ESO DET ID"] = 7
    cards.add_comment("A = 5")
    header = Header(cards.tostring().encode("ascii"))
    for key, value in values.items():
        expected = value.rstrip() if isinstance(value, str) else value
        assert header.value(key, "") == expected, key
        assert header[key].comment == (f"comment of {key}")
    assert header.value("ESO DET ID") == 7
    assert header.odd == 0
    assert set(header) == {*values, "ESO DET ID"}


@pytest.mark.parametrize(
    ("text", "value", "comment"),
    [
        ("A       = 1.5D3 / double", 1500.0, "double"),
        ("A       =T/tight", True, "tight"),
        ("A       ='abc'", "abc", ""),
        ("A       = 2017-11-15T20:08:13", "2017-11-15T20:08:13", ""),
        ("A       = 'never closed", "never closed", ""),
        ("A       = / nothing", None, "nothing"),
        ("A       =", None, ""),
        ("A       = .5", 0.5, ""),
        ("A       = +7", 7, ""),
        ("A       = 1e999", np.inf, ""),
        ("A       = NaN", "NaN", ""),
        ("A       = 12:34:56", "12:34:56", ""),
    ],
)
def test_lenient_values(text: str, value: object, comment: str) -> None:
    header = Header(card(text) + card("END"))
    assert header["A"].value == value
    assert header["A"].comment == comment


def test_the_first_of_a_keyword_counts() -> None:
    header = Header(
        card("A       = 1") + card("A       = 2") + card("CONTINUE  'x'") + card("END") + card("B       = 3")
    )
    assert header.value("A") == 1
    assert "B" not in header


def test_a_lower_case_keyword_can_be_continued() -> None:
    header = Header(card("HIERARCH some key = 'abc&'") + card("CONTINUE  'def' / more"))
    assert header["SOME KEY"] == ("abcdef", "more")


def test_cards_are_replaced_added_and_left_out_in_a_copy() -> None:
    header = Header(card("A       = 1 / one") + card("B       = 2") + card("C       = 3"))
    changed = header.changed({"B": Card("two", "text"), "D": Card(4, "")}, without=("C", "none"))
    assert {k: changed.value(k) for k in changed} == {"A": 1, "B": "two", "D": 4}
    assert changed["B"].comment == "text"
    assert {k: header.value(k) for k in header} == {"A": 1, "B": 2, "C": 3}


def test_a_changed_header_keeps_its_cards_below_another() -> None:
    above = Header(card("A       = 1")).changed({"B": Card(2, "")})
    below = Header(card("A       = 7") + card("B       = 8") + card("C       = 9"))
    assert below.value("A") == 7  # parsed before they are merged
    merged = above.below(below.changed({"C": Card(3, "")}))
    assert {k: merged.value(k) for k in merged} == {"A": 1, "B": 2, "C": 3}
    assert {k: Header(card("A       = 1")).below(below).value(k) for k in "ABC"} == {"A": 1, "B": 8, "C": 9}


@given(st.binary(max_size=400))
def test_any_bytes_make_a_header(data: bytes) -> None:
    header = Header(data)
    for keyword in header:
        assert isinstance(header.value(keyword, ""), str | int | float | bool)
