"""Names by the user's patterns."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.ops.errors import ConfigError
from skyloom.ops.session.fact import Fact
from skyloom.ops.session.templates import read_templates


def values(template: str, path: str) -> dict[str, Any]:
    (read,) = read_templates([template])
    return {key: fact.value for key, fact in read.facts(path).items()}


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        (
            "{object}_{kind}_{band}_{exposure}s_{temperature}C",
            "/d/M_42_Light_Ha_300.0s_-10C.fits",
            {"object": "M_42", "kind": "light", "band": "Ha", "exposure": 300.0, "temperature": -10.0},
        ),
        (
            "{object}_{kind}_{band}_{exposure}s_{temperature}C",
            "/d/M42_FLAT_H-alpha_0,5s_7.5C.FIT",
            {"object": "M42", "kind": "flat", "band": "Ha", "exposure": 0.5, "temperature": 7.5},
        ),
        ("{kind}-{exposure}ms-*.fits", "/d/bias-5ms-0001.fits.fz", {"kind": "bias", "exposure": 0.005}),
        (
            "*_G{gain_setting}_O{offset_setting}_*",
            "/d/a_b_g100_o50_x_y.xisf",
            {"gain_setting": 100, "offset_setting": 50},
        ),
        (
            "{night}/{kind}/{filter}/*",
            "/data/20240131/flats/L/x_1.fits",
            {"night": "2024-01-31", "kind": "flat", "filter": "L"},
        ),
        ("*_{date}_*", "/d/x_2024-01-31_21-05-00_1.fits", {"date": "2024-01-31T21:05:00.000"}),
        ("*_{date}_*", "/d/x_20240131-210500_1.fits", {"date": "2024-01-31T21:05:00.000"}),
        (
            "*_bin{binning}_{camera}_r{rotation}",
            "/d/x_Bin2_ASI 2600_r270.5.fit",
            {"binning": "2x2", "camera": "ASI 2600", "rotation": 270.5},
        ),
        (
            "{object}_{bayer}_f{focal_length}",
            "/d/x_rggb_F530.fit",
            {"object": "x", "bayer": "RGGB", "focal_length": 530.0},
        ),
        ("{exposure}s", "/d/M42_10s.fits", {}),
        ("{kind}_*", "/d/M42_10s.fits", {}),
        ("{kind}/{exposure}s", "10s.fits", {}),
        ("x_{night}", "/d/x_2024-13-31.fits", {}),
    ],
)
def test_templates(template: str, path: str, expected: dict[str, Any]) -> None:
    assert values(template, path) == expected


def test_origins_name_the_part_and_the_template() -> None:
    (template,) = read_templates(["{band}/{kind}_*"])
    assert template.facts("/d/Ha/flat_1.fits") == {
        "band": Fact("Ha", "folder name '{band}/{kind}_*'"),
        "kind": Fact("flat", "file name '{band}/{kind}_*'"),
    }


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{expsoure}s", r"there is no \{expsoure\} in names; did you mean 'exposure'"),
        ("{gain}_*", r"there is no \{gain\} in names"),
        ("{object}{kind}", "nothing between two values"),
        ("*{exposure}s", "nothing between two values"),
        ("{kind}_{kind}", "there twice"),
        ("{kind_1", "a brace without its other half"),
        ("light_*", "states no fact"),
        ("", "states no fact"),
    ],
)
def test_templates_that_make_no_sense(template: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_templates([template])


def test_no_name_makes_it_slow() -> None:
    (template,) = read_templates(["{object}_{band}_{filter}_{camera}_{telescope}_*_{exposure}s_x"])
    start = time.perf_counter()
    assert template.facts("/d/" + "_" * 250 + ".fits") == {}
    assert template.facts("/d/" + "1_" * 125 + "s.fits") == {}
    assert time.perf_counter() - start < 2.0


@given(
    st.text(st.characters(blacklist_characters="/_", blacklist_categories=("Cc", "Cs")), min_size=1, max_size=12),
    st.sampled_from(["light", "dark", "flat", "bias", "flatdark"]),
    st.sampled_from(["L", "R", "Ha", "OIII"]),
    st.integers(0, 36000),
    st.integers(-40, 40),
)
def test_what_is_written_is_read(thing: str, kind: str, band: str, exposure: int, temperature: int) -> None:
    if not thing.strip():
        return
    path = f"/d/{thing}_{kind.upper()}_{band}_{exposure}s_{temperature}C.fits"
    found = values("{object}_{kind}_{band}_{exposure}s_{temperature}C", path)
    assert found.pop("object") == "".join(c for c in thing if c.isprintable()).strip()
    assert found == {"kind": kind, "band": band, "exposure": exposure, "temperature": temperature}


@given(st.text(max_size=40))
def test_no_template_breaks(text: str) -> None:
    try:
        (template,) = read_templates([text])
    except ConfigError:
        return
    template.facts("/data/M42/Light_M42_10s_-10C.fits")
