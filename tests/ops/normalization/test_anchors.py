"""Images, held frames and places of background as anchors; frames that are not like the others."""

from __future__ import annotations

import importlib.util
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from skyloom.ops.errors import ConfigError, DataError
from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel, wcs_header
from skyloom.ops.normalization.images import image_bytes, open_images, place_image
from skyloom.ops.normalization.normalize import normalize

_path = Path(__file__).with_name("scenes.py")
_spec = importlib.util.spec_from_file_location("skyloom_scenes_of_anchors", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["skyloom_scenes_of_anchors"] = _module
_spec.loader.exec_module(_module)
draw_scene: Callable[..., Any] = _module.draw_scene
run: Callable[..., xr.Dataset] = _module.run
RATIO, UNIT, LEVEL = 4, 0.02, 3.0
"""Of the image: canvas pixels a pixel, its flux unit in those of the canvas, its pedestal."""


def wide_image(scene: Any, path: Path) -> str:
    """Draw the true sky with its stars at a quarter of the resolution, turned, in units of its own."""
    rows, columns = scene.grid.shape
    side = (max(rows, columns) + 400) // RATIO
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = np.ravel(pixel_to_sky(scene.grid.wcs, np.array([columns / 2]), np.array([rows / 2]))).tolist()
    wcs.wcs.crpix = [side / 2, side / 2]
    c, s = np.cos(0.3), np.sin(0.3)
    wcs.wcs.cd = scene.grid.pixel_scale * RATIO / 3600 * np.array([[-c, s], [s, c]])
    wcs.wcs.set()
    y, x = (g.ravel() for g in np.mgrid[:side, :side].astype(float))
    cx, cy = sky_to_pixel(scene.grid.wcs, *pixel_to_sky(wcs, x, y))
    image = (scene.sky(cx, cy) * RATIO**2).reshape(side, side)
    seen: dict[tuple[int, int], tuple[float, float, float]] = {}
    for i, table in enumerate(scene.measurement["stars"].values):
        good = np.isfinite(table[:, 0])
        ra, dec = pixel_to_sky(parse_wcs(str(scene.session["wcs"].values[i])), table[good, 0], table[good, 1])
        gx, gy = sky_to_pixel(scene.grid.wcs, ra, dec)
        for px, py, r, d, flux in zip(gx, gy, ra, dec, table[good, 2] * scene.scale[i], strict=True):
            key = round(px / 2), round(py / 2)
            if not any((key[0] + a, key[1] + b) in seen for a in (-1, 0, 1) for b in (-1, 0, 1)):
                seen[key] = r, d, flux
    ra, dec, flux = np.array(list(seen.values())).T
    sx, sy = sky_to_pixel(wcs, ra, dec)
    for px, py, f in zip(sx, sy, flux, strict=True):
        x0, y0 = round(px), round(py)
        if 8 < x0 < side - 9 and 8 < y0 < side - 9:
            v, u = np.mgrid[y0 - 8 : y0 + 9, x0 - 8 : x0 + 9]
            image[y0 - 8 : y0 + 9, x0 - 8 : x0 + 9] += (
                f * np.exp(-((u - px) ** 2 + (v - py) ** 2) / 2.88) / (2.88 * np.pi)
            )
    rng = np.random.default_rng(4)
    image = (image + rng.normal(0, 4, image.shape)) * UNIT + LEVEL
    header = fits.Header.fromstring(wcs_header(wcs), sep="\n")
    fits.writeto(path, image.astype(np.float32), header, overwrite=True)
    return str(path)


@pytest.fixture(scope="module")
def scene() -> Any:
    return draw_scene(panels=(3, 1), visits=3, size=1024, stars=400, nebula=8.0, seed=5)


@pytest.fixture(scope="module")
def image(scene: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return wide_image(scene, tmp_path_factory.mktemp("image") / "wide.fits")


def test_a_wide_image_of_another_scale_fixes_the_long_waves(scene: Any, image: str) -> None:
    alone, anchored = run(scene), run(scene, anchors=[image])
    before, after = scene.errors(alone)[1], scene.errors(anchored)[1]
    assert after[0] < before[0] / 5
    assert after[0] < 4.0
    assert scene.errors(anchored)[0] < 0.5
    assert anchored["anchor"].values.tolist() == ["wide.fits"]
    assert int(anchored["anchor_stars"].values[0, 0]) > 20
    # Its flux scale in canvas units, whose convention is the mean of the frames.
    convention = np.exp(np.mean(np.log(scene.scale)))
    assert float(anchored["anchor_scale"].values[0, 0]) * UNIT * convention == pytest.approx(1.0, abs=0.03)
    assert np.all(anchored["mode_sigma"].values[0, 1:] < alone["mode_sigma"].values[0, 1:] / 5)
    assert np.allclose(anchored["mean_scale"].values, alone["mean_scale"].values, rtol=2e-3)
    assert "anchor" not in alone.dims


def test_an_image_may_be_the_reference(scene: Any, image: str) -> None:
    solved = run(scene, mode="reference", reference=image)
    seam, error = scene.errors(solved)
    assert error[0] < 4.0
    assert seam < 4.0
    ratio = np.log(solved["mean_scale"].values / scene.scale)
    # A score of stars each, blended in the image, and errors that say so.
    assert np.ptp(ratio) < 0.12
    assert np.std(ratio) < 2 * np.median(solved["scale_error"].values)
    assert solved["degree"].values.tolist() == [-1]
    plain = run(scene, mode="linear", reference=image)
    assert scene.errors(plain)[0] > 5 * seam


def test_places_of_background_level_the_sky() -> None:
    scene = draw_scene(panels=(3, 1), visits=3, size=1024, stars=900, seed=5, nebula=0.0)
    rows, columns = scene.grid.shape
    x, y = np.meshgrid(np.linspace(200, columns - 200, 12), np.linspace(200, rows - 200, 3))
    ra, dec = pixel_to_sky(scene.grid.wcs, x.ravel(), y.ravel())
    places = [f"{a:.6f} {d:.6f} 0.02" for a, d in zip(ra, dec, strict=True)]
    before, after = scene.errors(run(scene))[1], scene.errors(run(scene, background=places))[1]
    assert after[0] < before[0] / 4


def test_held_frames_keep_their_gradient(scene: Any) -> None:
    solved = run(scene, held=["frame004.fits", "frame000*"])
    for i in (0, 4):
        # One number on the canvas; pixels of a tangent plane are not all of one area.
        assert np.ptp(solved["offset"].values[i]) < 0.01 * np.abs(solved["offset"].values[i]).max()
    assert np.ptp(solved["offset"].values[1]) > 50


def test_what_cannot_be_meant_is_refused(scene: Any, image: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none of 9 frames is called 'x\*'"):
        run(scene, held=["x*"])
    with pytest.raises(ConfigError, match="background '12' is no place"):
        run(scene, background=["12"])
    with pytest.raises(ConfigError, match="anchors means nothing with mode reference; set mode to joint"):
        run(scene, mode="reference", anchors=[image])
    with pytest.raises(DataError, match="reference nowhere"):
        run(scene, mode="reference", reference="nowhere")
    fits.writeto(tmp_path / "bare.fits", np.zeros((50, 50), np.float32))
    with pytest.raises(DataError, match=r"bare\.fits has no WCS"):
        run(scene, anchors=[str(tmp_path / "bare.fits")])


@pytest.mark.parametrize("what", ["clouds", "reflection", "another field"])
def test_odd_frames_are_named_and_do_no_harm(scene: Any, what: str) -> None:
    odd = 4
    measured = scene.measurement.copy(deep=True)
    side = measured.sizes["cell_y"]
    v, u = np.mgrid[:side, :side] / side
    cells = measured["cells"].values[odd, ..., 0]
    if what == "clouds":
        cells += 90 * np.sin(14 * u + 1) * np.cos(11 * v) + 60 * np.sin(17 * (u - v))
    elif what == "reflection":
        cells += 400 * np.exp(-((u - 0.7) ** 2 + (v - 0.3) ** 2) / 0.02)
    else:
        elsewhere = draw_scene(panels=(1, 1), visits=1, size=1024, nebula=150.0, seed=77)
        measured["cells"].values[odd] = elsewhere.measurement["cells"].values[0]
        measured["stars"].values[odd, :, :2] = np.random.default_rng(3).uniform(
            10, 1010, measured["stars"].values[odd, :, :2].shape
        )
    solved = normalize(scene.session, measured, scene.registration).compute(scheduler="synchronous")
    note = str(solved["note"].values[odd])
    assert "disagrees with all others" in note
    others = np.delete(np.arange(9), odd)
    assert all("disagrees" not in str(n) for n in solved["note"].values[others])
    assert np.argmax(solved["inflation"].values) == odd
    # Like the solution that never had the frame, but for a level common to all.
    registration = scene.registration.copy(deep=True)
    registration["use"][odd] = False
    without = normalize(scene.session, measured, registration).compute(scheduler="synchronous")
    moved = (solved["offset"].values - without["offset"].values)[others]
    moved = moved * without["mean_scale"].values[others, None, None]
    unknown = np.sqrt(np.sum(without["mode_sigma"].values[0, 1:] ** 2))
    assert np.std(moved) < 0.2 * unknown
    (seam, _), kept = scene.errors(without), solved.copy()
    kept["use"] = without["use"]
    assert scene.errors(kept)[0] < seam + 0.02
    if what == "reflection":
        # The frame itself still gets the background it has beside the reflection.
        clean = run(scene)
        level = np.mean(moved) + np.mean((without["offset"].values - clean["offset"].values)[others])
        away = solved["offset"].values[odd] - clean["offset"].values[odd] - level
        assert np.median(np.abs(away)) < 0.1 * np.ptp(clean["offset"].values[odd])
    # Stars of the frame that are where they should be still tie the scales of panels.
    same = without if what == "another field" else run(scene)
    ratio = np.log(solved["mean_scale"].values / same["mean_scale"].values)[others]
    assert np.ptp(ratio) < 0.005
    dropped = normalize(scene.session, measured, scene.registration, flagged="drop")
    dropped = dropped.compute(scheduler="synchronous")
    assert not dropped["use"].values[odd]
    assert "disagrees" in str(dropped["reason"].values[odd])


def test_scales_outside_the_limits_are_named(scene: Any) -> None:
    found = run(scene, scale_low=0.95, scale_high=1.05)
    away = np.abs(np.log(found["mean_scale"].values))
    told = np.array(["outside 0.95-1.05" in str(n) for n in found["note"].values])
    assert np.array_equal(told, (found["mean_scale"].values < 0.95) | (found["mean_scale"].values > 1.05))
    assert 0 < told.sum() < 9
    assert away.max() > 0.05
    assert found["use"].values.all()


def test_memory_of_an_image_is_that_of_its_part_on_the_canvas(tmp_path: Path) -> None:
    side = 2000
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [120.0, 20.0]
    wcs.wcs.cdelt, wcs.wcs.crpix = [-2 / 3600, 2 / 3600], [side / 2, side / 2]
    rng = np.random.default_rng(0)
    fits.writeto(tmp_path / "wide.fits", rng.normal(100, 5, (side, side)).astype(np.float32), wcs.to_header())
    (image,) = open_images([str(tmp_path / "wide.fits")], "anchor")
    small = wcs.deepcopy()
    small.wcs.cdelt, small.wcs.crpix = [-1 / 3600, 1 / 3600], [700, 700]
    grid = Grid(wcs_header(small), (1400, 1400), 256)
    stated = image_bytes((image,), grid)
    assert stated < 800**2 * 20
    place_image(image, grid, cell=16)
    tracemalloc.start()
    place_image(image, grid, cell=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.4 * stated < peak < 1.05 * stated + 4e6
    assert image_bytes((), grid) == 0.0
