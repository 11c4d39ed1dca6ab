"""Which calibration group each light, flat and dark gets: the numbers behind the links, before any words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.groups import Groups, Rows
from skyloom.ops.calibration.link_facts import Facts
from skyloom.ops.calibration.link_rules import Rule, Rules, codes
from skyloom.ops.calibration.matching import Picked, pick
from skyloom.ops.errors import ConfigError

NONE = -1


@dataclass(frozen=True)
class Choice:
    """For each of n targets the group of one role; group indices, −1 for none."""

    group: NDArray[np.int64]
    nearest: NDArray[np.int64]
    """Where no group is chosen though there are some: the one nearest to fitting."""
    near: NDArray[np.int64]
    """A near miss beside the chosen one."""
    by_hand: NDArray[np.bool_]

    def replaced(self, rows: NDArray[np.bool_], group: NDArray[np.int64]) -> Choice:
        """Choice with these rows set by hand."""
        return Choice(
            np.where(rows, group, self.group),
            np.where(rows, NONE, self.nearest),
            np.where(rows, NONE, self.near),
            self.by_hand | rows,
        )

    def dropped(self, rows: NDArray[np.bool_]) -> Choice:
        """Choice without a group, and without need of one, in these rows."""
        return Choice(
            np.where(rows, NONE, self.group),
            np.where(rows, NONE, self.nearest),
            np.where(rows, NONE, self.near),
            self.by_hand & ~rows,
        )


@dataclass(frozen=True)
class LightChoices:
    """What the lights get."""

    bias: Choice
    dark: Choice
    flat: Choice
    scaled: NDArray[np.bool_]
    """The dark is to be scaled to the light."""


@dataclass(frozen=True)
class GroupChoices:
    """What calibration groups get: flats a bias or a dark, darks a bias (to scale them)."""

    bias: Choice
    dark: Choice
    last: NDArray[np.bool_]
    """The flat has a dark for want of anything better."""


Orders = Mapping[str, Mapping[int, Rows]]
"""By role and row of the target the groups a user allows; none = no group at all."""


def choose_for_groups(groups: Groups, rules: Rules, orders: Orders, strict: NDArray[np.bool_]) -> GroupChoices:
    """Bias and darks of flats and darks. A given master is taken as it is and gets neither."""
    targets, count = groups.facts, len(groups)
    raw = ~targets.master & (targets.calibrated == "")
    is_flat, is_dark = raw & (targets.kind == "flat"), raw & (targets.kind == "dark")

    def choose(rule: Rule, rows: NDArray[np.bool_]) -> Choice:
        index = np.flatnonzero(rows)
        some = _pick(targets.take(index), groups, rule, strict[index])
        whole = [np.full(count, NONE, dtype=np.int64) for _ in range(3)]
        for column, values in zip(whole, (some.best, some.nearest, some.near), strict=True):
            column[index] = values
        return Choice(whole[0], whole[1], whole[2], np.zeros(count, dtype=np.bool_))

    bias = choose(rules.bias, is_flat | is_dark)
    dark = choose(rules.flat_dark, is_flat)
    last = choose(rules.last_dark, is_flat & (dark.group == NONE) & (bias.group == NONE))
    is_last = last.group != NONE
    dark = Choice(np.where(is_last, last.group, dark.group), dark.nearest, dark.near, dark.by_hand)
    bias, dark = (
        by_hand(choice, targets, groups, rule, orders.get(role, {}))
        for choice, rule, role in ((bias, rules.bias, "bias"), (dark, rules.last_dark, "dark"))
    )
    # What is dark of a flat contains its bias; a bias does for a flat that has no dark.
    has_dark = is_flat & (dark.group != NONE)
    bias = bias.dropped(has_dark & ~bias.by_hand)
    dark = dark.dropped(is_flat & (bias.group != NONE) & ~dark.by_hand & ~has_dark)
    return GroupChoices(bias, dark, is_last & ~dark.by_hand)


def choose_for_lights(
    lights: Facts,
    groups: Groups,
    rules: Rules,
    own: GroupChoices,
    orders: Orders,
    *,
    scale: str,
    strict: NDArray[np.bool_],
) -> LightChoices:
    """Bias, dark and flat of lights.

    Parameters
    ----------
    lights
        n lights.
    groups, own
        Calibration groups and what they get themselves.
    rules
        What may differ and what is preferred.
    orders
        Links set by hand.
    scale
        "never", "when_needed" or "always" (see `link`).
    strict
        Lights (n) whose camera's name does not tell two cameras apart.
    """
    distinct, inverse = _distinct(lights, strict)
    targets, strict_targets = lights.take(distinct), strict[distinct]
    bias = _pick(targets, groups, rules.bias, strict_targets)
    flat = _pick(targets, groups, rules.flat, strict_targets)
    rows = groups.of_kind(*rules.dark.kinds)
    may = np.zeros((len(targets), rows.size), dtype=np.bool_)
    if scale != "never":
        dark_exposure = groups.facts.exposure[rows]
        with np.errstate(invalid="ignore"):
            short = targets.exposure[:, None] <= rules.greatest_scale * dark_exposure
        has_bias = (own.bias.group[rows] != NONE) | groups.facts.master[rows]
        may = (bias.best != NONE)[:, None] & has_bias & short & (dark_exposure > 0)
    dark = _pick(targets, groups, rules.dark, strict_targets, waived=("exposure",), waive=may)
    choices = {}
    for role, picked in (("bias", bias), ("dark", dark), ("flat", flat)):
        untouched = np.zeros(len(lights), dtype=np.bool_)
        choices[role] = Choice(picked.best[inverse], picked.nearest[inverse], picked.near[inverse], untouched)
    at = {int(g): i for i, g in enumerate(rows)}
    column = np.array([at.get(int(g), 0) for g in dark.best], dtype=np.int64)
    scaled = np.zeros(len(lights), dtype=np.bool_)
    if rows.size:
        off = np.abs(targets.exposure - groups.facts.exposure[dark.best])
        allowance = rules.dark.allowances.get("exposure")
        limit = 0.0 if allowance is None else np.maximum(allowance.limit, allowance.relative * targets.exposure)
        needed = (off > limit) | (scale == "always") | rules.scale_all
        scaled = (may[np.arange(len(targets)), column] & (dark.best != NONE) & needed)[inverse]
    hand = {
        role: by_hand(choices[role], lights, groups, rule, orders.get(role, {}))
        for role, rule in (("bias", rules.bias), ("dark", rules.dark), ("flat", rules.flat))
    }
    scaled &= ~hand["dark"].by_hand
    # A dark as long as the light contains the bias; one to be scaled must be rid of it first.
    contained = (hand["dark"].group != NONE) & ~scaled & ~hand["bias"].by_hand
    done = {step: np.char.find(lights.calibrated, step) >= 0 for step in ("bias", "dark", "flat")}
    no_bias = contained | done["bias"] | done["dark"]
    return LightChoices(
        bias=hand["bias"].dropped(no_bias),
        dark=hand["dark"].dropped(done["dark"]),
        flat=hand["flat"].dropped(done["flat"]),
        scaled=scaled & ~done["dark"],
    )


def by_hand(choice: Choice, targets: Facts, groups: Groups, rule: Rule, orders: Mapping[int, Rows]) -> Choice:
    """Choice with what a user ordered: of the groups a target may have the one that fits best.

    Raises
    ------
    ConfigError
        If none of them has the size of the target: no arithmetic joins their pixels.
    """
    same: dict[bytes, list[int]] = {}
    for row, allowed in orders.items():
        same.setdefault(allowed.tobytes(), []).append(row)
    for rows in same.values():
        allowed, index = orders[rows[0]], np.array(rows, dtype=np.int64)
        group = np.full(len(targets), NONE, dtype=np.int64)
        if allowed.size:
            fits_not = tuple(name for name in rule.allowances if name != "size")
            order = ("misfit", *rule.order)
            picked = pick(targets.take(index), groups, allowed, rule.allowances, order, waived=fits_not)
            lacking = index[picked.best == NONE]
            if lacking.size:
                light, other = targets.take(lacking[:1]), groups.facts.take(allowed[:1])
                raise ConfigError(
                    f"force: {groups.labels[allowed[0]]} has {other.width[0]} × {other.height[0]} pixels, "
                    f"{light.name[0]} has {light.width[0]} × {light.height[0]}"
                )
            group[index] = picked.best
        touched = np.zeros(len(targets), dtype=np.bool_)
        touched[index] = True
        choice = choice.replaced(touched, group)
    return choice


def _pick(
    targets: Facts,
    groups: Groups,
    rule: Rule,
    strict: NDArray[np.bool_],
    waived: tuple[str, ...] = (),
    waive: NDArray[np.bool_] | None = None,
) -> Picked:
    return pick(
        targets,
        groups,
        groups.of_kind(*rule.kinds),
        rule.allowances,
        rule.order,
        waived=waived,
        waive=waive,
        strict_telescope=strict,
    )


_COMPARED = (
    *("camera", "telescope", "height", "width", "binning", "bayer", "filter", "plane", "gain", "offset"),
    *("exposure", "temperature", "rotation", "turn", "focal_length", "night"),
)


def _distinct(lights: Facts, strict: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Rows of lights that differ in facts, and for each light which of them it equals."""
    code = 2 * codes(lights, np.arange(len(lights)), _COMPARED) + strict
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return first.astype(np.int64), inverse.astype(np.int64)
