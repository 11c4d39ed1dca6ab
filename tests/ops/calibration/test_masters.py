"""Masters: equal to the truth within what they say, whatever is wrong with a frame, however the work is cut."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from skyloom.ops.calibration import members
from skyloom.ops.calibration.masters import KINDS, masters
from skyloom.ops.calibration.members import SATURATED, UNLIKE, UNREADABLE, check_group, groups_of
from skyloom.ops.calibration.strips import STRIP, rows_at_a_time
from skyloom.ops.errors import CapacityError, DataError
from skyloom.ops.registry import get_op

_path = Path(__file__).with_name("simulated.py")
_spec = importlib.util.spec_from_file_location("skyloom_simulated_masters", _path)
assert _spec is not None
assert _spec.loader is not None
simulated: Any = sys.modules.get(_spec.name) or importlib.util.module_from_spec(_spec)
if _spec.name not in sys.modules:
    sys.modules[_spec.name] = simulated
    _spec.loader.exec_module(simulated)


@pytest.fixture(scope="module")
def plain() -> Any:
    return simulated.made(simulated.session_of(flat_darks=True))


@pytest.fixture(scope="module")
def stacked(plain: Any) -> xr.Dataset:
    return done(masters(plain.table, plain.links))


def done(dataset: xr.Dataset) -> xr.Dataset:
    return dataset.compute(scheduler="synchronous")


# --- truth ---


@pytest.mark.parametrize("kind", KINDS)
def test_masters_equal_truth_within_their_variance(plain: Any, stacked: xr.Dataset, kind: str) -> None:
    master, truth = simulated.of_kind(stacked, kind), plain.truth(kind)
    # 102 000 pixels: ±0.0044 by chance.
    assert simulated.chi2(master.image.values, truth.counts, master.variance.values) == pytest.approx(
        1.0, abs=0.02
    )
    noise = np.sqrt(np.nanmedian(master.variance * master["count"]))
    camera = plain.session.camera
    assert noise == pytest.approx(
        np.sqrt(np.median(truth.counts - truth.bias) / camera.gain + 100 / camera.gain**2 + 1 / 12), rel=0.02
    )
    # Rejection shifts the mean by less than 1 % of a frame's noise (by chance: 0.1 %).
    off = (master.image.values - truth.counts)[truth.hot == 0]
    assert abs(off.mean()) < 0.01 * noise
    assert master.rejected.values.mean() < 0.01


def test_hot_pixels_stay_and_cosmic_rays_go() -> None:
    made = simulated.made(simulated.session_of(cosmic_rays=400.0, camera={"hot_fraction": 0.01}))
    dark, truth = simulated.of_kind(done(masters(made.table, made.links)), "dark"), made.truth("dark")
    frames = np.stack(
        [simulated.open_frame(made.table, i).read(slice(0, 300), slice(0, 340)) for i in made.places("dark")]
    )
    off = frames - truth.counts
    hits = off > 8 * np.sqrt(truth.variance) * truth.flat
    assert hits.sum() > 500
    once = (hits.sum(axis=0) == 1) & np.isfinite(dark.image.values)
    plain_mean = frames.mean(axis=0)
    assert np.mean((plain_mean - truth.counts)[once]) > 5
    assert abs(np.mean((dark.image.values - truth.counts)[once])) < 0.2
    assert (dark.rejected.values[once] >= 1).mean() > 0.995
    hot = (truth.hot > 50) & (hits.sum(axis=0) == 0) & np.isfinite(dark.image.values)
    assert hot.sum() > 500
    assert simulated.chi2(dark.image.values[hot], truth.counts[hot], dark.variance.values[hot]) == pytest.approx(
        1.0, abs=0.2
    )
    assert dark.rejected.values[hot].mean() < 0.02


def test_drift_of_the_bias_is_no_noise_of_pixels() -> None:
    """Levels that wander between frames shift the mean of all, and are neither outliers nor noise."""
    made = simulated.made(simulated.session_of(camera={"drift": 12.0}))
    bias, truth = simulated.of_kind(done(masters(made.table, made.links)), "bias"), made.truth("bias")
    off = bias.image.values - truth.counts
    assert np.mean((off - off.mean()) ** 2 / bias.variance.values) == pytest.approx(1.0, abs=0.02)
    frames = [simulated.open_frame(made.table, i).read(slice(0, 300), slice(0, 340)) for i in made.places("bias")]
    assert np.mean(bias.image.values) == pytest.approx(np.mean(frames), abs=0.01)
    assert bias.rejected.values.mean() < 1e-3


@pytest.mark.parametrize("frames", [1, 2, 3, 5])
def test_few_frames(frames: int) -> None:
    made = simulated.made(simulated.session_of(calibration_frames=frames, cosmic_rays=0.0))
    stacked = done(masters(made.table, made.links))
    for kind in ("bias", "dark"):
        master, truth = simulated.of_kind(stacked, kind), made.truth(kind)
        usual = truth.hot == 0
        chi2 = simulated.chi2(master.image.values[usual], truth.counts[usual], master.variance.values[usual])
        assert chi2 == pytest.approx(1.0, abs=0.03)


def test_equals_plain_numpy_without_rejection(plain: Any) -> None:
    bias = simulated.of_kind(done(masters(plain.table, plain.links, rejection="none")), "bias")
    frames = np.stack(
        [simulated.open_frame(plain.table, i).read(slice(0, 300), slice(0, 340)) for i in plain.places("bias")]
    )
    np.testing.assert_allclose(bias.image, frames.mean(axis=0), atol=2e-3)
    # Shrunk towards the model, variances keep their mean.
    own = frames.var(axis=0, ddof=1) / len(frames)
    assert bias.variance.values.mean() == pytest.approx(own.mean(), rel=0.01)
    assert bias.variance.values.std() < 0.3 * own.std()
    assert (bias["count"] == len(frames)).all()
    assert (bias.rejected == 0).all()


# --- one bad frame never stops a run ---


def checked(made: Any, table: xr.Dataset, kind: str) -> members.Checked:
    (group,) = groups_of(table, made.links, (kind,))
    return check_group(group)


@pytest.mark.parametrize(
    ("fault", "value", "status", "word"),
    [
        ("broken", 0.0, UNREADABLE, "torn"),
        ("size", 0.0, UNREADABLE, "338"),
        ("add", 40.0, UNLIKE, "above"),
        ("add", -40.0, UNLIKE, "below"),
        ("add", 70_000.0, SATURATED, "saturated"),
    ],
)
def test_a_bad_frame_is_left_out_with_its_reason(
    plain: Any, stacked: xr.Dataset, fault: str, value: float, status: int, word: str
) -> None:
    place = plain.places("dark")[3]
    table = plain.spoilt(place, fault, value)
    found = checked(plain, table, "dark")
    assert [s != 0 for s in found.status] == [k == 3 for k in range(10)]
    assert found.status[3] == status
    assert word in found.reason[3]
    dark = simulated.of_kind(done(masters(table, plain.links)), "dark")
    without = simulated.of_kind(done(masters(plain.table, plain.without(place))), "dark")
    np.testing.assert_array_equal(dark.image, without.image)
    np.testing.assert_array_equal(dark["count"], without["count"])
    assert dark["count"].max() == 9


@pytest.fixture
def small_sample(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A few rows stand for a frame, as they do for large ones."""
    monkeypatch.setattr(members, "SAMPLE_PIXELS", 2**14)
    members.check_group.cache_clear()
    yield
    members.check_group.cache_clear()


@pytest.mark.usefixtures("small_sample")
def test_a_torn_frame_is_missing_where_it_is_torn() -> None:
    made = simulated.made(simulated.session_of(camera={"height": 2 * STRIP + 20}, cosmic_rays=0.0))
    place = made.places("bias")[0]
    # Rows of the sample are read; those of the last strip are not.
    table = made.spoilt(place, "torn", 2 * STRIP + 10)
    bias = simulated.of_kind(done(masters(table, made.links)), "bias")
    assert (bias["count"][: 2 * STRIP] + bias.rejected[: 2 * STRIP] == 10).all()
    assert (bias["count"][2 * STRIP :] + bias.rejected[2 * STRIP :] == 9).all()


def test_of_two_darks_the_one_that_saw_light_goes() -> None:
    made = simulated.made(simulated.session_of(calibration_frames=2))
    for k in (0, 1):
        found = checked(made, made.spoilt(made.places("dark")[k], "add", 60.0), "dark")
        assert found.status[k] == UNLIKE
        assert found.status[1 - k] == 0


def test_trouble_that_may_pass_is_not_held_against_a_frame(plain: Any) -> None:
    table = plain.spoilt(plain.places("bias")[0], "disk")
    with pytest.raises(OSError, match="disk is gone"):
        done(masters(table, plain.links))


def test_no_frame_left_is_no_data(plain: Any) -> None:
    table = plain.table
    for place in plain.places("bias"):
        table = simulated.Made(plain.session, table, plain.links).spoilt(place, "broken")
    bias = simulated.of_kind(done(masters(table, plain.links)), "bias")
    assert np.isnan(bias.image).all()
    assert (bias["count"] == 0).all()


def test_a_given_master_is_taken_as_it_is(plain: Any) -> None:
    place = plain.places("dark")[0]
    index = int(plain.links["member"].values[place])
    links = plain.without(*plain.places("dark")[1:])
    given = links["master"].values.copy()
    given[index] = True
    dark = simulated.of_kind(done(masters(plain.table, links.assign(master=("group", given)))), "dark")
    np.testing.assert_array_equal(
        dark.image, simulated.open_frame(plain.table, place).read(slice(0, 300), slice(0, 340))
    )
    assert (dark.variance == 0).all()
    assert (dark["count"] == 1).all()


def test_saturated_samples_are_no_data() -> None:
    made = simulated.made(simulated.session_of(camera={"saturation": 2000.0, "hot_fraction": 0.01}))
    dark, truth = simulated.of_kind(done(masters(made.table, made.links)), "dark"), made.truth("dark")
    assert np.isnan(dark.image.values[truth.counts > 2200]).all()
    assert np.isfinite(dark.image.values[truth.counts < 1800]).all()


# --- how the work is cut ---


@pytest.mark.usefixtures("small_sample")
def test_strips_do_not_show(plain: Any) -> None:
    whole = done(masters(plain.table, plain.links))
    xr.testing.assert_identical(done(masters(plain.table, plain.links, task_memory=10.6e6)), whole)


def test_units_of_different_size_are_padded() -> None:
    small = simulated.made(simulated.session_of(camera={"height": 120, "width": 90}))
    large = simulated.made(simulated.session_of(seed=2, camera={"height": 300, "width": 340}))
    table = xr.concat([small.table, large.table], "frame", combine_attrs="drop")
    both = simulated.link(table, on_broken="without")
    both = both.assign(used=("group", np.ones(both.sizes["group"], bool)))
    made = masters(table, both)
    assert dict(made.sizes) == {"master": 4, "y": 300, "x": 340}
    assert made.image.chunks == ((1,) * 4, (256, 44), (340,))
    stacked = done(made)
    alone = done(masters(small.table, small.links))
    for k in range(4):
        if made["height"].values[k] == 120:
            master = stacked.isel(master=k)
            assert np.isnan(master.image[120:]).all()
            assert np.isnan(master.image[:, 90:]).all()
            assert (master["count"][120:] == 0).all()
            if made["kind"].values[k] == "bias":
                np.testing.assert_array_equal(master.image[:120, :90], simulated.of_kind(alone, "bias").image)


def test_is_lazy(plain: Any) -> None:
    simulated.READS.clear()
    members.check_group.cache_clear()
    made = masters(plain.table, plain.links)
    get_op("masters").cost(plain.table, plain.links)  # type: ignore[misc]
    assert not simulated.READS
    place = made["kind"].values.tolist().index("bias")
    made.image[place, STRIP:].compute(scheduler="synchronous")
    read = {frame for frame, _ in simulated.READS}
    assert read == set(plain.places("bias"))
    again = masters(plain.table, plain.links)
    assert again.image.data.name == made.image.data.name
    other = masters(plain.table, plain.links, high=5.0)
    assert other.image.data.name != made.image.data.name


def test_threads_give_the_same(plain: Any, stacked: xr.Dataset) -> None:
    with dask.config.set(scheduler="threads", num_workers=4):
        xr.testing.assert_identical(masters(plain.table, plain.links).compute(), stacked)


def test_nothing_to_do(plain: Any) -> None:
    links = plain.links.assign(used=("group", np.zeros(plain.links.sizes["group"], bool)))
    made = masters(plain.table, links)
    assert made.sizes["master"] == 0
    assert made.image.dims == ("master", "y", "x")


@pytest.mark.usefixtures("small_sample")
def test_cost(plain: Any) -> None:
    cost = get_op("masters").cost
    assert cost is not None
    stated = cost(plain.table, plain.links)
    assert stated.work.shape == (3, 2)
    assert stated.work.sum() == pytest.approx(30 * 300 * 340 / 1e6)
    assert stated.read.sum() == 30 * 300 * 340 * 4
    assert (stated.memory > 10 * 4 * 44 * 340).all()
    assert stated.memory.max() > 10.6e6
    assert cost(plain.table, plain.links, task_memory=10.6e6).memory.max() <= 10.6e6


def test_memory_that_does_not_do() -> None:
    step, peak = rows_at_a_time(50, 256, (4096, 4096), 1e9)
    assert step == 256
    step, smaller = rows_at_a_time(50, 256, (4096, 4096), 0.9 * peak)
    assert 8 <= step < 256
    assert step % 2 == 0
    assert smaller <= 0.9 * peak
    with pytest.raises(CapacityError, match="raise the memory limit"):
        rows_at_a_time(50, 256, (4096, 4096), 1e7)


def test_links_of_another_session(plain: Any) -> None:
    with pytest.raises(DataError, match="not of the same frames"):
        masters(plain.table.isel(frame=slice(0, 5)), plain.links)
