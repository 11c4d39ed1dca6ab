"""A model of what a run takes, fitted to growth.py's measurements, checked, and asked about many workers.

    python benchmarks/growth.py --json growth.json
    python benchmarks/scaling_model.py growth.json [--canvas 27x18] [--frames 6] [--read 1000] [--write 500]

CPU seconds of each node are linear in what the node works on: frames and Mpixel (measure, register, normalize),
Mpixel x frames, tiles and Mpixel of canvas (integrate), Mpixel of canvas (export). The largest run of each series
is left out of a first fit and foretold by it. With all of them the model then says what workers take for a canvas
of panels of 6248 x 4176 px. A node of many tasks takes the longest of CPU / workers, the driver's time for its
units (measured on the cluster), the frames' bytes over `--read` and the mosaic's over `--write` (MB/s of the
shared disk or network, all workers together); the others run on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

TERMS: dict[str, tuple[str, ...]] = {
    "measure": ("frames", "input"),
    "register": ("one", "frames"),
    "normalize": ("one", "frames", "input"),
    "integrate": ("tiles", "work", "canvas"),
    "export": ("one", "canvas"),
}
PARALLEL = ("measure", "integrate")
PANEL = (4176, 6248)
OVERLAP = 0.1
TILE = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurements", type=Path)
    parser.add_argument("--canvas", default="27x18", help="panels, ROWSxCOLUMNS")
    parser.add_argument("--frames", type=int, default=6, help="frames a panel")
    parser.add_argument("--read", type=float, default=1000.0, help="MB/s of the frames' disk")
    parser.add_argument("--write", type=float, default=500.0, help="MB/s of the store's disk")
    parser.add_argument("--workers", default="1,2,16,64")
    options = parser.parse_args()
    runs = json.loads(options.measurements.read_text(encoding="utf-8"))
    local = [r for r in runs if not r["cluster"]]
    largest = {r["series"]: max((q for q in local if q["series"] == r["series"]), key=size_of) for r in local}
    kept = [r for r in local if r is not largest[r["series"]] or r["series"] == "workers"]
    held = [r for r in largest.values() if r["series"] != "workers"]
    if len(kept) >= 4:
        first = fitted(kept)
        print("foretold by the smaller runs (foretold / measured CPU seconds)")
        for run in held:
            parts = " ".join(
                f"{n} {seconds(first, n, terms_of(run)):.1f}/{run['nodes'][n]['cpu']:.1f}" for n in TERMS
            )
            whole = sum(seconds(first, n, terms_of(run)) for n in TERMS)
            there = sum(run["nodes"][n]["cpu"] for n in TERMS)
            print(f"  {run['panels']} x {run['frames']}, {run['size']} px: {parts}; all {whole / there:.2f}")
    model = fitted(local)
    print("\nCPU seconds of each node")
    for node, factors in model.items():
        print(f"  {node}: " + " + ".join(f"{f:.3g} {t}" for f, t in zip(factors, TERMS[node], strict=True)))
    unit = driver(runs)
    print(f"  driver, a unit of the cluster: {1e3 * unit:.1f} ms")
    foretell(options, model, unit, local)


def size_of(run: dict[str, Any]) -> float:
    """What orders the runs of a series."""
    return float(run["work"]["integrate"])


def terms_of(run: dict[str, Any]) -> dict[str, float]:
    """What a run's cost depends on."""
    return {
        "one": 1.0,
        "frames": run["count"],
        "input": run["input"] / 4e6,
        "tiles": run["tiles"],
        "work": run["work"]["integrate"],
        "canvas": run["canvas"] / 1e6,
    }


def fitted(runs: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Factors of each node's terms, none negative; runs count alike, whatever their size."""
    model = {}
    for node, names in TERMS.items():
        measured = np.array([r["nodes"][node]["cpu"] for r in runs])
        matrix = np.array([[terms_of(r)[n] for n in names] for r in runs])
        model[node] = nnls(matrix / measured[:, None], np.ones(len(runs)))[0]
    return model


def seconds(model: dict[str, np.ndarray], node: str, terms: dict[str, float]) -> float:
    """CPU seconds of a node."""
    return float(model[node] @ np.array([terms[n] for n in TERMS[node]]))


def driver(runs: list[dict[str, Any]]) -> float:
    """Seconds of the process that hands out units on a cluster, a unit."""
    spent = [(r["nodes"][n]["cpu"], r["nodes"][n]["units"]) for r in runs if r["cluster"] for n in PARALLEL]
    return sum(s for s, _ in spent) / sum(u for _, u in spent) if spent else 5e-3


def foretell(
    options: argparse.Namespace, model: dict[str, np.ndarray], unit: float, runs: list[dict[str, Any]]
) -> None:
    """Print what workers take for a large canvas, and what binds."""
    rows, columns = (int(n) for n in options.canvas.split("x"))
    height, width = ((1 + (n - 1) * (1 - OVERLAP)) * side for n, side in zip((rows, columns), PANEL, strict=True))
    count = rows * columns * options.frames
    pixels = count * PANEL[0] * PANEL[1] / 1e6
    tiles = -(-height // TILE) * -(-width // TILE)
    terms = {
        "one": 1.0, "frames": count, "input": pixels, "tiles": tiles, "work": pixels * 1.02,
        "canvas": height * width / 1e6,
    }  # fmt: skip
    wide = max(runs, key=lambda r: np.prod([float(n) for n in r["size"].split("x")]))
    again = wide["nodes"]["integrate"]["read"] / wide["input"]
    stored = max(r["mosaic"] / r["canvas"] for r in runs)
    units = {"measure": count, "integrate": tiles}
    read = {"measure": 4.0 * pixels, "integrate": 4.0 * pixels * again}
    write = {"measure": 0.0, "integrate": stored * terms["canvas"]}
    print(
        f"\n{count} frames of {PANEL[1]} x {PANEL[0]} px on {width:.0f} x {height:.0f}; frames are read at "
        f"{options.read:g} MB/s, the store is written at {options.write:g} MB/s"
    )
    alone = None
    for workers in (int(n) for n in options.workers.split(",")):
        total, parts = 0.0, []
        for node in TERMS:
            cpu = seconds(model, node, terms)
            if node in PARALLEL:
                limits = {
                    "CPU": cpu / workers,
                    "driver": unit * units[node],
                    "reading": read[node] / options.read,
                    "writing": write[node] / options.write,
                }
                name, longest = max(limits.items(), key=lambda item: item[1])
                second = sorted(limits.items(), key=lambda item: -item[1])[1]
                parts.append(f"{node} {longest:.0f} s ({name}; then {second[0]} {second[1]:.0f} s)")
            else:
                longest = cpu
                parts.append(f"{node} {longest:.0f} s (one core)")
            total += longest
        alone = alone or total * workers
        efficiency = alone / total / workers
        print(f"  {workers} workers: {total / 60:.0f} min, efficiency {efficiency:.2f}: {', '.join(parts)}")


if __name__ == "__main__":
    main()
