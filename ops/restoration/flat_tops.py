"""Stars whose cores are lower than their wings say: saturated, whatever stacking has made of their flat tops."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass, label, shift

Floats = NDArray[np.float64]

WINGS = (0.02, 0.3)
"""Pixels of a PSF that tell what its star is worth: between these fractions of its peak."""
CORE = 0.6
"""Pixels above this fraction are the core."""
SHORT = 0.75
"""A core below this fraction of what the wings foretell is saturated: seeing that changes over a region, or a PSF
that is not quite known, moves it by a tenth."""
TOP = 0.3
"""Saturation cuts the brightest stars: fainter ones than this fraction of the highest peak are not looked at."""
AS_HIGH = 0.9
"""Of the median height of flat tops: what is this high is cut, whatever its wings say."""
PLATEAU = 4
"""Pixels as high as flat tops that are a star and no cosmic ray."""


def core_to_wings(window: NDArray[np.float32], stamp: NDArray[np.float32], dx: float, dy: float) -> float:
    """What the core of a star is worth over what its wings are.

    Parameters
    ----------
    window
        Pixels around the star, of the stamp's shape, NaN = no data.
    stamp
        PSF, centred on the middle pixel.
    dx, dy
        Of the star's centre from that of the middle pixel.

    Returns
    -------
    float
        1 for a star of this PSF, less for a saturated one, NaN where too little of it is there.
    """
    profile = np.asarray(shift(np.asarray(stamp, dtype=np.float64), (dy, dx), order=3, mode="nearest"))
    profile /= profile.max()
    known = np.isfinite(window)
    wings = known & (profile > WINGS[0]) & (profile < WINGS[1])
    core = known & (profile > CORE)
    if wings.sum() < 6 or not core.any():
        return math.nan
    # Sky and star of the wings by least squares; a neighbour in them is one of a few pixels.
    use = wings
    values = window.astype(np.float64)
    for _ in range(3):
        terms = np.stack([profile[use], np.ones(int(use.sum()))], axis=1)
        (height, sky), *_ = np.linalg.lstsq(terms, values[use], rcond=None)
        rest = np.where(wings, values - height * profile - sky, 0.0)
        scatter = 1.4826 * float(np.median(np.abs(rest[wings])))
        kept = wings & (rest < 3.0 * scatter + 1e-12)
        if kept.sum() < 6:
            break
        use = kept
    if not height > 0:
        return math.nan
    inside = float(np.sum((values[core] - sky) * profile[core]) / np.sum(profile[core] ** 2))
    return inside / float(height)


def flat_topped(
    image: NDArray[np.float32], x: Floats, y: Floats, peak: Floats, stamp: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which stars are saturated.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    x, y, peak
        Of the stars: places (pixels) and heights above their sky.
    stamp
        Their PSF.
    """
    out = np.zeros(len(x), dtype=np.bool_)
    radius = stamp.shape[0] // 2
    bright = peak > TOP * float(np.nanmax(peak, initial=0.0))
    for i in np.flatnonzero(bright):
        column, row = round(float(x[i])), round(float(y[i]))
        rows, columns = slice(row - radius, row + radius + 1), slice(column - radius, column + radius + 1)
        if rows.start < 0 or columns.start < 0 or rows.stop > image.shape[0] or columns.stop > image.shape[1]:
            continue
        ratio = core_to_wings(image[rows, columns], stamp, float(x[i]) - column, float(y[i]) - row)
        out[i] = ratio < SHORT
    return out


def plateaus(image: NDArray[np.float32], x: Floats, y: Floats, flat: NDArray[np.bool_], radius: int) -> Floats:
    """Stars so far beyond saturation that they are in no list of stars: what reaches as high as flat tops do.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    x, y, flat
        Places of the stars known and which of them are saturated.
    radius
        Of a star (pixels).

    Returns
    -------
    ndarray
        Shape (stars, 3): x, y, light within `radius` above its rim.
    """
    tops = []
    for i in np.flatnonzero(flat):
        near = image[max(round(y[i]) - 1, 0) : round(y[i]) + 2, max(round(x[i]) - 1, 0) : round(x[i]) + 2]
        tops.append(float(np.nanmax(near, initial=-np.inf)))
    if not tops:
        return np.empty((0, 3))
    parts, count = label(image >= AS_HIGH * float(np.median(tops)))
    found = []
    for number, (row, column) in enumerate(center_of_mass(parts > 0, parts, range(1, count + 1)), start=1):
        if np.count_nonzero(parts == number) < PLATEAU or np.hypot(x - column, y - row).min(initial=np.inf) < 3:
            continue
        window = image[
            max(round(row) - radius, 0) : round(row) + radius + 1,
            max(round(column) - radius, 0) : round(column) + radius + 1,
        ]
        found.append((column, row, float(np.nansum(window - np.nanmedian(window)))))
    return np.array(found, dtype=np.float64).reshape(-1, 3)
