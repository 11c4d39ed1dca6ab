"""From raw frames in a folder to the mosaic, by preset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.workflows.evaluate import open_workflow
from skyloom.workflows.graph import Workflow
from skyloom.workflows.plan import make_plan
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import session_from_options, simulate_session
from skyloom.workflows.store import Store


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A raw session of a colour sensor: two panels, with all its calibration frames, its WCS taken away."""
    folder = tmp_path_factory.mktemp("colour")
    options = session_from_options(
        panels="1x2", frames=3, size=512, overlap=0.25, bands=["CFA"], nights=1, seed=3, raw=True
    )
    simulate_session(folder, options)
    for path in folder.glob("*.fits"):
        with fits.open(path, mode="update") as hdus:
            for keyword in [k for k in hdus[0].header if k.startswith(("CTYPE", "CRVAL", "CRPIX", "CD", "PC"))]:
                del hdus[0].header[keyword]
    return folder


@pytest.fixture(scope="module")
def project(colour: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    run_workflow(Workflow.load("raw"), [colour], project=folder, scheduler="threads", workers=2)
    return folder


def test_raw_frames_become_a_colour_mosaic(project: Path) -> None:
    mosaic = Store(project).open("integrate")
    assert mosaic["band"].values.tolist() == ["B", "G", "R"]
    depth = mosaic["count"].values
    assert depth.max() == 3 + 3
    image = mosaic["image"].values
    # Bias, dark and flat are gone: what is left is the sky of the colour planes, not the pedestal of 500.
    assert 500 < np.nanmedian(image) < 2000
    location = Store(project).open("locate")
    assert set(location["origin"].values.tolist()) == {"stars"}
    assert (location["residual"].values < 0.5).all()
    assert (project / "outputs" / "links.svg").read_text().startswith("<svg")
    assert (project / "outputs" / "mosaic.png").stat().st_size > 1000


def test_nothing_is_done_twice_and_a_changed_calibration_redoes_what_follows(colour: Path, project: Path) -> None:
    again = run_workflow(Workflow.load("raw"), [colour], project=project, scheduler="synchronous")
    assert all(n.units == 0 for n in again.nodes)
    changed = Workflow.load("raw").with_parameters({"calibrate.saturated": "keep"}).until("measure")
    plan = {n.name: n for n in make_plan(changed, [colour], project=project).nodes}
    assert plan["masters"].stored
    assert plan["flats"].stored
    assert not plan["measure"].stored


def test_the_plan_says_what_it_cannot_know_yet(colour: Path) -> None:
    plan = make_plan(Workflow.load("raw"), [colour])
    assert plan.later == ("place", "register", "normalize", "integrate", "export")
    assert plan.canvas is None


def test_calibrated_frames_come_out_when_asked_for(colour: Path, tmp_path: Path) -> None:
    workflow = Workflow.load("raw").until("calibrate", write=True)
    report = run_workflow(workflow, [colour], project=tmp_path / "p", scheduler="threads", workers=2)
    files = [p for p in report.outputs if p.suffix == ".fits"]
    assert len(files) == 6
    session = open_workflow(workflow, [colour], project=tmp_path / "p")["calibrate"]
    source = open_source(str(session["source"].values[0]))
    expected = source.read(slice(0, source.shape[0]), slice(0, source.shape[1]))
    with fits.open(tmp_path / "p" / "outputs" / "frames" / files[0].name) as hdus:
        np.testing.assert_array_equal(hdus[0].data, expected)
        assert hdus[0].header["BAYERPAT"] == "RGGB"
        assert "dark" in str(hdus[0].header["HISTORY"])


def test_a_window_of_the_lazy_workflow_equals_the_run(colour: Path, project: Path) -> None:
    """Nothing stored: masters, flats and calibration are computed for the window."""
    lazy = open_workflow(Workflow.load("raw").until("calibrate"), [colour])["calibrate"]
    stored = open_workflow(Workflow.load("raw").until("calibrate"), [colour], project=project)["calibrate"]
    window = slice(100, 140), slice(200, 260)
    one, other = (open_source(str(s["source"].values[0])).read(*window) for s in (lazy, stored))
    np.testing.assert_array_equal(one, other)


def test_lights_alone_are_taken_as_they_are(colour: Path, tmp_path: Path) -> None:
    lights = sorted(colour.glob("*.fits"))[:3]
    run_workflow(Workflow.load("raw").until("measure"), lights, project=tmp_path / "p", scheduler="synchronous")
    summary = Store(tmp_path / "p").open("measure")["summary"].values
    assert len(summary) == 9
    assert (summary[:, -1] != 2).all()


def test_a_broken_link_stops_the_run_unless_told_otherwise(colour: Path, tmp_path: Path) -> None:
    files = [p for p in colour.rglob("*.fits") if p.parent.name != "flat"]
    odd = tmp_path / "odd_flat.fits"
    fits.writeto(
        odd,
        np.full((100, 100), 20000, np.uint16),
        fits.Header({"IMAGETYP": "FLAT", "EXPTIME": 1.0, "INSTRUME": "Skyloom simulator"}),
    )
    with pytest.raises(DataError, match="node 'link'"):
        run_workflow(Workflow.load("raw").until("link"), [*files, odd], project=tmp_path / "p")
    without = Workflow.load("raw").with_parameters({"link.on_broken": "without"}).until("link")
    report = run_workflow(without, [*files, odd], project=tmp_path / "p")
    assert any(line.startswith("link: ") for line in report.quality)
    events = [json.loads(line) for line in (tmp_path / "p" / "run.log.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "done"


def test_the_report_shows_all_of_it(project: Path) -> None:
    text = (project / "outputs" / "report.html").read_text(encoding="utf-8")
    assert "could not be made" not in text
    for anchor in (
        "picture",
        "summary",
        "graph",
        "links",
        "frames",
        "registration",
        "normalization",
        "maps",
        "seams",
    ):
        assert f'<section id="{anchor}">' in text
    residual = Store(project).open("register")["residual"].values
    assert f"residual {np.nanmedian(residual):.4g} px in the median" in text
