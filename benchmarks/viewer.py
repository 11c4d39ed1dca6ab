"""What `skyloom view` takes on a large canvas: the first picture, a step of zoom, memory; looked at in Chromium.

    python benchmarks/viewer.py /scratch [--size 30000] [--chromium /usr/bin/chromium]

Makes a project with one mosaic of that size (a few GB, deleted afterwards), looks at it first without and then
with a pyramid. The files are put out of the system's cache before each look.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from astropy.wcs import WCS

from skyloom.ops.grid import Grid, wcs_header
from skyloom.workflows.layout import Layout
from skyloom.workflows.pyramid import pyramid
from skyloom.workflows.store import Store

TILE = 1024
VARIANTS = 12


def make_project(folder: Path, size: int, *, tile: int = TILE, bands: int = 1, link: bool = False) -> Store:
    """Make a project with one finished mosaic: noise, stars and a slow gradient; a few tiles again and again."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [83.0, -5.0]
    wcs.wcs.crpix = [size // 2, size // 2]
    wcs.wcs.cdelt = [-1.0 / 3600.0, 1.0 / 3600.0]
    grid = Grid(wcs_header(wcs), (size, size), tile)
    image = da.full((bands, size, size), np.nan, chunks=(1, tile, tile), dtype=np.float32)
    dataset = xr.Dataset(
        {"image": (("band", "y", "x"), image)},
        coords={"band": [*"LRGB"][:bands]},
        attrs={**grid.to_attrs(), "units": "adu"},
    )
    store = Store(folder)
    store.create()
    layout = Layout.of(dataset, ("band", "y", "x"), node="integrate")
    meta = {"op": "integrate", "version": 1, "inputs": {}, "parameters": {}, "started": time.time()}
    writer = store.prepare("integrate", "key", dataset, layout, meta)
    rng = np.random.default_rng(1)
    files: list[Path] = []
    place = store.root / "integrate" / "key" / "image" / "c"
    rows = -(-size // tile)
    for k in range(min(VARIANTS, rows)):
        writer.write((0, 0, k), {"image": _sky(rng, min(tile, size - k * tile), tile if rows > 1 else size)})
        files.append(place / "0" / "0" / str(k))
    for b, j, i in np.ndindex(bands, rows, rows):
        target = place / str(b) / str(j) / str(i)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            source = files[int(rng.integers(len(files) - 1)) if len(files) > 1 else 0]
            os.link(source, target) if link else shutil.copyfile(source, target)
    store.complete("integrate", "key", {})
    return store


def _sky(rng: np.random.Generator, columns: int, rows: int) -> np.ndarray[Any, Any]:
    image = rng.normal(1000.0, 10.0, (rows, columns))
    image += 40.0 * np.sin(np.linspace(0, 3, rows))[:, None] * np.sin(np.linspace(0, 3, columns))
    y, x = np.mgrid[-8:9, -8:9]
    for _ in range(rows * columns // 15000):
        j, i = int(rng.integers(8, rows - 9)), int(rng.integers(8, max(columns - 9, 9)))
        part = image[j - 8 : j + 9, i - 8 : i + 9]
        star = 10 ** rng.uniform(1.5, 4.0) * np.exp(-(x**2 + y**2) / 6.0)
        part += star[: part.shape[0], : part.shape[1]]
    return image.astype(np.float32)[None]


def forget(folder: Path) -> None:
    """Put a project's files out of the system's cache."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def peak(pid: int) -> float:
    """Peak of a process' memory, MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def cpu(pid: int) -> float:
    """Processor time of a process so far (s): what a busy machine does not blur."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def look(project: Path, chromium: str, picture: Path | None) -> dict[str, Any]:
    """Open the page, zoom in step by step, and say how long each took."""
    from playwright.sync_api import sync_playwright

    forget(project)
    begun = time.perf_counter()
    command = [sys.executable, "-m", "skyloom.workflows", "view", str(project), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        told: dict[str, Any] = {"server started (s)": time.perf_counter() - begun}
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})

            def ready(wait: float = 60.0) -> None:
                end = time.perf_counter() + wait
                while time.perf_counter() < end:
                    if page.evaluate("() => Boolean(window.skyloom && window.skyloom.ready())"):
                        return
                    time.sleep(0.02)
                raise TimeoutError("the page is not ready")

            page.add_init_script("performance.setResourceTimingBufferSize(100000)")
            begun = time.perf_counter()
            page.goto(address)
            ready()
            told["first picture (s)"] = time.perf_counter() - begun
            told["processor time of the server up to then (s)"] = cpu(server.pid)
            told["of it after the page was there"] = page.evaluate(LAST, 0.0) / 1000
            told["memory then (MiB)"] = peak(server.pid)
            if picture is not None:
                page.screenshot(path=str(picture.with_suffix(".first.png")))
            refined = time.perf_counter()
            while page.evaluate(REFINED) < 1.0 and time.perf_counter() < refined + 120:
                time.sleep(0.1)
            told["refined after (s)"] = time.perf_counter() - begun
            ready()
            steps, work = [], []
            page.mouse.move(700, 420)
            for _ in range(9):
                since, before = page.evaluate("() => performance.now()"), cpu(server.pid)
                page.mouse.wheel(0, -300)
                time.sleep(0.6)
                ready()
                steps.append(max(page.evaluate(LAST, since) - since, 0.0) / 1000)
                work.append(cpu(server.pid) - before)
            told["steps of zoom (s)"] = steps
            told["processor time of the server in each (s)"] = work
            pans = []
            for _ in range(4):
                since = page.evaluate("() => performance.now()")
                page.mouse.move(1200, 500)
                page.mouse.down()
                page.mouse.move(600, 300, steps=4)
                page.mouse.up()
                time.sleep(0.5)
                ready()
                pans.append(max(page.evaluate(LAST, since) - since, 0.0) / 1000)
            told["pans (s)"] = pans
            if picture is not None:
                page.screenshot(path=str(picture))
            browser.close()
        told["peak memory of the server (MiB)"] = peak(server.pid)
        return told
    finally:
        server.terminate()
        server.wait()


LAST = """(since) => Math.max(since, ...performance.getEntriesByType("resource")
    .filter((r) => r.startTime >= since && r.initiatorType !== "fetch" && r.name.includes("/tile"))
    .map((r) => r.responseEnd))"""
"""When the last tile that is seen was there; what the page fetches ahead is not waited for."""
REFINED = "() => window.skyloom.slots.a.state ? window.skyloom.slots.a.state.refined : 0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--size", type=int, default=30_000)
    parser.add_argument("--bands", type=int, default=1)
    parser.add_argument("--link", action="store_true", help="tiles are links of a few files: huge, and no disk")
    parser.add_argument("--only", choices=("without", "with"), help="pyramid")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    options = parser.parse_args()
    folder = options.scratch / f"viewer-{options.size}"
    try:
        store = make_project(folder, options.size, bands=options.bands, link=options.link)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        print(f"{options.size} x {options.size} x {options.bands}: {size / 1e9:.2f} GB")
        for name in ("without", "with"):
            if options.only not in (None, name):
                continue
            if name == "with":
                begun = time.perf_counter()
                pyramid(store.open("integrate"), folder)
                print(f"pyramid made in {time.perf_counter() - begun:.1f} s")
            picture = options.pictures / f"viewer-{name}.png" if options.pictures else None
            print(f"{name} pyramid")
            for what, value in look(folder, options.chromium, picture).items():
                shown = " ".join(f"{v:.2f}" for v in value) if isinstance(value, list) else f"{value:.2f}"
                print(f"    {what}: {shown}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
