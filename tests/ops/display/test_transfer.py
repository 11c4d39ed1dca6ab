"""Curves against their formulas, written out or by numbers known from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.color import rgb2lab

from skyloom.ops.display.lab import decoded, encoded, lab_to_rgb, lightness, rgb_to_lab
from skyloom.ops.display.transfer import (
    Hyperbolic,
    asinh_transfer,
    curve_transfer,
    hyperbolic_transfer,
    midtones_transfer,
    solve_strength,
)
from skyloom.ops.errors import ConfigError

X = np.linspace(0.0, 1.0, 101)


@pytest.mark.parametrize("m", [0.02, 0.25, 0.5, 0.8])
def test_midtones(m: float) -> None:
    """MTF(0) = 0, MTF(m) = 1/2, MTF(1) = 1, and 0.25 at m = 0.1 is 0.75 by hand."""
    found = midtones_transfer(np.array([0.0, m, 1.0]), m)
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0], atol=1e-15)
    assert float(midtones_transfer(np.array(0.25), 0.1)) == pytest.approx(0.75)
    np.testing.assert_allclose(midtones_transfer(midtones_transfer(X, m), 1 - m), X, atol=1e-12)


def test_asinh() -> None:
    for x in (0.0, 0.01, 0.3, 1.0):
        expected = math.log(50 * x + math.sqrt((50 * x) ** 2 + 1)) / math.log(50 + math.sqrt(2501))
        assert float(asinh_transfer(np.array(x), 50.0)) == pytest.approx(expected)
    np.testing.assert_array_equal(asinh_transfer(X, 0.0), X)


def naive_base(u: float, d: float, b: float) -> float:
    if b == -1:
        return math.log(1 + d * u)
    if b < 0:
        return float((1 - (1 - b * d * u) ** ((b + 1) / b)) / (b + 1))
    return 1 - math.exp(-d * u) if b == 0 else float(1 - (1 + b * d * u) ** (-1 / b))


def naive_ghs(x: float, d: float, b: float, sp: float, lp: float, hp: float) -> float:
    """The published pieces: a line below LP, -T(SP - x) up to SP, T(x - SP) up to HP, a line beyond; 0…1."""

    def slope(u: float) -> float:
        step = 1e-6
        return (naive_base(u + step, d, b) - naive_base(u - step, d, b)) / (2 * step)

    def pieces(v: float) -> float:
        if v < lp:
            return -naive_base(sp - lp, d, b) - slope(sp - lp) * (lp - v)
        if v < sp:
            return -naive_base(sp - v, d, b)
        if v < hp:
            return naive_base(v - sp, d, b)
        return naive_base(hp - sp, d, b) + slope(hp - sp) * (v - hp)

    return (pieces(x) - pieces(0.0)) / (pieces(1.0) - pieces(0.0))


@pytest.mark.parametrize("b", [-1.0, -0.5, -2.0, 0.0, 1.0, 0.3, 6.0])
@pytest.mark.parametrize("points", [(0.0, 0.0, 1.0), (0.1, 0.02, 0.7), (0.3, 0.3, 0.3)])
def test_hyperbolic_stretch(b: float, points: tuple[float, float, float]) -> None:
    sp, lp, hp = points
    shape = Hyperbolic(2.5, b, sp, lp, hp)
    found = hyperbolic_transfer(X, shape)
    expected = [naive_ghs(float(x), math.expm1(2.5), b, sp, lp, hp) for x in X]
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found[[0, -1]], [0, 1], atol=1e-15)
    np.testing.assert_array_equal(hyperbolic_transfer(X, Hyperbolic(0.0, b, sp, lp, hp)), X)


def test_curves_pass_their_points_and_never_swing() -> None:
    found = curve_transfer(X, [[0.25, 0.1], [0.3, 0.8], [0.75, 0.82]])
    np.testing.assert_allclose(found[[0, 25, 30, 75, 100]], [0, 0.1, 0.8, 0.82, 1], atol=1e-12)
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(curve_transfer(X, [[0.5, 0.5]]), X, atol=1e-12)
    for wrong, says in (
        ([[0.5]], "is no point"),
        ([[0.5, 1.5]], "is no point"),
        ([[0.5, 0.5], [0.4, 0.6]], "does not rise"),
    ):
        with pytest.raises(ConfigError, match=says):
            curve_transfer(X, wrong)


def test_strength_for_a_level() -> None:
    found = solve_strength(0.01, 0.25, lambda x, s: float(asinh_transfer(np.array(x), s)), highest=1e7)
    assert float(asinh_transfer(np.array(0.01), found)) == pytest.approx(0.25, rel=1e-9)
    assert solve_strength(0.5, 0.25, lambda x, s: x, highest=10.0) == 0.0


def test_points_out_of_order() -> None:
    with pytest.raises(ConfigError, match=r"protect_shadows = 0.5, symmetry = 0.2"):
        Hyperbolic(1.0, 0.0, 0.2, 0.5, 1.0).check()


@pytest.mark.parametrize(
    ("rgb", "lab"),
    # Published values of the sRGB primaries and of two greys (D65, 2°), as scikit-image and colour give them.
    [
        ((1, 0, 0), (53.2406, 80.0923, 67.2028)),
        ((0, 1, 0), (87.7351, -86.1829, 83.1803)),
        ((0, 0, 1), (32.2957, 79.1878, -107.8602)),
        ((1, 1, 1), (100.0, 0.0, 0.0)),
        ((0.5, 0.5, 0.5), (53.3890, 0.0, 0.0)),
        ((0.02, 0.02, 0.02), (1.3984, 0.0, 0.0)),
    ],
)
def test_lab(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    found = rgb_to_lab(np.array(rgb, dtype=float)[:, None])[:, 0]
    np.testing.assert_allclose(found, lab, atol=0.01)
    if len(set(rgb)) == 1:
        assert float(lightness(np.array(rgb[0]))) == pytest.approx(lab[0], abs=0.01)


def test_lab_is_scikit_image_s() -> None:
    rgb = np.random.default_rng(5).uniform(0, 1, (3, 30, 20))
    # Its white point has five digits.
    np.testing.assert_allclose(rgb_to_lab(rgb), rgb2lab(rgb, channel_axis=0), atol=3e-4)


def test_lab_and_back() -> None:
    rgb = np.random.default_rng(2).uniform(0, 1, (3, 20, 30))
    np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-6)
    np.testing.assert_allclose(encoded(decoded(rgb)), rgb, atol=1e-12)
