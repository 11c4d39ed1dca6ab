"""Whole stacks against Siril and ccdproc, and one core against two, on the same simulated frames, in turn.

    python benchmarks/stacking_peers.py [--runs 3] [--keep FOLDER]

24 frames of 3000 × 2000, dithered and turned, without a WCS. Siril (Debian: apt-get install siril): `convert`,
`register`, `stack rej w 3 3 -norm=addscale`. skyloom: the preset stack, from the files to a FITS mosaic. ccdproc:
`combine` with sigma clipping about the median of the frames as they are, not registered, against the integrate
node of skyloom, which resamples, normalizes, rejects and averages. The last lines: integrate with one task at a
time over two at a time, and its time on one core over that of its kernels in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from registration_peers import simulate, timed

CCDPROC = """
import sys, numpy as np, ccdproc
from astropy.io import fits
from astropy.nddata import CCDData
frames = [CCDData(fits.getdata(p).astype(np.float32), unit="adu") for p in sys.argv[1:]]
combiner = ccdproc.Combiner(frames, dtype=np.float32)
combiner.sigma_clipping(low_thresh=3, high_thresh=3, func="median")
fits.writeto("ccdproc.fits", np.asarray(combiner.average_combine().data, np.float32), overwrite=True)
"""


def run_siril(files: list[Path], folder: Path) -> tuple[float, float]:
    work = folder / "siril"
    shutil.rmtree(work, ignore_errors=True)
    (work / "in").mkdir(parents=True)
    for i, path in enumerate(files):
        (work / "in" / f"light_{i:05d}.fit").symlink_to(path)
    script = ["requires 1.0.0", "setext fit", "cd in", "convert light -out=../process", "cd ../process"]
    script += ["register light", "stack r_light rej w 3 3 -norm=addscale -out=../siril"]
    (work / "go.ssf").write_text("\n".join(script) + "\n")
    seconds, _, peak, status = timed(["siril-cli", "-d", str(work), "-s", str(work / "go.ssf")], cwd=work)
    if status or not (work / "siril.fit").exists():
        raise SystemExit(f"siril failed:\n{(work / 'log.txt').read_text(errors='replace')[-1500:]}")
    return seconds, peak


def run_skyloom(files: list[Path], folder: Path, *options: str) -> tuple[float, float, dict[str, float]]:
    command = [str(Path(sys.executable).parent / "skyloom"), "run", "stack", *map(str, files), "-o", "project"]
    command += ["--quiet", "--no-report", "--set", "export.formats=[fits]", *options]
    shutil.rmtree(folder / "project", ignore_errors=True)
    seconds, _, peak, status = timed(command, cwd=folder)
    if status:
        raise SystemExit(f"skyloom failed:\n{(folder / 'log.txt').read_text()[-1500:]}")
    events = [json.loads(line) for line in (folder / "project" / "run.log.jsonl").read_text().splitlines()]
    return seconds, peak, {e["node"]: e["seconds"] for e in events if e["event"] == "node"}


def bare(project: Path) -> tuple[float, float]:
    """Seconds of integrate's tiles, one after another in this thread, and of its two kernels in them."""
    import numpy as np

    from skyloom.ops.integration import tiles
    from skyloom.workflows.graph import Workflow
    from skyloom.workflows.plan import plan_node
    from skyloom.workflows.store import Store
    from skyloom.workflows.units import unit_tasks

    spent = {"kernels": 0.0}

    def clocked(name: str) -> None:
        function = getattr(tiles, name)

        def call(*args: object, **named: object) -> object:
            begin = time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                spent["kernels"] += time.perf_counter() - begin

        setattr(tiles, name, call)

    store, steps = Store(project), {}
    workflow = Workflow.load("stack")
    files = [Path(p) for p in sorted({json.loads(str(s))["path"] for s in store.open("ingest")["source"].values})]
    for node in workflow.nodes:
        planned = plan_node(node, steps, files, store=store, limit=8e9, workers=1)
        steps[node.name] = planned.step
        if node.name == "integrate":
            break
    shutil.rmtree(project / "project.zarr" / "integrate")
    for path in (project / "journal").glob("integrate*"):
        path.unlink()
    planned = plan_node(workflow["integrate"], steps, files, store=store, limit=8e9, workers=1)
    assert planned.step.dataset is not None
    assert planned.layout is not None
    assert planned.work is not None
    writer = store.prepare(
        "integrate", planned.step.key, planned.step.dataset, planned.layout, {"op": "integrate"}
    )
    units = [u for u in planned.layout.units() if planned.work[u] > 0]
    tasks = list(unit_tasks(planned.step.dataset, planned.layout, units, writer))
    tasks[0].run()
    for name in ("resample", "combine"):
        clocked(name)
    begin = time.perf_counter()
    for task in tasks:
        task.run()
    return time.perf_counter() - begin, float(np.float64(spent["kernels"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="keep simulated frames and results here")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="stacking-"))
    if not (folder / "frames" / "truth.json").exists():
        simulate(folder / "frames", frames=24, width=3000, height=2000, stars=3500)
    files = sorted((folder / "frames").glob("*.fits"))
    ours, siril, ccdproc, alone = [], [], [], []
    for number in range(options.runs + 1):
        a = run_skyloom(files, folder)
        b = run_siril(files, folder)
        c = timed([sys.executable, "-c", CCDPROC, *map(str, files)], cwd=folder)
        if c[3]:
            raise SystemExit("ccdproc failed")
        if number:  # once uncounted: page cache, compiled kernels
            ours.append(a)
            siril.append(b)
            ccdproc.append((c[0], c[2]))
            alone.append(run_skyloom(files, folder, "--workers", "1")[2]["integrate"])
            print(
                f"run {number}: skyloom {a[0]:.1f} s {a[1]:.0f} MiB (integrate {a[2]['integrate']:.2f} s, on one "
                f"core {alone[-1]:.2f}), Siril {b[0]:.1f} s {b[1]:.0f} MiB, ccdproc {c[0]:.1f} s {c[2]:.0f} MiB",
                flush=True,
            )
    print("nodes: " + ", ".join(f"{n} {s:.2f} s" for n, s in ours[-1][2].items()))
    pairs = {
        "Siril / skyloom, whole runs": [b[0] / a[0] for a, b in zip(ours, siril, strict=True)],
        "ccdproc / integrate": [c[0] / a[2]["integrate"] for a, c in zip(ours, ccdproc, strict=True)],
        "integrate, one core / two": [one / a[2]["integrate"] for a, one in zip(ours, alone, strict=True)],
    }
    for name, ratios in pairs.items():
        print(f"{name}: {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f})")
    run_skyloom(files, folder)
    whole, kernels = bare(folder / "project")
    print(f"integrate on one core {whole:.2f} s, its kernels {kernels:.2f} s: {kernels / whole:.2f} of it")
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
