"""Scales of frames from drawn star fluxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.normalization.photometry import Scales, solve_scales


@dataclass
class Sightings:
    frame: NDArray[np.int64]
    star: NDArray[np.int64]
    log_flux: NDArray[np.float64]
    log_error: NDArray[np.float64]
    log_scale: NDArray[np.float64]

    def take(self, keep: NDArray[np.bool_]) -> None:
        self.frame, self.star = self.frame[keep], self.star[keep]
        self.log_flux, self.log_error = self.log_flux[keep], self.log_error[keep]

    def solve(self, **options: Any) -> Scales:
        return solve_scales(
            self.frame, self.star, self.log_flux, self.log_error, frames=len(self.log_scale), **options
        )


def draw(
    frames: int, stars: int, *, reach: int = 3, spread: float = 0.12, scatter: float = 0.01, seed: int = 0
) -> Sightings:
    """Frames in a row: stars of place p are seen by the frames within `reach` of it."""
    rng = np.random.default_rng(seed)
    log_scale = rng.normal(0, spread, frames)
    log_scale -= log_scale.mean()
    place = rng.uniform(0, frames, stars)
    magnitude = rng.normal(9, 1.5, stars)
    frame, star = np.nonzero(np.abs(np.arange(frames)[:, None] + 0.5 - place) < reach / 2)
    error = np.hypot(scatter, np.exp(-0.5 * magnitude[star]))
    flux = magnitude[star] - log_scale[frame] + rng.normal(0, 1, len(frame)) * error
    return Sightings(frame, star, flux, np.sqrt(error**2 - scatter**2), log_scale)


def test_scales_are_recovered_and_errors_are_honest() -> None:
    s = draw(40, 4000)
    result = s.solve()
    error = np.log(result.scale) - s.log_scale
    assert np.sqrt(np.mean(error**2)) < 0.003
    assert abs(np.mean(np.log(result.scale))) < 1e-9
    assert 0.5 < np.sqrt(np.mean((error / result.error) ** 2)) < 1.6
    assert 0.9 < result.scatter < 1.1
    assert result.stars.min() > 100


def test_equals_least_squares_with_the_stars_explicit() -> None:
    s = draw(6, 60)
    count = s.star.max() + 1
    seen = np.bincount(s.star, minlength=count)[s.star] >= 2
    frame, star, flux = s.frame[seen], s.star[seen], s.log_flux[seen]
    weight = 1 / np.hypot(s.log_error[seen], 0.01)
    design = np.zeros((len(frame) + 1, 6 + count))
    design[np.arange(len(frame)), frame] = -weight
    design[np.arange(len(frame)), 6 + star] = weight
    design[-1, :6] = 1e3
    naive = np.linalg.lstsq(design, np.append(flux * weight, 0.0), rcond=None)[0][:6]
    result = s.solve()
    assert np.allclose(np.log(result.scale), naive, atol=float(np.max(result.error)))


def test_wrong_matches_do_no_harm() -> None:
    s = draw(40, 2000)
    clean = s.solve()
    rng = np.random.default_rng(1)
    wrong = rng.uniform(size=len(s.star)) < 0.05
    s.log_flux[wrong] += rng.normal(0, 2, wrong.sum())
    result = s.solve()
    assert np.max(np.abs(np.log(result.scale / clean.scale))) < 0.004


def test_a_handful_of_stars_does_not_make_a_steady_night_unsteady() -> None:
    s = draw(10, 40, reach=2, spread=0.0005, scatter=0.03)
    result = s.solve()
    free = s.solve(floor=0.03)
    assert np.abs(np.log(result.scale)).max() < 0.015
    assert np.abs(np.log(free.scale)).max() < 0.015
    # The stated errors are three times too small: the residuals say so.
    assert result.scatter > 1.5


def test_few_stars_still_follow_real_clouds() -> None:
    s = draw(10, 60, reach=3, spread=0.3, scatter=0.02)
    result = s.solve()
    assert np.max(np.abs(np.log(result.scale) - s.log_scale)) < 0.06
    assert 0.15 < result.spread < 0.6


def test_frames_without_stars_get_the_expected_scale() -> None:
    s = draw(12, 1500)
    exposure = np.where(np.arange(12) % 2, 60.0, 300.0)
    s.log_flux += np.log(exposure[s.frame])
    lone = 5
    keep = s.frame != lone
    keep[np.flatnonzero(s.frame == lone)[:2]] = True
    s.take(keep)
    result = s.solve(expected=-np.log(exposure))
    assert result.stars[lone] == 0
    assert np.isnan(result.error[lone])
    others = np.delete(np.arange(12), lone)
    truth = s.log_scale - np.log(exposure)
    found = np.log(result.scale)
    assert np.std((found - truth)[others]) < 0.003
    # Transparency unknown, exposure known.
    assert found[lone] - np.mean(found[others]) == pytest.approx(
        -np.log(exposure[lone]) + np.mean(np.log(exposure[others])), abs=0.1
    )


def test_groups_without_common_stars_have_their_own_mean() -> None:
    s = draw(20, 2000)
    keep = (s.star >= 0) & ~np.isin(s.star, s.star[(s.frame == 9) | (s.frame == 10)])
    keep &= (s.frame < 9) | (s.frame > 10)
    s.take(keep)
    result = s.solve()
    for members in (np.arange(0, 9), np.arange(11, 20)):
        assert len(set(result.group[members])) == 1
        assert np.mean(np.log(result.scale[members])) == pytest.approx(0.0, abs=1e-9)
    assert result.group[0] != result.group[19]
    assert result.scale[9] == result.scale[10] == 1.0


def test_nothing_to_match() -> None:
    none = np.empty(0, np.int64)
    result = solve_scales(none, none, np.empty(0), np.empty(0), frames=3)
    assert np.all(result.scale == 1.0)
    assert np.all(result.stars == 0)
    assert solve_scales(none, none, np.empty(0), np.empty(0), frames=0).scale.shape == (0,)


def test_many_frames_are_iterated_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    s = draw(120, 3000, reach=24)
    place = np.array([[[10.0, 0.0, f // 10], [0.0, 10.0, 0.0]] for f in range(120)])
    exact = s.solve()
    monkeypatch.setattr("skyloom.ops.normalization.photometry.DENSE_LIMIT", 50)
    for placement in (None, place):
        result = s.solve(placement=placement)
        assert np.allclose(result.scale, exact.scale, atol=1e-5)
        assert np.all(result.error < 1.5 * exact.error)
    assert np.median(result.error / exact.error) > 0.6
