"""No rims: what is hardly covered goes, soft edges are taken back, weights fade, the canvas is cut to size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.background.coverage import require_depth
from skyloom.ops.background.cropping import Depth, Depths, Typical, cut_canvas, is_known, typical_depth
from skyloom.ops.background.outside import distance_to, outside_of
from skyloom.ops.colour.adjustment import band_names, check_same_bands
from skyloom.ops.colour.survey import LARGE_CELL
from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.tiles import Dependencies, Output, Planes, by_tiles, in_one_piece

Floats = NDArray[np.float64]

RATE = 20.0
"""Mpixel of the canvas a second, a tile at an edge."""
STORED = 0.7
"""Bytes on the disk over bytes of the arrays, at most: images 0.7 to 0.9, weights 0.2 to 0.7, counts 0.2."""
DTYPES = {"image": np.float32, "variance": np.float32, "weight": np.float32, "count": np.uint16}


@dataclass(frozen=True)
class _Limits:
    """Task: depth below which a pixel of the edge goes, where the coverage is not known yet."""

    depths: Depths

    def __call__(self, depth: NDArray[Any], valid: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {"limit": self.depths.least * typical_depth(depth, valid, self.depths.of)}


@dataclass(frozen=True)
class Rim:
    """What is done along the edges."""

    by: Depth
    erode: int
    taper: int
    hole: int

    @property
    def halo(self) -> int:
        """Pixels beyond a tile that decide about it."""
        return self.erode + self.taper + self.hole + 2


@dataclass(frozen=True)
class _Edges:
    """Task of a tile."""

    planes: tuple[tuple[str, Planes], ...]
    corner: tuple[int, int]
    """Row, column of the canvas before at which this one begins."""
    rim: Rim

    def __call__(self, tile: tuple[slice, slice], limit: Floats) -> dict[str, NDArray[Any]]:
        planes = dict(self.planes)
        shape = tuple(s.stop - s.start for s in tile)
        bands = len(planes["image"].specs)
        out = {n: np.empty((bands, *shape), DTYPES[n]) for n in planes}
        rows, columns = (slice(s.start + c, s.stop + c) for s, c in zip(tile, self.corner, strict=True))
        for band in range(bands):
            here = {n: Planes((p.specs[band],), p.shape) for n, p in planes.items()}
            self._band(here, (rows, columns), float(limit[band]), {n: a[band] for n, a in out.items()})
        return out

    def _band(
        self, planes: dict[str, Planes], tile: tuple[slice, slice], limit: float, out: dict[str, NDArray[Any]]
    ) -> None:
        halo, canvas = self.rim.halo, planes["image"].shape
        wide = tuple(
            slice(max(s.start - halo, 0), min(s.stop + halo, n)) for s, n in zip(tile, canvas, strict=True)
        )
        inner = tuple(slice(s.start - w.start, s.stop - w.start) for s, w in zip(tile, wide, strict=True))
        pixels = {n: planes[n].read(wide[0], wide[1])[0] for n in {"image", self.rim.by}}
        with np.errstate(invalid="ignore"):
            bad = ~(np.isfinite(pixels["image"]) & (pixels[self.rim.by] >= limit))
        kept, share = self._kept(bad, wide, canvas)
        kept = kept[inner]
        for name, plane in planes.items():
            values = pixels[name][inner] if name in pixels else plane.read(*tile)[0]
            if name == "weight" and share is not None:
                values = values * share[inner]
            out[name][:] = np.where(kept, values, 0.0 if name == "count" else np.nan)

    def _kept(
        self, bad: NDArray[np.bool_], wide: tuple[slice, ...], canvas: tuple[int, int]
    ) -> tuple[NDArray[np.bool_], Floats | None]:
        """Pixels that stay, and the share of its weight each keeps."""
        at_edge = tuple(e for s, n in zip(wide, canvas, strict=True) for e in (s.start == 0, s.stop == n))
        outside = outside_of(bad, hole=self.rim.hole, at_edge=at_edge)
        reach = self.rim.erode + self.rim.taper
        if reach == 0 or not outside.any():
            return ~outside, None
        away = distance_to(outside, reach)
        kept = away > self.rim.erode
        if self.rim.taper == 0:
            return kept, None
        t = np.clip((away.astype(np.float64) - self.rim.erode) / (self.rim.taper + 1), 0.0, 1.0)
        return kept, t * t * (3.0 - 2.0 * t)


def _cost(image: xr.Dataset, coverage: xr.Dataset, **parameters: Any) -> Cost:
    depths = Depths(parameters["by"], parameters["of"], parameters["least"])
    cut = cut_canvas(
        Grid.from_attrs(image.attrs),
        coverage,
        depths,
        wanted=parameters["crop"],
        keeps=parameters["crop_keeps"],
        erode=parameters["erode"],
    )
    rim = Rim(parameters["by"], parameters["erode"], parameters["taper"], parameters["hole"])
    bands = len(band_names(image))
    rows, columns = (np.asarray(c, dtype=np.float64) for c in cut.grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    wide = (rows[:, None] + 2 * rim.halo) * (columns[None, :] + 2 * rim.halo)
    # A band's window: image, depth, three masks, labels, two maps of distances; and the result of all bands.
    return Cost(
        work=bands * pixels / 1e6,
        read=14 * bands * pixels,
        memory=40 * wide + 22 * bands * pixels,
        rate=RATE,
        stored=STORED,
    )


@register(version=1, unit=("y", "x"), cost=_cost)
def edges(
    image: xr.Dataset,
    coverage: xr.Dataset,
    *,
    least: Annotated[float, Param(low=0, high=1)] = 0.2,
    of: Typical = "median",
    by: Depth = "weight",
    erode: Annotated[int, Param(unit="px", low=0, high=512)] = 4,
    taper: Annotated[int, Param(unit="px", low=0, high=512)] = 0,
    hole: Annotated[int, Param(unit="px", low=0, high=1024)] = 64,
    crop: Annotated[float, Param(low=0, high=1)] = 0.0,
    crop_keeps: Annotated[float, Param(low=0, high=1)] = 0.8,
) -> xr.Dataset:
    """Clean the edges of a mosaic: hardly covered rims become no data, weights fade, the canvas is cut to size.

    Parameters
    ----------
    image
        A mosaic with its weights and counts (`integrate`).
    coverage
        Its `coverage`.
    least
        Along the edges pixels with less than this fraction of the typical depth of their band are left without
        data. Islands of less depth within the mosaic stay. Change it to more where rims of the picture are noisy,
        to less where the mosaic loses parts that should stay.
    of
        Typical is the median or the maximum of the cells of 8 or 32 pixels. Where some panels are much deeper
        than others, the maximum takes the shallow ones away. Change it to maximum where all panels are equally
        deep and rims of dithering shall go.
    by
        Depth is the weight or the number of frames. Change it to count where weights differ for other reasons than
        depth, such as moonlit nights.
    erode
        How much more is taken away along the edges of what is left. Change it to more where a dark or bright line
        along the edges is left.
    taper
        Width over which the weight then rises from nothing to its value; the image stays as it is. Change it where
        the mosaic shall be blended with another one by its weights.
    hole
        Gaps up to this size within the mosaic (saturated stars, rejected pixels) are no edges. Change it to more
        where larger burnt-out stars are taken for edges.
    crop
        Cut the canvas to the largest rectangle of which this fraction is covered in all bands, on each of its
        sides too (about). 0: not. Change it to 0.98 or so for a picture without empty corners; the colour presets
        do.
    crop_keeps
        Cut only if the rectangle holds this fraction of all that is covered: a turned frame, or a mosaic of an
        odd outline, would lose too much. Change it to less where an odd outline shall be cut to a rectangle all
        the same.

    Returns
    -------
    xarray.Dataset
        `image`, `weight`, `count` and, where there is one, `variance` over (band, y, x), lazy, a block a tile, on
        the canvas that is left. Attributes: those of the mosaic, its grid, `crop` (x0, y0, x1, y1 on the canvas
        before), `kept` (fraction of what is covered that the cut keeps) and `told` (why there is none).
        Reads erode + taper + hole + 2 pixels beyond each tile.

    Raises
    ------
    DataError
        If the mosaic has no weights, or the coverage is of another canvas.
    NotYetKnown
        If the canvas is to be cut and its coverage has not been computed.

    Notes
    -----
    What lies outside is what has too little depth and touches the edge of the canvas or is larger than `hole`;
    distances are Euclidean.
    """
    require_depth(image, "edges")
    check_same_bands(image, coverage)
    before = Grid.from_attrs(image.attrs)
    if tuple(coverage.attrs.get("grid_shape", ())) != before.shape:
        raise DataError("the coverage is of another canvas; make it from the same mosaic")
    depths = Depths(by, of, least)
    cut = cut_canvas(before, coverage, depths, wanted=crop, keeps=crop_keeps, erode=erode)
    grid, corner = cut.grid, (cut.rows.start, cut.columns.start)
    if grid.tile % LARGE_CELL and grid.tiles != (1, 1):
        raise DataError(f"tile = {grid.tile} should be a multiple of {LARGE_CELL}")
    bands = band_names(image)
    dependencies = Dependencies()
    names = [n for n in DTYPES if n in image]
    arrays = by_tiles(
        "edges",
        grid,
        _Edges(tuple((n, Planes.of(image, n)) for n in names), corner, Rim(by, erode, taper, hole)),
        {n: Output.image(DTYPES[n], {"band": len(bands)}) for n in names},
        arguments=[_limit(coverage, depths, dependencies)],
        dependencies=dependencies,
    )
    attrs = {k: v for k, v in image.attrs.items() if k != "provenance"}
    return xr.Dataset(arrays, coords={"band": np.asarray(bands, dtype=str)}, attrs={**attrs, **cut.attrs})


def _limit(coverage: xr.Dataset, depths: Depths, dependencies: Dependencies) -> Any:
    """Limit of each band: a number where the coverage is known, which no tile then reads again."""
    work = _Limits(depths)
    if is_known(coverage):
        return work(coverage[depths.by].values, coverage["valid"].values)["limit"]
    needed = Dependencies()
    arguments = [needed.argument(coverage[n]) for n in (depths.by, "valid")]
    outputs = {"limit": (("band",), (coverage.sizes["band"],), np.float64)}
    dims, limit = in_one_piece("edges", work, outputs, arguments=arguments, dependencies=needed)["limit"]
    return dependencies.argument(xr.DataArray(limit, dims=dims))
