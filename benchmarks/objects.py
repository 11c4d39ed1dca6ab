"""What a project in an object store costs beside one in a folder: requests, bytes, and waiting.

    python benchmarks/objects.py [--panels 2x2] [--frames 6] [--size 1024] [--wait 0.03]

A server of the S3 protocol (moto) answers on loopback, each request `wait` seconds late. Counted are requests and
bytes of a first run, of the same command again, and of a run that adds a frame. The server is slow itself: times
say what waiting costs, not what a store can do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "nights"


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *_: Any) -> None:
        """Nothing."""


class Counting:
    """Counts what passes to a server, and makes it wait."""

    def __init__(self, app: Any, wait: float) -> None:
        self.app, self.wait = app, wait
        self.forget()

    def forget(self) -> None:
        self.requests: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.written = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        time.sleep(self.wait)
        self.requests[method] += 1
        if method == "PUT":
            self.written += int(environ.get("CONTENT_LENGTH") or 0)

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            if method == "GET":
                size = next((int(v) for k, v in headers if k.lower() == "content-length"), 0)
                self.read["frames" if "/frames/" in path and ".zarr" not in path else "project"] += size
            return start_response(status, headers, *more)

        return self.app(environ, start)


def skyloom(*words: str) -> tuple[float, str]:
    """Run a command; its seconds and what it printed."""
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "skyloom.workflows", *words], check=True, capture_output=True, text=True
    )
    return time.monotonic() - begin, done.stdout


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", default="2x2")
    parser.add_argument("--frames", default="6")
    parser.add_argument("--size", default="1024")
    parser.add_argument("--wait", type=float, default=0.03, help="seconds a request takes longer (%(default)s)")
    options = parser.parse_args()
    count = Counting(DomainDispatcherApplication(create_backend_app), options.wait)
    server = make_server("127.0.0.1", 0, count, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT")).read()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        os.environ.update(
            AWS_ENDPOINT_URL=address,
            AWS_ACCESS_KEY_ID="x",
            AWS_SECRET_ACCESS_KEY="x",
            SKYLOOM_SCRATCH=str(base / "copies"),
        )
        skyloom("simulate", str(base / "frames"), "--panels", options.panels, "--frames", options.frames,
                "--size", options.size, "--nights", "1")  # fmt: skip
        paths = sorted((base / "frames").rglob("*.fits"))
        size = sum(p.stat().st_size for p in paths)
        from skyloom.workflows.places import ObjectPlace

        far = ObjectPlace.of(f"s3://{BUCKET}/frames")
        for path in paths:
            (far / path.name).put(path)
        names = [str(far / path.name) for path in paths]
        print(f"{len(paths)} frames, {size / 1e6:.1f} MB; each request waits {1e3 * options.wait:.0f} ms")
        for what, project, files in (
            ("folder, first run", str(base / "project"), [str(p) for p in paths[:-1]]),
            ("folder, again", str(base / "project"), [str(p) for p in paths[:-1]]),
            ("folder, one frame more", str(base / "project"), [str(p) for p in paths]),
            ("store, first run", f"s3://{BUCKET}/project", names[:-1]),
            ("store, again", f"s3://{BUCKET}/project", names[:-1]),
            ("store, one frame more", f"s3://{BUCKET}/project", names),
        ):
            count.forget()
            seconds, printed = skyloom("run", "mosaic", *files, "-o", project, "--quiet", "--json")
            worked = sum(node["seconds"] for node in json.loads(printed)["nodes"])
            kinds = ", ".join(f"{n} {kind}" for kind, n in count.requests.most_common())
            print(f"{what}: {seconds:.1f} s, nodes {worked:.1f} s")
            print(f"    {sum(count.requests.values())} requests ({kinds})")
            print(
                f"    read {count.read['frames'] / 1e6:.2f} MB of frames, {count.read['project'] / 1e6:.2f} MB of "
                f"the project; written {count.written / 1e6:.2f} MB"
            )


if __name__ == "__main__":
    main()
