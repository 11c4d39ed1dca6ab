"""Dates and nights."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.dates import header_date, header_night, iso_date, longitude, named_date, night_of
from skyloom.ops.session.fact import Fact

HeaderOf = Callable[[Any], Header]


@pytest.mark.parametrize(
    ("day", "clock", "expected"),
    [
        ("2023-01-14T21:05:52.1239", "", "2023-01-14T21:05:52.123"),
        ("2023-01-14T21:05:52Z", "", "2023-01-14T21:05:52.000"),
        ("2023-01-14T21:05:52+02:00", "", "2023-01-14T19:05:52.000"),
        ("2023-01-14T21:05:52.5-0530", "", "2023-01-15T02:35:52.500"),
        ("2020-05-22T03:11:09.5760000", "", "2020-05-22T03:11:09.576"),
        ("2023-01-14", "21:05", "2023-01-14T21:05:00.000"),
        ("2023-01-14", "", "2023-01-14"),
        ("2023-01-14 21:05:52", "", "2023-01-14T21:05:52.000"),
        ("2023/01/14", "", "2023-01-14"),
        ("14/01/98", "", "1998-01-14"),
        ("990214", "10:56:09.13", "1999-02-14T10:56:09.130"),
        ("001124", "", "2000-11-24"),
        ("2023-13-14", "", ""),
        ("9999-12-31T23:59:59", "", ""),
        ("0000-00-00T00:00:00", "", ""),
        ("2023-02-30", "", ""),
        ("2023-01-14T24:00:00", "", "2023-01-15T00:00:00.000"),
        ("23:59:60", "", ""),
        ("", "10:00", ""),
    ],
)
def test_dates(day: str, clock: str, expected: str) -> None:
    assert iso_date(day, clock) == expected


@given(st.text(max_size=40), st.text(max_size=12))
def test_no_text_raises(day: str, clock: str) -> None:
    found = iso_date(day, clock)
    assert found == "" or datetime.fromisoformat(found)
    named_date(day)


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"MJD-OBS": 51544.5}, ("2000-01-01T12:00:00.000", "header MJD-OBS")),
        ({"ORDATE": "990214", "UT": "10:56:09.13"}, ("1999-02-14T10:56:09.130", "header ORDATE")),
        ({"DATE-OBS": "2019-11-02", "TIME-OBS": "04:05:06.5"}, ("2019-11-02T04:05:06.500", "header DATE-OBS")),
        ({"DATE-OBS": "rubbish", "DATE": "2020-01-01"}, ("2020-01-01", "header DATE")),
        ({"DATE-END": "2024-01-02T00:01:00"}, ("2024-01-01T23:59:00.000", "header DATE-END")),
        ({"DATE-AVG": "2024-01-02T00:01:00"}, ("2024-01-02T00:00:00.000", "header DATE-AVG")),
        (
            {"DATE-OBS": "2024-01-02T03:00:00", "DATE-END": "2024-01-02T03:02:00", "DATE": "2024-01-05"},
            ("2024-01-02T03:00:00.000", "header DATE-OBS"),
        ),
        (
            [("DATE-OBS", "2024-01-02T03:02:00", "UTC at end of exposure")],
            ("2024-01-02T03:00:00.000", "header DATE-OBS"),
        ),
        ([("DATE-OBS", "2024-01-02T03:01:00", "mid exposure")], ("2024-01-02T03:00:00.000", "header DATE-OBS")),
        (
            [("DATE-OBS", "2024-01-02T03:01:00", "UTC calendar date")],
            ("2024-01-02T03:01:00.000", "header DATE-OBS"),
        ),
    ],
)
def test_where_dates_come_from(header_of: HeaderOf, cards: Any, expected: tuple[str, str]) -> None:
    assert header_date(header_of(cards), 120.0) == Fact(*expected)


def test_an_end_without_an_exposure_stays(header_of: HeaderOf) -> None:
    found = header_date(header_of({"DATE-END": "2024-01-02T00:01:00"}), math.nan)
    assert found == Fact("2024-01-02T00:01:00.000", "header DATE-END")
    assert header_date(header_of({}), 1.0) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Light_20250326-212659", "2025-03-26T21:26:59.000"),
        ("Image_Arp.145_2017.11.15_21.07.12_00000", "2017-11-15T21:07:12.000"),
        ("LBN527_LIGHT_L_300s_BIN1_-10C_GA0_20260914_045755_638_PA310_E", "2026-09-14T04:57:55.000"),
        ("2023-01-14_22-05-52_Ha_-10.00_300.00s_0001", "2023-01-14T22:05:52.000"),
        ("M31_2023-01-14", "2023-01-14"),
        ("NGC20230114x_123", "2023-01-14"),
        ("M31_0001", ""),
        ("20231314_x", ""),
    ],
)
def test_dates_in_names(name: str, expected: str) -> None:
    assert named_date(name) == expected


# --- nights ---


def night(header: Header, date: str, name: str = "") -> Fact:
    return header_night(header, Fact(date, "header DATE-OBS"), name)


def test_local_time_of_the_header_goes_first(header_of: HeaderOf) -> None:
    header = header_of({"DATE-LOC": "2023-01-15T02:05:52.123", "SITELONG": -120.0})
    assert night(header, "2023-01-15T10:05:52.000", "2023-01-15T13:00:00.000") == Fact(
        "2023-01-14", "header DATE-LOC"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7/23/2019 11:07:23.000 PM DST", "2019-07-23"),
        ("7/24/2019 02:07:23.000 AM DST", "2019-07-23"),
        ("24/7/2019 02:07:23", "2019-07-23"),
        ("Local time:7/24/2019 at 2:07:23", "2019-07-23"),
    ],
)
def test_local_time_of_older_programs(header_of: HeaderOf, text: str, expected: str) -> None:
    keyword = "NOTE" if text.startswith("Local") else "LOCALTIM"
    utc = "2019-07-24T06:07:23.000"
    assert night(header_of({keyword: text}), utc) == Fact(expected, f"header {keyword}")
    assert night(header_of({keyword: "1/1/1999 02:00:00"}), utc).origin == "header DATE-OBS"


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"SITELONG": "-105 30 00"}, (-105.5, "SITELONG")),
        ({"SITELONG": "3 43 0.000", "SITELAT": "51 3 0.000"}, (3 + 43 / 60, "SITELONG")),
        ({"SITELONG": 254.5}, (-105.5, "SITELONG")),
        ({"SITELONG": "-68:10:48:00"}, (-68.18, "SITELONG")),
        ({"SITELONG": "00 00 00", "SITELAT": "00 00 00"}, None),
        ({"SITELONG": 0.0, "SITELAT": 51.5}, (0.0, "SITELONG")),
        ({"SITELONG": "here", "LONG-OBS": 8.3}, (8.3, "LONG-OBS")),
        ([("LONGITUD", 105.5, "West longitude of the site")], (-105.5, "LONGITUD")),
        ({"SITELONG": 1e6}, None),
        ({}, None),
    ],
)
def test_longitudes(header_of: HeaderOf, cards: Any, expected: tuple[float, str] | None) -> None:
    found = longitude(header_of(cards))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] == pytest.approx(expected[0])
        assert found[1] == expected[1]


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2050, 1, 1)),
    st.floats(-180.0, 179.9, allow_nan=False).filter(lambda x: x != 0.0),
)
def test_a_night_is_one_night_everywhere(header_of: HeaderOf, utc: datetime, east: float) -> None:
    utc = utc.replace(tzinfo=UTC, microsecond=0)
    found = night(header_of({"SITELONG": east}), utc.isoformat(timespec="milliseconds").removesuffix("+00:00"))
    noon = datetime.fromisoformat(str(found.value)).replace(hour=12, tzinfo=UTC) - timedelta(hours=east / 15.0)
    assert timedelta(seconds=-1) <= utc - noon < timedelta(hours=24, seconds=1)


def test_frames_on_both_sides_of_midnight(header_of: HeaderOf) -> None:
    header = header_of({"SITELONG": 8.3})
    evening, morning = night(header, "2023-01-14T21:00:00.000"), night(header, "2023-01-15T04:00:00.000")
    assert evening == morning == Fact("2023-01-14", "header DATE-OBS, header SITELONG")
    # In California the night goes through noon UTC.
    header = header_of({"SITELONG": -118.0})
    assert {night(header, f"2023-01-15T{h:02d}:30:00.000").value for h in (3, 9, 11, 13)} == {"2023-01-14"}


def test_the_time_in_the_name_is_local(header_of: HeaderOf) -> None:
    nothing = header_of({})
    assert night(nothing, "2025-03-27T13:10:00.000", "2025-03-27T05:10:03.000") == Fact("2025-03-26", "file name")
    assert night(nothing, "2025-03-27T13:10:00.000", "2024-03-27T05:10:03.000").origin == "header DATE-OBS"
    assert night(nothing, "2025-03-27T13:10:00.000") == Fact("2025-03-27", "header DATE-OBS")
    assert night(nothing, "2025-03-27") == Fact("", "default")


def test_the_user_s_date_goes_before_the_header_s_local_time(header_of: HeaderOf) -> None:
    header = header_of({"DATE-LOC": "2023-01-15T02:05:52.123"})
    for date, expected in (("2024-05-05T22:00:00.000", "2024-05-05"), ("2024-05-06", "2024-05-06")):
        assert header_night(header, Fact(date, "user '*'"), "") == Fact(expected, "user '*'")


def test_noon_begins_a_night() -> None:
    assert night_of(datetime(2024, 3, 1, 11, 59, 59)) == "2024-02-29"
    assert night_of(datetime(2024, 3, 1, 12)) == "2024-03-01"
