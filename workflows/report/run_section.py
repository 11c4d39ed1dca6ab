"""What the run did: its outcome, what is known of the result in words, the graph, the links."""

from __future__ import annotations

import math
import time

from skyloom.workflows.machine import count, format_bytes, format_seconds
from skyloom.workflows.quality import quality_lines
from skyloom.workflows.report.facts import LastRun, Project
from skyloom.workflows.report.graph import graph
from skyloom.workflows.report.markup import Markup, el

_OUTCOMES = {"done": "complete", "stopped": "stopped", "failed": "failed", "": "not finished"}


def headline(project: Project) -> Markup:
    """Outcome of the last run."""
    last = project.last
    if math.isnan(last.started):
        return el("p", "The log tells of no run.", class_="outcome")
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(last.started))
    told = f"{last.workflow}: {_OUTCOMES[last.outcome]}"
    bad = last.outcome != "done"
    facts = [f"begun {when}", count(last.frames, "frame"), last.scheduler]
    if math.isfinite(last.seconds):
        facts.append(format_seconds(last.seconds))
    if math.isfinite(last.peak_memory):
        facts.append(f"peak memory {format_bytes(last.peak_memory)}")
    return el(
        "div",
        el("p", el("b", told), class_="bad" if bad else "good"),
        el("p", " · ".join(facts), class_="soft"),
        _why(last) if bad else None,
        class_="outcome",
    )


def _why(last: LastRun) -> list[Markup]:
    """What stopped the run, and what to do."""
    where = f"in node {last.node}: " if last.node and last.node not in last.reason else ""
    told = f"{where}{last.reason or 'no reason was given'}"
    if not last.outcome:
        told = "The run is at work still, or was killed."
    lines = [el("p", told, class_="bad")]
    if "run the same command again" not in told:
        lines.append(el("p", "What is done is kept; run the same command again to go on.", class_="soft"))
    return lines


def summary(project: Project) -> Markup | None:
    """How well the result is known, in words."""
    lines = quality_lines({project.op(n): d for n, d in project.results.items()})
    return el("ul", [el("li", line) for line in lines]) if lines else None


def graph_section(project: Project) -> Markup | None:
    """The graph with times and memory."""
    if not project.nodes:
        return None
    note = "Times of nodes kept from an earlier run are that run's. Peak memory is of the whole process so far."
    return el("div", graph(project.nodes), el("p", note, class_="soft"))


def links_section(project: Project) -> Markup | None:
    """The links, broken ones red."""
    from skyloom.workflows.link_drawing import link_svg
    from skyloom.workflows.link_report import light_groups

    node = project.node_of("link")
    session = project.session_of(node)
    if node is None or session is None:
        return None
    links = project.results[node]
    broken = [(g["label"], p) for g in light_groups(links) for p in g["problems"]]
    items = el("ul", [el("li", f"{label}: {problem}") for label, problem in broken], class_="bad")
    drawn = Markup(link_svg(links, session))
    return el("div", items if broken else None, el("div", drawn, class_="wide paper"))
