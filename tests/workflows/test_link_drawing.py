"""Links as pictures: everything is there, nothing overlaps."""

from __future__ import annotations

import re
from itertools import combinations, pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import xarray as xr
from PIL import ImageFont

from skyloom.ops.calibration.link import link
from skyloom.workflows.link_drawing import link_mermaid, link_svg
from skyloom.workflows.link_report import edges

SVG = "{http://www.w3.org/2000/svg}"
COLUMNS = {"kind": "light", "band": "none", "exposure": 120.0, "temperature": -10.0, "gain_setting": 100.0}
COLUMNS |= {"camera": "A", "night": "2026-01-10", "height": 100, "width": 200, "master": False}
FLAT = {"kind": "flat", "exposure": 2.0}
FLATDARK = {"kind": "flatdark", "exposure": 2.0}


def session(rows: list[dict[str, Any]]) -> xr.Dataset:
    full = [{**COLUMNS, **row} for row in rows]
    columns = {name: ("frame", np.array([row[name] for row in full])) for name in COLUMNS}
    columns["name"] = ("frame", np.array([f"f{i}.fits" for i in range(len(rows))]))
    return xr.Dataset(columns, coords={"frame": np.array([f"{i:016x}" for i in range(len(rows))])})


def flawed() -> list[dict[str, Any]]:
    """Three filters, two nights, no OIII flat, a dark too warm, a light of another size."""
    rows: list[dict[str, Any]] = []
    for night, temperature in (("2026-01-10", -10.0), ("2026-01-11", -5.0)):
        of_night = {"night": night, "temperature": temperature}
        rows += [{**of_night, "band": band} for band in ("L", "Ha", "OIII")]
        rows += [{**of_night, **FLAT, "band": band} for band in ("L", "Ha")]
        rows += [{**of_night, **FLATDARK}, {**of_night, "kind": "bias", "exposure": 0.0}]
    rows += [{"kind": "dark"}, {"kind": "dark", "temperature": -15.0}, {"width": 99, "band": "L"}]
    return rows


def many() -> list[dict[str, Any]]:
    """Twenty groups of lights with long names of cameras; flats made with a bias that serves lights too."""
    rows: list[dict[str, Any]] = []
    for number in range(20):
        camera = f"ZWO CCD ASI2600MM Pro number {number % 2}, cooled, with a very long name"
        own = {"camera": camera, "night": f"2026-01-{10 + number // 5}", "band": "LRGBH"[number % 5]}
        rows += [own, {**own, **FLAT}]
        if number < 2:
            rows += [{"camera": camera, "kind": "bias"}, {"camera": camera, "kind": "dark", "exposure": 9.0}]
    return rows


SESSIONS = {"flawed": flawed, "many": many}


@pytest.fixture(params=sorted(SESSIONS))
def drawn(request: pytest.FixtureRequest) -> tuple[xr.Dataset, ElementTree.Element]:
    made = session(SESSIONS[request.param]())
    links = link(made, on_broken="without")
    return links, ElementTree.fromstring(link_svg(links, made))


def boxes(root: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of every box of a group."""
    found = []
    for item in root.findall(f"{SVG}rect"):
        if item.get("rx") == "7":
            x, y, w, h = (float(item.get(k, "nan")) for k in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h))
    return found


def test_every_group_has_its_box_and_none_overlap(drawn: tuple[xr.Dataset, ElementTree.Element]) -> None:
    links, root = drawn
    found = boxes(root)
    assert len(found) == links.sizes["group"] + len({e for e in links["light_group"].values.tolist() if e >= 0})
    for a, b in combinations(found, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    assert all(x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height for x0, y0, x1, y1 in found)


def test_texts_stay_inside_their_boxes(drawn: tuple[xr.Dataset, ElementTree.Element]) -> None:
    """Measured in a font wider than those that browsers take."""
    _, root = drawn
    found = boxes(root)
    inside = 0
    for item in root.findall(f"{SVG}text"):
        x, y = float(item.get("x", "nan")), float(item.get("y", "nan"))
        box = next((b for b in found if b[0] <= x <= b[2] and b[1] <= y <= b[3]), None)
        if box is None or item.get("text-anchor") == "middle":
            continue
        inside += 1
        font = ImageFont.load_default(size=float(item.get("font-size", "12")))
        assert x + font.getlength(item.text or "") * 1.05 <= box[2], item.text
        assert y <= box[3] - 4
    assert inside > 20


def test_lines_of_text_do_not_overlap(drawn: tuple[xr.Dataset, ElementTree.Element]) -> None:
    _, root = drawn
    places = [(float(t.get("x", "0")), float(t.get("y", "0"))) for t in root.findall(f"{SVG}text")]
    assert len(set(places)) == len(places)
    for x in {x for x, _ in places}:
        heights = sorted(y for at, y in places if at == x)
        assert all(b - a >= 12 for a, b in pairwise(heights))


def test_every_edge_is_drawn_as_what_it_is(drawn: tuple[xr.Dataset, ElementTree.Element]) -> None:
    links, root = drawn
    used = set(links["label"].values[links["used"].values].tolist())
    lights = {e["from"] for e in edges(links)} - set(links["label"].values.tolist())
    expected = {"chosen": 0, "near": 0, "broken": 0}
    for edge in edges(links):
        if edge["to"] and (edge["from"] in lights or edge["from"] in used):
            expected[edge["verdict"]] += 1
    paths = [p for p in root.findall(f"{SVG}path") if "C" in p.get("d", "") and p.get("marker-end")]
    dashes = [p.get("stroke-dasharray") for p in paths]
    found = {"chosen": dashes.count(None), "near": dashes.count("2 4"), "broken": dashes.count("7 4")}
    assert found == expected
    assert sum(expected.values()) > 5
    # One cross a broken link, and one in the legend.
    assert len(root.findall(f"{SVG}circle")) == expected["broken"] + 1
    assert all(p.get("stroke") == "#c62828" for p in paths if p.get("stroke-dasharray") == "7 4")


def test_reasons_are_readable() -> None:
    made = session(flawed())
    text = " ".join(re.findall(r">([^<]+)</text>", link_svg(link(made, on_broken="without"), made)))
    for words in (
        "✕ no flat: nearest F1: filter Ha, not OIII",
        "size 200 × 100, not 99 × 100",
        "✕ no dark: nearest D2: temperature 5 °C off",
        "made with FD1",
        "not used",
    ):
        assert words in text
    assert "7 lights of 17 frames, rules skyloom: 5 lights with broken links" in text


def test_left_out_lights_say_so() -> None:
    made = session(flawed())
    assert ">left out</text>" in link_svg(link(made, on_broken="leave_out"), made)
    assert ">left out</text>" not in link_svg(link(made, on_broken="without"), made)


def test_strange_names_are_escaped() -> None:
    made = session([{"band": '<L&"'}, {**FLAT, "band": '<L&"'}])
    links = link(made)
    root = ElementTree.fromstring(link_svg(links, made))
    assert any('<L&"' in (t.text or "") for t in root.findall(f"{SVG}text"))
    assert '"<' not in link_mermaid(links, made).replace('"<b>', "")


@pytest.mark.parametrize("rows", [[{"band": "L"}], [{"kind": "dark"}], []])
def test_little_to_draw(rows: list[dict[str, Any]]) -> None:
    made = session(rows) if rows else session([{}]).isel(frame=slice(0, 0))
    links = link(made)
    assert len(boxes(ElementTree.fromstring(link_svg(links, made)))) == len(rows)
    assert link_mermaid(links, made).startswith("flowchart LR")


def test_mermaid() -> None:
    made = session(flawed())
    links = link(made, on_broken="without")
    text = link_mermaid(links, made)
    lines = text.splitlines()
    assert lines[0] == "flowchart LR"
    arrows = [line for line in lines if re.match(r"  (L|F|D|B|FD)\d+ (-->|-\.->|--x)\|", line)]
    assert len(arrows) == len([e for e in edges(links) if e["to"]])
    assert any(re.search(r'--x\|"no flat: filter Ha, not OIII"\| F\d', line) for line in arrows)
    assert any("-.->" in line for line in arrows)
    broken = [i for i, line in enumerate(arrows) if "--x" in line]
    assert [int(n) for n in re.findall(r"linkStyle (\d+) stroke", text)] == broken
