"""One photometric system and one background for all frames: scale and offset of each, solved together."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.ops.normalization.background import PRIOR_UNKNOWNS
from skyloom.ops.normalization.legendre import HIGHEST_ORDER, ORDERS
from skyloom.ops.normalization.photometry import LEAST_STARS
from skyloom.ops.normalization.result import DIMENSIONS, left_alone
from skyloom.ops.normalization.reweighting import TUKEY_LIMIT
from skyloom.ops.normalization.superpixels import SIDES
from skyloom.ops.normalization.tasks import Options, Table, pick, solve_tasks
from skyloom.ops.registry import Cost, Param, register

SAMPLE_BYTES, STAR_BYTES = 50.0, 165.0
"""Peak of the solve for a sample (its record twice while a band is joined), and of linking for a star."""
FRAME_BYTES, BASE_BYTES = 20e3, 60e6
"""Of a frame beside these: its WCS, its map, its tasks; and of what does not depend on the frames."""


def normalize_cost(
    session: xr.Dataset,
    measurement: xr.Dataset,
    registration: xr.Dataset,
    *,
    superpixel: float | None = None,
    order: int = 4,
    mode: str = "joint",
    **_: Any,
) -> Cost:
    """Cost of `normalize`: one unit; memory is samples, stars and the normal matrix."""
    n = session.sizes["frame"]
    if mode == "none":
        return Cost(work=np.array(n * 1e-3), read=np.array(0.0), memory=np.array(50e6), rate=1.0)
    heights, widths = (session[k].values.astype(np.float64) for k in ("height", "width"))
    cell = float(measurement.attrs.get("cell", 16))
    side = np.maximum(superpixel if superpixel is not None else np.minimum(heights, widths) / SIDES, cell)
    samples = float(np.sum(np.maximum(heights * widths / side**2, 1.0)))
    terms = len(ORDERS[order])
    largest = int(np.max(np.unique(session["band"].values, return_counts=True)[1], initial=0))
    unknowns = min(largest * terms, PRIOR_UNKNOWNS)
    stars = 8.0 * n * measurement.sizes["star"] * measurement.sizes["star_quantity"]
    cells = 4.0 * float(np.prod([measurement.sizes[d] for d in ("cell_y", "cell_x", "cell_quantity")]))
    grid = Grid.from_attrs(registration.attrs)
    lattice = grid.shape[0] * grid.shape[1] / cell**2
    # Stars are let go before the samples are all there.
    frames = n * FRAME_BYTES + max(SAMPLE_BYTES * samples, STAR_BYTES * n * measurement.sizes["star"])
    return Cost(
        work=np.array(n * 1e-2),
        read=np.array(n * cells + stars),
        memory=np.array(frames + 16.0 * unknowns**2 + 6 * cells + 6.0 * lattice + BASE_BYTES),
        rate=0.5,
    )


@register(version=2, unit=(), cost=normalize_cost)
def normalize(
    session: xr.Dataset,
    measurement: xr.Dataset,
    registration: xr.Dataset,
    *,
    mode: Literal["joint", "none"] = "joint",
    order: Annotated[int, Param(low=0, high=HIGHEST_ORDER)] = 4,
    superpixel: Annotated[float | None, Param(unit="px", low=4, high=4096)] = None,
    clip: Annotated[float, Param(unit="σ", low=2, high=100)] = TUKEY_LIMIT,
) -> xr.Dataset:
    """Scale and background of every frame, all overlaps at once: s = J·a·(d − b).

    Parameters
    ----------
    session
        Table over `frame` from `ingest`.
    measurement
        From `measure`, of the same frames.
    registration
        From `register`, of the same frames.
    mode
        joint: scales from all matched stars, backgrounds from all overlaps, one solve each a band;
        none: frames as they are.
    order
        Degree of the background surfaces in detector coordinates: 0 constants, 1 planes, 2 quadratics, up to 4.
        How large each degree is, is measured: one that is not there stays small.
    superpixel
        Side of the sky samples in frame pixels (a multiple of the measurement's cell); none takes a 32nd of a
        frame's shorter side.
    clip
        Samples that disagree with the other frames by more than this (robust σ) do not count.

    Returns
    -------
    xarray.Dataset
        Lazy; two small tasks a frame, three a band. (frame, node_y, node_x): `scale` a, `offset` b (frame units)
        as coefficients of `surface`; (frame): `noise`, `use`, `reason`, `island` (-1: not used), `mean_scale`,
        `scale_error`, `stars`, `residual_before`, `residual_after` (robust rms distance of superpixels to the
        mean of the other frames, canvas units), `rejected` (part of the samples), `inflation` (≫ 1: the frame
        disagrees with all others: clouds, reflections); (band, term_order): `prior_sigma`, measured spread of
        the surfaces' coefficients (canvas units); (band): `noise_scale`.

    Raises
    ------
    DataError
        If the tables are not of the same frames.

    Notes
    -----
    Conventions: the mean of ln a (beyond exposure time) is 0 over frames connected by stars; the mean constant of
    the backgrounds is 0 over each island, so the mosaic keeps the mean sky.
    """
    for name, other in (("measurement", measurement), ("registration", registration)):
        if other.sizes["frame"] != session.sizes["frame"] or not np.array_equal(
            other["frame"].values, session["frame"].values
        ):
            raise DataError(
                f"normalize: the {name} is not of the session's {session.sizes['frame']} frames; run it again"
            )
    grid = Grid.from_attrs(registration.attrs)
    in_canvas = registration["in_canvas"].values.astype(bool)
    bands = tuple(np.unique(session["band"].values[in_canvas]).astype(str).tolist())
    columns = {k: session[k].values for k in ("wcs", "height", "width", "band", "exposure", "units")}
    table = Table(columns, in_canvas, bands)
    lazy = {
        name: da.asarray(source[name].data)
        for source, names in (
            (measurement, ("stars", "cells", "summary")),
            (registration, ("use", "shift", "reason")),
        )
        for name in names
    }
    options = Options(grid, int(measurement.attrs["cell"]), mode, order, superpixel, clip)
    token = tokenize("normalize", columns, in_canvas, lazy, options)
    solved = f"normalize-{token}"
    dependencies, tasks = solve_tasks(table, lazy, options, solved)
    base = HighLevelGraph.from_collections(solved, tasks, dependencies=dependencies)
    none = np.zeros(0)
    shapes = left_alone(0, len(bands), order, noise=none, use=none.astype(bool), reason=none.astype(str))
    variables: dict[str, Any] = {}
    for name, example in shapes.items():
        dims = DIMENSIONS.get(name, ("frame",))
        shape = (len(in_canvas), *example.shape[1:]) if dims[0] == "frame" else example.shape
        layer = f"normalize-{name}-{token}"
        picked: dict[Any, Any] = {(layer, *(0 for _ in shape)): (pick, solved, name)}
        graph = HighLevelGraph({**base.layers, layer: picked}, {**base.dependencies, layer: {solved}})
        array = da.Array(graph, layer, chunks=tuple((length,) for length in shape), dtype=example.dtype)
        variables[name] = (dims, array)
    return xr.Dataset(
        variables,
        coords={"frame": session["frame"].values, "band": np.array(bands, dtype=str)},
        attrs={"mode": mode, "order": order, "least_stars": LEAST_STARS},
    )


def describe_islands(session: xr.Dataset, normalization: xr.Dataset) -> list[dict[str, Any]]:
    """Groups of frames that overlaps connect, largest first within a band.

    Parameters
    ----------
    session
        Table over `frame` with `name` and `band`.
    normalization
        From `normalize` (its `island` is computed).

    Returns
    -------
    list of dict
        `island`, `band`, `count`, `frames` (names).
    """
    label = np.asarray(normalization["island"].values)
    out = []
    for island in np.unique(label[label >= 0]):
        here = np.flatnonzero(label == island)
        names = [str(session["name"].values[i]) for i in here]
        out.append(
            {
                "island": int(island),
                "band": str(session["band"].values[here[0]]),
                "count": len(names),
                "frames": names,
            }
        )
    return out
