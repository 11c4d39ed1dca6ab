"""The page: its sections, each of which may fail without the others."""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from collections.abc import Callable
from importlib.metadata import version

from skyloom.workflows.places import Place, write_whole
from skyloom.workflows.report.canvas_section import maps_section, seams_section
from skyloom.workflows.report.facts import Project, open_facts
from skyloom.workflows.report.frames_section import frames_section, left_out_section
from skyloom.workflows.report.markup import Markup, el, join
from skyloom.workflows.report.normalization_section import normalization_section
from skyloom.workflows.report.picture_section import picture_section
from skyloom.workflows.report.registration_section import registration_section
from skyloom.workflows.report.run_section import graph_section, headline, links_section, summary
from skyloom.workflows.report.style import SCRIPT, STYLE
from skyloom.workflows.store import disk_errors

Section = Callable[[Project], Markup | None]
SECTIONS: tuple[tuple[str, str, Section], ...] = (
    ("picture", "The picture", picture_section),
    ("summary", "In words", summary),
    ("graph", "The run", graph_section),
    ("links", "Calibration links", links_section),
    ("frames", "Frame quality", frames_section),
    ("left-out", "Frames left out", left_out_section),
    ("registration", "Registration", registration_section),
    ("normalization", "Normalization", normalization_section),
    ("maps", "Coverage, rejection, weights", maps_section),
    ("seams", "Seams", seams_section),
)
"""Anchor, heading and maker of each section."""
NAME = "report.html"
_LOG = logging.getLogger(__name__)


def _section(project: Project, anchor: str, heading: str, make: Section) -> Markup | None:
    try:
        body = make(project)
    except Exception as failure:  # one broken result must not hide what the others tell
        _LOG.info("report: section %s failed", anchor, exc_info=True)
        body = el("p", f"This part could not be made: {type(failure).__name__}: {failure}", class_="bad")
    return None if body is None else el("section", el("h2", heading), body, id=anchor)


def page(project: Project) -> str:
    """Return the page of a project, complete in itself."""
    parts = [(a, h, _section(project, a, h, make)) for a, h, make in SECTIONS]
    found = [(a, h, s) for a, h, s in parts if s is not None]
    name = project.store.project.name
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    # Nothing but what is in the page, and no script but its own: names come from files.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", f"{name}: skyloom report"),
        el("style", Markup(STYLE)),
    )
    body = el(
        "body",
        el("header", el("h1", name), _head(project)),
        el("header", el("nav", [el("a", h, href=f"#{a}") for a, h, _ in found])),
        el("main", [s for _, _, s in found]),
        el("footer", f"skyloom {version('skyloom')}, {made}, from {project.store.project}"),
        el("script", Markup(SCRIPT)),
    )
    return join([Markup("<!DOCTYPE html>\n"), el("html", head, body, lang="en"), Markup("\n")])


def _head(project: Project) -> Markup:
    try:
        return headline(project)
    except Exception as failure:  # as above
        return el("p", f"The log cannot be read: {failure}", class_="bad")


def write_report(project: str | Place) -> Place:
    """Write a project's `outputs/report.html` from what its store, journals and log say.

    Parameters
    ----------
    project
        Folder or address of a project, finished or not.

    Returns
    -------
    Path or ObjectPlace
        The file.

    Raises
    ------
    DataError
        If the folder is no project.
    CapacityError
        If the file cannot be written.
    """
    facts = open_facts(project)
    text = page(facts)
    path = facts.store.project / "outputs" / NAME
    with disk_errors(f"writing {path}"):
        # Names of files that are no UTF-8 are no reason to show nothing.
        write_whole(path, text.encode("utf-8", "replace"))
    return path
