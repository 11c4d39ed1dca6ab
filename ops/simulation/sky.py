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
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel

MOFFAT_BETA = 3.5
"""Wing exponent of the point spread function: between a turbulent atmosphere's 4.8 and optics' 2.5."""
STAR_FLOOR = 0.01
"""A star's stamp ends where its profile falls below this (sky units per pixel)."""
STAR_REACH = 6.0
"""Least radius of a stamp (FWHM); 1.7e-4 of a Moffat's flux lies beyond."""

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

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
ARCSEC = 180.0 / math.pi * 3600.0
"""Arcseconds in a radian."""
_NODE = 64
"""Distance of the places where a grid's pixel area is computed (px)."""
_ROWS = 64
"""Rows evaluated at a time: the coordinate arrays stay in cache."""


@njit(nogil=True, cache=True, inline="always")
def mix(key: np.uint64, counter: np.uint64) -> np.uint64:
    """Hash a counter under a key (the finalizer of SplitMix64, Steele et al. 2014)."""
    z = key + (counter + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


@njit(nogil=True, cache=True, inline="always")
def uniform(bits: np.uint64) -> float:
    """Turn 64 random bits into a number inside (0, 1), ends excluded."""
    return (float(bits >> np.uint64(12)) + 0.5) * (1.0 / 4503599627370496.0)


@njit(nogil=True, cache=True)
def poisson(mean: float, u: float) -> int:
    """Poisson quantile of `u`; for small means."""
    term = math.exp(-mean)
    total = term
    k = 0
    while u > total and k < 1000:
        k += 1
        term *= mean / k
        total += term
    return k


def hash_key(*parts: int) -> np.uint64:
    """Key of a random stream from integers (seed, frame, purpose, …)."""
    mask = (1 << 64) - 1
    state = 0x51A7
    for part in parts:
        state = (state + (int(part) & mask) * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return np.uint64(state)


def random_stream(*parts: int) -> np.random.Generator:
    """Sequential generator for a handful of numbers, keyed as `hash_key`."""
    return np.random.Generator(np.random.Philox(int(hash_key(*parts))))


@njit(nogil=True, cache=True, fastmath=False)
def _add_octave(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    spacing: float,
    key: np.uint64,
    amplitude: float,
    out: NDArray[np.float64],
) -> None:
    values = np.empty((4, 4))
    last_i, last_j = np.int64(1 << 40), np.int64(1 << 40)
    for n in range(x.size):
        px, py = x[n] / spacing, y[n] / spacing
        i, j = np.int64(math.floor(px)), np.int64(math.floor(py))
        if i != last_i or j != last_j:
            for b in range(4):
                row = mix(key, np.uint64(j + b + 1048576))
                for a in range(4):
                    values[b, a] = 2.0 * uniform(mix(row, np.uint64(i + a + 1048576))) - 1.0
            last_i, last_j = i, j
        t = px - i
        s = 1.0 - t
        w0, w3 = s * s * s, t * t * t
        w1, w2 = 3.0 * w3 - 6.0 * t * t + 4.0, 3.0 * w0 - 6.0 * s * s + 4.0
        t = py - j
        s = 1.0 - t
        v0, v3 = s * s * s, t * t * t
        v1, v2 = 3.0 * v3 - 6.0 * t * t + 4.0, 3.0 * v0 - 6.0 * s * s + 4.0
        total = v0 * (w0 * values[0, 0] + w1 * values[0, 1] + w2 * values[0, 2] + w3 * values[0, 3])
        total += v1 * (w0 * values[1, 0] + w1 * values[1, 1] + w2 * values[1, 2] + w3 * values[1, 3])
        total += v2 * (w0 * values[2, 0] + w1 * values[2, 1] + w2 * values[2, 2] + w3 * values[2, 3])
        total += v3 * (w0 * values[3, 0] + w1 * values[3, 1] + w2 * values[3, 2] + w3 * values[3, 3])
        out[n] += amplitude * total / 36.0


@njit(nogil=True, cache=True, inline="always")
def _ramp(value: float) -> float:
    """C2 stand-in of max(value, 0)."""
    return 0.5 * (value + math.sqrt(value * value + 0.04))


@njit(nogil=True, cache=True, fastmath=False)
def _nebula(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    key: np.uint64,
    spacings: NDArray[np.float64],
    lobes: NDArray[np.float64],
    shares: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Surface brightness of each band (axis 0 of `out`) at plane positions x, y (degrees)."""
    rows, columns = x.shape
    octaves = spacings.size
    gas, veil, mood = np.empty(columns), np.empty(columns), np.empty(columns)
    for r in range(rows):
        gas[:] = 0.0
        veil[:] = 0.0
        mood[:] = 0.0
        xr, yr = x[r], y[r]
        for o in range(octaves):
            # 3.6 makes an octave's rms 1; amplitude ~ spacing^0.6 is close to the spectrum of cirrus.
            amplitude = 3.6 * (spacings[o] / spacings[0]) ** 0.6
            _add_octave(xr, yr, spacings[o], mix(key, np.uint64(o)), amplitude, gas)
            if o < octaves - 2:
                _add_octave(yr, xr, 0.7 * spacings[o], mix(key, np.uint64(o + 64)), amplitude, veil)
            if o < 2:
                _add_octave(xr, yr, 1.1 * spacings[o], mix(key, np.uint64(o + 128)), amplitude, mood)
        for c in range(columns):
            core = 0.0
            for k in range(lobes.shape[0]):
                dx, dy = xr[c] - lobes[k, 0], yr[c] - lobes[k, 1]
                core += lobes[k, 3] * math.exp(-(dx * dx + dy * dy) * lobes[k, 2])
            body = _ramp(0.5 + 0.45 * gas[c] + core)
            ridge = math.exp(-((veil[c] * 1.6) ** 2))
            dust = math.exp(-1.2 * _ramp(0.8 * veil[c] - 0.9))
            light = body * body * (0.35 + 0.65 * ridge) * dust
            tone = 1.0 / (1.0 + math.exp(-2.0 * mood[c]))
            hydrogen = light * (0.35 + 0.65 * tone)
            oxygen = light * body * (1.0 - tone) * 0.6
            reflection = 0.25 * body * (1.2 - dust)
            for b in range(shares.shape[0]):
                out[b, r, c] = shares[b, 0] * hydrogen + shares[b, 1] * oxygen + shares[b, 2] * reflection


@njit(nogil=True, cache=True, fastmath=False)
def _cell_stars(
    key: np.uint64,
    i0: int,
    i1: int,
    j0: int,
    j1: int,
    cell: float,
    mean: float,
    faint: float,
    bright: float,
    slope: float,
) -> NDArray[np.float64]:
    """Stars of cells i0 ≤ i < i1, j0 ≤ j < j1: rows of x, y (degrees), flux, colour (−1…1)."""
    count = 0
    for j in range(j0, j1):
        for i in range(i0, i1):
            row = mix(key, np.uint64(np.int64(j) + 1048576))
            count += poisson(mean, uniform(mix(row, np.uint64(np.int64(i) + 1048576))))
    out = np.empty((count, 4))
    n = 0
    span = 1.0 - (bright / faint) ** (-slope)
    for j in range(j0, j1):
        for i in range(i0, i1):
            row = mix(key, np.uint64(np.int64(j) + 1048576))
            bits = mix(row, np.uint64(np.int64(i) + 1048576))
            for k in range(poisson(mean, uniform(bits))):
                star = mix(bits, np.uint64(k))
                out[n, 0] = (i + uniform(mix(star, np.uint64(0)))) * cell
                out[n, 1] = (j + uniform(mix(star, np.uint64(1)))) * cell
                out[n, 2] = faint * (1.0 - span * uniform(mix(star, np.uint64(2)))) ** (-1.0 / slope)
                out[n, 3] = 2.0 * uniform(mix(star, np.uint64(3))) - 1.0
                n += 1
    return out


@njit(nogil=True, cache=True, inline="always")
def _moffat(r2: float) -> float:
    t = 1.0 + r2
    return 1.0 / (t * t * t * math.sqrt(t))


@njit(nogil=True, cache=True, fastmath=False)
def add_stars(
    image: NDArray[np.float64],
    row: int,
    column: int,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    fwhm: float,
    floor: float,
) -> None:
    """Add pixel-integrated Moffat stars to a window of an image, in place.

    Parameters
    ----------
    image
        The window, shape (rows, columns).
    row, column
        Place of its first pixel in the image.
    x, y
        Zero-based positions in the image (px).
    flux
        Total fluxes (image units).
    fwhm
        Full width at half maximum of the unpixelated profile (px).
    floor
        The stamp ends where the profile falls below this, but not within `STAR_REACH` FWHM.

    Notes
    -----
    Each pixel is a 3 × 3 Gauss-Legendre quadrature of I(r) = F (β−1)/(π α²) (1 + r²/α²)^−β (Moffat 1969)
    out to three FWHM, the value at its centre beyond.
    """
    alpha = 0.5 * fwhm / math.sqrt(2.0 ** (1.0 / 3.5) - 1.0)
    inverse = 1.0 / (alpha * alpha)
    node = 0.3872983346207417
    rows, columns = image.shape
    for n in range(x.size):
        peak = flux[n] * 2.5 / math.pi * inverse
        reach = max(6.0 * fwhm, alpha * (abs(peak) / floor) ** (1.0 / 7.0))
        cx, cy = x[n] - column, y[n] - row
        r0, r1 = max(math.ceil(cy - reach), 0), min(math.floor(cy + reach), rows - 1)
        c0, c1 = max(math.ceil(cx - reach), 0), min(math.floor(cx + reach), columns - 1)
        near, far = 9.0 * fwhm * fwhm, reach * reach
        for r in range(r0, r1 + 1):
            dy = (y[n] - row) - r
            for c in range(c0, c1 + 1):
                dx = (x[n] - column) - c
                r2 = dx * dx + dy * dy
                if r2 > far:
                    continue
                if r2 > near:
                    image[r, c] += peak * _moffat(r2 * inverse)
                    continue
                total = 0.0
                for b in range(-1, 2):
                    ey = dy + b * node
                    wy = 8.0 if b == 0 else 5.0
                    for a in range(-1, 2):
                        ex = dx + a * node
                        wx = 8.0 if a == 0 else 5.0
                        total += wx * wy * _moffat((ex * ex + ey * ey) * inverse)
                image[r, c] += peak * total / 324.0


def moffat_enclosed(radius: NDArray[np.float64] | float, fwhm: float) -> NDArray[np.float64]:
    """Fraction of a Moffat's flux within a radius (same unit as `fwhm`): 1 − (1 + r²/α²)^(1−β)."""
    alpha = 0.5 * fwhm / math.sqrt(2.0 ** (1.0 / MOFFAT_BETA) - 1.0)
    return np.asarray(1.0 - (1.0 + (np.asarray(radius) / alpha) ** 2) ** (1.0 - MOFFAT_BETA))


def triad(ra: float, dec: float) -> NDArray[np.float64]:
    """Return unit vectors east, north and outward at a sky position (degrees), as rows."""
    a, d = math.radians(ra), math.radians(dec)
    return np.array(
        [
            [-math.sin(a), math.cos(a), 0.0],
            [-math.sin(d) * math.cos(a), -math.sin(d) * math.sin(a), math.cos(d)],
            [math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d)],
        ]
    )


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
            _nebula(
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
            _cell_stars(key, i0, i1, j0, j1, cell, mean, self.star_faint, self.star_bright, self.star_slope)
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


def star_reach(fwhm: float, flux: float) -> float:
    """Largest radius of a star's stamp (px) for `add_stars` with `STAR_FLOOR`."""
    alpha = 0.5 * fwhm / math.sqrt(2.0 ** (1.0 / MOFFAT_BETA) - 1.0)
    peak = flux * (MOFFAT_BETA - 1.0) / (math.pi * alpha * alpha)
    return max(STAR_REACH * fwhm, float(alpha * (peak / STAR_FLOOR) ** (0.5 / MOFFAT_BETA))) + 1.0


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


def pixel_area(grid: Grid, window: tuple[slice, slice]) -> NDArray[np.float64]:
    """Solid angle of each pixel of a window (square arcseconds), shape of the window.

    Exact on nodes 64 px apart, linear between them (the area of a projection varies over degrees).
    """
    rows, columns = window
    # Nodes of the grid, not of the window: a window is a cut of the whole.
    ys, xs = (np.arange(part.start // _NODE, part.stop // _NODE + 2, dtype=np.float64) * _NODE for part in window)
    px, py = np.meshgrid(xs, ys)
    sides = []
    for dx, dy in ((-0.5, 0.0), (0.5, 0.0), (0.0, -0.5), (0.0, 0.5)):
        ra, dec = (np.radians(v) for v in pixel_to_sky(grid.wcs, px + dx, py + dy))
        sides.append(np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1))
    cross = np.cross(sides[1] - sides[0], sides[3] - sides[2])
    nodes = np.linalg.norm(cross, axis=-1) * ARCSEC**2
    across = np.stack([np.interp(np.arange(columns.start, columns.stop), xs, row) for row in nodes])
    at = np.interp(np.arange(rows.start, rows.stop), ys, np.arange(ys.size))
    low = np.minimum(at.astype(np.intp), ys.size - 2)
    part = (at - low)[:, None]
    return np.asarray((1.0 - part) * across[low] + part * across[low + 1])
