"""The main job, end to end: simulated sessions against their truth, interrupted, spoilt, windowed."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid
from skyloom.workflows.evaluate import open_workflow
from skyloom.workflows.graph import Workflow
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import simulate_from_options
from skyloom.workflows.store import Store

ROOT = Path(__file__).resolve().parents[2]
TILE = 256
PIXELS = ("image", "weight", "variance", "count", "rejected_low", "rejected_high")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 × 2 panels × 3 frames of 400², strong gradients, clouds, cosmic rays, trails."""
    folder = tmp_path_factory.mktemp("session")
    simulate_from_options(
        folder, panels="2x2", frames=3, size=400, overlap=0.2, bands=["L"], nights=2, seed=4, raw=False
    )
    return folder


@pytest.fixture(scope="module")
def workflow() -> Workflow:
    return Workflow.load("mosaic").until("integrate").with_parameters({"integrate.tile": TILE})


@pytest.fixture(scope="module")
def undisturbed(session: Path, workflow: Workflow, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    project = tmp_path_factory.mktemp("undisturbed")
    run_workflow(workflow, session, project=project, scheduler="synchronous")
    return Store(project).open("integrate").compute()


def assert_same(one: xr.Dataset, other: xr.Dataset) -> None:
    for name in PIXELS:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)


@pytest.fixture(scope="module")
def scorer(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("score")


def scored(scorer: ModuleType, mosaic: xr.Dataset, session: Path) -> Any:
    return scorer.score(
        mosaic["image"].values[0],
        mosaic["variance"].values[0],
        Grid.from_attrs(mosaic.attrs),
        json.loads((session / "truth.json").read_text()),
        band="L",
        weight=mosaic["weight"].values[0],
    )


def test_mosaic_is_the_sky(
    session: Path, workflow: Workflow, undisturbed: xr.Dataset, scorer: ModuleType, tmp_path: Path
) -> None:
    result = scored(scorer, undisturbed, session)
    text = result.to_text()
    assert abs(result.star_bias) < 0.005, text
    assert result.star_scatter < 0.015, text
    assert result.astrometry_rms < 0.1, text
    assert result.covered > 0.97, text
    assert result.outlier_fraction < 1e-4, text
    # Gradients are hundreds of adu; no seam is no proof, so the sky under the seams is compared too.
    assert result.seam_step < 2.5, text
    run_workflow(workflow.with_parameters({"normalize.mode": "constants"}), session, project=tmp_path)
    constants = scored(scorer, Store(tmp_path).open("integrate"), session)
    assert result.sky_quadratic < constants.sky_quadratic / 4, text + "\n\nconstants:\n" + constants.to_text()


@pytest.mark.parametrize("scheduler", ["threads", "distributed"])
def test_every_scheduler_gives_the_same_pixels(
    session: Path, workflow: Workflow, undisturbed: xr.Dataset, tmp_path: Path, scheduler: str
) -> None:
    if scheduler == "threads":
        run_workflow(workflow, session, project=tmp_path, workers=3)
    else:
        import distributed

        with (
            distributed.LocalCluster(
                n_workers=2,
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            run_workflow(workflow, session, project=tmp_path, scheduler=client)
    assert_same(Store(tmp_path).open("integrate"), undisturbed)


@pytest.mark.parametrize("tile", [128, 1024])
def test_tiles_do_not_show(
    session: Path, workflow: Workflow, undisturbed: xr.Dataset, tmp_path: Path, tile: int
) -> None:
    run_workflow(workflow.with_parameters({"integrate.tile": tile}), session, project=tmp_path)
    assert_same(Store(tmp_path).open("integrate"), undisturbed)


def test_little_memory_changes_the_strips_not_the_pixels(
    session: Path, workflow: Workflow, undisturbed: xr.Dataset
) -> None:
    results = open_workflow(workflow.with_parameters({"integrate.task_memory": 4e6}), [session])
    image = results["integrate"]["image"][0, 250:300, 250:300].compute()
    np.testing.assert_array_equal(image.values, undisturbed["image"].values[0, 250:300, 250:300])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, slice, slice]]:
    """Every window read from a frame from now on."""
    from skyloom.ops.formats.fits import FitsSource

    seen: list[tuple[str, slice, slice]] = []
    original = FitsSource.read

    def read(self: Any, rows: slice, columns: slice) -> Any:
        seen.append((Path(self.path).name, rows, columns))
        return original(self, rows, columns)

    monkeypatch.setattr(FitsSource, "read", read)
    return seen


def test_a_window_reads_only_the_frames_over_its_tile(
    session: Path, workflow: Workflow, undisturbed: xr.Dataset, tmp_path: Path, reads: list[Any]
) -> None:
    """The normalization is there; previewing a corner of the mosaic touches the frames of one panel only."""
    run_workflow(workflow.until("normalize"), session, project=tmp_path)
    reads.clear()
    results = open_workflow(workflow, session, project=tmp_path)
    assert reads == [], "opening reads headers only"
    corner = results["integrate"]["image"][0, :100, :100].compute()
    np.testing.assert_array_equal(corner.values, undisturbed["image"].values[0, :100, :100])
    names = {name for name, _, _ in reads}
    assert 1 <= len(names) <= 3, names
    pixels = sum((r.stop - r.start) * (c.stop - c.start) for _, r, c in reads)
    assert pixels < 1.35 * len(names) * TILE**2, "windows, not whole frames"


def test_killed_ten_times_it_completes_identically(
    session: Path, workflow: Workflow, undisturbed: xr.Dataset, tmp_path: Path
) -> None:
    # Small tiles: 48 units in all, so that ten kills find work to interrupt.
    (tmp_path / "w.yaml").write_text(workflow.with_parameters({"integrate.tile": 128}).to_yaml())
    project = tmp_path / "p"
    command = [sys.executable, "-m", "skyloom.workflows", "run", str(tmp_path / "w.yaml"), str(session)]
    command += ["-o", str(project), "--quiet"]
    rng = random.Random(7)

    def lines() -> int:
        return sum(len(p.read_bytes().splitlines()) for p in (project / "journal").glob("*.jsonl"))

    killed = 0
    for _ in range(10):
        before = lines()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        # Let it finish a unit or two, then strike within the next.
        target = before + rng.randint(1, 2)
        while process.poll() is None and lines() < target:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        killed += process.wait() == -9
    assert killed >= 8
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0
    assert_same(Store(project).open("integrate"), undisturbed)
    done = [json.loads(line) for p in (project / "journal").glob("*.jsonl") for line in p.read_text().splitlines()]
    units = [(tuple(d["unit"]), d["checksum"]) for d in done]
    assert len(units) - len(set(units)) <= 3, "finished units are not computed again"


def spoil(session: Path, folder: Path) -> list[Path]:
    """A copy of the session with one of each kind of bad frame beside the good ones."""
    shutil.copytree(session, folder)
    (folder / "truth.json").unlink()
    good = sorted(folder.glob("*.fits"))
    data, header = fits.getdata(good[0]), fits.getheader(good[0])
    raw = good[0].read_bytes()
    (folder / "empty.fits").write_bytes(b"")
    (folder / "truncated.fits").write_bytes(raw[: len(raw) // 2])
    (folder / "pointer.fits").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")
    (folder / "text.fits").write_text("dear diary, today I saw the stars\n" * 100)
    (folder / "zz_duplicate.fits").write_bytes(raw)
    fits.writeto(folder / "cube.fits", np.stack([data] * 5), header)
    bare = fits.Header({"FILTER": "L", "IMAGETYP": "LIGHT", "EXPTIME": 60.0})
    fits.writeto(folder / "no_wcs.fits", data + 1, bare)
    fits.writeto(folder / "nan.fits", np.full_like(data, np.nan), header)
    away = header.copy()
    away["CRVAL2"] = header["CRVAL2"] - 30
    fits.writeto(folder / "far_away.fits", data + 2, away)
    return good


SAYS = {
    "empty.fits": "empty",
    "truncated.fits": "truncated",
    "pointer.fits": "LFS",
    "text.fits": "FITS",
    "zz_duplicate.fits": "same content",
    "cube.fits": "5 planes",
    "no_wcs.fits": "WCS",
    "nan.fits": "no valid pixels",
    "far_away.fits": "30.",
}


def test_bad_frames_are_listed_and_the_rest_goes_on(
    session: Path, workflow: Workflow, undisturbed: xr.Dataset, tmp_path: Path
) -> None:
    spoil(session, tmp_path / "frames")
    report = run_workflow(workflow, tmp_path / "frames", project=tmp_path / "p")
    reasons = {Path(name).name: reason for name, reason in report.left_out}
    for name, says in SAYS.items():
        assert says.lower() in reasons.pop(name).lower(), name
    assert reasons == {}
    mosaic = Store(tmp_path / "p").open("integrate")
    assert mosaic["image"].shape == undisturbed["image"].shape
    np.testing.assert_allclose(mosaic["image"].values, undisturbed["image"].values, rtol=1e-4, equal_nan=True)


def test_only_bad_frames_is_an_error_that_says_why(session: Path, workflow: Workflow, tmp_path: Path) -> None:
    for good in spoil(session, tmp_path / "frames"):
        good.unlink()
    (tmp_path / "frames" / "zz_duplicate.fits").unlink()
    for name in ("no_wcs", "far_away", "nan", "cube"):
        (tmp_path / "frames" / f"{name}.fits").unlink()
    with pytest.raises(DataError) as caught:
        run_workflow(workflow, tmp_path / "frames", project=tmp_path / "p")
    assert "\n" not in str(caught.value)
    assert "no frame to use, 4 left out" in str(caught.value)
    assert "empty.fits: empty" in str(caught.value)
    assert not (tmp_path / "p").exists()


def test_a_frame_that_goes_missing_stops_with_its_name_and_keeps_the_rest(
    session: Path, workflow: Workflow, undisturbed: xr.Dataset, tmp_path: Path
) -> None:
    frames = tmp_path / "frames"
    shutil.copytree(session, frames)
    run_workflow(workflow.until("normalize"), frames, project=tmp_path / "p")
    gone = sorted(frames.glob("*.fits"))[-1]
    content = gone.read_bytes()

    class Thief:
        """Takes the frame away when the first tile is done."""

        def node_begins(self, name: str, *, units: int, done: int) -> None:
            pass

        def unit_done(self, state: Any) -> None:
            gone.unlink(missing_ok=True)

        def node_ends(self, name: str, *, seconds: float, note: str) -> None:
            pass

        def message(self, text: str) -> None:
            pass

        def close(self) -> None:
            pass

    with pytest.raises(DataError, match=gone.name):
        run_workflow(workflow, frames, project=tmp_path / "p", workers=1, reporter=Thief())
    gone.write_bytes(content)
    run_workflow(workflow, frames, project=tmp_path / "p")
    assert_same(Store(tmp_path / "p").open("integrate"), undisturbed)
