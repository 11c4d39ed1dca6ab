"""Real frames: 2MASS tiles whose backgrounds differ by several DN become one picture (skipped where absent)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from skyloom.workflows.graph import Workflow
from skyloom.workflows.runner import run_workflow


@pytest.fixture(scope="module")
def seams(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("seams")


@pytest.mark.parametrize(
    ("name", "before", "after"),
    # Pixel noise is 0.4 DN. One pair of M42 meets in the core, fifty times as bright as the sky.
    [("2mass_m101_J", 5.0, 0.05), ("2mass_m42_J_core", 7.0, 0.45)],
)
def test_tiles_become_one_picture(
    shared_data: Callable[[str], Path], seams: ModuleType, tmp_path: Path, name: str, before: float, after: float
) -> None:
    report = run_workflow(Workflow.load("mosaic").until("integrate"), shared_data(name), project=tmp_path)
    assert report.left_out == ()
    steps = seams.steps(tmp_path)
    assert len(steps) == 17
    assert max(abs(s.before) for s in steps) > before
    assert max(abs(s.after) for s in steps) < after, [s for s in steps if abs(s.after) >= after]
    flux = seams.fluxes(tmp_path)
    assert flux.stars > 100
    assert flux.median == pytest.approx(1.0, abs=0.01)
    assert flux.scatter < 0.03
    assert np.isfinite(flux.scatter)
