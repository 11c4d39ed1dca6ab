"""Names of the capture programs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ops.session.fact import Fact
from skyloom.ops.session.names import Name, words

ASIAIR = "Light_Helix_300.0s_Bin1_2600MM_Ha_gain120_20260711-050003_12deg_-10.0C_APO120_0004.fit"
ASIAIR_FLAT = "Flat_33.3ms_Bin2_2600MC_gain100_20260320-061616_286deg_0001.fit"
SEESTAR = "Light_M 94_10.0s_IRCUT_20250326-212046.fit"
VOYAGER = "LBN527_LIGHT_L_300s_BIN1_-12C_GA2750_20260902_014447_431_PA310_W.FIT"
NINA = "2023-01-14_22-05-52_OIII_-10.00_300.00s_0001.fits"
SGP = "M51_600sec_1x1_L_frame1.fit"
APT = "L_m42_0164_ISO800_10s__18C.CR2"
ASIIMG = "Dark_ASIImg_60sec_Bin1_filter-L_-10.0C_gain120_2020-09-22_210000_frame0001.fit"
WBPP = "masterDark_BIN-1_6248x4176_EXPOSURE-300.00s.xisf"
WBPP_FLAT = "masterFlat_BIN-2_6248x4176_FILTER-Ha_mono.xisf"


def all_of(path: str) -> dict[str, Any]:
    name = Name(path)
    facts = {
        key: getattr(name, key)()
        for key in (
            *("kind", "filter", "exposure", "binning", "gain_setting", "offset_setting", "temperature"),
            *("rotation", "camera"),
        )
    }
    return {key: fact.value for key, fact in facts.items() if fact is not None} | (
        {"date": name.date()} if name.date() else {}
    )


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            ASIAIR,
            {
                "kind": "light",
                "filter": "Ha",
                "exposure": 300.0,
                "binning": "1x1",
                "gain_setting": 120.0,
                "temperature": -10.0,
                "rotation": 12.0,
                "camera": "2600MM",
                "date": "2026-07-11T05:00:03.000",
            },
        ),
        (
            ASIAIR_FLAT,
            {
                "kind": "flat",
                "exposure": 0.0333,
                "binning": "2x2",
                "gain_setting": 100.0,
                "rotation": 286.0,
                "camera": "2600MC",
                "date": "2026-03-20T06:16:16.000",
            },
        ),
        (
            SEESTAR,
            {"kind": "light", "filter": "IRCUT", "exposure": 10.0, "date": "2025-03-26T21:20:46.000"},
        ),
        (
            VOYAGER,
            {
                "kind": "light",
                "filter": "L",
                "exposure": 300.0,
                "binning": "1x1",
                "gain_setting": 2750.0,
                "temperature": -12.0,
                "rotation": 310.0,
                "date": "2026-09-02T01:44:47.000",
            },
        ),
        (NINA, {"filter": "OIII", "exposure": 300.0, "date": "2023-01-14T22:05:52.000"}),
        (SGP, {"filter": "L", "exposure": 600.0, "binning": "1x1"}),
        (APT, {"kind": "light", "exposure": 10.0, "gain_setting": 800.0, "temperature": 18.0}),
        (
            APT.replace("L_m42", "F_B"),
            {"kind": "flat", "filter": "B", "exposure": 10.0, "gain_setting": 800.0} | {"temperature": 18.0},
        ),
        (
            ASIIMG,
            {
                "kind": "dark",
                "filter": "L",
                "exposure": 60.0,
                "binning": "1x1",
                "gain_setting": 120.0,
                "temperature": -10.0,
                "date": "2020-09-22T21:00:00.000",
            },
        ),
        (WBPP, {"kind": "dark", "exposure": 300.0, "binning": "1x1"}),
        (WBPP_FLAT, {"kind": "flat", "filter": "Ha", "binning": "2x2"}),
        ("IC310_1.fits", {}),
        ("M8_L_R_001.fit", {}),
        ("seestars.fit", {}),
        ("a_10s_20s_1x1_2x2_gain1_gain2.fit", {}),
    ],
)
def test_names(name: str, facts: dict[str, Any]) -> None:
    assert all_of(f"/data/x/y/z/{name}") == pytest.approx(facts)


@pytest.mark.parametrize(
    ("path", "filter_"),
    [
        ("M8_L_001.fit", "L"),
        ("M8_Light_Ha_300s.fit", "Ha"),
        ("NGC7000-sii-12.fits", "SII"),
        ("M8_H-alpha_001.fit", "Ha"),
        ("M8-O-III-001.fit", "OIII"),
        ("M42_L-eXtreme_300s.fit", "L-eXtreme"),
        ("ls_al_1.fit", None),
    ],
)
def test_filters(path: str, filter_: str | None) -> None:
    found = Name(path).filter()
    assert (found.value if found is not None else None) == filter_


def test_folders_are_read_the_nearest_first() -> None:
    name = Name("/data/M31/2023-01-14/Darks/-10C/300s/x_001.fits")
    assert name.kind() == Fact("dark", "folder name")
    assert name.exposure() == Fact(300.0, "folder name")
    assert name.temperature() == Fact(-10.0, "folder name")
    assert name.folder_day() == ""
    assert Name("/data/2023-01-14/Ha/x.fits").folder_day() == "2023-01-14"
    assert Name("/data/Red/Ha/x.fits").filter() == Fact("Ha", "folder name")
    assert Name("/data/Red/Ha/x_OIII.fits").filter() == Fact("OIII", "file name")
    assert Name("/darks/a/b/c/x.fits").kind() is None


@pytest.mark.parametrize(
    ("path", "kind", "origin"),
    [
        ("/d/masterDark_1.fits", "dark", "file name"),
        ("/d/dark_stacked.fit", "dark", "file name"),
        ("/d/masters/dark_300s.fit", "dark", "folder name"),
        ("/d/Stacked_3_M 94_10.0s.fit", "light", "file name"),
        ("/d/flat_1.fits", "flat", ""),
        ("/d/masters/light_1.fits", "light", ""),
        ("/d/supernova_1.fits", "light", ""),
    ],
)
def test_masters(path: str, kind: str, origin: str) -> None:
    found = Name(path).master(kind)
    assert found == (Fact(True, origin) if origin else None)


@given(st.text(max_size=60))
def test_no_name_raises(text: str) -> None:
    all_of(f"/data/{text}")
    words(text)
