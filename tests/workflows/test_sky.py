"""The accessors `sky` and `session`, projects, and what they show in a notebook."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import RELATIVE, Grid, wcs_header
from skyloom.ops.stretch import autostretch
from skyloom.workflows.api import Project, Workflow, open_workflow, plan, run
from skyloom.workflows.cli import main
from skyloom.workflows.export import export_file
from skyloom.workflows.progress import Silent
from skyloom.workflows.simulate import simulate_from_options

SHAPE = (90, 120)


def grid(tile: int = 64) -> Grid:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10.68, 41.27]
    wcs.wcs.crpix = [60.5, 45.5]
    wcs.wcs.cdelt = [-10 / 3600, 10 / 3600]
    return Grid(wcs_header(wcs), SHAPE, tile)


@pytest.fixture
def mosaic() -> xr.Dataset:
    image = np.random.default_rng(1).normal(100, 5, (3, *SHAPE)).astype(np.float32)
    image += 1000 * np.arange(3)[:, None, None]
    image[:, :9, :9] = np.nan
    data = {"image": (("band", "y", "x"), image), "count": (("band", "y", "x"), (image > 0).astype(np.uint16))}
    return xr.Dataset(data, {"band": ["B", "G", "R"]}, grid().to_attrs() | {"units": "adu"}).chunk({"y": 64})


def test_a_window_keeps_its_place(mosaic: xr.Dataset) -> None:
    part = mosaic.sky.window(slice(10, 60), slice(20, -10))
    assert part.sky.grid.shape == (50, 90)
    for x, y in ((0, 0), (40.5, 30.2)):
        assert (
            part.sky.wcs.pixel_to_world(x, y).separation(mosaic.sky.wcs.pixel_to_world(x + 20, y + 10)).arcsec
            < 1e-6
        )
    np.testing.assert_array_equal(part["image"].values, mosaic["image"].values[:, 10:60, 20:-10])
    again = part.sky.window(slice(5, 15), slice(5, 15))
    assert again.sky.wcs.pixel_to_world(0, 0).separation(mosaic.sky.wcs.pixel_to_world(25, 15)).arcsec < 1e-6
    for rows, columns in ((slice(5, 5), slice(None)), (slice(0, 9, 2), slice(None)), (slice(95, 99), slice(None))):
        with pytest.raises(ConfigError, match="no part of a canvas"):
            mosaic.sky.window(rows, columns)


def test_what_is_cut_otherwise_does_not_know_where_it_is(mosaic: xr.Dataset) -> None:
    with pytest.raises(DataError, match=r"part of a canvas.*\.sky\.window"):
        _ = mosaic.isel(x=slice(0, 50)).sky.wcs
    with pytest.raises(DataError, match="no canvas"):
        _ = xr.Dataset().sky.grid


def test_a_cutout_has_the_place_in_its_middle(mosaic: xr.Dataset) -> None:
    part = mosaic.sky.cutout("10.6847 +41.269", size=5)
    assert part.sky.grid.shape == (31, 31)
    assert mosaic.sky.cutout("M 31", size=5).sky.grid.shape == (31, 31)
    middle = part.sky.wcs.pixel_to_world(15, 15)
    assert abs(middle.ra.deg - 10.6847) * 2700 < 8
    assert abs(middle.dec.deg - 41.269) * 3600 < 8
    with pytest.raises(DataError, match="not on this canvas"):
        mosaic.sky.cutout("M 33", size=5)


def test_stretch_is_the_fields(mosaic: xr.Dataset) -> None:
    pixels = mosaic["image"].sel(band="G").values
    shown = mosaic.sky.stretch(band="G")
    np.testing.assert_allclose(shown.values, autostretch(pixels).apply(pixels), rtol=1e-6)
    assert np.nanmedian(shown) == pytest.approx(0.25, abs=0.01)
    colour = mosaic.sky.stretch()
    assert colour.dims == ("y", "x", "channel")
    np.testing.assert_allclose(np.nanmedian(colour, axis=(0, 1)), 0.25, atol=0.01)
    # One curve for all keeps red brighter than blue.
    red, green, blue = np.nanmedian(mosaic.sky.stretch(linked=True), axis=(0, 1))
    assert red > green > blue
    # What is stretched already stays as it is.
    picture = (mosaic / 10000).assign_attrs(mosaic.attrs, linear=False)
    np.testing.assert_allclose(picture.sky.stretch(band="G").values, pixels / 10000, rtol=1e-6)


def test_large_canvases_are_shrunk_block_by_block() -> None:
    computed = []

    def block(block_info: Any = None) -> np.ndarray:
        (y0, y1), (x0, x1) = block_info[None]["array-location"]
        computed.append((y1 - y0) * (x1 - x0))
        return np.add.outer(np.arange(y0, y1), np.arange(x0, x1)).astype(np.float32)

    image = da.map_blocks(block, chunks=((32, 32, 26), (32, 32, 32, 24)), dtype=np.float32, meta=np.empty((0, 0)))
    data = xr.Dataset({"image": (("y", "x"), image)}, attrs=grid(32).to_attrs())
    small = data.sky.small(data["image"], max_side=30)
    assert small.shape == (23, 30)
    assert small[3, 5] == pytest.approx((12 + 1.5) + (20 + 1.5))
    assert max(computed) == 32 * 32


@pytest.mark.parametrize("max_side", [1500, 40])
def test_a_plot_has_the_sky_along_its_axes(
    mosaic: xr.Dataset, max_side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "agg")
    from matplotlib import pyplot

    axes = mosaic.sky.plot(band="R", grid=True, max_side=max_side)
    factor = SHAPE[1] // max_side or 1
    assert axes.images[0].get_array().shape == (-(-SHAPE[0] // factor), -(-SHAPE[1] // factor))
    # The middle of the canvas' pixel (11, 20) in blocks of `factor`.
    there = axes.wcs.pixel_to_world(*((v - (factor - 1) / 2) / factor for v in (11.0, 20.0)))
    assert there.separation(mosaic.sky.wcs.pixel_to_world(11.0, 20.0)).arcsec < 1e-3
    linear = mosaic.sky.plot("count", band="R", stretch="linear", axes=None)
    assert linear.figure.axes[1].get_ylabel() == "count"
    relative = mosaic.assign_attrs(grid().named(RELATIVE).to_attrs()).sky.plot(band="R")
    assert "relative" in relative.coords[0].get_axislabel()
    pyplot.close("all")


def test_mistakes_have_one_line(mosaic: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no variable 'imag'; did you mean 'image'"):
        mosaic.sky.plane("imag")
    with pytest.raises(ConfigError, match="choose one"):
        mosaic.sky.plane("count")
    with pytest.raises(ConfigError, match="no band 'L'"):
        mosaic.sky.plane(band="L")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'skyloom\[plot\]'"):
        mosaic.sky.plot()
    with pytest.raises(DataError, match="no table of frames"):
        _ = mosaic.session


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    simulate_from_options(
        folder, panels="1x2", frames=2, size=256, overlap=0.3, bands=["L"], nights=1, seed=2, raw=False
    )
    (folder / "<broken>.fits").write_bytes(b"SIMPLE  =                    T" + b" " * 100)
    return folder


@pytest.fixture(scope="module")
def project(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    return run(
        "mosaic", frames, tmp_path_factory.mktemp("project"), settings={"integrate.low": 5.0}, progress=Silent()
    )


def test_a_project_is_its_nodes(project: Project) -> None:
    assert list(project) == ["ingest", "measure", "register", "normalize", "integrate"]
    assert len(project) == 5
    assert "integrate" in project
    assert "export" not in project
    assert project["integrate"].sky.grid.on_sky
    assert project.workflow["integrate"].parameters["low"] == 5.0
    assert {p.suffix for p in project.outputs} >= {".fits", ".png", ".html"}
    with pytest.raises(KeyError, match="did you mean 'integrate'"):
        project["integrat"]
    with pytest.raises(DataError, match="is no project"):
        Project(project.folder / "outputs")


def test_a_window_of_a_project_is_written_as_that_window(project: Project, tmp_path: Path) -> None:
    part = project["integrate"].sky.window(slice(60, 160), slice(30, 200))
    export_file(part, tmp_path / "part.fits")
    pixels, header = fits.getdata(tmp_path / "part.fits", header=True)
    np.testing.assert_array_equal(pixels, project["integrate"]["image"].values[0, 60:160, 30:200])
    whole = project["integrate"].sky.wcs.pixel_to_world(35, 70)
    assert WCS(header).celestial.pixel_to_world(5, 10).separation(whole).arcsec < 1e-6


def test_everything_shows_itself(frames: Path, project: Project) -> None:
    costs = plan("mosaic", frames, project=project.folder, settings={"integrate.low": 5.0})
    assert "4 frames" in repr(costs)
    html = costs._repr_html_()
    assert html.count("<circle") == 6
    assert "as before" in html
    assert "&lt;broken&gt;" in html
    assert "<broken>" not in html
    workflow = Workflow.load("lrgb")
    assert "integrate → export" in repr(workflow)
    assert workflow._repr_html_().count("<circle") == len(workflow.nodes)
    assert repr(workflow["fit"]) == "<skyloom node fit: linear_fit(survey)>"
    assert "<broken>" not in project._repr_html_()
    assert "mosaic" not in repr(project).partition(":")[2]
    results = open_workflow("mosaic", frames, project=project.folder)
    assert "lazy" in results._repr_html_()
    session = results["ingest"].session
    assert repr(session) == "<session of 4 frames: 4 × L>"
    assert len(session) == 4
    assert session._repr_html_().count("<tr>") == 5


def test_json_for_scripts(frames: Path, project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "mosaic", str(frames), "-o", str(project.folder), "--set", "integrate.low=5", "--json"]
    assert main([*command, "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {n["name"]: n["seconds"] for n in report["nodes"]}["integrate"] == 0
    assert report["left_out"][0][0] == "<broken>.fits"
    assert Path(report["page"]).name == "report.html"
    assert main(["ops", "integrate", "--json"]) == 0
    (op,) = json.loads(capsys.readouterr().out)
    (low,) = (p for p in op["parameters"] if p["name"] == "low")
    assert (low["default"], low["low"], low["high"], low["required"]) == (None, 0.0, 1000.0, False)
    assert low["when"].startswith("Change it")
    assert main(["workflows", "--json"]) == 0
    presets = {w["name"]: w for w in json.loads(capsys.readouterr().out)}
    assert presets["mosaic"]["nodes"]["integrate"]["parameters"]["rejection"] == "winsorized"
