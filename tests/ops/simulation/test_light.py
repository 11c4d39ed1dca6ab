"""Light on the detector: stars, nebula and trails where they belong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skyloom.ops.grid import parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.simulation.camera import Background, Camera, Exposure
from skyloom.ops.simulation.light import FLAT_COLOUR, cosmic_rays, light
from skyloom.ops.simulation.projection import Pointing
from skyloom.ops.simulation.sky import SkyModel

SKY = SkyModel(seed=4, ra=10.0, dec=-40.0)
POINTING = Pointing(10.1, -40.05, 3.0, 33.0, 99.5, 79.5)
EXPOSURE = Exposure(
    index=3,
    seconds=60.0,
    pointing=POINTING,
    scale=0.8,
    background=Background(800.0, (0.2, -0.1), (0.1, 0.05, -0.1), 50.0, 70.0),
    cosmic_rays=500.0,
    trail=300.0,
)
DARK_SKY = SkyModel(star_density=0.0, nebula=0.0)


def full(camera: Camera) -> tuple[slice, slice]:
    return slice(0, camera.height), slice(0, camera.width)


def test_header_and_projection_agree() -> None:
    wcs = parse_wcs(POINTING.header())
    rows, columns = slice(0, 160), slice(0, 200)
    ra, dec = pixel_to_sky(wcs, *(a.astype(float) for a in np.mgrid[0:160:40, 0:200:40][::-1]))
    expected = SKY.brightness(ra, dec, "L") * 9.0
    camera = Camera(height=160, width=200)
    bare = replace(EXPOSURE, scale=1.0, background=Background(0.0), trail=0.0)
    image = light(camera, bare, replace(SKY, star_density=0.0), rows, columns)
    np.testing.assert_allclose(image[::40, ::40], expected, rtol=1e-5)


def test_stars_stand_where_the_header_says_with_their_flux() -> None:
    sky = replace(SKY, nebula=0.0, star_density=600.0, star_faint=1e4)
    camera = Camera(height=160, width=200)
    bare = replace(EXPOSURE, background=Background(0.0), trail=0.0, fwhm=2.5)
    image = light(camera, bare, sky, *full(camera))
    table = sky.plane_stars((-1.0, -1.0), (1.0, 1.0))
    a, b, c = sky.axes.T @ sky.unplane(table[:, 0], table[:, 1])
    x, y = sky_to_pixel(parse_wcs(POINTING.header()), np.degrees(np.arctan2(b, a)), np.degrees(np.arcsin(c)))
    checked = 0
    for n in np.flatnonzero((x > 20) & (x < 179) & (y > 20) & (y < 139)):
        if np.sort(np.hypot(x - x[n], y - y[n]))[1] < 40:
            continue
        cut = image[round(y[n]) - 20 : round(y[n]) + 21, round(x[n]) - 20 : round(x[n]) + 21]
        rows, columns = np.mgrid[-20:21, -20:21]
        assert cut.sum() == pytest.approx(0.8 * table[n, 2], rel=2e-3)
        assert (cut * columns).sum() / cut.sum() + round(x[n]) == pytest.approx(x[n], abs=0.02)
        assert (cut * rows).sum() / cut.sum() + round(y[n]) == pytest.approx(y[n], abs=0.02)
        checked += 1
    assert checked >= 1


def test_trail_crosses_the_frame_at_its_brightness() -> None:
    camera = Camera(height=200, width=300)
    exposure = replace(EXPOSURE, background=Background(0.0), cosmic_rays=0.0)
    image = light(camera, exposure, DARK_SKY, *full(camera))
    assert 0.6 * 300 < image.max() < 1.31 * 300
    assert image.max(axis=0).min() > 100 or image.max(axis=1).min() > 100
    assert np.count_nonzero(image > 30) < 0.1 * image.size


def test_each_pixel_sees_through_its_filter() -> None:
    colour = Camera(height=64, width=64, bayer="GRBG")
    bare = replace(EXPOSURE, background=Background(0.0), trail=0.0)
    mosaic = light(colour, bare, SKY, *full(colour))
    mono = replace(colour, bayer="")
    panel = light(colour, Exposure(index=0, seconds=1.0, flat_level=100.0), None, *full(colour))
    odd = light(colour, Exposure(index=0, seconds=1.0, flat_level=100.0), None, slice(3, 9), slice(5, 64))
    assert np.array_equal(odd, panel[3:9, 5:])
    for band, (row, column) in {"R": (0, 1), "B": (1, 0), "G": (1, 1)}.items():
        plane = light(mono, replace(bare, band=band), SKY, *full(mono))
        np.testing.assert_array_equal(mosaic[row::2, column::2], plane[row::2, column::2])
        assert np.all(panel[row::2, column::2] == 100.0 * FLAT_COLOUR[band])


def test_cosmic_rays_come_as_often_as_asked() -> None:
    camera = Camera(height=1000, width=1000)
    counts = [len(cosmic_rays(camera, Exposure(index=k, seconds=1.0, cosmic_rays=30.0))) for k in range(40)]
    assert np.mean(counts) == pytest.approx(30.0, abs=5 * np.sqrt(30.0 / 40.0))
    assert len(set(counts)) > 5
