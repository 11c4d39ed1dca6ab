"""Workers started over SSH: what dask's own library hands on must reach them, and the pixels be the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from skyloom.workflows.cli import main
from skyloom.workflows.simulate import simulate_from_options
from skyloom.workflows.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a server of SSH; all that it started ends with it."""
    command = [sys.executable, str(Path(__file__).with_name("ssh_server.py")), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        os.killpg(server.pid, signal.SIGKILL)


def test_a_run_over_ssh_gives_the_same_pixels(
    port: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = tmp_path / "frames"
    simulate_from_options(
        frames, panels="1x2", frames=2, size=256, overlap=0.3, bands=["L"], nights=1, seed=4, raw=False
    )
    cluster = {
        "kind": "ssh",
        "hosts": ["127.0.0.1"] * 3,
        "memory": "2GiB",
        "options": {
            "connect_options": {"port": port, "client_keys": [str(tmp_path / "key")], "known_hosts": None},
            "remote_python": sys.executable,
            "scheduler_options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
        },
    }
    (tmp_path / "ssh.yaml").write_text(yaml.safe_dump(cluster))
    images: list[NDArray[np.float32]] = []
    for where in (["--cluster", str(tmp_path / "ssh.yaml")], ["--scheduler", "synchronous"]):
        project = tmp_path / where[0].strip("-")
        status = main(["run", "mosaic", str(frames), "-o", str(project), "--no-report", *where])
        assert status == 0, capsys.readouterr().err
        images.append(Store(project).open("integrate")["image"].values)
    np.testing.assert_array_equal(images[0], images[1])
    assert (tmp_path / "commands").read_text().count("dask_spec") == 3
