"""Transparency across a frame: thin clouds and flat errors are not one number, and the stars say so."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skyloom.ops.normalization import joint
from skyloom.ops.normalization.background import Problem
from skyloom.ops.normalization.legendre import ORDERS
from skyloom.ops.normalization.observations import Floats, Observations, select
from skyloom.ops.normalization.photometry import TUKEY_LIMIT, Scales

FIELD_ORDER = 2
"""Degree of ln a over a frame."""
LEAST_FIELD = 0.002
"""Spread of the coefficients of ln a below which frames count as evenly transparent."""
LEAST_SIGHTINGS = 15.0
"""Sightings a frame, on average, without which nothing is said of how transparency varies."""


@dataclass(frozen=True)
class Fields:
    """ln a of every frame as a surface."""

    coefficients: Floats
    """(frames, 6) Legendre; the first is the mean of ln a over the frame."""
    sigma: Floats
    """(FIELD_ORDER + 1,): measured spread of the coefficients of each order; 0 where there is none."""


def even_fields(scales: Scales) -> Fields:
    """Fields of frames which are evenly transparent."""
    coefficients = np.zeros((len(scales.scale), len(ORDERS[FIELD_ORDER])))
    coefficients[:, 0] = np.log(scales.scale)
    return Fields(coefficients, np.array([scales.spread, *(0.0,) * FIELD_ORDER]))


def solve_fields(
    frame: NDArray[np.integer],
    star: NDArray[np.integer],
    log_flux: Floats,
    log_error: Floats,
    u: NDArray[np.float32],
    v: NDArray[np.float32],
    *,
    scales: Scales,
    expected: Floats,
    floor: float = 0.01,
    placement: Floats | None = None,
    fixed: NDArray[np.bool_] | None = None,
) -> Fields:
    """Solve how transparency varies over each frame, from the stars of all.

    Parameters
    ----------
    frame, star, log_flux, log_error, floor, placement
        As for `solve_scales`.
    u, v
        Detector coordinates (0…1) of each sighting.
    scales
        One scale a frame, from the same sightings; frames whose scale rests on no stars keep it.
    expected
        (frames,) ln a without clouds.
    fixed
        As for `solve_scales`; these are evenly transparent.

    Returns
    -------
    Fields
        With the means over groups as in `scales`.

    Notes
    -----
    m_fs = M_s − ln a_f(u, v): the same solve as the backgrounds' (`Problem`), with stars as points and the spread
    of each order measured. Where nights are even it comes out small, and the fields with it. Overlaps hardly see a
    tilt which all frames of a panel have, and from panel to panel it adds up: it is the clear frames, if they are
    the most, that say what is level (`uneven`).
    """
    frames = len(scales.scale)
    good = np.isfinite(log_flux) & np.isfinite(log_error) & (log_error > 0) & (scales.stars[frame] > 0)
    index, start, point, points = select(frame, star, good, frames=frames)
    if len(index) < LEAST_SIGHTINGS * max(int(np.count_nonzero(scales.stars)), 1):
        return even_fields(scales)
    seen = Observations(start, point, u[index], v[index], FIELD_ORDER, points)
    value = log_flux[index] + expected[seen.frame]
    value -= np.median(value)
    stated = (1.0 / ((log_error[index] ** 2 + floor**2) * scales.scatter**2)).astype(np.float32)
    known = np.zeros(frames, dtype=bool) if fixed is None else fixed
    # Where frames share pixels (survey tiles) half of the residuals are 0: their median is not the noise.
    problem = Problem(
        seen, value, stated, placement, TUKEY_LIMIT, joint.DENSE_LIMIT, known, least=0.5,
        fixed=fixed,
    )  # fmt: skip
    few = problem.sample_of_frames()
    like = None if few is None else few.solve_only(None)
    solved = problem.solve_only(None if like is None else (like.prior, like.common))
    if float(solved.prior[1:].max()) < LEAST_FIELD:
        return even_fields(scales)
    solved = replace(problem, sparse=LEAST_FIELD).solve_only((solved.prior, solved.common))
    out = even_fields(scales).coefficients
    present = scales.stars > 0
    out[present] = -solved.x[present]
    groups = int(scales.group.max()) + 1
    size = np.maximum(np.bincount(scales.group[present], minlength=groups), 1)
    mean = np.bincount(scales.group[present], weights=out[present, 0], minlength=groups) / size
    mean[scales.group[present & known]] = 0.0
    out[known] = 0.0
    out[present, 0] += (expected - mean[scales.group])[present]
    return Fields(out, solved.prior)
