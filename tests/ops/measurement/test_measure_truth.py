"""Star lists of pixel-integrated stars against the truth: sharp, wide, trailed, on a steep sky."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import cKDTree

from skyloom.ops.measurement.measure import measure_frame
from skyloom.ops.simulation.stars import add_stars, moffat_enclosed

GAIN = 2.0
READ_NOISE = 3.0
SIDE = 620


def simulate(
    fwhm: float, *, trail: float, angle: float, gradient: float, faintest: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frame, x, y, flux: isolated Moffat stars drawn out along a line, photon and read noise."""
    rng = np.random.default_rng(3)
    gy, gx = np.mgrid[40 : SIDE - 40 : 49, 40 : SIDE - 40 : 49].reshape(2, -1)
    x, y = gx + rng.uniform(-4, 4, gx.size), gy + rng.uniform(-4, 4, gx.size)
    flux = np.exp(rng.uniform(math.log(faintest), math.log(5 * faintest), x.size))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    image = 300.0 + gradient * (0.8 * columns + 0.6 * rows)
    steps = 15 if trail else 1
    for along in (np.arange(steps) - (steps - 1) / 2) / steps * trail:
        add_stars(image, 0, 0, x + along * math.cos(angle), y + along * math.sin(angle), flux / steps, fwhm, 0.01)
    image += rng.standard_normal(image.shape) * np.sqrt(image / GAIN + READ_NOISE**2)
    return image.astype(np.float32), x, y, flux


@pytest.mark.parametrize(
    ("trail", "angle", "gradient"), [(0.0, 0.0, 0.0), (0.0, 0.0, 0.5), (3.0, 0.6, 0.0), (5.0, -1.0, 0.5)]
)
@pytest.mark.parametrize("fwhm", [1.6, 2.5, 4.0, 6.0])
def test_bright_stars_are_where_they_were_put(fwhm: float, trail: float, angle: float, gradient: float) -> None:
    image, x, y, flux = simulate(fwhm, trail=trail, angle=angle, gradient=gradient, faintest=6e4)
    stars = measure_frame(image, gain=GAIN).stars
    distance, true = cKDTree(np.stack([x, y], -1)).query(stars[:, :2])
    stars, true = stars[distance < 2], true[distance < 2]
    assert len(stars) == len(x)
    assert (stars[:, 8] == 0).all()
    for measured, put in ((stars[:, 0], x[true]), (stars[:, 1], y[true])):
        assert np.sqrt(np.mean((measured - put) ** 2)) < 0.03
        # A slope of the sky pulls centroids up it: 0.008 px where it is steepest and stars are widest.
        assert abs(np.mean(measured - put)) < (0.012 if gradient else 0.004)
    if trail:
        turn = 0.5 * np.angle(np.mean(np.exp(2j * (stars[:, 6] - angle))))
        assert abs(turn) < 0.015
        # Variances add: a line of length l has l²/12 along itself.
        assert np.median(stars[:, 5]) > 0.04
    else:
        assert np.median(stars[:, 5]) < 0.05
        share = float(moffat_enclosed(2.0 * np.median(stars[:, 4]), fwhm))
        assert np.median(stars[:, 2] / flux[true]) == pytest.approx(share, rel=0.012)


@pytest.mark.parametrize("fwhm", [1.6, 3.0, 5.0])
@pytest.mark.parametrize("faintest", [3e3, 5e4])
def test_fluxes_scatter_by_their_errors(fwhm: float, faintest: float) -> None:
    image, x, y, flux = simulate(fwhm, trail=0.0, angle=0.0, gradient=0.0, faintest=faintest)
    stars = measure_frame(image, gain=GAIN).stars
    distance, true = cKDTree(np.stack([x, y], -1)).query(stars[:, :2])
    stars, true = stars[distance < 2], true[distance < 2]
    share = np.median(stars[:, 2] / flux[true])
    pull = (stars[:, 2] - share * flux[true]) / stars[:, 3]
    assert len(stars) > 0.95 * len(x)
    assert 0.8 < pull.std() < 1.2
