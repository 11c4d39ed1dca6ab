"""Where the light of a blob ends: soon where its edge is sharp, late where it fades, along its own shape."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from scipy.special import erfc

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

LEFT = 0.003
"""Part of a blob's light that is left outside, by what is fitted: frames that are few and differ double it."""
CLEAR = 9.0
"""Errors by which light as bright as the blob's stands out where the line at half of it is drawn."""
PRICE = 1.05
"""What is drawn through noise explains a little more of it: that line has to do better than this."""
FLATTEST = 8.0
"""Largest ratio of the axes of the ellipses that a blob may follow."""


def until_light_ends(blob: Mask, light: Plane, weight: Plane, reach: int) -> Mask:
    """Grow or shrink a blob to where all but `LEFT` of its light is inside.

    Parameters
    ----------
    blob
        Where it is significant.
    light, weight
        Sums of value / error² and 1 / error² of the same cells, in common units; 0 = no data.
    reach
        Cells beyond the blob that are looked at.

    Notes
    -----
    Cells are ranked by their distance from the blob's edge, and by an ellipse of the moments of its light; where
    the blob's edge turns out to be far off, by the same of where smoothed light exceeds half of the blob's. Of
    light as a function of a rank, edges (error functions of any place and width) are fitted with a level outside,
    and Gaussians of the ellipses. The rank that explains most of the light is taken; the mean of what fits says
    how much light lies beyond where on it, which noise hides.
    """
    distance = _distance(blob)
    near = distance < reach
    half = _half_light(blob, light, weight) & near
    best, inside = 0.0, blob
    for shape, price in ((blob, 1.0), (half, PRICE)):
        for rank, rounded in ((_distance(shape), False), (_ellipse(shape, light), True)):
            gain, cut = _cut(rank[near], light[near], weight[near], rounded=rounded)
            grown = near & (rank <= cut)
            if gain > price * best:
                best, inside = gain, grown
    return inside


def _distance(blob: Mask) -> Floats:
    """Distance from the edge of a blob (cells), less than 0 inside."""
    inward = distance_transform_edt(np.pad(blob, 1))[1:-1, 1:-1]
    return np.asarray(np.where(blob, 0.5 - inward, distance_transform_edt(~blob) - 0.5))


def _half_light(blob: Mask, light: Plane, weight: Plane) -> Mask:
    """Where smoothed light is more than half of its mean over a blob, of one piece; the blob where none is."""
    heavy = weight[blob & (weight > 0)]
    if not heavy.size:
        return blob
    mean = float(light[blob].sum(dtype=np.float64)) / float(heavy.sum(dtype=np.float64))
    if mean <= 0:
        return blob
    # The error of what is under a Gaussian of standard deviation s is 1 / √(4π s² weight).
    scale = max(CLEAR / (mean * math.sqrt(4.0 * math.pi * float(np.median(heavy)))), 0.5)
    smooth, known = (gaussian_filter(p, scale, mode="constant", truncate=3.0) for p in (light, weight))
    labels, count = label((smooth > 0.5 * mean * known) & (known > 0))
    shares = np.bincount(labels[blob], minlength=count + 1)[1:]
    return np.asarray(labels == 1 + int(np.argmax(shares))) if shares.any() else blob


def _ellipse(blob: Mask, light: Plane) -> Floats:
    """Radius of the ellipse through each cell, of the shape of the blob's light and of a circle's area (cells)."""
    y, x = (p.astype(np.float64) for p in np.indices(blob.shape))
    share = np.where(blob, np.maximum(light, 0.0), 0.0).astype(np.float64)
    total = max(float(share.sum()), 1e-30)
    dy, dx = y - (share * y).sum() / total, x - (share * x).sum() / total
    yy, xx, yx = ((share * p).sum() / total + e for p, e in ((dy * dy, 0.1), (dx * dx, 0.1), (dy * dx, 0.0)))
    middle, half = 0.5 * (yy + xx), math.hypot(0.5 * (yy - xx), yx)
    # The ratio of the moments is that of the axes, squared.
    least = max(middle - half, (middle + half) / FLATTEST**2)
    angle, ratio = 0.5 * math.atan2(2.0 * yx, xx - yy), math.sqrt(math.sqrt(least / (middle + half)))
    along, across = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
    return np.asarray(np.hypot(along * ratio, across / ratio))


def _cut(rank: Floats, light: Plane, weight: Plane, *, rounded: bool) -> tuple[float, float]:
    """How much of the scatter the best profile explains (χ²), and the rank beyond which `LEFT` of its light is."""
    first = math.floor(float(rank.min()))
    number = np.floor(rank).astype(np.int64) - first
    size = int(number.max()) + 1
    cells = np.bincount(number, minlength=size).astype(np.float64)
    weights = np.bincount(number, weight.astype(np.float64), size)
    profile = np.bincount(number, light.astype(np.float64), size) / np.maximum(weights, 1e-12)
    total = max(float(weights.sum()), 1e-12)
    profile -= (weights * profile).sum() / total
    where = np.arange(size) + first + 0.5
    widths = np.geomspace(0.4, max(0.5 * size, 1.0), 16)
    places = np.linspace(first, first + size, 2 * size + 1)
    edges = 0.5 * erfc((where - places[:, None, None]) / (math.sqrt(2.0) * widths[:, None]))
    shapes, chance = edges.reshape(-1, size), np.full(widths.size * places.size, 1.0 / (widths.size * places.size))
    if rounded:
        sizes = np.geomspace(0.5, max(0.5 * size, 1.0), 64)
        shapes = np.concatenate([shapes, np.exp(-0.5 * (where / sizes[:, None]) ** 2)])
        chance = np.append(chance, np.full(sizes.size, 1.0 / sizes.size))
    flat = shapes - ((weights * shapes).sum(axis=-1) / total)[:, None]
    along = np.maximum((weights * flat * profile).sum(axis=-1), 0.0)
    gain = along * along / np.maximum((weights * flat * flat).sum(axis=-1), 1e-12)
    # Each shape counts as often as noise would make it look the best.
    chance *= np.exp(0.5 * (gain - gain.max()))
    beyond = np.cumsum((cells * shapes)[:, ::-1], axis=1)[:, ::-1]
    beyond = (chance[:, None] * beyond / np.maximum(beyond[:, :1], 1e-30)).sum(axis=0) / chance.sum()
    # Light from each rank on; the cut lies where the line between two falls to what may be left.
    beyond = np.append(beyond, 0.0)
    k = int(np.argmax(beyond <= LEFT))
    part = (beyond[k - 1] - LEFT) / max(beyond[k - 1] - beyond[k], 1e-30) if k else 0.0
    return float(gain.max()), first + k - 1 + float(part)
