"""Frames against references: which frames these are made of, scales by stars, offsets by place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops import surface
from skyloom.ops.normalization.bands import BandSamples, BandScales
from skyloom.ops.normalization.legendre import ORDERS, evaluate
from skyloom.ops.normalization.local import fit_offset, robust_mean, solve_local
from skyloom.ops.normalization.reference import best_frames, keep_chauvenet, reference_scales
from skyloom.ops.normalization.sightings import Sightings

Floats = NDArray[np.float64]
Draw = Callable[..., Any]
NODES = len(surface.sample_positions())


def joined(drawn: Any) -> tuple[BandScales, BandSamples]:
    seen, value, precision = drawn.join(4)
    frames = len(drawn.truth)
    scales = BandScales(
        np.arange(frames), np.ones(frames), np.zeros(frames), np.full(frames, 50), {}, np.zeros((frames, 6)),
        np.ones(frames), np.zeros(frames, dtype=bool),
    )  # fmt: skip
    area, noise = np.ones((frames, NODES, NODES)), np.full(frames, np.nan)
    return scales, BandSamples(seen, value, precision, drawn.placement, area, noise)


def test_a_reference_is_made_of_frames_without_gradients_of_their_own(draw: Draw) -> None:
    drawn = draw(2, 1, 6, turn=False)
    steep = np.array([2, 9])
    for f in range(12):
        mine = drawn.frame == f
        wanted = drawn.truth[f] * (3.0 if f in steep else 0.3 if f in (0, 4, 7, 10) else 1.0)
        drawn.value[mine] += evaluate(wanted - drawn.truth[f], drawn.u[mine], drawn.v[mine])
    scales, samples = joined(drawn)
    # The steep frames have the least noise.
    precision = samples.precision * np.where(np.isin(samples.observations.frame, steep), 2.0, 1.0).astype(
        np.float32
    )
    label, chosen = best_frames(scales, replace(samples, precision=precision), best=3)
    assert label.tolist() == [0] * 6 + [1] * 6
    assert chosen[:6].sum() == chosen[6:].sum() == 3
    assert not chosen[steep].any()


def test_offsets_follow_the_reference_of_the_panel(draw: Draw) -> None:
    drawn = draw(1, 1, 6)
    scales, samples = joined(drawn)
    local, linear = (
        solve_local(scales, samples, local=choice, whole=False, best=2, clip=5.0) for choice in (True, False)
    )
    _, chosen = best_frames(scales, samples, best=2)
    at = np.linspace(0.1, 0.9, 12)
    for f in range(6):
        v, u = (g.ravel() for g in np.meshgrid(at, at, indexing="ij"))
        x, y = drawn.placement[f] @ np.stack([u, v, np.ones_like(u)])
        others = np.zeros_like(u)
        for r in np.flatnonzero(chosen):
            a = drawn.placement[r]
            others += 0.5 * evaluate(drawn.truth[r], (x - a[0, 2]) / a[0, 0], (y - a[1, 2]) / a[1, 1])
        # What is left of a frame's background is that of the reference: the mean of its two frames'.
        expected = evaluate(drawn.truth[f], u, v) - others
        assert np.allclose(surface.evaluate(local.offset[f], u, v), expected, atol=3.0)
        assert np.ptp(linear.offset[f]) < 1e-6
        assert linear.offset[f].mean() == pytest.approx(expected.mean(), abs=25)
    assert np.nanmedian(local.surfaces.residual_after) < 1.0
    assert np.nanmedian(linear.surfaces.residual_after) > 20
    assert np.nanmedian(local.surfaces.residual_before) > 50


def test_panels_keep_their_levels_unless_tied(draw: Draw) -> None:
    drawn = draw(2, 1, 4, seed=1)
    right = drawn.frame >= 4
    drawn.value[right] += 300.0
    scales, samples = joined(drawn)
    step = {}
    for whole in (False, True):
        solved = solve_local(scales, samples, local=True, whole=whole, best=2, clip=5.0)
        both = [np.mean([solved.offset[f].mean() for f in half]) for half in (range(4), range(4, 8))]
        step[whole] = both[1] - both[0]
    assert abs(step[True] - step[False]) > 150


def test_smooth_offsets_reject_outliers_and_fill_holes() -> None:
    rng = np.random.default_rng(0)
    u, v = rng.uniform(0, 1, (2, 900))
    hole = np.hypot(u - 0.5, v - 0.5) < 0.2
    u, v = u[~hole], v[~hole]

    def truth(a: Floats, b: Floats) -> Floats:
        return np.asarray(500 + 80 * a - 60 * b**2 + 20 * np.sin(4 * a), dtype=np.float64)

    value = truth(u, v) + rng.normal(0, 0.3, len(u))
    bad = rng.uniform(size=len(u)) < 0.1
    value[bad] += rng.uniform(20, 300, bad.sum())
    spline, _ = fit_offset(u, v, value)
    gu, gv = (g.ravel() for g in np.meshgrid(np.linspace(0, 1, 30), np.linspace(0, 1, 30)))
    error = surface.evaluate(spline, gu, gv) - truth(gu, gv)
    inside = np.hypot(gu - 0.5, gv - 0.5) < 0.2
    assert np.std(error[~inside]) < 0.5
    assert np.abs(error[inside]).max() < 2.0
    assert abs(robust_mean(np.append(rng.normal(7, 1, 300), np.full(60, 900.0))) - 7) < 0.3


def test_chauvenet_takes_outliers_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    good = rng.normal(0.1, 0.02, 200)
    assert len(good[keep_chauvenet(good)]) > 190
    mixed = np.concatenate([good, rng.uniform(0.5, 2.0, 60)])
    kept = mixed[keep_chauvenet(mixed)]
    assert np.mean(kept) == pytest.approx(0.1, abs=0.005)
    assert kept.max() < 0.3


def test_scales_come_from_the_stars_of_the_reference_or_from_structure(draw: Draw) -> None:
    drawn = draw(1, 1, 5, turn=False)
    rng = np.random.default_rng(2)
    truth = np.array([1.0, 0.8, 1.25, 1.1, 0.9])
    for f in range(5):
        mine = drawn.frame == f
        own = evaluate(drawn.truth[f], drawn.u[mine], drawn.v[mine])
        drawn.value[mine] = (drawn.value[mine] - own) / truth[f] + own
    scales, samples = joined(drawn)
    flux = rng.normal(9, 1, 80)
    frame, star = (g.ravel() for g in np.meshgrid(np.arange(5), np.arange(80), indexing="ij"))
    value = flux[star] - np.log(truth)[frame] + rng.normal(0, 0.01, 400)
    value[rng.uniform(size=400) < 0.08] += 1.0
    few = (frame != 3) | (star < 4)
    half = np.full(int(few.sum()), 0.5, np.float32)
    sightings = Sightings(
        frame[few].astype(np.int32), star[few].astype(np.int32), value[few], 0.02 * half, half, half
    )
    scales = replace(scales, stars=np.array([80, 80, 80, 4, 80]))
    found = reference_scales(scales, samples, sightings, whole=False, best=1)
    ratio = np.log(found.scale / truth)
    assert np.ptp(np.delete(ratio, 3)) < 0.015
    # Four stars only: the structure both show.
    assert found.stars[3] == 4
    assert abs(ratio[3] - np.delete(ratio, 3).mean()) < 0.03
    assert len(ORDERS[2]) == found.field.shape[1]
