"""Maps are means of what is stored, read by windows."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.wcs import WCS
from numpy.typing import NDArray

from skyloom.ops.grid import Grid
from skyloom.ops.stretch import Stretch, autostretch
from skyloom.workflows.layout import Layout
from skyloom.workflows.pyramid import pyramid
from skyloom.workflows.report import pictures
from skyloom.workflows.report.picture_section import linked_stretch
from skyloom.workflows.report.pictures import COLUMNS, ROWS, Small, colour_map, shrink, small_plane
from skyloom.workflows.store import Store

Decode = Callable[[str], NDArray[np.uint8]]


def naive(pixels: NDArray[np.float32], factor: int) -> NDArray[np.float64]:
    height, width = (-(-n // factor) for n in pixels.shape)
    out = np.full((height, width), np.nan)
    for j in range(height):
        for i in range(width):
            block = pixels[j * factor : (j + 1) * factor, i * factor : (i + 1) * factor].astype(float)
            if np.isfinite(block).any():
                out[j, i] = block[np.isfinite(block)].mean()
    return out


@pytest.mark.parametrize(("shape", "side"), [((300, 4500), 100), ((701, 333), 50), ((40, 30), 480), ((1, 9), 4)])
def test_shrunk_by_windows_as_in_one_piece(shape: tuple[int, int], side: int) -> None:
    pixels = np.random.default_rng(1).normal(100, 10, shape).astype(np.float32)
    pixels[: shape[0] // 3, : shape[1] // 3] = np.nan
    sizes = []

    def read(rows: slice, columns: slice) -> NDArray[np.float32]:
        sizes.append((rows.stop - rows.start) * (columns.stop - columns.start))
        return pixels[rows, columns].copy()

    small = shrink(read, shape, side=side)
    assert small.factor == math.ceil(max(shape) / side)
    assert small.skipped == 1
    np.testing.assert_allclose(small.pixels, naive(pixels, small.factor), rtol=1e-5)
    assert max(sizes) <= ROWS * COLUMNS
    assert sum(sizes) == pixels.size, "every pixel is read once"


def test_large_canvases_are_read_in_part() -> None:
    shape, read_pixels = (6000, 10000), 0

    def read(rows: slice, columns: slice) -> NDArray[np.float32]:
        nonlocal read_pixels
        y, x = np.mgrid[rows, columns]
        read_pixels += y.size
        return np.asarray(y + 10.0 * x, dtype=np.float32)

    small = shrink(read, shape, side=500, budget=4e6)
    assert read_pixels <= 4e6
    assert small.skipped == 16
    assert small.factor == 1024
    # The mean of a whole chunk of 256 pixels at the corner of each block.
    assert small.pixels.shape == (6, 10)
    assert small.pixels[2, 3] == pytest.approx(2 * 1024 + 127.5 + 10 * (3 * 1024 + 127.5), rel=1e-6)


def test_levels_of_a_pyramid_are_taken_where_there_are_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.create()
    image = np.random.default_rng(2).normal(100, 10, (2, 512, 768)).astype(np.float32)
    image[:, 100:200] = np.nan
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [-0.001, 0.001]
    attrs = Grid(wcs.to_header_string(), (512, 768), 256).to_attrs()
    dataset = xr.Dataset({"image": (("band", "y", "x"), image)}, {"band": ["L", "R"]}, attrs).chunk(
        {"band": 1, "y": 256, "x": 256}
    )
    layout = Layout.of(dataset, ("band", "y", "x"), node="integrate")
    writer = store.prepare("integrate", "k", dataset, layout, {"op": "integrate"})
    for unit in layout.units():
        region = layout.variables[0].region(unit)
        writer.write(unit, {"image": image[region]})
    store.complete("integrate", "k", {})
    pyramid(store.open("integrate"), tmp_path, smallest=64)
    seen: list[tuple[int, int]] = []
    whole = pictures.shrink

    def spy(read: Any, shape: tuple[int, int], **options: Any) -> Small:
        seen.append(shape)
        return whole(read, shape, **options)

    monkeypatch.setattr(pictures, "shrink", spy)
    small = small_plane(store.open("integrate"), "image", side=96, band=1)
    assert seen == [(64, 96)]
    assert small.factor == 8
    # Means of means: where all pixels of a block are there they are the mean of all.
    expected, here = naive(image[1], 8), slice(26, None)
    np.testing.assert_allclose(small.pixels[here], expected[here], rtol=1e-5)


def test_map_shows_its_values(decoded: Decode) -> None:
    values = np.linspace(0, 10, 12, dtype=np.float32).reshape(3, 4)
    values[0, 0] = np.nan
    text = colour_map(Small(values, 1, 1), "a < b", low=0.0, high=10.0)
    assert "a &lt; b" in text
    assert "<span>0</span>" in text
    assert "<span>10</span>" in text
    address = text.split('src="')[1].split('"')[0]
    shown = decoded(address)
    assert shown.shape == (3, 4, 3)
    # The last row is on top; the largest value is the yellow end of the map.
    np.testing.assert_allclose(shown[0, 3], (253, 231, 37), atol=1)
    np.testing.assert_allclose(shown[2, 0], pictures.EMPTY)
    grey = shown.astype(float)[::-1].sum(axis=-1).ravel()[1:]
    assert (np.diff(grey) > 0).all(), "viridis grows lighter"


def test_map_without_data_says_so() -> None:
    text = colour_map(Small(np.full((3, 4), np.nan, np.float32), 1, 1), "empty")
    assert "no data" in text
    assert "<img" not in text


def test_map_of_equal_values_is_drawn(decoded: Decode) -> None:
    text = colour_map(Small(np.full((3, 4), 7.0, np.float32), 1, 1), "flat")
    assert text.count("<span>7</span>") == 2
    assert np.unique(decoded(text.split('src="')[1].split('"')[0]).reshape(-1, 3), axis=0).shape == (1, 3)


def test_linked_stretch_keeps_ratios_and_unlinked_makes_the_sky_grey() -> None:
    rng = np.random.default_rng(3)
    planes = np.stack([rng.normal(m, 10, (200, 200)) for m in (1000, 1010, 1030)]).astype(np.float32)
    planes[:, 0, :50] = 5000
    planes[:, 5, 5] = np.nan
    one = linked_stretch(planes)
    assert isinstance(one, Stretch)
    shown = [float(np.nanmedian(one.apply(p))) for p in planes]
    assert shown[0] < shown[1] < shown[2]
    assert 0.15 < np.mean(shown) < 0.35
    same = linked_stretch(np.stack([planes[0]] * 3))
    assert same.apply(planes[0])[50, 50] == pytest.approx(float(autostretch(planes[0]).apply(planes[0])[50, 50]))
