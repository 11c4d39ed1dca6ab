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


def test_stars_and_nebula_lie_where_a_bent_header_says() -> None:
    camera = Camera(height=160, width=200)
    lens = replace(POINTING, barrel=5.0, half=128.0)
    bare = replace(EXPOSURE, scale=1.0, background=Background(0.0), trail=0.0, pointing=lens, fwhm=2.5)
    image = light(camera, bare, replace(SKY, nebula=0.0, star_density=400.0), *full(camera))
    rows, columns = np.indices(image.shape)
    edge = (np.hypot(columns - 99.5, rows - 79.5) > 75) & (abs(rows - 79.5) < 70) & (abs(columns - 99.5) < 90)
    y, x = np.unravel_index(np.argmax(np.where(edge, image, 0)), image.shape)
    box = image[y - 4 : y + 5, x - 4 : x + 5]
    cy, cx = (float((np.indices(box.shape)[k] * box).sum() / box.sum()) for k in (0, 1))
    table = replace(SKY, star_density=400.0).plane_stars((-1, -1), (1, 1))
    vectors = SKY.axes.T @ SKY.unplane(table[:, 0], table[:, 1])
    ra, dec = np.degrees(np.arctan2(vectors[1], vectors[0])), np.degrees(np.arcsin(vectors[2]))
    sx, sy = sky_to_pixel(parse_wcs(lens.header()), ra % 360, dec)
    assert np.hypot(sx - (x - 4 + cx), sy - (y - 4 + cy)).min() < 0.1
    straight = sky_to_pixel(parse_wcs(POINTING.header()), ra % 360, dec)
    assert np.hypot(straight[0] - (x - 4 + cx), straight[1] - (y - 4 + cy)).min() > 0.3
    glow = light(camera, bare, replace(SKY, star_density=0.0), *full(camera))
    # What a bent pixel sees is larger or smaller than what an ideal one does: light over area is brightness.
    px, py = np.array([20.0]), np.array([30.0])
    sides = [lens.look(px + a, py + b)[0] for a, b in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))]
    area = np.linalg.norm(np.cross(sides[1] - sides[0], sides[3] - sides[2])) * np.degrees(3600.0) ** 2
    ra, dec = pixel_to_sky(parse_wcs(lens.header()), px, py)
    assert glow[30, 20] == pytest.approx(SKY.brightness(ra, dec, "L")[0] * area, rel=1e-5)


def test_a_mount_that_drifts_smears_stars_and_keeps_their_light() -> None:
    camera = Camera(height=160, width=200)
    sky = replace(SKY, nebula=0.0, star_density=40.0)
    bare = replace(EXPOSURE, scale=1.0, background=Background(0.0), trail=0.0, pointing=POINTING, fwhm=2.5)
    still = light(camera, bare, sky, *full(camera))
    moved = light(camera, replace(bare, smear=(18.0, -9.0)), sky, *full(camera))
    y, x = np.unravel_index(np.argmax(still), still.shape)
    assert moved[y, x] < 0.35 * still[y, x]
    along = moved[y + 3, x - 6], moved[y - 3, x + 6]
    np.testing.assert_allclose(along, moved[y, x], rtol=0.2)
    cut = slice(y - 30, y + 31), slice(x - 30, x + 31)
    assert moved[cut].sum() == pytest.approx(still[cut].sum(), rel=0.03)
    part = light(camera, replace(bare, smear=(18.0, -9.0)), sky, slice(40, 90), slice(60, 150))
    np.testing.assert_array_equal(part, moved[40:90, 60:150])
