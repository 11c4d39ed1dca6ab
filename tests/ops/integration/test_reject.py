"""Rejection: a plain twin of the rules, pure noise, injected outliers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.integration import reject
from skyloom.ops.integration.reject import HALO, SPREAD_STEP, Combined, Rejection, combine
from skyloom.ops.integration.resample import taper_weight

FULL = 255


def opaque(stack: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.full(stack.shape, FULL, dtype=np.uint8)


def averaged(stack: NDArray[np.float32], noise: float = 1.0, **rules: object) -> Combined:
    n = stack.shape[0]
    return combine(
        stack,
        opaque(stack),
        np.full(n, noise),
        np.ones(n),
        rejection=Rejection(**rules),  # type: ignore[arg-type]
    )


def deviation(d: NDArray[np.float64]) -> float:
    return float(np.std(d, ddof=1))


def clipped(values: NDArray[np.float64], rules: Rejection, least: float) -> tuple[float, float]:
    """Centre and scatter by the definition: winsorise to convergence, drop, repeat."""
    kept, scatter = np.sort(values), 0.0
    while True:
        centre = float(np.median(kept))
        if kept.size < 3:
            return centre, max(scatter, least)
        scatter = deviation(kept)
        if rules.method == "winsorized":
            for _ in range(100):
                new = 1.134 * deviation(np.clip(kept, centre - 1.5 * scatter, centre + 1.5 * scatter))
                done = abs(new - scatter) <= 5e-4 * scatter
                scatter = new
                if done:
                    break
        scatter = max(scatter * (1 + 2 / kept.size), least)
        inside = (kept >= centre - rules.low * scatter) & (kept <= centre + rules.high * scatter)
        if inside.all() or inside.sum() < 3:
            return centre, scatter
        kept = kept[inside]


def twin(
    stack: NDArray[np.float32], noise: NDArray[np.float64], rules: Rejection
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """0 kept, 1 rejected above, 2 below, -1 absent, per sample; and pixels too close to a limit to be compared."""
    frames, rows, columns = stack.shape
    data = stack.astype(np.float64)
    there = np.isfinite(data)
    few = max(rules.few, 15) if rules.method == "sigma" else rules.few
    centre, spread = np.full((2, rows, columns), np.nan)
    scale, common = np.zeros((rows, columns)), np.zeros((rows, columns))
    own = np.ones((frames, rows, columns)) * noise[:, None, None]
    close = np.zeros((rows, columns), dtype=bool)
    for y, x in np.ndindex(rows, columns):
        good = there[:, y, x]
        values, n = np.sort(data[good, y, x]), int(good.sum())
        if n == 0:
            continue
        common[y, x] = np.sqrt(np.mean(noise[good] ** 2))
        centre[y, x] = np.median(values) if n != 2 else values[0]
        if n == 1:
            scale[y, x] = np.inf
        elif n < few:
            inner = float(values[-2] - values[1])
            if n <= 3:
                inner = float(values[-1] - values[0])
            spread[y, x] = inner * reject._SPREAD_TO_NOISE[n - 2]
            if n == 2:
                scale[y, x] = np.sqrt(2) * common[y, x]
                own[:, y, x] = 0
        else:
            least = float(rules.floor * common[y, x])
            reach = max((values[-1] - centre[y, x]) / rules.high, (centre[y, x] - values[0]) / rules.low)
            widen, d = 1 + 2 / n, values - centre[y, x]
            one = deviation(d)
            if rules.method == "winsorized":
                one = 1.134 * deviation(np.clip(d, -1.5 * reach / widen, 1.5 * reach / widen))
            one = max(one * widen, least)
            limit = max(deviation(d) * widen, least)
            close[y, x] |= abs(reach - one) < 1e-3 * one or abs(reach - limit) < 1e-3 * one
            if rules.grow is not None and reach <= min(one, limit):
                scale[y, x] = one
            else:
                centre[y, x], scale[y, x] = clipped(values, rules, least)
            own[:, y, x] *= scale[y, x] / common[y, x]
    excuse = np.zeros((rows, columns))
    final_scale = scale.copy()
    for y, x in np.ndindex(rows, columns):
        n = int(there[:, y, x].sum())
        if n < 2:
            continue
        around = centre[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        span = float(np.nanmax(around)) - float(np.nanmin(around))
        chance = 4.0 * 1.2533 * float(common[y, x]) / n**0.5
        excuse[y, x] = rules.tolerance * max(span**2 - chance**2, 0.0) ** 0.5
        if n < few:
            places = [
                spread[j, i]
                for j in (y - SPREAD_STEP, y, y + SPREAD_STEP)
                for i in (x - SPREAD_STEP, x, x + SPREAD_STEP)
                if 0 <= j < rows and 0 <= i < columns and np.isfinite(spread[j, i])
            ]
            final_scale[y, x] = max(float(scale[y, x]), float(np.median(places)))
    width = np.maximum(final_scale, own)
    with np.errstate(invalid="ignore"):
        d = data - centre
        above, below = rules.high * width + excuse, rules.low * width + excuse
        marks = np.where(d > above, 1, np.where(-d > below, 2, 0))
        seeds = (d > 2 * above) | (-d > 2 * below)
        limits = [above, -below, 2 * above, -2 * below]
        if rules.grow is not None:
            grow = rules.grow * width + excuse
            limits += [grow, -grow]
            touched = np.zeros_like(seeds)
            padded = np.pad(seeds, ((0, 0), (1, 1), (1, 1)))
            for j in range(3):
                for i in range(3):
                    touched |= padded[:, j : j + rows, i : i + columns]
            grown = touched & (marks == 0)
            marks = np.where(grown & (d > grow), 1, np.where(grown & (-d > grow), 2, marks))
        for bound in limits:
            close |= (np.abs(d - bound) < 1e-3 * np.where(np.isfinite(width), width, 1)).any(axis=0)
    marks = np.where(there, marks, -1)
    for y, x in np.ndindex(rows, columns):
        if there[:, y, x].any() and not (marks[:, y, x] == 0).any():
            far = np.where(there[:, y, x], np.abs(d[:, y, x]), np.inf)
            level = np.where(far <= far.min() * (1 + 1e-5), data[:, y, x], np.inf)
            marks[np.argmin(level), y, x] = 0
    return marks, close


@st.composite
def stacks(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    n, seed = draw(st.integers(1, 20)), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    level = draw(st.sampled_from([0.0, 1000.0]))
    noise = np.full(n, 1.2347) if draw(st.booleans()) else rng.uniform(0.7, 2.5, n)
    stack = level + rng.normal(0, 1, (n, 15, 17)) * noise[:, None, None]
    kind = draw(st.sampled_from(["noise", "ties", "constant", "gradient"]))
    if kind == "ties":
        stack = np.round(stack)
    if kind == "constant":
        stack[:] = level
    if kind == "gradient":
        stack += 40 * np.exp(-((np.arange(17) - 8.2) ** 2) / 4) * np.exp(-((np.arange(15)[:, None] - 7) ** 2) / 4)
    stack[rng.random(stack.shape) < draw(st.sampled_from([0.0, 0.02, 0.1]))] += 50
    stack[rng.random(stack.shape) < draw(st.sampled_from([0.0, 0.02]))] -= 30
    stack[rng.random(stack.shape) < draw(st.sampled_from([0.0, 0.1, 0.7]))] = np.nan
    return stack.astype(np.float32), noise


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    stacks(), st.sampled_from(["sigma", "winsorized"]), st.sampled_from([None, 2.0]), st.sampled_from([0.0, 3.0])
)
def test_kernels_follow_the_plain_twin(
    drawn: tuple[NDArray[np.float32], NDArray[np.float64]],
    method: reject.Method,
    grow: float | None,
    tolerance: float,
) -> None:
    stack, noise = drawn
    rules = Rejection(method, grow=grow, tolerance=tolerance)
    weight = 1 / noise**2
    codes = np.random.default_rng(0).integers(1, 256, stack.shape).astype(np.uint8)
    got = combine(stack, codes, noise, weight, rejection=rules)
    marks, close = twin(stack, noise, rules)
    # What is close to a limit in one pixel may seed or excuse its neighbours.
    near = np.pad(close, 1)
    rows, columns = close.shape
    exempt = np.logical_or.reduce([near[j : j + rows, i : i + columns] for j in range(3) for i in range(3)])
    sure = ~(close if grow is None else exempt)
    np.testing.assert_array_equal(got.rejected_high[sure], (marks == 1).sum(axis=0)[sure])
    np.testing.assert_array_equal(got.rejected_low[sure], (marks == 2).sum(axis=0)[sure])
    np.testing.assert_array_equal(got.count[sure], (marks == 0).sum(axis=0)[sure])
    w = np.where(marks == 0, taper_weight(codes) * weight[:, None, None], 0.0)
    total = w.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        image = np.where(total > 0, np.nansum(w * np.where(marks == 0, stack, 0), axis=0) / total, np.nan)
        variance = np.where(total > 0, (w**2 * noise[:, None, None] ** 2).sum(axis=0) / total**2, np.nan)
    np.testing.assert_allclose(got.image[sure], image[sure], rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(got.variance[sure], variance[sure], rtol=1e-5)
    np.testing.assert_allclose(got.weight[sure], np.where(total > 0, total, np.nan)[sure], rtol=1e-5)
    present = np.isfinite(stack).sum(axis=0)
    taken = got.count.astype(int) + got.rejected_high + got.rejected_low
    np.testing.assert_array_equal(taken, present)
    assert (got.count[present > 0] >= 1).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(stacks(), st.data())
def test_a_window_with_halo_gives_the_same_pixels(
    drawn: tuple[NDArray[np.float32], NDArray[np.float64]], data: st.DataObject
) -> None:
    stack, noise = drawn
    stack = np.concatenate([stack, stack[:, ::-1] + np.float32(0.25)], axis=1)
    y0, y1 = sorted(data.draw(st.lists(st.integers(0, 30), min_size=2, max_size=2, unique=True)))
    x0, x1 = sorted(data.draw(st.lists(st.integers(0, 17), min_size=2, max_size=2, unique=True)))
    rules = Rejection()
    whole = combine(stack, opaque(stack), noise, 1 / noise**2, rejection=rules)
    top, left = max(y0 - HALO, 0), max(x0 - HALO, 0)
    part = np.ascontiguousarray(stack[:, top : y1 + HALO, left : x1 + HALO])
    inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    got = combine(part, opaque(part), noise, 1 / noise**2, rejection=rules, inner=inner)
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(got, name), values[y0:y1, x0:x1], err_msg=name)


@pytest.mark.parametrize("method", ["sigma", "winsorized"])
@pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 12, 20, 40])
def test_pure_noise_loses_next_to_nothing(method: reject.Method, n: int) -> None:
    stack = np.random.default_rng(n).normal(100, 1, (n, 200, 200)).astype(np.float32)
    got = averaged(stack, method=method)
    lost = (got.rejected_high.sum() + got.rejected_low.sum()) / stack.size
    assert lost < 0.002
    assert got.image.std() * np.sqrt(n) == pytest.approx(1, abs=0.015)
    assert got.image.mean() == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize("n", [4, 8, 16])
def test_a_wrong_noise_estimate_does_no_great_harm(n: int) -> None:
    stack = np.random.default_rng(n).normal(0, 1, (n, 150, 150)).astype(np.float32)
    for noise in (0.5, 2.0):
        got = averaged(stack, noise=noise)
        lost = (got.rejected_high.sum() + got.rejected_low.sum()) / stack.size
        assert lost < 0.012
        assert got.image.std() * np.sqrt(n) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("method", ["sigma", "winsorized"])
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 11, 16, 30])
def test_cosmic_rays_go(method: reject.Method, n: int) -> None:
    rng = np.random.default_rng(n)
    stack = rng.normal(0, 1, (n, 160, 160)).astype(np.float32)
    hits = np.zeros(stack.shape, dtype=bool)
    for y in range(8, 152, 8):
        for x in range(8, 152, 8):
            hits[rng.integers(n), y, x] = True
    stack[hits] += rng.uniform(8, 500, hits.sum()).astype(np.float32)
    got = averaged(stack, method=method)
    at = hits.any(axis=0)
    assert (got.rejected_high[at] >= 1).mean() > (0.98 if n == 2 else 0.99)
    assert np.abs(got.image[at]).mean() < 1.2 * np.sqrt(2 / np.pi / max(n - 1, 1)) + 0.2


@pytest.mark.parametrize("n", [2, 3, 4, 10])
def test_a_trail_goes_with_its_wings(n: int) -> None:
    rng = np.random.default_rng(n)
    clean = rng.normal(0, 1, (n, 120, 120)).astype(np.float32)
    yy, xx = np.mgrid[:120, :120]
    trail = (25 * np.exp(-((yy - 0.35 * xx - 30) ** 2) / (2 * 1.3**2))).astype(np.float32)
    stack = clean.copy()
    stack[0] += trail
    inside = trail > 0.5
    excess = {
        grow: float((averaged(stack, grow=grow).image - averaged(clean, grow=grow).image)[inside].mean())
        for grow in (2.0, None)
    }
    plain = float((stack.mean(axis=0) - clean.mean(axis=0))[inside].mean())
    assert excess[2.0] < (0.2 if n == 2 else 0.12) * plain
    assert excess[2.0] < excess[None]


def test_bright_nebulae_are_not_mistaken_for_outliers() -> None:
    # Photon noise three times the background's, which is all that the frames' noise tells.
    for n in (2, 3, 4, 6):
        stack = np.random.default_rng(n).normal(5000, 3, (n, 150, 150)).astype(np.float32)
        got = averaged(stack, noise=1.0)
        assert (got.rejected_high.sum() + got.rejected_low.sum()) / stack.size < 0.01
        assert got.image.mean() == pytest.approx(5000, abs=0.05)


@pytest.mark.parametrize("n", [2, 3])
def test_a_frame_slightly_off_is_not_rejected_wholesale(n: int) -> None:
    stack = np.random.default_rng(n).normal(0, 1, (n, 150, 150)).astype(np.float32)
    stack[0] += 3.0
    got = averaged(stack)
    assert (got.rejected_high.sum() + got.rejected_low.sum()) / stack.size < 0.02


def test_two_frames_that_disagree_keep_the_lower_and_one_is_kept() -> None:
    stack = np.zeros((2, 30, 30), dtype=np.float32)
    stack[1, 15, 15] = 100
    stack[0, 20, 4] = np.nan
    stack[1, 20, 4] = 777
    got = averaged(stack)
    assert got.image[15, 15] == 0
    assert got.rejected_high[15, 15] == 1
    assert got.image[20, 4] == 777
    assert got.count[20, 4] == 1
    assert got.rejected_high.sum() == 1


def test_weights_steer_the_mean_only() -> None:
    rng = np.random.default_rng(1)
    stack = rng.normal(0, 1, (12, 40, 40)).astype(np.float32)
    stack[3, 20, 20] = 40
    weight = np.ones(12)
    weight[3] = 1e4
    got = combine(stack, opaque(stack), np.ones(12), weight, rejection=Rejection())
    assert got.rejected_high[20, 20] == 1
    assert abs(got.image[20, 20]) < 2


def test_no_rejection_is_the_weighted_mean_and_nothing_is_nothing() -> None:
    rng = np.random.default_rng(1)
    stack = rng.normal(0, 1, (5, 20, 70)).astype(np.float32)
    stack[:, :3] = np.nan
    codes = opaque(stack)
    codes[2] = 100
    got = combine(stack, codes, np.full(5, np.nan), np.ones(5), rejection=Rejection("none"))
    w = taper_weight(codes)
    np.testing.assert_allclose(got.image[3:], ((w * stack).sum(0) / w.sum(0))[3:], atol=1e-6)
    assert np.isnan(got.image[:3]).all()
    assert np.isnan(got.weight[:3]).all()
    assert (got.count[:3] == 0).all()
    assert (got.rejected_high == 0).all()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 64, 100])
def test_sorting_network_sorts(n: int) -> None:
    pairs, starts = reject._networks(n)
    values = np.random.default_rng(n).normal(size=(n, reject.LANES)).astype(np.float32)
    values[n // 2 :, ::3] = np.inf
    want = np.sort(values, axis=0)
    reject._sort_lanes(values, n, reject.LANES, pairs, starts)
    np.testing.assert_array_equal(values, want)


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match="winsorized"):
        Rejection("windsor")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="few = 2"):
        Rejection(few=2)
