"""A project in an object store: the same results as in a folder, and every command on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyloom.workflows.api import Project
from skyloom.workflows.cli import main
from skyloom.workflows.places import ObjectPlace, files, place
from skyloom.workflows.store import Store
from skyloom.workflows.viewer.command import open_server
from skyloom.workflows.viewer.look import Look

FRAMES = ["--panels", "1x2", "--frames", "2", "--size", "256", "--nights", "1"]


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with frames and a project of them."""
    base = tmp_path_factory.mktemp("local")
    assert main(["simulate", str(base / "frames"), *FRAMES]) == 0
    assert main(["run", "mosaic", str(base / "frames"), "-o", str(base / "project"), "--quiet"]) == 0
    return base


def upload(folder: Path, address: str) -> int:
    """Frames of a folder as objects; returns their bytes."""
    total = 0
    for path in sorted(folder.rglob("*.fits")):
        target = place(f"{address}/{path.relative_to(folder).as_posix()}")
        assert isinstance(target, ObjectPlace)
        target.put(path)
        total += path.stat().st_size
    return total


def same(here: Store, there: Store) -> None:
    assert here.nodes() == there.nodes()
    for node in here.nodes():
        assert here.newest(node) == there.newest(node), node
        mine, other = here.open(node), there.open(node)
        assert set(mine.variables) == set(other.variables)
        for name in set(mine.variables) - {"source"}:
            np.testing.assert_array_equal(mine[name].values, other[name].values, err_msg=f"{node} {name}")


def test_everything_in_an_object_store(
    local: Path, s3: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = "s3://nights/whole/project"
    size = upload(local / "frames", "s3://nights/whole/frames")
    s3.asked.clear()
    assert main(["run", "mosaic", "s3://nights/whole/frames/", "-o", project]) == 0
    said = capsys.readouterr()
    same(Store(local / "project"), Store(project))

    # What was read of the frames: each pixel once, and at most twice what a look at the header takes.
    read = sum(n for method, path, n in s3.asked if method == "GET" and "/whole/frames/" in path)
    frames = len(list((local / "frames").rglob("*.fits")))
    assert size <= read <= size + frames * 2 * (2**16 + 16 * 2**14)
    assert not (Path.cwd() / "s3:").exists()

    # The exports are those of the folder, but for where they came from.
    exported = {p.name: p for p, _ in files(place(f"{project}/outputs"))}
    assert {"mosaic_L.fits", "mosaic_L.tif", "mosaic_L.png", "report.html", "frames.png"} <= set(exported)
    assert exported["mosaic_L.png"].read_bytes() == (local / "project/outputs/mosaic_L.png").read_bytes()
    assert f"{project}/outputs/report.html" in said.out

    # Nothing that was written or said has a secret.
    secrets = (s3.key.encode(), s3.secret.encode())
    written = [p for p, _ in files(place("s3://nights/whole"))]
    assert len(written) > 50
    for path in written:
        assert not any(secret in path.read_bytes() for secret in secrets), path
    assert not any(secret.decode() in said.out + said.err for secret in secrets)

    # Again: all is as before, also when the frames are named where they came from.
    s3.asked.clear()
    assert main(["status", project, str(local / "frames")]) == 0
    assert "nothing is to be done" in capsys.readouterr().out
    assert main(["run", "mosaic", str(local / "frames"), "-o", project, "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert sum(node["units"] for node in again["nodes"]) == 0
    assert again["project"] == project

    commands(project, local, tmp_path, capsys)


def commands(project: str, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command on the project."""
    assert main(["status", project, "--check"]) == 0
    assert "all results are as they were written" in capsys.readouterr().out
    assert main(["pixel", project, "150", "120", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["bands"][0]["same"] is True
    assert main(["inspect", "s3://nights/whole/frames/", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["frames"]) == 4
    assert main(["plan", "mosaic", "s3://nights/whole/frames", "-o", project, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"]
    assert main(["report", project]) == 0
    assert capsys.readouterr().out.strip() == f"{project}/outputs/report.html"
    page = (place(project) / "outputs" / "report.html").read_text(encoding="utf-8")
    assert "This part could not be made" not in page

    # To an object store from a folder, and the other way round.
    assert main(["export", project, "integrate", str(tmp_path / "there.tif")]) == 0
    assert main(["export", str(local / "project"), "integrate", "s3://nights/whole/x/here.tif"]) == 0
    assert "s3://nights/whole/x/here.tif" in capsys.readouterr().out
    assert place("s3://nights/whole/x/here.tif").read_bytes() == (tmp_path / "there.tif").read_bytes()

    opened = Project(project)
    assert set(opened) == set(Project(local / "project"))
    assert opened.workflow.names[0] == "ingest"
    window = opened["integrate"]["image"][0, 40:60, 100:300].values
    np.testing.assert_array_equal(
        window, Project(local / "project")["integrate"]["image"][0, 40:60, 100:300].values
    )

    server = open_server(project)
    try:
        first = server.api.first_layer()
        assert first is not None
        layer = server.tiles.layer(first)
        with server.tiles.busy:
            png = server.tiles.png(layer, server.tiles.geometry(layer).last, 0, 0, Look())
        assert png.startswith(b"\x89PNG")
        assert len(png) > 1000
    finally:
        server.server_close()

    for words in (["simulate", "s3://nights/s"], ["hips", project, "integrate", "s3://nights/h"]):
        assert main(words) == 2
        assert re.search(
            r"s3://nights/.: .* is written to a folder, not to an object store", capsys.readouterr().err
        )


def test_a_new_night_takes_over_what_is_there(local: Path, s3: Any, tmp_path: Path) -> None:
    project = "s3://nights/growing/project"
    paths = sorted((local / "frames").rglob("*.fits"))
    assert main(["run", "mosaic", *map(str, paths[:3]), "-o", project, "--quiet", "--until", "measure"]) == 0
    assert main(["run", "mosaic", *map(str, paths), "-o", project, "--quiet", "--until", "measure"]) == 0
    store, key = Store(project), Store(project).newest("measure")
    assert key is not None
    assert sum(r.reused for r in store.journal("measure", key).read().values()) == 3
    mine = Store(local / "project").open("measure")
    for name in mine.data_vars:
        np.testing.assert_array_equal(mine[name].values, store.open("measure")[name].values)
