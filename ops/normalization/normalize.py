"""One photometric system and one background for all frames: scale and offset of each, solved together."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid
from skyloom.ops.held import BASIS, NEW, decides
from skyloom.ops.normalization.background import PRIOR_UNKNOWNS
from skyloom.ops.normalization.confidence import VISIBLE
from skyloom.ops.normalization.images import given_image, image_bytes, open_images
from skyloom.ops.normalization.kept import BAND, FRAME
from skyloom.ops.normalization.legendre import HIGHEST_ORDER, ORDERS
from skyloom.ops.normalization.modes import MODES
from skyloom.ops.normalization.photometry import LEAST_STARS
from skyloom.ops.normalization.regions import read_regions
from skyloom.ops.normalization.residual_map import STAGES, map_step
from skyloom.ops.normalization.result import DIMENSIONS, Limits, left_alone
from skyloom.ops.normalization.reweighting import TUKEY_LIMIT
from skyloom.ops.normalization.superpixels import SIDES
from skyloom.ops.normalization.tasks import Options, Table, pick, solve_tasks
from skyloom.ops.registry import Cost, Param, register

SAMPLE_BYTES, STAR_BYTES = 66.0, 190.0
"""Peak of the solve for a sample (its record twice while a band is joined), and of linking for a star."""
KEPT_BYTES = 130.0
"""The same for a sample where old frames are kept: theirs are put in order by where they lie."""
FRAME_BYTES, BASE_BYTES = 24e3, 60e6
"""Of a frame beside these: its WCS, its map, its tasks; and of what does not depend on the frames."""


def normalize_cost(
    session: xr.Dataset,
    measurement: xr.Dataset,
    registration: xr.Dataset,
    *,
    superpixel: float | None = None,
    degree: int | str = "auto",
    mode: str = "joint",
    anchors: list[str] | None = None,
    reference: str = "panel",
    solution: str = NEW,
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
    terms = len(ORDERS[HIGHEST_ORDER if degree == "auto" else int(degree)])
    largest = int(np.max(np.unique(session["band"].values, return_counts=True)[1], initial=0))
    unknowns = min(largest * terms, PRIOR_UNKNOWNS)
    stars = 8.0 * n * measurement.sizes["star"] * measurement.sizes["star_quantity"]
    cells = 4.0 * float(np.prod([measurement.sizes[d] for d in ("cell_y", "cell_x", "cell_quantity")]))
    grid = Grid.from_attrs(registration.attrs)
    lattice = grid.shape[0] * grid.shape[1] / cell**2
    images = open_images(anchors or (), "anchor")
    if given_image(mode, reference):
        images = open_images([reference], "reference")
    # Stars are let go before the samples are all there.
    each = SAMPLE_BYTES if solution == NEW else KEPT_BYTES
    frames = n * FRAME_BYTES + max(each * samples, STAR_BYTES * n * measurement.sizes["star"])
    return Cost(
        work=np.array(n * 1e-2),
        read=np.array(n * cells + stars),
        memory=np.array(
            frames + 16.0 * unknowns**2 + 6 * cells + 6.0 * lattice + BASE_BYTES + image_bytes(images, grid)
        ),
        rate=0.5,
    )


@register(version=5, unit=(), cost=normalize_cost)
def normalize(
    session: xr.Dataset,
    measurement: xr.Dataset,
    registration: xr.Dataset,
    earlier: xr.Dataset | None = None,
    *,
    solution: str = NEW,
    solution_tolerance: Annotated[float, Param(unit="pixel noise", low=0.0)] = VISIBLE,
    mode: Literal["joint", "constants", "reference", "linear", "none"] = "joint",
    degree: Literal["auto", 0, 1, 2, 3, 4] = "auto",
    anchors: list[str] | None = None,
    held: list[str] | None = None,
    background: list[str] | None = None,
    shared: Literal["none", "night"] = "none",
    reference: str = "panel",
    best: Annotated[int, Param(low=1, high=1000)] = 5,
    scale_low: Annotated[float, Param(low=0.0, high=1.0)] = 0.8,
    scale_high: Annotated[float, Param(low=1.0, high=1000.0)] = 1.2,
    flagged: Literal["keep", "drop"] = "keep",
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
    earlier
        A normalization whose frames stay as they are; `solution` says which.
    solution
        new: all frames are solved. keep: frames of the project's last run keep their scale and background exactly,
        and new ones are solved against the sky these make (joint, constants). auto: the same, unless new frames
        differ from that sky by more than `solution_tolerance`: then all are solved. Else the folder of a project,
        whose frames are held. Change it to keep to add a night to a mosaic that shall stay as it is, to auto to
        let the program decide.
    solution_tolerance
        How far the means of new frames over a quarter of their side may lie from the sky kept, beyond errors.
        Change it to less where new frames shall never shift the level of the old ones.
    mode
        joint: scales from all matched stars, backgrounds from all overlaps, one solve each a band; constants: the
        same with backgrounds of one number a frame; reference: each frame against a reference, scale from its
        stars, a background that follows the difference to an eighth of a frame; linear: the same with one number
        a frame; none: frames as they are. Change it to reference to work as PixInsight's LocalNormalization does,
        to constants or linear to compare, to none where frames are normalized already.
    degree
        Of the background surfaces in detector coordinates (joint): 0 constants, 1 planes, 2 quadratics, up to 4.
        auto raises it only while what the surfaces foretell of overlaps held out of the solve gets better. How
        large each degree is, is measured: one that is not there stays small. Change it to 0 or 1 where nebula
        fills all frames and panels overlap little, so that nothing tells a bent sky from a bent background.
    anchors
        Images (paths) whose background has no gradient, such as a wide-field image with a WCS, of any scale and in
        any units (joint, constants): they fix the long waves which overlaps cannot see. Change it for mosaics of
        many panels: an image of the whole field is the only thing that knows the slow light from end to end.
    held
        Names (or patterns: *_0012.fits) of frames whose background has no gradient (joint). Change it where you
        know frames of a dark, moonless night.
    background
        Places which show nothing but background (joint, constants): "RA DEC RADIUS" in degrees each. Change it
        where you know plain sky and have no image to anchor to.
    shared
        night: the backgrounds of a night's frames of one camera have a part in common, in detector coordinates
        (the flat's error, the moon while the telescope does not turn), whose size is measured beside that of the
        frames' own; none: frames know nothing of each other (joint). Change it to night where the moon or a bad
        flat leaves the same gradient in all frames of a night.
    reference
        What frames are compared with (reference, linear): panel = the best frames of the same panel; canvas =
        those of all panels, tied by one number each; else an image with a WCS (its path), of any scale. Change it
        with mode = reference or linear.
    best
        Frames of each panel a reference is made of: those with little noise and little gradient of their own.
        Change it with mode = reference or linear: more for a smoother reference, less where few frames are good.
    scale_low, scale_high
        Frames whose scale (beyond exposure time) is outside are named in `note`. Change it to less where thin
        clouds shall not be told.
    flagged
        keep, or drop (not used): frames whose scale is outside, and those that disagree with all others. Change it
        to drop where clouds or another target got among the frames.
    superpixel
        Side of the sky samples in frame pixels (a multiple of the measurement's cell); none takes a 32nd of a
        frame's shorter side. Change it to less for small frames with steep gradients, to more to save memory with
        thousands of frames.
    clip
        Samples that disagree with the other frames by more than this (robust σ) do not count. Change it to less
        where moving or variable things disturb the fit, to more where steep nebula is clipped.

    Returns
    -------
    xarray.Dataset
        Lazy; two small tasks a frame, three a band. (frame, node_y, node_x): `scale` a, `offset` b (frame units)
        and `confidence` (0…1: how far b can be trusted there; 1 where nothing speaks against it) as coefficients
        of `surface`; (frame): `noise`, `use`, `reason`, `island` (-1: not used), `mean_scale`,
        `scale_error`, `stars`, `residual_before`, `residual_after` (robust rms distance of superpixels to the
        mean of the other frames, canvas units), `residual_held` (the same at points held out of the solve),
        `rejected` (part of the samples), `inflation` (≫ 1: the frame disagrees with all others: clouds,
        reflections), `scale_spread` (rms of ln a over the frame), `note` (what is suspicious); (band, term_order):
        `prior_sigma`, measured spread of the surfaces' coefficients (canvas units), `shared_sigma`, that of what a
        night's frames have in common, `held_out`, the residual at points held out with surfaces of each degree
        (stated errors; where it was chosen); (band, mode):
        `mode_sigma`, standard error of the mosaic's long waves (canvas units rms; largest island); (band):
        `noise_scale`, `degree`; (band, stage, sky_y, sky_x): `sky_residual`, how far frames are apart where they
        overlap, before and after, on a coarse map of the canvas (`sky_step` pixels a cell); (band, anchor):
        `anchor_scale`, `anchor_stars`, `anchor_residual`. Of a solution that is kept: (frame) `kept`, frames which
        are as they were; `basis`, what their solution rests on; (band) `solution_change`, how far new frames lie
        from the sky kept (pixel noises; NaN: nothing to compare).

    Raises
    ------
    DataError
        If the tables are not of the same frames, or an image cannot be used.
    ConfigError
        If a place of background or a name makes no sense, or the mode has no use for it.

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
    columns = {k: session[k].values for k in ("frame", "wcs", "height", "width", "band", "exposure", "units")}
    _check(mode, anchors=anchors, held=held, background=background)
    if shared != "none" and mode != "joint":
        raise ConfigError(f"normalize: shared = {shared} means nothing with mode {mode}; set mode to joint")
    table = Table(
        columns, in_canvas, bands, _named(session, held), _nights(session) if shared == "night" else None
    )
    lazy = {
        name: da.asarray(source[name].data)
        for source, names in (
            (measurement, ("stars", "cells", "summary")),
            (registration, ("use", "shift", "reason")),
        )
        for name in names
    }
    images = open_images(anchors or (), "anchor")
    if given_image(mode, reference):
        images = open_images([reference], "reference")
    options = Options(
        grid, int(measurement.attrs["cell"]), mode, None if degree == "auto" else int(degree), superpixel, clip,
        whole=reference == "canvas", best=best, images=images, regions=read_regions(background or ()),
        limits=Limits(scale_low, scale_high, flagged == "drop"),
        tolerance=solution_tolerance if decides(solution) else np.inf,
    )  # fmt: skip
    if earlier is not None and mode != "none":
        if options.alone:
            raise ConfigError(
                f"normalize: solution = {solution.split(' ')[0]}: with mode {mode} each frame is solved by itself "
                "against a reference; solution = new"
            )
        options = replace(options, earlier=tuple(earlier["band"].values.astype(str).tolist()))
        lazy |= {f"earlier {n}": da.asarray(earlier[n].data) for n in (BASIS, *FRAME, *BAND)}
    token = tokenize("normalize", columns, in_canvas, lazy, options, table.flat, table.group)
    solved = f"normalize-{token}"
    dependencies, tasks = solve_tasks(table, lazy, options, solved)
    base = HighLevelGraph.from_collections(solved, tasks, dependencies=dependencies)
    none = np.zeros(0)
    shapes = left_alone(
        0,
        len(bands),
        len(options.anchors),
        canvas=grid.shape,
        noise=none,
        use=none.astype(bool),
        reason=none.astype(str),
    )
    variables: dict[str, Any] = {}
    for name, example in shapes.items():
        if name.startswith("anchor_") and not options.anchors:
            continue
        dims = DIMENSIONS.get(name, ("frame",))
        shape = (len(in_canvas), *example.shape[1:]) if dims[0] == "frame" else example.shape
        layer = f"normalize-{name}-{token}"
        picked: dict[Any, Any] = {(layer, *(0 for _ in shape)): (pick, solved, name)}
        graph = HighLevelGraph({**base.layers, layer: picked}, {**base.dependencies, layer: {solved}})
        array = da.Array(graph, layer, chunks=tuple((length,) for length in shape), dtype=example.dtype)
        variables[name] = (dims, array)
    return xr.Dataset(
        variables,
        coords={
            "frame": session["frame"].values,
            "band": np.array(bands, dtype=str),
            "mode": np.array(MODES),
            "stage": np.array(STAGES),
            **({"anchor": np.array(options.anchors, dtype=str)} if options.anchors else {}),
        },
        attrs={"normalization": mode, "least_stars": LEAST_STARS, "sky_step": map_step(grid.shape)},
    )


def _check(mode: str, **given: list[str] | None) -> None:
    """Refuse what the mode would ignore."""
    useful = {"joint": ("anchors", "held", "background"), "constants": ("anchors", "background")}
    for name, value in given.items():
        if value and name not in useful.get(mode, ()):
            modes = " or ".join(m for m, names in useful.items() if name in names)
            raise ConfigError(f"normalize: {name} means nothing with mode {mode}; set mode to {modes}")


def _nights(session: xr.Dataset) -> NDArray[np.int64]:
    """Number of each frame's night and camera."""
    frames = session.sizes["frame"]
    columns = [session[n].values.astype(str) if n in session else np.full(frames, "") for n in ("night", "camera")]
    both = np.array(["\n".join(row) for row in zip(*columns, strict=True)])
    return np.asarray(np.unique(both, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def _named(session: xr.Dataset, held: list[str] | None) -> NDArray[np.bool_] | None:
    """Frames whose names match any of some patterns; None without patterns."""
    if not held:
        return None
    names = session["name"].values.astype(str)
    out = np.zeros(len(names), dtype=bool)
    for pattern in held:
        found = np.array([fnmatchcase(n, pattern) or n == pattern for n in names], dtype=bool)
        if not found.any():
            raise ConfigError(f"normalize: held: none of {len(names)} frames is called {pattern!r}; see `inspect`")
        out |= found
    return out


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
