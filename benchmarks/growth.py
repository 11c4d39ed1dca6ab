"""How cost grows with the work: frames, depth, canvas, size of a frame, workers; local threads and a dask cluster.

    python benchmarks/growth.py [--quick] [--json FILE] [--keep FOLDER] [--only SERIES]

The default workflow on frames that no disk holds (`skyloom simulate --lazy`), each run in a process of its own.
Takes about five minutes on a quiet machine with two cores; `--quick` takes a sixth and is for trying it out.

CPU seconds are those of the process and so of all its threads; reads are what nodes ask frames for (4 bytes a
pixel) against the frames' own bytes; writes are all that the process wrote to files. Overhead is the part of
`workers x time of the node` in which no task of the node ran. Bounds are checked at the end. It fails where
one is missed; those of overhead and of two workers mean something on a quiet machine alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERIES: dict[str, list[dict[str, Any]]] = {
    "frames (and the canvas with them)": [
        {"panels": "2x2", "frames": 2},
        {"panels": "4x4", "frames": 2},
        {"panels": "8x8", "frames": 2},
        {"panels": "12x12", "frames": 2},
    ],
    "depth": [
        {"panels": "2x2", "frames": 4},
        {"panels": "2x2", "frames": 16},
        {"panels": "2x2", "frames": 48},
    ],
    "size of a frame": [
        {"panels": "2x2", "frames": 2, "size": "2048"},
        {"panels": "2x2", "frames": 2, "size": "6248x4176"},
    ],
    "workers": [
        {"panels": "6x6", "frames": 4, "workers": 1},
        {"panels": "6x6", "frames": 4, "workers": 2},
    ],
    "cluster": [{"panels": "6x6", "frames": 4, "workers": 2, "cluster": True}],
}
BOUNDS = {
    "read amplification": 2.5,
    "written / result": 1.5,
    "overhead of threads": 0.05,
    "overhead of the cluster": 0.10,
    "efficiency of two workers": 0.85,
}
PARALLEL = ("measure", "integrate")
"""Nodes of many tasks."""
MANY = 18
"""Tasks a worker from which on the overhead of a node is judged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small frames, few of them")
    parser.add_argument("--json", type=Path, help="keep the measurements here, for scaling_model.py")
    parser.add_argument("--keep", type=Path, help="keep frames and projects here")
    parser.add_argument("--only", action="append", help="series to run")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    folder = options.keep or Path(tempfile.mkdtemp(prefix="growth-"))
    # The first run compiles the kernels, or loads them.
    measured(folder, {"panels": "2x2", "frames": 2, "size": "512"}, "warm-up")
    runs: list[dict[str, Any]] = []
    for name, jobs in SERIES.items():
        if options.only and not any(name.startswith(part) for part in options.only):
            continue
        print(f"\n{name}", flush=True)
        print(HEAD, flush=True)
        for job in jobs:
            run = measured(folder, smaller(job) if options.quick else job, name)
            runs.append(run)
            print(line(run), flush=True)
            if options.json:
                options.json.write_text(json.dumps(runs, indent=1), encoding="utf-8")
    if not options.keep:
        shutil.rmtree(folder)
    missed = verdict(runs)
    sys.exit(1 if missed else 0)


def smaller(job: dict[str, Any]) -> dict[str, Any]:
    """The job for trying the script out."""
    size = {"2048": "768", "6248x4176": "1536"}.get(job.get("size", ""), "384")
    return job | {"size": size, "frames": min(job["frames"], 12)}


def measured(folder: Path, job: dict[str, Any], series: str) -> dict[str, Any]:
    """Run a job in a process of its own."""
    job = {"size": "1024", "workers": 2, "cluster": False, **job}
    frames = folder / f"frames-{job['panels']}-{job['frames']}-{job['size']}"
    skyloom = str(Path(sys.executable).parent / "skyloom")
    if not frames.exists():
        command = [skyloom, "simulate", str(frames), "--lazy", "--panels", job["panels"]]
        command += ["--frames", str(job["frames"]), "--size", job["size"], "--overlap", "0.1", "--scale", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    project = folder / "project"
    shutil.rmtree(project, ignore_errors=True)
    given = json.dumps(job | {"folder": str(frames), "project": str(project)})
    answer = subprocess.run(
        [sys.executable, __file__, "--child", given], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    shutil.rmtree(project, ignore_errors=True)
    out: dict[str, Any] = json.loads(answer.splitlines()[-1]) | {"series": series}
    return out


# --- in the process that is measured ---


def child(job: dict[str, Any]) -> dict[str, Any]:
    """Run the default workflow and say what each node took."""
    from skyloom.ops.simulation.session_file import DrawnSource
    from skyloom.workflows import runner
    from skyloom.workflows.graph import Workflow
    from skyloom.workflows.plan import make_plan

    read = _count_reads(DrawnSource)
    nodes = _watch_nodes(runner.Run, read)
    workflow = Workflow.load("mosaic")
    begin = time.process_time()
    plan = make_plan(workflow, [job["folder"]], memory=2.0**31, workers=job["workers"])
    planning = time.process_time() - begin
    assert plan.canvas is not None
    canvas, planned = plan.canvas, plan.memory
    tiles = canvas.tiles_with_data
    table = plan.steps["ingest"].dataset
    assert table is not None
    pixels = float((table["height"].values * table["width"].values).sum())
    work = {n.name: n.work for n in plan.nodes}
    del plan, table
    project = Path(job["project"])
    start = (time.monotonic(), _cpu())
    with _scheduler(job) as scheduler:
        report = runner.run_workflow(
            workflow,
            [job["folder"]],
            project=project,
            workers=job["workers"],
            memory=2.0**31,
            scheduler=scheduler,
            page=False,
        )
    for done in report.nodes:
        lines = (project / "journal" / f"{done.name}-{done.key}.jsonl", done)
        if lines[0].exists():
            nodes[done.name]["units"] = done.units
            nodes[done.name]["tasks"] = sum(
                json.loads(text)["seconds"] for text in lines[0].read_text(encoding="utf-8").splitlines()
            )
    mosaic = sum(f.stat().st_size for f in (project / "project.zarr" / "integrate").rglob("*") if f.is_file())
    exported = sum(f.stat().st_size for f in (project / "outputs").rglob("mosaic*") if f.is_file())
    return {
        **job,
        "count": job_frames(job),
        "input": 4.0 * pixels,
        "canvas": float(canvas.shape[0]) * canvas.shape[1],
        "tiles": tiles,
        "work": work,
        "planning": planning,
        "seconds": time.monotonic() - start[0],
        "cpu": _cpu() - start[1],
        "read": read["bytes"],
        "written": _written(),
        "mosaic": mosaic,
        "exported": exported,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "planned": planned,
        "nodes": nodes,
    }


def job_frames(job: dict[str, Any]) -> int:
    """Frames of a job."""
    rows, columns = (int(n) for n in job["panels"].split("x"))
    return rows * columns * int(job["frames"])


def _count_reads(source: Any) -> dict[str, float]:
    count, lock, read = {"bytes": 0.0}, threading.Lock(), source.read

    def counted(self: Any, rows: slice, columns: slice) -> Any:
        pixels = read(self, rows, columns)
        with lock:
            count["bytes"] += pixels.nbytes
        return pixels

    source.read = counted
    return count


def _watch_nodes(run: Any, read: dict[str, float]) -> dict[str, dict[str, float]]:
    """Record what each node takes as it ends."""
    nodes: dict[str, dict[str, float]] = {}
    inner = run._run_node

    def watched(self: Any, planned: Any, steps: Any) -> Any:
        before = (time.monotonic(), time.process_time(), read["bytes"], _written())
        answer = inner(self, planned, steps)
        after = (time.monotonic(), time.process_time(), read["bytes"], _written())
        spent = dict(
            zip(
                ("seconds", "cpu", "read", "written"),
                (b - a for a, b in zip(before, after, strict=True)),
                strict=True,
            )
        )
        nodes[planned.plan.name] = spent
        return answer

    run._run_node = watched
    return nodes


def _cpu() -> float:
    """Seconds of this process and of children that have ended."""
    return sum(getattr(resource.getrusage(who), part) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
               for part in ("ru_utime", "ru_stime"))  # fmt: skip


def _written() -> float:
    """Bytes this process has written to files so far."""
    for text in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        if text.startswith("wchar"):
            return float(text.split()[1])
    return float("nan")


@contextlib.contextmanager
def _scheduler(job: dict[str, Any]) -> Iterator[Any]:
    if not job["cluster"]:
        yield "threads"
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=job["workers"], threads_per_worker=1, dashboard_address=None, memory_limit=0
        ) as cluster,
        Client(cluster) as client,
    ):
        # Starting is not what grows.
        client.run(_imported)
        yield client


def _imported() -> int:
    from skyloom.ops import catalogue
    from skyloom.ops.registry import all_ops

    return len(all_ops()) + len(catalogue.__name__)


# --- what is printed ---

HEAD = (
    f"{'panels':>7} {'each':>4} {'px':>10} {'workers':>7} {'frames':>6} {'canvas':>9} {'seconds':>8} {'CPU s':>7}"
    f" {'measure':>14} {'integrate':>14} {'solves':>7} {'export':>7} {'read':>6} {'written':>8} {'memory':>12}"
    f" {'overhead':>14}"
)


def line(run: dict[str, Any]) -> str:
    """One run as a line of the table; CPU of a Mpixel for measure, of a Mpixel x frame for integrate."""
    nodes = run["nodes"]
    solves = sum(nodes[n]["cpu"] for n in ("register", "normalize"))
    rate = {n: 1e3 * nodes[n]["cpu"] / run["work"][n] for n in PARALLEL}
    over = " ".join(f"{100 * overhead(run, n):.0f} %" for n in PARALLEL)
    return (
        f"{run['panels']:>7} {run['frames']:>4} {run['size']:>10} {run['workers']:>7} {run['count']:>6}"
        f" {run['canvas'] / 1e6:>6.0f} Mp {run['seconds']:>8.1f} {run['cpu']:>7.1f}"
        f" {nodes['measure']['cpu']:>5.1f} {rate['measure']:>5.0f} ms {nodes['integrate']['cpu']:>5.1f}"
        f" {rate['integrate']:>5.0f} ms {solves:>7.1f} {nodes['export']['cpu']:>7.1f}"
        f" {run['read'] / run['input']:>6.2f} {written(run):>8.2f}"
        f" {run['memory'] / 2**20:>5.0f}/{run['planned'] / 2**20:.0f} MiB {over:>14}"
    )


def overhead(run: dict[str, Any], node: str) -> float:
    """Part of a node's time in which a worker had no task."""
    spent = run["nodes"][node]
    return 1.0 - spent["tasks"] / (run["workers"] * spent["seconds"])


def written(run: dict[str, Any]) -> float:
    """All bytes written over those of the result: the mosaic in the store and the files made of it."""
    return float(run["written"] / (run["mosaic"] + run["exported"]))


def verdict(runs: list[dict[str, Any]]) -> list[str]:
    """Print each bound beside what was measured; return those that are missed."""
    local = [r for r in runs if not r["cluster"]]
    clusters = [r for r in runs if r["cluster"]]
    seen: dict[str, float] = {}
    if local:
        seen["read amplification"] = max(r["read"] / r["input"] for r in local)
        seen["written / result"] = max(written(r) for r in local)
    for name, of in (("overhead of threads", local), ("overhead of the cluster", clusters)):
        # With a few tasks it is the last one that the others wait for.
        many = [(r, n) for r in of for n in PARALLEL if r["nodes"][n]["units"] >= MANY * r["workers"]]
        if many:
            seen[name] = max(overhead(r, n) for r, n in many)
    pairs = [r for r in local if r["series"] == "workers"]
    if len(pairs) == 2:
        one, two = (sum(r["nodes"][n]["seconds"] for n in PARALLEL) for r in pairs)
        seen["efficiency of two workers"] = one / (2 * two)
    print(f"\n{os.cpu_count()} cores, load of the machine {os.getloadavg()[0]:.1f}")
    missed = []
    for name, value in seen.items():
        bound = BOUNDS[name]
        good = value >= bound if name.startswith("efficiency") else value <= bound
        sign = ">=" if name.startswith("efficiency") else "<="
        print(f"{name}: {value:.3f} ({sign} {bound:g}: {'kept' if good else 'MISSED'})")
        if not good:
            missed.append(name)
    return missed


if __name__ == "__main__":
    main()
