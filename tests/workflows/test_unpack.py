"""Frames that must be decoded whole are decoded once."""

from __future__ import annotations

import gzip
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from astropy.io import fits

from skyloom.configs.loader import NodeSpec
from skyloom.ops.arrays import array_spec
from skyloom.ops.formats import fits_pixels
from skyloom.ops.frames import forget_decoded, open_source
from skyloom.workflows.evaluate import open_workflow
from skyloom.workflows.graph import Workflow
from skyloom.workflows.plan import make_plan
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.store import FRAMES, Store
from skyloom.workflows.unpack import packed_frames

WORKFLOW = Workflow.build(
    "look", [NodeSpec("ingest", "ingest", ("files",)), NodeSpec("measure", "measure", ("ingest",))]
)


def write(folder: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    frames: dict[str, np.ndarray] = {
        "counts.fits": rng.integers(900, 1100, (300, 200)).astype(np.uint16),
        "floats.fits": rng.normal(0, 5, (300, 200)).astype(np.float32),
        "plain.fits": rng.normal(0, 5, (300, 200)).astype(np.float32),
    }
    frames["floats.fits"][5, 7] = np.nan
    for name, pixels in frames.items():
        header = fits.Header({"IMAGETYP": "LIGHT", "EXPTIME": 30.0 + len(name)})
        fits.PrimaryHDU(pixels, header).writeto(folder / name)
        if name != "plain.fits":
            (folder / name).write_bytes(gzip.compress((folder / name).read_bytes()))
    return frames


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the frames that are decoded whole."""
    found: list[str] = []
    decode = fits_pixels.FitsSource._decode

    def counted(self: Any) -> Any:
        found.append(Path(self.path).name)
        return decode(self)

    monkeypatch.setattr(fits_pixels.FitsSource, "_decode", counted)
    forget_decoded()
    return found


def test_frames_are_decoded_once_and_hold_the_same_pixels(tmp_path: Path, decodes: list[str]) -> None:
    frames = write(tmp_path)
    project = tmp_path / "project"
    plan = make_plan(WORKFLOW, [tmp_path], project=project)
    assert plan.nodes[0].bytes_written > 2 * 4 * 300 * 200
    run_workflow(WORKFLOW, [tmp_path], project=project, scheduler="synchronous")
    assert sorted(decodes) == ["counts.fits", "floats.fits"]
    store = Store(project)
    assert FRAMES not in store.nodes()

    session = open_workflow(WORKFLOW, [tmp_path], project=project)["ingest"]
    assert packed_frames(session, store) == []
    forget_decoded()
    for index, name in enumerate(session["name"].values):
        pixels = open_source(str(session["source"].values[index])).read(slice(40, 299), slice(7, 123))
        np.testing.assert_array_equal(pixels, frames[name][40:299, 7:123].astype(np.float32))
    assert len(decodes) == 2
    kinds = {a.dtype.kind for _, a in zarr.open_group(str(store.root / FRAMES), mode="r").arrays()}
    assert kinds == {"u", "f"}

    # A renamed file is the same frame; nothing is decoded or run again.
    (tmp_path / "counts.fits").rename(tmp_path / "counts_renamed.fits")
    report = run_workflow(WORKFLOW, [tmp_path], project=project, scheduler="synchronous")
    assert len(decodes) == 2
    assert all(n.units == n.skipped for n in report.nodes)


def test_many_at_a_time_do_not_get_in_each_others_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that look for the group of frames all look before one makes it."""
    count = 4
    for i in range(count):
        pixels = io.BytesIO()
        fits.PrimaryHDU(np.full((20, 20), i, np.uint16), fits.Header({"IMAGETYP": "LIGHT"})).writeto(pixels)
        (tmp_path / f"{i}.fits.gz").write_bytes(gzip.compress(pixels.getvalue()))
    together, one, original = threading.Barrier(count), threading.Lock(), zarr.Group.require_group

    def at_once(self: Any, name: str, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            there = name in self
            together.wait(timeout=20)
            with one:
                return self[name] if there else self.create_group(name)
        return original(self, name, **options)

    monkeypatch.setattr(zarr.Group, "require_group", at_once)
    only = Workflow.build("list", [NodeSpec("ingest", "ingest", ("files",))])
    run_workflow(only, [tmp_path], project=tmp_path / "p", scheduler="threads", workers=count)
    session = open_workflow(only, [tmp_path], project=tmp_path / "p")["ingest"]
    assert packed_frames(session, Store(tmp_path / "p")) == []


def test_a_half_written_copy_is_made_again(tmp_path: Path, decodes: list[str]) -> None:
    write(tmp_path)
    project = tmp_path / "project"
    run_workflow(WORKFLOW, [tmp_path], project=project, scheduler="threads", workers=2)
    group = zarr.open_group(str(project / "project.zarr"), path=FRAMES, mode="r+")
    name = sorted(group)[0]
    del group[name].attrs["complete"]
    decodes.clear()
    forget_decoded()
    run_workflow(WORKFLOW, [tmp_path], project=project, scheduler="synchronous")
    assert len(decodes) == 1


def test_a_frame_that_cannot_be_decoded_is_left_to_the_nodes(tmp_path: Path) -> None:
    write(tmp_path)
    packed = bytearray((tmp_path / "counts.fits").read_bytes())
    middle = len(packed) // 2  # the headers and the length in the trailer are well, the pixels are not
    packed[middle : middle + 64] = bytes(64)
    (tmp_path / "counts.fits").write_bytes(packed)
    report = run_workflow(WORKFLOW, [tmp_path], project=tmp_path / "project", scheduler="synchronous")
    assert report.left_out == ()
    result = Store(tmp_path / "project").open("measure")
    assert result["summary"].sel(summary_quantity="status").values.tolist() == [2.0, 3.0, 3.0]
    log = (tmp_path / "project" / "run.log.jsonl").read_text()
    assert '"unpack", "frame": "counts.fits"' in log


def test_arrays_of_a_stored_result_are_read_from_the_store(tmp_path: Path) -> None:
    write(tmp_path)
    run_workflow(WORKFLOW, [tmp_path], project=tmp_path / "project", scheduler="synchronous")
    result = Store(tmp_path / "project").open("measure")
    cells = result["cells"].sel(cell_quantity="mean")
    spec = array_spec(result, "cells", frame=1, cell_quantity=0)
    assert '"kind":"stored"' in spec
    pixels = open_source(spec).read(slice(2, 9), slice(0, 5))
    np.testing.assert_array_equal(pixels, cells.values[1, 2:9, :5])
