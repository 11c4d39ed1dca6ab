"""Full size on a small machine: a plan for 100,000 x 100,000 pixels, a run to 60,000 x 60,000 within 2 GiB.

    python benchmarks/full_size.py plan [--panels 27x18] [--frames 6] [--memory 2GiB]
    python benchmarks/full_size.py run [--panels 16x11] [--frames 2] [--memory 2GiB] [--keep FOLDER]

Frames of 6248 x 4176 px (26 Mpixel, 0.5 arcsec) that overlap by a tenth and lie on no disk: `skyloom simulate
--lazy`. The plan is of the default workflow and has 30 s and 1 GiB. The run measures, registers, normalizes,
integrates, finds coverage and gradient, and writes TIFF and PNG; it needs some 25 GB of disk, and half an hour on
two quiet cores. Peaks are those the system counted for the whole process. Fails where a limit is passed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from skyloom.workflows.machine import parse_bytes

WORKFLOW = """\
name: full
description: Calibrated frames to a mosaic; its coverage and its gradient.
nodes:
  ingest: {inputs: [files]}
  measure: {inputs: [ingest]}
  register: {inputs: [ingest, measure]}
  normalize: {inputs: [ingest, measure, register]}
  integrate: {inputs: [ingest, register, normalize]}
  coverage: {inputs: [integrate]}
  survey: {inputs: [integrate]}
  gradient_model: {inputs: [survey]}
  export: {inputs: [integrate], parameters: {formats: [tiff, png]}}
"""
PLAN_SECONDS, PLAN_BYTES = 30.0, 2.0**30
PLANS = {"panels": "27x18", "frames": 6}
RUNS = {"panels": "16x11", "frames": 2}
SKYLOOM = str(Path(sys.executable).parent / "skyloom")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plan", "run"))
    parser.add_argument("--panels", help="ROWSxCOLUMNS")
    parser.add_argument("--frames", type=int, help="frames a panel")
    parser.add_argument("--memory", default="2GiB")
    parser.add_argument("--keep", type=Path, help="work here and leave all there is")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="full-size-"))
    folder.mkdir(parents=True, exist_ok=True)
    own = PLANS if options.what == "plan" else RUNS
    panels, frames = options.panels or own["panels"], options.frames or own["frames"]
    sky = folder / f"frames-{panels}-{frames}"
    command = [SKYLOOM, "simulate", str(sky), "--lazy", "--panels", str(panels), "--frames", str(frames)]
    command += ["--size", "6248x4176", "--overlap", "0.1", "--scale", "0.5", "--nights", "2"]
    subprocess.run(command, check=True)
    try:
        good = plan(sky, options.memory) if options.what == "plan" else run(folder, sky, options.memory)
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    sys.exit(0 if good else 1)


def measured(command: list[str], **given: Any) -> tuple[str, float, float, float]:
    """Output, seconds, CPU seconds and peak bytes of a command."""
    begin = time.monotonic()
    with subprocess.Popen(command, text=True, **given) as process:
        output = process.stdout.read() if process.stdout is not None else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return output, time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024.0


def plan(sky: Path, memory: str) -> bool:
    """Plan the default workflow."""
    output, seconds, cpu, peak = measured(
        [SKYLOOM, "plan", "mosaic", str(sky), "--memory", memory, "--json"], stdout=subprocess.PIPE
    )
    made = json.loads(output)
    shape = made["canvas"]["shape"]
    print(
        f"plan of {made['frames']} frames on {shape[1]} x {shape[0]} px, {sum(n['units'] for n in made['nodes'])} "
        f"tasks: {seconds:.1f} s ({cpu:.1f} s CPU, limit {PLAN_SECONDS:g} s), peak {peak / 2**20:.0f} MiB (limit "
        f"{PLAN_BYTES / 2**20:.0f} MiB); it says {made['memory'] / 2**20:.0f} MiB, {made['seconds'] / 60:.0f} min"
    )
    return seconds <= PLAN_SECONDS and peak <= PLAN_BYTES


def run(folder: Path, sky: Path, memory: str) -> bool:
    """Run the workflow to its end."""
    workflow, project = folder / "full.yaml", folder / "project"
    workflow.write_text(WORKFLOW, encoding="utf-8")
    job = [str(workflow), str(sky), "--memory", memory]
    planned = json.loads(subprocess.run([SKYLOOM, "plan", *job, "--json"], check=True, capture_output=True).stdout)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock
    _, seconds, cpu, peak = measured([SKYLOOM, "run", *job, "-o", str(project)])
    written = 512.0 * (resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock - before)
    for text in (project / "run.log.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(text)
        if event["event"] == "node":
            print(
                f"  {event['node']}: {event['seconds']:.0f} s, peak so far {event['peak_memory'] / 2**20:.0f} MiB"
            )
    sizes = {f: f.stat().st_size for f in project.rglob("*") if f.is_file()}
    files = sum(size for f, size in sizes.items() if f.parent == project / "outputs")
    shape = planned["canvas"]["shape"]
    print(
        f"{planned['frames']} frames to {shape[1]} x {shape[0]} px ({shape[0] * shape[1] / 1e9:.2f} Gpixel): "
        f"{seconds / 60:.0f} min, {cpu / 60:.0f} min CPU; peak {peak / 2**20:.0f} MiB, planned "
        f"{planned['memory'] / 2**20:.0f} MiB, limit {memory}; written {written / 1e9:.1f} GB, left in the "
        f"project {sum(sizes.values()) / 1e9:.1f} GB, {files / 1e9:.1f} GB of it as files"
    )
    return peak <= parse_bytes(memory)


if __name__ == "__main__":
    main()
