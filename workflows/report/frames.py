"""Frames of a project with what was measured and decided of each, joined by their ids."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.workflows.report.facts import Project

Floats = NDArray[np.float64]
_LIGHTS = ("light", "unknown", "")
_GAP = 0.5
"""Hours between the nights of a chart."""


@dataclass(frozen=True)
class LeftOut:
    """A frame that was not used."""

    name: str
    node: str
    """Which node left it out."""
    reason: str
    source: str
    """Where its pixels are read; "" = not known."""


def band_rank(band: str) -> tuple[int, str]:
    """Place of a band in the field's order; others follow by name."""
    order = ("L", "R", "G", "B", "Ha", "OIII", "SII")
    return (order.index(band), "") if band in order else (len(order), band)


class Frames:
    """The frames that were measured, else those that were found, in their order."""

    def __init__(self, project: Project) -> None:
        self.project = project
        session = project.session_of(project.node_of("measure"))
        if session is None and project.sessions:
            session = project.sessions[-1]
        self._rows: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.session = session
        if session is not None:
            kinds = self._texts("kind", session)
            self._rows = np.flatnonzero(np.isin(kinds, _LIGHTS))
        self.ids = [] if session is None else session["frame"].values[self._rows].astype(str).tolist()
        self._place = {frame: i for i, frame in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def _texts(self, name: str, session: xr.Dataset) -> NDArray[np.str_]:
        if name not in session:
            return np.full(session.sizes["frame"], "", dtype="<U1")
        return np.asarray(session[name].values).astype(str)

    def texts(self, name: str) -> NDArray[np.str_]:
        """Column of texts of the session; "" where it has none."""
        if self.session is None:
            return np.zeros(0, dtype="<U1")
        return self._texts(name, self.session)[self._rows]

    def numbers(self, name: str) -> Floats:
        """Column of numbers of the session; NaN where it has none."""
        if self.session is None or name not in self.session:
            return np.full(len(self), np.nan)
        return np.asarray(self.session[name].values[self._rows], dtype=np.float64)

    def of(self, dataset: xr.Dataset | None, variable: str, **selection: str) -> Floats:
        """Column of a node's result over the frames; NaN for frames it does not have.

        Parameters
        ----------
        dataset
            With the dimension `frame`; None: all NaN.
        variable
            Its variable.
        **selection
            Labels along its other dimensions.
        """
        out = np.full(len(self), np.nan)
        if dataset is None or variable not in dataset or "frame" not in dataset:
            return out
        array = dataset[variable]
        for dim, label in selection.items():
            labels = dataset[dim].values.astype(str).tolist()
            if label not in labels:
                return out
            array = array.isel({dim: labels.index(label)})
        values = np.asarray(array.values, dtype=np.float64)
        for frame, value in zip(dataset["frame"].values.astype(str).tolist(), values.tolist(), strict=True):
            place = self._place.get(frame)
            if place is not None:
                out[place] = value
        return out

    @property
    def bands(self) -> list[str]:
        """Bands of the frames, in the field's order."""
        return sorted(set(self.texts("band").tolist()), key=band_rank)

    @cached_property
    def used(self) -> NDArray[np.bool_]:
        """Frames no node has left out."""
        return np.array([frame not in self.reasons for frame in self.ids], dtype=bool)

    @cached_property
    def reasons(self) -> dict[str, tuple[str, str]]:
        """Frame → (node, reason), the first that left it out."""
        found: dict[str, tuple[str, str]] = {}
        for node, dataset in self.project.results.items():
            for name in sorted(str(n) for n in dataset.variables):
                if not name.endswith("reason") or dataset[name].dims != ("frame",) or "frame" not in dataset:
                    continue
                ids, reasons = dataset["frame"].values.astype(str).tolist(), dataset[name].values.astype(str)
                for frame, reason in zip(ids, reasons.tolist(), strict=True):
                    if reason:
                        found.setdefault(frame, (node, reason))
        return found

    def left_out(self) -> list[LeftOut]:
        """All frames that were not used, those that could not even be read first."""
        out: list[LeftOut] = []
        known: dict[str, str] = {}
        for node, dataset in self.project.results.items():
            for name, reason in json.loads(dataset.attrs.get("left_out", "[]")):
                entry = LeftOut(str(name), node, str(reason), "")
                if not any(e.name == entry.name and e.reason == entry.reason for e in out):
                    out.append(entry)
        sources: dict[str, str] = {}
        for session in self.project.sessions:
            ids, names = (session[n].values.astype(str).tolist() for n in ("frame", "name"))
            files = session["source"].values.astype(str).tolist() if "source" in session else [""] * len(ids)
            for frame, name, source in zip(ids, names, files, strict=True):
                known.setdefault(frame, name)
                sources.setdefault(name, source)
        for frame, (node, reason) in self.reasons.items():
            name = known.get(frame, frame)
            out.append(LeftOut(name, node, reason, sources.get(name, "")))
        return out

    def hours(self) -> tuple[Floats, list[tuple[float, str]], str]:
        """Place of each frame in time.

        Returns
        -------
        hours
            Since the first frame, the days between nights left out; numbers of frames where dates are not known.
        breaks
            Where each night begins, and its name.
        label
            Of the axis.
        """
        stamps = np.array([_hours(d) for d in self.texts("date").tolist()], dtype=np.float64)
        if not np.isfinite(stamps).any():
            return np.arange(1.0, len(self) + 1), [], "frame"
        nights = self.texts("night")
        out, begin = np.full(len(self), np.nan), 0.0
        breaks: list[tuple[float, str]] = []
        known = [n for n in np.unique(nights).tolist() if np.isfinite(stamps[nights == n]).any()]
        for night in sorted(known, key=lambda n: float(np.nanmin(stamps[nights == n]))):
            here = (nights == night) & np.isfinite(stamps)
            first = float(stamps[here].min())
            out[here] = stamps[here] - first + begin
            breaks.append((begin, night))
            begin = float(out[here].max()) + _GAP
        return (
            out,
            breaks if len(breaks) > 1 else [],
            "hours (nights side by side)" if len(breaks) > 1 else "hours",
        )


def _hours(date: str) -> float:
    try:
        return float(np.datetime64(date).astype("datetime64[ms]").astype(np.int64)) / 3.6e6 if date else math.nan
    except ValueError:
        return math.nan


def measures(frames: Frames) -> dict[str, tuple[str, Floats]]:
    """What was measured of each frame: name → (unit, values), those without any value left out.

    Notes
    -----
    The weight is that of `integrate` for frames of one camera, relative to the best of the band: 1 / noise² once
    the frame is scaled, for point sources over FWHM² too.
    """
    project = frames.project
    measured, approval = project.result("measure"), project.result("approve")
    normalization, name = project.result("normalize"), project.node_of("integrate", "drizzle", "blend")
    session_units = {u for u in frames.texts("units").tolist() if u}
    units = session_units.pop() if len(session_units) == 1 else ""

    def summary(quantity: str) -> Floats:
        return frames.of(measured, "summary", summary_quantity=quantity)

    # An ellipticity is 1 - b/a.
    flat = np.sqrt(np.clip(1.0 - (1.0 - summary("ellipticity")) ** 2, 0.0, None))
    eccentricity = frames.of(approval, "eccentricity")
    noise, scale = frames.of(normalization, "noise"), frames.of(normalization, "mean_scale")
    scale[frames.of(normalization, "use") == 0] = np.nan
    found = {
        "FWHM": ("px", summary("fwhm")),
        "eccentricity": ("", np.where(np.isfinite(eccentricity), eccentricity, flat)),
        "stars": ("", summary("stars")),
        "background": (units, summary("background")),
        "noise": (units, summary("noise")),
        "scale": ("", scale),
    }
    parameters: dict[str, Any] = project.declared.get(name or "", {}).get("parameters", {})
    weighting = parameters.get("weighting", "")
    if weighting in ("inverse_variance", "point_source"):
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = (noise * scale) ** -2.0
            if weighting == "point_source":
                weight = weight * summary("fwhm") ** -2.0
        bands = frames.texts("band")
        for band in frames.bands:
            here = bands == band
            if np.isfinite(weight[here]).any():
                weight[here] /= np.nanmax(weight[here])
        found["weight"] = ("relative to the best of its band", weight)
    return {n: (unit, values) for n, (unit, values) in found.items() if np.isfinite(values).any()}
