"""Images of stars: flux, place and width."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.simulation.stars import STAR_FLOOR, add_stars, moffat_enclosed


def star(fwhm: float, x: float, y: float, flux: float, size: int = 121) -> NDArray[np.float64]:
    image = np.zeros((size, size))
    add_stars(image, 0, 0, np.array([x]), np.array([y]), np.array([flux]), fwhm, STAR_FLOOR)
    return image


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 4.0])
def test_star_keeps_flux_place_and_width(fwhm: float) -> None:
    for x, y in ((60.0, 60.0), (60.3, 59.5), (60.5, 60.5)):
        image = star(fwhm, x, y, 1e4)
        rows, columns = np.mgrid[:121, :121]
        assert image.sum() == pytest.approx(1e4, rel=4e-4)
        assert (image * columns).sum() / image.sum() == pytest.approx(x, abs=2e-3)
        assert (image * rows).sum() / image.sum() == pytest.approx(y, abs=2e-3)
    image = star(fwhm, 60.0, 60.0, 1e4)
    inside = np.hypot(rows - 60, columns - 60) < 3 * fwhm
    assert image[inside].sum() / 1e4 == pytest.approx(float(moffat_enclosed(3 * fwhm, fwhm)), abs=3e-3)


def test_star_is_the_integral_over_each_pixel() -> None:
    fwhm, x, y = 2.0, 60.2, 59.7
    alpha = 0.5 * fwhm / math.sqrt(2 ** (1 / 3.5) - 1)
    fine = (np.arange(40) + 0.5) / 40 - 0.5
    for r, c in ((60, 60), (59, 61), (62, 60)):
        r2 = (r + fine[:, None] - y) ** 2 + (c + fine - x) ** 2
        exact = np.mean(2.5 / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -3.5)
        assert star(fwhm, x, y, 1.0)[r, c] == pytest.approx(exact, rel=2e-3)
