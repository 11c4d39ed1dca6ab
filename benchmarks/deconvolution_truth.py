"""Deconvolution of a simulated mosaic against its truth: width, flux, rings, seams, noise, memory.

    python benchmarks/deconvolution_truth.py [--size 1600] [--iterations 30]

Stars and a nebula under a Moffat PSF whose FWHM grows from 3.6 to 4.4 pixels and whose ellipticity grows to 0.12
across the canvas; white noise.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from dataclasses import dataclass

import numpy as np
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from skyloom.ops.grid import Grid, wcs_header
from skyloom.ops.measurement.apertures import aperture_sums
from skyloom.ops.measurement.measure import measure_frame
from skyloom.ops.registry import get_op
from skyloom.ops.restoration import deconvolve as module
from skyloom.ops.restoration.deconvolve import deconvolve
from skyloom.ops.restoration.psf import psf
from skyloom.ops.restoration.psf_stars import psf_stars

Floats = NDArray[np.float64]

NOISE, SKY = 4.0, 200.0
APERTURE, INNER, OUTER = 15.0, 18.0, 25.0


@dataclass(frozen=True)
class Truth:
    """A mosaic and what is in it."""

    mosaic: xr.Dataset
    clean: Floats
    x: Floats
    y: Floats
    flux: Floats


def psf_at(share: float) -> tuple[float, float]:
    """FWHM and ellipticity at a fraction of the canvas' width."""
    return 3.6 + 0.8 * share, 0.12 * share


def moffat(
    dx: Floats, dy: Floats, fwhm: float, ellipticity: float, theta: float = 0.5, beta: float = 3.0
) -> Floats:
    root = math.sqrt(1.0 - ellipticity)
    along, across = math.cos(theta) * dx + math.sin(theta) * dy, math.cos(theta) * dy - math.sin(theta) * dx
    k = 2.0 * math.sqrt(2.0 ** (1.0 / beta) - 1.0)
    major, minor = fwhm / root / k, fwhm * root / k
    return (beta - 1.0) / (math.pi * major * minor) * (1.0 + (along / major) ** 2 + (across / minor) ** 2) ** -beta


def make(size: int, seed: int = 3) -> Truth:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size].astype(float)
    ripple = 1.0 + 0.3 * np.sin(columns / 17) * np.cos(rows / 23)
    nebula = 120.0 * np.exp(-0.5 * (((columns / size - 0.7) / 0.12) ** 2 + ((rows / size - 0.6) / 0.17) ** 2))
    image = SKY + nebula * ripple
    count = round(4e-4 * size**2)
    x, y = rng.uniform(20, size - 20, (2, count))
    flux = 10 ** rng.uniform(2.5, 5.5, count)
    for xs, ys, f in zip(x, y, flux, strict=True):
        x0, y0, reach = int(xs), int(ys), 60 if f > 1e4 else 25
        window = slice(max(y0 - reach, 0), y0 + reach + 1), slice(max(x0 - reach, 0), x0 + reach + 1)
        image[window] += f * moffat(columns[window] - xs, rows[window] - ys, *psf_at(xs / size))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [270.0, -24.0], [size / 2, size / 2]
    wcs.wcs.cd = np.diag([-2.0, 2.0]) / 3600
    wcs.wcs.set()
    noisy = (image + rng.normal(0.0, NOISE, image.shape)).astype(np.float32)[None]
    mosaic = xr.Dataset(
        {
            "image": (("band", "y", "x"), noisy),
            "variance": (("band", "y", "x"), np.full(noisy.shape, NOISE**2, np.float32)),
        },
        {"band": ["L"]},
        {**Grid(wcs_header(wcs), image.shape, size).to_attrs(), "units": "adu"},
    )
    return Truth(retiled(mosaic, size), image, x, y, flux)


def retiled(mosaic: xr.Dataset, tile: int) -> xr.Dataset:
    grid = Grid.from_attrs(mosaic.attrs).retile(tile)
    return mosaic.chunk({"band": 1, "y": tile, "x": tile}).assign_attrs(grid.to_attrs())


def sums(image: NDArray[np.float32], x: Floats, y: Floats) -> Floats:
    out = np.empty((x.size, 6))
    aperture_sums(image, np.ascontiguousarray(x), np.ascontiguousarray(y), APERTURE, INNER, OUTER, out)
    return out[:, 0]


def deepest(image: NDArray[np.float32], base: Floats, x: Floats, y: Floats) -> Floats:
    """Lowest mean of a ring one pixel wide (σ of a pixel) around each star, above what is there without stars."""
    out = np.empty(x.size)
    for k, (xs, ys) in enumerate(zip(x, y, strict=True)):
        x0, y0 = int(xs), int(ys)
        window = slice(y0 - 16, y0 + 17), slice(x0 - 16, x0 + 17)
        yy, xx = np.mgrid[window]
        r = np.hypot(xx - xs, yy - ys)
        over = (image[window] - base[window]) / NOISE
        out[k] = min(over[(r >= q) & (r < q + 1)].mean() for q in range(2, 15))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=1600)
    parser.add_argument("--iterations", type=int, default=30)
    options = parser.parse_args()
    truth = make(options.size)
    size = options.size
    table = psf(psf_stars(truth.mosaic, region=512).compute()).compute()
    regions = table.sizes["x"]
    middle = [(min((j + 1) * 512, size) + j * 512) / 2 / size for j in range(regions)]
    wanted = np.array([psf_at(m) for m in middle])
    error = table["fwhm"].values[0] / wanted[:, 0] - 1
    print(f"psf: FWHM off by {np.abs(error).max():.2%} at most in {error.size} regions, ellipticity by "
          f"{np.abs(table['ellipticity'].values[0] - wanted[:, 1]).max():.3f}")  # fmt: skip
    begin = time.perf_counter()
    lazy = deconvolve(truth.mosaic, table, iterations=options.iterations)
    after = np.ascontiguousarray(lazy["image"].values[0])
    spent = time.perf_counter() - begin
    before = np.ascontiguousarray(truth.mosaic["image"].values[0])
    wide, narrow = (measure_frame(i).summary[2] for i in (before, after))
    print(f"width: FWHM {wide:.2f} -> {narrow:.2f} px ({1 - narrow / wide:.0%} less)")
    x, y, flux = truth.x, truth.y, truth.flux
    alone = cKDTree(np.c_[x, y]).query(np.c_[x, y], k=2)[0][:, 1] > 28
    alone &= (np.minimum(x, y) > 60) & (np.maximum(x, y) < size - 60)
    # The nebula and all other stars as they are: what is measured is one star.
    stars = np.flatnonzero(alone)
    base = truth.clean.copy()
    rows, columns = np.mgrid[:size, :size].astype(float)
    for xs, ys, f in zip(x, y, flux, strict=True):
        window = slice(max(int(ys) - 60, 0), int(ys) + 61), slice(max(int(xs) - 60, 0), int(xs) + 61)
        base[window] -= f * moffat(columns[window] - xs, rows[window] - ys, *psf_at(xs / size))
    for low, high in ((3e3, 1e4), (1e4, 3e4), (3e4, 1e5), (1e5, 4e5)):
        here = stars[(flux[stars] > low) & (flux[stars] < high)]
        old, new = (sums(i, x[here], y[here]) / flux[here] for i in (before, after))
        ring = deepest(after, base, x[here], y[here])
        old_ring = deepest(before, base, x[here], y[here])
        print(f"stars of flux {low:.0e} to {high:.0e} ({here.size}): flux / true {np.median(old):.4f} ± "
              f"{np.std(old):.4f} -> {np.median(new):.4f} ± {np.std(new):.4f}; deepest ring {ring.min():.2f} σ, "
              f"usual {np.median(ring):.2f} σ (before {old_ring.min():.2f})")  # fmt: skip
    quiet = np.abs(truth.clean - SKY) < 1.0
    old, new = ((i - truth.clean)[quiet].std() for i in (before, after))
    print(f"noise of the sky: {old:.3f} -> {new:.3f}; light of all: {(after - before).sum() / flux.sum():+.2e}")
    for tile in (384, 512):
        other = deconvolve(retiled(truth.mosaic, tile), table, iterations=options.iterations)["image"].values[0]
        print(f"tiles of {tile} px: differ by {np.abs(other - after).max():g}")
    cost = get_op("deconvolve").cost
    assert cost is not None
    stated = float(cost(truth.mosaic, table, bands=[], iterations=options.iterations).memory.max())
    work = float(cost(truth.mosaic, table, bands=[], iterations=options.iterations).work.sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"time: {spent:.1f} s, {work / spent:.1f} Mpixel·iterations/s")
    print(f"memory: the task's peak is stated as {stated / 2**20:.0f} MiB, the process had {peak:.0f} MiB")
    blocks, module.BLOCK = module.BLOCK, 2 * size
    whole = deconvolve(truth.mosaic, table, iterations=options.iterations)["image"].values[0]
    module.BLOCK = blocks
    difference = np.abs(whole - after) / NOISE
    seam = np.zeros(difference.shape, bool)
    for k in range(blocks, size, blocks):
        seam[k - 8 : k + 8] = seam[:, k - 8 : k + 8] = True
    print(f"seams: blocks against one piece differ near their edges by {difference[seam].max():.3f} σ at most, "
          f"{np.percentile(difference[seam], 99):.4f} σ at 99 %")  # fmt: skip


if __name__ == "__main__":
    main()
