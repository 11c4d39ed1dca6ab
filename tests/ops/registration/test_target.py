"""Targets and sizes as people write them."""

from __future__ import annotations

import pytest

from skyloom.ops.errors import ConfigError
from skyloom.ops.registration.messier import POSITIONS
from skyloom.ops.registration.target import parse_size, parse_target


@pytest.mark.parametrize(
    ("text", "ra", "dec"),
    [
        ("M 31", 10.68, 41.27),
        ("messier 42", 83.82, -5.39),
        ("m101", 210.80, 54.35),
        ("M077", 40.67, -0.01),
        ("10.68 +41.27", 10.68, 41.27),
        ("10.68, 41.27", 10.68, 41.27),
        ("00:42:44 +41:16:09", 10.6833, 41.2692),
        ("0h42m44s -0d16m09s", 10.6833, -0.2692),
        ("0 42 44 -00 16 9", 10.6833, -0.2692),
        ("12:30 -12:30", 187.5, -12.5),
    ],
)
def test_places(text: str, ra: float, dec: float) -> None:
    assert parse_target(text) == pytest.approx((ra, dec), abs=0.02)


def test_catalogue_is_complete_and_on_the_sky() -> None:
    assert sorted(POSITIONS) == list(range(1, 111))
    assert all(0 <= ra < 360 and -36 < dec < 71 for ra, dec in POSITIONS.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("M 111", "goes from M 1 to M 110"),
        ("NGC 7000", "no object of Messier's catalogue and no position: write 'M 31'"),
        ("10.68 +95", "no position on the sky"),
        ("10:70:00 +41:00:00", "no position"),
        ("", "no position"),
    ],
)
def test_what_is_no_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_target(text)


def test_sizes() -> None:
    assert parse_size("2 x 1.5 deg").shape(3.6) == (1500, 2000)
    assert parse_size("90 arcmin").shape(5.4) == (1000, 1000)
    assert parse_size("3000x2000 px").shape(1.0) == (2000, 3000)
    assert parse_size("3000x4000 px").radius(3.6) == pytest.approx(2.5)


@pytest.mark.parametrize("size", [2, 2.5, "2", "2 x deg", "0 deg", "-1 deg", "400 deg", "2 light years"])
def test_what_is_no_size(size: str | float) -> None:
    with pytest.raises(ConfigError, match=r"size = .*(write '2 deg'|at most 360)"):
        parse_size(size)
