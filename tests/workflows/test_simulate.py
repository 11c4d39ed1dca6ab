"""A session on disk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from skyloom.ops.errors import ConfigError
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.simulate import SimulatedSession, demo_session
from skyloom.workflows.cli import main
from skyloom.workflows.simulate import (
    image_size,
    placing_options,
    raw_options,
    session_from_options,
    simulate_from_options,
    simulate_session,
)

OPTIONS = {
    "panels": "1x2",
    "frames": 2,
    "size": 96,
    "overlap": 0.2,
    "bands": ["L"],
    "nights": 1,
    "seed": 2,
    "raw": False,
}


def test_files_hold_the_frames_and_the_truth(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    paths = simulate_from_options(tmp_path, **OPTIONS, progress=lambda *p: seen.append(p))  # type: ignore[arg-type]
    assert seen == [(n, 4) for n in range(1, 5)]
    assert sorted(tmp_path.iterdir()) == sorted([*paths, tmp_path / "truth.json"])
    truth = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    session = SimulatedSession.from_dict(truth["session"])
    for path, frame in zip(paths, truth["frames"], strict=True):
        with fits.open(path) as hdus:
            assert np.array_equal(hdus[0].data, session.render(frame["index"]))
            assert hdus[0].data.dtype == np.dtype(">f4")
            assert hdus[0].header["IMAGETYP"] == "LIGHT"
            assert hdus[0].header["EGAIN"] == frame["gain"]
            given = WCS(hdus[0].header).wcs_pix2world([[10.0, 20.0]], 0)
        expected = WCS(fits.Header.fromstring(frame["wcs"], sep="\n")).wcs_pix2world([[10.0, 20.0]], 0)
        np.testing.assert_allclose(given, expected, atol=1e-9)


def test_bytes_repeat(tmp_path: Path) -> None:
    session = session_from_options(**OPTIONS)  # type: ignore[arg-type]
    one = simulate_session(tmp_path / "a", session, workers=1)
    two = simulate_session(tmp_path / "b", session, workers=3)
    assert [p.name for p in one] == [p.name for p in two]
    for a, b in zip([*one, tmp_path / "a/truth.json"], [*two, tmp_path / "b/truth.json"], strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_raw_sessions_have_folders(tmp_path: Path) -> None:
    session = demo_session(
        panels=(1, 1), frames=1, bands=("R",), nights=1, calibration_frames=2, camera=Camera(height=48, width=64)
    )
    simulate_session(tmp_path, session)
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.fits"))
    assert found == [
        "bias/bias_n0_000.fits",
        "bias/bias_n0_001.fits",
        "dark/dark_120s_n0_000.fits",
        "dark/dark_120s_n0_001.fits",
        "flat/flat_R_n0_000.fits",
        "flat/flat_R_n0_001.fits",
        "light_r0c0_R_n0_000.fits",
    ]
    with fits.open(tmp_path / "bias/bias_n0_000.fits") as hdus:
        assert hdus[0].header["BITPIX"] == 16
        assert np.array_equal(hdus[0].data, session.render(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"panels": "3"}, "ROWSxCOLUMNS"), ({"size": 16}, "too small"), ({"bands": ["Q"]}, "no band 'Q'")],
)
def test_wrong_options_are_one_line(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate_from_options(tmp_path, **(OPTIONS | change))  # type: ignore[arg-type]


def test_faults_of_files_are_planted(tmp_path: Path) -> None:
    session = raw_options(
        session_from_options(**(OPTIONS | {"bands": ["R", "B"], "nights": 2, "raw": True})),  # type: ignore[arg-type]
        faults=True,
        layout="scattered",
    )
    paths = simulate_session(tmp_path, session)
    truth = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    faults = {f["name"]: f for f in truth["faults"]}
    whole = paths[0].stat().st_size
    assert (tmp_path / faults["broken-file"]["lights"][0]).stat().st_size == whole * 2 // 3
    assert (tmp_path / faults["twin"]["files"][0]).read_bytes() == paths[0].read_bytes()
    with fits.open(tmp_path / faults["odd-size"]["lights"][0]) as hdus:
        assert hdus[0].data.shape == (48, 96)
    found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.fits")}
    assert found == {f["path"] for f in truth["files"]} | set(faults["twin"]["files"])


def test_raw_options_need_raw_frames() -> None:
    session = session_from_options(**OPTIONS)  # type: ignore[arg-type]
    assert raw_options(session) == session
    for change in ({"faults": True}, {"dialect": "nina"}, {"rigs": 2}, {"overscan": 8}, {"pedestal": 10.0}):
        with pytest.raises(ConfigError, match=r"--raw|raw sessions only"):
            raw_options(session, **change)
    with pytest.raises(ConfigError, match="--rigs 3"):
        raw_options(session, rigs=3)


def test_command_line_makes_raw_sessions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "raw"
    arguments = "--panels 1x1 --frames 2 --size 64 --nights 1 --raw --layout shuffled --dialect nina --overscan 8"
    assert (
        main(["simulate", str(folder), *arguments.split(), "--pedestal", "50", "--flat-darks", "--rigs", "2"]) == 0
    )
    assert "truth.json" in capsys.readouterr().out
    truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))
    assert {f["kind"] for f in truth["files"]} == {"light", "bias", "dark", "flat", "flatdark"}
    assert {f["rig"] for f in truth["files"]} == {0, 1}
    header = fits.getheader(folder / truth["files"][0]["path"])
    assert header["SWCREATE"].startswith("N.I.N.A.")
    assert (header["BIASSEC"], header["PEDESTAL"]) == ("[1:8,1:64]", 50.0)
    assert main(["simulate", str(folder), "--dialect", "nina"]) == 2
    assert "need --raw" in capsys.readouterr().err


def test_frames_that_are_hard_to_place(tmp_path: Path) -> None:
    arguments = "--panels 1x2 --frames 2 --size 96 --no-wcs --flip --turn 2 --dither 3 --barrel 5"
    arguments += " --second-camera 1.02 --stars 30 --hot 0.001 --bad 4"
    assert main(["simulate", str(tmp_path), *arguments.split()]) == 0
    truth = json.loads((tmp_path / "truth.json").read_text(encoding="utf-8"))
    session = SimulatedSession.from_dict(truth["session"])
    assert (session.solved, session.flip, session.turns, session.bad) == (False, True, True, 4)
    assert (session.rotation_jitter, session.dither, session.barrel) == (2.0, 3.0, 5.0)
    assert session.camera.hot_fraction == session.rigs[0].camera.hot_fraction == 0.001
    assert [bool(f["bad"]) for f in truth["frames"]] == [False] * 4 + [True] * 4
    plain = session_from_options(**OPTIONS)  # type: ignore[arg-type]
    assert placing_options(plain) == plain
    with pytest.raises(ConfigError, match="--bad -1"):
        placing_options(plain, bad=-1)
    with pytest.raises(ConfigError, match="--second-camera 9"):
        placing_options(plain, second_scale=9)


def test_stars_asked_for_are_found(tmp_path: Path) -> None:
    from skyloom.ops.measurement.measure import measure_frame

    plain = session_from_options(**OPTIONS | {"size": 512, "nights": 1})  # type: ignore[arg-type]
    session = placing_options(plain, stars=80)
    image = np.ascontiguousarray(session.render(0), dtype=np.float32)
    assert 40 < len(measure_frame(image).stars) < 120


def test_lazy_writes_no_frames_and_plans_like_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ["--panels", "2x3", "--frames", "2", "--size", "640x480", "--scale", "3", "--overlap", "0.1"]
    assert main(["simulate", str(tmp_path / "lazy"), "--lazy", *job]) == 0
    assert "12 frames in" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "lazy").iterdir()) == ["session.sky", "truth.json"]
    assert main(["plan", "mosaic", str(tmp_path / "lazy"), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["frames"] == 12
    assert plan["canvas"]["pixel_scale"] == pytest.approx(3.0, abs=0.01)
    # Three panels of 640 px across, two of 480 up, a tenth over each other; dither and turns add some.
    rows, columns = plan["canvas"]["shape"]
    assert 1792 < columns < 1880
    assert 912 < rows < 1000


def test_size_of_a_frame_is_one_number_or_two() -> None:
    assert image_size("512") == (512, 512)
    assert image_size("6248x4176") == image_size(" 6248 × 4176 ") == (6248, 4176)
    with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
        image_size("large")
    session = session_from_options(**(OPTIONS | {"size": (640, 480), "scale": 0.5}))  # type: ignore[arg-type]
    assert (session.camera.width, session.camera.height, session.pixel_scale) == (640, 480, 0.5)
    with pytest.raises(ConfigError, match="--scale 0"):
        session_from_options(**OPTIONS, scale=0.0)  # type: ignore[arg-type]


def test_faults_of_files_need_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(tmp_path), "--lazy", "--raw", "--faults"]) == 2
    assert "--lazy makes none" in capsys.readouterr().err
