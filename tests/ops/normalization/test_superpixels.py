"""Samples of the same sky from cells of different phase, turn and projection."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from skyloom.ops.grid import Grid, parse_wcs, pixel_to_sky, sky_to_pixel
from skyloom.ops.normalization import superpixels
from skyloom.ops.normalization.frame_map import frame_map
from skyloom.ops.normalization.lattice import Lattice, make_lattice
from skyloom.ops.normalization.observations import Samples
from skyloom.ops.normalization.superpixels import (
    LEAST_VALID,
    extend,
    fill_holes,
    sample_frame,
    smooth,
)

Tangent = Callable[..., str]
Floats = NDArray[np.float64]
CELL = 16


def sky(x: Floats, y: Floats, *, waves: bool, box: float = 0.0) -> Floats:
    """Function of canvas position; waves are means over a box along the canvas axes."""
    out = 1000 + 0.05 * x - 0.03 * y
    if waves:
        for k, (length, angle) in enumerate([(35, 0.3), (60, 1.2), (100, 2.0), (170, 2.9), (400, 0.8)]):
            kx, ky = 2 * np.pi * np.cos(angle) / length, 2 * np.pi * np.sin(angle) / length
            damp = np.sinc(kx * box / 2 / np.pi) * np.sinc(ky * box / 2 / np.pi)
            out = out + 30 * damp * np.cos(kx * x + ky * y + k)
    return out


def cells_of(header: str, size: int, canvas: Grid, *, waves: bool, box: float = CELL) -> NDArray[np.float32]:
    """Exact cells of a noiseless frame whose pixels hold J = 1 times the sky of the canvas."""
    side = -(-size // CELL)
    centre = (np.arange(side) + 0.5) * CELL - 0.5
    x, y = np.meshgrid(centre, centre)
    cx, cy = sky_to_pixel(canvas.wcs, *pixel_to_sky(parse_wcs(header), x.ravel(), y.ravel()))
    cells = np.empty((side, side, 3), np.float32)
    cells[..., 0] = sky(cx, cy, waves=waves, box=box).reshape(side, side)
    cells[..., 1] = 0.5
    cells[..., 2] = 1.0
    return cells


def sample(header: str, size: int, canvas: Grid, lattice: Lattice, cells: NDArray[np.float32]) -> Samples:
    mapping = frame_map(header, (size, size), np.zeros(2), canvas)
    assert mapping is not None
    return sample_frame(cells, (size, size), CELL, mapping, lattice, np.zeros(lattice.points, dtype=bool))


def centres(lattice: Lattice, samples: Samples) -> tuple[Floats, Floats]:
    """Canvas positions of superpixels, by numbering all of them."""
    sy, sx = (g.ravel() for g in np.meshgrid(*(np.arange(n) for n in lattice.shape), indexing="ij"))
    order = {int(k): i for i, k in enumerate(lattice.ids(sy, sx))}
    assert len(order) == len(sy)
    index = np.array([order[int(k)] for k in samples.point])
    size = lattice.step * lattice.group
    return (sx[index] + 0.5) * size - 0.5, (sy[index] + 0.5) * size - 0.5


def test_holes_and_rims_are_exact_for_planes_and_parabolas() -> None:
    y, x = np.mgrid[0:9, 0:11].astype(float)
    plane = 3 + 2 * x - y
    holed = plane.copy()
    holed[4, 5] = holed[2, 2] = holed[6, 8] = np.nan
    assert np.allclose(fill_holes(holed), plane)
    corner = plane.copy()
    corner[0, 0] = np.nan
    assert np.isnan(fill_holes(corner)[0, 0])
    parabola = 1 + x**2 - 0.5 * y**2 + x * y
    wide_y, wide_x = np.mgrid[-1:10, -1:12].astype(float)
    assert np.allclose(extend(parabola), 1 + wide_x**2 - 0.5 * wide_y**2 + wide_x * wide_y)
    assert np.allclose(smooth(plane), plane)
    assert np.allclose(smooth((-1.0) ** (x + y))[1:-1, 1:-1], 0)


def test_planes_are_exact_whatever_the_phase_and_turn(tangent: Tangent, canvas: Grid) -> None:
    lattice = make_lattice(canvas, cell=CELL, area=1.0, superpixel=64.0)
    for header in (
        tangent(800, ra=40.03, dec=30.02),
        tangent(803, ra=40.0313, dec=30.017, angle=180),
        tangent(800, angle=33.0),
    ):
        size = 803 if "803" in header else 800
        samples = sample(header, size, canvas, lattice, cells_of(header, size, canvas, waves=False))
        assert len(samples) > 60
        x, y = centres(lattice, samples)
        mapping = frame_map(header, (size, size), np.zeros(2), canvas)
        assert mapping is not None
        fx, fy = sky_to_pixel(parse_wcs(header), *pixel_to_sky(canvas.wcs, x, y))
        assert np.allclose(samples.u, fx / (size - 1), atol=1e-4)
        assert np.allclose(samples.v, fy / (size - 1), atol=1e-4)
        area = np.array([mapping.grid(x[i : i + 1], y[i : i + 1])[2][0, 0] for i in range(len(x))])
        assert np.allclose(samples.value / area, sky(x, y, waves=False), atol=2e-3)


def test_coarser_pixels_hold_more_sky(tangent: Tangent, canvas: Grid) -> None:
    """A sample is J·d: what a canvas pixel would hold."""
    header = tangent(500, scale=2.0)
    cells = cells_of(header, 500, canvas, waves=False)
    lattice = make_lattice(canvas, cell=CELL, area=0.25, superpixel=32.0)
    samples = sample(header, 500, canvas, lattice, cells)
    x, y = centres(lattice, samples)
    assert len(samples) > 60
    assert np.allclose(samples.value, 0.25 * sky(x, y, waves=False), rtol=1e-4)
    assert np.sqrt(np.median(samples.variance)) == pytest.approx(0.25 * 0.5 / 2, rel=0.2)


@pytest.mark.parametrize("angle", [0.0, 180.0, 90.0])
def test_differences_are_unbiased_in_nebulosity(tangent: Tangent, canvas: Grid, angle: float) -> None:
    """Structure of 50 rms down to two cells: what is left between phases is a hundredth of it."""
    lattice = make_lattice(canvas, cell=CELL, area=1.0, superpixel=64.0)
    one = tangent(1000)
    other = tangent(1000, ra=40.0 + 7.4 / 3600, dec=30.0 - 5.7 / 3600, angle=angle)
    a, b = (sample(h, 1000, canvas, lattice, cells_of(h, 1000, canvas, waves=True)) for h in (one, other))
    _, ia, ib = np.intersect1d(a.point, b.point, return_indices=True)
    difference = a.value[ia] - b.value[ib]
    # The outermost cells are not smoothed.
    inner = (np.abs(a.u[ia] - 0.5) < 0.42) & (np.abs(a.v[ia] - 0.5) < 0.42)
    assert inner.sum() > 80
    assert np.std(a.value[ia]) > 15
    assert np.std(difference[inner]) < 0.25
    assert abs(np.mean(difference[inner])) < 0.05


def test_only_superpixels_which_the_frame_covers(tangent: Tangent, canvas: Grid) -> None:
    lattice = make_lattice(canvas, cell=CELL, area=1.0, superpixel=64.0)
    header = tangent(600)
    samples = sample(header, 600, canvas, lattice, cells_of(header, 600, canvas, waves=False))
    x, y = centres(lattice, samples)
    for position in (x, y):
        # The frame is pixels 300…899 of the canvas; a superpixel is 64 wide.
        assert position.min() - 32 >= 299.5
        assert position.max() + 32 <= 899.5
    assert len(np.unique(samples.point)) == len(samples)


def test_variance_is_that_of_the_cells_mean(tangent: Tangent, canvas: Grid) -> None:
    lattice = make_lattice(canvas, cell=CELL, area=1.0, superpixel=64.0)
    header = tangent(1000, ra=40.001, dec=30.001)
    cells = cells_of(header, 1000, canvas, waves=False)
    rng = np.random.default_rng(0)
    cells[..., 0] += rng.normal(0, 0.5, cells.shape[:2]).astype(np.float32)
    samples = sample(header, 1000, canvas, lattice, cells)
    x, y = centres(lattice, samples)
    error = samples.value - sky(x, y, waves=False)
    assert np.std(error) == pytest.approx(0.5 / 4, rel=0.25)
    assert np.sqrt(np.median(samples.variance)) == pytest.approx(0.5 / 4, rel=0.25)


def test_structure_weighs_less(tangent: Tangent, canvas: Grid) -> None:
    lattice = make_lattice(canvas, cell=CELL, area=1.0, superpixel=64.0)
    header = tangent(1000)
    cells = cells_of(header, 1000, canvas, waves=False)
    flat = sample(header, 1000, canvas, lattice, cells)
    cells[20:30, 20:30, 0] += 400
    bumpy = sample(header, 1000, canvas, lattice, cells)
    ratio = bumpy.variance / flat.variance
    assert ratio.max() > 50
    assert np.median(ratio) < 1.2


def test_cells_that_do_not_count(tangent: Tangent, canvas: Grid) -> None:
    lattice = make_lattice(canvas, cell=CELL, area=1.0, superpixel=64.0)
    header = tangent(1000)
    cells = cells_of(header, 1000, canvas, waves=False)
    whole = sample(header, 1000, canvas, lattice, cells)
    # The last row and column are cut by the frame's edge: nobody looks at them.
    cells[-1], cells[:, -1] = np.nan, np.nan
    assert np.array_equal(sample(header, 1000, canvas, lattice, cells).value, whole.value)
    cells[20:30, 20:30, 2] = 0.9 * LEAST_VALID
    cells[20:30, 20:30, 0] = 1e6
    holed = sample(header, 1000, canvas, lattice, cells)
    assert 0 < len(whole) - len(holed) < 20
    assert np.isfinite(holed.value).all()
    assert holed.value.max() < 1100
    cells[..., 2] = 0
    assert len(sample(header, 1000, canvas, lattice, cells)) == 0
    assert len(sample(tangent(40), 40, canvas, lattice, cells[:3, :3])) == 0


def test_frame_beside_the_canvas(tangent: Tangent, canvas: Grid) -> None:
    lattice = make_lattice(canvas, cell=CELL, area=1.0, superpixel=64.0)
    header = tangent(600, ra=42.0)
    assert len(sample(header, 600, canvas, lattice, cells_of(header, 600, canvas, waves=False))) == 0


def test_dropped_points_are_dropped_for_every_frame(tangent: Tangent, canvas: Grid) -> None:
    lattice = make_lattice(canvas, cell=CELL, area=1.0, superpixel=64.0)
    dropped = np.zeros(lattice.points, dtype=bool)
    dropped[36:40, 36:39] = True
    dropped[44:48, 44:48] = True
    found = []
    for header in (tangent(1000), tangent(1000, ra=40.002, angle=180)):
        mapping = frame_map(header, (1000, 1000), np.zeros(2), canvas)
        assert mapping is not None
        cells = cells_of(header, 1000, canvas, waves=False)
        found.append(sample_frame(cells, (1000, 1000), CELL, mapping, lattice, dropped))
    gone = int(lattice.ids(np.array([11]), np.array([11]))[0])
    partial = int(lattice.ids(np.array([9]), np.array([9]))[0])
    values = []
    for samples in found:
        assert gone not in samples.point
        values.append(samples.value[samples.point == partial][0])
    # Three of four columns are gone: both frames give the mean of the last one.
    px = lattice.positions(36, 40)
    assert values == pytest.approx([sky(px[3:], px, waves=False).mean()] * 2, abs=0.01)


def test_kernel_equals_numpy() -> None:
    """Holes, points beyond the frame and dropped ones; a turned and stretched window."""
    rng = np.random.default_rng(4)
    rows, columns, group, cell = 9, 11, 3, 16
    padded = rng.normal(size=(rows + 2, columns + 2))
    padded[4, 5] = np.nan
    noise = rng.uniform(1, 2, (rows, columns))
    noise[7, 2] = np.nan
    gx, gy = np.meshgrid(np.linspace(-20, 190, 15), np.linspace(-20, 160, 12))
    x, y, area = gx + 0.2 * gy, gy - 0.1 * gx, rng.uniform(0.9, 1.1, gx.shape)
    dropped = rng.uniform(size=gx.shape) < 0.2
    found = superpixels._average(x, y, area, dropped, cell, padded, noise, group)
    cx, cy = (x + 0.5) / cell - 0.5, (y + 0.5) / cell - 0.5
    inside = (cx >= 0) & (cx <= columns - 1) & (cy >= 0) & (cy <= rows - 1)
    take = inside & ~dropped
    ix, iy = np.clip(np.floor(cx), 0, columns - 2).astype(int), np.clip(np.floor(cy), 0, rows - 2).astype(int)
    tx, ty = cx - ix, cy - iy
    value, spread = np.zeros(x.shape), np.zeros(x.shape)
    for j in range(4):
        for i in range(4):
            value += _keys(ty - (j - 1)) * _keys(tx - (i - 1)) * padded[iy + j, ix + i]
    for j in range(2):
        for i in range(2):
            spread += (ty if j else 1 - ty) * (tx if i else 1 - tx) * noise[iy + j, ix + i]
    fine = take & np.isfinite(value) & np.isfinite(spread)
    assert 0 < fine.sum() < take.sum() < x.size
    columns_of = (~dropped, ~dropped & ~inside, fine, value * area, spread * area**2, x, y)
    for quantity, full in enumerate(columns_of):
        counted = np.where(fine, full, 0.0) if quantity > 2 else full.astype(float)
        expected = counted.reshape(4, group, 5, group).sum(axis=(1, 3))
        np.testing.assert_allclose(found[..., quantity], expected, rtol=1e-12, atol=1e-9)


def _keys(t: Floats) -> Floats:
    """Keys' kernel, a = −½."""
    t = np.abs(t)
    near, far = (1.5 * t - 2.5) * t * t + 1.0, ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))
