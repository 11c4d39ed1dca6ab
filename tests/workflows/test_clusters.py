"""What a cluster's file says reaches dask's own classes, and mistakes in it are one clear line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import distributed
import pytest
from dask_jobqueue.slurm import SLURMCluster

from skyloom.ops.errors import ClusterError, ConfigError
from skyloom.workflows import clusters
from skyloom.workflows.cli import main
from skyloom.workflows.clusters import ClusterSpec, deploy
from skyloom.workflows.schedulers import default_workers

SLURM = """
kind: slurm
workers: 8
cores: 4
memory: 16GiB
options:
  queue: long
  walltime: "12:00:00"
  account: sky
  job_extra_directives: ["--exclusive"]
  job_script_prologue: ["module load python"]
"""
SSH = """
kind: ssh
hosts: [head, one, two]
workers: 2
cores: 3
memory: 8GB
options:
  connect_options: {known_hosts: null}
  remote_python: /opt/skyloom/bin/python
  worker_options: {local_directory: /scratch}
"""


def load(tmp_path: Path, text: str) -> ClusterSpec:
    (tmp_path / "c.yaml").write_text(text)
    return ClusterSpec.load(str(tmp_path / "c.yaml"))


def test_slurm_gets_a_job_script_of_its_own(tmp_path: Path) -> None:
    spec = load(tmp_path, SLURM)
    assert spec.workers == 8
    arguments = {**spec.arguments(), "n_workers": 0}  # nothing is handed in
    assert spec.arguments()["n_workers"] == 8
    with SLURMCluster(
        **arguments, scheduler_options={"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    ) as cluster:
        lines = cluster.job_script().splitlines()
    for line in (
        "#SBATCH -J skyloom",
        "#SBATCH -p long",
        "#SBATCH -A sky",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=16G",
        "#SBATCH -t 12:00:00",
        "#SBATCH --exclusive",
        "module load python",
    ):
        assert line in lines, lines
    assert "--nthreads 4 --memory-limit 16.00GiB" in lines[-1]


def test_ssh_gets_hosts_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}

    def record(hosts: list[str], **options: Any) -> str:
        called.update(options, hosts=hosts)
        return "cluster"

    monkeypatch.setattr(distributed, "SSHCluster", record)
    assert deploy(load(tmp_path, SSH)) == "cluster"
    assert called == {
        "hosts": ["head", "one", "two"],
        "worker_options": {
            "nthreads": 3,
            "n_workers": 2,
            "memory_limit": 8_000_000_000,
            "local_directory": "/scratch",
        },
        "connect_options": {"known_hosts": None},
        "remote_python": "/opt/skyloom/bin/python",
    }


def test_local_is_of_processes_nobody_outside_reaches() -> None:
    arguments = ClusterSpec.load("local").arguments()
    assert arguments["n_workers"] == default_workers()
    assert arguments["processes"]
    assert arguments["host"] == "127.0.0.1"
    assert arguments["dashboard_address"].startswith("127.0.0.1:")
    assert arguments["memory_limit"] > 1e6
    spec = ClusterSpec.parse({"kind": "local", "options": {"dashboard_address": ":8787"}}, "c")
    assert spec.arguments()["dashboard_address"] == ":8787"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: pbs", "kind 'pbs'; there is local, slurm, ssh"),
        ("kind: slurm", "slurm needs memory"),
        ("kind: ssh\nhosts: [one]", "the first runs the scheduler, the others the workers"),
        ("kind: ssh\nhosts: one", "hosts should be a list"),
        ("kind: local\nhosts: [a, b]", "hosts are for ssh"),
        ("kind: local\nworkers: 0", "workers 0: a whole number"),
        ("kind: local\ncores: many", "cores 'many': a whole number"),
        ("kind: local\nwait: -1", "wait -1: seconds, more than 0"),
        ("kind: local\nmemory: plenty", "'plenty' is no size"),
        ("kind: local\nwalltime: 1h", "unknown 'walltime'; there is kind, workers"),
        ("kind: local\noptions: 5", "options should be names and values"),
        ("- local", "it should say kind"),
        ("kind: [", "no YAML"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_missing_libraries_name_their_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, text, extra in (("dask_jobqueue", SLURM, "slurm"), ("asyncssh", SSH, "ssh")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=rf"{module} is not installed; pip install 'skyloom\[{extra}\]'"):
            deploy(load(tmp_path, text))


def test_options_dask_does_not_know_and_clusters_that_do_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"kind": "slurm", "workers": 1, "memory": "4GiB", "options": {"colour": "red"}}
    with pytest.raises(ConfigError, match=r"cluster slurm: .*colour"):
        deploy(ClusterSpec.parse(entries, "c"))

    def fail(**options: Any) -> None:
        raise RuntimeError("sbatch: no such program")

    monkeypatch.setattr("dask_jobqueue.SLURMCluster", fail)
    with pytest.raises(ClusterError, match="cluster slurm does not start: sbatch"):
        deploy(load(tmp_path, SLURM))


def test_the_command_line_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", "mosaic", str(tmp_path), "-o", str(tmp_path / "p")]
    for more, says, code in (
        (["--cluster", "pbs"], "use local, slurm, ssh or a YAML file", 2),
        (["--cluster", str(tmp_path / "none.yaml")], "No such file", 2),
        (["--cluster", "local", "--scheduler", "tcp://h:1"], "starts a scheduler of its own", 2),
        (["--task-timeout", "0"], "--task-timeout 0: seconds, more than 0", 2),
        (["--scheduler", "tcp://127.0.0.1:9"], "no dask scheduler answers", 6),
    ):
        assert main([*run, *more]) == code
        assert says in capsys.readouterr().err
    assert not (tmp_path / "p").exists()


def test_a_cluster_is_closed_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        closed = False

        def close(self) -> None:
            self.closed = True

    fake = Fake()
    monkeypatch.setattr(clusters, "deploy", lambda spec: fake)
    monkeypatch.setattr(distributed, "Client", lambda cluster: 1 / 0)
    with pytest.raises(ZeroDivisionError), clusters.start(ClusterSpec.load("local")):
        pass
    assert fake.closed
