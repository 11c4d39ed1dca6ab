"""Links and calibrated frames against the truth of their simulated raw session.

    python benchmarks/calibrated_truth.py FRAMES [PROJECT]

FRAMES is a folder `skyloom simulate --raw` wrote; PROJECT a run over it (up to `calibrate` or further). Without
one the ops are run here, in memory. A calibrated frame is compared with the light that fell on it: the truth times
a factor for each flat (and phase of a colour filter array), which is the flat's level by its own definition. It is
read off the master flat; where a source does not show it, it is fitted together with an offset, which stays.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.calibration.calibrate import calibrate
from skyloom.ops.calibration.defects import defects
from skyloom.ops.calibration.flats import flats
from skyloom.ops.calibration.levels import levels
from skyloom.ops.calibration.link import link
from skyloom.ops.calibration.masters import masters
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.session.ingest import ingest
from skyloom.ops.simulation.detector import dust_grains
from skyloom.ops.simulation.light import cosmic_charge
from skyloom.ops.simulation.readout import Truth
from skyloom.ops.simulation.simulate import SimulatedFrame, SimulatedSession

ROLES = ("bias", "dark", "flat")
LEFT_SIGMA = 6.0
"""A hot pixel is left when it stands out of the noise of its ordinary neighbours by this much."""
SURE = 4.0
"""A pixel this far above the ceiling (noise sigmas) has saturated for certain."""
SHADOW = 0.24
"""Half width of a grain's shadow at half its depth (sizes)."""
RING = (2.1, 3.0)
"""Ring around a grain that the shadow is compared with (sizes)."""
COLD = 0.55
"""Response below which a pixel was made cold."""


@dataclass(frozen=True)
class LinkScore:
    """A link against the truth."""

    of: str
    """File of a light, or set of calibration frames."""
    role: str
    verdict: str
    """right, told (nothing is right and the problem is told), short (members are missing) or wrong."""
    linked: str
    text: str = ""


@dataclass(frozen=True)
class FaultScore:
    """A planted fault and what was said of it."""

    name: str
    reported: bool
    text: str


@dataclass(frozen=True)
class FrameScore:
    """A calibrated frame against the truth (DN)."""

    path: str
    band: str
    night: int
    fault: str
    """Name of the fault it suffers; "" for none."""
    pixels: int
    chi2: float
    """Reduced chi² of calibrated − factor · truth by the frame's own variance; NaN without a variance."""
    factor: float
    """Mean of the fitted factors."""
    offset: float
    """Mean of calibrated − factor · truth."""
    offset_error: float
    """Its standard error by the noise and by that of the factor."""
    sky: float
    """Mean of the truth."""
    hot: int
    """Planted pixels that stand out of a raw frame."""
    hot_left: int
    saturated_left: int
    """Pixels that have saturated for certain and have a value."""
    lost: float
    """Of the good pixels, the share without a value."""


@dataclass(frozen=True)
class DustScore:
    """What is left of a grain's shadow on the frames of a rig, band and night."""

    of: str
    x: float
    y: float
    depth: float
    """Of the shadow in the raw frames (fraction)."""
    left: float
    """Calibrated sky inside over outside, less 1."""
    error: float


@dataclass(frozen=True)
class Score:
    """How right the links are and how near the calibrated frames are to the truth."""

    links: tuple[LinkScore, ...]
    faults: tuple[FaultScore, ...]
    frames: tuple[FrameScore, ...]
    dust: tuple[DustScore, ...]

    @property
    def clean(self) -> list[FrameScore]:
        """Frames that suffer no fault."""
        return [f for f in self.frames if not f.fault]

    @property
    def wrong_links(self) -> list[LinkScore]:
        """Links that are wrong, or lack members."""
        return [link for link in self.links if link.verdict in ("wrong", "short")]

    def summary(self) -> dict[str, Any]:
        """Numbers over all: of frames without faults if not said otherwise."""
        clean = self.clean
        worst = max(clean, key=lambda f: abs(f.chi2 - 1.0), default=None)
        biased = max(clean, key=lambda f: abs(f.offset), default=None)
        dusty = max(self.dust, key=lambda d: abs(d.left), default=None)
        by_fault = {f.fault: chi2([g for g in self.frames if g.fault == f.fault]) for f in self.frames if f.fault}
        return {
            "links": len(self.links),
            "links_right": sum(link.verdict in ("right", "told") for link in self.links),
            "links_wrong": len(self.wrong_links),
            "faults": len(self.faults),
            "faults_reported": sum(f.reported for f in self.faults),
            "frames": len(self.frames),
            "clean_frames": len(clean),
            "chi2": chi2(clean),
            "chi2_worst": worst.chi2 if worst else math.nan,
            "chi2_by_fault": by_fault,
            "dust_worst": abs(dusty.left) if dusty else math.nan,
            "dust_error": dusty.error if dusty else math.nan,
            "dust_rms": _rms([d.left for d in self.dust]),
            "dust_noise": _rms([d.error for d in self.dust]),
            "hot": sum(f.hot for f in clean),
            "hot_left": sum(f.hot_left for f in clean),
            "saturated_left": sum(f.saturated_left for f in clean),
            "lost": max((f.lost for f in clean), default=math.nan),
            "sky_bias": biased.offset if biased else math.nan,
            "sky_bias_error": biased.offset_error if biased else math.nan,
            "sky_bias_relative": max((abs(f.offset / f.sky) for f in clean), default=math.nan),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        out: dict[str, Any] = {"summary": self.summary()}
        for name in ("links", "faults", "frames", "dust"):
            out[name] = [asdict(item) for item in getattr(self, name)]
        return out

    def to_text(self) -> str:
        """Return tables: links, faults, frames, and the numbers over all."""
        s = self.summary()
        lines = [f"links: {s['links_right']} of {s['links']} right"]
        lines += [
            f"  {link.verdict}: {link.role} of {link.of} = {link.linked or 'none'} {link.text}".rstrip()
            for link in self.wrong_links
        ]
        lines += [f"faults: {s['faults_reported']} of {s['faults']} reported"]
        lines += [f"  {f.name}: {f.text if f.reported else 'NOT REPORTED'}" for f in self.faults]
        lines += ["", "frame                               chi2  factor    offset ± error      hot left  lost"]
        for f in self.frames:
            name = PurePosixPath(f.path).name[-24:]
            lines.append(
                f"{name:<24} {f.band:>4} {f.night}  {f.chi2:7.4f} {f.factor:7.4f} {f.offset:+8.3f} ± "
                f"{f.offset_error:5.3f} {f.hot:6d} {f.hot_left:4d} {100 * f.lost:6.3f} % {f.fault}".rstrip()
            )
        rows = [
            ("reduced chi²", f"{s['chi2']:.4f}   (worst frame {s['chi2_worst']:.4f})"),
            *((f"  frames with {name}", f"{value:.4f}") for name, value in s["chi2_by_fault"].items()),
            (
                "dust left, worst grain",
                f"{100 * s['dust_worst']:.3f} ± {100 * s['dust_error']:.3f} %   (rms {100 * s['dust_rms']:.3f} %, "
                f"noise alone {100 * s['dust_noise']:.3f} %, {len(self.dust)} grains)",
            ),
            ("hot pixels left", f"{s['hot_left']} of {s['hot']}"),
            ("saturated pixels left", f"{s['saturated_left']}"),
            ("good pixels lost, worst", f"{100 * s['lost']:.3f} %"),
            (
                "sky bias, worst frame",
                f"{s['sky_bias']:+.3f} ± {s['sky_bias_error']:.3f} DN   "
                f"({100 * s['sky_bias_relative']:.3f} % of the sky)",
            ),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join([*lines, "", *(f"{name:<{width}}  {value}" for name, value in rows)])


def chi2(frames: Sequence[FrameScore]) -> float:
    """Reduced chi² of all pixels of some frames; NaN of none."""
    pixels = sum(f.pixels for f in frames)
    return sum(f.chi2 * f.pixels for f in frames) / pixels if pixels else math.nan


def _rms(values: Sequence[float]) -> float:
    return math.sqrt(sum(v * v for v in values) / len(values)) if values else math.nan


def score(
    truth: Mapping[str, Any],
    session: xr.Dataset,
    links: xr.Dataset,
    calibrated: xr.Dataset,
) -> Score:
    """Compare links and calibrated frames with the truth.

    Parameters
    ----------
    truth
        `truth.json` of a raw session.
    session
        All frames, as `ingest` gives them.
    links
        As `link` gives them.
    calibrated
        Table of calibrated lights, as `calibrate` gives it: `name`, and `source` whose sources have `variance`.

    Returns
    -------
    Score
    """
    frames, dust = score_pixels(truth, calibrated)
    return Score(
        tuple(score_links(truth, session, links)), tuple(score_faults(truth, session, links)), frames, dust
    )


# --- links ---


class Names:
    """Files of the truth by the names a session gives them: file names with as many folders as it takes."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._known: dict[str, str] = {}
        for path in paths:
            parts = PurePosixPath(path).parts
            for k in range(len(parts)):
                name = "/".join(parts[k:])
                self._known[name] = "" if name in self._known else path

    def path(self, name: str) -> str:
        """File of a name; "" if there is none or it is not the only one."""
        parts = PurePosixPath(name).parts
        # The session may need more folders than the truth's own.
        return next((p for k in range(len(parts)) if (p := self._known.get("/".join(parts[k:])))), "")


def score_links(truth: Mapping[str, Any], session: xr.Dataset, links: xr.Dataset) -> list[LinkScore]:
    """Compare every link of a light, and those of the sets that serve one, with the truth."""
    files = {f["path"]: f for f in truth["files"]}
    names = Names(files)
    paths = [names.path(str(n)) for n in session["name"].values]
    members: dict[int, list[str]] = {}
    for path, group in zip(paths, links["member"].values.tolist(), strict=True):
        if group >= 0:
            members.setdefault(group, []).append(path)
    present = set(paths)

    def verdict(group: int, key: str) -> tuple[str, str]:
        if group < 0:
            return ("wrong" if key else "right"), ""
        sets = sorted({files[p]["set"] for p in members.get(group, ()) if p})
        linked = "+".join(sets)
        if sets != [key]:
            return "wrong", linked
        return ("right" if set(members[group]) >= set(truth["sets"][key]["files"]) & present else "short"), linked

    out = []
    served: dict[int, str] = {}
    warnings = _Warnings(links)
    for row, path in enumerate(paths):
        file = files.get(path)
        if file is None or file["kind"] != "light":
            continue
        used = bool(links["use"].values[row])
        for role in ROLES:
            group = int(links[role].values[row])
            result, linked = verdict(group, file[role])
            told = warnings.of(row, role)
            if not file[role]:
                # Nothing is right: then it must be said, whatever is done.
                result = "told" if told else "wrong"
            elif role == "bias" and group < 0 and int(links["dark"].values[row]) >= 0:
                # A dark as long as the light has the bias in it.
                result = "wrong" if bool(links["scale_dark"].values[row]) else "right"
            out.append(LinkScore(path, role, result, linked, told))
            if used and group >= 0 and "+" not in linked:
                served[group] = linked
    for group, key in sorted(served.items(), key=lambda item: item[1]):
        one = truth["sets"].get(key)
        if one is None or one["kind"] != "flat":
            continue
        own = {role: int(links[f"own_{role}"].values[group]) for role in ("bias", "dark")}
        result, linked = verdict(own["dark"], one["dark"])
        out.append(LinkScore(key, "flat-dark", result, linked))
        result, linked = verdict(own["bias"], one["bias"])
        if own["bias"] < 0 and own["dark"] >= 0:
            result = "right"
        out.append(LinkScore(key, "bias", result, linked))
    return out


class _Warnings:
    """What links say is not as it should be; the reason of an ordinary choice is no warning."""

    def __init__(self, links: xr.Dataset) -> None:
        self._links = links
        self._labels = [g["label"] for g in json.loads(links.attrs["light_groups"])]
        self._edges: dict[tuple[str, str], list[str]] = {}
        for edge in json.loads(links.attrs["edges"]):
            if edge["verdict"] != "chosen" or edge["caution"]:
                text = f"{edge['verdict']}: {edge['to'] or 'no ' + edge['role']}: {edge['reason']}"
                self._edges.setdefault((edge["from"], edge["role"]), []).append(text)

    def of(self, row: int, role: str) -> str:
        """Warnings about a role of a light, the reason why it is left out among them."""
        group = int(self._links["light_group"].values[row])
        texts = self._edges.get((self._labels[group], role), []) if group >= 0 else []
        why = "" if bool(self._links["use"].values[row]) else str(self._links["reason"].values[row])
        return "; ".join(t for t in (why, *texts) if t)


def score_faults(truth: Mapping[str, Any], session: xr.Dataset, links: xr.Dataset) -> list[FaultScore]:
    """Look for words about each planted fault: in the links of the lights it hits, among what was left out."""
    files = {f["path"]: f for f in truth["files"]}
    names = Names([*files, *(p for f in truth["faults"] for p in f["files"])])
    rows = {names.path(str(n)): i for i, n in enumerate(session["name"].values)}
    left_out = {names.path(str(n)): str(why) for n, why in json.loads(session.attrs["left_out"])}
    warnings = _Warnings(links)
    roles = {"missing-flat": "flat", "wrong-dark": "dark"}
    out = []
    for fault in truth["faults"]:
        texts = []
        for path in fault["files"] or fault["lights"]:
            role = roles.get(fault["name"], "bias")
            texts.append(left_out.get(path) or (warnings.of(rows[path], role) if path in rows else ""))
        out.append(FaultScore(fault["name"], all(texts), texts[0] if texts else "it hits no light"))
    return out


# --- pixels ---


@dataclass
class _Frame:
    """Sums over the good pixels of a frame, for each of the four phases (one, for a monochrome sensor)."""

    file: Mapping[str, Any]
    fault: str
    flat: tuple[Any, ...]
    """Frames with the same flat share a factor."""
    sums: dict[str, NDArray[np.float64]]
    hot: NDArray[np.float64]
    """Planted pixels with a value: rows of calibrated, truth, noise of an ordinary pixel, phase."""
    planted: int
    saturated_left: int
    lost: float
    levels: NDArray[np.float64]
    """Factor of each phase by the master flat, and its standard error; NaN where the source does not show it."""
    dust: NDArray[np.float64]
    """Of each grain and phase: Σ w I T and Σ w T² in its shadow and around it; shape (grain, 4, phase)."""


def score_pixels(
    truth: Mapping[str, Any], calibrated: xr.Dataset
) -> tuple[tuple[FrameScore, ...], tuple[DustScore, ...]]:
    """Compare calibrated frames with the truth.

    Notes
    -----
    Not looked at: pixels hit by cosmic rays, planted hot pixels (they are counted), cold ones, and those that
    saturate or nearly do. The factor s is the mean of true over master flat, or comes from I = s T + c with the
    true variance for weights (the frame's own would favour pixels that noise made faint); the chi² is that of
    I − s T by the variance the source states.
    """
    simulated = SimulatedSession.from_dict(truth["session"])
    files = {f["path"]: f for f in truth["files"]}
    names = Names(files)
    faulty = {p: f["name"] for f in truth["faults"] if f["name"] != "twin" for p in f["lights"]}
    frames = []
    for row in range(calibrated.sizes["frame"]):
        path = names.path(str(calibrated["name"].values[row]))
        if not path:
            raise DataError(f"{calibrated['name'].values[row]} is no frame of this truth")
        frames.append(_sums(simulated, files[path], str(calibrated["source"].values[row]), faulty.get(path, "")))
    factors = _factors(frames)
    scores = tuple(_frame_score(frame, *factors[frame.flat]) for frame in frames)
    return scores, _dust_scores(simulated, frames)


def _phases(simulated: SimulatedSession, shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    if not simulated.camera.bayer:
        return [(slice(None), slice(None))]
    return [(slice(r, None, 2), slice(c, None, 2)) for r in (0, 1) for c in (0, 1)]


def _sums(simulated: SimulatedSession, file: Mapping[str, Any], spec: str, fault: str) -> _Frame:
    frame = simulated.descriptors()[file["index"]]
    told = simulated.truth_of(frame.index)
    source: Any = open_source(spec)
    shape = told.image.shape
    if tuple(source.shape) != shape:
        raise DataError(f"{file['path']}: calibrated to {source.shape} pixels, the truth has {shape}")
    whole = slice(0, shape[0]), slice(0, shape[1])
    image = source.read(*whole).astype(np.float64)
    variance = source.variance(*whole).astype(np.float64)
    clear = np.isfinite(told.image) & (cosmic_charge(frame.camera, frame.exposure, *whole) == 0)
    clear &= told.flat > COLD * np.median(told.flat)
    good = clear & (told.hot == 0)
    valid = good & np.isfinite(image) & ~(variance <= 0)
    # The noise of a pixel without its excess.
    ordinary = np.sqrt(told.variance - told.hot / frame.camera.gain / told.flat**2)
    planted = clear & (told.hot / told.flat > LEFT_SIGMA * ordinary)
    phases = _phases(simulated, shape)
    phase = np.zeros(shape, dtype=np.int64)
    for k, part in enumerate(phases):
        phase[part] = k
    seen = planted & np.isfinite(image)
    weight = np.where(valid, 1.0 / told.variance, 0.0)
    inverse = np.where(valid, 1.0 / variance, 0.0)
    i, t = np.where(valid, image, 0.0), np.where(valid, told.image, 0.0)
    products = {
        **{
            "n": valid,
            "w": weight,
            "wt": weight * t,
            "wtt": weight * t * t,
            "wi": weight * i,
            "wit": weight * i * t,
        },
        **{"vii": inverse * i * i, "vit": inverse * i * t, "vtt": inverse * t * t},
    }
    sure = (told.counts - SURE * np.sqrt(told.variance) * told.flat) >= frame.camera.ceiling
    return _Frame(
        file=file,
        fault=fault,
        flat=(file["rig"], file["band"], file["night"], fault == "missing-flat"),
        sums={k: np.array([float(v[p].sum(dtype=np.float64)) for p in phases]) for k, v in products.items()},
        hot=np.stack([image[seen], told.image[seen], ordinary[seen], phase[seen].astype(np.float64)], axis=-1),
        planted=int(planted.sum()),
        saturated_left=int((sure & np.isfinite(image)).sum()),
        lost=1.0 - float(np.isfinite(image[good]).mean()),
        levels=_levels(source, told, valid, phases),
        dust=_dust_sums(frame, told, weight, i, t, phases),
    )


def _levels(
    source: Any, told: Truth, valid: NDArray[np.bool_], phases: Sequence[tuple[slice, slice]]
) -> NDArray[np.float64]:
    flat = getattr(source, "flat", None)
    if flat is None:
        return np.full((2, len(phases)), np.nan)
    rows, columns = (slice(0, n) for n in valid.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = told.flat / flat.read(flat.image, rows, columns)
    good = valid & np.isfinite(ratio)
    parts = [ratio[p][good[p]] for p in phases]
    return np.array([[p.mean() for p in parts], [p.std() / math.sqrt(p.size) for p in parts]])


def _dust_sums(
    frame: SimulatedFrame,
    told: Truth,
    weight: NDArray[np.float64],
    image: NDArray[np.float64],
    true: NDArray[np.float64],
    phases: Sequence[tuple[slice, slice]],
) -> NDArray[np.float64]:
    grains = dust_grains(frame.camera, frame.exposure.optics)
    out = np.zeros((len(grains), 4, len(phases)))
    row, column = np.ogrid[: told.image.shape[0], : told.image.shape[1]]
    for k, (x, y, size, _) in enumerate(grains):
        distance = np.hypot(column - x, row - y) / size
        inside = np.abs(distance - 0.8) < SHADOW
        ring = (distance > RING[0]) & (distance < RING[1])
        for p, part in enumerate(phases):
            w, i, t = weight[part], image[part], true[part]
            for j, mask in enumerate((inside[part], ring[part])):
                out[k, 2 * j, p] = np.sum((w * i * t)[mask])
                out[k, 2 * j + 1, p] = np.sum((w * t * t)[mask])
    return out


def _factors(frames: Sequence[_Frame]) -> dict[tuple[Any, ...], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Factor of each flat and phase, and its standard error: of I = s T + c over the frames without a fault."""
    out = {}
    for key in dict.fromkeys(f.flat for f in frames):
        mine = [f for f in frames if f.flat == key]
        mine = [f for f in mine if not f.fault] or mine
        if all(np.isfinite(f.levels).all() for f in mine):
            out[key] = mine[0].levels[0], mine[0].levels[1]
            continue
        total = {k: sum(f.sums[k] for f in mine) for k in mine[0].sums}
        # About each frame's own mean: frames may differ in c.
        spread = sum(f.sums["wtt"] - f.sums["wt"] ** 2 / f.sums["w"] for f in mine)
        joint = sum(f.sums["wit"] - f.sums["wi"] * f.sums["wt"] / f.sums["w"] for f in mine)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor, error = joint / spread, 1.0 / np.sqrt(spread)
        # Without structure in the light nothing tells factor and offset apart.
        flat_light = ~(error < 0.01)
        out[key] = np.where(flat_light, total["wit"] / total["wtt"], factor), np.where(flat_light, 0.0, error)
    return out


def _frame_score(frame: _Frame, factor: NDArray[np.float64], error: NDArray[np.float64]) -> FrameScore:
    s = frame.sums
    total = float(np.sum(s["vii"] - 2.0 * factor * s["vit"] + factor**2 * s["vtt"]))
    pixels = int(s["n"].sum())
    weight = s["w"].sum()
    offset = float(np.sum(s["wi"] - factor * s["wt"]) / weight)
    offset_error = math.sqrt(1.0 / weight + float(np.sum((error * s["wt"]) ** 2)) / weight**2)
    image, true, noise, phase = frame.hot.T
    left = np.abs(image - factor[phase.astype(np.intp)] * true) > LEFT_SIGMA * noise
    return FrameScore(
        path=frame.file["path"],
        band=frame.file["band"],
        night=frame.file["night"],
        fault=frame.fault,
        pixels=pixels,
        chi2=total / pixels if pixels else math.nan,
        factor=float(factor.mean()),
        offset=offset,
        offset_error=offset_error,
        sky=float(s["wt"].sum() / weight),
        hot=frame.planted,
        hot_left=int(left.sum()),
        saturated_left=frame.saturated_left,
        lost=frame.lost,
    )


def _dust_scores(simulated: SimulatedSession, frames: Sequence[_Frame]) -> tuple[DustScore, ...]:
    out = []
    for key in dict.fromkeys(f.flat for f in frames if not f.fault):
        mine = [f for f in frames if f.flat == key and not f.fault]
        example = simulated.descriptors()[mine[0].file["index"]]
        total = np.sum([f.dust for f in mine], axis=0)
        for (x, y, _, depth), sums in zip(
            dust_grains(example.camera, example.exposure.optics), total, strict=True
        ):
            if not (sums[1] > 0).all() or not (sums[3] > 0).all():
                continue
            inside, ring = sums[0] / sums[1], sums[2] / sums[3]
            # Phases have factors of their own: each ratio by itself, then their mean.
            ratio, error = inside / ring - 1.0, np.sqrt(1.0 / sums[1] + 1.0 / sums[3])
            weight = 1.0 / error**2
            out.append(
                DustScore(
                    f"rig {key[0]}, {key[1]}, night {key[2]}",
                    float(x),
                    float(y),
                    float(depth),
                    float(np.sum(weight * ratio) / weight.sum()),
                    float(1.0 / np.sqrt(weight.sum())),
                )
            )
    return tuple(out)


# --- running ---


def calibrate_here(
    folder: Path,
    *,
    on_broken: Literal["refuse", "without", "leave_out"] = "without",
    scale_darks: Literal["never", "when_needed", "always"] = "when_needed",
) -> tuple[xr.Dataset, xr.Dataset, xr.Dataset]:
    """Session, links and calibrated lights of a folder, by the ops alone."""
    session = ingest([folder], take="all")
    links = link(session, on_broken=on_broken, scale_darks=scale_darks)
    stacked = masters(session, links).compute()
    measured = levels(session, links, stacked).compute()
    flat = flats(session, links, stacked, measured).compute()
    hot, cold = defects(stacked).compute(), defects(flat).compute()
    return session, links, calibrate(session, links, stacked, flat, measured, hot, cold)


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path)
    parser.add_argument("project", type=Path, nargs="?")
    parser.add_argument("--json", action="store_true", help="numbers instead of the tables")
    options = parser.parse_args(None if arguments is None else list(arguments))
    truth = json.loads((options.frames / "truth.json").read_text(encoding="utf-8"))
    if options.project is None:
        session, links, calibrated = calibrate_here(options.frames)
    else:
        from skyloom.workflows.store import Store

        store = Store(options.project)
        session, links, calibrated = (store.open(name) for name in ("ingest", "link", "calibrate"))
    result = score(truth, session, links, calibrated)
    print(json.dumps(result.to_dict(), indent=1) if options.json else result.to_text())


if __name__ == "__main__":
    main()
