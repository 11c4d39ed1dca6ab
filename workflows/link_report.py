"""Links as plain values: for JSON, tables, pictures and reports."""

from __future__ import annotations

import json
import math
from typing import Any

import xarray as xr

_LETTERS = {"bias": "B", "dark": "D", "flatdark": "FD", "flat": "F"}
ROLES = ("flat", "dark", "bias")


def group_codes(links: xr.Dataset) -> list[str]:
    """Short name of each calibration group: D1, D2, F1, …; FD = flat-dark, B = bias."""
    seen: dict[str, int] = {}
    codes = []
    for kind in links["kind"].values.tolist():
        seen[kind] = seen.get(kind, 0) + 1
        codes.append(f"{_LETTERS[kind]}{seen[kind]}")
    return codes


def edges(links: xr.Dataset) -> list[dict[str, Any]]:
    """Edges of the links (see `link`)."""
    return list(json.loads(links.attrs["edges"]))


def light_groups(links: xr.Dataset) -> list[dict[str, Any]]:
    """Groups of lights of the links (see `link`)."""
    return list(json.loads(links.attrs["light_groups"]))


def links_report(links: xr.Dataset, session: xr.Dataset) -> list[dict[str, Any]]:
    """Rows of plain values: a row a group of lights, then a row a group of calibration frames.

    Parameters
    ----------
    links
        As `link` returns them.
    session
        The session they were made from: it has the names.

    Returns
    -------
    list of dict
        Lights: what = "lights", label, frames (names), band, exposure (s), temperature (°C), gain, night, camera,
        flat, dark, bias (labels, None = none), scale_dark, use, problems, notes. Calibration groups: what = their
        kind, label, code, frames, master, band, exposure, temperature, gain, night, camera, used, serves (labels
        of lights), bias, dark (labels of what they are calibrated with), note. None = not known.
    """
    names = session["name"].values.tolist()
    labels = links["label"].values.tolist()
    members, light_of = links["member"].values.tolist(), links["light_group"].values.tolist()
    frames: dict[tuple[str, int], list[str]] = {}
    for name, member, light in zip(names, members, light_of, strict=True):
        frames.setdefault(("group", member) if member >= 0 else ("light", light), []).append(str(name))

    def label(index: int) -> str | None:
        return str(labels[index]) if index >= 0 else None

    groups = light_groups(links)
    rows: list[dict[str, Any]] = [
        {
            "what": "lights",
            "label": group["label"],
            "frames": sorted(frames[("light", i)]),
            **{key: group[key] for key in ("band", "exposure", "temperature")},
            "gain": group["gain_setting"],
            **{key: group[key] for key in ("night", "camera")},
            **{role: label(group[role]) for role in ROLES},
            **{key: group[key] for key in ("scale_dark", "use", "problems", "notes")},
        }
        for i, group in enumerate(groups)
    ]
    codes = group_codes(links)
    for i, kind in enumerate(links["kind"].values.tolist()):
        group = {name: links[name].values[i] for name in ("exposure", "temperature", "gain_setting")}
        rows.append(
            {
                "what": kind,
                "label": labels[i],
                "code": codes[i],
                "frames": sorted(frames.get(("group", i), [])),
                "master": bool(links["master"].values[i]),
                "band": str(links["band"].values[i]),
                "exposure": _known(group["exposure"]),
                "temperature": _known(group["temperature"]),
                "gain": _known(group["gain_setting"]),
                "night": str(links["night"].values[i]),
                "camera": str(links["camera"].values[i]),
                "used": bool(links["used"].values[i]),
                "serves": [g["label"] for g in groups if i in (g[role] for role in ROLES)],
                "bias": label(int(links["own_bias"].values[i])),
                "dark": label(int(links["own_dark"].values[i])),
                "note": str(links["group_note"].values[i]),
            }
        )
    return rows


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
