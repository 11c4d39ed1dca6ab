"""The graph of a plan as a picture: Mermaid text or an SVG of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from html import escape

from skyloom.ops.registry import FILES
from skyloom.workflows.graph import Workflow
from skyloom.workflows.machine import count, format_bytes, format_seconds
from skyloom.workflows.plan import NodePlan, Plan

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 190, 74, 70, 26, 20


def _facts(node: NodePlan) -> list[str]:
    if node.stored:
        return ["as before"]
    lines = [count(node.units, "task") + (f" + {node.done} done" if node.done else "")]
    lines[0] += f" + {node.reused} reused" if node.reused else ""
    lines.append(f"{format_bytes(node.memory)}, {format_seconds(node.seconds)}")
    return lines


def mermaid(plan: Plan) -> str:
    """Graph of a plan as Mermaid text (renders in GitHub, GitLab, VS Code)."""
    lines = ["flowchart LR", f"  {FILES}([{plan.frames} frames])"]
    for node in plan.nodes:
        lines.append(f'  {node.name}["<b>{node.name}</b><br/>{"<br/>".join(_facts(node))}"]')
    for item in plan.workflow.nodes:
        lines.extend(f"  {producer} --> {item.name}" for producer in dict.fromkeys(item.inputs.values()))
    return "\n".join(lines) + "\n"


def columns(workflow: Workflow) -> dict[str, int]:
    """Column of each node: one right of the last of its producers."""
    place = {FILES: 0}
    for node in workflow.nodes:
        place[node.name] = 1 + max((place[p] for p in node.inputs.values()), default=0)
    return place


def svg(plan: Plan) -> str:
    """Graph of a plan as an SVG picture, self-contained."""
    place = columns(plan.workflow)
    rows: dict[int, int] = {}
    spot: dict[str, tuple[int, int]] = {}
    for name, column in place.items():
        row = rows.get(column, 0)
        rows[column] = row + 1
        spot[name] = (_MARGIN + column * (_WIDTH + _GAP_X), _MARGIN + 30 + row * (_HEIGHT + _GAP_Y))
    width = max(x for x, _ in spot.values()) + _WIDTH + _MARGIN
    # Edges that skip a column run in lanes below the boxes, so that they cross none.
    lanes = [
        (producer, node.name)
        for node in plan.workflow.nodes
        for producer in dict.fromkeys(node.inputs.values())
        if place[node.name] - place[producer] > 1
    ]
    bottom = max(y for _, y in spot.values()) + _HEIGHT
    height = bottom + 16 * len(lanes) + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#56657a"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{_MARGIN}" y="{_MARGIN + 8}" font-size="14" fill="#222">'
        f"{escape(plan.workflow.name)}: peak {format_bytes(plan.memory)}, writes {format_bytes(plan.disk)}, "
        f"about {format_seconds(plan.seconds)}</text>",
    ]
    for node in plan.workflow.nodes:
        for producer in dict.fromkeys(node.inputs.values()):
            (x0, y0), (x1, y1) = spot[producer], spot[node.name]
            start, middle0, middle1 = x0 + _WIDTH, y0 + _HEIGHT // 2, y1 + _HEIGHT // 2
            if (producer, node.name) in lanes:
                number = lanes.index((producer, node.name))
                lane = bottom + 16 * (number + 1)
                out, into = start - 30 - 12 * number, x1 + 30 + 12 * number
                path = (
                    f"M{out} {y0 + _HEIGHT}V{lane - 8}Q{out} {lane} {out + 8} {lane}"
                    f"H{into - 8}Q{into} {lane} {into} {lane - 8}V{y1 + _HEIGHT}"
                )
            else:
                path = f"M{start} {middle0}C{start + 35} {middle0} {x1 - 35} {middle1} {x1} {middle1}"
            parts.append(f'<path d="{path}" fill="none" stroke="#56657a" marker-end="url(#tip)"/>')
    for name, (x, y) in spot.items():
        node_plan = next((n for n in plan.nodes if n.name == name), None)
        facts = _facts(node_plan) if node_plan else [f"{plan.frames} frames"]
        fill = "#e3f1e3" if node_plan and node_plan.stored else ("#eef2f8" if node_plan else "#f7f3e6")
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="{fill}" stroke="#56657a"/>'
            f'<text x="{x + 12}" y="{y + 22}" font-size="14" font-weight="bold" fill="#222">{escape(name)}</text>'
        )
        for number, fact in enumerate(facts):
            parts.append(f'<text x="{x + 12}" y="{y + 42 + 17 * number}" fill="#444">{escape(fact)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


_ROW, _LANE, _LANES = 22, 9, 14


def column_svg(workflow: Workflow, facts: Mapping[str, str], *, done: Collection[str] = ()) -> str:
    """Graph of a workflow as a narrow SVG picture: a row a node, what feeds what on the left.

    Parameters
    ----------
    workflow
        What to draw.
    facts
        Node → what stands at the end of its row.
    done
        Nodes that are finished.
    """
    row = {node.name: n for n, node in enumerate(workflow.nodes)}
    last: dict[str, int] = {}
    for node in workflow.nodes:
        for producer in node.inputs.values():
            last[producer] = max(last.get(producer, 0), row[node.name])
    taken: list[int] = []
    lanes: dict[str, int] = {}
    for name in row:
        if name in last:
            # The innermost lane that is free from the node to its last user.
            lane = next((k for k, until in enumerate(taken) if until <= row[name]), len(taken))
            taken[lane : lane + 1] = [last[name]]
            lanes[name] = min(lane, _LANES)
    left = 16 + _LANE * (max(lanes.values(), default=0) + 1)
    width, height = left + 620, _ROW * len(row) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
        # Readable on dark pages too.
        f'<rect width="{width}" height="{height}" fill="#fff"/>'
    ]
    for node in workflow.nodes:
        for producer in dict.fromkeys(node.inputs.values()):
            if producer in row:
                y0, y1 = (_ROW * row[name] + _ROW // 2 + 4 for name in (producer, node.name))
                x = left - _LANE * (lanes[producer] + 1)
                parts.append(
                    f'<path d="M{left} {y0}Q{x} {y0} {x} {y0 + 8}V{y1 - 8}Q{x} {y1} {left} {y1}" '
                    'fill="none" stroke="#8492a6"/>'
                )
    for node in workflow.nodes:
        y = _ROW * row[node.name] + _ROW // 2 + 4
        fill = "#5da65d" if node.name in done else "#56657a"
        op = node.op.name if node.op.name != node.name else ""
        parts.append(
            f'<circle cx="{left}" cy="{y}" r="5" fill="{fill}"/>'
            f'<text x="{left + 12}" y="{y + 4}" font-weight="bold" fill="#222">{escape(node.name)}</text>'
            f'<text x="{left + 140}" y="{y + 4}" fill="#666">{escape(op)}</text>'
            f'<text x="{left + 260}" y="{y + 4}" fill="#222">{escape(facts.get(node.name, ""))}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
