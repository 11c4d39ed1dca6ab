"""Frames that keep their solution, and new ones solved against the sky these make."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from skyloom.ops.errors import ConfigError
from skyloom.ops.normalization.kept import FRAME, _robust_mean

_path = Path(__file__).with_name("scenes.py")
_spec = importlib.util.spec_from_file_location("kept_scenes", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules["kept_scenes"] = _module
_spec.loader.exec_module(_module)
draw_scene: Callable[..., Any] = _module.draw_scene
run: Callable[..., xr.Dataset] = _module.run
Scene = Any


def part(scene: Scene, frames: list[int]) -> Scene:
    """Some frames of a scene."""
    return replace(
        scene,
        session=scene.session.isel(frame=frames),
        measurement=scene.measurement.isel(frame=frames),
        registration=scene.registration.isel(frame=frames),
        scale=scene.scale[frames],
        surfaces=scene.surfaces[frames],
        cubic=scene.cubic[frames],
    )


def tonight(scene: Scene, earlier: xr.Dataset, solution: str = "keep", **parameters: Any) -> xr.Dataset:
    return run(scene, earlier=earlier, solution=f"{solution} of it", **parameters)


def as_before(now: xr.Dataset, earlier: xr.Dataset, names: tuple[str, ...] = FRAME) -> None:
    """Bit for bit."""
    both = [f for f in earlier["frame"].values if f in now["frame"].values]
    for name in names:
        one, other = (d[name].sel(frame=both).values for d in (now, earlier))
        if one.dtype.kind == "U":
            assert one.tolist() == other.tolist(), name
        else:
            assert one.tobytes() == other.tobytes(), name


OLD = [0, 1, 2, 4, 5, 6, 8, 9, 10]
"""Three visits of three panels of four; the first panels' fourth visit and the last panel are new."""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene(panels=(2, 2), visits=4, size=768, stars=1500, seed=3)


@pytest.fixture(scope="module")
def first(scene: Scene) -> xr.Dataset:
    return run(part(scene, OLD), degree=2)


@pytest.fixture(scope="module")
def second(scene: Scene, first: xr.Dataset) -> xr.Dataset:
    return tonight(scene, first, degree=2)


def test_old_frames_stay_bit_for_bit_and_new_ones_fit(scene: Scene, first: xr.Dataset, second: xr.Dataset) -> None:
    as_before(second, first)
    np.testing.assert_array_equal(np.flatnonzero(second["kept"].values), OLD)
    assert second["use"].values.all()
    assert (second["island"].values == 0).all()
    for name in ("prior_sigma", "degree", "noise_scale"):
        np.testing.assert_array_equal(second[name].values, first[name].values)
    new = ~second["kept"].values
    # Superpixels of 16 px have noise 0.9; those of the mean of others less.
    assert second["residual_after"].values[new].max() < 1.3 * first["residual_after"].values.max()


def test_the_sky_is_as_right_as_when_all_are_solved_together(scene: Scene, second: xr.Dataset) -> None:
    seam, error = scene.errors(second)
    seam_all, error_all = scene.errors(run(scene, degree=2))
    assert seam < 1.5 * seam_all + 0.1
    # After a quadratic: what no convention explains. Nine frames know long waves less well than sixteen.
    assert error[2] < 2.0 * error_all[2] + 0.2
    new = ~second["kept"].values
    true = scene.scale / second["mean_scale"].values
    assert np.std(np.log(true[new])) < 0.005
    assert np.abs(np.log(true[new])).mean() == pytest.approx(np.abs(np.log(true[~new])).mean(), abs=0.004)
    offset = np.log(true[new]).mean() - np.log(true[~new]).mean()
    assert abs(offset) < 0.004, "new scales are in the units of the old"


def test_a_frame_less_changes_nothing_of_the_others(scene: Scene, second: xr.Dataset) -> None:
    frames = [i for i in range(16) if i != 5]
    third = tonight(part(scene, frames), second, degree=2)
    as_before(third, second)
    assert third["kept"].values.all()
    assert np.isnan(third["solution_change"].values).all()
    assert np.isfinite(third["sky_residual"].values).any()


def test_what_is_not_as_it_was_is_solved_anew(scene: Scene, second: xr.Dataset) -> None:
    moved = part(scene, list(range(16)))
    shift = moved.registration["shift"].values.copy()
    shift[3] = 0.01
    moved.registration = moved.registration.assign(shift=(("frame", "axis"), shift))
    third = tonight(moved, second, degree=2)
    assert np.flatnonzero(~third["kept"].values).tolist() == [3]


def test_a_sky_that_new_frames_contradict_is_told_or_left(scene: Scene) -> None:
    """A panel kept with a bump that is none: new frames cannot follow, and agree on it."""
    kept = run(part(scene, [0, 1, 4, 5, 8, 9]), degree=2)
    wrong = kept.copy(deep=True)
    offset = wrong["offset"].values
    offset[:2] += 30.0 * np.exp(-0.5 * ((np.arange(11) - 5) / 1.2) ** 2)[:, None]
    wrong["offset"] = (kept["offset"].dims, offset)
    good, bad = (tonight(scene, k, degree=2) for k in (kept, wrong))
    assert float(good["solution_change"].values[0]) < 0.125
    assert float(bad["solution_change"].values[0]) > 0.3
    as_before(bad, wrong)
    left = tonight(scene, wrong, "auto", degree=2)
    assert not left["kept"].values.any()
    together = run(scene, degree=2)
    for name in ("scale", "offset", "confidence"):
        np.testing.assert_array_equal(left[name].values, together[name].values)
    assert tonight(scene, kept, "auto", degree=2)["kept"].values.sum() == 6


def test_a_band_that_is_new_is_solved_as_ever(scene: Scene, first: xr.Dataset) -> None:
    other = part(scene, list(range(16)))
    band = np.array(["L" if i in OLD else "R" for i in range(16)])
    other.session = other.session.assign(band=("frame", band))
    solved = tonight(other, first, degree=2)
    as_before(solved, first)
    alone = run(part(other, [i for i in range(16) if i not in OLD]), degree=2)
    np.testing.assert_array_equal(solved["scale"].values[band == "R"], alone["scale"].values)
    assert set(solved["island"].values[band == "L"]).isdisjoint(solved["island"].values[band == "R"])


def test_frames_solved_one_by_one_keep_nothing(scene: Scene, first: xr.Dataset) -> None:
    with pytest.raises(ConfigError, match="with mode linear each frame is solved by itself"):
        tonight(scene, first, mode="linear")


def test_robust_mean_against_a_loop() -> None:
    rng = np.random.default_rng(1)
    index = rng.integers(0, 40, 400)
    index[:40] = np.arange(40)
    value, weight = rng.normal(5, 1, 400), np.ones(400)
    value[::50] += 500
    mean, total = _robust_mean(index, value, weight, clip=5.0)
    for k in range(40):
        mine = value[index == k]
        good = mine[mine < 100]
        if len(mine) > 3:
            assert mean[k] == pytest.approx(good.mean(), abs=0.3)
            assert total[k] <= len(mine)
