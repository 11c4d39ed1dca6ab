"""skyloom against its peers on the same simulated frames, in turn, on this machine.

    python benchmarks/versus.py [--runs 3] [--size 2048] [--reproject] [--keep FOLDER]

SWarp (Debian: apt-get install swarp) resamples with LANCZOS3 and coadds CLIPPED on all cores; skyloom's time is
its whole run: reading headers, measuring, registering, normalizing, integrating, writing FITS. Times are of whole
processes; the ratio is taken pair by pair, so a machine that drifts drifts under both.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from skyloom.workflows.schedulers import default_workers


def timed(command: list[str], *, cwd: Path) -> tuple[float, float]:
    """Wall seconds and peak MiB of a command."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status:
        raise SystemExit(f"{command[0]} failed (status {status})")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--reproject", action="store_true", help="also reproject_and_coadd, once (slow)")
    parser.add_argument("--keep", type=Path, help="keep frames and results here")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="versus-"))
    frames = folder / "frames"
    skyloom = str(Path(sys.executable).parent / "skyloom")
    if not (frames / "truth.json").exists():
        subprocess.run(
            [skyloom, "simulate", str(frames), "--panels", "3x3", "--frames", "4", "--size", str(options.size)],
            check=True,
        )
    files = sorted(str(p) for p in frames.glob("*.fits"))
    ours = [skyloom, "run", "mosaic", *files, "-o", "project", "--quiet", "--no-report"]
    ours += ["--set", "export.formats=[fits]"]
    swarp = [
        shutil.which("SWarp") or shutil.which("swarp") or "SWarp",
        *files,
        *("-IMAGEOUT_NAME", "swarp.fits", "-WEIGHTOUT_NAME", "swarp.weight.fits", "-RESAMPLE_DIR", str(folder)),
        *("-RESAMPLING_TYPE", "LANCZOS3", "-COMBINE_TYPE", "CLIPPED", "-WRITE_XML", "N", "-VERBOSE_TYPE", "QUIET"),
        *("-NTHREADS", str(default_workers()), "-MEM_MAX", "2048", "-COMBINE_BUFSIZE", "2048"),
    ]
    # Once uncounted: page cache, compiled kernels.
    rows = []
    for number in range(options.runs + 1):
        shutil.rmtree(folder / "project", ignore_errors=True)
        a, b = timed(ours, cwd=folder), timed(swarp, cwd=folder)
        if number:
            rows.append((a, b))
            print(
                f"run {number}: skyloom {a[0]:.1f} s {a[1]:.0f} MiB, SWarp {b[0]:.1f} s {b[1]:.0f} MiB", flush=True
            )
    ratio = [b[0] / a[0] for a, b in rows]
    print(
        f"{len(files)} frames of {options.size}², {default_workers()} cores: SWarp / skyloom = "
        f"{statistics.median(ratio):.2f} (min {min(ratio):.2f}, max {max(ratio):.2f})"
    )
    if options.reproject:
        seconds, peak = timed(
            [sys.executable, str(Path(__file__).with_name("coadd_reproject.py")), *files], cwd=folder
        )
        own = statistics.median(a[0] for a, _ in rows)
        print(
            f"reproject_and_coadd with background matching: {seconds:.1f} s "
            f"{peak:.0f} MiB, / skyloom = {seconds / own:.1f}"
        )
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
