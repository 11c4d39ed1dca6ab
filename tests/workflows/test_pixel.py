"""What went into a pixel: the answer makes the stored value again from the frames it lists."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel
from skyloom.workflows.cli import main
from skyloom.workflows.pixel import pixel_answer
from skyloom.workflows.simulate import simulate_from_options
from skyloom.workflows.store import Store

Capture = pytest.CaptureFixture[str]

WORKFLOW = """
name: both
nodes:
  ingest: {inputs: [files]}
  measure: {inputs: [ingest]}
  register: {inputs: [ingest, measure]}
  normalize: {inputs: [ingest, measure, register]}
  drizzle: {inputs: [ingest, register, normalize], parameters: {tile: 96}}
  shrink: {inputs: [ingest]}
  consensus: {inputs: [ingest, shrink, register, normalize]}
  artifacts: {inputs: [ingest, shrink, register, normalize, consensus]}
  masked:
    op: integrate
    inputs: {session: ingest, registration: register, normalization: normalize, artifacts: artifacts}
    parameters: {tile: 128, rejection: auto}
  masked_drizzle:
    op: drizzle
    inputs: {session: ingest, registration: register, normalization: normalize, artifacts: artifacts}
    parameters: {tile: 96}
  integrate: {inputs: [ingest, register, normalize], parameters: {tile: 128, rejection: auto}}
"""
TRAILED = 3
"""Which frame of the session, by name, a satellite crosses; ten pixels wide."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("session")
    simulate_from_options(
        folder, panels="1x2", frames=5, size=192, overlap=0.3, bands=["L"], nights=1, seed=2, raw=False
    )
    rng = np.random.default_rng(3)
    for number, path in enumerate(sorted(folder.glob("*.fits"))):
        with fits.open(path, mode="update") as file:
            pixels = file[0].data
            if number == TRAILED:
                y, x = np.indices(pixels.shape)
                pixels[np.abs(y - 0.4 * x - 60) < 5] += 150
            hit = rng.random(pixels.shape) < 0.01
            pixels[hit] = pixels[hit] + 400
            pixels[rng.random(pixels.shape) < 0.005] -= 300
    return folder


@pytest.fixture(scope="module")
def project(session: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "both.yaml").write_text(WORKFLOW)
    assert main(["run", str(folder / "both.yaml"), str(session), "-o", str(folder), "--quiet"]) == 0
    return folder


def places(result: xr.Dataset, n: int) -> list[tuple[int, int]]:
    """Pixels (x, y): some of each kind, and beside the borders of tiles."""
    rng = np.random.default_rng(5)
    count, low, high = (result[v].values[0] for v in ("count", "rejected_low", "rejected_high"))
    found: list[tuple[int, int]] = []
    # A cosmic ray where one frame is alone.
    alone = [(count == 0) & (high > 0)] if result.attrs["grid_tile"] == 128 else []
    for where in (count > 6, count == 1, low > 0, high > 0, count == 0, *alone):
        y, x = np.nonzero(where)
        assert y.size > 0
        found += [(int(x[i]), int(y[i])) for i in rng.integers(0, y.size, n)]
    tile = int(result.attrs["grid_tile"])
    return [*found, (tile, tile), (tile - 1, tile), (0, 0)]


@pytest.mark.parametrize("node", ["integrate", "drizzle", "masked", "masked_drizzle"])
def test_the_frames_listed_make_the_stored_pixel(project: Path, node: str) -> None:
    result = Store(project).open(node).compute()
    for x, y in places(result, 3):
        answer = pixel_answer(project, place=(x, y), node=node)
        (band,) = answer["bands"]
        stored = {str(v): result[v].values[0, y, x].item() for v in result.data_vars}
        assert band["same"]
        assert {n: np.nan if v is None else v for n, v in band["stored"].items()} == pytest.approx(
            stored, nan_ok=True
        )
        parts = band["frames"]
        used = [p for p in parts if p["weight"] > 0]
        assert len(used) == stored["count"] == sum("used" in p["fate"] for p in parts)
        assert sum("low" in p["fate"] for p in parts) == stored["rejected_low"]
        assert sum("high" in p["fate"] for p in parts) == stored["rejected_high"]
        if used:
            weight = np.array([p["weight"] for p in used])
            mean = float(np.sum(weight * [p["value"] for p in used]) / weight.sum())
            assert mean == pytest.approx(stored["image"], rel=1e-6)
            assert weight.sum() == pytest.approx(stored["weight"], rel=1e-6)
            assert sum(p["fraction"] for p in parts) == pytest.approx(1.0)
        else:
            assert band["stored"]["image"] is None


@pytest.mark.parametrize("node", ["masked", "masked_drizzle"])
def test_masked_samples_are_told_and_left_out(session: Path, project: Path, node: str) -> None:
    store = Store(project)
    result, name = store.open(node), sorted(p.name for p in session.glob("*.fits"))[TRAILED]
    grid = Grid.from_attrs(result.attrs)
    header = fits.getheader(session / name)
    told = []
    for x in (30.0, 60.0, 90.0, 120.0, 150.0):
        ra, dec = pixel_to_sky(WCS(header), np.array([x]), np.array([0.4 * x + 60]))
        column, row = (round(float(v[0])) for v in sky_to_pixel(grid.wcs, ra, dec))
        (band,) = pixel_answer(project, place=(column, row), node=node)["bands"]
        assert band["same"]
        mine = [f for f in band["frames"] if f["name"] == name]
        # A drop that is masked whole is listed as rejected, too.
        told += [f["fate"] for f in mine]
        assert all(f["weight"] == 0 for f in mine)
    assert told
    assert set(told) == {"rejected high"}


def test_values_are_those_of_the_files(session: Path, project: Path) -> None:
    result = Store(project).open("integrate").compute()
    y, x = (int(v[0]) for v in np.nonzero(result["count"].values[0] > 8))
    (band,) = pixel_answer(project, place=(x, y), node="integrate")["bands"]
    part = band["frames"][0]
    pixels = fits.getdata(session / Path(part["name"]).name).astype(float)
    top, left = int(part["y"]), int(part["x"])
    near = pixels[top : top + 2, left : left + 2]
    # Between the four pixels around, or not far beyond.
    values = part["factor"] * (near - part["offset"])
    spread = np.ptp(values)
    assert values.min() - 0.5 * spread < part["value"] < values.max() + 0.5 * spread


def test_the_command_answers_by_pixel_and_by_place(project: Path, capsys: Capture) -> None:
    # Of the newest result that is made of frames.
    grid = Grid.from_attrs(Store(project).open("masked_drizzle").attrs)
    ra, dec = (float(v[0]) for v in pixel_to_sky(grid.wcs, np.array([150.2]), np.array([99.8])))
    assert main(["pixel", str(project), "150", "100", "--json"]) == 0
    by_pixel: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert by_pixel["node"] == "masked_drizzle"
    assert main(["pixel", str(project), "--radec", f"{ra} {dec:+}", "--json", "--band", "L"]) == 0
    assert json.loads(capsys.readouterr().out) == by_pixel
    assert main(["pixel", str(project), "150", "100"]) == 0
    text = capsys.readouterr().out
    for part in by_pixel["bands"][0]["frames"]:
        assert Path(part["name"]).name in text
    assert f"{by_pixel['bands'][0]['stored']['count']} used" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["5"], "say where: X and Y"),
        (["5", "5", "--radec", "M 31"], "say where: X and Y"),
        (["5000", "5"], "is not on the canvas"),
        (["--radec", "10 -80"], "is not on the canvas"),
        (["5", "5", "--band", "Lum"], "has no band 'Lum'"),
        (["5", "5", "--node", "measure"], "is not made of frames directly"),
    ],
)
def test_mistakes_say_what_is_wrong(project: Path, capsys: Capture, arguments: list[str], message: str) -> None:
    assert main(["pixel", str(project), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_it_says_when_the_frames_have_gone(session: Path, project: Path, tmp_path: Path, capsys: Capture) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(session, moved)
    try:
        assert main(["pixel", str(project), "150", "100"]) == 2
        assert "cannot be read" in capsys.readouterr().err
    finally:
        shutil.move(moved, session)
    store = Store(project)
    key = store.newest("normalize")
    assert key is not None
    shutil.move(str(store.root / "normalize" / key), tmp_path / "taken")
    try:
        assert main(["pixel", str(project), "150", "100"]) == 2
        assert "normalize was made anew" in capsys.readouterr().err
    finally:
        shutil.move(tmp_path / "taken", str(store.root / "normalize" / key))
