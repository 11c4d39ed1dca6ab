"""Rims of the coverage: dithered and rotated frames with the moon on one side, against the sky they were made of.

    python benchmarks/normalization_edges.py [--frames 12] [--size 448] [--picture FILE.png]

One panel; every frame is shifted and turned about its centre, so that the outer pixels are seen by fewer and
fewer frames. The moon's light falls exponentially across the sky and changes from frame to frame; noise is 14 a
pixel. What all frames share of it no overlap can see: their mean, and a quadratic over the whole canvas, are
fitted to mosaic − truth where most frames see the sky, and taken off. In a second set every fourth frame has a
glow of twice the pixel noise in one corner, which no smooth surface can follow.

rim      rms over sectors of 15° of mosaic − truth, less what the noise of a sector explains, in bands of the
         canvas that one, two, … frames see (in units of the noise of a pixel of one frame)
no fade  the weights do not follow the confidence
zero-filled  as the first version of PixInsight's LocalNormalization: each frame is laid on the canvas, 0 where it
         has no data; its background, a median over tiles, takes the zeros for sky
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import dask
import numpy as np
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.integration.integrate import integrate
from skyloom.ops.normalization.legendre import legendre
from skyloom.ops.normalization.normalize import normalize
from skyloom.workflows.graph import Workflow
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.store import Store

Floats = NDArray[np.float64]
NOISE, SKY, MOON, NEBULA = 14.0, 600.0, 500.0, 50.0
RA, DEC = 150.0, 20.0
SECTORS = 24


def sky(x: Floats, y: Floats, stars: Floats) -> Floats:
    """Sky at arcsec from the middle: nebula and stars of 3 arcsec."""
    out = np.full(np.shape(x), SKY)
    rng = np.random.default_rng(3)
    for length in np.geomspace(60.0, 900.0, 7):
        angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
        out += (
            NEBULA * np.sqrt(2 / 7) * np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase)
        )
    for sx, sy, flux in stars:
        near = np.hypot(x - sx, y - sy) < 12
        width = 3.0 / 2.3548
        out[near] += (
            flux / (2 * np.pi * width**2) * np.exp(-((x[near] - sx) ** 2 + (y[near] - sy) ** 2) / (2 * width**2))
        )
    return out


def write_frames(folder: Path, count: int, size: int, glow: float) -> tuple[Floats, Floats]:
    """Frames as FITS with a WCS.

    Returns
    -------
    stars
        (star, 3): arcsec and flux.
    moon
        (frame, 2): light and its slope.
    """
    rng = np.random.default_rng(1)
    reach = 0.8 * size
    stars = np.stack([*rng.uniform(-reach, reach, (2, 300)), 3e3 * rng.uniform(0, 1, 300) ** (-1 / 1.2)], axis=-1)
    stars[:, 2] = np.minimum(stars[:, 2], 3e5)
    moon = []
    py, px = np.mgrid[:size, :size] - (size - 1) / 2
    for i in range(count):
        dx, dy = rng.uniform(-0.06, 0.06, 2) * size
        turn = np.radians(rng.uniform(-12, 12) + 180 * (i % 2))
        x = dx + px * np.cos(turn) - py * np.sin(turn)
        y = dy + px * np.sin(turn) + py * np.cos(turn)
        light, slope = MOON * rng.uniform(0.3, 1.2), 1.0 / (rng.uniform(0.7, 1.1) * size)
        clear = rng.uniform(0.8, 1.1)
        moon.append((light / clear, slope))
        pixels = clear * sky(x, y, stars) + light * np.exp(-(x + size / 2) * slope) + rng.normal(0, NOISE, x.shape)
        if i % 4 == 1:
            corner = np.hypot(px + size / 2, py + size / 2)
            pixels += glow * np.exp(-0.5 * (corner / (0.12 * size)) ** 2)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval = [RA, DEC]
        # x runs to the west: the position of the middle of the sky in the frame.
        wcs.wcs.crpix = [
            (size + 1) / 2 - dx * np.cos(turn) - dy * np.sin(turn),
            (size + 1) / 2 + dx * np.sin(turn) - dy * np.cos(turn),
        ]
        wcs.wcs.cd = np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / 3600
        header = wcs.to_header()
        header.update(
            {"IMAGETYP": "LIGHT", "EXPTIME": 60.0, "FILTER": "L", "DATE-OBS": f"2025-03-01T22:{i:02d}:00"}
        )
        fits.writeto(folder / f"frame{i:02d}.fits", pixels.astype(np.float32), header)
    return stars, np.array(moon)


def zero_filled(frames: NDArray[np.float32], tile: int = 16) -> NDArray[np.float32]:
    """Mean of frames (frame, y, x), NaN outside, each brought to the first by backgrounds that take 0 for sky."""
    filled = np.nan_to_num(frames, nan=0.0)
    wide = [_background(f, tile) for f in filled]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        corrected = [f + wide[0] - b for f, b in zip(frames, wide, strict=True)]
        return np.asarray(np.nanmean(corrected, axis=0), dtype=np.float32)


def _background(image: NDArray[np.float32], tile: int) -> Floats:
    rows, columns = (n // tile * tile for n in image.shape)
    blocks = image[:rows, :columns].reshape(rows // tile, tile, columns // tile, tile)
    coarse = ndimage.median_filter(np.median(blocks, axis=(1, 3)), 5)
    at = np.meshgrid(*((np.arange(n) + 0.5) / tile - 0.5 for n in image.shape), indexing="ij")
    return np.asarray(ndimage.map_coordinates(coarse.astype(float), at, order=1, mode="nearest"))


def on_canvas(session: xr.Dataset, grid: Grid) -> NDArray[np.float32]:
    """All frames on the canvas, linear interpolation, NaN outside."""
    y, x = np.mgrid[: grid.shape[0], : grid.shape[1]].astype(float)
    ra, dec = pixel_to_sky(grid.wcs, x.ravel(), y.ravel())
    out = []
    for i in range(session.sizes["frame"]):
        fx, fy = sky_to_pixel(parse_wcs(str(session["wcs"].values[i])), ra, dec)
        pixels = fits.getdata(session.attrs["folder"] / str(session["name"].values[i])).astype(np.float32)
        out.append(ndimage.map_coordinates(pixels, [fy, fx], order=1, cval=np.nan).reshape(grid.shape))
    return np.array(out, dtype=np.float32)


def judge(
    image: NDArray[np.float32], truth: Floats, shared: Floats, count: NDArray[np.integer]
) -> tuple[list[float], Floats]:
    """Rms of what is wrong in bands of 1, 2, 3 and 4 … frames; map of it, long waves taken off."""
    rows, columns = image.shape
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    terms = legendre(x, y, 2)
    inner = np.isfinite(image) & (count >= count.max() - 1)
    # The scale of the mosaic is a convention.
    terms = np.concatenate([terms, shared[..., None]], axis=-1)
    design = np.concatenate([terms[inner], truth[inner][:, None]], axis=-1)
    fitted = np.linalg.lstsq(design, image[inner].astype(float), rcond=None)[0]
    wrong = image - terms @ fitted[:-1] - fitted[-1] * truth
    sector = ((np.arctan2(y, x) / (2 * np.pi) + 0.5) * SECTORS).astype(int) % SECTORS
    out = []
    for low, high in ((1, 1), (2, 2), (3, 4), (5, count.max())):
        values = []
        for s in range(SECTORS):
            here = (count >= low) & (count <= high) & (sector == s) & np.isfinite(wrong)
            if np.count_nonzero(here) >= 100:
                # Bright stars' cores hold interpolation errors, not sky.
                part = wrong[here]
                part = part[np.abs(part - np.median(part)) < 4 * NOISE]
                values.append((np.mean(part), np.var(part) * 2.0 / len(part)))
        mean, noise = np.array(values).T
        out.append(float(np.sqrt(max(np.mean(mean**2) - np.mean(noise), 0.0))) / NOISE)
    return out, wrong


def picture(maps: dict[str, Floats], path: Path) -> None:
    """Maps side by side: grey is right, ± one pixel noise is black and white, smoothed over 4 px."""
    parts = []
    for wrong in maps.values():
        good = np.isfinite(wrong)
        smooth = ndimage.gaussian_filter(np.where(good, np.clip(wrong, -60, 60), 0.0), 2.0)
        smooth /= np.maximum(ndimage.gaussian_filter(good.astype(float), 2.0), 1e-3)
        grey = np.clip(128 + 127 * smooth / NOISE, 0, 255)
        rgb = np.repeat(np.where(good, grey, 0)[::-1, :, None], 3, axis=2)
        rgb[~good[::-1]] = (40, 60, 90)
        parts.append(np.pad(rgb, ((4, 4), (4, 4), (0, 0)), constant_values=255))
    half = (len(parts) + 1) // 2
    parts += [np.full_like(parts[0], 255)] * (2 * half - len(parts))
    whole = np.concatenate([np.concatenate(parts[:half], axis=1), np.concatenate(parts[half:], axis=1)])
    Image.fromarray(whole.astype(np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--size", type=int, default=448)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    maps = {}
    print(f"{options.frames} frames of {options.size} px; rms of rim bands / pixel noise, by frames over the band")
    print(f"{'mode':28}{'1':>8}{'2':>8}{'3-4':>8}{'more':>8}")
    for glow in (0.0, 2.0 * NOISE):
        for label, (bands, wrong) in compare(options.frames, options.size, glow).items():
            name = label + (", glow" if glow else "")
            maps[name] = wrong
            print(f"{name:28}" + "".join(f"{b:8.3f}" for b in bands))
    if options.picture:
        picture(maps, options.picture)


def compare(frames: int, size: int, glow: float) -> dict[str, tuple[list[float], Floats]]:
    """Every mode on one set of frames: bands and map of what is wrong."""
    with tempfile.TemporaryDirectory() as name, dask.config.set(scheduler="synchronous"):
        folder = Path(name) / "frames"
        folder.mkdir()
        stars, moon = write_frames(folder, frames, size, glow)
        project = Path(name) / "project"
        run_workflow(Workflow.load("mosaic").until("register"), folder, project=project, scheduler="synchronous")
        store = Store(project)
        session, measured, registered = (store.open(n) for n in ("ingest", "measure", "register"))
        grid = Grid.from_attrs(registered.attrs)
        y, x = np.mgrid[: grid.shape[0], : grid.shape[1]].astype(float)
        ra, dec = pixel_to_sky(grid.wcs, x.ravel(), y.ravel())
        middle = WCS(naxis=2)
        middle.wcs.ctype, middle.wcs.crval = ["RA---TAN", "DEC--TAN"], [RA, DEC]
        middle.wcs.cdelt, middle.wcs.crpix = [-1 / 3600, 1 / 3600], [1, 1]
        east, north = (p.reshape(grid.shape) for p in sky_to_pixel(middle, ra, dec))
        truth = sky(east, north, stars) - SKY
        shared = np.mean([light * np.exp(-(east + size / 2) * slope) for light, slope in moon], axis=0)
        out, count = {}, np.zeros(0, dtype=np.int64)
        for label, mode in (("joint", "joint"), ("joint, no fade", "joint"), ("reference", "reference"),
                            ("reference, no fade", "reference"), ("constants", "constants")):  # fmt: skip
            solved = normalize(session, measured, registered, mode=mode).compute()
            if "no fade" in label:
                solved = solved.drop_vars("confidence")
            made = integrate(session, registered, solved, tile=1024).isel(band=0).compute()
            if not count.size:
                count = sum(made[n].values.astype(np.int64) for n in ("count", "rejected_low", "rejected_high"))
            out[label] = judge(made.image.values, truth, shared, count)
        if not glow:
            naive = zero_filled(on_canvas(session.assign_attrs(folder=folder), grid))
            out["zero-filled"] = judge(naive, truth, shared, count)
        return out


if __name__ == "__main__":
    main()
