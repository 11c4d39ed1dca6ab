"""A sky that never was: stars and nebula with known truth, evaluable anywhere at any size.

Everything is a pure function of the seed and the place. Stars come from hashed cells of the sky and
the nebula from hashed lattices, so a window, a frame and a whole mosaic see the same sky and none of
them needs an array of the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel
from skyloom.ops.simulation.hashing import hash_key, random_stream
from skyloom.ops.simulation.nebula import add_nebula
from skyloom.ops.simulation.projection import pixel_area, triad
from skyloom.ops.simulation.stars import STAR_FLOOR, add_stars, cell_stars, star_reach

COLOURS: dict[str, tuple[float, float, float, float, float]] = {
    # hydrogen, oxygen, reflection; stars: share, reddening exponent
    "L": (1.00, 0.80, 0.90, 1.00, 0.00),
    "R": (0.70, 0.05, 0.20, 0.36, 0.16),
    "G": (0.12, 0.40, 0.30, 0.34, 0.00),
    "B": (0.18, 0.35, 0.40, 0.30, -0.18),
    "Ha": (0.60, 0.00, 0.01, 0.02, 0.16),
    "OIII": (0.02, 0.35, 0.01, 0.02, -0.02),
    "SII": (0.30, 0.00, 0.01, 0.02, 0.17),
}
"""Share of each component of the sky that a band sees; L sees R + G + B."""

_ROWS = 64
"""Rows evaluated at a time: the coordinate arrays stay in cache."""


@dataclass(frozen=True)
class Stars:
    """Stars of a region in one band."""

    ra: NDArray[np.float64]
    """Degrees."""
    dec: NDArray[np.float64]
    """Degrees."""
    flux: NDArray[np.float64]
    """Sky units (DN at transparency 1 and the reference gain)."""

    def __len__(self) -> int:
        return self.flux.size


@dataclass(frozen=True)
class SkyModel:
    """Stars and nebula as a function of the place; no pedestal: empty sky is zero.

    Coordinates inside are degrees on a Lambert equal-area plane about the centre, which covers
    the whole sky but its antipode and keeps star density even.
    """

    seed: int = 1
    ra: float = 84.0
    """Centre (degrees)."""
    dec: float = 30.0
    star_density: float = 3000.0
    """Stars brighter than `star_faint` per square degree."""
    star_faint: float = 100.0
    """Faintest flux (sky units in band L)."""
    star_bright: float = 3e6
    """Brightest flux."""
    star_slope: float = 0.8
    """Number counts: N(>F) ∝ F**(-slope)."""
    nebula: float = 8.0
    """Typical brightness of the nebula in L (sky units per square arcsecond); 0 = none."""
    coarsest: float = 1.0
    """Lattice spacing of the coarsest octave (degrees)."""
    finest: float = 16.0
    """Smallest structure (arcsec); octaves halve from the coarsest down to it."""
    extent: float = 1.0
    """Radius about the centre in which the lobes of the nebula lie (degrees)."""

    def __post_init__(self) -> None:
        if not (0 < self.star_faint < self.star_bright and self.star_slope > 0 and self.star_density >= 0):
            raise ConfigError(
                f"stars need 0 < faint < bright and slope > 0: faint={self.star_faint:g}, "
                f"bright={self.star_bright:g}, slope={self.star_slope:g}"
            )
        if self.nebula < 0 or not 0 < self.finest / 3600 <= self.coarsest:
            raise ConfigError(
                f"the nebula needs brightness ≥ 0 and 0 < finest ≤ coarsest: nebula={self.nebula:g}, "
                f'finest={self.finest:g}", coarsest={self.coarsest:g}°'
            )

    @cached_property
    def axes(self) -> NDArray[np.float64]:
        """East, north and outward at the centre."""
        return triad(self.ra, self.dec)

    @cached_property
    def _spacings(self) -> NDArray[np.float64]:
        count = max(1, 1 + math.floor(math.log2(self.coarsest * 3600.0 / self.finest) + 1e-9))
        return np.array([self.coarsest / 2.0**octave for octave in range(count)])

    @cached_property
    def _lobes(self) -> NDArray[np.float64]:
        random = random_stream(self.seed, 3)
        count = 5
        angle, radius = (
            random.uniform(0, 2 * np.pi, count),
            self.extent * np.sqrt(random.uniform(0, 1, count)),
        )
        width = self.extent * random.uniform(0.15, 0.5, count)
        return np.stack(
            [radius * np.cos(angle), radius * np.sin(angle), 0.5 / width**2, random.uniform(0.4, 1.2, count)],
            axis=-1,
        )

    def plane(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return plane positions (degrees) of sky positions (degrees)."""
        a, d = np.radians(ra), np.radians(dec)
        return self.plane_of(np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)]), self.axes)

    def plane_of(
        self, vectors: NDArray[np.float64], axes: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return plane positions (degrees) of unit vectors (3, …) seen in the triad `axes`."""
        x, y, z = np.tensordot(axes, vectors, axes=1)
        k = np.degrees(np.sqrt(2.0 / np.maximum(1.0 + z, 1e-12)))
        return k * x, k * y

    def unplane(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return unit vectors (3, …) in the triad `axes` of plane positions (degrees)."""
        x, y = np.radians(x), np.radians(y)
        r2 = x * x + y * y
        k = np.sqrt(np.maximum(1.0 - 0.25 * r2, 0.0))
        return np.asarray(np.stack([k * x, k * y, 1.0 - 0.5 * r2]), dtype=np.float64)

    def plane_brightness(
        self, x: NDArray[np.float64], y: NDArray[np.float64], bands: Sequence[str]
    ) -> NDArray[np.float64]:
        """Nebula at plane positions of shape (rows, columns): (band, rows, columns), per square arcsecond."""
        out = np.zeros((len(bands), *x.shape))
        if self.nebula > 0:
            shares = np.array([colour(band)[:3] for band in bands])
            key = hash_key(self.seed, 2)
            add_nebula(
                np.ascontiguousarray(x),
                np.ascontiguousarray(y),
                key,
                self._spacings,
                self._lobes,
                shares,
                out,
            )
            out *= self.nebula
        return out

    def brightness(self, ra: NDArray[np.float64], dec: NDArray[np.float64], band: str) -> NDArray[np.float64]:
        """Surface brightness of the nebula (sky units per square arcsecond) at sky positions (degrees).

        The nebula's finest structure is what is left after the seeing: no frame's own PSF blurs it further.
        """
        x, y = self.plane(np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64))
        shape = x.shape
        return np.asarray(self.plane_brightness(x.reshape(1, -1), y.reshape(1, -1), [band])[0].reshape(shape))

    def plane_stars(self, low: tuple[float, float], high: tuple[float, float]) -> NDArray[np.float64]:
        """Stars of the cells that meet a box of the plane (degrees): rows of x, y, flux in L, colour (−1…1).

        Their order does not depend on the box: stars of a smaller box come in the same sequence.
        """
        cell = 1.0 / 32.0
        i0, j0 = (math.floor(v / cell) for v in low)
        i1, j1 = (math.floor(v / cell) + 1 for v in high)
        mean = self.star_density * cell * cell
        if mean <= 0:
            return np.empty((0, 4))
        key = hash_key(self.seed, 1)
        return np.asarray(
            cell_stars(key, i0, i1, j0, j1, cell, mean, self.star_faint, self.star_bright, self.star_slope)
        )

    def star_flux(self, table: NDArray[np.float64], band: str) -> NDArray[np.float64]:
        """Fluxes in a band of rows of `plane_stars`."""
        share, red = colour(band)[3:]
        return np.asarray(share * table[:, 2] * 10.0 ** (red * table[:, 3]))

    def stars(self, grid: Grid, rows: slice, columns: slice, band: str, *, margin: float = 0.0) -> Stars:
        """Stars in and around a window of a grid, brightest first.

        Parameters
        ----------
        grid
            The canvas.
        rows, columns
            The window.
        band
            Filter.
        margin
            How far outside the window a star may lie (px).
        """
        table, ra, dec, x, y = self._near(grid, rows, columns, margin)
        inside = (
            (x >= columns.start - 0.5 - margin)
            & (x < columns.stop - 0.5 + margin)
            & (y >= rows.start - 0.5 - margin)
            & (y < rows.stop - 0.5 + margin)
        )
        flux = self.star_flux(table, band)
        order = np.flatnonzero(inside)
        order = order[np.argsort(-flux[order], kind="stable")]
        return Stars(ra[order], dec[order], flux[order])

    def _near(self, grid: Grid, rows: slice, columns: slice, margin: float) -> tuple[NDArray[np.float64], ...]:
        """Rows of `plane_stars` of the cells around a window; ra, dec, x, y of each."""
        t = np.linspace(0.0, 1.0, 33)
        ys = rows.start - 1 - margin + t * (rows.stop - rows.start + 1 + 2 * margin)
        xs = columns.start - 1 - margin + t * (columns.stop - columns.start + 1 + 2 * margin)
        px, py = np.meshgrid(xs, ys)
        u, v = self.plane(*pixel_to_sky(grid.wcs, px.ravel(), py.ravel()))
        if not np.isfinite(u).any():
            empty = np.empty(0)
            return np.empty((0, 4)), empty, empty, empty, empty
        table = self.plane_stars(
            (float(np.nanmin(u)), float(np.nanmin(v))), (float(np.nanmax(u)), float(np.nanmax(v)))
        )
        a, b, c = self.axes.T @ self.unplane(table[:, 0], table[:, 1])
        ra = np.degrees(np.arctan2(b, a)) % 360.0
        dec = np.degrees(np.arctan2(c, np.hypot(a, b)))
        x, y = sky_to_pixel(grid.wcs, ra, dec)
        return table, ra, dec, x, y

    def nebula_image(self, grid: Grid, window: tuple[slice, slice], band: str) -> NDArray[np.float64]:
        """Nebula on a window of a grid (sky units per canvas pixel), shape of the window."""
        rows, columns = window
        out = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
        if self.nebula == 0:
            return out
        for start in range(rows.start, rows.stop, _ROWS):
            stop = min(start + _ROWS, rows.stop)
            py, px = np.mgrid[start:stop, columns.start : columns.stop].astype(np.float64)
            x, y = self.plane(*pixel_to_sky(grid.wcs, px, py))
            strip = self.plane_brightness(x, y, [band])[0]
            out[start - rows.start : stop - rows.start] = strip
        out *= pixel_area(grid, window)
        return out

    def star_image(
        self,
        grid: Grid,
        window: tuple[slice, slice],
        band: str,
        psf_fwhm: float | Sequence[tuple[float, float]],
    ) -> NDArray[np.float64]:
        """Stars on a window of a grid (sky units per canvas pixel); parameters as `true_image`."""
        rows, columns = window
        mixture = [(psf_fwhm, 1.0)] if isinstance(psf_fwhm, float | int) else list(psf_fwhm)
        total = sum(weight for _, weight in mixture)
        widest = max(fwhm for fwhm, _ in mixture)
        out = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
        table, _, _, x, y = self._near(grid, rows, columns, star_reach(widest, self.star_bright))
        flux = self.star_flux(table, band)
        good = np.isfinite(x) & np.isfinite(y)
        for fwhm, weight in mixture:
            share = weight / total
            add_stars(
                out,
                rows.start,
                columns.start,
                x[good],
                y[good],
                share * flux[good],
                float(fwhm),
                STAR_FLOOR * share,
            )
        return out

    def true_image(
        self,
        grid: Grid,
        window: tuple[slice, slice],
        band: str,
        psf_fwhm: float | Sequence[tuple[float, float]],
    ) -> NDArray[np.float64]:
        """Noise-free sky on a window of a grid.

        Parameters
        ----------
        grid
            The canvas; any celestial WCS.
        window
            Rows and columns, with explicit bounds.
        band
            Filter, one of `COLOURS`.
        psf_fwhm
            FWHM of the stars (canvas px), or pairs (FWHM, weight) of a mixture.

        Returns
        -------
        ndarray
            float64, shape of the window: sky units (DN at transparency 1 and the reference gain)
            per canvas pixel.
        """
        return self.nebula_image(grid, window, band) + self.star_image(grid, window, band, psf_fwhm)


def colour(band: str) -> tuple[float, float, float, float, float]:
    """Shares of a band, see `COLOURS`.

    Raises
    ------
    ConfigError
        For a band the simulated sky has no light in.
    """
    try:
        return COLOURS[band]
    except KeyError:
        raise ConfigError(f"the simulated sky has no band {band!r}; it has {', '.join(COLOURS)}") from None
