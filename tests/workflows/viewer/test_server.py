"""Who may ask, what can be asked for, and how the command ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from skyloom.workflows.cli import main
from skyloom.workflows.store import Store
from skyloom.workflows.viewer.command import open_server
from skyloom.workflows.viewer.look import Look
from skyloom.workflows.viewer.server import PAGE
from skyloom.workflows.viewer.tiles import Tiles

from .conftest import Client, Made, canvas, write_result

TILE = "/tile?" + urlencode({"layer": "wide/image/0", "factor": 1, "column": 0, "row": 0})
PATHS = [*PAGE, "/api/project", "/api/value?layer=wide/image/0&x=1&y=1", TILE, "/nothing"]


@pytest.mark.parametrize("path", PATHS)
def test_nothing_without_the_token(client: Client, path: str) -> None:
    for cookie in ("", f"{client.server.cookie}=wrong", f"skyloom={client.server.token}", "a=b; ;=;"):
        status, _, data = client.get(path, cookie=cookie)
        assert status == 403
        assert b"token" in data
        assert client.server.token.encode() not in data
    joined = "&" if "?" in path else "?"
    assert client.get(f"{path}{joined}token=wrong")[0] == 403
    assert client.get(f"{path}{joined}token=%C3%A9", cookie="")[0] == 403


def test_the_token_becomes_a_cookie(client: Client) -> None:
    status, headers, _ = client.get(f"/?token={client.server.token}&a=1", cookie="")
    assert status == 303
    assert headers["Location"] == "/?a=1"
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    cookie = headers["Set-Cookie"].partition(";")[0]
    status, headers, data = client.get("/", cookie=cookie)
    assert status == 200
    assert b"<title>skyloom" in data
    assert "script-src 'self'" in headers["Content-Security-Policy"]
    # Scripts of programs carry the token in each address.
    assert client.get(f"/api/project?token={client.server.token}", cookie="")[0] == 200


def test_each_server_has_its_own_token(client: Client, made: Made) -> None:
    other = open_server(made.folder)
    try:
        assert other.token != client.server.token
        assert len(other.token) >= 32
        assert other.server_address[0] == "127.0.0.1"
    finally:
        other.server_close()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "0.0.0.0:{port}"]
)
def test_other_hosts_are_refused(client: Client, host: str) -> None:
    assert client.get("/", host=host.format(port=client.server.port))[0] == 403


def test_localhost_is_this_host(client: Client) -> None:
    assert client.get("/", host=f"localhost:{client.server.port}")[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_there_is_nothing_to_write(client: Client, method: str) -> None:
    assert client.get("/api/project", method=method)[0] == 405


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/page/../server.py", "/viewer.js/..",
     "/static", "/project.zarr/zarr.json", "/workflow.yaml", "/%2e%2e/small.yaml",
     "http://127.0.0.1/etc/passwd", "/\\..\\x"],
)  # fmt: skip
def test_no_path_reaches_a_file(client: Client, path: str) -> None:
    status, _, data = client.get(path)
    assert status == 404
    assert data == b"no such page\n"


@pytest.mark.parametrize(
    "layer",
    [
        "../../../etc/passwd",
        "wide/../../x/0",
        "wide/image/../0",
        "%00/image/0",
        "..",
        "/",
        "@/../../x",
        "wide/c/0",
    ],
)
def test_no_layer_reaches_a_file(client: Client, layer: str) -> None:
    for path in ("/tile", "/api/layer", "/api/value", "/api/tones", "/api/frames"):
        query = urlencode({"layer": layer, "factor": 1, "column": 0, "row": 0, "x": 0, "y": 0})
        status, _, data = client.get(f"{path}?{query}")
        assert status == 400
        assert "error" in json.loads(data)


@pytest.mark.parametrize(
    "path",
    ["/tile?layer=wide/image/0", "/tile?layer=wide/image/0&factor=1&column=x&row=0",
     "/api/value?layer=wide/image/0&x=1e3&y=0",
     "/api/grid?left=0&right=nan&bottom=0&top=1", "/api/tones?layer=wide/image/0&white=7", "/api/layer"],
)  # fmt: skip
def test_wrong_questions_get_one_line(client: Client, path: str) -> None:
    status, _, data = client.get(path)
    assert status == 400
    assert "\n" not in json.loads(data)["error"]


def test_a_very_long_address_is_refused(client: Client) -> None:
    assert client.get("/?" + "a" * 10_000)[0] == 414


def test_a_tile_over_the_wire(client: Client, tiles: Tiles) -> None:
    status, headers, data = client.get(TILE)
    assert status == 200
    assert headers["Content-Type"] == "image/png"
    assert data == tiles.png(tiles.layer("wide/image/0"), 1, 0, 0, Look())


def test_values_over_the_wire(client: Client, made: Made) -> None:
    for x, y in ((3, 4), (700, 650), (1299, 0)):
        answer = client.json(f"/api/value?layer=wide/image/1&x={x}&y={y}")
        stored = float(made.wide["image"][1, y, x])
        assert answer["values"]["image"] == [None if np.isnan(stored) else stored]


def test_what_there_is(client: Client) -> None:
    project = client.json("/api/project")
    assert project["name"] == "my project"
    assert project["first"] == "wide/image/0"
    assert project["canvas"] == {"width": 1300, "height": 1100}
    by_id = {r["id"]: r for r in project["results"]}
    assert [v["name"] for v in by_id["wide"]["variables"]] == ["image", "weight", "count", "rejected_low"]
    assert by_id["shown"]["variables"][0]["rgb"]
    assert by_id["shown"]["first"] == "shown/image/rgb"
    assert len(project["frames"]) == 8
    layer = client.json("/api/layer?layer=cut/image/0")
    assert layer["place"] == {"left": 25, "bottom": 40, "scale": 1}
    assert (layer["width"], layer["height"]) == (900, 800)
    state = client.json("/api/state?layers=wide/image/0,half/image/0,gone/image/0")["layers"]
    assert state["wide/image/0"]["complete"]
    assert not state["half/image/0"]["complete"]
    assert state["gone/image/0"] is None
    outlines = client.json("/api/outlines")
    assert len(outlines["frames"]) == 8
    assert sum(p["frames"] for p in outlines["panels"]) == sum(f["used"] for f in outlines["frames"])
    lines = client.json("/api/grid?left=0&right=1300&bottom=0&top=1100")["lines"]
    assert {line["kind"] for line in lines} == {"ra", "dec"}
    tones = client.json("/api/tones?layer=shown/image/rgb&method=linear")
    assert len(tones["black"]) == 3


def test_the_project_is_not_touched(client: Client, made: Made) -> None:
    def state() -> dict[str, tuple[int, int]]:
        files = (p for p in made.folder.rglob("*") if p.is_file())
        return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}

    before = state()
    client.json("/api/project")
    client.get(TILE)
    client.json("/api/state?layers=half/image/0,wide/count/1")
    client.json("/api/frames?layer=integrate/image/0&x=100&y=80")
    assert state() == before


def test_the_revision_changes_when_a_run_goes_on(tmp_path: Path) -> None:
    store = Store(tmp_path / "p")
    store.create()
    arrays = {"image": np.ones((2, 64, 64), np.float32)}
    write_result(store, "node", arrays, canvas((64, 64), tile=32), units=1)
    tiles = Tiles(store)

    def revision() -> str:
        return tiles.revision(tiles.layer("node/image/0"))

    first = revision()
    assert revision() == first
    journal = store.journal("node", "k1").path
    journal.parent.mkdir(parents=True)
    journal.write_text("{}\n")
    write_result(store, "node", arrays, canvas((64, 64), tile=32), units=3)
    assert revision() != first


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["view", *arguments, "--no-browser"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("skyloom: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, made: Made, client: Client
) -> None:
    assert "is no project" in told(capsys, str(tmp_path / "nothing"))
    empty = Store(tmp_path / "empty")
    empty.create()
    assert "nothing on a canvas yet" in told(capsys, str(empty.project))
    assert "no node 'wid' with an image; did you mean 'wide'" in told(capsys, str(made.folder), "--node", "wid")
    assert "cannot be had" in told(capsys, str(made.folder), "--port", str(client.server.port))
    assert "cannot be had" in told(capsys, str(made.folder), "--port", "99999")


def test_ctrl_c_ends_it(made: Made) -> None:
    command = [
        sys.executable,
        "-m",
        "skyloom.workflows",
        "view",
        str(made.folder),
        "--no-browser",
        "--node",
        "wide",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:")
    assert "?token=" in line
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out.strip() == ""
    assert err == ""
