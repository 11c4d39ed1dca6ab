"""skyloom, astroalign and Siril registering the same frames, in turn, on this machine.

    python benchmarks/registration_peers.py [--runs 3] [--sets simulated m8 arp145 m94 m27] [--data FOLDER]

Whole processes, from files to the place of every frame: `skyloom run stack --until place`; Siril's `convert` and
`register` (Debian: apt-get install siril), which in version 1.0 also resamples and writes the frames; of each
frame to the first `astroalign.find_transform`. Core time is that of all threads: on a machine others use it says
more. Ratios are taken pair by pair, so a machine that drifts drifts under all.

A frame counts as registered when the tool says so and its place is right: within 1 px rms of the truth
(simulated), or with its stars within 1 px rms of those of the reference frame (real; stars found by `sep`,
windowed positions, matched after each tool's own transformation, whatever the tool itself claims).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mapping = Callable[[Floats], Floats]
"""Pixel positions of a frame, shape (n, 2), to those of the reference."""

REAL = {
    "m8": ("jocular_m8_LRGB",),
    "arp145": ("jocular_arp145_L",),
    "m94": ("seestar_m94_s1", "seestar_m94_s2"),
    "m27": ("als_samples",),
}
RIGHT = 1.0
"""Rms distance (px) up to which a frame is where it should be."""


@dataclass
class Outcome:
    """What one tool made of one set."""

    seconds: float
    cpu: float
    """Seconds of all cores."""
    peak: float
    """MiB."""
    reference: int
    maps: dict[int, Mapping] = field(default_factory=dict)
    """Of the frames it registered."""
    nodes: dict[str, float] = field(default_factory=dict)


METER = """
import resource, subprocess, sys, time
begin = time.perf_counter()
status = subprocess.call(sys.argv[1:])
seconds, usage = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
with open("usage.txt", "w") as file:
    print(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, status, file=file)
"""


def timed(command: list[str], *, cwd: Path) -> tuple[float, float, float, int]:
    """Wall seconds, seconds of all cores, peak MiB and status of a command.

    A process begins with the peak of the one that started it: a small one in between starts it.
    """
    with (cwd / "log.txt").open("w") as log:
        meter = [sys.executable, "-S", "-c", METER, *command]
        subprocess.run(meter, cwd=cwd, stdout=log, stderr=subprocess.STDOUT, check=True)
    seconds, cpu, peak, status = (float(v) for v in (cwd / "usage.txt").read_text().split())
    return seconds, cpu, peak, int(status)


# --- frames with known places


def affine(turn: float, shift: Floats, middle: Floats) -> tuple[Floats, Floats]:
    """Matrix and offset that take a frame's pixels to those of an unturned, undithered one."""
    c, s = math.cos(turn), math.sin(turn)
    matrix = np.array([[c, -s], [s, c]])
    return matrix, middle + shift - matrix @ middle


def simulate(folder: Path, *, frames: int, width: int, height: int, stars: int, seed: int = 5) -> None:
    """One pointing with dither and small rotations, 16 bits, and where each frame is (truth.json)."""
    from skyloom.ops.simulation.stars import add_stars

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    margin = 120
    x = rng.uniform(-margin, width + margin, stars)
    y = rng.uniform(-margin, height + margin, stars)
    flux = np.minimum(600.0 * (1 - rng.random(stars)) ** (-1 / 0.9), 2e6)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    rows, columns = np.mgrid[0:height, 0:width]
    truth = []
    for i in range(frames):
        turn = math.radians(rng.uniform(-0.7, 0.7)) if i else 0.0
        shift = rng.uniform(-30, 30, 2) if i else np.zeros(2)
        matrix, offset = affine(turn, shift, middle)
        own = (np.stack([x, y], -1) - offset) @ matrix  # the inverse of a rotation is its transpose
        image = 900.0 + 250.0 * columns / width + 120.0 * (rows / height - 0.5) ** 2
        transparency = rng.uniform(0.8, 1.0)
        add_stars(
            image, 0, 0, own[:, 0].copy(), own[:, 1].copy(), transparency * flux, rng.uniform(2.6, 3.8), 0.02
        )
        noisy = image + rng.standard_normal(image.shape, np.float32) * np.sqrt(np.maximum(image, 0) / 1.5 + 25.0)
        data = np.clip(np.rint(noisy), 0, 65535).astype(np.uint16)
        hdu = fits.PrimaryHDU(data)
        hdu.header["EXPTIME"], hdu.header["FILTER"] = 60.0, "L"
        hdu.header["DATE-OBS"] = f"2026-01-10T22:{i:02d}:00"
        hdu.writeto(folder / f"frame_{i:03d}.fits", overwrite=True)
        truth.append({"matrix": matrix.tolist(), "offset": offset.tolist()})
    (folder / "truth.json").write_text(json.dumps(truth))


def true_map(truth: list[dict[str, list]], frame: int, reference: int) -> Mapping:
    a, b = ((np.array(truth[f]["matrix"]), np.array(truth[f]["offset"])) for f in (frame, reference))
    return lambda p: (p @ a[0].T + a[1] - b[1]) @ b[0]


# --- the tools


def run_skyloom(files: list[Path], folder: Path, *, options: list[str]) -> Outcome:
    command = [str(Path(sys.executable).parent / "skyloom"), "run", "stack", *map(str, files)]
    command += ["-o", "project", "--quiet", "--until", "place", *options]
    shutil.rmtree(folder / "project", ignore_errors=True)
    seconds, cpu, peak, status = timed(command, cwd=folder)
    if status:
        raise SystemExit(f"skyloom failed:\n{(folder / 'log.txt').read_text()[-2000:]}")
    return Outcome(seconds, cpu, peak, 0)


def read_skyloom(outcome: Outcome, files: list[Path], folder: Path) -> None:
    from astropy.wcs import WCS

    from skyloom.workflows.store import Store

    store = Store(folder / "project")
    for line in (folder / "project" / "run.log.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "node":
            outcome.nodes[event["node"]] = event["seconds"]
    table, location = store.open("ingest"), store.open("locate")
    order = {str(p): i for i, p in enumerate(files)}
    index = [order[json.loads(str(s))["path"]] for s in table["source"].values]
    text = location["wcs"].values
    found = {index[k]: WCS(fits.Header.fromstring(str(text[k]), sep="\n")) for k in range(len(index)) if text[k]}
    outcome.reference = min(found)
    target = found[outcome.reference]

    def mapping(wcs: WCS) -> Mapping:
        return lambda p: np.stack(target.all_world2pix(*wcs.all_pix2world(p[:, 0], p[:, 1], 0), 0), -1)

    outcome.maps = {i: mapping(w) for i, w in found.items()}


ASTROALIGN = """
import json, sys, numpy as np, astroalign
from astropy.io import fits
def load(path):
    data = fits.getdata(path).astype(np.float32)
    if sys.argv[1] == "cfa":  # a checkerboard of colours hides faint stars
        data = (data[:-1, :-1] + data[1:, :-1] + data[:-1, 1:] + data[1:, 1:]) / 4
    return data
first, found = load(sys.argv[2]), {0: [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}
for i, path in enumerate(sys.argv[3:], start=1):
    try:
        transform, _ = astroalign.find_transform(load(path), first)
    except Exception as problem:
        print(path, repr(problem))
        continue
    found[i] = np.asarray(transform.params).tolist()
json.dump(found, open("found.json", "w"))
"""


def homography(matrix: Floats) -> Mapping:
    def apply(p: Floats) -> Floats:
        q = np.concatenate([p, np.ones((len(p), 1))], 1) @ matrix.T
        return q[:, :2] / q[:, 2:]

    return apply


def run_astroalign(files: list[Path], folder: Path, *, cfa: bool) -> Outcome:
    command = [sys.executable, "-c", ASTROALIGN, "cfa" if cfa else "mono", *map(str, files)]
    (folder / "found.json").unlink(missing_ok=True)
    seconds, cpu, peak, status = timed(command, cwd=folder)
    if status:
        raise SystemExit(f"astroalign failed:\n{(folder / 'log.txt').read_text()[-2000:]}")
    found = json.loads((folder / "found.json").read_text())
    return Outcome(seconds, cpu, peak, 0, {int(i): homography(np.array(m)) for i, m in found.items()})


def run_siril(files: list[Path], folder: Path, *, cfa: bool, cores: int = 0) -> Outcome:
    work = folder / "siril"
    shutil.rmtree(work, ignore_errors=True)
    (work / "in").mkdir(parents=True)
    for i, path in enumerate(files):
        (work / "in" / f"light_{i:05d}.fit").symlink_to(path)
    script = ["requires 1.0.0", "setext fit", *([f"setcpu {cores}"] if cores else []), "cd in"]
    script += [f"convert light -out=../process{' -debayer' if cfa else ''}", "cd ../process", "register light"]
    (work / "go.ssf").write_text("\n".join(script) + "\n")
    command = ["siril-cli", "-d", str(work), "-s", str(work / "go.ssf")]
    # A set it gives up ends the script with an error.
    return Outcome(*timed(command, cwd=work)[:3], 0)


def read_siril(outcome: Outcome, files: list[Path], folder: Path, *, cfa: bool) -> None:
    """Its sequence file keeps no matrices: read them, to five decimals, from what it says on one core."""
    run_siril(files, folder, cfa=cfa, cores=1)
    log = (folder / "siril" / "log.txt").read_text(errors="replace")
    number = r"\s*([-+]?[0-9.]+)"
    matrix = re.compile(r"Transformation Matrix:" + number * 9 + r".*?Matching stars in image (\d+): done", re.S)
    height = int(fits.getheader(files[0])["NAXIS2"])
    # Siril counts rows from the top of the picture, the last of the file.
    flip = np.array([[1.0, 0, 0], [0, -1, height - 1], [0, 0, 1]])
    for found in matrix.finditer(log):
        values = np.array([float(v) for v in found.groups()[:9]]).reshape(3, 3)
        outcome.maps[int(found.group(10)) - 1] = homography(flip @ values @ flip)
    # The reference of a new sequence is its first frame.
    if outcome.maps:
        outcome.maps[outcome.reference] = homography(np.eye(3))


# --- judging


def star_positions(path: Path, *, cfa: bool) -> Floats:
    """Windowed positions of the stars of a frame, by `sep`: none of the tools' own lists."""
    import sep

    data = fits.getdata(path).astype(np.float32)
    if cfa:  # mean of the four colours, where it belongs
        data = (data[:-1, :-1] + data[1:, :-1] + data[:-1, 1:] + data[1:, 1:]) / 4
    background = sep.Background(data)
    data = data - background.back()
    found = sep.extract(data, 8.0, err=background.globalrms, minarea=7)
    found = found[np.argsort(-found["flux"])][:400]
    radius, _ = sep.flux_radius(data, found["x"], found["y"], np.full(len(found), 12.0), 0.5)
    x, y, flag = sep.winpos(data, found["x"], found["y"], 0.85 * np.clip(radius, 1.0, 6.0))
    good = (flag == 0) & np.isfinite(x + y)
    return np.stack([x, y], axis=-1)[good] + (0.5 if cfa else 0.0)


def star_residual(own: Floats, target: Floats, mapping: Mapping) -> float:
    """Rms distance (px) of mapped stars to those of the reference, of the pairs within 3 px; NaN: not together."""
    from scipy.spatial import cKDTree

    moved = mapping(own)
    distance, _ = cKDTree(target).query(moved, distance_upper_bound=3.0)
    together = np.isfinite(distance)
    inside = ((moved > 5) & (moved < target.max(axis=0) - 5)).all(axis=1).sum()
    if together.sum() < max(5, 0.2 * inside):
        return math.nan
    values = distance[together]
    values = values[values <= 4.0 * np.median(values)]
    return float(np.sqrt(np.mean(values**2)))


def judge(outcome: Outcome, files: list[Path], folder: Path, *, cfa: bool) -> list[float]:
    """Residual (px) of every frame the tool registered; NaN where it says so wrongly."""
    residuals = []
    truth_path = files[0].parent / "truth.json"
    if truth_path.exists():
        truth = json.loads(truth_path.read_text())
        height, width = fits.getheader(files[0])["NAXIS2"], fits.getheader(files[0])["NAXIS1"]
        points = np.stack(np.meshgrid(np.linspace(0, width, 9), np.linspace(0, height, 7)), -1).reshape(-1, 2)
        for i, mapping in outcome.maps.items():
            if i != outcome.reference:
                d = mapping(points) - true_map(truth, i, outcome.reference)(points)
                residuals.append(float(np.sqrt(np.mean((d**2).sum(axis=1)))))
        return residuals
    stars = [star_positions(p, cfa=cfa) for p in files]
    for i, mapping in outcome.maps.items():
        if i != outcome.reference:
            residuals.append(star_residual(stars[i], stars[outcome.reference], mapping))
    return residuals


def compare(name: str, files: list[Path], folder: Path, *, runs: int, cfa: bool) -> None:
    tools: dict[str, Callable[[], Outcome]] = {
        "skyloom": lambda: run_skyloom(files, folder, options=[]),
        "astroalign": lambda: run_astroalign(files, folder, cfa=cfa),
        "siril": lambda: run_siril(files, folder, cfa=cfa),
    }
    done: dict[str, list[Outcome]] = {tool: [] for tool in tools}
    for number in range(runs + 1):
        for tool, run in tools.items():
            outcome = run()
            if tool == "skyloom":
                read_skyloom(outcome, files, folder)
            if number or runs == 0:  # once uncounted: page cache, compiled kernels
                done[tool].append(outcome)
    read_siril(done["siril"][-1], files, folder, cfa=cfa)
    print(f"\n{name}: {len(files)} frames, {len(done['skyloom'])} runs")
    for tool, outcomes in done.items():
        last = outcomes[-1]
        residuals = judge(last, files, folder, cfa=cfa)
        right = [r for r in residuals if r <= RIGHT]
        wall, cpu = (statistics.median(getattr(o, k) for o in outcomes) for k in ("seconds", "cpu"))
        print(
            f"  {tool:10s} registered {len(right) + bool(last.maps):3d} of {len(files)}"
            f" ({len(residuals) - len(right)} wrongly), residual median "
            f"{statistics.median(right or [math.nan]):.3f}, largest {max(right, default=math.nan):.3f} px; "
            f"{wall:.1f} s, {cpu:.1f} s of cores, {max(o.peak for o in outcomes):.0f} MiB"
        )
    nodes = done["skyloom"][-1].nodes
    print("  skyloom's nodes: " + ", ".join(f"{n} {t:.1f} s" for n, t in nodes.items()))
    for tool in ("astroalign", "siril"):
        for kind, label in (("seconds", "time"), ("cpu", "core time")):
            pairs = zip(done[tool], done["skyloom"], strict=True)
            ratios = [getattr(b, kind) / getattr(a, kind) for b, a in pairs]
            print(
                f"  {tool} / skyloom, {label}: {statistics.median(ratios):.2f} "
                f"(min {min(ratios):.2f}, max {max(ratios):.2f})"
            )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=["simulated", *REAL], choices=["simulated", *REAL])
    parser.add_argument("--frames", type=int, default=24, help="simulated")
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="real frames"
    )
    parser.add_argument("--keep", type=Path, help="keep simulated frames and results here")
    options = parser.parse_args()
    base = (options.keep or Path(tempfile.mkdtemp(prefix="registration-"))).absolute()
    for name in options.sets:
        folder = base / name
        folder.mkdir(parents=True, exist_ok=True)
        if name == "simulated":
            if not (folder / "frames" / "truth.json").exists():
                simulate(folder / "frames", frames=options.frames, width=3000, height=2000, stars=3500)
            files = sorted((folder / "frames").glob("*.fits"))
        else:
            files = sorted(p for s in REAL[name] for p in (options.data / s).resolve().glob("*.fit*"))
            # The peers' reference is the first: not the odd frame of M8.
            files.sort(key=lambda p: p.name.startswith("L_"))
        if not files:
            print(f"{name}: no frames in {options.data}")
            continue
        compare(name, files, folder, runs=options.runs, cfa=name in {"m94", "m27"})
    if not options.keep:
        shutil.rmtree(base)


if __name__ == "__main__":
    main()
