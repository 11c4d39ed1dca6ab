"""A PSF for every region of a mosaic: its own where it has stars, its neighbours' where it has not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.survey import lead_of
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.restoration.atrous import layer_noise
from skyloom.ops.restoration.psf_stars import NUMBERS
from skyloom.ops.tiles import Dependencies, in_one_piece, whole_cost

Floats = NDArray[np.float64]

NEAREST = 0.25
"""σ (regions) of the weights to begin with: neighbours do not count."""
GROWTH = np.array([1.4, 1.55])
"""Powers of the ratio of noise to white noise in the second layer that it has in the third and fourth at most."""
_TABLE = (*NUMBERS, "stars")


def region_weights(stars: Floats, row: int, column: int, *, enough: float) -> Floats:
    """How much each region counts for one of them.

    Parameters
    ----------
    stars
        Shape (rows, columns): stars each region's PSF rests on, 0 where it has none; not all 0.
    row, column
        The region.
    enough
        Stars a PSF should rest on: the neighbourhood grows until it has them, or is the whole canvas.

    Returns
    -------
    ndarray
        Shape (rows, columns), sum 1.
    """
    y, x = np.ogrid[: stars.shape[0], : stars.shape[1]]
    distance2 = (y - float(row)) ** 2 + (x - float(column)) ** 2
    sigma = NEAREST
    while True:
        # Beyond four σ nothing counts: a far region is asked only when the near ones have nothing.
        weight = np.where(distance2 <= (4.0 * sigma) ** 2, stars * np.exp(-0.5 * distance2 / sigma**2), 0.0)
        total = float(weight.sum())
        if total > 0 and (total >= enough or sigma > 2.0 * max(stars.shape)):
            return np.asarray(weight / total)
        sigma *= 1.5


@dataclass(frozen=True)
class _Fill:
    """Task: the whole table."""

    enough: float

    def __call__(self, stamp: Any, saturated: Any, layers: Any, *numbers: Any) -> dict[str, NDArray[Any]]:
        values = {n: np.asarray(v, dtype=np.float64) for n, v in zip(_TABLE, numbers, strict=True)}
        bands, rows, columns, side, _ = stamp.shape
        atlas = np.empty((bands, rows * side, columns * side), np.float32)
        out = {n: np.empty((bands, rows, columns)) for n in (*NUMBERS, "used")}
        for band in range(bands):
            own = np.where(np.isfinite(values["fwhm"][band]), values["stars"][band], 0.0)
            if not own.any():
                # One band with few stars is no reason to end without a picture.
                atlas[band] = 0.0
                for column in out.values():
                    column[band] = np.nan
                out["used"][band] = 0.0
                continue
            kept = {n: values[n][band] for n in NUMBERS}
            for i, j in np.ndindex(rows, columns):
                weight = region_weights(own, i, j, enough=self.enough)
                part = weight > 0
                weight = weight[part]
                mixed = np.tensordot(weight, np.asarray(stamp[band][part], np.float64), axes=1)
                atlas[band, i * side : (i + 1) * side, j * side : (j + 1) * side] = mixed
                for name in ("fwhm", "beta", "noise"):
                    out[name][band, i, j] = weight @ kept[name][part]
                # Elongations of opposite directions make a round mean.
                spin = weight @ (kept["ellipticity"][part] * np.exp(2j * kept["theta"][part]))
                out["ellipticity"][band, i, j], out["theta"][band, i, j] = abs(spin), 0.5 * np.angle(spin)
                out["used"][band, i, j] = own[part].sum()
        return {
            "stamp": atlas,
            "saturated": np.asarray(saturated),
            "layer_noise": typical_layers(np.asarray(layers, np.float64)),
            **out,
            "stars": values["stars"].astype(np.int32),
        }


def typical_layers(layers: Floats) -> Floats:
    """Noise of the layers of each band: what a quarter of the regions have less than, white where none knows.

    Deep layers hold structure nearly everywhere, so they are taken for no noisier than the second one lets expect:
    by powers of its ratio to white noise as images have them that were resampled once or twice.

    Parameters
    ----------
    layers
        Shape (bands, rows, columns, layers), NaN where a region does not know.
    """
    count = layers.shape[-1]
    white = np.array(layer_noise(count))
    out = np.tile(white, (len(layers), 1))
    for band, values in enumerate(layers.reshape(len(layers), -1, count)):
        known = values[(np.isfinite(values) & (values > 0)).all(axis=1)]
        if not len(known):
            continue
        ratio = np.percentile(known, 25.0, axis=0) / white
        ratio[2:] = np.minimum(ratio[2:], max(ratio[1], 1.0) ** GROWTH[: count - 2])
        out[band] = ratio * white
    return out


def _cost(stars: xr.Dataset, **parameters: Any) -> Cost:
    return whole_cost(stars, ("stamp", "saturated"), copies=4.0)


@register(version=1, cost=_cost)
def psf(
    stars: xr.Dataset,
    *,
    enough: Annotated[float, Param(low=1, high=1000)] = 20.0,
) -> xr.Dataset:
    """Give every region of a mosaic a PSF: from its own stars where they are enough, else with its neighbours'.

    Parameters
    ----------
    stars
        PSF of the regions with stars (`psf_stars`).
    enough
        Stars a PSF should rest on; with fewer, neighbours are added by distance, at last the whole canvas. Change
        it to less where the PSF changes quickly over the field, to more where single stars make it noisy.

    Returns
    -------
    xarray.Dataset
        Over (band, y, x), y and x counting regions, lazy, in one piece: `fwhm` (pixels), `ellipticity`, `theta`,
        `beta`, `noise`, `stars` (of its own), `used` (of all that take part), `saturated`; `layer_noise` (band,
        layer); `stamp` over (band, v, u), a picture of all PSFs: that of region (i, j) begins at row i·side,
        column j·side, sum 1. A band without any region with enough stars has no PSF: NaN, stamps of 0.
    """
    lead = lead_of(stars, "stars")
    bands, rows, columns = (stars.sizes[d] for d in (lead, "y", "x"))
    side = 2 * int(stars.attrs["radius"]) + 1
    dependencies = Dependencies()
    needed = ("stamp", "saturated", "layer_noise", *_TABLE)
    arguments = [dependencies.argument(stars[n]) for n in needed]
    table = ((lead, "y", "x"), (bands, rows, columns))
    arrays = in_one_piece(
        "psf",
        _Fill(enough),
        {
            "stamp": ((lead, "v", "u"), (bands, rows * side, columns * side), np.float32),
            **dict.fromkeys((*NUMBERS, "used"), (*table, np.float64)),
            "stars": (*table, np.int32),
            "layer_noise": ((lead, "layer"), (bands, stars.sizes["layer"]), np.float64),
            "saturated": (tuple(str(d) for d in stars["saturated"].dims), stars["saturated"].shape, np.float64),
        },
        arguments=arguments,
        dependencies=dependencies,
    )
    return xr.Dataset(arrays, coords={lead: stars[lead].values}, attrs=stars.attrs)
