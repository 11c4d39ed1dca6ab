"""Filters and bands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.band import band, band_of, header_filter
from skyloom.ops.session.fact import Fact

HeaderOf = Callable[[Any], Header]


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("Luminance", "L"),
        ("lum", "L"),
        ("Red", "R"),
        ("H-alpha", "Ha"),
        ("Ha 3nm", "Ha"),
        ("H_Alpha", "Ha"),
        ("O3", "OIII"),
        ("[custom]", "[custom]"),
        ("SII 6.5nm", "SII"),
        ("g", "g"),
        ("G", "G"),
        ("r DECam SDSS c0002 6415.0 1480.0", "r"),
        ("zd DECam k1038", "zd"),
        ("j", "J"),
        ("k", "K"),
        ("IRCUT", "IRCUT"),
        ("UV/IR cut", "IRCUT"),
        ("L-eXtreme", "L-eXtreme"),
        ("LeXtreme", "L-eXtreme"),
        ("Optolong L-Pro", "Optolong L-Pro"),
    ],
)
def test_bands(text: str, band: str) -> None:
    assert band_of(text) == band


def test_wheels_in_a_row(header_of: HeaderOf) -> None:
    assert header_filter(header_of({"FILTER1": "None", "FILTER2": "R"})) == Fact("R", "header FILTER2")
    assert header_filter(header_of({"FILTER": "", "FILTER1": "J"})) == Fact("J", "header FILTER1")
    assert header_filter(header_of({"FILTER": 3})) == Fact("3", "header FILTER")
    assert header_filter(header_of({"FILTERS": "Filter_L"})) == Fact("L", "header FILTERS")


@pytest.mark.parametrize("name", ["Open", "Clear", "BLOCK", "None", "NoFilter", "CFA", "OSC", "RGB", ""])
def test_names_that_are_no_filters(header_of: HeaderOf, name: str) -> None:
    assert header_filter(header_of({"FILTER": name})) is None


def test_bands_of_frames() -> None:
    red, nothing, colour = Fact("R", "header FILTER"), Fact("", "default"), Fact("RGGB", "header BAYERPAT")
    assert band("light", red, colour=None, plane="") == red
    assert band("light", nothing, colour=None, plane="") == Fact("none", "default")
    assert band("light", red, colour=colour, plane="") == Fact("CFA", "header BAYERPAT")
    assert band("flat", red, colour=colour, plane="") == Fact("CFA", "header BAYERPAT")
    assert band("light", red, colour=None, plane="G") == Fact("G", "colour plane")
    for kind in ("bias", "dark", "flatdark"):
        assert band(kind, red, colour=colour, plane="") == Fact("none", "default")
