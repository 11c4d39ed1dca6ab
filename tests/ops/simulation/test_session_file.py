"""A session in a file: its frames are found, have headers and pixels, and none lies on the disk."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skyloom.ops.errors import DataError
from skyloom.ops.formats.examine import examine
from skyloom.ops.formats.frame_file import UnusableFile
from skyloom.ops.frames import open_source
from skyloom.ops.grid import parse_wcs, pixel_to_sky
from skyloom.ops.session.ingest import ingest
from skyloom.ops.simulation import quick
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.session_file import session_text
from skyloom.workflows.simulate import simulate_session

Small = Callable[..., SimulatedSession]
SAID = (
    "height",
    "width",
    "kind",
    "band",
    "exposure",
    "gain",
    "saturation",
    "units",
    "date",
    "camera",
    "temperature",
)


def written(folder: Path, session: SimulatedSession) -> Path:
    path = folder / "session.sky"
    path.write_text(session_text(session), encoding="utf-8")
    return path


def test_frames_are_those_of_a_folder_of_files(small: Small, tmp_path: Path) -> None:
    session = small(bands=("L", "Ha"))
    (tmp_path / "lazy").mkdir()
    written(tmp_path / "lazy", session)
    simulate_session(tmp_path / "files", session)
    lazy, files = ingest(tmp_path / "lazy"), ingest(tmp_path / "files")
    assert lazy.sizes["frame"] == len(session) == files.sizes["frame"]
    assert len(set(lazy["frame"].values.tolist())) == len(session)
    order = {str(n): i for i, n in enumerate(files["name"].values)}
    rows = [order[str(n).partition("[")[2].removesuffix("]") + ".fits"] for n in lazy["name"].values]
    for column in SAID:
        assert lazy[column].values.tolist() == files[column].values[rows].tolist(), column
    for one, other in zip(lazy["wcs"].values, files["wcs"].values[rows], strict=True):
        places = [
            pixel_to_sky(parse_wcs(str(text)), np.array([0.0, 127.0]), np.array([0.0, 95.0]))
            for text in (one, other)
        ]
        np.testing.assert_allclose(places[0], places[1], rtol=0, atol=1e-10)
    assert [p.name for p in (tmp_path / "lazy").iterdir()] == ["session.sky"]


def test_pixels_are_drawn_where_they_are_read(small: Small, tmp_path: Path) -> None:
    session = small()
    spec = examine(written(tmp_path, session))[3].source.spec()
    assert len(spec) < 300, "tasks carry names"
    source = pickle.loads(pickle.dumps(open_source(spec)))
    assert source.shape == (96, 128)
    assert source.windowed
    pixels = source.read(slice(10, 50), slice(100, 128))
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    frame = session.descriptors()[3]
    expected = quick.draw(frame.camera, frame.exposure, session.sky, slice(10, 50), slice(100, 128))
    assert np.array_equal(pixels, expected)


def test_raw_frames_are_exact(raw: SimulatedSession, tmp_path: Path) -> None:
    files = examine(written(tmp_path, raw))
    assert len(files) == len(raw)
    for index in (0, len(raw) - 1):
        pixels = open_source(files[index].source.spec()).read(slice(0, 96), slice(3, 90))
        assert np.array_equal(pixels, raw.render(index)[:, 3:90])
    table = ingest(tmp_path, take="all")
    assert set(table["kind"].values.tolist()) == {"light", "bias", "dark", "flat"}


def test_a_changed_file_is_noticed(small: Small, tmp_path: Path) -> None:
    path = written(tmp_path, small())
    source = open_source(examine(path)[0].source.spec())
    source.read(slice(0, 5), slice(0, 5))
    path.write_text(session_text(small(seed=77)), encoding="utf-8")
    os.utime(path, ns=(1, 1))
    with pytest.raises(UnusableFile, match="changed since it was ingested"):
        source.read(slice(0, 5), slice(0, 5))
    first = examine(path)[0]
    assert first.content != examine(written(tmp_path, small()))[0].content


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no simulated session"),
        (json.dumps({"skyloom": "simulated session"}), "no simulated session: 'session'"),
        (json.dumps({"skyloom": "simulated session", "session": {"moons": 3}}), "no parameter 'moons'"),
    ],
)
def test_a_broken_file_is_left_out_with_its_reason(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "session.sky"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UnusableFile, match=reason):
        examine(path)
    with pytest.raises(DataError, match="no frame to use, 1 left out"):
        ingest(path)
