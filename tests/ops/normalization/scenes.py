"""A drawn sky, frames of it as `measure` and `register` tell of them, and how wrong a normalization is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.normalization.frame_map import frame_map
from skyloom.ops.normalization.legendre import evaluate, legendre
from skyloom.ops.normalization.normalize import normalize
from skyloom.ops.registration.canvas import automatic_canvas

Floats = NDArray[np.float64]
CELL = 16
RA, DEC, PIXEL = 120.0, 20.0, 1.0
QUANTITIES = ["x", "y", "flux", "flux_error", "fwhm", "ellipticity", "theta", "peak", "flag"]


@dataclass
class Scene:
    session: xr.Dataset
    measurement: xr.Dataset
    registration: xr.Dataset
    grid: Grid
    waves: Floats
    """(waves, 4): amplitude, kx, ky (radians a canvas pixel), phase."""
    scale: Floats
    """True a."""
    surfaces: Floats
    """Legendre coefficients of the frames' own background (frame units)."""
    cubic: Floats

    def sky(self, x: Floats, y: Floats, box: float = 0.0) -> Floats:
        """Sky a canvas pixel has, mean over a square of side `box` along the canvas axes."""
        out = np.full(np.shape(x), 1000.0)
        for amplitude, kx, ky, phase in self.waves:
            damp = np.sinc(kx * box / (2 * np.pi)) * np.sinc(ky * box / (2 * np.pi))
            out += amplitude * damp * np.cos(kx * x + ky * y + phase)
        return np.asarray(out, dtype=np.float64)

    def background(self, i: int, u: Floats, v: Floats) -> Floats:
        return evaluate(self.surfaces[i], u, v) + float(self.cubic[i]) * (2 * u - 1) ** 3

    def errors(self, result: xr.Dataset, *, spacing: float = 64.0) -> tuple[float, Floats]:
        """Seam rms, and rms error of the mosaic's background after a constant, a plane, a quadratic."""
        rows, columns = self.grid.shape
        x, y = np.arange(spacing / 2, columns, spacing), np.arange(spacing / 2, rows, spacing)
        gx, gy = np.meshgrid(x, y)
        used = np.flatnonzero(result["use"].values)
        convention = np.exp(np.mean(np.log(self.scale[used]) - np.log(result["mean_scale"].values[used])))
        each = np.full((len(used), *gx.shape), np.nan)
        for k, i in enumerate(used.tolist()):
            height, width = (int(self.session[n].values[i]) for n in ("height", "width"))
            mapping = frame_map(str(self.session["wcs"].values[i]), (height, width), np.zeros(2), self.grid)
            assert mapping is not None
            fx, fy, area = mapping.grid(x, y)
            inside = (fx >= 0) & (fx <= width - 1) & (fy >= 0) & (fy <= height - 1)
            u, v = fx[inside] / (width - 1), fy[inside] / (height - 1)
            sky = self.sky(gx[inside], gy[inside]) / area[inside]
            d = sky / self.scale[i] + self.background(i, u, v)
            a = surface.evaluate(result["scale"].values[i], u, v)
            b = surface.evaluate(result["offset"].values[i], u, v)
            each[k][inside] = area[inside] * (a * (d - b) - sky / convention)
        count = np.isfinite(each).sum(axis=0)
        seen = count > 0
        mean = np.nansum(each, axis=0) / np.maximum(count, 1)
        seam = float(np.sqrt(np.nanmean((each - mean) ** 2)))
        px, py = 2 * gx[seen] / columns - 1, 2 * gy[seen] / rows - 1
        rms = []
        for order in (0, 1, 2):
            terms = legendre(px, py, order)
            rest = mean[seen] - terms @ np.linalg.lstsq(terms, mean[seen], rcond=None)[0]
            rms.append(float(np.sqrt(np.mean(rest**2))))
        return seam, np.array(rms)


def draw_scene(
    *,
    panels: tuple[int, int] = (3, 3),
    visits: int = 4,
    size: int = 2048,
    overlap: float = 0.15,
    noise: float = 14.0,
    nebula: float = 40.0,
    cubic: float = 0.0,
    stars: int = 1500,
    bands: tuple[str, ...] = ("L",),
    gap: float = 0.0,
    cloudy: tuple[int, ...] = (),
    outliers: float = 0.0,
    seed: int = 0,
) -> Scene:
    """Panels of dithered frames, every other turned by 180°, gradients 20-25 % of the sky, 5 % curved."""
    rng = np.random.default_rng(seed)
    nx, ny = panels
    pitch = size * (1 - overlap)
    headers, band = [], []
    for j in range(ny):
        for i in range(nx):
            for k in range(visits):
                x = (i - (nx - 1) / 2) * pitch + rng.uniform(-40, 40) + (gap if i == nx - 1 else 0.0)
                y = (j - (ny - 1) / 2) * pitch + rng.uniform(-40, 40)
                headers.append(_frame_wcs(x, y, size, flip=k % 2 == 1))
                band.append(bands[k % len(bands)])
    n = len(headers)
    session = xr.Dataset(
        {
            "name": ("frame", np.array([f"frame{i:03d}.fits" for i in range(n)])),
            "wcs": ("frame", np.array(headers)),
            "height": ("frame", np.full(n, size)),
            "width": ("frame", np.full(n, size)),
            "kind": ("frame", np.array(["light"] * n)),
            "band": ("frame", np.array(band)),
            "exposure": ("frame", np.full(n, 60.0)),
            "units": ("frame", np.array(["adu"] * n)),
        },
        coords={"frame": np.array([f"{i:016x}" for i in range(n)])},
    )
    grid = automatic_canvas(session, max_gap=20.0).grid
    length = np.geomspace(30.0, 6000.0, 14)
    angle = rng.uniform(0, np.pi, 14)
    waves = np.stack(
        [
            nebula * np.sqrt(2 / 14) * np.ones(14),
            2 * np.pi * np.cos(angle) / length,
            2 * np.pi * np.sin(angle) / length,
            rng.uniform(0, 2 * np.pi, 14),
        ],
        axis=-1,
    )
    scale = rng.uniform(0.7, 1.05, n)
    turn = rng.uniform(0, 2 * np.pi, n)
    swing = 1000 * rng.uniform(0.20, 0.25, n) / 2
    coefficients = np.stack(
        [rng.normal(0, 60, n), swing * np.cos(turn), swing * np.sin(turn), *rng.normal(0, 25, (3, n))], axis=-1
    )
    empty = xr.Dataset()
    scene = Scene(empty, empty, empty, grid, waves, scale, coefficients, rng.normal(0, 1, n) * cubic)
    scene.session = session
    scene.measurement = _measurement(scene, rng, size, noise, stars, cloudy, outliers)
    scene.registration = xr.Dataset(
        {
            "use": ("frame", np.ones(n, dtype=bool)),
            "reason": ("frame", np.array([""] * n, dtype="<U200")),
            "shift": (("frame", "axis"), np.zeros((n, 2))),
            "in_canvas": ("frame", np.ones(n, dtype=bool)),
        },
        coords={"frame": session["frame"].values},
        attrs=grid.to_attrs(),
    )
    return scene


def _frame_wcs(x: float, y: float, size: int, *, flip: bool) -> str:
    """Own tangent point: neighbours differ by a projection, not by a shift only."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [RA - x * PIXEL / 3600 / np.cos(np.radians(DEC)), DEC + y * PIXEL / 3600]
    wcs.wcs.crpix = [(size + 1) / 2, (size + 1) / 2]
    sign = -1.0 if flip else 1.0
    wcs.wcs.cdelt = [-PIXEL / 3600 * sign, PIXEL / 3600 * sign]
    wcs.wcs.set()
    return wcs_header(wcs)


def _measurement(
    scene: Scene,
    rng: np.random.Generator,
    size: int,
    noise: float,
    count: int,
    cloudy: tuple[int, ...],
    outliers: float,
) -> xr.Dataset:
    n, side = len(scene.scale), size // CELL
    centre = (np.arange(side) + 0.5) * CELL - 0.5
    fx, fy = (g.ravel() for g in np.meshgrid(centre, centre))
    rows, columns = scene.grid.shape
    per_frame = count * size**2 / 2048**2
    total = int(per_frame * rows * columns / size**2)
    star_x, star_y = rng.uniform(0, columns, total), rng.uniform(0, rows, total)
    star_flux = 3e3 * (1 - rng.uniform(0, 1, total)) ** (-1 / 1.2)
    most = int(1.4 * per_frame) + 40
    stars = np.full((n, most, len(QUANTITIES)), np.nan)
    cells = np.empty((n, side, side, 3), np.float32)
    ra, dec = pixel_to_sky(scene.grid.wcs, star_x, star_y)
    for i in range(n):
        wcs = parse_wcs(str(scene.session["wcs"].values[i]))
        mapping = frame_map(str(scene.session["wcs"].values[i]), (size, size), np.zeros(2), scene.grid)
        assert mapping is not None
        area = surface.evaluate(surface.fit(mapping.area), fx / (size - 1), fy / (size - 1))
        cx, cy = sky_to_pixel(scene.grid.wcs, *pixel_to_sky(wcs, fx, fy))
        d = scene.sky(cx, cy, box=CELL) / area / scene.scale[i]
        d += scene.background(i, fx / (size - 1), fy / (size - 1))
        if i in cloudy:
            d += 80 * np.sin(fx / 130 + 1) * np.cos(fy / 170) + 60 * np.sin((fx - fy) / 90)
        d += rng.normal(0, noise / CELL, d.size)
        bad = rng.uniform(size=d.size) < outliers
        d[bad] += rng.normal(0, 300, bad.sum())
        cells[i, ..., 0] = d.reshape(side, side)
        cells[i, ..., 1] = noise / CELL
        cells[i, ..., 2] = 1.0
        sx, sy = sky_to_pixel(wcs, ra, dec)
        inside = np.flatnonzero((sx > 5) & (sx < size - 6) & (sy > 5) & (sy < size - 6))
        inside = inside[np.argsort(-star_flux[inside])][:most]
        flux = star_flux[inside] / scene.scale[i]
        error = noise * np.sqrt(113.0)
        relative = np.exp(rng.normal(0, 0.007, len(inside)))
        table = stars[i, : len(inside)]
        table[:, 0] = sx[inside] + rng.normal(0, 0.05, len(inside))
        table[:, 1] = sy[inside] + rng.normal(0, 0.05, len(inside))
        table[:, 2] = flux * relative + rng.normal(0, error, len(inside))
        table[:, 3] = error
        table[:, 4] = 3.0
        table[:, 7] = flux / 12
        table[:, 8] = 0
    summary = np.tile([1000.0, noise, 3.0, 0.1, count, 1.0, 0.0], (n, 1))
    return xr.Dataset(
        {
            "stars": (("frame", "star", "star_quantity"), stars),
            "cells": (("frame", "cell_y", "cell_x", "cell_quantity"), cells),
            "summary": (("frame", "summary_quantity"), summary),
        },
        coords={"frame": scene.session["frame"].values, "star_quantity": QUANTITIES},
        attrs={"cell": CELL},
    )


def run(scene: Scene, **parameters: Any) -> xr.Dataset:
    lazy = normalize(scene.session, scene.measurement, scene.registration, **parameters)
    with dask.config.set(scheduler="synchronous"):
        return lazy.compute()
