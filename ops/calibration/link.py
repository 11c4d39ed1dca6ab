"""Link: which bias, dark, flat and flat-dark belongs to which light, from the table of frames alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.calibration.choices import NONE, choose_for_groups, choose_for_lights
from skyloom.ops.calibration.groups import Groups, Rows, make_groups, mixed_settings
from skyloom.ops.calibration.light_groups import ROLES, LightGroup, light_groups
from skyloom.ops.calibration.link_facts import Facts, read_facts
from skyloom.ops.calibration.link_reasons import Edge, Linking, own_edges, unused_reasons
from skyloom.ops.calibration.link_rules import IGNORABLE, Tolerances, skyloom_rules
from skyloom.ops.calibration.overrule import read_orders
from skyloom.ops.calibration.wbpp import wbpp_rules
from skyloom.ops.calibration.words import night, plural
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.registry import Param, register, suggest

SHOWN_PROBLEMS = 3
"""Problems a refusal names; the table of links has all."""


@register(version=1, unit=(), table=True)
def link(
    session: xr.Dataset,
    *,
    rules: Literal["skyloom", "wbpp"] = "skyloom",
    on_broken: Literal["refuse", "without", "leave_out"] = "refuse",
    scale_darks: Literal["never", "when_needed", "always"] = "never",
    temperature_tolerance: Annotated[float, Param(unit="°C", low=0, high=100)] = 2.0,
    exposure_tolerance: Annotated[float, Param(unit="s", low=0, high=3600)] = 0.05,
    exposure_tolerance_relative: Annotated[float, Param(low=0, high=1)] = 0.02,
    flat_dark_tolerance: Annotated[float, Param(unit="s", low=0, high=3600)] = 0.5,
    rotation_tolerance: Annotated[float, Param(unit="deg", low=0, high=180)] = 5.0,
    flat_age: Annotated[int | None, Param(unit="nights", low=0, high=100000)] = None,
    dark_age: Annotated[int | None, Param(unit="days", low=0, high=100000)] = None,
    ignore: list[str] | None = None,
    force: list[Any] | None = None,
) -> xr.Dataset:
    """Find the bias, dark, flat and flat-dark of every light, and say why.

    Calibration frames are grouped by what they share, each light gets the groups that fit it. Every choice, near
    miss and miss has its reason in words and numbers. No pixel is read. Links go by content: names mean nothing.

    Parameters
    ----------
    session
        As `ingest` returns it (`take: all`); facts it does not know are taken as unknown.
    rules
        skyloom = all that changes what a pixel shows must agree within the tolerances; wbpp = what PixInsight's
        WBPP compares (size, binning, filter; closest exposure), the rest is told. Change it to wbpp to get the
        links PixInsight makes, for comparison.
    on_broken
        What is done with lights for which there are frames of a kind but none fits: refuse the run, calibrate
        without, or leave the light out. The default refuses, since it costs nothing (no pixel has moved) while a
        night's frames calibrated with holes, or missing from the picture, are found out at its end. Change it to
        without or leave_out once you have seen with skyloom link what is broken, and why.
    scale_darks
        Use darks of another exposure, scaled, where there is a bias: never (many CMOS sensors glow, which does not
        scale), when_needed, or always (those of the same exposure too). Change it to when_needed for CCD sensors,
        or cooled CMOS sensors without glow, that lack darks of the right exposure.
    temperature_tolerance
        Largest difference of light and dark. Change it to more for cameras without regulated cooling.
    exposure_tolerance, exposure_tolerance_relative
        Largest difference of light and dark, in seconds or as a part of the light's exposure: the larger counts.
        Change it where exposures of the same setting differ, as with some mechanical shutters.
    flat_dark_tolerance
        Largest difference of exposure of flat and flat-dark. Change it to more where flats were timed
        automatically and one dark shall do for all.
    rotation_tolerance
        Largest difference of the rotator's angle of light and flat. Change it to more where the light path turns
        with the camera, so that flats fit at any angle.
    flat_age
        Nights a flat may be from the light; none = any, the nearest is taken. 0 = of the same night. Change it to
        0 or 1 where the camera is taken off between nights.
    dark_age
        Days a dark or bias may be from the light; none = any. Change it where the camera ages: some months to a
        year.
    ignore
        Facts not to be compared: camera, telescope, focal length, binning, bayer, filter, gain, offset, rotation,
        exposure, temperature, age. Change it where a fact in the headers is wrong or does not matter, and you know
        it.
    force
        Links set by hand, a list of {lights: NAMES, dark: GROUP, flat: GROUP, bias: GROUP} and {flats: GROUP,
        dark: GROUP, bias: GROUP}; NAMES is a pattern of file names, GROUP one of a group's label or its members'
        names, or none. Change it where you know better which frames belong together.

    Returns
    -------
    xarray.Dataset
        Dims (frame, group), in memory. (frame): `member` (group the frame is one of, −1 none), `light_group` (−1
        for others), `bias`, `dark`, `flat` (group linked to a light, −1 none), `scale_dark`, `use`, `reason` (why
        it is left out), `problem` (broken links), `note` (choices, near misses). (group), coordinate = key, a hash
        of kind and members' content ids: `kind`, `label`, `count`, `used`, `master`, `band`, `camera`,
        `telescope`, `exposure` (s), `temperature` (°C), `gain_setting`, `offset_setting`, `binning`, `bayer`,
        `rotation` (deg), `night`, `height`, `width`, `own_bias`, `own_dark` (groups it is itself calibrated with,
        −1 none), `group_note` (why it serves nothing). Attributes `edges`, `light_groups` (JSON), `rules`,
        `on_broken`.

    Raises
    ------
    DataError
        If links are broken and `on_broken` is refuse, or no light is left.
    ConfigError
        If `ignore` or `force` name what is not there.

    Notes
    -----
    A master that was given is a group of its own, taken as it is, and preferred to raw frames that fit as well. A
    dark as long as the light contains the bias, so that the bias is dropped (as in PixInsight's WBPP); it is used
    where there is no dark, or the dark is to be scaled. A flat gets a flat-dark (or dark) of its exposure, else a
    bias, else any dark.
    """
    for name in ignore or []:
        if name not in IGNORABLE:
            raise ConfigError(f"ignore: {name!r} is no fact that can be ignored{suggest(name, IGNORABLE)}")
    tolerances = Tolerances(
        temperature=temperature_tolerance,
        exposure=exposure_tolerance,
        exposure_relative=exposure_tolerance_relative,
        flat_dark=flat_dark_tolerance,
        rotation=rotation_tolerance,
        flat_age=math.inf if flat_age is None else flat_age,
        dark_age=math.inf if dark_age is None else dark_age,
        ignore=frozenset(ignore or []),
    )
    chosen = skyloom_rules(tolerances) if rules == "skyloom" else wbpp_rules(tolerances)
    shown = read_facts(session)
    facts = chosen.prepare(shown)
    raw = np.flatnonzero((facts.kind != "light") & ~facts.master)
    given = np.flatnonzero((facts.kind != "light") & facts.master)
    members = chosen.group(facts, raw)
    groups = make_groups(facts, shown, members, single=given)
    lights, stacked = _lights(facts)
    for_lights, for_groups = read_orders(force or [], facts, lights, groups)
    twins = _twin_cameras(facts.take(lights))
    strict = np.isin(facts.text("camera")[lights], twins)
    strict_groups = np.isin(groups.facts.text("camera"), twins)
    own = choose_for_groups(groups, chosen, for_groups, strict_groups)
    choices = choose_for_lights(
        facts.take(lights), groups, chosen, own, for_lights, scale=scale_darks, strict=strict
    )
    linking = Linking(
        lights=facts.take(lights),
        shown=shown.take(lights),
        groups=groups,
        mixed=tuple(mixed_settings(shown, rows) for rows in groups.members),
        rules=chosen,
        scale=scale_darks,
        choices=choices,
        own=own,
        strict=strict,
        strict_groups=strict_groups,
    )
    parts = light_groups(linking)
    if on_broken == "refuse":
        _refuse(parts, facts.name[lights], lights.size)
    return _table(session, shown, lights, stacked, linking, parts, on_broken=on_broken)


def _lights(facts: Facts) -> tuple[Rows, Rows]:
    """Rows of the lights, and of stacks among them that are no exposures.

    A stack beside raw lights is what came of them: it would be counted twice. Alone it is all there is.
    """
    is_light = facts.kind == "light"
    stacked = is_light & facts.master
    if (is_light & ~stacked).any():
        return np.flatnonzero(is_light & ~stacked), np.flatnonzero(stacked)
    return np.flatnonzero(is_light), np.array([], dtype=np.int64)


def _twin_cameras(lights: Facts) -> NDArray[np.str_]:
    """Names of cameras that were on two telescopes in one night: there are two of them."""
    camera, telescope = lights.text("camera"), lights.text("telescope")
    seen: dict[tuple[str, float], set[str]] = {}
    for name, tube, when in zip(camera.tolist(), telescope.tolist(), lights.night.tolist(), strict=True):
        if name and tube and not math.isnan(when):
            seen.setdefault((name, when), set()).add(tube)
    return np.array(sorted({name for (name, _), tubes in seen.items() if len(tubes) > 1}), dtype=np.str_)


def _refuse(parts: Sequence[LightGroup], names: NDArray[np.str_], count: int) -> None:
    broken = [p for p in parts if p.problems]
    if not broken:
        return
    frames = sum(p.rows.size for p in broken)
    shown = []
    for part in broken[:SHOWN_PROBLEMS]:
        first = sorted(names[part.rows].tolist())[0]
        rest = f" and {part.rows.size - 1} more" if part.rows.size > 1 else ""
        label = part.label.rpartition(", ")[0]
        shown.append(f"{label} ({first}{rest}): {'; '.join(part.problems)}")
    more = f" | and {plural(len(broken) - SHOWN_PROBLEMS, 'group')} more" if len(broken) > SHOWN_PROBLEMS else ""
    raise DataError(
        f"{frames} of {plural(count, 'light')} {'has' if frames == 1 else 'have'} calibration frames that do not "
        f"fit: {' | '.join(shown)}{more}. Add what is missing, widen a tolerance, link by hand (force), or set "
        "on_broken: without = calibrate without it, leave_out = leave these lights out; `skyloom link` shows all "
        "links"
    )


# --- the table ---


def _table(
    session: xr.Dataset,
    shown: Facts,
    lights: Rows,
    stacked: Rows,
    linking: Linking,
    parts: Sequence[LightGroup],
    *,
    on_broken: str,
) -> xr.Dataset:
    frames, groups, choices = len(shown), linking.groups, linking.choices
    member, light_group = np.full(frames, NONE, dtype=np.int64), np.full(frames, NONE, dtype=np.int64)
    for i, rows in enumerate(groups.members):
        member[rows] = i
    use, texts = np.ones(frames, dtype=np.bool_), {k: [""] * frames for k in ("reason", "problem", "note")}
    kinds = session["kind"].values.tolist()
    for row in stacked.tolist():
        use[row] = False
        texts["reason"][row] = "a stack of lights beside raw lights: they would be counted twice"
    for i, part in enumerate(parts):
        for row in lights[part.rows].tolist():
            light_group[row] = i
            texts["problem"][row] = "; ".join(part.problems)
            texts["note"][row] = "; ".join((*part.notes, *_unsaid(kinds[row])))
            if part.problems and on_broken == "leave_out":
                use[row] = False
                texts["reason"][row] = texts["problem"][row]
    if lights.size and not use[lights].any():
        raise DataError(
            f"no light is left: {plural(lights.size, 'light')} left out; the first: {texts['reason'][lights[0]]}"
        )
    links = {}
    for role in ROLES:
        column = np.full(frames, NONE, dtype=np.int64)
        column[lights] = getattr(choices, role).group
        links[role] = column
    scale = np.zeros(frames, dtype=np.bool_)
    scale[lights] = choices.scaled
    scaled_darks = np.unique(links["dark"][scale & use])
    own_bias, own_dark = _own_links(linking, scaled_darks)
    used = _used(linking, [c[lights][use[lights]] for c in links.values()], own_bias, own_dark)
    labels, spokesmen = [p.label for p in parts], [int(p.rows[0]) for p in parts]
    idle = unused_reasons(linking, np.flatnonzero(~used), labels, spokesmen)
    notes = [idle.get(i, "") for i in range(len(groups))]
    edges = [_edge(part.label, edge, groups) for part in parts for edge in part.edges]
    for i in range(len(groups)):
        to_scale = bool(np.isin(i, scaled_darks))
        edges += [_edge(groups.labels[i], e, groups) for e in own_edges(linking, i, to_scale=to_scale)]
    return xr.Dataset(
        {
            "member": ("frame", member),
            "light_group": ("frame", light_group),
            **{role: ("frame", column) for role, column in links.items()},
            "scale_dark": ("frame", scale),
            "use": ("frame", use),
            **{name: ("frame", _texts(values)) for name, values in texts.items()},
            **_group_columns(groups),
            "own_bias": ("group", own_bias),
            "own_dark": ("group", own_dark),
            "used": ("group", used),
            "group_note": ("group", _texts(notes)),
        },
        coords={"frame": session["frame"].values, "group": _texts(groups.facts.content)},
        attrs={
            "edges": json.dumps(edges, ensure_ascii=False),
            "light_groups": json.dumps([_light_group(p, on_broken) for p in parts], ensure_ascii=False),
            "rules": linking.rules.name,
            "on_broken": on_broken,
        },
    )


def _unsaid(kind: str) -> list[str]:
    return [] if str(kind) == "light" else ["it does not say what it is: taken as a light"]


def _own_links(linking: Linking, scaled_darks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bias and dark of every group. A dark's bias is of use only where the dark is scaled."""
    kind, own = linking.groups.facts.kind, linking.own
    idle = (kind == "dark") & ~np.isin(np.arange(len(linking.groups)), scaled_darks)
    return np.where(idle, NONE, own.bias.group), np.where(kind == "flat", own.dark.group, NONE)


def _used(
    linking: Linking,
    links: Sequence[NDArray[np.int64]],
    own_bias: NDArray[np.int64],
    own_dark: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Groups that serve a light, or what serves one. Where there is no light all are wanted."""
    if not len(linking.lights):
        return np.ones(len(linking.groups), dtype=np.bool_)
    used = np.isin(np.arange(len(linking.groups)), np.concatenate(links))
    for own in (own_bias, own_dark):
        used |= np.isin(np.arange(len(linking.groups)), own[used])
    return used


def _group_columns(groups: Groups) -> dict[str, tuple[str, NDArray[Any]]]:
    table = groups.shown
    columns: dict[str, NDArray[Any]] = {
        "kind": table.kind,
        "label": _texts(groups.labels),
        "count": np.array([m.size for m in groups.members], dtype=np.int64),
        "master": table.master,
        "band": np.where(table.band == "", "none", table.band),
        "camera": table.camera,
        "telescope": table.telescope,
        "exposure": table.exposure,
        "temperature": table.temperature,
        "gain_setting": table.gain,
        "offset_setting": table.offset,
        "binning": table.binning,
        "bayer": table.bayer,
        "rotation": table.rotation,
        "night": _texts([night(v) for v in table.night.tolist()]),
        "height": table.height,
        "width": table.width,
    }
    return {name: ("group", values) for name, values in columns.items()}


def _texts(values: Iterable[object]) -> NDArray[np.str_]:
    return np.array([str(v) for v in values], dtype=np.str_)


def _edge(origin: str, edge: Edge, groups: Groups) -> dict[str, Any]:
    return {
        "from": origin,
        "to": groups.labels[edge.to] if edge.to != NONE else "",
        "role": edge.role,
        "verdict": edge.verdict,
        "reason": edge.reason,
        "caution": edge.caution,
    }


def _light_group(part: LightGroup, on_broken: str) -> dict[str, Any]:
    """A group of lights as plain values."""
    row = part.facts

    def known(column: NDArray[np.float64]) -> float | None:
        return None if math.isnan(float(column[0])) else round(float(column[0]), 6)

    return {
        "label": part.label,
        "count": int(part.rows.size),
        "band": str(row.band[0] or "none"),
        "filter": str(row.filter[0]),
        "exposure": known(row.exposure),
        "temperature": known(row.temperature),
        "gain_setting": known(row.gain),
        "offset_setting": known(row.offset),
        "night": night(float(row.night[0])),
        "camera": str(row.camera[0]),
        "telescope": str(row.telescope[0]),
        "binning": str(row.binning[0]),
        "bayer": str(row.bayer[0]),
        "size": f"{row.width[0]} x {row.height[0]}",
        **{role: part.group(role) for role in ROLES},
        "scale_dark": part.scaled,
        "use": not (part.problems and on_broken == "leave_out"),
        "problems": list(part.problems),
        "notes": list(part.notes),
    }
