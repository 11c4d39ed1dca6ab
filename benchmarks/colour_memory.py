"""Peak memory of all that follows integration, on a huge canvas of three bands: from edges to the exports.

    python benchmarks/colour_memory.py [--side 30000] [--memory 2GiB] [--formats png,tiff] [--keep FOLDER]
        [--iterations N]

The mosaic is made tile by tile where `integrate` would stand (stars, a slope, noise in steps of a quarter σ so
that the store compresses it, rims of NaN); what follows is the preset rgb from `edges` on, all of it.
`--iterations` cuts deconvolution short: it takes most of the time and none of the memory. Exit code 1 if the
process takes more than the limit.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.configs.loader import NodeSpec
from skyloom.ops.grid import Grid, wcs_header
from skyloom.ops.registry import Cost, Param, all_ops, register
from skyloom.ops.tiles import Output, by_tiles
from skyloom.workflows.graph import Workflow
from skyloom.workflows.machine import parse_bytes
from skyloom.workflows.runner import run_workflow

BANDS = ("B", "G", "R")
TILE = 2048
RIM = 300
"""Pixels without data around the canvas, deeper on one side."""
AFTER = (
    "coverage", "edges", "survey_edges", "gradient_model", "gradient", "psf_stars", "psf", "deconvolve", "survey",
    "fit", "neutralize", "stars", "balance", "channels", "survey_colour", "tones", "noise_levels", "denoise",
    "stretch", "picture", "pyramid",
)  # fmt: skip


@dataclass(frozen=True)
class _Sky:
    """A tile of the mosaic."""

    side: int

    def __call__(self, tile: tuple[slice, slice]) -> Mapping[str, NDArray[Any]]:
        rows, columns = tile
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        rng = np.random.default_rng([rows.start, columns.start])
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
        x = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :]
        there = (x > RIM) & (x < self.side - RIM) & (y > RIM) & (y < self.side - 2 * RIM)
        image = np.empty((len(BANDS), *shape), np.float32)
        places = rng.uniform(20, np.array(shape) - 20, (60, 2)).astype(int)
        fluxes = 200.0 * rng.pareto(1.2, 60) + 200.0
        offsets = np.arange(-8, 9)
        stamp = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets[None, :] ** 2) / 1.4**2)
        for band in range(len(BANDS)):
            plane = np.rint(rng.standard_normal(shape, dtype=np.float32) * 4.0)
            plane += 1000.0 + 100.0 * band + (40.0 - 10 * band) * x / self.side + 25.0 * y / self.side
            for (row, column), flux in zip(places, fluxes, strict=True):
                window = np.s_[row - 8 : row + 9, column - 8 : column + 9]
                plane[window] += np.rint(flux * (0.6 + 0.3 * band) * stamp)
            image[band] = np.where(there, plane, np.nan)
        flat = np.broadcast_to(np.where(there, np.float32(16.0), np.float32(np.nan)), image.shape)
        return {
            "image": image,
            "variance": flat,
            "weight": np.where(np.isfinite(flat), np.float32(1 / 16), np.float32(0)),
            "count": np.where(np.isfinite(flat), np.uint16(4), np.uint16(0)),
        }


def _register() -> None:
    """Make the mosaic an op of this process."""

    def grid_of(side: int) -> Grid:
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crpix = [side / 2, side / 2]
        wcs.wcs.crval = [83.8, -5.4]
        wcs.wcs.cd = np.diag([-1.0, 1.0]) / 3600
        wcs.wcs.set()
        return Grid(wcs_header(wcs), (side, side), TILE)

    def cost(*, side: int) -> Cost:
        pixels = np.full(grid_of(side).tiles, float(TILE) ** 2)
        return Cost(work=3 * pixels / 1e6, read=0 * pixels, memory=3 * 30 * pixels, rate=30.0)

    @register(version=1, name="mosaic_of_nothing", unit=("y", "x"), cost=cost)
    def mosaic_of_nothing(*, side: Annotated[int, Param(low=4096, high=200000)] = 30000) -> xr.Dataset:
        """Make a mosaic."""
        lead = {"band": len(BANDS)}
        kinds = {"image": np.float32, "variance": np.float32, "weight": np.float32, "count": np.uint16}
        outputs = {name: Output.image(kind, lead) for name, kind in kinds.items()}
        arrays = by_tiles("nothing", grid_of(side), _Sky(side), outputs)
        attrs = {**grid_of(side).to_attrs(), "units": "adu", "kernel_noise_factor": 1.0}
        return xr.Dataset(arrays, coords={"band": np.array(BANDS)}, attrs=attrs)


def run(folder: Path, *, side: int, memory: float, formats: list[str], iterations: int | None) -> None:
    """Run the chain and print what each node took."""
    all_ops()
    _register()
    preset = Workflow.load("rgb")
    specs = [NodeSpec("integrate", "mosaic_of_nothing", {}, {"side": side})]
    for node in preset.nodes:
        if node.name in AFTER:
            parameters: dict[str, Any] = dict(node.parameters)
            if node.name == "picture":
                parameters["formats"] = formats
            if node.name == "deconvolve" and iterations:
                parameters["iterations"] = iterations
            specs.append(NodeSpec(node.name, node.op.name, dict(node.inputs), parameters))
    begin = time.perf_counter()
    report = run_workflow(Workflow.build("colour", specs), [], project=folder / "project", memory=memory)
    nodes = [(n.name, n.seconds, n.peak_memory) for n in report.nodes]
    print(json.dumps({"nodes": nodes, "planned": report.planned_memory, "seconds": time.perf_counter() - begin}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=30000)
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--formats", default="png,tiff")
    parser.add_argument("--iterations", type=int, help="of the deconvolution, else the preset's")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit = parse_bytes(options.memory)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="colour-"))
    if options.inside:
        run(
            folder,
            side=options.side,
            memory=limit,
            formats=options.formats.split(","),
            iterations=options.iterations,
        )
        return
    command = [sys.executable, __file__, "--inside", "--keep", str(folder), "--side", str(options.side)]
    command += ["--memory", options.memory, "--formats", options.formats]
    command += ["--iterations", str(options.iterations)] if options.iterations else []
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    for name, seconds, peak in said["nodes"]:
        print(f"{name:15} {seconds:7.1f} s, process at most {peak / 2**20:5.0f} MiB")
    peak = max(p for _, _, p in said["nodes"])
    print(
        f"{options.side}² of {len(BANDS)} bands: {said['seconds']:.0f} s, peak {peak / 2**20:.0f} MiB, planned "
        f"{said['planned'] / 2**20:.0f}, limit {limit / 2**20:.0f}"
    )
    if not options.keep:
        shutil.rmtree(folder)
    if peak > limit:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
