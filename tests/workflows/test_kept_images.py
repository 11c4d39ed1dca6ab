"""Images given by path: what they contain decides whether a result is another one, not where they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from skyloom.ops.errors import DataError
from skyloom.workflows.graph import Workflow
from skyloom.workflows.kept_images import by_content
from skyloom.workflows.run_report import RunReport
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import simulate_from_options


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("session")
    simulate_from_options(
        folder, panels="2x1", frames=2, size=256, overlap=0.3, bands=["L"], nights=1, seed=4, raw=False
    )
    return folder


def run(session: Path, project: Path, **parameters: object) -> RunReport:
    settings = {f"normalize.{k}": v for k, v in parameters.items()}
    workflow = Workflow.load("mosaic").until("normalize").with_parameters(settings)
    return run_workflow(workflow, session, project=project, scheduler="synchronous")


def test_a_moved_anchor_is_the_same_and_a_changed_one_is_not(session: Path, tmp_path: Path) -> None:
    first = sorted(session.glob("light_*.fits"))[0]
    anchor, moved = tmp_path / "wide.fits", tmp_path / "elsewhere" / "other name.fits"
    shutil.copy(first, anchor)
    project = tmp_path / "project"
    key = run(session, project, anchors=[str(anchor)]).nodes[-1].key
    moved.parent.mkdir()
    anchor.rename(moved)
    again = run(session, project, anchors=[str(moved)]).nodes[-1]
    assert again.key == key
    assert again.units == 0
    with fits.open(moved, mode="update") as file:
        file[0].data = (file[0].data + 50).astype(file[0].data.dtype)
    changed = run(session, project, anchors=[str(moved)]).nodes[-1]
    assert changed.key != key
    assert changed.units == 1
    moved.unlink()
    with pytest.raises(DataError, match=r"normalize.*other name"):
        run(session, project, anchors=[str(moved)])


def test_a_reference_counts_by_content_only_where_it_is_an_image(session: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "a.fits", tmp_path / "b.fits"
    shutil.copy(sorted(session.glob("light_*.fits"))[0], one)
    shutil.copy(one, two)

    def key(**parameters: object) -> str:
        settings = {f"normalize.{k}": v for k, v in parameters.items()}
        workflow = Workflow.load("mosaic").until("normalize").with_parameters(settings)
        return by_content(workflow.nodes[-1]).key(["x"])

    same = [key(mode="reference", reference=str(p)) for p in (one, two)]
    assert same[0] == same[1]
    assert len({same[0], *(key(mode="reference", reference=r) for r in ("panel", "canvas"))}) == 3
    # What the mode does not look at is not opened.
    assert key(mode="joint", reference=str(tmp_path / "none.fits"))
    node = Workflow.load("mosaic").nodes[1]
    assert by_content(node) is node
    assert np.unique([key(), key(mode="reference"), same[0]]).size == 3
