"""Coarse B-spline records of smooth fields."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import BSpline

from skyloom.ops import surface


def test_cubics_are_held_exactly_also_a_little_outside() -> None:
    s = surface.sample_positions()
    u, v = np.meshgrid(s, s)

    def field(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return np.asarray(3 + 2 * u - v**2 + 0.5 * u * v**2 + u**3)

    coefficients = surface.fit(field(u, v))
    rng = np.random.default_rng(1)
    u, v = rng.uniform(-0.01, 1.01, (2, 500))
    np.testing.assert_allclose(surface.evaluate(coefficients, u, v), field(u, v), atol=1e-12)


def test_basis_is_scipy_s() -> None:
    nodes = 5
    knots = np.arange(-3, nodes + 3) / (nodes - 1)
    u = np.linspace(0, 1, 41)[:-1]
    expected = BSpline.design_matrix(u, knots, 3).toarray()
    np.testing.assert_allclose(surface.basis(u, nodes=nodes), expected, atol=1e-12)


def test_v_comes_first() -> None:
    s = surface.sample_positions()
    _, v = np.meshgrid(s, s)
    coefficients = surface.fit(v)
    assert surface.evaluate(coefficients, np.array(0.1), np.array(0.8)) == pytest.approx(0.8)
    assert surface.evaluate(surface.constant(7.0), np.array(0.3), np.array(0.9)) == pytest.approx(7.0)
