"""What becomes a star, and what the mask covers, from detections of painted frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.measurement.detection import background_mesh, detect
from skyloom.ops.measurement.starlist import densest, tabulate_stars

Floats = NDArray[np.float64]
NOISE = 4.0
STARS = np.array([[x + 0.3 * (y % 7), y + 0.2 * (x % 5)] for x in range(40, 400, 45) for y in range(40, 400, 45)])


def frame(*, extra: Floats | float = 0.0) -> NDArray[np.float32]:
    y, x = np.mgrid[:420, :420]
    image = 200 + np.random.default_rng(1).normal(0, NOISE, x.shape) + extra
    for px, py in STARS:
        image += 800 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 1.4**2))
    return np.asarray(image, dtype=np.float32)


def listed(image: NDArray[np.float32], largest: float = 12.8) -> tuple[Floats, float, float, NDArray[np.bool_]]:
    found, level = detect(image, *background_mesh(image, mesh=64), mesh=64, threshold=5.0)
    masked = np.zeros(image.shape, np.bool_)
    table, fwhm, ellipticity = tabulate_stars(
        image,
        found,
        masked,
        noise=NOISE,
        threshold=level,
        max_stars=1000,
        largest=largest,
        aperture=2.0,
        gain=math.nan,
        saturation=math.nan,
    )
    return table, fwhm, ellipticity, masked


def nearest(table: Floats, x: float, y: float) -> float:
    return float(np.hypot(table[:, 0] - x, table[:, 1] - y).min())


def test_stars_are_listed_and_masked() -> None:
    table, fwhm, ellipticity, masked = listed(frame())
    assert len(table) == len(STARS)
    assert fwhm == pytest.approx(1.4 * math.sqrt(8 * math.log(2)), rel=0.02)
    assert ellipticity < 0.05
    for x, y in STARS:
        assert nearest(table, x, y) < 0.05
        assert masked[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4].all()
    assert masked.mean() < 0.15


def test_hot_pixels_are_masked_and_extended_light_is_not() -> None:
    y, x = np.mgrid[:420, :420]
    extra = 120 * np.exp(-((x - 62) ** 2 + (y - 332) ** 2) / (2 * 9.0**2))
    hot = [(150, 107), (287, 193), (333, 61)]
    for px, py in hot:
        extra[py, px] += 900
    table, _, _, masked = listed(frame(extra=extra))
    for px, py in hot:
        assert nearest(table, px, py) > 5
        assert masked[py, px]
    assert nearest(table, 62, 332) > 5
    assert not masked[332, 62]


def test_two_close_stars_are_blended_and_others_are_not() -> None:
    y, x = np.mgrid[:420, :420]
    px, py = STARS[12]
    table = listed(frame(extra=500 * np.exp(-((x - px - 8.5) ** 2 + (y - py) ** 2) / (2 * 1.4**2))))[0]
    pair = np.hypot(table[:, 0] - px - 4, table[:, 1] - py) < 6
    assert pair.sum() == 2
    assert (table[pair, 8] == 1).all()
    assert (table[~pair, 8] == 0).all()


def test_what_is_wider_than_a_star_can_be_makes_no_list() -> None:
    table, fwhm, _, masked = listed(frame(), largest=3.0)
    assert len(table) == 0
    assert math.isnan(fwhm)
    assert not masked.any()


def test_densest_place_ignores_the_tails() -> None:
    rng = np.random.default_rng(2)
    values = np.concatenate([rng.normal(3, 0.1, 120), rng.uniform(0, 20, 180)])
    assert densest(values) == pytest.approx(3, abs=0.12)
    assert densest(np.array([4.0])) == 4
