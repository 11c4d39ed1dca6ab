"""Cosmic rays on single frames: planted hits are found, stars survive, blocks do not show."""

from __future__ import annotations

import itertools
from functools import cache

import astroscrappy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from skyloom.ops.calibration.cosmic_rays import (
    BLOCK,
    CosmicRays,
    blockwise,
    find_cosmic_rays,
    laplacian,
    lowest,
    median_near,
)
from skyloom.ops.frames import forget_decoded
from skyloom.ops.simulation.camera import Background, Camera, Exposure
from skyloom.ops.simulation.light import cosmic_charge, light
from skyloom.ops.simulation.projection import Pointing
from skyloom.ops.simulation.sky import SkyModel

SIDE = 400
GAIN, READ_NOISE, SKY = 1.2, 4.0, 300.0
STARS = SkyModel(seed=3, star_density=20000.0, nebula=0.0)
Scene = tuple[np.ndarray, np.ndarray, np.ndarray]


@cache
def scene(fwhm: float, bayer: str = "") -> Scene:
    """Light, electrons of hits, and the light as a camera sees it, without hits (DN)."""
    camera = Camera(height=SIDE, width=SIDE, gain=GAIN, read_noise=READ_NOISE, bayer=bayer)
    exposure = Exposure(
        index=5, seconds=60.0, pointing=Pointing(STARS.ra, STARS.dec, 2.0, 20.0, 200.0, 200.0), fwhm=fwhm,
        background=Background(SKY), cosmic_rays=400.0,
    )  # fmt: skip
    window = slice(0, SIDE), slice(0, SIDE)
    truth = light(camera, exposure, STARS, *window)
    random = np.random.default_rng(2)
    seen = (random.poisson(truth * GAIN) + random.normal(0, READ_NOISE, truth.shape)) / GAIN
    return truth, cosmic_charge(camera, exposure, *window) / GAIN, seen.astype(np.float32)


def find(
    image: np.ndarray, *, saturated: np.ndarray | None = None, mosaic: bool = False, gain: float = GAIN
) -> np.ndarray:
    if saturated is None:
        saturated = np.zeros(image.shape, np.bool_)
    return find_cosmic_rays(
        image.astype(np.float32), saturated, np.ones(image.shape, np.float32),
        settings=CosmicRays(), gain=gain, read_noise=READ_NOISE, mosaic=mosaic,
    )  # fmt: skip


@pytest.mark.parametrize("gain", [GAIN, np.nan], ids=["gain known", "gain unknown"])
@pytest.mark.parametrize(
    ("fwhm", "bayer"), [(1.5, ""), (2.0, ""), (3.0, ""), (4.5, ""), (2.2, "RGGB"), (3.0, "RGGB"), (4.0, "GBRG")]
)
def test_hits_are_found_and_stars_survive(fwhm: float, bayer: str, gain: float) -> None:
    truth, charge, seen = scene(fwhm, bayer)
    noise = np.sqrt(truth / GAIN + (READ_NOISE / GAIN) ** 2)
    planted = charge > 7 * noise
    assert planted.sum() > 120
    found = find(seen + charge, mosaic=bool(bayer), gain=gain)
    assert found[planted].mean() > 0.97
    # Without a hit next to nothing is found: some pixels of 160 000, no core of a star.
    alarms = find(seen, mosaic=bool(bayer), gain=gain)
    assert alarms.sum() <= 12
    step = 2 if bayer else 1
    peaks = (truth == ndimage.maximum_filter(truth, 4 * step + 1)) & (truth - SKY > 10 * noise)
    assert peaks.sum() > 10
    assert alarms[peaks].sum() == 0


def test_flat_and_gaps() -> None:
    """Where little light falls the noise is larger; gaps and saturated stars are no hits and hide none beside."""
    random = np.random.default_rng(4)
    image = random.poisson(200, (200, 200)).astype(np.float32)
    response = np.ones(image.shape, np.float32)
    dim = np.s_[:100]
    image[dim] = random.poisson(200 * 0.2, (100, 200)) / 0.2
    response[dim] = 5.0
    image[50, 50] += 12 * np.sqrt(200 / 0.2)
    image[150, 50] += 12 * np.sqrt(200)
    image[120:125, 120:125] = np.nan
    response[120:125, 120:125] = np.nan
    image[170:176, 170:176] = 60000.0
    saturated = image >= 60000
    image[123, 126] += 150
    common = {"settings": CosmicRays(6.0, 5.0), "gain": 1.0, "read_noise": 0.1}
    found = find_cosmic_rays(image, saturated, response, **common)  # type: ignore[arg-type]
    assert np.argwhere(found).tolist() == [[50, 50], [123, 126], [150, 50]]
    blind = find_cosmic_rays(image, saturated, np.ones_like(response), **common)  # type: ignore[arg-type]
    assert blind[dim].sum() > 10


def test_an_empty_frame() -> None:
    empty = np.full((40, 40), np.nan, np.float32)
    assert not find(empty).any()
    assert not find(empty, gain=np.nan).any()
    assert not find(np.zeros((40, 40)), mosaic=True, gain=np.nan).any()
    assert not find(np.full((3, 2), 7.0)).any()


def test_filters_equal_naive_twins() -> None:
    image = np.random.default_rng(1).normal(0, 10, (23, 31)).astype(np.float32)
    # van Dokkum's equations 1 to 5: subsample, convolve, clip, average.
    large = np.kron(image, np.ones((2, 2)))
    kernel = np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0]]) / 4
    positive = np.maximum(ndimage.convolve(large, kernel, mode="nearest"), 0)
    expected = positive.reshape(23, 2, 31, 2).mean(axis=(1, 3)) * 2
    np.testing.assert_allclose(laplacian(image), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(lowest(image), ndimage.minimum_filter(image, 5, mode="nearest"))
    smooth = ndimage.median_filter(image, 5)
    for y, x in itertools.product((2, 9, 20), (2, 15, 28)):
        assert median_near(image, y, x, 2, np.empty(25, np.float32)) == smooth[y, x]


def test_agrees_with_astroscrappy() -> None:
    _, charge, seen = scene(3.0)
    image = (seen + charge).astype(np.float32)
    theirs, _ = astroscrappy.detect_cosmics(
        image, gain=GAIN, readnoise=READ_NOISE, sigclip=5.0, objlim=5.0, satlevel=np.inf, sepmed=False
    )
    ours = find(image)
    # Whole filters there are masked at the border and replace by means; the hits are the same.
    assert (ours & theirs).sum() > 0.95 * (ours | theirs).sum()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_windows_hold_the_mask_of_the_whole(data: st.DataObject) -> None:
    shape = (BLOCK + 70, 2 * BLOCK + 9)
    mask = np.random.default_rng(8).uniform(size=shape) < 0.3
    asked = []

    def search(rows: slice, columns: slice) -> np.ndarray:
        asked.append((rows, columns))
        return mask[rows, columns]

    forget_decoded()
    window = []
    for length in shape:
        start = data.draw(st.integers(0, length - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, length))))
    for _ in range(2):
        np.testing.assert_array_equal(blockwise("frame", shape, search, *window), mask[tuple(window)])
    assert len(asked) == len({(r.start, c.start) for r, c in asked}) <= 6


def test_the_halo_of_the_blocks_is_wide_enough() -> None:
    random = np.random.default_rng(5)
    image = random.poisson(300, (BLOCK + 60, BLOCK + 60)).astype(np.float32)
    for x in range(20, BLOCK + 40, 25):  # tracks across the seams, and along them
        image[BLOCK - 6 : BLOCK + 7, x] += 400
        image[x, BLOCK - 2 : BLOCK + 3] += 300

    def search(rows: slice, columns: slice) -> np.ndarray:
        return find(np.ascontiguousarray(image[rows, columns]), gain=1.0)

    everything = slice(0, image.shape[0]), slice(0, image.shape[1])
    forget_decoded()
    found = blockwise("seams", image.shape, search, *everything)
    assert found.sum() > 300
    np.testing.assert_array_equal(found, search(*everything))
