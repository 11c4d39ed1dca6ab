"""Outlier rejection and the weighted mean over a stack of resampled frames.

Three passes over a stack (frame, row, column): the centre and scatter of each pixel; where something could be
rejected, how much disagreement its surroundings excuse; then decision, growth and the sums. The rules depend on
the number of samples of each pixel, not of the stack: mosaics have both 1 and 100 in one tile.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.integration.resample import TAPER_CODES

Method = Literal["none", "sigma", "winsorized"]

SPREAD_STEP = 6
"""Pixels between the nine places that tell the local noise: a trail five pixels wide meets three of them."""
HALO = SPREAD_STEP + 1
"""Pixels around a window that its rejection looks at: the local noise of a neighbour that may be grown from."""
LANES = 64
"""Pixels sorted side by side."""
CENTRE_RANGE = 4.0
"""Range of nine pure-noise centres, in their own noise, that excuses nothing (expected 3.0 ± 0.8)."""
PIXEL_BYTES = 4 + 4 + 4 + 4 + 4 + 2 + 1
"""Working bytes of `combine` a pixel, besides the stack and the result."""

_FEW_SIGMA = 15
_METHODS = {"none": 0, "sigma": 1, "winsorized": 2}
_WINSOR_LIMIT, _WINSOR_FACTOR, _WINSOR_TOLERANCE = 1.5, 1.134, 5e-4
# Noise over the median of nine ranges, simulated, for n = 2 … 20: second largest - second smallest, of n = 2 and 3
# largest - smallest; for n = 2 the noise is that of a difference.
_SPREAD_TO_NOISE = (1.435, 0.623, 2.040, 1.088, 0.814, 0.680, 0.600, 0.547, 0.507, 0.477, 0.453, 0.434, 0.418,
                    0.405, 0.393, 0.383, 0.374, 0.365, 0.358)  # fmt: skip


@dataclass(frozen=True)
class Rejection:
    """How outliers are told from the rest.

    Below `few` samples the scatter of the samples themselves is useless (one outlier in four is half of it):
    limits come from the noise of the frames and of the surroundings. With two samples the higher one is
    rejected (cosmic rays and trails are positive); a single one is kept.
    """

    method: Method = "winsorized"
    low: float = 4.0
    """Limit below the centre, in units of the scatter."""
    high: float = 3.0
    """Limit above the centre."""
    grow: float | None = 2.0
    """Limit for the neighbours of rejected samples in the same frame; None: do not grow."""
    tolerance: float = 3.0
    """Disagreement excused in units of the range of the centre over 3 × 3 pixels: star cores in varying seeing."""
    few: int = 8
    """From this number of samples on their own scatter counts (`sigma`: 15; of fewer, none can be beyond 4 σ)."""
    floor: float = 0.7
    """The scatter of samples is taken to be at least this fraction of the frames' noise."""

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ConfigError(f"rejection {self.method!r} is unknown; there is: {', '.join(_METHODS)}")
        if not 3 <= self.few <= len(_SPREAD_TO_NOISE) + 2:
            raise ConfigError(f"few = {self.few} is out of range: 3 to {len(_SPREAD_TO_NOISE) + 2}")


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
def _networks(frames: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Batcher's odd-even merge sorts for 1, 2, 4 … items up to `frames`: pairs (i, j), i < j; first pair of each.

    Numbers in between are sorted by the next larger network without the pairs beyond them (held by infinity).
    """
    pairs: list[tuple[int, int]] = []
    starts = [0]
    for level in range(max(frames - 1, 0).bit_length() + 1):
        size, p = 2**level, 1
        while p < size:
            k = p
            while k >= 1:
                for j in range(k % p, size - k, 2 * k):
                    for i in range(j, j + min(k, size - j - k)):
                        if i // (2 * p) == (i + k) // (2 * p):
                            pairs.append((i, i + k))
                k //= 2
            p *= 2
        starts.append(len(pairs))
    return np.asarray(pairs, dtype=np.int32).reshape(-1, 2), np.asarray(starts, dtype=np.int32)


def combine(
    stack: NDArray[np.float32],
    codes: NDArray[np.uint8],
    noise: NDArray[np.float64],
    weight: NDArray[np.float64],
    *,
    rejection: Rejection = Rejection(),
    inner: tuple[slice, slice] | None = None,
    out: Combined | None = None,
) -> Combined:
    """Reject outliers and average.

    Parameters
    ----------
    stack
        (frame, row, column), canvas units, NaN = no data.
    codes
        Taper codes of the samples (`skyloom.ops.integration.resample.taper_weight`).
    noise
        (frame,) rms of a pixel, canvas units.
    weight
        (frame,) weight of a frame, multiplied by the taper.
    rejection
        The rules.
    inner
        Rows and columns wanted. The stack should reach `HALO` pixels beyond, where the canvas does.
    out
        Where to write; made when absent.

    Returns
    -------
    Combined
        Weighted mean, its weight Σw, its variance Σw²σ² / (Σw)², and counts. At least one sample of a pixel
        is always kept: the one nearest to the centre, of equals the lower.

    Notes
    -----
    The centre is the unweighted median: weights steer the mean only. `winsorized` is PixInsight's: values
    beyond 1.5 σ are drawn in, σ is 1.134 times the deviation of the result, until it changes by less than
    5e-4; then values beyond the limits are dropped and all is repeated. `sigma` uses the standard deviation.
    """
    frames, rows, columns = stack.shape
    row_slice, column_slice = inner or (slice(0, rows), slice(0, columns))
    shape = (row_slice.stop - row_slice.start, column_slice.stop - column_slice.start)
    out = Combined.empty(shape) if out is None else out
    centre = np.empty((rows, columns), dtype=np.float32)
    scale, ratio, excuse, spread = (np.empty_like(centre) for _ in range(4))
    count = np.empty((rows, columns), dtype=np.uint16)
    suspect = np.zeros((rows, columns), dtype=np.uint8)
    sigma = noise.astype(np.float32)
    method = _METHODS[rejection.method]
    high, low = np.float32(rejection.high), np.float32(rejection.low)
    grow = np.float32(np.inf if rejection.grow is None else rejection.grow)
    if method:
        pairs, starts = _networks(frames)
        few = max(rejection.few, _FEW_SIGMA) if rejection.method == "sigma" else rejection.few
        table = np.zeros(few, dtype=np.float32)
        table[2:] = _SPREAD_TO_NOISE[: few - 2]
        _centres(
            stack, sigma, pairs, starts, table, method, low, high, np.float32(rejection.floor),
            centre, scale, ratio, excuse, spread, count, suspect,
        )  # fmt: skip
        _excuse(centre, scale, excuse, spread, count, suspect, few, np.float32(rejection.tolerance))
    _average(
        stack, codes, sigma, weight, bool(method), low, high, grow, centre, scale, ratio, excuse,
        row_slice.start, column_slice.start,
        out.image, out.weight, out.variance, out.count, out.rejected_low, out.rejected_high,
    )  # fmt: skip
    return out


@njit(nogil=True, cache=True)
def _sort_lanes(values, used, lanes, pairs, starts):  # type: ignore[no-untyped-def]
    """Sort the first `used` rows of (frame, lane) values down each lane."""
    level = 0
    while (1 << level) < used:
        level += 1
    for at in range(starts[level], starts[level + 1]):
        if pairs[at, 1] >= used:
            continue
        first, second = values[pairs[at, 0]], values[pairs[at, 1]]
        for p in range(lanes):
            a, b = first[p], second[p]
            first[p] = a if a < b else b
            second[p] = b if a < b else a


@njit(nogil=True, cache=True)
def _clip_sorted(column, n, method, low, high, least):  # type: ignore[no-untyped-def]
    """Centre and scatter of sorted values after iterated clipping; `least` bounds the scatter from below."""
    start, stop = 0, n
    centre = column[(n - 1) // 2]
    scatter = np.float32(0.0)
    while True:
        m = stop - start
        middle = start + (m - 1) // 2
        centre = np.float32(0.5) * (column[middle] + column[start + m // 2])
        if m < 3:
            return centre, max(scatter, least)
        total = square = 0.0
        for k in range(start, stop):
            d = float(column[k]) - centre
            total += d
            square += d * d
        spread = np.sqrt(max(square - total * total / m, 0.0) / (m - 1))
        if method == 2:
            for _ in range(100):
                limit = _WINSOR_LIMIT * spread
                t, q = total, square
                k = start
                while k < stop and float(column[k]) - centre < -limit:
                    d = float(column[k]) - centre
                    t += -limit - d
                    q += limit * limit - d * d
                    k += 1
                k = stop - 1
                while k >= start and float(column[k]) - centre > limit:
                    d = float(column[k]) - centre
                    t += limit - d
                    q += limit * limit - d * d
                    k -= 1
                new = _WINSOR_FACTOR * np.sqrt(max(q - t * t / m, 0.0) / (m - 1))
                done = abs(new - spread) <= _WINSOR_TOLERANCE * spread
                spread = new
                if done:
                    break
        scatter = max(np.float32(spread * (1.0 + 2.0 / m)), least)
        before = m
        while start < stop and column[start] < centre - low * scatter:
            start += 1
        while start < stop and column[stop - 1] > centre + high * scatter:
            stop -= 1
        if stop - start == before or stop - start < 3:
            return centre, scatter


@njit(nogil=True, cache=True)
def _centres(  # type: ignore[no-untyped-def]
    stack, sigma, pairs, starts, to_noise, method, low, high, floor,
    centre, scale, ratio, rms, spread, count, suspect,
):  # fmt: skip
    frames, rows, columns = stack.shape
    few = to_noise.size
    inf, nan = np.float32(np.inf), np.float32(np.nan)
    half, one, two = np.float32(0.5), np.float32(1.0), np.float32(2.0)
    values = np.empty((frames, LANES), dtype=np.float32)
    column = np.empty(frames, dtype=np.float32)
    n = np.empty(LANES, dtype=np.int32)
    variance, middle, reach, widen, sums, squares, drawn, drawn_squares, limit = np.ones(
        (9, LANES), dtype=np.float32
    )
    least_sigma = sigma.min()
    for y in range(rows):
        for x0 in range(0, columns, LANES):
            lanes = min(LANES, columns - x0)
            used = 0
            n[:] = 0
            variance[:] = 0
            for i in range(frames):
                source, target = stack[i, y, x0 : x0 + lanes], values[used]
                own = sigma[i] * sigma[i]
                met = 0
                for p in range(lanes):
                    v = source[p]
                    good = v == v
                    target[p] = v if good else inf
                    variance[p] += own if good else np.float32(0.0)
                    n[p] += 1 if good else 0
                    met += 1 if good else 0
                if met > 0:
                    used += 1
            if used > 1:
                _sort_lanes(values, used, lanes, pairs, starts)
            many = False
            for p in range(lanes):
                m = n[p]
                x = x0 + p
                count[y, x] = m
                spread[y, x] = nan
                if m == 0:
                    centre[y, x] = nan
                    scale[y, x] = inf
                    ratio[y, x] = rms[y, x] = 0
                    middle[p] = reach[p] = 0
                    continue
                noise = np.sqrt(variance[p] / np.float32(m))
                rms[y, x] = noise
                c = half * (values[(m - 1) // 2, p] + values[m // 2, p])
                if m == 2:
                    # Not the mean: half of a cosmic ray would be in it.
                    c = values[0, p]
                middle[p] = c
                centre[y, x] = c
                top, bottom = values[m - 1, p] - c, c - values[0, p]
                if m >= few:
                    many = True
                    reach[p] = max(top / high, bottom / low)
                    widen[p] = one + two / np.float32(m)
                    continue
                scale[y, x] = 0
                ratio[y, x] = one
                own = least_sigma
                if m == 1:
                    scale[y, x] = inf
                elif m == 2:
                    ratio[y, x] = 0
                    own = np.sqrt(variance[p])
                    scale[y, x] = own
                    spread[y, x] = top * to_noise[2]
                elif m == 3:
                    spread[y, x] = (top + bottom) * to_noise[3]
                else:
                    spread[y, x] = (values[m - 2, p] - values[1, p]) * to_noise[m]
                suspect[y, x] = top > high * own or bottom > low * own
            if not many:
                continue
            # Where winsorising at the scatter that would just keep the extremes gives a larger scatter, the
            # iteration (monotone) ends above it and nothing is rejected: most pixels need no iteration.
            sums[:] = 0
            squares[:] = 0
            drawn[:] = 0
            drawn_squares[:] = 0
            for p in range(lanes):
                limit[p] = np.float32(_WINSOR_LIMIT) * reach[p] / widen[p]
            for k in range(used):
                row = values[k]
                for p in range(lanes):
                    d = row[p] - middle[p] if k < n[p] else np.float32(0.0)
                    sums[p] += d
                    squares[p] += d * d
                    d = min(max(d, -limit[p]), limit[p])
                    drawn[p] += d
                    drawn_squares[p] += d * d
            for p in range(lanes):
                m = n[p]
                if m < few:
                    continue
                x = x0 + p
                size, below = np.float32(m), np.float32(m - 1)
                least = floor * rms[y, x]
                s = np.sqrt(max(squares[p] - sums[p] * sums[p] / size, np.float32(0.0)) / below)
                if method == 2:
                    w = np.float32(_WINSOR_FACTOR) * np.sqrt(
                        max(drawn_squares[p] - drawn[p] * drawn[p] / size, np.float32(0.0)) / below
                    )
                else:
                    w = s
                w = max(w * widen[p], least)
                if reach[p] <= w and (reach[p] <= s * widen[p] or reach[p] <= least):
                    scale[y, x] = w
                    suspect[y, x] = 0
                else:
                    for k in range(m):
                        column[k] = values[k, p]
                    centre[y, x], scale[y, x] = _clip_sorted(column, m, method, low, high, least)
                    suspect[y, x] = 1
                ratio[y, x] = scale[y, x] / rms[y, x]


@njit(nogil=True, cache=True)
def _excuse(centre, scale, excuse, spread, count, suspect, few, tolerance):  # type: ignore[no-untyped-def]
    """Turn the noise in `excuse` into the disagreement excused, at suspects and their neighbours.

    There `scale` of few samples is raised to the local noise: photons of nebulae exceed the background's.
    """
    rows, columns = centre.shape
    near = np.empty(9, dtype=np.float32)
    for y in range(rows):
        for x in range(columns):
            concerned = False
            for j in range(max(y - 1, 0), min(y + 2, rows)):
                for i in range(max(x - 1, 0), min(x + 2, columns)):
                    if suspect[j, i]:
                        concerned = True
            n = count[y, x]
            if not concerned or n < 2:
                excuse[y, x] = 0
                continue
            lowest = highest = centre[y, x]
            for j in range(max(y - 1, 0), min(y + 2, rows)):
                for i in range(max(x - 1, 0), min(x + 2, columns)):
                    lowest = min(lowest, centre[j, i]) if centre[j, i] == centre[j, i] else lowest
                    highest = max(highest, centre[j, i]) if centre[j, i] == centre[j, i] else highest
            span = float(highest) - float(lowest)
            chance = CENTRE_RANGE * 1.2533 * float(excuse[y, x]) / np.sqrt(float(n))
            excuse[y, x] = tolerance * np.sqrt(max(span * span - chance * chance, 0.0))
            if n >= few:
                continue
            m = 0
            for j in range(max(y - SPREAD_STEP, y % SPREAD_STEP), min(y + SPREAD_STEP + 1, rows), SPREAD_STEP):
                for i in range(
                    max(x - SPREAD_STEP, x % SPREAD_STEP), min(x + SPREAD_STEP + 1, columns), SPREAD_STEP
                ):
                    if spread[j, i] == spread[j, i]:
                        near[m] = spread[j, i]
                        m += 1
            if m > 0:
                scale[y, x] = max(scale[y, x], np.median(near[:m]))


@njit(nogil=True, cache=True)
def _mark(values, own, low, high, centre, scale, ratio, excuse, marks):  # type: ignore[no-untyped-def]
    """Mark a row's outliers: 1 above, 2 below, 4 far beyond; say which there are."""
    found = 0
    two = np.float32(2.0)
    for x in range(values.size):
        d = values[x] - centre[x]
        s = max(scale[x], ratio[x] * own)
        above, below = high * s + excuse[x], low * s + excuse[x]
        mark = 1 if d > above else 0
        mark += 2 if -d > below else 0
        mark += 4 if d > two * above or -d > two * below else 0
        marks[x] = mark
        found |= mark
    return found


@njit(nogil=True, cache=True)
def _average(  # type: ignore[no-untyped-def]
    stack, codes, sigma, weights, reject, low, high, grow, centre, scale, ratio, excuse, row0, column0,
    image, weight, variance, count, rejected_low, rejected_high,
):  # fmt: skip
    frames, rows, columns = stack.shape
    out_rows, out_columns = image.shape
    unit = 1.0 / (TAPER_CODES * TAPER_CODES)
    nothing = np.float32(0.0)
    marks = np.zeros((frames, 3, columns), dtype=np.uint8)
    found = np.zeros((frames, 3), dtype=np.uint8)
    final = np.zeros(columns, dtype=np.uint8)
    wide = np.zeros(columns + 2, dtype=np.uint8)
    total, total_x, total_s = np.empty((3, columns), dtype=np.float64)
    kept, above, below = np.empty((3, columns), dtype=np.int32)
    marked = -1
    for r in range(out_rows):
        y = row0 + r
        if reject:
            for j in range(max(marked + 1, y - 1, 0), min(y + 2, rows)):
                for i in range(frames):
                    found[i, j % 3] = _mark(
                        stack[i, j], sigma[i], low, high, centre[j], scale[j], ratio[j], excuse[j], marks[i, j % 3]
                    )
                marked = j
        total[:] = 0
        total_x[:] = 0
        total_s[:] = 0
        kept[:] = 0
        above[:] = 0
        below[:] = 0
        for i in range(frames):
            values, taper = stack[i, y], codes[i, y]
            w_frame = weights[i] * unit
            own = float(sigma[i]) * float(sigma[i])
            final[:] = marks[i, y % 3]
            seeds = found[i, 0] | found[i, 1] | found[i, 2]
            if reject and grow < np.inf and seeds & 4:
                wide[:] = 0
                for j in range(max(y - 1, 0), min(y + 2, rows)):
                    row = marks[i, j % 3]
                    for x in range(columns):
                        wide[x + 1] |= row[x]
                for x in range(columns):
                    touched = (wide[x] | wide[x + 1] | wide[x + 2]) & 4
                    d = values[x] - centre[y, x]
                    s = grow * max(scale[y, x], ratio[y, x] * sigma[i]) + excuse[y, x]
                    mark = final[x] & 3
                    grown = (1 if d > s else 0) | (2 if -d > s else 0)
                    final[x] = mark if mark or not touched else grown
            for x in range(columns):
                v = values[x]
                good = v == v and (final[x] & 3) == 0
                code = float(taper[x])
                w = w_frame * (code * code) if good else 0.0
                total[x] += w
                total_x[x] += w * float(v if good else nothing)
                total_s[x] += w * w * own
                kept[x] += 1 if good else 0
            if reject and (seeds & 7):
                for x in range(columns):
                    above[x] += final[x] & 1
                    below[x] += (final[x] >> 1) & 1
        for c in range(out_columns):
            x = column0 + c
            if kept[x] == 0 and above[x] + below[x] > 0:
                nearest = np.float32(np.inf)
                for i in range(frames):
                    d = abs(stack[i, y, x] - centre[y, x])
                    nearest = d if d < nearest else nearest
                best = -1
                # The middle two are equally far from their mean, up to rounding.
                for i in range(frames):
                    v = stack[i, y, x]
                    near_enough = abs(v - centre[y, x]) <= nearest * np.float32(1.00001)
                    if near_enough and (best < 0 or v < stack[best, y, x]):
                        best = i
                v = stack[best, y, x]
                if v > centre[y, x]:
                    above[x] -= 1
                else:
                    below[x] -= 1
                code = float(codes[best, y, x])
                w = weights[best] * unit * code * code
                total[x], total_x[x], kept[x] = w, w * float(v), 1
                total_s[x] = w * w * float(sigma[best]) * float(sigma[best])
            count[r, c] = kept[x]
            rejected_high[r, c] = above[x]
            rejected_low[r, c] = below[x]
            if kept[x] > 0 and total[x] > 0:
                image[r, c] = total_x[x] / total[x]
                weight[r, c] = total[x]
                variance[r, c] = total_s[x] / (total[x] * total[x])
            else:
                count[r, c] = 0
                image[r, c] = weight[r, c] = variance[r, c] = np.nan
