"""A linear picture becomes one for the eye: the same curve for every tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.survey import lead_of
from skyloom.ops.display.gaps import fill_gaps as filled_gaps
from skyloom.ops.display.gaps import gap_halo
from skyloom.ops.display.transfer import (
    Hyperbolic,
    asinh_transfer,
    check_curve,
    curve_transfer,
    hyperbolic_transfer,
    midtones_transfer,
    solve_strength,
)
from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.stretch import BACKGROUND
from skyloom.ops.tiles import Dependencies, Output, Planes, by_tiles, grid_of

Floats = NDArray[np.float64]
Method = Literal["stf", "mtf", "asinh", "ghs", "none"]

BELOW, ABOVE, FILLED = 1, 2, 4
"""Bits of `clipped`: below black, above white in a channel; a gap filled from around it."""
RATE = 25.0
STORED = 0.8
"""Bytes on the disk over bytes of the arrays, at most: values between 0 and 1 take 0.75."""
STRIP = 256
"""Rows of a tile shown at a time."""
_HIGHEST = {"asinh": 1e7, "ghs": 20.0}


@dataclass(frozen=True)
class Curve:
    """How values between black and white are shown."""

    method: Method
    midtones: float
    strength: float
    hyperbolic: Hyperbolic
    points: tuple[tuple[float, float], ...]
    keep_colour: float
    saturation: float
    background: float

    def tone(self, x: Floats, *, midtones: float, middle: float) -> Floats:
        """Shown value of x (0…1); `midtones` and `middle` (the shown median's x) are of the whole mosaic."""
        if self.method == "stf":
            x = midtones_transfer(x, midtones)
        elif self.method == "mtf":
            x = midtones_transfer(x, self.midtones)
        elif self.method == "asinh":
            x = asinh_transfer(x, self._strength(middle, asinh_transfer))
        elif self.method == "ghs":
            x = hyperbolic_transfer(x, self._hyperbolic(middle))
        return curve_transfer(x, self.points) if self.points else np.asarray(x)

    def _strength(self, middle: float, transfer: Any) -> float:
        """The strength asked for, or the one that shows the median at the background level."""
        if self.strength > 0.0:
            return self.strength
        found = solve_strength(
            middle,
            self.background,
            lambda x, s: float(transfer(np.array(x), s)),
            highest=_HIGHEST[self.method],
        )
        return found

    def _hyperbolic(self, middle: float) -> Hyperbolic:
        shape = self.hyperbolic
        symmetry = min(max(middle, shape.shadows), shape.highlights) if shape.symmetry < 0 else shape.symmetry

        def at(strength: float) -> Hyperbolic:
            return Hyperbolic(strength, shape.local, symmetry, shape.shadows, shape.highlights)

        return at(self._strength(middle, lambda x, s: hyperbolic_transfer(x, at(s))))

    def show(
        self, pixels: Floats, black: Floats, white: Floats, median: Floats, midtones: Floats
    ) -> tuple[Floats, NDArray[np.uint8]]:
        """Picture and what was clipped in it.

        Parameters
        ----------
        pixels
            Shape (channels, rows, columns), NaN = no data.
        black, white, median, midtones
            Shape (channels,).

        Returns
        -------
        picture
            0…1.
        clipped
            Shape (rows, columns): bits `BELOW`, `ABOVE`.
        """
        x = (pixels - black[:, None, None]) / (white - black)[:, None, None]
        clipped = (x < 0.0).any(axis=0) * np.uint8(BELOW) | (x > 1.0).any(axis=0) * np.uint8(ABOVE)
        middle = (median - black) / (white - black)
        inside = np.clip(x, 0.0, 1.0)
        shown = np.stack(
            [
                self.tone(c, midtones=float(m), middle=float(v))
                for c, m, v in zip(inside, midtones, middle, strict=True)
            ]
        )
        if self.keep_colour > 0.0 and len(x) > 1:
            # Where each channel has a stretch of its own their ratios mean something on a common scale only: that
            # on which their medians, shown as grey, are the same.
            common = np.where(middle > 0.0, middle.mean() / np.where(middle > 0.0, middle, 1.0), 1.0)
            shown = (1.0 - self.keep_colour) * shown + self.keep_colour * self._coloured(
                np.maximum(x, 0.0) * common[:, None, None], float(midtones.mean()), float(middle.mean())
            )
        if self.saturation != 1.0 and len(x) > 1:
            mean = shown.mean(axis=0)
            shown = mean + self.saturation * (shown - mean)
        return np.clip(shown, 0.0, 1.0), np.asarray(clipped, dtype=np.uint8)

    def _coloured(self, x: Floats, midtones: float, middle: float) -> Floats:
        """The curve applied to the mean of the channels, which keep their ratio (Lupton et al. 2004)."""
        mean = x.mean(axis=0)
        light = self.tone(np.clip(mean, 0.0, 1.0), midtones=midtones, middle=middle)
        with np.errstate(divide="ignore", invalid="ignore"):
            shown = np.where(mean > 0, x * (light / mean), 0.0)
        shown = np.where(np.isfinite(mean), shown, np.nan)
        # A channel that would be above 1 takes the others with it towards white, so that the hue stays.
        highest = shown.max(axis=0)
        over = np.where(highest > 1.0, (1.0 - light) / np.maximum(highest - light, 1e-12), 1.0)
        return np.asarray(light + (shown - light) * np.clip(over, 0.0, 1.0))


@dataclass(frozen=True)
class _Stretch:
    """Task of a tile."""

    image: Planes
    curve: Curve
    gaps: int

    def __call__(self, tile: tuple[slice, slice], *table: Any) -> dict[str, NDArray[Any]]:
        statistics = [np.asarray(t, dtype=np.float64) for t in table]
        rows, columns = tile
        shape = rows.stop - rows.start, columns.stop - columns.start
        image = np.empty((len(self.image.specs), *shape), np.float32)
        flags = np.zeros(shape, np.uint8)
        for start in range(rows.start, rows.stop, STRIP):
            stop = min(start + STRIP, rows.stop)
            part = slice(start - rows.start, stop - rows.start)
            image[:, part], flags[part] = self._strip((slice(start, stop), columns), *statistics)
        return {"image": image, "clipped": flags}

    def _strip(
        self, tile: tuple[slice, slice], black: Floats, white: Floats, median: Floats, midtones: Floats
    ) -> tuple[Floats, NDArray[np.uint8]]:
        halo = gap_halo(self.gaps)
        pixels, filled = filled_gaps(self.image.read(*tile, halo=halo).astype(np.float64), self.gaps)
        inner = tuple(slice(halo, halo + s.stop - s.start) for s in tile)
        pixels, filled = pixels[(slice(None), *inner)], filled[inner]
        if np.isnan(pixels).all():
            return pixels, np.zeros(pixels.shape[1:], np.uint8)
        shown, clipped = self.curve.show(pixels, black, white, median, midtones)
        return shown, clipped | filled * np.uint8(FILLED)


def _cost(image: xr.Dataset, tones: xr.Dataset | None = None, **parameters: Any) -> Cost:
    grid = Grid.from_attrs(image.attrs)
    count = image.sizes[lead_of(image)]
    halo = 2 * gap_halo(parameters["fill_gaps"])
    rows, columns = (np.asarray(c, dtype=np.float64) for c in grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    strip = (np.minimum(rows[:, None], STRIP) + halo) * (columns[None, :] + halo)
    memory = 8 * (8 * count + 4) * strip + (4 * count + 1) * pixels
    return Cost(work=count * pixels / 1e6, read=4 * count * pixels, memory=memory, rate=RATE, stored=STORED)


@register(version=2, unit=("y", "x"), cost=_cost)
def stretch(
    image: xr.Dataset,
    tones: xr.Dataset | None = None,
    *,
    method: Method = "stf",
    midtones: Annotated[float, Param(low=1e-6, high=0.999999)] = 0.5,
    strength: Annotated[float, Param(low=0, high=1e7)] = 0.0,
    local: Annotated[float, Param(low=-5, high=15)] = 1.0,
    symmetry: Annotated[float, Param(low=-1, high=1)] = -1.0,
    protect_shadows: Annotated[float, Param(low=0, high=1)] = 0.0,
    protect_highlights: Annotated[float, Param(low=0, high=1)] = 1.0,
    curve: list[list[float]] = [],  # noqa: B006  (never changed; a list is what YAML has)
    keep_colour: Annotated[float, Param(low=0, high=1)] = 0.0,
    saturation: Annotated[float, Param(low=0, high=10)] = 1.0,
    fill_gaps: Annotated[int, Param(unit="px", low=0, high=50)] = 6,
) -> xr.Dataset:
    """Stretch a linear picture for the screen, the same way everywhere: STF, MTF, asinh, hyperbolic, curves.

    Parameters
    ----------
    image
        A linear picture over (channel, y, x) or mosaic over (band, y, x); a stretched one for a curve or another
        mtf or ghs.
    tones
        Black, white and midtones (`tones`); may be left out for a picture that is between 0 and 1 already.
    method
        stf: midtones transfer function with the midtones of `tones`; mtf: with `midtones`; asinh; ghs: generalized
        hyperbolic; none: only from black to white. Change it to asinh where star colours shall last to the
        brightest, to ghs to place the contrast yourself.
    midtones
        Value between black and white that becomes 0.5 (mtf). Change it with method = mtf: less is brighter.
    strength
        Of asinh (β) or ghs (ln(D + 1)); 0: what brings the median to the background level of `tones`. Change it
        with method = asinh or ghs: more is brighter.
    local
        b of ghs: -1 logarithmic, 0 exponential, 1 harmonic. Change it with method = ghs: more gives more contrast
        near `symmetry`.
    symmetry
        SP of ghs, where the contrast is highest; -1: at the median. Change it with method = ghs, to the brightness
        of what shall show best.
    protect_shadows
        LP of ghs: linear below it. Change it with method = ghs, where the sky becomes too dark.
    protect_highlights
        HP of ghs: linear above it. Change it with method = ghs, where stars become too large.
    curve
        Points [x, y] of a smooth rising curve, applied last. Change it for more or less contrast at the end.
    keep_colour
        1: the curve is applied to the mean of the channels and their ratios stay; 0: to each channel; between:
        mixed. Change it to 1 for the fullest colours of stars and cores, to 0 for softer ones.
    saturation
        Factor of the differences of the channels from their mean. Change it to taste; 1 leaves the colours as they
        are.
    fill_gaps
        Fill holes narrower than twice so much, such as the burnt-out cores of stars, from around them; 0: none.
        Change it to more where burnt-out stars leave holes.

    Returns
    -------
    xarray.Dataset
        `image` (0…1, float32, NaN = no data) with the dimensions of the input and `clipped` over (y, x): 1 = below
        black, 2 = above white in a channel, 4 = a filled gap, or a sum of these. Attribute `linear` False. What is
        outside 0…1 is clipped here and nowhere else.

    Raises
    ------
    ConfigError
        For points out of order.
    DataError
        If a stretched picture is stretched by stf or asinh, or a linear one has no `tones`.
    """
    lead = lead_of(image)
    linear = bool(image.attrs.get("linear", True))
    if not linear and (method in ("stf", "asinh") or tones is not None):
        raise DataError(f"method {method} needs linear data, these have been stretched; use mtf, ghs or a curve")
    if linear and tones is None:
        raise DataError(
            "a linear picture needs tones (black and white) to be stretched; make them from its survey"
        )
    count = image.sizes[lead]
    background = BACKGROUND
    dependencies = Dependencies()
    arguments: list[Any] = [np.zeros(count), np.ones(count), np.full(count, 0.5), np.full(count, 0.5)]
    if tones is not None:
        names = [str(c) for c in image[lead].values]
        if lead not in tones.dims or [str(c) for c in tones[lead].values] != names:
            if len(names) > 1 or "channel" not in tones.dims:
                raise DataError(f"the tones are not of {lead} {', '.join(names)}; make them from its survey")
            # A luminance gets the linked stretch of the colours it goes with.
            tones = tones.isel(channel=[0])
        background = float(tones.attrs["background"])
        arguments = [dependencies.argument(tones[n]) for n in ("black", "white", "median", "midtones")]
    shape = Hyperbolic(strength, local, symmetry, protect_shadows, protect_highlights)
    if symmetry >= 0:
        shape.check()
    elif protect_shadows > protect_highlights:
        raise ConfigError(f"protect_shadows = {protect_shadows:g} is above protect_highlights")
    if method == "ghs" and strength > _HIGHEST["ghs"]:
        raise ConfigError(f"strength = {strength:g} of ghs is ln(D + 1), at most {_HIGHEST['ghs']:g}")
    if method == "ghs" and strength == 0 and tones is None:
        raise ConfigError("strength = 0: give the strength of ghs for a picture that is stretched already")
    points = tuple(check_curve(curve)) if curve else ()
    shown = Curve(method, midtones, strength, shape, points, keep_colour, saturation, background)
    work = _Stretch(Planes.of(image, "image"), shown, fill_gaps)
    arrays = by_tiles(
        "stretch",
        grid_of(image),
        work,
        {"image": Output.image(np.float32, {lead: count}), "clipped": Output.image(np.uint8)},
        arguments=arguments,
        dependencies=dependencies,
    )
    attrs = {k: v for k, v in image.attrs.items() if k not in ("provenance", "units")}
    return xr.Dataset(arrays, coords={lead: image[lead].values}, attrs={**attrs, "linear": False})
