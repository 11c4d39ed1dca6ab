"""Settings of camera and telescope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session import camera
from skyloom.ops.session.fact import Fact

HeaderOf = Callable[[Any], Header]


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"CCD-TEMP": -9.9, "SET-TEMP": -10.0}, (-9.9, "header CCD-TEMP")),
        ({"SET-TEMP": -10.0}, (-10.0, "header SET-TEMP")),
        ({"CCD-TEMP": "-1.79769313486232E+308", "SET-TEMP": -10.0}, (-10.0, "header SET-TEMP")),
        ({"CCD-TEMP": 999.0}, None),
        ([("DET-TEMP", 173.15, "[K] detector")], (-100.0, "header DET-TEMP")),
        ({}, None),
    ],
)
def test_temperatures(header_of: HeaderOf, cards: Any, expected: tuple[float, str] | None) -> None:
    found = camera.temperature(header_of(cards))
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found.value == pytest.approx(expected[0])
        assert found.origin == expected[1]


def test_settings(header_of: HeaderOf) -> None:
    assert camera.gain_setting(header_of({"GAIN": 100})) == Fact(100.0, "header GAIN")
    assert camera.gain_setting(header_of([("GAIN", 1.3, "e-/ADU")])) is None
    assert camera.gain_setting(header_of({"ISOSPEED": 800})) == Fact(800.0, "header ISOSPEED")
    assert camera.gain_setting(header_of({"GAIN": -1})) is None
    assert camera.offset_setting(header_of({"BLKLEVEL": 30})) == Fact(30.0, "header BLKLEVEL")
    assert camera.offset_setting(header_of({"PEDESTAL": -100})) is None


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"XBINNING": 2, "YBINNING": 2}, "2x2"),
        ({"XBINNING": 2, "YBINNING": 1}, "2x1"),
        ({"CCDXBIN": 3.0}, "3x3"),
        ({"BINNING": "2x2"}, "2x2"),
        ({"BINNING": "2 X 2"}, "2x2"),
        ({"BINNING": 4}, "4x4"),
        ({"CCDSUM": "2 2     "}, "2x2"),
        ({"CCDSUM": "1 2"}, "1x2"),
        ({"XBINNING": 0}, None),
        ({"XBINNING": 1000}, None),
        ({"BINNING": "none"}, None),
        ({}, None),
    ],
)
def test_binning(header_of: HeaderOf, cards: Any, expected: str | None) -> None:
    found = camera.header_binning(header_of(cards))
    assert (found.value if found is not None else None) == expected


SECTIONS = camera.TRIM


@pytest.mark.parametrize(
    ("cards", "section", "odd"),
    [
        ({"TRIMSEC": "[5:600,1:400]", "DATASEC": "[1:600,1:400]"}, "[5:600,1:400]", False),
        ({"DATASEC": "[ 600:21 , 400:1 ]"}, "[21:600,1:400]", False),
        ({"TRIMSEC": "[1:640,1:400]"}, None, False),
        ({"TRIMSEC": "[1:641,1:400]"}, None, True),
        ({"TRIMSEC": "[0:600,1:400]"}, None, False),
        ({"TRIMSEC": "whole"}, None, False),
    ],
)
def test_sections(header_of: HeaderOf, cards: Any, section: str | None, odd: bool) -> None:
    found, note = camera.header_section(header_of(cards), SECTIONS, (400, 640))
    assert (found.value if found is not None else None) == section
    assert bool(note) == odd


def test_pixels_and_optics(header_of: HeaderOf) -> None:
    assert camera.pixel_size(header_of({"XPIXSZ": 7.52}), "2x2") == Fact(7.52, "header XPIXSZ")
    assert camera.pixel_size(header_of({"PIXSIZE1": 3.76}), "2x2") == Fact(7.52, "header PIXSIZE1")
    assert camera.pixel_size(header_of({"PIXSIZE1": 3.76}), "") == Fact(3.76, "header PIXSIZE1")
    assert camera.pixel_size(header_of({"XPIXSZ": 0}), "1x1") is None
    assert camera.focal_length(header_of({"FOCALLEN": 530})) == Fact(530.0, "header FOCALLEN")
    assert camera.focal_length(header_of({"FOCALLEN": 0.0})) is None
    assert camera.telescope(header_of({"TELESCOP": "FSQ"})) == Fact("FSQ", "header TELESCOP")


@pytest.mark.parametrize(
    ("cards", "expected"),
    [
        ({"ROTATANG": 123.4, "OBJCTROT": 90.0}, (123.4, "header ROTATANG")),
        ({"ROTNAME": "Falcon", "ROTATOR": 92.1}, (92.1, "header ROTATOR")),
        ({"OBJCTROT": 90.0, "CROTA2": 12.0}, (90.0, "header OBJCTROT")),
        ({"POSANGLE": "270.5"}, (270.5, "header POSANGLE")),
        ({"ANGLE": -10.0}, (350.0, "header ANGLE")),
        ({"CROTA2": 303.1}, (303.1, "header CROTA2")),
        ({"ROTATANG": 1e9}, None),
        ({}, None),
    ],
)
def test_rotation(header_of: HeaderOf, cards: Any, expected: tuple[float, str] | None) -> None:
    found = camera.rotation(header_of(cards))
    assert (tuple(found) if found is not None else None) == expected


@pytest.mark.parametrize(
    ("cards", "ra", "dec", "keyword"),
    [
        ({"RA": 83.82, "DEC": -5.39}, 83.82, -5.39, "RA"),
        ({"RA": "05:35:17", "DEC": "-05:23:28"}, 83.8208, -5.3911, "RA"),
        ({"OBJCTRA": "05 35 17", "OBJCTDEC": "-05 23 28"}, 83.8208, -5.3911, "OBJCTRA"),
        ({"OBJCTRA": "05h 35m 17s", "OBJCTDEC": "-05d 23m 28s"}, 83.8208, -5.3911, "OBJCTRA"),
        ({"RA": 83.82, "DEC": -5.39, "OBJCTRA": "05 40 00", "OBJCTDEC": "-06 00 00"}, 83.82, -5.39, "RA"),
        ([("RA", 5.588, "Right Ascension [ hours ]"), ("DEC", -5.39)], 83.82, -5.39, "RA"),
        ([("RA", 5.588, "[deg] RA of telescope"), ("DEC", -5.39)], 5.588, -5.39, "RA"),
        ({"RA": 5.588, "DEC": -5.39, "OBJCTRA": "05 35 17", "OBJCTDEC": "-05 23 28"}, 83.82, -5.39, "RA"),
        ({"RA": 5.588, "DEC": -5.39, "OBJCTRA": "00 22 21", "OBJCTDEC": "-05 23 28"}, 5.588, -5.39, "RA"),
        (
            {"RA": "hh:mm:ss", "DEC": "dd:mm:ss", "OBJCTRA": "00 00 04", "OBJCTDEC": "+90 00 00"},
            0.01667,
            90.0,
            "OBJCTRA",
        ),
        ({"CTYPE1": "RA---TAN", "CRVAL1": 10.0, "CRVAL2": 20.0}, 10.0, 20.0, "CRVAL1"),
    ],
)
def test_pointing(header_of: HeaderOf, cards: Any, ra: float, dec: float, keyword: str) -> None:
    found = camera.pointing(header_of(cards))
    assert found is not None
    assert float(found[0].value) == pytest.approx(ra, abs=1e-3)
    assert float(found[1].value) == pytest.approx(dec, abs=1e-3)
    assert found[0].origin == f"header {keyword}"


@pytest.mark.parametrize(
    "cards",
    [{}, {"RA": 83.0}, {"RA": 400.0, "DEC": 1.0}, {"RA": 4.0, "DEC": 91.0}, {"CRVAL1": 10.0, "CRVAL2": 20.0}],
)
def test_no_pointing(header_of: HeaderOf, cards: Any) -> None:
    assert camera.pointing(header_of(cards)) is None
