"""The same simulated frames through skyloom's modes and its peers: seams, fluxes and sky against the truth.

    python benchmarks/normalization_peers.py FOLDER [--panels 3x2] [--frames 4] [--size 512] [--seed 1]
        [--peers SWarp reproject Montage]

Gradients of 20 % (linear) and 5 % (quadratic) of the sky, transparency 0.7–1.05, a nebula. Frames are made and
worked in FOLDER. `SWarp` must be installed, `reproject` and `MontagePy` too; what is missing is left out. All
mosaics are on skyloom's canvas and judged by `score`: peers average frames as they come, so their factor is the
mean of the frames' scales, and skyloom's the geometric mean.

seam       rms step across changes of the set of frames beyond the noise, and the worst border (DN)
bias, scatter   of star fluxes (%), bias over that factor
constant, quadratic   rms of the sky's residual after a constant, after a quadratic over the whole mosaic (DN)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from score import score

from skyloom.ops.grid import Grid
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.simulate import SimulatedSession
from skyloom.workflows.simulate import simulate_session
from skyloom.workflows.store import Store

Image = NDArray[np.floating[Any]]
MODES = ("none", "linear", "constants", "reference", "joint")


def skyloom(frames: Sequence[Path], project: Path, mode: str) -> tuple[Image, Grid]:
    """Run one mode; measurement and registration are done once."""
    subprocess.run(
        ["skyloom", "run", "mosaic", *map(str, frames), "-o", str(project), "--set", f"normalize.mode={mode}",
         "--until", "integrate", "--quiet"],
        check=True, capture_output=True,
    )  # fmt: skip
    mosaic = Store(project).open("integrate")
    return mosaic["image"].values[0], Grid.from_attrs(mosaic.attrs)


def header_of(grid: Grid) -> fits.Header:
    """The canvas as other programs want it."""
    header = fits.Header(
        {"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": grid.shape[1], "NAXIS2": grid.shape[0]}
    )
    header.update(grid.wcs.to_header(relax=True))
    return header


def header_text(grid: Grid) -> str:
    """The same, a line a card."""
    return "\n".join([card.image.rstrip() for card in header_of(grid).cards] + ["END\n"])


def swarp(frames: Sequence[Path], folder: Path, grid: Grid, *, subtract: bool) -> Image:
    """SWarp with its defaults but for the canvas, Lanczos-3 and the plain mean of frames."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "out.head").write_text(header_text(grid), encoding="ascii")
    subprocess.run(
        ["SWarp", *map(str, frames), "-IMAGEOUT_NAME", "out.fits", "-WEIGHTOUT_NAME", "out.weight.fits",
         "-SUBTRACT_BACK", "Y" if subtract else "N", "-COMBINE_TYPE", "AVERAGE", "-WRITE_XML", "N",
         "-RESAMPLE_DIR", str(folder), "-NTHREADS", "1", "-VERBOSE_TYPE", "QUIET"],
        check=True, capture_output=True, cwd=folder,
    )  # fmt: skip
    image = fits.getdata(folder / "out.fits").astype(np.float32)
    image[fits.getdata(folder / "out.weight.fits") <= 0] = np.nan
    return np.asarray(image)


def reproject(frames: Sequence[Path], grid: Grid) -> Image:
    """`reproject_and_coadd` with background matching (one number a frame)."""
    from reproject import reproject_interp
    from reproject.mosaicking import reproject_and_coadd

    inputs = [(fits.getdata(f).astype(np.float64), WCS(fits.getheader(f))) for f in frames]
    image, footprint = reproject_and_coadd(
        inputs, WCS(header_of(grid)), shape_out=grid.shape, reproject_function=reproject_interp,
        match_background=True, order="bicubic",
    )  # fmt: skip
    return np.where(footprint > 0, image, np.nan)


def montage(frames: Sequence[Path], folder: Path, grid: Grid) -> Image:
    """Montage: projection, a plane for each frame from the differences of all pairs, mean."""
    from MontagePy import main as m

    shutil.rmtree(folder, ignore_errors=True)
    for name in ("raw", "projected", "differences", "corrected"):
        (folder / name).mkdir(parents=True)
    for frame in frames:
        with fits.open(frame) as hdus:
            fits.writeto(folder / "raw" / frame.name, hdus[0].data.astype(np.float32), hdus[0].header)
    at = {n: str(folder / n) for n in (
        "raw", "projected", "differences", "corrected", "raw.tbl", "projected.tbl", "pairs.tbl", "fits.tbl",
        "corrections.tbl", "corrected.tbl", "canvas.hdr", "out.fits",
    )}  # fmt: skip
    Path(at["canvas.hdr"]).write_text(header_text(grid), encoding="ascii")
    steps: list[tuple[Callable[..., dict[str, Any]], tuple[str, ...]]] = [
        (m.mImgtbl, (at["raw"], at["raw.tbl"])),
        (m.mProjExec, (at["raw"], at["raw.tbl"], at["canvas.hdr"], at["projected"])),
        (m.mImgtbl, (at["projected"], at["projected.tbl"])),
        (m.mOverlaps, (at["projected.tbl"], at["pairs.tbl"])),
        (m.mDiffFitExec, (at["projected"], at["pairs.tbl"], at["canvas.hdr"], at["differences"], at["fits.tbl"])),
        (m.mBgModel, (at["projected.tbl"], at["fits.tbl"], at["corrections.tbl"])),
        (m.mBgExec, (at["projected"], at["projected.tbl"], at["corrections.tbl"], at["corrected"])),
        (m.mImgtbl, (at["corrected"], at["corrected.tbl"])),
        (m.mAdd, (at["corrected"], at["corrected.tbl"], at["canvas.hdr"], at["out.fits"])),
    ]
    for step, arguments in steps:
        said = step(*arguments)
        if str(said["status"]) != "0":
            raise RuntimeError(f"Montage: {step.__name__}: {said}")
    return np.asarray(fits.getdata(at["out.fits"]).astype(np.float32))


def report(name: str, image: Image, grid: Grid, truth: dict[str, Any], factor: float | None, took: float) -> None:
    """Print a row."""
    s = score(np.array(image), None, grid, truth, band="L", factor=factor, superpixel=32)
    print(
        f"{name:22}{s.seam_step:8.2f}{abs(s.seam_worst):8.2f}{100 * s.star_bias:8.2f}{100 * s.star_scatter:10.2f}"
        f"{s.sky_constant:10.2f}{s.sky_quadratic:10.2f}{took:8.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--panels", default="2x3", help="ROWSxCOLUMNS")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--peers", nargs="*", default=["SWarp", "reproject", "Montage"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows, columns = (int(n) for n in options.panels.split("x"))
    session = SimulatedSession(
        seed=options.seed, panels=(rows, columns), frames=options.frames, linear=0.2, quadratic=0.05,
        transparency=(0.7, 1.05), trails=0.0, cosmic_rays=0.0,
        camera=Camera(width=options.size, height=options.size),
    )  # fmt: skip
    folder = options.folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    frames = simulate_session(folder / "frames", session)
    frames = sorted(p for p in frames if p.suffix == ".fits")
    truth = json.loads((folder / "frames" / "truth.json").read_text(encoding="utf-8"))
    mean = float(np.mean([f.exposure.scale for f in session.lights]))
    print(f"{len(frames)} frames of {options.size} px, {options.panels} panels, seed {options.seed}")
    print(f"{'':22}{'seam':>8}{'worst':>8}{'bias %':>8}{'scatter %':>10}{'constant':>10}{'quadratic':>10}{'s':>8}")
    grid = None
    for mode in MODES:
        begun = time.perf_counter()
        image, grid = skyloom(frames, folder / "project", mode)
        took = time.perf_counter() - begun
        # Frames as they come are averaged by their weights, not by the mean of their logarithms.
        report(mode, image, grid, truth, mean if mode == "none" else None, took)
    assert grid is not None
    canvas: Grid = grid
    peers: dict[str, Callable[[], Image]] = {}
    if "SWarp" in options.peers and shutil.which("SWarp"):
        peers["SWarp"] = lambda: swarp(frames, folder / "swarp", canvas, subtract=False)
        peers["SWarp, background"] = lambda: swarp(frames, folder / "swarp_background", canvas, subtract=True)
    if "reproject" in options.peers and importlib.util.find_spec("reproject"):
        peers["reproject, matched"] = lambda: reproject(frames, canvas)
    if "Montage" in options.peers and importlib.util.find_spec("MontagePy"):
        peers["Montage"] = lambda: montage(frames, folder / "montage", canvas)
    for name, run in peers.items():
        begun = time.perf_counter()
        image = run()
        report(name, image, canvas, truth, mean, time.perf_counter() - begun)


if __name__ == "__main__":
    main()
