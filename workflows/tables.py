"""Plans, reports and lists as tables for the terminal."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.table import Table
from rich.text import Text

from skyloom.ops.registry import Op, Parameter
from skyloom.workflows.machine import format_bytes, format_seconds
from skyloom.workflows.plan import Plan, describe, reused_line
from skyloom.workflows.run_report import RunReport, summary


def _table(title: str, *columns: tuple[str, bool]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name, right in columns:
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def left_out_table(left_out: Iterable[Sequence[str]]) -> list[Table]:
    """Frames left out with their reasons; nothing where there is none."""
    pairs = [tuple(p) for p in left_out]
    if not pairs:
        return []
    table = _table(f"Left out ({len(pairs)})", ("frame", False), ("reason", False))
    for name, reason in pairs:
        table.add_row(Text(str(name)), Text(str(reason)))
    return [table]


def plan_tables(plan: Plan) -> list[Any]:
    """What a run will cost."""
    table = _table(
        f"Plan of {plan.workflow.name}",
        ("node", False),
        ("op", False),
        ("tasks", True),
        ("done", True),
        ("Mpx·frames", True),
        ("reads", True),
        ("writes", True),
        ("a task", True),
        ("at a time", True),
        ("peak memory", True),
        ("time", True),
    )
    for node in plan.nodes:
        if node.stored:
            table.add_row(node.name, node.op, "as before", *[""] * 8)
            continue
        table.add_row(
            node.name,
            node.op,
            str(node.units),
            str(node.done),
            f"{node.work:.1f}",
            format_bytes(node.bytes_read),
            format_bytes(node.bytes_written),
            format_bytes(node.unit_memory),
            str(node.workers),
            format_bytes(node.memory),
            format_seconds(node.seconds),
        )
    out: list[Any] = [table]
    if plan.canvas:
        canvas = plan.canvas
        depth = ", ".join(f"{n} × {d}" for d, n in canvas.depth.items())
        out.append(
            Text(
                f'Canvas {canvas.shape[1]} × {canvas.shape[0]} px at {canvas.pixel_scale:.3f}"/px, '
                f"{canvas.tiles_with_data} of {canvas.tiles} tiles of {canvas.tile} px with data; "
                f"tiles × frames over them: {depth}"
            )
        )
    out.extend(Text(line) for line in map(reused_line, plan.nodes) if line)
    out.extend(left_out_table(plan.left_out))
    out.extend(Text(note) for note in plan.notes)
    out.append(Text(describe(plan)))
    return out


def run_tables(report: RunReport) -> list[Any]:
    """What a run did."""
    table = _table(
        "Done",
        ("node", False),
        ("tasks", True),
        ("time", True),
        ("Mpx·frames/s", True),
        ("peak memory", True),
        ("planned", True),
    )
    for node in report.nodes:
        rate = node.work / node.seconds if node.seconds > 0 and node.units > 1 else 0.0
        table.add_row(
            node.name,
            _tasks(node.units + node.reused, node.reused) if node.seconds else "as before",
            f"{node.seconds:.1f} s" if node.seconds else "",
            f"{rate:.1f}" if rate else "",
            format_bytes(node.worker_memory or node.peak_memory),
            format_bytes(node.planned_memory) if node.planned_memory else "",
        )
    out: list[Any] = [table, *left_out_table(report.left_out)]
    out.extend(Text(line) for line in report.quality)
    out.extend(Text(str(path)) for path in report.outputs)
    if report.page is not None:
        out.append(Text(str(report.page)))
    out.append(Text(summary(report)))
    return out


MANY = 8
"""Frames from which on like ones are counted together before they are listed."""
GAP = 2.0
"""Temperatures further apart than this are of different groups (°C)."""
SHOWN = 3
"""Frames that are named as examples of an oddity."""


def inspect_tables(rows: Sequence[Mapping[str, Any]], left_out: Iterable[Sequence[str]]) -> list[Any]:
    """What the frames are, in groups and one by one, and what is odd about them.

    Parameters
    ----------
    rows
        As `skyloom.ops.session.describe.describe` returns them.
    left_out
        Pairs of name and reason.
    """
    odd: dict[str, list[str]] = {}
    for row in rows:
        for text in row["oddities"]:
            odd.setdefault(text, []).append(str(row["name"]))
    numbers = {text: str(n) for n, text in enumerate(odd, start=1)}
    frames = [
        {
            "name": row["name"],
            "kind": _kind(row),
            "band": row["band"],
            "exposure": row["exposure"],
            "°C": row["temperature"],
            "date": (row["date"] or "").partition(".")[0],
            "ra": row["ra"],
            "dec": row["dec"],
            '"/px': row["scale"],
            "odd": ", ".join(numbers[text] for text in row["oddities"]),
        }
        for row in rows
    ]
    groups = _groups(rows) if len(rows) >= MANY else []
    out: list[Any] = [_filled(f"Groups of like frames ({len(groups)})", groups)] if groups else []
    out.append(_filled(f"Frames ({len(rows)})", frames))
    if odd:
        what = [
            {"odd": numbers[text], "frames": len(names), "what": text, "which": _examples(names)}
            for text, names in odd.items()
        ]
        out.append(_filled(f"Odd ({len(odd)})", what))
    return [*out, *left_out_table(left_out)]


def _filled(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Table of the columns that say anything."""
    names = [key for key in (rows[0] if rows else {}) if any(row[key] not in (None, "") for row in rows)]
    table = _table(title, *((key, any(isinstance(row[key], int | float) for row in rows)) for key in names))
    for row in rows:
        table.add_row(*(Text(_cell(row[key])) for key in names))
    return table


def _kind(row: Mapping[str, Any]) -> str:
    return f"master {row['kind']}" if row["master"] else str(row["kind"])


def _rank(kind: str) -> int:
    order = ("light", "unknown", "flat", "flatdark", "dark", "bias")
    return order.index(kind.removeprefix("master "))


def _groups(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Frames alike in what calibration goes by, counted; temperatures as ranges, parted at gaps."""
    same = ("band", "filter", "camera", "exposure", "gain_setting", "offset_setting", "binning", "size", "night")
    like: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        like.setdefault((_kind(row), *(row[key] for key in same)), []).append(row)
    groups = []
    for key, members in sorted(like.items(), key=lambda item: (_rank(item[0][0]), *map(str, item[0]))):
        known = sorted(row["temperature"] for row in members if row["temperature"] is not None)
        cuts = [0, *(i for i in range(1, len(known)) if known[i] - known[i - 1] > GAP), len(known)]
        spans = [known[a:b] for a, b in pairwise(cuts)] if known else []
        if len(known) < len(members):
            spans.append([])
        for span in spans:
            group: dict[str, Any] = dict(zip(("kind", *same), key, strict=True))
            group["filter"] = "" if group["filter"] == group["band"] else group["filter"]
            low, high = (f"{span[0]:.1f}", f"{span[-1]:.1f}") if span else ("", "")
            group["°C"] = low if low == high else f"{low} to {high}"
            group["frames"] = len(span) or len(members) - len(known)
            groups.append(group)
    return [
        {{"gain_setting": "gain", "offset_setting": "offset"}.get(k, k): v for k, v in g.items()} for g in groups
    ]


def _examples(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(str(v) for v in value)
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return "" if value is None else str(value)


def status_tables(
    rows: Sequence[Mapping[str, Any]], left_out: Iterable[Sequence[str]], quality: Iterable[str]
) -> list[Any]:
    """How far a project is."""
    table = _table(
        "Nodes", ("node", False), ("key", False), ("state", False), ("tasks", True), ("time", True), ("disk", True)
    )
    for row in rows:
        table.add_row(
            row["node"],
            row["key"],
            "complete" if row["complete"] else "unfinished",
            _tasks(row["done"], row["reused"]),
            f"{row['seconds']:.1f} s",
            format_bytes(row["bytes"]),
        )
    return [table, *left_out_table(left_out), *(Text(line) for line in quality)]


def pixel_tables(answer: Mapping[str, Any]) -> list[Any]:
    """What went into a pixel."""
    sky = "" if answer["ra"] is None else f", RA {answer['ra']:.6f} Dec {answer['dec']:+.6f} deg"
    out: list[Any] = [Text(f"node {answer['node']}, pixel x {answer['x']} y {answer['y']}{sky}")]
    for band in answer["bands"]:
        pixel = band["stored"]
        counts = f"{pixel['count']} used, {pixel['rejected_low']} low and {pixel['rejected_high']} high rejected"
        table = _table(
            f"{band['band']}: {_number(pixel['image'])}, variance {_number(pixel['variance'])}, weight "
            f"{_number(pixel['weight'])}; {counts}",
            ("frame", False), ("x", True), ("y", True), ("value", True), ("fate", False), ("weight", True),
            ("share", True), ("factor", True), ("offset", True),
        )  # fmt: skip
        for part in band["frames"]:
            share = f"{100 * part['fraction']:.2f} %" if part["weight"] else ""
            table.add_row(
                Text(part["name"]), f"{part['x']:.2f}", f"{part['y']:.2f}", _number(part["value"]), part["fate"],
                _number(part["weight"]) if part["weight"] else "", share, _number(part["factor"]),
                _number(part["offset"]),
            )  # fmt: skip
        out.append(table)
        if not band["same"]:
            changed = ", ".join(f"{n} {_number(v)}" for n, v in band["computed"].items())
            out.append(Text(f"This is not what is stored: the frames now give {changed}"))
    return out


def _number(value: float | None) -> str:
    return "no data" if value is None else f"{value:.6g}"


def _tasks(done: int, reused: int) -> str:
    return f"{done}, {reused} reused" if reused else str(done)


def _default(parameter: Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    return "none" if parameter.default is None else str(parameter.default)


def op_tables(ops: Iterable[Op]) -> list[Any]:
    """Ops with their parameters."""
    out: list[Any] = []
    for op in ops:
        inputs = ", ".join(f"[{n}]" if n in op.optional_inputs else n for n in op.inputs)
        origin = "" if op.origin == "skyloom" else f"  (from {op.origin})"
        out.append(Text(f"{op.name}({inputs})  version {op.version}{origin}", style="bold"))
        out.append(Text(f"  {op.summary}"))
        parameters = [p for p in op.parameters.values() if not p.execution]
        if parameters:
            table = _table(
                "", ("parameter", False), ("type", False), ("default", False), ("unit", False), ("what", False)
            )
            for p in parameters:
                table.add_row(p.name, Text(p.type_name), Text(_default(p)), p.unit, Text(p.doc))
            out.append(table)
        out.append(Text(""))
    return out
