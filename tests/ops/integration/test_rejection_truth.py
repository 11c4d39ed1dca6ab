"""Rejection against truth: pure noise, cosmic rays, trails, nebulae, stars in changing seeing."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from skyloom.ops.integration.combine import Combined, combine
from skyloom.ops.integration.rejection import RULES, Method, Rejection
from skyloom.ops.integration.taper import taper_weight

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


@pytest.mark.parametrize("method", ["sigma", "winsorized"])
@pytest.mark.parametrize("n", [2, 3, 4, 6, 8, 12, 20, 40])
def test_pure_noise_loses_next_to_nothing(method: Method, n: int) -> None:
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
def test_cosmic_rays_go(method: Method, n: int) -> None:
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


def lost(got: Combined, samples: int) -> float:
    return float(got.rejected_high.sum() + got.rejected_low.sum()) / samples


def share_beyond_local_noise(n: int, *, least: float) -> float:
    """Expected share of noise beyond 3 and 4 of the median of nine estimates of it from the inner two thirds."""
    k = n // 6
    samples = np.sort(np.random.default_rng(0).normal(size=(9, 20000, n)), axis=-1)
    expected = 2 * norm.ppf((n - k - 0.375) / (n + 0.25))
    scatter = np.median((samples[..., n - 1 - k] - samples[..., k]) / expected, axis=0)
    scatter = np.maximum(scatter, least)
    return float(np.mean(norm.sf(3 * scatter) + norm.sf(4 * scatter)))


def test_noise_is_rejected_as_often_as_theory_says() -> None:
    stack = np.random.default_rng(1).normal(30, 1, (40, 160, 160)).astype(np.float32)

    def share(method: Method, low: float | None = None, high: float | None = None) -> float:
        return lost(averaged(stack, method=method, low=low, high=high, grow=None, tolerance=0.0), stack.size)

    assert share("minmax") == pytest.approx(2 / 40, rel=1e-3)
    assert share("minmax", 3, 0) == pytest.approx(3 / 40, rel=1e-3)
    # 0.1 and 0.2 of 30 are 3 and 6 sigma.
    assert share("percentile") == pytest.approx(norm.sf(3), rel=0.1)
    assert share("noise") == pytest.approx(share_beyond_local_noise(40, least=1.0), rel=0.1)
    assert share("averaged", 4.0, 3.0) == pytest.approx(share_beyond_local_noise(40, least=0.7), rel=0.1)
    # The samples' own scatter has the outermost sample in it, and is widened because it scatters itself.
    tails = float(norm.sf(3) + norm.sf(4))
    for method in ("sigma", "mad", "winsorized"):
        assert 0.3 * tails < share(method) < 1.3 * tails
    for significance in (0.05, 0.2):
        got = averaged(stack, method="esd", significance=significance, grow=None, tolerance=0.0)
        found = (got.rejected_high.astype(int) + got.rejected_low > 0).mean()
        # The critical values are approximate, the more so the more outliers are looked for.
        assert found == pytest.approx(significance, rel=0.15)


@pytest.mark.parametrize("method", [m for m in RULES if m not in ("none", "auto")])
@pytest.mark.parametrize("n", [4, 9, 16, 32])
def test_nearly_all_light_of_cosmic_rays_goes_and_hardly_a_good_sample(method: Method, n: int) -> None:
    rng = np.random.default_rng(n)
    clean = rng.normal(100, 1, (n, 120, 120)).astype(np.float32)
    stack, hits = clean.copy(), np.zeros(clean.shape, dtype=bool)
    for y in range(4, 116, 7):
        for x in range(4, 116, 7):
            hits[rng.integers(n), y, x] = True
    light = np.where(hits, rng.uniform(15, 800, hits.shape), 0).astype(np.float32)
    got = averaged(stack + light, method=method)
    kept = averaged(clean, method="none")
    left = float(np.abs((got.image - kept.image)[hits.any(axis=0)]).sum() * n - np.sqrt(2 / np.pi) * hits.sum())
    assert left < 0.01 * light.sum()
    rejected = lost(got, stack.size) - hits.mean()
    if method == "minmax":
        assert rejected < 2 / n
    else:
        assert rejected < 0.005


@pytest.mark.parametrize("method", ["noise", "averaged", "sigma", "mad", "winsorized", "esd", "percentile"])
@pytest.mark.parametrize("n", [3, 6, 12, 24])
def test_stars_keep_their_light_in_changing_seeing(method: Method, n: int) -> None:
    rng = np.random.default_rng(n)
    yy, xx = np.mgrid[:150, :150]
    stars = [
        (25 + 50 * (k % 3) + rng.random(), 25 + 50 * (k // 3) + rng.random(), 10 ** (3 + k / 4)) for k in range(9)
    ]
    truth = np.zeros((n, 150, 150))
    for i, fwhm in enumerate(rng.permutation(np.linspace(2.0, 4.0, n))):
        s = fwhm / 2.3548
        for x, y, flux in stars:
            truth[i] += flux / (2 * np.pi * s * s) * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * s * s))
    stack = (100 + truth + rng.normal(0, 1, truth.shape) * np.sqrt(1 + truth / 50)).astype(np.float32)
    got, plain = averaged(stack, method=method), averaged(stack, method="none")
    taken = got.rejected_high.astype(int) + got.rejected_low
    cores = np.zeros((150, 150), dtype=bool)
    for x, y, flux in stars:
        near = np.hypot(xx - x, yy - y) < 8
        cores |= np.hypot(xx - x, yy - y) < 3
        difference = float((got.image - plain.image)[near].astype(float).sum())
        assert abs(difference) < 0.003 * flux + 3 / np.sqrt(n)
    assert taken[cores].sum() <= 0.02 * n * cores.sum()


@pytest.mark.parametrize("method", [m for m in RULES if m not in ("none", "auto", "minmax")])
@pytest.mark.parametrize("n", [2, 4, 12])
@pytest.mark.parametrize("odd", [2.0, 4.0])
def test_stars_keep_their_light_where_one_frame_is_sharper_or_softer(method: Method, n: int, odd: float) -> None:
    rng = np.random.default_rng(n)
    side, middle = 150, np.arange(15, 150, 30)
    yy, xx = np.mgrid[:side, :side]
    x, y = (p.ravel() + rng.uniform(-0.5, 0.5, p.size) for p in np.meshgrid(middle, middle))
    flux = 10 ** rng.uniform(3.2, 5.5, x.size)
    truth = np.zeros((n, side, side))
    for i in range(n):
        # Moffat, beta 2.5: wings as real stars have them.
        radius = (odd if i == n // 2 else 6.0 - odd) / (2 * (2**0.4 - 1) ** 0.5)
        r2 = (xx - x[:, None, None]) ** 2 + (yy - y[:, None, None]) ** 2
        truth[i] = np.tensordot(flux, 1.5 / (np.pi * radius**2) * (1 + r2 / radius**2) ** -2.5, axes=1)
    stack = (100 + truth + rng.normal(0, 1, truth.shape) * np.sqrt(1 + truth / 50)).astype(np.float32)
    got, plain = averaged(stack, method=method), averaged(stack, method="none")
    far = np.hypot(xx - x[:, None, None], yy - y[:, None, None])
    difference = ((got.image - plain.image).astype(float) * (far < 8)).sum(axis=(1, 2))
    assert abs(np.mean(difference / flux)) < 0.003
    assert (np.abs(difference) < 0.003 * flux + 4 / np.sqrt(n)).mean() > 0.9
    taken = got.rejected_high.astype(int) + got.rejected_low
    assert taken[(far < 3).any(axis=0)].sum() <= 0.02 * n * (far < 3).any(axis=0).sum()


def test_a_cosmic_ray_beside_a_star_and_upon_a_faint_one_goes() -> None:
    rng = np.random.default_rng(5)
    yy, xx = np.mgrid[:60, :60]
    star = 500 * np.exp(-((xx - 20) ** 2 + (yy - 20) ** 2) / 4.5) + 30 * np.exp(
        -((xx - 40) ** 2 + (yy - 40) ** 2) / 4.5
    )
    stack = (100 + star + rng.normal(0, 1, (5, 60, 60))).astype(np.float32)
    for y, x in ((20, 26), (25, 20), (40, 40)):
        stack[2, y, x] += 200
    got = averaged(stack)
    assert got.rejected_high[[20, 25, 40], [26, 20, 40]].tolist() == [1, 1, 1]


def test_the_median_keeps_an_outlier_small_where_nothing_is_rejected() -> None:
    rng = np.random.default_rng(4)
    for n in (2, 3, 4, 9, 25):
        stack = rng.normal(0, 1, (n, 150, 150)).astype(np.float32)
        got = combine(
            stack, opaque(stack), np.ones(n), np.ones(n), rejection=Rejection("none"), combination="median"
        )  # fmt: skip
        assert got.image.var() == pytest.approx(float(np.median(got.variance)), rel=0.03)
        np.testing.assert_allclose(got.image, np.median(stack, axis=0), atol=1e-6)
    # Noisier frames count as much, and the variance says so.
    noise = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    stack = (rng.normal(0, 1, (11, 150, 150)) * noise[:, None, None]).astype(np.float32)
    got = combine(stack, opaque(stack), noise, noise**-2, rejection=Rejection("none"), combination="median")
    assert got.image.var() == pytest.approx(float(np.median(got.variance)), rel=0.05)
