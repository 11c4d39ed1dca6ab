"""The comparison with the truth itself: it sees what is put in, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "registration_truth.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("registration_truth", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def sky(count: int) -> np.ndarray:
    v = np.random.default_rng(1).normal(0, 0.01, (count, 3)) + np.array([0.6, 0.0, 0.8])
    return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True))


def test_a_turned_and_stretched_whole_has_no_error(benchmark: ModuleType) -> None:
    true = sky(400)
    angle = 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    middle = true.mean(axis=0) / np.linalg.norm(true.mean(axis=0))
    wider = true + 1e-4 * (true - middle)
    mine = wider / np.linalg.norm(wider, axis=1, keepdims=True) @ turn.T
    assert np.abs(benchmark.errors(mine, true)).max() < 1e-7


def test_what_lies_wrong_is_seen_and_turns_nothing_else(benchmark: ModuleType) -> None:
    true = sky(400)
    mine = true.copy()
    mine += np.random.default_rng(2).normal(0, 1e-6, mine.shape)
    mine[:20] += (0.0, 3e-3, 0.0)
    away = np.hypot(*benchmark.errors(mine, true).T)
    np.testing.assert_allclose(away[:20], 3e-3, rtol=0.01)
    assert away[20:].max() < 1e-5
