"""Groups: calibration frames that are averaged into one master, and lights that get the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.link_facts import Facts, Numbers
from skyloom.ops.calibration.words import celsius, nights, number, plural, seconds, unlike

Rows = NDArray[np.int64]
Limit = Callable[[Numbers], float]
"""Tolerance at a number of (sorted) values."""

KIND_ORDER = ("bias", "dark", "flatdark", "flat")
MIXED_TEMPERATURE = 4.0
"""Degrees between the coldest and the warmest dark of a group from which it is told as mixed."""
KIND_WORDS = {"flatdark": "flat-dark"}


@dataclass(frozen=True)
class Groups:
    """Groups of calibration frames in an order that depends on what they hold alone."""

    facts: Facts
    """A row a group: middle values, as the rules see them; `content` = key."""
    shown: Facts
    """The same as the session has it."""
    members: tuple[Rows, ...]
    """Rows of the session."""
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.members)

    def of_kind(self, *kinds: str) -> Rows:
        """Rows of the groups of these kinds."""
        return np.flatnonzero(np.isin(self.facts.kind, kinds))


def clusters(values: Numbers, limit: Limit, *, turn: float = 0.0) -> NDArray[np.int64]:
    """Cluster numbers that lie close together.

    Parameters
    ----------
    values
        n numbers; NaN are a cluster of their own.
    limit
        How far apart the values of a cluster may be.
    turn
        Values repeat after this much (degrees of a circle); 0 = they do not.

    Returns
    -------
    array of int
        Cluster of each value, numbered from 0 by value.

    Notes
    -----
    A cluster that is too wide is parted at its widest gap (of equal gaps the one nearest its middle), until none
    is. So the order of the values does not matter. With the tolerance of the links as the limit, what equals one
    of the values is within the tolerance of their middle.
    """
    known = np.isfinite(values)
    label = np.full(values.size, -1, dtype=np.int64)
    distinct, inverse = np.unique(np.mod(values[known], turn) if turn else values[known], return_inverse=True)
    shift = 0
    if turn and distinct.size > 1:
        # Begin after the widest gap of the circle.
        gaps = np.diff(np.append(distinct, distinct[0] + turn))
        shift = (int(np.argmax(gaps)) + 1) % distinct.size
        distinct = np.concatenate([distinct[shift:], distinct[:shift] + turn])
    place = np.zeros(distinct.size, dtype=np.int64)
    cuts = _cuts(distinct, limit)
    for cut in cuts:
        place[cut:] += 1
    label[known] = np.roll(place, shift)[inverse]
    label[~known] = len(cuts) + 1 if distinct.size else 0
    return label


def _cuts(values: Numbers, limit: Limit) -> list[int]:
    """Starts of all clusters but the first, of sorted distinct values."""
    cuts, waiting = [], [(0, values.size)]
    while waiting:
        low, high = waiting.pop()
        part = values[low:high]
        if part.size < 2 or part[-1] - part[0] <= limit(part) * (1 + 1e-9):
            continue
        gaps = np.diff(part)
        widest = np.flatnonzero(gaps >= gaps.max() * (1 - 1e-9))
        middle = (part[0] + part[-1]) / 2
        edges = (part[widest] + part[widest + 1]) / 2
        cut = low + 1 + int(widest[np.argmin(np.abs(edges - middle))])
        cuts.append(cut)
        waiting += [(low, cut), (cut, high)]
    return sorted(cuts)


def part(rows: Sequence[Rows], keys: Callable[[Rows], NDArray[np.int64] | NDArray[np.str_]]) -> list[Rows]:
    """Each set of rows parted by a key."""
    parts = []
    for some in rows:
        key = keys(some)
        parts += [some[key == k] for k in np.unique(key)]
    return parts


def make_groups(facts: Facts, shown: Facts, members: Sequence[Rows], *, single: Rows) -> Groups:
    """Groups of given members; `single` rows (masters) are each one of their own.

    `facts` are as the rules see them, `shown` as labels show them.
    """
    all_members = [np.sort(m) for m in (*members, *single.reshape(-1, 1)) if m.size]
    rows = [_middle(facts, m) for m in all_members]
    order = sorted(range(len(rows)), key=lambda i: _place(rows[i]))
    table = _stack(facts, [rows[i] for i in order])
    ordered = tuple(all_members[i] for i in order)
    told = table if shown is facts else replace(middle_facts(shown, ordered), kind=table.kind)
    return Groups(table, told, ordered, tuple(_labels(told, ordered)))


def middle_facts(facts: Facts, members: Sequence[Rows]) -> Facts:
    """Facts of groups of frames: middle values of numbers, and what texts they agree in."""
    return _stack(facts, [_middle(facts, m) for m in members])


def _middle(facts: Facts, rows: Rows) -> Facts:
    """Facts of a group as a table of one row."""
    frames = facts.take(rows)
    first = frames.take([int(np.argmin(frames.content))])
    columns = {f.name: getattr(first, f.name) for f in fields(Facts)}
    for name in ("exposure", "temperature", "focal_length"):
        columns[name] = np.array([_median(getattr(frames, name))])
    for name in ("gain", "offset"):
        # Settings, not measurements: between two of them there is nothing.
        setting = np.unique(getattr(frames, name))
        columns[name] = setting if setting.size == 1 else np.array([np.nan])
    columns["rotation"] = np.array([_circular_middle(frames.rotation)])
    known = frames.night[np.isfinite(frames.night)]
    columns["night"] = np.array([known.min() if known.size else np.nan])
    columns["last_night"] = np.array([known.max() if known.size else np.nan])
    for name in ("camera", "telescope", "binning", "bayer", "filter", "band", "plane", "calibrated"):
        if np.unique(frames.text(name)).size > 1:
            columns[name] = np.array([""])
    columns["content"] = np.array([_key(str(first.kind[0]), frames.content.tolist())])
    return Facts(**columns)


def mixed_settings(facts: Facts, rows: Rows) -> str:
    """What frames of one group should share and do not, in words: rules may not look at all of it."""
    words = []
    for name, values in (("gain", facts.gain[rows]), ("offset", facts.offset[rows])):
        known = np.unique(values[np.isfinite(values)])
        if known.size > 1:
            words.append(f"{name} {' and '.join(number(v) for v in known)}")
    warm = facts.temperature[rows]
    warm = warm[np.isfinite(warm)]
    if facts.kind[rows[0]] == "dark" and warm.size and np.ptp(warm) > MIXED_TEMPERATURE:
        words.append(f"{number(warm.min())} to {number(warm.max())} °C")
    if np.unique(facts.text("camera")[rows]).size > 1:
        words.append("cameras " + " and ".join(sorted(set(facts.camera[rows].tolist()))))
    return f"mixes {', '.join(words)}" if words else ""


def _median(values: Numbers) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else np.nan


def _circular_middle(values: Numbers) -> float:
    known = values[np.isfinite(values)]
    if not known.size:
        return np.nan
    # Members lie close together: measured from one of them they do not wrap.
    start = known.min()
    return float((start + np.median((known - start + 180.0) % 360.0 - 180.0)) % 360.0)


def _key(kind: str, contents: list[str]) -> str:
    return blake2b("\n".join([kind, *sorted(contents)]).encode(), digest_size=8).hexdigest()


def _stack(facts: Facts, rows: Sequence[Facts]) -> Facts:
    if not rows:
        return facts.take([])
    return Facts(**{f.name: np.concatenate([getattr(r, f.name) for r in rows]) for f in fields(Facts)})


def _place(row: Facts) -> tuple[object, ...]:
    """What a group is sorted by: never a name of a file, so that renaming changes no index."""
    values = (row.exposure, row.gain, row.temperature, row.night)
    return (
        KIND_ORDER.index(str(row.kind[0])),
        str(row.text("camera")[0]),
        str(row.filter[0]),
        *(float(np.nan_to_num(v[0], nan=np.inf)) for v in values),
        bool(row.master[0]),
        str(row.content[0]),
    )


# --- labels ---


def _labels(table: Facts, members: Sequence[Rows]) -> list[str]:
    short = []
    for i in range(len(table)):
        kind = str(table.kind[i])
        words = ["master"] if table.master[i] else []
        words.append(KIND_WORDS.get(kind, kind))
        facts = settings(table, i)
        if kind == "flat":
            facts = [nights(float(table.night[i]), float(table.last_night[i])), *facts]
            words += [str(table.filter[i])] if table.filter[i] else []
        elif kind != "bias" and np.isfinite(table.exposure[i]):
            words.append(seconds(float(table.exposure[i])))
        short.append(", ".join([" ".join(words), *(f for f in facts if f)]))
    different = unlike(short, [further(table, i) for i in range(len(table))])
    return [
        label if table.master[i] else f"{label}, {plural(members[i].size, 'frame')}"
        for i, label in enumerate(different)
    ]


def settings(table: Facts, row: int) -> list[str]:
    """Temperature and gain in words; "" where not known. A flat's temperature tells nothing."""
    warm, gain = float(table.temperature[row]), float(table.gain[row])
    return [
        celsius(warm) if np.isfinite(warm) and table.kind[row] != "flat" else "",
        f"gain {number(gain)}" if np.isfinite(gain) else "",
    ]


def further(table: Facts, row: int) -> list[str]:
    """Facts that tell groups of the same label from each other, most telling first."""

    def known(value: float, text: str) -> str:
        return text if np.isfinite(value) else ""

    warm, offset, angle, focal = (
        float(c[row]) for c in (table.temperature, table.offset, table.rotation, table.focal_length)
    )
    return [
        str(table.camera[row]),
        str(table.telescope[row]),
        f"{table.width[row]} × {table.height[row]}",
        f"binning {table.binning[row]}" if table.binning[row] else "",
        str(table.plane[row] or table.bayer[row]),
        known(offset, f"offset {number(offset)}"),
        known(angle, f"rotation {number(angle)}°"),
        known(focal, f"{number(focal)} mm"),
        nights(float(table.night[row]), float(table.last_night[row])),
        known(warm, f"{number(warm)} °C"),
    ]
