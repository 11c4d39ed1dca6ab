"""Surfaces over a frame."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import legendre as numpy_legendre

from skyloom.ops.normalization.legendre import HIGHEST_ORDER, ORDERS, evaluate, fill_terms, legendre, surface_at


def test_legendre_terms() -> None:
    s, t = np.meshgrid(np.linspace(-1, 1, 7), np.linspace(-1, 1, 5))
    table = np.zeros((3, 3))
    table[0, 0], table[1, 0], table[0, 1], table[2, 0], table[1, 1], table[0, 2] = 1, 2, 3, 4, 5, 6
    expected = numpy_legendre.legval2d(s, t, table)
    assert np.allclose(legendre(s, t, 2) @ np.arange(1.0, 7.0), expected)
    assert legendre(s, t, 1).shape == (5, 7, 3)


@pytest.mark.parametrize("order", range(HIGHEST_ORDER + 1))
def test_kernels_make_the_same_terms(order: int) -> None:
    u, v = np.random.default_rng(order).uniform(size=(2, 50)).astype(np.float32)
    expected = legendre(2.0 * u.astype(np.float64) - 1.0, 2.0 * v.astype(np.float64) - 1.0, order)
    row, c = np.empty(len(ORDERS[order])), np.random.default_rng(9).normal(size=len(ORDERS[order]))
    for i in range(50):
        assert surface_at(u, v, i, order, c) == pytest.approx(float(expected[i] @ c), abs=1e-13)
        fill_terms(u, v, i, order, row)
        np.testing.assert_allclose(row, expected[i], rtol=0, atol=1e-14)


@pytest.mark.parametrize("order", range(HIGHEST_ORDER + 1))
def test_terms_span_all_polynomials_of_their_degree(order: int) -> None:
    rng = np.random.default_rng(order)
    s, t = rng.uniform(-1, 1, (2, 200))
    terms = legendre(s, t, order)
    assert terms.shape[1] == len(ORDERS[order]) == (order + 1) * (order + 2) // 2
    monomials = np.stack([s**i * t**j for i in range(order + 1) for j in range(order + 1 - i)], axis=-1)
    fitted = terms @ np.linalg.lstsq(terms, monomials, rcond=None)[0]
    np.testing.assert_allclose(fitted, monomials, atol=1e-12)
    corner = evaluate(np.ones(terms.shape[1]), np.array([1.0]), np.array([1.0]))
    assert corner == pytest.approx(terms.shape[1]), "Legendre terms are 1 in the corner"
