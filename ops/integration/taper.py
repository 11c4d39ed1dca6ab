"""Weights that fall at the edges of frames and where their normalization is doubtful; a byte a sample."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

TAPER_CODES = 255
"""Taper weights are stored as `round(255 sqrt(w))`, at least 1: a byte a sample, fine steps near zero."""


def taper_weight(code: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Weight (0…1) of stored taper codes."""
    return (code.astype(np.float64) / TAPER_CODES) ** 2


@njit(nogil=True, cache=True)
def taper_code(edge, taper, root):  # type: ignore[no-untyped-def]
    """Code of a sample `edge` pixels inside the frame, where the taper is `taper` pixels wide.

    `root` is that of what the weight is multiplied with besides.
    """
    t = min(edge / taper, 1.0)
    # sqrt of the smootherstep t³(10 - 15t + 6t²)
    root *= np.sqrt(t * t * t * (10.0 - 15.0 * t + 6.0 * t * t))
    return max(int(root * TAPER_CODES + 0.5), 1)
