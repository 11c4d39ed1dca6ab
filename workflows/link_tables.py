"""Links as tables for the terminal: what each light gets, what each calibration group is for, what is broken."""

from __future__ import annotations

from typing import Any

import xarray as xr
from rich.table import Table
from rich.text import Text

from skyloom.workflows.link_report import ROLES, edges, group_codes, links_report
from skyloom.workflows.machine import count

__all__ = ["link_tables", "links_report"]

SHOWN_NAMES = 4
"""File names shown of a group of lights with broken links."""


def link_tables(links: xr.Dataset, session: xr.Dataset, *, policy: str | None = None) -> list[Any]:
    """Tables of the links.

    Parameters
    ----------
    links
        As `link` returns them.
    session
        The session they were made from.
    policy
        `on_broken` of the run, where the links were made with another one only to show them.

    Returns
    -------
    list
        Renderables of rich: groups of lights, calibration groups, lines of problems, a summary.
    """
    rows = links_report(links, session)
    codes = dict(zip(links["label"].values.tolist(), group_codes(links), strict=True))
    lights = [row for row in rows if row["what"] == "lights"]
    out: list[Any] = []
    if lights:
        out.append(_lights(lights, links, codes))
    groups = [row for row in rows if row["what"] != "lights"]
    if groups:
        out.append(_groups(groups, links, codes))
    return [
        *out,
        *_problems(lights),
        *_left_out(links, session),
        _summary(lights, groups, policy or links.attrs["on_broken"]),
    ]


def _table(title: str, *columns: tuple[str, str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    return table


def _lights(lights: list[dict[str, Any]], links: xr.Dataset, codes: dict[str, str]) -> Table:
    table = _table(
        "Lights",
        ("lights", "left"),
        ("frames", "right"),
        *((role, "left") for role in ROLES),
        ("to know", "left"),
    )
    found = edges(links)
    for row in lights:
        own = [e for e in found if e["from"] == row["label"]]
        cells = [_cell(row, role, own, codes) for role in ROLES]
        label, _, _ = row["label"].rpartition(", ")
        style = "red" if row["problems"] else ""
        table.add_row(Text(label, style=style), str(len(row["frames"])), *cells, _to_know(row, own, codes))
    return table


def _cell(row: dict[str, Any], role: str, own: list[dict[str, Any]], codes: dict[str, str]) -> Text:
    edge = next((e for e in own if e["role"] == role and e["verdict"] != "near"), None)
    if edge is None:
        return Text("–", style="dim")
    if edge["verdict"] == "broken":
        return Text("✕", style="bold red")
    if edge["verdict"] in ("missing", "none"):
        return Text("none", style="yellow" if edge["caution"] else "dim")
    scaled = " scaled" if role == "dark" and row["scale_dark"] else ""
    return Text(codes[edge["to"]] + scaled, style="yellow" if edge["caution"] else "green")


def _to_know(row: dict[str, Any], own: list[dict[str, Any]], codes: dict[str, str]) -> Text:
    """Problems in red, compromises in yellow, near misses dim."""
    lines: list[tuple[str, str]] = [(f"✕ {problem}", "red") for problem in row["problems"]]
    if not row["use"]:
        lines.append(("left out", "red"))
    for edge in own:
        to = codes.get(edge["to"], "")
        if edge["verdict"] == "chosen" and edge["caution"]:
            lines.append((f"{to}: {edge['reason']}", "yellow"))
        elif edge["verdict"] in ("missing", "none"):
            lines.append((edge["reason"], "yellow"))
        elif edge["verdict"] == "near":
            lines.append((f"near miss {to}: {edge['reason']}", "dim"))
    if not any(row[role] for role in ROLES) and not row["problems"]:
        lines = [("no calibration frames of this camera: taken as it is", "yellow")] if _none(own) else lines
    return Text("\n").join(Text(text, style=style) for text, style in lines)


def _none(own: list[dict[str, Any]]) -> bool:
    return [e["verdict"] for e in own].count("missing") == len(ROLES)


def _groups(groups: list[dict[str, Any]], links: xr.Dataset, codes: dict[str, str]) -> Table:
    table = _table(
        "Calibration frames", ("", "left"), ("group", "left"), ("serves", "left"), ("made with", "left")
    )
    found = edges(links)
    for row in groups:
        own = [_made_with(e, codes) for e in found if e["from"] == row["label"]]
        style = "" if row["used"] else "dim"
        serves = count(len(row["serves"]), "group") + " of lights" if row["serves"] else ""
        users = [codes[g["label"]] for g in groups if row["label"] in (g["bias"], g["dark"]) and g["used"]]
        served = ", ".join([*([serves] if serves else []), *users])
        what = served if row["used"] and served else f"not used: {row['note']}"
        if row["used"] and not served:
            what = "no lights: made for its own sake"
        table.add_row(
            Text(row["code"], style=style),
            Text(row["label"], style=style),
            Text(what, style=style),
            Text("\n").join(own),
        )
    return table


def _made_with(edge: dict[str, Any], codes: dict[str, str]) -> Text:
    if edge["verdict"] == "chosen":
        reason = f": {edge['reason']}" if edge["caution"] else ""
        return Text(codes[edge["to"]] + reason, style="yellow" if edge["caution"] else "")
    if edge["verdict"] == "broken":
        return Text(f"✕ nearest {codes[edge['to']]}: {edge['reason']}", style="red")
    return Text(edge["reason"], style="yellow")


def _problems(lights: list[dict[str, Any]]) -> list[Text]:
    lines = []
    for row in lights:
        if row["problems"]:
            names = row["frames"]
            more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
            lines.append(Text(f"✕ {', '.join(names[:SHOWN_NAMES])}{more}: {'; '.join(row['problems'])}", "red"))
    return lines


def _left_out(links: xr.Dataset, session: xr.Dataset) -> list[Text]:
    """Lights that belong to no group: stacks beside raw lights."""
    lines = []
    for i, reason in enumerate(links["reason"].values.tolist()):
        if reason and int(links["light_group"].values[i]) < 0:
            lines.append(Text(f"left out: {session['name'].values[i]}: {reason}"))
    return lines


def _summary(lights: list[dict[str, Any]], groups: list[dict[str, Any]], policy: str) -> Text:
    frames = sum(len(row["frames"]) for row in lights)
    broken = sum(len(row["frames"]) for row in lights if row["problems"])
    idle = sum(not row["used"] for row in groups)
    text = f"{count(frames, 'light')} in {count(len(lights), 'group')}, {count(len(groups), 'calibration group')}"
    if idle:
        text += f" ({idle} not used)"
    if not broken:
        return Text(f"{text}; no broken links")
    outcome = {
        "without": "they are calibrated without",
        "leave_out": "they are left out",
        "refuse": "the run is refused",
    }[policy]
    return Text(f"{text}; {count(broken, 'light')} with broken links: {outcome}", style="red")
