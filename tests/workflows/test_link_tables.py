"""Links as tables and plain values."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console

from skyloom.ops.calibration.link import link
from skyloom.workflows.link_report import group_codes
from skyloom.workflows.link_tables import link_tables, links_report

COLUMNS = {"kind": "light", "band": "none", "exposure": 120.0, "temperature": -10.0, "gain_setting": 100.0}
COLUMNS |= {"camera": "A", "night": "2026-01-10", "height": 100, "width": 200, "master": False}


def session(*rows: dict[str, Any]) -> xr.Dataset:
    full = [{**COLUMNS, **row} for row in rows]
    columns = {name: ("frame", np.array([row[name] for row in full])) for name in COLUMNS}
    columns["name"] = ("frame", np.array([f"f{i}.fits" for i in range(len(rows))]))
    return xr.Dataset(columns, coords={"frame": np.array([f"{i:016x}" for i in range(len(rows))])})


def flawed() -> xr.Dataset:
    """A light that gets all, one without a flat, one whose flat is of another night, and a dark nobody needs."""
    dark, flat = {"kind": "dark"}, {"kind": "flat", "exposure": 2.0, "band": "L"}
    return session(
        {"band": "L"},
        *[{"band": "Ha"}] * 6,
        {"band": "L", "night": "2026-01-11"},
        *[dark] * 6,
        *[flat] * 6,
        *[{"kind": "flatdark", "exposure": 2.0}] * 6,
        {"kind": "dark", "exposure": 30.0},
        {"kind": "dark", "temperature": -5.0},
    )


def printed(made: xr.Dataset, links: xr.Dataset, **options: Any) -> str:
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        for item in link_tables(links, made, **options):
            console.print(item)
    return capture.get()


def test_tables_say_what_each_light_gets() -> None:
    made = flawed()
    text = printed(made, link(made, on_broken="without"))
    ha = next(line for line in text.splitlines() if "light Ha" in line)
    assert [cell.strip() for cell in ha.split("│")[2:6]] == ["6", "✕", "D2", "–"]
    assert "no flat fits; nearest: flat L" in ha
    l1 = next(line for line in text.splitlines() if "light L 120 s, −10 °C, gain 100, 2026-01-11" in line)
    assert [cell.strip() for cell in l1.split("│")[3:6]] == ["F1", "D2", "–"]
    assert "there is none of 2026-01-11; 1 night apart" in l1
    assert "near miss D3: temperature 5 °C off (tolerance 2)" in text
    assert "not used: fits nothing; nearest: light" in text
    assert "✕ f1.fits, f2.fits, f3.fits, f4.fits and 2 more: no flat fits" in text
    flat = next(line for line in text.splitlines() if line.startswith("│ F1 "))
    assert [cell.strip() for cell in flat.split("│")[3:5]] == ["2 groups of lights", "FD1"]


def test_the_last_line_counts_and_says_the_policy() -> None:
    made = flawed()
    links = link(made, on_broken="without")
    last = printed(made, links).splitlines()[-1]
    assert last == (
        "8 lights in 3 groups, 5 calibration groups (2 not used); 6 lights with broken links: they are calibrated "
        "without"
    )
    assert printed(made, links, policy="refuse").splitlines()[-1].endswith("the run is refused")
    left = printed(made, link(made, on_broken="leave_out"))
    assert left.splitlines()[-1].endswith("they are left out")
    whole = made.isel(frame=[0, *range(8, 26)])
    assert "no broken links" in printed(whole, link(whole)).splitlines()[-1]


def test_problems_are_red_and_compromises_yellow() -> None:
    made = flawed()
    console = Console(width=200, color_system="standard", force_terminal=True)
    with console.capture() as capture:
        console.print(link_tables(link(made, on_broken="without"), made)[0])
    text = capture.get()
    assert "\x1b[1;31m✕" in text
    assert "\x1b[33mF1: there is none" in text


def test_a_report_is_plain_values() -> None:
    made = flawed()
    links = link(made, on_broken="without")
    rows = links_report(links, made)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    lights = [r for r in rows if r["what"] == "lights"]
    assert [len(r["frames"]) for r in lights] == [6, 1, 1]
    assert sum(len(r["frames"]) for r in rows) == made.sizes["frame"]
    assert lights[0]["flat"] is None
    assert lights[0]["problems"][0].startswith("no flat fits")
    assert lights[1]["dark"] == "dark 120 s, −10 °C, gain 100, 6 frames"
    dark = next(r for r in rows if r["label"] == lights[1]["dark"])
    assert dark["serves"] == [r["label"] for r in lights]
    flat = next(r for r in rows if r["what"] == "flat")
    assert (flat["dark"], flat["bias"], flat["exposure"]) == (
        "flat-dark 2 s, −10 °C, gain 100, 6 frames",
        None,
        2.0,
    )
    assert group_codes(links) == ["D1", "D2", "D3", "FD1", "F1"]


def test_lights_alone_and_masters_alone() -> None:
    lights = session({"band": "L", "temperature": math.nan})
    assert "no calibration frames of this camera: taken as it is" in printed(lights, link(lights))
    masters = session({"kind": "dark"}, {"kind": "bias"})
    text = printed(masters, link(masters))
    assert "0 lights in 0 groups, 2 calibration groups" in text
    assert "not used" not in text


def test_stacks_left_out_are_listed() -> None:
    made = session({"band": "L"}, {"band": "L", "master": True})
    assert "left out: f1.fits: a stack of lights" in printed(made, link(made))


def test_names_are_not_markup() -> None:
    made = session({"band": "[red]L[/red]"}, {"kind": "flat", "band": "Ha"})
    made["name"] = ("frame", np.array(["[bold]a.fits", "b.fits"]))
    text = printed(made, link(made, on_broken="without"))
    assert "light [red]L[/red] 120 s" in text
    assert "[bold]a.fits" in text
