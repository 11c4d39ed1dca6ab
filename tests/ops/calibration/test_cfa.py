"""Colour planes of a filter array: exact where they can be, accurate elsewhere, the same in any window."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ops.arrays import array_spec
from skyloom.ops.calibration.cfa import BANDS, PATTERNS, CfaSource, Method, places
from skyloom.ops.calibration.layers import STRIP
from skyloom.ops.errors import DataError
from skyloom.ops.frames import FrameSource, open_source

RANDOM = np.random.default_rng(6)
SHAPE = (46, 37)
TALL = (2 * STRIP + 150, 9)
METHODS: tuple[Method, ...] = ("superpixel", "interpolate")

# The filters of Malvar, He & Cutler 2004, figure 2 (times 8).
GREEN = [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
ROW = [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
OTHER = [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]


def spec(pixels: np.ndarray) -> str:
    return array_spec(xr.Dataset({"image": (("y", "x"), pixels)}), "image")


def source(pixels: np.ndarray, bayer: str, band: str, method: Method) -> CfaSource:
    step = 2 if method == "superpixel" else 1
    return CfaSource(spec(pixels), bayer, band, method, (pixels.shape[0] // step, pixels.shape[1] // step))


def whole(one: FrameSource) -> np.ndarray:
    return one.read(*(slice(0, n) for n in one.shape))


def plane(pixels: np.ndarray, bayer: str, band: str, method: Method) -> np.ndarray:
    return whole(source(pixels, bayer, band, method))


def colours(bayer: str, shape: tuple[int, int]) -> np.ndarray:
    """Colour of every pixel."""
    tile = np.array(list(bayer)).reshape(2, 2)
    return np.tile(tile, (shape[0] // 2 + 1, shape[1] // 2 + 1))[: shape[0], : shape[1]]


def mosaic(scene: dict[str, np.ndarray], bayer: str) -> np.ndarray:
    shape = scene["R"].shape
    seen = colours(bayer, shape)
    return np.select([seen == b for b in BANDS], [scene[b] for b in BANDS]).astype(np.float32)


def naive(pixels: np.ndarray, bayer: str, band: str) -> np.ndarray:
    """Interpolation pixel by pixel, as its description says."""
    seen = colours(bayer, (pixels.shape[0] + 8, pixels.shape[1] + 8))
    padded = np.pad(pixels, 2, mode="reflect").astype(float)
    out = np.empty(pixels.shape)
    for y, x in np.ndindex(pixels.shape):
        around, its = padded[y : y + 5, x : x + 5], seen[y + 2 : y + 7, x + 2 : x + 7]
        if its[2, 2] == band:
            out[y, x] = around[2, 2]
            continue
        if band == "G":
            weights = np.array(GREEN)
        elif its[2, 2] != "G":
            weights = np.array(OTHER)
        else:
            weights = np.array(ROW) if its[2, 1] == band else np.array(ROW).T
        value = (weights * around)[weights != 0].sum() / 8
        if np.isnan(value):
            near = around[1:4, 1:4][its[1:4, 1:4] == band]
            near = near[np.isfinite(near)]
            value = near.mean() if near.size else np.nan
        out[y, x] = value
    return out


@pytest.mark.parametrize(("bayer", "band"), list(product(PATTERNS, BANDS)))
def test_equals_a_naive_twin(bayer: str, band: str) -> None:
    pixels = RANDOM.normal(300, 50, SHAPE).astype(np.float32)
    pixels[RANDOM.uniform(size=SHAPE) < 0.05] = np.nan
    pixels[20:27, 10:18] = np.nan
    found = plane(pixels, bayer, band, "interpolate")
    expected = naive(pixels, bayer, band)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    assert np.isnan(found).mean() < 0.12
    seen = colours(bayer, SHAPE)
    even = pixels[: 2 * (SHAPE[0] // 2), : 2 * (SHAPE[1] // 2)]
    own = [even[r::2, c::2] for r, c in product(range(2), range(2)) if seen[r, c] == band]
    np.testing.assert_allclose(plane(pixels, bayer, band, "superpixel"), np.mean(own, axis=0), rtol=1e-6)


SOURCES = {
    (bayer, band, method): source(
        np.where(RANDOM.uniform(size=SHAPE) < 0.02, np.nan, RANDOM.normal(0, 30, SHAPE)).astype(np.float32),
        bayer,
        band,
        method,
    )
    for bayer, band, method in product(PATTERNS, BANDS, METHODS)
}
SOURCES |= {
    ("tall", band, method): source(RANDOM.normal(0, 30, TALL).astype(np.float32), "GRBG", band, method)
    for band, method in product(BANDS, METHODS)
}
WHOLE = {key: whole(one) for key, one in SOURCES.items()}


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_window_holds_the_bits_of_the_whole(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(SOURCES)))
    one = SOURCES[key]
    window = []
    for length in one.shape:
        start = data.draw(st.integers(0, length - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, length))))
    rows, columns = window
    found = one.read(rows, columns)
    np.testing.assert_array_equal(found, WHOLE[key][rows, columns])
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert found.dtype == np.float32


def test_strips_of_a_large_window_do_not_show() -> None:
    pixels = RANDOM.normal(0, 30, TALL).astype(np.float32)
    np.testing.assert_allclose(
        plane(pixels, "GRBG", "R", "interpolate"), naive(pixels, "GRBG", "R"), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(plane(pixels, "GRBG", "B", "superpixel"), pixels[1::2, ::2][:, :4])


@pytest.mark.parametrize(("bayer", "method"), list(product(PATTERNS, METHODS)))
def test_a_scene_of_one_colour_is_exact(bayer: str, method: Method) -> None:
    scene = {b: np.full(SHAPE, level, np.float32) for b, level in zip(BANDS, (700.0, 1100.0, 300.0), strict=True)}
    for band in BANDS:
        found = plane(mosaic(scene, bayer), bayer, band, method)
        np.testing.assert_array_equal(found, np.full(found.shape, scene[band][0, 0]))


@pytest.mark.parametrize(("bayer", "band"), list(product(PATTERNS, BANDS)))
def test_gradients_are_exact_and_curves_nearly(bayer: str, band: str) -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    inner = (slice(2, -2), slice(2, -2))
    slopes = {b: 500 + 3.0 * k * x - 2.0 * y for k, b in enumerate(BANDS)}
    found = plane(mosaic(slopes, bayer), bayer, band, "interpolate")
    np.testing.assert_allclose(found[inner], slopes[band][inner], rtol=1e-6)
    curved = {b: 500 + 100 * np.sin(x / 9 + k) * np.cos(y / 11) for k, b in enumerate(BANDS)}
    found = plane(mosaic(curved, bayer), bayer, band, "interpolate")
    assert abs(found - curved[band])[inner].max() < 2.5
    # A superpixel lies where the mean of its pixels lies.
    found = plane(mosaic(slopes, bayer), bayer, band, "superpixel")
    row, column = np.mean(places(bayer, band), axis=0)
    expected = 500 + 3.0 * BANDS.index(band) * (x[: found.shape[0], : found.shape[1]] * 2 + column)
    expected -= 2.0 * (y[: found.shape[0], : found.shape[1]] * 2 + row)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("band", "times"), [("R", 4), ("G", 2), ("B", 4)])
def test_light_is_neither_made_nor_lost(band: str, times: int) -> None:
    """Every pixel of the colour counts the same in the plane's sum, others nothing."""
    bayer = "GRBG"
    for r, c in product(range(10, 12), range(10, 12)):
        one = np.zeros((24, 24), np.float32)
        one[r, c] = 64.0
        total = plane(one, bayer, band, "interpolate").sum()
        assert total == (64.0 * times if colours(bayer, one.shape)[r, c] == band else 0.0)
    pixels = RANDOM.gamma(2.0, 400.0, (400, 300)).astype(np.float32)
    found = plane(pixels, bayer, band, "interpolate")
    own = pixels[colours(bayer, pixels.shape) == band]
    assert found.mean(dtype=float) == pytest.approx(own.mean(dtype=float), rel=2e-3)


def test_a_missing_pixel_does_not_spread() -> None:
    pixels = np.full((12, 12), 100.0, np.float32)
    pixels[6, 6] = np.nan  # red, of RGGB
    assert np.argwhere(np.isnan(plane(pixels, "RGGB", "R", "interpolate"))).tolist() == [[6, 6]]
    for band in ("G", "B"):
        found = plane(pixels, "RGGB", band, "interpolate")
        np.testing.assert_array_equal(found, np.full(found.shape, 100.0))
    assert np.argwhere(np.isnan(plane(pixels, "RGGB", "R", "superpixel"))).tolist() == [[3, 3]]
    assert np.isfinite(plane(pixels, "RGGB", "G", "superpixel")).all()
    # Half of two greens has neither their noise nor their place.
    pixels[6, 6], pixels[6, 7] = 100.0, np.nan
    assert np.argwhere(np.isnan(plane(pixels, "RGGB", "G", "superpixel"))).tolist() == [[3, 3]]


def test_noise_has_the_statistics_that_the_gain_says() -> None:
    """Of sums over areas: a session's gain is 2 for the mean of two greens, 1/4 and 1/2 for what is spread."""
    pixels = RANDOM.normal(0.0, 1.0, (2000, 2000)).astype(np.float32)
    for band, method, effective in (
        ("R", "superpixel", 1.0),
        ("G", "superpixel", 0.5),
        ("R", "interpolate", 4.0),
        ("G", "interpolate", 2.0),
        ("B", "interpolate", 4.0),
    ):
        found = plane(pixels, "RGGB", band, method)  # type: ignore[arg-type]
        side = 50
        cut = found[: found.shape[0] // side * side, : found.shape[1] // side * side].astype(float)
        sums = cut.reshape(cut.shape[0] // side, side, -1, side).sum(axis=(1, 3))
        assert sums.var() / side**2 == pytest.approx(effective, rel=0.15 if method == "interpolate" else 0.2)


def test_the_frame_is_read_by_window_and_what_that_takes() -> None:
    shape = (1200, 1600)
    pixels = spec(np.ones(shape, np.float32))
    for method, size, most in (("superpixel", (600, 800), 4 * 4 + 4.2), ("interpolate", shape, 12.2)):
        one = CfaSource(pixels, "RGGB", "G", method, size)  # type: ignore[arg-type]
        assert one.windowed
        one.read(slice(0, 8), slice(0, 8))
        tracemalloc.start()
        whole(one)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most * size[0] * size[1]


def test_specs() -> None:
    one = source(np.ones((8, 8), np.float32), "GBRG", "B", "interpolate")
    assert open_source(one.spec()) == one
    assert isinstance(one, FrameSource)
    for wrong in (
        one.spec().replace("GBRG", "CYGM"),
        one.spec().replace('"B"', '"L"'),
        '{"kind": "cfa", "module": "skyloom.ops.calibration.cfa"}',
    ):
        with pytest.raises(DataError, match="not the source of a colour plane"):
            open_source(wrong)
