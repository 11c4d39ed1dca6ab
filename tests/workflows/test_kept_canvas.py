"""The canvas of a run: kept from night to night, taken from files and projects by what they hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid, pixel_to_sky, sky_to_pixel
from skyloom.ops.registration.projecting import projected_wcs
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.workflows.export import export_file
from skyloom.workflows.graph import Workflow
from skyloom.workflows.run_report import RunReport
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import simulate_from_options
from skyloom.workflows.store import Store

TILE = 128


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 × 1 panels × 2 frames of 256²."""
    folder = tmp_path_factory.mktemp("session")
    simulate_from_options(
        folder, panels="2x1", frames=2, size=256, overlap=0.3, bands=["L"], nights=2, seed=4, raw=False
    )
    return folder


def run(files: list[Path], project: Path, *, until: str = "register", **parameters: object) -> RunReport:
    settings = {"register.tile": TILE} | {f"register.{k}": v for k, v in parameters.items()}
    if until != "register":
        settings["integrate.tile"] = TILE
    workflow = Workflow.load("mosaic").until(until).with_parameters(settings)
    return run_workflow(workflow, files, project=project, scheduler="synchronous")


def grid_of(project: Path) -> Grid:
    return Grid.from_attrs(Store(project).open("register").attrs)


def panels(session: Path) -> tuple[list[Path], list[Path]]:
    """Frames of the one panel and of the other."""
    frames = sorted(session.glob("light_*.fits"))
    return [p for p in frames if "_r0" in p.name], [p for p in frames if "_r1" in p.name]


def test_a_later_night_moves_no_pixel(session: Path, tmp_path: Path) -> None:
    one, other = panels(session)
    run(other, tmp_path, canvas="keep")
    first, key = grid_of(tmp_path), Store(tmp_path).newest("register")
    assert run(other, tmp_path, canvas="keep").nodes[-1].units == 0
    assert Store(tmp_path).newest("register") == key
    run([*one, *other], tmp_path, canvas="keep")
    second, key = grid_of(tmp_path), Store(tmp_path).newest("register")
    assert Store(tmp_path).open("register")["use"].values.all()
    x, y = np.array([0.0, first.shape[1] - 1]), np.array([0.0, first.shape[0] - 1])
    moved = np.array(sky_to_pixel(second.wcs, *pixel_to_sky(first.wcs, x, y))) - (x, y)
    steps = np.rint(moved)
    np.testing.assert_allclose(moved, steps, atol=1e-6)
    assert not (steps % TILE).any()
    assert steps.any()
    assert second.shape != first.shape
    run([*one, *other], tmp_path, canvas="keep")
    assert (grid_of(tmp_path), Store(tmp_path).newest("register")) == (second, key)
    run(other, tmp_path, canvas="keep")
    assert grid_of(tmp_path) == second


def test_what_contradicts_the_kept_canvas_is_refused(session: Path, tmp_path: Path) -> None:
    one, other = panels(session)
    run(one, tmp_path, canvas="keep")
    with pytest.raises(ConfigError, match=r"register.*pixel_scale = 9.*the canvas kept has .*canvas = auto"):
        run([*one, *other], tmp_path, canvas="keep", pixel_scale=9.0)
    with pytest.raises(ConfigError, match="projection = ARC, but the canvas kept is TAN"):
        run([*one, *other], tmp_path, canvas="keep", projection="ARC")


def test_same_canvas_from_project_and_exported_file(session: Path, tmp_path: Path) -> None:
    one, other = panels(session)
    run(one, tmp_path / "first", until="integrate")
    mosaic = Store(tmp_path / "first").open("integrate")
    grid = Grid.from_attrs(mosaic.attrs)
    keys = set()
    for name in ("a.fits", "b.xisf"):
        export_file(mosaic, tmp_path / name)
        run([*one, *other], tmp_path / f"of_{name}", canvas=str(tmp_path / name))
        assert grid_of(tmp_path / f"of_{name}") == grid
        keys.add(Store(tmp_path / f"of_{name}").newest("register"))
    run([*one, *other], tmp_path / "of_project", canvas=str(tmp_path / "first"))
    assert grid_of(tmp_path / "of_project") == grid
    keys.add(Store(tmp_path / "of_project").newest("register"))
    assert len(keys) == 1
    with pytest.raises(DataError, match=r"node 'register'.*no such file"):
        run(one, tmp_path / "none", canvas=str(tmp_path / "none.fits"))


def centroid(image: xr.DataArray, x: float, y: float) -> tuple[float, float, float]:
    """Centre (px) and sum of what stands out of the surroundings of a position."""
    left, low = round(x) - 6, round(y) - 6
    cut = np.asarray(image.values[low : low + 13, left : left + 13], dtype=np.float64)
    cut = np.clip(cut - np.median(cut) - 0.1 * np.ptp(cut), 0, None)
    yy, xx = np.mgrid[low : low + 13, left : left + 13]
    total = float(cut.sum())
    return float((xx * cut).sum() / total), float((yy * cut).sum() / total), total


def test_stars_land_where_the_given_canvas_says(session: Path, tmp_path: Path) -> None:
    one, other = panels(session)
    run(one, tmp_path / "plain")
    plain = grid_of(tmp_path / "plain")
    middle = pixel_to_sky(plain.wcs, np.array([plain.shape[1] / 2]), np.array([plain.shape[0] / 2]))
    place = (float(middle[0][0]), float(middle[1][0]))
    wcs = projected_wcs("ZEA", place, pixel_scale=0.8 * plain.pixel_scale, turn=37.0)
    wcs.wcs.crpix = [201.3, 180.6]
    head = wcs.to_header()
    head["NAXIS1"], head["NAXIS2"] = 400, 380
    (tmp_path / "canvas.hdr").write_text(head.tostring(sep="\n"))
    run([*one, *other], tmp_path / "given", until="integrate", canvas=str(tmp_path / "canvas.hdr"))
    mosaic = Store(tmp_path / "given").open("integrate").compute()
    image = mosaic["image"][0]
    assert image.shape == (380, 400)
    sky = SimulatedSession.from_dict(json.loads((session / "truth.json").read_text())["session"]).sky
    stars = sky.stars(grid_of(tmp_path / "given"), slice(0, 380), slice(0, 400), "L")
    x, y = wcs.wcs_world2pix(stars.ra, stars.dec, 0)
    errors: list[tuple[float, float]] = []
    for i in np.argsort(-stars.flux):
        if not (10 < x[i] < 389 and 10 < y[i] < 369) or np.sum(np.hypot(x - x[i], y - y[i]) < 15) > 1:
            continue
        at = image.values[round(y[i]) - 8 : round(y[i]) + 9, round(x[i]) - 8 : round(x[i]) + 9]
        if np.isfinite(at).all() and len(errors) < 12:
            cx, cy, _ = centroid(image, x[i], y[i])
            errors.append((cx - x[i], cy - y[i]))
    assert len(errors) >= 5
    # Truth is the sky of the catalogue; headers of the simulation err by a few hundredths of a pixel.
    assert np.abs(np.median(errors, axis=0)).max() < 0.15, errors
