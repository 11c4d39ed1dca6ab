"""Samples of the same sky from every frame: cells of frames → superpixels of one lattice on the canvas.

Differences of frames are unbiased in nebulosity only if both sides are means over the same sky. Frames keep means
over their own cells; here each cell map is reconstructed at the points of one lattice, points near any star of
any frame are dropped for all frames, and what is left is averaged over superpixels that a frame covers wholly.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.normalization.frame_map import FrameMap
from skyloom.ops.normalization.lattice import Lattice
from skyloom.ops.normalization.observations import Samples, no_samples

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SIDES = 32
"""Superpixels along the shorter side of a frame, unless the user chooses: ~1000 samples a frame at any size."""
LEAST_VALID = 0.3
"""Part of a cell's pixels that must have entered its mean."""
LEAST_POINTS = 0.25
"""Part of a superpixel's points that must be free of stars."""
STRUCTURE = 0.1
"""Error of a sample in units of the local change from cell to cell (PSF, mask and position differences)."""
MULTIPLICATIVE = 0.002
"""Error of a sample in units of its height above the sky (scale and flat errors)."""
LEAST_VARIANCE = 1e-30
"""Beside the rounding of a sample: frames without noise (simulated, masters) must still have a finite weight."""


def fill_holes(mean: Floats) -> Floats:
    """Fill single holes of a map from opposite neighbours (exact for planes), twice; larger ones stay NaN."""
    out = mean.copy()
    for _ in range(2):
        hole = ~np.isfinite(out)
        if not hole.any():
            break
        padded = np.pad(out, 1, constant_values=np.nan)
        rows, columns = out.shape
        total, count = np.zeros_like(out), np.zeros_like(out)
        for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
            one = padded[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns]
            other = padded[1 - dy : 1 - dy + rows, 1 - dx : 1 - dx + columns]
            pair = one + other
            good = np.isfinite(pair)
            total[good] += 0.5 * pair[good]
            count += good
        new = hole & (count > 0)
        out[new] = total[new] / count[new]
    return out


def extend(mean: Floats) -> Floats:
    """One more row and column on each side, by the parabola through the last three."""
    for _ in range(2):
        first = 3 * mean[0] - 3 * mean[1] + mean[2]
        last = 3 * mean[-1] - 3 * mean[-2] + mean[-3]
        mean = np.concatenate([first[None], mean, last[None]]).T
    return mean


def smooth(mean: Floats) -> Floats:
    """Take off what cells cannot carry: ¼, ½, ¼ along both axes, along the rim only at the outermost cells.

    Structure near two cells comes out of any interpolation by the phase of the cells, differently in every frame.
    What a smooth sky loses is the same for all frames, however they are turned.
    """
    for _ in range(2):
        inner = 0.25 * mean[:-2] + 0.5 * mean[1:-1] + 0.25 * mean[2:]
        mean = np.concatenate([mean[:1], inner, mean[-1:]]).T
    return mean


@njit(nogil=True, cache=True, fastmath=False)
def _cubic(t, out):  # type: ignore[no-untyped-def]
    """Keys' convolution weights (a = −½) of the four cells around a point; exact for parabolas."""
    out[0] = ((-0.5 * t + 1.0) * t - 0.5) * t
    out[1] = (1.5 * t - 2.5) * t * t + 1.0
    out[2] = ((-1.5 * t + 2.0) * t + 0.5) * t
    out[3] = (0.5 * t - 0.5) * t * t


UNMASKED, OUTSIDE, COUNT, VALUE, VARIANCE, X, Y = range(7)
"""Sums over the points of a superpixel: those free of stars, those of them beyond the frame, those that count;
of the latter J·d, its variance, and the position in the frame."""


@njit(nogil=True, cache=True, fastmath=False)
def _average(x, y, area, dropped, cell, padded, noise, group):  # type: ignore[no-untyped-def]
    """Sums over superpixels of `group` × `group` points, shape (superpixels in y, in x, 7).

    `padded` is the map of means with one more cell on each side, `noise` that of variances without.
    """
    rows, columns = noise.shape
    out = np.zeros((x.shape[0] // group, x.shape[1] // group, 7))
    wx, wy = np.empty(4), np.empty(4)
    for j in range(x.shape[0]):
        for i in range(x.shape[1]):
            if dropped[j, i]:
                continue
            sums = out[j // group, i // group]
            sums[UNMASKED] += 1.0
            cx, cy = (x[j, i] + 0.5) / cell - 0.5, (y[j, i] + 0.5) / cell - 0.5
            if not (cx >= 0 and cx <= columns - 1 and cy >= 0 and cy <= rows - 1):
                sums[OUTSIDE] += 1.0
                continue
            ix, iy = min(int(cx), columns - 2), min(int(cy), rows - 2)
            tx, ty = cx - ix, cy - iy
            _cubic(tx, wx)
            _cubic(ty, wy)
            value = 0.0
            for b in range(4):
                for a in range(4):
                    value += wy[b] * wx[a] * padded[iy + b, ix + a]
            spread = 0.0
            for b in range(2):
                for a in range(2):
                    weight = (ty if b else 1.0 - ty) * (tx if a else 1.0 - tx)
                    # A cell that does not count for the point may be missing.
                    if weight > 0:
                        spread += weight * noise[iy + b, ix + a]
            if np.isfinite(value) and np.isfinite(spread):
                sums[COUNT] += 1.0
                sums[VALUE] += value * area[j, i]
                sums[VARIANCE] += spread * area[j, i] ** 2
                sums[X] += x[j, i]
                sums[Y] += y[j, i]
    return out


def sample_frame(
    cells: NDArray[np.float32],
    shape: tuple[int, int],
    cell: int,
    mapping: FrameMap,
    lattice: Lattice,
    dropped: Bools,
) -> Samples:
    """Superpixels of one frame.

    Parameters
    ----------
    cells
        (cell_y, cell_x, 3): mean, error, valid fraction, from pixel (0, 0) on; may be padded.
    shape
        Rows, columns of the frame.
    cell
        Side of a cell (pixels).
    mapping
        Canvas → frame.
    lattice, dropped
        The points, and those that no frame may use (`drop_stars`).

    Returns
    -------
    Samples
        Only superpixels which the frame covers wholly.
    """
    height, width = shape
    # A cell cut by the frame's edge has its centre elsewhere.
    cells = cells[: height // cell, : width // cell].astype(np.float64)
    rows, columns = cells.shape[:2]
    if min(rows, columns) < 3:
        return no_samples()
    good = (cells[..., 2] >= LEAST_VALID) & np.isfinite(cells[..., 0]) & np.isfinite(cells[..., 1])
    if not good.any():
        return no_samples()
    mean = fill_holes(np.where(good, cells[..., 0], np.nan))
    noise = np.where(good, cells[..., 1], np.nan) ** 2 + _structure(mean)

    size = lattice.step * lattice.group
    left, right, low, high = mapping.bounds
    sx0, sx1 = max(int((left + 0.5) // size), 0), min(int((right + 0.5) // size) + 1, lattice.shape[1])
    sy0, sy1 = max(int((low + 0.5) // size), 0), min(int((high + 0.5) // size) + 1, lattice.shape[0])
    if sx0 >= sx1 or sy0 >= sy1:
        return no_samples()
    x = lattice.positions(sx0 * lattice.group, sx1 * lattice.group)
    y = lattice.positions(sy0 * lattice.group, sy1 * lattice.group)
    window = dropped[sy0 * lattice.group : sy1 * lattice.group, sx0 * lattice.group : sx1 * lattice.group]
    padded = np.ascontiguousarray(extend(smooth(mean)))
    sums = _average(*mapping.grid(x, y), window, cell, padded, noise, lattice.group)
    # Holes of one frame inside a superpixel are let pass when small; its rim must be the same for all.
    free, count = sums[..., UNMASKED], sums[..., COUNT]
    whole = (sums[..., OUTSIDE] == 0) & (free >= max(1.0, LEAST_POINTS * lattice.group**2)) & (count >= 0.8 * free)
    sy, sx = np.nonzero(whole)
    if not len(sy):
        return no_samples()
    point = lattice.ids(sy + sy0, sx + sx0)
    order = np.argsort(point)
    here = sums[sy[order], sx[order]]
    number = here[:, COUNT]
    value = here[:, VALUE] / number
    level = float(np.median(value))
    error = (1e-7 * level) ** 2 + (MULTIPLICATIVE * (value - level)) ** 2 + LEAST_VARIANCE
    return Samples(
        point[order].astype(np.int32),
        value,
        (here[:, VARIANCE] / number**2 + error).astype(np.float32),
        (here[:, X] / number / (width - 1)).astype(np.float32),
        (here[:, Y] / number / (height - 1)).astype(np.float32),
    )


def _structure(mean: Floats) -> Floats:
    """Variance of cells for what changes within them: slope of the map without its plane."""
    rows, columns = mean.shape
    v, u = (g - 0.5 for g in np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij"))
    good = np.isfinite(mean)
    design = np.stack([np.ones_like(u), u, v], axis=-1)
    held = design[good]
    plane = design @ np.linalg.lstsq(held.T @ held, held.T @ mean[good], rcond=None)[0]
    slope_y, slope_x = np.gradient(mean - plane)
    return np.asarray(STRUCTURE**2 * np.nan_to_num(slope_x**2 + slope_y**2))
