"""Blended panels against Gaussians done by hand, and the tile work against `integrate` and other tiles."""

from __future__ import annotations

import tracemalloc

import dask
import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from skyloom.ops.errors import CapacityError, ConfigError
from skyloom.ops.integration.blend import blend as blend_op
from skyloom.ops.integration.blend import frame_panels
from skyloom.ops.integration.blend_tiles import FINE_LEVELS, TRUNCATE, blend
from skyloom.ops.registry import get_op

from .test_drizzle import Frames, frames  # noqa: F401 - a fixture

WIDTH, LEFT, RIGHT, LEVELS = 600, 350, 250, 4


def two_panels(
    offset: float, *, noise: float = 0.0, rows: int = 8
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Mean, panels, weights: a left panel up to `LEFT`, a right one from `RIGHT` on, `offset` above the left."""
    rng = np.random.default_rng(3)
    x = np.arange(WIDTH)
    sky = 100.0 + 0.02 * x
    weight = np.zeros((2, rows, WIDTH), dtype=np.float32)
    weight[0, :, :LEFT] = np.clip((LEFT - x[:LEFT]) / 20.0, 0.01, 1.0)
    weight[1, :, RIGHT:] = np.clip((x[RIGHT:] - RIGHT + 1) / 20.0, 0.01, 1.0)
    made = sky + np.array([0.0, offset])[:, None, None] + rng.normal(0, noise, (2, rows, WIDTH))
    panels = np.where(weight > 0, made, np.nan).astype(np.float32)
    mean = (np.nansum(weight * panels, axis=0) / weight.sum(axis=0)).astype(np.float32)
    return mean, panels, weight


def gaussian(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Along one axis, cut off and edges repeated as stated."""
    reach = int(TRUNCATE * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.convolve(np.pad(values, reach, mode="edge"), kernel / kernel.sum(), mode="valid")


def by_hand(
    mean: NDArray[np.float64], panels: NDArray[np.float64], weight: NDArray[np.float64], levels: int
) -> NDArray[np.float64]:
    """The stated sums of a row, every band of every panel for itself."""
    there = weight > 0
    share = weight / weight.sum(axis=0)
    wide = [gaussian(w, 2.0**levels) for w in weight]
    where_most = [(np.argmax(wide, axis=0) == p).astype(float) for p in range(len(panels))]

    def smoothed(p: int, level: int) -> NDArray[np.float64]:
        difference = np.where(there[p], panels[p] - mean, 0.0)
        if level == 0:
            return difference
        return gaussian(difference, 2.0**level) / np.maximum(gaussian(there[p].astype(float), 2.0**level), 1e-30)

    out = mean.copy()
    for level in range(levels + 1):
        size = 2.0 ** min(level + 1, levels)
        coarse = level + 1 > FINE_LEVELS or level == levels
        m = np.stack([(gaussian(w, size) if coarse else 1.0) * s for w, s in zip(where_most, share, strict=True)])
        m /= m.sum(axis=0)
        for p in range(len(panels)):
            band = smoothed(p, level) - (smoothed(p, level + 1) if level < levels else 0.0)
            out += np.where(there[p], m[p] * band, 0.0)
    return out


def test_bands_are_what_they_are_by_hand() -> None:
    mean, panels, weight = two_panels(6.0)
    got = blend(mean, panels, weight, levels=LEVELS)
    row = [np.asarray(a[..., 0, :], dtype=np.float64) for a in (mean, panels, weight)]
    expected = by_hand(row[0], row[1], row[2], LEVELS)
    both = slice(RIGHT, LEFT)
    np.testing.assert_allclose(got[4, both], expected[both], atol=0.002 * 6)  # blocks of the wide ones


def test_a_step_is_spread_and_goes_all_the_way() -> None:
    mean, panels, weight = two_panels(6.0)
    sky = 100.0 + 0.02 * np.arange(WIDTH)
    before, after = mean[4] - sky, blend(mean, panels, weight, levels=LEVELS)[4] - sky
    assert np.abs(after[:RIGHT]).max() < 1e-3
    assert np.abs(after[LEFT:] - 6.0).max() < 1e-3
    # The steepest place of a Gaussian step of 16 px, a little steeper for the share; the mean falls within 20 px.
    assert np.abs(np.diff(before)).max() > 0.25
    assert np.abs(np.diff(after)).max() < 1.3 * 6.0 / (2.0**LEVELS * np.sqrt(2 * np.pi))


def test_panels_that_agree_stay_as_they_are() -> None:
    mean, panels, weight = two_panels(0.0)
    np.testing.assert_allclose(blend(mean, panels, weight, levels=LEVELS), mean, atol=1e-4)


def test_noise_stays_that_of_the_mean() -> None:
    mean, panels, weight = two_panels(0.0, noise=5.0, rows=400)
    inside = np.s_[:, RIGHT + 25 : LEFT - 25]
    assert mean[inside].std() == pytest.approx(5.0 / np.sqrt(2), rel=0.03)
    assert blend(mean, panels, weight, levels=LEVELS)[inside].std() == pytest.approx(mean[inside].std(), rel=0.01)


def test_no_data_stays_none() -> None:
    mean, panels, weight = two_panels(6.0)
    for a in (mean, panels[0], panels[1]):
        a[2, 100:310] = np.nan
    weight[:, 2, 100:310] = 0
    got = blend(mean, panels, weight, levels=LEVELS)
    assert np.array_equal(np.isnan(got), np.isnan(mean))


def panelled(frames: Frames, *, width: int = 256, away: float = 53.0, count: int = 6) -> None:  # noqa: F811
    """Two panels of frames side by side which disagree by a constant that normalization left."""
    frames.canvas, frames.shape = (128, width), (130, 150)
    rng = np.random.default_rng(2)
    for i in range(count):
        side = -away if i % 2 else away
        dx, dy = rng.uniform(-3, 3, 2)
        frames.add(dx=side + dx, dy=dy, rotation=float(rng.uniform(-2, 2)), sky=300.0 + 20.0 * (i % 2), noise=1.0)


def run(frames: Frames, **parameters: object) -> xr.Dataset:  # noqa: F811
    with dask.config.set(scheduler="synchronous"):
        return blend_op(*frames.inputs, **parameters).compute()  # type: ignore[arg-type]


def test_frames_that_look_at_one_place_are_a_panel(frames: Frames) -> None:  # noqa: F811
    panelled(frames)
    panel = frame_panels(frames.session, frames.grid, np.arange(6))
    assert [panel[i] for i in range(6)] == [0, 1, 0, 1, 0, 1]


def test_panels_blend_and_all_else_is_as_integrate_has_it(frames: Frames) -> None:  # noqa: F811
    panelled(frames)
    plain, got = frames.integrated(tile=64), run(frames, tile=64, levels=3)
    for name in ("weight", "variance", "count", "rejected_low", "rejected_high"):
        np.testing.assert_array_equal(got[name], plain[name])
    a, b = (np.nanmedian(d["image"].values[0][20:-20], axis=0) for d in (plain, got))
    assert np.abs(np.diff(b)).max() < 0.6 * np.abs(np.diff(a)).max()
    assert b[:40] == pytest.approx(a[:40], abs=0.3)
    assert b[-40:] == pytest.approx(a[-40:], abs=0.3)
    assert got.attrs["blended"] == 1


def test_tiles_and_strips_do_not_matter(frames: Frames) -> None:  # noqa: F811
    panelled(frames, count=30)
    whole = run(frames, tile=256, levels=3)
    op = get_op("blend")
    assert op.cost is not None
    most = float(op.cost(*frames.inputs, **op.check({"tile": 256, "levels": 3})).memory.max())
    for other in ({"tile": 64}, {"tile": 96}, {"tile": 256, "task_memory": 0.8 * most}):
        got = run(frames, levels=3, **other)
        for name in got.data_vars:
            np.testing.assert_allclose(got[name], whole[name], rtol=2e-6, err_msg=f"{name} {other}")


@pytest.mark.parametrize(("count", "part"), [(8, 1.0), (40, 1.0), (40, 0.7)])
def test_memory_of_a_tile_is_what_the_cost_says(frames: Frames, count: int, part: float) -> None:  # noqa: F811
    frames.shape, frames.canvas = (480, 480), (416, 416)
    for i in range(count):
        frames.add(dx=-100.0 if i % 2 else 100.0)
    op = get_op("blend")
    assert op.cost is not None
    common = {"tile": 416, "levels": 4}
    whole = float(op.cost(*frames.inputs, **op.check({**common, "task_memory": 2.0**30})).memory.max())
    arguments = {**common, "task_memory": part * whole}
    predicted = float(op.cost(*frames.inputs, **op.check(arguments)).memory.max())
    lazy = blend_op(*frames.inputs, **arguments)  # type: ignore[arg-type]
    with dask.config.set(scheduler="synchronous"):
        lazy.image.compute()  # compiled code and caches
        tracemalloc.start()
        lazy.compute()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 0.7 * predicted < peak < 1.1 * predicted


def test_what_cannot_be_is_told(frames: Frames) -> None:  # noqa: F811
    panelled(frames)
    with pytest.raises(ConfigError, match="tile = 64 should be at least 449 with levels = 6"):
        blend_op(*frames.inputs, tile=64)
    with pytest.raises(CapacityError, match="raise the memory limit"):
        blend_op(*frames.inputs, tile=256, levels=3, task_memory=1e6)


def test_keys_follow_frames_and_panels(frames: Frames) -> None:  # noqa: F811
    panelled(frames, width=512, away=180.0)
    op = get_op("blend")
    assert op.keys is not None

    def keys() -> NDArray[np.str_]:
        session, registration, normalization = frames.inputs
        assert op.keys is not None
        arguments = op.check({"tile": 64, "levels": 3})
        return np.asarray(op.keys(session, registration.compute(), normalization.compute(), **arguments))

    before = keys()
    assert np.array_equal(before, keys())
    frames.offsets[1] += 1.0
    changed = keys() != before
    assert changed[0, :, :3].all()
    assert not changed[0, :, 6:].any()
