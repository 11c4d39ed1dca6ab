"""Pictures of a normalization: what the maps hold, and that a run leaves the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy import units
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time
from PIL import Image

from skyloom.ops import surface
from skyloom.workflows.graph import Workflow
from skyloom.workflows.normalization_drawing import draw_residuals, write_pictures
from skyloom.workflows.normalization_maps import airmass, course, frame_maps, residual_maps, worst_frames
from skyloom.workflows.runner import run_workflow
from skyloom.workflows.simulate import simulate_from_options


def solved(frames: int = 8) -> tuple[xr.Dataset, xr.Dataset]:
    """Table and normalization made up: frame 3 agrees with none, frame 5 is not used."""
    at = surface.sample_positions()
    tilted = surface.fit(np.broadcast_to(100.0 + 50.0 * at, (len(at), len(at))))
    ones = np.ones((frames, surface.NODES + 2, surface.NODES + 2))
    session = xr.Dataset(
        {
            "name": ("frame", np.array([f"f{i}.fits" for i in range(frames)])),
            "source": ("frame", np.array(["{}"] * frames)),
            "band": ("frame", np.array(["L", "R"] * (frames // 2))),
            "height": ("frame", np.full(frames, 200)),
            "width": ("frame", np.full(frames, 400)),
            "date": (
                "frame",
                np.array([f"2025-01-0{1 + i // 4}T22:{10 * (i % 4):02d}:00" for i in range(frames)]),
            ),
            "night": ("frame", np.array([f"2025-01-0{1 + i // 4}" for i in range(frames)])),
        }
    )
    residual = np.full(frames, 2.0)
    if frames > 5:
        residual[3], residual[5] = 9.0, 50.0
    sky = np.full((2, 2, 12, 20), np.nan, dtype=np.float32)
    sky[0, :, 2:10, 3:15] = np.array([30.0, 2.0])[:, None, None]
    sky[0, :, 5, 5] = np.nan
    normalization = xr.Dataset(
        {
            "use": ("frame", np.arange(frames) != 5),
            "scale": (("frame", "node_y", "node_x"), 1.1 * ones),
            "offset": (("frame", "node_y", "node_x"), np.stack([tilted] * frames)),
            "confidence": (("frame", "node_y", "node_x"), ones),
            "mean_scale": ("frame", np.linspace(0.9, 1.1, frames)),
            "scale_spread": ("frame", np.full(frames, 0.02)),
            "residual_after": ("frame", residual),
            "note": ("frame", np.array([""] * frames)),
            "sky_residual": (("band", "stage", "sky_y", "sky_x"), sky),
        },
        coords={"band": ["L", "R"]},
    )
    return session, normalization


def test_the_worst_frame_comes_first_and_its_maps_are_what_is_applied() -> None:
    session, normalization = solved()
    worst = worst_frames(normalization, session["band"].values.astype(str), count=3)
    assert worst[0] == 3
    assert 5 not in worst_frames(normalization, session["band"].values.astype(str), count=8)
    maps = frame_maps(session, normalization, 3, side=41)
    assert maps.offset.shape == (20, 41)
    np.testing.assert_allclose(maps.offset[7], np.linspace(100, 150, 41), atol=1e-9)
    np.testing.assert_allclose(maps.scale, 1.1)
    assert maps.why.startswith("9 from")


def test_maps_of_bands_with_overlaps_are_filled_inside_their_outline() -> None:
    _, normalization = solved()
    maps = residual_maps(normalization)
    assert list(maps) == ["L"]
    np.testing.assert_allclose(maps["L"][0, 2:10, 3:15], 30.0)
    assert np.isnan(maps["L"][:, :2]).all()
    assert residual_maps(normalization.drop_vars("sky_residual")) == {}
    picture = np.asarray(draw_residuals(maps))
    # The lowest value of the one map is the darkest colour nowhere: both are even.
    assert (picture == (253, 231, 37)).all(axis=-1).sum() > 1000


def test_nights_follow_one_another() -> None:
    session, normalization = solved()
    points = course(session, normalization)
    np.testing.assert_allclose(points.hours, np.array([0, 10, 20, 30, 90, 110, 120]) / 60.0)
    assert len(points.scale) == 7
    assert np.isnan(points.airmass).all()


def test_airmass_comes_from_headers_altitudes_or_place_and_time() -> None:
    assert airmass({"AIRMASS": 1.37}, 10, 20, "") == 1.37
    assert airmass({"OBJCTALT": "30 00 00"}, 10, 20, "") == pytest.approx(1.995, abs=0.01)
    assert np.isnan(airmass({"OBJCTALT": "-30 00 00"}, 10, 20, ""))
    assert np.isnan(airmass({}, 10, 20, "2025-01-01T22:00:00"))
    header = {"SITELAT": "48 10 12", "SITELONG": "-11 30 36"}
    date = "2025-01-01T22:00:00"
    place = EarthLocation(lat=48.17 * units.deg, lon=-11.51 * units.deg)
    target = SkyCoord(83.8, -5.4, unit="deg")
    altitude = target.transform_to(AltAz(obstime=Time(date), location=place)).alt.deg
    assert airmass(header, 83.8, -5.4, date) == pytest.approx(1 / np.sin(np.radians(altitude)), rel=0.02)


def test_a_picture_of_a_few_frames_without_overlaps_or_dates(tmp_path: Path) -> None:
    session, normalization = solved(2)
    normalization["residual_after"][:] = np.nan
    normalization["sky_residual"][:] = np.nan
    made = write_pictures(session.drop_vars(["date", "night"]), normalization, tmp_path / "new")
    assert [p.name for p in made] == ["frames.png", "course.png"]


def test_a_run_leaves_the_pictures(tmp_path: Path) -> None:
    simulate_from_options(
        tmp_path / "frames",
        panels="1x1",
        frames=3,
        size=256,
        overlap=0.2,
        bands=["L"],
        nights=1,
        seed=1,
        raw=False,
    )
    workflow = Workflow.load("mosaic").until("normalize")
    report = run_workflow(workflow, tmp_path / "frames", project=tmp_path / "p", scheduler="synchronous")
    folder = tmp_path / "p" / "outputs" / "normalization"
    assert {p.name for p in folder.iterdir()} == {"residuals.png", "frames.png", "course.png"}
    assert set(folder.iterdir()) <= set(report.outputs)
    for path in folder.iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 100
    for path in folder.iterdir():
        path.unlink()
    again = run_workflow(workflow, tmp_path / "frames", project=tmp_path / "p", scheduler="synchronous")
    assert len(set(folder.iterdir()) & set(again.outputs)) == 3
