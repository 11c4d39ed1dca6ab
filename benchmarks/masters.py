"""Masters against reading alone and against ccdproc, on the same frames, one core each; memory beside the plan.

    python benchmarks/masters.py [--size 4096] [--frames 20] [--runs 3] [--peer] [--keep FOLDER]

Darks, bias and flats of 16-bit FITS with cosmic rays and hot pixels. Reading alone reads every frame once, in the
strips masters are made of. `--peer` runs ccdproc's `combine` (sigma clipping about the median, 4 sigma, mean) on
the same darks; pip install ccdproc. Times are CPU seconds, the best of the runs; files are in
the system's cache.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from astropy.io import fits

from skyloom.ops.calibration.defects import defects
from skyloom.ops.calibration.flats import flats
from skyloom.ops.calibration.levels import levels
from skyloom.ops.calibration.link import link
from skyloom.ops.calibration.masters import masters
from skyloom.ops.calibration.strips import STRIP
from skyloom.ops.frames import open_source
from skyloom.ops.registry import get_op
from skyloom.ops.session.ingest import ingest
from skyloom.workflows.layout import Layout
from skyloom.workflows.store import Store


def write_frames(folder: Path, *, size: int, frames: int) -> None:
    """Bias (5), darks and flats as a camera writes them."""
    random = np.random.default_rng(1)
    bias = 500.0 + 2.0 * random.normal(size=size)
    hot = np.where(random.random((size, size)) < 3e-4, random.exponential(800.0, (size, size)), 0.0)
    y, x = np.mgrid[:size, :size] / size - 0.5
    response = (1.0 - 0.4 * (x * x + y * y)) * (1.0 + 0.01 * random.normal(size=(size, size)))
    for kind, count, seconds, light in (
        ("bias", 5, 0.0, 0.0),
        ("dark", frames, 120.0, 0.0),
        ("flat", frames, 2.0, 3e4),
    ):
        for k in range(count):
            mean = light * (1.0 + 0.01 * random.normal()) * response + (hot if kind == "dark" else 0.0)
            noise = random.standard_normal((size, size), dtype=np.float32) * np.sqrt(4.0 + mean / 5.0)
            image = bias + mean + noise
            if kind == "dark":
                places = random.integers(0, size, (2, 30 * size**2 // 10**6))
                image[places[0], places[1]] += 2000.0
            header = fits.Header(
                {"IMAGETYP": kind, "EXPTIME": seconds, "EGAIN": 5.0, "GAIN": 100, "CCD-TEMP": -10.0}
            )
            header["FILTER"] = "L"
            fits.writeto(
                folder / f"{kind}_{k:03d}.fits", np.clip(np.rint(image), 0, 65535).astype(np.uint16), header
            )


def tables(folder: Path) -> tuple[xr.Dataset, xr.Dataset]:
    session = ingest([folder], take="all")
    return session, link(session)


def best(runs: int, work: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(runs):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def compute(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.compute(scheduler="synchronous")


def read_all(sources: list[str], shape: tuple[int, int]) -> None:
    for start in range(0, shape[0], STRIP):
        for source in sources:
            open_source(source).read(slice(start, min(start + STRIP, shape[0])), slice(0, shape[1]))


def of_kind(session: xr.Dataset, links: xr.Dataset, kind: str) -> xr.Dataset:
    """Links with only the groups of a kind in use."""
    return links.assign(used=("group", np.asarray(links["kind"].values == kind)))


def ccdproc_seconds(paths: list[Path], runs: int) -> float:
    import ccdproc
    from astropy.nddata import CCDData
    from astropy.stats import mad_std

    def work() -> None:
        frames = [CCDData.read(p, unit="adu") for p in paths]
        combined = ccdproc.combine(
            frames,
            method="average",
            sigma_clip=True,
            sigma_clip_low_thresh=4,
            sigma_clip_high_thresh=4,
            sigma_clip_func=np.ma.median,
            sigma_clip_dev_func=mad_std,
            mem_limit=4e9,
        )
        assert combined.shape

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return best(runs, work)


def peak_of(folder: Path, name: str) -> tuple[float, float]:
    """Measured and stated peak of one task of an op (bytes), in a process that did nothing else."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import masters as b; from pathlib import Path;"
        "print(*b.peak_here(Path(sys.argv[2]), sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder), name]
    measured, stated = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(measured), float(stated)


def peak_here(folder: Path, name: str) -> tuple[float, float]:
    session, links = tables(folder / "frames")
    made = Store(folder / "project").open("masters", "key")
    known: xr.Dataset = pickle.loads((folder / "levels").read_bytes())
    arguments: dict[str, tuple[xr.Dataset, ...]] = {
        "masters": (session, of_kind(session, links, "dark")),
        "levels": (session, links, made),
        "flats": (session, links, made, known),
        "defects": (made,),
    }
    function, cost = get_op(name).function, get_op(name).cost
    assert cost is not None
    stated = float(cost(*arguments[name]).memory.max())
    part = function(*arguments[name])
    if name == "levels":
        part = part.isel(frame=np.flatnonzero(session["kind"].values == "flat")[:1])
    elif name == "defects":
        part = part.isel(master=slice(0, 1))
    else:
        part = part.isel(master=slice(0, 1), y=slice(0, STRIP))
    # Compiled code and imports are no part of a task.
    warm_up()
    base = resident()
    arrays = [part[v].data for v in part.data_vars if part[v].chunks is not None]
    dask.compute(*arrays, scheduler="synchronous")
    return peak_resident() - base, stated


def warm_up() -> None:
    """Load every kernel."""
    with tempfile.TemporaryDirectory() as small:
        folder = Path(small)
        write_frames(folder, size=64, frames=3)
        session, links = tables(folder)
        made = compute(masters(session, links))
        known = compute(levels(session, links, made))
        compute(defects(compute(flats(session, links, made, known))))
        compute(defects(made))


def stored(dataset: xr.Dataset, path: Path) -> xr.Dataset:
    """The dataset as a project's store opens it."""
    shutil.rmtree(path, ignore_errors=True)
    store = Store(path)
    store.create()
    lazy = dataset.chunk({"master": 1, "y": STRIP, "x": -1})
    layout = Layout.of(lazy[["image", "variance", "count", "rejected"]], ("master", "y"), node="masters")
    writer = store.prepare("masters", "key", lazy, layout, {"op": "masters"})
    for unit in layout.units():
        writer.write(unit, {v.name: dataset[v.name].values[v.region(unit)] for v in layout.variables})
    store.complete("masters", "key", {})
    return store.open("masters", "key")


def resident() -> float:
    """Bytes of this process now; its peak counts from here."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_resident() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * float(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="masters-"))
    frames = folder / "frames"
    if not frames.exists():
        frames.mkdir(parents=True)
        write_frames(frames, size=options.size, frames=options.frames)
    warm_up()
    session, links = tables(frames)
    shape = (options.size, options.size)
    work = options.frames * options.size**2 / 1e6
    darks = [str(s) for s, k in zip(session["source"].values, session["kind"].values, strict=True) if k == "dark"]
    reading = best(options.runs, lambda: read_all(darks, shape))
    print(f"reading alone        {work / reading:7.1f} Mpixel·frames/s")
    dark = best(options.runs, lambda: compute(masters(session, of_kind(session, links, "dark"))))
    print(
        f"masters (dark)       {work / dark:7.1f} Mpixel·frames/s, {dark / reading:.2f} × reading alone",
        flush=True,
    )
    made = stored(compute(masters(session, links)), folder / "project")
    known: list[xr.Dataset] = []
    level = best(options.runs, lambda: known.append(compute(levels(session, links, made))))
    print(f"levels (flats)       {work / level:7.1f} Mpixel·frames/s, {level / reading:.2f} ×")
    flat = best(options.runs, lambda: compute(flats(session, links, made, known[-1])))
    print(f"flats                {work / flat:7.1f} Mpixel·frames/s, {flat / reading:.2f} ×")
    maps = best(options.runs, lambda: compute(defects(made)))
    print(
        f"defects              {made.sizes['master'] * shape[0] * shape[1] / 1e6 / maps:7.1f} Mpixel/s", flush=True
    )
    if options.peer:
        paths = sorted(frames.glob("dark_*.fits"))
        peer = ccdproc_seconds(paths, options.runs)
        print(f"ccdproc.combine      {work / peer:7.1f} Mpixel·frames/s, skyloom {peer / dark:.1f} × as fast")
    (folder / "levels").write_bytes(pickle.dumps(known[-1]))
    for name in ("masters", "levels", "flats", "defects"):
        measured, stated = peak_of(folder, name)
        print(
            f"memory of a task of {name:8s} measured {measured / 2**20:5.0f} MiB, stated {stated / 2**20:5.0f} MiB"
        )
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
