"""A new night, or a frame less: units that depend on nothing that changed are taken over, bit for bit."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from skyloom.configs.loader import NodeSpec
from skyloom.ops.errors import DataError
from skyloom.ops.frames import open_source
from skyloom.ops.measurement import measure as measuring
from skyloom.workflows import reuse, runner
from skyloom.workflows import stored_layout as storing
from skyloom.workflows.graph import Workflow
from skyloom.workflows.layout import Layout
from skyloom.workflows.plan import make_plan
from skyloom.workflows.progress import Silent
from skyloom.workflows.run_report import RunReport
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import raw_options, session_from_options, simulate_session
from skyloom.workflows.status import project_status
from skyloom.workflows.store import Store, UnitWriter
from skyloom.workflows.tables import plan_tables

WORKFLOW = Workflow.build(
    "look",
    [
        NodeSpec("ingest", "ingest", ("files",)),
        NodeSpec("measure", "measure", ("ingest",), {"max_stars": 20}),
    ],
)

Frames = Callable[..., Path]


def write(folder: Path, *numbers: int, shape: tuple[int, int] = (80, 96)) -> Path:
    """Frames that differ by their seed."""
    folder.mkdir(exist_ok=True)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for number in numbers:
        rng = np.random.default_rng(number)
        pixels = rng.normal(100, 3, shape)
        for row, column in rng.uniform(12, np.array(shape) - 12, (9, 2)):
            pixels += 400 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 4)
        header = fits.Header({"IMAGETYP": "LIGHT", "EXPTIME": 10.0})
        fits.PrimaryHDU(pixels.astype(np.float32), header).writeto(folder / f"f{number:02}.fits", overwrite=True)
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that are measured."""
    found: list[str] = []
    original = measuring.measure_spec

    def counted(spec: str, *args: Any, **kwargs: Any) -> Any:
        found.append(spec.partition(".fits")[0][-3:])
        return original(spec, *args, **kwargs)

    monkeypatch.setattr(measuring, "measure_spec", counted)
    return found


def run(folder: Path, project: Path, workflow: Workflow = WORKFLOW, **options: Any) -> RunReport:
    return run_workflow(workflow, [folder], project=project, **{"scheduler": "synchronous", **options})


def result(project: Path) -> xr.Dataset:
    return Store(project).open("measure").compute()


def same_as_from_scratch(folder: Path, project: Path, scratch: Path, workflow: Workflow = WORKFLOW) -> None:
    run(folder, scratch, workflow)
    one, other = result(project), result(scratch)
    xr.testing.assert_identical(one, other)
    for name in one.data_vars:
        assert one[name].values.tobytes() == other[name].values.tobytes()


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_a_new_night_measures_its_own_frames(tmp_path: Path, measured: list[str], scheduler: str) -> None:
    folder = write(tmp_path / "in", 1, 3, 5)
    run(folder, tmp_path / "p", scheduler=scheduler)
    assert sorted(measured) == ["f01", "f03", "f05"]
    measured.clear()
    write(folder, 2, 4)  # between the others: all but the first stand elsewhere now
    plan = make_plan(WORKFLOW, [folder], project=tmp_path / "p")
    node = plan.nodes[-1]
    assert (node.units, node.reused, node.done) == (2, 3, 0)
    assert node.work == pytest.approx(2 * 80 * 96 / 1e6)
    assert measured == [], "a plan computes nothing"
    assert any("measure: 3 of 5 reused" in str(line) for line in plan_tables(plan))

    said: list[str] = []

    class Listener(Silent):
        def message(self, text: str) -> None:
            said.append(text)

    report = run(folder, tmp_path / "p", scheduler=scheduler, reporter=Listener())
    assert sorted(measured) == ["f02", "f04"]
    assert (report.nodes[-1].units, report.nodes[-1].reused) == (2, 3)
    assert "measure: 3 of 5 reused" in said
    status = [row for row in project_status(tmp_path / "p")[0] if row["node"] == "measure"]
    assert [(row["done"], row["reused"], row["complete"]) for row in status] == [(5, 3, True)]
    same_as_from_scratch(folder, tmp_path / "p", tmp_path / "scratch")


def test_a_frame_less_measures_nothing(tmp_path: Path, measured: list[str]) -> None:
    folder = write(tmp_path / "in", 1, 2, 3)
    run(folder, tmp_path / "p")
    measured.clear()
    (folder / "f02.fits").unlink()
    run(folder, tmp_path / "p")
    assert measured == []
    same_as_from_scratch(folder, tmp_path / "p", tmp_path / "scratch")
    measured.clear()
    write(folder, 2)
    run(folder, tmp_path / "p")
    assert measured == ["f02"], "what the last result does not hold is gone"


def test_a_renamed_folder_or_file_measures_nothing_and_other_content_its_frame(
    tmp_path: Path, measured: list[str]
) -> None:
    folder = write(tmp_path / "in", 1, 2, 3)
    run(folder, tmp_path / "p")
    measured.clear()
    folder = folder.rename(tmp_path / "elsewhere")
    run(folder, tmp_path / "p")
    (folder / "f01.fits").rename(folder / "f09.fits")  # another order of the same frames
    report = run(folder, tmp_path / "p")
    assert (measured, report.nodes[-1].reused) == ([], 3)
    (folder / "f02.fits").write_bytes((write(tmp_path / "other", 7) / "f07.fits").read_bytes())
    run(folder, tmp_path / "p")
    assert measured == ["f02"]
    same_as_from_scratch(folder, tmp_path / "p", tmp_path / "scratch")


@pytest.mark.parametrize(("node", "value"), [("measure.threshold", 7.0), ("measure.max_stars", 12)])
def test_a_changed_parameter_measures_all(tmp_path: Path, measured: list[str], node: str, value: float) -> None:
    folder = write(tmp_path / "in", 1, 2, 3)
    run(folder, tmp_path / "p")
    measured.clear()
    write(folder, 4)
    changed = WORKFLOW.with_parameters({node: value})
    assert make_plan(changed, [folder], project=tmp_path / "p").nodes[-1].reused == 0
    run(folder, tmp_path / "p", changed)
    assert len(measured) == 4


def test_facts_a_frame_is_measured_with_count(tmp_path: Path, measured: list[str]) -> None:
    folder = write(tmp_path / "in", 1, 2)
    run(folder, tmp_path / "p")
    measured.clear()
    rule = [{"match": "*f02*", "gain": 3.0}]
    told = Workflow.build(
        "look",
        [
            NodeSpec("ingest", "ingest", ("files",), {"overrule": rule}),
            NodeSpec("measure", "measure", ("ingest",), {"max_stars": 20}),
        ],
    )
    run(folder, tmp_path / "p", told)
    assert measured == ["f02"]


def test_larger_frames_change_the_padding_of_all(tmp_path: Path, measured: list[str]) -> None:
    folder = write(tmp_path / "in", 1, 2)
    run(folder, tmp_path / "p")
    write(folder, 3, shape=(100, 128))
    run(folder, tmp_path / "p")
    same_as_from_scratch(folder, tmp_path / "p", tmp_path / "scratch")


def test_what_rots_in_the_store_is_measured_again(tmp_path: Path, measured: list[str]) -> None:
    folder = write(tmp_path / "in", 1, 2, 3)
    run(folder, tmp_path / "p")
    (chunk,) = Path(str(Store(tmp_path / "p").root), "measure").rglob("cells/c/1/0/0/0")
    torn = bytearray(chunk.read_bytes())
    torn[len(torn) // 2] ^= 255
    chunk.write_bytes(torn)
    measured.clear()
    write(folder, 4)
    report = run(folder, tmp_path / "p")
    assert sorted(measured) == ["f02", "f04"]
    assert (report.nodes[-1].units, report.nodes[-1].reused) == (2, 2)
    same_as_from_scratch(folder, tmp_path / "p", tmp_path / "scratch")


def test_a_frame_that_could_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "in", 1, 2)
    with monkeypatch.context() as gone:
        original = open_source

        def refuse(spec: str) -> Any:
            if "f02" in spec:
                raise DataError("the file is gone")
            return original(spec)

        gone.setattr(measuring, "open_source", refuse)
        run(folder, tmp_path / "p")
    assert result(tmp_path / "p")["summary"].sel(summary_quantity="status").values.tolist()[1] == 2
    write(folder, 3)
    assert run(folder, tmp_path / "p").nodes[-1].reused == 1
    same_as_from_scratch(folder, tmp_path / "p", tmp_path / "scratch")


@pytest.mark.parametrize("links", ["shared", "copied", "rewritten"])
def test_the_old_result_stays_whole_until_the_new_one_is(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, links: str
) -> None:
    """Files shared, copied where the disk cannot share, and written anew where blocks lie otherwise."""
    folder = write(tmp_path / "in", 1, 2, 3)
    run(folder, tmp_path / "p")
    before, old = result(tmp_path / "p"), Store(tmp_path / "p").newest("measure")
    if links == "copied":
        link = os.link

        def refuse(source: Path, target: Path) -> None:
            if not str(source).endswith(".partial"):  # zarr's own
                raise OSError(1, "Operation not permitted")
            link(source, target)

        monkeypatch.setattr(os, "link", refuse)
    elif links == "rewritten":
        monkeypatch.setattr(storing, "COMPRESSORS", storing.COMPRESSORS[:1])
    write(folder, 4)

    class Stopper(Silent):
        def message(self, text: str) -> None:
            if "reused" in text:
                signal.raise_signal(signal.SIGINT)

    measured.clear()
    with pytest.raises(runner.Interrupted):
        run(folder, tmp_path / "p", reporter=Stopper())
    assert measured == []
    assert Store(tmp_path / "p").newest("measure") == old
    xr.testing.assert_identical(result(tmp_path / "p"), before)
    report = run(folder, tmp_path / "p")
    assert measured == ["f04"]
    assert (report.nodes[-1].skipped, report.nodes[-1].reused) == (3, 0)
    assert len(Store(tmp_path / "p").keys("measure")) == 1
    monkeypatch.undo()
    same_as_from_scratch(folder, tmp_path / "p", tmp_path / "scratch")


def test_unfinished_results_are_taken_over_too_and_two_are_kept(tmp_path: Path, measured: list[str]) -> None:
    folder = write(tmp_path / "in", 1, 2)
    run(folder, tmp_path / "p")

    class Stopper(Silent):
        def unit_done(self, state: Any) -> None:
            if state.node == "measure" and state.work > 0:
                signal.raise_signal(signal.SIGINT)

    for more in ((3, 4), (5, 6)):
        write(folder, *more)
        with pytest.raises(runner.Interrupted):
            run(folder, tmp_path / "p", reporter=Stopper())
        assert len(Store(tmp_path / "p").keys("measure")) == 2
    assert measured == ["f01", "f02", "f03", "f04"]
    run(folder, tmp_path / "p")
    assert measured == ["f01", "f02", "f03", "f04", "f05", "f06"]
    same_as_from_scratch(folder, tmp_path / "p", tmp_path / "scratch")


KILLED = """
    import os, signal, sys
    from skyloom.workflows import reuse
    sys.path.insert(0, {tests!r})
    from test_reuse import run
    from pathlib import Path

    share, left = reuse._share, [4]  # in the middle of the second frame's three files

    def dying(source, target):
        share(source, target)
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    reuse._share, reuse.BATCH_UNITS = dying, 1
    run(Path({folder!r}), Path({project!r}))
"""


def test_killed_while_taking_over(tmp_path: Path, measured: list[str]) -> None:
    folder, project = write(tmp_path / "in", 1, 2, 3), tmp_path / "p"
    run(folder, project)
    old = Store(project).newest("measure")
    write(folder, 4)
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder), project=str(project))
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=dict(os.environ), check=False)
    assert ended.returncode == -signal.SIGKILL
    store = Store(project)
    assert store.newest("measure") == old
    (new,) = set(store.keys("measure")) - {str(old)}
    assert len(store.journal("measure", new).read()) == 1
    measured.clear()
    report = run(folder, project)
    assert measured == ["f04"]
    assert (report.nodes[-1].skipped, report.nodes[-1].reused) == (1, 2)
    same_as_from_scratch(folder, project, tmp_path / "scratch")


def test_calibrated_frames_go_by_their_masters(tmp_path: Path) -> None:
    """A light less: nothing of the calibration is done again. A dark less: what it calibrates is."""
    lights = session_from_options(
        panels="1x1", frames=3, size=192, overlap=0.1, bands=["L"], nights=1, seed=3, raw=True
    )
    options = raw_options(lights, flat_darks=True)
    folder = tmp_path / "in"
    simulate_session(folder, options)
    workflow = Workflow.load("raw").until("measure")
    run(folder, tmp_path / "p", workflow)

    def without(kind: str) -> dict[str, tuple[int, int]]:
        next(p for p in sorted(folder.rglob("*.fits")) if p.name.startswith(f"{kind}_")).unlink()
        report = run(folder, tmp_path / "p", workflow)
        return {n.name: (n.units, n.reused) for n in report.nodes}

    done = without("light")
    assert done["masters"][0] == done["levels"][0] == done["flats"][0] == done["measure"][0] == 0
    assert done["measure"] == (0, 2)
    done = without("dark")
    assert done["masters"] == (1, done["masters"][1])
    assert done["flats"][0] == 0, "they have darks of their own"
    assert done["measure"] == (2, 0)
    done = without("flatdark")
    assert done["masters"][0] == 1
    assert done["flats"] == (1, 0)
    assert done["measure"] == (2, 0)
    run(folder, tmp_path / "scratch", workflow)
    for node in ("masters", "levels", "flats", "measure"):
        one, other = (Store(tmp_path / p).open(node).compute() for p in ("p", "scratch"))
        xr.testing.assert_identical(one, other)


def test_tiles_are_taken_over_at_another_place(tmp_path: Path) -> None:
    """A canvas that has grown to the left and to the right, in shards."""
    store = Store(tmp_path / "p")
    store.create()
    rng = np.random.default_rng(1)
    small = rng.normal(size=(1, 512, 1200)).astype(np.float32)
    large = np.concatenate([rng.normal(size=(1, 512, 512)), small, np.zeros((1, 512, 90))], 2).astype(np.float32)

    def prepare(key: str, image: np.ndarray) -> UnitWriter:
        data = xr.Dataset({"image": (("band", "y", "x"), da.from_array(image, chunks=(1, 512, 512)))})
        return store.prepare("n", key, data, Layout.of(data, ("band", "y", "x"), node="n"), {"op": "x"})

    old, new = prepare("old", small), prepare("new", large)
    checksums = {x: old.write((0, 0, x), {"image": small[..., 512 * x : 512 * x + 512]}) for x in range(3)}
    donors: dict[tuple[int, ...], reuse.Donor] = {}
    donors |= {(0, 0, x + 1): reuse.Donor("old", (0, 0, x), checksums[x]) for x in range(3)}
    donors[0, 0, 0] = reuse.Donor("gone", (0, 0, 0), 1)
    keys = np.array([[["a", "b", "c", "d"]]])
    tasks = list(reuse.take_overs(donors, sorted(donors), keys, new))
    records = [record for task in tasks for record in pickle.loads(pickle.dumps(task)).run()]
    # The last one is cut off otherwise now: its key could not be the same.
    assert [(r.unit, r.key, r.reused) for r in records] == [((0, 0, 1), "b", True), ((0, 0, 2), "c", True)]
    store.complete("n", "new", {})
    assert store.keys("n") == ["new"]
    pixels = store.open("n")["image"].values
    assert pixels[..., 512:1536].tobytes() == small[..., :1024].tobytes()
    assert np.isnan(pixels[..., :512]).all()
    assert np.isnan(pixels[..., 1536:]).all()
