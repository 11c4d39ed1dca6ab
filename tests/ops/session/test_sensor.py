"""What the numbers in the pixels mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.fact import Fact, quantity
from skyloom.ops.session.sensor import gain, pedestal, read_noise, saturation, units

HeaderOf = Callable[[Any], Header]
UNSIGNED: dict[str, Any] = {"bitpix": 16, "bzero": 32768.0}
HALF_MINUTE = Fact(30.0, "header EXPTIME")


def gain_of(header: Header, bitpix: int = 16) -> Fact:
    return gain(header, units(header), HALF_MINUTE, bitpix=bitpix)


def test_a_setting_of_the_camera_is_no_gain(header_of: HeaderOf) -> None:
    assert math.isnan(quantity(gain_of(header_of([("GAIN", 180.0, "Gain")]))))
    assert gain_of(header_of([("GAIN", 1.3, "e-/ADU")])) == Fact(1.3, "header GAIN")
    assert gain_of(header_of([("GAIN", 2.0, "Gain (e/ADU)")])) == Fact(2.0, "header GAIN")
    assert gain_of(header_of([("GAIN", 4.0, "ADU per electron")])) == Fact(0.25, "header GAIN")
    assert math.isnan(quantity(gain_of(header_of([("GAIN", 120, "[0.1 dB] gain")]))))
    assert gain_of(header_of({"EGAIN": 0.25, "GAIN": 100})) == Fact(0.25, "header EGAIN")
    assert gain_of(header_of({"CVF": 5.0})) == Fact(5.0, "header CVF")
    assert math.isnan(quantity(gain_of(header_of({"EGAIN": 0.0}))))


def test_electrons_have_gain_one_and_rates_the_exposure(header_of: HeaderOf) -> None:
    assert gain_of(header_of({"BUNIT": "electron", "EGAIN": 3.0})) == Fact(1.0, "header BUNIT")
    assert gain_of(header_of({"BUNIT": "electron/s"})) == Fact(30.0, "header BUNIT, header EXPTIME")


@pytest.mark.parametrize("program", ["Siril 1.2.0", "PixInsight 1.8.9-1"])
def test_floats_from_zero_to_one_have_no_gain(header_of: HeaderOf, program: str) -> None:
    header = header_of({"SWCREATE": "N.I.N.A. 2", "PROGRAM": program, "EGAIN": 0.25, "PEDESTAL": 100})
    assert math.isnan(quantity(gain_of(header, bitpix=-32)))
    assert saturation(header, bitpix=-32, bzero=0.0) == Fact(1.0, "default")
    assert pedestal(header, bitpix=-32) == Fact(100.0 / 65535.0, "header PEDESTAL")
    assert gain_of(header) == Fact(0.25, "header EGAIN")
    assert pedestal(header, bitpix=16) == Fact(100.0, "header PEDESTAL")


@pytest.mark.parametrize(
    ("bitpix", "bzero", "expected"),
    [(16, 32768.0, 65535.0), (16, 0.0, 32767.0), (8, 0.0, 255.0), (-32, 0.0, math.nan), (32, 0.0, math.nan)],
)
def test_integers_bound_the_saturation(header_of: HeaderOf, bitpix: int, bzero: float, expected: float) -> None:
    fact = saturation(header_of({}), bitpix=bitpix, bzero=bzero)
    assert fact.origin == "default"
    assert fact.value == expected or (math.isnan(expected) and math.isnan(quantity(fact)))


def test_the_brightest_pixel_is_no_saturation(header_of: HeaderOf) -> None:
    assert saturation(header_of([("DATAMAX", 3000.0, "maximum pixel value")]), **UNSIGNED).origin == "default"
    header = header_of([("DATAMAX", 3e4, "max good data value")])
    assert saturation(header, **UNSIGNED) == Fact(3e4, "header DATAMAX")
    assert saturation(header_of({"SATLEVEL": 60000}), **UNSIGNED) == Fact(60000.0, "header SATLEVEL")


@pytest.mark.parametrize(
    ("cards", "added", "origin"),
    [
        ([("PEDESTAL", -100, "Correction to add for zero-based ADU")], 100.0, "header PEDESTAL"),
        ([("PEDESTAL", -100, "ADD TO ADU FOR 0-BASE")], 100.0, "header PEDESTAL"),
        ([("PEDESTAL", 150, "Pedestal value in DN")], 150.0, "header PEDESTAL"),
        ([("PEDESTAL", "100", "")], 100.0, "header PEDESTAL"),
        ([("PEDESTAL", 0, "Correction to add for zero-based ADU")], 0.0, "header PEDESTAL"),
        ([("PEDESTAL", 1e9, "")], 0.0, "default"),
        ([], 0.0, "default"),
    ],
)
def test_pedestals_of_either_convention(header_of: HeaderOf, cards: Any, added: float, origin: str) -> None:
    assert pedestal(header_of(cards), bitpix=16) == Fact(added, origin)


def test_read_noise(header_of: HeaderOf) -> None:
    assert read_noise(header_of([("RDNOISE", 1.7, "Read noise in electrons")]), 0.5) == Fact(1.7, "header RDNOISE")
    assert read_noise(header_of([("READNOIS", 3.0, "[ADU] read noise")]), 0.5) == Fact(1.5, "header READNOIS")
    assert math.isnan(quantity(read_noise(header_of([("READNOIS", 3.0, "in DN")]), math.nan)))
    assert math.isnan(quantity(read_noise(header_of({"RDNOISE": -1.0}), 1.0)))
