"""Frames: the same pixels in any window, and noise, light and shade as stated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.simulation.camera import (
    Background,
    Camera,
    Exposure,
    Pointing,
    cosmic_rays,
    expose,
    flat_field,
    light,
)
from skyloom.ops.simulation.sky import SkyModel

SKY = SkyModel(seed=4, ra=10.0, dec=-40.0)
POINTING = Pointing(10.1, -40.05, 3.0, 33.0, 99.5, 79.5)
EVERYTHING = Camera(
    height=160,
    width=200,
    vignetting=0.3,
    dust=4,
    response=0.01,
    hot_fraction=1e-3,
    gain=1.5,
    bayer="GRBG",
)
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


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("bayer", ["", "GRBG"])
def test_any_window_holds_the_same_pixels(raw: bool, bayer: str) -> None:
    camera = replace(EVERYTHING, bayer=bayer)
    image = expose(camera, EXPOSURE, SKY, *full(camera), raw=raw)
    assert image.dtype == (np.uint16 if raw else np.float32)
    for rows, columns in (
        (slice(0, 1), slice(7, 200)),
        (slice(33, 134), slice(11, 95)),
        (slice(159, 160), slice(0, 200)),
    ):
        assert np.array_equal(expose(camera, EXPOSURE, SKY, rows, columns, raw=raw), image[rows, columns])


def test_header_and_projection_agree() -> None:
    wcs = parse_wcs(POINTING.header())
    rows, columns = slice(0, 160), slice(0, 200)
    ra, dec = pixel_to_sky(wcs, *(a.astype(float) for a in np.mgrid[0:160:40, 0:200:40][::-1]))
    expected = SKY.brightness(ra, dec, "L") * 9.0
    camera = Camera(height=160, width=200)
    bare = replace(EXPOSURE, scale=1.0, background=Background(0.0), trail=0.0)
    image = light(camera, bare, replace(SKY, star_density=0.0), rows, columns)
    np.testing.assert_allclose(image[::40, ::40], expected, rtol=1e-5)
    # And the angle: +y points 33° from north through east.
    ra, dec = pixel_to_sky(wcs, np.array([99.5, 99.5]), np.array([79.5, 89.5]))
    east, north = (ra[1] - ra[0]) * np.cos(np.radians(dec[0])), dec[1] - dec[0]
    assert np.degrees(np.arctan2(east, north)) == pytest.approx(33.0, abs=0.05)
    assert east > 0


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


def test_noise_is_that_of_photons_and_read_out() -> None:
    camera = Camera(height=300, width=300, gain=2.0, read_noise=6.0, dark=0.5)
    exposure = Exposure(index=0, seconds=100.0, pointing=POINTING, background=Background(500.0))
    image = expose(camera, exposure, DARK_SKY, *full(camera)).astype(np.float64)
    electrons = 500.0 * 2.0 + 0.5 * 100.0 + 36.0
    assert image.mean() == pytest.approx(500.0, abs=5 * np.sqrt(electrons) / 2 / 300)
    assert image.std() == pytest.approx(np.sqrt(electrons) / 2.0, rel=0.01)
    neighbours = np.mean((image[:, 1:] - image.mean()) * (image[:, :-1] - image.mean())) / image.var()
    assert abs(neighbours) < 0.02


def test_few_photons_are_counted() -> None:
    camera = Camera(height=300, width=300, gain=1.0, read_noise=0.0, dark=0.0)
    for level in (0.7, 29.0, 31.0):
        exposure = Exposure(index=0, seconds=0.0, pointing=POINTING, background=Background(level))
        image = expose(camera, exposure, DARK_SKY, *full(camera)).astype(np.float64)
        assert image.mean() == pytest.approx(level, rel=0.02)
        assert image.var() == pytest.approx(level, rel=0.03)
        skew = np.mean((image - image.mean()) ** 3) / image.std() ** 3
        assert skew == pytest.approx(level**-0.5, abs=0.05)


def test_vignetting_shows_only_in_the_noise_of_a_calibrated_frame() -> None:
    camera = Camera(height=200, width=200, vignetting=0.5, read_noise=0.0, dark=0.0)
    exposure = Exposure(index=0, seconds=1.0, pointing=POINTING, background=Background(1000.0))
    image = expose(camera, exposure, DARK_SKY, *full(camera)).astype(np.float64)
    centre, corner = image[80:120, 80:120], image[:20, :20]
    assert corner.mean() == pytest.approx(centre.mean(), rel=0.01)
    assert corner.std() / centre.std() == pytest.approx(1.35, abs=0.1)


def test_raw_frames_calibrate_to_the_light() -> None:
    camera = replace(EVERYTHING, bayer="", hot_fraction=0.0)
    exposure = replace(EXPOSURE, cosmic_rays=0.0)
    raw = expose(camera, exposure, SKY, *full(camera), raw=True).astype(np.float64)
    bias = np.mean(
        [expose(camera, Exposure(index=k, seconds=0.0), None, *full(camera), raw=True) for k in range(20, 40)],
        axis=0,
    )
    dark = camera.dark * exposure.seconds / camera.gain
    calibrated = (raw - bias - dark) / flat_field(camera, *full(camera))
    truth = light(camera, exposure, SKY, *full(camera))
    faint = truth < 2000
    sigma = np.sqrt(truth * camera.gain + camera.read_noise**2)[faint] / camera.gain
    z = (calibrated - truth)[faint] / sigma
    assert abs(z.mean()) < 0.05
    assert 1.0 < z.std() < 1.4


def test_hot_pixels_stay_and_cosmic_rays_do_not() -> None:
    camera = Camera(height=200, width=200, hot_fraction=2e-3, hot_level=20000.0)
    exposures = [Exposure(index=k, seconds=60.0, cosmic_rays=0.0) for k in (1, 2)]
    hot = [expose(camera, e, None, *full(camera)) > 500 for e in exposures]
    assert 40 < hot[0].sum() < 120
    assert np.count_nonzero(hot[0] & hot[1]) > 0.9 * hot[0].sum()
    hit = [cosmic_rays(camera, replace(e, cosmic_rays=1000.0)) for e in exposures]
    assert 15 < len(hit[0]) < 80
    assert len(hit[0]) != len(hit[1]) or not np.allclose(hit[0], hit[1])


def test_trail_crosses_the_frame_at_its_brightness() -> None:
    camera = Camera(height=200, width=300)
    exposure = replace(EXPOSURE, background=Background(0.0), cosmic_rays=0.0)
    image = light(camera, exposure, DARK_SKY, *full(camera))
    assert 0.6 * 300 < image.max() < 1.31 * 300
    assert image.max(axis=0).min() > 100 or image.max(axis=1).min() > 100
    assert np.count_nonzero(image > 30) < 0.1 * image.size


def test_saturation_and_colour_filters() -> None:
    camera = Camera(height=64, width=64, saturation=900.0)
    exposure = Exposure(index=0, seconds=1.0, pointing=POINTING, background=Background(1000.0))
    assert expose(camera, exposure, DARK_SKY, *full(camera)).max() == 900.0
    colour = replace(EVERYTHING, bayer="GRBG", height=64, width=64)
    bare = replace(EXPOSURE, background=Background(0.0), trail=0.0)
    mosaic = light(colour, bare, SKY, *full(colour))
    mono = replace(colour, bayer="")
    for band, (row, column) in {"R": (0, 1), "B": (1, 0), "G": (1, 1)}.items():
        plane = light(mono, replace(bare, band=band), SKY, *full(mono))
        np.testing.assert_array_equal(mosaic[row::2, column::2], plane[row::2, column::2])
    with pytest.raises(ConfigError, match="no colour filter array 'RGBW'"):
        Camera(bayer="RGBW")
    with pytest.raises(ConfigError, match="gain"):
        Camera(gain=0.0)


def test_background_is_the_stated_surface() -> None:
    background = Background(1000.0, (0.2, 0.1), (0.04, 0.0, 0.0), 0.0)
    u, v = np.array([0.0, 0.5, 1.0]), np.array([0.5, 0.5, 0.5])
    np.testing.assert_allclose(background.at(u, v), [910.0, 1000.0, 1110.0])
    moon = Background(0.0, moon=100.0, moon_angle=90.0, steepness=0.7)
    np.testing.assert_allclose(moon.at(v, u), 100.0 * np.exp(0.7 * (u - 0.5)))
