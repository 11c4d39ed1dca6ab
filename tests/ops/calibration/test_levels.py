"""Levels: how much light flats got, scales of darks, and which frames are odd."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from skyloom.ops.calibration import dark_scale, members
from skyloom.ops.calibration.dark_scale import contrast, robust_slope
from skyloom.ops.calibration.flat_level import first_place, robust_mean
from skyloom.ops.calibration.levels import levels
from skyloom.ops.calibration.masters import masters
from skyloom.ops.calibration.members import NO_LIGHT, SATURATED, SCALE_LIMITED, SCALE_UNKNOWN, UNLIKE, UNREADABLE
from skyloom.ops.registry import get_op

_path = Path(__file__).with_name("simulated.py")
_spec = importlib.util.spec_from_file_location("skyloom_simulated_masters", _path)
assert _spec is not None
assert _spec.loader is not None
simulated: Any = sys.modules.get(_spec.name) or importlib.util.module_from_spec(_spec)
if _spec.name not in sys.modules:
    sys.modules[_spec.name] = simulated
    _spec.loader.exec_module(simulated)
FLAT = 0.45 * 60000


@pytest.fixture(scope="module")
def plain() -> Any:
    return simulated.made(simulated.session_of(cosmic_rays=5.0))


@pytest.fixture(scope="module")
def stacked(plain: Any) -> xr.Dataset:
    return done(masters(plain.table, plain.links))


@pytest.fixture(scope="module")
def measured(plain: Any, stacked: xr.Dataset) -> xr.Dataset:
    return done(levels(plain.table, plain.links, stacked))


def done(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.compute(scheduler="synchronous")


# --- flats ---


def test_level_is_the_light_of_each_flat(plain: Any, measured: xr.Dataset) -> None:
    frames = plain.session.descriptors()
    truth = plain.truth("flat")
    for place in plain.places("flat"):
        # The truth is normalised to a mean of 1; what the mean was, the panel's level says.
        light = frames[place].exposure.flat_level
        mean = (
            np.median(truth.counts - truth.bias)
            / np.median(truth.flat)
            / frames[plain.places("flat")[0]].exposure.flat_level
        )
        found = measured.level[place].values
        assert len(set(found.tolist())) == 1
        assert found[0] == pytest.approx(light * mean, rel=2e-4)
    others = np.setdiff1d(np.arange(len(frames)), plain.places("flat"))
    assert np.isnan(measured.level[others]).all()
    assert (measured.status == 0).all()
    assert (measured.reason == "").all()
    # Neighbours differ by response (1 %) and photons.
    assert measured.noise[plain.places("flat")].values == pytest.approx(270, rel=0.15)


def test_level_of_every_phase() -> None:
    made = simulated.made(simulated.session_of(camera={"bayer": "GRBG"}, bands=("CFA",)))
    found = done(levels(made.table, made.links, done(masters(made.table, made.links))))
    truth = made.truth("flat")
    light = (truth.counts - truth.bias) / truth.flat
    expected = [np.median(light[y::2, x::2]) for y in (0, 1) for x in (0, 1)]
    assert found.level[made.places("flat")[0]].values == pytest.approx(expected, rel=5e-4)


def test_pedestal_and_trim_are_minded() -> None:
    made = simulated.made(simulated.session_of(camera={"overscan": 20}))
    plain = simulated.made(simulated.session_of())
    wide, usual = (
        done(levels(one.table, one.links, done(masters(one.table, one.links))))
        .level[one.places("flat")[0], 0]
        .item()
        for one in (made, plain)
    )
    assert wide == pytest.approx(usual, rel=1e-3)
    place = plain.places("flat")[0]
    table = plain.spoilt(place, "add", 300.0)
    pedestal = table["pedestal"].values.copy()
    pedestal[place] = 300.0
    table = table.assign(pedestal=("frame", pedestal))
    raised = done(levels(table, plain.links, done(masters(table, plain.links))))
    assert raised.level[place, 0].item() == pytest.approx(usual, rel=1e-6)


@pytest.mark.parametrize(
    ("fault", "value", "status", "word"),
    [
        ("broken", 0.0, UNREADABLE, "torn"),
        ("size", 0.0, UNREADABLE, "338"),
        ("clip", 60_000.0, SATURATED, "saturated"),
        ("scale", 1e-4, NO_LIGHT, "no light"),
        ("scale", -0.1, NO_LIGHT, "no light"),
    ],
)
def test_flats_that_are_no_good(
    plain: Any, stacked: xr.Dataset, fault: str, value: float, status: int, word: str
) -> None:
    place = plain.places("flat")[4]
    found = done(levels(plain.spoilt(place, fault, value), plain.links, stacked))
    assert found.status.values[place] == status
    assert word in str(found.reason.values[place])
    rest = np.setdiff1d(np.arange(found.sizes["frame"]), [place])
    assert (found.status[rest] == 0).all()


def test_odd_darks_are_told(plain: Any, stacked: xr.Dataset) -> None:
    place = plain.places("dark")[0]
    found = done(levels(plain.spoilt(place, "add", 100.0), plain.links, stacked))
    assert found.status.values[place] == UNLIKE
    assert "dark frames of its group" in str(found.reason.values[place])


@given(start=st.integers(0, 50), cells=st.integers(1, 5), phase=st.integers(0, 1))
def test_phases_count_from_the_corner(start: int, cells: int, phase: int) -> None:
    place = first_place(start, 2 * cells, phase)
    assert start <= place < start + 2 * cells
    assert place % (2 * cells) == phase


@given(st.integers(0, 10**6), st.floats(0.0, 0.02))
@settings(max_examples=30, deadline=None)
def test_robust_mean(seed: int, dead: float) -> None:
    random = np.random.default_rng(seed)
    values = random.uniform(0.6, 1.2, 20_000).astype(np.float32)
    bad = random.random(values.size) < dead
    mean = values[~bad].mean(dtype=float)
    values[bad] = random.choice([0.0, 0.05, 30.0], int(bad.sum()))
    assert robust_mean(values) == pytest.approx(mean, rel=1e-5)


# --- scales of darks ---


def scaled(seconds: float, **changes: Any) -> tuple[Any, float]:
    """Session whose lights are exposed for another time than its darks."""
    camera = {"hot_fraction": 0.01, **changes.pop("camera", {})}
    made = simulated.made(simulated.session_of(camera=camera, **changes), scale_darks="always")
    lights = simulated.made(simulated.session_of(camera=camera, seconds=seconds, **changes))
    assert made.places("light") == lights.places("light")
    table = made.table.copy()
    for name in ("source", "exposure"):
        values = table[name].values.astype(object)
        values[made.places("light")] = lights.table[name].values[made.places("light")]
        table[name] = ("frame", np.array(values.tolist()))
    return simulated.Made(made.session, table, made.links), seconds / made.session.seconds


@pytest.mark.parametrize("seconds", [30.0, 120.0, 240.0])
@pytest.mark.parametrize("bayer", ["", "RGGB"])
def test_scale_of_a_dark_is_recovered(seconds: float, bayer: str) -> None:
    changes: dict[str, Any] = {"camera": {"bayer": bayer}, "bands": ("CFA",)} if bayer else {}
    made, ratio = scaled(seconds, frames=2, **changes)
    found = done(levels(made.table, made.links, done(masters(made.table, made.links))))
    for place in made.places("light"):
        k, error = found.dark_scale[place].item(), found.dark_scale_error[place].item()
        assert error < 0.004
        # The darks' own noise is common to both lights.
        assert k == pytest.approx(ratio, abs=5 * error)
    assert (found.status == 0).all()
    assert (found.dark_scale[made.places("dark")] == 1).all()


def test_scale_of_a_warmer_light() -> None:
    """The exposure says nothing of the temperature: bounds are wide around its ratio."""
    made, _ = scaled(120.0)
    warm = simulated.made(simulated.session_of(camera={"hot_fraction": 0.01, "temperature": -4.0}))
    table = made.table.copy()
    source = table["source"].values.astype(object)
    source[0] = warm.table["source"].values[0]
    table["source"] = ("frame", np.array(source.tolist()))
    warmth = made.session.camera
    expected = 2.0 ** (6.0 / warmth.doubling)
    stacked = done(masters(table, made.links))
    assert done(levels(table, made.links, stacked)).dark_scale[0].item() == pytest.approx(expected, abs=0.02)
    bounded = done(levels(table, made.links, stacked, dark_scale_high=1.2))
    assert bounded.dark_scale[0].item() == pytest.approx(1.2)
    assert bounded.status[0] == SCALE_LIMITED
    assert bounded.reason[0] == ""


def test_scale_without_hot_pixels_is_that_of_the_exposures() -> None:
    made, ratio = scaled(60.0, camera={"hot_fraction": 0.0})
    found = done(levels(made.table, made.links, done(masters(made.table, made.links))))
    assert found.dark_scale[0].item() == ratio
    assert found.status[0] == SCALE_UNKNOWN
    assert found.reason[0] == ""


def test_a_light_that_cannot_be_read() -> None:
    made, _ = scaled(60.0)
    table = made.spoilt(0, "broken")
    found = done(levels(table, made.links, done(masters(table, made.links))))
    assert found.status[0] == UNREADABLE
    assert np.isnan(found.dark_scale[0])


@given(seed=st.integers(0, 10**6), k=st.floats(0.05, 3.0), stars=st.floats(0.0, 0.15))
@settings(max_examples=30, deadline=None)
def test_slope_is_robust_and_unbiased(seed: int, k: float, stars: float) -> None:
    random = np.random.default_rng(seed)
    true = random.exponential(100.0, 4000) + 40.0
    noise = 10.0
    x = true + random.normal(0.0, noise, true.size)
    y = k * true + random.normal(0.0, 20.0, true.size)
    lit = random.random(true.size) < stars
    y[lit] += random.exponential(3000.0, int(lit.sum()))
    slope, error = robust_slope(x, y, np.full(x.size, noise**2))
    assert error < 0.01
    assert slope == pytest.approx(k, abs=5 * error + 0.01 * stars)


def test_contrast_equals_its_twin() -> None:
    image = np.random.default_rng(1).normal(size=(20, 24)).astype(np.float32)
    image[5, 5:9] = np.nan
    y, x = (a.ravel() for a in np.mgrid[:20, :24])
    for step in (1, 2):
        found = contrast(image, y, x, step)
        for k in range(y.size):
            near = [
                image[j, i]
                for j in (y[k] - step, y[k], y[k] + step)
                for i in (x[k] - step, x[k], x[k] + step)
                if (j, i) != (y[k], x[k]) and 0 <= j < 20 and 0 <= i < 24 and np.isfinite(image[j, i])
            ]
            if len(near) < 4 or np.isnan(image[y[k], x[k]]):
                assert np.isnan(found[k])
            else:
                assert found[k] == pytest.approx(float(image[y[k], x[k]]) - float(np.median(near)), abs=1e-6)


# --- how the work is cut ---


def test_is_lazy_and_reads_what_it_needs(plain: Any, stacked: xr.Dataset) -> None:
    simulated.READS.clear()
    made = levels(plain.table, plain.links, masters(plain.table, plain.links))
    assert not simulated.READS
    assert made.level.chunks == ((1,) * plain.table.sizes["frame"], (4,))
    made = levels(plain.table, plain.links, stacked)
    light = plain.places("light")[0]
    assert made.status[light].compute(scheduler="synchronous") == 0
    assert not simulated.READS
    flat = plain.places("flat")[2]
    made.level[flat].compute(scheduler="synchronous")
    assert {frame for frame, _ in simulated.READS} == {flat}
    cost = get_op("levels").cost
    assert cost is not None
    work = cost(plain.table, plain.links, stacked).work
    assert work[light] == 0
    assert work[flat] == pytest.approx(300 * 340 / 1e6)
    assert 0 < work[plain.places("dark")[0]] < 1


def test_masters_that_are_not_computed_yet(plain: Any, measured: xr.Dataset) -> None:
    lazy = levels(plain.table, plain.links, masters(plain.table, plain.links))
    xr.testing.assert_identical(done(lazy), measured)


def test_strips_do_not_show(plain: Any, stacked: xr.Dataset, measured: xr.Dataset, monkeypatch: Any) -> None:
    from skyloom.ops.calibration import flat_level

    monkeypatch.setattr(flat_level, "STRIP", 64)
    xr.testing.assert_identical(done(levels(plain.table, plain.links, stacked)), measured)
    made, _ = scaled(60.0)
    stacked = done(masters(made.table, made.links))
    found = []
    for strip in (32, 256):
        monkeypatch.setattr(dark_scale, "STRIP", strip)
        dark_scale._clear_pixels.cache_clear()
        found.append(done(levels(made.table, made.links, stacked)))
    xr.testing.assert_identical(*found)


def test_sampled_rows_lie_in_the_frame() -> None:
    for shape in ((1, 1), (7, 5), (8, 8), (300, 340), (4096, 4096), (6388, 9576)):
        rows = members.sample_rows(shape)
        assert all(0 <= r.start < r.stop <= shape[0] and r.start % 2 == 0 for r in rows)
        assert all(a.stop <= b.start for a, b in pairwise(rows))
        total = sum(r.stop - r.start for r in rows) * shape[1]
        assert total <= 2 * members.SAMPLE_PIXELS
        assert total >= min(shape[0] // 8 * 8 * shape[1], members.SAMPLE_PIXELS // 2)
