"""Calibrated frames as sources: the formula, its windows, what is no data, its noise."""

from __future__ import annotations

import json
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ops import frames
from skyloom.ops.arrays import array_spec
from skyloom.ops.calibration.calibrate import SOURCE_BYTES
from skyloom.ops.calibration.calibrated import (
    COLD,
    COSMIC_RAY,
    HOT,
    NO_DATA,
    SATURATED,
    CalibratedSource,
)
from skyloom.ops.calibration.cosmic_rays import CosmicRays
from skyloom.ops.calibration.layers import STRIP, Master
from skyloom.ops.calibration.overscan import Overscan
from skyloom.ops.errors import DataError
from skyloom.ops.frames import FrameSource, open_source, register_source

SHAPE = (2 * STRIP + 40, 70)
EVERYTHING = slice(0, SHAPE[0]), slice(0, SHAPE[1])
RANDOM = np.random.default_rng(5)
F32 = np.float32


def spec(pixels: np.ndarray) -> str:
    """Array in memory as a source."""
    return array_spec(xr.Dataset({"image": (("y", "x"), pixels)}), "image")


def noise(level: float, sigma: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return RANDOM.normal(level, sigma, shape).astype(F32)


LIGHT = np.rint(noise(3000.0, 400.0))
BIAS, DARK, OTHER_BIAS = noise(500.0, 3.0), noise(520.0, 4.0), noise(498.0, 3.0)
FLAT = noise(1.0, 0.1)
SPREAD = {name: RANDOM.uniform(0.5, 2.0, SHAPE).astype(F32) for name in ("bias", "dark", "other", "flat")}
SPREAD["flat"] *= F32(1e-5)
HOT_MAP = (RANDOM.uniform(size=SHAPE) < 0.02).astype(np.uint8)
COLD_MAP = ((RANDOM.uniform(size=SHAPE) < 0.02) * 2).astype(np.uint8)


def master(image: np.ndarray, variance: str = "", **more: Any) -> Master:
    return Master(spec(image), variance=spec(SPREAD[variance]) if variance else "", **more)


def full(**changes: Any) -> CalibratedSource:
    """Light with everything."""
    values: dict[str, Any] = {
        "light": spec(LIGHT),
        "shape": SHAPE,
        "bias": master(BIAS, "bias"),
        "dark": master(DARK, "dark", bad=spec(HOT_MAP)),
        "flat": master(FLAT, "flat", bad=spec(COLD_MAP)),
        "dark_scale": 0.7,
        "pedestal": 100.0,
        "saturation": 3900.0,
        "gain": 1.6,
        "read_noise": 5.0,
    }
    return CalibratedSource(**{**values, **changes})


def opened(source: CalibratedSource) -> CalibratedSource:
    """The source as another process would open it."""
    found = open_source(source.spec())
    assert isinstance(found, CalibratedSource)
    assert found.spec() == source.spec()
    return found


# --- the formula ---


def test_equals_the_formula_bit_for_bit() -> None:
    k = F32(0.7)
    bad = (HOT_MAP != 0) | (COLD_MAP != 0)
    signal = LIGHT - F32(100) - BIAS - k * (DARK - BIAS)
    expected = np.where(bad | (LIGHT >= 3900), F32(np.nan), signal * (F32(1) / FLAT))
    source = opened(full())
    pixels = source.read(*EVERYTHING)
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == F32
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert isinstance(source, FrameSource)
    assert source.windowed
    # And in exact arithmetic: what is lost is a few parts in ten million.
    exact = (LIGHT - 100.0 - BIAS - 0.7 * (DARK.astype(float) - BIAS)) / FLAT.astype(float)
    np.testing.assert_allclose(pixels[~np.isnan(pixels)], exact[~np.isnan(pixels)], atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, LIGHT),
        ({"bias": master(BIAS)}, LIGHT - BIAS),
        ({"dark": master(DARK)}, LIGHT - DARK),
        # With k = 1 the bias cancels.
        ({"dark": master(DARK), "bias": master(BIAS)}, LIGHT - DARK),
        (
            {"dark": master(DARK), "bias": master(BIAS), "dark_bias": master(OTHER_BIAS), "dark_scale": 2.0},
            LIGHT - BIAS - F32(2) * (DARK - OTHER_BIAS),
        ),
        # A light without a bias of its own takes the dark's.
        (
            {"dark": master(DARK), "dark_bias": master(OTHER_BIAS), "dark_scale": 0.5},
            LIGHT - OTHER_BIAS - F32(0.5) * (DARK - OTHER_BIAS),
        ),
        ({"flat": master(FLAT)}, LIGHT * (F32(1) / FLAT)),
        # Pedestals of the masters are not the light's.
        ({"dark": master(DARK, pedestal=40.0), "pedestal": 100.0}, LIGHT - F32(100) - (DARK - F32(40))),
    ],
)
def test_whatever_masters_there_are(changes: dict[str, Any], expected: np.ndarray) -> None:
    source = opened(CalibratedSource(spec(LIGHT), SHAPE, **changes))
    np.testing.assert_array_equal(source.read(*EVERYTHING), expected)


def test_the_scale_of_the_dark_may_be_a_source() -> None:
    scale = array_spec(xr.Dataset({"k": ("frame", np.array([9.0, 0.7]))}), "k", frame=1)
    np.testing.assert_array_equal(opened(full(dark_scale=scale)).read(*EVERYTHING), full().read(*EVERYTHING))
    unknown = array_spec(xr.Dataset({"k": ("frame", np.array([math.nan]))}), "k", frame=0)
    with pytest.raises(DataError, match="scale of its dark could not be found"):
        full(dark_scale=unknown).read(*EVERYTHING)
    with pytest.raises(DataError, match=r"scaled by 0\.700 and has no bias: link one"):
        full(bias=None).read(*EVERYTHING)


def test_counts_of_sixteen_bits_give_signed_pixels_and_nothing_is_clipped() -> None:
    counts = np.zeros(SHAPE, np.uint16)
    counts[:, ::2] = 65535
    source = CalibratedSource(spec(counts), SHAPE, bias=master(BIAS))
    pixels = source.read(*EVERYTHING)
    np.testing.assert_array_equal(pixels, counts.astype(F32) - BIAS)
    assert pixels.min() < -480
    assert pixels.max() > 65000


# --- no data ---


def test_what_is_no_data_and_why() -> None:
    light, flat, dark = LIGHT.copy(), FLAT.copy(), DARK.copy()
    hot, cold = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    light[0, 0], light[0, 1], light[0, 2] = np.nan, 3900.0, np.nextafter(F32(3900), F32(0))
    hot[1, 0], cold[1, 1] = 1, 2
    flat[2, :3] = 0.05, -1.0, np.nan
    dark[3, 0] = np.nan
    light[4, 0], hot[4, 0] = 5000.0, 1
    light[:, 3:] = np.minimum(light[:, 3:], 3000)
    parts = {
        "light": spec(light),
        "dark": master(dark, bad=spec(hot)),
        "flat": master(flat, bad=spec(cold)),
    }
    source = full(**parts)
    expected = np.zeros(SHAPE, np.uint8)
    expected[0, :2] = NO_DATA, SATURATED
    expected[1, :2] = HOT, COLD
    expected[2, :3] = COLD, COLD, NO_DATA
    expected[3, 0] = NO_DATA
    expected[4, 0] = SATURATED | HOT
    expected[:, :3][light[:, :3] >= 3900] |= SATURATED
    flags = opened(source).flags(*EVERYTHING)
    np.testing.assert_array_equal(flags, expected)
    np.testing.assert_array_equal(np.isnan(source.read(*EVERYTHING)), expected != 0)
    kept = full(**parts, keep_saturated=True)
    np.testing.assert_array_equal(kept.flags(*EVERYTHING), expected)
    np.testing.assert_array_equal(np.isnan(kept.read(*EVERYTHING)), (expected & ~np.uint8(SATURATED)) != 0)


def test_a_bias_tells_bad_pixels_where_there_is_no_dark() -> None:
    source = CalibratedSource(spec(LIGHT), SHAPE, bias=master(BIAS, bad=spec(HOT_MAP)))
    np.testing.assert_array_equal(np.isnan(source.read(*EVERYTHING)), HOT_MAP != 0)
    np.testing.assert_array_equal(source.flags(*EVERYTHING), HOT_MAP)


# --- windows ---

SOURCES = {
    "all": full(),
    "cosmic rays": full(cosmic_rays=CosmicRays(), keep_saturated=True),
    "trimmed": full(
        shape=(SHAPE[0] - 30, SHAPE[1] - 11),
        origin=(17, 9),
        **{
            name: Master(
                spec(image),
                variance=spec(SPREAD[name]),
                origin=(17, 9),
                overscan=Overscan((0, SHAPE[0], 0, 8), "row"),
            )
            for name, image in (("bias", BIAS), ("dark", DARK), ("flat", FLAT))
        },
        overscan=Overscan((0, SHAPE[0], 0, 8), "row"),
    ),
}
WHOLE = {
    name: tuple(f(*(slice(0, n) for n in s.shape)) for f in (s.read, s.flags, s.variance))
    for name, s in SOURCES.items()
}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_window_holds_the_bits_of_the_whole(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SOURCES)))
    source = SOURCES[name]
    window = []
    for length in source.shape:
        start = data.draw(st.integers(0, length - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, length))))
    rows, columns = window
    for function, whole in zip((source.read, source.flags, source.variance), WHOLE[name], strict=True):
        np.testing.assert_array_equal(function(rows, columns), whole[rows, columns])


def test_the_windows_differ_from_each_other_and_have_data() -> None:
    for pixels, flags, variance in WHOLE.values():
        assert np.isfinite(pixels).mean() > 0.5
        np.testing.assert_array_equal(np.isnan(pixels), np.isnan(variance))
        assert len(np.unique(flags)) > 1


# --- overscan and trim ---


@pytest.mark.parametrize("mode", ["row", "frame"])
def test_overscan_takes_off_the_level_of_lights_and_masters(mode: Any) -> None:
    drift = RANDOM.normal(0.0, 5.0, SHAPE[0]).astype(F32) if mode == "row" else np.zeros(SHAPE[0], F32)
    blind = np.s_[:, 60:]
    sky = RANDOM.uniform(100, 200, SHAPE).astype(F32)
    pattern = RANDOM.normal(0.0, 2.0, SHAPE).astype(F32)
    for pixels in (sky, pattern):
        pixels[blind] = 0
    light = np.rint(sky + pattern + drift[:, None] + 517 + noise(0.0, 1.0))
    bias = pattern + 490 + noise(0.0, 0.05)
    overscan = Overscan((0, SHAPE[0], 60, 70), mode)
    source = opened(
        CalibratedSource(
            spec(light),
            (SHAPE[0] - 8, 55),
            (6, 3),
            bias=Master(spec(bias), origin=(6, 3), overscan=overscan),
            overscan=overscan,
            gain=1.0,
            read_noise=1.0,
        )
    )
    pixels = source.read(slice(0, SHAPE[0] - 8), slice(0, 55))
    error = pixels - sky[6:-2, 3:58]
    assert abs(error.mean()) < 0.05
    # One noise DN of the light, a tenth of its variance again for the level of a row of ten.
    assert error.std() == pytest.approx(
        math.sqrt(1.1 + 1 / 12) if mode == "row" else math.sqrt(1 + 1 / 12), rel=0.02
    )
    plain = CalibratedSource(
        spec(light), source.shape, (6, 3), bias=Master(spec(bias), origin=(6, 3)), gain=1.0, read_noise=1.0
    )
    assert plain.read(slice(0, 5), slice(0, 5)).mean() > 20 + pixels[:5, :5].mean()
    level = source.variance(slice(0, 300), slice(0, 55)) - np.maximum(
        light[6:306, 3:58] - 517 - pattern[6:306, 3:58] - drift[6:306, None], 0
    )
    assert np.median(level) == pytest.approx(1.0 + (0.1 if mode == "row" else 0.0), abs=0.05)


# --- variance ---


def naive_variance(source: CalibratedSource, zero: np.ndarray, read: float, masters: np.ndarray) -> np.ndarray:
    pixels = source.read(*EVERYTHING).astype(float)
    photons = np.maximum(LIGHT - source.pedestal - zero.astype(float), 0) / source.gain
    return np.asarray((photons + read + masters + pixels**2 * SPREAD["flat"]) / FLAT.astype(float) ** 2)


def test_variance_is_that_of_its_formula() -> None:
    k, spread = 0.7, {name: values.astype(float) for name, values in SPREAD.items()}
    read = (5.0 / 1.6) ** 2
    common = (1 - k) ** 2 * spread["bias"] + k**2 * spread["dark"]
    own = spread["bias"] + k**2 * (spread["dark"] + spread["other"])
    cases = [
        (full(), BIAS, common),
        (full(dark_bias=master(OTHER_BIAS, "other")), BIAS, own),
        (full(dark=None), BIAS, spread["bias"]),
        (full(dark_scale=1.0), BIAS, spread["dark"]),
        # Without a bias and without counts: the dark stands for it, its shot noise is not known.
        (full(dark_scale=1.0, bias=None), DARK, spread["dark"]),
    ]
    for source, zero, masters in cases:
        expected = naive_variance(source, zero, read, masters)
        np.testing.assert_allclose(opened(source).variance(*EVERYTHING), expected, rtol=1e-5)


def test_read_noise_from_the_scatter_of_a_masters_frames() -> None:
    counts = np.full(SHAPE, 8, np.uint16)
    spread = (2.5**2 / 8 * RANDOM.chisquare(7, SHAPE) / 7).astype(F32)
    spread[::50, ::9] *= 100  # hot pixels
    told = Master(spec(BIAS), variance=spec(spread), count=spec(counts))
    known = full(bias=told, dark=None, read_noise=2.5 * 1.6)
    unknown = full(bias=told, dark=None, read_noise=math.nan)
    np.testing.assert_allclose(unknown.variance(*EVERYTHING), known.variance(*EVERYTHING), rtol=3e-4)
    # A dark's frames tell its dark current's shot noise, too, whatever the read noise.
    as_dark = full(bias=None, dark=told, dark_scale=1.0, read_noise=1.0)
    np.testing.assert_allclose(as_dark.variance(*EVERYTHING), known.variance(*EVERYTHING), rtol=3e-4)
    nothing = full(bias=master(BIAS), dark=None, read_noise=math.nan)
    zero = full(bias=master(BIAS), dark=None, read_noise=0.0)
    np.testing.assert_array_equal(nothing.variance(*EVERYTHING), zero.variance(*EVERYTHING))


def test_without_a_gain_there_is_no_variance() -> None:
    assert np.isnan(full(gain=math.nan).variance(*EVERYTHING)).all()
    assert np.isfinite(full(gain=math.nan).read(*EVERYTHING)).mean() > 0.8


# --- cosmic rays ---


def test_cosmic_rays_are_flagged_and_no_data() -> None:
    light = RANDOM.poisson(400, SHAPE).astype(F32) + BIAS
    light[300, 30] += 900
    light[100:104, 50] += 700
    source = opened(
        CalibratedSource(
            spec(light), SHAPE, bias=master(BIAS), gain=1.0, read_noise=3.0, cosmic_rays=CosmicRays(6.0, 5.0)
        )
    )
    hit = source.flags(*EVERYTHING) == COSMIC_RAY
    np.testing.assert_array_equal(np.argwhere(hit), [[100, 50], [101, 50], [102, 50], [103, 50], [300, 30]])
    np.testing.assert_array_equal(np.isnan(source.read(*EVERYTHING)), hit)


# --- cost ---


def test_masters_are_read_once_for_many_lights() -> None:
    reads = []

    class Counted:
        shape, windowed = SHAPE, True

        def __init__(self, fields: dict[str, Any]) -> None:
            self.name, self.level = fields["name"], fields["level"]

        def read(self, rows: slice, columns: slice) -> np.ndarray:
            reads.append(self.name)
            return np.full((rows.stop - rows.start, columns.stop - columns.start), self.level, F32)

    register_source("counted", Counted)
    made: dict[str, Any] = {
        name: Master(json.dumps({"kind": "counted", "name": name, "level": level}))
        for name, level in (("dark", 500.0), ("flat", 1.0))
    }
    frames.forget_decoded()
    for i in range(20):
        source = opened(CalibratedSource(spec(LIGHT + i), SHAPE, **made))
        for rows in (slice(0, 100), slice(90, 300), slice(10, SHAPE[0])):
            source.read(rows, slice(0, 60))
    assert sorted(reads) == ["dark"] * 3 + ["flat"] * 3


def test_a_window_takes_the_bytes_that_are_stated() -> None:
    shape = (1024, 2048)
    pixels = np.full(shape, 1000, np.uint16)
    parts = [spec(np.full(shape, level, F32)) for level in (500.0, 1.0)]
    source = CalibratedSource(
        spec(pixels), shape, dark=Master(parts[0]), flat=Master(parts[1]), saturation=60000.0
    )
    window = slice(0, shape[0]), slice(0, shape[1])
    source.read(*window)
    tracemalloc.start()
    source.read(*window)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < SOURCE_BYTES * shape[0] * shape[1] + 1e5


@pytest.mark.parametrize(
    "wrong",
    [
        '{"kind": "calibrated", "module": "skyloom.ops.calibration.calibrated"}',
        '{"kind": "calibrated", "module": "skyloom.ops.calibration.calibrated", "light": 3, "shape": [1]}',
    ],
)
def test_a_spec_that_is_none_says_so(wrong: str) -> None:
    with pytest.raises(DataError, match="not the source of a calibrated frame"):
        open_source(wrong)


def test_a_light_that_shrank_says_so() -> None:
    with pytest.raises(DataError, match="the raw frame is smaller than"):
        full(shape=(SHAPE[0] + 1, SHAPE[1])).read(slice(0, SHAPE[0] + 1), slice(0, 4))
