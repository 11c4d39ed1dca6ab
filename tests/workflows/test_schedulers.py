"""The same pixels on a dask cluster of processes, and clear words when there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import distributed
import numpy as np
import pytest
import xarray as xr

from skyloom.configs.loader import NodeSpec
from skyloom.ops import registry
from skyloom.ops.errors import ConfigError, DataError
from skyloom.workflows.graph import Workflow
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.schedulers import open_scheduler
from skyloom.workflows.store import Store


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> Workflow:
    """Tiles of noise that depend on their place; nothing a worker could not unpickle."""
    registry.all_ops()
    monkeypatch.setattr(registry, "_OPS", dict(registry._OPS))

    @registry.register(version=1, name="noisy_read")
    def noisy_read(files: list[Any]) -> xr.Dataset:
        """Read nothing."""
        return xr.Dataset({"size": ("frame", np.array([len(f) for f in files]))})

    @registry.register(version=1, name="noisy_tiles", unit=("y", "x"))
    def noisy_tiles(read: xr.Dataset, *, broken: bool = False) -> xr.Dataset:
        """Make noise."""
        rng = da.random.default_rng(int(read["size"].sum()))
        noise = rng.normal(size=(64, 96), chunks=(32, 32)).astype(np.float32)
        if broken:
            noise = noise.map_blocks(np.reshape, (1,), dtype=np.float32, meta=np.empty((0, 0), np.float32))
        return xr.Dataset({"image": (("y", "x"), noise)})

    return Workflow.build(
        "noisy", [NodeSpec("read", "noisy_read", ("files",)), NodeSpec("tiles", "noisy_tiles", ("read",))]
    )


def test_all_schedulers_give_the_same_pixels(client: Any, noisy: Workflow, tmp_path: Path) -> None:
    images: list[np.ndarray] = []
    for scheduler in ("synchronous", "threads", client, client.scheduler.address):
        project = tmp_path / f"p{len(images)}"
        run_workflow(noisy, ["abc"], project=project, scheduler=scheduler)
        images.append(Store(project).open("tiles")["image"].values)
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])


def test_an_error_on_a_worker_is_one_line_too(client: Any, noisy: Workflow, tmp_path: Path) -> None:
    broken = noisy.with_parameters({"tiles.broken": True})
    with pytest.raises((DataError, ValueError), match="reshape"):
        run_workflow(broken, ["abc"], project=tmp_path / "p", scheduler=client)


def test_no_scheduler_there_is_said_clearly() -> None:
    with (
        pytest.raises(ConfigError, match=r"no dask scheduler answers at tcp://127.0.0.1:9"),
        open_scheduler("tcp://127.0.0.1:9"),
    ):
        pass
    with pytest.raises(ConfigError, match="use synchronous, threads or the address"), open_scheduler("thread"):
        pass
