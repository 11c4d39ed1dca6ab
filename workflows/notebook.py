"""How sessions, workflows, plans, results and projects show themselves in a notebook: HTML, self-contained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from skyloom.workflows.machine import count, format_bytes, format_seconds

if TYPE_CHECKING:
    from skyloom.workflows.evaluate import Results
    from skyloom.workflows.graph import Workflow
    from skyloom.workflows.plan import Plan
    from skyloom.workflows.run_report import RunReport

MANY = 20
"""Rows from which on a table is cut."""
_COLUMNS = (
    ("name", "frame"),
    ("kind", "kind"),
    ("band", "band"),
    ("exposure", "exposure (s)"),
    ("date", "date"),
    ("camera", "camera"),
    ("temperature", "°C"),
    ("ra", "RA (deg)"),
    ("dec", "Dec (deg)"),
)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> str:
    """HTML table; texts are escaped."""
    lines = [f"<b>{escape(title)}</b>"] if title else []
    lines.append("<table><thead><tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr></thead><tbody>")
    for row in rows:
        cells = "".join(f'<td style="text-align:left">{escape(_text(c))}</td>' for c in row)
        lines.append(f"<tr>{cells}</tr>")
    return "".join([*lines, "</tbody></table>"])


def _text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return "" if not np.isfinite(value) else f"{value:.6g}"
    return str(value)


def _scrolled(svg: str) -> str:
    """A picture that is wider than the page scrolls within it."""
    return f'<div style="overflow-x:auto">{svg}</div>'


def session_line(session: xr.Dataset) -> str:
    """One line on a table of frames."""
    bands = [str(b) for b in session["band"].values] if "band" in session else []
    parts = [f"{bands.count(b)} × {b}" for b in sorted(set(bands)) if b]
    return count(session.sizes["frame"], "frame") + (f": {', '.join(parts)}" if parts else "")


def session_html(session: xr.Dataset) -> str:
    """Table of the frames of a session."""
    columns = [(name, head) for name, head in _COLUMNS if name in session and session[name].dims == ("frame",)]
    values = [session[name].values for name, _ in columns]
    # Columns that say nothing are left out.
    shown = [n for n, column in enumerate(values) if any(_text(v) not in ("", "nan") for v in column)]
    rows = [[values[n][i] for n in shown] for i in range(min(MANY, session.sizes["frame"]))]
    more = session.sizes["frame"] - len(rows)
    foot = f"<div>… and {more} more</div>" if more else ""
    return table([columns[n][1] for n in shown], rows, title=session_line(session)) + foot


def workflow_html(workflow: Workflow) -> str:
    """Graph of a workflow under what it is for."""
    from skyloom.workflows.drawing import column_svg

    about = escape(f"{workflow.name}: {' '.join(workflow.description.split())}")
    changed = {
        node.name: ", ".join(
            f"{k} = {v}" for k, v in node.parameters.items() if v != node.op.parameters[k].default
        )
        for node in workflow.nodes
    }
    return f"<div>{about}</div>{_scrolled(column_svg(workflow, changed))}"


def plan_line(plan: Plan) -> str:
    """One line on what a run will cost."""
    later = f", {', '.join(plan.later)} known later" if plan.later else ""
    return (
        f"{plan.workflow.name}: {count(plan.frames, 'frame')}, peak memory {format_bytes(plan.memory)} of "
        f"{format_bytes(plan.memory_limit)}, writes {format_bytes(plan.disk)}, about "
        f"{format_seconds(plan.seconds)}{later}"
    )


def plan_html(plan: Plan) -> str:
    """Graph of a plan with tasks, memory and time of each node."""
    from skyloom.workflows.drawing import column_svg

    facts = {
        n.name: "as before"
        if n.stored
        else f"{count(n.units, 'task')}, {format_bytes(n.memory)}, {format_seconds(n.seconds)}"
        for n in plan.nodes
    }
    facts |= dict.fromkeys(plan.later, "known later")
    graph = column_svg(plan.workflow, facts, done=[n.name for n in plan.nodes if n.stored])
    left_out = table(("left out", "why"), plan.left_out) if plan.left_out else ""
    notes = "".join(f"<div>{escape(note)}</div>" for note in plan.notes)
    return f"<div>{escape(plan_line(plan))}</div>{_scrolled(graph)}{left_out}{notes}"


def report_html(report: RunReport) -> str:
    """What a run did."""
    from skyloom.workflows.run_report import summary

    rows = [
        (n.name, n.units + n.reused if n.seconds else "as before", f"{n.seconds:.1f}" if n.seconds else "")
        for n in report.nodes
    ]
    left_out = table(("left out", "why"), report.left_out) if report.left_out else ""
    lines = "".join(f"<div>{escape(line)}</div>" for line in (*report.quality, *map(str, report.outputs)))
    return table(("node", "tasks", "s"), rows, title=summary(report)) + left_out + lines


def sizes_text(dataset: xr.Dataset) -> str:
    """Sizes of a result as a user reads them."""
    return " × ".join(f"{name} {size}" for name, size in dataset.sizes.items())


def results_html(results: Results) -> str:
    """Nodes of a workflow with the sizes of their results."""
    rows = [(name, results.state(name), sizes_text(results[name]), _variables(results[name])) for name in results]
    return table(("node", "result", "sizes", "variables"), rows)


def _variables(dataset: xr.Dataset) -> str:
    names = [str(v) for v in dataset.data_vars]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
