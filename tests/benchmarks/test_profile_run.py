"""The profile of a run: time is booked to the node that spent it, and functions come by their own cost."""

from __future__ import annotations

import cProfile
import importlib.util
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from skyloom.workflows import runner

_path = Path(__file__).parents[2] / "benchmarks" / "profile_run.py"
_spec = importlib.util.spec_from_file_location("skyloom_profile_run", _path)
assert _spec is not None
assert _spec.loader is not None
profiling: Any = importlib.util.module_from_spec(_spec)
sys.modules["skyloom_profile_run"] = profiling
_spec.loader.exec_module(profiling)


def spin(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def count() -> int:
    total = 0
    for k in range(1_000_000):
        total += k & 3
    return total


def outer() -> int:
    return count()


def test_time_is_booked_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_node(self: Any, planned: Any, steps: Any) -> str:
        spin(0.08 if planned.plan.name == "integrate" else 0.01)
        return str(planned.plan.name)

    monkeypatch.setattr(runner.Run, "_run_node", run_node)
    spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    run: Any = object.__new__(runner.Run)
    with profiling.watched(spent, None, ()):
        for name in ("measure", "integrate"):
            spin(0.02)
            assert run._run_node(SimpleNamespace(plan=SimpleNamespace(name=name)), {}) == name
    assert list(spent) == ["between", "measure", "integrate"]
    cpu = {n: c for n, (_, c) in spent.items()}
    assert cpu["integrate"] >= 0.08
    assert cpu["between"] >= 0.04
    assert all(seconds > 0 for seconds, _ in spent.values())
    assert vars(runner.Run)["_run_node"] is run_node


def test_functions_come_by_their_own_time() -> None:
    profile = cProfile.Profile(time.thread_time)
    profile.enable()
    outer()
    profile.disable()
    rows = profiling.functions(profile, 3)
    assert rows[0][0] == f"benchmarks/{Path(__file__).stem} count"
    assert rows[0][1] == 1
    assert rows[0][2] > 0.005
    assert [r[2] for r in rows] == sorted((r[2] for r in rows), reverse=True)
    assert len(rows) <= 3
