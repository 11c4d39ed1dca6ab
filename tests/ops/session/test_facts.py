"""Facts of the dialects of capture programs, each with its origin."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ops.formats.examine import examine
from skyloom.ops.formats.fits_header import Header
from skyloom.ops.session.fact import Fact, quantity
from skyloom.ops.session.facts import read_facts
from skyloom.ops.session.fields import COLUMNS
from skyloom.ops.session.overrule import read_rules, stated
from skyloom.ops.session.templates import read_templates

HeaderOf = Callable[[Any], Header]
FactsOf = Callable[..., dict[str, Fact]]


@pytest.fixture(scope="session")
def facts_of(header_of: HeaderOf) -> FactsOf:
    def make(cards: Any, path: str = "/d/x.fits", **given: Any) -> dict[str, Fact]:
        return read_facts(
            header_of(cards), path, **{"bitpix": 16, "bzero": 32768.0, "shape": (100, 200), **given}
        )[0]

    return make


# --- one frame in the words of every program ---

# A frame of 300 s at −10 °C, gain 100, offset 50, not binned, from 2024-01-15T05:06:07 UTC on, in Colorado.
NINA = [
    ("IMAGETYP", "LIGHT", "Type of exposure"),
    ("EXPOSURE", 300.0, "[s] Exposure duration"),
    ("EXPTIME", 300.0, "[s] Exposure duration"),
    ("DATE-LOC", "2024-01-14T22:06:07.000", "Time of observation (local)"),
    ("DATE-OBS", "2024-01-15T05:06:07.000", "Time of observation (UTC)"),
    ("XBINNING", 1, "X axis binning factor"),
    ("YBINNING", 1, "Y axis binning factor"),
    ("GAIN", 100, "Sensor gain"),
    ("OFFSET", 50, "Sensor gain offset"),
    ("EGAIN", 0.25, "[e-/ADU] Electrons per A/D unit"),
    ("XPIXSZ", 3.76, "[um] Pixel X axis size"),
    ("INSTRUME", "ZWO ASI2600MM Pro", "Imaging instrument name"),
    ("SET-TEMP", -10.0, "[degC] CCD temperature setpoint"),
    ("CCD-TEMP", -10.0, "[degC] CCD temperature"),
    ("TELESCOP", "FSQ106", "Name of telescope"),
    ("FOCALLEN", 530.0, "[mm] Focal length"),
    ("RA", 83.82083, "[deg] RA of telescope"),
    ("DEC", -5.39111, "[deg] Declination of telescope"),
    ("FILTER", "Ha", "Active filter name"),
    ("OBJECT", "M42", "Name of the object of interest"),
    ("OBJCTRA", "05 35 00", "[H M S] RA of imaged object"),
    ("OBJCTDEC", "-05 23 00", "[D M S] Declination of imaged object"),
    ("OBJCTROT", 12.0, "[deg] planned rotation of imaged object"),
    ("ROTATOR", 45.0, "[deg] Mechanical rotator angle"),
    ("ROWORDER", "TOP-DOWN", "FITS Image Orientation"),
    ("SWCREATE", "N.I.N.A. 3.1.2.9001 (x64)", "Software that created this file"),
]
ASIAIR = [
    ("CREATOR", "ZWO ASIAIR Plus", "Capture software"),
    ("OFFSET", 50, ""),
    ("FOCALLEN", 530, "Focal length of telescope in mm"),
    ("SET-TEMP", -10, ""),
    ("EGAIN", 0.25, "Electrons per ADU"),
    ("XBINNING", 1, "Camera X Bin"),
    ("CCDXBIN", 1, "Camera X Bin"),
    ("XPIXSZ", 3.76, "pixel size in microns (with binning)"),
    ("IMAGETYP", "Light", "Type of image"),
    ("EXPOSURE", 300.0, "Exposure time in seconds"),
    ("EXPTIME", 300.0, "Exposure time in seconds"),
    ("CCD-TEMP", -10.0, "sensor temperature in C"),
    ("RA", 83.82083, "Object Right Ascension in degrees"),
    ("DEC", -5.39111, "Object Declination in degrees"),
    ("DATE-OBS", "2024-01-15T05:06:07.000000", "Image created time"),
    ("FILTER", "Ha", "Filter used when taking image"),
    ("INSTRUME", "ZWO ASI2600MM Pro", "Camera model"),
    ("GAIN", 100, "Gain Value"),
    ("TELESCOP", "FSQ106", "Telescope name"),
    ("OBJECT", "M42", ""),
    ("ROTATANG", 45.0, ""),
    ("SITELAT", 39.7, ""),
    ("SITELONG", -105.0, ""),
]
SGP = [
    ("CREATOR", "Sequence Generator Pro v4.2.0.1024", "Capture software"),
    ("IMAGETYP", "LIGHT", "Type of frame"),
    ("EXPOSURE", 300, "Exposure time in seconds"),
    ("DATE-LOC", "2024-01-14T22:06:07.0000000", "Local observation date"),
    ("DATE-OBS", "2024-01-15T05:06:07.0000000", "UTC observation date"),
    ("SITELAT", "39 42 0.000", "Latitude of the imaging site in degrees"),
    ("SITELONG", "-105 0 0.000", "Longitude of the imaging site in degrees"),
    ("FILTER", "Ha", "Filter name"),
    ("CCD-TEMP", -10.0, "Camera cooler temperature"),
    ("SET-TEMP", -10, "Camera cooler target temperature"),
    ("XBINNING", 1, "Camera X Bin"),
    ("GAIN", 100, "Camera gain"),
    ("OFFSET", 50, "Camera offset"),
    ("EGAIN", 0.25, ""),
    ("XPIXSZ", 3.76, ""),
    ("RA", 83.82083, ""),
    ("DEC", -5.39111, ""),
    ("OBJCTRA", "05 35 17.00", ""),
    ("FOCALLEN", 530, ""),
    ("INSTRUME", "ZWO ASI2600MM Pro", "Instrument name"),
    ("TELESCOP", "FSQ106", ""),
    ("OBJECT", "M42", "Object name"),
    ("ANGLE", 45.0, "Image angle"),
]
MAXIM = [
    ("SWCREATE", "MaxIm DL Version 6.20", "Name of software that created the image"),
    ("IMAGETYP", "Light Frame", "Type of image"),
    ("PICTTYPE", 1, ""),
    ("EXPTIME", 300.0, "Exposure time in seconds"),
    ("EXPOSURE", 300.0, "Exposure time in seconds"),
    ("DATE-OBS", "2024-01-15T05:06:07", "YYYY-MM-DDThh:mm:ss observation start, UT"),
    ("JD", 2460324.7125, "Julian Date at start of exposure"),
    ("SITELAT", "39 42 00", "Latitude of the imaging location"),
    ("SITELONG", "-105 00 00", "Longitude of the imaging location"),
    ("SET-TEMP", -10.0, "CCD temperature setpoint in C"),
    ("CCD-TEMP", -10.0, "CCD temperature at start of exposure in C"),
    ("XPIXSZ", 3.76, "Pixel Width in microns (after binning)"),
    ("XBINNING", 1, "Binning factor in width"),
    ("EGAIN", 0.25, "Electronic gain in e-/ADU"),
    ("GAIN", 100, ""),
    ("OFFSET", 50, ""),
    ("FILTER", "  Ha ", "Optical Filter Used"),
    ("OBJCTRA", "05 35 17", "Nominal Right Ascension of center of image"),
    ("OBJCTDEC", "-05 23 28", "Nominal Declination of center of image"),
    ("FOCALLEN", 530.0, "Focal length of telescope in mm"),
    ("INSTRUME", "ZWO ASI2600MM Pro", ""),
    ("TELESCOP", "FSQ106", ""),
    ("OBJECT", "M42", ""),
    ("ROTATANG", 45.0, ""),
    ("PEDESTAL", 0, "Correction to add for zero-based ADU"),
]
EKOS = [
    ("ROWORDER", "TOP-DOWN", "Row Order"),
    ("INSTRUME", "ZWO ASI2600MM Pro", "Camera Name"),
    ("TELESCOP", "FSQ106", "Telescope name"),
    ("EXPTIME", 300.0, "Total Exposure Time (s)"),
    ("CCD-TEMP", -10.0, "CCD Temperature (Celsius)"),
    ("PIXSIZE1", 3.76, "Pixel Size 1 (microns)"),
    ("XBINNING", 1, "Binning factor in width"),
    ("YBINNING", 1, "Binning factor in height"),
    ("FRAME", "Light", "Frame Type"),
    ("FILTER", "Ha", "Filter"),
    ("FOCALLEN", 530.0, "Focal Length (mm)"),
    ("ROTATANG", 45.0, "Rotator angle in degrees"),
    ("SITELAT", 39.7, "Latitude of the imaging site in degrees"),
    ("SITELONG", 255.0, "Longitude of the imaging site in degrees"),
    ("OBJCTRA", "05 35 17.00", "Object J2000 RA in Hours"),
    ("OBJCTDEC", "-5 23 28.00", "Object J2000 DEC in Degrees"),
    ("RA", 83.82083, "Object J2000 RA in Degrees"),
    ("DEC", -5.39111, "Object J2000 DEC in Degrees"),
    ("OBJECT", "M42", "Object name"),
    ("GAIN", 100.0, "Gain"),
    ("OFFSET", 50.0, "Offset"),
    ("EGAIN", 0.25, ""),
    ("DATE-OBS", "2024-01-15T05:06:07.000", "UTC start date of observation"),
]
SHARPCAP = [
    ("SWCREATE", "SharpCap v4.1.12946.0, 64 bit", ""),
    ("IMAGETYP", "Light Frame", ""),
    ("EXPTIME", 300.0, "seconds"),
    ("DATE-OBS", "2024-01-15T05:06:07.0000000", "System Clock:Est. Frame Start"),
    ("DATE-END", "2024-01-15T05:11:07.0000000", "System Clock:Est. Frame End"),
    ("DATE-AVG", "2024-01-15T05:08:37.0000000", "System Clock:Est. Frame Mid Point"),
    ("XPIXSZ", 3.76, "microns, includes binning if any"),
    ("XBINNING", 1, ""),
    ("CCD-TEMP", -10.0, "C"),
    ("GAIN", 100, ""),
    ("BLKLEVEL", 50, ""),
    ("EGAIN", 0.25, "Electrons per ADU"),
    ("RA", 83.82083, "Epoch : JNOW"),
    ("DEC", -5.39111, "Epoch : JNOW"),
    ("FILTER", "Ha", ""),
    ("INSTRUME", "ZWO ASI2600MM Pro", ""),
    ("TELESCOP", "FSQ106", ""),
    ("FOCALLEN", 530, ""),
    ("OBJECT", "M42", ""),
    ("ROTATANG", 45.0, ""),
    ("LONG-OBS", -105.0, ""),
]
DIALECTS = {"nina": NINA, "asiair": ASIAIR, "sgp": SGP, "maxim": MAXIM, "ekos": EKOS, "sharpcap": SHARPCAP}
TRUTH = {
    "kind": "light",
    "master": False,
    "band": "Ha",
    "filter": "Ha",
    "exposure": 300.0,
    "gain": 0.25,
    "saturation": 65535.0,
    "units": "adu",
    "date": "2024-01-15T05:06:07.000",
    "camera": "ZWO ASI2600MM Pro",
    "temperature": -10.0,
    "gain_setting": 100.0,
    "offset_setting": 50.0,
    "binning": "1x1",
    "bayer": "",
    "rotation": 45.0,
    "night": "2024-01-14",
    "ra": 83.8208,
    "dec": -5.3911,
    "pedestal": 0.0,
    "read_noise": math.nan,
    "trim": "",
    "overscan": "",
    "telescope": "FSQ106",
    "pixel_size": 3.76,
    "focal_length": 530.0,
}


@pytest.mark.parametrize("program", DIALECTS)
def test_every_program_says_the_same(facts_of: FactsOf, program: str) -> None:
    facts = facts_of(DIALECTS[program])
    for name, expected in TRUTH.items():
        value = facts[name].value
        if isinstance(expected, float):
            assert value == pytest.approx(expected, abs=1e-3, nan_ok=True), name
        else:
            assert value == expected, name
    assert facts["object"] == Fact("M42", "header OBJECT")
    assert set(facts) >= {field.name for field in COLUMNS}


def test_where_facts_come_from(facts_of: FactsOf) -> None:
    origins = {name: fact.origin for name, fact in facts_of(NINA).items()}
    assert origins["night"] == "header DATE-LOC"
    assert origins["rotation"] == "header ROTATOR"
    assert origins["saturation"] == origins["read_noise"] == origins["trim"] == origins["master"] == "default"
    assert origins["set_temperature"] == "header SET-TEMP"
    assert facts_of(ASIAIR)["night"].origin == "header DATE-OBS, header SITELONG"
    assert facts_of(MAXIM)["ra"].origin == "header OBJCTRA"


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(sorted(DIALECTS)))
def test_no_mixture_of_dialects_contradicts_itself(facts_of: FactsOf, data: st.DataObject, program: str) -> None:
    """Cards of other programs beside those of one change nothing, and cards that are missing are unknown."""
    others = [card for name, cards in DIALECTS.items() for card in cards if name != program]
    mine = {card[0]: card for card in DIALECTS[program]}
    extra = {c[0]: c for c in data.draw(st.lists(st.sampled_from(others), max_size=8)) if c[0] not in mine}
    # ANGLE, OBJCTROT and the planned centre are other things that are true of the frame.
    cards = [*mine.values(), *(c for k, c in extra.items() if k not in ("ROTATOR", "RA", "DEC"))]
    missing = data.draw(st.sets(st.sampled_from(sorted(mine)), max_size=5))
    cards = data.draw(st.permutations([c for c in cards if c[0] not in missing]))
    facts = facts_of(cards)
    for name in ("kind", "band", "camera", "binning", "telescope", "date"):
        value = facts[name].value
        assert value in (TRUTH[name], "unknown", "none", "") or (name == "date" and "DATE-OBS" in missing)
    for name in ("exposure", "temperature", "gain_setting", "pixel_size", "focal_length", "gain"):
        value = quantity(facts[name])
        assert math.isnan(value) or value == pytest.approx(TRUTH[name])


# --- colour sensors and filters ---


def test_a_colour_sensor_has_one_band_and_keeps_its_filter(header_of: HeaderOf) -> None:
    def read(cards: Any, **given: Any) -> tuple[dict[str, Fact], list[str]]:
        return read_facts(header_of(cards), "/d/x.fits", bitpix=16, shape=(100, 100), **given)

    facts, notes = read({"BAYERPAT": "RGGB", "FILTER": "Luminance", "ROWORDER": "BOTTOM-UP"})
    assert facts["bayer"] == Fact("GBRG", "header BAYERPAT")
    assert facts["band"] == Fact("CFA", "header BAYERPAT")
    assert facts["filter"] == Fact("L", "header FILTER")
    assert notes == ["FILTER says L, but the sensor has a Bayer pattern (header BAYERPAT): band CFA"]
    facts, notes = read({"BAYERPAT": "RGGB", "FILTER": "L-eXtreme"})
    assert (facts["band"].value, facts["filter"].value, notes) == ("CFA", "L-eXtreme", [])
    facts, notes = read({"BAYERPAT": "RGGB", "FILTER": "Ha", "IMAGETYP": "Flat"})
    assert (facts["band"].value, facts["filter"].value, notes) == ("CFA", "Ha", [])
    facts, notes = read({"BAYERPAT": "RGGB", "IMAGETYP": "Dark", "FILTER": "L"})
    assert (facts["band"].value, facts["filter"].value, facts["bayer"].value, notes) == ("none", "", "RGGB", [])
    facts, notes = read({"BAYERPAT": "CMYG"})
    assert (facts["band"].value, facts["bayer"].value) == ("CFA", "")
    assert notes == ["colour filter array CMYG (header BAYERPAT): only Bayer patterns can be taken apart"]


def test_planes_of_colour_images(facts_of: FactsOf) -> None:
    facts = facts_of({"BAYERPAT": "RGGB", "FILTER": "L-eXtreme"}, plane="G")
    assert facts["band"] == Fact("G", "colour plane")
    assert facts["filter"] == Fact("L-eXtreme", "header FILTER")
    assert facts["bayer"] == Fact("", "default")


def test_calibration_frames_have_no_band(facts_of: FactsOf) -> None:
    for kind in ("Bias", "Dark", "DarkFlat"):
        facts = facts_of({"IMAGETYP": kind, "FILTER": "Ha"}, "/d/R/x_G_1.fits")
        assert (facts["band"], facts["filter"]) == (Fact("none", "default"), Fact("", "default"))
    assert facts_of({"IMAGETYP": "Flat", "FILTER": "Ha"})["band"] == Fact("Ha", "header FILTER")


# --- masters ---


@pytest.mark.parametrize(
    ("cards", "path", "expected"),
    [
        ({"IMAGETYP": "Master Dark"}, "/d/x.fits", (True, "header IMAGETYP")),
        ({"IMAGETYP": "Dark", "STACKCNT": 20}, "/d/x.fits", (True, "header STACKCNT")),
        ({"IMAGETYP": "Light", "STACKCNT": 20}, "/d/x.fits", (False, "default")),
        ({"IMAGETYP": "Dark", "STACKCNT": 1}, "/d/x.fits", (False, "default")),
        ({"IMAGETYP": "Dark"}, "/d/masterDark.fits", (True, "file name")),
        ({}, "/d/master_flat_Ha.fits", (True, "file name")),
        ({}, "/d/masters/flat_Ha.fits", (True, "folder name")),
        ({}, "/d/masters/x.fits", (False, "default")),
    ],
)
def test_masters(facts_of: FactsOf, cards: Any, path: str, expected: tuple[bool, str]) -> None:
    assert facts_of(cards, path)["master"] == Fact(*expected)


# --- user, header, template, name, default ---


def test_each_source_steps_in_where_the_one_before_is_silent(facts_of: FactsOf) -> None:
    path = "/d/flats/M42_Dark_Ha_10s_gain7.fits"
    templates = read_templates(["{object}_{kind}_{band}_{exposure}s_*"])
    rules = read_rules([{"match": "*/flats/*", "kind": "flat", "exposure": 3, "band": "OIII"}])
    header = {"IMAGETYP": "Bias", "EXPTIME": 0.5, "FILTER": "R"}

    def of(cards: Any, **given: Any) -> list[tuple[Any, ...]]:
        facts = facts_of(cards, path, **given)
        return [tuple(facts[k]) for k in ("kind", "exposure", "band", "gain_setting")]

    user, pattern = "user '*/flats/*'", "file name '{object}_{kind}_{band}_{exposure}s_*'"
    gain = (7.0, "file name")
    assert of(header, user=stated(rules, path), templates=templates) == [
        ("flat", user),
        (3.0, user),
        ("OIII", user),
        gain,
    ]
    assert of(header, templates=templates) == [
        ("bias", "header IMAGETYP"),
        (0.5, "header EXPTIME"),
        ("none", "default"),
        gain,
    ]
    flat = "/d/flats/M42_Flat_Ha_10s_x.fits"
    named = facts_of({}, flat, templates=templates)
    assert named["kind"] == Fact("flat", pattern)
    assert named["band"] == named["filter"] == Fact("Ha", pattern)
    assert named["object"] == Fact("M42", pattern)
    plain = facts_of({}, flat)
    assert plain["kind"] == Fact("flat", "file name")
    assert plain["exposure"] == Fact(10.0, "file name")
    assert facts_of({}, "/d/flats/x.fits")["kind"] == Fact("flat", "folder name")
    assert facts_of({}, "/d/e/x.fits")["kind"] == Fact("unknown", "default")


def test_what_follows_from_the_user_s_word_follows(facts_of: FactsOf) -> None:
    def of(cards: Any, **values: Any) -> dict[str, Fact]:
        return facts_of(cards, user=stated(read_rules([{"match": "*", **values}]), "/d/x.fits"))

    user = "user '*'"
    assert of({"BAYERPAT": "RGGB", "FILTER": "L"}, bayer=None)["band"] == Fact("L", "header FILTER")
    facts = of({"FILTER": "L"}, bayer="GBRG")
    assert (facts["bayer"], facts["band"]) == (Fact("GBRG", user), Fact("CFA", user))
    assert of({"FILTER": "L"}, kind="dark")["band"] == Fact("none", "default")
    assert of({"DATE-OBS": "2024-01-15T05:06:07"}, date="2023-01-15T05:06:07")["night"] == Fact("2023-01-14", user)
    assert of({"DATE-LOC": "2024-01-15T05:06:07"}, night="2023-05-05")["night"] == Fact("2023-05-05", user)
    assert of({"DATE-END": "2024-01-15T05:06:07"}, exposure=67)["date"].value == "2024-01-15T05:05:00.000"
    assert math.isnan(quantity(of({"EGAIN": 2.0}, gain=None)["gain"]))
    facts = of({"BAYERPAT": "RGGB"}, filter="L-Pro")
    assert (facts["filter"], facts["band"].value) == (Fact("L-Pro", user), "CFA")
    facts = of({"FILTER": "R"}, band="CFA")
    assert (facts["filter"].value, facts["band"]) == ("R", Fact("CFA", user))
    facts = of({"FILTER": "R"}, filter="Ha")
    assert facts["band"] == Fact("Ha", user)
    assert "product" not in of({"PRODTYPE": "dqmask"}, product=None)


def test_what_was_done_before_is_told(header_of: HeaderOf) -> None:
    facts, notes = read_facts(header_of({"CALSTAT": "BDF"}), "/d/x.fits", bitpix=16)
    assert facts["calibrated"] == Fact("bias, dark, flat", "header CALSTAT")
    assert notes == ["calibrated before: bias, dark, flat (header CALSTAT)"]


# --- exposures ---


@pytest.mark.parametrize(
    ("cards", "path", "seconds", "origin"),
    [
        ({"EXPTIME": "40      "}, "x.fits", 40.0, "header EXPTIME"),
        ({"EXPTIME": "forty", "EXPOSURE": 5}, "x.fits", 5.0, "header EXPOSURE"),
        ({"EXPOINUS": 250000}, "x.fits", 0.25, "header EXPOINUS"),
        ([("EXPOSURE", 1500, "Exposure time in ms")], "x.fits", 1.5, "header EXPOSURE"),
        ([("EXPTIME", 1500, "milliseconds")], "x.fits", 1.5, "header EXPTIME"),
        ([("EXPTIME", 1500, "in msgr frame")], "x.fits", 1500.0, "header EXPTIME"),
        ({}, "light_B_15000ms_1.fit", 15.0, "file name"),
        ({}, "a_10s_20s.fit", math.nan, "default"),
        ({"EXPTIME": -1.0}, "x.fits", math.nan, "default"),
    ],
)
def test_exposures(facts_of: FactsOf, cards: Any, path: str, seconds: float, origin: str) -> None:
    fact = facts_of(cards, path)["exposure"]
    assert fact.origin == origin
    assert fact.value == pytest.approx(seconds, nan_ok=True)


# --- nothing raises ---

KEYWORDS = sorted(
    {c[0] for cards in DIALECTS.values() for c in cards}
    | {
        "TIME-OBS",
        "BUNIT",
        "SATURATE",
        "DATAMAX",
        "MJD-OBS",
        "BAYERPAT",
        "XBAYROFF",
        "YBAYROFF",
        "TRIMSEC",
        "BIASSEC",
    }
    | {"CALSTAT", "NCOMBINE", "RDNOISE", "BINNING", "CCDSUM", "CROTA2", "LOCALTIM", "CTYPE1", "CRVAL1", "CRVAL2"}
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(KEYWORDS),
        st.one_of(
            st.text(st.characters(max_codepoint=255), max_size=40),
            st.floats().map(repr),
            st.integers().map(str),
            st.sampled_from(
                ["T", "F", "", "'", "''", "1E400", "-1", "99999999999999999999", "'RGGB'", "'[1:9,1:9]'"]
            ),
            st.sampled_from(
                ["'2024-01-15T05:06:07'", "'9999-12-31T23:59:59'", "'0001-01-01T00:00:00-23:59'", "'12 34 56'"]
            ),
        ),
        max_size=12,
    ),
    st.text(max_size=30),
    st.sampled_from([(0, 0), (1, 1), (100, 101)]),
)
def test_no_header_and_no_name_raises(cards: dict[str, str], name: str, shape: tuple[int, int]) -> None:
    data = "".join(f"{k:8}= {v}"[:80].ljust(80) for k, v in cards.items()).encode("latin-1")
    templates = read_templates(["{object}_*", "{kind}/{exposure}s"])
    facts, notes = read_facts(Header(data), f"folder/{name}", bitpix=16, shape=shape, templates=templates)
    assert {field.name for field in COLUMNS} <= set(facts)
    for field in COLUMNS:
        assert type(facts[field.name].value) is type(field.default), field.name
        assert facts[field.name].origin
    assert all(isinstance(f.value, str | float | bool) and f.origin for f in facts.values())
    assert all(f.value.isprintable() for f in facts.values() if isinstance(f.value, str))
    assert all("\n" not in note for note in notes)


# --- real headers ---


def test_real_headers(shared_data: Callable[[str], Path]) -> None:
    def facts(name: str, pattern: str) -> dict[str, Any]:
        path = sorted(shared_data(name).glob(pattern))[0]
        (file,) = examine(path)
        found, _ = read_facts(
            file.header, path.as_posix(), bitpix=file.bitpix, bzero=file.bzero, shape=file.source.shape
        )
        return {k: f.value for k, f in found.items()}

    seestar = facts("seestar_m94_s1", "*")
    assert (seestar["kind"], seestar["band"], seestar["filter"], seestar["exposure"]) == (
        "light",
        "CFA",
        "IRCUT",
        10.0,
    )
    assert (seestar["bayer"], seestar["software"], seestar["gain_setting"]) == ("GRBG", "ZWO Seestar S50", 80.0)
    assert (seestar["ra"], seestar["dec"], seestar["temperature"]) == (193.04166, 40.970556, 25.125)
    # The two sessions are one night, on both sides of midnight and in the file's name only.
    assert seestar["night"] == facts("seestar_m94_s2", "*")["night"] == "2025-03-26"
    als = facts("als_samples", "*")
    assert (als["band"], als["filter"], als["bayer"], als["rotation"]) == ("CFA", "L", "RGGB", 303.1256)
    assert (als["pixel_size"], als["focal_length"], als["binning"]) == (3.75, 510.0, "1x1")
    assert als["ra"] == pytest.approx(299.92496, abs=1e-5)
    twomass = facts("2mass_m101_J", "*")
    assert (twomass["band"], twomass["units"], twomass["date"]) == ("J", "DN", "1999-02-14T10:56:09.130")
    jocular = facts("jocular_arp145_L", "*00002*")
    assert (jocular["date"], jocular["band"], jocular["night"]) == ("2017-11-15T20:08:13.000", "L", "2017-11-15")
    dfot = facts("ic310_dfot_bias_flat", "flats*")
    assert (dfot["kind"], dfot["band"], dfot["exposure"]) == ("flat", "J", 6.0)
    assert facts("ic310_dfot_bias_flat", "bias*")["kind"] == "bias"
