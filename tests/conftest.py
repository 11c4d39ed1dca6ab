"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# The same examples in every run: a test that fails one time in a thousand tells nobody anything.
settings.register_profile("skyloom", derandomize=True)
settings.load_profile("skyloom")

# As the command line does: pools of BLAS threads fight with the tasks for the cores.
for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Folder of real frames beside the checkout; a plain clone has none and skips."""
    base = Path(os.environ.get("SKYLOOM_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        folder = base / name
        if not folder.exists():
            pytest.skip(f"no real frames here ({name}); set SKYLOOM_DATA to their folder")
        return folder

    return find


@pytest.fixture(scope="session")
def benchmark_script() -> Callable[[str], ModuleType]:
    """Scripts of benchmarks/ as modules, by name."""

    def load(name: str) -> ModuleType:
        key = f"skyloom_benchmark_{name}"
        if key in sys.modules:
            return sys.modules[key]
        spec = importlib.util.spec_from_file_location(key, ROOT / "benchmarks" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        # Dataclasses look their module up by its name.
        module = sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
