"""A folder as it comes off the camera: right links, told faults, calibrated pixels equal to the truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from skyloom.ops.calibration.link import link
from skyloom.ops.errors import DataError
from skyloom.ops.session.ingest import ingest
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.faults import FAULTS
from skyloom.ops.simulation.headers import DIALECTS
from skyloom.ops.simulation.presets import raw_conditions, second_rig
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel
from skyloom.workflows.simulate import simulate_session


@pytest.fixture(scope="module")
def scoring(benchmark_script: Callable[[str], ModuleType]) -> Any:
    return benchmark_script("calibrated_truth")


def raw_session(size: int = 320, **changes: Any) -> SimulatedSession:
    """One panel in R, G and B over two nights of different gain and temperature."""
    session = SimulatedSession(
        seed=12,
        panels=(1, 1),
        frames=4,
        bands=("R", "G", "B"),
        nights=2,
        pixel_scale=4.0,
        fwhm=(2.0, 2.6),
        linear=0.25,
        camera=Camera(height=size, width=size),
        sky=SkyModel(seed=12, extent=0.2, coarsest=0.3, nebula=15.0, finest=32.0),
    )
    return replace(raw_conditions(session), **changes)


def write(folder: Path, session: SimulatedSession) -> dict[str, Any]:
    simulate_session(folder, session)
    truth: dict[str, Any] = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    return truth


@pytest.fixture(scope="module")
def spoilt(scoring: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Score of a session with every fault there is, shuffled and renamed."""
    folder = tmp_path_factory.mktemp("spoilt")
    truth = write(folder, raw_session(faults=tuple(FAULTS), layout="scattered", dialect="nina"))
    return scoring.score(truth, *scoring.calibrate_here(folder))


def test_every_link_is_right(spoilt: Any) -> None:
    assert spoilt.wrong_links == []
    # 11 lights (one file is broken) with bias, dark, flat; 5 sets of flats with flat-dark and bias.
    assert len(spoilt.links) == 11 * 3 + 5 * 2


def test_every_fault_is_told(spoilt: Any) -> None:
    said = {f.name: f.text for f in spoilt.faults if f.reported}
    assert set(said) == set(FAULTS)
    assert "there is none of 2026-01-10" in said["missing-flat"]
    assert "dark 120 s" in said["wrong-dark"]
    assert "320 × 160" in said["odd-size"]
    assert "truncated" in said["broken-file"]
    assert "same content" in said["twin"]


def test_calibrated_frames_are_the_truth_within_the_noise(spoilt: Any) -> None:
    marks, text = spoilt.summary(), spoilt.to_text()
    assert marks["clean_frames"] == 6, text
    assert marks["chi2"] == pytest.approx(1.0, abs=0.02), text
    # The dark that is too short is scaled, and as good.
    assert marks["chi2_by_fault"]["wrong-dark"] == pytest.approx(1.0, abs=0.02), text
    assert marks["dust_worst"] < 0.002 + 3.0 * marks["dust_error"], text
    assert marks["dust_rms"] < 1.5 * marks["dust_noise"], text
    assert marks["hot"] > 100, text
    assert marks["hot_left"] == marks["saturated_left"] == 0, text
    assert marks["lost"] < 1e-4, text
    assert abs(marks["sky_bias"]) < 4.0 * marks["sky_bias_error"], text


def test_broken_links_are_refused_unless_allowed(tmp_path: Path) -> None:
    write(tmp_path, raw_session(64, faults=("wrong-dark", "odd-size"), calibration_frames=3))
    session = ingest([tmp_path], take="all")
    with pytest.raises(DataError, match=r"no dark fits.*not 180 s"):
        link(session)
    kept = link(session, on_broken="leave_out")
    assert (~kept["use"].values).sum() == 3


@pytest.mark.parametrize("dialect", DIALECTS)
def test_links_are_right_in_every_dialect(scoring: Any, tmp_path: Path, dialect: str) -> None:
    session = raw_session(
        64, faults=tuple(FAULTS), layout="typed", dialect=dialect, flat_darks=True, calibration_frames=3
    )
    truth = write(tmp_path, session)
    table = ingest([tmp_path], take="all")
    links = link(table, on_broken="without", scale_darks="when_needed")
    wrong = [item for item in scoring.score_links(truth, table, links) if item.verdict in ("wrong", "short")]
    assert wrong == []
    assert all(f.reported for f in scoring.score_faults(truth, table, links))


def test_two_rigs_do_not_mix(scoring: Any, tmp_path: Path) -> None:
    session = raw_session(64, layout="shuffled", frames=2, calibration_frames=3)
    session = replace(session, rigs=(replace(second_rig(session), dialect="maxim"),))
    truth = write(tmp_path, session)
    table = ingest([tmp_path], take="all")
    result = scoring.score_links(truth, table, link(table))
    assert len(result) == 2 * (6 * 3 + 6 * 2)
    assert [item for item in result if item.verdict != "right"] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"bands": ("CFA",), "exposures": (), "dialect": "maxim", "camera": {"bayer": "GRBG"}},
        {"pedestal": 100.0, "bands": ("R",), "exposures": ()},
        {"pedestal": 100.0, "bands": ("R",), "exposures": (), "camera": {"overscan": 16, "drift": 3.0}},
    ],
)
def test_colour_sensors_and_pedestals(scoring: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    session = raw_session(256, frames=2)
    camera = replace(session.camera, **changes.pop("camera", {}))
    truth = write(tmp_path, replace(session, camera=camera, **changes))
    result = scoring.score(truth, *scoring.calibrate_here(tmp_path))
    marks, text = result.summary(), result.to_text()
    assert marks["chi2"] == pytest.approx(1.0, abs=0.02), text
    assert abs(marks["sky_bias"]) < 4.0 * marks["sky_bias_error"], text
    assert marks["hot_left"] == 0, text
