"""Narrow stars and hot pixels through the one resampling: flux, dark rings, width.

    python benchmarks/ringing.py [--draws 60] [--sky 0]

A star of each FWHM (0: a single hot pixel) is put down at random sub-pixel places of a frame without noise and
moved by random parts of a pixel:

flux    sum over the canvas over that over the frame, less 1 (%): mean, worst
ring    depth of the darkest canvas pixel below the sky, over the height of the brightest (%): mean, worst
fwhm    2 √(area above half of the maximum / π) (px)

skyloom is the default (`integrate.clamp` = 0); plain is Lanczos-3 with nothing done against rings, as in SWarp;
cut raises what lies more than 2 % of the range of the 36 pixels beneath the least of them; scaled is PixInsight's
clamping, 0.3: where the negative contributions exceed that part of the positive ones they are made smaller. That
depends on the level of the sky, `--sky` times the star's brightest pixel.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from astropy.wcs import WCS
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import zoom
from scipy.special import erf

from skyloom.ops.grid import Grid, wcs_header
from skyloom.ops.integration.coordinates import CanvasNodes, coordinate_grid
from skyloom.ops.integration.kernels import taps
from skyloom.ops.integration.resample import resample

Plane = NDArray[np.float64]
SIDE = 32
WIDTHS = (0.0, 0.8, 1.0, 1.2, 1.5, 1.75, 2.0, 3.0, 4.0)


def star(x: float, y: float, fwhm: float) -> Plane:
    """Means over pixels of a Gaussian of flux 1; of width 0 a pixel."""
    if fwhm == 0:
        out = np.zeros((SIDE, SIDE))
        out[round(y), round(x)] = 1.0
        return out
    edges, s = np.arange(SIDE + 1) - 0.5, fwhm / 2.3548 * np.sqrt(2.0)
    return np.outer(*(np.diff(0.5 * erf((edges - at) / s)) for at in (y, x)))


def header() -> str:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = (83.0, -5.0), (SIDE / 2, SIDE / 2)
    wcs.wcs.cd = np.array([[-1.0, 0.0], [0.0, 1.0]]) / 3600
    return wcs_header(wcs)


def by_skyloom(frame: Plane, dx: float, dy: float, clamp: float) -> Plane:
    grid, rows = Grid(header(), (SIDE, SIDE), 1024), slice(0, SIDE)
    seen = coordinate_grid(CanvasNodes.around(grid, rows, rows), header(), (SIDE, SIDE), shift=(dx, dy))
    window = seen.window(rows, rows, reach=7)
    assert window is not None
    got, _ = resample(np.ascontiguousarray(frame[window], dtype=np.float32), window, seen, rows, rows, clamp=clamp)
    return got.astype(np.float64)[4:-4, 4:-4]


def pieces(frame: Plane, dx: float, dy: float) -> tuple[Plane, Plane]:
    """The 36 pixels under each canvas pixel, and their taps."""
    x, y = taps("lanczos3", np.array([dx, dy]))
    return sliding_window_view(frame, (6, 6)), np.outer(y, x)


def cut(frame: Plane, dx: float, dy: float) -> Plane:
    under, weights = pieces(frame, dx, dy)
    least, most = under.min(axis=(2, 3)), under.max(axis=(2, 3))
    return np.asarray(np.maximum((under * weights).sum(axis=(2, 3)), least - 0.02 * (most - least)))


def scaled(frame: Plane, dx: float, dy: float, limit: float = 0.3) -> Plane:
    under, weights = pieces(frame, dx, dy)
    parts = under * weights
    up, down = (np.clip(s * parts, 0, None).sum(axis=(2, 3)) for s in (1, -1))
    # What has no light counts with the positive ones.
    up_weight = np.where(parts >= 0, weights, 0).sum(axis=(2, 3))
    down_weight = -np.where(parts < 0, weights, 0).sum(axis=(2, 3))
    ratio = down / np.maximum(up, 1e-30)
    factor = np.clip(1 - (ratio - limit) / (1 - limit), 0, 1) ** 2
    return np.asarray((up - factor * down) / np.maximum(up_weight - factor * down_weight, 1e-12))


METHODS: dict[str, Callable[[Plane, float, float], Plane]] = {
    "skyloom": lambda f, dx, dy: by_skyloom(f, dx, dy, 0.0),
    "plain": lambda f, dx, dy: by_skyloom(f, dx, dy, 1.0),
    "cut": cut,
    "scaled": scaled,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=60)
    parser.add_argument("--sky", type=float, default=0.0)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    for fwhm in WIDTHS:
        rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in METHODS}
        for _ in range(options.draws):
            x, y = SIDE / 2 + rng.uniform(-0.5, 0.5, 2)
            dx, dy = rng.uniform(0.0, 1.0, 2)
            light = star(x, y, fwhm)
            sky = options.sky * light.max()
            for name, method in METHODS.items():
                got = method(light + sky, dx, dy) - sky
                fine = zoom(np.maximum(got, 0), 6, order=3)
                width = 2 * np.sqrt((fine > fine.max() / 2).sum() / np.pi) / 6
                rows[name].append((got.sum() / light.sum() - 1, max(-got.min() / got.max(), 0.0), width))
        for name, row in rows.items():
            flux, ring, width = np.array(row).T
            print(
                f"{fwhm:5.2f} px  {name:8s} flux {100 * flux.mean():7.2f} {100 * np.abs(flux).max():7.2f}"
                f"   ring {100 * ring.mean():6.2f} {100 * ring.max():6.2f}   fwhm {width.mean():5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
