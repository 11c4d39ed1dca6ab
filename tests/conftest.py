"""Fixtures shared by all tests."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run: a test that fails one time in a thousand tells nobody anything.
settings.register_profile("skyloom", derandomize=True)
settings.load_profile("skyloom")

# As the command line does: pools of BLAS threads fight with the tasks for the cores.
for _pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_pool, "1")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Folder of real frames beside the checkout; a plain clone has none and skips."""
    base = Path(os.environ.get("SKYLOOM_DATA", ROOT.parent / "shared" / "data"))

    def find(name: str) -> Path:
        folder = base / name
        if not folder.exists():
            pytest.skip(f"no real frames here ({name}); set SKYLOOM_DATA to their folder")
        return folder

    return find


@pytest.fixture(scope="session")
def benchmark_script() -> Callable[[str], ModuleType]:
    """Scripts of benchmarks/ as modules, by name."""

    def load(name: str) -> ModuleType:
        key = f"skyloom_benchmark_{name}"
        if key in sys.modules:
            return sys.modules[key]
        spec = importlib.util.spec_from_file_location(key, ROOT / "benchmarks" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        # Dataclasses look their module up by its name.
        module = sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@dataclass
class ObjectServer:
    """A server of the S3 protocol on loopback that notes what it is asked, and fails on demand."""

    app: Callable[..., Any]
    address: str = ""
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path with its question, and bytes of each answer."""
    fails: Callable[[str, str], str] = lambda method, path: ""
    """Status ("500 Internal Server Error") a request is answered with instead; "" = it is served."""
    key: str = "KEYTHATNOBODYSEES"
    secret: str = "secretthatnobodysees"

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        status = self.fails(method, path)
        if environ["QUERY_STRING"]:
            path += f"?{environ['QUERY_STRING']}"
        if status:
            # As stores do: what they answer repeats who asked.
            code = {"403": "AccessDenied", "500": "InternalError", "503": "SlowDown"}[status[:3]]
            text = f"<Error><Code>{code}</Code><AWSAccessKeyId>{self.key}</AWSAccessKeyId></Error>".encode()
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))])
            self.asked.append((method, path, 0))
            return [text]

        def start(told: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            size = next((int(v) for k, v in headers if k.lower() == "content-length"), 0)
            self.asked.append((method, path, 0 if method == "HEAD" else size))
            return start_response(told, headers, *more)

        return self.app(environ, start)

    def make_bucket(self, name: str) -> None:
        request = urllib.request.Request(f"{self.address}/{name}", method="PUT")
        urllib.request.urlopen(request, timeout=30).read()

    def environment(self) -> dict[str, str]:
        """Variables by which a process finds the server and is let in."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    """The server, started once."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_: Any) -> None:
            """Nothing."""

    made = ObjectServer(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, made, threaded=True, request_handler=Quiet)
    made.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.make_bucket("nights")
    yield made
    server.shutdown()


@pytest.fixture
def s3(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ObjectServer]:
    """The server, with this process let in, and nothing yet asked of it."""
    from skyloom.ops import objects
    from skyloom.workflows import places, store

    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in object_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SKYLOOM_SCRATCH", str(tmp_path / "scratch"))
    places.forget_seen()
    kept = (objects._opened, places._zarr_store, store._open_arrays)
    for cache in kept:
        cache.cache_clear()
    object_server.asked.clear()
    yield object_server
    object_server.fails = lambda method, path: ""
    for cache in kept:
        cache.cache_clear()
