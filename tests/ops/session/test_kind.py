"""Kinds of frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.fact import Fact
from skyloom.ops.session.kind import (
    calibration_done,
    combined_frames,
    header_kind,
    kind_of,
    named_kind,
    product,
)
from skyloom.ops.session.names import words

HeaderOf = Callable[[Any], Header]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Light Frame", "light"),
        ("LIGHT", "light"),
        ("light", "light"),
        ("object", "light"),
        ("science", "light"),
        ("Tricolor Image", "light"),
        ("SNAPSHOT", "light"),
        ("Dark Frame", "dark"),
        ("Master Dark", "dark"),
        ("Flat Field", "flat"),
        ("FLAT", "flat"),
        ("skyflat", "flat"),
        ("Dark Flat", "flatdark"),
        ("DARKFLAT", "flatdark"),
        ("FlatDark", "flatdark"),
        ("Bias Frame", "bias"),
        ("zero", "bias"),
        ("Offset", "bias"),
        ("", ""),
        ("None", ""),
    ],
)
def test_kinds(text: str, kind: str) -> None:
    assert kind_of(text) == kind


def test_the_first_keyword_that_says_something_counts(header_of: HeaderOf) -> None:
    assert header_kind(header_of({"IMAGETYP": "None", "FRAME": "Flat"})) == (Fact("flat", "header FRAME"), False)
    assert header_kind(header_of({"PICTTYPE": 4})) == (Fact("flat", "header PICTTYPE"), False)
    assert header_kind(header_of({"IMAGETYP": "Master Dark"})) == (Fact("dark", "header IMAGETYP"), True)
    assert header_kind(header_of({"PICTTYPE": 99, "IMAGETYP": 3})) == (None, False)


def test_frames_that_were_combined(header_of: HeaderOf) -> None:
    assert combined_frames(header_of({"STACKCNT": 20})) == Fact(20.0, "header STACKCNT")
    assert combined_frames(header_of({"NCOMBINE": "12"})) == Fact(12.0, "header NCOMBINE")
    assert combined_frames(header_of({"SNAPSHOT": 1, "NCOMBINE": 0})) is None


@pytest.mark.parametrize(
    ("name", "kind", "master"),
    [
        ("light_B_15000ms_1.fit", "light", False),
        ("bias_1.fits", "bias", False),
        ("flats05.fits", "flat", False),
        ("masterDark_300s.fit", "dark", True),
        ("masterFlat_BIN-1_6248x4176_FILTER-Ha_mono.xisf", "flat", True),
        ("superbias.fits", "bias", True),
        ("dark_stacked.fit", "dark", True),
        ("dark-flat_001.fit", "flatdark", False),
        ("flat_dark_001.fit", "flatdark", False),
        ("Darkshark_L_001.fits", "", False),
        ("supernova_001.fits", "", False),
        ("light_dark_1.fits", "", False),
        ("IC310_1.fits", "", False),
    ],
)
def test_kinds_in_names(name: str, kind: str, master: bool) -> None:
    assert named_kind(words(name)) == (kind, master)


def test_products_of_pipelines(header_of: HeaderOf) -> None:
    assert product(header_of({"PRODTYPE": "dqmask"}), "x") == Fact("data-quality mask", "header PRODTYPE")
    assert product(header_of({}), "c4d_150412_073257_oow_z_ls9") == Fact("weight map", "file name")
    assert product(header_of({}), "c4d_150412_073257_ooi_z_ls9") is None


def test_what_was_taken_off_before(header_of: HeaderOf) -> None:
    assert calibration_done(header_of({"CALSTAT": "BDF     "})) == Fact("bias, dark, flat", "header CALSTAT")
    assert calibration_done(header_of({"CALSTAT": ""})) is None
    assert calibration_done(header_of({"CALSTAT": "Done by me"})) is None
