"""Smooth surfaces over a frame: Legendre products of its detector coordinates."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.polynomial.legendre import legvander
from numpy.typing import NDArray

Floats = NDArray[np.float64]

HIGHEST_ORDER = 4
ORDERS = {n: np.repeat(np.arange(n + 1), np.arange(1, n + 2)) for n in range(HIGHEST_ORDER + 1)}
"""Order of each Legendre term of a surface of total degree 0, 1, …"""


def legendre(s: Floats, t: Floats, order: int) -> Floats:
    """Legendre products of total degree ≤ order.

    Parameters
    ----------
    s, t
        Positions, −1…1, of one shape.
    order
        Total degree, 0…`HIGHEST_ORDER`.

    Returns
    -------
    ndarray
        Shape `s.shape + (K,)`, K = 1, 3, 6, …: 1, s, t, P₂(s), s·t, P₂(t), P₃(s), P₂(s)·t, …
    """
    along_s, along_t = legvander(s, order), legvander(t, order)
    out = np.empty((*np.shape(s), len(ORDERS[order])))
    degrees = [(n, k) for n in range(order + 1) for k in range(n + 1)]
    for term, (n, k) in enumerate(degrees):
        np.multiply(along_s[..., n - k], along_t[..., k], out=out[..., term])
    return out


def evaluate(coefficients: Floats, u: Floats, v: Floats) -> Floats:
    """Surface of one frame at normalized detector coordinates (0…1)."""
    order = next(n for n, terms in ORDERS.items() if len(terms) == coefficients.shape[-1])
    return np.asarray(legendre(2.0 * u - 1.0, 2.0 * v - 1.0, order) @ coefficients)


@njit(nogil=True, cache=True, fastmath=False)
def fill_terms(u, v, i, order, row):  # type: ignore[no-untyped-def]
    """`legendre` of sample i inside a kernel: about as fast as reading the terms from memory.

    With order 0, u and v may be empty.
    """
    row[0] = 1.0
    if order == 0:
        return
    s, t = 2.0 * u[i] - 1.0, 2.0 * v[i] - 1.0
    row[1], row[2] = s, t
    if order == 1:
        return
    s2, t2 = 1.5 * s * s - 0.5, 1.5 * t * t - 0.5
    row[3], row[4], row[5] = s2, s * t, t2
    if order == 2:
        return
    s3, t3 = (2.5 * s * s - 1.5) * s, (2.5 * t * t - 1.5) * t
    row[6], row[7], row[8], row[9] = s3, s2 * t, s * t2, t3
    if order == 3:
        return
    s4, t4 = (4.375 * s * s - 3.75) * s * s + 0.375, (4.375 * t * t - 3.75) * t * t + 0.375
    row[10], row[11], row[12], row[13], row[14] = s4, s3 * t, s2 * t2, s * t3, t4


@njit(nogil=True, cache=True, fastmath=False)
def surface_at(u, v, i, order, c):  # type: ignore[no-untyped-def]
    """Surface with coefficients c at sample i: what `fill_terms` · c would be, in fewer and shorter sums."""
    if order == 0:
        return c[0]
    s, t = 2.0 * u[i] - 1.0, 2.0 * v[i] - 1.0
    if order == 1:
        return c[0] + c[1] * s + c[2] * t
    s2, t2 = 1.5 * s * s - 0.5, 1.5 * t * t - 0.5
    if order == 2:
        return (c[0] + c[1] * s + c[3] * s2) + (c[2] + c[4] * s) * t + c[5] * t2
    s3, t3 = (2.5 * s * s - 1.5) * s, (2.5 * t * t - 1.5) * t
    flat, tilted = c[0] + c[1] * s + c[3] * s2 + c[6] * s3, c[2] + c[4] * s + c[7] * s2
    if order == 3:
        return flat + tilted * t + (c[5] + c[8] * s) * t2 + c[9] * t3
    s4, t4 = (4.375 * s * s - 3.75) * s * s + 0.375, (4.375 * t * t - 3.75) * t * t + 0.375
    bent = (c[5] + c[8] * s + c[12] * s2) * t2
    return (flat + c[10] * s4) + (tilted + c[11] * s3) * t + bent + (c[9] + c[13] * s) * t3 + c[14] * t4
