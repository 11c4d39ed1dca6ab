"""Master flats: the true flat field within what they say."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.calibration import members, references
from skyloom.ops.calibration.flats import flat_noise, flats
from skyloom.ops.calibration.levels import levels
from skyloom.ops.calibration.masters import masters
from skyloom.ops.registry import get_op

_path = Path(__file__).with_name("simulated.py")
_spec = importlib.util.spec_from_file_location("skyloom_simulated_masters", _path)
assert _spec is not None
assert _spec.loader is not None
simulated: Any = sys.modules.get(_spec.name) or importlib.util.module_from_spec(_spec)
if _spec.name not in sys.modules:
    sys.modules[_spec.name] = simulated
    _spec.loader.exec_module(simulated)
Inputs = tuple[xr.Dataset, xr.Dataset, xr.Dataset, xr.Dataset]


@pytest.fixture(scope="module")
def plain() -> Any:
    return simulated.made(simulated.session_of())


@pytest.fixture(scope="module")
def inputs(plain: Any) -> Inputs:
    return inputs_of(plain.table, plain.links)


@pytest.fixture(scope="module")
def stacked(inputs: Inputs) -> xr.Dataset:
    return done(flats(*inputs))


def done(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.compute(scheduler="synchronous")


def inputs_of(table: xr.Dataset, links: xr.Dataset) -> Inputs:
    made = done(masters(table, links))
    return table, links, made, done(levels(table, links, made))


def agrees(made: Any, master: xr.Dataset, *, abs: float = 0.02) -> None:
    """Equal to the true flat field within the stated variance, and on its scale."""
    flat = simulated.of_kind(master, "flat")
    truth = made.truth("flat").flat
    scale = float(np.median(flat.image.values / truth))
    # The truth is normalised to the mean of all pixels, odd ones included.
    assert scale == pytest.approx(1.0, abs=4e-4)
    off = flat.image.values / scale
    assert simulated.chi2(off, truth, flat.variance.values / scale**2) == pytest.approx(1.0, abs=abs)


# --- truth ---


def test_equals_the_true_flat_field(plain: Any, stacked: xr.Dataset) -> None:
    """Panel levels drift by 1 % from flat to flat, four times the noise of a pixel of the mean."""
    agrees(plain, stacked)
    flat = simulated.of_kind(stacked, "flat")
    # Photons of ten flats of 27 000 DN at 5.2 e-/DN.
    expected = 1 / np.sqrt(10 * 27_000 * 5.2 * 0.93)
    assert np.sqrt(np.median(flat.variance)) == pytest.approx(expected, rel=0.05)
    assert flat.rejected.values.mean() < 2e-3
    light = [plain.session.descriptors()[i].exposure.flat_level for i in plain.places("flat")]
    assert np.std(light) / np.mean(light) > 3 * expected


@pytest.mark.parametrize("frames", [1, 2, 3, 6])
def test_few_flats(frames: int) -> None:
    made = simulated.made(simulated.session_of(calibration_frames=frames))
    agrees(made, done(flats(*inputs_of(made.table, made.links))), abs=0.03)


def test_colour_sensor() -> None:
    """Red, green and blue get different light: every phase has its level, and its noise."""
    made = simulated.made(simulated.session_of(camera={"bayer": "RGGB"}, bands=("CFA",)))
    table, links, stacked, known = inputs_of(made.table, made.links)
    made_flat = done(flats(table, links, stacked, known))
    agrees(made, made_flat)
    flat, truth = simulated.of_kind(made_flat, "flat"), made.truth("flat").flat
    level = known.level[made.places("flat")[0]].values
    assert level.max() / level.min() > 1.2
    for k in range(4):
        y, x = k // 2, k % 2
        part = tuple(a[y::2, x::2] for a in (flat.image.values, truth, flat.variance.values))
        assert simulated.chi2(*part) == pytest.approx(1.0, abs=0.03)
        assert np.median(part[2]) == pytest.approx(1 / (10 * level[k] * 5.2), rel=0.1)


def test_dark_of_the_flats_is_used() -> None:
    """Warm flat-darks: without them the flat would have their dark current in it."""
    made = simulated.made(simulated.session_of(camera={"dark": 150.0}, flat_darks=True))
    agrees(made, done(flats(*inputs_of(made.table, made.links))))


def test_flats_of_unequal_light() -> None:
    """Flats weigh as their photons: two of a tenth of the light add little, and spoil nothing."""
    made = simulated.made(simulated.session_of(calibration_frames=4))
    truth = made.truth("flat")
    random = np.random.default_rng(1)
    source = made.table["source"].values.astype(object)
    lights = (30_000.0, 30_000.0, 3_000.0, 3_000.0)
    for k, (place, light) in enumerate(zip(made.places("flat"), lights, strict=True)):
        signal = light * truth.flat
        pixels = truth.bias + signal + np.sqrt(signal / 5.2 + 4.0) * random.normal(size=signal.shape)
        source[place] = simulated.in_memory(f"unequal {k}", pixels.astype(np.float32))
    table = made.table.assign(source=("frame", np.array(source.tolist())))
    flat = simulated.of_kind(done(flats(*inputs_of(table, made.links))), "flat")
    off = flat.image.values - truth.flat
    assert simulated.chi2(flat.image.values, truth.flat, flat.variance.values) == pytest.approx(1.0, abs=0.03)
    assert np.std(off / np.sqrt(truth.flat)) == pytest.approx(1 / np.sqrt(5.2 * sum(lights)), rel=0.02)


def test_noise_of_the_bias_is_carried() -> None:
    """Flats of little light, less a bias of two frames: its noise is in all of them, and in the mean."""
    session = simulated.session_of(camera={"gain": 1.0, "read_noise": 30.0, "saturation": 2000.0})
    made = simulated.made(session)
    links = made.without(*made.places("bias")[2:])
    table, links, stacked, known = inputs_of(made.table, links)
    agrees(made, done(flats(table, links, stacked, known)), abs=0.03)
    silent = stacked.assign(variance=stacked.variance * 0)
    flat, truth = simulated.of_kind(done(flats(table, links, silent, known)), "flat"), made.truth("flat").flat
    assert simulated.chi2(flat.image.values, truth, flat.variance.values) > 1.2


def test_stars_in_sky_flats_go(plain: Any, inputs: Inputs, stacked: xr.Dataset) -> None:
    table, links, made, _ = inputs
    random = np.random.default_rng(1)
    clean, truth = simulated.of_kind(stacked, "flat").image.values, plain.truth("flat").flat
    hit = np.zeros((300, 340), bool)
    source = table["source"].values.astype(object)
    for k, place in enumerate(plain.places("flat")):
        pixels = simulated.open_frame(table, place).read(slice(0, 300), slice(0, 340)).copy()
        y, x = random.integers(0, 300, 40), random.integers(0, 340, 40)
        pixels[y, x] += 4000
        hit[y, x] = True
        source[place] = simulated.in_memory(f"sky flat {k}", pixels)
    starry = table.assign(source=("frame", np.array(source.tolist())))
    flat = simulated.of_kind(done(flats(starry, links, made, done(levels(starry, links, made)))), "flat")
    assert (flat.rejected.values[hit] >= 1).mean() > 0.99
    assert np.std((flat.image.values - truth)[hit]) < 1.2 * np.std((clean - truth)[hit])


# --- odd flats, and masters that were given ---


@pytest.mark.parametrize(("fault", "value"), [("broken", 0.0), ("clip", 60_000.0), ("scale", 1e-4)])
def test_flats_that_are_no_good_are_left_out(plain: Any, fault: str, value: float) -> None:
    place = plain.places("flat")[2]
    table = plain.spoilt(place, fault, value)
    found = done(flats(*inputs_of(table, plain.links)))
    without = done(flats(*inputs_of(plain.table, plain.without(place))))
    np.testing.assert_array_equal(found["count"], without["count"])
    np.testing.assert_array_equal(found.image, without.image)


def test_no_flat_left_is_no_data(plain: Any, inputs: Inputs) -> None:
    table, links, made, known = inputs
    bad = known.assign(status=("frame", np.full(known.sizes["frame"], 3, np.uint8)))
    assert np.isnan(done(flats(table, links, made, bad)).image).all()


@pytest.mark.parametrize("scale", [1.0, 1 / 65535, 26000.0])
def test_a_given_master_flat_may_have_any_level(plain: Any, scale: float) -> None:
    truth = plain.truth("flat").flat
    first, *rest = plain.places("flat")
    source = plain.table["source"].values.astype(object)
    source[first] = simulated.in_memory(f"given {scale}", (truth * scale).astype(np.float32))
    table = plain.table.assign(source=("frame", np.array(source.tolist())))
    links = plain.without(*rest)
    given = links["master"].values.copy()
    given[links["member"].values[first]] = True
    flat = simulated.of_kind(done(flats(*inputs_of(table, links.assign(master=("group", given))))), "flat")
    np.testing.assert_allclose(flat.image, truth, rtol=1e-4)
    assert (flat.variance == 0).all()
    assert (flat["count"] == 1).all()


# --- how the work is cut ---


def test_is_lazy_and_strips_do_not_show(plain: Any, inputs: Inputs, stacked: xr.Dataset) -> None:
    table, links, made, known = inputs
    simulated.READS.clear()
    lazy_masters = masters(table, links)
    lazy = flats(table, links, lazy_masters, levels(table, links, lazy_masters))
    assert not simulated.READS
    assert lazy.image.chunks == ((1,), (256, 44), (340,))
    xr.testing.assert_identical(done(lazy), stacked)
    part = flats(table, links, made, known).image[0, 256:].compute(scheduler="synchronous")
    np.testing.assert_array_equal(part, stacked.image[0, 256:])
    cost = get_op("flats").cost
    assert cost is not None
    stated = cost(table, links, made, known)
    assert stated.work.shape == (1, 2)
    assert stated.work.sum() == pytest.approx(10 * 300 * 340 / 1e6)
    changed = flats(table, links, made, known.assign(level=known.level * 1.0), low=3.0)
    assert changed.image.data.name != flats(table, links, made, known).image.data.name


def forget() -> None:
    flat_noise.cache_clear()
    references._sample.cache_clear()


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A few rows stand for a frame, as they do for large ones."""
    monkeypatch.setattr(members, "SAMPLE_PIXELS", 2**14)
    forget()
    yield
    forget()


@pytest.mark.usefixtures("small_sample")
def test_rows_at_a_time_do_not_show(inputs: Inputs) -> None:
    whole = done(flats(*inputs))
    flat_noise.cache_clear()
    xr.testing.assert_identical(done(flats(*inputs, task_memory=10.6e6)), whole)


def test_given_arrays_of_another_kind(plain: Any, inputs: Inputs, stacked: xr.Dataset) -> None:
    """Results that lie in memory and results that are dask arrays are the same to it."""
    table, links, made, known = inputs
    chunked = made.chunk({"master": 1, "y": 256}), known.chunk({"frame": 1})
    xr.testing.assert_identical(done(flats(table, links, *chunked)), stacked)


def test_two_bands_have_flats_of_their_own() -> None:
    made = simulated.made(replace(simulated.session_of(calibration_frames=4), bands=("R", "G")))
    inputs = inputs_of(made.table, made.links)
    found = done(flats(*inputs))
    assert found.sizes["master"] == 2
    for place, index in enumerate(found["group"].values):
        first = int(np.flatnonzero(made.links["member"].values == index)[0])
        truth = made.session.truth_of(first).flat
        flat = found.isel(master=place)
        assert simulated.chi2(flat.image.values, truth, flat.variance.values) == pytest.approx(1.0, abs=0.05)
