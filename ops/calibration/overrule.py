"""Links set by hand: what a user orders in the parameter `force` of `link`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from skyloom.ops.calibration.choices import Orders
from skyloom.ops.calibration.groups import Groups, Rows
from skyloom.ops.calibration.link_facts import Facts
from skyloom.ops.errors import ConfigError
from skyloom.ops.registry import suggest

ROLES = {"bias": ("bias",), "dark": ("dark", "flatdark"), "flat": ("flat",)}
EXAMPLE = "[{lights: 'M31_Ha_*', dark: 'dark 300 s*'}, {flats: 'flat L*', bias: none}]"


def read_orders(force: Sequence[Any], facts: Facts, lights: Rows, groups: Groups) -> tuple[Orders, Orders]:
    """What is ordered for lights (by row of `lights`) and for groups of flats (by group).

    Parameters
    ----------
    force
        Mappings: `lights` (pattern of their names) or `flats` (of the group's label or its members' names) to what
        is meant, and any of `bias`, `dark`, `flat`: pattern of the label or of members' names, or none. Patterns
        are those of file names (`*`, `?`, `[…]`), upper and lower case alike. Later ones overrule earlier ones.
    facts
        Of the frames of the session.
    lights
        Rows of the lights.
    groups
        The calibration groups.

    Raises
    ------
    ConfigError
        If an order is none, or a pattern matches nothing: it would be passed over in silence.
    """
    for_lights: dict[str, dict[int, Rows]] = {role: {} for role in ROLES}
    for_groups: dict[str, dict[int, Rows]] = {role: {} for role in ROLES}
    for order in force:
        target, roles = _checked(order)
        pattern = str(order[target])
        if target == "lights":
            into = for_lights
            rows = [i for i, row in enumerate(lights.tolist()) if _matches(str(facts.name[row]), pattern)]
            known = [str(facts.name[row]) for row in lights]
        else:
            into = for_groups
            rows = _named(pattern, facts, groups, ("flat",)).tolist()
            known = [groups.labels[i] for i in groups.of_kind("flat")]
        if not rows:
            raise ConfigError(f"force: no {target} match {pattern!r}{_shown(pattern, known)}")
        for role in roles:
            allowed = np.array([], dtype=np.int64)
            wanted = order[role]
            if wanted is not None and str(wanted).casefold() != "none":
                allowed = _named(str(wanted), facts, groups, ROLES[role])
                if not allowed.size:
                    there = [groups.labels[i] for i in groups.of_kind(*ROLES[role])]
                    raise ConfigError(f"force: no {role} matches {str(wanted)!r}{_shown(str(wanted), there)}")
            into[role].update(dict.fromkeys(rows, allowed))
    return for_lights, for_groups


def _checked(order: Any) -> tuple[str, list[str]]:
    """Whom an order concerns ("lights" or "flats") and the roles it sets."""
    if not isinstance(order, dict):
        raise ConfigError(f"force: {order!r} is no order; write for example {EXAMPLE}")
    for name in order:
        if name not in ("lights", "flats", *ROLES):
            raise ConfigError(f"force: {name!r} is unknown{suggest(str(name), ('lights', 'flats', *ROLES))}")
    targets = [t for t in ("lights", "flats") if t in order]
    roles = [r for r in ROLES if r in order]
    if len(targets) != 1 or not roles or (targets == ["flats"] and "flat" in roles):
        raise ConfigError(
            f"force: {order!r} should name lights (then bias, dark or flat) or flats (then bias or dark); "
            f"for example {EXAMPLE}"
        )
    return targets[0], roles


def _named(pattern: str, facts: Facts, groups: Groups, kinds: tuple[str, ...]) -> Rows:
    """Groups of these kinds whose label, or the name of a member, matches."""
    found = []
    for group in groups.of_kind(*kinds).tolist():
        names = [groups.labels[group], *facts.name[groups.members[group]].tolist()]
        if any(_matches(str(name), pattern) for name in names):
            found.append(group)
    return np.array(found, dtype=np.int64)


def _matches(text: str, pattern: str) -> bool:
    """Whether a pattern fits a text, or the last part of a path."""
    # A label's minus is a sign no keyboard has.
    text, pattern = text.casefold().replace("−", "-"), pattern.casefold().replace("−", "-")
    return fnmatchcase(text, pattern) or fnmatchcase(text.rpartition("/")[2], pattern)


def _shown(pattern: str, known: Sequence[str]) -> str:
    if len(known) > 5:
        return f"; there are {len(known)}, for example {', '.join(known[:3])}"
    return suggest(pattern, known)
