"""The rules links are made by: what is grouped, what may differ, what is preferred; skyloom's own here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.calibration.groups import Rows, clusters, part
from skyloom.ops.calibration.link_facts import Facts, Numbers
from skyloom.ops.calibration.matching import OLD_DARK, WEIGHTS, Allowance, Allowances

IGNORABLE = tuple(name for name in WEIGHTS if name not in ("size", "plane"))
"""Facts a user may have left out of all comparisons."""

GREATEST_SCALE = 2.0
"""A dark is scaled up by at most this factor of exposure: beyond, its noise outweighs what it takes off."""
FOCAL_LENGTH = 0.05
"""Part by which focal lengths of one telescope, as headers state them, differ at most; a reducer changes more."""
WARM_BIAS = 10.0
"""Degrees from which a bias, or the short dark of a flat, of another temperature is told as a compromise."""


@dataclass(frozen=True)
class Tolerances:
    """What a user may set (see `link`)."""

    temperature: float = 2.0
    exposure: float = 0.05
    exposure_relative: float = 0.02
    flat_dark: float = 0.5
    rotation: float = 5.0
    flat_age: float = math.inf
    dark_age: float = math.inf
    ignore: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Rule:
    """How a calibration group of some kinds is chosen."""

    kinds: tuple[str, ...]
    allowances: Allowances
    order: tuple[str, ...]
    """Keys of `matching.order_keys`, most important first."""


@dataclass(frozen=True)
class Rules:
    """A set of rules."""

    name: str
    dark: Rule
    """For lights."""
    flat: Rule
    bias: Rule
    """For lights, darks and flats."""
    flat_dark: Rule
    """For flats: as long as the flat."""
    last_dark: Rule
    """For flats that have neither that nor a bias: any dark is nearer to the truth than none."""
    group: Callable[[Facts, Rows], list[Rows]]
    """Parts calibration frames (their rows) into groups."""
    group_lights: Callable[[Facts, Rows], list[Rows]]
    """Parts lights into groups that are told as one."""
    prepare: Callable[[Facts], Facts]
    """Facts as these rules see them."""
    scale_all: bool = False
    """Whether darks that may be scaled all are, also those of the exposure of the light."""
    greatest_scale: float = GREATEST_SCALE


def skyloom_rules(tolerances: Tolerances) -> Rules:
    """Rules of skyloom: everything that changes what a pixel would have shown must agree.

    Notes
    -----
    Bias and dark: camera, size, binning, Bayer pattern, gain, offset; dark also temperature and exposure. Flat:
    camera, telescope, focal length, size, binning, filter, rotation; not gain (a flat is a ratio). Of those that
    fit: what is known before what is not, then for darks exposure, temperature, those not too old, masters, age;
    for flats the nearest night, then rotation, gain, masters.
    """
    t = tolerances
    any_ = math.inf
    sensor = {
        "camera": Allowance(),
        "size": Allowance(),
        "binning": Allowance(unknown="one side"),
        "plane": Allowance(unknown="silent"),
        "bayer": Allowance(unknown="silent"),
    }
    settings = {
        "gain": Allowance(limit=1e-3),
        "offset": Allowance(limit=1e-3, unknown="one side"),
        # A camera goes from telescope to telescope, and its darks with it.
        "telescope": Allowance(any_, tell=0.0, unknown="silent"),
    }
    exposure = Allowance(t.exposure, relative=t.exposure_relative)
    flat_dark = Allowance(t.flat_dark, relative=t.exposure_relative)
    # Bias hardly knows the temperature, nor does the short dark of a flat.
    cold = Allowance(any_, tell=max(t.temperature, WARM_BIAS))
    dark_age = Allowance(t.dark_age, tell=OLD_DARK, unknown="silent")
    short = {**sensor, **settings, "temperature": cold, "age": dark_age}
    optics = {
        "telescope": Allowance(unknown="one side"),
        "focal length": Allowance(0.0, relative=FOCAL_LENGTH, unknown="one side"),
        "filter": Allowance(),
        "rotation": Allowance(t.rotation, unknown="one side"),
        "age": Allowance(t.flat_age, tell=0.0),
        "gain": Allowance(any_, unknown="silent"),
    }
    dark_rule = {
        **sensor,
        **settings,
        "exposure": exposure,
        "temperature": Allowance(t.temperature),
        "age": dark_age,
    }
    order_dark = ("unknown", "telescope", "scaled", "exposure", "temperature", "old", "master", "age")
    return Rules(
        name="skyloom",
        dark=Rule(("dark",), _without(dark_rule, t.ignore), _kept(order_dark, t.ignore)),
        flat=Rule(
            ("flat",),
            _without({**sensor, **optics}, t.ignore),
            ("unknown", "age", "rotation", "gain", "master"),
        ),
        bias=Rule(
            ("bias",), _without(short, t.ignore), ("unknown", "telescope", "temperature", "old", "master", "age")
        ),
        flat_dark=Rule(
            ("flatdark", "dark"),
            _without({**short, "exposure": flat_dark}, t.ignore),
            ("unknown", "telescope", "flatdark", "exposure", "temperature", "old", "master", "age"),
        ),
        last_dark=Rule(
            ("flatdark", "dark"),
            _without({**short, "exposure": Allowance(any_, tell=t.flat_dark)}, t.ignore),
            ("unknown", "telescope", "exposure", "temperature", "old", "master", "age"),
        ),
        group=lambda facts, rows: _group(facts, rows, t),
        group_lights=lambda facts, rows: _group_lights(facts, rows, t),
        prepare=lambda facts: facts,
    )


def _without(allowances: Mapping[str, Allowance], ignore: frozenset[str]) -> Allowances:
    return {name: a for name, a in allowances.items() if name not in ignore}


def _kept(order: tuple[str, ...], ignore: frozenset[str]) -> tuple[str, ...]:
    return tuple(k for k in order if not (k == "scaled" and "exposure" in ignore))


# --- grouping ---


def codes(facts: Facts, rows: Rows, names: tuple[str, ...], ignore: frozenset[str] = frozenset()) -> Rows:
    """Rows with equal facts get equal numbers; what is not known is a value of its own."""
    code = np.zeros(rows.size, dtype=np.int64)
    for name in names:
        if name in ignore:
            continue
        column = facts.text(name) if getattr(facts, name).dtype.kind == "U" else getattr(facts, name)
        _, value = np.unique(column[rows], return_inverse=True)  # NaN equal each other here
        _, code = np.unique(np.stack([code, value]), axis=1, return_inverse=True)
    return code.astype(np.int64)


def _group(facts: Facts, rows: Rows, tolerances: Tolerances) -> list[Rows]:
    """Groups of calibration frames that no light could tell apart."""
    t = tolerances
    equal = ("kind", "camera", "telescope", "height", "width", "binning", "plane", "bayer", "gain", "offset")
    done: list[Rows] = []
    for some in part([rows] if rows.size else [], lambda r: codes(facts, r, equal, t.ignore)):
        if facts.kind[some[0]] == "flat":
            fine = part([some], lambda r: codes(facts, r, ("filter", "night", "turn"), t.ignore))
            if "rotation" not in t.ignore:
                fine = part(fine, lambda r: turned(facts, r, t.rotation))
            done += part(fine, lambda r: clusters(facts.focal_length[r], lambda v: FOCAL_LENGTH * float(v.max())))
            continue
        parts = [some]
        if facts.kind[some[0]] != "bias":
            parts = part(parts, lambda r: clusters(facts.exposure[r], exposure_limit(t)))
        if "temperature" not in t.ignore:
            parts = part(parts, lambda r: clusters(facts.temperature[r], lambda v: t.temperature))
        if math.isfinite(t.dark_age):
            parts = part(parts, lambda r: clusters(facts.night[r], lambda v: t.dark_age))
        done += parts
    return done


def exposure_limit(tolerances: Tolerances) -> Callable[[Numbers], float]:
    """Tolerance of exposures at their size."""
    return lambda v: max(tolerances.exposure, tolerances.exposure_relative * float(v.max()))


def turned(facts: Facts, rows: Rows, limit: float) -> NDArray[np.int64]:
    """Cluster rotations of rows with the same `turn`."""
    return clusters(facts.rotation[rows], lambda v: limit, turn=float(facts.turn[rows[0]]))


def _group_lights(facts: Facts, rows: Rows, tolerances: Tolerances) -> list[Rows]:
    t = tolerances
    equal = (
        *("camera", "telescope", "height", "width", "binning", "bayer", "filter", "plane"),
        *("gain", "offset", "night", "turn", "calibrated", "master"),
    )
    parts = part([rows] if rows.size else [], lambda r: codes(facts, r, equal))
    parts = part(parts, lambda r: clusters(facts.exposure[r], exposure_limit(t)))
    parts = part(parts, lambda r: clusters(facts.temperature[r], lambda v: t.temperature))
    return part(parts, lambda r: turned(facts, r, t.rotation))
