"""The graph of a run as one column of nodes: what feeds what on the left, times and memory on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence

from skyloom.workflows.machine import format_bytes, format_seconds
from skyloom.workflows.report.facts import NodeFacts
from skyloom.workflows.report.markup import Markup, el

_ROW, _TOP = 24, 30
_LANE = 9
_MOST_LANES = 14
_BAR = 170
STATES = {
    "done": "done in this run",
    "earlier": "done by an earlier run",
    "unfinished": "unfinished",
    "failed": "stopped here",
    "waiting": "not run",
}


def graph(nodes: Sequence[NodeFacts]) -> Markup:
    """Draw the nodes of a run in running order.

    Parameters
    ----------
    nodes
        As `Project.nodes` has them.

    Returns
    -------
    Markup
        SVG. Lines run down from a node to those it feeds, each node's in a lane as far as its last user.
    """
    row = {n.name: i for i, n in enumerate(nodes)}
    lanes = _lanes(nodes, row)
    left = 16 + _LANE * (max(lanes.values(), default=0) + 1)
    name_x, op_x, state_x, bar_x = left + 12, left + 150, left + 262, left + 400
    memory_x, width = bar_x + _BAR + 230, bar_x + _BAR + 240
    height = _TOP + _ROW * len(nodes) + 8
    longest = max((n.seconds for n in nodes if math.isfinite(n.seconds)), default=0.0) or 1.0
    parts: list[Markup] = [
        el("text", "node", x=name_x, y=16, class_="soft"),
        el("text", "op", x=op_x, y=16, class_="soft"),
        el("text", "state", x=state_x, y=16, class_="soft"),
        el("text", "time, tasks", x=bar_x, y=16, class_="soft"),
        el("text", "peak memory so far", x=memory_x, y=16, class_="end soft"),
    ]
    for node in nodes:
        for producer in node.inputs:
            if producer in row:
                parts.append(_edge(left, lanes[producer], _middle(row[producer]), _middle(row[node.name])))
    for i, node in enumerate(nodes):
        y = _middle(i)
        bar = 0.0 if not math.isfinite(node.seconds) else max(1.0, _BAR * node.seconds / longest)
        tasks = f"{node.units} {'task' if node.units == 1 else 'tasks'}" if node.units else ""
        tasks += f", {node.reused} reused" if node.reused else ""
        time = _time(node.seconds) if math.isfinite(node.seconds) else ""
        told = f"{node.name}: {node.op}, {STATES[node.state]}" + (f", {time}" if time else "")
        name, op = (t if len(t) <= most else f"{t[: most - 1]}…" for t, most in ((node.name, 19), (node.op, 17)))
        parts.append(
            el(
                "g",
                el("rect", x=0, y=y - _ROW / 2, width=width, height=_ROW, class_="row"),
                el("circle", cx=left, cy=y, r=5, class_=f"node {node.state}"),
                el("text", name, x=name_x, y=y + 4, class_="name"),
                el("text", op, x=op_x, y=y + 4, class_="soft"),
                el("text", STATES[node.state], x=state_x, y=y + 4, class_=f"state {node.state}"),
                el("rect", x=bar_x, y=y - 6, width=round(bar, 1), height=12, rx=2, class_=f"bar {node.state}"),
                el("text", ", ".join(t for t in (time, tasks) if t), x=bar_x + bar + 5, y=y + 4),
                el("text", format_bytes(node.peak_memory), x=memory_x, y=y + 4, class_="end")
                if math.isfinite(node.peak_memory)
                else None,
                data_t=told,
            )
        )
    box = el(
        "svg", parts, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img",
        aria_label="graph of the run", xmlns="http://www.w3.org/2000/svg", class_="graph",
    )  # fmt: skip
    return el("div", box, class_="wide")


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 9.95 else format_seconds(seconds)


def _middle(row: int) -> float:
    return _TOP + _ROW * row + _ROW / 2


def _lanes(nodes: Sequence[NodeFacts], row: dict[str, int]) -> dict[str, int]:
    """Lane of each node's outgoing line: the innermost that is free from the node to its last user."""
    ends: dict[str, int] = {}
    for node in nodes:
        for producer in node.inputs:
            if producer in row:
                ends[producer] = max(ends.get(producer, 0), row[node.name])
    taken: list[int] = []
    lanes: dict[str, int] = {}
    for name, end in sorted(ends.items(), key=lambda item: (row[item[0]], item[1])):
        lane = next((k for k, until in enumerate(taken) if until <= row[name]), len(taken))
        taken[lane : lane + 1] = [end]
        lanes[name] = min(lane, _MOST_LANES)
    return lanes


def _edge(x: float, lane: int, start: float, end: float) -> Markup:
    at = x - _LANE * (lane + 1)
    bend = min(10.0, (end - start) / 2)
    path = f"M{x} {start}Q{at} {start} {at} {start + bend}V{end - bend}Q{at} {end} {x} {end}"
    return el("path", d=path, class_="edge")
