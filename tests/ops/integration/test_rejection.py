"""Rejection: every method against a plain twin of its rules, a pixel at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from skyloom.ops.errors import ConfigError
from skyloom.ops.integration.combine import Combination, combine
from skyloom.ops.integration.rejection import RULES, SPREAD_TO_NOISE, Method, Rejection
from skyloom.ops.integration.sorting import LANES, networks, sort_lanes
from skyloom.ops.integration.taper import taper_weight
from skyloom.ops.integration.tolerance import HALO, SPREAD_STEP

Values = NDArray[np.float64]
NEAR = 1e-3


@dataclass
class Verdict:
    """Of one pixel's samples."""

    centre: float
    scale: float
    below: float = np.inf
    """Limits of the methods that give their own."""
    above: float = np.inf
    close: bool = False
    """A decision hung on rounding."""


def deviation(d: Values) -> float:
    return float(np.std(d, ddof=1))


def scatter_clipped(values: Values, rules: Rejection, least: float) -> Verdict:
    """sigma, winsorized, mad: measure, drop, repeat."""
    low, high = rules.limits
    kept, scatter, close = np.sort(values), least, False
    while True:
        centre = float(np.median(kept))
        if kept.size < 3:
            return Verdict(centre, max(scatter, least), close=close)
        scatter = deviation(kept)
        widen = 1 + 2 / kept.size
        if rules.method == "mad":
            scatter, widen = 1.4826 * float(np.median(np.abs(kept - centre))), 1 + 6 / kept.size
        if rules.method == "winsorized":
            for _ in range(100):
                new = 1.134 * deviation(np.clip(kept, centre - 1.5 * scatter, centre + 1.5 * scatter))
                done = abs(new - scatter) <= 5e-4 * scatter
                scatter = new
                if done:
                    break
        scatter = max(scatter * widen, least)
        below, above = centre - low * scatter, centre + high * scatter
        inside = (kept >= below) & (kept <= above)
        if rules.method == "mad":
            close |= bool((np.abs(np.concatenate([kept - below, kept - above])) < 1e-5 * scatter).any())
        if inside.all() or inside.sum() < 3:
            return Verdict(centre, scatter, close=close)
        kept = kept[inside]


def scattered(values: Values, rules: Rejection, least: float) -> Verdict:
    low, high = rules.limits
    centre, n = float(np.median(values)), values.size
    if rules.method == "mad":
        return scatter_clipped(values, rules, least)
    # Where the extremes lie within the limits there is nothing to iterate.
    reach = max((values[-1] - centre) / high, (centre - values[0]) / low)
    widen, d = 1 + 2 / n, values - centre
    one = deviation(d)
    if rules.method == "winsorized":
        one = 1.134 * deviation(np.clip(d, -1.5 * reach / widen, 1.5 * reach / widen))
    one = max(one * widen, least)
    limit = max(deviation(d) * widen, least)
    close = bool(abs(reach - one) < NEAR * one or abs(reach - limit) < NEAR * one)
    if rules.grow is not None and reach <= min(one, limit):
        return Verdict(centre, one, close=close)
    found = scatter_clipped(values, rules, least)
    found.close |= close
    return found


def line_kept(values: Values, rules: Rejection, least: float) -> tuple[Values, bool]:
    low, high = rules.limits
    kept, close = values, False
    while kept.size > 3:
        m, third = kept.size, kept.size // 6
        rank = np.arange(m)
        slope = (kept[m - 1 - third] - kept[third]) / (m - 1 - 2 * third)
        level = np.mean([kept[third] - slope * third, np.median(kept) - slope * (m - 1) / 2,
                         kept[m - 1 - third] - slope * (m - 1 - third)])  # fmt: skip
        residual = kept - (level + slope * rank)
        spread = max(np.mean(np.abs(residual)), 0.05 * least)
        out_low, out_high = -residual > low * spread, residual > high * spread
        close |= bool((np.abs(-residual - low * spread) < 1e-5 * spread).any())
        close |= bool((np.abs(residual - high * spread) < 1e-5 * spread).any())
        first = int(np.argmin(out_low)) if not out_low.all() else m
        last = m - (int(np.argmin(out_high[::-1])) if not out_high.all() else m)
        if (first == 0 and last == m) or last - first < 3:
            break
        kept = kept[first:last]
    return kept, close


@cache
def critical_deviate(m: int, significance: float) -> float:
    t = stats.t.ppf(1 - significance / (2 * m), m - 2)
    return float(t * (m - 1) / np.sqrt((m - 2 + t * t) * m))


@cache
def expected_range(n: int) -> float:
    return float(2 * stats.norm.ppf((n - n // 6 - 0.375) / (n + 0.25)))


def esd_kept(values: Values, rules: Rejection, least: float) -> tuple[Values, bool]:
    low, high = rules.limits
    kept, best, close = values, values, False
    for _ in range(int(rules.outliers * values.size)):
        m = kept.size
        if m < 3:
            break
        critical = critical_deviate(m, rules.significance)
        spread = max(deviation(kept), least)
        below, above = (kept.mean() - kept[0]) / low, (kept[-1] - kept.mean()) / high
        far = max(below, above)
        close |= bool(abs(above - below) < 1e-5 * spread and far > 0)
        kept = kept[:-1] if above >= below else kept[1:]
        close |= bool(abs(far / spread - critical) < 1e-5)
        if far / spread > critical:
            best = kept
    return best, close


def verdict(values: Values, rules: Rejection, noise: float) -> Verdict:
    """Of sorted samples that are many."""
    least = rules.floor * noise
    low, high = rules.limits
    if rules.method in ("sigma", "winsorized", "auto", "mad"):
        return scattered(values, rules, least)
    if rules.method == "percentile":
        centre = float(np.median(values))
        below, above = low * abs(centre), high * abs(centre)
        return Verdict(centre, max(above / 3, 2 / 3 * noise), below, above)
    close = False
    if rules.method == "minmax":
        kept = values[int(low) : values.size - int(high)]
    elif rules.method == "linear":
        kept, close = line_kept(values, rules, least)
    else:
        kept, close = esd_kept(values, rules, least)
    centre = float(np.float32(np.median(kept)))
    cut_low = kept[0] > values[0] or (rules.method == "minmax" and low > 0)
    cut_high = kept[-1] < values[-1] or (rules.method == "minmax" and high > 0)
    return Verdict(
        centre,
        max(deviation(kept) if kept.size > 1 else 0.0, least),
        float(np.float32(centre) - np.float32(kept[0])) if cut_low else np.inf,
        float(np.float32(kept[-1]) - np.float32(centre)) if cut_high else np.inf,
        close,
    )


def spread_of(values: Values) -> float:
    n = values.size
    if n <= 3:
        return float(values[-1] - values[0]) * SPREAD_TO_NOISE[n - 2]
    if n <= 20:
        return float(values[-2] - values[1]) * SPREAD_TO_NOISE[n - 2]
    k = n // 6
    return float(values[n - 1 - k] - values[k]) / expected_range(n)


def twin(
    stack: NDArray[np.float32], noise: Values, rules: Rejection
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """0 kept, 1 rejected above, 2 below, -1 absent, per sample; and pixels too close to a limit to be compared."""
    frames, rows, columns = stack.shape
    data = stack.astype(np.float64)
    there = np.isfinite(data)
    cut = rules.rule.cut
    low, high = rules.limits
    few_low, few_high = rules.noise_limits
    own_part = rules.floor if rules.method == "averaged" else 1.0
    centre, spread = np.full((2, rows, columns), np.nan)
    scale, common = np.zeros((rows, columns)), np.zeros((rows, columns))
    below_own, above_own = np.full((2, rows, columns), np.nan)
    own = np.ones((frames, rows, columns)) * noise[:, None, None]
    close, many = np.zeros((2, rows, columns), dtype=bool)
    for y, x in np.ndindex(rows, columns):
        good = there[:, y, x]
        values, n = np.sort(data[good, y, x]), int(good.sum())
        if n == 0:
            continue
        common[y, x] = np.sqrt(np.mean(noise[good] ** 2))
        centre[y, x] = np.median(values) if n != 2 else values[0]
        many[y, x] = n >= rules.least
        if many[y, x]:
            found = verdict(values, rules, float(common[y, x]))
            centre[y, x], scale[y, x], close[y, x] = found.centre, found.scale, found.close
            below_own[y, x], above_own[y, x] = found.below, found.above
            own[:, y, x] *= 2 / 3 if rules.method == "percentile" else 0.0 if cut else scale[y, x] / common[y, x]
            continue
        own[:, y, x] *= own_part
        if n == 1:
            scale[y, x] = np.inf
        else:
            spread[y, x] = spread_of(values)
        if n == 2:
            scale[y, x] = np.sqrt(2) * common[y, x] * own_part
            own[:, y, x] = 0
    excuse = np.zeros((rows, columns))
    final_scale = scale.copy()
    for y, x in np.ndindex(rows, columns):
        n = int(there[:, y, x].sum())
        if n < 2:
            continue
        around = centre[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        span = float(np.nanmax(around)) - float(np.nanmin(around))
        chance = 1.2533 * float(common[y, x]) / n**0.5
        excused = max(span**2 - (4.0 * chance) ** 2, 0.0) ** 0.5
        padded = np.pad(centre, 3, constant_values=np.nan)[y : y + 7, x : x + 7]
        some = np.concatenate([padded[::3, ::3].ravel(), padded[2:5, 2:5].ravel()])
        stands_out = np.nanmax(some) - np.nanmin(some) > 4.0 * chance
        span = (float(np.nanmax(padded)) - float(np.nanmin(padded))) * stands_out
        excused = max(excused, 0.1 / 3 * max(span**2 - (6.0 * chance) ** 2, 0.0) ** 0.5)
        rim = np.concatenate([padded[[0, -1]].ravel(), padded[:, [0, -1]].ravel()])
        if stands_out and np.isfinite(rim).any():
            height = max(float(centre[y, x]) - float(np.nanmax(rim)), 0.0)
            excused = max(excused, 5.0 / 3 * max(height**2 - (4.0 * chance) ** 2, 0.0) ** 0.5)
        excuse[y, x] = rules.tolerance * excused
        if rules.method == "minmax" and many[y, x]:
            excuse[y, x] = 0.0
        if not many[y, x]:
            places = [
                spread[j, i]
                for j in (y - SPREAD_STEP, y, y + SPREAD_STEP)
                for i in (x - SPREAD_STEP, x, x + SPREAD_STEP)
                if 0 <= j < rows and 0 <= i < columns and np.isfinite(spread[j, i])
            ]
            final_scale[y, x] = max(float(scale[y, x]), float(np.median(places)))
    width = np.maximum(final_scale, own)
    with np.errstate(invalid="ignore"):
        d = (stack - centre.astype(np.float32)).astype(np.float64) if cut else data - centre
        few_above, few_below = few_high * width, few_low * width
        if cut:
            guard = own if rules.method == "percentile" else np.zeros_like(own)
            above = np.where(many, np.maximum(above_own, few_high * guard), few_above) + excuse
            below = np.where(many, np.maximum(below_own, few_low * guard), few_below) + excuse
        else:
            above, below = high * width + excuse, low * width + excuse
        marks = np.where(d > above, 1, np.where(-d > below, 2, 0))
        seeds = (d > 2 * above) | (-d > 2 * below)
        limits = [above, -below, 2 * above, -2 * below]
        exact = cut & many & (rules.method != "percentile") & (excuse == 0)
        if rules.grow is not None and rules.rule.excused:
            grow = rules.grow * width + excuse
            limits += [grow, -grow]
            touched = np.zeros_like(seeds)
            padded = np.pad(seeds, ((0, 0), (1, 1), (1, 1)))
            for j in range(3):
                for i in range(3):
                    touched |= padded[:, j : j + rows, i : i + columns]
            grown = touched & (marks == 0)
            marks = np.where(grown & (d > grow), 1, np.where(grown & (-d > grow), 2, marks))
        for k, bound in enumerate(limits):
            near = (np.abs(d - bound) < NEAR * np.where(np.isfinite(width), width, 1)).any(axis=0)
            # Limits that are samples themselves are compared exactly.
            close |= near & ~exact if k < 2 else near
    marks = np.where(there, marks, -1)
    for y, x in np.ndindex(rows, columns):
        if there[:, y, x].any() and not (marks[:, y, x] == 0).any():
            far = np.where(there[:, y, x], np.abs(d[:, y, x]), np.inf)
            level = np.where(far <= far.min() * (1 + 1e-5), data[:, y, x], np.inf)
            marks[np.argmin(level), y, x] = 0
    return marks, close


@st.composite
def stacks(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    n, seed = draw(st.integers(1, 20) | st.sampled_from([27, 40, 100, 300])), draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    level = draw(st.sampled_from([0.0, 1000.0]))
    noise = np.full(n, 1.2347) if draw(st.booleans()) else rng.uniform(0.7, 2.5, n)
    stack = level + rng.normal(0, 1, (n, 15 if n <= 20 else 8, 17 if n <= 20 else 4)) * noise[:, None, None]
    kind = draw(st.sampled_from(["noise", "ties", "constant", "gradient"]))
    if kind == "ties":
        stack = np.round(stack)
    if kind == "constant":
        stack[:] = level
    if kind == "gradient":
        x, y = np.arange(stack.shape[2]) - 8.2, np.arange(stack.shape[1])[:, None] - 7
        stack += 40 * np.exp(-(x**2) / 4) * np.exp(-(y**2) / 4)
    stack[rng.random(stack.shape) < draw(st.sampled_from([0.0, 0.02, 0.1]))] += 50
    stack[rng.random(stack.shape) < draw(st.sampled_from([0.0, 0.02]))] -= 30
    stack[rng.random(stack.shape) < draw(st.sampled_from([0.0, 0.1, 0.7]))] = np.nan
    return stack.astype(np.float32), noise


@pytest.mark.parametrize("method", [m for m in RULES if m not in ("none", "auto")])
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    stacks(), st.sampled_from([None, 2.0]), st.sampled_from([0.0, 3.0]),
    st.sampled_from(["mean", "median"]),
)  # fmt: skip
def test_kernels_follow_the_plain_twin(
    method: Method,
    drawn: tuple[NDArray[np.float32], Values],
    grow: float | None,
    tolerance: float,
    combination: Combination,
) -> None:
    stack, noise = drawn
    rules = Rejection(method, grow=grow, tolerance=tolerance)
    weight = 1 / noise**2
    codes = np.random.default_rng(0).integers(1, 256, stack.shape).astype(np.uint8)
    got = combine(stack, codes, noise, weight, rejection=rules, combination=combination)
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
    kept = np.where(marks == 0, stack, np.nan).astype(np.float64)
    some = sure & (total > 0)
    if combination == "mean":
        image = np.nansum(w[:, some] * np.nan_to_num(kept[:, some]), axis=0) / total[some]
        variance = (w[:, some] ** 2 * noise[:, None] ** 2).sum(axis=0) / total[some] ** 2
        np.testing.assert_allclose(got.variance[some], variance, rtol=1e-5)
    else:
        image = np.nanmedian(kept[:, some], axis=0) if some.any() else np.empty(0)
    np.testing.assert_allclose(got.image[some], image, rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(got.weight[some], total[some], rtol=1e-5)
    assert np.isnan(got.image[sure & ~some]).all()
    present = np.isfinite(stack).sum(axis=0)
    taken = got.count.astype(int) + got.rejected_high + got.rejected_low
    np.testing.assert_array_equal(taken, present)
    assert (got.count[present > 0] >= 1).all()


@pytest.mark.parametrize("method", ["winsorized", "averaged", "esd"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(stacks(), st.data())
def test_a_window_with_halo_gives_the_same_pixels(
    method: Method, drawn: tuple[NDArray[np.float32], Values], data: st.DataObject
) -> None:
    stack, noise = drawn
    stack = np.concatenate([stack, stack[:, ::-1] + np.float32(0.25)], axis=1)
    y0, y1 = sorted(data.draw(st.lists(st.integers(0, stack.shape[1]), min_size=2, max_size=2, unique=True)))
    x0, x1 = sorted(data.draw(st.lists(st.integers(0, stack.shape[2]), min_size=2, max_size=2, unique=True)))
    rules = Rejection(method)
    whole = combine(stack, np.full(stack.shape, 255, np.uint8), noise, 1 / noise**2, rejection=rules)
    top, left = max(y0 - HALO, 0), max(x0 - HALO, 0)
    part = np.ascontiguousarray(stack[:, top : y1 + HALO, left : x1 + HALO])
    inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    got = combine(part, np.full(part.shape, 255, np.uint8), noise, 1 / noise**2, rejection=rules, inner=inner)
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(getattr(got, name), values[y0:y1, x0:x1], err_msg=name)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 64, 100])
def test_sorting_network_sorts(n: int) -> None:
    pairs, starts = networks(n)
    values = np.random.default_rng(n).normal(size=(n, LANES)).astype(np.float32)
    values[n // 2 :, ::3] = np.inf
    want = np.sort(values, axis=0)
    sort_lanes(values, n, LANES, pairs, starts)
    np.testing.assert_array_equal(values, want)


def test_wrong_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match="winsorized"):
        Rejection("windsor")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="few = 2"):
        Rejection(few=2)
    with pytest.raises(ConfigError, match="above 0"):
        Rejection("percentile", high=0.0)
    with pytest.raises(ConfigError, match="whole numbers"):
        Rejection("minmax", low=0.5)
