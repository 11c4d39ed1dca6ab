"""Lights that get the same calibration, and in words why they get it, what nearly fits, and what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from skyloom.ops.calibration.choices import NONE, Choice
from skyloom.ops.calibration.groups import Rows, further, middle_facts, part, settings
from skyloom.ops.calibration.link_facts import Facts
from skyloom.ops.calibration.link_reasons import Edge, Linking, chosen_reason, fit_of, flat_edge
from skyloom.ops.calibration.words import nights, number, plural, seconds, unlike

ROLES = ("bias", "dark", "flat")


@dataclass(frozen=True)
class LightGroup:
    """Lights with the same links for the same reasons."""

    label: str
    rows: Rows
    """Rows of the lights."""
    facts: Facts
    """A table of one row: middle values."""
    edges: tuple[Edge, ...]
    scaled: bool
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def group(self, role: str) -> int:
        """Group chosen for a role, −1 for none."""
        return next((e.to for e in self.edges if e.role == role and e.verdict == "chosen"), NONE)


def light_groups(linking: Linking) -> list[LightGroup]:
    """Groups of the lights, with reasons, sorted by what they are."""
    choices = linking.choices
    columns = [c.astype(np.int64) for c in (linking.strict, choices.scaled)]
    for choice in (choices.bias, choices.dark, choices.flat):
        columns += [choice.group, choice.nearest, choice.by_hand.astype(np.int64)]
    _, result = np.unique(np.stack(columns), axis=1, return_inverse=True)
    parts = linking.rules.group_lights(linking.lights, np.arange(len(linking.lights)))
    parts = part(parts, lambda rows: result.reshape(-1)[rows])
    table = middle_facts(linking.shown, parts)
    order = sorted(range(len(parts)), key=lambda i: _place(table, i))
    labels = _labels(table.take(order), [parts[i] for i in order])
    flats = np.unique(choices.flat.group[choices.flat.group != NONE]).tolist()
    made_with = {flat: flat_edge(linking, flat) for flat in flats}
    return [_described(linking, parts[i], table.take([i]), labels[k], made_with) for k, i in enumerate(order)]


def _place(table: Facts, row: int) -> tuple[object, ...]:
    numbers = (table.night, table.exposure, table.gain, table.temperature)
    return (
        str(table.text("camera")[row]),
        float(np.nan_to_num(numbers[0][row], nan=np.inf)),
        str(table.filter[row]),
        *(float(np.nan_to_num(n[row], nan=np.inf)) for n in numbers[1:]),
        str(table.content[row]),
    )


def _labels(table: Facts, parts: list[Rows]) -> list[str]:
    short = []
    for i in range(len(table)):
        exposure = float(table.exposure[i])
        words = ["light", str(table.filter[i]), seconds(exposure) if np.isfinite(exposure) else ""]
        facts = [*settings(table, i), nights(float(table.night[i]), float(table.last_night[i]))]
        short.append(", ".join([" ".join(w for w in words if w), *(f for f in facts if f)]))
    different = unlike(short, [further(table, i) for i in range(len(table))])
    return [f"{label}, {plural(rows.size, 'frame')}" for label, rows in zip(different, parts, strict=True)]


def _described(
    linking: Linking, rows: Rows, facts: Facts, label: str, made_with: Mapping[int, Edge | None]
) -> LightGroup:
    groups, row = linking.groups, _spokesman(linking, rows)
    edges: list[Edge] = []
    notes: list[str] = []
    broken: dict[str, list[tuple[str, int]]] = {}
    for role in ("flat", "dark", "bias"):
        choice: Choice = getattr(linking.choices, role)
        chosen, nearest, near = int(choice.group[row]), int(choice.nearest[row]), int(choice.near[row])
        if chosen != NONE:
            reason, caution = chosen_reason(linking, role, row, chosen)
            edges.append(Edge(role, chosen, "chosen", reason, caution))
            notes.append(f"{role}: {groups.labels[chosen]}: {reason}")
        elif choice.by_hand[row]:
            edges.append(Edge(role, NONE, "none", f"no {role}, by hand", caution=True))
            notes.append(edges[-1].reason)
        elif nearest != NONE:
            reason = "; ".join(fit_of(linking, role, row, nearest).misses)
            if role == "dark" and reason.startswith("exposure") and ";" not in reason:
                reason += _unscaled(linking, row)
            edges.append(Edge(role, nearest, "broken", reason))
            broken.setdefault(reason, []).append((role, nearest))
        elif (already := _already(str(linking.lights.calibrated[row]), role)) is not None:
            edges.append(Edge(role, NONE, "none", already))
            notes.append(already)
        elif role != "bias" or linking.choices.dark.group[row] == NONE:
            what = f"no {role} frames of this camera"
            edges.append(Edge(role, NONE, "missing", what, caution=True))
        if near != NONE:
            reason = "; ".join(fit_of(linking, role, row, near).misses)
            edges.append(Edge(role, near, "near", reason))
            notes.append(f"near miss: {groups.labels[near]}: {reason}")
    missing = [e.role for e in edges if e.verdict == "missing"]
    if len(missing) == len(ROLES):
        notes.append("no calibration frames of this camera: taken as it is")
    elif missing:
        notes.append(f"no {' or '.join(missing)} frames of this camera")
    # A frame of another size fits nothing for one reason: said once.
    problems = [
        f"no {' or '.join(r for r, _ in roles)} fits; nearest: {groups.labels[roles[0][1]]}: {reason}"
        for reason, roles in broken.items()
    ]
    flat = int(linking.choices.flat.group[row])
    if flat != NONE:
        edge_of_flat = made_with[flat]
        if edge_of_flat is not None and edge_of_flat.verdict == "broken":
            problems.append(
                f"{groups.labels[flat]} has no flat-dark, bias or dark that fits; nearest: "
                f"{groups.labels[edge_of_flat.to]}: {edge_of_flat.reason}"
            )
        elif edge_of_flat is not None and edge_of_flat.caution:
            to = f"{groups.labels[edge_of_flat.to]}: " if edge_of_flat.to != NONE else ""
            notes.append(f"{groups.labels[flat]}: {to}{edge_of_flat.reason}")
    scaled = bool(linking.choices.scaled[row])
    return LightGroup(label, rows, facts, tuple(edges), scaled, tuple(problems), tuple(notes))


def _spokesman(linking: Linking, rows: Rows) -> int:
    """The light whose numbers are told for its group: the one furthest from its dark in temperature."""
    dark = int(linking.choices.dark.group[rows[0]])
    warm = linking.lights.temperature[rows]
    known = warm[np.isfinite(warm)]
    aim = linking.groups.facts.temperature[dark] if dark != NONE else (np.median(known) if known.size else 0.0)
    off = np.nan_to_num(np.abs(warm - aim), nan=-1.0)
    furthest = rows[off == off.max()]
    return int(furthest[np.argmin(linking.lights.content[furthest])])


def _unscaled(linking: Linking, row: int) -> str:
    """Why a dark that only differs in exposure is not scaled."""
    if linking.scale == "never":
        return ", and scale_darks is never"
    if linking.choices.bias.group[row] == NONE:
        return ", and to scale it takes a bias"
    return f", more than {number(linking.rules.greatest_scale)} × shorter"


def _already(calibrated: str, role: str) -> str | None:
    """Note for a light that was calibrated before it came here."""
    if role in calibrated or (role == "bias" and "dark" in calibrated):
        return f"{role} taken off already ({calibrated})"
    return None
