"""Master bias, dark and flat-dark frames: the mean of a group without outliers, strip by strip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from skyloom.ops.calibration.members import (
    Group,
    Member,
    check_group,
    groups_of,
    identities,
    mask_saturated,
    read_window,
    usable,
)
from skyloom.ops.calibration.stacking import Clipping, Method, Stacked
from skyloom.ops.calibration.strips import (
    STRIP,
    masters_dataset,
    rows_at_a_time,
    stack_strip,
    strip_cost,
    strip_keys,
)
from skyloom.ops.errors import DataError
from skyloom.ops.registry import Cost, Param, register

KINDS = ("bias", "dark", "flatdark")
RATE = 150.0
"""Mpixel·frames a second of each of two tasks at a time, files in the system's cache."""


@dataclass(frozen=True)
class StripSpec:
    """The work of one task; in a class of its own, which dask does not search for keys."""

    group: Group
    strip: int
    block: tuple[int, int]
    """Rows and columns of the block, padding included."""
    clipping: Clipping
    task_memory: float


def _cost(session: xr.Dataset, links: xr.Dataset, *, task_memory: float = 2.0**30, **parameters: Any) -> Cost:
    """Cost of each strip of each master."""
    return strip_cost(groups_of(session, links, KINDS), task_memory=task_memory, rate=RATE)


def _keys(session: xr.Dataset, links: xr.Dataset, **parameters: Any) -> NDArray[np.str_]:
    """What each strip depends on: the frames of its group."""
    return strip_keys(groups_of(session, links, KINDS), identities(session, links))


@register(version=1, unit=("master", "y"), cost=_cost, keys=_keys)
def masters(
    session: xr.Dataset,
    links: xr.Dataset,
    *,
    rejection: Method = "auto",
    low: Annotated[float, Param(unit="sigma", low=1.5, high=1000)] = 4.0,
    high: Annotated[float, Param(unit="sigma", low=1.5, high=1000)] = 4.0,
    task_memory: Annotated[float, Param(unit="byte", low=1e6, execution=True)] = 2.0**30,
) -> xr.Dataset:
    """Average the bias, dark and flat-dark frames of each group without outliers.

    Parameters
    ----------
    session
        Frames (`ingest`).
    links
        Their groups (`link`).
    rejection
        How outliers (cosmic rays) are found: none, noise (by the noise of the group), sigma or winsorized (by that
        noise or a pixel's own scatter, whichever is larger); auto: noise below 8 frames, winsorized from 8. Change
        it to none for masters of very few frames that shall be plain means.
    low
        Limit below the centre; samples beyond it are rejected. Change it to less where single frames leave dark
        marks in the master.
    high
        Limit above the centre. Change it to less where cosmic rays are left in the master.
    task_memory
        Memory a strip may take; groups of many frames are stacked a few rows at a time to stay below it.

    Returns
    -------
    xarray.Dataset
        Over (master, y, x), lazy, strips of 256 rows: `image` and `variance` (of the mean) float32, NaN = no data;
        `count` and `rejected` uint16. Over master: `group` (index in `links`), `kind`, `height`, `width`.
        Raw detector coordinates: nothing is trimmed, pedestals of the frames stay in.

    Raises
    ------
    DataError
        If session and links are not of the same frames.
    CapacityError
        While computing, if `task_memory` cannot hold 8 rows of a strip.

    Notes
    -----
    Reads every frame once, and a few rows of it once more in each process. Frames that are broken or unlike the
    rest of their group are left out (`levels` says which and why); one whose rows cannot be read is missing there.
    Saturated samples count as no data. A master that was given is taken as it is: count 1, variance 0. The
    variance of a single frame is that of its neighbouring pixels.
    """
    clipping = Clipping(rejection, low, high)
    groups = groups_of(session, links, KINDS)
    token = tokenize("masters", [repr(g) for g in groups], repr(clipping))

    def task(m: int, s: int, block: tuple[int, int]) -> tuple[Any, ...]:
        return stack_group, StripSpec(groups[m], s, block, clipping, float(task_memory))

    return masters_dataset(groups, "masters", token, task)


def stack_group(spec: StripSpec) -> Stacked:
    """Strip of a master.

    Raises
    ------
    OSError
        If disk or network failed in a way that may pass.
    """
    group = spec.group
    out = Stacked.empty(spec.block)
    width = group.shape[1]
    rows = slice(spec.strip * STRIP, min((spec.strip + 1) * STRIP, group.shape[0]))
    inner = out.window(slice(0, rows.stop - rows.start), slice(0, width))
    checked = check_group(group)
    members = list(usable(group, checked.status))
    if not members:
        return out
    if group.given:
        take_given(group, rows, inner)
        return out
    offset = {m.frame: np.float32(o) for m, o in zip(group.members, checked.offset, strict=True)}

    def read(frame: Member, part: slice) -> NDArray[np.float32]:
        pixels = mask_saturated(frame, read_window(frame, part, slice(0, width)))
        pixels -= offset[frame.frame]
        return pixels

    step, _ = rows_at_a_time(len(members), rows.stop - rows.start, group.shape, spec.task_memory)
    stack_strip(
        members,
        read,
        rows,
        width,
        checked.models,
        factor=np.ones(len(members)),
        clipping=spec.clipping,
        step=step,
        out=inner,
    )
    return out


def take_given(group: Group, rows: slice, out: Stacked) -> None:
    """Rows of a master that was given."""
    try:
        out.image[:] = read_window(group.members[0], rows, slice(0, group.shape[1]))
    except DataError:
        return
    valid = np.isfinite(out.image)
    out.count[:] = valid
    out.variance[valid] = 0.0
