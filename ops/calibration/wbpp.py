"""The rules of PixInsight's WeightedBatchPreProcessing: what it compares, and what it does not but skyloom tells.

Groups: kind (a flat-dark is a dark), size, binning; darks within 10 s of exposure; flats of one filter; lights of
one filter within 2 s. Dark of a light: the closest exposure, however far (unknown exposure: the longest dark).
Dark of a flat: within 0.5 s where there is a bias, else the closest. Flat: filter, size, binning, colour or mono.
Camera, gain, offset, temperature, night and rotation are not compared. As WBPP 3.0 does it without grouping
keywords, described from its behaviour; no code of it is used.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from skyloom.ops.calibration.groups import Rows, clusters, part
from skyloom.ops.calibration.link_facts import Facts
from skyloom.ops.calibration.link_rules import Rule, Rules, Tolerances, codes
from skyloom.ops.calibration.matching import Allowance

DARK_SPAN, LIGHT_SPAN = 10.0, 2.0
"""Seconds between the shortest and the longest exposure of a group."""
FLAT_DARK = 0.5
"""Seconds between a flat and its dark where there is a bias."""
WARNED_EXPOSURE = 15.0
"""Seconds between light and dark from which WBPP warns."""


def wbpp_rules(tolerances: Tolerances) -> Rules:
    """Rules of WBPP; of the tolerances only `temperature` is used, to tell what WBPP does not look at."""
    frame = {"size": Allowance(), "binning": Allowance()}
    told = {
        "camera": Allowance(math.inf, tell=0.0, unknown="silent"),
        "gain": Allowance(math.inf, tell=0.0, unknown="silent"),
        "offset": Allowance(math.inf, tell=0.0, unknown="silent"),
        "temperature": Allowance(math.inf, tell=tolerances.temperature, unknown="silent"),
    }

    def exposure(limit: float, tell: float) -> dict[str, Allowance]:
        return {"exposure": Allowance(limit, tell=tell)}

    optics = {
        "filter": Allowance(),
        "bayer": Allowance(),
        "camera": told["camera"],
        "telescope": told["camera"],
        "rotation": Allowance(math.inf, tell=tolerances.rotation, unknown="silent"),
        "age": Allowance(math.inf, tell=0.0, unknown="silent"),
    }
    closest = ("exposure", "longest", "master")
    return Rules(
        name="wbpp",
        dark=Rule(("dark",), {**frame, **told, **exposure(math.inf, WARNED_EXPOSURE)}, closest),
        flat=Rule(("flat",), {**frame, **optics}, ("master",)),
        bias=Rule(("bias",), {**frame, **told}, ("master",)),
        flat_dark=Rule(("dark",), {**frame, **told, **exposure(FLAT_DARK, math.inf)}, closest),
        last_dark=Rule(("dark",), {**frame, **told, **exposure(math.inf, FLAT_DARK)}, closest),
        group=_group,
        group_lights=_group_lights,
        prepare=_prepare,
        scale_all=True,
        greatest_scale=math.inf,
    )


def _prepare(facts: Facts) -> Facts:
    """What is not known is a value of its own, as in WBPP: no filter, binning 1, mono."""
    colour = (facts.bayer != "") | (facts.plane != "")
    return replace(
        facts,
        kind=np.where(facts.kind == "flatdark", "dark", facts.kind),
        filter=np.where(facts.filter == "", "NoFilter", facts.filter),
        binning=np.where(facts.binning == "", "1x1", facts.binning),
        bayer=np.where(colour, "CFA", "mono"),
    )


def _group(facts: Facts, rows: Rows) -> list[Rows]:
    done: list[Rows] = []
    for some in part(
        [rows] if rows.size else [], lambda r: codes(facts, r, ("kind", "height", "width", "binning"))
    ):
        if facts.kind[some[0]] == "flat":
            done += part([some], lambda r: codes(facts, r, ("filter", "bayer", "plane")))
        elif facts.kind[some[0]] == "dark":
            done += part([some], lambda r: clusters(facts.exposure[r], lambda v: DARK_SPAN))
        else:
            done.append(some)
    return done


def _group_lights(facts: Facts, rows: Rows) -> list[Rows]:
    equal = ("height", "width", "binning", "bayer", "filter", "plane", "calibrated", "master")
    parts = part([rows] if rows.size else [], lambda r: codes(facts, r, equal))
    return part(parts, lambda r: clusters(facts.exposure[r], lambda v: LIGHT_SPAN))
