"""The slow light over a mosaic taken away, tile by tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.adjustment import band_names, check_same_bands, require_linear
from skyloom.ops.errors import DataError, NotYetKnown
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, register
from skyloom.ops.surface import basis
from skyloom.ops.tiles import Dependencies, Output, Planes, by_tiles, grid_of
from skyloom.ops.unit_keys import known

Floats = NDArray[np.float64]

RATE = 20.0
"""Mpixel a second."""
STORED = 0.7
"""Bytes on the disk over bytes of the arrays, at most, as of `edges`."""
DTYPES = {"image": np.float32, "variance": np.float32, "weight": np.float32, "count": np.uint16}
TOLD = ("amplitude", "rms", "degree", "samples", "protected")


def model_window(coefficients: Floats, shape: tuple[int, int], rows: slice, columns: slice) -> Floats:
    """The model on the pixels of a window.

    Parameters
    ----------
    coefficients
        Of the cubic B-spline over the canvas, y first.
    shape
        Rows, columns of the canvas.
    rows, columns
        The window (pixels).
    """
    nodes = coefficients.shape[0] - 2
    down, across = (
        basis(np.arange(part.start, part.stop) / max(whole - 1, 1), nodes=nodes)
        for part, whole in zip((rows, columns), shape, strict=True)
    )
    return np.asarray(down @ coefficients @ across.T)


@dataclass(frozen=True)
class _Correct:
    """Task of a tile."""

    planes: tuple[tuple[str, Planes], ...]
    bands: tuple[str, ...]
    divide: bool
    keep: bool

    def __call__(self, tile: tuple[slice, slice], coefficients: Floats, level: Floats) -> dict[str, NDArray[Any]]:
        planes = dict(self.planes)
        out = {n: p.read(*tile).astype(DTYPES[n], copy=False) for n, p in planes.items()}
        for band, name in enumerate(self.bands):
            stays = float(level[band]) if self.keep else 0.0
            constant = float(np.ptp(coefficients[band])) == 0.0
            if constant and (self.keep or self.divide):
                continue
            model = model_window(coefficients[band], planes["image"].shape, *tile)
            if not self.divide:
                out["image"][band] = out["image"][band] - (model - stays)
                continue
            factor = self._factor(model, float(level[band]), np.isfinite(out["image"][band]), name)
            out["image"][band] = out["image"][band] * factor
            if "variance" in out:
                out["variance"][band] = out["variance"][band] * factor**2
            if "weight" in out:
                out["weight"][band] = out["weight"][band] / factor**2
        return out

    @staticmethod
    def _factor(model: Floats, level: float, there: NDArray[np.bool_], name: str) -> Floats:
        lowest = float(model[there].min()) if there.any() else level
        if lowest <= 0 or level <= 0:
            raise DataError(
                f"band {name}: the background falls to {min(lowest, level):.4g}, which nothing can be divided by; "
                "subtract it (how: subtract)"
            )
        return np.asarray(level / np.where(model > 0, model, level))


def _cost(image: xr.Dataset, model: xr.Dataset, **parameters: Any) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    bands = len(band_names(image))
    rows, columns = (np.asarray(c, dtype=np.float64) for c in grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    return Cost(
        work=bands * pixels / 1e6,
        read=14 * bands * pixels,
        memory=(18 * bands + 40) * pixels,
        rate=RATE,
        stored=STORED,
    )


@register(version=1, unit=("y", "x"), cost=_cost)
def gradient(
    image: xr.Dataset,
    model: xr.Dataset,
    *,
    how: Literal["subtract", "divide"] = "subtract",
    level: Literal["keep", "zero"] = "keep",
) -> xr.Dataset:
    """Take a background model away from a mosaic.

    Parameters
    ----------
    image
        The linear mosaic the model was made from.
    model
        Its `gradient_model`.
    how
        subtract: light was added (moon, towns, twilight); divide: light was lost (flats, haze). Change it to
        divide where what is left is a fault of the flats.
    level
        keep: the sky keeps its median level; zero: it becomes 0 (subtract only). Change it to zero for
        measurements that take the sky as zero.

    Returns
    -------
    xarray.Dataset
        `image`, and `variance`, `weight`, `count` as far as there, over (band, y, x), lazy, a block a tile.
        Subtracting, image - (model - level), leaves variance and weight as they are: a model is no noise.
        Dividing, image · level / model, scales the variance by the square of that and the weight by its inverse.
        Attributes: those of the mosaic and, where the model is known, what it was: `gradient` (how),
        `gradient_amplitude`, `gradient_rms` (in units), `gradient_degree`, `gradient_samples`,
        `gradient_protected`, each a number a band.

    Raises
    ------
    DataError
        If the data are not linear, or the model is of another canvas or other bands; while computing, if a model
        that is to be divided by is not positive.
    """
    require_linear(image, "taking a gradient away")
    check_same_bands(image, model)
    grid = grid_of(image)
    if Grid.from_attrs(model.attrs).retile(grid.tile) != grid:
        raise DataError("the background model is of another canvas; make it from the same mosaic")
    if how == "divide" and level == "zero":
        raise DataError("dividing keeps the level of the sky: level = 'zero' goes with how = 'subtract' only")
    bands = band_names(image)
    dependencies = Dependencies()
    names = [n for n in DTYPES if n in image]
    arrays = by_tiles(
        "gradient",
        grid,
        _Correct(tuple((n, Planes.of(image, n)) for n in names), tuple(bands), how == "divide", level == "keep"),
        {n: Output.image(DTYPES[n], {"band": len(bands)}) for n in names},
        arguments=[dependencies.argument(model[n]) for n in ("coefficients", "level")],
        dependencies=dependencies,
    )
    attrs = {k: v for k, v in image.attrs.items() if k != "provenance"}
    return xr.Dataset(
        arrays, coords={"band": np.asarray(bands, dtype=str)}, attrs={**attrs, "gradient": how, **_told(model)}
    )


def _told(model: xr.Dataset) -> dict[str, list[float]]:
    """What people are told of a model, as far as it is known without computing it."""
    try:
        values = known(model, *TOLD)
    except NotYetKnown:
        return {}
    return {f"gradient_{n}": [float(f"{v:.6g}") for v in a.tolist()] for n, a in zip(TOLD, values, strict=True)}
