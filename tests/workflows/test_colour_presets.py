"""From frames to a finished colour picture in one command, by preset."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image
from scipy.ndimage import gaussian_filter

from skyloom.ops.arrays import LOCATION
from skyloom.ops.errors import DataError
from skyloom.ops.grid import Grid, sky_to_pixel
from skyloom.ops.simulation.camera import Camera
from skyloom.ops.simulation.presets import acceptance_session
from skyloom.ops.simulation.session import SimulatedSession
from skyloom.ops.simulation.sky import SkyModel
from skyloom.workflows.graph import Workflow
from skyloom.workflows.run_report import RunReport
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import simulate_session
from skyloom.workflows.store import Store
from skyloom.workflows.verify import check_results


def session(bands: tuple[str, ...], **changes: Any) -> SimulatedSession:
    """One panel of stars, half of them bright, on a plain sky."""
    made = acceptance_session(
        seed=7,
        panels=(1, 1),
        frames=2,
        bands=bands,
        nights=1,
        pixel_scale=4.0,
        linear=0.0,
        quadratic=0.0,
        moonlight=0.0,
        trails=0.0,
        camera=Camera(height=400, width=400),
        sky=SkyModel(seed=7, extent=0.5, nebula=0.0, finest=32.0, star_faint=150.0),
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def lrgb(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunReport, SimulatedSession]:
    folder = tmp_path_factory.mktemp("lrgb")
    made = session(("L", "R", "G", "B"))
    simulate_session(folder / "frames", made)
    workflow = Workflow.load("lrgb").with_parameters({"integrate.tile": 256})
    report = run_workflow(workflow, folder / "frames", project=folder / "p", scheduler="threads", workers=2)
    return folder / "p", report, made


def test_one_command_ends_in_a_picture(lrgb: tuple[Path, RunReport, SimulatedSession]) -> None:
    project, report, _ = lrgb
    names = {p.name for p in report.outputs}
    assert {"picture.png", "picture.tif", "linear.fits", "mosaic_L.fits"} <= names
    with Image.open(project / "outputs" / "picture.png") as image:
        pixels = np.asarray(image).astype(float)
    data = pixels[(pixels > 0).all(axis=-1)]
    medians = np.median(data, axis=0)
    # Neutral to one step of 255.
    assert np.ptp(medians) <= 1.0, medians
    assert medians.mean() == pytest.approx(51, abs=6)
    said = [line for line in report.quality if line.startswith(("linear fit", "neutralize", "white"))]
    assert len(said) == 3
    assert said[0].startswith("linear fit: to G, scales B ")
    assert "dark cells, levels B " in said[1]
    assert " stars, factors B " in said[2]
    with fits.open(project / "outputs" / "linear.fits") as hdus:
        assert hdus[0].data.shape[0] == 3


def test_background_is_neutral_and_star_colours_are_the_sky_s(
    lrgb: tuple[Path, RunReport, SimulatedSession],
) -> None:
    project, _, made = lrgb
    store = Store(project)
    picture = store.open("channels")
    image = picture["image"].values
    level = float(np.mean(store.open("neutralize")["level"].values))
    medians = np.nanmedian(image.reshape(3, -1), axis=1)
    assert np.abs(medians - medians.mean()).max() < 0.005 * level
    # Colours of bright stars against those the sky was made with.
    grid = Grid.from_attrs(picture.attrs)
    window = slice(0, grid.shape[0]), slice(0, grid.shape[1])
    found = {b: made.sky.stars(grid, *window, b) for b in ("R", "G", "B")}
    order = {b: np.lexsort((s.dec, s.ra)) for b, s in found.items()}
    flux = np.stack([found[b].flux[order[b]] for b in ("R", "G", "B")])
    green = found["G"]
    x, y = sky_to_pixel(grid.wcs, green.ra[order["G"]], green.dec[order["G"]])
    rows, columns = np.mgrid[: grid.shape[0], : grid.shape[1]]
    measured, true = [], []
    for i in np.argsort(-flux[1])[:80]:
        away = np.hypot(x - x[i], y - y[i])
        if (flux[1][(away < 14) & (away > 0)] > 0.05 * flux[1, i]).any():
            continue
        distance = np.hypot(columns - x[i], rows - y[i])
        inner, ring = distance < 6, (distance > 8) & (distance < 12)
        if not np.isfinite(image[:, inner | ring]).all() or inner.sum() < 100:
            continue
        sums = image[:, inner].sum(axis=1) - inner.sum() * np.median(image[:, ring], axis=1)
        measured.append(np.log(sums / sums[1]))
        true.append(np.log(flux[:, i] / flux[1, i]))
    difference = np.array(measured) - np.array(true)
    assert len(difference) >= 10
    # The average star is white: a common factor of each channel is the balance's to choose.
    spread = 1.4826 * np.median(np.abs(difference - np.median(difference, axis=0)), axis=0)
    assert (spread[[0, 2]] < 0.03).all(), spread
    assert np.ptp(np.array(true)[:, 0]) > 0.3, "stars have colours"


def test_narrowband_takes_slopes_that_are_stronger_than_the_nebula(tmp_path: Path) -> None:
    # Of other skies of this kind some have too little plain sky: nothing is taken then, and the run says so.
    sky = SkyModel(seed=2, extent=0.23, coarsest=0.28, nebula=3.75, finest=32.0, star_density=3e4, star_faint=100)
    bands = ("Ha", "OIII")
    made = session(bands, linear=0.25, quadratic=0.05, transparency=(0.9, 1.0), sky=sky)
    simulate_session(tmp_path / "frames", made)
    workflow = Workflow.load("narrowband").until("gradient")
    run_workflow(workflow, tmp_path / "frames", project=tmp_path / "p", scheduler="threads", workers=2)
    store = Store(tmp_path / "p")
    before, after = store.open("edges"), store.open("gradient")
    grid = Grid.from_attrs(after.attrs)
    window = slice(0, grid.shape[0]), slice(0, grid.shape[1])

    def smooth(image: Any) -> Any:
        height, width = (n // 16 * 16 for n in image.shape)
        return np.median(image[:height, :width].reshape(height // 16, 16, width // 16, 16), axis=(1, 3))

    for band in bands:
        # Nothing else has the nebula's fine structure: it tells the scale of the mosaic.
        nebula = smooth(sky.nebula_image(grid, window, band))
        slope, left = (smooth(d["image"].sel(band=band).values) for d in (before, after))
        there = np.isfinite(left) & np.isfinite(nebula)
        fine, found = (np.where(there, p, np.nanmedian(p)) for p in (nebula, left))
        fine, found = (p - gaussian_filter(p, 3) for p in (fine, found))
        scale = (fine * found)[there].sum() / (fine**2)[there].sum()
        slope, left = (p[there] - scale * nebula[there] for p in (slope, left))
        assert np.std(left) < 0.05 * np.std(slope), band
        assert np.std(slope) > 2 * scale * np.std(nebula[there]), "a strong one"
        light = nebula[there] - nebula[there].mean()
        assert abs(light @ left) / (light @ light) / scale < 0.06, band


def test_all_results_read_back_as_they_were_written(lrgb: tuple[Path, RunReport, SimulatedSession]) -> None:
    (line,) = check_results(Store(lrgb[0]))
    assert line.startswith("all results are as they were written (")


def test_results_take_the_disk_that_was_planned(lrgb: tuple[Path, RunReport, SimulatedSession]) -> None:
    project, _, _ = lrgb
    store = Store(project)
    workflow = Workflow.load("lrgb")
    for node in ("coverage", "edges", "gradient", "deconvolve", "channels", "denoise", "stretch"):
        declared = workflow[node]
        cost = declared.op.cost
        assert cost is not None
        inputs = {name: store.open(path) for name, path in declared.inputs.items()}
        share = cost(**inputs, **declared.parameters).stored
        made = store.open(node)
        arrays = sum(v.nbytes for v in made.data_vars.values())
        place = made.encoding[LOCATION]
        result = Path(place["root"], place["group"])
        blocks = [f for v in made.data_vars for f in (result / str(v)).rglob("*") if f.is_file()]
        disk = sum(f.stat().st_size for f in blocks if f.name != "zarr.json")
        assert 0.1 * arrays < disk <= share * arrays < arrays, node


def test_a_missing_band_is_told(lrgb: tuple[Path, RunReport, SimulatedSession]) -> None:
    project, _, _ = lrgb
    changed = {"integrate.tile": 256, "channels.palette": "SHO"}
    workflow = Workflow.load("lrgb").with_parameters(changed).until("channels")
    says = (
        "node 'channels': palette SHO needs the bands Ha, OIII, SII; missing: Ha, OIII, SII; there is: B, G, L, R"
    )
    with pytest.raises(DataError, match=says):
        run_workflow(workflow, project.parent / "frames", project=project, scheduler="synchronous")


@pytest.mark.parametrize("name", ["lrgb", "rgb", "osc", "osc_drizzle", "narrowband"])
def test_presets_are_complete(name: str) -> None:
    workflow = Workflow.load(name)
    assert workflow.names[0] == "ingest"
    assert {"channels", "stretch", "picture", "export_linear"} <= set(workflow.names)
