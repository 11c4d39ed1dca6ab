"""How much disagreement of frames their surroundings explain: star cores in changing seeing, noise of light."""

from __future__ import annotations

import numpy as np
from numba import njit

SPREAD_STEP = 6
"""Pixels between the nine places that tell the local noise: a trail five pixels wide meets three of them."""
HALO = SPREAD_STEP + 1
"""Pixels around a window that its rejection looks at: the local noise of a neighbour that may be grown from."""
CENTRE_RANGE = 4.0
"""Range of nine pure-noise centres, in their own noise, that excuses nothing (expected 3.0 ± 0.8)."""
WIDE = 3
"""Pixels to either side that tell how high a star stands out, and how far its wings may reach."""
WIDE_RANGE = 6.0
"""Range of 49 pure-noise centres, in their own noise, that excuses nothing (expected 4.5 ± 0.6)."""
PEAK = 5.0 / 3.0
"""Disagreement excused at a peak, in units of `tolerance` × its height over the rim of 7 × 7 pixels. One frame of
2 px FWHM among others of 4 px is four times as high as they are; the rim is at up to a third of their height."""
WING = 0.1 / 3.0
"""The same in units of the range over those 7 × 7 pixels: wings of one frame of 4 px among others of 2 px."""


@njit(nogil=True, cache=True)
def _stands_out(centre, y, x):  # type: ignore[no-untyped-def]
    """Range of the centre within `WIDE` pixels, and its height over the rim of those."""
    rows, columns = centre.shape
    lowest = highest = centre[y, x]
    rim = np.float32(-np.inf)
    for j in range(max(y - WIDE, 0), min(y + WIDE + 1, rows)):
        for i in range(max(x - WIDE, 0), min(x + WIDE + 1, columns)):
            c = centre[j, i]
            # No comparison with NaN holds.
            lowest = c if c < lowest else lowest
            highest = c if c > highest else highest
            if (abs(j - y) == WIDE or abs(i - x) == WIDE) and c > rim:
                rim = c
    height = max(float(centre[y, x]) - float(rim), 0.0) if rim > -np.inf else 0.0
    return float(highest) - float(lowest), height


@njit(nogil=True, cache=True)
def excuse_disagreement(  # type: ignore[no-untyped-def]
    centre, scale, excuse, spread, count, suspect, few, tolerance, tolerance_many, cut, low, high, below, above
):
    """Turn the noise in `excuse` into the disagreement excused, at suspects and their neighbours.

    It is the largest of three: by the range of the centre over 3 × 3 pixels, by its height over what lies `WIDE`
    pixels away, and by its range over all within. There `scale` of few samples is raised to the local noise:
    photons of nebulae exceed the background's. Where a method gives limits of its own (`cut`), those of few
    samples are `low` and `high` times that.
    """
    rows, columns = centre.shape
    near = np.empty(9, dtype=np.float32)
    # Rows at once first: few places are concerned, and most of the time would go into finding that out.
    across = np.zeros(columns + 2, dtype=np.uint8)
    for y in range(rows):
        above_row, below_row = suspect[max(y - 1, 0)], suspect[min(y + 1, rows - 1)]
        for x in range(columns):
            across[x + 1] = above_row[x] | suspect[y, x] | below_row[x]
        concerned = np.uint8(0)
        for x in range(columns):
            concerned |= across[x + 1]
        if not concerned:
            excuse[y, :] = 0
            continue
        for x in range(columns):
            n = count[y, x]
            if not (across[x] | across[x + 1] | across[x + 2]) or n < 2:
                excuse[y, x] = 0
                continue
            lowest = highest = centre[y, x]
            for j in range(max(y - 1, 0), min(y + 2, rows)):
                for i in range(max(x - 1, 0), min(x + 2, columns)):
                    c = centre[j, i]
                    lowest = c if c < lowest else lowest
                    highest = c if c > highest else highest
            span = float(highest) - float(lowest)
            own = 1.2533 * float(excuse[y, x]) / np.sqrt(float(n))
            excused = np.sqrt(max(span * span - (CENTRE_RANGE * own) ** 2, 0.0))
            # Most suspects are noise, and eight places of the rim tell so.
            for j in range(max(y - WIDE, y % WIDE), min(y + WIDE + 1, rows), WIDE):
                for i in range(max(x - WIDE, x % WIDE), min(x + WIDE + 1, columns), WIDE):
                    c = centre[j, i]
                    lowest = c if c < lowest else lowest
                    highest = c if c > highest else highest
            if float(highest) - float(lowest) > CENTRE_RANGE * own:
                span, height = _stands_out(centre, y, x)
                excused = max(excused, WING * np.sqrt(max(span * span - (WIDE_RANGE * own) ** 2, 0.0)))
                excused = max(excused, PEAK * np.sqrt(max(height * height - (CENTRE_RANGE * own) ** 2, 0.0)))
            if n >= few:
                excuse[y, x] = tolerance_many * excused
                continue
            excuse[y, x] = tolerance * excused
            m = 0
            for j in range(max(y - SPREAD_STEP, y % SPREAD_STEP), min(y + SPREAD_STEP + 1, rows), SPREAD_STEP):
                for i in range(
                    max(x - SPREAD_STEP, x % SPREAD_STEP), min(x + SPREAD_STEP + 1, columns), SPREAD_STEP
                ):
                    if spread[j, i] == spread[j, i]:
                        at = m
                        while at > 0 and near[at - 1] > spread[j, i]:
                            near[at] = near[at - 1]
                            at -= 1
                        near[at] = spread[j, i]
                        m += 1
            if m > 0:
                middle = np.float32(0.5) * (near[(m - 1) // 2] + near[m // 2])
                scale[y, x] = max(scale[y, x], middle)
            if cut:
                below[y, x], above[y, x] = low * scale[y, x], high * scale[y, x]
