"""Rims go, what is inside stays, and the canvas is cut where it is covered."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray

from skyloom.ops.background.coverage import coverage
from skyloom.ops.background.cropping import crop_grid
from skyloom.ops.background.edges import edges
from skyloom.ops.background.outside import distance_to, outside_of
from skyloom.ops.background.rectangle import largest_rectangle
from skyloom.ops.errors import DataError, NotYetKnown
from skyloom.ops.grid import Grid, pixel_to_sky, wcs_header

Make = Callable[..., xr.Dataset]
Floats = NDArray[np.float64]


def field(shape: tuple[int, int] = (200, 230), seed: int = 3) -> Floats:
    return np.random.default_rng(seed).normal(100.0, 2.0, shape)


def turned(shape: tuple[int, int]) -> Floats:
    """Depth of a frame turned by 12°: full inside, falling over 10 pixels, with shallow and empty places in it."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    y, x = rows - shape[0] / 2, columns - shape[1] / 2
    c, s = np.cos(np.radians(12)), np.sin(np.radians(12))
    inside = np.minimum(0.40 * shape[1] - np.abs(c * x + s * y), 0.36 * shape[0] - np.abs(c * y - s * x))
    depth = np.asarray(np.clip(inside / 10.0, 0.0, 1.0))
    depth[80:84, 100:105] = 0.0
    depth[120:126, 130:133] = 0.05
    return depth


def naive_kept(depth: Floats, limit: float, erode: int, hole: int) -> NDArray[np.bool_]:
    """Flood from the edge of the canvas over what is shallow, and a disc about each pixel of that."""
    shallow = depth < limit
    outside = np.zeros_like(shallow)
    height, width = shallow.shape
    todo = [(y, x) for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)]
    while todo:
        y, x = todo.pop()
        if 0 <= y < height and 0 <= x < width and shallow[y, x] and not outside[y, x]:
            outside[y, x] = True
            todo += [(y + dy, x + dx) for dy, dx in product((-1, 0, 1), repeat=2)]
    kept = ~outside
    for dy, dx in product(range(-erode, erode + 1), repeat=2):
        if dy * dy + dx * dx <= erode * erode:
            moved = np.zeros_like(outside)
            a = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
            b = slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0))
            moved[a] = outside[b]
            kept &= ~moved
    return kept


def test_rims_go_and_holes_stay(mosaic: Make) -> None:
    depth = turned((200, 230))
    made = mosaic({"L": field()}, weight=depth)
    found = edges(made, coverage(made), least=0.5, erode=3).compute()
    kept = naive_kept(depth, 0.5, 3, 64)
    there = kept & (depth > 0)
    np.testing.assert_array_equal(np.isfinite(found["image"].values[0]), there)
    np.testing.assert_array_equal(found["image"].values[0][there], made["image"].values[0][there])
    np.testing.assert_array_equal(found["variance"].values[0][there], made["variance"].values[0][there])
    np.testing.assert_array_equal(found["count"].values[0], np.where(kept, made["count"].values[0], 0))
    # The shallow island and the hole within are no edges.
    assert np.isfinite(found["image"].values[0, 120:126, 130:133]).all()
    assert np.isfinite(found["image"].values[0, 78, 98])
    assert found.attrs["crop"] == [0, 0, 230, 200]


@pytest.mark.parametrize("crop", [0.0, 0.97])
def test_no_tile_shows(mosaic: Make, retile: Callable[[xr.Dataset, int], xr.Dataset], crop: float) -> None:
    depth = turned((200, 230))
    made = mosaic({"R": field(), "G": field(seed=4)}, weight=depth)
    options: dict[str, Any] = {"erode": 5, "taper": 9, "hole": 20, "crop": crop, "crop_keeps": 0.3}
    one = edges(made, coverage(made).compute(), **options).compute()
    other = retile(made, 64)
    two = edges(other, coverage(other).compute(), **options)
    assert two.chunks["y"][0] == 64
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, two[name].values)


def test_weights_fade_and_pixels_do_not(mosaic: Make) -> None:
    depth = np.ones((64, 300))
    depth[:, 200:] = 0.0
    made = mosaic({"L": field((64, 300))}, weight=depth)
    found = edges(made, coverage(made), erode=4, taper=15).compute()
    row = found["weight"].values[0, 30]
    t = np.clip((200 - np.arange(300) - 4) / 16.0, 0, 1)
    expected = np.where(np.arange(300) < 196, t * t * (3 - 2 * t), np.nan)
    np.testing.assert_allclose(row, expected, rtol=1e-5)
    np.testing.assert_array_equal(found["image"].values[0, 30, :196], made["image"].values[0, 30, :196])


def test_cells_equal_numpy(mosaic: Make) -> None:
    depth = turned((100, 70))
    made = mosaic({"L": field((100, 70))}, weight=depth)
    found = coverage(made).compute()
    assert found.sizes == {"band": 1, "y": 13, "x": 9}
    for cy, cx in ((6, 4), (2, 1), (12, 8), (0, 0)):
        cell = np.sort(depth[cy * 8 : cy * 8 + 8, cx * 8 : cx * 8 + 8].astype(np.float32), axis=None)
        there = cell[cell > 0]
        assert found["valid"].values[0, cy, cx] == pytest.approx(there.size / cell.size)
        middle = there[there.size // 2] if there.size else 0.0
        assert found["weight"].values[0, cy, cx] == middle
        assert found["count"].values[0, cy, cx] == np.ceil(4 * middle)


def test_distances_are_euclid_s() -> None:
    rng = np.random.default_rng(1)
    outside = rng.random((40, 50)) < 0.01
    found = distance_to(outside, 7)
    y, x = np.nonzero(outside)
    rows, columns = np.mgrid[:40, :50]
    true = np.sqrt((rows[..., None] - y) ** 2 + (columns[..., None] - x) ** 2).min(axis=-1)
    np.testing.assert_allclose(found, np.minimum(true, 8), rtol=1e-6)
    assert (true > 8).any()


def test_a_long_gap_is_outside_a_round_one_is_a_hole() -> None:
    bad = np.zeros((60, 60), bool)
    bad[10:14, 10:14] = True
    bad[30, 5:40] = True
    bad[50:, 50:] = True
    nowhere = (False, False, False, False)
    found = outside_of(bad, hole=8, at_edge=nowhere)
    assert not found[10:14, 10:14].any()
    assert found[30, 5:40].all()
    assert not outside_of(bad, hole=40, at_edge=nowhere).any()
    assert outside_of(bad, hole=40, at_edge=(False, True, False, False))[50:, 50:].all()


@pytest.mark.parametrize("wanted", [1.0, 0.9, 0.6])
def test_rectangle_equals_trying_them_all(wanted: float) -> None:
    rng = np.random.default_rng(7)
    rows, columns = np.mgrid[:14, :11]
    covered = ((rows - 6) ** 2 / 40 + (columns - 5) ** 2 / 22 < 1) * rng.choice([1.0, 1.0, 1.0, 0.7], (14, 11))
    area = np.full(covered.shape, 4.0)
    best = max(
        float((covered[y0:y1, x0:x1] - min(wanted, 1 - 1e-9)).sum())
        for y0, x0 in np.ndindex(14, 11)
        for y1 in range(y0 + 1, 15)
        for x1 in range(x0 + 1, 12)
    )
    found = largest_rectangle(covered, area, wanted)
    assert found is not None
    y0, x0, y1, x1 = found
    assert float((covered[y0:y1, x0:x1] - min(wanted, 1 - 1e-9)).sum()) == pytest.approx(best, abs=1e-9)
    assert covered[y0:y1, x0:x1].mean() >= min(wanted, 1 - 1e-9)
    for side in (covered[y0, x0:x1], covered[y1 - 1, x0:x1], covered[y0:y1, x0], covered[y0:y1, x1 - 1]):
        assert side.mean() >= min(wanted, 1 - 1e-9) - 1e-9
    assert largest_rectangle(np.zeros((5, 5)), np.ones((5, 5)), wanted) is None


def test_canvas_is_cut_and_the_sky_stays_where_it_is(mosaic: Make) -> None:
    depth = np.zeros((200, 230))
    depth[24:181, 37:222] = 1.0
    red = depth.copy()
    red[:60] = 0.0
    planes = {"R": np.where(red > 0, field(), np.nan), "G": field(seed=9)}
    made = mosaic(planes, weight=depth)
    found = edges(made, coverage(made).compute(), erode=0, crop=1.0, crop_keeps=0.5)
    x0, y0, x1, y1 = found.attrs["crop"]
    # Where both bands are, less two pixels.
    assert (y0, y1) == (62, 179)
    assert (x0, x1) == (39, 220)
    assert found.attrs["grid_shape"] == [y1 - y0, x1 - x0]
    assert np.isfinite(found["image"].values).all()
    np.testing.assert_array_equal(found["image"].values, made["image"].values[:, y0:y1, x0:x1])
    before, after = Grid.from_attrs(made.attrs), Grid.from_attrs(found.attrs)
    for y, x in ((0.0, 0.0), (33.5, 80.25)):
        here = pixel_to_sky(after.wcs, np.array([x]), np.array([y]))
        there = pixel_to_sky(before.wcs, np.array([x + x0]), np.array([y + y0]))
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-11)
    assert after.lattice == before.lattice


def test_distortions_move_with_the_window() -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.wcs.crval, wcs.wcs.crpix = [40.0, 20.0], [100.5, 120.5]
    wcs.wcs.cd = np.diag([-2.0, 2.0]) / 3600
    a = np.zeros((3, 3))
    a[2, 0] = 1e-4
    wcs.sip = Sip(a, a.T, None, None, [100.5, 120.5])
    wcs.wcs.set()
    grid = Grid(wcs_header(wcs), (240, 200), 64)
    part = crop_grid(grid, slice(32, 200), slice(48, 180))
    here = pixel_to_sky(part.wcs, np.array([3.0]), np.array([4.0]))
    there = pixel_to_sky(grid.wcs, np.array([51.0]), np.array([36.0]))
    np.testing.assert_allclose(here, there, rtol=0, atol=1e-11)


def test_a_cut_that_would_cost_too_much_is_not_made(mosaic: Make) -> None:
    depth = turned((200, 230))
    made = mosaic({"L": field()}, weight=depth)
    cells = coverage(made).compute()
    kept = edges(made, cells, crop=0.98, crop_keeps=0.3)
    assert kept.attrs["kept"] < 0.95
    whole = edges(made, cells, crop=0.98, crop_keeps=0.95)
    assert whole.attrs["grid_shape"] == [200, 230]
    assert whole.attrs["told"] == (
        f"the largest rectangle holds {100 * kept.attrs['kept']:.0f} % of what is covered"
    )


def test_deep_and_shallow(mosaic: Make) -> None:
    depth = np.ones((96, 320))
    depth[:, 192:] = 0.1
    depth[:, 310:] = 0.01
    made = mosaic({"L": field((96, 320))}, weight=depth)
    cells = coverage(made).compute()
    shares = {
        least: float(np.isfinite(edges(made, cells, least=least, erode=0, hole=5)["image"].values).mean())
        for least in (0.0, 0.05, 0.5)
    }
    assert shares[0.0] == 1.0
    assert shares[0.05] == pytest.approx(310 / 320)
    assert shares[0.5] == pytest.approx(192 / 320)
    # By frames 0.1 is one of four.
    by_count = edges(made, cells, by="count", of="maximum", least=0.2, erode=0, hole=5)
    assert np.isfinite(by_count["image"].values).all()


def test_nothing_is_computed_before_it_is_asked_for(mosaic: Make) -> None:
    made = mosaic({"L": field((128, 128))}, tile=64)

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        found = edges(made, coverage(made))
        with pytest.raises(NotYetKnown, match="when its coverage has been measured"):
            edges(made, coverage(made), crop=0.9)
    assert (found.chunks["y"], found.chunks["x"]) == ((64, 64), (64, 64))
    assert np.isfinite(found["image"].values).all()


def test_mistakes(mosaic: Make) -> None:
    made = mosaic({"L": field((64, 64))})
    with pytest.raises(DataError, match="needs weight of the mosaic; take the result of integrate"):
        coverage(made.drop_vars("weight"))
    with pytest.raises(DataError, match="of another canvas"):
        edges(made, coverage(mosaic({"L": field((64, 96))})))
    with pytest.raises(DataError, match="bands"):
        edges(made, coverage(mosaic({"R": field((64, 64))})))
