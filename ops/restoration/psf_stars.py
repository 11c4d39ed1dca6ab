"""The PSF of each region of a mosaic from the stars in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.colour.adjustment import require_linear
from skyloom.ops.colour.survey import lead_of
from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid
from skyloom.ops.measurement.measure import measure_frame
from skyloom.ops.registration.stars import SATURATED
from skyloom.ops.registry import Cost, Param, register
from skyloom.ops.restoration.atrous import LAYERS, measured_noise
from skyloom.ops.restoration.flat_tops import AS_HIGH, flat_topped, plateaus
from skyloom.ops.restoration.stamp import FWHM_RANGE, reach, region_psf
from skyloom.ops.tiles import Output, Planes, by_tiles

Floats = NDArray[np.float64]

SATURATED_KEPT = 32
"""Saturated stars of a region that are kept, the brightest."""
NUMBERS = ("fwhm", "ellipticity", "theta", "beta", "noise")
RATE = 6.0
"""Mpixel a second of each of two tasks."""
_MEASURES = 14.0
"""Bytes a pixel of finding and measuring stars, besides the pixels read."""
CELL = 64
"""Side of the cells the noise of layers is measured in (pixels)."""
_STARS = 500
"""Stars measured of a region at most."""


@dataclass(frozen=True)
class _Stars:
    """Task of a region: all bands."""

    planes: Planes
    variance: Planes | None
    radius: int
    snr: float
    stars: int
    least: int
    saturation: float

    @property
    def halo(self) -> int:
        """Pixels beyond a region."""
        return halo_of(self.radius)

    def __call__(self, region: tuple[slice, slice]) -> dict[str, NDArray[Any]]:
        found = [self._band(band, region) for band in range(len(self.planes.specs))]
        return {name: np.stack([f[name] for f in found]) for name in found[0]}

    def _band(self, band: int, region: tuple[slice, slice]) -> dict[str, NDArray[Any]]:
        side = 2 * self.radius + 1
        out: dict[str, NDArray[Any]] = {
            **{n: np.full((1, 1), np.nan) for n in NUMBERS},
            "stars": np.zeros((1, 1), np.int32),
            "stamp": np.full((1, 1, side, side), np.nan, np.float32),
            "saturated": np.full((1, 1, SATURATED_KEPT, 3), np.nan),
            "layer_noise": np.full((1, 1, LAYERS), np.nan),
        }
        rows, columns = region
        image = _read(self.planes, band, region, self.halo)
        if not np.isfinite(image).any():
            return out
        measured = measure_frame(image, max_stars=_STARS, saturation=self.saturation)
        noise = float(measured.summary[1])
        out["noise"][:] = noise
        if noise > 0:
            sigma = np.full_like(image, noise)
            if self.variance is not None:
                sigma = np.sqrt(_read(self.variance, band, region, self.halo))
            known = np.isfinite(image) & (sigma > 0)
            plain = np.where(known, image, np.float32(np.median(image[np.isfinite(image)])))
            out["layer_noise"][0, 0] = measured_noise(
                plain, np.where(known, sigma, np.float32(1.0)), known, layers=LAYERS, cell=CELL
            )
        table = measured.stars
        if not len(table) or not noise > 0:
            return out
        x, y, flux, fwhm, peak, flag = (table[:, k] for k in (0, 1, 2, 4, 7, 8))
        inside = _within(np.stack([x, y], axis=1), self.halo, region)
        good = inside & (flag == 0) & (peak > self.snr * noise)
        beta, usual = 3.0, float(measured.summary[2])
        burnt, lost = inside & ((flag.astype(int) & SATURATED) > 0), np.empty((0, 3))
        if good.any():
            usual = float(np.median(fwhm[good]))
            good &= np.abs(fwhm / usual - 1.0) < FWHM_RANGE
            chosen = good & (np.cumsum(good) <= self.stars)
            psf = region_psf(image, table, chosen, noise, radius=self.radius, least=self.least)
            if psf is not None and not math.isfinite(self.saturation):
                flat = flat_topped(image, x, y, peak, psf.stamp.astype(np.float32))
                if flat.any():
                    # Their tops are as high as each other; what reaches as high is cut, too.
                    flat |= peak > AS_HIGH * float(np.median(peak[flat]))
                    lost = plateaus(image, x, y, flat, self.radius)
                    burnt |= inside & flat
                    good &= ~flat
                    chosen = good & (np.cumsum(good) <= self.stars)
                    psf = region_psf(image, table, chosen, noise, radius=self.radius, least=self.least)
            good = chosen
            out["stars"][:] = good.sum() if psf is None else psf.stars
            if psf is not None:
                out["stamp"][0, 0] = psf.stamp
                model = psf.model
                beta, usual = model.beta, model.fwhm
                for name, value in zip(
                    NUMBERS[:4], (model.fwhm, model.ellipticity, model.theta, model.beta), strict=True
                ):
                    out[name][:] = value
        saturated = np.concatenate([np.stack([x, y, flux], axis=1)[burnt], lost[_within(lost, self.halo, region)]])
        for k, (column, row, light) in enumerate(saturated[np.argsort(-saturated[:, 2])][:SATURATED_KEPT]):
            out["saturated"][0, 0, k] = (
                column + columns.start - self.halo,
                row + rows.start - self.halo,
                reach(float(light), noise, usual, beta),
            )
        return out


def _within(places: Floats, halo: int, region: tuple[slice, slice]) -> NDArray[np.bool_]:
    """Which places (x, y of what was read) lie in the region itself."""
    out = np.ones(len(places), dtype=np.bool_)
    for values, part in zip(np.rint(places[:, :2]).T, region[::-1], strict=True):
        out &= (values >= halo) & (values < halo + part.stop - part.start)
    return out


def _read(planes: Planes, band: int, region: tuple[slice, slice], halo: int) -> NDArray[np.float32]:
    """One band of a region."""
    return np.asarray(Planes((planes.specs[band],), planes.shape).read(*region, halo=halo)[0])


def halo_of(radius: int) -> int:
    """Pixels read beyond a region: a window around a star on its edge, and room for the ring of its sky."""
    return radius + 24


def _cost(image: xr.Dataset, *, region: int, radius: int, **parameters: Any) -> Cost:
    grid = Grid.from_attrs(image.attrs).retile(region)
    bands = image.sizes[lead_of(image)]
    halo = 2 * halo_of(radius)
    rows, columns = (np.asarray(c, dtype=np.float64) + halo for c in grid.chunks)
    pixels = rows[:, None] * columns[None, :]
    # Image and variance are read; windows of stars are float64 in several copies.
    memory = (16.0 + _MEASURES) * pixels + 40e6 + 8.0 * 24 * parameters["stars"] * (2 * radius + 1) ** 2
    return Cost(work=bands * pixels / 1e6, read=4.0 * bands * pixels, memory=memory, rate=RATE)


@register(version=1, unit=("y", "x"), cost=_cost)
def psf_stars(
    image: xr.Dataset,
    *,
    region: Annotated[int, Param(unit="px", low=256, high=8192)] = 1024,
    radius: Annotated[int, Param(unit="px", low=5, high=64)] = 15,
    snr: Annotated[float, Param(unit="sigma", low=5, high=10000)] = 30.0,
    stars: Annotated[int, Param(low=5, high=1000)] = 100,
    least: Annotated[int, Param(low=1, high=100)] = 5,
    saturation: Annotated[float | None, Param(low=0)] = None,
) -> xr.Dataset:
    """Measure the PSF of a mosaic region by region and band by band, from its unsaturated, isolated stars.

    Parameters
    ----------
    image
        A linear mosaic over (band, y, x).
    region
        Side of a region; regions begin at the canvas' corner, whatever its tiles. Change it to less for optics
        whose stars change quickly towards the corners, where there are enough stars.
    radius
        Of the PSF, some four times the FWHM: what a star has beyond it is not concentrated. Change it to more for
        wide or badly seeing-limited stars.
    snr
        Least peak of a star over the noise of a pixel. Change it to less where there are few stars.
    stars
        Most stars of a region, the brightest. Change it to more where the PSF looks noisy and stars are many.
    least
        Regions with fewer get theirs from their neighbours (`psf`). Change it to more where regions with few stars
        get an odd PSF.
    saturation
        Level of the mosaic (its units) from which stars are saturated. None: their cores tell, which are lower
        than the wings foretell even where frames laid over one another have rounded flat tops off. Change it where
        bright stars get rings: give the level at which they are flat.

    Returns
    -------
    xarray.Dataset
        Over (band, y, x), y and x counting regions, lazy, a task a region: `stamp` (…, v, u), sum 1, centred on
        the middle pixel; `fwhm` (pixels), `ellipticity` (1 - minor / major), `theta` (of the major axis, from x
        to y, radians), `beta` (of the Moffat profile); NaN where stars are too few. `stars`; `noise` (rms of a
        pixel); `layer_noise` (…, layer): that of the wavelet layers over what the variance gives a pixel;
        `saturated` (…, star, 3): x, y (canvas pixels) of saturated stars and how far they reach (pixels).
        Reads radius + 24 pixels beyond each region.

    Raises
    ------
    ConfigError
        If the stamp does not fit into a region.
    DataError
        If the data are not linear.
    """
    require_linear(image, "measuring the PSF")
    lead = lead_of(image)
    if 4 * radius > region:
        raise ConfigError(f"radius = {radius} should be at most a quarter of region = {region}")
    over = {lead: image.sizes[lead]}
    side = 2 * radius + 1
    arrays = by_tiles(
        "psf_stars",
        Grid.from_attrs(image.attrs).retile(region),
        _Stars(
            Planes.of(image, "image"),
            Planes.of(image, "variance") if "variance" in image else None,
            radius,
            snr,
            stars,
            least,
            math.nan if saturation is None else saturation,
        ),
        {
            **{n: Output(np.float64, over, {}, region) for n in NUMBERS},
            "stars": Output(np.int32, over, {}, region),
            "stamp": Output(np.float32, over, {"v": side, "u": side}, region),
            "layer_noise": Output(np.float64, over, {"layer": LAYERS}, region),
            "saturated": Output(np.float64, over, {"star": SATURATED_KEPT, "quantity": 3}, region),
        },
    )
    kept = {k: v for k, v in image.attrs.items() if k != "provenance"}
    return xr.Dataset(
        arrays, coords={lead: image[lead].values}, attrs={**kept, "region": region, "radius": radius}
    )
