"""Frames, a workflow whose tasks misbehave on demand, and what its result should be."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from skyloom.ops import registry
from skyloom.workflows.graph import Workflow
from skyloom.workflows.store import Store

PROGRAM = Path(__file__).with_name("faults_program.py")


@pytest.fixture(scope="session")
def program() -> ModuleType:
    """The module of the ops."""
    spec = importlib.util.spec_from_file_location(PROGRAM.stem, PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Faults:
    """A folder of frames, one of orders to the tasks, and a project."""

    def __init__(self, base: Path, program: ModuleType) -> None:
        self.base, self.program = base, program
        self.frames, self.orders, self.project = base / "frames", base / "orders", base / "p"
        self.frames.mkdir()
        self.orders.mkdir()
        self.yaml = base / "faults.yaml"
        self.yaml.write_text(program.WORKFLOW)
        for i in range(4):
            self.write(i, i + 1)

    @property
    def workflow(self) -> Workflow:
        return Workflow.load(str(self.yaml))

    def frame(self, index: int) -> Path:
        return self.frames / f"frame{index}.fits"

    def write(self, index: int, value: int) -> None:
        """A frame of one value."""
        fits.PrimaryHDU(np.full((20, 30), value, np.float32)).writeto(self.frame(index), overwrite=True)

    def order(self, what: str) -> Path:
        path = self.orders / what
        path.touch()
        return path

    def done(self) -> list[str]:
        """What tasks did, in order."""
        path = self.orders / "done"
        return path.read_text().splitlines() if path.exists() else []

    def forget(self) -> None:
        (self.orders / "done").unlink(missing_ok=True)

    def image(self, project: Path | None = None) -> np.ndarray:
        return np.asarray(Store(project or self.project).open("tiles")["image"].values)

    def expected(self, total: float = 600.0 * (1 + 2 + 3 + 4)) -> np.ndarray:
        """The image, made without dask, store or runner."""
        n, tile = self.program.TILES, self.program.TILE
        rows = [
            np.hstack([np.random.default_rng([y, x]).normal(size=(tile, tile)) + total for x in range(n)])
            for y in range(n)
        ]
        return np.vstack(rows).astype(np.float32)

    def command(self, *more: str) -> list[str]:
        return [
            *(sys.executable, str(PROGRAM), "run", str(self.yaml), str(self.frames), "-o", str(self.project)),
            *("--no-report", *more),
        ]

    def start(self, *more: str) -> subprocess.Popen[str]:
        """The command line as a process of its own."""
        return subprocess.Popen(
            self.command(*more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
        )


@pytest.fixture
def faults(tmp_path: Path, program: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Faults:
    registry.all_ops()
    monkeypatch.setattr(registry, "_OPS", dict(registry._OPS))
    program.define()
    made = Faults(tmp_path, program)
    monkeypatch.setenv("SKYLOOM_FAULTS", str(made.orders))
    return made


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for something to come true."""
    import time

    def wait(true: Callable[[], Any], *, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)

    return wait
