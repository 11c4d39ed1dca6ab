"""Lookup distortions of a WCS as a polynomial: a frame's WCS travels as header text, tables do not fit in one."""

from __future__ import annotations

from math import comb
from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray

MAX_DEGREE = 6
"""Of the polynomial."""
ENOUGH_PX = 0.01
"""The least degree that leaves less than this is taken (pixels)."""
SAMPLES = 257
"""Positions along an axis where the distortion is looked up; all pixels of a smaller frame."""

Floats = NDArray[np.float64]


class Followed(NamedTuple):
    """A WCS without tables."""

    wcs: WCS
    error: float
    """What the polynomial leaves at worst (pixels)."""


def without_tables(wcs: WCS, tables: WCS, shape: tuple[int, int]) -> Followed:
    """WCS with its lookup distortions as terms of SIP, added to those it has.

    Parameters
    ----------
    wcs
        As the header says, without the tables.
    tables
        Holds the tables (`skyloom.ops.formats.fits_lookup.lookup_tables`).
    shape
        Rows, columns of the frame.

    Returns
    -------
    Followed
        Everything but SIP is that of `wcs`.

    Raises
    ------
    ValueError
        If the tables hold values that are not finite.

    Notes
    -----
    Before the linear transformation a pixel p moves by d(p), the correction of the detector, then by
    SIP(p + d) + c(p + d), c the prior distortion. SIP is in pixels and additive as well, so what is missing in
    SIP(p) is fitted by linear least squares on a lattice over the frame, every degree from one orthogonal
    projection. Terms of degree 0 and 1 stay among those of SIP, which the standard does not forbid: CRPIX and CD
    keep their values, and so do distortions that come after them (TPV).
    """
    x, y = (np.linspace(0.0, n - 1.0, min(n, SAMPLES)) for n in (shape[1], shape[0]))
    missing = _missing(wcs, tables, x, y)
    if not np.isfinite(missing).all():
        raise ValueError("they hold values that are not finite")
    crpix = np.asarray(wcs.wcs.crpix, dtype=np.float64)
    basis_x, to_u = _basis(x, crpix[0] - 1.0)
    basis_y, to_v = _basis(y, crpix[1] - 1.0)
    projected = basis_x.T @ missing @ basis_y
    i, j = np.indices(projected.shape[1:])
    best, order, error = projected, 0, np.inf
    for degree in range(min(MAX_DEGREE, i.max() + j.max()) + 1):
        kept = np.where(i + j <= degree, projected, 0.0)
        left = float(np.hypot(*(missing - basis_x @ kept @ basis_y.T)).max())
        if left < error:
            best, order, error = kept, degree, left
        if error <= ENOUGH_PX:
            break
    return Followed(_with_terms(wcs, to_u @ best @ to_v.T, order), error)


def _missing(wcs: WCS, tables: WCS, x: Floats, y: Floats) -> Floats:
    """(2, x, y): what the tables add to the displacements of SIP, in pixels."""
    full = wcs.deepcopy()
    full.cpdis1, full.cpdis2 = tables.cpdis1, tables.cpdis2
    full.det2im1, full.det2im2 = tables.det2im1, tables.det2im2
    at = [c.ravel() for c in np.meshgrid(x, y, indexing="ij")]
    moved = np.stack(full.pix2foc(*at, 0)) - (np.stack(wcs.pix2foc(*at, 0)) if wcs.has_distortion else at)
    return np.asarray(moved, dtype=np.float64).reshape(2, len(x), len(y))


def _basis(at: Floats, origin: float) -> tuple[Floats, Floats]:
    """Polynomials orthonormal over positions, and the matrix from their coefficients to those of powers of u.

    u = position − origin. The powers fitted are of positions in units of the frame from its middle, so that the
    fit is as good where the reference pixel is far outside of the frame.
    """
    middle, half = 0.5 * (at[0] + at[-1]), max(0.5 * (at[-1] - at[0]), 1.0)
    count = min(MAX_DEGREE + 1, len(at))
    orthonormal, upper = np.linalg.qr(np.vander((at - middle) / half, count, increasing=True))
    # ((u + shift) / half)^n by powers of u.
    shift = origin - middle
    powers = np.array(
        [
            [comb(n, k) * shift ** (n - k) / half**n if k <= n else 0.0 for n in range(count)]
            for k in range(MAX_DEGREE + 1)
        ]
    )
    return orthonormal, powers @ np.linalg.inv(upper)


def _with_terms(wcs: WCS, terms: Floats, degree: int) -> WCS:
    """WCS with terms (2, power of u, power of v) up to a degree added to its SIP."""
    old = [] if wcs.sip is None else [wcs.sip.a, wcs.sip.b]
    # astropy takes no notice of SIP of a lower order.
    size = max(2, degree, *(len(o) - 1 for o in old)) + 1
    new = np.zeros((2, size, size))
    for i in range(min(degree + 1, terms.shape[1])):
        count = min(degree - i + 1, terms.shape[2])
        new[:, i, :count] = terms[:, i, :count]
    for k, o in enumerate(old):
        new[k, : len(o), : len(o)] += o
    followed = wcs.deepcopy()
    # The inverse polynomials of the header are of the old terms.
    followed.sip = Sip(new[0], new[1], None, None, wcs.wcs.crpix)
    followed.wcs.ctype = [f"{str(kind)[:8]}-SIP" for kind in wcs.wcs.ctype]
    followed.wcs.set()
    return followed
