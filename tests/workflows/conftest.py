"""A toy workflow without pixels from files: numbers → tiles → total."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from skyloom.configs.loader import NodeSpec
from skyloom.ops import registry
from skyloom.ops.errors import DataError
from skyloom.ops.registry import Cost, Param
from skyloom.workflows.graph import Workflow

TILE = 8


def _tile(frames: tuple[float, ...], gain: float, block_id: Any = None) -> np.ndarray:
    y, x = block_id
    return np.full((TILE, TILE), gain * sum(frames) + 100 * y + x, dtype=np.float32)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Toy ops in the registry; the dict counts how often each tile is computed and can make one fail or wait."""
    registry.all_ops()
    monkeypatch.setattr(registry, "_OPS", dict(registry._OPS))
    control: dict[str, Any] = {"computed": [], "fail": None, "wait": 0.0, "error": DataError("tile is broken")}

    @registry.register(version=1, name="toy_read")
    def toy_read(files: list[Any], *, scale: Annotated[float, Param(unit="px", low=0.0)] = 1.0) -> xr.Dataset:
        """Read numbers.

        Parameters
        ----------
        files
            Text files of one number.
        scale
            Multiplies each number.
        """
        numbers = [float(Path(f).read_text()) * scale for f in files]
        return xr.Dataset({"number": ("frame", np.array(numbers))})

    def cost(numbers: xr.Dataset, *, gain: float, tiles: int, task_memory: float) -> Cost:
        work = np.ones((tiles, tiles))
        work[0, 0] = 0.0  # a corner without data
        return Cost(work, np.full_like(work, 256.0), np.full_like(work, 1e6 * gain), 1.0)

    @registry.register(version=1, name="toy_tiles", unit=("y", "x"), cost=cost)
    def toy_tiles(
        numbers: xr.Dataset,
        *,
        gain: Annotated[float, Param(low=0.0, high=1e9)] = 2.0,
        tiles: Annotated[int, Param(low=1, high=100)] = 4,
        task_memory: Annotated[float, Param(unit="byte", execution=True)] = 1e9,
    ) -> xr.Dataset:
        """Fill tiles."""
        frames = tuple(float(n) for n in numbers["number"].values)

        def tile(block_id: Any = None) -> np.ndarray:
            control["computed"].append(tuple(block_id))
            time.sleep(control["wait"])
            if control["fail"] == tuple(block_id):
                raise control["error"]
            return _tile(frames, gain, block_id)

        image = da.map_blocks(
            tile,
            chunks=((TILE,) * tiles, (TILE,) * tiles),
            dtype=np.float32,
            meta=np.empty((0, 0), np.float32),
        )
        return xr.Dataset({"image": (("y", "x"), image)}, attrs={"units": "adu"})

    @registry.register(version=1, name="toy_total")
    def toy_total(tiles: xr.Dataset) -> xr.Dataset:
        """Add it all up."""
        return xr.Dataset({"total": ((), tiles["image"].data.sum())})

    return control


@pytest.fixture
def toy_workflow(toy: dict[str, Any]) -> Workflow:
    """Read → tiles → total."""
    return Workflow.build(
        "toy",
        [
            NodeSpec("total", "toy_total", ("tiles",)),
            NodeSpec("read", "toy_read", ("files",)),
            NodeSpec("tiles", "toy_tiles", {"numbers": "read"}),
        ],
    )


@pytest.fixture
def numbers(tmp_path: Path) -> Callable[..., list[Path]]:
    """Write number files."""

    def make(*values: float) -> list[Path]:
        paths = []
        for index, value in enumerate(values):
            path = tmp_path / f"number{index}.txt"
            path.write_text(str(value))
            paths.append(path)
        return paths

    return make
