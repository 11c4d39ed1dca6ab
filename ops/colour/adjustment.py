"""The table between raw bands and balanced ones: v' = scale · v + offset, one line a band.

Linear fit, neutral background and white balance all are such lines. Each adds to the table of the one before, and
the pixels are touched once, where the bands become channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.registry import register, suggest
from skyloom.ops.tiles import Dependencies, Output, Planes, by_tiles, grid_of, in_one_piece

Floats = NDArray[np.float64]
BAND = ("band",)


@dataclass(frozen=True)
class Lines:
    """scale, offset of every band, and the level the background of all of them has (NaN = not known)."""

    scale: Floats
    offset: Floats
    background: float = float("nan")

    def apply(self, values: NDArray[Any], band: int) -> Floats:
        """Adjusted values of a band (float64)."""
        return np.asarray(self.scale[band] * np.asarray(values, dtype=np.float64) + self.offset[band])

    def then(self, scale: Floats, offset: Floats, *, background: float) -> Lines:
        """These lines followed by others."""
        return Lines(self.scale * scale, self.offset * scale + offset, background)


def require_linear(dataset: xr.Dataset, what: str) -> None:
    """Refuse data that have been stretched.

    Raises
    ------
    DataError
        If attribute `linear` says they are not linear.
    """
    if not dataset.attrs.get("linear", True):
        raise DataError(f"{what} needs linear data, these have been stretched; do it before the stretch")


def band_names(dataset: xr.Dataset) -> list[str]:
    """Names of the bands.

    Raises
    ------
    DataError
        If there is no dimension of bands.
    """
    if "band" not in dataset.dims:
        raise DataError("there are no bands here (dimension 'band'); channels are made of bands already")
    return [str(b) for b in dataset["band"].values]


def default_reference(bands: Sequence[str]) -> str:
    """Band the others are compared with: the one in the middle of the spectrum."""
    return next((b for b in ("G", "Ha", "R", "L") if b in bands), bands[0])


def chosen_reference(reference: str, bands: Sequence[str]) -> int:
    """Place of the reference band; "auto" chooses.

    Raises
    ------
    ConfigError
        If there is no such band.
    """
    name = default_reference(bands) if reference == "auto" else reference
    if name not in bands:
        raise ConfigError(f"reference = {name!r}: there is no such band{suggest(name, bands)}")
    return list(bands).index(name)


def band_noise(noise: NDArray[Any], band: int) -> float:
    """Typical pixel noise of a band: the median over its cells, of which most hold sky."""
    values = noise[band][np.isfinite(noise[band]) & (noise[band] > 0)]
    return float(np.median(values)) if values.size else 1.0


def check_same_bands(dataset: xr.Dataset, adjustment: xr.Dataset | None) -> None:
    """Refuse a table of other bands.

    Raises
    ------
    DataError
        If the bands of both differ.
    """
    if adjustment is not None and band_names(dataset) != band_names(adjustment):
        raise DataError(
            f"the adjustment is of bands {', '.join(band_names(adjustment))}, the mosaic has "
            f"{', '.join(band_names(dataset))}; make both from the same mosaic"
        )


class Table:
    """Arguments of a task that begins from a table, or from bands as they are."""

    def __init__(self, dependencies: Dependencies, adjustment: xr.Dataset | None, count: int) -> None:
        self.arguments: tuple[Any, ...] = (np.ones(count), np.zeros(count), np.array(np.nan))
        if adjustment is not None:
            names = ("scale", "offset", "background")
            self.arguments = tuple(dependencies.argument(adjustment[n]) for n in names)


def lines_of(scale: Any, offset: Any, background: Any) -> Lines:
    """Lines from the arguments of a task."""
    return Lines(np.asarray(scale, np.float64), np.asarray(offset, np.float64), float(background))


def table_dataset(
    name: str,
    work: Callable[..., Mapping[str, NDArray[Any]]],
    bands: Sequence[str],
    *,
    arguments: Sequence[Any],
    dependencies: Dependencies,
    attrs: Mapping[str, Any],
    extra: Mapping[str, tuple[tuple[str, ...], tuple[int, ...], Any]] | None = None,
) -> xr.Dataset:
    """Lazy table; `work` returns scale, offset, background and the extra variables."""
    count = (len(bands),)
    outputs = {
        "scale": (BAND, count, np.float64),
        "offset": (BAND, count, np.float64),
        "background": ((), (), np.float64),
        **(extra or {}),
    }
    arrays = in_one_piece(name, work, outputs, arguments=arguments, dependencies=dependencies)
    return xr.Dataset(arrays, coords={"band": np.asarray(bands, dtype=str)}, attrs=dict(attrs))


def table_values(lines: Lines, **extra: Any) -> dict[str, NDArray[Any]]:
    """What a task of `table_dataset` returns."""
    return {
        "scale": lines.scale,
        "offset": lines.offset,
        "background": np.array(lines.background),
        **{k: np.asarray(v) for k, v in extra.items()},
    }


@dataclass(frozen=True)
class _Adjust:
    """Task of a tile: all variables of a mosaic, adjusted."""

    image: Planes
    variance: Planes | None

    def __call__(self, tile: tuple[slice, slice], *table: Any) -> dict[str, NDArray[Any]]:
        lines = lines_of(*table)
        scale = lines.scale[:, None, None]
        image = self.image.read(*tile) * scale + lines.offset[:, None, None]
        out = {"image": image.astype(np.float32)}
        if self.variance is not None:
            out["variance"] = (self.variance.read(*tile) * scale**2).astype(np.float32)
        return out


@register(version=1, unit=("y", "x"))
def adjust(image: xr.Dataset, adjustment: xr.Dataset) -> xr.Dataset:
    """Write a mosaic with its bands fitted, neutralized and balanced, for people who go on elsewhere.

    Parameters
    ----------
    image
        A linear mosaic.
    adjustment
        Scale and offset of each band (`linear_fit`, `neutralize`, `white_balance`).

    Returns
    -------
    xarray.Dataset
        `image` (scale · v + offset) and, where there is one, `variance` (scale² · variance), lazy, a block a tile.
    """
    require_linear(image, "adjusting bands")
    check_same_bands(image, adjustment)
    bands = band_names(image)
    dependencies = Dependencies()
    table = Table(dependencies, adjustment, len(bands))
    names = [n for n in ("image", "variance") if n in image]
    arrays = by_tiles(
        "adjust",
        grid_of(image),
        _Adjust(Planes.of(image, "image"), Planes.of(image, "variance") if "variance" in image else None),
        {n: Output.image(np.float32, {"band": len(bands)}) for n in names},
        arguments=table.arguments,
        dependencies=dependencies,
    )
    return xr.Dataset(arrays, coords={"band": image["band"].values}, attrs=image.attrs)
