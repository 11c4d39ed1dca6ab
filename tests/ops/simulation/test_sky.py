"""The simulated sky: the same whatever the window, and its numbers as promised."""

from __future__ import annotations

import math

import numpy as np
import pytest

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid, sky_to_pixel
from skyloom.ops.simulation.projection import Pointing
from skyloom.ops.simulation.sky import SkyModel
from skyloom.ops.simulation.stars import STAR_FLOOR


def canvas(size: int = 300, *, scale: float = 4.0, ra: float = 84.0, dec: float = 30.0) -> Grid:
    middle = 0.5 * (size - 1)
    return Grid(Pointing(ra, dec, scale, 20.0, middle, middle).header(), (size, size), 128)


def whole(grid: Grid) -> tuple[slice, slice]:
    return slice(0, grid.shape[0]), slice(0, grid.shape[1])


def test_a_window_is_a_cut_of_the_whole() -> None:
    sky, grid = SkyModel(seed=2), canvas()
    image = sky.true_image(grid, whole(grid), "L", 2.5)
    window = (slice(37, 205), slice(110, 290))
    np.testing.assert_allclose(sky.true_image(grid, window, "L", 2.5), image[window], rtol=1e-12)


def test_seed_decides() -> None:
    grid = canvas(64)
    one, again, other = (SkyModel(seed=s).true_image(grid, whole(grid), "L", 2.5) for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.allclose(one, other)


def test_bands_see_one_nebula_in_different_shares() -> None:
    sky, grid = SkyModel(seed=1), canvas(200, scale=20.0)
    red, green, blue = (sky.nebula_image(grid, whole(grid), b).ravel() for b in "RGB")
    assert np.corrcoef(red, green)[0, 1] > 0.5
    assert np.corrcoef(green, blue)[0, 1] < 0.9999
    with pytest.raises(ConfigError, match="no band 'Z'"):
        sky.nebula_image(grid, whole(grid), "Z")


def test_surface_brightness_times_area_keeps_the_light() -> None:
    sky = SkyModel(seed=1, star_density=0.0)
    coarse, fine = canvas(100, scale=4.0), canvas(200, scale=2.0)
    a, b = (sky.nebula_image(g, whole(g), "L").sum() for g in (coarse, fine))
    assert a == pytest.approx(b, rel=1e-3)


def test_stars_of_a_part_are_those_of_the_whole() -> None:
    sky, grid = SkyModel(seed=3), canvas()
    every = sky.stars(grid, *whole(grid), "R")
    rows, columns = slice(50, 150), slice(20, 220)
    part = sky.stars(grid, rows, columns, "R")
    x, y = sky_to_pixel(grid.wcs, every.ra, every.dec)
    inside = (x >= 19.5) & (x < 219.5) & (y >= 49.5) & (y < 149.5)
    assert len(part) == inside.sum() > 20
    np.testing.assert_array_equal(part.flux, every.flux[inside])


def test_number_counts_and_density() -> None:
    sky = SkyModel(seed=1, star_density=2000.0, star_slope=0.8)
    table = sky.plane_stars((-2.0, -2.0), (2.0, 2.0))
    side = 4.0 + 1.0 / 32.0
    assert len(table) == pytest.approx(2000.0 * side * side, abs=5 * math.sqrt(32000))
    flux = np.sort(table[:, 2])[::-1]
    for factor in (3.0, 30.0):
        n = np.count_nonzero(flux > sky.star_faint * factor)
        assert n == pytest.approx(len(table) * factor**-0.8, abs=5 * math.sqrt(n))
    # As dense far from the centre as at it.
    far = sky.plane_stars((60.0, 60.0), (62.0, 62.0))
    assert len(far) == pytest.approx(2000.0 * (2.0 + 1.0 / 32.0) ** 2, abs=5 * math.sqrt(8200))


def test_a_mixture_of_seeings_adds_up() -> None:
    sky, grid = SkyModel(seed=3, nebula=0.0), canvas(128)
    one, two = (sky.star_image(grid, whole(grid), "L", f) for f in (2.0, 3.0))
    both = sky.star_image(grid, whole(grid), "L", [(2.0, 1.0), (3.0, 3.0)])
    np.testing.assert_allclose(both, 0.25 * one + 0.75 * two, atol=2 * STAR_FLOOR)


def test_impossible_skies_are_refused() -> None:
    with pytest.raises(ConfigError, match="faint < bright"):
        SkyModel(star_faint=10.0, star_bright=1.0)
    with pytest.raises(ConfigError, match="finest"):
        SkyModel(finest=7200.0)
