"""Smooth fields over a frame: coarse grids of cubic B-spline coefficients.

A field (scale, offset) is kept as `nodes + 2` coefficients an axis over the frame's normalized
coordinates u = x / (width - 1), v = y / (height - 1), both 0…1 between the centres of the outer pixels.
A cubic B-spline holds every cubic polynomial exactly, so low-order surfaces lose nothing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NODES = 9
"""Knots an axis of a stored field; the record has `NODES + 2` coefficients an axis."""


def basis(u: NDArray[np.float64], *, nodes: int = NODES) -> NDArray[np.float64]:
    """Uniform cubic B-spline basis at `u`.

    Parameters
    ----------
    u
        Positions, any shape, nominally 0…1; beyond it the outermost polynomial goes on.
    nodes
        Knots over 0…1.

    Returns
    -------
    ndarray
        Shape `u.shape + (nodes + 2,)`; each row sums to 1.
    """
    u = np.asarray(u, dtype=np.float64)
    position = u * (nodes - 1)
    cell = np.clip(np.floor(position), 0, nodes - 2)
    t = position - cell
    pieces = np.stack(
        [
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        ],
        axis=-1,
    )
    out = np.zeros((*u.shape, nodes + 2))
    index = cell.astype(np.intp)[..., None] + np.arange(4)
    np.put_along_axis(out, index, pieces, axis=-1)
    return out


def evaluate(
    coefficients: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Value of a field at normalized positions.

    Parameters
    ----------
    coefficients
        Shape (nodes + 2, nodes + 2), v first.
    u, v
        Normalized x and y of equal shape.
    """
    nodes = coefficients.shape[0] - 2
    flat_u, flat_v = np.ravel(u), np.ravel(v)
    across = basis(flat_v, nodes=nodes) @ coefficients
    return np.asarray(np.sum(across * basis(flat_u, nodes=nodes), axis=-1).reshape(np.shape(u)))


@lru_cache(maxsize=8)
def _fit_matrix(nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    samples = np.linspace(0.0, 1.0, 3 * nodes)
    return samples, np.asarray(np.linalg.pinv(basis(samples, nodes=nodes)), dtype=np.float64)


def sample_positions(*, nodes: int = NODES) -> NDArray[np.float64]:
    """Positions along one axis at which `fit` wants its values (0…1)."""
    return _fit_matrix(nodes)[0]


def fit(values: NDArray[np.float64], *, nodes: int = NODES) -> NDArray[np.float64]:
    """Least-squares coefficients of a field sampled on `sample_positions` × `sample_positions`.

    Parameters
    ----------
    values
        Shape (3 nodes, 3 nodes), v first.

    Returns
    -------
    ndarray
        Shape (nodes + 2, nodes + 2).
    """
    inverse = _fit_matrix(nodes)[1]
    return np.asarray(inverse @ values @ inverse.T)


def constant(value: float, *, nodes: int = NODES) -> NDArray[np.float64]:
    """Coefficients of a field of one value."""
    return np.full((nodes + 2, nodes + 2), float(value))
