"""The command line as a person uses it: what it prints, the files it makes, its exit codes."""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits
from PIL import Image

from skyloom.workflows.cli import main
from skyloom.workflows.commands import loading
from skyloom.workflows.simulate import simulate_from_options

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("session")
    simulate_from_options(
        folder, panels="1x2", frames=3, size=256, overlap=0.25, bands=["L", "Ha"], nights=1, seed=2, raw=False
    )
    (folder / "broken.fits").write_bytes(b"SIMPLE  =                    T" + b" " * 100)
    return folder


@pytest.fixture(scope="module")
def project(session: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    assert main(["run", "mosaic", str(session), "-o", str(folder), "--quiet"]) == 0
    return folder


def test_run_makes_everything_and_says_so(session: Path, project: Path, capsys: Capture) -> None:
    assert main(["run", "mosaic", str(session), "-o", str(project)]) == 0
    out, err = capsys.readouterr()
    assert "as before" in out
    assert "integrate: as before" in err
    assert "broken.fits" in out
    for band in ("L", "Ha"):
        for ending in ("fits", "tif", "png"):
            assert (project / "outputs" / f"mosaic_{band}.{ending}").stat().st_size > 1000
    effective = yaml.safe_load((project / "workflow.yaml").read_text())
    assert effective["nodes"]["integrate"]["parameters"]["rejection"] == "winsorized"


def test_inspect(session: Path, capsys: Capture) -> None:
    assert main(["inspect", str(session)]) == 0
    out = capsys.readouterr().out
    assert "Frames (12)" in out
    assert "Left out (1)" in out
    assert main(["inspect", str(session), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["frames"]) == 12
    assert {f["band"] for f in document["frames"]} == {"L", "Ha"}


def test_plan_table_json_and_drawings(session: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["plan", "mosaic", str(session), "--memory", "2GiB"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "integrate" in out
    assert "12 frames" in out
    assert "Canvas" in out
    assert main([*command, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["frames"] == 12
    assert plan["memory_limit"] == 2 * 2**30
    assert sum(int(d) * n for d, n in plan["canvas"]["depth"].items()) >= 12
    for name in ("g.svg", "g.mmd"):
        assert main([*command, "--graph", str(tmp_path / name)]) == 0
        assert "integrate" in (tmp_path / name).read_text()


def test_status(project: Path, capsys: Capture) -> None:
    assert main(["status", str(project)]) == 0
    assert "complete" in capsys.readouterr().out
    assert main(["status", str(project), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [n["node"] for n in document["nodes"]] == ["ingest", "measure", "register", "normalize", "integrate"]
    assert all(n["complete"] for n in document["nodes"])
    assert document["quality"][0].startswith("register: 12 frames, 12 verified")
    assert document["quality"][1].startswith("normalize: Ha: 6 frames, scales "), document["quality"]
    assert [Path(n).name for n, _ in document["left_out"]] == ["broken.fits"]


def test_export_chooses_by_ending_band_and_variable(project: Path, tmp_path: Path, capsys: Capture) -> None:
    assert (
        main(
            ["export", str(project), "integrate", str(tmp_path / "c.fits"), "--band", "Ha", "--variable", "count"]
        )
        == 0
    )
    assert fits.getdata(tmp_path / "c.fits").max() == 6
    assert (
        main(["export", str(project), "integrate", str(tmp_path / "m.png"), "--band", "L", "--max-side", "100"])
        == 0
    )
    assert max(Image.open(tmp_path / "m.png").size) <= 100
    assert main(["export", str(project), "integrate", str(tmp_path / "m.png")]) == 2
    assert "choose one with --band" in capsys.readouterr().err


def test_lists(capsys: Capture) -> None:
    assert main(["workflows"]) == 0
    assert "ingest → measure → register → normalize → integrate → export" in capsys.readouterr().out
    assert main(["workflows", "mosaic"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["nodes"]["normalize"]["op"] == "normalize"
    assert main(["ops"]) == 0
    out = capsys.readouterr().out
    call = "integrate(session, registration, normalization, [approval], [artifacts])"
    for text in (call, "taper", "sigma", "px", "winsorized"):
        assert text in out
    assert "task_memory" not in out, "set by the plan, not by people"


def test_every_parameter_is_explained() -> None:
    from skyloom.ops.registry import all_ops

    for op in all_ops().values():
        assert op.summary.endswith("."), op.name
        for parameter in op.parameters.values():
            assert parameter.doc, f"{op.name}.{parameter.name}"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["run", "mosiac", "S", "-o", "P"], "unknown preset 'mosiac'; did you mean 'mosaic'"),
        (["run", "mosaic", "S"], "the following arguments are required: -o/--output"),
        (["run", "mosaic", "S/nowhere", "-o", "P"], "there is no such file or folder"),
        (["run", "mosaic", "S", "-o", "P", "--set", "integrate.lwo=3"], "no parameter 'lwo'; did you mean 'low'"),
        (["run", "mosaic", "S", "-o", "P", "--set", "integrate.low"], "write node.parameter=value"),
        (["run", "mosaic", "S", "-o", "P", "--set", "integrate.tile=1000"], "multiple of 32"),
        (["run", "mosaic", "S", "-o", "P", "--until", "integrte"], "no node 'integrte'; did you mean 'integrate'"),
        (["run", "mosaic", "S", "-o", "P", "--memory", "plenty"], "'plenty' is no size"),
        (["run", "mosaic", "S", "-o", "P", "--memory", "301MiB"], "--memory"),
        (["run", "mosaic", "S", "-o", "P", "--workers", "0"], "--workers 0: at least 1"),
        (["run", "mosaic", "S", "-o", "P", "--scheduler", "slurm"], "use synchronous, threads or the address"),
        (["plan", "mosaic", "S", "--graph", "P.jpg"], "should be .svg or .mmd"),
        (["status", "P"], "is no project"),
        (["export", "P", "integrate", "x.fits"], "is no project"),
        (["simulate", "P", "--panels", "many"], "panels are ROWSxCOLUMNS"),
        (["ops", "stack"], "unknown op 'stack'"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    session: Path, tmp_path: Path, capsys: Capture, command: list[str], says: str
) -> None:
    places = {"S": str(session), "P": str(tmp_path / "p")}
    command = [places.get(c, c).replace("S/", f"{session}/").replace("P.", f"{tmp_path}/p.") for c in command]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("skyloom: ")
    assert err.count("\n") == 1
    assert says in err
    assert not (tmp_path / "p").exists(), "nothing is made for a mistake"


def test_simulate_raw_colour_frames(tmp_path: Path, capsys: Capture) -> None:
    command = [
        "simulate",
        str(tmp_path / "s"),
        "--panels",
        "1x1",
        "--frames",
        "1",
        "--size",
        "128",
        "--bands",
        "CFA",
    ]
    assert main([*command, "--raw", "--nights", "1"]) == 0
    assert "the truth in" in capsys.readouterr().out
    (light,) = (tmp_path / "s").glob("*.fits")
    assert fits.getheader(light)["BAYERPAT"] == "RGGB"
    assert fits.getdata(light).dtype == np.uint16
    assert {p.name for p in (tmp_path / "s").iterdir() if p.is_dir()} == {"bias", "dark", "flat"}
    (tmp_path / "file").write_text("in the way")
    assert main([*command[:1], str(tmp_path / "file"), *command[2:]]) == 2
    assert "in the way" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys: Capture) -> None:
    with pytest.raises(Exception, match="unknown op"):
        main(["ops", "stack", "--debug"])


def test_installed_script_and_module_agree() -> None:
    script = Path(sys.executable).parent / "skyloom"
    outputs = {
        subprocess.run([*c, "--version"], check=True, capture_output=True, text=True).stdout
        for c in ([str(script)], [sys.executable, "-m", "skyloom.workflows"])
    }
    assert len(outputs) == 1
    assert outputs.pop().startswith("skyloom ")


def test_pixels_exported_are_the_store_s(project: Path) -> None:
    from skyloom.workflows.store import Store

    with fits.open(project / "outputs" / "mosaic_L.fits") as hdus:
        stored = Store(project).open("integrate")["image"].sel(band="L").values
        np.testing.assert_array_equal(hdus[0].data, stored)


SLOW = """
import os, sys, time
import dask.array as da, numpy as np, xarray as xr
from skyloom.ops.registry import register
from skyloom.workflows.cli import main
from skyloom.workflows.commands import loading

@register(version=1)
def names(files: list) -> xr.Dataset:
    return xr.Dataset({"n": ("frame", np.array([len(f) for f in files]))})

def tile(block_id=None):
    if block_id[0] >= 2:
        os.write(1, b"asleep\\n")
        time.sleep(60)
    return np.zeros((4, 4), np.float32)

@register(version=1, unit=("y", "x"))
def slow(names: xr.Dataset) -> xr.Dataset:
    image = da.map_blocks(tile, chunks=((4,) * 6, (4,)), dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return xr.Dataset({"image": (("y", "x"), image)})

sys.exit(main(["run", sys.argv[1], "a", "b", "-o", sys.argv[2], "--workers", "2"]))
"""


def test_second_ctrl_c_abandons_at_once_and_keeps_what_is_done(tmp_path: Path) -> None:
    (tmp_path / "slow.yaml").write_text("nodes:\n  names: {inputs: [files]}\n  slow: {inputs: [names]}\n")
    command = [sys.executable, "-c", SLOW, str(tmp_path / "slow.yaml"), str(tmp_path / "p")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(2):
        assert process.stdout.readline() == "asleep\n"
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None, "the first lets the tasks in flight go on"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Ctrl-C again abandons" in err
    assert "abandoned; run the same command again" in err
    (journal,) = (tmp_path / "p" / "journal").glob("slow-*")
    assert len(journal.read_text().splitlines()) == 2


def test_loading_leaves_the_collector_on() -> None:
    def fail() -> None:
        assert not gc.isenabled()
        raise ImportError

    frozen = gc.get_freeze_count()
    try:
        gc.unfreeze()
        with pytest.raises(ImportError), loading():
            fail()
        assert gc.isenabled()
        count = gc.get_freeze_count()
        assert count > 1000
        with loading():  # once a process: what a caller lets go later must not stay for good
            assert gc.isenabled()
        # Others may let go of what is kept, meanwhile.
        assert gc.get_freeze_count() <= count
    finally:
        if not frozen:
            gc.unfreeze()


def test_link_shows_what_belongs_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate = ["simulate", str(tmp_path / "raw"), "--raw", "--panels", "1x1", "--frames", "2", "--size", "64"]
    assert main([*simulate, "--bands", "L", "--nights", "1"]) == 0
    capsys.readouterr()
    assert main(["link", str(tmp_path / "raw")]) == 0
    assert "flat" in capsys.readouterr().out


START = """
import sys
from skyloom.workflows.cli import main
code = main(sys.argv[1:])
assert "distributed" not in sys.modules, "dask's distributed scheduler takes a fifth of a second to import"
sys.exit(code)
"""


@pytest.mark.parametrize("command", [["plan"], ["run", "--quiet", "--no-report", "--until", "integrate"]])
def test_what_does_not_need_a_cluster_does_not_load_it(session: Path, tmp_path: Path, command: list[str]) -> None:
    project = ["-o", str(tmp_path)] if command[0] == "run" else []
    words = [command[0], "mosaic", str(session), *command[1:], *project]
    for _ in range(len(project) or 1):
        done = subprocess.run([sys.executable, "-c", START, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
