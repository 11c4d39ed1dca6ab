"""Peak memory against the canvas: the same depth on canvases 1, 4 and 16 times as large, plan beside measurement.

    python benchmarks/memory.py [--size 1024] [--memory 1.5GiB] [--once] [--keep FOLDER]

Panels of 4 frames, 4 × 4, 8 × 8 and 16 × 16 of them. They lie an eighth of their side over each other and a tile
is as wide as from panel to panel, so that every tile inside has the same frames over it, on every canvas. With
other tiles some lie over the corner of four panels and some do not, and a small canvas has one of the deepest
where a large one has many. What grows with the canvas is the table of frames and the solves over it (0.1 MiB a
frame).

A process peaks when two tasks peak together, which is chance: the highest of 289 tiles lies above the highest of
25 whatever the canvas. So the small canvases are run until as many tiles were worked, and the highest peak counts;
all are printed. `--once`: each canvas is run one time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="of a frame, a multiple of 256")
    parser.add_argument("--memory", default="1.5GiB")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="memory-"))
    skyloom = str(Path(sys.executable).parent / "skyloom")
    peaks = []
    for side, runs in ((4, 12), (8, 4), (16, 1)):
        frames, project = folder / f"frames{side}", folder / f"project{side}"
        if not (frames / "truth.json").exists():
            command = [skyloom, "simulate", str(frames), "--panels", f"{side}x{side}", "--frames", "4"]
            command += ["--size", str(options.size), "--overlap", "0.125"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        job = [
            "mosaic",
            str(frames),
            "--memory",
            options.memory,
            "--set",
            f"integrate.tile={options.size * 7 // 8}",
        ]
        plan = json.loads(
            subprocess.run([skyloom, "plan", *job, "--json"], check=True, capture_output=True).stdout
        )
        code = (
            "import resource, subprocess, sys;"
            "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
        )
        run = [sys.executable, "-c", code, skyloom, "run", *job, "-o", str(project), "--quiet"]
        seen = []
        for _ in range(1 if options.once else runs):
            shutil.rmtree(project, ignore_errors=True)
            seen.append(float(subprocess.run(run, check=True, capture_output=True).stdout))
        peak = max(seen)
        peaks.append(peak)
        shape = plan["canvas"]["shape"]
        print(
            f"{side}x{side} panels, canvas {shape[1]} × {shape[0]}: measured {peak / 2**20:.0f} MiB, "
            f"planned {plan['memory'] / 2**20:.0f} MiB, planned / measured {plan['memory'] / peak:.2f}, "
            f"limit {options.memory}; runs: {', '.join(f'{p / 2**20:.0f}' for p in seen)}",
            flush=True,
        )
    print(f"4 times the canvas: {peaks[1] / peaks[0]:.3f} of the memory, 16 times: {peaks[2] / peaks[0]:.3f}")
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
