"""Steps between overlapping frames before and after normalization, and fluxes in mosaic and frames.

    python benchmarks/seams.py PROJECT

Works on any finished project, real frames included: nothing here needs the truth. A step is the median over blocks
of 16 pixels of the difference of two frames on the canvas; its error is the blocks' scatter over the root of their
number.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.frames import open_source
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.integration.coordinates import CanvasNodes, coordinate_grid
from skyloom.ops.integration.resample import resample
from skyloom.ops.pyramid import block_mean
from skyloom.workflows.store import Store

BLOCK = 16
LEAST_BLOCKS = 20
RADIUS, INNER, OUTER = 5.0, 8.0, 12.0
"""Of the aperture and its annulus (px)."""


@dataclass(frozen=True)
class Step:
    """How two frames differ where both see the sky (canvas units)."""

    first: str
    second: str
    before: float
    after: float
    error: float
    blocks: int


@dataclass(frozen=True)
class Fluxes:
    """Mosaic / frame fluxes of bright stars."""

    stars: int
    median: float
    scatter: float


def on_canvas(
    session: xr.Dataset, normalization: xr.Dataset | None, shift: NDArray[np.float64], grid: Grid, i: int
):  # type: ignore[no-untyped-def]
    """One frame on the whole canvas, normalized or as it is."""
    rows, columns = slice(0, grid.shape[0]), slice(0, grid.shape[1])
    shape = (int(session["height"][i]), int(session["width"][i]))
    seen = coordinate_grid(
        CanvasNodes.around(grid, rows, columns),
        str(session["wcs"].values[i]),
        shape,
        shift=(float(shift[i, 0]), float(shift[i, 1])),
        scale=None if normalization is None else normalization["scale"].values[i],
        offset=None if normalization is None else normalization["offset"].values[i],
    )
    out = np.full(grid.shape, np.nan, dtype=np.float32)
    window = seen.window(rows, columns)
    if window is not None:
        pixels = open_source(str(session["source"].values[i])).read(*window)
        resample(pixels, window, seen, rows, columns, taper=1.0, out=out, codes=np.zeros(grid.shape, np.uint8))
    return out


def steps(project: Path) -> list[Step]:
    """Steps of all overlapping pairs of a project."""
    store = Store(project)
    session, registration = store.open("ingest"), store.open("register")
    normalization, grid = store.open("normalize"), Grid.from_attrs(store.open("integrate").attrs)
    shift, names = registration["shift"].values, session["name"].values
    use = np.flatnonzero(normalization["use"].values)
    blocks = {}
    for i in use:
        raw = block_mean(on_canvas(session, None, shift, grid, i), BLOCK)
        normal = block_mean(on_canvas(session, normalization, shift, grid, i), BLOCK)
        blocks[i] = raw, normal
    found = []
    for i, k in itertools.combinations(use, 2):
        before, after = (a - b for a, b in zip(blocks[i], blocks[k], strict=True))
        good = np.isfinite(after)
        if good.sum() < LEAST_BLOCKS:
            continue
        scatter = 1.4826 * np.median(np.abs(after[good] - np.median(after[good])))
        found.append(
            Step(
                str(names[i]),
                str(names[k]),
                float(np.median(before[good])),
                float(np.median(after[good])),
                float(1.25 * scatter / np.sqrt(good.sum())),
                int(good.sum()),
            )
        )
    return found


def aperture(pixels: NDArray[np.floating], x: float, y: float) -> float:
    """Flux in an aperture above the median of its annulus; NaN where data are missing."""
    x0, y0 = round(x), round(y)
    reach = int(OUTER) + 2
    if min(x0, y0) < reach or x0 >= pixels.shape[1] - reach or y0 >= pixels.shape[0] - reach:
        return float("nan")
    cut = pixels[y0 - reach : y0 + reach + 1, x0 - reach : x0 + reach + 1].astype(np.float64)
    yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    r = np.hypot(xx - (x - x0), yy - (y - y0))
    ring = cut[(r > INNER) & (r < OUTER)]
    # A soft edge of one pixel stands for the part of the pixels on the circle.
    weight = np.clip(RADIUS + 0.5 - r, 0, 1)
    return float(np.sum(weight * (cut - np.median(ring))))


def fluxes(project: Path, *, brightest: int = 40) -> Fluxes:
    """Compare clean bright stars in the mosaic with the same stars in each frame, scaled as the frame is."""
    store = Store(project)
    session, registration = store.open("ingest"), store.open("register")
    normalization, mosaic = store.open("normalize"), store.open("integrate")
    stars = store.open("measure")["stars"]
    grid = Grid.from_attrs(mosaic.attrs)
    bands = [str(b) for b in mosaic["band"].values]
    images = {b: mosaic["image"].values[n] for n, b in enumerate(bands)}
    ratios = []
    for i in np.flatnonzero(normalization["use"].values):
        table = stars[i].values[:, :]
        columns = {str(q): table[:, n] for n, q in enumerate(stars["star_quantity"].values)}
        clean = np.flatnonzero((columns["flag"] == 0) & np.isfinite(columns["flux"]))[:brightest]
        frame = open_source(str(session["source"].values[i]))
        pixels = frame.read(slice(0, frame.shape[0]), slice(0, frame.shape[1]))
        x, y = columns["x"][clean], columns["y"][clean]
        shift = registration["shift"].values[i]
        sky = pixel_to_sky(parse_wcs(str(session["wcs"].values[i])), x - shift[0], y - shift[1])
        for xf, yf, xc, yc in zip(x, y, *sky_to_pixel(grid.wcs, *sky), strict=True):
            single = aperture(pixels, xf, yf) * float(normalization["mean_scale"].values[i])
            joined = aperture(images[str(session["band"].values[i])], xc, yc)
            if single > 0 and np.isfinite(joined):
                ratios.append(joined / single)
    ratio = np.array(ratios)
    median = float(np.median(ratio))
    return Fluxes(len(ratio), median, float(1.4826 * np.median(np.abs(ratio - median))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    options = parser.parse_args()
    found = steps(options.project)
    for s in sorted(found, key=lambda s: -abs(s.before)):
        pair = f"{s.first[-26:]:26} {s.second[-26:]:26}"
        print(f"{pair} {s.before:+8.3f} → {s.after:+7.3f} ± {s.error:.3f} ({s.blocks} blocks)")
    noise = Store(options.project).open("normalize")["noise"].values
    print(
        f"{len(found)} pairs: largest step {max(abs(s.before) for s in found):.2f} before, "
        f"{max(abs(s.after) for s in found):.3f} after, rms {np.sqrt(np.mean([s.after**2 for s in found])):.3f}; "
        f"pixel noise {np.nanmedian(noise):.2f}"
    )
    flux = fluxes(options.project)
    print(f"{flux.stars} stars: mosaic / frame = {flux.median:.4f}, scatter {100 * flux.scatter:.2f} %")


if __name__ == "__main__":
    main()
