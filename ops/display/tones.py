"""What a stretch must know of the whole mosaic: black, white and middle of each channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.adjustment import require_linear
from skyloom.ops.errors import DataError
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.stretch import BACKGROUND, SHADOWS, midtones_for
from skyloom.ops.tiles import Dependencies, in_one_piece, whole_cost

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Tones:
    """Task: statistics of a survey's sample, and the screen transfer function they make."""

    linked: bool
    shadows: float
    background: float
    white: float

    def __call__(self, sample: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        pixels = sample.reshape(len(sample), -1)
        return measured_tones(
            pixels, linked=self.linked, shadows=self.shadows, background=self.background, white=self.white
        )


def measured_tones(
    pixels: NDArray[np.floating], *, linked: bool, shadows: float, background: float, white: float
) -> dict[str, Floats]:
    """Tones of a sample of pixels.

    Parameters
    ----------
    pixels
        Shape (channels, pixels), NaN = no data.
    linked, shadows, background, white
        As `tones` takes them.

    Returns
    -------
    dict
        `black`, `white`, `median`, `noise` and `midtones`, shape (channels,).

    Raises
    ------
    DataError
        If no pixel has data in every channel.
    """
    good = np.isfinite(pixels).all(axis=0)
    if not good.any():
        raise DataError("no pixel has data in every channel: there is nothing to stretch")
    values = pixels[:, good].astype(np.float64)
    median = np.median(values, axis=1)
    noise = 1.4826 * np.median(np.abs(values - median[:, None]), axis=1)
    whites = np.quantile(values, white, axis=1)
    if linked:
        median, noise = (np.full_like(v, v.mean()) for v in (median, noise))
        whites = np.full_like(whites, whites.max())
    lowest = values.min(axis=1) if not linked else np.full(len(values), values.min())
    black = np.maximum(median + shadows * noise, lowest)
    whites = np.where(whites > black, whites, black + 1.0)
    middle = (median - black) / (whites - black)
    midtones = np.array([midtones_for(float(m), background) for m in middle])
    return {"black": black, "white": whites, "median": median, "noise": noise, "midtones": midtones}


def _cost(survey: xr.Dataset, **parameters: Any) -> Cost:
    return whole_cost(survey, ("sample",), copies=6.0)


@register(version=1, cost=_cost)
def tones(
    survey: xr.Dataset,
    *,
    linked: bool = True,
    shadows: Annotated[float, Param(unit="sigma", low=-100, high=0)] = SHADOWS,
    background: Annotated[float, Param(low=0.01, high=0.9)] = BACKGROUND,
    white: Annotated[float, Param(low=0.5, high=1)] = 0.9999,
) -> xr.Dataset:
    """Measure what a stretch needs: black, white and midtones of the whole mosaic (PixInsight's STF autostretch).

    Parameters
    ----------
    survey
        Of the linear picture (`survey`).
    linked
        All channels get one stretch, so that colours stay; otherwise each its own, which makes any cast grey.
        Change it to false to look at data before the white balance, and for narrowband palettes.
    shadows
        Black is the median and so many σ (1.4826 MAD). Change it nearer to 0 for a darker sky, farther from it
        where faint parts are cut off.
    background
        Where the median lands, 0…1. Change it to less for a darker picture.
    white
        Quantile of the pixels that is white; the stars above it are clipped. Change it to more where cores of
        bright objects burn out.

    Returns
    -------
    xarray.Dataset
        Over channel (or band), in the picture's units: `black`, `white`, `median`, `noise`; `midtones` (0…1, the
        balance of the midtones transfer function). Attribute `background`.

    Raises
    ------
    DataError
        If the data are stretched already; while computing, if no pixel has data in every channel.
    """
    require_linear(survey, "an autostretch")
    lead = str(survey["sample"].dims[0])
    count = survey.sizes[lead]
    dependencies = Dependencies()
    arrays = in_one_piece(
        "tones",
        _Tones(linked, shadows, background, white),
        dict.fromkeys(("black", "white", "median", "noise", "midtones"), ((lead,), (count,), np.float64)),
        arguments=[dependencies.argument(survey["sample"])],
        dependencies=dependencies,
    )
    return xr.Dataset(arrays, coords={lead: survey[lead].values}, attrs={"background": background})
