"""The joint solve's passes over all samples, one kernel each.

Arguments as in `Observations` (start, point, u, v, order, gain) and `System` (weight, inverse_depth).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from skyloom.ops.normalization.legendre import fill_terms, surface_at


@njit(nogil=True, cache=True, fastmath=False)
def _gain(gain, i):  # type: ignore[no-untyped-def]
    return gain[i] * 1.0 if len(gain) else 1.0


@njit(nogil=True, cache=True, fastmath=False)
def sum_weights(point, weight, points):  # type: ignore[no-untyped-def]
    """Sum of weights over each point."""
    out = np.zeros(points)
    for i in range(len(point)):
        out[point[i]] += weight[i]
    return out


@njit(nogil=True, cache=True, fastmath=False)
def apply_normal(start, point, u, v, order, gain, weight, inverse_depth, x):  # type: ignore[no-untyped-def]
    """Evaluate, coadd, subtract, project back: (ΦᵀWΦ − C D⁻¹ Cᵀ) x."""
    frames, terms = x.shape
    row = np.empty(terms)
    value, mean = np.empty(len(point)), np.zeros(len(inverse_depth))
    for f in range(frames):
        c = x[f]
        for i in range(start[f], start[f + 1]):
            value[i] = _gain(gain, i) * surface_at(u, v, i, order, c)
            mean[point[i]] += weight[i] * value[i]
    for p in range(len(mean)):
        mean[p] *= inverse_depth[p]
    out = np.zeros_like(x)
    for f in range(frames):
        for i in range(start[f], start[f + 1]):
            fill_terms(u, v, i, order, row)
            rest = weight[i] * _gain(gain, i) * (value[i] - mean[point[i]])
            for k in range(terms):
                out[f, k] += rest * row[k]
    return out


@njit(nogil=True, cache=True, fastmath=False)
def sky_mean(point, weight, inverse_depth, value):  # type: ignore[no-untyped-def]
    """Weighted mean of samples over each point."""
    mean = np.zeros(len(inverse_depth))
    for i in range(len(point)):
        mean[point[i]] += weight[i] * value[i]
    for p in range(len(mean)):
        mean[p] *= inverse_depth[p]
    return mean


@njit(nogil=True, cache=True, fastmath=False)
def project_rest(start, point, u, v, order, gain, weight, mean, value, terms):  # type: ignore[no-untyped-def]
    """ΦᵀW (value − mean over the point)."""
    frames = len(start) - 1
    row = np.empty(terms)
    out = np.zeros((frames, terms))
    for f in range(frames):
        for i in range(start[f], start[f + 1]):
            fill_terms(u, v, i, order, row)
            rest = weight[i] * _gain(gain, i) * (value[i] - mean[point[i]])
            for k in range(terms):
                out[f, k] += rest * row[k]
    return out


@njit(nogil=True, cache=True, fastmath=False)
def subtract_surfaces(start, u, v, order, gain, value, x, out):  # type: ignore[no-untyped-def]
    """Value − Φ x of each sample."""
    for f in range(len(x)):
        c = x[f]
        for i in range(start[f], start[f + 1]):
            out[i] = value[i] - _gain(gain, i) * surface_at(u, v, i, order, c)


@njit(nogil=True, cache=True, fastmath=False)
def subtract_sky(point, mean, value):  # type: ignore[no-untyped-def]
    """Take the sky off samples, in place."""
    for i in range(len(point)):
        value[i] -= mean[point[i]]


@njit(nogil=True, cache=True, fastmath=False)
def frame_blocks(start, point, u, v, order, gain, weight, inverse_depth, terms):  # type: ignore[no-untyped-def]
    """ΦᵀWΦ of each frame, and the same with W less each sample's share in its own sky; (frames, K, K) each."""
    frames = len(start) - 1
    row = np.empty(terms)
    whole, alone = np.zeros((frames, terms, terms)), np.zeros((frames, terms, terms))
    for f in range(frames):
        for i in range(start[f], start[f + 1]):
            fill_terms(u, v, i, order, row)
            share = weight[i] * inverse_depth[point[i]]
            w = weight[i] * _gain(gain, i) ** 2
            own = w * (1.0 - share)
            for k in range(terms):
                for m in range(k + 1):
                    product = row[k] * row[m]
                    whole[f, k, m] += w * product
                    alone[f, k, m] += own * product
        for k in range(terms):
            for m in range(k):
                whole[f, m, k] = whole[f, k, m]
                alone[f, m, k] = alone[f, k, m]
    return whole, alone


@njit(nogil=True, cache=True, fastmath=False)
def couple_points(  # type: ignore[no-untyped-def]
    start, point, u, v, order, gain, weight, inverse_depth, group, transform, cursor, low, high, slot, members, c
):
    """C D^-½ of the points from `low` to `high`, transposed: a row a point, columns for the groups that see it.

    `cursor` is where each frame goes on; `slot` is −1 everywhere, before and after. Returns the groups found.
    """
    frames, terms, columns = transform.shape
    row = np.empty(terms)
    found = 0
    for f in range(frames):
        i = cursor[f]
        if i >= start[f + 1] or point[i] >= high:
            continue
        g = group[f]
        if slot[g] < 0:
            slot[g] = found
            members[found] = g
            c[:, found * columns : (found + 1) * columns] = 0.0
            found += 1
        base = slot[g] * columns
        while i < start[f + 1] and point[i] < high:
            fill_terms(u, v, i, order, row)
            factor = weight[i] * _gain(gain, i) * np.sqrt(inverse_depth[point[i]])
            at = point[i] - low
            for m in range(columns):
                total = 0.0
                for k in range(terms):
                    total += row[k] * transform[f, k, m]
                c[at, base + m] += factor * total
            i += 1
        cursor[f] = i
    for k in range(found):
        slot[members[k]] = -1
    return found


@njit(nogil=True, cache=True, fastmath=False)
def scatter_products(out, product, members, columns):  # type: ignore[no-untyped-def]
    """Take the products of some groups off the matrix of all."""
    for a in range(len(members)):
        for b in range(len(members)):
            top, left = members[a] * columns, members[b] * columns
            for k in range(columns):
                for m in range(columns):
                    out[top + k, left + m] -= product[a * columns + k, b * columns + m]
