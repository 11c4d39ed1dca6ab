"""Shapes of stars: centroid, width and elongation by adaptive moments, and the profile that makes them a FWHM."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from skyloom.ops.measurement.apertures import ring
from skyloom.ops.robust import select

PROFILE_BINS = 24
_LEAST_WEIGHT = 0.7  # σ² of the narrowest weight of the adaptive moments (px²)
_PROFILE_REACH = 4.0  # ρ² of the outermost bin
SIGMA_TO_FWHM = math.sqrt(8 * math.log(2))

Floats = NDArray[np.float64]


@njit(nogil=True, cache=True, fastmath=False)
def _sharpness(image: NDArray[np.float32], column: int, row: int, level: float) -> tuple[float, float]:
    """Peak above `level` around a pixel, and the median of its eight neighbours in units of it."""
    height, width = image.shape
    peak, px, py = -np.inf, column, row
    for r in range(max(row - 1, 0), min(row + 2, height)):
        for c in range(max(column - 1, 0), min(column + 2, width)):
            if image[r, c] > peak:
                peak, px, py = image[r, c], c, r
    ring = np.empty(8, np.float32)
    count = 0
    for r in range(max(py - 1, 0), min(py + 2, height)):
        for c in range(max(px - 1, 0), min(px + 2, width)):
            if (r != py or c != px) and np.isfinite(image[r, c]):
                ring[count] = image[r, c]
                count += 1
    peak -= level
    if count < 3 or not peak > 0:
        return peak, np.nan
    return peak, (select(ring, count, count // 2) - level) / peak


@njit(nogil=True, cache=True, fastmath=False)
def measure_shapes(
    image: NDArray[np.float32], x: Floats, y: Floats, fwhm: float, out: Floats, profile: Floats
) -> None:
    """Adaptive Gaussian moments of every source: the weight is the source's own matched Gaussian.

    Parameters
    ----------
    image
        Shape (rows, columns), NaN = no data.
    x, y
        First positions (pixels).
    fwhm
        Typical width to begin with (pixels).
    out
        Shape (sources, 9), written: x, y, σ², ellipticity, theta, peak, sharpness, weighted flux, plateau pixels;
        NaN where the moments do not settle.
    profile
        Shape (sources, PROFILE_BINS), written: mean of I / weighted flux in bins of ρ² (Mahalanobis).

    Notes
    -----
    Bernstein & Jarvis (2002), Hirata & Seljak (2003).
    """
    height, width = image.shape
    sigma0 = fwhm / 2.3548200450309493
    buffer = np.empty(2 * (int(12 * fwhm) + 40) ** 2, np.float32)
    counts = np.empty(profile.shape[1])
    inner, outer = max(2.5 * fwhm, 4.0), max(4.0 * fwhm, 9.0)
    # A shape needs the level to a tenth of the noise only.
    stride = max(int(math.pi * (outer * outer - inner * inner)) // 150, 1)
    for i in range(x.size):
        out[i, :] = np.nan
        profile[i, :] = np.nan
        level, _, _ = ring(image, x[i], y[i], inner, outer, stride, buffer)
        if not np.isfinite(level):
            continue
        peak, sharp = _sharpness(image, round(x[i]), round(y[i]), level)
        out[i, 5], out[i, 6] = peak, sharp
        cx, cy = x[i], y[i]
        mxx, myy, mxy = sigma0 * sigma0, sigma0 * sigma0, 0.0
        good = False
        flux = 0.0
        for step in range(40):
            # A narrower weight would fall between the pixels: its sums depend on the phase and collapse.
            short = max(_LEAST_WEIGHT - math.sqrt(mxx * myy - mxy * mxy), 0.0)
            wxx, wyy, wxy = mxx + short, myy + short, mxy
            det = wxx * wyy - wxy * wxy
            ixx, iyy, ixy = wyy / det, wxx / det, -wxy / det
            rx, ry = 3.0 * math.sqrt(wxx), 3.0 * math.sqrt(wyy)
            s, sx, sy, sxx, syy, sxy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for row in range(max(int(cy - ry), 0), min(int(cy + ry) + 2, height)):
                dy = row - cy
                for column in range(max(int(cx - rx), 0), min(int(cx + rx) + 2, width)):
                    dx = column - cx
                    q = ixx * dx * dx + iyy * dy * dy + 2 * ixy * dx * dy
                    if q < 9.0:
                        value = image[row, column]
                        if np.isfinite(value):
                            w = math.exp(-0.5 * q) * (value - level)
                            s += w
                            sx += w * dx
                            sy += w * dy
                            sxx += w * dx * dx
                            syy += w * dy * dy
                            sxy += w * dx * dy
            if not s > 0:
                break
            gx, gy = sx / s, sy / s
            # Star × weight has the inverse covariance of both added: take the weight's off again. With equal
            # ones it is half their covariance, and half their offset.
            pxx, pyy, pxy = sxx / s - gx * gx, syy / s - gy * gy, sxy / s - gx * gy
            cx += 2 * gx
            cy += 2 * gy
            p = pxx * pyy - pxy * pxy
            if not (pxx > 0.0 and p > 0.0):
                break
            nxx, nyy, nxy = pyy / p - ixx, pxx / p - iyy, -pxy / p - ixy
            p = nxx * nyy - nxy * nxy
            if not (nxx > 0.0 and p > 0.0):
                break
            nxx, nyy, nxy = nyy / p, nxx / p, -nxy / p
            if nxx * nyy - nxy * nxy < 0.01:
                break
            if nxx + nyy > 32 * sigma0 * sigma0 + 8 or abs(cx - x[i]) + abs(cy - y[i]) > 2 * fwhm + 1:
                break
            moved = abs(nxx - mxx) + abs(nyy - myy) + abs(nxy - mxy)
            size = mxx + myy
            mxx, myy, mxy = nxx, nyy, nxy
            flux = s
            # A pixel that goes in and out of the weight's rim keeps faint stars swinging by a few thousandths.
            settled = 2e-3 if step < 8 else 1e-2
            if step > 2 and moved < settled * size and abs(gx) + abs(gy) < settled:
                good = True
                break
        if not good:
            continue
        mean, half = 0.5 * (mxx + myy), 0.5 * math.sqrt((mxx - myy) ** 2 + 4 * mxy * mxy)
        det = mxx * myy - mxy * mxy
        out[i, 0], out[i, 1] = cx, cy
        out[i, 2] = math.sqrt(det)
        out[i, 3] = 1.0 - math.sqrt(max(mean - half, 0.0) / (mean + half))
        out[i, 4] = 0.5 * math.atan2(2 * mxy, mxx - myy)
        out[i, 7] = flux
        ixx, iyy, ixy = myy / det, mxx / det, -mxy / det
        reach = math.sqrt(_PROFILE_REACH)
        rx, ry = reach * math.sqrt(mxx), reach * math.sqrt(myy)
        profile[i, :] = 0.0
        counts[:] = 0.0
        plateau = 0
        bins = profile.shape[1]
        for row in range(max(int(cy - ry), 0), min(int(cy + ry) + 2, height)):
            dy = row - cy
            for column in range(max(int(cx - rx), 0), min(int(cx + rx) + 2, width)):
                dx = column - cx
                q = ixx * dx * dx + iyy * dy * dy + 2 * ixy * dx * dy
                value = image[row, column] - level
                if q < _PROFILE_REACH and np.isfinite(value):
                    k = min(int(q / _PROFILE_REACH * bins), bins - 1)
                    profile[i, k] += value / flux
                    counts[k] += 1
                    # Higher ones are a neighbour's.
                    if 0.98 * peak < value < 1.05 * peak:
                        plateau += 1
        out[i, 8] = plateau
        for k in range(bins):
            profile[i, k] = profile[i, k] / counts[k] if counts[k] > 0 else np.nan


def half_width(profile: Floats) -> float:
    """ρ at which a profile, sampled in bins of ρ², falls to half its central value.

    Adaptive moments equal the covariance of a Gaussian only; a Moffat's come out larger than its core. The frame's
    own bright stars say by how much: log I(ρ²) is a line for a Gaussian, a smooth curve for a Moffat.
    """
    gaussian = math.sqrt(2 * math.log(2))
    bins = (np.arange(PROFILE_BINS) + 0.5) * _PROFILE_REACH / PROFILE_BINS
    enough = np.isfinite(profile).sum(axis=0) >= 5
    if enough.sum() < 10:
        return gaussian
    level = np.nanmedian(profile[:, enough], axis=0)
    bins = bins[enough]
    usable = level > 0.02 * level.max()
    if usable.sum() < 8:
        return gaussian
    weight = np.sqrt(np.isfinite(profile).sum(axis=0)[enough][usable] * level[usable])
    curve = np.polynomial.Polynomial.fit(bins[usable], np.log(level[usable]), 3, w=weight)
    grid = np.linspace(0.0, _PROFILE_REACH, 401)
    below = np.nonzero(curve(grid) < curve(0.0) - math.log(2))[0]
    if not below.size:
        return gaussian
    return float(np.clip(math.sqrt(grid[below[0]]), 0.75 * gaussian, 1.1 * gaussian))
