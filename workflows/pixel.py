"""Answers what went into a pixel of a project: which frames, their values and weights, and what was rejected."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel
from skyloom.ops.integration.trace import TRACED, Trace, trace_pixel
from skyloom.ops.registration.target import parse_target
from skyloom.ops.registry import get_op, suggest
from skyloom.workflows.places import Place
from skyloom.workflows.status import open_project
from skyloom.workflows.store import Store


def pixel_answer(
    project: str | Place, *, place: tuple[int, int] | None = None, target: str | None = None,
    node: str | None = None, band: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What went into a pixel.

    Parameters
    ----------
    project
        Folder of a project.
    place
        Column x and row y of the result, from 0.
    target
        Or a position on the sky: coordinates or a name of Messier's catalogue.
    node
        Whose result; the newest of `integrate` or `drizzle`.
    band
        Only this one; all.

    Returns
    -------
    dict
        `node`, `x`, `y`, `ra`, `dec` (degrees; None without a place on the sky) and `bands`, one mapping a band:
        `band`, `stored` and `computed` (variable → value), `same` (whether they are, bit by bit), `frames` (a
        mapping each, the fields of `skyloom.ops.integration.trace.Part`). NaN is None.

    Raises
    ------
    ConfigError
        If there is no such pixel, band or node.
    DataError
        If there is no complete result, it was made by another version, or its inputs are no longer there.
    """
    store = open_project(project)
    name = node or _newest(store)
    result = store.open(name)
    meta = store.meta(name, store.newest(name) or "") or {}
    op = str(meta.get("op"))
    if op not in TRACED:
        raise ConfigError(f"node {name!r} ({op}) is not made of frames directly; ask one of {' or '.join(TRACED)}")
    if meta["version"] != get_op(op).version:
        raise DataError(
            f"node {name!r} was made by version {meta['version']} of {op}, this is another: run it again"
        )
    grid = Grid.from_attrs(result.attrs)
    x, y = _place(grid, place, target)
    inputs = _inputs(store, name, result, meta["inputs"])
    bands = [str(b) for b in result["band"].values]
    if band is not None and band not in bands:
        raise ConfigError(f"node {name!r} has no band {band!r}{suggest(band, bands)}")
    parameters = get_op(op).check(meta["parameters"])
    answers = []
    for one in [band] if band is not None else bands:
        trace = trace_pixel(op, **inputs, band=one, y=y, x=x, **parameters)
        pixel = result.sel(band=one).isel(y=y, x=x)
        stored = {str(v): pixel[v].values.item() for v in result.data_vars}
        answers.append(_answer(trace, stored))
    ra, dec = (float(v[0]) for v in pixel_to_sky(grid.wcs, np.array([float(x)]), np.array([float(y)])))
    sky = (ra, dec) if grid.on_sky else (None, None)
    return {"node": name, "x": x, "y": y, "ra": sky[0], "dec": sky[1], "bands": answers}


def _newest(store: Store) -> str:
    found = [
        (float(meta.get("finished", 0.0)), node)
        for node in store.nodes()
        for meta in [store.meta(node, store.newest(node) or "")]
        if meta and meta["op"] in TRACED
    ]
    if not found:
        raise DataError(f"project {store.project} has no complete result of {' or '.join(TRACED)}: run it first")
    return max(found)[1]


def _place(grid: Grid, place: tuple[int, int] | None, target: str | None) -> tuple[int, int]:
    """Column and row."""
    if target is not None:
        if not grid.on_sky:
            raise ConfigError("the canvas has no place on the sky: give x and y")
        ra, dec = parse_target(target)
        x, y = sky_to_pixel(grid.wcs, np.array([ra]), np.array([dec]))
        if not (np.isfinite(x[0]) and np.isfinite(y[0])):
            raise ConfigError(f"{target!r} is not on the canvas")
        place = (math.floor(x[0] + 0.5), math.floor(y[0] + 0.5))
    assert place is not None
    if not (0 <= place[0] < grid.shape[1] and 0 <= place[1] < grid.shape[0]):
        raise ConfigError(
            f"pixel x = {place[0]}, y = {place[1]} is not on the canvas: {grid.shape[1]} × {grid.shape[0]} pixels "
            "from 0"
        )
    return place


def _inputs(store: Store, node: str, result: xr.Dataset, names: Mapping[str, str]) -> dict[str, xr.Dataset]:
    """The very results that a result was made from."""
    keys = {e["node"]: e["key"] for e in json.loads(result.attrs.get("provenance", "[]"))}
    inputs = {}
    for argument, producer in names.items():
        key = keys.get(producer, "")
        if not key or not store.is_complete(producer, key):
            raise DataError(
                f"what node {node!r} was made from is no longer there ({producer} was made anew): run the "
                "workflow again"
            )
        inputs[argument] = store.open(producer, key)
    return inputs


def _answer(trace: Trace, stored: Mapping[str, float]) -> dict[str, Any]:
    computed = {name: trace.result[name] for name in stored}
    same = all(np.array_equal(stored[n], computed[n], equal_nan=True) for n in stored)
    frames = [{name: _plain(value) for name, value in asdict(part).items()} for part in trace.parts]
    return {
        "band": trace.band,
        "stored": {n: _plain(v) for n, v in stored.items()},
        "computed": {n: _plain(v) for n, v in computed.items()},
        "same": same,
        "frames": frames,
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
