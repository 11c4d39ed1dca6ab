"""Ghosts, reflections, wisps: contiguous light in the difference of a frame, tens to hundreds of pixels wide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter, label

from skyloom.ops.artifacts.blob_edges import until_light_ends
from skyloom.ops.artifacts.difference import Difference
from skyloom.ops.robust import select

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice]

LEVELS = 5
"""Sizes looked for, each twice the one before."""
SCALE = 1.5
"""Standard deviation of the Gaussian with which light is gathered, in cells of each level."""
AROUND = 4.0
"""Standard deviation of the Gaussian that tells the level around, in the same unit of the first."""
SPECK = 2.5
"""Blocks further than this from 0 and from their surroundings (errors) are no part of a blob."""
CUT = 5.0
"""No block counts more than this many of its errors."""
BRIGHTEST = 40.0
"""The same where a blob has been found: what it shines with says where it ends."""
DARK = -2.0
"""Blocks that are darker than this (errors, mean over some ten blocks) are left out."""
EDGE = 0.5
"""A blob's beginnings reach to where its significance is this part of what makes one."""
LEAST_PLACES = 12.0
"""Independent places a frame must have at a level."""
DATA = 0.15
"""Least part of what is gathered that must have data."""
GAP = 6.0
"""Radius of the gaps in a blob that belong to it (blocks)."""
FINER = 4
"""Cells in which a blob is found have this many times the side of those in which its edge is."""
MOST_GROWTH = 2.0
"""A blob grows by at most this many times its own half-width."""
WIDEST = 0.4
"""What covers more of a frame than this is no blob but a frame that differs."""


@njit(nogil=True, cache=True)
def without_specks(ratio: NDArray[np.float32], limit: float) -> NDArray[np.float32]:
    """Return a plane whose values beyond ±`limit` that are as far from the median of 5 × 5 are that median.

    Cosmic rays and what is left of stars cover up to 3 × 3 blocks; a blob covers most of the 25.
    """
    rows, columns = ratio.shape
    out = ratio.copy()
    near = np.empty(25, dtype=np.float32)
    for y in range(rows):
        for x in range(columns):
            if not abs(ratio[y, x]) > limit:
                continue
            n = 0
            for j in range(max(y - 2, 0), min(y + 3, rows)):
                for i in range(max(x - 2, 0), min(x + 3, columns)):
                    if np.isfinite(ratio[j, i]):
                        near[n] = ratio[j, i]
                        n += 1
            middle = select(near, n, n // 2)
            if abs(ratio[y, x] - middle) > limit:
                out[y, x] = middle
    return out


@dataclass(frozen=True)
class _Level:
    """Light in cells of one size; sums of value / error² and 1 / error² in common units."""

    light: Plane
    weight: Plane
    significance: Plane
    """Of what is gathered at each place, in its robust scatter where that exceeds 1; -inf without data."""


def find_blobs(difference: Difference, taken: Mask, *, threshold: float) -> tuple[Mask, int]:
    """Blocks that blobs cover, and how many blobs there are.

    Parameters
    ----------
    difference
        The frame against the others.
    taken
        Blocks that are masked already.
    threshold
        Least significance: light under a Gaussian, above the level around, over its error.

    Notes
    -----
    From small to large: what is found in one size is left out in the next.
    """
    ratio = without_specks((difference.value / difference.error).astype(np.float32), SPECK)
    known = np.isfinite(ratio) & ~taken
    found = np.zeros(known.shape, dtype=np.bool_)
    if not known.any():
        return found, 0
    unit = np.float32(np.median(difference.error[known]))
    # A trail of another frame is dark in this one where frames are few, and would make its sides look bright.
    known &= ~(gaussian_filter(np.where(known, np.clip(ratio, -CUT, CUT), 0.0), 1.0, truncate=3.0) < DARK)
    inverse = np.where(known, unit / np.maximum(difference.error, 1e-6 * unit), 0.0).astype(np.float32)
    light = np.where(known, np.clip(ratio, -CUT, CUT), 0.0).astype(np.float32) * inverse
    whole = np.where(known, np.clip(ratio, -CUT, BRIGHTEST), 0.0).astype(np.float32) * inverse
    weight = inverse * inverse
    places, count = float(known.sum()), 0
    sizes = [2**k for k in range(LEVELS) if places >= LEAST_PLACES * 4.0 * math.pi * (SCALE * 2**k) ** 2]
    levels = [_level(light, weight, size) for size in sizes]
    for k, size in enumerate(sizes):
        level = _level(light, weight, size) if found.any() else levels[k]
        blobs = _blobs_of(level, levels[k + 1] if k + 1 < len(levels) else None, threshold)
        if not blobs:
            continue
        # How far they reach is seen in cells smaller than those they are found in.
        small = max(size // FINER, 1)
        cells = _sums(whole, small), _sums(weight, small)
        new = np.zeros(cells[0].shape, dtype=np.bool_)
        for inside, box in blobs:
            if inside.sum() * size * size < WIDEST * places:
                _draw(new, _enlarged(inside, size // small), _scaled(box, size // small), *cells)
                count += 1
        wide = _enlarged(new, small)[: known.shape[0], : known.shape[1]]
        found |= wide
        light[wide] = whole[wide] = weight[wide] = 0
    return _closed(found) & np.isfinite(ratio), count


def _closed(found: Mask) -> Mask:
    """With the gaps that stars and filaments leave in a blob: what no disc of `GAP` blocks between fits into."""
    if not found.any():
        return found
    padded = np.pad(found, math.ceil(GAP))
    wide = distance_transform_edt(~padded) <= GAP
    inner = distance_transform_edt(wide) > GAP
    edge = math.ceil(GAP)
    return np.asarray(found | inner[edge:-edge, edge:-edge])


def _level(light: Plane, weight: Plane, size: int) -> _Level:
    light, weight = _sums(light, size), _sums(weight, size)
    significance = gathered(light, weight, SCALE, full=float(size * size))
    valid = np.isfinite(significance)
    if valid.any():
        centre = np.float32(np.median(significance[valid]))
        scatter = max(1.4826 * float(np.median(np.abs(significance[valid] - centre))), 1.0)
        significance = (significance - centre) / np.float32(scatter)
    return _Level(light, weight, np.where(valid, significance, np.float32(-np.inf)))


def _sums(plane: Plane, size: int) -> Plane:
    """Sums over cells of `size` × `size`."""
    if size == 1:
        return plane
    rows, columns = (-(-n // size) for n in plane.shape)
    padded = np.zeros((rows * size, columns * size), dtype=np.float32)
    padded[: plane.shape[0], : plane.shape[1]] = plane
    return np.asarray(padded.reshape(rows, size, columns, size).sum(axis=(1, 3), dtype=np.float32))


def gathered(light: Plane, weight: Plane, scale: float, *, full: float) -> Plane:
    """Significance of the light under a Gaussian above that of one `AROUND` times as wide; NaN without data.

    Parameters
    ----------
    light, weight
        Sums of value / error² and 1 / error², in common units; 0 = no data.
    scale
        Standard deviation of the Gaussian (cells).
    full
        Weight of a cell full of data.
    """

    def smooth(plane: Plane, sigma: float) -> Plane:
        return np.asarray(gaussian_filter(plane, sigma, mode="constant", truncate=3.0))

    # The square of a Gaussian is one of 1/√2 of its width, of height 1 / (4π scale²).
    squares = smooth(weight, scale / math.sqrt(2.0)) / np.float32(4.0 * math.pi * scale * scale)
    here, around = smooth(weight, scale), smooth(weight, AROUND * scale)
    enough = here > DATA * full
    tiny = np.float32(1e-12)
    level = smooth(light, AROUND * scale) / np.maximum(around, tiny)
    excess = smooth(light, scale) - level * here
    return np.where(enough, excess / np.sqrt(np.maximum(squares, tiny)), np.float32(np.nan))


def _enlarged(mask: Mask, by: int) -> Mask:
    return np.asarray(np.repeat(np.repeat(mask, by, axis=0), by, axis=1))


def _scaled(box: Box, by: int) -> Box:
    return slice(box[0].start * by, box[0].stop * by), slice(box[1].start * by, box[1].stop * by)


def _blobs_of(level: _Level, larger: _Level | None, threshold: float) -> list[tuple[Mask, Box]]:
    """Find what is connected around what is above the threshold: cells of a box, and the box.

    What stands out more in the next larger size is left to that.
    """
    significance = level.significance
    if not (significance > threshold).any():
        return []
    labels, _ = label(significance > EDGE * threshold)
    boxes = find_objects(labels)
    found = []
    for number in np.unique(labels[significance > threshold]).tolist():
        box = boxes[number - 1]
        inside = labels[box] == number
        if larger is not None:
            part = larger.significance[tuple(slice(s.start // 2, -(-s.stop // 2)) for s in box)]
            if part.max() > max(float(significance[box][inside].max()), threshold):
                continue
        # Around what is darker than the others the level around is low: there is no light in such a ring.
        total, weight = (float(p[box][inside].sum(dtype=np.float64)) for p in (level.light, level.weight))
        if total > threshold * math.sqrt(weight):
            found.append((inside, box))
    return found


def _draw(out: Mask, inside: Mask, box: Box, light: Plane, weight: Plane) -> None:
    """Draw a blob that is `inside` its box, grown to where its light ends."""
    half = float(distance_transform_edt(np.pad(inside, 1)).max())
    reach = math.ceil(MOST_GROWTH * half) + 3
    wide = tuple(
        slice(max(s.start - reach, 0), min(s.stop + reach, n)) for s, n in zip(box, out.shape, strict=True)
    )
    blob = np.zeros([s.stop - s.start for s in wide], dtype=np.bool_)
    # Enlarged cells may stick out of the frame.
    part = tuple(slice(0, min(s.stop, w.stop) - s.start) for s, w in zip(box, wide, strict=True))
    at = tuple(slice(s.start - w.start, min(s.stop, w.stop) - w.start) for s, w in zip(box, wide, strict=True))
    blob[at] = inside[part]
    out[wide] |= until_light_ends(blob, light[wide], weight[wide], reach)
