"""How well a calibration group fits: differences with their limits, the best group, and the reasons in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.groups import Groups
from skyloom.ops.calibration.link_facts import FULL_TURN, TEXTS, Facts
from skyloom.ops.calibration.words import number, plural

BLOCK = 256
"""Targets compared at a time: thousands of lights against a library of masters stay within megabytes."""

WEIGHTS = {
    "size": 64.0,
    "camera": 32.0,
    "telescope": 16.0,
    "focal length": 16.0,
    "binning": 16.0,
    "plane": 16.0,
    "bayer": 8.0,
    "filter": 8.0,
    "gain": 4.0,
    "offset": 4.0,
    "rotation": 2.0,
    "exposure": 1.0,
    "temperature": 1.0,
    "age": 0.5,
}
"""What counts when nothing fits and the nearest is named: another camera is further away than another exposure."""

NEGLIGIBLE = {"exposure": 0.1, "temperature": 0.5, "rotation": 1.0}
"""Differences that prefer no group to another (s, °C, degrees)."""

OLD_DARK = 180.0
"""Days after which the age of a dark or bias is told as a compromise: hot pixels come and go in months."""
NEAR = 3.0
"""A group is a near miss up to this many times a tolerance."""
_MEASURED = ("exposure", "temperature", "rotation", "age", "focal length")


@dataclass(frozen=True)
class Allowance:
    """What may differ in one fact."""

    limit: float = 0.0
    """Largest difference; inf = any, but told."""
    relative: float = 0.0
    """Limit as a fraction of the target's value, where that is more."""
    tell: float = math.inf
    """An allowed difference beyond this is told as a compromise."""
    unknown: Literal["told", "one side", "silent"] = "told"
    """Whether a group that does not say comes after those that do and is told: always, where only one of the two
    does not say, or never."""


Allowances = Mapping[str, Allowance]


@dataclass(frozen=True)
class Comparison:
    """Targets (T) against groups (G) in each fact (C)."""

    targets: Facts
    groups: Facts
    allowances: Allowances
    off: NDArray[np.float64]
    """(C, T, G); NaN = not known on one side or both."""
    limit: NDArray[np.float64]
    """(C, T, G)."""

    @property
    def fails(self) -> NDArray[np.bool_]:
        """(C, T, G): known and beyond the limit."""
        return np.asarray(self.off > self.limit * (1 + 1e-9))

    def of(self, name: str) -> NDArray[np.float64]:
        """Differences (T, G) in one fact; 0 where it is not compared."""
        names = list(self.allowances)
        shape = (len(self.targets), len(self.groups))
        return np.asarray(self.off[names.index(name)] if name in names else np.zeros(shape))

    @property
    def unknown(self) -> NDArray[np.float64]:
        """Number of facts not known (T, G) that ought to be."""
        counted = [a.unknown != "silent" for a in self.allowances.values()]
        return np.asarray(np.isnan(self.off[counted]).sum(axis=0), dtype=np.float64)

    @property
    def unrelated(self) -> NDArray[np.bool_]:
        """(T, G): of another camera and of another size; one of the two alone may be a mistake."""
        return np.asarray((self.of("camera") > 0) & (self.of("size") > 0))

    @property
    def distance(self) -> NDArray[np.float64]:
        """How far a group is from fitting (T, G); 0 = it fits."""
        weight = np.array([WEIGHTS[name] for name in self.allowances])[:, None, None]
        fails = self.fails
        with np.errstate(invalid="ignore"):
            # Below one: it orders groups that fail in the same facts by how much.
            excess = np.where(fails, self.off - self.limit, 0.0)
        excess = excess / (1.0 + excess)
        return np.asarray((weight * fails).sum(axis=0) + 0.4 * (weight * excess).sum(axis=0) / weight.sum())


def compare(
    targets: Facts, groups: Facts, allowances: Allowances, *, strict_telescope: NDArray[np.bool_] | None = None
) -> Comparison:
    """Compare targets with groups.

    Parameters
    ----------
    targets, groups
        T and G rows.
    allowances
        Facts to compare.
    strict_telescope
        Targets (T) whose camera's name does not tell two cameras apart, so that the telescope must.
    """
    shape = (len(allowances), len(targets), len(groups))
    off, limit = np.empty(shape), np.zeros(shape)
    for i, (name, allowance) in enumerate(allowances.items()):
        off[i] = _difference(name, targets, groups)
        limit[i] = allowance.limit
        if allowance.relative:
            values = np.nan_to_num(getattr(targets, name.replace(" ", "_")))
            limit[i] = np.maximum(limit[i], allowance.relative * np.abs(values)[:, None])
        if name == "telescope" and strict_telescope is not None:
            limit[i][strict_telescope] = 0.0
    return Comparison(targets, groups, allowances, off, limit)


def _difference(name: str, a: Facts, b: Facts) -> NDArray[np.float64]:
    """Differences of targets and groups, (T, G)."""
    if name == "size":
        other: NDArray[np.bool_] = (a.height[:, None] != b.height) | (a.width[:, None] != b.width)
        return other.astype(np.float64)
    if name in TEXTS:
        left, right = a.text(name)[:, None], b.text(name)[None, :]
        unknown = (left == "") | (right == "")
        if name in ("filter", "plane"):
            unknown &= left != right  # no filter on both sides is no gap in what is known
        return np.asarray(np.where(unknown, np.nan, left != right), dtype=np.float64)
    if name == "age":
        # Nights from the light to the span of the group's nights.
        before, after = b.night - a.night[:, None], a.night[:, None] - b.last_night
        return np.maximum(np.maximum(before, after), np.where(np.isnan(before), np.nan, 0.0))
    if name == "rotation":
        turn = a.turn[:, None]
        apart = np.mod(a.rotation[:, None] - b.rotation, turn)
        # A rotator's angle says nothing of an angle on the sky.
        return np.where(turn == b.turn, np.minimum(apart, turn - apart), np.nan)
    column = name.replace(" ", "_")
    left, right = getattr(a, column)[:, None], getattr(b, column)[None, :]
    return np.asarray(np.abs(left - right))


# --- choosing ---


@dataclass(frozen=True)
class Picked:
    """For each target a row of the groups, −1 for none."""

    best: NDArray[np.int64]
    nearest: NDArray[np.int64]
    """Where none fits: the one that is nearest to it, of the same camera or at least the same size."""
    near: NDArray[np.int64]
    """A group that misses in one measured fact by little."""


def order_keys(comparison: Comparison, order: Sequence[str]) -> list[NDArray[np.float64]]:
    """Keys (T, G) groups are preferred by, lowest first."""
    groups, shape = comparison.groups, (len(comparison.targets), len(comparison.groups))
    keys = []
    for name in order:
        key: NDArray[Any]
        if name == "unknown":
            key = comparison.unknown
        elif name == "master":
            key = np.broadcast_to(~groups.master, shape)
        elif name == "flatdark":
            key = np.broadcast_to(groups.kind != "flatdark", shape)
        elif name == "longest":
            key = np.broadcast_to(-np.nan_to_num(groups.exposure), shape)
        elif name == "old":
            key = comparison.of("age") > OLD_DARK
        elif name == "misfit":
            key = comparison.distance
        elif name == "scaled":
            index = list(comparison.allowances).index("exposure")
            key = comparison.fails[index]
        else:
            off = comparison.of(name)
            key = np.where(np.isnan(off), np.inf, np.floor(off / NEGLIGIBLE.get(name, 1e-9)))
        keys.append(np.asarray(key, dtype=np.float64))
    return keys


def pick(
    targets: Facts,
    groups: Groups,
    rows: NDArray[np.int64],
    allowances: Allowances,
    order: Sequence[str],
    *,
    waived: Sequence[str] = (),
    waive: NDArray[np.bool_] | None = None,
    strict_telescope: NDArray[np.bool_] | None = None,
) -> Picked:
    """Choose the group of each target.

    Parameters
    ----------
    targets
        T rows.
    groups, rows
        The groups, and which of them to choose from.
    allowances, order
        The rules: what may differ, and what is preferred.
    waived, waive
        Facts that need not fit where `waive` (T, number of rows; none = everywhere) says so.
    strict_telescope
        See `compare`.
    """
    count = len(targets)
    best, nearest, near = (np.full(count, -1, dtype=np.int64) for _ in range(3))
    if not rows.size:
        return Picked(best, nearest, near)
    candidates = groups.facts.take(rows)
    names = list(allowances)
    is_waived = np.array([n in waived for n in names])
    measured = np.array([n in _MEASURED for n in names])
    for start in range(0, count, BLOCK):
        block = slice(start, min(start + BLOCK, count))
        strict = None if strict_telescope is None else strict_telescope[block]
        comparison = compare(targets.take(block), candidates, allowances, strict_telescope=strict)
        fails = comparison.fails
        fits = np.asarray(~fails.any(axis=0))
        if is_waived.any():
            forgiven = ~fails[~is_waived].any(axis=0)
            fits |= forgiven if waive is None else forgiven & waive[block]
        chosen = _lowest(order_keys(comparison, order), fits)
        best[block] = np.where(chosen >= 0, rows[chosen], -1)
        closest = _lowest([comparison.distance, *order_keys(comparison, order)], ~comparison.unrelated)
        nearest[block] = np.where((chosen < 0) & (closest >= 0), rows[closest], -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            beyond = np.where(fails, comparison.off / np.maximum(comparison.limit, 1e-9), 0.0)
        misses: NDArray[np.bool_] = (
            (fails.sum(axis=0) == 1) & (fails & measured[:, None, None]).any(axis=0) & ~fits
        )
        missed = _lowest([beyond.max(axis=0)], misses & (beyond.max(axis=0) <= NEAR))
        near[block] = np.where((missed >= 0) & (chosen >= 0), rows[missed], -1)
    return Picked(best, nearest, near)


def _lowest(keys: Sequence[NDArray[np.float64]], allowed: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Of each row the allowed column with the lowest keys (the first of equals); −1 where none is allowed."""
    left = allowed.copy()
    for key in keys:
        masked = np.where(left, key, np.inf)
        left &= masked <= masked.min(axis=1, keepdims=True)
    return np.where(left.any(axis=1), left.argmax(axis=1), -1)


# --- words ---


@dataclass(frozen=True)
class Fit:
    """How one group fits one target, in words."""

    misses: tuple[str, ...]
    """Beyond a limit."""
    told: tuple[str, ...]
    """Allowed, but a compromise: a difference to know of, or a fact that is not known."""
    small: tuple[str, ...]
    """Well within."""

    @property
    def text(self) -> str:
        """All of it in one line."""
        return "; ".join((*self.misses, *self.told, *self.small)) or "same in all that counts"


def fit(
    targets: Facts,
    target: int,
    groups: Facts,
    group: int,
    allowances: Allowances,
    *,
    strict_telescope: bool = False,
) -> Fit:
    """Words for how a group (row) fits a target (row)."""
    strict = np.array([strict_telescope])
    pair = compare(targets.take([target]), groups.take([group]), allowances, strict_telescope=strict)
    misses, told, small, unknown = [], [], [], []
    for i, (name, allowance) in enumerate(allowances.items()):
        off, limit = float(pair.off[i, 0, 0]), float(pair.limit[i, 0, 0])
        if math.isnan(off):
            if allowance.unknown == "told" or (allowance.unknown == "one side" and _is_known(pair, name)):
                unknown.append({"age": "night"}.get(name, name))
        elif pair.fails[i, 0, 0]:
            misses.append(_words(name, pair, off, limit))
        elif off > max(allowance.tell, 1e-9):
            told.append(_words(name, pair, off, math.inf))
        elif off > 1e-9:
            small.append(_words(name, pair, off, math.inf))
    if unknown:
        told.append(f"{' and '.join(unknown)} not known")
    return Fit(tuple(misses), tuple(told), tuple(small))


def _is_known(pair: Comparison, name: str) -> bool:
    """Whether one of the two says something of the fact; an angle on the sky says nothing to one without."""
    sides = [s for s in (pair.targets, pair.groups) if name != "rotation" or s.turn[0] == FULL_TURN]
    return any(_value(side, name) != "" for side in sides)


def _value(row: Facts, name: str) -> str:
    """A fact of a table of one row, "" where not known."""
    if name == "size":
        return f"{row.width[0]} × {row.height[0]}"
    if name in TEXTS:
        return str(getattr(row, name)[0])
    value = float(getattr(row, {"age": "night"}.get(name, name.replace(" ", "_")))[0])
    return "" if math.isnan(value) else number(value)


_NAMES = {"bayer": "Bayer pattern", "plane": "colour", "size": "size"}
_UNITS = {"exposure": " s", "focal length": " mm"}


def _words(name: str, pair: Comparison, off: float, limit: float) -> str:
    """A difference in words: "temperature 5 °C off (tolerance 2)"."""
    if name == "temperature":
        return f"temperature {number(off)} °C off{_of_limit(limit)}"
    if name == "rotation":
        return f"rotated by {number(off)}°{_of_limit(limit)}"
    if name == "age":
        unit = "night" if pair.groups.kind[0] == "flat" else "day"
        return f"{plural(int(off), unit)} apart{_of_limit(limit, 'limit')}"
    unit = _UNITS.get(name, "")
    here, there = _value(pair.groups, name) or "none", _value(pair.targets, name) or "none"
    text = f"{_NAMES.get(name, name)} {here}{unit}, not {there}{unit}"
    return text + (_of_limit(limit, unit=unit) if name in _UNITS else "")


def _of_limit(limit: float, word: str = "tolerance", unit: str = "") -> str:
    return "" if math.isinf(limit) else f" ({word} {number(limit)}{unit})"
