"""The simulated sky: the same whatever the window, and its numbers as promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.errors import ConfigError
from skyloom.ops.grid import Grid, sky_to_pixel
from skyloom.ops.simulation.camera import Pointing
from skyloom.ops.simulation.sky import (
    STAR_FLOOR,
    SkyModel,
    _add_octave,
    add_stars,
    hash_key,
    mix,
    moffat_enclosed,
    pixel_area,
    uniform,
)


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


def test_octave_is_a_cubic_spline_of_hashed_values() -> None:
    key = hash_key(5)
    x, y = np.random.default_rng(1).uniform(-3.0, 3.0, (2, 40))
    out = np.zeros(40)
    _add_octave(x, y, 0.5, key, 2.0, out)

    def lattice(i: int, j: int) -> float:
        row = mix(key, np.uint64(j + 1048576))
        return 2.0 * float(uniform(np.uint64(mix(np.uint64(row), np.uint64(i + 1048576))))) - 1.0

    def spline(t: float) -> list[float]:
        s = 1.0 - t
        return [s**3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (3 * s**3 - 6 * s**2 + 4) / 6, t**3 / 6]

    for n in range(40):
        px, py = x[n] / 0.5, y[n] / 0.5
        i, j = math.floor(px), math.floor(py)
        naive = sum(
            vy * wx * lattice(i + a, j + b)
            for b, vy in enumerate(spline(py - j))
            for a, wx in enumerate(spline(px - i))
        )
        assert out[n] == pytest.approx(2.0 * naive, abs=1e-12)


def test_nebula_is_positive_smooth_and_everywhere() -> None:
    sky = SkyModel(seed=1, star_density=0.0)
    ra: NDArray[np.float64] = np.asarray(np.linspace(83.0, 85.0, 20001), dtype=np.float64)
    line = sky.brightness(ra, np.full_like(ra, 30.0), "L")
    assert line.min() >= 0.0
    assert 0.3 < line.mean() / sky.nebula < 3.0
    # 0.31" steps on structure of 16" and more: curvature stays small and finite.
    assert np.abs(np.diff(line, 2)).max() < 2e-3 * line.max()
    for place in ((0.0, 89.99), (359.999, -60.0), (264.0, -29.0)):
        assert np.isfinite(sky.brightness(np.array([place[0]]), np.array([place[1]]), "R")).all()


def test_nebula_has_structure_on_all_scales() -> None:
    sky = SkyModel(seed=1, star_density=0.0)
    for step in (8.0, 60.0, 600.0, 3600.0):
        ra = np.array([79.0 + n * step * 2.0 / 3600.0 for n in range(400)])
        line = sky.brightness(ra, np.full(400, 30.0), "L")
        assert np.sqrt(np.mean(np.diff(line) ** 2)) > 0.01 * sky.nebula


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


def test_pixel_area_of_a_tangent_plane() -> None:
    grid = Grid(Pointing(84.0, 30.0, 30.0, 0.0, 0.0, 0.0).header(), (400, 600), 128)
    area = pixel_area(grid, (slice(100, 400), slice(200, 600)))
    y, x = np.mgrid[100:400, 200:600]
    radius = np.radians(np.hypot(x, y) * 30.0 / 3600.0)
    np.testing.assert_allclose(area, 900.0 * np.cos(np.arctan(radius)) ** 3, rtol=1e-4)


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
