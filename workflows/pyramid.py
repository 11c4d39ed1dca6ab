"""Smaller and smaller views of a result, kept beside it: what a viewer reads instead of the whole canvas.

Level k is the mean over 2 × 2 pixels of level k - 1, `<node>/<key>/pyramid/k`; the result's group says so in the
words of OME-NGFF 0.5, so that viewers of OME-Zarr open `<node>/<key>` of a project's store as an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from skyloom.ops.arrays import LOCATION
from skyloom.ops.colour.survey import lead_of
from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid
from skyloom.ops.pyramid import block_mean
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.stretch import autostretch
from skyloom.workflows.places import Place, place, zarr_root
from skyloom.workflows.shards import read_window, write_block
from skyloom.workflows.store import OME, disk_errors
from skyloom.workflows.stored_layout import COMPRESSORS

GROUP = "pyramid"
"""Of the levels, in the group of the result."""
_ROWS = "rows"
"""Attribute of a level: rows of tiles that are done."""
_COLOURS = {"R": "FF0000", "G": "00FF00", "B": "0000FF"}


def level_shapes(shape: tuple[int, int], smallest: int) -> list[tuple[int, int]]:
    """Rows and columns of the levels above the image, down to one that is no longer than `smallest`."""
    shapes = []
    while max(shape) > smallest:
        shape = -(-shape[0] // 2), -(-shape[1] // 2)
        shapes.append(shape)
    return shapes


def build_levels(root: str, group: str, *, smallest: int = 512) -> list[zarr.Array[Any]]:
    """Make the levels of a result's image that are not there yet, tile by tile.

    Parameters
    ----------
    root
        The store.
    group
        Of the result, complete.
    smallest
        Longest side of the last level (pixels).

    Returns
    -------
    list of zarr.Array
        Level 0, which is the image itself, and those above. A build that is stopped goes on with the row of tiles
        it was at. A tile of pixels is held at a time, with all of its bands if the store's tiles have them.
    """
    result = zarr.open_group(zarr_root(root), path=group, mode="r+", zarr_format=3)
    image = result["image"]
    assert isinstance(image, zarr.Array)
    folder = result.require_group(GROUP)
    levels = [image]
    for number, shape in enumerate(level_shapes((image.shape[-2], image.shape[-1]), smallest), start=1):
        name = str(number)
        level = folder[name] if name in folder else _create(folder, name, image, shape)
        assert isinstance(level, zarr.Array)
        _fill(level, levels[-1])
        levels.append(level)
    return levels


def _create(folder: zarr.Group, name: str, image: zarr.Array[Any], shape: tuple[int, int]) -> zarr.Array[Any]:
    return folder.create_array(
        name,
        shape=(*image.shape[:-2], *shape),
        dtype=image.dtype,
        chunks=image.chunks,
        shards=image.shards,
        compressors=COMPRESSORS,
        fill_value=np.nan,
        dimension_names=image.metadata.dimension_names,  # type: ignore[union-attr]
        attributes={_ROWS: 0},
    )


def _fill(level: zarr.Array[Any], below: zarr.Array[Any]) -> None:
    lead, height, width = level.shape
    planes, rows, columns = level.shards or level.chunks
    done = level.attrs[_ROWS]
    assert isinstance(done, int)
    for row in range(done, -(-height // rows)):
        bottom, top = row * rows, min((row + 1) * rows, height)
        for first in range(0, lead, planes):
            band = slice(first, min(first + planes, lead))
            for left in range(0, width, columns):
                right = min(left + columns, width)
                tile = _mean(below, band, (bottom, top), (left, right))
                # An empty tile is no file.
                if not np.isnan(tile).all():
                    write_block(level, (band, slice(bottom, top), slice(left, right)), tile)
        level.attrs[_ROWS] = row + 1


def _mean(
    below: zarr.Array[Any], band: slice, rows: tuple[int, int], columns: tuple[int, int]
) -> NDArray[np.float32]:
    """Tile of a level; a quarter of what it is made of is read at a time."""
    out = np.empty((band.stop - band.start, rows[1] - rows[0], columns[1] - columns[0]), np.float32)
    half = [max(1, -(-n // 2)) for n in out.shape[1:]]
    for y in range(0, out.shape[1], half[0]):
        for x in range(0, out.shape[2], half[1]):
            part = np.s_[:, y : y + half[0], x : x + half[1]]
            size = out[part].shape[1:]
            top, left = 2 * (rows[0] + y), 2 * (columns[0] + x)
            window = (band, slice(top, top + 2 * size[0]), slice(left, left + 2 * size[1]))
            pixels = read_window(below, window)
            for target, plane in zip(out[part], pixels, strict=True):
                target[...] = np.nan if np.isnan(plane).all() else block_mean(plane, 2)
    return out


def multiscales(levels: list[zarr.Array[Any]], *, name: str, channels: list[str], linear: bool) -> dict[str, Any]:
    """Metadata of OME-NGFF 0.5 for the levels of an image over (band or channel, y, x).

    Parameters
    ----------
    levels
        The image and its levels.
    name
        Of the image.
    channels
        Names along the first dimension.
    linear
        Whether the image is linear: the window shown then is found from the last level, else it is 0…1.

    Notes
    -----
    Scales are in pixels of the image; the attribute `grid_wcs` says where those are on the sky. The middle of a
    pixel of level k lies (2^k - 1) / 2 pixels beyond that of the first pixel it is made of.
    """
    names = [str(d) for d in (levels[0].metadata.dimension_names or ())]  # type: ignore[union-attr]
    datasets = []
    for number in range(len(levels)):
        factor = float(2**number)
        middle = (factor - 1.0) / 2.0
        datasets.append(
            {
                "path": f"{GROUP}/{number}" if number else "image",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, factor, factor]},
                    {"type": "translation", "translation": [0.0, middle, middle]},
                ],
            }
        )
    image = {
        "name": name,
        "type": "mean",
        "metadata": {"description": "mean over 2 x 2 pixels of the level before, pixels without data left out"},
        "axes": [{"name": names[0], "type": "channel"}, *({"name": n, "type": "space"} for n in names[1:])],
        "datasets": datasets,
    }
    shown = []
    for channel, plane in zip(channels, np.asarray(levels[-1][...]), strict=True):
        window = autostretch(plane) if linear else None
        start, end = (window.shadows, window.highlights) if window is not None else (0.0, 1.0)
        low, high = (float(np.nanmin(plane)), float(np.nanmax(plane))) if np.isfinite(plane).any() else (0.0, 1.0)
        shown.append(
            {
                "label": channel,
                "color": _COLOURS.get(channel, "FFFFFF") if len(channels) > 1 else "FFFFFF",
                "active": True,
                "window": {"min": min(low, start), "max": max(high, end), "start": start, "end": end},
            }
        )
    return {"version": "0.5", "multiscales": [image], "omero": {"channels": shown}}


def open_levels(dataset: xr.Dataset) -> list[zarr.Array[Any]]:
    """Image and levels of a result of the store, as far as they are made, to be read by window.

    Parameters
    ----------
    dataset
        As `Store.open` returns it.

    Raises
    ------
    ConfigError
        If it does not lie in a store.
    """
    root, group = _place(dataset)
    result = zarr.open_group(zarr_root(root), path=group, mode="r", zarr_format=3)
    about: Any = result.attrs.get(OME, {"multiscales": [{"datasets": [{"path": "image"}]}]})
    levels = [result[str(d["path"])] for d in about["multiscales"][0]["datasets"]]
    return [level for level in levels if isinstance(level, zarr.Array)]


def _place(dataset: xr.Dataset) -> tuple[str, str]:
    location = dataset.encoding.get(LOCATION)
    if location is None or "root" not in location:
        raise ConfigError("a pyramid lies beside a result of the store, this one is not in one")
    return str(location["root"]), str(location["group"])


def _cost(image: xr.Dataset, **parameters: Any) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    lead = image.sizes[lead_of(image)]
    pixels = float(lead * grid.shape[0] * grid.shape[1])
    tile = float(min(grid.tile, grid.shape[0]) * min(grid.tile, grid.shape[1]))
    return Cost(
        work=np.array(4.0 / 3.0 * pixels / 1e6),
        read=np.array(4.0 / 3.0 * 4.0 * pixels),
        memory=np.array(tile * (8.0 * lead + 24.0)),
        rate=25.0,
    )


@register(version=1, sink=True, cost=_cost)
def pyramid(
    image: xr.Dataset, directory: Path, *, smallest: Annotated[int, Param(unit="px", low=16, high=8192)] = 512
) -> list[Place]:
    """Keep smaller and smaller views of an image beside it in the store, for viewers (OME-Zarr).

    Parameters
    ----------
    image
        A mosaic over (band, y, x), or a picture over (channel, y, x).
    directory
        Of outputs; nothing is written there.
    smallest
        Longest side of the smallest view. Change it where a viewer wants smaller or larger overviews.

    Returns
    -------
    list of Path
        The file that says the levels are all there.

    Raises
    ------
    DataError
        If there is no image.
    ConfigError
        If it is not in a store.
    """
    lead = lead_of(image)
    root, group = _place(image)
    with disk_errors(f"pyramid of {group}, writing to {root}"):
        levels = build_levels(root, group, smallest=smallest)
        about = multiscales(
            levels,
            name=group.partition("/")[0],
            channels=[str(n) for n in image[lead].values],
            linear=bool(image.attrs.get("linear", True)),
        )
        zarr.open_group(zarr_root(root), path=group, mode="r+", zarr_format=3).attrs[OME] = about
    return [place(root) / group / GROUP / "zarr.json"]
