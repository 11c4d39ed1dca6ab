"""The frames of a calibration group: reading them, and which of them do not belong.

A broken or odd frame never stops a run: it is left out with its reason. What tells is a few rows of each frame,
the same ones in every task, so tasks agree without knowing of each other.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.calibration.noise_model import MODEL_FRAMES, fit_dark_noise
from skyloom.ops.calibration.stacking import NoiseModel
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.unit_keys import digest

OK, UNREADABLE, UNLIKE, SATURATED, NO_LIGHT, SCALE_UNKNOWN, SCALE_LIMITED = range(7)
"""Status of a frame. The last two belong to lights whose dark is scaled; they are no reason to leave it out."""

GROUP_KINDS = ("bias", "dark", "flatdark", "flat")

SAMPLE_PIXELS = 2**18
"""Pixels of a frame that tell the noise of its group."""
SAMPLE_ROWS = 8
"""Rows of a block of them: fewer calls than single rows."""
UNLIKE_SIGMA = 1.0
"""A frame of a group of three or more may be this far off their middle (noise of a pixel) …"""
UNLIKE_SCATTER = 6.0
"""… or this many times the scatter of their levels, if that is more."""
UNLIKE_PAIR = 5.0
"""Of two frames the higher may be this far above the other (noise of a pixel)."""

# Errors of the system that say something of the file. None: raised by a decompressor.
_LASTING = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.EPERM)

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Member:
    """A calibration frame of a group."""

    frame: int
    """Its place in the session."""
    name: str
    source: str
    saturation: float = math.nan
    """Level from which a pixel is saturated (DN), NaN = unknown."""
    pedestal: float = 0.0
    """What was added to its pixels (DN)."""


@dataclass(frozen=True)
class Group:
    """Calibration frames that make one master."""

    index: int
    """In `links`."""
    kind: str
    shape: tuple[int, int]
    members: tuple[Member, ...]
    given: bool = False
    """A master somebody made: taken as it is."""
    gain: float = math.nan
    """e-/DN."""
    bayer: str = ""
    trim: str = ""
    """FITS section of the pixels that see light."""
    bias: int = -1
    """Groups linked to it."""
    dark: int = -1

    @property
    def pedestal(self) -> float:
        """Of its master: the middle one of its members' (DN)."""
        return float(np.median([m.pedestal for m in self.members])) if self.members else 0.0


@dataclass(frozen=True)
class Checked:
    """What a few rows tell of a group."""

    status: tuple[int, ...]
    reason: tuple[str, ...]
    """Why a member is left out, "" for those in use."""
    offset: tuple[float, ...]
    """How far a member's level is off the mean of those in use (DN): drift of the electronics, common to all
    pixels, which is neither noise of a pixel nor a reason to reject it. The mean of all does not change by it."""
    models: tuple[NoiseModel, ...]
    """Noise of a sample less its frame's offset."""


# --- from the tables ---


def column(dataset: xr.Dataset, name: str, default: Any) -> NDArray[Any]:
    """Column of a table over `frame`, or its default where the table does not have it."""
    if name in dataset.variables:
        return np.asarray(dataset[name].values)
    return np.full(dataset.sizes["frame"], default)


def groups_of(session: xr.Dataset, links: xr.Dataset, kinds: Iterable[str]) -> list[Group]:
    """Groups of some kinds that something is calibrated with, with the frames that are not left out.

    Raises
    ------
    DataError
        If session and links are not of the same frames.
    """
    if not np.array_equal(session["frame"].values, links["frame"].values):
        raise DataError("session and links are not of the same frames; run `link` on this session")
    group, use = np.asarray(links["member"].values), np.asarray(links["use"].values, dtype=bool)
    wanted, used = tuple(kinds), np.asarray(links["used"].values, dtype=bool)
    gain, bayer, trim = (
        column(session, "gain", math.nan),
        column(session, "bayer", ""),
        column(session, "trim", ""),
    )
    members = members_of(session, np.flatnonzero(use).tolist())
    found = []
    for index, kind in enumerate(links["kind"].values.tolist()):
        if kind not in wanted or not used[index]:
            continue
        rows = np.flatnonzero((group == index) & use)
        known = gain[rows][np.isfinite(gain[rows])]
        found.append(
            Group(
                index=index,
                kind=str(kind),
                shape=(int(links["height"].values[index]), int(links["width"].values[index])),
                members=tuple(members[i] for i in rows.tolist()),
                given=bool(links["master"].values[index]),
                gain=float(np.median(known)) if known.size else math.nan,
                bayer=str(bayer[rows[0]]) if rows.size else "",
                trim=str(trim[rows[0]]) if rows.size else "",
                bias=int(links["own_bias"].values[index]),
                dark=int(links["own_dark"].values[index]),
            )
        )
    return found


def member(session: xr.Dataset, index: int) -> Member:
    """What tasks must know of a frame."""
    return members_of(session, [index])[index]


def members_of(session: xr.Dataset, indices: Iterable[int]) -> dict[int, Member]:
    """What tasks must know of frames, by their places; a column is taken out of the table once, not for each."""
    names, sources = session["name"].values, session["source"].values
    saturation, pedestal = column(session, "saturation", math.nan), column(session, "pedestal", 0.0)
    return {
        i: Member(
            frame=i,
            name=str(names[i]),
            source=str(sources[i]),
            saturation=float(saturation[i]),
            pedestal=float(pedestal[i]) if math.isfinite(pedestal[i]) else 0.0,
        )
        for i in indices
    }


def identities(session: xr.Dataset, links: xr.Dataset) -> dict[int, str]:
    """Digest of each group in use, by its index: contents and facts of its frames in their order.

    The groups linked to it count, too; what files are called, and where anything stands in a table, does not.
    """
    content = session["frame"].values.tolist()
    groups = {g.index: g for g in groups_of(session, links, GROUP_KINDS)}

    @cache
    def identity(index: int) -> str:
        if index not in groups:
            return ""
        group = groups[index]
        members = tuple(replace(m, frame=0, name="", source=content[m.frame]) for m in group.members)
        bare = replace(group, index=0, members=members, bias=0, dark=0)
        return digest(bare, identity(group.bias), identity(group.dark))

    return {index: identity(index) for index in groups}


# --- reading ---


def read_window(frame: Member, rows: slice, columns: slice) -> Pixels:
    """Pixels of a window of a frame; saturated ones stay.

    Raises
    ------
    DataError
        If the file is broken or gone.
    OSError
        If the disk or the network failed: that may pass.
    """
    try:
        return open_source(frame.source).read(rows, columns)
    except DataError as problem:
        if isinstance(fault := problem.__cause__, OSError) and fault.errno not in _LASTING:
            raise OSError(fault.errno, str(problem)) from problem
        raise


def mask_saturated(frame: Member, pixels: Pixels) -> Pixels:
    """Set saturated pixels to NaN, in place: they tell neither charge nor noise."""
    if math.isfinite(frame.saturation):
        pixels[pixels >= frame.saturation] = np.nan
    return pixels


def sample_rows(shape: tuple[int, int]) -> list[slice]:
    """Rows that stand for a frame: a few blocks of them, each begins with an even one."""
    blocks = max(shape[0] // SAMPLE_ROWS, 1)
    wanted = min(max(SAMPLE_PIXELS // (SAMPLE_ROWS * max(shape[1], 1)), 4), blocks)
    starts = [SAMPLE_ROWS * int((k + 0.5) * blocks / wanted) for k in range(wanted)]
    return [slice(s, min(s + SAMPLE_ROWS, shape[0])) for s in starts]


def sample_bytes(frames: int, shape: tuple[int, int]) -> float:
    """Peak memory of finding the noise of a group (bytes)."""
    pixels = float(shape[1] * sum(r.stop - r.start for r in sample_rows(shape)))
    return pixels * (4.0 * min(frames, MODEL_FRAMES) + 48.0 + 0.25 * frames)


def read_sample(frame: Member, shape: tuple[int, int]) -> Pixels:
    """Rows that stand for a frame, one below the other.

    Raises
    ------
    DataError
        If the frame cannot be read or has another size than the session says.
    """
    source = open_source(frame.source)
    if source.shape != shape:
        raise DataError(f"it is {source.shape[0]} × {source.shape[1]} pixels, not {shape[0]} × {shape[1]}")
    everything = slice(0, shape[1])
    if not source.windowed:
        whole = read_window(frame, slice(0, shape[0]), everything)
        return np.concatenate([whole[rows] for rows in sample_rows(shape)])
    return np.concatenate([read_window(frame, rows, everything) for rows in sample_rows(shape)])


# --- who belongs ---


@lru_cache(maxsize=64)
def check_group(group: Group) -> Checked:
    """Find the members of a bias or dark group that cannot be used, and the noise of the others.

    Parameters
    ----------
    group
        Of kind bias, dark or flatdark.

    Returns
    -------
    Checked
        Kept in the process: every strip of the master asks.

    Notes
    -----
    A frame whose level is off the others' by more than the noise of a pixel has seen light, or was taken with
    other settings: in the mean of ten it would shift every pixel by a third of that mean's own noise.
    """
    if group.given:
        return _given(group)
    status, reason = [OK] * len(group.members), [""] * len(group.members)
    rows = sum(r.stop - r.start for r in sample_rows(group.shape))
    samples = np.empty((min(len(group.members), MODEL_FRAMES), rows, group.shape[1]), np.float32)
    place: list[int] = []
    thin: dict[int, Pixels] = {}
    for i, frame in enumerate(group.members):
        try:
            pixels = mask_saturated(frame, read_sample(frame, group.shape))
        except DataError as problem:
            status[i], reason[i] = UNREADABLE, f"cannot be read: {problem}"
            continue
        share = float(np.isfinite(pixels).mean())
        if share < 0.5:
            status[i], reason[i] = SATURATED, f"{1 - share:.0%} of its pixels are saturated or have no value"
            continue
        thin[i] = pixels[:, ::16].reshape(-1)
        # Frames of other settings among the first are rare: there will be some of the others.
        if len(place) < MODEL_FRAMES:
            samples[len(place)] = pixels
            place.append(i)
    _mark_unlike(group, thin, status, reason)
    offset = _offsets(len(group.members), {i: t for i, t in thin.items() if status[i] == OK})
    used = 0
    for k, i in enumerate(place):
        if status[i] == OK:
            np.subtract(samples[k], np.float32(offset[i]), out=samples[used])
            used += 1
    models = (fit_dark_noise(samples[:used], gain=group.gain) if used else NoiseModel(math.nan, 0.0),)
    return Checked(tuple(status), tuple(r[:200] for r in reason), offset, models)


def _given(group: Group) -> Checked:
    status, reason = [], []
    for frame in group.members:
        try:
            read_sample(frame, group.shape)
        except DataError as problem:
            status.append(UNREADABLE)
            reason.append(f"cannot be read: {problem}"[:200])
        else:
            status.append(OK)
            reason.append("")
    return Checked(tuple(status), tuple(reason), (0.0,) * len(status), (NoiseModel(0.0, 0.0),))


def _offsets(count: int, thin: dict[int, Pixels]) -> tuple[float, ...]:
    """Level of each frame above the mean of all, 0 for those without pixels."""
    out = np.zeros(count)
    if len(thin) > 1:
        pixels = np.stack(list(thin.values()))
        pixels[:, np.isnan(pixels).any(axis=0)] = np.nan
        rest = pixels - np.median(pixels, axis=0)
        for i, values in zip(thin, rest, strict=True):
            known = values[np.isfinite(values)].astype(np.float64)
            if not known.size:
                continue
            middle = float(np.median(known))
            width = max(1.4826 * float(np.median(np.abs(known - middle))), 1e-6 * abs(middle), 0.5)
            # A mean: the median of integers has steps.
            out[i] = known[np.abs(known - middle) <= 5.0 * width].mean()
        out[list(thin)] -= out[list(thin)].mean()
    return tuple(out.tolist())


def _mark_unlike(group: Group, thin: dict[int, Pixels], status: list[int], reason: list[str]) -> None:
    """Mark the frames whose level is far off the group's; `thin` holds the same pixels of each."""
    if len(thin) < 2:
        return
    order = list(thin)
    pixels = np.stack([thin[i] for i in order])
    pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
    if not pixels.size:
        return
    level = np.median(pixels - np.median(pixels, axis=0), axis=1).astype(np.float64)
    noise = _noise_beside(pixels)
    if len(order) == 2:
        off = level - level.min()
        limit = UNLIKE_PAIR * noise
    else:
        off = level - np.median(level)
        limit = max(UNLIKE_SIGMA * noise, UNLIKE_SCATTER * 1.4826 * float(np.median(np.abs(off))))
    for place, i in enumerate(order):
        if abs(off[place]) > limit:
            word = "above" if off[place] > 0 else "below"
            status[i] = UNLIKE
            reason[i] = (
                f"its level is {abs(off[place]):.4g} DN {word} that of the other {group.kind} frames of its group "
                f"(limit {limit:.3g} DN): it saw light, or has other settings"
            )


def _noise_beside(pixels: Pixels) -> float:
    """Noise of a pixel in an ordinary frame, its level apart."""
    difference = pixels[1:] - pixels[:-1]
    difference = difference - np.median(difference, axis=1, keepdims=True)
    widths = np.sort(1.4826 * np.median(np.abs(difference), axis=1)) / math.sqrt(2.0)
    # The lower middle: of two pairs one may hold the odd frame. Integers of little noise: a third of a unit.
    return max(float(widths[(widths.size - 1) // 2]), 0.3 if np.all(pixels == np.rint(pixels)) else 0.0)


def usable(group: Group, status: Iterable[int]) -> Iterator[Member]:
    """Members that are not left out."""
    return (m for m, s in zip(group.members, status, strict=True) if s == OK)
