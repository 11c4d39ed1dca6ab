"""Outlier rejection and the mean or median over a stack of resampled frames.

Three passes over a stack (frame, row, column): the centre and scatter of each pixel; where something could be
rejected, how much disagreement its surroundings excuse; then decision, growth and the sums. The rules depend on
the number of samples of each pixel, not of the stack: mosaics have both 1 and 100 in one tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.integration.average import average
from skyloom.ops.integration.centres import find_centres
from skyloom.ops.integration.extents import find_extents
from skyloom.ops.integration.rejection import NONE, Rejection, esd_limits, spread_ranks
from skyloom.ops.integration.sorting import networks
from skyloom.ops.integration.tolerance import excuse_disagreement

Combination = Literal["mean", "median"]

PIXEL_BYTES = 4 + 4 + 4 + 4 + 4 + 2 + 1
"""Working bytes of `combine` a pixel, besides the stack and the result."""
CUT_BYTES = 4 + 4
"""More of them where a method gives limits of its own for each pixel."""

# n · variance of the median of n normal samples of variance 1, n = 1 … 20, by integration of its density.
_MEDIAN_LOSS = (1.0, 1.0, 1.346, 1.1928, 1.4342, 1.2885, 1.4731, 1.3455, 1.4949, 1.3834, 1.5088, 1.4103, 1.5184,
                1.4306, 1.5254, 1.4463, 1.5308, 1.4589, 1.535, 1.4692)  # fmt: skip


def working_bytes(depth: int, shape: tuple[int, int], *, rejection: Rejection, combination: str) -> float:
    """Bytes `combine` takes besides the stack and the result, for `depth` frames of that shape."""
    pixel = PIXEL_BYTES + (CUT_BYTES if rejection.rule.cut else 0)
    # Three rows of marks; where the median is wanted, one of values. Extents of rows.
    lines = depth * shape[1] * (3 + (4 if combination == "median" else 0)) + depth * shape[0] * 8
    return float(pixel * shape[0] * shape[1] + lines)


DEFAULT = Rejection()
_NO_FATES = np.empty((0, 0, 0), dtype=np.uint8)


@dataclass(frozen=True)
class Combined:
    """Result of `combine`, all of one shape."""

    image: NDArray[np.float32]
    weight: NDArray[np.float32]
    variance: NDArray[np.float32]
    count: NDArray[np.uint16]
    rejected_low: NDArray[np.uint16]
    rejected_high: NDArray[np.uint16]

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> Combined:
        """Return arrays of no data."""
        image, weight, variance = (np.full(shape, np.nan, dtype=np.float32) for _ in range(3))
        count, low, high = (np.zeros(shape, dtype=np.uint16) for _ in range(3))
        return cls(image, weight, variance, count, low, high)

    def rows(self, start: int, stop: int) -> Combined:
        """Views of some rows."""
        return Combined(*(a[start:stop] for a in vars(self).values()))


@lru_cache(maxsize=16)
def median_loss(frames: int) -> NDArray[np.float64]:
    """Variance of the median of n normal samples over that of their mean, for n = 0 … `frames`."""
    n = np.arange(frames + 1, dtype=np.float64)
    out = 0.5 * np.pi * (1.0 - np.where(n % 2, 0.43, 1.29) / np.maximum(n, 1.0))
    known = min(frames, len(_MEDIAN_LOSS))
    out[1 : known + 1] = _MEDIAN_LOSS[:known]
    return np.asarray(out)


def combine(
    stack: NDArray[np.float32],
    codes: NDArray[np.uint8],
    noise: NDArray[np.float64],
    weight: NDArray[np.float64],
    *,
    rejection: Rejection = DEFAULT,
    combination: Combination = "mean",
    inner: tuple[slice, slice] | None = None,
    out: Combined | None = None,
    fates: NDArray[np.uint8] | None = None,
) -> Combined:
    """Reject outliers and average.

    Parameters
    ----------
    stack
        (frame, row, column), canvas units, NaN = no data.
    codes
        Taper codes of the samples (`skyloom.ops.integration.taper.taper_weight`); 0 where there is none.
    noise
        (frame,) rms of a pixel, canvas units.
    weight
        (frame,) weight of a frame, multiplied by the taper.
    rejection
        The rules.
    combination
        mean: weighted; median: of the samples kept, all alike.
    inner
        Rows and columns wanted. The stack should reach `HALO` pixels beyond, where the canvas does.
    out
        Where to write; made when absent.
    fates
        (frame, row, column) of the part wanted, C order: filled with what became of each sample
        (`skyloom.ops.integration.average`), where given.

    Returns
    -------
    Combined
        Weighted mean, its weight Σw, its variance Σw²σ² / (Σw)², and counts; the median's variance is
        n c / (Σ 1/σ)², c its loss of n normal samples against the mean. At least one sample of a pixel is always
        kept: the one nearest to the centre, of equals the lower.

    Notes
    -----
    The centre is the unweighted median: weights steer the mean only. With c the centre, m samples left, each
    method repeated until nothing goes:

    sigma, winsorized, mad
        beyond limit · s. s = standard deviation; that of the samples drawn in to 1.5 s, times 1.134, until s
        changes by less than 5e-4 (PixInsight's); 1.4826 · median |v − c|. s is widened by 1 + 2 / m (mad: 6 / m),
        and is at least 0.7 of the frames' noise.
    noise, averaged
        beyond limit · s, s the larger of the frame's noise and that of the surroundings (median over nine places
        of the samples' range); averaged trusts the frame's noise to 0.7 only.
    percentile
        (v − c) / |c| beyond the limit; no sample within two thirds of the noise's limits.
    minmax
        `low` lowest and `high` highest samples; what equals the outermost sample kept is kept.
    linear
        The ends beyond limit · mean |residual| from a line through value by rank (PixInsight, Siril).
    esd
        Rosner's (1983) generalized extreme studentised deviate test of 0.3 n outliers; deviations are divided by
        the limits.
    """
    frames, rows, columns = stack.shape
    row_slice, column_slice = inner or (slice(0, rows), slice(0, columns))
    shape = (row_slice.stop - row_slice.start, column_slice.stop - column_slice.start)
    out = Combined.empty(shape) if out is None else out
    rule = rejection.rule
    centre = np.empty((rows, columns), dtype=np.float32)
    scale, ratio, excuse, spread = (np.empty_like(centre) for _ in range(4))
    lower, upper = (np.empty_like(centre) if rule.cut else scale for _ in range(2))
    count = np.empty((rows, columns), dtype=np.uint16)
    suspect = np.zeros((rows, columns), dtype=np.uint8)
    sigma = noise.astype(np.float32)
    low, high = (np.float32(v) for v in rejection.limits)
    noise_low, noise_high = (np.float32(v) for v in rejection.noise_limits)
    grow = np.float32(np.inf if rejection.grow is None or not rule.excused else rejection.grow)
    pairs, starts = networks(frames)
    extents = np.empty((frames, rows, 2), dtype=np.int32)
    find_extents(codes, extents)
    if rule.code != NONE:
        ranks, to_noise = spread_ranks(frames)
        critical = esd_limits(frames, rejection.significance)
        find_centres(
            stack, extents, sigma, pairs, starts, ranks, to_noise, rejection.least, rule.code, low, high,
            noise_low, noise_high, np.float32(rejection.floor), critical, rejection.outliers,
            centre, scale, ratio, excuse, spread, lower, upper, count, suspect,
        )  # fmt: skip
        excuse_disagreement(
            centre, scale, excuse, spread, count, suspect, rejection.least,
            np.float32(rejection.tolerance), np.float32(rejection.tolerance if rule.excused else 0.0),
            rule.cut, noise_low, noise_high, lower, upper,
        )  # fmt: skip
    if rule.cut:
        low = high = np.float32(1.0)
    average(
        stack, codes, extents, sigma, weight, rule.code != NONE, low, high, noise_low, noise_high, grow,
        combination == "median", median_loss(frames), pairs, starts,
        centre, scale, ratio, excuse, lower, upper, row_slice.start, column_slice.start,
        out.image, out.weight, out.variance, out.count, out.rejected_low, out.rejected_high,
        _NO_FATES if fates is None else fates,
    )  # fmt: skip
    return out
