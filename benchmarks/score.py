"""A mosaic against the truth of its simulated session.

    python benchmarks/score.py MOSAIC.fits truth.json [--band L] [--factor F] [--weight FILE]

The truth is rendered noise-free on the mosaic's own grid with the frames' mixture of point spread functions;
what is scored is residual = mosaic − factor · truth. `factor` is the mosaic's photometric gauge: skyloom sets the
mean log scale of the used frames to zero, so it is the geometric mean of the frames' true scales (times the mean
of the flat where frames were divided by a flat of mean 1).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.simulation.detector import flat_level
from skyloom.ops.simulation.simulate import SimulatedFrame, SimulatedSession
from skyloom.ops.simulation.stars import STAR_FLOOR, add_stars, moffat_enclosed

MIXTURE = 5
"""Components that stand for the frames' range of seeing."""
APERTURE, INNER, OUTER = 3.0, 4.5, 7.0
"""Radii of the aperture and its annulus (FWHM)."""
MIN_SNR = 50.0
"""A star counts in photometry above this (flux over the noise in the aperture)."""
MAX_STARS = 3000
SIGMAS = 6.0
"""Where an outlier begins."""
NOISE_BLOCK = 16
"""Blocks (px) over which noise is summed: much wider than any resampling kernel, so its correlation drops out."""


@dataclass(frozen=True)
class Score:
    """How far a mosaic is from the truth. Canvas units are those of the mosaic."""

    factor: float
    """Expected mosaic / true sky."""
    stars: int
    star_ratio: float
    """Median flux / true flux: the mosaic's real factor."""
    star_bias: float
    """star_ratio / factor − 1."""
    star_error: float
    """Standard error of that median."""
    star_scatter: float
    """Robust rms of flux / expected flux."""
    astrometry_bias: tuple[float, float]
    """Median of measured − true position, x and y (canvas px)."""
    astrometry_rms: float
    """Robust rms about the bias, per axis (canvas px)."""
    sky_constant: float
    """Rms of the superpixels' residual after a constant (canvas units)."""
    sky_plane: float
    """… after a plane over the whole mosaic."""
    sky_quadratic: float
    """… after a quadratic."""
    sky_noise: float
    """What an ideal coadd's noise alone would give."""
    superpixels: int
    seam_step: float
    """Clipped rms step across changes of the set of frames, in excess of the noise (canvas units)."""
    seam_noise: float
    """Noise of a single such step."""
    seam_worst: float
    """Largest mean step along any one border (canvas units)."""
    seam_worst_error: float
    """Its standard error by the noise alone."""
    borders: int
    """Superpixels on borders."""
    noise_ratio: float
    """Noise over that of the ideal inverse-variance coadd of all frames; 1 = ideal."""
    variance_ratio: float
    """Noise over what the variance plane promises; 1 = honest, NaN without a plane."""
    outlier_fraction: float
    """Pixels away from stars further than `SIGMAS` from the truth."""
    outlier_energy: float
    """Mean of |residual| carried by them, per pixel of the mosaic (canvas units)."""
    covered: float
    """Of the pixels that frames see, the fraction with data."""

    def to_text(self) -> str:
        """Return a table of two columns."""
        dx, dy = self.astrometry_bias
        rows = [
            ("stars used", f"{self.stars}"),
            ("flux / true flux", f"{self.star_ratio:.5f}   (expected {self.factor:.5f})"),
            (
                "flux bias, scatter",
                f"{100 * self.star_bias:+.3f} ± {100 * self.star_error:.3f} %   {100 * self.star_scatter:.3f} %",
            ),
            ("position bias, rms", f"({dx:+.4f}, {dy:+.4f}) px   {self.astrometry_rms:.4f} px"),
            (f"sky residual, {self.superpixels} superpixels", f"noise alone {self.sky_noise:.3f}"),
            ("  after constant", f"{self.sky_constant:.3f}"),
            ("  after plane", f"{self.sky_plane:.3f}"),
            ("  after quadratic", f"{self.sky_quadratic:.3f}"),
            (
                "seam step beyond noise",
                f"{self.seam_step:.3f}   (noise {self.seam_noise:.3f}, {self.borders} places)",
            ),
            ("worst border", f"{self.seam_worst:+.3f} ± {self.seam_worst_error:.3f}"),
            ("noise / ideal", f"{self.noise_ratio:.4f}"),
            ("noise / promised", f"{self.variance_ratio:.4f}"),
            (
                f"beyond {SIGMAS:g} sigma",
                f"{1e6 * self.outlier_fraction:.2f} ppm   energy {self.outlier_energy:.2e}",
            ),
            ("covered", f"{100 * self.covered:.3f} %"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


@dataclass(frozen=True)
class _Cover:
    """What the frames do over each superpixel."""

    sets: NDArray[np.int64]
    """Number of the set of frames over the centre; 0 = none."""
    variance: NDArray[np.float64]
    """Of one pixel of the ideal coadd (canvas units²); NaN without frames."""


def score(
    image: NDArray[np.floating[Any]],
    variance: NDArray[np.floating[Any]] | None,
    grid: Grid,
    truth: dict[str, Any],
    *,
    band: str,
    weight: NDArray[np.floating[Any]] | None = None,
    factor: float | None = None,
    frames: Sequence[int] | None = None,
    superpixel: int = 64,
) -> Score:
    """Compare a mosaic with the truth.

    Parameters
    ----------
    image
        The mosaic, NaN = no data, shape of the grid.
    variance
        Its variance plane, or None.
    grid
        Its grid.
    truth
        `SimulatedSession.truth()`, or the file `truth.json`.
    band
        Which band this is.
    weight
        Pixels of weight 0 count as no data (for mosaics without NaN).
    factor
        Expected mosaic / true sky; None: skyloom's gauge.
    frames
        Indices of the frames that were used (all of the band): the gauge and the ideal noise are theirs.
    superpixel
        Side of the superpixels (px).

    Returns
    -------
    Score

    Notes
    -----
    Star fluxes: aperture sum minus annulus *of the residual*, plus what the truth has there, over the true
    catalogue flux times the fraction that this star's own frames' PSFs enclose. Working on the residual takes
    neighbours and nebulosity out, and the true flux (rather than the same photometry of the rendered truth)
    keeps the position-dependent seeing out.

    Sky: medians of the residual over superpixels without pixels that stars brighten by more than half a sigma.

    Seams: at each superpixel 0 along a row or column, step = (r₁ − r₋₁) − (r₋₁ − r₋₂) − (r₂ − r₁): the jump across
    it with both sides' slopes extrapolated. Borders (another set of frames over −1 than over +1)
    are compared with places where all five superpixels have the same frames; rms without 5-sigma outliers.

    Noise: second differences of `NOISE_BLOCK`-px block means along rows over the ideal's, robust. First ones
    would count the slope of what the sky's long waves are off as noise.
    """
    if image.shape != grid.shape:
        raise DataError(f"the mosaic has {image.shape} pixels and its grid {grid.shape}")
    session = SimulatedSession.from_dict(truth["session"])
    takes = session.camera.bands or (band,)
    used = [
        f
        for f in session.lights
        if band in takes and f.band in (band, "CFA") and (frames is None or f.index in set(frames))
    ]
    if not used:
        raise DataError(f"no frame of band {band!r} in the truth; bands are {', '.join(session.bands)}")
    if factor is None:
        factor = gauge(session, used)

    data = np.array(image, dtype=np.float32)
    if weight is not None:
        data[~(weight > 0)] = np.nan
    area = (grid.pixel_scale / session.pixel_scale) ** 2
    mixture = _mixture(used, session.pixel_scale / grid.pixel_scale)
    residual, starlight = _residual(data, grid, session, band, factor, mixture)
    cover = _cover(used, session, band, grid, superpixel, factor, area)
    sigma = _sigma(variance, cover, grid, superpixel)
    masked = starlight > 0.5 * sigma
    masked = maximum_filter(masked, size=3)

    photometry = _stars(residual, grid, session, used, band, factor, mixture, cover, superpixel)
    blocks, counts = _superpixels(residual, masked, superpixel)
    valid = np.isfinite(blocks) & np.isfinite(cover.variance)
    error = np.sqrt(0.5 * np.pi * cover.variance / np.maximum(counts, 1))
    sky = [_rms_after(blocks, valid, order) for order in (0, 1, 2)]
    seams = _seams(np.where(valid, blocks, np.nan), error, cover.sets)
    noise, promised = _noise(residual, masked, variance, cover, superpixel)
    fraction, energy = _outliers(residual, blocks, masked, sigma, superpixel)
    seen = _upsample(cover.sets > 0, grid.shape, superpixel)
    return Score(
        factor=factor,
        **photometry,
        sky_constant=sky[0],
        sky_plane=sky[1],
        sky_quadratic=sky[2],
        sky_noise=float(np.sqrt(np.mean(error[valid] ** 2))) if valid.any() else math.nan,
        superpixels=int(valid.sum()),
        **seams,
        noise_ratio=noise,
        variance_ratio=promised,
        outlier_fraction=fraction,
        outlier_energy=energy,
        covered=float(np.isfinite(data[seen]).mean()) if seen.any() else math.nan,
    )


def gauge(session: SimulatedSession, frames: Sequence[SimulatedFrame]) -> float:
    """Mosaic / true sky when the mean log scale of the frames is set to zero."""
    scales = [math.log(f.exposure.scale) for f in frames]
    if session.raw:
        scales = [
            s + math.log(np.mean(flat_level(f.camera, f.exposure.optics)))
            for s, f in zip(scales, frames, strict=True)
        ]
    return float(np.exp(np.mean(scales)))


def _mixture(frames: Sequence[SimulatedFrame], zoom: float) -> list[tuple[float, float]]:
    """Pairs of FWHM (canvas px) and weight."""
    fwhm = np.array([f.exposure.fwhm for f in frames]) * zoom
    weight = np.array([(f.exposure.scale / f.noise) ** 2 for f in frames])
    order = np.argsort(fwhm, kind="stable")
    return [
        (float(np.average(fwhm[part], weights=weight[part])), float(weight[part].sum()))
        for part in np.array_split(order, min(MIXTURE, len(order)))
    ]


def _residual(
    data: NDArray[np.float32],
    grid: Grid,
    session: SimulatedSession,
    band: str,
    factor: float,
    mixture: list[tuple[float, float]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    residual, starlight = data, np.empty_like(data)
    rows = grid.shape[0]
    for start in range(0, rows, 256):
        strip = slice(start, min(start + 256, rows))
        window = (strip, slice(0, grid.shape[1]))
        stars = factor * session.sky.star_image(grid, window, band, mixture)
        starlight[strip] = stars
        residual[strip] -= factor * session.sky.nebula_image(grid, window, band) + stars
    return residual, starlight


def _cover(
    frames: Sequence[SimulatedFrame],
    session: SimulatedSession,
    band: str,
    grid: Grid,
    superpixel: int,
    factor: float,
    area: float,
) -> _Cover:
    ys, xs = (
        np.arange(0, n, superpixel) + 0.5 * (np.minimum(superpixel, n - np.arange(0, n, superpixel)) - 1)
        for n in grid.shape
    )
    x, y = np.meshgrid(xs, ys)
    ra, dec = pixel_to_sky(grid.wcs, x, y)
    nebula = session.sky.brightness(ra, dec, band) * session.pixel_scale**2
    inverse = np.zeros(x.shape)
    bits = []
    for frame in frames:
        camera, exposure = frame.camera, frame.exposure
        fx, fy = _frame_pixels(frame, ra, dec)
        inside = (fx >= 0) & (fx <= camera.width - 1) & (fy >= 0) & (fy <= camera.height - 1)
        u, v = fx / (camera.width - 1), fy / (camera.height - 1)
        light = exposure.background.at(u, v) + exposure.scale * nebula
        shade = 1.0 - camera.vignetting * (
            ((u - 0.5) * (camera.width - 1)) ** 2 + ((v - 0.5) * (camera.height - 1)) ** 2
        ) / (0.25 * ((camera.width - 1) ** 2 + (camera.height - 1) ** 2))
        electrons = (
            light * shade * camera.gain + camera.dark * camera.warmth * exposure.seconds + camera.read_noise**2
        )
        per_pixel = electrons / (camera.gain * shade) ** 2 * (factor / exposure.scale) ** 2 * area
        inverse += np.where(inside, 1.0 / per_pixel, 0.0)
        bits.append(inside)
    stack = np.stack(bits).reshape(len(frames), -1)
    _, number = np.unique(np.packbits(stack, axis=0), axis=1, return_inverse=True)
    sets = np.where(stack.any(axis=0), np.ravel(number) + 1, 0).reshape(x.shape)
    return _Cover(sets, np.where(inverse > 0, 1.0 / np.maximum(inverse, 1e-300), np.nan))


def _frame_pixels(
    frame: SimulatedFrame, ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert frame.exposure.pointing is not None
    header = fits.Header(frame.exposure.pointing.cards())
    return sky_to_pixel(WCS(header), ra, dec)


def _upsample(blocks: NDArray[Any], shape: tuple[int, int], superpixel: int) -> NDArray[Any]:
    return np.repeat(np.repeat(blocks, superpixel, axis=0), superpixel, axis=1)[: shape[0], : shape[1]]


def _sigma(
    variance: NDArray[np.floating[Any]] | None, cover: _Cover, grid: Grid, superpixel: int
) -> NDArray[np.float32]:
    if variance is not None:
        return np.sqrt(np.asarray(variance, dtype=np.float32))
    return _upsample(np.sqrt(cover.variance).astype(np.float32), grid.shape, superpixel)


def _superpixels(
    residual: NDArray[np.float32], masked: NDArray[np.bool_], size: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Median and number of the clean pixels of each superpixel; NaN where fewer than a third are clean."""
    rows, columns = (-(-n // size) for n in residual.shape)
    median, count = np.full((rows, columns), np.nan), np.zeros((rows, columns), dtype=np.int64)
    for i in range(rows):
        for j in range(columns):
            place = (slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size))
            values = residual[place][~masked[place]]
            values = values[np.isfinite(values)]
            count[i, j] = values.size
            if 3 * values.size >= size * size:
                median[i, j] = np.median(values)
    return median, count


def _rms_after(blocks: NDArray[np.float64], valid: NDArray[np.bool_], order: int) -> float:
    """Rms of the valid superpixels about their least-squares polynomial of an order."""
    if not valid.any():
        return math.nan
    y, x = (2.0 * n / max(size - 1, 1) - 1.0 for n, size in zip(np.nonzero(valid), blocks.shape, strict=True))
    terms = [x**a * y**b for a in range(order + 1) for b in range(order + 1 - a)]
    design, values = np.stack(terms, axis=-1), blocks[valid]
    fit = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(np.sqrt(np.mean((values - fit) ** 2)))


def _spread(values: NDArray[np.floating[Any]]) -> float:
    """Robust standard deviation; NaN of nothing."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if values.size else math.nan


def _clipped_rms(values: NDArray[np.float64]) -> float:
    """Rms about zero without the outliers beyond five robust sigma.

    The median alone would not do: of equal steps it takes 1.48 times their size for the rms.
    """
    size = np.abs(values)
    kept = size[size <= 5.0 * 1.4826 * np.median(size)]
    return float(np.sqrt(np.mean(kept**2)))


def _seams(blocks: NDArray[np.float64], error: NDArray[np.float64], sets: NDArray[np.int64]) -> dict[str, Any]:
    steps, errors, pairs = [], [], []
    quiet = []
    for axis in (0, 1):
        r, e, s = (np.moveaxis(a, axis, 0) for a in (blocks, error, sets))
        step = 2.0 * (r[3:-1] - r[1:-3]) + r[:-4] - r[4:]
        noise = np.sqrt(4.0 * (e[3:-1] ** 2 + e[1:-3] ** 2) + e[:-4] ** 2 + e[4:] ** 2)
        good = np.isfinite(step) & np.isfinite(noise)
        border = good & (s[3:-1] != s[1:-3]) & (s[3:-1] > 0) & (s[1:-3] > 0)
        # Another border beside this one would pass for a slope.
        border &= (s[3:-1] == s[4:]) & (s[1:-3] == s[:-4])
        inside = good & np.all([s[k : s.shape[0] - 4 + k] == s[2:-2] for k in range(5)], axis=0)
        steps.append(step[border])
        errors.append(noise[border])
        # A border is the same one whichever way it is crossed only along one axis: keep the axis apart.
        pairs.append(np.stack([np.full(border.sum(), axis), s[1:-3][border], s[3:-1][border]], axis=-1))
        quiet.append((step / noise)[inside])
    step, noise, pair = np.concatenate(steps), np.concatenate(errors), np.concatenate(pairs)
    still = np.concatenate(quiet)
    out: dict[str, Any] = {
        "seam_step": math.nan,
        "seam_noise": math.nan,
        "seam_worst": math.nan,
        "seam_worst_error": math.nan,
        "borders": int(step.size),
    }
    if not step.size:
        return out
    z = _clipped_rms(step / noise)
    calm = _clipped_rms(still) if still.size > 20 else 1.0
    typical = float(np.median(noise))
    out["seam_noise"] = calm * typical
    out["seam_step"] = math.sqrt(max(z * z - calm * calm, 0.0)) * typical
    _, which = np.unique(pair, axis=0, return_inverse=True)
    which = np.ravel(which)
    number = np.bincount(which)
    mean = np.bincount(which, step) / number
    deviation = calm * np.sqrt(np.bincount(which, noise**2)) / number
    long = np.flatnonzero(number >= 5)
    if long.size:
        worst = long[np.argmax(np.abs(mean[long]))]
        out["seam_worst"], out["seam_worst_error"] = float(mean[worst]), float(deviation[worst])
    return out


def _noise(
    residual: NDArray[np.float32],
    masked: NDArray[np.bool_],
    variance: NDArray[np.floating[Any]] | None,
    cover: _Cover,
    superpixel: int,
) -> tuple[float, float]:
    """Noise over the ideal's and over the promised one."""
    size = NOISE_BLOCK
    rows, columns = (n // size for n in residual.shape)

    def blocked(values: NDArray[Any]) -> NDArray[Any]:
        return values[: rows * size, : columns * size].reshape(rows, size, columns, size)

    good = np.isfinite(residual) & ~masked
    number = blocked(good).sum(axis=(1, 3))
    whole = np.isfinite(blocked(residual)).all(axis=(1, 3)) & (number >= 0.6 * size * size)
    mean = blocked(np.where(good, residual, 0.0)).sum(axis=(1, 3), dtype=np.float64) / np.maximum(number, 1)
    cy, cx = ((np.arange(n) * size + size // 2) // superpixel for n in (rows, columns))
    ideal = cover.variance[np.ix_(cy, cx)] / np.maximum(number, 1)
    # A change of depth inside a block would mix two noises.
    same = cover.sets[np.ix_(cy, cx)]
    left, middle, right = np.s_[:, :-2], np.s_[:, 1:-1], np.s_[:, 2:]
    use = whole[left] & whole[middle] & whole[right] & np.isfinite(ideal[middle])
    use &= (same[left] == same[middle]) & (same[middle] == same[right])
    difference = mean[left] - 2.0 * mean[middle] + mean[right]

    def expected(per_block: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sqrt(per_block[left] + 4.0 * per_block[middle] + per_block[right]))

    ratio = _spread((difference / expected(ideal))[use])
    if variance is None:
        return ratio, math.nan
    claimed = blocked(np.where(good, variance, 0.0)).sum(axis=(1, 3), dtype=np.float64)
    claimed = claimed / np.maximum(number, 1) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        z = difference / expected(claimed)
    return ratio, _spread(z[use & np.isfinite(z)])


def _outliers(
    residual: NDArray[np.float32],
    blocks: NDArray[np.float64],
    masked: NDArray[np.bool_],
    sigma: NDArray[np.float32],
    superpixel: int,
) -> tuple[float, float]:
    local = _upsample(blocks.astype(np.float32), residual.shape, superpixel)
    excess = np.abs(residual - local)
    looked = np.isfinite(excess) & ~masked & np.isfinite(sigma)
    out = looked & (excess > SIGMAS * sigma)
    total = max(int(looked.sum()), 1)
    return float(out.sum() / total), float(excess[out].sum(dtype=np.float64) / total)


def _stars(
    residual: NDArray[np.float32],
    grid: Grid,
    session: SimulatedSession,
    frames: Sequence[SimulatedFrame],
    band: str,
    factor: float,
    mixture: list[tuple[float, float]],
    cover: _Cover,
    superpixel: int,
) -> dict[str, Any]:
    """Photometry and astrometry of the bright, isolated, unsaturated stars."""
    stars = session.sky.stars(grid, slice(0, grid.shape[0]), slice(0, grid.shape[1]), band)
    x, y = sky_to_pixel(grid.wcs, stars.ra, stars.dec)
    weights = np.array([w for _, w in mixture])
    mean_fwhm = float(np.average([f for f, _ in mixture], weights=weights))
    radius, inner, outer = (k * mean_fwhm for k in (APERTURE, INNER, OUTER))
    zoom = session.pixel_scale / grid.pixel_scale

    column, row = (np.rint(v).astype(np.intp) // superpixel for v in (x, y))
    # Rounding a star on the last half pixel leads outside.
    row, column = np.minimum(row, cover.sets.shape[0] - 1), np.minimum(column, cover.sets.shape[1] - 1)
    noise = np.sqrt(cover.variance[row, column] * np.pi) * radius
    bright = factor * stars.flux > MIN_SNR * noise
    peak = max(f.exposure.scale * 2.5 / np.pi / (1.068 * f.exposure.fwhm) ** 2 for f in frames)
    level = max(f.exposure.background.level for f in frames)
    bright &= stars.flux * peak + 1.5 * level < 0.8 * session.camera.saturation
    candidates = np.flatnonzero(bright)
    tree = cKDTree(np.stack([x, y], axis=-1))
    lonely = [
        n for n in candidates if sum(stars.flux[tree.query_ball_point((x[n], y[n]), inner)]) < 1.3 * stars.flux[n]
    ][:MAX_STARS]

    enclosed = [moffat_enclosed(radius, f.exposure.fwhm * zoom) for f in frames]
    power = np.array([(f.exposure.scale / f.noise) ** 2 for f in frames])
    global_share = float(np.average([moffat_enclosed(radius, f) for f, _ in mixture], weights=weights))
    chosen = np.array(lonely, dtype=np.intp)
    covers = np.zeros((len(frames), chosen.size), dtype=bool)
    for k, frame in enumerate(frames):
        fx, fy = _frame_pixels(frame, stars.ra[chosen], stars.dec[chosen])
        covers[k] = (fx >= 0) & (fx <= frame.camera.width - 1) & (fy >= 0) & (fy <= frame.camera.height - 1)

    ratios, offsets = [], []
    half = math.ceil(outer) + 1
    for n, star in enumerate(chosen):
        if not covers[:, n].any():
            continue
        c, r = round(float(x[star])), round(float(y[star]))
        if not (half <= r < grid.shape[0] - half and half <= c < grid.shape[1] - half):
            continue
        cut = residual[r - half : r + half + 1, c - half : c + half + 1].astype(np.float64)
        if not np.isfinite(cut).all():
            continue
        py, px = np.mgrid[r - half : r + half + 1, c - half : c + half + 1]
        distance = np.hypot(px - x[star], py - y[star])
        cut -= np.median(cut[(distance > inner) & (distance < outer)])
        own = float(np.average(enclosed, weights=power * covers[:, n]))
        expected = factor * stars.flux[star]
        ratios.append((_aperture_sum(cut, distance, radius) + expected * global_share) / (expected * own))
        for fwhm, weight in mixture:
            add_stars(
                cut,
                r - half,
                c - half,
                x[star : star + 1],
                y[star : star + 1],
                np.array([expected * weight / weights.sum()]),
                fwhm,
                STAR_FLOOR,
            )
        cx, cy = _windowed_centroid(cut, mean_fwhm, x[star] - c + half, y[star] - r + half)
        offsets.append((cx - (x[star] - c + half), cy - (y[star] - r + half)))
    if not ratios:
        nothing = math.nan
        return {
            "stars": 0,
            "star_ratio": nothing,
            "star_bias": nothing,
            "star_error": nothing,
            "star_scatter": nothing,
            "astrometry_bias": (nothing, nothing),
            "astrometry_rms": nothing,
        }
    ratio, offset = np.array(ratios), np.array(offsets)
    bias = np.median(offset, axis=0)
    return {
        "stars": int(ratio.size),
        "star_ratio": float(np.median(ratio) * factor),
        "star_bias": float(np.median(ratio) - 1.0),
        "star_error": 1.253 * _spread(ratio) / math.sqrt(ratio.size),
        "star_scatter": _spread(ratio),
        "astrometry_bias": (float(bias[0]), float(bias[1])),
        "astrometry_rms": float(np.sqrt(0.5 * (_spread(offset[:, 0]) ** 2 + _spread(offset[:, 1]) ** 2))),
    }


def _aperture_sum(cut: NDArray[np.float64], distance: NDArray[np.float64], radius: float) -> float:
    """Sum within a radius; pixels on the edge count by how far it is from their centre."""
    return float(np.sum(cut * np.clip(radius + 0.5 - distance, 0.0, 1.0)))


def _windowed_centroid(cut: NDArray[np.float64], fwhm: float, x: float, y: float) -> tuple[float, float]:
    """Centroid under a Gaussian window that follows it (SExtractor's XWIN_IMAGE, YWIN_IMAGE)."""
    py, px = np.mgrid[: cut.shape[0], : cut.shape[1]]
    sigma = fwhm / 2.3548
    for _ in range(20):
        window = np.exp(-0.5 * ((px - x) ** 2 + (py - y) ** 2) / sigma**2) * cut
        total = window.sum()
        if total <= 0:
            return math.nan, math.nan
        dx, dy = 2.0 * ((px - x) * window).sum() / total, 2.0 * ((py - y) * window).sum() / total
        x, y = x + dx, y + dy
        if abs(dx) + abs(dy) < 1e-5:
            break
    return float(x), float(y)


def read_mosaic(
    path: Path, band: str
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.float32] | None, Grid]:
    """Image, variance and weight (extensions of these names, or None) and grid of a FITS mosaic."""
    planes: dict[str, NDArray[np.float32]] = {}
    with fits.open(path, memmap=False) as hdus:
        wcs = None
        for hdu in hdus:
            if hdu.header.get("NAXIS", 0) < 2 or hdu.data is None:
                continue
            values = np.asarray(hdu.data, dtype=np.float32)
            if values.ndim == 3:
                names = [str(hdu.header.get(f"BAND{k + 1}", "")) for k in range(values.shape[0])]
                values = values[names.index(band) if band in names else 0]
            if wcs is None:
                wcs = WCS(hdu.header, naxis=2)
                planes["IMAGE"] = values
            else:
                planes[str(hdu.name).upper()] = values
    if wcs is None:
        raise DataError(f"{path}: no image in this file")
    shape = planes["IMAGE"].shape
    grid = Grid(wcs_header(wcs), (shape[0], shape[1]), 512)
    return planes["IMAGE"], planes.get("VARIANCE"), planes.get("WEIGHT"), grid


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mosaic", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--band")
    parser.add_argument("--factor", type=float, help="expected mosaic / true sky (skyloom's gauge)")
    parser.add_argument("--weight", type=Path, help="FITS file of weights, for mosaics that mark no data by 0")
    parser.add_argument("--json", action="store_true", help="numbers instead of the table")
    options = parser.parse_args(None if arguments is None else list(arguments))
    truth = json.loads(options.truth.read_text(encoding="utf-8"))
    band = options.band or truth["session"]["bands"][0]
    image, variance, weight, grid = read_mosaic(options.mosaic, band)
    if options.weight is not None:
        weight = np.asarray(fits.getdata(options.weight), dtype=np.float32)
    result = score(image, variance, grid, truth, band=band, weight=weight, factor=options.factor)
    print(json.dumps(asdict(result), indent=1) if options.json else result.to_text())


if __name__ == "__main__":
    main()
