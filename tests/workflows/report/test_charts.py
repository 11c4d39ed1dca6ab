"""Charts put points where their axes say, and text is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skyloom.workflows.report.charts import SINGLE, Series, band_colour, scatter, ticks
from skyloom.workflows.report.facts import NodeFacts
from skyloom.workflows.report.graph import graph
from skyloom.workflows.report.markup import Markup, el, number, table

Read = Callable[[str], Any]


def series(x: Any, y: Any, **more: Any) -> Series:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    return Series("L", 0, x, y, [f"<p{i}>" for i in range(len(x))], np.arange(len(x)), **more)


def axis(chart: str, kind: str) -> list[tuple[float, float]]:
    """(pixel, value) of the ticks of an axis."""
    place = "x" if kind == "mid" else "y"
    found = []
    for attributes, label in re.findall(r"<text ([^>]*)>([^<]*)</text>", chart):
        if f'class="{kind}"' in attributes:
            pixel = float(re.findall(rf'(?:^| ){place}="([-0-9.]+)"', attributes)[0])
            # Labels of the vertical axis stand 4 below their line.
            found.append((pixel - (4 if place == "y" else 0), float(label)))
    return found


def points(chart: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in re.findall(r'd="M([-0-9.]+) ([-0-9.]+)h0"', chart)]


def read_off(pixel: float, marks: list[tuple[float, float]], *, log: bool = False) -> float:
    (p0, v0), (p1, v1) = marks[0], marks[-1]
    if log:
        v0, v1 = math.log10(v0), math.log10(v1)
    value = v0 + (pixel - p0) * (v1 - v0) / (p1 - p0)
    return 10**value if log else value


@pytest.mark.parametrize("log", [False, True])
def test_points_stand_where_the_axes_say(log: bool) -> None:
    x, y = [0.0, 1.0, 4.0, 9.0], [3.0, 5.0, 700.0, 90.0]
    chart = scatter("t", [series(x, y)], x_label="hours", log=log)
    assert chart is not None
    across, up = axis(chart, "mid"), axis(chart, "end")
    assert len(across) >= 3
    assert len(up) >= 3
    found = points(chart)
    assert len(found) == 4
    assert found[0][0] < found[1][0], "to the right"
    assert found[0][1] > found[1][1], "up"
    for (px, py), a, b in zip(found, x, y, strict=True):
        assert read_off(px, across) == pytest.approx(a, abs=0.03)
        assert read_off(py, up, log=log) == pytest.approx(b, rel=0.02, abs=0 if log else 3)


def test_points_that_are_not_known_are_left_out() -> None:
    assert scatter("t", [series([0, 1], [np.nan, np.nan])], x_label="x") is None
    assert scatter("t", [], x_label="x") is None
    chart = scatter("t", [series([0, 1, np.nan], [1, np.nan, 2])], x_label="x")
    assert chart is not None
    assert len(points(chart)) == 1
    chart = scatter("t", [series([0, 1], [1, -1])], x_label="x", log=True)
    assert chart is not None
    assert len(points(chart)) == 1


def test_frames_left_out_are_crosses_that_say_what_they_are(read: Read) -> None:
    chart = scatter("t & t", [series([0, 1], [1, 2], left_out=np.array([False, True]))], x_label="x")
    page = read(f"<section id='a'>{chart}</section>")
    assert page.problems == []
    shapes = [a for a in page.all("path") if "data-t" in a]
    assert [a["data-t"] for a in shapes] == ["<p0>", "<p1>"]
    assert [a["class"].split()[0] for a in shapes] == ["dot", "out"]
    assert "t & t" in page.text


def test_many_points_stay_small() -> None:
    n = SINGLE + 1
    chart = scatter("t", [series(np.arange(n), np.arange(n))], x_label="x")
    assert chart is not None
    assert len(re.findall(r"h0", chart)) == n
    assert len(chart) < 20 * n


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 17), (1e-6, 3e-6), (1000, 1001), (0, 12345)])
def test_ticks_are_round_and_few(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert all(low - 1e-9 <= t <= high * (1 + 1e-9) for t in found)
    step = found[1] - found[0]
    assert float(f"{step:.0e}") == pytest.approx(step)


def test_bands_keep_their_colours() -> None:
    order = ["L", "R", "G", "B", "narrow", "wide"]
    assert len({band_colour(b, order) for b in order}) == 6


def test_text_is_escaped_and_markup_is_not() -> None:
    assert el("b", "<i>", Markup("<u></u>"), None, ["&", 1]) == "<b>&lt;i&gt;<u></u>&amp;1</b>"
    assert el("a", href='"><script>', title=None, hidden=True) == '<a href="&quot;&gt;&lt;script&gt;" hidden></a>'
    assert "\ud800" not in el("b", "bad\ud800\x00", title="\udcff\x01")
    assert "<td>&lt;x&gt;</td>" in table(["h"], [["<x>"]])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(math.nan, "–"), (0.123456, "0.1235"), (12345.6, "12346"), (1.5e12, "1.5e+12"), (0.0, "0"), (-2.0, "-2")],
)
def test_numbers_as_people_read_them(value: float, shown: str) -> None:
    assert number(value) == shown


def test_graph_draws_every_node_and_input(read: Read) -> None:
    def node(name: str, *inputs: str, state: str = "done", seconds: float = 1.0) -> NodeFacts:
        return NodeFacts(name, f"op<{name}>", inputs, state, 3, 0, seconds, 2.0**30)

    nodes = [
        node("a"),
        node("b", "a"),
        node("c", "a", "b"),
        node("d", "a", "c", state="failed", seconds=math.nan),
        node("e", "d", state="waiting", seconds=math.nan),
    ]
    page = read(f"<section id='g'>{graph(nodes)}</section>")
    assert page.problems == []
    edges = [a["d"] for a in page.all("path") if a["class"] == "edge"]
    assert len(edges) == 6
    heights = {a["class"]: 0 for a in page.all("circle")}
    assert set(heights) == {"node done", "node failed", "node waiting"}
    circles = [float(a["cy"]) for a in page.all("circle")]
    ends = sorted((float(e.split()[1].split("Q")[0]), float(e.split()[-1])) for e in edges)
    expected = [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3), (3, 4)]
    assert ends == [(circles[i], circles[j]) for i, j in expected]
    assert "op<a>" in page.text
