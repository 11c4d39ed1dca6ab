"""A later night: what was solved stays, tiles without new frames are taken over, the others made of all frames."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.workflows.cli import main
from skyloom.workflows.graph import Workflow
from skyloom.workflows.plan import make_plan
from skyloom.workflows.quality import quality
from skyloom.workflows.run_report import RunReport
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import simulate_from_options
from skyloom.workflows.store import Store

REGISTERED = ("use", "reason", "shift", "residual", "matches")
SOLVED = ("scale", "offset", "confidence", "noise", "use", "reason", "mean_scale", "stars", "note", "inflation")
PIXELS = ("image", "variance", "weight", "count", "rejected_low", "rejected_high")


def workflow(solution: str, until: str = "integrate", **more: Any) -> Workflow:
    settings = {"register.tile": 128, "register.solution": solution}
    if until != "register":
        settings |= {"normalize.solution": solution}
    if until == "integrate":
        settings |= {"integrate.tile": 128}
    return Workflow.load("mosaic").until(until).with_parameters(settings | more)


def run(
    files: list[Path], project: Path, solution: str = "keep", until: str = "integrate", **more: Any
) -> RunReport:
    return run_workflow(workflow(solution, until, **more), files, project=project, scheduler="synchronous")


def result(project: Path, node: str) -> xr.Dataset:
    return Store(project).open(node).compute()


def done(report: RunReport, node: str) -> tuple[int, int]:
    return next((n.units, n.reused) for n in report.nodes if n.name == node)


def same(one: xr.Dataset, other: xr.Dataset, names: tuple[str, ...]) -> None:
    """Bit for bit, for the frames that both have."""
    both = [f for f in other["frame"].values if f in one["frame"].values]
    assert both
    for name in names:
        a, b = (d[name].sel(frame=both).values for d in (one, other))
        assert a.tolist() == b.tolist() if a.dtype.kind == "U" else a.tobytes() == b.tobytes(), name


def same_pixels(one: Path, other: Path) -> None:
    a, b = result(one, "integrate"), result(other, "integrate")
    assert a.attrs["grid_wcs"] == b.attrs["grid_wcs"]
    for name in PIXELS:
        assert a[name].values.tobytes() == b[name].values.tobytes(), name


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 × 2 panels × 2 nights × 2 frames of 256²."""
    folder = tmp_path_factory.mktemp("session")
    simulate_from_options(
        folder, panels="2x2", frames=4, size=256, overlap=0.35, bands=["L"], nights=2, seed=4, raw=False
    )
    return folder


@pytest.fixture(scope="module")
def nights(session: Path) -> tuple[list[Path], list[Path]]:
    """The first night, of all panels; the second, of one."""
    frames = sorted(session.glob("light_*.fits"))
    return [f for f in frames if "_n0_" in f.name], [f for f in frames if "r0c1" in f.name and "_n1_" in f.name]


KILLED = """
    import os, signal, sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from skyloom.workflows import units
    from test_kept_solution import run

    original, left = units.run_unit, [{after}]

    def dying(task):
        if task.writer.node == {node!r}:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(task)

    units.run_unit = dying
    run([Path(f) for f in {files!r}], Path({project!r}))
"""


def kill(files: list[Path], project: Path, node: str, after: int) -> None:
    code = KILLED.format(
        tests=str(Path(__file__).parent),
        files=[str(f) for f in files],
        project=str(project),
        node=node,
        after=after,
    )
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=dict(os.environ), check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def scorer(benchmark_script: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_script("score")


def test_a_night_more_a_frame_less(
    session: Path, nights: tuple[list[Path], list[Path]], scorer: ModuleType, tmp_path: Path
) -> None:
    first, second = nights
    project = tmp_path / "p"
    run(first, project)
    fresh = {n: Store(project).newest(n) for n in ("register", "normalize", "integrate")}
    registered, solved = result(project, "register"), result(project, "normalize")
    assert not solved["kept"].values.any()

    # Again, whichever way: nothing to do.
    for word in ("keep", "auto", "new"):
        plan = make_plan(workflow(word), first, project=project)
        assert {n.name: n.key for n in plan.nodes if n.name in fresh} == fresh

    every = [*first, *second]
    plan = make_plan(workflow("keep"), every, project=project)
    (foreseen,) = (n for n in plan.nodes if n.name == "integrate")
    assert foreseen.reused > 0
    (note,) = plan.notes
    assert note == (
        f"integrate: {foreseen.units} of {foreseen.units + foreseen.reused} tiles are to be made: "
        f"{second[0].name}, {second[1].name} are new"
    )

    (note,) = make_plan(workflow("new"), every, project=project).notes
    assert note.startswith(
        "normalize: 8 frames that were solved before are solved anew with the others; --solution"
    )
    assert make_plan(workflow("new", "integrate", **{"normalize.degree": 1}), every, project=project).notes == ()

    # Killed in each of the steps, the run finds what it had begun with.
    kill(every, project, "normalize", 0)
    kill(every, project, "integrate", 3)
    before = Store(project).newest("normalize")
    report = run(every, project)
    assert done(report, "measure") == (0, 0)
    assert Store(project).newest("normalize") == before
    units, reused = done(report, "integrate")
    skipped = next(n.skipped for n in report.nodes if n.name == "integrate")
    assert (units, skipped, reused) == (foreseen.units - 3, foreseen.reused + 3, 0)
    now = result(project, "normalize")
    same(result(project, "register"), registered, REGISTERED)
    same(now, solved, SOLVED)
    assert now["kept"].values.sum() == len(first)
    assert now["use"].values.all()
    assert any("8 frames as they were before, 2 solved now" in line for line in quality(Store(project)))

    # From nothing, given this solution: the same pixels, from the same frames.
    run(every, tmp_path / "scratch", str(project))
    same(result(tmp_path / "scratch", "normalize"), now, SOLVED)
    same_pixels(project, tmp_path / "scratch")
    scored = score_of(scorer, session, project, first, every)

    # A frame less: nothing is solved, and only its tiles are made.
    rest = every[1:]
    plan = make_plan(workflow("keep"), rest, project=project)
    assert plan.notes[0].endswith(f"{every[0].name} is gone")
    report = run(rest, project)
    assert done(report, "measure") == (0, len(rest))
    assert done(report, "integrate") == next((n.units, n.reused) for n in plan.nodes if n.name == "integrate")
    same(result(project, "normalize"), now, SOLVED)

    # All anew: as if there had been nothing.
    other = tmp_path / "other"
    run(every, project, "new", until="normalize")
    run(every, other, "new")
    assert Store(project).newest("normalize") == Store(other).newest("normalize")
    assert not np.array_equal(result(project, "normalize")["scale"].values[:2], now["scale"].values[:2])

    # Against the truth; gradients are a fifth of the sky, hundreds of adu.
    together = score_of(scorer, session, other, every, every)
    text = scored.to_text() + "\n" + together.to_text()
    assert abs(scored.star_bias) < 0.01, text
    assert scored.seam_step < 1.5 * together.seam_step, text
    assert scored.sky_quadratic < 1.5 * together.sky_quadratic, text


def score_of(scorer: ModuleType, session: Path, project: Path, level: list[Path], every: list[Path]) -> Any:
    """The mosaic against the sky it was made of, in the units of some of its frames."""
    truth = json.loads((session / "truth.json").read_text())
    told = SimulatedSession.from_dict(truth["session"])
    place = {Path(p).name: i for i, p in enumerate(told.paths)}
    mosaic = result(project, "integrate")
    return scorer.score(
        mosaic["image"].values[0],
        mosaic["variance"].values[0],
        Grid.from_attrs(mosaic.attrs),
        truth,
        band="L",
        weight=mosaic["weight"].values[0],
        frames=[place[f.name] for f in every],
        factor=scorer.gauge(told, [told.lights[place[f.name]] for f in level]),
    )


def test_what_cannot_be_kept(nights: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    first, _ = nights
    run(first[:4], tmp_path / "p", until="normalize")
    with pytest.raises(
        ConfigError, match=r"node 'normalize'.*made with normalize.degree = auto, not 2; solution = new"
    ):
        make_plan(workflow("keep", "normalize", **{"normalize.degree": 2}), first, project=tmp_path / "p")
    with pytest.raises(ConfigError, match=r"node 'register'.*made with measure.threshold = .*, not 9"):
        make_plan(workflow("auto", "normalize", **{"measure.threshold": 9.0}), first, project=tmp_path / "p")
    with pytest.raises(DataError, match="no run of this project has come to its register yet"):
        make_plan(workflow(str(tmp_path / "none"), "normalize"), first, project=tmp_path / "p")
    # In a project without a result there is nothing to keep: the keys are those of any fresh project.
    keys = [
        make_plan(workflow(word, "register"), first, project=tmp_path / "fresh").nodes[-1].key
        for word in ("keep", "auto", "new")
    ]
    assert len(set(keys)) == 1


def test_on_the_command_line(
    nights: tuple[list[Path], list[Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = nights
    project = tmp_path / "p"
    run(first, project, "new")
    tiles = ["--set", "register.tile=128", "--set", "integrate.tile=128"]
    more = [*tiles, "--until", "integrate", "--solution", "keep"]
    files = [str(f) for f in [*first, *second]]
    assert main(["status", str(project), *map(str, first)]) == 0
    assert "nothing is to be done" in capsys.readouterr().out
    assert main(["plan", "mosaic", *files, "-o", str(project), *more]) == 0
    assert "are to be made" in " ".join(capsys.readouterr().out.split())
    assert main(["run", "mosaic", *files, "-o", str(project), "--quiet", *more, "--until", "normalize"]) == 0
    capsys.readouterr()
    assert main(["status", str(project), *map(str, first[1:])]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "8 frames as they were before, 2 solved now normalize: L: new frames differ from the sky kept by" in said
    )
    assert "measure: to be made" not in said
    assert "normalize: to be made" in said
    assert f"{first[0].name} is gone; " not in said
    assert f"{first[0].name}, {second[0].name}, {second[1].name} are gone" in said
    assert main(["plan", "calibrate", *files, "--solution", "keep"]) == 2
    assert "no node of 'calibrate' has a solution to keep" in capsys.readouterr().err


def test_panels_that_only_stars_place(tmp_path: Path) -> None:
    """Nobody's header says where it looks: places, shifts and backgrounds of the first night stay."""
    simulate_from_options(
        tmp_path / "in",
        panels="2x1",
        frames=4,
        size=320,
        overlap=0.3,
        bands=["L"],
        nights=2,
        seed=4,
        raw=False,
    )
    frames = sorted((tmp_path / "in").glob("light_*.fits"))
    for path in frames:
        with fits.open(path, mode="update") as opened:
            for name in ("CTYPE1", "CTYPE2"):
                del opened[0].header[name]
    first = [f for f in frames if "_n0_" in f.name]
    project, steps = tmp_path / "p", ("locate", "register", "normalize")
    settings: dict[str, Any] = {f"{step}.solution": "keep" for step in steps} | {"register.tile": 128}
    stack = Workflow.load("stack").until("normalize").with_parameters(settings)
    run_workflow(stack, first, project=project, scheduler="synchronous")
    before = {step: result(project, step) for step in steps}
    assert set(before["locate"]["origin"].values.tolist()) == {"stars"}
    more = [f for f in frames if "_n0_" in f.name or "r0c0" in f.name]
    run_workflow(stack, more, project=project, scheduler="synchronous")
    same(result(project, "locate"), before["locate"], ("wcs", "origin", "residual"))
    same(result(project, "register"), before["register"], REGISTERED)
    same(result(project, "normalize"), before["normalize"], SOLVED)
    now = result(project, "register")
    assert now["kept"].values.sum() == len(first)
    assert now["use"].values.all()
    assert np.abs(now["shift"].values).max() < 0.2, "new frames were laid onto the old ones"
