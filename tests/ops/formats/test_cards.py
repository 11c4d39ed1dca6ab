"""Cards survive being written, and a WCS follows rows that are counted from the other edge."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ops.formats.cards import STRUCTURAL, header_of, read_value, value_text, with_rows_reversed
from skyloom.ops.formats.fits_header import Card

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200)
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**15), 10**15),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT.map(str.rstrip).filter(lambda t: not t.endswith("&")),
)


@settings(deadline=None)
@given(value=VALUES, comment=TEXT, keyword=st.sampled_from(["GAIN", "DATE-OBS", "LONGER THAN 8"]))
def test_cards_survive(value: str | float | int | bool, comment: str, keyword: str) -> None:
    header = header_of({keyword: Card(value, comment), "LAST": Card(1, "")})
    assert header.odd == 0
    assert header.value("LAST") == 1
    found = header[keyword].value
    if value == "":
        assert found in ("", None)
        return
    assert found == value
    assert type(found) is type(value)
    assert read_value(value_text(value)) == value


def test_odd_keywords_and_characters() -> None:
    cards = {
        "": Card(1, ""),
        "END": Card(1, ""),
        "COMMENT": Card("x", ""),
        "A=B": Card(1, ""),
        "x" * 50: Card(1, ""),
    }
    assert len(header_of(cards)) == 0
    header = header_of({"filter": Card("Hα\n3 nm", "ü\x00"), "NAN": Card(float("nan"), "")})
    assert header.value("FILTER") == "H? 3 nm"
    assert header.value("NAN", "none") == "none"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("  15. ", 15.0),
        ("1.5D3", 1500.0),
        ("-7", -7),
        ("T", True),
        ("'it''s '", "it's"),
        ("'open", "open"),
        ("'", ""),
        ("M8", "M8"),
        ("nan", "nan"),
        ("", None),
        ("9" * 50, 1e50),
    ],
)
def test_values(text: str, value: object) -> None:
    assert read_value(text) == value


def test_what_describes_the_storage() -> None:
    assert all(STRUCTURAL.match(k) for k in ("SIMPLE", "NAXIS", "NAXIS2", "BZERO", "END", "BLANK"))
    assert not any(STRUCTURAL.match(k) for k in ("BZEROS", "EXPTIME", "ENDTIME", "NAXISX"))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), height=st.integers(2, 500))
def test_twice_reversed_is_as_before(seed: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    names = ("CRPIX2", "CD1_1", "CD1_2", "CD2_2", "A_1_1", "A_0_2", "B_0_2", "B_1_1", "AP_0_1", "PV2_1", "CRVAL1")
    cards = {k: Card(float(rng.normal()), "c") for k in names} | {"CTYPE1": Card("RA---TAN", "")}
    once = with_rows_reversed(cards, height)
    assert once != cards
    again = with_rows_reversed(once, height)
    assert {k: c.value for k, c in again.items() if k != "CRPIX2"} == {
        k: c.value for k, c in cards.items() if k != "CRPIX2"
    }
    assert again["CRPIX2"].value == pytest.approx(cards["CRPIX2"].value, abs=1e-9)


def test_tpv_terms_stay() -> None:
    wcs = fits.Header()
    wcs["CTYPE1"], wcs["CTYPE2"] = "RA---TPV", "DEC--TPV"
    wcs["CRVAL1"], wcs["CRVAL2"], wcs["CRPIX1"], wcs["CRPIX2"] = 83.0, -5.0, 12.0, 7.5
    wcs["CD1_1"], wcs["CD1_2"], wcs["CD2_1"], wcs["CD2_2"] = -2e-2, 3e-3, 4e-3, 1.9e-2
    wcs["PV1_1"], wcs["PV1_4"], wcs["PV2_1"], wcs["PV2_4"] = 1.0, 0.1, 1.0, -0.2
    reversed_cards = with_rows_reversed({k: Card(v, "") for k, v in wcs.items()}, 30)
    found = WCS(fits.Header({k: c.value for k, c in reversed_cards.items()}))
    x, y = np.meshgrid(np.arange(0.0, 40.0, 3), np.arange(0.0, 30.0, 3))
    expected = WCS(wcs).all_pix2world(x.ravel(), 29.0 - y.ravel(), 0)
    np.testing.assert_allclose(found.all_pix2world(x.ravel(), y.ravel(), 0), expected, rtol=0, atol=1e-10)
