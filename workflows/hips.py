"""A canvas as a HiPS (Hierarchical Progressive Survey), the tiles that Aladin and other sky atlases open.

The tiles are written by reproject, which holds its input whole; here each tile reads the window of the canvas that
it shows, so memory follows the tile and not the canvas.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from numpy.typing import NDArray

from skyloom.ops.arrays import array_spec
from skyloom.ops.errors import CapacityError, ConfigError
from skyloom.ops.frames import open_source
from skyloom.ops.grid import WCS_LOCK, Grid
from skyloom.workflows.export import Plane
from skyloom.workflows.export_colour import Picture
from skyloom.workflows.hips_coverage import describe
from skyloom.workflows.previews import sky_stretch
from skyloom.workflows.store import disk_errors

SIDE = 512
"""Of a tile (pixels)."""
COARSEST = 3
"""Clients begin with the tiles of this order."""
FINEST = 20
"""Finest order: HEALPix numbers pixels to order 29, a tile has 2^9 of them along a side."""
_UNIT = math.sqrt(math.pi / 3) * math.degrees(1.0) * 3600.0
"""Side of a HEALPix cell of order 0 (arcsec)."""
_MARGIN = 3
"""Canvas pixels read around what a tile shows."""
_SPACING = 16
"""Tile pixels between those whose places on the canvas are looked up."""
_VIEW = 2000
"""Longest side of the view whose sky is looked at for the brightness range (pixels)."""

Tile = tuple[NDArray[np.float64], NDArray[np.float64]]


def write_hips(
    dataset: xr.Dataset,
    folder: Path,
    *,
    variable: str = "image",
    band: str | None = None,
    order: int | None = None,
    workers: int = 1,
) -> None:
    """Write one plane of a canvas as FITS tiles, or a stretched picture as PNG tiles in colour.

    Parameters
    ----------
    dataset
        A node's result with a canvas on the sky.
    folder
        The HiPS to be; must not be there yet.
    variable, band
        Which plane; the band may be left out where there is one.
    order
        Finest HEALPix order; None: the first whose pixels are no larger than the canvas'.
    workers
        Tiles at a time.

    Raises
    ------
    ConfigError
        If reproject is not installed, the folder is there, the canvas has no place on the sky, or there is no such
        plane.
    CapacityError
        If the folder cannot be written.
    """
    reproject = _reproject()
    if folder.exists():
        raise ConfigError(f"{folder} is there already; choose another folder for the HiPS")
    grid = _grid(dataset)
    if order is None:
        order = finest_order(grid.pixel_scale)
    if not 0 <= order <= FINEST:
        raise ConfigError(f"--order {order}: 0 to {FINEST}")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with disk_errors(f"writing {folder}"):
        if not folder.parent.is_dir():
            raise CapacityError(f"writing {folder}: the folder {folder.parent} does not exist")
        partial.mkdir()
        try:
            title = {"obs_title": f"{folder.name} ({band or variable})"}
            write = _Writer(reproject, grid, order, workers)
            if variable in dataset and "channel" in dataset[variable].dims:
                if Picture.of(dataset, variable).linear:
                    raise ConfigError("linear colours are not for the eye; choose a stretched picture, or a band")
                planes = []
                for index, name in enumerate(str(c) for c in dataset["channel"].values):
                    planes.append(partial / name)
                    write(array_spec(dataset, variable, channel=index), planes[-1], title)
                made = partial / "colour"
                _merge(planes, made)
            else:
                plane = Plane.of(dataset, variable=variable, band=band)
                cut = sky_stretch(plane.small(max(1, -(-max(plane.shape) // _VIEW))))
                properties = {**title, "hips_pixel_cut": f"{cut.shadows:g} {cut.highlights:g}"}
                made = partial / "plane"
                write(plane.source, made, properties)
            ending = "png" if made.name == "colour" else "fits"
            describe(made, grid, order=order, side=SIDE, ending=ending)
            made.replace(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def finest_order(pixel_scale: float) -> int:
    """First order whose pixels are no larger than those of a canvas (arcsec), and that clients look for."""
    return min(FINEST, max(COARSEST, math.ceil(math.log2(_UNIT / (SIDE * pixel_scale)))))


def _reproject() -> Any:
    try:
        import reproject
        from reproject import hips
    except ImportError:
        raise ConfigError("a HiPS is written by reproject; install it with: pip install 'skyloom[hips]'") from None
    return reproject, hips


def _grid(dataset: xr.Dataset) -> Grid:
    if "grid_wcs" not in dataset.attrs:
        raise ConfigError("this node has no image to export; choose a node with a canvas")
    grid = Grid.from_attrs(dataset.attrs)
    if not grid.on_sky:
        raise ConfigError(
            "this canvas has no place on the sky, which a HiPS needs; let the frames be looked up with "
            "--set locate.solve=catalogue"
        )
    return grid


class _Writer:
    """Calls reproject for a plane."""

    def __init__(self, libraries: tuple[Any, Any], grid: Grid, order: int, workers: int) -> None:
        self.reproject, self.hips = libraries
        self.grid = grid
        self.order = order
        self.workers = workers

    def __call__(self, source: str, folder: Path, properties: dict[str, str]) -> None:
        with WCS_LOCK:
            wcs = self.grid.wcs.deepcopy()
        # Tells size and nothing else: one number, whatever the shape.
        outline = np.broadcast_to(np.float32(0.0), self.grid.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FITSFixedWarning)
            self.hips.reproject_to_hips(
                (outline, wcs),
                coord_system_out="equatorial",
                reproject_function=window_reader(source, self.grid, self.reproject.reproject_interp),
                output_directory=str(folder),
                level=self.order,
                tile_size=SIDE,
                threads=self.workers if self.workers > 1 else False,
                properties=properties,
            )


def window_reader(source: str, grid: Grid, interpolate: Callable[..., Tile]) -> Callable[[Any, fits.Header], Tile]:
    """Function that reproject calls for each tile; it reads the window the tile shows and no more.

    Parameters
    ----------
    source
        Where the plane's pixels are read (`skyloom.ops.arrays`).
    grid
        The canvas.
    interpolate
        `reproject.reproject_interp`.
    """

    def tile(data: tuple[Any, WCS], header: fits.Header) -> Tile:
        shape = (int(header["NAXIS2"]), int(header["NAXIS1"]))
        with WCS_LOCK:
            wcs, own = WCS(header), grid.wcs.deepcopy()
        window = _window(wcs, own, shape, grid.shape)
        if window is None:
            return np.full(shape, np.nan), np.zeros(shape)
        rows, columns = window
        pixels = open_source(source).read(rows, columns)
        own.wcs.crpix = own.wcs.crpix - [columns.start, rows.start]
        shown, _ = interpolate((pixels.astype(np.float64), own), wcs, shape_out=shape)
        # A tile without data is none.
        return shown, np.isfinite(shown).astype(np.float64)

    return tile


def _window(
    tile: WCS, canvas: WCS, shape: tuple[int, int], canvas_shape: tuple[int, int]
) -> tuple[slice, slice] | None:
    """Rows and columns of the canvas that a tile shows; None where it shows none."""
    lines = [np.unique(np.append(np.arange(0, n, _SPACING), n - 1)) for n in shape]
    y, x = (a.ravel() for a in np.meshgrid(*lines, indexing="ij"))
    sky = tile.wcs_pix2world(np.stack([x, y], axis=1).astype(float), 0)
    sky = sky[np.isfinite(sky).all(axis=1)]
    if not len(sky):
        return None
    spots = canvas.wcs_world2pix(sky, 0)
    # The far side of the sky lands on the canvas of some projections: only what comes back counts.
    back = canvas.wcs_pix2world(spots, 0)
    apart = np.hypot((back[:, 0] - sky[:, 0] + 180) % 360 - 180, back[:, 1] - sky[:, 1])
    spots = spots[np.isfinite(spots).all(axis=1) & (apart < 1e-6)]
    if not len(spots):
        return None
    # Between two places looked up lie at most this many canvas pixels more.
    margin = _MARGIN + math.ceil(_SPACING * _ratio(tile, canvas))
    low = np.floor(spots.min(axis=0)).astype(int) - margin
    high = np.ceil(spots.max(axis=0)).astype(int) + margin + 1
    columns = slice(max(0, low[0]), min(canvas_shape[1], high[0]))
    rows = slice(max(0, low[1]), min(canvas_shape[0], high[1]))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None


def _ratio(tile: WCS, canvas: WCS) -> float:
    sides = [math.sqrt(abs(float(np.linalg.det(w.pixel_scale_matrix)))) for w in (tile, canvas)]
    return sides[0] / sides[1]


def _merge(planes: list[Path], folder: Path) -> None:
    """PNG tiles in colour of FITS tiles of channels; the planes go."""
    from PIL import Image

    first = planes[0]
    for inside in sorted({path.relative_to(plane) for plane in planes for path in plane.rglob("*.fits")}):
        channels = [_pixels(plane / inside) for plane in planes]
        good = np.isfinite(channels).all(axis=0)
        shades = [np.rint(np.clip(np.where(good, c, 0.0), 0.0, 1.0) * 255).astype(np.uint8) for c in channels]
        shades = [*(shades if len(shades) == 3 else shades * 3), np.where(good, 255, 0).astype(np.uint8)]
        target = (folder / inside).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        # FITS counts rows from the bottom.
        Image.fromarray(np.stack(shades, axis=-1)[::-1]).save(target)
    text = (first / "properties").read_text(encoding="utf-8")
    kept = [
        line for line in text.splitlines() if not line.startswith(("hips_pixel_", "hips_tile_format", "data_"))
    ]
    kept += [f"{'hips_tile_format':20s} = png", f"{'dataproduct_subtype':20s} = color"]
    (folder / "properties").write_text("\n".join(kept) + "\n", encoding="utf-8")
    shutil.copyfile(first / "index.html", folder / "index.html")
    for plane in planes:
        shutil.rmtree(plane)


def _pixels(path: Path) -> NDArray[np.float32]:
    if not path.exists():
        return np.full((SIDE, SIDE), np.nan, dtype=np.float32)
    with fits.open(path, memmap=False) as file:
        return np.asarray(file[0].data, dtype=np.float32)
