"""Oddities people have to know of."""

from __future__ import annotations

import math
from typing import Any

from skyloom.ops.session.oddities import oddities

PLAIN: dict[str, Any] = {
    "kind": "light",
    "master": False,
    "band": "L",
    "filter": "L",
    "camera": "ASI",
    "exposure": 60.0,
    "temperature": -10.0,
    "gain": 0.25,
    "gain_setting": 100.0,
    "offset_setting": 50.0,
    "binning": "1x1",
    "bayer": "",
    "night": "2024-01-01",
    "saturation": 65535.0,
    "height": 30,
    "width": 40,
    "wcs": "has one",
}


def odd(*frames: dict[str, Any]) -> list[list[str]]:
    rows = [
        {**PLAIN, "name": f"{i}.fits", "date": f"2024-01-02T03:{i:02d}:00.000", "facts": {}, **frame}
        for i, frame in enumerate(frames)
    ]
    columns = {key: [row[key] for row in rows] for key in rows[0] if key != "facts"}
    return oddities(columns, [row["facts"] for row in rows])


def test_nothing_odd() -> None:
    assert odd({}, {}, {"kind": "bias", "exposure": math.nan, "wcs": "", "saturation": math.nan}) == [[], [], []]


def test_of_a_frame() -> None:
    assert odd({"kind": "unknown"}) == [
        ["does not say what it is (no IMAGETYP, no word in its name): taken as a light"]
    ]
    assert odd({"exposure": math.nan, "date": "", "camera": ""}) == [
        ["says nothing of its exposure, date, camera"]
    ]
    assert odd({"saturation": math.nan}) == [
        ["the level of saturation is unknown: saturated stars cannot be told"]
    ]
    assert odd({"bayer": "RGGB", "binning": "2x2"}) == [
        ["a colour sensor binned 2x2: whether the Bayer pattern still holds is uncertain"]
    ]
    assert odd({"wcs": ""}) == [["no WCS: solve it (ASTAP, astrometry.net) before a mosaic"]]
    assert odd({"wcs": "", "facts": {"notes": [["WCS not used: it is wrong"], "header"]}}) == [
        ["WCS not used: it is wrong"]
    ]


def test_sizes() -> None:
    assert odd({}, {}, {"width": 41}) == [[], [], ["size differs from most (40 x 30)"]]


def test_temperatures() -> None:
    off = {"temperature": -7.5, "facts": {"set_temperature": [-10.0, "header SET-TEMP"]}}
    assert odd(off) == [["sensor at -7.5 °C, set point -10.0 °C"]]
    assert odd({**off, "temperature": -9.5}) == [[]]
    drift = "temperature drifts from 14.0 to 18.0 °C (3 dark frames of a night)"
    dark = {"kind": "dark"}
    found = odd(*({**dark, "temperature": t} for t in (14.0, 16.0, 18.0)), {**dark, "temperature": math.nan})
    assert found == [[drift], [drift], [drift], []]
    assert odd({"temperature": 14.0}, {"temperature": 18.0, "night": "2024-01-02"}) == [[], []]


def test_frames_of_one_time() -> None:
    same = {"date": "2024-01-02T03:04:05.000"}
    told = "2 frames have one time (2024-01-02T03:04:05.000)"
    assert odd(same, {}, same) == [[told], [], [told]]
    assert odd({"date": "2024-01-02"}, {"date": "2024-01-02"}) == [[], []]
    assert odd({**same, "name": "a [R]"}, {**same, "name": "a [G]"}) == [[], []]
    assert odd(same, {**same, "camera": "other"}) == [[], []]


def test_settings_that_are_mixed() -> None:
    told = "lights of one filter have different gains: 0, 100"
    assert odd({}, {"gain_setting": 0.0}, {"kind": "dark", "gain_setting": 7.0}) == [[told], [told], []]
    told = "lights of one filter have different gains: 0.25, 0.5"
    nothing = {"gain_setting": math.nan}
    assert odd(nothing, {**nothing, "gain": 0.5}) == [[told], [told]]
    told = "lights of one filter have different binnings: 1x1, 2x2"
    assert odd({}, {"binning": "2x2"}) == [[told], [told]]
    assert odd({}, {"binning": "2x2", "band": "R", "filter": "R"}, {"binning": ""}) == [[], [], []]


def test_flats() -> None:
    flat = {"kind": "flat"}
    told = "flats of one filter and night run from 1 to 6 s"
    assert odd(*({**flat, "exposure": s} for s in (1.0, 6.0))) == [[told], [told]]
    assert odd(*({**flat, "exposure": s} for s in (1.0, 4.0))) == [[], []]
    assert odd({**flat, "exposure": 1.0}, {**flat, "exposure": 9.0, "filter": "R", "band": "R"}) == [[], []]


def test_filters_before_a_colour_sensor() -> None:
    colour = {"bayer": "RGGB", "band": "CFA"}
    told = "a colour sensor behind IRCUT, L-eXtreme: run them one by one (ingest.bands takes filters)"
    assert odd({**colour, "filter": "IRCUT"}, {**colour, "filter": "L-eXtreme"}) == [[told], [told]]
    assert odd({**colour, "filter": ""}, {**colour, "filter": ""}) == [[], []]
