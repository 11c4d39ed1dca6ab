"""Reasons of links in words: why a group is taken, what a flat is calibrated with, why a group serves nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.choices import NONE, GroupChoices, LightChoices
from skyloom.ops.calibration.groups import KIND_ORDER, Groups, Rows
from skyloom.ops.calibration.link_facts import Facts
from skyloom.ops.calibration.link_rules import Rule, Rules
from skyloom.ops.calibration.matching import Fit, compare, fit, order_keys
from skyloom.ops.calibration.words import night, number, plural

BLOCK_GROUPS = 32
"""Groups compared with all lights at a time."""
FEW = 5
"""A master of fewer frames adds visible noise to every light."""


@dataclass(frozen=True)
class Edge:
    """One line of the picture of links."""

    role: str
    to: int
    """Group, −1 for none."""
    verdict: str
    """chosen, near (a near miss), broken (there are frames, none fits), missing (there are none), or none (none is
    wanted)."""
    reason: str
    caution: bool = False
    """A compromise to know of."""


@dataclass(frozen=True)
class Linking:
    """All that the words are made of."""

    lights: Facts
    """As the rules see them."""
    shown: Facts
    """As the session has them."""
    groups: Groups
    mixed: tuple[str, ...]
    """Settings that differ inside a group, in words; "" for none."""
    rules: Rules
    scale: str
    choices: LightChoices
    own: GroupChoices
    strict: NDArray[np.bool_]
    """Lights whose camera's name does not tell two cameras apart."""
    strict_groups: NDArray[np.bool_]

    def rule(self, role: str) -> Rule:
        """Rule of a role of lights."""
        return {"bias": self.rules.bias, "dark": self.rules.dark, "flat": self.rules.flat}[role]


def fit_of(linking: Linking, role: str, row: int, group: int) -> Fit:
    """How a group fits a light in a role."""
    allowances, strict = linking.rule(role).allowances, bool(linking.strict[row])
    return fit(linking.lights, row, linking.groups.facts, group, allowances, strict_telescope=strict)


def chosen_reason(linking: Linking, role: str, row: int, group: int) -> tuple[str, bool]:
    """Why a light (row) has a group in a role, and whether that is a compromise."""
    how = fit_of(linking, role, row, group)
    choice = getattr(linking.choices, role)
    words = [*how.told, *how.small]
    caution = bool(how.told)
    if role == "dark" and linking.choices.scaled[row]:
        with np.errstate(invalid="ignore"):
            ratio = float(linking.lights.exposure[row] / linking.groups.facts.exposure[group])
        words = [f"to be scaled, by exposure × {number(ratio)}", *words]
        caution = True
    elif how.misses:
        words = [*how.misses, *words]
        caution = True
    when = float(linking.lights.night[row])
    first, last = linking.groups.facts.night[group], linking.groups.facts.last_night[group]
    if role == "flat" and (when < first or when > last):
        words = [f"there is none of {night(when)}", *words]
    if choice.by_hand[row]:
        words = ["by hand", *words]
    words += quality(linking, group)
    return "; ".join(words) or "same in all that counts", caution or bool(quality(linking, group))


def quality(linking: Linking, group: int) -> list[str]:
    """What is to be told of a group whatever it is for."""
    count = linking.groups.members[group].size
    few = count < FEW and not linking.groups.facts.master[group]
    words = [f"only {plural(int(count), 'frame')}: its noise goes into every light"] if few else []
    return words + ([linking.mixed[group]] if linking.mixed[group] else [])


def own_edges(linking: Linking, group: int, *, to_scale: bool) -> list[Edge]:
    """What a flat is calibrated with; the bias of a dark that is to be scaled."""
    if linking.groups.facts.kind[group] == "flat":
        edge = flat_edge(linking, group)
        return [] if edge is None else [edge]
    bias = int(linking.own.bias.group[group])
    if not to_scale or bias == NONE:
        return []
    how = _own_fit(linking, linking.rules.bias, group, bias)
    return [Edge("bias", bias, "chosen", how.text, bool(how.told))]


def flat_edge(linking: Linking, group: int) -> Edge | None:
    """What a flat is calibrated with; none where it needs nothing."""
    facts, own = linking.groups.facts, linking.own
    if facts.master[group] or facts.calibrated[group]:
        return None
    dark, bias = int(own.dark.group[group]), int(own.bias.group[group])
    if dark != NONE:
        rule = linking.rules.last_dark if own.last[group] or own.dark.by_hand[group] else linking.rules.flat_dark
        how = _own_fit(linking, rule, group, dark)
        words = ["by hand"] if own.dark.by_hand[group] else []
        if own.last[group]:
            words = ["for want of a flat-dark or bias"]
        text = "; ".join([*words, how.text])
        return Edge("dark", dark, "chosen", text, bool(how.told or how.misses))
    if bias != NONE:
        how = _own_fit(linking, linking.rules.bias, group, bias)
        return Edge("bias", bias, "chosen", how.text, bool(how.told or how.misses))
    if own.dark.by_hand[group] or own.bias.by_hand[group]:
        return None
    for role, choice, rule in (
        ("dark", own.dark, linking.rules.flat_dark),
        ("bias", own.bias, linking.rules.bias),
    ):
        nearest = int(choice.nearest[group])
        if nearest != NONE:
            return Edge(role, nearest, "broken", "; ".join(_own_fit(linking, rule, group, nearest).misses))
    return Edge("dark", NONE, "missing", "not calibrated: no flat-dark, bias or dark of this camera", caution=True)


def _own_fit(linking: Linking, rule: Rule, target: int, group: int) -> Fit:
    facts, strict = linking.groups.facts, bool(linking.strict_groups[target])
    return fit(facts, target, facts, group, rule.allowances, strict_telescope=strict)


_PREFERRED = {
    "unknown": "better known",
    "telescope": "of the same telescope",
    "flatdark": "a flat-dark",
    "scaled": "not to be scaled",
    "old": "younger",
    "exposure": "nearer in exposure",
    "temperature": "nearer in temperature",
    "rotation": "nearer in rotation",
    "gain": "of the same gain",
    "age": "nearer in time",
    "master": "a master",
    "longest": "longer",
}


def unused_reasons(linking: Linking, unused: Rows, labels: Sequence[str], rows: Sequence[int]) -> dict[int, str]:
    """Why groups serve nothing.

    Parameters
    ----------
    linking
        The links.
    unused
        The groups.
    labels, rows
        Labels of the groups of lights and a light of each.
    """
    groups, rules, reasons = linking.groups, linking.rules, {}
    for kind in KIND_ORDER:
        some = unused[groups.facts.kind[unused] == kind]
        if kind == "flatdark":
            flats = groups.of_kind("flat")
            targets, names = groups.facts.take(flats), [groups.labels[i] for i in flats]
            rule, strict, taken = rules.flat_dark, linking.strict_groups[flats], linking.own.dark.group[flats]
        else:
            targets, names = linking.lights.take(rows), list(labels)
            rule, strict = linking.rule(kind), linking.strict[rows]
            taken = getattr(linking.choices, kind).group[rows]
        for start in range(0, some.size, BLOCK_GROUPS):
            block = some[start : start + BLOCK_GROUPS]
            if not len(targets):
                reasons.update(dict.fromkeys(block.tolist(), "there is nothing for it to serve"))
                continue
            comparison = compare(targets, groups.facts.take(block), rule.allowances, strict_telescope=strict)
            distance = comparison.distance
            for group, nearest, off in zip(block, distance.argmin(axis=0), distance.min(axis=0), strict=True):
                target, to = targets.take([nearest]), str(names[nearest])
                if off > 0:
                    how = fit(target, 0, groups.facts, group, rule.allowances, strict_telescope=strict[nearest])
                    reasons[int(group)] = f"fits nothing; nearest: {to}: {'; '.join(how.misses)}"
                else:
                    why = _passed_over(groups, rule, target, int(group), int(taken[nearest]))
                    reasons[int(group)] = f"fits {to}, {why}"
    return reasons


def _passed_over(groups: Groups, rule: Rule, target: Facts, group: int, taken: int) -> str:
    """Why a group that fits is not taken."""
    if taken == NONE:
        return "whose dark contains the bias" if "bias" in rule.kinds else "which needs none"
    pair = compare(target, groups.facts.take([taken, group]), rule.allowances)
    for name, key in zip(rule.order, order_keys(pair, rule.order), strict=True):
        if key[0, 0] < key[0, 1]:
            return f"but {groups.labels[taken]} is {_PREFERRED[name]}"
    return f"but so does {groups.labels[taken]}"
