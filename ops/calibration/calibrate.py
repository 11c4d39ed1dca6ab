"""Calibrate: the usable lights of a session as frames that are calibrated while they are read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr

from skyloom.ops.arrays import array_spec
from skyloom.ops.calibration.calibrated import CalibratedSource
from skyloom.ops.calibration.cosmic_rays import CosmicRays
from skyloom.ops.calibration.layers import Master
from skyloom.ops.calibration.members import GROUP_KINDS, Group, column, groups_of, identities
from skyloom.ops.calibration.overscan import Overscan, Window, parse_section, turned_pattern
from skyloom.ops.calibration.window_wcs import window_wcs
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.registry import Param, register
from skyloom.ops.unit_keys import made_by

TAKEN = ("light", "unknown")
SOURCE_BYTES = 8.0
"""Of a pixel while a window is read: itself and what it is decoded from; it is calibrated in place."""
MASK_BYTES = 1.0
"""Besides, when cosmic rays are looked for."""


@dataclass(frozen=True)
class _Options:
    """Parameters of `calibrate`."""

    saturated: str
    hot_pixels: bool
    cold_pixels: bool
    pedestal: str
    overscan: str
    trim: bool
    cosmic_rays: CosmicRays | None


class _LeftOut(Exception):
    """Why a light cannot be calibrated."""


@register(version=2, unit=(), table=True)
def calibrate(
    session: xr.Dataset,
    links: xr.Dataset,
    masters: xr.Dataset | None = None,
    flats: xr.Dataset | None = None,
    levels: xr.Dataset | None = None,
    hot: xr.Dataset | None = None,
    cold: xr.Dataset | None = None,
    *,
    saturated: Literal["nan", "keep"] = "nan",
    hot_pixels: bool = True,
    cold_pixels: bool = True,
    pedestal: Literal["header", "none"] = "header",
    overscan: Literal["row", "frame", "none"] = "row",
    trim: bool = True,
    cosmic_rays: Literal["none", "lacosmic"] = "none",
    cosmic_ray_threshold: Annotated[float, Param(unit="sigma", low=3, high=1000)] = 5.0,
    cosmic_ray_contrast: Annotated[float, Param(low=0.5, high=1000)] = 5.0,
) -> xr.Dataset:
    """Calibrate the lights: ((L − B) − k (D − B)) / F, by window, while they are read.

    No pixel moves here: the result is a table whose sources calibrate. Masters that are not given are not applied.

    Parameters
    ----------
    session
        All frames (`ingest`).
    links
        Which light gets which masters (`link`).
    masters, flats
        Bias and dark; flats ≈ 1.
    levels
        Scales of the darks that are to be scaled.
    hot, cold
        Maps of bad pixels of the masters and of the flats (`defects`).
    saturated
        nan = pixels at or above the saturation level of the raw frame are no data; keep = they stay. Change it to
        keep for pictures in which the cores of bright stars shall not be holes; their values are too low.
    hot_pixels, cold_pixels
        Bad pixels of the maps are no data. Change it only where the maps are wrong, such as with masters of
        another camera mode.
    pedestal
        header = what the headers say was added to the pixels is subtracted, from lights and masters alike; none =
        it is part of the light. Change it to none where headers carry a PEDESTAL that was taken off already.
    overscan
        Level of the overscan section that is subtracted, from lights and masters alike: of each row, of the frame
        as a whole, or none. A section beside none of the rows counts as a whole. Change it to frame where the
        level is the same in all rows and the strip is narrow, to none where the header names a section that is no
        overscan.
    trim
        Keep the section that sees light only. Change it to see the overscan and dark columns themselves.
    cosmic_rays
        lacosmic = find them on each frame by their sharp edges (van Dokkum 2001); they become no data. Change it
        to lacosmic where few frames overlap (fewer than four), so that rejection has nothing to compare with.
    cosmic_ray_threshold
        Least excess of a cosmic ray. Change it to less where weak hits are left, to more where noise is taken for
        hits.
    cosmic_ray_contrast
        How much sharper than a star it has to be; more where stars are narrower than 2 pixels. Change it where
        star cores are lost (more) or hits stay (less).

    Returns
    -------
    xarray.Dataset
        The session of the usable lights, in memory. Changed columns: `frame` (hash of the light and of all that
        decides its pixels), `source` (of kind "calibrated"), `height`, `width`, `wcs`, `bayer` (trimmed),
        `saturation` (NaN: such pixels are no data, or their level is no longer one number), `pedestal` (0), `trim`
        and `overscan` (""), `facts` (with "calibrated": what was done). Attributes: `left_out`, with the lights
        that cannot be calibrated; `source_bytes`, what a pixel takes while it is read.

    Raises
    ------
    DataError
        If session and links are not of the same frames, or no light is left.
    ConfigError
        If darks are to be scaled and there are no `levels`.

    Notes
    -----
    Formulas of pixels, variance and flags: `skyloom.ops.calibration.calibrated.CalibratedSource`. Reading keeps
    strips of 256 rows of the masters in the process's cache of decoded frames.
    """
    rays = CosmicRays(cosmic_ray_threshold, cosmic_ray_contrast) if cosmic_rays == "lacosmic" else None
    options = _Options(saturated, hot_pixels, cold_pixels, pedestal, overscan, trim, rays)
    groups = {g.index: g for g in groups_of(session, links, GROUP_KINDS)}
    told = identities(session, links)
    work = _Calibration(session, links, groups, told, masters, flats, levels, hot, cold, options)
    left_out = [tuple(item) for item in json.loads(session.attrs.get("left_out", "[]"))]
    use = np.asarray(links["use"].values, dtype=bool)
    rows: list[int] = []
    changed: list[dict[str, Any]] = []
    for index, kind in enumerate(session["kind"].values.tolist()):
        if kind not in TAKEN:
            continue
        name = str(session["name"].values[index])
        if not use[index]:
            left_out.append((name, str(links["reason"].values[index])))
            continue
        try:
            changed.append(work.light(index))
            rows.append(index)
        except _LeftOut as reason:
            left_out.append((name, str(reason)))
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
        raise DataError(f"no light to calibrate ({reasons or 'the session has none'})")
    table = session.isel(frame=rows)
    columns = {name: np.array([row[name] for row in changed]) for name in changed[0]}
    names = columns.pop("frame")
    return table.assign({name: ("frame", values) for name, values in columns.items()}).assign_coords(
        frame=names
    ).assign_attrs(
        left_out=json.dumps(sorted(left_out)), source_bytes=SOURCE_BYTES + (MASK_BYTES if rays else 0.0)
    )  # fmt: skip


@dataclass(frozen=True)
class _Calibration:
    """All that lights are calibrated with."""

    session: xr.Dataset
    links: xr.Dataset
    groups: Mapping[int, Group]
    identities: Mapping[int, str]
    """What each group is made of."""
    masters: xr.Dataset | None
    flats: xr.Dataset | None
    levels: xr.Dataset | None
    hot: xr.Dataset | None
    cold: xr.Dataset | None
    options: _Options

    def light(self, index: int) -> dict[str, Any]:
        """Columns of a calibrated light."""
        raw = (int(self._of("height", 0, index)), int(self._of("width", 0, index)))
        notes: list[str] = []
        window = self._window(index, raw, notes)
        shape, origin = (window[1] - window[0], window[3] - window[2]), (window[0], window[2])
        overscan = self._overscan(index, raw, window, notes)
        linked = {role: int(self.links[role].values[index]) for role in ("bias", "dark", "flat")}
        bias = self._master(linked["bias"], self.masters, self.hot, raw, window, overscan)
        dark = self._master(linked["dark"], self.masters, self.hot, raw, window, overscan)
        flat = self._master(linked["flat"], self.flats, self.cold, raw, window, None)
        own = self.groups[linked["dark"]].bias if dark is not None else -1
        own_bias = self._master(own, self.masters, None, raw, window, overscan) if own != linked["bias"] else None
        scale = self._scale(index, linked, dark, bias or own_bias)
        bayer = turned_pattern(str(self._of("bayer", "", index)), *origin)
        pedestal = float(self._of("pedestal", 0.0, index)) if self.options.pedestal == "header" else 0.0
        source = CalibratedSource(
            light=str(self._of("source", "", index)),
            shape=shape,
            origin=origin,
            bias=bias,
            dark=dark,
            dark_bias=own_bias,
            flat=flat,
            dark_scale=scale,
            pedestal=pedestal if math.isfinite(pedestal) else 0.0,
            overscan=overscan,
            saturation=float(self._of("saturation", math.nan, index)),
            keep_saturated=self.options.saturated == "keep",
            gain=float(self._of("gain", math.nan, index)),
            read_noise=float(self._of("read_noise", math.nan, index)),
            bayer=bayer,
            cosmic_rays=self.options.cosmic_rays,
        )
        # With a dark as long as the light the bias cancels: it is not read.
        cancels = dark is not None and scale == 1.0
        used = {"bias": None if cancels else bias, "dark": dark, "flat": flat}
        return {
            "frame": self._identity(index, {**linked, "own bias": own}, source),
            "source": source.spec(),
            "height": shape[0],
            "width": shape[1],
            "wcs": window_wcs(str(self._of("wcs", "", index)), row=origin[0], column=origin[1]),
            "bayer": bayer,
            "saturation": self._saturation(source),
            "pedestal": 0.0,
            "trim": "",
            "overscan": "",
            "facts": self._facts(index, linked, used, source, notes),
        }

    def _of(self, name: str, default: Any, index: int) -> Any:
        return column(self.session, name, default)[index]

    def _window(self, index: int, raw: tuple[int, int], notes: list[str]) -> Window:
        text = str(self._of("trim", "", index)) if self.options.trim else ""
        window = parse_section(text, raw)
        if text and window is None:
            notes.append(f"trim section {text} is not within {raw[1]} × {raw[0]} pixels: not trimmed")
        return window or (0, raw[0], 0, raw[1])

    def _overscan(self, index: int, raw: tuple[int, int], window: Window, notes: list[str]) -> Overscan | None:
        text = str(self._of("overscan", "", index)) if self.options.overscan != "none" else ""
        region = parse_section(text, raw)
        if region is None:
            if text:
                notes.append(f"overscan section {text} is not within {raw[1]} × {raw[0]} pixels: not used")
            return None
        beside = region[0] <= window[0] and region[1] >= window[1]
        return Overscan(region, "row" if self.options.overscan == "row" and beside else "frame")

    def _master(
        self,
        group: int,
        results: xr.Dataset | None,
        maps: xr.Dataset | None,
        raw: tuple[int, int],
        window: Window,
        overscan: Overscan | None,
    ) -> Master | None:
        """Master of a group as a light of some size uses it; None where there is none to use."""
        if group < 0 or results is None:
            return None
        label = str(self.links["label"].values[group])
        place = _place(results, group)
        if place is None:
            raise _LeftOut(f"there is no master of {label}, which is linked to it")
        size = (int(results["height"].values[place]), int(results["width"].values[place]))
        trimmed = (window[1] - window[0], window[3] - window[2])
        if size not in (raw, trimmed):
            raise _LeftOut(
                f"the master of {label} is {size[1]} × {size[0]} pixels, the light {raw[1]} × {raw[0]}: "
                "it belongs to another camera or binning"
            )
        whole = size == raw
        wanted = self.options.cold_pixels if results is self.flats else self.options.hot_pixels
        bad = _place(maps, group) if maps is not None and wanted else None
        return Master(
            image=array_spec(results, "image", master=place),
            **{n: array_spec(results, n, master=place) for n in ("variance", "count") if n in results},
            bad=array_spec(maps, "bad", master=bad) if maps is not None and bad is not None else "",
            origin=(window[0], window[2]) if whole else (0, 0),
            pedestal=self.groups[group].pedestal
            if self.options.pedestal == "header" and results is not self.flats
            else 0.0,
            overscan=overscan if whole else None,
        )

    def _scale(
        self, index: int, linked: Mapping[str, int], dark: Master | None, bias: Master | None
    ) -> float | str:
        """Scale of the dark, or the spec of it."""
        if dark is None or not bool(self.links["scale_dark"].values[index]):
            return 1.0
        name = str(self._of("name", "", index))
        if self.levels is None:
            raise ConfigError(f"the dark of {name} is to be scaled (`link`): give calibrate the node `levels`")
        if bias is None:
            raise _LeftOut(
                f"its dark ({self.links['label'].values[linked['dark']]}) is to be scaled and there is no bias: "
                "take bias frames, or darks of its exposure"
            )
        place = np.flatnonzero(self.levels["frame"].values == self.session["frame"].values[index])
        if not place.size:
            raise DataError(f"`levels` does not know {name}; run it on this session")
        return array_spec(self.levels, "dark_scale", frame=int(place[0]))

    def _saturation(self, source: CalibratedSource) -> float:
        untouched = all(m is None for m in (source.bias, source.dark, source.flat, source.overscan))
        # Bias and flat differ from pixel to pixel; what is told by plateaus is better than a level too high.
        return source.saturation - source.pedestal if source.keep_saturated and untouched else math.nan

    def _identity(self, index: int, linked: Mapping[str, int], source: CalibratedSource) -> str:
        """Hash of what decides the pixels: contents and parameters, not where files lie."""
        keys = self.links["group"].values
        masters = (source.bias, source.dark, source.dark_bias, source.flat)
        parts: list[Any] = [
            str(self.session["frame"].values[index]),
            [[str(keys[g]), self.identities.get(g, "")] if g >= 0 else [] for g in linked.values()],
            [m and [bool(m.bad), m.origin, m.pedestal, repr(m.overscan)] for m in masters],
            isinstance(source.dark_scale, str),
            [source.shape, source.origin, source.pedestal, source.bayer, source.keep_saturated],
            [repr(v) for v in (source.saturation, source.overscan, source.cosmic_rays)],
            # The noise decides what a cosmic ray is.
            [repr(v) for v in (source.gain, source.read_noise) if source.cosmic_rays is not None],
            [made_by(d) for d in (self.masters, self.flats, self.levels, self.hot, self.cold)],
        ]
        return blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()

    def _facts(
        self,
        index: int,
        linked: Mapping[str, int],
        used: Mapping[str, Master | None],
        source: CalibratedSource,
        notes: list[str],
    ) -> str:
        """Facts of the light with what was done to it."""
        labels = self.links["label"].values
        done = []
        for role, master in used.items():
            if master is not None:
                scaled = ("" if source.dark_scale == 1.0 else ", scaled") if role == "dark" else ""
                done.append(f"{labels[linked[role]]}{scaled}")
        if source.overscan is not None:
            done.append(f"overscan by {source.overscan.mode}")
        if source.pedestal:
            done.append(f"pedestal {source.pedestal:g}")
        if source.cosmic_rays is not None:
            done.append("cosmic rays")
        facts = json.loads(str(self._of("facts", "{}", index)))
        facts["calibrated"] = ["; ".join(done) or "as it is", "calibrate"]
        if notes:
            before, origin = facts.get("notes", [[], "calibrate"])
            facts["notes"] = [[*before, *notes], origin]
        return json.dumps(facts, ensure_ascii=True)


def _place(results: xr.Dataset, group: int) -> int | None:
    """Position of a group's master."""
    places = np.flatnonzero(results["group"].values == group)
    return int(places[0]) if places.size else None
