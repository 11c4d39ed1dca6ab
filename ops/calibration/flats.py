"""Master flats: each flat less its dark and divided by its own level, then averaged without outliers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from numpy.typing import NDArray

from skyloom.ops.calibration.masters import KINDS, take_given
from skyloom.ops.calibration.members import (
    OK,
    Group,
    Member,
    groups_of,
    identities,
    mask_saturated,
    read_window,
    sample_rows,
)
from skyloom.ops.calibration.noise_model import MODEL_FRAMES, fit_flat_noise
from skyloom.ops.calibration.references import Reference, reference_for, references
from skyloom.ops.calibration.stacking import Clipping, Method, NoiseModel, Stacked
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
from skyloom.ops.unit_keys import made_by

RATE = 130.0
"""Mpixel·frames a second of each of two tasks at a time, files in the system's cache."""
READING = 8 + 3 * 4
"""Bytes of a pixel while a flat is read: itself, what it is decoded from, its dark and the dark's variance."""

Pixels = NDArray[np.float32]
Levels = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class _Work:
    """The work of one task; in a class of its own, which dask does not search for keys."""

    group: Group
    reference: Reference | None
    strip: int
    block: tuple[int, int]
    clipping: Clipping
    task_memory: float


@dataclass(frozen=True)
class _Lit:
    """A group of flats with their levels; those that are no good are not in it."""

    group: Group
    reference: Reference | None
    members: tuple[Member, ...]
    levels: Levels

    @property
    def light(self) -> tuple[float, float, float, float]:
        """Middle level of each phase (DN)."""
        a, b, c, d = np.median(np.array(self.levels), axis=0).tolist()
        return a, b, c, d

    @property
    def factor(self) -> NDArray[np.float64]:
        """Variance of each flat relative to the middle one: photons."""
        return np.asarray(np.mean(self.light) / np.mean(self.levels, axis=1))

    def read(self, frame: Member, rows: slice) -> Pixels:
        """Rows of a flat, less its pedestal; saturated pixels are NaN."""
        pixels = mask_saturated(frame, read_window(frame, rows, slice(0, self.group.shape[1])))
        if frame.pedestal:
            pixels -= np.float32(frame.pedestal)
        return pixels

    def equalise(self, frame: Member, pixels: Pixels) -> Pixels:
        """Divide by the flat's level, in place; the first row is an even one."""
        level = self.levels[self.members.index(frame)]
        for phase in range(4):
            pixels[phase // 2 :: 2, phase % 2 :: 2] *= np.float32(1.0 / level[phase])
        return pixels


def _cost(
    session: xr.Dataset,
    links: xr.Dataset,
    masters: xr.Dataset,
    levels: xr.Dataset,
    *,
    task_memory: float = 2.0**30,
    **parameters: Any,
) -> Cost:
    """Cost of each strip of each master flat."""
    groups = groups_of(session, links, ("flat",))
    return strip_cost(groups, task_memory=task_memory, rate=RATE, reading=READING)


def _keys(
    session: xr.Dataset, links: xr.Dataset, masters: xr.Dataset, levels: xr.Dataset, **parameters: Any
) -> NDArray[np.str_]:
    """What each strip depends on: the flats of its group, what is taken off them, how their levels were found."""
    made = [made_by(masters, "masters"), made_by(levels, "levels")]
    return strip_keys(groups_of(session, links, ("flat",)), identities(session, links), made)


@register(version=1, unit=("master", "y"), cost=_cost, keys=_keys)
def flats(
    session: xr.Dataset,
    links: xr.Dataset,
    masters: xr.Dataset,
    levels: xr.Dataset,
    *,
    rejection: Method = "auto",
    low: Annotated[float, Param(unit="sigma", low=1.5, high=1000)] = 4.0,
    high: Annotated[float, Param(unit="sigma", low=1.5, high=1000)] = 4.0,
    task_memory: Annotated[float, Param(unit="byte", low=1e6, execution=True)] = 2.0**30,
) -> xr.Dataset:
    """Average the flats of each group, less their dark and with equal levels, without outliers.

    Parameters
    ----------
    session
        Frames (`ingest`).
    links
        Their groups and what is linked to them (`link`).
    masters
        Bias, dark and flat-dark (`masters`).
    levels
        Level of each flat, and which are no good (`levels`).
    rejection
        How outliers (stars in sky flats, cosmic rays) are found, as in `masters`. Change it to winsorized for sky
        flats with stars, to none to see what rejection does.
    low
        Limit below the centre; samples beyond it are rejected. Change it to less where shadows of single frames
        are left in the master.
    high
        Limit above the centre. Change it to less where stars of sky flats are left in the master.
    task_memory
        Memory a strip may take.

    Returns
    -------
    xarray.Dataset
        As `masters`, for the groups of flats: `image` ≈ 1 on the average of each phase of the colour filter array.

    Raises
    ------
    DataError
        If session and links are not of the same frames.
    CapacityError
        While computing, if `task_memory` cannot hold 8 rows of a strip.

    Notes
    -----
    Reads every flat once. Flats weigh as their level (their photons). `variance` is that of the flats about their
    mean, of that mean, and what the bias or dark master adds: V_B (Σ w/l / Σ w)². A master flat that was given is
    only divided by its level.
    """
    clipping = Clipping(rejection, low, high)
    groups = groups_of(session, links, ("flat",))
    known = references(masters, groups_of(session, links, KINDS))
    used = [reference_for(g, known) for g in groups]
    dependencies: list[Any] = []

    def rows_of(name: str, group: Group) -> Any:
        data = levels[name].isel(frame=[m.frame for m in group.members]).data
        if not isinstance(data, da.Array):
            return np.asarray(data)
        whole = data.rechunk(-1, method="tasks")
        dependencies.append(whole)
        return (whole.name, *(0 for _ in whole.shape))

    told = [(rows_of("level", g), rows_of("status", g)) for g in groups]
    token = tokenize(
        "flats", [repr(g) for g in groups], repr(used), repr(clipping), [d.name for d in dependencies], told
    )

    def task(m: int, s: int, block: tuple[int, int]) -> tuple[Any, ...]:
        return stack_flats, _Work(groups[m], used[m], s, block, clipping, float(task_memory)), *told[m]

    return masters_dataset(groups, "flats", token, task, dependencies=dependencies)


def stack_flats(work: _Work, level: NDArray[np.float64], status: NDArray[np.uint8]) -> Stacked:
    """Strip of a master flat.

    Raises
    ------
    OSError
        If disk or network failed in a way that may pass.
    """
    group = work.group
    out = Stacked.empty(work.block)
    width = group.shape[1]
    rows = slice(work.strip * STRIP, min((work.strip + 1) * STRIP, group.shape[0]))
    inner = out.window(slice(0, rows.stop - rows.start), slice(0, width))
    good = (np.asarray(status) == OK) & np.isfinite(level).all(axis=1)
    if not good.any():
        return out
    members = tuple(m for m, g in zip(group.members, good.tolist(), strict=True) if g)
    levels: Levels = tuple((a, b, c, d) for a, b, c, d in np.asarray(level)[good].tolist())
    lit = _Lit(group, work.reference, members, levels)
    if group.given:
        take_given(group, rows, inner)
        lit.equalise(members[0], inner.image)
        return out
    step, _ = rows_at_a_time(len(members), rows.stop - rows.start, group.shape, work.task_memory, reading=READING)
    factor = lit.factor
    dark = _dark_rows(work.reference)

    def read(frame: Member, part: slice) -> Pixels:
        pixels = lit.read(frame, part)
        if work.reference is not None:
            pixels -= dark(part.start, part.stop)
        return lit.equalise(frame, pixels)

    models = flat_noise(lit)
    stack_strip(members, read, rows, width, models, factor=factor, clipping=work.clipping, step=step, out=inner)
    if work.reference is not None:
        _add_dark_noise(lit, factor, rows, inner)
    return out


def _dark_rows(reference: Reference | None) -> Callable[[int, int], Pixels]:
    """Reader of the dark's rows; all flats ask for the same ones in turn."""

    @lru_cache(maxsize=1)
    def rows(start: int, stop: int) -> Pixels:
        assert reference is not None
        return reference.level(slice(start, stop))

    return rows


def _add_dark_noise(lit: _Lit, factor: NDArray[np.float64], rows: slice, out: Stacked) -> None:
    """Add the variance that the bias or dark master, the same in all flats, has in their mean."""
    assert lit.reference is not None
    weight = 1.0 / factor
    share = (weight[:, None] / np.array(lit.levels)).sum(axis=0) / weight.sum()
    noise = np.nan_to_num(lit.reference.noise(rows))
    for y in range(2):
        for x in range(2):
            out.variance[y::2, x::2] += noise[y::2, x::2] * np.float32(share[2 * y + x] ** 2)


@lru_cache(maxsize=64)
def flat_noise(lit: _Lit) -> tuple[NoiseModel, ...]:
    """Noise of a group's flats in units of their level, for each phase; kept in the process."""
    shape = lit.group.shape
    members: list[Member] = []
    rows = sum(r.stop - r.start for r in sample_rows(shape))
    samples = np.empty((min(len(lit.members), MODEL_FRAMES), rows, shape[1]), np.float32)
    for frame in lit.members:
        if len(members) == len(samples):
            break
        try:
            pixels = np.concatenate([lit.read(frame, part) for part in sample_rows(shape)])
        except DataError:
            continue
        if lit.reference is not None:
            pixels -= lit.reference.sample()
        samples[len(members)] = lit.equalise(frame, pixels)
        members.append(frame)
    if not members:
        return (NoiseModel(math.nan, 0.0),)
    sample = samples[: len(members)]
    factor = lit.factor[[lit.members.index(m) for m in members]]
    if not lit.group.bayer:
        return (fit_flat_noise(sample, factor, gain=lit.group.gain, light=float(np.mean(lit.light))),)
    return tuple(
        fit_flat_noise(sample[:, y::2, x::2], factor, gain=lit.group.gain, light=lit.light[2 * y + x])
        for y in range(2)
        for x in range(2)
    )
