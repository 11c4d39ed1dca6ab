"""Clusters a run starts for itself, through dask's own deployment libraries, as a YAML file describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from dask import config

from skyloom.ops.errors import ClusterError, ConfigError
from skyloom.workflows.machine import available_memory, format_bytes, format_seconds, parse_bytes

KINDS = ("local", "slurm", "ssh")
_KEYS = ("kind", "workers", "cores", "memory", "wait", "hosts", "options")
_CLASSES = {
    "local": ("distributed", "LocalCluster"),
    "slurm": ("dask_jobqueue", "SLURMCluster"),
    "ssh": ("distributed", "SSHCluster"),
}
_WAIT = {"local": 60.0, "ssh": 120.0, "slurm": 3600.0}
"""Seconds the first worker is waited for: jobs stand in a queue."""


@dataclass(frozen=True)
class ClusterSpec:
    """What to start."""

    kind: str
    workers: int | None = None
    """Processes of workers (jobs, with slurm); None: the cores there are (local), one a host (ssh)."""
    cores: int = 1
    """Tasks at a time of each."""
    memory: float | None = None
    """Bytes of each worker; None: a share of what is free (local), what the machine has (ssh)."""
    wait: float | None = None
    """Seconds the first worker is waited for."""
    hosts: tuple[str, ...] = ()
    """Of ssh: the first runs the scheduler, the others the workers."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Passed on to the class of dask that starts it."""

    @classmethod
    def load(cls, text: str) -> ClusterSpec:
        """Cluster of a kind ("local") or a YAML file.

        Raises
        ------
        ConfigError
            If the file cannot be read or says what makes no sense.
        """
        if text in KINDS:
            return cls.parse({"kind": text}, text)
        path = Path(text)
        if path.suffix not in (".yaml", ".yml"):
            raise ConfigError(f"--cluster {text}: use {', '.join(KINDS)} or a YAML file (name.yaml)")
        try:
            entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as failure:
            raise ConfigError(f"--cluster {text}: {failure.strerror}") from failure
        except (yaml.YAMLError, ValueError) as failure:
            raise ConfigError(f"--cluster {text}: no YAML ({' '.join(str(failure).split())})") from failure
        return cls.parse(entries, text)

    @classmethod
    def parse(cls, entries: Any, name: str) -> ClusterSpec:
        """Check what a file says.

        Raises
        ------
        ConfigError
            For what is unknown or wrong.
        """
        where = f"cluster {name}"
        if not isinstance(entries, dict):
            raise ConfigError(f"{where}: it should say kind: {', '.join(KINDS)}, and what that takes")
        for key in entries:
            if key not in _KEYS:
                raise ConfigError(
                    f"{where}: unknown {key!r}; there is {', '.join(_KEYS)} (others go into options)"
                )
        kind = entries.get("kind")
        if kind not in KINDS:
            raise ConfigError(f"{where}: kind {kind!r}; there is {', '.join(KINDS)}")
        hosts, options = entries.get("hosts") or [], entries.get("options") or {}
        if not isinstance(hosts, list) or not all(isinstance(h, str) for h in hosts):
            raise ConfigError(f"{where}: hosts should be a list of names")
        if not isinstance(options, dict):
            raise ConfigError(f"{where}: options should be names and values")
        memory = entries.get("memory")
        spec = cls(
            kind=kind,
            workers=_whole(entries.get("workers"), f"{where}: workers"),
            cores=_whole(entries.get("cores", 1), f"{where}: cores") or 1,
            memory=parse_bytes(str(memory)) if memory is not None else None,
            wait=_seconds(entries.get("wait"), f"{where}: wait"),
            hosts=tuple(hosts),
            options=dict(options),
        )
        if kind == "ssh" and len(hosts) < 2:
            raise ConfigError(f"{where}: ssh needs hosts: the first runs the scheduler, the others the workers")
        if kind != "ssh" and hosts:
            raise ConfigError(f"{where}: hosts are for ssh, this is {kind}")
        if kind == "slurm" and spec.memory is None:
            raise ConfigError(f"{where}: slurm needs memory, of each worker, such as 16GiB")
        return spec

    def arguments(self) -> dict[str, Any]:
        """What the class of dask that starts it is called with."""
        if self.kind == "local":
            from skyloom.workflows.schedulers import default_workers

            workers = self.workers or default_workers()
            given: dict[str, Any] = {
                "n_workers": workers,
                "threads_per_worker": self.cores,
                "processes": True,
                "memory_limit": int(self.memory or 0.75 * available_memory() / workers),
                # Nobody outside this machine is to reach it.
                "host": "127.0.0.1",
                "dashboard_address": "127.0.0.1:0",
            }
        elif self.kind == "slurm":
            assert self.memory is not None
            given = {
                "n_workers": self.workers or 1,
                "cores": self.cores,
                "processes": 1,
                "memory": f"{int(self.memory)}B",
                "job_name": "skyloom",
            }
        else:
            worker: dict[str, Any] = {"nthreads": self.cores, "n_workers": self.workers or 1}
            if self.memory is not None:
                worker["memory_limit"] = int(self.memory)
            extra = self.options.get("worker_options", {})
            given = {"hosts": list(self.hosts), "worker_options": {**worker, **extra}}
            return {**{k: v for k, v in self.options.items() if k != "worker_options"}, **given}
        return {**given, **self.options}

    def __str__(self) -> str:
        size = f", {format_bytes(self.memory)} each" if self.memory is not None else ""
        many = f"{self.workers} workers" if self.workers else "workers"
        return f"{self.kind}: {many} of {self.cores} {'core' if self.cores == 1 else 'cores'}{size}"


def _whole(value: Any, what: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{what} {value!r}: a whole number, at least 1")
    return value


def _seconds(value: Any, what: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise ConfigError(f"{what} {value!r}: seconds, more than 0")
    return float(value)


def deploy(spec: ClusterSpec) -> Any:
    """Start a cluster; the caller closes it.

    Raises
    ------
    ConfigError
        If a library that starts such clusters is missing (which extra has it), or options it does not know.
    ClusterError
        If it does not start.
    """
    module, name = _CLASSES[spec.kind]
    try:
        if spec.kind == "ssh":
            # Dask says that it is missing only when it starts.
            import_module("asyncssh")
        kind = getattr(import_module(module), name)
    except ImportError as missing:
        raise ConfigError(
            f"cluster {spec.kind}: {missing.name} is not installed; pip install 'skyloom[{spec.kind}]'"
        ) from missing
    try:
        # SSHCluster hands dask's configuration on as JSON; a scheduler set as a function would not go into it.
        with config.set(scheduler="synchronous"):
            return kind(**spec.arguments())
    except (TypeError, ValueError) as wrong:
        raise ConfigError(f"cluster {spec.kind}: {wrong}") from wrong
    except Exception as failure:
        first: BaseException = failure
        while (cause := first.__cause__ or first.__context__) is not None:
            first = cause
        why = " ".join(f"{failure} ({first})".split()) if first is not failure else str(failure)
        raise ClusterError(f"cluster {spec.kind} does not start: {why}") from failure


@contextmanager
def start(spec: ClusterSpec) -> Iterator[Any]:
    """Start a cluster, wait for its first worker, and stop it at the end.

    Yields
    ------
    distributed.Client

    Raises
    ------
    ConfigError, ClusterError
        As `deploy`; or no worker came.
    """
    from distributed import Client

    cluster = deploy(spec)
    try:
        with Client(cluster) as client:
            seconds = spec.wait or _WAIT[spec.kind]
            try:
                client.wait_for_workers(_first(spec), timeout=seconds)
            except TimeoutError:
                if not client.nthreads():
                    raise ClusterError(
                        f"cluster {spec.kind}: no worker came in {format_seconds(seconds)}; look at the queue and "
                        "the logs of its jobs, or raise wait in the cluster's file"
                    ) from None
            yield client
    finally:
        cluster.close()


def _first(spec: ClusterSpec) -> int:
    """Workers to wait for: all where they come at once, one where they stand in a queue."""
    if spec.kind == "local":
        return int(spec.arguments()["n_workers"])
    return 1
