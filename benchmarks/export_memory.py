"""Peak memory of exports of a huge canvas: a store that is empty but for some tiles, each format in a process.

    python benchmarks/export_memory.py [--side 60000] [--tile 2048] [--channels 1] [--linear]
                                       [--formats tiff,fits,xisf,png,jpeg] [--limit 2GiB] [--keep FOLDER]

A 60,000 × 60,000 TIFF of 16 bits is 7.2 GB, of three channels 21.6 GB, a FITS file of floats 14.4 GB a channel;
each is deleted before the next is written. `--linear`: bands of a linear mosaic; else the channels of a stretched
picture. Exit code 1 if a process takes more than the limit.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FILLED = 24
"""Tiles with pixels."""


def build(project: Path, *, side: int, tile: int, channels: int, linear: bool) -> None:
    """Lay out a result and write the tiles of a diagonal."""
    import dask.array as da
    import numpy as np
    import xarray as xr
    from astropy.wcs import WCS

    from skyloom.ops.grid import Grid, wcs_header
    from skyloom.workflows.layout import Layout
    from skyloom.workflows.store import Store

    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cd = np.diag([-1.0, 1.0]) / 3600
    wcs.wcs.set()
    grid = Grid(wcs_header(wcs), (side, side), tile)
    lead = "band" if linear else "channel"
    names = list("RGB") if channels == 3 else ["L"]
    block = (1 if linear else channels, tile, tile)
    image = da.empty((channels, side, side), chunks=block, dtype=np.float32)
    arrays: dict[str, Any] = {"image": ((lead, "y", "x"), image)}
    if not linear:
        arrays["clipped"] = (("y", "x"), da.empty((side, side), chunks=tile, dtype=np.uint8))
    dataset = xr.Dataset(arrays, {lead: names}, {**grid.to_attrs(), "linear": linear, "units": "adu"})
    store = Store(project)
    store.create()
    layout = Layout.of(dataset, (lead, "y", "x") if linear else ("y", "x"), node="picture")
    writer = store.prepare("picture", "k", dataset, layout, {"op": "stretch"})
    rng = np.random.default_rng(1)
    count = grid.tiles[0]
    for number in range(0, count, max(1, count // FILLED)):
        rows, columns = grid.window(number, count - 1 - number)
        for band in range(channels if linear else 1):
            shape = (block[0], rows.stop - rows.start, columns.stop - columns.start)
            pixels = rng.uniform(0, 1, shape).astype(np.float32)
            unit = (band, number, count - 1 - number) if linear else (number, count - 1 - number)
            flags = {} if linear else {"clipped": np.zeros(shape[1:], np.uint8)}
            writer.write(unit, {"image": pixels, **flags})
    store.complete("picture", "k", {})


def write(project: Path, directory: Path, form: str) -> None:
    """Export one format and say how much memory the process took."""
    import resource
    import time

    from skyloom.workflows.export import export
    from skyloom.workflows.store import Store

    begin = time.perf_counter()
    made = export(Store(project).open("picture"), directory, formats=[form])
    seconds = time.perf_counter() - begin
    size = sum(p.stat().st_size for p in made)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, size, seconds)


def size_of(text: str) -> float:
    """Bytes of a text such as 2GiB."""
    units = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    return float(text[:-3]) * units[text[-3:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=60000)
    parser.add_argument("--tile", type=int, default=2048)
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--formats", default="tiff,fits,xisf,png,jpeg")
    parser.add_argument("--limit", default="2GiB")
    parser.add_argument("--linear", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("PROJECT", "OUTPUTS", "FORMAT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        project, directory, form = options.one
        write(Path(project), Path(directory), form)
        return
    folder = options.keep or Path(tempfile.mkdtemp(prefix="export-"))
    project, outputs = folder / "project", folder / "outputs"
    over = False
    try:
        build(project, side=options.side, tile=options.tile, channels=options.channels, linear=options.linear)
        for form in options.formats.split(","):
            outputs.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, __file__, "--one", str(project), str(outputs), form]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            peak, size, seconds = (float(part) for part in answer.split())
            over |= peak > size_of(options.limit)
            print(
                f"{form}: {options.side} × {options.side} × {options.channels}, "
                f"{size / 1e9:.2f} GB in {seconds:.0f} s, "
                f"peak {peak / 2**20:.0f} MiB, limit {options.limit}",
                flush=True,
            )
            if not options.keep:
                shutil.rmtree(outputs)
    finally:
        if not options.keep:
            shutil.rmtree(folder)
    sys.exit(int(over))


if __name__ == "__main__":
    main()
