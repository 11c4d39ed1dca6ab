"""The judge of registrations must find true places right and planted errors as large as they are."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_path = Path(__file__).parents[2] / "benchmarks" / "registration_peers.py"
_spec = importlib.util.spec_from_file_location("skyloom_registration_peers", _path)
assert _spec is not None
assert _spec.loader is not None
peers: Any = importlib.util.module_from_spec(_spec)
sys.modules["skyloom_registration_peers"] = peers
_spec.loader.exec_module(peers)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("frames")
    peers.simulate(folder, frames=3, width=500, height=400, stars=220)
    return sorted(folder.glob("*.fits"))


def _maps(files: list[Path], shift: float) -> dict[int, Any]:
    truth = json.loads((files[0].parent / "truth.json").read_text())

    def moved(frame: int) -> Any:
        right = peers.true_map(truth, frame, 0)
        return lambda p: np.add(right(p), [shift, 0.0])

    return {i: moved(i) for i in range(len(files))}


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_truth_and_stars_both_see_a_planted_shift(frames: list[Path], shift: float, tmp_path: Path) -> None:
    outcome = peers.Outcome(1.0, 1.0, 1.0, 0, _maps(frames, shift))
    np.testing.assert_allclose(peers.judge(outcome, frames, tmp_path, cfa=False), shift, atol=1e-9)
    stars = [peers.star_positions(f, cfa=False) for f in frames]
    for i in (1, 2):
        residual = peers.star_residual(stars[i], stars[0], outcome.maps[i])
        assert residual == pytest.approx(np.hypot(shift, 0.07), abs=0.07)


def test_a_wrong_place_has_no_residual(frames: list[Path]) -> None:
    stars = [peers.star_positions(f, cfa=False) for f in frames]
    assert np.isnan(peers.star_residual(stars[1], stars[0], lambda p: p + 47.0))
