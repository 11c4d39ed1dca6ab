"""What must be known of whole raw frames before calibration: levels of flats, scales of darks, odd frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from skyloom.ops.blocks import Block, BlockLayer, Blocks, extended
from skyloom.ops.calibration.dark_scale import DarkCurrent, dark_scale
from skyloom.ops.calibration.flat_level import flat_level
from skyloom.ops.calibration.masters import KINDS
from skyloom.ops.calibration.members import (
    OK,
    SAMPLE_PIXELS,
    UNREADABLE,
    Group,
    Member,
    check_group,
    column,
    groups_of,
    identities,
    member,
    sample_bytes,
)
from skyloom.ops.calibration.references import Reference, reference_for, references
from skyloom.ops.calibration.strips import FIXED_BYTES, STRIP
from skyloom.ops.errors import DataError
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.unit_keys import digest, made_by

RATE = 100.0
"""Mpixel a second of each of two tasks at a time."""
STRIP_BYTES = 36
"""Of a strip's pixel: frame, dark, bias and their differences, and what they are decoded from."""

_REASON = "<U200"
_VARIABLES: dict[str, tuple[Any, tuple[int, ...], tuple[str, ...]]] = {
    "level": (np.float64, (4,), ("phase",)),
    "noise": (np.float64, (), ()),
    "saturated": (np.float64, (), ()),
    "dark_scale": (np.float64, (), ()),
    "dark_scale_error": (np.float64, (), ()),
    "status": (np.uint8, (), ()),
    "reason": (_REASON, (), ()),
}


@dataclass(frozen=True)
class Level:
    """What `levels` says of one frame."""

    level: tuple[float, float, float, float] = (math.nan,) * 4
    noise: float = math.nan
    saturated: float = math.nan
    dark_scale: float = 1.0
    dark_scale_error: float = math.nan
    status: int = OK
    reason: str = ""


@dataclass(frozen=True)
class _Belongs:
    """Task: whether a bias or dark frame belongs to its group."""

    group: Group
    place: int

    def __call__(self) -> Level:
        checked = check_group(self.group)
        return Level(status=checked.status[self.place], reason=checked.reason[self.place])


@dataclass(frozen=True)
class _Flat:
    """Task: level of a flat."""

    group: Group
    frame: Member
    reference: Reference | None
    max_saturated: float

    def __call__(self) -> Level:
        try:
            found = flat_level(self.group, self.frame, self.reference, max_saturated=self.max_saturated)
        except DataError as problem:
            return Level(status=UNREADABLE, reason=f"cannot be read: {problem}"[:200])
        return Level(
            level=found.level,
            noise=found.noise,
            saturated=found.saturated,
            status=found.status,
            reason=found.reason[:200],
        )


@dataclass(frozen=True)
class _Scaled:
    """Task: scale of the dark for a light."""

    light: Member
    bias: Reference
    current: DarkCurrent
    ratio: float
    bounds: tuple[float, float]

    def __call__(self) -> Level:
        low, high = self.bounds
        try:
            found = dark_scale(self.light, self.bias, self.current, ratio=self.ratio, low=low, high=high)
        except DataError as problem:
            return Level(dark_scale=math.nan, status=UNREADABLE, reason=f"cannot be read: {problem}"[:200])
        return Level(dark_scale=found.value, dark_scale_error=found.error, status=found.status)


Task = Callable[[], Level]


def _frame_tasks(
    session: xr.Dataset,
    links: xr.Dataset,
    masters: xr.Dataset,
    *,
    threshold: float,
    bounds: tuple[float, float],
    max_saturated: float,
) -> dict[int, Task]:
    """What is to be done, by the frame's place in the session; nothing for most lights."""
    tasks: dict[int, Task] = {}
    dark_groups = groups_of(session, links, KINDS)
    known = references(masters, dark_groups)
    for group in dark_groups:
        tasks.update({m.frame: _Belongs(group, place) for place, m in enumerate(group.members)})
    for group in groups_of(session, links, ("flat",)):
        reference = reference_for(group, known)
        tasks.update({m.frame: _Flat(group, m, reference, max_saturated) for m in group.members})
    by_index = {g.index: g for g in dark_groups}
    exposure = column(session, "exposure", math.nan)
    for i in np.flatnonzero(scaled_lights(links)).tolist():
        dark, bias = int(links["dark"].values[i]), int(links["bias"].values[i])
        own = by_index[dark].bias if dark in by_index else -1
        reference, dark_bias = known.get(bias, known.get(own)), known.get(own, known.get(bias))
        if dark not in known or reference is None or dark_bias is None:
            continue
        step = 2 if str(column(session, "bayer", "")[i]) else 1
        current = DarkCurrent(known[dark], dark_bias, step, threshold)
        ratio = float(exposure[i]) / float(links["exposure"].values[dark])
        tasks[i] = _Scaled(member(session, i), reference, current, ratio, bounds)
    return tasks


def scaled_lights(links: xr.Dataset) -> NDArray[np.bool_]:
    """Which frames get a scale for their dark."""
    scaled: NDArray[np.bool_] = links["scale_dark"].values.astype(bool) & links["use"].values.astype(bool)
    return scaled


def _cost(session: xr.Dataset, links: xr.Dataset, masters: xr.Dataset, **parameters: Any) -> Cost:
    """Cost of each frame: flats, and lights whose dark is scaled, are read whole."""
    count = session.sizes["frame"]
    pixels = session["height"].values.astype(np.float64) * session["width"].values
    width = session["width"].values.astype(np.float64)
    work = np.where(scaled_lights(links), pixels / 1e6, 0.0)
    memory = np.full(count, FIXED_BYTES) + STRIP_BYTES * STRIP * width
    for group in groups_of(session, links, (*KINDS, "flat")):
        rows = [m.frame for m in group.members]
        if group.kind == "flat":
            work[rows] = pixels[rows] / 1e6
        else:
            work[rows] = SAMPLE_PIXELS / 1e6
            memory[rows] = FIXED_BYTES + sample_bytes(len(rows), group.shape)
    return Cost(work=work, read=4e6 * work, memory=memory, rate=RATE)


def _keys(session: xr.Dataset, links: xr.Dataset, masters: xr.Dataset, **parameters: Any) -> NDArray[np.str_]:
    """What the level of each frame depends on: itself, its group, and the masters that are taken off it."""
    content = session["frame"].values.tolist()
    told, made = identities(session, links), made_by(masters, "masters")
    keys = np.full(len(content), "", dtype="<U16")
    for group in groups_of(session, links, (*KINDS, "flat")):
        for frame in group.members:
            keys[frame.frame] = digest(content[frame.frame], told[group.index], made)
    exposure, bayer = column(session, "exposure", math.nan), column(session, "bayer", "")
    for i in np.flatnonzero(scaled_lights(links)).tolist():
        dark, bias = int(links["dark"].values[i]), int(links["bias"].values[i])
        light = replace(member(session, i), frame=0, name="", source=content[i])
        exposures = float(exposure[i]), float(links["exposure"].values[dark])
        keys[i] = digest(light, told.get(dark, ""), told.get(bias, ""), exposures, str(bayer[i]), made)
    return keys


def _lasting(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether the frame could be read."""
    return bool(arrays["status"][0] != UNREADABLE)


@register(version=1, unit=("frame",), cost=_cost, keys=_keys, lasting=_lasting)
def levels(
    session: xr.Dataset,
    links: xr.Dataset,
    masters: xr.Dataset,
    *,
    dark_threshold: Annotated[float, Param(unit="sigma", low=1, high=1000)] = 5.0,
    dark_scale_low: Annotated[float, Param(low=0, high=1)] = 0.25,
    dark_scale_high: Annotated[float, Param(low=1, high=100)] = 4.0,
    max_saturated: Annotated[float, Param(low=0, high=1)] = 0.01,
) -> xr.Dataset:
    """Measure what calibration must know of whole raw frames: levels of flats, scales of darks, odd frames.

    Parameters
    ----------
    session
        Frames (`ingest`).
    links
        Groups and what is linked to what (`link`).
    masters
        Bias and dark (`masters`).
    dark_threshold
        Pixels this far above the ordinary dark current tell the scale of the dark. Change it to less for sensors
        with few warm pixels, where a dark is scaled (`link.scale_darks`).
    dark_scale_low
        Least scale of a dark, in units of the ratio of the exposures. Change it where darks are much warmer or
        longer than the lights.
    dark_scale_high
        Largest scale, likewise (4: a light 12 °C warmer than its dark). Change it where darks are much colder or
        shorter than the lights.
    max_saturated
        A flat with a larger share of saturated pixels is left out. Change it to more only to use flats that are
        too bright rather than none.

    Returns
    -------
    xarray.Dataset
        Over `frame`, lazy, a task a frame. `level` (frame, phase): of a flat, less bias or dark, the robust
        mean of each phase (row, column modulo 2: (0,0), (0,1), (1,0), (1,1)) of a colour filter array, of a
        monochrome one four times the mean of all; NaN for others. `noise`, `saturated` (share of pixels) of a
        flat. `dark_scale` and its error, of lights whose dark is to be scaled. `status`: 0 good, 1 unreadable,
        2 unlike its group, 3 saturated, 4 no light; of lights 5 scale unknown (then the ratio of the exposures),
        6 scale at its bound. `reason`: why a frame is left out, else "".

    Raises
    ------
    DataError
        If session and links are not of the same frames.

    Notes
    -----
    Reads flats, and lights whose dark is scaled, once, in strips. Other lights are not looked at: of them the
    store has no scale (NaN), computed it is 1.
    """
    tasks = _frame_tasks(
        session,
        links,
        masters,
        threshold=dark_threshold,
        bounds=(dark_scale_low, dark_scale_high),
        max_saturated=max_saturated,
    )
    count = session.sizes["frame"]
    token = tokenize("levels", [(i, repr(t)) for i, t in sorted(tasks.items())], count)
    base = f"levels-frame-{token}"

    def frame_task(block: Block) -> tuple[Any, ...]:
        return (_run, tasks[block[0]])

    looked_at = {(i,) for i in tasks}
    work = HighLevelGraph({base: BlockLayer(base, looked_at, frame_task)}, {base: set()})
    variables: dict[str, Any] = {}
    for name, (dtype, shape, dims) in _VARIABLES.items():
        key = f"levels-{name}-{token}"

        def pick(block: Block, name: str = name) -> tuple[Any, ...]:
            return (_pick, (base, block[0]) if block[:1] in looked_at else None, name)

        layer = BlockLayer(key, Blocks((count, *(1 for _ in shape))), pick)
        array = da.Array(
            extended(work, layer, needs=base), key, ((1,) * count, *((n,) for n in shape)), dtype=dtype
        )
        variables[name] = (("frame", *dims), array)
    return xr.Dataset(variables, coords={"frame": session["frame"].values})


def _run(task: Task) -> Level:
    return task()


def _pick(result: Level | None, name: str) -> NDArray[Any]:
    return np.asarray(getattr(result or Level(), name), dtype=_VARIABLES[name][0])[np.newaxis]
