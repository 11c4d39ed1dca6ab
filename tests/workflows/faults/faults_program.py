"""skyloom with ops that misbehave on demand: files in a folder say which task does what, in any process.

Started as a program it is the command line; tests load it for its ops.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.registry import register
from skyloom.ops.unit_keys import digest

TILE, TILES = 64, 4

WORKFLOW = """
nodes:
  ingest: {inputs: [files], parameters: {take: all}}
  sums: {op: fault_sums, inputs: {session: ingest}}
  tiles: {op: fault_tiles, inputs: {sums: sums}}
"""


def folder() -> Path:
    """Where the files lie that say what is to happen, and where the tasks note what they did."""
    return Path(os.environ["SKYLOOM_FAULTS"])


def misbehave(name: str) -> None:
    """Do what a file `<what>-<name>` says; `<what>-once-<name>` only the first time."""
    for what in ("hang", "kill", "stop", "wait", "fill", "oserror"):
        once = folder() / f"{what}-once-{name}"
        if (folder() / f"{what}-{name}").exists():
            _do(what)
        try:
            once.unlink()
        except FileNotFoundError:
            continue
        _do(what)


def _do(what: str) -> None:
    if what == "hang":
        time.sleep(600)
    if what == "wait":
        time.sleep(1.0)
    if what == "oserror":
        raise OSError(5, "Input/output error")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        # As a worker without network: it does nothing for a while, and goes on where it was.
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "fill":
        with (folder() / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass


def note(name: str) -> None:
    """Write down that a task is at work."""
    with (folder() / "done").open("a") as file:
        file.write(f"{name}\n")


def frame_sum(spec: str) -> np.ndarray:
    """Sum of a frame; one that cannot be read has none, as in `measure`."""
    source = open_source(spec)
    try:
        pixels = source.read(*(slice(0, n) for n in source.shape))
    except DataError:
        return np.full(1, np.nan)
    note(f"sum {pixels.sum():.0f}")
    return np.array([pixels.sum(dtype=np.float64)])


def tile(_: np.ndarray, total: np.ndarray, block_id: Any = None) -> np.ndarray:
    """Noise that depends on the place and on all frames."""
    name = "-".join(map(str, block_id))
    note(f"tile {name}")
    misbehave(name)
    rng = np.random.default_rng(list(block_id))
    return (rng.normal(size=(TILE, TILE)) + float(np.asarray(total).sum())).astype(np.float32)


def define() -> None:
    """Register the ops."""

    def keys(session: xr.Dataset) -> Any:
        return np.array([digest(f) for f in session["frame"].values.tolist()], dtype=np.str_)

    @register(version=1, unit=("frame",), keys=keys, lasting=lambda a: bool(np.isfinite(a["sum"]).all()))
    def fault_sums(session: xr.Dataset) -> xr.Dataset:
        """Add up frames."""
        specs = session["source"].values.tolist()
        name = f"sums-{tokenize(specs)}"
        graph = {(name, i): (frame_sum, spec) for i, spec in enumerate(specs)}
        sums = da.Array(graph, name, chunks=((1,) * len(specs),), dtype=np.float64)
        return xr.Dataset({"sum": ("frame", sums)}, coords={"frame": session["frame"]})

    @register(version=1, unit=("y", "x"))
    def fault_tiles(sums: xr.Dataset, *, gain: float = 1.0) -> xr.Dataset:
        """Make tiles.

        Parameters
        ----------
        gain
            Multiplies the sum.
        """
        total = sums["sum"].data.sum() * gain
        blocks = da.zeros((TILE * TILES, TILE * TILES), chunks=TILE, dtype=np.float32)
        image = da.map_blocks(partial(tile), blocks, total, dtype=np.float32, meta=np.empty((0, 0), np.float32))
        return xr.Dataset({"image": (("y", "x"), image)})


if __name__ == "__main__":
    from skyloom.workflows.cli import main

    define()
    sys.exit(main(sys.argv[1:]))
