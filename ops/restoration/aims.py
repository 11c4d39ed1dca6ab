"""How sharp stars can become."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHARPEST = 2.0
"""FWHM (pixels) below which pixels cannot show that a star is round."""
WORTH = 0.92
"""Fraction of its FWHM that a band's stars should come down to, else it stays as it is."""


def aims(fwhm: Floats, chosen: Sequence[int], target: float) -> tuple[float, tuple[int, ...]]:
    """FWHM to work towards (pixels), and the bands whose stars are so much wider that it is worth it.

    Parameters
    ----------
    fwhm
        Of the stars, shape (bands, rows, columns) of regions (pixels), NaN of a band without a PSF: it stays as it
        is.
    chosen
        Places of the bands to deconvolve.
    target
        Fraction of the median FWHM.
    """
    known = [b for b in chosen if np.isfinite(fwhm[b]).all()]
    if not known:
        return SHARPEST, ()
    wanted = max(target * float(np.median(fwhm[known])), SHARPEST)
    return wanted, tuple(b for b in known if wanted <= WORTH * float(np.median(fwhm[b])))
