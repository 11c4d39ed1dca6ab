"""A small project that was run, with results made by hand beside it whose every pixel is known."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.grid import Grid, wcs_header
from skyloom.workflows.cli import main
from skyloom.workflows.layout import Layout
from skyloom.workflows.pyramid import pyramid
from skyloom.workflows.simulate import simulate_from_options
from skyloom.workflows.store import Store
from skyloom.workflows.viewer.command import open_server
from skyloom.workflows.viewer.server import Server
from skyloom.workflows.viewer.tiles import Tiles

WORKFLOW = """
name: small
nodes:
  ingest: {inputs: [files]}
  measure: {inputs: [ingest]}
  register: {inputs: [ingest, measure]}
  normalize: {inputs: [ingest, measure, register]}
  integrate: {inputs: [ingest, register, normalize], parameters: {tile: 128}}
"""
SHAPE = (1100, 1300)
CUT = (40, 25)
"""Rows and columns that `cut` begins later than `wide`."""


def canvas(shape: tuple[int, int] = SHAPE, *, tile: int = 512, corner: tuple[int, int] = (0, 0)) -> Grid:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [84.0, 30.0]
    wcs.wcs.crpix = [600 - corner[1], 500 - corner[0]]
    wcs.wcs.cdelt = [-2.0 / 3600, 2.0 / 3600]
    return Grid(wcs_header(wcs), shape, tile)


def write_result(
    store: Store, node: str, arrays: Mapping[str, NDArray[Any]], grid: Grid, *, lead: str = "band",
    names: tuple[str, ...] = ("L", "R"), op: str = "edges", linear: bool = True, units: int | None = None,
    key: str = "k1", made_from: Mapping[str, str] | None = None,
) -> Store:  # fmt: skip
    """Write a result as a run would, all of its units or only the first few."""
    block = 1 if lead == "band" else len(names)
    data = {
        n: ((lead, "y", "x"), da.from_array(a, chunks=(block, grid.tile, grid.tile))) for n, a in arrays.items()
    }
    provenance = [{"node": n, "key": k} for n, k in (made_from or {}).items()]
    attrs = {**grid.to_attrs(), "linear": linear, "units": "adu", "provenance": json.dumps(provenance)}
    dataset = xr.Dataset(data, {lead: list(names)}, attrs)
    layout = Layout.of(dataset, (lead, "y", "x") if block == 1 else ("y", "x"), node=node)
    meta = {"op": op, "version": 1, "inputs": {}, "parameters": {}, "started": time.time()}
    writer = store.prepare(node, key, dataset, layout, meta)
    for number, unit in enumerate(layout.units()):
        if units is not None and number >= units:
            break
        regions = {v.name: v.region(unit) for v in layout.variables}
        writer.write(unit, {n: arrays[n][r] for n, r in regions.items()})
    if units is None:
        store.complete(node, key, {})
    return store


def wide_arrays() -> dict[str, NDArray[Any]]:
    """Pixels of `wide`: noise on a slope with stars; a corner and a stripe without data; few rejected."""
    rng = np.random.default_rng(7)
    x = np.arange(SHAPE[1])
    image = rng.normal(1000.0, 10.0, (2, *SHAPE)) + 0.02 * x
    for j, i in rng.integers(20, 1000, (60, 2)):
        image[:, j, i] += 4000.0
    image[1] += 300.0
    count = np.full((2, *SHAPE), 5, np.uint16)
    count[:, :90, :120] = 0
    count[:, 700:704] = 0
    low = np.zeros_like(count)
    low[:, 300:305, 400:410] = 2
    image[count == 0] = np.nan
    return {
        "image": image.astype(np.float32),
        "weight": np.where(count > 0, 0.05 * count, np.nan).astype(np.float32),
        "count": count,
        "rejected_low": low,
    }


@dataclass(frozen=True)
class Made:
    """The project, and what its results hold."""

    folder: Path
    frames: Path
    wide: dict[str, NDArray[Any]]
    picture: NDArray[np.float32]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    frames = tmp_path_factory.mktemp("frames")
    simulate_from_options(
        frames, panels="1x2", frames=2, size=160, overlap=0.3, bands=["L", "R"], nights=1, seed=2, raw=False
    )
    folder = tmp_path_factory.mktemp("view") / "my project"
    (frames / "small.yaml").write_text(WORKFLOW)
    assert main(["run", str(frames / "small.yaml"), str(frames), "-o", str(folder), "--quiet", "--no-report"]) == 0
    store = Store(folder)
    wide = wide_arrays()
    write_result(store, "wide", wide, canvas())
    part = np.s_[:, CUT[0] : CUT[0] + 800, CUT[1] : CUT[1] + 900]
    cut = {"image": wide["image"][part]}
    write_result(store, "cut", cut, canvas((800, 900), corner=CUT), made_from={"wide": "k1"})
    write_result(store, "half", wide, canvas(), units=4)
    rng = np.random.default_rng(3)
    picture = rng.uniform(0.1, 0.9, (3, *SHAPE)).astype(np.float32)
    picture[:, 500:600, 200:300] = np.nan
    shown = {"image": picture}
    write_result(
        store, "shown", shown, canvas(), lead="channel", names=("R", "G", "B"), op="stretch", linear=False
    )
    pyramid(store.open("shown"), folder)
    return Made(folder, frames, wide, picture)


@pytest.fixture
def tiles(made: Made) -> Iterator[Tiles]:
    found = Tiles(Store(made.folder))
    yield found
    found.levels.stop()


class Client:
    """Asks a server as a browser would."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cookie = f"{server.cookie}={server.token}"

    def get(
        self, path: str, *, cookie: str | None = None, host: str | None = None, method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{self.server.port}" if host is None else host)
        cookie = self.cookie if cookie is None else cookie
        if cookie:
            connection.putheader("Cookie", cookie)
        connection.endheaders()
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), data

    def json(self, path: str) -> Any:
        status, _, data = self.get(path)
        assert status == 200, data
        return json.loads(data)


@pytest.fixture(scope="module")
def client(made: Made) -> Iterator[Client]:
    server = open_server(made.folder, node="wide")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield Client(server)
    server.shutdown()
    server.server_close()
    thread.join()
