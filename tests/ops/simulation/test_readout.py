"""Counts: the same pixels in any window, noise as stated, and truth that a calibration can meet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from skyloom.ops.simulation.camera import Background, Camera, Exposure
from skyloom.ops.simulation.detector import bias_pattern, flat_field
from skyloom.ops.simulation.light import cosmic_charge, cosmic_rays, light
from skyloom.ops.simulation.projection import Pointing
from skyloom.ops.simulation.readout import base_level, expose, truth
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
    camera = replace(EVERYTHING, bayer=bayer, overscan=14 if raw else 0, drift=3.0, dark_pattern=0.3)
    whole = slice(0, camera.height), slice(0, camera.width + camera.overscan)
    image = expose(camera, EXPOSURE, SKY, *whole, raw=raw)
    assert image.dtype == (np.uint16 if raw else np.float32)
    for rows, columns in (
        (slice(0, 1), slice(7, 200)),
        (slice(33, 134), slice(11, 95)),
        (slice(159, 160), slice(0, 200)),
        (slice(5, 50), slice(2, 9)),
    ):
        assert np.array_equal(expose(camera, EXPOSURE, SKY, rows, columns, raw=raw), image[rows, columns])


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


def test_hot_pixels_stay_and_cosmic_rays_do_not() -> None:
    camera = Camera(height=200, width=200, hot_fraction=2e-3, hot_level=20000.0)
    exposures = [Exposure(index=k, seconds=60.0, cosmic_rays=0.0) for k in (1, 2)]
    hot = [expose(camera, e, None, *full(camera)) > 500 for e in exposures]
    assert 40 < hot[0].sum() < 120
    assert np.count_nonzero(hot[0] & hot[1]) > 0.9 * hot[0].sum()
    hit = [cosmic_rays(camera, replace(e, cosmic_rays=1000.0)) for e in exposures]
    assert 15 < len(hit[0]) < 80
    assert len(hit[0]) != len(hit[1]) or not np.allclose(hit[0], hit[1])


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


def test_saturated_pixels_read_the_ceiling() -> None:
    camera = Camera(height=64, width=64, saturation=900.0)
    exposure = Exposure(index=0, seconds=1.0, pointing=POINTING, background=Background(1000.0))
    assert expose(camera, exposure, DARK_SKY, *full(camera)).max() == 900.0
    counts = expose(camera, exposure, DARK_SKY, *full(camera), raw=True)
    assert np.all(counts == 900)
    assert np.isnan(truth(camera, exposure, DARK_SKY, *full(camera)).image).all()


FLAWED = Camera(
    height=300,
    width=400,
    gain=2.6,
    read_noise=8.0,
    vignetting=0.3,
    dust=6,
    response=0.01,
    dark=0.3,
    dark_pattern=0.4,
    hot_fraction=1e-3,
    overscan=20,
    drift=4.0,
)


def test_counts_have_the_stated_mean_and_variance() -> None:
    exposure = replace(EXPOSURE, cosmic_rays=0.0, trail=0.0, pedestal=100.0, optics=(1, 0), scale=1.0)
    camera = replace(FLAWED, saturation=6000.0)
    told = truth(camera, exposure, SKY, *full(camera))
    sums, squares, number = np.zeros((300, 400)), np.zeros((300, 400)), 40
    for k in range(number):
        # Only the noise changes: the drift of the level is taken out.
        one = replace(exposure, index=k)
        drift = base_level(camera, one) - base_level(camera, exposure)
        n = expose(camera, one, SKY, slice(0, 300), slice(20, 420), raw=True) - (told.counts + drift)
        sums, squares = sums + n, squares + n * n
    clear = np.isfinite(told.image)
    assert 0.99 < clear.mean() < 1.0
    variance = told.variance * told.flat**2
    z = (sums / np.sqrt(number * variance))[clear]
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert z.std() == pytest.approx(1.0, abs=0.01)
    ratio = (squares / number / variance)[clear]
    assert ratio.mean() == pytest.approx(1.0, abs=0.003)
    # Whatever the brightness: the sky, bright stars, hot pixels.
    for part in (told.hot[clear] > 50.0, told.image[clear] > np.quantile(told.image[clear], 0.99)):
        assert part.sum() > 50
        assert ratio[part].mean() == pytest.approx(1.0, abs=5 * np.sqrt(2.0 / (number * part.sum())))


def test_truth_is_what_a_perfect_calibration_gives() -> None:
    for camera in (FLAWED, replace(FLAWED, bayer="RGGB")):
        exposure = replace(EXPOSURE, cosmic_rays=0.0, pedestal=100.0, optics=(1, 0))
        counts = expose(camera, exposure, SKY, slice(0, 300), slice(20, 420), raw=True)
        told = truth(camera, exposure, SKY, *full(camera))
        chi2 = ((counts - told.bias - told.dark) / told.flat - told.image) ** 2 / told.variance
        good = np.isfinite(told.image)
        assert chi2[good].mean() == pytest.approx(1.0, abs=0.02)
        assert not (counts[good] >= camera.ceiling).any()
        for r, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
            assert told.flat[r::2, c::2].mean() == pytest.approx(1.0, abs=1e-9 if camera.bayer else 1e-3)
        part = truth(camera, exposure, SKY, slice(7, 50), slice(33, 99))
        assert np.array_equal(part.image, told.image[7:50, 33:99], equal_nan=True)


def test_overscan_is_bias_and_read_noise() -> None:
    levels = []
    for k in range(30):
        exposure = replace(EXPOSURE, index=k)
        counts = expose(FLAWED, exposure, SKY, slice(0, 300), slice(0, 20), raw=True).astype(np.float64)
        levels.append(counts.mean() - bias_pattern(FLAWED, slice(0, 20)).mean())
        assert levels[-1] == pytest.approx(base_level(FLAWED, exposure), abs=0.25)
        noise = (counts - counts.mean(axis=0)).std()
        assert noise == pytest.approx(np.sqrt((8.0 / 2.6) ** 2 + 1 / 12), rel=0.04)
    assert np.std(levels) == pytest.approx(4.0, rel=0.4)


def test_cosmic_rays_are_where_the_truth_says() -> None:
    exposure = replace(EXPOSURE, cosmic_rays=400.0)
    hit = cosmic_charge(FLAWED, exposure, *full(FLAWED)) > 0
    with_rays, without = (
        expose(FLAWED, e, SKY, slice(0, 300), slice(20, 420), raw=True)
        for e in (exposure, replace(exposure, cosmic_rays=0.0))
    )
    assert hit.sum() > 50
    assert np.array_equal(with_rays[~hit], without[~hit])
    assert np.all(with_rays[hit] >= without[hit])
