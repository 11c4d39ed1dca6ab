"""Trails and ghosts injected into a simulated mosaic: how much of their light is gone, and what it costs.

    python benchmarks/artifact_truth.py [--frames 6] [--size 1024] [--panels 2] [--keep FOLDER] [--only ghost]

A mosaic of panels is simulated (seeing 2-4 px, gradients, a nebula, cosmic rays); into one frame of each panel a
trail or a ghost is added, and the whole workflow is run: measure, register, normalize, shrink, consensus,
artifacts, and integrate three times: with masks, with rejection alone, with neither.

gone       least part, of the frames, of the light added that their masks cover (%): no noise in it
no mask    light that rejection alone takes out of the mosaic, against a run without what was added (%): noisy
lost       samples rejected, less those that hold what was added by more than a fifth of their noise (%)
least      the same of the smallest masks that cover 99 % of the light, and of no other rejection: what is wide and
           fades has most of its light where no sample holds much
cores      samples rejected within 2 px of stars brighter than 50 σ, less those that hold what was added (%)
flux       median of the stars' fluxes over those with neither, less 1 (%); within 5 px, above a ring
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, maximum_filter

from skyloom.configs.loader import NodeSpec
from skyloom.ops.grid import Grid
from skyloom.ops.integration.coordinates import CanvasNodes, coordinate_grid
from skyloom.ops.integration.masked import frame_masks, mark_cells
from skyloom.ops.integration.overlaps import frame_spec
from skyloom.ops.integration.resample import resample
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel
from skyloom.workflows.graph import Workflow
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import simulate_session
from skyloom.workflows.store import Store

Plane = NDArray[np.float64]
MODES = ("masked", "rejected", "plain")
ANGLES = (7.0, 38.0, 71.0, 112.0, 163.0, 93.0)


@dataclass(frozen=True)
class Added:
    """What is added to frames."""

    name: str
    amount: float
    """Brightness in the middle (σ of a pixel)."""
    width: float
    """Trail: FWHM; ghost: radius (px)."""
    kind: str = "trail"

    def light(self, shape: tuple[int, int], number: int) -> Plane:
        """In units of a pixel's noise."""
        y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
        if self.kind == "trail":
            angle = np.radians(ANGLES[number % len(ANGLES)])
            across = (x - 0.45 * shape[1]) * np.sin(angle) - (y - 0.55 * shape[0]) * np.cos(angle)
            return np.asarray(self.amount * np.exp(-4 * np.log(2) * (across / self.width) ** 2))
        far = np.hypot(x - (0.35 + 0.06 * number) * shape[1], y - (0.6 - 0.07 * number) * shape[0])
        if self.kind == "disc":
            return np.asarray(self.amount / (1.0 + np.exp(np.clip((far - self.width) / 2.0, -50, 50))))
        return np.asarray(self.amount * np.exp(-0.5 * (far / self.width) ** 2))


def workflow() -> Workflow:
    common = {"session": "ingest", "registration": "register", "normalization": "normalize"}
    return Workflow.build(
        "artifact truth",
        [
            NodeSpec("ingest", "ingest", ["files"], {}),
            NodeSpec("measure", "measure", ["ingest"], {}),
            NodeSpec("register", "register", ["ingest", "measure"], {}),
            NodeSpec("normalize", "normalize", ["ingest", "measure", "register"], {}),
            NodeSpec("shrink", "shrink", ["ingest"], {}),
            NodeSpec("consensus", "consensus", ["ingest", "shrink", "register", "normalize"], {}),
            NodeSpec("artifacts", "artifacts", ["ingest", "shrink", "register", "normalize", "consensus"], {}),
            NodeSpec("masked", "integrate", {**common, "artifacts": "artifacts"}, {}),
            NodeSpec("rejected", "integrate", common, {}),
            NodeSpec("plain", "integrate", common, {"rejection": "none"}),
        ],
    )


@dataclass(frozen=True)
class Run:
    """The mosaics of one run."""

    image: dict[str, Plane]
    rejected: dict[str, Plane]
    samples: float
    noise: Plane
    masked: float
    trails: int
    blobs: int
    store: Store


def run(files: Path, project: Path) -> Run:
    run_workflow(workflow(), files, project=project)
    store = Store(project)
    image, rejected = {}, {}
    for mode in MODES:
        result = store.open(mode)
        image[mode] = result["image"].values[0].astype(np.float64)
        rejected[mode] = sum(result[v].values[0].astype(np.float64) for v in ("rejected_low", "rejected_high"))
    plain, found = store.open("plain"), store.open("artifacts")
    return Run(
        image, rejected, float(plain["count"].values.sum()), np.sqrt(plain["variance"].values[0]),
        float(found["masked"].values.mean()), int(found["trail_count"].sum()), int(found["blob_count"].sum()),
        store,
    )  # fmt: skip


def stars(clean: Run) -> NDArray[np.intp]:
    """Positions of isolated bright stars, (star, 2)."""
    image = np.nan_to_num(clean.image["plain"], nan=0.0)
    level = np.nanmedian(clean.image["plain"])
    bright = (image == maximum_filter(image, 25)) & (image - level > 50 * np.nanmedian(clean.noise))
    bright[:20], bright[-20:], bright[:, :20], bright[:, -20:] = False, False, False, False
    return np.argwhere(bright)


def flux(image: Plane, at: NDArray[np.intp]) -> Plane:
    y, x = np.mgrid[-12:13, -12:13]
    near, ring = np.hypot(x, y) <= 5, (np.hypot(x, y) > 8) & (np.hypot(x, y) <= 12)
    out = []
    for row, column in at.tolist():
        part = image[row - 12 : row + 13, column - 12 : column + 13]
        out.append(part[near].sum() - np.nanmedian(part[ring]) * near.sum())
    return np.array(out)


def covered(store: Store, name: str, light: Plane) -> tuple[float, NDArray[np.bool_]]:
    """Part of the light added to a frame that its mask covers on the canvas; where that is above a fifth of σ."""
    session, registration, found = (store.open(n) for n in ("ingest", "register", "artifacts"))
    i = [str(n) for n in session["name"].values].index(name)
    grid = Grid.from_attrs(registration.attrs)
    rows, columns = slice(0, grid.shape[0]), slice(0, grid.shape[1])
    frame, shift = frame_spec(session, i), registration["shift"].values[i]
    seen = coordinate_grid(
        CanvasNodes.around(grid, rows, columns), frame.wcs, frame.shape, shift=(float(shift[0]), float(shift[1]))
    )
    window = seen.window(rows, columns)
    mask = frame_masks(session, grid, found)[i]
    part = None if mask is None else mask.read(rows, columns)
    if window is None or part is None or mask is None:
        return 0.0, np.zeros(grid.shape, dtype=bool)
    on_canvas, _ = resample(np.ascontiguousarray(light[window], dtype=np.float32), window, seen, rows, columns)
    marked = np.zeros(grid.shape, dtype=bool)
    mark_cells(*part, mask.step, 0, 0, marked)
    return float(np.nansum(on_canvas[marked]) / np.nansum(on_canvas)), np.nan_to_num(on_canvas) > 0.2


def smallest(light: Plane, part: float = 0.99) -> float:
    """Pixels of the smallest mask that covers this part of the light."""
    total = np.cumsum(np.sort(light, axis=None)[::-1])
    return float(np.searchsorted(total, part * total[-1]) + 1)


def report(
    name: str, made: Run, clean: Run, at: NDArray[np.intp],
    *, touched: float = 0.0, holds: NDArray[np.int64] | None = None, gone: float = np.nan, least: float = 0.0,
) -> str:  # fmt: skip
    text = f"{name:24s}{100.0 * gone:9.2f}"
    added = made.image["plain"] - clean.image["plain"]
    without = np.nan
    if touched:
        where = binary_dilation(added > 0.02 * np.nanmax(added), iterations=3)
        left = np.nansum((made.image["rejected"] - clean.image["rejected"])[where])
        without = 100.0 * (1.0 - left / np.nansum(added[where]))
    text += f"{without:9.2f}"
    cores = np.zeros(added.shape, dtype=bool)
    cores[tuple(at.T)] = True
    cores = binary_dilation(cores, iterations=2)
    per_pixel = made.samples / np.isfinite(made.image["plain"]).sum()
    lost = 100.0 * (made.rejected["masked"].sum() - touched) / made.samples
    taken = made.rejected["masked"] if holds is None else np.maximum(made.rejected["masked"] - holds, 0)
    in_cores = 100.0 * taken[cores].sum() / (per_pixel * cores.sum())
    ratio = flux(made.image["masked"], at) / flux(clean.image["plain"], at)
    return text + (
        f"{lost:9.2f}{100.0 * least / made.samples:8.2f}{in_cores:8.2f}{100.0 * (np.nanmedian(ratio) - 1.0):8.2f}"
        f"{made.trails:7d}{made.blobs:7d}"
        f"{100.0 * made.masked:9.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--panels", type=int, default=2)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    options = parser.parse_args()
    session = SimulatedSession(
        panels=(options.panels, options.panels), frames=options.frames, nights=2, trails=0.0, fwhm=(2.0, 4.0),
        transparency=(0.8, 1.0), linear=0.15, quadratic=0.03, moonlight=0.03,
        camera=Camera(height=options.size, width=options.size),
        sky=SkyModel(seed=3, extent=0.025 * options.panels * options.size / 40, nebula=15.0, finest=16.0),
    )  # fmt: skip
    cases = [Added(f"trail {w:g} px {a:g} σ", a, w) for w in (2.0, 4.0, 6.0) for a in (1.0, 3.0, 20.0)]
    cases += [
        Added(f"ghost {kind} {r:g} px {a:g} σ", a, r, kind)
        for kind, r, a in (
            ("disc", 40.0, 0.5), ("disc", 90.0, 0.3), ("disc", 90.0, 2.0), ("soft", 30.0, 1.0), ("soft", 60.0, 0.6)
        )
    ]  # fmt: skip
    cases = [case for case in cases if options.only in case.name]
    with tempfile.TemporaryDirectory(dir=options.keep) as folder:
        base = Path(folder)
        files = simulate_session(base / "frames", session)
        clean = run(base / "frames", base / "clean")
        at = stars(clean)
        print(f"{len(files)} frames of {options.size}², {len(at)} stars, seeing 2-4 px")
        print(f"{'':24s}     gone  no mask     lost   least   cores    flux trails  blobs   masked", flush=True)
        print(report("nothing", clean, clean, at), flush=True)
        chosen = [files[p * options.frames + p % options.frames] for p in range(options.panels**2)]
        for number, case in enumerate(cases):
            before = [path.read_bytes() for path in chosen]
            touched, least, lights = 0.0, 0.0, []
            for k, path in enumerate(chosen):
                with fits.open(path, mode="update", memmap=False) as hdus:
                    data = hdus[0].data.astype(np.float32)
                    spread = np.diff(data[:, ::4], axis=0)
                    sigma = 1.4826 * np.median(np.abs(spread - np.median(spread))) / np.sqrt(2.0)
                    light = case.light(data.shape, k)
                    lights.append(light)
                    touched += float((light > 0.2).sum())
                    least += max(smallest(light) - float((light > 0.2).sum()), 0.0)
                    hdus[0].data = (data + sigma * light).astype(np.float32)
            made = run(base / "frames", base / f"p{number}")
            found = [covered(made.store, p.name, light) for p, light in zip(chosen, lights, strict=True)]
            gone, holds = min(f[0] for f in found), np.sum([f[1] for f in found], axis=0)
            print(
                report(case.name, made, clean, at, touched=touched, holds=holds, gone=gone, least=least),
                flush=True,
            )
            for path, content in zip(chosen, before, strict=True):
                path.write_bytes(content)


if __name__ == "__main__":
    main()
